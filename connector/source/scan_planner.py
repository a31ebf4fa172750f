"""Which scans the lists of one run get, and why. Pure.

The API can't list changes. A full scan finds everything and costs a request per page; a narrow one
is cheap and misses what changed elsewhere in its list. All lists of a run share a part of the
longest window (`full_share`). Narrow scans come first; what they leave goes to full scans: of lists
without a narrow one, then of those that are likely to find most per request, else in turn. Each
list is read in full at least daily (`full_every_s`), also beyond the share, unless it is too big
for that: then in parts, as many pages in each run as the share has left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import ceil

from connector.settings import PullSettings, RateLimit
from connector.source.scans import ListState, ResourceFacts, ScanKind, ScanPlan

AT_ONCE_SHARE = 0.5  # of the longest window, for a full scan that is due; the rest is for others
DAILY_SHARE = 0.1  # of a day's requests; a list that takes more is too big for a daily full scan
NARROW_SHARE = 0.05  # of the longest window; a narrow scan that costs more is too much for each run
NARROW_FEW = 10  # requests that are never too much
EARLY = 7 / 8  # of `full_every_s`: then one of several lists is read, lest they are due together
_DAY_S = 86_400
_FILTERED_LISTS = ("tasks", "meetings")


@dataclass(frozen=True)
class Events:
    """What events say about prospects. why_not: why they don't stand for a scan; None: they do.
    waiting: how many people they name who weren't looked up yet."""

    why_not: str | None
    waiting: int = 0


ScanPlans = dict[str, tuple[ScanPlan, ...]]
"""By list, its scans in one run, in order: one, or a narrow one and then a part of a full one."""


def plan_scans(
    lists: Mapping[str, ListState],
    *,
    pull: PullSettings,
    limits: Sequence[RateLimit],
    now_ms: int,
    full: bool = False,
    since_ms: int | None = None,
    events: Events | None = None,
) -> ScanPlans:
    """The scans of the next run of these lists.

    full: `--full`. since_ms: `--since`, a bounded look back that doesn't count as the scan of this
    run's watermark. events: of prospects; None where none are received.
    """
    if full:
        asked = "asked for with --full"
        return {name: (ScanPlan(name, ScanKind.FULL, asked),) for name in lists}
    if since_ms is not None:
        return {name: (_look_back(name, known.facts, since_ms),) for name, known in lists.items()}
    window = max(limits, key=lambda limit: limit.length_s)
    return _Share(lists, pull, window, now_ms, events).plans()


class _List:
    """A list that was read in full before, and its costs in requests.

    pages: what a full scan still has to read. begun_ms: since when, if there is an unfinished one.
    is_big: too big for a daily one. is_followed: by events. narrow: None if it costs more than
    `narrow_most`. narrow_pages: what the narrow scan reads; where none was made yet, at most.
    plans: once they are made.
    """

    def __init__(
        self, name: str, known: ListState, narrow: ScanPlan | None, *, narrow_most: float
    ) -> None:
        facts, left = known.facts, known.left
        if left is not None and left.plan.backfill:
            left = None  # which only the same look back resumes
        full_left = left if left and left.plan.kind is ScanKind.FULL else None
        self.name, self.facts = name, facts
        self.all_pages, self.last_full_ms = facts.pages or 0, facts.last_full_ms or 0
        self.pages = max(1, self.all_pages - (full_left.pages if full_left else 0))
        self.begun_ms = facts.full_begun_ms or (full_left.started_ms if full_left else None)
        self.was_cut = full_left is not None and full_left.plan.max_pages is None
        self.is_followed = narrow is not None and narrow.kind is ScanKind.EVENTS
        usual = facts.pages_of(narrow) if narrow and not self.is_followed else 0
        most = 1 if narrow and narrow.kind is ScanKind.HEAD else self.all_pages
        self.narrow_pages = most if usual is None else usual
        self.narrow = narrow if usual is None or usual <= narrow_most else None
        # a first narrow scan shows what it costs, and one that was cut is resumed
        self.stays_narrow = usual is None or (left is not None and full_left is None)
        self.plans: tuple[ScanPlan, ...] = ()

    @property
    def is_narrow(self) -> bool:
        """Whether it gets its narrow scan, as things stand."""
        return self.plans == (self.narrow,)

    def likely_finds(self, now_ms: int) -> float:
        """Changes that a full scan will find per request, if as many come as before the last."""
        return self.facts.found_per_hour * (now_ms - self.last_full_ms) / self.pages

    def why_full(self) -> str:
        """Why nothing less than full scans is possible."""
        if self.narrow_pages:
            return f"its narrow scan costs {_requests(self.narrow_pages)}, too much for each run"
        if self.name in _FILTERED_LISTS:
            refused = _utc(self.facts.filter_refused_ms)
            return f"the server refused the filter of this list at {refused}"
        return "the list has no order that would allow less"


class _Share:
    """Plans one run: each step plans some of the lists that the steps before it left open.

    small: lists that are read in full daily. big: those that are too big for that.
    """

    def __init__(
        self,
        lists: Mapping[str, ListState],
        pull: PullSettings,
        window: RateLimit,
        now_ms: int,
        events: Events | None,
    ) -> None:
        self._events = events
        self._states, self._pull, self._now_ms = lists, pull, now_ms
        self._at_once = max(1, int(AT_ONCE_SHARE * window.limit))
        self._daily = DAILY_SHARE * window.limit * _DAY_S / window.length_s
        self._share = self._left = pull.full_share * window.limit
        self._lists = [
            _List(
                name, known, self._narrow_scan(name, known.facts),
                narrow_most=max(NARROW_FEW, NARROW_SHARE * window.limit),
            )
            for name, known in lists.items()
            if known.facts.last_full_ms is not None and known.facts.pages is not None
        ]  # fmt: skip
        self._lists.sort(key=lambda each: each.last_full_ms)  # who waits longest comes first
        self._big = [each for each in self._lists if each.all_pages > self._daily]
        self._small = [each for each in self._lists if each not in self._big]

    def plans(self) -> ScanPlans:
        self._plan_big_lists()
        is_beyond = self._resume_full_scans() | self._take_all_instead_of_many()
        self._take_events()
        if not self._take_all_in_full():
            is_beyond |= self._take_due_scans()
            self._take_narrow_scans()
            self._spend_the_rest()
            if not is_beyond:
                self._take_one_early()
        self._take_a_part()
        made = {each.name: each.plans for each in self._lists}
        first = "no complete scan yet"
        return {
            name: made.get(name) or (ScanPlan(name, ScanKind.FULL, first),) for name in self._states
        }

    def _open(self) -> list[_List]:
        return [each for each in self._lists if not each.plans]

    def _resume_full_scans(self) -> bool:
        """Those that were cut short, or are due; whether there are any."""
        begun = [each for each in self._small if each.begun_ms and not self._is_paced(each)]
        begun = [each for each in begun if each.was_cut or self._is_due(each)]
        for each in begun:
            self._take_in_full(each, _requests(each.pages), self._at_once)
        return bool(begun)

    def _take_all_instead_of_many(self) -> bool:
        """Plan a full scan where it takes fewer requests than single look-ups; True if so."""
        waiting = self._events.waiting if self._events else 0
        fresh = [each for each in self._small if not each.plans and each.name == "prospects"]
        many = [each for each in fresh if waiting > each.pages]
        for each in many:
            why = f"events name {waiting:,} people, and a full scan costs {_requests(each.pages)}"
            self._take_in_full(each, why, self._at_once)
        return bool(many)

    def _take_events(self) -> None:
        """They stand for any other scan, until a full one is due."""
        for each in self._small:
            if each.is_followed and not (each.plans or each.begun_ms or self._is_due(each)):
                self._take_narrow_scan(each)

    def _take_all_in_full(self) -> bool:
        """If the share allows that for every list that is open."""
        fresh = self._open()
        cost = sum(each.pages for each in fresh)
        if cost > self._left:
            return False
        for each in fresh:
            together = f", those of all lists {cost}" if len(fresh) > 1 else ""
            why = f"a full scan costs {_requests(each.pages)}{together}"
            self._take_in_full(each, f"{why}, the share allows {self._share:.0f}", cost)
        return True

    def _take_due_scans(self) -> bool:
        """Also beyond the share; whether there are any."""
        fresh = [each for each in self._small if not each.plans]
        due = [each for each in fresh if self._is_due(each) and not self._is_paced(each)]
        for each in due:
            why = f"a full scan is due: {_requests(each.pages)}"
            self._take_in_full(each, why, self._at_once)
        return bool(due)

    def _is_due(self, each: _List) -> bool:
        return not _is_recent(each.last_full_ms, self._pull.full_every_s, self._now_ms)

    def _is_paced(self, each: _List) -> bool:
        """Whether a list is read at an even pace: nothing less is possible, and all is too much."""
        return each.narrow is None and each.all_pages > self._at_once

    def _take_narrow_scans(self) -> None:
        """Lists without one get a full scan, or the part that the share and their pace allow."""
        for each in self._open():
            self._take_narrow_scan(each)
        while only_full := self._open():
            each = only_full[0]
            left = max(0, self._left - self._kept())
            at_once = left if each.pages <= left else left / len(only_full)
            if self._is_paced(each) and each in self._small:
                at_once = min(self._at_once, max(at_once, self._pages_behind(each)))
            self._take_in_full(each, f"{each.why_full()}: {_requests(each.pages)}", at_once)

    def _take_narrow_scan(self, each: _List) -> None:
        if each.narrow is not None:
            each.plans = (each.narrow,)
            self._left -= each.narrow_pages

    def _pages_behind(self, each: _List) -> float:
        """Pages to read now so that a full scan takes `full_every_s`."""
        every_ms = max(1, self._pull.full_every_s * 1000)
        begun_ms = each.begun_ms or each.last_full_ms + every_ms
        return each.all_pages * (self._now_ms - begun_ms) / every_ms - (each.all_pages - each.pages)

    def _spend_the_rest(self) -> None:
        """Full scans instead of narrow ones."""
        narrow = [
            each
            for each in self._small
            if each.is_narrow and not (each.stays_narrow or each.is_followed)
        ]
        for each in sorted(narrow, key=lambda each: -each.likely_finds(self._now_ms)):
            left = self._left + each.narrow_pages
            if each.pages <= left - self._kept():
                self._left = left
                why = f"a full scan costs {_requests(each.pages)}, the other lists leave {left:.0f}"
                self._take_in_full(each, f"{why} of the share of {self._share:.0f}", each.pages)

    def _take_one_early(self) -> None:
        """Of several lists that will be due together, so that later they are due one by one."""
        early_s = EARLY * self._pull.full_every_s
        narrow = [each for each in self._small if each.is_narrow]
        soon = [e for e in narrow if not _is_recent(e.last_full_ms, early_s, self._now_ms)]
        if len(soon) > 1:
            why = "a full scan will be due soon, at the same time as those of other lists, so now"
            self._take_in_full(soon[0], f"{why}: {_requests(soon[0].pages)}", self._at_once)

    def _take_in_full(self, each: _List, why: str, at_once: float) -> None:
        """A full scan instead of what was planned. at_once: requests that this run may spend."""
        each.plans = (self._full_scan(each, why, at_once),)

    def _full_scan(self, each: _List, why: str, at_once: float) -> ScanPlan:
        if each.begun_ms is not None:
            why = f"resumes the full scan begun at {_utc(each.begun_ms)}: {why}"
        self._left -= min(each.pages, at_once)
        max_pages, is_big = max(1, int(at_once)), each in self._big
        if each.pages > at_once:
            runs = f"spread over {ceil(each.pages / max_pages)} runs"
            why += ", a part of them now" if self._is_paced(each) else f", {runs}"
        elif not is_big or each.facts.parts_lost:
            return ScanPlan(each.name, ScanKind.FULL, why, in_parts=is_big)
        return ScanPlan(each.name, ScanKind.FULL, why, max_pages=max_pages, in_parts=is_big)

    # --- lists too big for a daily full scan ------------------------------------------------------

    def _plan_big_lists(self) -> None:
        """Narrow scans; those that can't be read in parts, as a whole every few days."""
        for each in self._big:
            days = each.all_pages / self._daily
            is_due = not _is_recent(each.last_full_ms, days * _DAY_S, self._now_ms)
            if each.facts.parts_lost and is_due:
                why = f"a full scan costs {_requests(each.pages)}: one every {days:.0f} days, and "
                why += "all at once, since page tokens don't last until the next run"
                self._take_in_full(each, why, each.pages)
            else:
                self._take_narrow_scan(each)

    def _waiting(self) -> list[_List]:
        """Lists that are read in parts after their narrow scans; begun ones first."""
        waiting = [each for each in self._big if each.is_narrow and not each.facts.parts_lost]
        return sorted(waiting, key=lambda each: each.begun_ms is None)

    def _kept(self) -> float:
        """What is kept for a part of a big list, if there is one: half of the share."""
        return self._share / 2 if self._waiting() else 0

    def _take_a_part(self) -> None:
        """What is left goes to one big list at a time, so that its scan is over the sooner."""
        for each in self._waiting()[:1]:
            pages, narrow = max(self._left, self._kept()), each.plans[0]
            runs = ceil(each.all_pages / pages)
            reason = f"{narrow.reason}; a part now, and all of it in about {runs} runs"
            part = self._full_scan(each, f"a part: {_requests(each.pages)} left", pages)
            each.plans = (replace(narrow, reason=reason), part)

    # --- narrow scans -----------------------------------------------------------------------------

    def _narrow_scan(self, name: str, facts: ResourceFacts) -> ScanPlan | None:
        """The cheap scan that finds most changes; None if the list has no order or filter."""
        pull, pages = self._pull, facts.pages or 0
        last = f"the last, at {_utc(facts.last_full_ms)}, cost {_requests(pages)}"
        rest = f"the rest waits for a full scan: {last}"
        is_big = pages > self._daily
        if is_big:
            rest = f"the rest is read in parts, since it is too big for a daily full scan: {last}"
        at_once = 1 if is_big else self._at_once
        narrow = ScanPlan(
            name, ScanKind.HEAD, "", look_max=pages, in_parts=is_big,
            full_max_pages=at_once if pages > at_once else None,
        )  # fmt: skip
        if name in _FILTERED_LISTS:
            if _is_recent(facts.filter_refused_ms, pull.full_every_s, self._now_ms):
                return None
            kind, what, params = self._filter(name)
            return replace(narrow, kind=kind, reason=f"{what}; {rest}", params=params)
        events = self._events if name == "prospects" else None
        if events is not None and events.why_not is None:
            reason = f"events name {events.waiting:,} people who are looked up; {rest}"
            return replace(narrow, kind=ScanKind.EVENTS, reason=reason, look_max=0)
        if events is not None:
            rest = f"{rest}; events don't stand for it: {events.why_not}"
        order = "createdAt" if name == "notes" else facts.order
        watermark_ms = facts.newest_ms.get(order) if order else None
        if order is None or watermark_ms is None:
            return None
        until_ms = watermark_ms - int(pull.lookback_s * 1000)
        reason = f"newest first by {order} down to {_utc(until_ms)}; {rest}"
        return replace(narrow, reason=reason, since_ms=until_ms, order=order, look_max=0)

    def _filter(self, name: str) -> tuple[ScanKind, str, dict[str, str]]:
        if name == "tasks":
            return ScanKind.OPEN, "tasks not completed", {"incompleteOnly": "true"}
        first_ms = self._now_ms - int(self._pull.meetings_past_s * 1000)
        last_ms = self._now_ms + int(self._pull.meetings_ahead_s * 1000)
        params = {"meetingDateAfter": str(first_ms), "meetingDateBefore": str(last_ms)}
        return ScanKind.WINDOW, f"meetings from {_utc(first_ms)} to {_utc(last_ms)}", params


def _is_recent(at_ms: int | None, within_s: float, now_ms: int) -> bool:
    """Whether it was less than `within_s` ago. A time in the future, from a wrong clock, isn't."""
    return at_ms is not None and 0 <= now_ms - at_ms < within_s * 1000


def _look_back(name: str, facts: ResourceFacts, since_ms: int) -> ScanPlan:
    reason = f"asked for with --since {_utc(since_ms)}"
    order = "createdAt" if name == "notes" else facts.order
    if name in ("notes", "prospects") and order:
        return ScanPlan(name, ScanKind.HEAD, reason, since_ms=since_ms, order=order, backfill=True)
    if name == "meetings":
        params = {"meetingDateAfter": str(since_ms)}
        return ScanPlan(name, ScanKind.WINDOW, reason, params=params, backfill=True)
    reason += "; this list can't be narrowed by time, so all of it"
    return ScanPlan(name, ScanKind.FULL, reason, backfill=True)


def _requests(pages: int) -> str:
    return f"{pages:,} request{'s' * (pages != 1)}"


def _utc(ms: int | None) -> str:
    if ms is None:
        return "never"
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%SZ}"
