"""One pass over one list: resumable, tolerant of what the server does, honest about its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from connector.api.client import ApiClient
from connector.api.envelopes import Page
from connector.errors import ExpiringPages
from connector.logs import get_logger
from connector.source.boundaries import reread
from connector.source.completing import SLICED, is_uncounted_cut, the_rest
from connector.source.listing import Listing, PlaceLost, Step
from connector.source.records import split
from connector.source.scans import ScanKind, ScanOutcome, ScanPlan
from connector.source.sightings import Sightings

STALLS_MAX = 2  # restarts in a row that got no further
log = get_logger("source")


@dataclass(frozen=True)
class ScannedPage:
    """What one request brought.

    records: each with a usable id, in order; one id may come again on a later page. odd: items
    that are no record. place: JSON-able; where a scan goes on once this page is loaded.
    size_bytes: of the answer they came in.
    """

    resource: str
    records: list[dict[str, Any]]
    odd: list[Any]
    place: dict[str, Any]
    size_bytes: int


def plan_of(place: Mapping[str, Any]) -> ScanPlan:
    """The plan of the scan that stopped at `place`."""
    return ScanPlan.from_json(place["plan"])


class Scan:
    """Iterate it once; `outcome` is set when the pages ended, and stays None after an error.

    plan: what to read; a scan may widen it to a full one, which later places say too. page_size:
    rows to ask for. started_ms: when this scan began (the first time, if it is resumed);
    watermarks don't go beyond it. place: where an earlier run stopped, None: at the beginning.
    expected_ids: rows that the filters of an open or window scan should match as far as the
    destination knows; those it doesn't list are looked at one by one. A resumed scan leaves that
    to the next one, since it can't tell which of them an earlier run listed.

    Raises (while iterating; pages that were yielded are good)
        IncompleteList: the list can't be read to its end.
        EndlessList: it has none. ExpiringPages: page tokens expire too fast.
        ApiError: what ApiClient raises.
    """

    def __init__(
        self,
        client: ApiClient,
        plan: ScanPlan,
        *,
        page_size: int,
        started_ms: int,
        place: Mapping[str, Any] | None = None,
        expected_ids: Iterable[str] = (),
    ) -> None:
        self.plan = plan
        self.outcome: ScanOutcome | None = None
        place = place or {}
        self.started_ms = int(place.get("started_ms", started_ms))
        self._client = client
        self._page_size = int(place.get("page_size", page_size))
        self._next: dict[str, str] | None = place.get("next")
        self._ended = bool(place.get("ended"))
        self._end_is_sure = bool(place.get("end_is_sure", True))
        self._is_settled = self._ended  # nothing is missing: below the watermark, or counted
        self._seen = Sightings.from_json(self.started_ms, place.get("seen", {}))
        self._expected = set() if "seen" in place else set(expected_ids)
        self._gone: list[str] = []
        self._last: Step | None = None
        self._unfinished = False

    def __iter__(self) -> Iterator[ScannedPage]:
        yield from self._whole_walk()
        if not self._unfinished and self.plan.kind in (ScanKind.OPEN, ScanKind.WINDOW):
            yield from self._those_that_left()
        if not self._unfinished and self._last is not None and self._is_short():
            for step in the_rest(self._client, self.plan.resource, self._seen, self._last):
                yield self._scanned(step.page)
        self.outcome = self._outcome()

    # --- walking --------------------------------------------------------------------------------

    def _whole_walk(self) -> Iterator[ScannedPage]:
        """To the end of the list; from its beginning again where the server forgets the place."""
        stalls, furthest = 0, 0
        while not self._ended and not self._unfinished:
            before = self._seen.pages
            try:
                yield from self._walk()
            except PlaceLost:
                pages = self._seen.pages - before
                stalls = stalls + 1 if pages <= furthest else 0
                furthest = max(furthest, pages)
                self._begin_anew(stalls)

    def _begin_anew(self, stalls: int) -> None:
        self._seen.begin_anew()
        if stalls > STALLS_MAX:
            raise ExpiringPages(resource=self.plan.resource, restarts=self._seen.restarts)
        log.warning("source.page_token_lost", resource=self.plan.resource, goes="anew")
        self._next = None
        if self.plan.max_pages is not None:  # a place that the next run can't go on at is none
            self.plan = replace(self.plan, max_pages=None)

    def _walk(self) -> Iterator[ScannedPage]:
        listing = Listing(
            self._client,
            self.plan.resource,
            self.plan.params,
            page_size=self._page_size,
            next_params=self._next,
        )
        before: Step | None = None
        for pages, step in enumerate(listing, start=1):
            self._page_size = listing.page_size
            if self._seen.totals.say(step.page.total_count) and before is not None:
                yield from self._moved(before, step)
            yield self._page(step)
            before = step
            if self._ended:
                return
            if self.plan.max_pages is not None and pages >= self.plan.max_pages:
                self._unfinished = True
                return

    def _moved(self, before: Step, step: Step) -> Iterator[ScannedPage]:
        for page in reread(self._client, self.plan.resource, self._seen.totals, before, step):
            yield self._scanned(page)

    def _page(self, step: Step) -> ScannedPage:
        scanned = self._scanned(step.page, in_order=True)
        self._last, self._next = step, step.next_params
        is_through = self._is_below_watermark()
        self._ended = self._next is None or is_through
        self._end_is_sure = step.page.is_sure
        self._is_settled = is_through or (self._ended and not self._is_short())
        return replace(scanned, place=self._place())

    def _is_below_watermark(self) -> bool:
        """Whether a head scan is through: its list is in order, and its last row is older."""
        plan = self.plan
        if plan.kind is not ScanKind.HEAD or plan.order is None or plan.since_ms is None:
            return False
        last_ms = self._seen.times.last_ms(plan.order)
        ordered = self._seen.times.is_newest_first(plan.order)
        return ordered and last_ms is not None and last_ms < plan.since_ms

    def _is_short(self) -> bool:
        """Whether the server ended the list before all of it was there."""
        if self._is_settled or self.plan.kind in (ScanKind.OPEN, ScanKind.WINDOW):
            return False
        cut = self._last is not None and is_uncounted_cut(self.plan.resource, self._last)
        return cut or self._seen.missing() > 0

    # --- pages and places -----------------------------------------------------------------------

    def _scanned(self, page: Page, *, in_order: bool = False) -> ScannedPage:
        records, odd = split(page.items)
        ids = self._seen.see(records, odd, in_order=in_order)
        if self.plan.resource in SLICED:
            self._seen.slices.learn(records)
        self._expected.difference_update(ids)
        return ScannedPage(self.plan.resource, records, odd, self._place(), page.size_bytes)

    def _place(self) -> dict[str, Any]:
        """Where to go on: behind this page, nowhere since all is read, or at the beginning."""
        place = {"plan": self.plan.to_json(), "started_ms": self.started_ms}
        if self._ended and not self._is_settled:
            return place
        return place | {
            "page_size": self._page_size,
            "next": self._next,
            "ended": self._ended,
            "end_is_sure": self._end_is_sure,
            "seen": self._seen.to_json(),
        }

    # --- the end --------------------------------------------------------------------------------

    def _those_that_left(self) -> Iterator[ScannedPage]:
        """Rows that a filtered list should have had: each by its id, or all if that is cheaper."""
        if len(self._expected) > self.plan.look_max:
            left = f"{len(self._expected)} rows left the {self.plan.kind} list"
            reason = f"{left}; {self.plan.reason}"
            self.plan = replace(self.plan, kind=ScanKind.FULL, params={}, reason=reason)
            self._seen = Sightings(self.started_ms)
            self._ended, self._is_settled, self._next = False, False, None
            yield from self._whole_walk()
            return
        for record_id in sorted(self._expected):
            record = self._client.record(self.plan.resource, record_id)
            if record is None:
                self._gone.append(record_id)
            else:
                yield self._scanned(Page([record], None, None, "one"))

    def _outcome(self) -> ScanOutcome:
        seen = self._seen
        is_sure = self._end_is_sure or (seen.totals.last is not None and not seen.missing())
        complete = self.plan.kind is ScanKind.FULL and not self._unfinished and is_sure
        return ScanOutcome(
            complete=complete,
            why=self._why(complete, is_sure),
            total_count=seen.totals.last,
            pages=seen.pages,
            rows=seen.rows,
            newest_ms=dict(seen.times.newest) if is_sure else {},
            order=seen.times.order,
            page_size=self._page_size,
            gone=tuple(self._gone),
            unfinished=self._unfinished,
        )

    def _why(self, complete: bool, is_sure: bool) -> str:
        if self._unfinished:
            return f"stopped after {self.plan.max_pages} pages, as planned; the next run goes on"
        if not is_sure:
            return "the list ended in an answer without a list, which proves nothing"
        if not complete:
            return f"a {self.plan.kind} scan reads a part of the list"
        total = self._seen.totals.last
        return "the list ended" if total is None else f"the list ended; totalCount says {total}"
