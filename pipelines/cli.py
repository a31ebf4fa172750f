"""The console script `hiringcenter`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pipelines.signals import StoppedEarly, raise_on_signals

if TYPE_CHECKING:
    import typer

_ORDER = ("check", "pull", "push", "sync", "status", "budget", "runs", "report", "sandbox")


def build_app() -> typer.Typer:
    """The Typer application with every command of `pipelines.commands`."""
    import typer

    from pipelines.commands import (  # noqa: F401 - each adds its commands
        budget_command,
        sandbox_command,
        status_commands,
        transfer_commands,
    )
    from pipelines.commands.invocation import app

    def root(
        version: bool = typer.Option(
            False, "--version", is_eager=True, callback=_print_version,
            help="Show the version and exit.",
        ),
    ) -> None:  # fmt: skip
        pass

    app.callback()(root)
    app.registered_commands.sort(key=lambda each: _ORDER.index(each.name or ""))
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
        from pipelines.commands.output import keep_standard_streams

        keep_standard_streams()
        _forget_variables_of_dlt()
        sys.exit(build_app()(standalone_mode=False))
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        _silence_stdout()
        sys.exit(0)
    except (StoppedEarly, KeyboardInterrupt) as error:
        sys.exit(_tell_stopped(error))
    except Exception as error:  # noqa: BLE001 - a traceback of Python's would say what it holds
        is_usage = hasattr(error, "show")  # only usage errors of Typer show themselves
        sys.exit(_tell_usage(error) if is_usage else _tell_fault(error))


def _forget_variables_of_dlt() -> None:
    """What dlt reads from the environment by itself, most of it when it is imported: how it names
    columns and writes JSON. See `pipelines.destination.dlt_options` for all the rest."""
    for name in list(os.environ):
        if name.startswith(("DLT_DEFAULT_NAMING_", "DLT_INTERVAL_")) or name in (
            "DLT_USE_JSON", "DLT_JSON_TYPED_PUA_START", "DLT_DLT_ID_LENGTH_BYTES",
            "DLT_ALLOW_EXTERNAL_SCHEDULERS", "DLT_DISABLE_PLUGINS",
        ):  # fmt: skip
            del os.environ[name]


def _tell_stopped(error: BaseException) -> int:
    """A signal before any command was at work, as while all is imported."""
    from connector.errors import Interrupted

    number = error.signal_number if isinstance(error, StoppedEarly) else signal.SIGINT
    stopped = Interrupted(number)
    sys.stderr.write(f"Error: {stopped}\n")
    _tell_machines({"type": "Interrupted", "message": str(stopped)}, status="stopped")
    return stopped.exit_code


def _tell_usage(error: Any) -> int:
    """Help on stderr; with `--json`, the object that every end has."""
    error.message = error.message.removeprefix("Value error, ")  # Typer validates with pydantic
    error.show()
    _tell_machines({"type": "UsageError", "message": error.format_message()})
    return int(error.exit_code)


def _tell_fault(error: Exception) -> int:
    """What even the commands' own guard didn't expect, such as a stdout that can't be written."""
    import structlog

    from connector.logs import error_facts, get_logger

    if structlog.is_configured():  # until then, it would write to stdout
        get_logger("command").debug("command.unexpected", exc_info=error)
    facts = error_facts(error)
    sys.stderr.write(f"Error: {facts['message']}\n")
    _tell_machines(facts)
    return 1


def _tell_machines(facts: dict[str, str], *, status: str = "failed") -> None:
    if "--json" in sys.argv:
        from pipelines.commands.output import Output

        with suppress(OSError):  # a stdout that can't be written is told on stderr, see `_flushed`
            Output(json=True).object({"status": status, "error": facts})


def run() -> None:
    """`main` in a process of its own, which ends at once.

    Python would take most of a second to free what the system takes back anyway. What must be
    closed is closed by whoever opened it; a thread that is still at work is waited for.
    """
    raise_on_signals()
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
    """`code`, or 1 where the last of stdout can't be written."""
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
    """Python would try to write the rest once more, and tell of it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    run()
