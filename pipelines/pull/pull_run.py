"""One pull: scans of the wanted resources, landed chunk by chunk, recorded and published."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from connector.errors import (
    ApiError,
    BudgetError,
    ConnectorError,
    EndlessList,
    InactiveKey,
    Interrupted,
    Refused,
    Unauthorized,
    Unexpected,
    UnreachablePages,
    UsageError,
    status_of,
)
from connector.logs import error_facts, get_logger
from connector.settings import Settings
from connector.source import RESOURCES
from connector.source.deletions import settle_absent_rows
from connector.source.fields import DELETED_COLUMN, UNLISTED_COLUMN
from connector.source.row_maker import column_name
from connector.source.scan import Scan
from connector.source.scan_planner import ScanPlans, plan_scans
from connector.source.scans import (
    DoubtKind,
    ListScan,
    ListState,
    ScanKind,
    ScanOutcome,
    ScanPlan,
    begin,
    list_state,
    usual_page_size,
)
from pipelines.destination.destination import Destination
from pipelines.destination.identity import destination_label, snapshot_facts
from pipelines.pull.chunks import Fetching, Landing
from pipelines.pull.events import PROSPECTS, Follower, events_scan, follower_of, pull_lock
from pipelines.pull.run_tables import (
    RunRecorder,
    account_batch,
    land_push_results,
    note_owner,
    owner_landed,
    owner_now,
    refuse_other_owner,
)
from pipelines.running.progress import Progress, ProgressOf, ProgressState, RunReport
from pipelines.running.session import Session, forgotten_of, note_account, open_session

_log = get_logger("pull")
# doubts that mean that a list was not read to its end
_UNREAD = {DoubtKind.ENDLESS: EndlessList, DoubtKind.UNREACHABLE_PAGE: UnreachablePages}


@dataclass(frozen=True)
class Wanted:
    """What the caller asked for.

    since_ms: read back to this time; UTC epoch ms. reset: forget watermarks and unfinished scans.
    take_over: publish over the copy of another installation, and pull over another account's rows.
    """

    resources: tuple[str, ...]
    full: bool = False
    since_ms: int | None = None
    reset: bool = False
    take_over: bool = False


@dataclass
class PullReport(RunReport):
    """What a pull did.

    live_rows: live rows per table. published: a new copy was made. is_visible: readers see
    everything that has landed. doubts: full scans that ended but aren't proven complete, by
    resource; True if the doubt is new. warnings: by resource, what couldn't be loaded unchanged,
    and how often.
    """

    live_rows: dict[str, int] = field(default_factory=dict)
    published: bool = False
    is_visible: bool = True
    doubts: dict[str, bool] = field(default_factory=dict)
    warnings: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def needs_a_look(self) -> bool:
        """A full scan isn't proven complete, for a reason that the last one didn't have."""
        return any(self.doubts.values())


def pull(settings: Settings, wanted: Wanted, progress_of: ProgressOf | None = None) -> PullReport:
    """Pull the wanted resources into the configured destination.

    A resource that fails doesn't stop the others; the first error is the report's. What has
    landed is published even if scans failed: each row is as the API returned it.

    A drain of events that holds the destination is waited for.

    Raises:
        AlreadyRunning: another pull holds the destination.
        MissingKey, BudgetError: no request was sent.
    """
    with open_session(settings, kind="pull") as session, pull_lock(session) as lock:
        label = destination_label(settings)
        session.runs.start(session.run_id, "pull", label, lock_name=lock.name)
        progress = progress_of(session) if progress_of else Progress()
        try:
            return _Pull(session, wanted, progress).run()
        finally:
            progress.stop()


class _Pull:
    """The steps of one pull, in order, and what they collect for its report."""

    _destination: Destination
    _recorder: RunRecorder
    _landing: Landing

    def __init__(self, session: Session, wanted: Wanted, progress: Progress) -> None:
        self._session, self._wanted, self._progress = session, wanted, progress
        self._began_s = session.clock.monotonic_s()
        self._runs: dict[str, ListScan] = {}
        self._plans: ScanPlans = {}
        self._scans: list[tuple[Scan, ListScan]] = []
        self._left_out: Mapping[str, Collection[str]] = {}
        self._pages = 0  # that have landed
        self._errors: list[ConnectorError] = []
        self._report = PullReport()
        self._follower: Follower | None = None
        self._followed_s = self._began_s

    def run(self) -> PullReport:
        """Run the pull. Whatever happens, its report is returned and noted in the run history."""
        try:
            self._work()
        except ConnectorError as error:
            self._errors.append(error)
        except Exception as error:  # noqa: BLE001 - what was done is reported whatever fails
            _log.debug("pull.unexpected", exc_info=error)
            self._errors.append(Unexpected(error))
        except BaseException as error:
            self._finish(Unexpected(error))
            raise
        self._finish(worst_of(self._errors))
        return self._report

    def _work(self) -> None:
        session = self._session
        with Destination(
            session.settings, take_over=self._wanted.take_over, stop=session.stop
        ) as destination:
            self._destination = destination
            self._recorder = RunRecorder(session, destination)
            self._report.is_visible = destination.is_published
            if PROSPECTS in self._wanted.resources:
                self._follower = follower_of(session)
            self._plan_scans()
            self._landing = landing = Landing(destination, self._runs, session.settings.pull)
            session.budget.pull_started(self._expected_pages())
            account = self._account()
            landing.forgotten, self._left_out = forgotten_of(session), landing.left_out
            self._settle_owner(account)
            self._end_earlier_scans()
            try:
                self._fetch_and_land(self._runs)
            except ConnectorError as error:
                self._errors.append(error)
            try:
                self._follow_events_scan()
                self._end_scans(self._runs)
                self._read_parts()
                self._follow_after_scans()
                self._record(account)
            finally:
                if self._follower is not None:
                    self._follower.inbox.close()
                self._report.warnings = {
                    name: dict(counts) for name, counts in landing.warnings.items()
                }
                self._report.is_visible = destination.is_published

    def _plan_scans(self) -> None:
        self._plans = self._plan()
        for resource, (plan, *_) in self._plans.items():
            self._runs[resource] = self._begin(plan)

    def _settle_owner(self, account: dict[str, Any] | None) -> None:
        """Create tables, unless they have the rows of another account; a destination that is taken
        over is read as if there had been no pull."""
        destination, loader = self._destination, self._destination.loader
        landed, now = owner_landed(destination), owner_now(self._session, account)
        if refuse_other_owner(landed, now, take_over=self._wanted.take_over):
            loader.save_states({name: {} for name in RESOURCES if loader.state_of(name)})
            self._plan_scans()
        self._landing.create_tables()
        note_owner(destination, landed, now)

    def _plan(self) -> ScanPlans:
        session, wanted = self._session, self._wanted
        lists = {resource: self._list_state(resource) for resource in wanted.resources}
        events = None
        if self._follower is not None:
            events = self._follower.events(lists[PROSPECTS].facts)
        return plan_scans(
            lists,
            pull=session.settings.pull,
            limits=session.settings.rate_limits,
            now_ms=self._session.now_ms(),
            full=wanted.full,
            since_ms=wanted.since_ms,
            events=events,
        )

    def _list_state(self, resource: str) -> ListState:
        is_reset = self._wanted.reset and resource not in self._runs
        return list_state(
            resource,
            {} if is_reset else self._destination.loader.state_of(resource),
            now_ms=self._session.now_ms(),
            keeps_ids=True,
            has_ids=lambda left: self._destination.seen.rows(resource) >= (left.ids or 0),
        )

    def _begin(self, plan: ScanPlan) -> ListScan:
        known = self._list_state(plan.resource)
        full = self._wanted.full
        scan = begin(known, plan, now_ms=self._session.now_ms(), full=full, keeps_ids=True)
        if not scan.resumed:
            if scan.left is None:
                self._destination.seen.begin(plan.resource)
            self._destination.history.begin_scan(scan)
        return scan

    def _end_earlier_scans(self) -> None:
        """End the scans that an earlier run read completely; then begin the planned ones."""
        ended = []
        for resource, run in self._runs.items():
            if not run.checkpoint.is_at_end:
                continue
            try:
                if run.outcome is None:
                    scan = self._scan_of(run)
                    for _ in scan:  # no request is left to send
                        pass
                    assert scan.outcome is not None
                    run.end(scan.outcome)
                self._end_scan(run)
                self._recorder.note(run)
                ended.append(resource)
            except ConnectorError as error:
                self._errors.append(error)
        plans = self._plan() if ended else {}
        for resource in ended:
            self._plans[resource] = plans[resource]
            self._begin_next(plans[resource][0])

    def _begin_next(self, plan: ScanPlan) -> None:
        """Another scan of a list, after one that has ended."""
        before, planned = self._runs[plan.resource], self._begin(plan)
        planned.counts, planned.warnings = before.counts, before.warnings
        self._runs[plan.resource] = planned

    def _account(self) -> dict[str, Any] | None:
        """GET /auth first: a wrong key is one clear line, not four."""
        session = self._session
        try:
            facts = session.client.account()
        except (Refused, Unauthorized) as error:
            if error.status == 401:
                raise
            _log.warning("pull.no_account", why=str(error))
            return None
        note_account(session.settings, session.ledger, facts)
        if facts.get("active") is False:
            raise InactiveKey
        return facts

    def _read_parts(self) -> None:
        """Of lists too big for a daily full scan: a part of one, after their narrow scan."""
        narrow = {
            name: run
            for name, run in self._runs.items()
            if self._plans[name][1:] and run.outcome is not None
        }
        if not narrow or self._session.stop.is_set():
            return
        for name in narrow:
            self._begin_next(self._plans[name][1])
        try:
            self._fetch_and_land(narrow)
        except ConnectorError as error:
            self._errors.append(error)
        self._end_scans(narrow)
        for name, run in narrow.items():
            if self._runs[name].complete is False and not self._runs[name].doubt:
                self._runs[name] = run  # what this run is about, until the full scan ends

    def _fetch_and_land(self, names: Iterable[str]) -> None:
        session, pull_settings = self._session, self._session.settings.pull
        scans = {
            name: self._scan_of(self._runs[name])
            for name in names
            if self._runs[name].outcome is None and self._plans_pages(name)
        }
        self._scans += [(scan, self._runs[name]) for name, scan in scans.items()]
        fetching = Fetching(
            scans,
            chunk_s=pull_settings.chunk_s,
            chunk_pages=pull_settings.chunk_pages,
            clock=session.clock,
            stop=session.stop,
        )
        for portion in fetching.portions():
            self._pages += sum(map(len, portion.pages.values()))
            self._landing.take(portion.pages)
            if portion.ends_chunk:
                self._landing.load()
                self._follow_meanwhile()
            rows = sum(run.counts["rows_read"] for run in self._runs.values())
            self._show(self._pages, rows)
        self._errors += fetching.errors.values()
        ended = []
        for name, scan in scans.items():
            if name not in fetching.errors and scan.outcome is not None:
                self._runs[name].end(scan.outcome)
                self._runs[name].alive = scan.alive
                self._runs[name].warnings += scan.warnings
                ended.append(name)
        self._destination.loader.save_states({name: self._runs[name].state() for name in ended})

    def _plans_pages(self, name: str) -> bool:
        return self._runs[name].plan.kind is not ScanKind.EVENTS

    # --- events -----------------------------------------------------------------------------------

    def _follow_meanwhile(self) -> None:
        """While pages are fetched for a long time: drains leave their work to this pull."""
        clock, flush_s = self._session.clock, self._session.settings.webhooks.flush_s
        is_due = clock.monotonic_s() - self._followed_s >= flush_s
        if self._follower is None or not is_due or not self._destination.columns(PROSPECTS):
            return
        run = self._runs[PROSPECTS]
        if run.outcome is None:  # else its state is that of a scan whose end is still to be settled
            self._follower.follow(self._landing, self._destination, run, within_s=flush_s / 2)
            self._followed_s = clock.monotonic_s()

    def _follow_events_scan(self) -> None:
        """The scan of prospects, where events stand for it."""
        run = self._runs.get(PROSPECTS)
        if self._follower is None or run is None or self._plans_pages(PROSPECTS):
            return
        try:
            self._follower.follow(self._landing, self._destination, run)
        except ConnectorError as error:
            self._errors.append(error)
            return
        run.end(ScanOutcome(False, "people named by events are looked up"))
        if self._follower.postponed:
            why = "named by an event and can't be looked up now, so it is tried again"
            run.warnings[why] += self._follower.postponed

    def _follow_after_scans(self) -> None:
        """Look up who was named since the scan of prospects began, and probe whether anyone was
        missed."""
        run = self._runs.get(PROSPECTS)
        follower, has_stopped = self._follower, self._session.stop.is_set()
        if follower is None or run is None or run.outcome is None or has_stopped:
            return
        following = events_scan(self._destination, run.plan.reason)
        following.counts, following.warnings = run.counts, run.warnings
        self._runs[PROSPECTS] = following
        try:
            follower.follow(self._landing, self._destination, following)
            if follower.is_probe_due(follower.facts()):
                follower.probe(self._destination)
            self._recorder.note_events(PROSPECTS, follower.facts())
        except (ApiError, BudgetError) as error:  # they stay in the inbox
            _log.warning("events.left", why=str(error))
        finally:
            self._runs[PROSPECTS] = run
        self._report.live_rows[PROSPECTS] = self._destination.live_count(PROSPECTS)

    def _scan_of(self, run: ListScan) -> Scan:
        return Scan(
            self._session.client,
            run.checkpoint,
            page_size=usual_page_size(run.facts.page_size, self._session.settings.pull.page_size),
            known=run.facts.doubt,
            newest_known_ms=_newest_known_ms(self._destination, run.plan),
            expected_ids=_expected_ids(self._destination, run.plan),
        )

    def _end_scans(self, names: Iterable[str]) -> None:
        """Settle what follows from each scan: deletions, watermarks, freshness."""
        for run in [self._runs[name] for name in names]:
            try:
                if run.outcome is not None:
                    self._end_scan(run)
                self._note(run)
            except ConnectorError as error:
                self._errors.append(error)

    def _end_scan(self, run: ListScan) -> None:
        alive = set(run.alive)
        settle_absent_rows(
            self._destination,
            run,
            self._session.client,
            now_ms=self._session.now_ms(),
            expected=[one for one in _expected_ids(self._destination, run.plan) if one in alive],
            land=partial(self._landing.land_records, run.resource, asked_ms=self._session.now_ms()),
        )
        if run.resource == PROSPECTS and run.finds_deletions and self._follower is not None:
            self._follower.end_full_scan(run, self._landing.found)
            self._landing.found = set()
        self._destination.loader.save_states({run.resource: run.booked()})
        if run.outcome is not None and not run.outcome.unfinished:
            self._destination.history.end_scan(run)
        self._note_doubt(run)

    def _note(self, run: ListScan) -> None:
        self._recorder.note(run)
        if run.outcome is not None or run.counts["rows_read"]:
            self._report.live_rows[run.resource] = self._destination.live_count(run.resource)

    def _note_doubt(self, run: ListScan) -> None:
        if run.doubt is None:
            return
        self._report.doubts[run.resource] = run.is_doubt_new
        unread = _UNREAD.get(run.doubt.kind)
        if run.is_doubt_new and unread is not None:
            self._errors.append(unread(resource=run.resource, reason=run.doubt.why))

    def _record(self, account: dict[str, Any] | None) -> None:
        batch = account_batch(account) if account is not None else None
        land_push_results(self._destination, self._session)
        self._recorder.land(self._summary(worst_of(self._errors)), batch)
        self._report.published = self._recorder.publish()
        self._report.is_visible = self._destination.is_published
        self._destination.complete_tables()
        self._destination.forget_old_loads()

    def _finish(self, error: ConnectorError | None) -> None:
        session = self._session
        self._sum_up(error)
        summary = self._report.summary
        message = summary["error"]["message"] if error else None
        try:
            session.budget.pull_ended(session.client.requests)
            session.runs.finish(session.run_id, summary["status"], summary, message)
        except BudgetError as failure:  # a full disk, say: what was done is reported all the same
            _log.warning("pull.not_noted", error=str(failure))
            self._sum_up(error or failure)

    def _sum_up(self, error: ConnectorError | None) -> None:
        summary = self._summary(error)
        copy = snapshot_facts(self._session.settings)
        if copy is not None and not self._report.is_visible:
            summary["copy"] = copy.facts()
        self._report.summary, self._report.error = summary, error

    def _summary(self, error: ConnectorError | None) -> dict[str, Any]:
        session = self._session
        facts: dict[str, Any] = {
            "run_id": session.run_id,
            "status": status_of(error),
            "requests": session.client.requests,
            "seconds": round(session.clock.monotonic_s() - self._began_s, 3),
            "waited_s": round(session.budget.waited_s, 3),
            "resources": {name: self._resource(name) for name in self._runs},
        }
        if error:
            facts["error"] = error_facts(error)
        return facts

    def _resource(self, name: str) -> dict[str, Any]:
        """A resource's part of the summary; rows: the live ones, once they are counted."""
        rows, left_out = self._report.live_rows.get(name), len(self._left_out.get(name, ()))
        facts = self._runs[name].summary() | ({} if rows is None else {"rows": rows})
        return facts | ({"rows_forgotten": left_out} if left_out else {})

    def _show(self, pages: int, rows: int) -> None:
        """Show how far the run has come. pages: those that have landed."""
        progress = [scan.progress(run.facts.pages_of) for scan, run in self._scans]
        left = _sum(left for _, left in progress)
        total = None if left is None else max(pages, left + sum(read for read, _ in progress))
        self._progress.show(ProgressState("page", pages, total, rows=rows, requests_left=left))

    def _expected_pages(self) -> int | None:
        """Pages that the run will request, judging by the last scans of the same kinds."""
        parts = (plan.max_pages for plans in self._plans.values() for plan in plans[1:])
        return _sum([*(run.expected_pages for run in self._runs.values()), *parts])


def _sum(counts: Iterable[int | None]) -> int | None:
    """The sum; None if one of `counts` is."""
    known = [*counts]
    return None if None in known else sum(filter(None, known))


def worst_of(errors: list[ConnectorError]) -> ConnectorError | None:
    """The error to report: a signal before all others, then a refused key, or else the first."""
    signals = [error for error in errors if isinstance(error, Interrupted)]
    refused = [error for error in errors if error.exit_code == UsageError.exit_code]
    return next(iter(signals or refused or errors), None)


# --- what the destination knows -------------------------------------------------------------------


def _newest_known_ms(destination: Destination, plan: ScanPlan) -> int | None:
    """The newest sort time among the known rows that a head scan's list should begin with."""
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


def _expected_ids(destination: Destination, plan: ScanPlan) -> list[str]:
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
