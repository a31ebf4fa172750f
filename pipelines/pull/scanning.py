"""Which scan each resource gets in this run: a new one, or the one that an earlier run left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from connector.api.client import ApiClient
from connector.logs import get_logger
from connector.settings import PullSettings, RateLimit
from connector.source.fields import DELETED_COLUMN, UNLISTED_COLUMN
from connector.source.row_maker import column_name
from connector.source.scan import Scan, plan_of
from connector.source.scans import (
    Doubt,
    ResourceFacts,
    ScanKind,
    ScanOutcome,
    ScanPlan,
    plan,
    usual_page_size,
)
from pipelines.destination.destination import Destination

_log = get_logger("pull")
RESUME_WITHIN_MS = 2 * 86_400_000  # an older place is likelier to mislead than to help


@dataclass(frozen=True)
class Wanted:
    """What the caller asked for.

    since_ms: a bounded look back; UTC epoch ms. reset: forget watermarks and unfinished scans.
    take_over: publish over the copy of another installation.
    """

    resources: tuple[str, ...]
    full: bool = False
    since_ms: int | None = None
    reset: bool = False
    take_over: bool = False


@dataclass(frozen=True)
class ScanMark:
    """What dlt's state says about a scan that has begun and whose end isn't booked yet.

    place: where its next page begins, None at the beginning. seen: how many ids it has seen
    (a check that the set on disk is whole). ended: its outcome, once the last page is loaded.
    """

    plan: ScanPlan
    started_ms: int
    place: dict[str, Any] | None = None
    seen: int = 0
    ended: ScanOutcome | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "plan": self.plan.to_json(),
            "started_ms": self.started_ms,
            "place": self.place,
            "seen": self.seen,
            "ended": self.ended.to_json() if self.ended else None,
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> ScanMark:
        ended = facts.get("ended")
        return cls(
            plan=ScanPlan.from_json(facts["plan"]),
            started_ms=facts["started_ms"],
            place=facts.get("place"),
            seen=facts.get("seen", 0),
            ended=ScanOutcome.from_json(ended) if ended else None,
        )


@dataclass
class ResourceRun:
    """One resource in this run. facts: what finished scans left. mark: the scan of now.

    left: an unfinished scan that a look back (`--since`) leaves in its place, for later pulls.
    is_full_wanted: asked for with `--full`. alive: rows that a filtered list lacked, and that are
    there. looked_ms: when rows known to be unlisted were looked at. undecided: rows that left the
    list, and that the API neither shows nor denies. warnings: as in the report.
    """

    resource: str
    facts: ResourceFacts
    mark: ScanMark
    resumed: bool = False
    left: ScanMark | None = None
    is_full_wanted: bool = False
    alive: list[str] = field(default_factory=list)
    looked_ms: int | None = None
    undecided: tuple[str, ...] | None = None
    warnings: Counter[str] = field(default_factory=Counter)
    counts: dict[str, int] = field(
        default_factory=lambda: {"rows_read": 0, "rows_written": 0, "rows_deleted": 0}
    )

    @property
    def expected_pages(self) -> int | None:
        """Pages that this run will ask for, if it is as the last scan of this kind; None where
        there was none."""
        usual = self.facts.pages_of(self.mark.plan)
        if self.mark.ended is not None:
            return 0
        if usual is None:
            return None
        read = (self.mark.place or {}).get("seen", {}).get("pages", 0)
        left = max(1, usual - int(read))
        return left if self.mark.plan.max_pages is None else min(left, self.mark.plan.max_pages)

    @property
    def finds_deletions(self) -> bool:
        return self.mark.plan.kind is ScanKind.FULL

    @property
    def reason(self) -> str:
        return (
            f"resumes where a run stopped: {self.mark.plan.reason}"
            if self.resumed
            else (self.mark.plan.reason)
        )

    @property
    def complete(self) -> bool | None:
        """Whether a full scan is proven complete; None where the scan isn't a full one."""
        if self.mark.plan.kind is not ScanKind.FULL:
            return None
        return self.mark.ended is not None and self.mark.ended.complete

    @property
    def why_incomplete(self) -> str | None:
        """Why a full scan isn't proven complete, for people; of one that brought nothing, the
        run's error says it."""
        ended = self.mark.ended
        if self.complete is not False or (ended is None and not self.counts["rows_read"]):
            return None
        return ended.why if ended else "the scan has not come to its end; the next pull resumes it"

    @property
    def doubt(self) -> Doubt | None:
        return self.mark.ended.doubt if self.mark.ended else None

    @property
    def is_doubt_new(self) -> bool:
        """Whether the last full scan had no such doubt."""
        return self.doubt is not None and not self.doubt.is_known(self.facts.doubt)

    def summary(self) -> dict[str, Any]:
        """The resource's part of the run's summary."""
        why = self.why_incomplete
        return {
            "scan": str(self.mark.plan.kind),
            "reason": self.reason,
            "complete": self.complete,
            **({} if why is None else {"why_incomplete": why}),
            **self.counts,
        }

    def state(self) -> dict[str, Any]:
        """The resource's part of dlt's state while its scan runs."""
        return {"facts": self.facts.to_json(), "scan": (self.left or self.mark).to_json()}

    def at(self, place: dict[str, Any]) -> None:
        """The scan has come to `place`; it may have widened its plan on the way."""
        self.mark = replace(self.mark, place=place, plan=plan_of(place))

    def saw(self, ids: int) -> None:
        """So many ids were added to the set of those seen."""
        self.mark = replace(self.mark, seen=self.mark.seen + ids)

    def ended(self, outcome: ScanOutcome) -> None:
        """Every page is loaded; what follows from the outcome isn't done yet."""
        self.mark = replace(self.mark, ended=outcome)

    def booked(self) -> dict[str, Any]:
        """The resource's part of dlt's state once the ended scan has its consequences."""
        ended = self.mark.ended
        assert ended is not None
        facts = self.facts.after(self.mark.plan, ended, started_ms=self.mark.started_ms)
        undecided = facts.undecided if self.undecided is None else self.undecided
        looked_ms = self.looked_ms or facts.looked_ms
        facts = replace(facts, looked_ms=looked_ms, undecided=undecided)
        scan = replace(self.mark, ended=None) if ended.unfinished else self.left
        return {"facts": facts.to_json(), "scan": scan.to_json() if scan else None}


def begin(
    destination: Destination,
    resource: str,
    wanted: Wanted,
    *,
    pull: PullSettings,
    limits: tuple[RateLimit, ...],
    now_ms: int,
) -> ResourceRun:
    """The run of one resource: resumed where an earlier scan can be."""
    facts, left = (ResourceFacts(), None) if wanted.reset else _known(destination, resource)
    fresh = plan(
        resource,
        facts,
        pull=pull,
        hourly_limit=max(limits, key=lambda limit: limit.length_s).limit,
        now_ms=now_ms,
        full=wanted.full,
        since_ms=wanted.since_ms,
    )
    if left is not None and _can_resume(destination, left, fresh, wanted, now_ms):
        mark = replace(left, plan=replace(left.plan, max_pages=fresh.max_pages))
        run = ResourceRun(resource, facts, mark, resumed=True)
    else:
        is_part = fresh.backfill and fresh.kind is not ScanKind.FULL
        run = ResourceRun(resource, facts, ScanMark(fresh, now_ms), left=left if is_part else None)
        if run.left is None:
            destination.seen.begin(resource)
    run.is_full_wanted = wanted.full
    _log.info("pull.scan", resource=resource, scan=str(run.mark.plan.kind), reason=run.reason)
    return run


def _known(destination: Destination, resource: str) -> tuple[ResourceFacts, ScanMark | None]:
    """What finished scans left, and the scan that an earlier run didn't end.

    A state that another version, or a damaged file, has left unreadable is one that isn't there.
    """
    state = destination.loader.mark(resource)
    try:
        facts = ResourceFacts.from_json(state["facts"]) if "facts" in state else ResourceFacts()
        return facts, ScanMark.from_json(state["scan"]) if state.get("scan") else None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        _log.warning("pull.state_unreadable", resource=resource, error=type(error).__name__)
        return ResourceFacts(), None


def _can_resume(
    destination: Destination, left: ScanMark, fresh: ScanPlan, wanted: Wanted, now_ms: int
) -> bool:
    if wanted.since_ms is not None or left.plan.backfill:
        return False
    if now_ms - left.started_ms > RESUME_WITHIN_MS:
        return False
    if left.plan.kind is ScanKind.FULL:
        return destination.seen.rows(left.plan.resource) >= left.seen
    return left.plan.kind is fresh.kind


def scan_of(
    run: ResourceRun, client: ApiClient, destination: Destination, *, page_size: int
) -> Scan:
    """The scan of `run`, at the place where it resumes. page_size: as configured."""
    return Scan(
        client,
        run.mark.plan,
        page_size=usual_page_size(run.facts.page_size, page_size),
        started_ms=run.mark.started_ms,
        place=run.mark.place,
        known=run.facts.doubt,
        newest_known_ms=_newest_known_ms(destination, run.mark.plan),
        expected_ids=expected_ids(destination, run.mark.plan),
    )


def _newest_known_ms(destination: Destination, plan: ScanPlan) -> int | None:
    """The newest time of a head scan's order among the rows that its list should begin with."""
    columns = destination.columns(plan.resource)
    name = column_name(plan.order) if plan.order else ""
    if plan.kind is not ScanKind.HEAD or columns.get(name, {}).get("data_type") != "timestamp":
        return None
    unpinned = " AND pin IS NOT TRUE" if columns.get("pin", {}).get("data_type") == "bool" else ""
    sql = (
        f"SELECT max({name}) FROM {destination.name(plan.resource)} "  # noqa: S608 - names of ours
        f"WHERE {DELETED_COLUMN} IS NULL AND {UNLISTED_COLUMN} IS NULL{unpinned}"
    )
    ((newest,),) = destination.query(sql)
    return round(newest.timestamp() * 1000) if newest else None


def expected_ids(destination: Destination, plan: ScanPlan) -> list[str]:
    """Rows that the plan's filters should match, as far as the destination knows."""
    if plan.backfill or not destination.columns(plan.resource):
        return []
    if plan.kind is ScanKind.OPEN:
        where, parameters = "completed_at IS NULL", []
    elif plan.kind is ScanKind.WINDOW:
        where = "meeting_date >= %s AND meeting_date <= %s"
        names = ("meetingDateAfter", "meetingDateBefore")
        parameters = [datetime.fromtimestamp(int(plan.params[name]) / 1000, UTC) for name in names]
    else:
        return []
    sql = (
        f"SELECT id FROM {destination.name(plan.resource)} "  # noqa: S608 - names of ours
        f"WHERE {DELETED_COLUMN} IS NULL AND {UNLISTED_COLUMN} IS NULL AND {where}"
    )
    return [row[0] for row in destination.query(sql, parameters)]
