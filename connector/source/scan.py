"""One pass over one list: resumable, tolerant of servers, strict about where the list ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from math import ceil

from connector.api.client import ApiClient
from connector.api.envelopes import Page
from connector.errors import EndlessList, ExpiringPages, Refused
from connector.logs import get_logger
from connector.source.completing import SLICED, Completion, Slices, may_be_cut
from connector.source.deletions import Found, LookUps
from connector.source.fields import split_malformed
from connector.source.list_pages import BAD_REQUEST, ListPages, PageTokenLost, Sightings, Step
from connector.source.scans import (
    FILTERED,
    Checkpoint,
    Doubt,
    DoubtKind,
    ScanKind,
    ScannedPage,
    ScanOutcome,
    ScanPlan,
    usual_page_size,
)

STALLS_MAX = 2  # restarts in a row that got no further
REREADS_MAX = 6  # requests, for one boundary between two pages
log = get_logger("source")


class Scan:
    """Iterate it once; `outcome` is set when the pages ended, and stays None after an error.

    checkpoint: what to read, and from where; a scan may widen its plan to a full one, which later
    checkpoints record. page_size: rows to request. known: the doubt of the last full scan, which
    isn't investigated again.
    newest_known_ms: the newest time of the plan's order among known rows: a list whose first row
    is older isn't newest first. expected_ids: rows that the filters of an open or window scan
    should match according to the destination; those it doesn't list are looked up one by one. A
    resumed scan leaves that to the next one, since it doesn't know which of them an earlier run
    listed.
    alive: afterwards, the expected ones that exist. warnings: failed look-ups.
    pages_read: pages that were yielded.

    Raises (while iterating; pages that were yielded are good)
        ExpiringPages: page tokens expire too fast.
        ApiError: what ApiClient raises.
    """

    def __init__(
        self,
        client: ApiClient,
        checkpoint: Checkpoint,
        *,
        page_size: int,
        known: Doubt | None = None,
        newest_known_ms: int | None = None,
        expected_ids: Iterable[str] = (),
    ) -> None:
        self.plan, self.started_ms = checkpoint.plan, checkpoint.started_ms
        self.outcome: ScanOutcome | None = None
        self.alive: list[str] = []
        self.warnings: Counter[str] = Counter()
        self.pages_read = 0
        resume = checkpoint.resume or {}
        self._client, self._known, self._newest_known_ms = client, known, newest_known_ms
        self._page_size = usual_page_size(resume.get("page_size"), page_size)
        self._next: dict[str, str] | None = resume.get("next")
        self._ended = bool(resume.get("ended"))
        self._end_is_sure = bool(resume.get("end_is_sure", True))
        self._is_settled = self._ended  # nothing is missing: below the watermark, or counted
        self._seen = Sightings.from_json(self.started_ms, resume.get("seen", {}))
        self._skipped = int(resume.get("skipped", 0))
        self._slices = Slices()
        self._expected = set() if "seen" in resume else set(expected_ids)
        self._deleted: list[str] = []
        self._last: Step | None = None
        self._endless: str | None = None
        self._cut: str | None = None  # why what follows the last page can't be asked for
        self._is_cut = self._helped = False
        self._stalls = 0  # restarts in a row that got no further
        self._counts_by_page = False  # `totalCount` differs from page to page, and means no list
        self._refused_size: int | None = resume.get("refused_size")  # refused by the server
        self._unfinished = False
        self._note_standing()

    def __iter__(self) -> Iterator[ScannedPage]:
        yield from self._through_the_list()
        if not self._unfinished and self.plan.kind in FILTERED:
            yield from self._absent_rows()
        self.outcome = self._outcome()
        self._note_standing()

    def _through_the_list(self) -> Iterator[ScannedPage]:
        try:
            yield from self._to_the_end()
        except EndlessList as error:
            log.warning("source.endless", resource=self.plan.resource, reason=error.reason)
            self._endless = error.reason
            return
        if not self._unfinished:
            yield from self._beyond_last_page()

    def progress(self, usual: Callable[[ScanPlan], int | None]) -> tuple[int, int | None]:
        """How many pages this run has read, and how many remain; None: unknown.

        A full scan goes by the server's count once a page had one, otherwise by `usual`: the pages
        of the last scan of a kind. Another thread may be reading: both numbers are consistent.
        """
        read, pages, rows, count, is_over = self._standing
        plan = self.plan
        if is_over:
            return read, 0
        if plan.kind is ScanKind.FULL and count is not None and rows:
            left = ceil(max(0, count - rows) * pages / rows)
        elif (expected := usual(plan)) is None:
            return read, None
        else:
            left = max(1, expected - pages)
        if plan.max_pages is not None:
            left = min(left, max(0, plan.max_pages - read))
        return read, left

    # --- one pass after the other ---------------------------------------------------------------

    def _to_the_end(self) -> Iterator[ScannedPage]:
        """To the end of the list; again from its beginning where a page token is refused."""
        furthest = 0
        while not self._ended and not self._unfinished:
            before = self._seen.pages
            try:
                yield from self._one_pass()
            except PageTokenLost:
                pages = self._seen.pages - before
                self._stalls = self._stalls + 1 if pages <= furthest else 0
                furthest = max(furthest, pages)
                self._restart()
            except Refused as refused:
                if self.plan.kind not in FILTERED or refused.status not in BAD_REQUEST:
                    raise
                self._without_filter(refused)

    def _without_filter(self, refused: Refused) -> None:
        """The server refuses the filter, so all of the list is read instead."""
        self._refused_size = self._page_size
        log.warning("source.filter_refused", resource=self.plan.resource, status=refused.status)
        self._widen(f"the server refuses its filter ({refused.status}), so all of it")

    def _widen(self, why: str) -> None:
        """All of the list is read instead."""
        plan = self.plan
        self.plan = replace(
            plan, kind=ScanKind.FULL, params={}, reason=f"{why}; {plan.reason}", since_ms=None,
            order=None, max_pages=plan.full_max_pages,
        )  # fmt: skip

    def _restart(self) -> None:
        self._seen.restart()
        if self._stalls > STALLS_MAX:
            raise ExpiringPages(resource=self.plan.resource, restarts=self._seen.restarts)
        log.warning("source.page_token_lost", resource=self.plan.resource, then="restart")
        self._next = None
        if not self.plan.in_parts:  # page tokens don't last until the next run
            self.plan = replace(self.plan, max_pages=None)

    def _one_pass(self) -> Iterator[ScannedPage]:
        listing = ListPages(
            self._client,
            self.plan.resource,
            self.plan.params,
            page_size=self._page_size,
            keeps_size=self.plan.kind in FILTERED,
            next_params=self._next,
            asks_twice=self._stalls > 0,
        )
        self._seen.ids_in_order = listing.ids_in_order
        skipped, before = self._skipped, None
        for pages, step in enumerate(listing, start=1):
            self._page_size, self._skipped = listing.page_size, skipped + listing.skipped
            fell = self._seen.note_total(step.page.total_count)
            if fell and before is not None and not self._counts_by_page:
                yield from self._reread(before, step)
            yield self._page(step)
            before = step
            if self._ended:
                return
            if self.plan.max_pages is not None and pages >= self.plan.max_pages:
                self._unfinished = True
                return

    def _reread(self, before: Step, step: Step) -> Iterator[ScannedPage]:
        """Two adjacent pages again, after rows were deleted and others moved up between them.

        If pages are offsets from the top, a deletion moves the first rows of the next page to the
        end of the one just read. Read both until they have the same `totalCount`, so that nothing
        moved in between. If each keeps repeating its own, that isn't a count of the list.
        """
        last, other = step, before
        total_count, grown = step.page.total_count, self._seen.grown
        repeated = 0
        for _ in range(REREADS_MAX):
            try:
                page = self._client.page(self.plan.resource, other.asked)
            except Refused:
                log.info("source.page_token_lost", resource=self.plan.resource, then="resume")
                return
            yield self._scanned(page)
            if page.total_count == total_count:
                return
            repeated = repeated + 1 if page.total_count == other.page.total_count else 0
            self._seen.note_total(page.total_count)
            total_count, last, other = page.total_count, other, last
            if repeated == REREADS_MAX:  # and whatever moved, moved back each time
                log.info("source.count_by_page", resource=self.plan.resource)
                self._counts_by_page, self._seen.grown = True, grown
                return

    def _page(self, step: Step) -> ScannedPage:
        is_first = self._last is None and self._next is None
        scanned = self._scanned(step.page, in_order=True)
        if is_first:
            self._look_at_order()
        self._last, self._next = step, step.next_params
        is_through = self._is_below_watermark()
        self._ended = self._next is None or is_through
        self._is_settled = is_through or (self._ended and not self._is_open())
        self._note_standing()
        self._cut = None if self._is_settled else step.page.cut
        self._end_is_sure = step.page.is_sure and self._cut is None
        return replace(scanned, checkpoint=self._checkpoint())

    def _look_at_order(self) -> None:
        """A list that began with the newest row would begin with one as new as those known."""
        plan, known_ms = self.plan, self._newest_known_ms
        if plan.kind is not ScanKind.HEAD or plan.order is None or known_ms is None:
            return
        first_ms = self._seen.first_ms.get(plan.order)
        if first_ms is None or first_ms < known_ms:
            self._widen("the first row isn't the newest that is known, so all of it")

    def _is_below_watermark(self) -> bool:
        """Whether a head scan is done: its list is in order, and its last row is older."""
        plan = self.plan
        if plan.kind is not ScanKind.HEAD or plan.order is None or plan.since_ms is None:
            return False
        last_ms = self._seen.last_ms.get(plan.order)
        ordered = self._seen.is_newest_first(plan.order)
        return ordered and last_ms is not None and last_ms < plan.since_ms

    def _is_open(self) -> bool:
        """Whether more of the list may be there than what was read when it ended."""
        if self.plan.kind not in FILTERED and self._seen.missing() > 0:
            return True
        return self._last is not None and may_be_cut(self._last, self._seen)

    def _beyond_last_page(self) -> Iterator[ScannedPage]:
        """Rows beyond the last page, unless the last scan tried that without success."""
        last = self._last
        if last is None or self._is_settled:
            return
        missing = 0 if self.plan.kind in FILTERED else self._seen.missing()
        self._is_cut = not missing
        if self._was_tried_in_vain(missing):
            return
        rest = Completion(
            self._client, self.plan.resource, self.plan.params,
            seen=self._seen, last=last, slices=self._slices, known_gap=self._known_gap,
        )  # fmt: skip
        for step in rest:
            yield self._scanned(step.page)
        self._is_cut = not rest.is_proven and not self._seen.missing()
        self._helped = rest.helped
        if rest.is_proven and self._cut is not None:
            self._cut, self._end_is_sure = None, True

    @property
    def _known_gap(self) -> int:
        """How many rows of its count the last scan couldn't find, whatever it asked for."""
        known = self._known
        return known.gap if known is not None and known.kind is DoubtKind.COUNT else 0

    def _was_tried_in_vain(self, missing: int) -> bool:
        known = self._known
        if known is None:
            return False
        if self._cut is not None:
            is_known = known.kind is DoubtKind.UNREACHABLE_PAGE and known.covers(missing)
            return is_known and not known.helped
        if missing:
            return known.kind is DoubtKind.COUNT and known.covers(missing)
        return known.kind is DoubtKind.FULL_PAGE and not known.helped

    # --- pages and checkpoints -----------------------------------------------------------------

    def _scanned(self, page: Page, *, in_order: bool = False) -> ScannedPage:
        self.pages_read += 1
        records, malformed = split_malformed(page.items)
        ids = self._seen.see(records, malformed, in_order=in_order)
        if self.plan.resource in SLICED:
            self._slices.learn(records)
        self._expected.difference_update(ids)
        if not in_order:
            self._note_standing()
        return ScannedPage(
            records, malformed, self._checkpoint(), page.size_bytes, page.asked_s, page.asked_ms
        )

    def _note_standing(self) -> None:
        count = None if self._seen.is_placeholder else self._seen.total_count
        is_over = self._ended or self.outcome is not None
        self._standing = (self.pages_read, self._seen.pages, self._seen.rows, count, is_over)

    def _checkpoint(self) -> Checkpoint:
        """Where to resume: after this page; at this page again if it may not be the last; at the
        beginning if rows are missing; nowhere if all is read."""
        following, ended = self._next, self._ended
        if ended and not self._is_settled:
            if self._last is None or self._seen.missing():
                return Checkpoint(self.plan, self.started_ms)
            following, ended = self._last.page_token, False
        resume = {
            "page_size": self._page_size,
            "next": following,
            "ended": ended,
            "end_is_sure": self._end_is_sure,
            "skipped": self._skipped,
            "refused_size": self._refused_size,
            "seen": self._seen.to_json(),
        }
        return Checkpoint(self.plan, self.started_ms, resume)

    # --- the end --------------------------------------------------------------------------------

    def _absent_rows(self) -> Iterator[ScannedPage]:
        """Rows that a filtered list should have had: each by its id, or all if that is cheaper."""
        if len(self._expected) > self.plan.look_max:
            self._widen(f"{len(self._expected)} rows left the {self.plan.kind} list")
            self._seen, self._last = Sightings(self.started_ms), None
            self._endless = self._cut = None
            self._ended, self._is_settled, self._next = False, False, None
            yield from self._through_the_list()
            return
        look_ups = LookUps(self._client, self.plan.resource)
        self._deleted, self.alive = look_ups.ids[Found.DELETED], look_ups.ids[Found.ALIVE]
        for record_id in sorted(self._expected):
            record = look_ups.look(record_id)
            if record is not None:
                yield self._scanned(Page([record], None, None))
        self.warnings.update(look_ups.warnings)

    def _outcome(self) -> ScanOutcome:
        seen = self._seen
        is_sure = self._end_is_sure or (seen.total_count is not None and not seen.missing())
        doubt = None if self._unfinished else self._doubt(is_sure)
        return ScanOutcome(
            complete=self.plan.kind is ScanKind.FULL and not self._unfinished and doubt is None,
            why=self._why(doubt),
            total_count=seen.total_count,
            pages=seen.pages,
            rows=seen.rows,
            newest_ms=dict(seen.newest_ms) if is_sure else {},
            order=seen.order,
            page_size=self._page_size,
            gone=tuple(self._deleted),
            unfinished=self._unfinished,
            doubt=doubt,
            # where all of the list is given in smaller pages alone, the page was what it refused
            filter_refused=self._refused_size == self._page_size,
            restarts=seen.restarts,
        )

    def _doubt(self, is_sure: bool) -> Doubt | None:
        """What keeps the end from being proven; of narrow scans, only an end not reached."""
        listed, total_count = self._seen.listed(), self._seen.total_count
        if self._endless is not None:
            why = f"the list doesn't end: {self._endless}"
            return Doubt(DoubtKind.ENDLESS, why, listed=listed)
        if self._cut is not None:
            why = f"there is more of the list than could be read: {self._cut}"
            return Doubt(
                DoubtKind.UNREACHABLE_PAGE, why, self._seen.missing(), listed, self._helped
            )
        if self.plan.kind is not ScanKind.FULL:
            return None
        if missing := self._seen.missing():
            why = f"totalCount is {total_count}, and {missing} of those rows aren't listed"
            return Doubt(DoubtKind.COUNT, why, missing, listed, self._helped)
        if self._is_cut:
            why = (
                f"the last page is full ({listed} rows so far), and the API names no next page and "
                "no totalCount that agrees: more rows may exist"
            )
            return Doubt(DoubtKind.FULL_PAGE, why, listed=listed, helped=self._helped)
        if self._seen.is_placeholder:
            why = f"totalCount is {total_count} or more, which can't be the number of rows"
            return Doubt(DoubtKind.COUNT, why, listed=listed)
        if self._skipped:
            why = (
                f"more rows than a page takes share a millisecond ({self._skipped} times): those "
                "beyond the page can't be asked for"
            )
            return Doubt(DoubtKind.SAME_TIME, why, listed=listed)
        if not is_sure:
            why = "the list ended in an answer without a list, which proves nothing"
            return Doubt(DoubtKind.NO_LIST, why, listed=listed)
        return None

    def _why(self, doubt: Doubt | None) -> str:
        if self._unfinished:
            return f"stopped after {self.plan.max_pages} pages, as planned; the next run resumes"
        if doubt is not None:
            return doubt.why
        if self.plan.kind is not ScanKind.FULL:
            return f"a {self.plan.kind} scan reads a part of the list"
        total = self._seen.total_count
        return "the list ended" if total is None else f"the list ended; totalCount says {total}"
