"""The pages of one list in order, tolerant of servers' deviations, and what was seen on them."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import gt
from typing import Any, NoReturn, Self

import pyarrow as pa

from connector.api.client import ApiClient
from connector.api.envelopes import ENDPOINTS, Page
from connector.budget import Lane
from connector.errors import EndlessList, Refused
from connector.logs import get_logger
from connector.source.fields import LAST_MS, record_id

# --- what was seen --------------------------------------------------------------------------------

WATERMARK_FIELDS = ("createdAt", "updatedAt")


class IdCount:
    """Counts different ids in 8 bytes each; a million rows must not cost a million strings.

    earlier: ids that a scan counted before it was cut, taken as different from all later ones.
    """

    def __init__(self, earlier: int = 0) -> None:
        self._earlier = earlier
        self._hashes = array("q")
        self._counted, self._counted_at = 0, 0  # different ones, when there were so many

    def add(self, ids: Iterable[str]) -> None:
        self._hashes.extend(map(hash, ids))

    def __len__(self) -> int:
        """How many were added, repetitions included."""
        return len(self._hashes)

    def distinct(self) -> int:
        """How many different ones there are. Counting takes a tenth of a microsecond each."""
        if self._counted_at != len(self):
            self._counted, self._counted_at = _distinct(self._values()), len(self)
        return self._earlier + self._counted

    def has_new(self, since: int) -> bool:
        """Whether one of those that were added when there were `since` is none of the first."""
        values = self._values()
        before = values[:since]
        if since < len(values) and before.index(values[-1]).as_py() < 0:
            return True  # nearly always, at a tenth of the cost of counting
        return _distinct(values) > _distinct(before)

    def _values(self) -> pa.Array:
        """A copy: while an array of Arrow's held the hashes themselves, none could be added."""
        copied = pa.py_buffer(self._hashes.tobytes())
        return pa.Array.from_buffers(pa.int64(), len(self._hashes), [None, copied])

    def repeated(self) -> int:
        """How many of those that were added had been added before."""
        return self._earlier + len(self) - self.distinct()


def _distinct(values: pa.Array) -> int:
    """By sorting: Arrow's own count takes twice the time, and 200 bytes for each of them."""
    if len(values) < 2:
        return len(values)
    import pyarrow.compute as pc  # not where lists are empty

    ordered = values.sort()
    return len(values) - int(pc.sum(pc.equal(ordered[1:], ordered[:-1])).as_py())


COUNT_MAX = 2**31 - 1  # the largest number of many servers, which stands for "not counted"


class Sightings:
    """What one scan has seen of its list.

    pages, rows: requests for pages and items read, repetitions included. malformed: items without
    an id. restarts: how often the list was restarted. total_count: `totalCount`, as it was reported
    last. grown: how many rows were added during the scan, at least. newest_ms: the newest
    `createdAt` and `updatedAt`, never later than `until_ms`: a watermark must not step over rows
    that come later. first_ms, last_ms: field → time of the first row that had one, and of the last
    so far. ids_in_order: of the list's pages since it was last begun, as they came.
    """

    def __init__(self, until_ms: int) -> None:
        self._until_ms = until_ms
        self.pages = self.rows = self.malformed = self.restarts = self.grown = 0
        self.total_count: int | None = None
        self.newest_ms: dict[str, int] = {}
        self.ids_in_order, self._ids = IdCount(), IdCount()
        self.first_ms: dict[str, int] = {}
        self.last_ms: dict[str, int] = {}
        self._unordered: set[str] = set()
        self._malformed_hashes: set[int] = set()
        self._page_ids: set[str] = set()

    def see(
        self, records: list[dict[str, Any]], malformed: list[Any], *, in_order: bool
    ) -> list[str]:
        """Take note of one page; the ids on it. in_order: it is the next page of the list."""
        self.pages += 1
        self.rows += len(records) + len(malformed)
        if malformed:
            self._count_malformed(malformed, in_order=in_order)
        ids = [str(record["id"]) for record in records]
        self._ids.add(ids)
        # rows that came meanwhile moved down what the page before had, too
        before, self._page_ids = self._page_ids, set(ids)
        if not before.isdisjoint(ids):
            both = zip(records, ids, strict=True)
            records = [record for record, known in both if known not in before]
        self._see_times(records, in_order=in_order)
        return ids

    def _count_malformed(self, malformed: list[Any], *, in_order: bool) -> None:
        """All of the list's own pages; of pages read again, those that weren't seen before."""
        hashes = [hash(json.dumps(item, sort_keys=True)) for item in malformed]
        self.malformed += len(malformed) if in_order else len(set(hashes) - self._malformed_hashes)
        self._malformed_hashes.update(hashes)

    def _see_times(self, records: list[dict[str, Any]], *, in_order: bool) -> None:
        """Pinned notes say nothing about the order: servers show them before all others."""
        unpinned = [record for record in records if record.get("pin") is not True]
        for field in WATERMARK_FIELDS:
            times = _times(records, field)
            if times:
                newest_ms = min(max(times), self._until_ms)
                self.newest_ms[field] = max(newest_ms, self.newest_ms.get(field, newest_ms))
            if len(unpinned) < len(records):
                times = _times(unpinned, field)
            if in_order and times:
                before = self.last_ms.get(field, times[0])
                if any(map(gt, times, [before, *times])):
                    self._unordered.add(field)
                self.first_ms.setdefault(field, times[0])
                self.last_ms[field] = times[-1]

    def restart(self) -> None:
        """The list is read from its beginning again; ids that were seen stay seen."""
        self.restarts += 1
        self.pages = self.rows = self.malformed = 0
        self.last_ms = {}

    # --- order ----------------------------------------------------------------------------------

    def is_newest_first(self, field: str) -> bool:
        """Whether nothing seen contradicts that rows come newest `field` first."""
        return field not in self._unordered

    @property
    def order(self) -> str | None:
        """The field by which rows came newest first; None if neither, or too few to decide."""
        for field in WATERMARK_FIELDS:
            has_range = self.first_ms.get(field) != self.last_ms.get(field)
            if has_range and self.is_newest_first(field):
                return field
        return None

    # --- counts ---------------------------------------------------------------------------------

    def note_total(self, total_count: int | None) -> int:
        """Record a page's `totalCount`; returns how many rows were deleted since the last page."""
        if total_count is None:
            return 0
        total_count = min(total_count, COUNT_MAX)  # states hold 64 bits
        change = 0 if self.total_count is None else total_count - self.total_count
        self.total_count = total_count
        self.grown += max(0, change)
        return max(0, -change)

    @property
    def is_placeholder(self) -> bool:
        """Whether the number sent as the count can't be one."""
        return self.total_count is not None and self.total_count >= COUNT_MAX

    def listed(self) -> int:
        """How many rows of the list were seen: different ids, and items without one."""
        return self._ids.distinct() + self.malformed

    def missing(self) -> int:
        """How many rows the server counts that were there all the time and weren't listed; 0 if it
        doesn't count.

        A row that it lists twice it counts twice; rows that came meanwhile also make others
        appear twice, and are in the count already.
        """
        if self.total_count is None or self.is_placeholder:
            return 0
        twice = max(0, self.ids_in_order.repeated() - self.grown)
        return max(0, self.total_count - self.listed() - twice - self.grown)

    def is_miscounted(self) -> bool:
        """Whether the server's count can't be right: none at all, or below what it lists."""
        return self.is_placeholder or self.listed() > (self.total_count or 0)

    # --- state ----------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        return {
            "pages": self.pages,
            "rows": self.rows,
            "malformed": self.malformed,
            "restarts": self.restarts,
            "last_total": self.total_count,
            "grown": self.grown,
            "times": {
                "newest": dict(self.newest_ms),
                "first": dict(self.first_ms),
                "last": dict(self.last_ms),
                "unordered": sorted(self._unordered),
            },
        }

    @classmethod
    def from_json(cls, until_ms: int, facts: Mapping[str, Any]) -> Self:
        """What a cut scan had seen. Its rows are taken as different from all that follow."""
        seen = cls(until_ms)
        if facts:
            seen.pages, seen.rows, seen.restarts = facts["pages"], facts["rows"], facts["restarts"]
            seen.malformed = facts["malformed"] if "malformed" in facts else facts["odd"]
            seen.total_count, seen.grown = facts["last_total"], facts["grown"]
            times = facts["times"]
            seen.newest_ms = dict(times["newest"])
            seen.first_ms, seen.last_ms = dict(times["first"]), dict(times["last"])
            seen._unordered = set(times["unordered"])
            seen._ids = IdCount(seen.rows - seen.malformed)
        return seen


def _times(records: Iterable[Mapping[str, Any]], field: str) -> list[int]:
    """What is beyond the calendar isn't a time, and may not fit a state."""
    values = [record.get(field) for record in records]
    return [ms for ms in values if type(ms) is int and abs(ms) <= LAST_MS]


# --- pages ----------------------------------------------------------------------------------------

LIMITS = (1000, 500, 200, 100, 50, 25)  # tried in this order if a server refuses a bigger one
LIMIT_MAX = 100_000  # rows of one answer
EMPTY_PAGES_MAX = 50  # in a row, each naming a next one
BARREN_PAGES_MAX = 10  # in a row, whose rows were all listed before
_TOKENS = ("pageToken", "startAfter")
BAD_REQUEST = (400, 422)
_TOKEN_REFUSED = (400, 404, 410, 422)

Params = Mapping[str, str]
log = get_logger("source")


class PageTokenLost(Exception):
    """The server no longer knows the page token: the list has to be read from its beginning."""


@dataclass(frozen=True)
class Step:
    """One page. asked: the parameters of its request. limit: rows requested.

    next_params: parameters to add for the next page; None if this is the last. is_full: it has as
    many rows as a page of this list can have, so more may follow whatever the server says (more
    rows than requested come from a server that ignores the limit).
    """

    page: Page
    asked: dict[str, str]
    limit: int
    next_params: dict[str, str] | None
    is_full: bool

    @property
    def page_token(self) -> dict[str, str] | None:
        """Where the page is; None at the beginning of the list."""
        named = {name: self.asked[name] for name in _TOKENS if name in self.asked}
        return named or None


class ListPages:
    """Iterate it once. params: filters. page_size: rows to request; reduced if refused.

    next_params: where to begin, from an earlier `Step`; None: at the beginning. keeps_size: the
    size was accepted before, so after a refusal nothing smaller is tried. asks_twice: a refused
    page token is tried once more before it counts as lost. ids_in_order: of the pages so far,
    except those by `startAfter`. lane: which share of the budget it may use.

    Raises (while iterating; every page with rows was yielded)
        PageTokenLost: the server refused the page token.
        EndlessList: pages bring nothing new, or stay empty, endlessly.
        ApiError: what ApiClient.page raises.
    """

    def __init__(
        self,
        client: ApiClient,
        resource: str,
        params: Params,
        *,
        page_size: int,
        next_params: Params | None = None,
        asks_twice: bool = False,
        keeps_size: bool = False,
        lane: Lane = Lane.PULL,
    ) -> None:
        self._lane = lane
        self._keeps_size = keeps_size
        self._client, self._resource, self._params = client, resource, dict(params)
        self._asks_twice = asks_twice
        self.page_size = page_size
        self.ids_in_order, self._malformed = IdCount(), IdCount()
        self._next: dict[str, str] | None = dict(next_params) if next_params else None
        self._pages = self._empty_pages = self._longest = 0
        self._recent: set[str] = set()
        self._counted_ids = self._counted_malformed = self._counted_at = 0
        self._times = _TimePages(resource)

    @property
    def skipped(self) -> int:
        """How many milliseconds may have more rows than were listed."""
        return self._times.skipped

    def __iter__(self) -> Iterator[Step]:
        """Each page once. Neither a short page nor an empty one ends the list."""
        while True:
            step = self._step()
            yield step
            if step.next_params is None:
                return
            self._next = step.next_params

    # --- asking -------------------------------------------------------------------------------

    def _step(self) -> Step:
        token = self._next or {}
        page = self._page_at(token) if token else self._first()
        limit = self._limit  # as it was accepted
        asked = {**self._params, **token, "limit": str(limit)}
        rows = len(page.items)
        is_full = rows == limit or 0 < self._longest <= rows
        step = Step(page, asked, limit, None, is_full)
        step = replace(step, next_params=self._after(step, token))
        self._longest = max(self._longest, rows)
        return step

    @property
    def _limit(self) -> int:
        return self._times.limit or self.page_size

    def _page_at(self, token: Params, *, again: bool = False) -> Page:
        try:
            return self._page(token)
        except Refused as refused:
            if refused.status in _TOKEN_REFUSED and self._times.limit is not None:
                self._times.refuse()  # the limit, probably: the usual one has worked
                return self._page_at(token)
            if refused.status not in _TOKEN_REFUSED:
                raise
            if self._asks_twice and not again:
                return self._page_at(token, again=True)
            raise PageTokenLost from refused

    def _first(self) -> Page:
        """The first page, for a smaller limit where the server refuses this one."""
        try:
            return self._page({})
        except Refused as refused:
            smaller = [size for size in LIMITS if size < self.page_size]
            if refused.status not in BAD_REQUEST or self._keeps_size or not smaller:
                raise
            log.info("source.limit_refused", resource=self._resource, limit=self.page_size)
            self.page_size = smaller[0]
            return self._first()

    def _page(self, token: Params) -> Page:
        params = {**self._params, "limit": str(self._limit), **token}
        return self._client.page(self._resource, params, lane=self._lane)

    # --- what follows -------------------------------------------------------------------------

    def _after(self, step: Step, token: Params) -> dict[str, str] | None:
        """The parameters to add for the next page; None at the end."""
        following, items = overlapping(self._resource, step.page), step.page.items
        ids = [record_id(item) for item in items]
        known = [each for each in ids if each is not None]
        if "startAfter" not in token:
            self.ids_in_order.add(known)
        if following is None:
            return None
        if not items:
            self._empty_pages += 1
            if self._empty_pages >= EMPTY_PAGES_MAX:
                self._fail(f"{self._empty_pages} pages were empty")
            return following
        self._empty_pages = 0
        both = zip(items, ids, strict=True)
        malformed = [f"#{json.dumps(one, sort_keys=True)}" for one, id in both if id is None]
        has_new = self._note_new({*known, *malformed})
        if _time(step.page) is not None:
            return self._times.after(step, token, following, has_new=has_new)
        if not has_new and following == token:
            if "startAfter" in token and not step.is_full:
                return None
            self._fail("the server names the page that was just read as the next one")
        self._note_progress(malformed)
        return following

    def _note_new(self, keys: set[str]) -> bool:
        """Whether a page has items that the pages just before it didn't have."""
        has_new = not keys <= self._recent
        self._recent = keys if has_new else self._recent | keys
        return has_new

    def _note_progress(self, malformed: list[str]) -> None:
        """Stop if page after page brings rows that were listed before.

        Looking through all ids takes longer the more there are, so it is repeated after a tenth
        more pages each time: a list of 1000 pages that starts over is stopped after 1100.
        """
        ids, of_malformed = self.ids_in_order, self._malformed
        of_malformed.add(malformed)
        self._pages += 1
        if self._pages < self._counted_at + max(BARREN_PAGES_MAX, self._counted_at // 10):
            return
        if not ids.has_new(self._counted_ids) and not of_malformed.has_new(self._counted_malformed):
            self._fail(
                f"{self._pages - self._counted_at} pages in a row brought nothing new after "
                f"{ids.distinct() + of_malformed.distinct()} rows"
            )
        self._counted_ids, self._counted_malformed = len(ids), len(of_malformed)
        self._counted_at = self._pages

    def _fail(self, reason: str) -> NoReturn:
        raise EndlessList(resource=self._resource, reason=reason)


class _TimePages:
    """Paging by `startAfter`, a millisecond that rows on both sides of a page's end may share.

    limit: rows to request instead of the usual number, if more share one; None: the usual.
    skipped: how many milliseconds may have more rows than were listed.
    """

    def __init__(self, resource: str) -> None:
        self._resource = resource
        self.limit: int | None = None
        self._may_widen = True
        self.skipped = 0
        self._passed = 0  # how often in a row it was moved without new rows
        self._is_cut = False  # what was passed, if rows follow: then the server gives no more

    def after(
        self, step: Step, token: Params, following: dict[str, str], *, has_new: bool
    ) -> dict[str, str] | None:
        """The parameters after a page that names its last row; even the last page may name it."""
        if has_new:
            self.skipped += self._is_cut
            self._is_cut, self._passed = False, 0
        if has_new and following != token:
            self.limit = None
            return following
        if not step.is_full:
            return None
        if len(step.page.items) >= step.limit and self._widen(step.limit * 2):
            return dict(token)
        return self._past(step)

    def refuse(self) -> None:
        """The server refused `limit`."""
        self.limit, self._may_widen = None, False

    def _widen(self, limit: int) -> bool:
        if not self._may_widen or limit > LIMIT_MAX:
            return False
        self.limit = limit
        return True

    def _past(self, step: Step) -> dict[str, str]:
        """After the millisecond, and after the next if a server lists that one again."""
        time_ms = _time(step.page) or 0
        if self._passed == 0 and len(step.page.items) >= step.limit:
            self.skipped += 1
        elif self._passed == 0:
            self._is_cut = True
        if self._passed > 1:
            reason = "what follows the last row is what was read before"
            raise EndlessList(resource=self._resource, reason=reason)
        target_ms = time_ms - self._passed * _earlier(self._resource, step.page)
        self._passed += 1
        self.limit = None
        return {**(step.page.next_params or {}), "startAfter": str(target_ms)}


def overlapping(resource: str, page: Page) -> dict[str, str] | None:
    """The parameters of the page after `page`.

    `startAfter` names a millisecond that other rows may share, on both sides of the boundary:
    it is shifted by one, so that those are read again instead of being missed.
    """
    time_ms = _time(page)
    if time_ms is None:
        return page.next_params
    return {**(page.next_params or {}), "startAfter": str(time_ms + _earlier(resource, page))}


def _time(page: Page) -> int | None:
    """The millisecond that the next page starts after; None where it isn't a time."""
    after = (page.next_params or {}).get("startAfter")
    is_time = after is not None and after.lstrip("-").isdecimal()
    return int(after) if after is not None and is_time else None


def _earlier(resource: str, page: Page) -> int:
    """One millisecond towards the beginning of the list."""
    return -1 if _is_ascending(resource, page.items) else 1


def _is_ascending(resource: str, items: list[Any]) -> bool:
    """As documented; where no order is, as the page itself is ordered by `createdAt`."""
    order = ENDPOINTS[resource].order
    if order is not None:
        return order == "ascending"
    times = _times([item for item in items if isinstance(item, dict)], "createdAt")
    return times == sorted(times) and times[:1] != times[-1:]
