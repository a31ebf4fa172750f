"""One push from rows to outcomes: check and plan, then send. What runs it is in `pipelines`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from connector.budget.locks import Held
from connector.clock import SteadyClock
from connector.upsert.outbox.evidence import Pulled
from connector.upsert.outbox.outbox import Outbox, forget
from connector.upsert.outbox.planner import PlanCounts, Planner, PushOptions
from connector.upsert.outbox.receipts import Receipts, ResultStore
from connector.upsert.outbox.staging import Check
from connector.upsert.rows.cells import InputRow
from connector.upsert.rows.row_checks import Reject
from connector.upsert.sending.api import Api, KeyMemory
from connector.upsert.sending.claiming import Claimer
from connector.upsert.sending.delivery import Courier
from connector.upsert.sending.pace import Pace, in_flight_for
from connector.upsert.sending.sending import Sender, Watcher
from connector.upsert.sending.settling import Settler

_SCRUBBED_BYTES = 64 * 1024**2
_DAY_MS = 86_400_000
_LEARNT_DAYS = 30
"""What an API was seen to remember may have changed after so long."""


class Push:
    """One push of one input, with everything it needs handed in. clock: the ledger's."""

    def __init__(self, outbox: Outbox, options: PushOptions, *, clock: SteadyClock) -> None:
        self._outbox, self._options, self._clock = outbox, options, clock
        self._began_ms = int(clock.now_s() * 1000)
        self._receipts = Receipts(outbox.scope)
        self._results = ResultStore(outbox.database, outbox.scope, options.destination)

    def plan(
        self,
        rows: Iterable[InputRow],
        check: Check,
        pulled: Pulled,
        *,
        dry_run: bool,
        on_reject: Callable[[Reject], None],
        on_read: Callable[[int], None] = lambda _: None,
    ) -> PlanCounts:
        """Read, check and compare every row; nothing is sent. dry_run: nothing is stored either.

        on_reject: gets every row whose outcome is bad, as the input holds it. on_read: how many
        rows have been read.
        """
        planner = Planner(self._outbox, self._options, pulled, dry_run=dry_run, clock=self._clock)
        return planner.plan(rows, check, on_reject=on_reject, on_read=on_read)

    def discard(self) -> None:
        """Drop the plan: nothing of it is to be sent."""
        self._outbox.discard(self._options.run_id)
        self._results.discard(self._options.run_id)

    def send(self, api: Api, held: Held, *, keys: KeyMemory, pace: Pace, watcher: Watcher) -> None:
        """Settle what earlier runs left open, then send the plan.

        The outcomes of this run's rows are in `watcher`, also where this raises.

        Raises what `Sender.send` raises.
        """
        with self._outbox.database.read() as connection:
            disputed = self._receipts.disputed(connection)
        settler = Settler(
            self._outbox,
            self._receipts,
            self._options.retry_total_s,
            blocked=set(),
            uncertain=self._outbox.uncertain(),
            disputed=disputed,
            updates_only=self._options.mode == "update-only",
            looks_first=self._options.looks_first and not self._options.force,
            allow_shared_contact=self._options.allow_shared_contact,
        )
        claimer = Claimer(
            self._outbox,
            self._receipts,
            settler,
            api,
            self._clock,
            self._options,
            looks_first=self._options.looks_first and not self._options.force,
            began_ms=self._began_ms,
        )
        now_ms = int(self._clock.now_s() * 1000)
        keys.learnt = self._outbox.learnt_memory(now_ms - _LEARNT_DAYS * _DAY_MS)
        sender = Sender(
            self._outbox,
            self._results,
            Courier(api, keys=keys, clock=self._clock, compares=settler.looks_first),
            claimer,
            settler,
            held,
            run_id=self._options.run_id,
            clock=self._clock,
            width=lambda: in_flight_for(api.latency_s, pace.rate_per_s, pace.most),
            watcher=watcher,
        )
        sender.recover()
        sender.send()

    def forget(self, *, bodies_dropped: bool = False) -> None:
        """Drop what is older than its retention. bodies_dropped: by this push, so that pages that
        SQLite has rewritten may still show some of them; an outbox that isn't large is scrubbed."""
        now_ms = int(self._clock.now_s() * 1000)
        forget(self._outbox, now_ms - self._options.retention_days * _DAY_MS)
        path = self._outbox.database.path
        if bodies_dropped and path is not None and path.stat().st_size <= _SCRUBBED_BYTES:
            self._outbox.database.scrub()
