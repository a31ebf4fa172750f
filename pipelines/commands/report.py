"""`hiringcenter report`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.common import Options, common_options, run_command
from pipelines.commands.result import Result
from pipelines.wording import plural

if TYPE_CHECKING:
    from connector.settings import Settings

_DEFAULT = Path("hiringcenter-report.html")
_TITLE = b"<title>HiringCenter connector report</title>"
_HEAD_BYTES = 2048


def register(app: typer.Typer) -> None:
    app.command(
        "report",
        short_help="All of it as one HTML file",
        epilog="Example: hiringcenter report --output report.html --open",
    )(_report)


@common_options
def _report(
    options: Options,
    output: Annotated[Path, typer.Option("--output", metavar="F", help="The file.")] = _DEFAULT,
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """One self-contained HTML file: freshness, growth, changes, budget, pushes, runs."""

    def work(settings: Settings, _output: object) -> Result:
        settings.check_account()
        named = settings.account and (options.all_accounts or output == _DEFAULT)
        path = output.with_stem(f"{output.stem}-{settings.account}") if named else output
        return make_report(settings, path, show=show)

    run_command(options, work)


def make_report(settings: Settings, path: Path, *, show: bool) -> Result:
    """Write the report to `path`, and open it if `show`.

    Raises:
        UsageError: `path` can't be written, or is something else than an earlier report.
    """
    import webbrowser

    from connector.errors import UsageError
    from pipelines.report.gather import gather
    from pipelines.report.render import render

    _check_target(path)
    facts = gather(settings)
    new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        new.write_text(render(facts), encoding="utf-8")
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise UsageError(
            f"{path}: the report can't be written: {error.strerror}. Name another file: --output F."
        ) from error
    if show:
        webbrowser.open(path.absolute().as_uri())
    return Result(
        summary={"status": "ok", "file": str(path), "runs": len(facts.runs)},
        lines=[f"The report is at {path} ({plural(len(facts.runs), 'run')})."],
    )


def _check_target(path: Path) -> None:
    """A slip of the hand must not replace somebody's file, nor a link lead to one."""
    from connector.errors import UsageError

    if path.is_symlink():
        raise UsageError(
            f"{path} is a link, which isn't followed. Name the file itself: --output F."
        )
    if not path.exists():
        return
    try:
        with path.open("rb") as there:
            is_report = _TITLE in there.read(_HEAD_BYTES)
    except OSError as error:
        raise UsageError(
            f"{path}: this file can't be read: {error.strerror}. Name another file: --output F."
        ) from error
    if not is_report:
        raise UsageError(f"{path} exists and isn't a report. Name another file: --output F.")
