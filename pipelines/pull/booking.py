"""The end of a pull: what the ledger notes, and the tables about runs that land with it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from connector.history import Freshness, FreshnessLog, RunRecord
from pipelines.destination.destination import Destination
from pipelines.destination.loader import Batch
from pipelines.destination.places import destination_label
from pipelines.pull.bookkeeping import freshness_batch, runs_batch
from pipelines.pull.scanning import ResourceRun
from pipelines.session import Session


class Booking:
    """Books one run into its ledger and its destination."""

    def __init__(self, session: Session, destination: Destination) -> None:
        self._session, self._destination = session, destination
        self._label = destination_label(session.settings)
        self._freshness = FreshnessLog(session.ledger)

    def note(self, run: ResourceRun) -> None:
        """What the scan of `run` has brought is in the destination, be it all or a part.

        A full scan that hasn't ended makes nothing fresher, and leaves a table that isn't proven
        to be whole.
        """
        ended = run.mark.ended
        is_over = ended is not None and not ended.unfinished
        is_part = run.finds_deletions and run.counts["rows_read"] > 0
        if run.mark.plan.backfill or not (is_over or is_part):
            return
        before = {fresh.resource: fresh for fresh in self._freshness.of(self._label)}
        known = before.get(run.resource)
        known_pull_ms = known.last_pull_ms if known else 0
        complete_ms = run.mark.started_ms if ended is not None and ended.complete else None
        self._freshness.note(
            self._label,
            Freshness(
                resource=run.resource,
                run_id=self._session.run_id,
                scan=str(run.mark.plan.kind),
                reason=run.reason,
                rows=self._destination.live_count(run.resource),
                last_pull_ms=run.mark.started_ms if is_over else known_pull_ms,
                last_complete_ms=complete_ms or (known.last_complete_ms if known else None),
                complete=run.complete,
                why_incomplete=run.why_incomplete,
            ),
        )

    def land(self, summary: Mapping[str, Any], account: Batch | None) -> None:
        """`_hc_runs` (this run and those that could not land before), `_hc_freshness`, account.

        summary: this run's, as far as it has come.
        """
        history, run_id = self._session.history, self._session.run_id
        waiting = history.unlanded(self._label)
        own = next(iter(history.find(run_id)), None)
        assert own is not None
        ended = RunRecord(
            run_id, "pull", self._label, summary["status"], own.started_ms,
            time.time_ns() // 1_000_000, dict(summary), summary.get("error", {}).get("message"),
        )  # fmt: skip
        batches = [runs_batch([*waiting, ended]), freshness_batch(self._freshness.of(self._label))]
        is_news = account is not None and not self._destination.unchanged(
            account.table, account.rows
        )
        if account is not None and is_news:
            batches.append(account)
        self._destination.load(batches, worth_publishing=is_news)
        history.mark_landed([*(record.run_id for record in waiting), run_id])

    def publish(self) -> bool:
        """Let readers see what has landed; True if a new copy was made."""
        was_made = self._destination.publish()
        if self._destination.is_published:
            self._freshness.publish(self._label)
        return was_made
