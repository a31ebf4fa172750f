"""`hiringcenter budget`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.common import Options, common_options, run_command
from pipelines.commands.output import Output
from pipelines.commands.result import Result

if TYPE_CHECKING:
    from connector.settings import Settings


def register(app: typer.Typer) -> None:
    app.command(
        "budget",
        short_help="What the key may still send, and when",
        epilog="Example: hiringcenter budget --plan 5000",
    )(_budget)


@common_options
def _budget(
    options: Options,
    plan: Annotated[
        int | None,
        typer.Option(
            "--plan", metavar="N", min=1, max=10**9, help="When N more requests would be done."
        ),
    ] = None,
) -> None:
    """Used and free in each window, by lane; any hold and why; who is connected."""
    run_command(options, lambda settings, output: look(settings, output, plan))


def look(settings: Settings, output: Output, plan: int | None) -> Result:
    """The budget now; sends nothing.

    Raises:
        MissingKey: no API key is configured.
        BudgetError: the ledger can't be used.
    """
    from datetime import UTC, datetime

    from connector import logs
    from connector.budget import Lane
    from connector.budget.database import Database
    from connector.budget.report import open_report
    from pipelines import budget_view
    from pipelines.destination.places import prepare_state_dir

    logs.hide(settings.key)
    prepare_state_dir(settings)
    ledger = Database(settings.resolved_ledger_url)
    try:
        report = open_report(ledger, api_key=settings.key, limits=settings.rate_limits)
        state = report.state()
        etas = {lane: report.forecast(plan, lane) for lane in Lane} if plan else {}
    finally:
        ledger.close()
    planned = budget_view.Plan(plan, etas) if plan else None
    now = datetime.now(UTC)
    on_terminal = sys.stdout.isatty() and not output.json
    draw = budget_view.as_bars if on_terminal else budget_view.as_lines
    return Result(
        summary=budget_view.as_json(state, planned, now),
        lines=list(draw(state, planned, now)),
        is_answer=True,
    )
