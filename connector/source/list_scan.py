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
from connector.settings import PullSettings, RateLimit
from connector.source.row_maker import RowMaker, malformed_rows
from connector.source.scans import (
    Checkpoint,
    Doubt,
    ResourceFacts,
    ScanKind,
    ScannedPage,
    ScanOutcome,
    ScanPlan,
    plan,
)

RESUME_WITHIN_MS = 2 * 86_400_000  # an older checkpoint is likelier to mislead than to help
Row = dict[str, Any]
_log = get_logger("pull")


@dataclass
class ListScan:
    """One list in this run. facts: of finished scans. checkpoint: of the current scan.

    left: an unfinished scan that a backfill (`since`) leaves to later runs. is_full_wanted:
    requested by the user. alive: rows that a filtered list lacked but that exist. looked_ms: when
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
    def reason(self) -> str:
        return (
            f"resumes where a run stopped: {self.plan.reason}"
            if self.resumed
            else (self.plan.reason)
        )

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
            "reason": self.reason,
            "complete": self.complete,
            **({} if why is None else {"why_incomplete": why}),
            **self.counts,
        }

    # --- from pages to rows ---------------------------------------------------------------------

    def rows(self, pages: Sequence[ScannedPage], maker: RowMaker) -> tuple[list[Row], list[Row]]:
        """The rows of some pages, and those of malformed records; moves the checkpoint past them.

        The scan may have widened its plan meanwhile.
        """
        records = [record for page in pages for record in page.records]
        malformed = [item for page in pages for item in page.malformed]
        self.counts["rows_read"] += len(records)
        self.checkpoint = replace(pages[-1].checkpoint, ids=self.checkpoint.ids)
        return maker.rows(records), malformed_rows(self.resource, malformed)

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
        facts = self.facts.after(self.plan, outcome, started_ms=self.checkpoint.started_ms)
        left = replace(self.checkpoint, outcome=None) if outcome.unfinished else self.left
        return self._state(facts, left)

    def looked(self, left: Checkpoint | None) -> dict[str, Any]:
        """The state once absent rows were looked up. left: an unfinished scan that it keeps."""
        return self._state(self.facts, left)

    def _state(self, facts: ResourceFacts, left: Checkpoint | None) -> dict[str, Any]:
        undecided = facts.undecided if self.undecided is None else self.undecided
        facts = replace(facts, looked_ms=self.looked_ms or facts.looked_ms, undecided=undecided)
        return {"facts": facts.to_json(), "scan": left.to_json() if left else None}


def begin(
    resource: str,
    state: Mapping[str, Any],
    *,
    pull: PullSettings,
    limits: Sequence[RateLimit],
    now_ms: int,
    full: bool = False,
    since_ms: int | None = None,
    keeps_ids: bool = False,
    has_ids: Callable[[Checkpoint], bool] = lambda _: True,
) -> ListScan:
    """The scan of one list in this run: an earlier run's unfinished one if it can be resumed.

    state: the resource's part of dlt's. full, since_ms: as requested. keeps_ids: ids of rows that a
    full scan found are kept outside the state; has_ids: whether all of them still exist.
    """
    facts, left = read_state(resource, state)
    fresh = plan(
        resource,
        facts,
        pull=pull,
        hourly_limit=max(limits, key=lambda limit: limit.length_s).limit,
        now_ms=now_ms,
        full=full,
        since_ms=since_ms,
    )
    is_known = left is not None and (
        left.ids is not None and has_ids(left) if keeps_ids else left.ids is None
    )
    if left is not None and _can_resume(left, fresh, now_ms, is_known):
        checkpoint = replace(left, plan=replace(left.plan, max_pages=fresh.max_pages))
        scan = ListScan(resource, facts, checkpoint, resumed=True)
    else:
        is_part = fresh.backfill and fresh.kind is not ScanKind.FULL
        if left is not None and left.plan.backfill:
            left = None  # another look back's, which only that one would resume
        checkpoint = Checkpoint(fresh, now_ms, ids=0 if keeps_ids else None)
        scan = ListScan(resource, facts, checkpoint, left=left if is_part else None)
    scan.is_full_wanted = full
    _log.info("pull.scan", resource=resource, scan=str(scan.plan.kind), reason=scan.reason)
    return scan


def _can_resume(left: Checkpoint, fresh: ScanPlan, now_ms: int, is_known: bool) -> bool:
    """is_known: it is still known which rows a full scan has found.

    A backfill resumes only where the same backfill stopped.
    """
    if now_ms - left.started_ms > RESUME_WITHIN_MS or _backfill_of(left.plan) != _backfill_of(
        fresh
    ):
        return False
    return is_known if left.plan.kind is ScanKind.FULL else left.plan.kind is fresh.kind


def _backfill_of(made: ScanPlan) -> Any:
    """The identity of a backfill's plan; None if the plan isn't a backfill."""
    return (made.kind, made.since_ms, made.order, dict(made.params)) if made.backfill else None


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
