"""Runs that send, a push above all: rows read, checked, planned and sent; each has its outcome, and
the counts add up."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from connector.budget import Lane
from connector.budget.locks import HeldLock
from connector.errors import (
    BudgetError,
    ConnectorError,
    Interrupted,
    OutboxLost,
    RunError,
    TooManyChanges,
    Unexpected,
    UsageError,
    status_of,
)
from connector.logs import error_facts, get_logger, redact
from connector.settings import Settings
from connector.upsert.activities import ActivityPlanner
from connector.upsert.delivery import KeyMemory
from connector.upsert.inputs import Input, InputRow
from connector.upsert.outbox.evidence import Pulled
from connector.upsert.outbox.exported_rows import ExportedRows
from connector.upsert.outbox.merge import CONTACTS, MergeRules
from connector.upsert.outbox.outbox import PROSPECTS, Outbox
from connector.upsert.outbox.pairing import OpenOutbox
from connector.upsert.outbox.person_plan import PushOptions, RowPlan
from connector.upsert.outbox.planner import PlanCounts, Planner
from connector.upsert.outbox.receipts import ResultStore, RowResult, Status
from connector.upsert.plan_file import PlanHeader
from connector.upsert.rows.column_mapping import ColumnMapping, match_columns
from connector.upsert.rows.row_checks import ActivityValidator, Reject, Validator
from connector.upsert.rows.row_files import RejectsFile, ResultsFile
from connector.upsert.sending import Sender, in_flight_for
from connector.upsert.undoing import BeforeImages, undo_key
from pipelines.destination.identity import destination_label, destination_number
from pipelines.pull.run_tables import land_after_push
from pipelines.push.plan_view import PlanFiles, PlanView
from pipelines.push.pulled_prospects import open_pulled, rows_sent_before, scan_of_prospects
from pipelines.push.push_input import PushRequest, open_rejects, open_results, open_rows
from pipelines.push.push_report import (
    NOTEWORTHY_MAX,
    PushReport,
    counted,
    files_written,
    forecast,
    never_sent,
)
from pipelines.running.progress import Progress, ProgressOf, ProgressState, duration, plural, utc
from pipelines.running.session import (
    Session,
    begin_sending,
    forget_lock_name,
    forgotten_of,
    known_scope_of,
    lock_soon,
    open_session,
    outbox_of,
    push_lock_name,
    scope_of,
)

_log = get_logger("push")
_LIKELY_LATENCY_S = 0.3
_SCRUBBED_BYTES = 64 * 1024**2  # a larger outbox isn't scrubbed
_DAY_MS = 86_400_000
_FILES_KEPT_FREE = 24  # for the rejects, and for the destination when the results are landed
_FILES_ENOUGH = 1_024


def push(
    settings: Settings, request: PushRequest, progress_of: ProgressOf | None = None
) -> PushReport:
    """Push the rows of `request` to the API. Raises what `opened_outbox` does, and then nothing was
    sent; what fails later, an input that can't be read for one, is the report's error."""
    with opened_outbox(
        settings, "push", progress_of, new_ledger=request.new_ledger, dry_run=request.dry_run
    ) as opened:
        return _PushRun(opened, request).run()


def plan_push(
    settings: Settings,
    request: PushRequest,
    files: PlanFiles,
    progress_of: ProgressOf | None = None,
) -> PushReport:
    """What a push of `request` would do, found out without a request; nothing is sent.

    Raises:
        UsageError: `files` has what such a plan can't; and what `opened_outbox` raises.
    """
    if files.out is not None and request.to != PROSPECTS:
        raise UsageError(
            f"--out keeps plans of prospects only. Leave it out, and push with --to {request.to}: "
            "the same row never creates a second one."
        )
    request = replace(request, dry_run=True, to_apply=files.out is not None)
    if files.out is not None and request.new_ledger:
        raise UsageError(
            "--out: a plan is signed with the ledger's secret, and this one was lost. Omit --out, "
            "or push once with --new-ledger first."
        )
    how = {"new_ledger": request.new_ledger, "dry_run": True}
    with opened_outbox(settings, "plan", progress_of, **how) as opened:
        return _PushRun(opened, request, files).run()


@dataclass(frozen=True)
class RunOutbox:
    """A session with the outbox that it sends from. found: what was known of the outbox. held: the
    lock of the key's pushes; None for a dry run, which sends nothing."""

    session: Session
    outbox: Outbox
    found: OpenOutbox
    held: HeldLock | None
    progress: Progress


@contextmanager
def opened_outbox(
    settings: Settings,
    kind: Literal["push", "plan", "apply", "undo"],
    progress_of: ProgressOf | None,
    *,
    new_ledger: bool = False,
    dry_run: bool = False,
) -> Iterator[RunOutbox]:
    """The outbox for one run, which is in the run history from now on unless it is a dry one.

    Raises:
        UsageError: the outbox can't be used, or it isn't known yet whose the key of a plan is.
        AlreadyRunning: another run sends with the same key.
        BudgetError: the ledger can't be used.
    """
    with open_session(settings, kind=kind) as session, ExitStack() as stack:
        opened = outbox_of(session, new_ledger=new_ledger, dry_run=dry_run)
        stack.callback(opened.close)
        database, label, held = opened.database, destination_label(settings), None
        if opened.knows_nothing and not new_ledger and (sent := rows_sent_before(settings)):
            # the state directory was deleted or left behind: everything would be sent again
            reason = f"knows of no push, but {label} has {sent:,} rows from earlier pushes"
            raise OutboxLost(outbox=database.name, reason=reason)
        if kind == "plan":
            scope = known_scope_of(session, database, is_new=opened.started_now)
        else:
            scope = scope_of(session, database)
        if not dry_run:
            name = push_lock_name(scope)
            around = (forget_lock_name(name),)
            held = stack.enter_context(lock_soon(session, database, name, around=around))
            begin_sending(session, database)
            session.runs.start(session.run_id, kind, label, lock_name=name)
        progress = progress_of(session) if progress_of else Progress()
        stack.callback(progress.stop)
        outbox = Outbox(database, scope, session.budget.steady_clock)
        yield RunOutbox(session, outbox, opened, held, progress)


def options_of(session: Session) -> dict[str, Any]:
    """The options that are the same for every kind of run."""
    settings = session.settings
    return {
        "run_id": session.run_id,
        "retry_total_s": settings.http.retry_total_s,
        "retention_days": settings.writes.retention_days,
        "destination": destination_number(settings),
        "forgotten": forgotten_of(session),
    }


class OutboxRun:
    """One run that sends from the outbox: its steps, and what they collect for its report.

    A push plans from an input, an apply from a plan file, an undo from what an earlier run has
    changed; sending, reporting and landing are the same.
    """

    def __init__(self, opened: RunOutbox, options: PushOptions) -> None:
        self._session, self._outbox, self._held = opened.session, opened.outbox, opened.held
        self._found, self._progress = opened.found, opened.progress
        self._options = options.knowing(opened.outbox.learnt())
        self._clock = self._outbox.clock
        self._began_s = self._session.clock.monotonic_s()
        self._began_ms = self._clock.now_ms()
        self._rejects: RejectsFile | None = None
        self._results_file: ResultsFile | None = None
        self._report = PushReport()
        self._planned = PlanCounts()
        self._sender: Sender | None = None
        self._copy_age_s: float | None = None
        self._pages_of_scan: int | None = None  # which may stand for more looks than that
        self._results = ResultStore(self._outbox.database, self._outbox.scope, options.destination)

    def _plan_and_send(self) -> None:
        """What this kind of run does."""
        raise NotImplementedError

    @property
    def _is_dry(self) -> bool:
        return self._held is None

    @property
    def _named(self) -> dict[str, str]:
        """What the summary calls the input."""
        raise NotImplementedError

    def run(self) -> PushReport:
        """Run the push. Whatever happens, its report is returned and noted in the run history."""
        try:
            self._plan_and_send()
        except ConnectorError as error:
            self._finish(error)
            if isinstance(error, RunError):
                self._land()
        except Exception as error:  # noqa: BLE001 - what was sent is reported whatever fails
            _log.debug("push.unexpected", exc_info=error)
            self._finish(Unexpected(error))
        except BaseException as error:
            self._finish(Unexpected(error))
            raise
        else:
            self._finish(None)
            self._land()
            self._forget()
        return self._report

    def _reject(self, reject: Reject) -> None:
        if self._report.view is not None:
            self._report.view.reject(reject)
        if self._results_file is not None:
            self._results_file.explain(reject.row_number, reject.reason)
        if self._rejects is not None:
            self._rejects.add(reject)
        elif len(self._report.noteworthy) < NOTEWORTHY_MAX:  # a dry run stores no results
            reason = redact(reject.public_reason)
            result = RowResult(reject.row_number, Status.REJECTED, None, reason)
            self._report.noteworthy.append(result)

    def _note_result(self, result: RowResult) -> None:
        if self._results_file is not None:
            number, status, prospect_id, message, *_ = result
            self._results_file.put(number, status.value, prospect_id, message)

    def _keep(self, files: ExitStack, file: RejectsFile | ResultsFile) -> None:
        """`file` is saved when the run ends; then problems with it are noted."""
        files.callback(lambda: self._report.notes.extend(file.problems()))
        files.enter_context(file)

    def _show_read(self, rows: int) -> None:
        stop = self._session.stop
        if stop.is_set():
            raise Interrupted(stop.signal_number)
        self._progress.show(ProgressState("row", rows))

    def _make_sender(self) -> Sender:
        """What sends this run's plan; settles what earlier runs left open first."""
        settings, client = self._session.settings, self._session.client
        assert self._held is not None
        most, rate_per_s = self._most_in_flight(), self._rate_per_s()
        self._sender = Sender(
            self._outbox,
            self._options,
            client,
            self._held,
            keys=KeyMemory(settings.writes.key_memory_s, settings.http.request_timeout_s),
            began_ms=self._began_ms,
            width=lambda: in_flight_for(client.latency_s, rate_per_s, most),
            on_reject=self._reject,
            on_result=self._note_result,
            on_progress=self._show_sent,
            images=self._images if settings.writes.undo_days else None,
            scan=scan_of_prospects(self._session),
        )
        return self._sender

    def _show_sent(self, rows: int) -> None:
        left = max(0, self._requests_planned - self._session.client.requests)
        to_send = self._planned.to_send
        self._progress.show(ProgressState("row", rows, to_send, requests_left=left))

    @property
    def _requests_planned(self) -> int:
        plan = self._planned
        pages = self._pages_of_scan
        looks = plan.looks
        if pages is not None:
            looks = plan.looks_alone + min(looks - plan.looks_alone, pages)
        return plan.writes + max(looks, plan.look_ups)

    def _most_in_flight(self) -> int:
        """The settings' maximum, or as many connections as this process may open."""
        wanted = self._session.settings.writes.max_in_flight
        room = _files_free() - _FILES_KEPT_FREE
        if room < wanted:
            _log.warning("push.few_open_files", in_flight=max(1, room), instead_of=wanted)
        return max(1, min(wanted, room))

    def _rate_per_s(self) -> float:
        return max(each.limit / each.length_s for each in self._session.settings.rate_limits)

    def _finish(self, error: ConnectorError | None) -> None:
        session, report = self._session, self._report
        report.summary, report.error = self._summary(error), error
        if self._is_dry:
            return
        if self._sender and self._sender.unbooked:
            report.notes.append(
                f"{plural(self._sender.unbooked, 'row')} in flight when the ledger failed: the "
                "next push of any file finds out what happened to them."
            )
        message = redact(str(error)) if error else None
        try:
            with suppress(OutboxLost):
                report.noteworthy = self._results.noteworthy(session.run_id, NOTEWORTHY_MAX)
                report.notes += [
                    never_sent(source, count)
                    for source, count in self._outbox.left_behind(session.run_id).items()
                ]
            session.runs.finish(session.run_id, report.summary["status"], report.summary, message)
        except BudgetError as failure:  # a full disk, say: what was sent is reported all the same
            _log.warning("push.not_noted", error=redact(str(failure)))
            error = error or failure
            report.summary, report.error = self._summary(error), error

    def _summary(self, error: ConnectorError | None) -> dict[str, Any]:
        session, plan = self._session, self._planned
        sent = self._sender.outcomes if self._sender else Counter[Status]()
        summary: dict[str, Any] = {
            "run_id": None if self._is_dry else session.run_id,  # no run is kept of it
            "status": status_of(error),
            **self._named,
            **counted(plan.outcomes + sent, not_sent=plan.to_send - sent.total()),
            "kept": plan.kept + (self._sender.kept if self._sender else 0),
            "requests": session.client.requests,
            "seconds": round(session.clock.monotonic_s() - self._began_s, 3),
            "waited_s": round(session.budget.waited_s, 3),
        }
        if self._is_dry:
            requests = self._requests_planned
            summary |= forecast(plan, requests=requests, eta_s=self._eta_s(requests))
            summary |= self._report.view.facts if self._report.view else {}
            summary["look_ups"] = requests - plan.writes
        if plan.look_ups:
            summary["look_ups"] = plan.look_ups
        if self._copy_age_s is not None:
            summary["copy_age_s"] = round(self._copy_age_s)
        if self._sender and self._sender.recovered:
            summary["recovered"] = self._sender.recovered
        summary |= files_written(self._rejects, self._results_file)
        return summary | ({"error": error_facts(error)} if error else {})

    def _eta_s(self, requests: int) -> float:
        if not requests:
            return 0.0
        latency_s = self._session.client.latency_s or _LIKELY_LATENCY_S
        width = in_flight_for(latency_s, self._rate_per_s(), self._most_in_flight())
        return self._session.budget.forecast(requests, Lane.PUSH, in_flight=width).done_in_s

    def _land(self) -> None:
        if self._is_dry:
            return
        try:
            if not land_after_push(self._session):
                self._report.notes.append(
                    "A pull is running; it or the next one loads the results."
                )
        except Exception as error:  # noqa: BLE001 - what was pushed is reported whatever fails
            if not isinstance(error, ConnectorError):
                _log.debug("push.not_landed", exc_info=error)
                error = Unexpected(error, doing="loading the results")
            note = f"The results wait for the next pull: {redact(str(error))}"
            self._report.notes.append(note)

    def _forget(self) -> None:
        """Drop everything older than the retention period."""
        if self._is_dry:
            return
        path = self._outbox.database.path
        has_dropped_bodies = self._planned.writes or (self._sender and self._sender.recovered)
        try:
            self._outbox.forget(self._began_ms - self._options.retention_days * _DAY_MS)
            undo_ms = self._session.settings.writes.undo_days * _DAY_MS
            with self._outbox.database.write() as connection:
                self._images.forget(connection, self._began_ms - undo_ms)
            if has_dropped_bodies and path and path.stat().st_size <= _SCRUBBED_BYTES:
                self._outbox.database.scrub()  # rewritten pages may still hold some
        except BudgetError as error:  # the next push tries again
            _log.warning("push.nothing_forgotten", error=redact(str(error)))

    @property
    def _images(self) -> BeforeImages:
        return BeforeImages(self._outbox.scope, undo_key(self._session.settings.state_path))


class _PushRun(OutboxRun):
    """One push: its rows are read, checked, planned and sent."""

    def __init__(
        self, opened: RunOutbox, request: PushRequest, files: PlanFiles | None = None
    ) -> None:
        session = opened.session
        settings, now_ms = session.settings, opened.outbox.clock.now_ms()
        options = PushOptions(
            source=request.source,
            mode=request.mode,
            looks_first=opened.found.look_first_ms > now_ms,
            allow_shared_contact=request.allow_shared_contact,
            source_path=request.origin,
            rules=MergeRules(
                restore=request.restore,
                force=request.force,
                default_policy="fill_empty" if request.fill_empty else "overwrite",
            ),
            fresh_ms=int(settings.writes.fresh_s * 1000),
            rechecks=request.recheck,
            lookups=settings.writes.lookups if request.lookups is None else request.lookups,
            to_apply=request.to_apply,
            **options_of(session),
        )
        super().__init__(opened, options)
        self._request, self._files = request, files or PlanFiles()

    @property
    def _named(self) -> dict[str, str]:
        job, to = self._request.job, self._request.to
        named = {"job": job} if job else {}
        named |= {"to": to} if to != PROSPECTS else {}
        return {"source": self._request.title, **named}

    def _plan_and_send(self) -> None:
        request, settings = self._request, self._session.settings
        if request.new_ledger and not self._found.started_now:
            self._report.notes.append("The outbox is intact, so --new-ledger has no effect.")
        with open_rows(settings, request) as rows, ExitStack() as files:
            self._report.notes.append(f"{rows.name}: {rows.description}")
            checks = self._match_columns(rows)
            if not request.dry_run or request.rejects is not None:
                self._rejects = open_rejects(settings, request, rows)
                self._keep(files, self._rejects)
            if request.results is not None:
                self._results_file = open_results(settings, request, rows)
                self._keep(files, self._results_file)
            self._plan(rows, checks)
            self._check_changes()
            if self._results_file is not None:
                self._results_file.has_all_rows = True
            if not request.dry_run:
                self._make_sender().send()

    def _match_columns(self, rows: Input) -> Validator:
        """What checks the rows: their columns are matched now."""
        request, settings = self._request, self._session.settings
        mapping = ColumnMapping.load(request.mapping, request.to) if request.mapping else None
        key, region = request.key_column(rows), settings.writes.default_region
        plan = self._columns = match_columns(
            rows.columns,
            mapping,
            ignore_unknown=request.ignore_unknown,
            location=rows.name,
            from_table=rows.from_table,
            hidden=settings.pull.prospects.hidden_columns,
            kind=request.to,
            key=key,
        )
        self._report.notes += [*request.notes, *plan.notes]
        if request.to != PROSPECTS:
            return ActivityValidator(plan, request.to, key=key, default_region=region)
        hidden = [name for name in CONTACTS if name in settings.pull.prospects.hidden_columns]
        if hidden and plan.pulled is None:
            self._report.notes.append(
                f"pulls hide {' and '.join(hidden)}, so rows can't be fully compared with "
                "prospects that only a pull knows: HiringCenter may change one of them by mistake"
            )
        rules = replace(self._options.rules, policy=plan.policy)
        self._options = replace(self._options, rules=rules)
        clear_empty, mode = request.clear_empty, request.mode
        return Validator(plan, default_region=region, clear_empty=clear_empty, mode=mode)

    def _plan_rows(
        self, rows: Iterable[InputRow], checks: Validator, pulled: Pulled, *, is_watched: bool
    ) -> PlanCounts:
        outbox, options, on_read = self._outbox, self._options, self._show_read
        how: Any = {"dry_run": self._is_dry, "on_reject": self._reject}
        how["on_planned"] = self._note_planned if is_watched else None
        if isinstance(checks, ActivityValidator):
            activities = ActivityPlanner(outbox, options, pulled, kind=self._request.to, **how)
            return activities.plan(rows, checks.check_activity, on_read)
        planner = Planner(outbox, options, pulled, **how)
        if self._columns.pulled is None:
            return planner.plan(rows, checks.check, on_read)
        exported = ExportedRows(rows, self._columns, checks, pulled, outbox.hasher)
        return planner.plan(exported, exported.check, on_read)

    def _note_planned(self, row: RowPlan) -> None:
        """In the results file, what needs no request; of a dry run, what would be sent too."""
        if self._report.view is not None:
            self._report.view.add(row)
        if self._results_file is not None and (self._request.dry_run or not row.sends):
            outcome = f"would_{row.outcome_shown}" if row.sends else row.outcome
            self._results_file.put(row.row_number, outcome, row.prospect_id, row.message)

    def _plan(self, rows: Input, checks: Validator) -> None:
        results = self._results_file
        with open_pulled(self._session.settings) as pulled:
            self._note_copy_age(pulled.complete_ms)
            with self._planned_view() as view:
                all_rows = results.copying(rows) if results else rows
                is_watched = bool(results or view)
                plan = self._plan_rows(all_rows, checks, pulled, is_watched=is_watched)
                self._planned = plan
            if plan.looks > 1 and self._options.rechecks and self._request.to == PROSPECTS:
                self._pages_of_scan = pulled.scan_pages
        self._report.notes += rows.notes
        if plan.unread and self._options.rules.restore:
            self._report.notes.append(
                f"{plural(plan.unread, 'row')}: what HiringCenter has now isn't known, so "
                "--restore puts nothing back there. Pull, then push again."
            )
        if plan.look_ups:  # what a lost outbox costs
            log = _log.warning if self._found.started_now else _log.info
            log("push.looks_first", look_ups=plan.look_ups, rows=plan.to_send)
            self._report.notes.append(
                "The outbox is new and doesn't know what was sent before: up to "
                f"{plan.look_ups:,} look-ups in HiringCenter come before the writes; what is "
                "already there isn't sent."
            )
        _log.info("push.planned", rows=plan.rows, to_send=plan.to_send, writes=plan.writes)

    @contextmanager
    def _planned_view(self) -> Iterator[PlanView | None]:
        """What a dry run shows and writes; its files are complete, or aren't there."""
        if not self._is_dry:
            yield None
            return
        settings = self._session.settings
        header = PlanHeader.new(
            self._options,
            self._outbox.hasher,
            scope=self._outbox.scope,
            base_url=settings.base_url,
            account=settings.account,
            title=self._request.title,
            planned_ms=self._began_ms,
            created_at=utc(self._session.now_ms()),
        )
        with ExitStack() as stack:
            view = self._files.open_view(stack, header, self._outbox.hasher)
            view.labels_merge = self._options.rules.labels_merge
            self._report.view = view
            yield view
            view.finish(self._files.named)

    def _note_copy_age(self, complete_ms: int | None) -> None:
        """How old the copy is that a plan shows, or that a push relies on which looks no one up."""
        looks_up = self._request.recheck
        if complete_ms is not None and (self._is_dry or not looks_up):
            self._copy_age_s = max(0.0, (self._began_ms - complete_ms) / 1000)
        if looks_up:
            return
        age = "there is no complete copy to compare with"
        if self._copy_age_s is not None:
            age = f"the last complete scan began {duration(self._copy_age_s)} earlier"
        note = f"No one is looked up before a change (--no-recheck); {age}."
        self._report.notes.append(note)

    def _check_changes(self) -> None:
        allowed, changes = self._request.max_changes, self._planned.to_send
        if allowed is not None and changes > allowed:
            if self._is_dry:
                note = f"A push would send nothing: --max-changes allows {plural(allowed, 'row')}."
                self._report.notes.append(note)
                return
            self._outbox.drop_planned(run_id=self._options.run_id)
            self._results.discard(self._options.run_id)
            raise TooManyChanges(changes=changes, allowed=allowed)


def _files_free() -> int:
    """How many more files and connections this process may open (`ulimit -n`)."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return _FILES_ENOUGH
    return allowed - len(list(Path("/dev/fd").iterdir()))
