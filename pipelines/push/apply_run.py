"""An apply: what a plan file says is sent exactly so, by as many runs as it takes."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connector.errors import ConnectorError
from connector.settings import Settings
from connector.upsert.applying import AppliedPlans, PlanApplier
from connector.upsert.outbox.planner import PlanCounts, PushOptions
from connector.upsert.outbox.receipts import Status
from connector.upsert.plan_file import PlanFile, open_plan
from connector.upsert.rows.row_files import RejectsFile, WrittenFiles
from pipelines.destination.identity import destination_number
from pipelines.push.push_input import PushRequest, rejects_path
from pipelines.push.push_report import PushReport
from pipelines.push.push_run import OutboxRun, RunOutbox, opened_outbox
from pipelines.running.progress import ProgressOf
from pipelines.running.wording import plural

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
    """Send what a plan file says, and nothing else.

    Raises:
        UsageError: the outbox can't be used; nothing was sent. What is wrong with the plan is the
            report's error.
        AlreadyRunning: another run sends with the same key.
        BudgetError: the ledger can't be used; nothing was sent.
    """
    with opened_outbox(settings, "apply", progress_of) as opened:
        return _ApplyRun(opened, request).run()


class _ApplyRun(OutboxRun):
    """One run that applies a plan: its rows are compared with what is known, and sent."""

    def __init__(self, opened: RunOutbox, request: ApplyRequest) -> None:
        session = opened.session
        self._own: dict[str, Any] = {
            "run_id": session.run_id,
            "retry_total_s": session.settings.http.retry_total_s,
            "retention_days": session.settings.writes.retention_days,
            "destination": destination_number(session.settings),
        }
        super().__init__(opened, PushOptions(source=f"plan {request.plan}", **self._own))
        self._request, self._title = request, str(request.plan)
        self._applied = AppliedPlans(self._outbox.scope)

    @property
    def _named(self) -> dict[str, str]:
        return {"source": self._title, "plan_file": str(self._request.plan)}

    def _plan_and_send(self) -> None:
        outbox, settings = self._outbox, self._session.settings
        with open_plan(self._request.plan, outbox.hasher) as plan, ExitStack() as files:
            header = plan.header
            plan.check_account(outbox.scope, settings.base_url)
            self._title = header.title
            with outbox.database.read() as connection:
                earlier = self._applied.runs(connection, header.plan_id)
            if done := [run_id for run_id, is_done in earlier.items() if is_done]:
                self._say_already_applied(plan, done[0])
                return
            plan.check_age(self._began_ms, self._request.max_age_s)
            looks_first = self._found.look_first_ms > self._began_ms
            options = header.push_options(looks_first=looks_first, **self._own)
            self._options = options.knowing(outbox.learnt())
            sender = self._make_sender()
            self._note_run(header.plan_id)
            sender.recover()  # what an earlier run of this plan left open counts as done
            for run_id in earlier:
                outbox.drop_planned(run_id=run_id)
            applier = self._store_plan(plan, list(earlier))
            self._open_rejects(files, applier, header.source)
            sender.send()
        self._note_run(header.plan_id, is_done=self._is_done)

    def _say_already_applied(self, plan: PlanFile, run_id: str) -> None:
        rows = plan.counts.get("rows", 0)
        self._planned = PlanCounts(rows=rows)
        self._planned.outcomes[Status.UNCHANGED] = rows
        self._report.notes.append(
            f"{self._request.plan} is already applied, by run {run_id}: nothing was sent. "
            f"`hiringcenter runs {run_id}` shows its results."
        )

    def _note_run(self, plan_id: str, *, is_done: bool = False) -> None:
        with self._outbox.database.write() as connection:
            self._applied.note(
                connection, plan_id, self._session.run_id, self._clock.now_ms(), is_done=is_done
            )

    def _store_plan(self, plan: PlanFile, earlier: list[str]) -> PlanApplier:
        run_id = self._session.run_id
        applier = PlanApplier(
            self._outbox,
            plan,
            run_id=run_id,
            earlier=earlier,
            results=self._results,
            clock=self._clock,
        )
        try:
            self._planned = applier.store(self._show_read)
        except ConnectorError:
            self._outbox.drop_planned(run_id=run_id)
            self._results.discard(run_id)
            raise
        if rejected := plan.counts.get("rejected", 0):
            self._report.notes.append(
                f"{plural(rejected, 'row')} had been rejected when the plan was made; see there."
            )
        return applier

    def _open_rejects(self, files: ExitStack, applier: PlanApplier, source: str) -> None:
        """The file for rows in conflict, and for those that HiringCenter refuses."""
        settings, plan = self._session.settings, self._request.plan
        request = PushRequest(file=str(plan), rejects=self._request.rejects)
        rejects = RejectsFile(
            rejects_path(settings, request),
            list(applier.columns),
            source=source,
            written=WrittenFiles(settings.state_dir / "rejects-written"),
            omits_cells=True,
        )
        self._rejects = rejects
        self._keep(files, rejects)
        for reject in applier.rejects:
            self._reject(reject)

    @property
    def _is_done(self) -> bool:
        """Whether running again could do nothing more."""
        with self._outbox.database.read() as connection:
            return not self._applied.may_go_on(connection, self._session.run_id)

    @property
    def _requests_planned(self) -> int:
        plan = self._planned
        return plan.writes + plan.prospect_writes  # each person is looked at before the write
