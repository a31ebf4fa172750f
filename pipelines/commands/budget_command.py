"""`hiringcenter budget`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipelines.commands.invocation import command, option
from pipelines.commands.output import Output, Result

if TYPE_CHECKING:
    from connector.settings import Settings


@command(
    "budget",
    short_help="What the key may still send, and when",
    example="hiringcenter budget --plan 5000",
)
def _budget(
    settings: Settings,
    output: Output,
    plan: int | None = option("--plan N", "When N more requests would be done.", min=1, max=10**9),
) -> Result:
    """Used and free in each window, by lane; any hold and why; who is connected."""
    from connector import logs
    from connector.budget import Lane
    from connector.budget.database import Database
    from connector.budget.ledger_view import open_report
    from pipelines import budget_view
    from pipelines.destination.identity import prepare_state_dir

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
