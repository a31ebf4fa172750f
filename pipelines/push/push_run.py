"""One push: rows read, checked, planned and sent; each has its outcome, and the counts add up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from connector.budget import Lane, locks
from connector.budget.database import Database
from connector.budget.locks import Held
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
from connector.upsert.inputs import Input
from connector.upsert.outbox.outbox import Outbox
from connector.upsert.outbox.pairing import OpenOutbox
from connector.upsert.outbox.planner import PlanCounts, PushOptions
from connector.upsert.outbox.receipts import ResultStore, RowResult, Status
from connector.upsert.rows.column_mapping import ColumnMapping
from connector.upsert.rows.rejects import RejectsFile, WrittenRejects
from connector.upsert.rows.row_checks import Reject, Validator
from connector.upsert.sending.api import KeyMemory
from connector.upsert.sending.pace import Pace, files_free, in_flight_for
from connector.upsert.sending.pushing import Push
from connector.upsert.sending.sending import Watcher
from pipelines.destination.places import destination_label, destination_number
from pipelines.progress import NoProgress, Progress, ProgressOf, Standing
from pipelines.push.pulled_prospects import open_pulled, rows_sent_before
from pipelines.push.push_input import PushRequest, open_rows, rejects_path
from pipelines.push.push_outbox import begin_sending, outbox_of, scope_of
from pipelines.push.push_report import NOTEWORTHY_MAX, PushReport, counted, forecast
from pipelines.push.push_results import land_after_push
from pipelines.session import Session, open_session

_log = get_logger("push")
_LIKELY_LATENCY_S = 0.3
_FILES_KEPT_FREE = 24
"""For the rejects, and for the destination when the results are landed."""
_HEALTHY = "The outbox is healthy: --new-ledger does nothing. It may stay, or be left out."


def push(
    settings: Settings,
    request: PushRequest,
    progress_of: ProgressOf | None = None,
) -> PushReport:
    """Push the rows of `request` to the API.

    Raises:
        UsageError: the input, its mapping or a setting can't be used; nothing was sent.
        AlreadyRunning: another push runs with the same key.
        BudgetError: the ledger can't be used; nothing was sent.
    """
    with open_session(settings, kind="push") as session, ExitStack() as stack:
        opened = outbox_of(session, new_ledger=request.new_ledger, dry_run=request.dry_run)
        stack.callback(opened.close)
        if opened.knows_nothing and not request.new_ledger:
            _refuse_without_memory(settings, opened.database)
        database = opened.database
        scope = scope_of(session, database)
        held = None
        if not request.dry_run:
            name = f"push with the API key {scope:015x}"
            held = stack.enter_context(locks.hold(database, name, run_id=session.run_id))
            begin_sending(session, database)
            label = destination_label(settings)
            session.history.start(session.run_id, "push", label, lock_name=name)
        progress = progress_of(session) if progress_of else NoProgress()
        stack.callback(progress.stop)
        outbox = Outbox(database, scope)
        work = _Push(session, request, outbox, opened, held, progress)
        if request.new_ledger and not opened.started_now:
            work.note(_HEALTHY)
        return work.run()


def _refuse_without_memory(settings: Settings, outbox: Database) -> None:
    """A state directory that was deleted or left behind: its pushes can be seen at the destination,
    and would all be sent once more.

    Raises:
        OutboxLost: so it is.
    """
    sent = rows_sent_before(settings)
    if sent:
        reason = f"knows of no push, and {destination_label(settings)} has {sent:,} rows of some"
        raise OutboxLost(outbox=outbox.name, reason=reason)


class _Push:
    """The steps of one push, in order, and what they leave for its report."""

    def __init__(
        self,
        session: Session,
        request: PushRequest,
        outbox: Outbox,
        opened: OpenOutbox,
        held: Held | None,
        progress: Progress,
    ) -> None:
        self._session, self._request, self._outbox = session, request, outbox
        self._held, self._progress = held, progress
        self._began_s = session.clock.monotonic_s()
        self._plan = PlanCounts()
        self._rejects: RejectsFile | None = None
        self._watcher = Watcher(late_reject=self._reject, progress=self._moved)
        self._report = PushReport()
        now_ms = session.budget.steady_clock.now_s() * 1000
        self._looks_first = opened.look_first_ms > now_ms
        self._is_new_outbox = opened.started_now
        self._push = Push(outbox, self._options(), clock=session.budget.steady_clock)
        destination = destination_number(session.settings)
        self._results = ResultStore(outbox.database, outbox.scope, destination)

    def _options(self) -> PushOptions:
        settings, request = self._session.settings, self._request
        return PushOptions(
            self._session.run_id,
            request.source,
            request.mode,
            request.force,
            self._looks_first,
            request.allow_shared_contact,
            source_path=request.place,
            retry_total_s=settings.http.retry_total_s,
            retention_days=settings.writes.retention_days,
            destination=destination_number(settings),
        )

    def note(self, text: str) -> None:
        """Something about this run, for people."""
        self._report.notes.append(text)

    def run(self) -> PushReport:
        """The report, whatever happened; also noted in the run history."""
        try:
            self._work()
        except ConnectorError as error:
            self._finish(error)
            if isinstance(error, RunError):
                self._land()
        except Exception as error:  # noqa: BLE001 - what was sent is told whatever fails
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

    def _work(self) -> None:
        with open_rows(self._session.settings, self._request) as rows:
            self._report.notes.append(f"{rows.name}: {rows.description}")
            validator = self._validator(rows)
            if self._request.dry_run and self._request.rejects is None:
                self._make_plan(rows, validator)
                return
            with self._rejects_file(rows):
                self._make_plan(rows, validator)
                if not self._request.dry_run:
                    self._check_changes()
                    self._send()

    def _validator(self, rows: Input) -> Validator:
        request, settings = self._request, self._session.settings
        mapping = ColumnMapping.load(request.mapping) if request.mapping else None
        plan = ColumnMapping.match(
            rows.columns,
            mapping,
            request.ignore_unknown,
            place=rows.name,
            from_table=rows.from_table,
        )
        self._report.notes += plan.notes
        return Validator(
            plan,
            default_region=settings.writes.default_region,
            clear_empty=request.clear_empty,
            mode=request.mode,
        )

    @contextmanager
    def _rejects_file(self, rows: Input) -> Iterator[None]:
        settings = self._session.settings
        path = rejects_path(self._request, settings)
        rejects = RejectsFile(
            path,
            rows.columns,
            source=self._request.source,
            written=WrittenRejects(settings.state_dir / "rejects-written"),
            omits_cells=rows.omits_cells,
            delimiter=rows.delimiter,
        )
        try:
            with rejects:
                self._rejects = rejects
                yield
        finally:
            self._report.notes += _rejects_notes(rejects, path)

    def _reject(self, reject: Reject) -> None:
        if self._rejects is not None:
            self._rejects.add(reject)
        elif len(self._report.noteworthy) < NOTEWORTHY_MAX:  # a dry run stores no results
            told = RowResult(reject.row_number, Status.REJECTED, None, redact(reject.public_reason))
            self._report.noteworthy.append(told)

    def _make_plan(self, rows: Input, validator: Validator) -> None:
        with open_pulled(self._session.settings) as pulled:
            self._plan = self._push.plan(
                rows,
                validator.check,
                pulled,
                dry_run=self._request.dry_run,
                on_reject=self._reject,
                on_read=self._read,
            )
        self._report.notes += rows.notes
        self._tell_look_ups()
        _log.info(
            "push.planned",
            rows=self._plan.rows,
            to_send=self._plan.to_send,
            writes=self._plan.writes,
        )

    def _read(self, rows: int) -> None:
        stop = self._session.stop
        if stop.is_set():
            raise Interrupted(stop.signal_number)
        self._progress.show(Standing("row", rows))

    def _tell_look_ups(self) -> None:
        """Before the first request: what a lost outbox costs."""
        if self._plan.look_ups:
            tell = _log.warning if self._is_new_outbox else _log.info
            tell("push.looks_first", look_ups=self._plan.look_ups, rows=self._plan.to_send)
            self._report.notes.append(
                f"The outbox is new and doesn't know what was sent before: at most "
                f"{self._plan.look_ups:,} look-ups in HiringCenter come before the writes; what is "
                "there already is not sent."
            )

    def _check_changes(self) -> None:
        allowed = self._request.max_changes
        if allowed is not None and self._plan.to_send > allowed:
            self._push.discard()
            raise TooManyChanges(changes=self._plan.to_send, allowed=allowed)

    def _send(self) -> None:
        session, settings = self._session, self._session.settings
        assert self._held is not None
        self._push.send(
            session.client,
            self._held,
            keys=KeyMemory(settings.writes.key_memory_s, settings.http.request_timeout_s),
            pace=Pace(self._rate_per_s(), self._most_in_flight()),
            watcher=self._watcher,
        )

    def _most_in_flight(self) -> int:
        """As the settings say, and as this process may open connections."""
        wanted = self._session.settings.writes.max_in_flight
        room = files_free() - _FILES_KEPT_FREE
        if room < wanted:
            _log.warning("push.few_open_files", in_flight=max(1, room), instead_of=wanted)
        return max(1, min(wanted, room))

    def _rate_per_s(self) -> float:
        return max(each.limit / each.length_s for each in self._session.settings.rate_limits)

    def _moved(self, done: int) -> None:
        left = self._requests_planned - self._session.client.requests
        self._progress.show(Standing("row", done, self._plan.to_send, requests_left=max(0, left)))

    @property
    def _requests_planned(self) -> int:
        looks = self._plan.prospect_writes if self._request.mode == "update-only" else 0
        return self._plan.writes + max(looks, self._plan.look_ups)

    def _finish(self, error: ConnectorError | None) -> None:
        session = self._session
        summary = self._summary(error)
        self._report.summary, self._report.error = summary, error
        if self._request.dry_run:
            return
        message = redact(str(error)) if error else None
        try:
            with suppress(OutboxLost):
                self._report.noteworthy = self._results.noteworthy(session.run_id, NOTEWORTHY_MAX)
                self._tell_left_behind()
            session.history.finish(session.run_id, summary["status"], summary, message)
        except BudgetError as failure:  # a full disk, say: what was sent is told all the same
            _log.warning("push.not_noted", error=redact(str(failure)))
            error = error or failure
            self._report.summary, self._report.error = self._summary(error), error

    def _summary(self, error: ConnectorError | None) -> dict[str, Any]:
        session = self._session
        not_sent = self._plan.to_send - self._watcher.outcomes.total()
        summary: dict[str, Any] = {
            "run_id": None if self._request.dry_run else session.run_id,  # no run is kept of it
            "status": status_of(error),
            "source": self._request.title,
            **({"job": self._request.job} if self._request.job else {}),
            **counted(self._plan.outcomes + self._watcher.outcomes, not_sent),
            "requests": session.client.requests,
            "seconds": round(session.clock.monotonic_s() - self._began_s, 3),
            "waited_s": round(session.budget.waited_s, 3),
        }
        if self._request.dry_run:
            requests = self._requests_planned
            summary |= forecast(self._plan, requests=requests, eta_s=self._eta_s(requests))
        if self._plan.look_ups:
            summary["look_ups"] = self._plan.look_ups
        if self._watcher.recovered:
            summary["recovered"] = self._watcher.recovered
        if self._rejects is not None and self._rejects.failure is not None:
            summary["rejects_error"] = self._rejects.failure.strerror or "can't be written"
        elif self._rejects is not None and self._rejects.count:
            summary["rejects_file"] = str(self._rejects.path)
        return summary | ({"error": error_facts(error)} if error else {})

    def _eta_s(self, requests: int) -> float:
        if not requests:
            return 0.0
        session, most = self._session, self._most_in_flight()
        latency_s = session.client.latency_s or _LIKELY_LATENCY_S
        width = in_flight_for(latency_s, self._rate_per_s(), most)
        return session.budget.forecast(requests, Lane.PUSH, in_flight=width).done_in_s

    def _tell_left_behind(self) -> None:
        for source, count in self._outbox.left_behind(self._session.run_id).items():
            self._report.notes.append(
                f"{count} writes of an earlier push of {source} were never sent; push it again."
            )

    def _forget(self) -> None:
        if self._request.dry_run:
            return
        dropped = bool(self._plan.writes or self._watcher.recovered)
        try:
            self._push.forget(bodies_dropped=dropped)
        except BudgetError as error:  # the next push forgets more
            _log.warning("push.nothing_forgotten", error=redact(str(error)))

    def _land(self) -> None:
        if self._request.dry_run:
            return
        try:
            if not land_after_push(self._session):
                self._report.notes.append("A pull is running: it, or the next, lands the results.")
        except Exception as error:  # noqa: BLE001 - what was pushed is told whatever fails now
            if not isinstance(error, ConnectorError):
                _log.debug("push.not_landed", exc_info=error)
                error = Unexpected(error, doing="the results were landed")
            self.note(f"The results wait for the next pull: {redact(str(error))}")


def _rejects_notes(rejects: RejectsFile, asked: Path) -> list[str]:
    """What people should know about the rejects file itself."""
    if rejects.failure is not None:
        note = (
            f"The rejects file {asked} can't be written ({rejects.failure.strerror}): its "
            f"{rejects.count} rows are listed by `hiringcenter runs` alone. Make room or choose "
            "another --rejects, then push again: they are rejected again."
        )
    elif rejects.count and rejects.path != asked:
        note = (
            f"{asked} was changed since it was written, so it stays as it is; the rejects of this "
            f"push are in {rejects.path}."
        )
    else:
        return []
    return [note]
