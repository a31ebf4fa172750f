"""What the report shows, from the ledger alone: it asks neither the API nor the destination."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from connector.budget.database import Database
from connector.budget.scheduler import RateBudget
from connector.clock import SystemClock
from connector.history import SENDING, Freshness, RunRecord
from connector.settings import Settings
from connector.source import RESOURCES
from connector.upsert.outbox.outbox_schema import MIGRATIONS, results
from connector.upsert.outbox.receipts import Status
from pipelines.destination.identity import destination_label
from pipelines.running.account_outbox import outbox_database
from pipelines.running.session import open_ledger

_RUNS = 500
_PUSHES = 6
_REASONS = 8
_HOURS = 24
# a cell as repr() shows it; the apostrophe of "isn't" opens nothing
_QUOTED = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")(?!\w)|\*\*\*""")


@dataclass(frozen=True)
class WindowUse:
    """Requests of one window over time, oldest first. counts: one per slot of `slot_s` seconds.
    whose: which requests are counted, for people.
    """

    limit: int
    length_s: float
    slot_s: float
    counts: Sequence[int]
    whose: str = "all with this key"


@dataclass(frozen=True)
class ShownPush:
    """One of the last pushes. reasons: how many rows were rejected or failed, by reason."""

    run: RunRecord
    reasons: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class ReportFacts:
    """Everything the template shows. runs: newest first. freshness: by resource, as readers see it;
    None if it was never pulled."""

    now_s: float
    destination: str
    account: str | None = None
    freshness: Mapping[str, Freshness | None] = field(default_factory=dict)
    runs: Sequence[RunRecord] = ()
    windows: Sequence[WindowUse] = ()
    hold: str = ""
    pushes: Sequence[ShownPush] = ()


def gather(settings: Settings) -> ReportFacts:
    """The facts about the settings' destination.

    Raises:
        BudgetError: the ledger can't be read.
    """
    now_s = SystemClock().now_s()
    with open_ledger(settings) as ledger:
        label = destination_label(settings)
        runs = ledger.history.recent(_RUNS, label)
        windows, hold = _budget(settings, ledger.database, runs, now_s)
        _, visible = ledger.freshness_of(settings)
        return ReportFacts(
            now_s=now_s,
            destination=label,
            account=settings.account,
            freshness={name: visible.get(name) for name in RESOURCES},
            runs=runs,
            windows=windows,
            hold=hold,
            pushes=_pushes(settings, runs),
        )


def _budget(
    settings: Settings, database: Database, runs: Sequence[RunRecord], now_s: float
) -> tuple[list[WindowUse], str]:
    """(use of the shortest and the longest window, why the budget is on hold)."""
    by_length = sorted(settings.rate_limits, key=lambda limit: limit.length_s)
    shortest, longest = by_length[0], by_length[-1]
    by_hour = WindowUse(
        longest.limit,
        longest.length_s,
        3600.0,
        hourly(runs, now_s, _HOURS),
        whose="by runs into this destination",
    )
    if settings.api_key is None:
        return [by_hour], ""
    with RateBudget(
        database,
        api_key=settings.key,
        limits=settings.rate_limits,
        request_timeout_s=settings.http.request_timeout_s,
    ) as budget:
        counts = by_minute(budget.ages_s(3600.0))
        return [WindowUse(shortest.limit, shortest.length_s, 60.0, counts), by_hour], (
            budget.state().hold_reason
        )


def _pushes(settings: Settings, runs: Sequence[RunRecord]) -> list[ShownPush]:
    pushes = [run for run in runs if run.kind in SENDING][:_PUSHES]
    if not pushes:
        return []
    with closing(outbox_database(settings)) as outbox:
        outbox.migrate("outbox", MIGRATIONS)
        return [ShownPush(run, _reasons(outbox, run.run_id)) for run in pushes]


def _reasons(outbox: Database, run_id: str) -> list[tuple[str, int]]:
    """The most common reasons for rejects and failures, without the cells they quote."""
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


def without_cells(message: str) -> str:
    """A row's message without the cells that it quotes, so that equal reasons count together."""
    return _QUOTED.sub("…", message)


def resources_of(run: RunRecord) -> Mapping[str, Mapping[str, Any]]:
    """A run's part per resource; empty for pushes and for runs that never began."""
    return dict(run.summary.get("resources") or {})


def rows_over_time(runs: Iterable[RunRecord], resource: str) -> Iterator[tuple[float, int]]:
    """(finished, rows in the destination) of each pull that counted them, oldest first."""
    for run in sorted(runs, key=lambda each: each.started_ms):
        rows = resources_of(run).get(resource, {}).get("rows")
        if rows is not None and run.finished_ms is not None:
            yield run.finished_ms / 1000, int(rows)


def changes(run: RunRecord) -> tuple[int, int]:
    """(rows written, rows deleted) by one pull, all resources."""
    parts = resources_of(run).values()
    return (
        sum(int(part.get("rows_written") or 0) for part in parts),
        sum(int(part.get("rows_deleted") or 0) for part in parts),
    )


def hourly(runs: Iterable[RunRecord], now_s: float, hours: int) -> list[int]:
    """Requests by hour, oldest first: those of a run are spread evenly over its duration."""
    slots = [0.0] * hours
    first_s = now_s - hours * 3600
    for run in runs:
        start_s = run.started_ms / 1000
        end_s = max(start_s + 1, (run.finished_ms or run.started_ms) / 1000)
        rate = int(run.summary.get("requests") or 0) / (end_s - start_s)
        for index in range(hours):
            low_s, high_s = first_s + index * 3600, first_s + (index + 1) * 3600
            slots[index] += rate * max(0.0, min(end_s, high_s) - max(start_s, low_s))
    return [round(slot) for slot in slots]


def by_minute(ages_s: Iterable[float], minutes: int = 60) -> list[int]:
    """Requests by minute, oldest first, from how long ago each was answered."""
    counts = Counter(int(age_s // 60) for age_s in ages_s if age_s >= 0)
    return [counts[minutes - 1 - index] for index in range(minutes)]
