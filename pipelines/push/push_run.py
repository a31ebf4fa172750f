"""One push: rows read, checked, planned and sent; each has its outcome, and the counts add up."""

from __future__ import annotations

import resource
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from connector.budget import Lane, locks
from connector.budget.locks import HeldLock
from connector.errors import (
    BudgetError,
    ConnectorError,
    Interrupted,
    OutboxLost,
    RunError,
    TooManyChanges,
    Unexpected,
    status_of,
)
from connector.logs import error_facts, get_logger, redact
from connector.settings import Settings
from connector.upsert.delivery import KeyMemory
from connector.upsert.inputs import Input
from connector.upsert.outbox.outbox import Outbox
from connector.upsert.outbox.pairing import OpenOutbox
from connector.upsert.outbox.planner import PlanCounts, Planner, PushOptions
from connector.upsert.outbox.receipts import ResultStore, RowResult, Status
from connector.upsert.rows.column_mapping import ColumnMapping, match_columns
from connector.upsert.rows.rejects import RejectsFile, WrittenRejects
from connector.upsert.rows.row_checks import Reject, Validator
from connector.upsert.sending import Sender, in_flight_for
from pipelines.destination.identity import destination_label, destination_number
from pipelines.pull.push_results import land_after_push
from pipelines.push.pulled_prospects import open_pulled, rows_sent_before
from pipelines.push.push_input import PushRequest, open_rows, rejects_path
from pipelines.push.push_report import NOTEWORTHY_MAX, PushReport, counted, forecast
from pipelines.running.account_outbox import begin_sending, outbox_of, scope_of
from pipelines.running.progress import Progress, ProgressOf, ProgressState
from pipelines.running.session import Session, open_session
from pipelines.running.wording import plural

_log = get_logger("push")
_LIKELY_LATENCY_S = 0.3
_SCRUBBED_BYTES = 64 * 1024**2  # a larger outbox isn't scrubbed
_DAY_MS = 86_400_000
_FILES_KEPT_FREE = 24  # for the rejects, and for the destination when the results are landed
_FILES_ENOUGH = 1_024


def push(
    settings: Settings, request: PushRequest, progress_of: ProgressOf | None = None
) -> PushReport:
    """Push the rows of `request` to the API.

    Raises:
        UsageError: the input, its mapping, a setting or the outbox can't be used; nothing was sent.
        AlreadyRunning: another push runs with the same key.
        BudgetError: the ledger can't be used; nothing was sent.
    """
    with open_session(settings, kind="push") as session, ExitStack() as stack:
        opened = outbox_of(session, new_ledger=request.new_ledger, dry_run=request.dry_run)
        stack.callback(opened.close)
        database, label, held = opened.database, destination_label(settings), None
        if opened.knows_nothing and not request.new_ledger and (sent := rows_sent_before(settings)):
            # the state directory was deleted or left behind: everything would be sent again
            reason = f"knows of no push, but {label} has {sent:,} rows from earlier pushes"
            raise OutboxLost(outbox=database.name, reason=reason)
        scope = scope_of(session, database)
        if not request.dry_run:
            name = f"push with the API key {scope:015x}"
            held = stack.enter_context(locks.take_lock(database, name, run_id=session.run_id))
            begin_sending(session, database)
            session.history.start(session.run_id, "push", label, lock_name=name)
        progress = progress_of(session) if progress_of else Progress()
        stack.callback(progress.stop)
        outbox = Outbox(database, scope)
        return _PushRun(session, request, outbox, opened, held, progress).run()


class _PushRun:
    """The steps of one push, in order, and what they collect for its report."""

    def __init__(
        self,
        session: Session,
        request: PushRequest,
        outbox: Outbox,
        opened: OpenOutbox,
        held: HeldLock | None,
        progress: Progress,
    ) -> None:
        self._session, self._request, self._outbox = session, request, outbox
        self._opened, self._held, self._progress = opened, held, progress
        self._began_s = session.clock.monotonic_s()
        self._rejects: RejectsFile | None = None
        self._report = PushReport()
        self._planned = PlanCounts()
        self._sender: Sender | None = None
        settings, self._clock = session.settings, session.budget.steady_clock
        self._began_ms = self._clock.now_ms()
        self._options = PushOptions(
            session.run_id,
            request.source,
            request.mode,
            request.force,
            opened.look_first_ms > self._began_ms,
            request.allow_shared_contact,
            source_path=request.origin,
            retry_total_s=settings.http.retry_total_s,
            retention_days=settings.writes.retention_days,
            destination=destination_number(settings),
        )
        self._results = ResultStore(outbox.database, outbox.scope, self._options.destination)

    def run(self) -> PushReport:
        """Run the push. Whatever happens, its report is returned and noted in the run history."""
        if self._request.new_ledger and not self._opened.started_now:
            self._report.notes.append("The outbox is intact, so --new-ledger has no effect.")
        try:
            self._read_and_send()
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

    def _read_and_send(self) -> None:
        request, settings = self._request, self._session.settings
        with open_rows(settings, request) as rows:
            self._report.notes.append(f"{rows.name}: {rows.description}")
            validator = self._validator(rows)
            if request.dry_run and request.rejects is None:
                self._plan(rows, validator)
                return
            path = rejects_path(request, settings)
            rejects = RejectsFile(
                path,
                rows.columns,
                source=request.source,
                written=WrittenRejects(settings.state_dir / "rejects-written"),
                omits_cells=rows.omits_cells,
                delimiter=rows.delimiter,
            )
            try:
                with rejects:
                    self._rejects = rejects
                    self._plan(rows, validator)
                    if not request.dry_run:
                        self._send()
            finally:
                self._report.notes += _rejects_notes(rejects, path)

    def _validator(self, rows: Input) -> Validator:
        request = self._request
        mapping = ColumnMapping.load(request.mapping) if request.mapping else None
        plan = match_columns(
            rows.columns,
            mapping,
            ignore_unknown=request.ignore_unknown,
            location=rows.name,
            from_table=rows.from_table,
        )
        self._report.notes += plan.notes
        return Validator(
            plan,
            default_region=self._session.settings.writes.default_region,
            clear_empty=request.clear_empty,
            mode=request.mode,
        )

    def _reject(self, reject: Reject) -> None:
        if self._rejects is not None:
            self._rejects.add(reject)
        elif len(self._report.noteworthy) < NOTEWORTHY_MAX:  # a dry run stores no results
            reason = redact(reject.public_reason)
            result = RowResult(reject.row_number, Status.REJECTED, None, reason)
            self._report.noteworthy.append(result)

    def _plan(self, rows: Input, validator: Validator) -> None:
        dry_run, clock = self._request.dry_run, self._clock
        with open_pulled(self._session.settings) as pulled:
            planner = Planner(self._outbox, self._options, pulled, dry_run=dry_run, clock=clock)
            plan = self._planned = planner.plan(
                rows, validator.check, on_reject=self._reject, on_read=self._show_read
            )
        self._report.notes += rows.notes
        if plan.look_ups:  # what a lost outbox costs
            log = _log.warning if self._opened.started_now else _log.info
            log("push.looks_first", look_ups=plan.look_ups, rows=plan.to_send)
            self._report.notes.append(
                "The outbox is new and doesn't know what was sent before: up to "
                f"{plan.look_ups:,} look-ups in HiringCenter come before the writes; what is "
                "already there isn't sent."
            )
        _log.info("push.planned", rows=plan.rows, to_send=plan.to_send, writes=plan.writes)

    def _show_read(self, rows: int) -> None:
        stop = self._session.stop
        if stop.is_set():
            raise Interrupted(stop.signal_number)
        self._progress.show(ProgressState("row", rows))

    def _send(self) -> None:
        settings, client = self._session.settings, self._session.client
        allowed, changes = self._request.max_changes, self._planned.to_send
        if allowed is not None and changes > allowed:
            self._outbox.drop_planned(run_id=self._options.run_id)
            self._results.discard(self._options.run_id)
            raise TooManyChanges(changes=changes, allowed=allowed)
        assert self._held is not None
        most, rate_per_s = self._most_in_flight(), self._rate_per_s()
        self._sender = Sender(
            self._outbox,
            self._options,
            client,
            self._held,
            keys=KeyMemory(settings.writes.key_memory_s, settings.http.request_timeout_s),
            clock=self._clock,
            began_ms=self._began_ms,
            width=lambda: in_flight_for(client.latency_s, rate_per_s, most),
            on_reject=self._reject,
            on_progress=self._show_sent,
        )
        self._sender.send()

    def _show_sent(self, rows: int) -> None:
        left = max(0, self._requests_planned - self._session.client.requests)
        to_send = self._planned.to_send
        self._progress.show(ProgressState("row", rows, to_send, requests_left=left))

    @property
    def _requests_planned(self) -> int:
        plan = self._planned
        looks = plan.prospect_writes if self._request.mode == "update-only" else 0
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
        if self._request.dry_run:
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
                    f"{count} writes of an earlier push of {source} were never sent; push it again."
                    for source, count in self._outbox.left_behind(session.run_id).items()
                ]
            session.history.finish(
                session.run_id, report.summary["status"], report.summary, message
            )
        except BudgetError as failure:  # a full disk, say: what was sent is reported all the same
            _log.warning("push.not_noted", error=redact(str(failure)))
            error = error or failure
            report.summary, report.error = self._summary(error), error

    def _summary(self, error: ConnectorError | None) -> dict[str, Any]:
        session, request, plan = self._session, self._request, self._planned
        sent = self._sender.outcomes if self._sender else Counter[Status]()
        rejects = self._rejects
        summary: dict[str, Any] = {
            "run_id": None if request.dry_run else session.run_id,  # no run is kept of it
            "status": status_of(error),
            "source": request.title,
            **({"job": request.job} if request.job else {}),
            **counted(plan.outcomes + sent, not_sent=plan.to_send - sent.total()),
            "requests": session.client.requests,
            "seconds": round(session.clock.monotonic_s() - self._began_s, 3),
            "waited_s": round(session.budget.waited_s, 3),
        }
        if request.dry_run:
            requests = self._requests_planned
            summary |= forecast(plan, requests=requests, eta_s=self._eta_s(requests))
        if plan.look_ups:
            summary["look_ups"] = plan.look_ups
        if self._sender and self._sender.recovered:
            summary["recovered"] = self._sender.recovered
        if rejects is not None and rejects.failure is not None:
            summary["rejects_error"] = rejects.failure.strerror or "can't be written"
        elif rejects is not None and rejects.count:
            summary["rejects_file"] = str(rejects.path)
        return summary | ({"error": error_facts(error)} if error else {})

    def _eta_s(self, requests: int) -> float:
        if not requests:
            return 0.0
        latency_s = self._session.client.latency_s or _LIKELY_LATENCY_S
        width = in_flight_for(latency_s, self._rate_per_s(), self._most_in_flight())
        return self._session.budget.forecast(requests, Lane.PUSH, in_flight=width).done_in_s

    def _land(self) -> None:
        if self._request.dry_run:
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
        if self._request.dry_run:
            return
        path = self._outbox.database.path
        has_dropped_bodies = self._planned.writes or (self._sender and self._sender.recovered)
        try:
            self._outbox.forget(self._began_ms - self._options.retention_days * _DAY_MS)
            if has_dropped_bodies and path and path.stat().st_size <= _SCRUBBED_BYTES:
                self._outbox.database.scrub()  # rewritten pages may still hold some
        except BudgetError as error:  # the next push tries again
            _log.warning("push.nothing_forgotten", error=redact(str(error)))


def _files_free() -> int:
    """How many more files and connections this process may open (`ulimit -n`)."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return _FILES_ENOUGH
    return allowed - len(list(Path("/dev/fd").iterdir()))


def _rejects_notes(rejects: RejectsFile, asked: Path) -> list[str]:
    """Problems with the rejects file itself."""
    if rejects.failure is not None:
        note = (
            f"The rejects file {asked} can't be written ({rejects.failure.strerror}): its "
            f"{rejects.count} rows are listed only by `hiringcenter runs`. Free some space or "
            "choose another --rejects, then push again: they are rejected again."
        )
    elif rejects.count and rejects.path != asked:
        note = (
            f"{asked} was changed since it was written, so it is left alone; the rejects of this "
            f"push are in {rejects.path}."
        )
    else:
        return []
    return [note]
