"""Scans: plan, checkpoint and outcome; what a list's scans have taught; one list in one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from typing import Any, Self, cast

from pydantic import TypeAdapter

from connector.logs import get_logger
from connector.source.row_maker import MALFORMED_TABLE, RowMaker, UniqueRecords, malformed_rows

PARTS_LOST_AFTER = 2  # restarts of a scan in parts: page tokens don't last from pull to pull


class ScanKind(StrEnum):
    """full: every page, and the only one that finds deletions and all edits · head: newest first
    until `since_ms` · open, window: filtered lists, of tasks not completed and meetings around now
    · events: no page; events name who has changed, and these are looked up.
    """

    FULL = "full"
    HEAD = "head"
    OPEN = "open"
    WINDOW = "window"
    EVENTS = "events"


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
        """Raises: ValueError."""
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
    that a narrow one becomes if its list isn't newest first, or its filter is refused. in_parts:
    the list is too big for one run, so that `max_pages` holds even if a page token is lost.
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
    in_parts: bool = False


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
    plan's filter, and all of the list was read. restarts: how often the list was begun again, since
    a page token was refused.
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
    restarts: int = 0


@dataclass(frozen=True)
class Checkpoint(Stored):
    """How far a scan is: all rows up to here are loaded.

    started_ms: when the scan began; rows of later times don't move its watermark. resume: what
    `Scan` resumes with, None: at the beginning. ids: how many ids of rows read so far are kept
    outside of the state, to find which rows are missing; None: each row carries `started_ms`.
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
    size_bytes: of the answer they came in. asked_s: monotonic seconds before it was requested.
    asked_ms: UTC epoch ms at that moment; 0: unknown.
    """

    records: list[dict[str, Any]]
    malformed: list[Any]
    checkpoint: Checkpoint
    size_bytes: int
    asked_s: float = 0.0
    asked_ms: int = 0


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
    found_per_hour: rows that the last full scan found changed or deleted, by the time since the one
    before. parts_lost: page tokens don't last until the next pull. followed_ms: when rows last
    landed whom events had named.
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
    found_per_hour: float = 0.0
    parts_lost: bool = False
    followed_ms: int | None = None

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

    def after(
        self, plan: ScanPlan, outcome: ScanOutcome, *, started_ms: int, found: int = 0
    ) -> ResourceFacts:
        """The facts once a scan that began at `started_ms` has ended and its rows are loaded.

        found: rows that it found changed or deleted.
        """
        known: dict[str, Any] = {}
        if plan.in_parts and outcome.restarts >= PARTS_LOST_AFTER:
            known["parts_lost"] = True
        if outcome.filter_refused or plan.kind in FILTERED:
            known["filter_refused_ms"] = started_ms if outcome.filter_refused else None
        if outcome.unfinished:
            return replace(self, **known, full_begun_ms=self.full_begun_ms or started_ms)
        if not plan.backfill:
            newest = [*self.newest_ms.items(), *outcome.newest_ms.items()]
            known["newest_ms"] = {
                field: max(ms for name, ms in newest if name == field) for field, _ in newest
            }
            if plan.kind is not ScanKind.FULL:
                known["narrow_pages"] = {**self.narrow_pages, str(plan.kind): outcome.pages}
        if plan.kind is not ScanKind.FULL:
            return replace(self, **known)
        known["doubt"] = self._still(outcome.doubt)
        if outcome.doubt is not None and outcome.doubt.kind is DoubtKind.NO_LIST:
            return replace(self, **known)
        hours = (started_ms - (self.last_full_ms or started_ms)) / 3_600_000
        return replace(
            self,
            **known,
            last_full_ms=started_ms,
            last_complete_ms=started_ms if outcome.complete else self.last_complete_ms,
            rows=outcome.rows,
            pages=outcome.pages,
            page_size=outcome.page_size,
            order=outcome.order,
            full_begun_ms=None,
            found_per_hour=found / hours if hours > 0 else 0.0,
        )

    def _still(self, doubt: Doubt | None) -> Doubt | None:
        """The doubt to remember: the gap as it was reported, or it could grow in small steps."""
        if doubt is None or self.doubt is None or not doubt.is_known(self.doubt):
            return doubt
        return replace(doubt, gap=min(doubt.gap, self.doubt.gap))


# --- one list in one run --------------------------------------------------------------------------
#
# A resource's part of dlt's state is `{"facts": …, "scan": …}`: the results of finished scans, and
# the checkpoint of an unfinished one. `hiringcenter pull` and other pipelines read and write it by
# the same rules.

RESUME_WITHIN_MS = 2 * 86_400_000  # an older checkpoint is likelier to mislead than to help
RESUME_PARTS_WITHIN_MS = 60 * 86_400_000  # of lists that take days to read
Row = dict[str, Any]
_log = get_logger("pull")


@dataclass
class ListScan:
    """One list in this run. facts: of finished scans. checkpoint: of the current scan.

    left: an unfinished full scan that a narrow one leaves as it is. is_full_wanted: by the user.
    alive: rows that a filtered list lacked but that exist. looked_ms, undecided: as in
    `ResourceFacts`. warnings: message → how often.
    """

    resource: str
    facts: ResourceFacts
    checkpoint: Checkpoint
    resumed: bool = False
    left: Checkpoint | None = None
    is_full_wanted: bool = False
    alive: list[str] = field(default_factory=list)
    looked_ms: int | None = None
    undecided: tuple[str, ...] | None = None
    warnings: Counter[str] = field(default_factory=Counter)
    counts: dict[str, int] = field(
        default_factory=lambda: {"rows_read": 0, "rows_written": 0, "rows_deleted": 0}
    )

    @property
    def plan(self) -> ScanPlan:
        return self.checkpoint.plan

    @property
    def outcome(self) -> ScanOutcome | None:
        """How the list ended; None while it hasn't."""
        return self.checkpoint.outcome

    @property
    def expected_pages(self) -> int | None:
        """Pages that this run requests if it is like the last scan of its kind; None: unknown."""
        if self.outcome is not None:
            return 0
        usual = self.facts.pages_of(self.plan)
        if usual is None:
            return None
        left = max(1, usual - self.checkpoint.pages)
        return left if self.plan.max_pages is None else min(left, self.plan.max_pages)

    @property
    def finds_deletions(self) -> bool:
        return self.plan.kind is ScanKind.FULL

    @property
    def complete(self) -> bool | None:
        """Whether a full scan is proven complete; None if the scan isn't a full one."""
        if not self.finds_deletions:
            return None
        return self.outcome is not None and self.outcome.complete

    @property
    def why_incomplete(self) -> str | None:
        """Why a full scan isn't proven complete, for people; None if it is, or if no page was read:
        then the run's error says why."""
        if self.complete is not False:
            return None
        if self.outcome is not None:
            return self.outcome.why
        is_begun = self.counts["rows_read"] > 0
        return "the scan hasn't reached the end; the next pull resumes it" if is_begun else None

    @property
    def doubt(self) -> Doubt | None:
        return self.outcome.doubt if self.outcome else None

    @property
    def is_doubt_new(self) -> bool:
        """Whether the last full scan had no such doubt."""
        return self.doubt is not None and not self.doubt.is_known(self.facts.doubt)

    def summary(self) -> dict[str, Any]:
        """The resource's part of the run's summary."""
        why = self.why_incomplete
        return {
            "scan": str(self.plan.kind),
            "reason": self.plan.reason,
            "complete": self.complete,
            **({} if why is None else {"why_incomplete": why}),
            **self.counts,
        }

    # --- from pages to records ------------------------------------------------------------------

    def take(
        self, pages: Sequence[ScannedPage], maker: RowMaker
    ) -> tuple[UniqueRecords, list[Row]]:
        """The records of some pages, and rows of malformed ones; moves the checkpoint past them.

        The scan may have widened its plan meanwhile.
        """
        records = [record for page in pages for record in page.records]
        malformed = [item for page in pages for item in page.malformed]
        if malformed:
            what = f"record without a usable id kept in {MALFORMED_TABLE}"
            maker.warnings[what] += len(malformed)
        self.counts["rows_read"] += len(records)
        self.checkpoint = replace(pages[-1].checkpoint, ids=self.checkpoint.ids)
        return maker.unique(records), malformed_rows(self.resource, malformed)

    def keep_ids(self, count: int) -> None:
        """`count` ids were added to those kept outside the state."""
        self.checkpoint = replace(self.checkpoint, ids=(self.checkpoint.ids or 0) + count)

    def end(self, outcome: ScanOutcome) -> None:
        """Every page is loaded; the outcome's consequences are still to be applied."""
        self.checkpoint = replace(self.checkpoint, outcome=outcome)

    # --- state ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The resource's part of dlt's state while its scan runs; events leave it as it is."""
        scan = None if self.plan.kind is ScanKind.EVENTS else self.checkpoint
        left = self.left or scan
        return {"facts": self.facts.to_json(), "scan": left.to_json() if left else None}

    def booked(self) -> dict[str, Any]:
        """The resource's part of dlt's state once the outcome's consequences are applied."""
        outcome = self.outcome
        assert outcome is not None
        found = self.counts["rows_written"] + self.counts["rows_deleted"]
        facts = self.facts.after(
            self.plan, outcome, started_ms=self.checkpoint.started_ms, found=found
        )
        unfinished = replace(self.checkpoint, outcome=None) if outcome.unfinished else None
        return self.looked(facts, self.left or unfinished)

    def looked(self, facts: ResourceFacts, left: Checkpoint | None) -> dict[str, Any]:
        """The state once absent rows were looked up. left: an unfinished scan that it keeps."""
        undecided = facts.undecided if self.undecided is None else self.undecided
        facts = replace(facts, looked_ms=self.looked_ms or facts.looked_ms, undecided=undecided)
        return {"facts": facts.to_json(), "scan": left.to_json() if left else None}


@dataclass(frozen=True)
class ListState:
    """What earlier runs left of a list. left: its unfinished scan, if it can be resumed."""

    facts: ResourceFacts
    left: Checkpoint | None = None


def list_state(
    resource: str,
    state: Mapping[str, Any],
    *,
    now_ms: int,
    keeps_ids: bool = False,
    has_ids: Callable[[Checkpoint], bool] = lambda _: True,
) -> ListState:
    """What earlier runs left of a list, without a scan that can't be resumed.

    state: the resource's part of dlt's. keeps_ids: ids of rows that a full scan found are kept
    outside the state; has_ids: whether all of them still exist.
    """
    facts, left = read_state(resource, state)
    if left is None:
        return ListState(facts)
    within_ms = RESUME_PARTS_WITHIN_MS if left.plan.in_parts else RESUME_WITHIN_MS
    is_lost = now_ms - left.started_ms > within_ms or (left.plan.in_parts and facts.parts_lost)
    if left.plan.kind is ScanKind.FULL:  # is it still known which rows it has found?
        is_lost |= left.ids is None or not has_ids(left) if keeps_ids else left.ids is not None
    return ListState(facts, None if is_lost else left)


def begin(
    known: ListState, plan: ScanPlan, *, now_ms: int, full: bool = False, keeps_ids: bool = False
) -> ListScan:
    """The scan that `plan` asks for: an earlier run's unfinished one if it is of the same kind,
    except that `full` leaves those that were to be read in parts.

    full, keeps_ids: as in `plan_scans` and `list_state`.
    """
    left = known.left
    # who asks for all of a list wants it as it is now, not parts that earlier pulls have read
    is_outdated = full and left is not None and left.plan.max_pages is not None
    is_alike = left and left.plan.kind is plan.kind and _look_back(left.plan) == _look_back(plan)
    if left and is_alike and not is_outdated:
        reason = plan.reason
        if not reason.startswith("resumes"):
            reason = f"resumes where a run stopped: {reason}"
        again = replace(left.plan, reason=reason, max_pages=plan.max_pages, in_parts=plan.in_parts)
        scan = ListScan(plan.resource, known.facts, replace(left, plan=again), resumed=True)
    else:
        if left is not None and (
            plan.kind is ScanKind.FULL
            or left.plan.backfill  # which only the same look back resumes
            or not (plan.backfill or left.plan.kind is ScanKind.FULL)
        ):
            left = None
        checkpoint = Checkpoint(plan, now_ms, ids=0 if keeps_ids else None)
        scan = ListScan(plan.resource, known.facts, checkpoint, left=left)
    scan.is_full_wanted = full
    _log.info("pull.scan", resource=plan.resource, scan=str(plan.kind), reason=scan.plan.reason)
    return scan


def _look_back(plan: ScanPlan) -> Any:
    """What distinguishes one scan back to a date from another; None if the plan isn't one."""
    return (plan.since_ms, plan.order, dict(plan.params)) if plan.backfill else None


def read_state(resource: str, state: Mapping[str, Any]) -> tuple[ResourceFacts, Checkpoint | None]:
    """The facts of finished scans, and the checkpoint of an unfinished one.

    An unreadable state, of another version or from a damaged file, counts as none. Before version
    0.2 all of it was below `mark`.
    """
    state = state if "facts" in state else state.get("mark", {})
    try:
        facts = ResourceFacts.from_json(state["facts"]) if "facts" in state else ResourceFacts()
        return facts, Checkpoint.from_json(state["scan"]) if state.get("scan") else None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        _log.warning("pull.state_unreadable", resource=resource, error=type(error).__name__)
        return ResourceFacts(), None


def note(resource_state: MutableMapping[str, Any], scans: Mapping[str, Any]) -> None:
    """Replace the scans in a resource's part of dlt's state; other keys stay."""
    for name in ("mark", "facts", "scan"):
        resource_state.pop(name, None)
    resource_state.update(scans)
