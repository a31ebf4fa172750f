"""Which scan a pull takes of each list, and why. Pure.

The API can't be asked what changed, so there are four ways to look: `full` reads every page and
is the only one that finds deletions and edits anywhere; `head` reads newest first down to the
watermark; `open` reads the tasks that aren't completed; `window` the meetings around now. Full
scans are taken while they are cheap; else narrow ones, between periodic full ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from math import ceil
from typing import Any, Self

from connector.settings import PullSettings

AT_ONCE_SHARE = 0.5  # of the longest window, for one full scan in one run; the rest is for others


class ScanKind(StrEnum):
    """full: every page · head: newest first until `since_ms` · open, window: filtered lists."""

    FULL = "full"
    HEAD = "head"
    OPEN = "open"
    WINDOW = "window"


@dataclass(frozen=True)
class ScanPlan:
    """One pass over one list.

    reason: a sentence for people. since_ms: how far down a head scan reads (inclusive). order:
    the field a head scan is ordered by. params: filters of the list. max_pages: where this run
    stops, to be gone on with by the next; None: at the end. look_max: how many rows that left a
    filtered list are looked at one by one; with more, the whole list is cheaper. backfill: asked
    for by `--since`; leaves watermarks alone.
    """

    resource: str
    kind: ScanKind
    reason: str
    since_ms: int | None = None
    order: str | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    max_pages: int | None = None
    look_max: int = 0
    backfill: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"kind": str(self.kind), "params": dict(self.params)}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        return cls(**{**facts, "kind": ScanKind(facts["kind"])})


@dataclass(frozen=True)
class ScanOutcome:
    """How a scan ended. complete: every row of the list was read, so what wasn't seen is deleted.

    why: a sentence for people. total_count: the server's, None where it doesn't count. pages:
    requests for pages, in all runs of this scan. rows: items read, repetitions included.
    newest_ms: field → newest time. order: the field by which rows came newest first, if any.
    page_size: rows per page that the server accepts. gone: ids that the API says don't exist any
    more. unfinished: stopped at `max_pages`; the next run goes on at the last page's place.
    """

    complete: bool
    why: str
    total_count: int | None = None
    pages: int = 0
    rows: int = 0
    newest_ms: Mapping[str, int] = field(default_factory=dict)
    order: str | None = None
    page_size: int | None = None
    gone: tuple[str, ...] = ()
    unfinished: bool = False


@dataclass(frozen=True)
class ResourceFacts:
    """What the scans of one resource left behind; JSON-able by `to_json`.

    newest_ms: field → newest time that a finished scan saw (the watermarks). last_complete_ms:
    when the last complete scan began. rows, pages, page_size, order: of the last complete scan.
    open_pages: of the last narrow scan. full_begun_ms: a full scan that stopped at `max_pages`.
    """

    newest_ms: Mapping[str, int] = field(default_factory=dict)
    last_complete_ms: int | None = None
    rows: int | None = None
    pages: int | None = None
    page_size: int | None = None
    order: str | None = None
    full_begun_ms: int | None = None

    @property
    def watermark_ms(self) -> int | None:
        return max(self.newest_ms.values(), default=None)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"newest_ms": dict(self.newest_ms)}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        return cls(**facts)

    def after(self, plan: ScanPlan, outcome: ScanOutcome, *, started_ms: int) -> ResourceFacts:
        """The facts once a scan that began at `started_ms` has ended and its rows are loaded."""
        if outcome.unfinished:
            return replace(self, full_begun_ms=self.full_begun_ms or started_ms)
        known = self
        if not plan.backfill:
            names = {*self.newest_ms, *outcome.newest_ms}
            newest_ms = {
                name: max(self.newest_ms.get(name, 0), outcome.newest_ms.get(name, 0))
                for name in names
            }
            known = replace(known, newest_ms=newest_ms)
        if not outcome.complete:
            return known
        return replace(
            known,
            last_complete_ms=started_ms,
            rows=outcome.rows,
            pages=outcome.pages,
            page_size=outcome.page_size,
            order=outcome.order,
            full_begun_ms=None,
        )


def plan(
    resource: str,
    facts: ResourceFacts,
    *,
    pull: PullSettings,
    hourly_limit: int,
    now_ms: int,
    full: bool = False,
    since_ms: int | None = None,
) -> ScanPlan:
    """The scan that the next pull takes of `resource`.

    hourly_limit: requests that the longest window allows. full: `--full`. since_ms: `--since`, a
    bounded look back that doesn't count as the scan of this run's watermark.
    """
    if full:
        return ScanPlan(resource, ScanKind.FULL, "asked for with --full")
    if since_ms is not None:
        return _backfill(resource, facts, since_ms)
    if facts.last_complete_ms is None or facts.pages is None:
        return ScanPlan(resource, ScanKind.FULL, "no complete scan yet")
    share = pull.full_share * hourly_limit
    if facts.pages <= share:
        reason = f"a full scan costs {facts.pages} requests, the share allows {share:.0f}"
        return ScanPlan(resource, ScanKind.FULL, reason)
    narrow = _narrow(resource, facts, pull, now_ms)
    # a scan that lies in the future began under a clock that was wrong
    due = not 0 <= now_ms - facts.last_complete_ms < pull.full_every_s * 1000
    if narrow is not None and not due and facts.full_begun_ms is None:
        return narrow
    return _spread(resource, facts, hourly_limit, share, due=due)


def _narrow(
    resource: str, facts: ResourceFacts, pull: PullSettings, now_ms: int
) -> ScanPlan | None:
    """The cheap scan that finds most changes; None where the list has no order or filter for it."""
    last = _utc(facts.last_complete_ms)
    rest = f"the rest waits for a full scan: the last, at {last}, cost {facts.pages} requests"
    look_max = facts.pages or 0
    if resource == "tasks":
        reason = f"tasks not completed; {rest}"
        return ScanPlan(
            resource, ScanKind.OPEN, reason, params={"incompleteOnly": "true"}, look_max=look_max
        )
    if resource == "meetings":
        first_ms = now_ms - int(pull.meetings_past_s * 1000)
        last_ms = now_ms + int(pull.meetings_ahead_s * 1000)
        params = {"meetingDateAfter": str(first_ms), "meetingDateBefore": str(last_ms)}
        reason = f"meetings from {_utc(first_ms)} to {_utc(last_ms)}; {rest}"
        return ScanPlan(resource, ScanKind.WINDOW, reason, params=params, look_max=look_max)
    order = "createdAt" if resource == "notes" else facts.order
    watermark_ms = facts.newest_ms.get(order) if order else None
    if order is None or watermark_ms is None:
        return None
    until_ms = watermark_ms - int(pull.lookback_s * 1000)
    reason = f"newest first by {order} down to {_utc(until_ms)}; {rest}"
    return ScanPlan(resource, ScanKind.HEAD, reason, since_ms=until_ms, order=order)


def _spread(
    resource: str, facts: ResourceFacts, hourly_limit: int, share: float, *, due: bool
) -> ScanPlan:
    """A full scan that the share doesn't cover: at once while it leaves half of the window."""
    pages = facts.pages or 0
    why = "a full scan is due" if due else "the list has no order that would allow less"
    if facts.full_begun_ms is not None:
        why = f"goes on with the full scan begun at {_utc(facts.full_begun_ms)}"
    at_once = AT_ONCE_SHARE * hourly_limit if due else share
    if pages <= at_once:
        return ScanPlan(resource, ScanKind.FULL, f"{why}: {pages} requests")
    max_pages = max(1, int(at_once))
    reason = f"{why}: {pages} requests, spread over {ceil(pages / max_pages)} runs"
    return ScanPlan(resource, ScanKind.FULL, reason, max_pages=max_pages)


def _backfill(resource: str, facts: ResourceFacts, since_ms: int) -> ScanPlan:
    reason = f"asked for with --since {_utc(since_ms)}"
    order = "createdAt" if resource == "notes" else facts.order
    if resource in ("notes", "prospects") and order:
        return ScanPlan(
            resource, ScanKind.HEAD, reason, since_ms=since_ms, order=order, backfill=True
        )
    if resource == "meetings":
        params = {"meetingDateAfter": str(since_ms)}
        return ScanPlan(resource, ScanKind.WINDOW, reason, params=params, backfill=True)
    reason += "; this list can't be narrowed by time, so all of it"
    return ScanPlan(resource, ScanKind.FULL, reason, backfill=True)


def _utc(ms: int | None) -> str:
    if ms is None:
        return "never"
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%SZ}"
