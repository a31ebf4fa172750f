"""An undo: what one run has changed is put back, where nobody has edited it since.

It is a run of its own, with results and history; killed, it resumes when it is run again. It can be
undone like any other run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from connector.errors import UsageError
from connector.history import SENDING, RunRecord
from connector.settings import Settings
from connector.upsert.outbox.planner import PlanCounts, PushOptions
from connector.upsert.outbox.receipts import RowResult, Status
from connector.upsert.undoing import UndoPlan, plan_undo
from pipelines.destination.identity import destination_number
from pipelines.push.push_report import NOTEWORTHY_MAX, PushReport
from pipelines.push.push_run import OutboxRun, RunOutbox, opened_outbox
from pipelines.running.progress import ProgressOf
from pipelines.running.session import open_ledger
from pipelines.running.wording import eta, plural, utc

_DAY_MS = 86_400_000
_IN_ONE_WRITE = 5_000  # other processes wait for each
_LIST = "`hiringcenter runs` lists them."


@dataclass(frozen=True)
class UndoRequest:
    """run_id: whole, or an unambiguous prefix. dry_run: only count and list. force: put back what
    is known only from an older copy too, and look again at those whom an earlier undo left alone.
    """

    run_id: str
    dry_run: bool = False
    force: bool = False


def undo(
    settings: Settings,
    request: UndoRequest,
    progress_of: ProgressOf | None = None,
    on_planned: Callable[[str], None] = lambda _: None,
) -> PushReport:
    """Put back what a run has changed. on_planned: gets a line about what is about to be done.

    Raises:
        UsageError: the run can't be undone, or not here; nothing was sent.
        AlreadyRunning: it, or another one with the same key, is still running.
        BudgetError: the ledger can't be used; nothing was sent.
    """
    record = _run_to_undo(settings, request.run_id)
    with opened_outbox(settings, "undo", progress_of, dry_run=request.dry_run) as opened:
        return _UndoRun(opened, record, request, on_planned).run()


def _run_to_undo(settings: Settings, run_id: str) -> RunRecord:
    """The run as the history has it.

    Raises:
        UsageError: there is none, or it can't be undone any more, or never could.
    """
    with open_ledger(settings) as ledger:
        found = ledger.history.find(run_id)
    if not found:
        raise UsageError(f"There is no run {run_id!r}. {_LIST}")
    if len(found) > 1:
        ids = ", ".join(each.run_id for each in found)
        raise UsageError(f"Several runs begin with {run_id!r}: {ids}. Give more of the id.")
    (record,) = found
    if record.kind not in SENDING:
        raise UsageError(
            f"Run {record.run_id} is a {record.kind}, which changes nothing in HiringCenter, so "
            f"there is nothing to undo. `hiringcenter runs` lists pushes too."
        )
    days = min(settings.writes.undo_days, settings.writes.retention_days)
    if time.time_ns() // 1_000_000 - record.started_ms > days * _DAY_MS:
        raise UsageError(
            f"Run {record.run_id} began at {utc(record.started_ms)}, and what people were before a "
            f"run is kept for {plural(days, 'day')} (writes.undo_days), so it can't be undone any "
            "more. `hiringcenter runs` lists later ones."
        )
    return record


class _UndoRun(OutboxRun):
    """One undo: planned from the before-images, looked up, and put back."""

    def __init__(
        self,
        opened: RunOutbox,
        record: RunRecord,
        request: UndoRequest,
        on_planned: Callable[[str], None],
    ) -> None:
        session = opened.session
        settings = session.settings
        options = PushOptions(
            session.run_id,
            f"undo {record.run_id}",
            retry_total_s=settings.http.retry_total_s,
            retention_days=settings.writes.retention_days,
            destination=destination_number(settings),
        )
        super().__init__(opened, options)
        self._undone, self._force, self._on_planned = record, request.force, on_planned
        self._listed: list[RowResult] = []

    @property
    def _named(self) -> dict[str, str]:
        return {"source": f"run {self._undone.run_id}", "undoes": self._undone.run_id}

    def _plan_and_send(self) -> None:
        if self._is_dry:
            self._plan()
            return
        sender = self._make_sender()
        sender.recover()  # what the run itself left open is settled before it is undone
        self._outbox.drop_planned(source=self._options.source)
        self._plan()
        sender.send()

    def _plan(self) -> None:
        outbox, run_id = self._outbox, self._undone.run_id
        with outbox.database.read() as connection:
            plan = plan_undo(
                connection,
                outbox,
                self._images,
                undoes=run_id,
                run_id=self._options.run_id,
                force=self._force,
                labels_merge=self._options.rules.labels_merge,
            )
        if plan.already and not plan.writes:
            by = ", ".join(sorted(plan.already))
            self._report.notes.append(
                f"Run {run_id} is already undone, by run {by}: `hiringcenter runs {by}` shows what "
                "that left alone. --force looks at those people again."
            )
            plan = _at_rest(plan)
        elif not plan.writes and not plan.results:
            self._report.notes.append(
                f"Run {run_id} has changed nothing with this account's key: nothing to undo."
            )
        self._count(plan)
        if self._is_dry:
            self._listed = plan.listed
            self._report.noteworthy = plan.listed[:NOTEWORTHY_MAX]
            return
        at_ms = int(self._clock.wall_s() * 1000)  # for people
        for start in range(0, max(len(plan.writes), len(plan.results)), _IN_ONE_WRITE):
            end = start + _IN_ONE_WRITE
            with outbox.database.write() as connection:
                outbox.plan(connection, plan.writes[start:end], self._clock.now_ms())
                own = plan.results[start:end]
                self._results.put(connection, self._options.run_id, own, at_ms)

    def _count(self, plan: UndoPlan) -> None:
        people = len(plan.writes)
        counts = self._planned = PlanCounts(
            rows=people + len(plan.results),
            to_send=people,
            would_update=people,
            prospect_writes=people,
            writes=people,
        )
        for result in plan.results:
            counts.outcomes[result.status] += 1
        self._listed = plan.listed
        if people and not self._is_dry:
            requests = self._requests_planned
            self._on_planned(
                f"Undoing run {self._undone.run_id}: {plural(people, 'prospect')} to look up and "
                f"put back, {plural(requests, 'request')} at most: {eta(self._eta_s(requests))}."
            )

    @property
    def _requests_planned(self) -> int:
        return 2 * self._planned.writes  # a look, and what is put back

    def _summary(self, error: Any) -> dict[str, Any]:
        summary = super()._summary(error)
        summary["cannot_undo"] = len(self._listed)
        if self._is_dry:
            summary["stays"] = [
                {
                    "row_number": each.row_number,
                    "prospect_id": each.prospect_id,
                    "why": each.message,
                }
                for each in self._listed
            ]
        return summary


def _at_rest(plan: UndoPlan) -> UndoPlan:
    """What an earlier undo has listed isn't listed again once there is nothing left to put back."""
    results = [each._replace(status=Status.UNCHANGED) for each in plan.results]
    return UndoPlan(results=results, already=plan.already)
