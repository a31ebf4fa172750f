"""Which scan each list gets in a pull, and why. Pure.

The API can't list changes, so there are four kinds of scan: `full` reads every page and is the
only one that finds deletions and edits anywhere; `head` reads newest first down to the
watermark; `open` reads the tasks that aren't completed; `window` the meetings around now. Full
scans are taken while they are cheap; else narrow ones, between periodic full ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from math import ceil
from typing import Any, Self, cast

from pydantic import TypeAdapter

from connector.settings import PullSettings

AT_ONCE_SHARE = 0.5  # of the longest window, for one full scan in one run; the rest is for others


class ScanKind(StrEnum):
    """full: every page · head: newest first until `since_ms` · open, window: filtered lists."""

    FULL = "full"
    HEAD = "head"
    OPEN = "open"
    WINDOW = "window"


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


class Stored:
    """A part of a pipeline's state, as JSON by `to_json`; `from_json` ignores unknown names."""

    def to_json(self) -> dict[str, Any]:
        stored: dict[str, Any] = _adapter(cast(Any, type(self))).dump_python(self, mode="json")
        return stored

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Raises: ValueError: it isn't what `to_json` gave."""
        found: Self = _adapter(cast(Any, cls)).validate_python(facts)
        return found


FILTERED = (ScanKind.OPEN, ScanKind.WINDOW)


@dataclass(frozen=True)
class ScanPlan(Stored):
    """One pass over one list.

    reason: a sentence for people. since_ms: how far down a head scan reads (inclusive). order:
    the field a head scan is ordered by. params: filters of the list. max_pages: where this run
    stops, to be resumed by the next; None: at the end. look_max: how many rows that left a
    filtered list are looked up one by one; with more, the whole list is cheaper. backfill:
    requested by `--since`; doesn't move watermarks. full_max_pages: `max_pages` of the full scan
    that a narrow one becomes if its list isn't newest first, or its filter is refused.
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
    full_max_pages: int | None = None


class DoubtKind(StrEnum):
    """What keeps a full scan that has ended from being proven complete."""

    COUNT = "count"  # the server counts more rows than it lists
    FULL_PAGE = "full page"  # the last page is full, and nothing says that it is the last
    SAME_TIME = "same time"  # more rows share a millisecond than a page takes
    NO_LIST = "no list"  # the end was an answer without a list
    ENDLESS = "endless"  # pages bring nothing new, and each names a next one
    UNREACHABLE_PAGE = "no place"  # there is a next page that can't be requested


@dataclass(frozen=True)
class Doubt(Stored):
    """Why a scan that has ended isn't proven complete.

    why: a sentence for people. gap: rows that the server counts and doesn't list; 0 if it doesn't
    count. listed: rows of the list. helped: requests beyond the pages found more rows.
    """

    kind: DoubtKind
    why: str
    gap: int = 0
    listed: int = 0
    helped: bool = False

    def is_known(self, before: Doubt | None) -> bool:
        """Whether the scan before had the same doubt: of this kind, and hardly smaller."""
        return before is not None and self.kind is before.kind and before.covers(self.gap)

    def covers(self, gap: int) -> bool:
        """Whether a gap is this one still: no more than 1 % of the list wider, at least 10."""
        return gap <= self.gap + max(10, self.listed // 100)


@dataclass(frozen=True)
class ScanOutcome(Stored):
    """How a scan ended. complete: every row of the list was read, so unseen rows are deleted.

    why: a sentence for people. doubt: why a finished scan isn't proven complete; None if it is, or
    wasn't a full one. total_count: the server's, None if it doesn't count. pages: requests for
    pages, in all runs of this scan. rows: items read, repetitions included. newest_ms: field →
    newest time. order: the field by which rows came newest first. page_size: rows per page that
    the server accepts. gone: ids for which the API answered 404. unfinished: stopped at
    `max_pages`; the next run resumes after the last page. filter_refused: the server refused the
    plan's filter, and all of the list was read.
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
    doubt: Doubt | None = None
    filter_refused: bool = False


@dataclass(frozen=True)
class Checkpoint(Stored):
    """How far a scan is: all rows up to here are loaded.

    started_ms: when the scan began; rows of later times don't move its watermark. resume: what
    `Scan` resumes with, None: at the beginning. ids: how many ids of rows read so far are kept
    outside of the state, to tell which rows are missing; None: each row carries `started_ms`.
    outcome: how the list ended, once all of it is loaded and while its consequences aren't booked.
    """

    plan: ScanPlan
    started_ms: int
    resume: Mapping[str, Any] | None = None
    ids: int | None = None
    outcome: ScanOutcome | None = None

    @property
    def pages(self) -> int:
        """Pages that were read so far."""
        return int((self.resume or {}).get("seen", {}).get("pages", 0))

    @property
    def is_at_end(self) -> bool:
        """Whether the list was read to its end, so that nothing remains to be requested."""
        return self.outcome is not None or bool((self.resume or {}).get("ended"))

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Of any version: those before 0.2 say `place`, `seen` and `ended`."""
        if "resume" not in facts:
            old = {"resume": facts.get("place"), "ids": facts.get("seen", 0)}
            facts = {**facts, **old, "outcome": facts.get("ended")}
        return super().from_json(facts)


@dataclass(frozen=True)
class ScannedPage:
    """The records of one request.

    records: each with a usable id, in order; one id may come again on a later page. malformed:
    items without one. checkpoint: where the scan resumes once this page is loaded.
    size_bytes: of the answer they came in.
    """

    resource: str
    records: list[dict[str, Any]]
    malformed: list[Any]
    checkpoint: Checkpoint
    size_bytes: int


def usual_page_size(known: Any, configured: int) -> int:
    """Rows to request: what a server accepted before, never more than configured.

    known: from a state, in which an earlier version may have stored nonsense.
    """
    return known if type(known) is int and 1 <= known <= configured else configured


@dataclass(frozen=True)
class ResourceFacts(Stored):
    """The results of a resource's finished scans.

    newest_ms: field → newest time that a finished scan saw (the watermarks). last_full_ms,
    last_complete_ms: when the last full scan that came to its end began, and the last one that
    is proven complete. rows, pages, page_size, order: of the last full one. full_begun_ms: a full
    scan that stopped at `max_pages`. doubt: of the last full scan. looked_ms: when rows that are
    known to be unlisted, or undecided, were last looked at. undecided: ids that left the list, and
    that the API neither shows nor denies. narrow_pages: kind → pages of the last such scan.
    filter_refused_ms: when the server refused the filter of this list; None: it takes it.
    """

    newest_ms: Mapping[str, int] = field(default_factory=dict)
    last_complete_ms: int | None = None
    rows: int | None = None
    pages: int | None = None
    page_size: int | None = None
    order: str | None = None
    full_begun_ms: int | None = None
    last_full_ms: int | None = None
    doubt: Doubt | None = None
    looked_ms: int | None = None
    undecided: tuple[str, ...] = ()
    narrow_pages: Mapping[str, int] = field(default_factory=dict)
    filter_refused_ms: int | None = None

    def pages_of(self, plan: ScanPlan) -> int | None:
        """Pages that the last scan of the plan's kind read; None where there was none."""
        if plan.kind is ScanKind.FULL:
            return self.pages
        return None if plan.backfill else self.narrow_pages.get(plan.kind)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Of any version: unknown facts are dropped."""
        last_full_ms = facts.get("last_full_ms", facts.get("last_complete_ms"))
        undecided = facts.get("undecided") or ()
        return super().from_json({**facts, "last_full_ms": last_full_ms, "undecided": undecided})

    def after(self, plan: ScanPlan, outcome: ScanOutcome, *, started_ms: int) -> ResourceFacts:
        """The facts once a scan that began at `started_ms` has ended and its rows are loaded."""
        known = self
        if outcome.filter_refused:
            known = replace(self, filter_refused_ms=started_ms)
        elif plan.kind in FILTERED:
            known = replace(self, filter_refused_ms=None)
        if outcome.unfinished:
            return replace(known, full_begun_ms=self.full_begun_ms or started_ms)
        if not plan.backfill:
            names = {*self.newest_ms, *outcome.newest_ms}
            newest_ms = {
                name: max(self.newest_ms.get(name, 0), outcome.newest_ms.get(name, 0))
                for name in names
            }
            known = replace(known, newest_ms=newest_ms)
        if plan.kind is not ScanKind.FULL:
            pages = {} if plan.backfill else {str(plan.kind): outcome.pages}
            return replace(known, narrow_pages={**self.narrow_pages, **pages})
        known = replace(known, doubt=self._still(outcome.doubt))
        if outcome.doubt is not None and outcome.doubt.kind is DoubtKind.NO_LIST:
            return known
        return replace(
            known,
            last_full_ms=started_ms,
            last_complete_ms=started_ms if outcome.complete else self.last_complete_ms,
            rows=outcome.rows,
            pages=outcome.pages,
            page_size=outcome.page_size,
            order=outcome.order,
            full_begun_ms=None,
        )

    def _still(self, doubt: Doubt | None) -> Doubt | None:
        """The doubt to remember: the gap as it was reported, or it could grow in small steps."""
        if doubt is None or self.doubt is None or not doubt.is_known(self.doubt):
            return doubt
        return replace(doubt, gap=min(doubt.gap, self.doubt.gap))


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
    if facts.last_full_ms is None or facts.pages is None:
        return ScanPlan(resource, ScanKind.FULL, "no complete scan yet")
    share = pull.full_share * hourly_limit
    if facts.pages <= share:
        plural = "s" * (facts.pages != 1)
        reason = f"a full scan costs {facts.pages} request{plural}, the share allows {share:.0f}"
        return ScanPlan(resource, ScanKind.FULL, reason)
    narrow = _narrow(resource, facts, pull, now_ms, hourly_limit)
    due = not _is_recent(facts.last_full_ms, pull, now_ms)
    if narrow is not None and not due and facts.full_begun_ms is None:
        return narrow
    return _spread(resource, facts, hourly_limit, share, due=due)


def _is_recent(at_ms: int | None, pull: PullSettings, now_ms: int) -> bool:
    """Whether it was less than `full_every_s` ago. A time in the future, from a wrong clock, isn't
    recent."""
    return at_ms is not None and 0 <= now_ms - at_ms < pull.full_every_s * 1000


def _narrow(
    resource: str, facts: ResourceFacts, pull: PullSettings, now_ms: int, hourly_limit: int
) -> ScanPlan | None:
    """The cheap scan that finds most changes; None if the list has no order or filter for it."""
    last = _utc(facts.last_full_ms)
    rest = f"the rest waits for a full scan: the last, at {last}, cost {facts.pages} requests"
    look_max = facts.pages or 0
    at_once = max(1, int(AT_ONCE_SHARE * hourly_limit))
    full_max_pages = at_once if (facts.pages or 0) > at_once else None
    if resource in ("tasks", "meetings") and _is_recent(facts.filter_refused_ms, pull, now_ms):
        return None
    if resource == "tasks":
        reason = f"tasks not completed; {rest}"
        return ScanPlan(
            resource, ScanKind.OPEN, reason, params={"incompleteOnly": "true"},
            look_max=look_max, full_max_pages=full_max_pages,
        )  # fmt: skip
    if resource == "meetings":
        first_ms = now_ms - int(pull.meetings_past_s * 1000)
        last_ms = now_ms + int(pull.meetings_ahead_s * 1000)
        params = {"meetingDateAfter": str(first_ms), "meetingDateBefore": str(last_ms)}
        reason = f"meetings from {_utc(first_ms)} to {_utc(last_ms)}; {rest}"
        return ScanPlan(
            resource, ScanKind.WINDOW, reason, params=params,
            look_max=look_max, full_max_pages=full_max_pages,
        )  # fmt: skip
    order = "createdAt" if resource == "notes" else facts.order
    watermark_ms = facts.newest_ms.get(order) if order else None
    if order is None or watermark_ms is None:
        return None
    until_ms = watermark_ms - int(pull.lookback_s * 1000)
    reason = f"newest first by {order} down to {_utc(until_ms)}; {rest}"
    return ScanPlan(
        resource, ScanKind.HEAD, reason, since_ms=until_ms, order=order,
        full_max_pages=full_max_pages,
    )  # fmt: skip


def _spread(
    resource: str, facts: ResourceFacts, hourly_limit: int, share: float, *, due: bool
) -> ScanPlan:
    """A full scan that the share doesn't cover: at once while it leaves half of the window."""
    pages = facts.pages or 0
    why = "a full scan is due" if due else "the list has no order that would allow less"
    if not due and facts.filter_refused_ms is not None and resource in ("tasks", "meetings"):
        why = f"the server refused the filter of this list at {_utc(facts.filter_refused_ms)}"
    if facts.full_begun_ms is not None:
        why = f"resumes the full scan begun at {_utc(facts.full_begun_ms)}"
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


def since_ms(text: str) -> int:
    """A date, a time (UTC unless it says otherwise) or Unix milliseconds, in milliseconds.

    Raises:
        ValueError: it is none of these.
    """
    if text.isdecimal() and len(text) > 8:  # shorter ones are dates: 20260301
        return int(text)
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)
