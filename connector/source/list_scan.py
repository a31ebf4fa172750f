"""One list in one run: its scan, the rows of that, and its state.

A resource's part of dlt's state is `{"facts": …, "scan": …}`: the results of finished scans, and
the checkpoint of an unfinished one. `hiringcenter pull` and other pipelines read and write it by
the same rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from connector.logs import get_logger
from connector.source.row_maker import RowMaker, UniqueRecords, malformed_rows
from connector.source.scan_planner import ListState
from connector.source.scans import (
    Checkpoint,
    Doubt,
    ResourceFacts,
    ScanKind,
    ScannedPage,
    ScanOutcome,
    ScanPlan,
)

RESUME_WITHIN_MS = 2 * 86_400_000  # an older checkpoint is likelier to mislead than to help
RESUME_PARTS_WITHIN_MS = 60 * 86_400_000  # of lists that take days to read
Row = dict[str, Any]
_log = get_logger("pull")


@dataclass
class ListScan:
    """One list in this run. facts: of finished scans. checkpoint: of the current scan.

    left: an unfinished full scan that a narrow one leaves as it is. is_full_wanted: requested by
    the user. alive: rows that a filtered list lacked but that exist. looked_ms: when
    unlisted rows were last looked up. undecided: rows that left the list, and that the API neither
    returns nor answers with 404. warnings: message → how often.
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
        """Pages that this run will request if it is like the last scan of this kind; None if there
        was none."""
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
        then the run's error tells why."""
        if self.complete is not False or (self.outcome is None and not self.counts["rows_read"]):
            return None
        if self.outcome is None:
            return "the scan has not come to its end; the next pull resumes it"
        return self.outcome.why

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
        """The resource's part of dlt's state while its scan runs."""
        return {"facts": self.facts.to_json(), "scan": (self.left or self.checkpoint).to_json()}

    def booked(self) -> dict[str, Any]:
        """The resource's part of dlt's state once the outcome's consequences are applied."""
        outcome = self.outcome
        assert outcome is not None
        found = self.counts["rows_written"] + self.counts["rows_deleted"]
        facts = self.facts.after(
            self.plan, outcome, started_ms=self.checkpoint.started_ms, found=found
        )
        unfinished = replace(self.checkpoint, outcome=None) if outcome.unfinished else None
        return self._state(facts, self.left or unfinished)

    def looked(self, left: Checkpoint | None) -> dict[str, Any]:
        """The state once absent rows were looked up. left: an unfinished scan that it keeps."""
        return self._state(self.facts, left)

    def _state(self, facts: ResourceFacts, left: Checkpoint | None) -> dict[str, Any]:
        undecided = facts.undecided if self.undecided is None else self.undecided
        facts = replace(facts, looked_ms=self.looked_ms or facts.looked_ms, undecided=undecided)
        return {"facts": facts.to_json(), "scan": left.to_json() if left else None}


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
    """The scan that `plan` asks for: an earlier run's unfinished one if it is of the same kind.

    full, keeps_ids: as in `plan_scans` and `list_state`.
    """
    left = known.left
    if (
        left is not None
        and left.plan.kind is plan.kind
        and _look_back(left.plan) == _look_back(plan)
    ):
        reason = plan.reason
        if not reason.startswith("resumes"):
            reason = f"resumes where a run stopped: {reason}"
        resumed = replace(
            left.plan, reason=reason, max_pages=plan.max_pages, in_parts=plan.in_parts
        )
        checkpoint = replace(left, plan=resumed)
        scan = ListScan(plan.resource, known.facts, checkpoint, resumed=True)
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
    """What tells one look back from another; None if the plan isn't one."""
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
