"""What the report shows, as plain facts: gathered from run history, destination and ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from connector.history import RunRecord

RESOURCES = ("prospects", "notes", "tasks", "meetings")


@dataclass(frozen=True)
class Freshness:
    """One resource now. Times: UTC epoch seconds, None for never. rows: not flagged deleted."""

    resource: str
    rows: int | None
    last_pull_s: float | None
    last_complete_s: float | None
    scan: str = ""
    reason: str = ""


@dataclass(frozen=True)
class WindowUse:
    """Requests of one window over time. counts: one per slot of `slot_s`, oldest first. whose: what
    is counted, for people."""

    limit: int
    length_s: float
    slot_s: float
    counts: Sequence[int]
    whose: str = "all of this key"


@dataclass(frozen=True)
class Push:
    """One push of the last ones. reasons: how many rows were rejected or failed, by reason."""

    run: RunRecord
    reasons: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class ReportFacts:
    """Everything the template shows. runs: newest first."""

    now_s: float
    destination: str
    account: str | None = None
    freshness: Sequence[Freshness] = ()
    runs: Sequence[RunRecord] = ()
    windows: Sequence[WindowUse] = ()
    hold: str = ""
    pushes: Sequence[Push] = field(default_factory=tuple)


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
