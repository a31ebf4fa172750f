"""The console script `hiringcenter`."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from typing import Annotated, Any

import typer

from pipelines import commands

_ORDER = ("check", "pull", "push", "sync", "status", "budget", "runs", "report", "sandbox")
_ABOUT = "HiringCenter to your warehouse and back, at the pace the API allows."


def build_app() -> typer.Typer:
    """The Typer application with every command of `pipelines.commands`."""
    app = typer.Typer(
        name="hiringcenter",
        help=_ABOUT,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    found = {module.name for module in pkgutil.iter_modules(commands.__path__)}
    for name in _ORDER:
        if name in found:
            importlib.import_module(f"pipelines.commands.{name}").register(app)
    return app


def _print_version(asked: bool) -> None:
    if asked:
        from connector import __version__

        typer.echo(f"hiringcenter {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="The version, nothing else."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; never returns."""
    try:
        sys.exit(build_app()(standalone_mode=False))
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if not hasattr(error, "show"):  # only usage errors of Typer show themselves
            raise
        sys.exit(_tell_usage(error))


def _tell_usage(error: Any) -> int:
    """Help on stderr; with `--json`, the object that every end has."""
    error.show()
    if "--json" in sys.argv:
        from pipelines.commands.output import Output

        facts = {"type": "UsageError", "message": error.format_message()}
        Output(json=True).object({"status": "failed", "error": facts})
    return int(error.exit_code)


if __name__ == "__main__":
    main()
