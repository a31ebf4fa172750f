"""The console script `hiringcenter`."""

from __future__ import annotations

import gc
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from connector.clock import StoppedEarly, ignore_signals, raise_on_signals

if TYPE_CHECKING:
    import typer

_ORDER = (
    "check", "pull", "push", "plan", "apply", "undo", "forget", "sync", "verify", "status",
    "budget", "runs", "columns", "report", "webhooks", "watch", "sandbox",
)  # fmt: skip


def build_app(only: str | None = None) -> typer.Typer:
    """The Typer application with every command of `pipelines.commands`, or with one."""
    import typer

    from pipelines.commands import (  # noqa: F401 - each adds its commands
        server_commands,
        status_commands,
        transfer_commands,
    )
    from pipelines.commands.invocation import commands

    app = typer.Typer(
        name="hiringcenter",
        help="HiringCenter to your warehouse and back, at the pace the API allows.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    def root(
        version: bool = typer.Option(
            False, "--version", is_eager=True, callback=_print_version,
            help="Show the version and exit.",
        ),
    ) -> None:  # fmt: skip
        pass

    app.callback()(root)
    for name in sorted(commands, key=_ORDER.index):
        if only in (None, name):
            commands[name](app)
    return app


def _print_version(asked: bool) -> None:
    if asked:
        import typer

        from connector import __version__

        typer.echo(f"hiringcenter {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; never returns."""
    try:
        from pipelines.commands.invocation import keep_standard_streams

        keep_standard_streams()
        _forget_variables_of_dlt()
        asked = next(iter(sys.argv[1:]), None)
        sys.exit(build_app(asked if asked in _ORDER else None)(standalone_mode=False))
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        _silence_stdout()
        sys.exit(0)
    except (Exception, StoppedEarly, KeyboardInterrupt) as error:  # noqa: BLE001 - see `_report`
        ignore_signals()  # a second one would end the report's own imports
        sys.exit(_report(error))


def _report(error: BaseException) -> int:
    """Report what no command has handled: a usage error, a signal during the imports, a stdout
    that can't be written. With `--json`, stdout still gets its object."""
    from pipelines.commands.invocation import Output, failed_result

    output = Output(json="--json" in sys.argv)
    if isinstance(error, Exception) and hasattr(error, "show"):  # usage errors show themselves
        error.message = error.message.removeprefix("Value error, ")  # type: ignore[attr-defined]
        error.show()
        facts = {"type": "UsageError", "message": error.format_message()}  # type: ignore[attr-defined]
        summary: Any = {"status": "failed", "error": facts}
        code = int(error.exit_code)  # type: ignore[attr-defined]
    else:
        result = failed_result(error)
        output.error(result.error or error)
        summary, code = result.summary, result.exit_code
    with suppress(OSError):  # a stdout that can't be written is reported by `_flushed`
        output.object(summary)
    return code


def _forget_variables_of_dlt() -> None:
    """Unset the variables that dlt reads by itself, mostly on import: how it names columns and
    writes JSON. `pipelines.destination.dlt_options` takes care of its other options."""
    for name in list(os.environ):
        if name.startswith(("DLT_DEFAULT_NAMING_", "DLT_INTERVAL_")) or name in (
            "DLT_USE_JSON", "DLT_JSON_TYPED_PUA_START", "DLT_DLT_ID_LENGTH_BYTES",
            "DLT_ALLOW_EXTERNAL_SCHEDULERS", "DLT_DISABLE_PLUGINS",
        ):  # fmt: skip
            del os.environ[name]


def run() -> None:
    """Run `main`, then end the process at once.

    Python would spend most of a second freeing memory that the system reclaims anyway. Everything
    that must be closed has been closed by its owner; threads that still work are waited for.
    """
    raise_on_signals()
    gc.set_threshold(250_000, 20, 20)  # more than imports make; pages make few cycles
    try:
        main()
    except SystemExit as ended:
        code = _flushed(ended.code or 0)
        if _is_idle() and isinstance(code, int):
            os._exit(code)
        sys.exit(code)


def _is_idle() -> bool:
    others = [each for each in threading.enumerate() if each is not threading.main_thread()]
    return all(thread.daemon for thread in others)


def _flushed(code: int | str) -> int | str:
    """`code`, or 1 if the end of stdout can't be written."""
    try:
        print(end="", flush=True)
    except BrokenPipeError:
        _silence_stdout()
    except OSError as error:
        sys.stderr.write(f"Error: stdout can't be written: {error.strerror}\n")
        _silence_stdout()
        return 1
    return code


def _silence_stdout() -> None:
    """Keep Python from writing the remainder again at exit, and complaining."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    run()
