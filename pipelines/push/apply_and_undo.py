"""Runs that send what is known before they begin: what a plan file says, or what a run has changed.

An apply sends exactly a plan, by as many runs as it takes. An undo puts back what one run has
changed, unless it was edited since; it is a run of its own, and can be undone like any other.
Killed, both resume when they are run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connector.clock import wall_ms
from connector.errors import ConnectorError, UsageError
from connector.runs import SENDING, RunRecord
from connector.settings import Settings
from connector.upsert.applying import AppliedPlans, PlanApplier, refused_by
from connector.upsert.outbox.person_plan import PushOptions
from connector.upsert.outbox.planner import PlanBook, PlanCounts
from connector.upsert.outbox.receipts import RowResult, Status
from connector.upsert.plan_file import PlanFile, open_plan
from connector.upsert.rows.row_files import RejectsFile, WrittenFiles
from connector.upsert.undoing import UndoPlan, plan_undo
from pipelines.push.pulled_prospects import open_pulled
from pipelines.push.push_input import PushRequest, rejects_path
from pipelines.push.push_report import NOTEWORTHY_MAX, PushReport
from pipelines.push.push_run import OutboxRun, RunOutbox, opened_outbox, options_of
from pipelines.running.progress import ProgressOf, eta, plural, utc
from pipelines.running.session import open_ledger

MAX_AGE_S = 7 * 86_400.0


@dataclass(frozen=True)
class ApplyRequest:
    """plan: the file. max_age_s: an older plan is refused. rejects: file for rows that weren't
    applied; None: next to the plan."""

    plan: Path
    max_age_s: float = MAX_AGE_S
    rejects: Path | None = None


def apply(
    settings: Settings, request: ApplyRequest, progress_of: ProgressOf | None = None
) -> PushReport:
    """Send what a plan file says, and nothing else. Raises what `opened_outbox` does, and then
    nothing was sent; what is wrong with the plan is the report's error."""
    with opened_outbox(settings, "apply", progress_of) as opened:
        return _ApplyRun(opened, request).run()


class _ApplyRun(OutboxRun):
    """One run that applies a plan: its rows are compared with what is known, and sent."""

    def __init__(self, opened: RunOutbox, request: ApplyRequest) -> None:
        session = opened.session
        self._own = options_of(session)
        super().__init__(opened, PushOptions(source=f"plan {request.plan}", **self._own))
        self._request, self._title = request, str(request.plan)
        self._applied = AppliedPlans(self._outbox)

    @property
    def _named(self) -> dict[str, str]:
        return {"source": self._title, "plan_file": str(self._request.plan)}

    def _plan_and_send(self) -> None:
        outbox, settings = self._outbox, self._session.settings
        with open_plan(self._request.plan, outbox.hasher) as plan, ExitStack() as files:
            header = plan.header
            plan.check_account(outbox.scope, settings.base_url)
            self._title = header.title
            earlier = self._applied.runs(header.plan_id)
            if done := [run_id for run_id, is_done in earlier.items() if is_done]:
                self._say_already_applied(plan, done[0], files)
                return
            plan.check_age(self._began_ms, self._request.max_age_s)
            looks_first = self._found.look_first_ms > self._began_ms
            options = header.push_options(looks_first=looks_first, **self._own)
            self._options = options.knowing(outbox.learnt())
            sender = self._make_sender()
            self._applied.begin(header.plan_id, self._options.run_id)
            sender.recover()  # what an earlier run of this plan left open counts as done
            for run_id in earlier:
                outbox.drop_planned(run_id=run_id)
            applier = self._store_plan(plan, list(earlier))
            self._open_rejects(files, applier.columns, header.source)
            for reject in applier.rejects:
                self._reject(reject)
            sender.send()
        self._applied.end(header.plan_id, self._options.run_id)

    def _say_already_applied(self, plan: PlanFile, run_id: str, files: ExitStack) -> None:
        """What that run has refused stays refused: it counts, and is in a rejects file, as then."""
        counts = self._planned = PlanCounts(rows=plan.counts.get("rows", 0))
        refused, columns, rejects = refused_by(run_id, self._outbox, plan)
        counts.outcomes += refused
        if rejects:
            self._open_rejects(files, columns, plan.header.source)
            for reject in rejects:
                self._reject(reject)
        counts.outcomes[Status.REJECTED] += plan.counts.get("rejected", 0)
        counts.outcomes[Status.UNCHANGED] = counts.rows - counts.outcomes.total()
        self._report.notes.append(
            f"{self._request.plan} is already applied, by run {run_id}: nothing was sent. "
            f"`hiringcenter runs {run_id}` shows its results."
        )

    def _store_plan(self, plan: PlanFile, earlier: list[str]) -> PlanApplier:
        run_id = self._session.run_id
        try:
            with open_pulled(self._session.settings) as pulled:
                applier = PlanApplier(self._outbox, plan, self._options, pulled, earlier=earlier)
                self._planned = applier.store(self._show_read)
        except ConnectorError:
            self._outbox.drop_planned(run_id=run_id)
            self._results.discard(run_id)
            raise
        if rejected := plan.counts.get("rejected", 0):
            self._report.notes.append(
                f"{plural(rejected, 'row')} rejected when the plan was made; plan again once fixed."
            )
        return applier

    def _open_rejects(self, files: ExitStack, columns: Iterable[str], source: str) -> None:
        """The file for rows in conflict, and for those that HiringCenter refuses."""
        settings, plan = self._session.settings, self._request.plan
        request = PushRequest(file=str(plan), rejects=self._request.rejects)
        rejects = RejectsFile(
            rejects_path(settings, request),
            list(columns),
            source=source,
            written=WrittenFiles(settings.state_dir / "rejects-written"),
            omits_cells=True,
        )
        self._rejects = rejects
        self._keep(files, rejects)

    @property
    def _requests_planned(self) -> int:
        plan = self._planned
        return plan.writes + plan.prospect_writes  # each person is looked at before the write


# --- undo ----------------------------------------------------------------------------------------

_DAY_MS = 86_400_000
_RUNS_LOOKED_AT = 1_000


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
        UsageError: the run can't be undone; and what `opened_outbox` raises. Nothing was sent.
    """
    record = _run_to_undo(settings, request.run_id)
    with opened_outbox(settings, "undo", progress_of, dry_run=request.dry_run) as opened:
        return _UndoRun(opened, record, request, on_planned).run()


def _run_to_undo(settings: Settings, run_id: str) -> RunRecord:
    """The run as the run history has it.

    Raises:
        UsageError: there is none, or it can't be undone any more, or never could.
    """
    with open_ledger(settings) as ledger:
        record = ledger.run_named(run_id)
    if record.kind not in SENDING:
        raise UsageError(
            f"Run {record.run_id} is a {record.kind}, which changes nothing in HiringCenter, so "
            f"there is nothing to undo. `hiringcenter runs` lists pushes too."
        )
    days = min(settings.writes.undo_days, settings.writes.retention_days)
    if wall_ms() - record.started_ms > days * _DAY_MS:
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
        source = f"undo {record.run_id}"
        super().__init__(opened, PushOptions(source=source, **options_of(opened.session)))
        self._undone, self._force, self._on_planned = record, request.force, on_planned
        self._listed: list[RowResult] = []
        self._contacts = 0  # emails and phones that are put back

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
        if plan.already and not plan.writes and self._has_reported:
            by = ", ".join(sorted(plan.already))
            self._report.notes.append(
                f"Run {run_id} is already undone, by run {by}: `hiringcenter runs {by}` shows what "
                "that left alone. --force looks at those people again."
            )
            plan = _at_rest(plan)
        elif not plan.writes and not plan.results:
            self._report.notes.append(
                f"Run {run_id} changed nothing in this account: nothing to undo."
            )
        self._book_plan(plan)
        self._listed, people = plan.listed, len(plan.writes)
        if self._is_dry:
            self._report.noteworthy = plan.listed[:NOTEWORTHY_MAX]
        elif people:
            requests = self._requests_planned
            self._on_planned(
                f"Undoing run {self._undone.run_id}: {plural(people, 'prospect')} to look up and "
                f"put back, {plural(requests, 'request')}: {eta(self._eta_s(requests))}. A person "
                "whose email or phone was edited since takes up to two more."
            )

    @property
    def _has_reported(self) -> bool:
        """Whether an undo of this run has ended: one that was killed hasn't reported whom it
        left alone."""
        recent = self._session.runs.recent(_RUNS_LOOKED_AT)
        ended = [each.summary.get("undoes") for each in recent if each.status == "ok"]
        return self._undone.run_id in ended

    def _book_plan(self, plan: UndoPlan) -> None:
        book = PlanBook(self._outbox, self._options, dry_run=self._is_dry)
        for write in plan.writes:
            book.send([write])
        for result in plan.results:
            book.end(result)
        book.store()
        self._planned, self._contacts = book.counts, plan.contacts
        self._planned.rows = len(plan.writes) + len(plan.results)
        self._planned.would_update = len(plan.writes)

    @property
    def _requests_planned(self) -> int:
        return 2 * self._planned.writes + self._contacts  # a look, and what is put back

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
