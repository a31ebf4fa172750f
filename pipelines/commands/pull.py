"""`hiringcenter pull`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.common import Options, common_options, run_command
from pipelines.commands.observed import observed
from pipelines.commands.output import Output
from pipelines.commands.result import Result

if TYPE_CHECKING:
    from connector.settings import Settings
    from pipelines.pull.scanning import Wanted

_EXAMPLE = "Example: hiringcenter pull notes tasks --full"


def register(app: typer.Typer) -> None:
    app.command("pull", short_help="From the API into the destination", epilog=_EXAMPLE)(_pull)


@common_options
def _pull(
    options: Options,
    resources: Annotated[
        list[str] | None,
        typer.Argument(metavar="RESOURCE", help="prospects, notes, tasks, meetings."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="A complete scan of each; deletions are found.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="DATE",
            help="Look back to this date; later pulls are planned as before.",
        ),
    ] = None,
    reset: Annotated[
        bool,
        typer.Option("--reset", help="Forget what earlier scans learnt of each, and scan again."),
    ] = False,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="Publish over the copy of another installation."),
    ] = False,
) -> None:
    """Pull from the API into the destination; with no RESOURCE, all four."""

    def work(settings: Settings, output: Output) -> Result:
        wanted = _wanted(resources, full=full, since=since, reset=reset)
        return run_pull(settings, replace(wanted, take_over=take_over), output)

    run_command(options, observed("pull", work))


def run_pull(settings: Settings, wanted: Wanted, output: Output) -> Result:
    """One pull as a command's result."""
    from pipelines.progress import progress_of
    from pipelines.pull.pull_run import pull
    from pipelines.pull.pull_view import pull_events, pull_lines

    report = pull(settings, wanted, progress_of("pull", bar=output.shows_progress))
    return Result(
        summary=report.summary,
        lines=pull_lines(report, settings),
        events=pull_events(report),
        exit_code=report.exit_code,
        error=report.error,
    )


def _wanted(resources: list[str] | None, *, full: bool, since: str | None, reset: bool) -> Wanted:
    from connector.errors import UsageError, nearest
    from connector.source.fields import RESOURCES
    from pipelines.pull.scanning import Wanted

    for name in resources or ():
        if name not in RESOURCES:
            like = nearest(name, RESOURCES)
            hint = f" Did you mean {like!r}?" if like else ""
            raise UsageError(f"There is no resource {name!r}.{hint} Known: {', '.join(RESOURCES)}.")
    if since is not None and (full or reset):
        raise UsageError("--since looks back a bounded way: leave out --full and --reset.")
    return Wanted(
        tuple(name for name in RESOURCES if not resources or name in resources),
        full=full,
        since_ms=None if since is None else _since_ms(since),
        reset=reset,
    )


def _since_ms(text: str) -> int:
    from datetime import UTC, datetime

    from connector.errors import UsageError

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--since {text!r} isn't a date. Write 2026-03-01 or 2026-03-01T12:00:00+00:00."
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)
