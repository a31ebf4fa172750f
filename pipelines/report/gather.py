"""Where the report's facts come from: the ledger alone. Asks neither API nor destination."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa

from connector.budget.database import Database
from connector.budget.scheduler import RateBudget
from connector.clock import SystemClock
from connector.history import RunRecord
from connector.settings import RateLimit, Settings
from connector.upsert.outbox.outbox_schema import MIGRATIONS, results
from connector.upsert.outbox.receipts import Status
from pipelines.destination.places import SnapshotFacts, destination_label, snapshot_facts
from pipelines.ledger import LedgerView, open_ledger
from pipelines.push.push_outbox import outbox_database
from pipelines.report.facts import (
    RESOURCES,
    Freshness,
    Push,
    ReportFacts,
    WindowUse,
    by_minute,
    hourly,
)

_RUNS = 500
_PUSHES = 6
_REASONS = 8
_HOURS = 24
# a cell as repr() shows it; the apostrophe of "isn't" opens nothing
_QUOTED = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")(?!\w)|\*\*\*""")


def gather(settings: Settings) -> ReportFacts:
    """How things stand at the settings' destination.

    Raises:
        BudgetError: the ledger can't be read.
    """
    now_s = SystemClock().now_s()
    with open_ledger(settings) as ledger:
        label = destination_label(settings)
        runs = ledger.history.recent(_RUNS, label)
        windows, hold = _budget(settings, ledger.database, runs, now_s)
        return ReportFacts(
            now_s=now_s,
            destination=label,
            account=settings.account,
            freshness=_freshness(ledger, label, snapshot_facts(settings)),
            runs=runs,
            windows=windows,
            hold=hold,
            pushes=_pushes(settings, runs),
        )


def _freshness(ledger: LedgerView, label: str, copy: SnapshotFacts | None) -> list[Freshness]:
    """Of what readers see, as `status` tells it: a copy, or the server's own tables."""
    if copy is None:
        noted = ledger.freshness.of(label)
    else:
        noted = ledger.freshness.published(label) if copy.made_at else []
    known = {fresh.resource: fresh for fresh in noted}
    shown = []
    for name in RESOURCES:
        if (fresh := known.get(name)) is None:
            shown.append(Freshness(name, None, None, None))
            continue
        complete_ms = fresh.last_complete_ms
        complete_s = None if complete_ms is None else complete_ms / 1000
        last_s = fresh.last_pull_ms / 1000 if fresh.last_pull_ms else None
        shown.append(Freshness(name, fresh.rows, last_s, complete_s, fresh.scan, fresh.reason))
    return shown


def _budget(
    settings: Settings, database: Database, runs: Sequence[RunRecord], now_s: float
) -> tuple[list[WindowUse], str]:
    shortest = min(settings.rate_limits, key=lambda limit: limit.length_s)
    longest = max(settings.rate_limits, key=lambda limit: limit.length_s)
    hours = replace(
        _use(longest, 3600.0, hourly(runs, now_s, _HOURS)), whose="by runs into this destination"
    )
    if settings.api_key is None:
        return [hours], ""
    ages_s, hold = _recent(settings, database)
    return [_use(shortest, 60.0, by_minute(ages_s)), hours], hold


def _use(limit: RateLimit, slot_s: float, counts: list[int]) -> WindowUse:
    return WindowUse(limit.limit, limit.length_s, slot_s, counts)


def _recent(settings: Settings, database: Database) -> tuple[list[float], str]:
    """(how long ago each request of the last hour was answered, why the budget is on hold)."""
    with RateBudget(
        database,
        api_key=settings.key,
        limits=settings.rate_limits,
        request_timeout_s=settings.http.request_timeout_s,
    ) as budget:
        return budget.ages_s(3600.0), budget.state().hold_reason


def _pushes(settings: Settings, runs: Sequence[RunRecord]) -> list[Push]:
    pushes = [run for run in runs if run.kind == "push"][:_PUSHES]
    if not pushes:
        return []
    outbox = outbox_database(settings)
    try:
        outbox.migrate("outbox", MIGRATIONS)
        return [Push(run, _reasons(outbox, run.run_id)) for run in pushes]
    finally:
        outbox.close()


def without_cells(message: str) -> str:
    """A row's message without the cells that it quotes, so that rows of one kind count as one."""
    return _QUOTED.sub("…", message)


def _reasons(outbox: Database, run_id: str) -> list[tuple[str, int]]:
    """The commonest reasons of rejects and failures, with the cells they quote left out."""
    bad = (Status.REJECTED.value, Status.FAILED.value)
    query = (
        sa.select(results.c.message, sa.func.count())
        .where(results.c.run_id == run_id, results.c.status.in_(bad))
        .group_by(results.c.message)
    )
    counts: Counter[str] = Counter()
    with outbox.read() as connection:
        for message, rows in connection.execute(query):
            counts[without_cells(message or "no reason given")] += rows
    return counts.most_common(_REASONS)
