"""Sending what is planned: one thread keeps the outbox, many bring writes to the API.

Each turn is one transaction: it books what has arrived and marks what goes out next, so that a
commit (which waits for the disk) serves many writes.
"""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import sqlalchemy as sa

from connector.budget.locks import Held
from connector.clock import SteadyClock
from connector.errors import Interrupted
from connector.upsert.outbox.outbox import Outbox, Write
from connector.upsert.outbox.receipts import ResultStore, RowResult, Status
from connector.upsert.outbox.staging import reject_of
from connector.upsert.rows.row_checks import Reject
from connector.upsert.sending.claiming import Claimer
from connector.upsert.sending.delivery import Courier, Delivered
from connector.upsert.sending.flights import Flight, RowProgress
from connector.upsert.sending.pace import MOST_IN_FLIGHT
from connector.upsert.sending.queueing import RowQueue
from connector.upsert.sending.settling import Next, Settler

More = Callable[[sa.Connection, int], list[Flight]]  # up to so many more errands
_MOST_PER_TURN = 500
_GRACE_S = 2.0  # after a fatal error: for answers that are nearly there


@dataclass
class Watcher:
    """Who is told how it goes, between transactions. progress: rows of this run that have their
    outcome; all of them are in `outcomes`. recovered: writes of earlier runs that were settled."""

    late_reject: Callable[[Reject], None] = lambda _: None
    progress: Callable[[int], None] = lambda _: None
    outcomes: Counter[Status] = field(default_factory=Counter)
    recovered: int = 0


class Sender:
    """Sends the plan of one run. width: how many requests may be in flight now."""

    def __init__(
        self,
        outbox: Outbox,
        results: ResultStore,
        courier: Courier,
        claimer: Claimer,
        settler: Settler,
        held: Held,
        *,
        run_id: str,
        clock: SteadyClock,
        width: Callable[[], int],
        watcher: Watcher,
    ) -> None:
        self._outbox, self._results, self._courier = outbox, results, courier
        self._claimer, self._settler, self._held = claimer, settler, held
        self._run_id, self._clock, self._width, self._watcher = run_id, clock, width, watcher
        self._rows = RowQueue(outbox, run_id)
        self._open: list[Write] = []
        self._flying: dict[int, Flight] = {}
        self._arrivals: queue.SimpleQueue[Delivered] = queue.SimpleQueue()
        self._finished: list[RowProgress] = []
        self._ending: BaseException | None = None

    def recover(self) -> None:
        """Settle every write whose answer is missing since an earlier run. One that still gets
        none stays open, and holds back the rows of its person alone.

        Raises what `send` raises.
        """
        self._open = self._outbox.open_sends()
        self._settler.recovering = True
        self._run(self._resume, lambda: bool(self._open))
        self._settler.recovering = False

    def send(self) -> None:
        """Send every planned row, in file order per person.

        Raises:
            Interrupted: a signal asked to stop; what was on its way has its answer or stays open.
            ApiError: the key was refused, or nobody is answered any more.
            BudgetError: the ledger can't be used.
        """
        self._run(self._start, lambda: not self._rows.empty)
        if self._settler.unreachable is not None and self._watcher.outcomes[Status.FAILED]:
            raise self._settler.unreachable

    def _run(self, more: More, is_left: Callable[[], bool]) -> None:
        with _threads() as pool:
            arrived: list[tuple[Flight, Delivered]] = []
            while True:
                started = self._turn(arrived, more)
                for flight in started:
                    self._flying[flight.write.id] = flight
                    pool.submit(self._fly, flight)
                if not self._flying and (self._ending is not None or not is_left()):
                    break
                arrived = self._wait()
                if self._ending is not None and not arrived:
                    break
        if self._ending is not None:
            raise self._ending

    def _turn(self, arrived: list[tuple[Flight, Delivered]], more: More) -> list[Flight]:
        """One transaction: book `arrived`, mark what goes out next."""
        with self._outbox.database.write() as connection:
            self._held.check(connection)
            flights = [
                flight
                for each, delivered in arrived
                if (flight := self._book(connection, each, delivered)) is not None
            ]
            free = self._width() - len(self._flying) - len(flights)
            if self._ending is None and free > 0:
                flights += more(connection, free)
            finished = self._store_results(connection)
        self._tell(finished)
        return flights

    def _book(
        self, connection: sa.Connection, flight: Flight, delivered: Delivered
    ) -> Flight | None:
        """Settle one arrival; the errand that follows at once, if there is one."""
        if self._courier.keys.learn(delivered.key_age_s, delivered.remembered):
            self._outbox.note_memory(connection, self._courier.keys.learnt, self._now_ms())
        follows = self._settler.settle(
            connection,
            flight,
            delivered,
            at_ms=self._now_ms(),
            now_s=self._clock.monotonic_s(),
        )
        if follows in (Next.LEFT, Next.FATAL):
            self._end(delivered.error)
        if self._ending is not None and follows is not Next.SETTLED:
            return None
        if follows is Next.POST:
            return self._claimer.post(connection, flight)
        if follows is Next.UPDATE:
            return self._claimer.update(connection, flight)
        if follows is Next.AGAIN:
            return self._claimer.again(connection, flight)
        return self._go_on(connection, flight.row)

    def _go_on(self, connection: sa.Connection, row: RowProgress) -> Flight | None:
        if row.rest and self._ending is not None:
            return None
        flight = self._claimer.go_on(connection, row)
        if flight is None:
            self._finish(row)
        return flight

    def _start(self, connection: sa.Connection, free: int) -> list[Flight]:
        """Up to `free` rows that need a request; those that turn out to need none pass by."""
        flights: list[Flight] = []
        passed = 0
        while len(flights) < free and passed < _MOST_PER_TURN:
            rows = self._take(connection, free - len(flights))
            if not rows:
                break
            started = list(self._claimer.start(connection, rows))
            waiting = {id(flight.row) for flight in started}
            for row in rows:
                if id(row) not in waiting:
                    self._finish(row)
            flights += started
            passed += len(rows)
        return flights

    def _take(self, connection: sa.Connection, most: int) -> list[RowProgress]:
        rows: list[RowProgress] = []
        while len(rows) < most and (writes := self._rows.take(connection)) is not None:
            rows.append(RowProgress.of(writes, own=True))
        return rows

    def _resume(self, connection: sa.Connection, free: int) -> list[Flight]:
        writes, self._open = self._open[:free], self._open[free:]
        return list(self._claimer.resume(connection, writes))

    def _finish(self, row: RowProgress) -> None:
        self._finished.append(row)
        if row.own:
            self._rows.done(row.first.person)

    def _store_results(self, connection: sa.Connection) -> list[tuple[RowProgress, RowResult]]:
        finished, self._finished = [(row, row.result) for row in self._finished], []
        at_ms = int(self._clock.wall_s() * 1000)
        by_run: dict[str, list[RowResult]] = {}
        for row, result in finished:
            by_run.setdefault(row.first.run_id, []).append(result)
        for run_id, results in by_run.items():
            self._results.put(connection, run_id, results, at_ms)
        return finished

    def _tell(self, finished: list[tuple[RowProgress, RowResult]]) -> None:
        for row, result in finished:
            if not row.own:
                self._watcher.recovered += self._settler.is_settled(row.first)
                continue
            self._watcher.outcomes[result.status] += 1
            if result.status in (Status.REJECTED, Status.FAILED):
                kept, message = row.first.row_values, result.message or ""
                reject = reject_of(result.row_number, kept, message, row.names)
                self._watcher.late_reject(reject)
        if finished:
            self._watcher.progress(self._watcher.outcomes.total())

    def _fly(self, flight: Flight) -> None:
        if flight.looks:
            self._arrivals.put(self._courier.look(flight.write))
            return
        self._arrivals.put(
            self._courier.deliver(
                flight.write,
                resumed=flight.resumed,
                accepted_updated_at_ms=flight.accepted_updated_at_ms,
            )
        )

    def _wait(self) -> list[tuple[Flight, Delivered]]:
        """Everything that has arrived, at least one; none where the run ends and time is up."""
        arrived: list[Delivered] = []
        if self._flying:
            hurried = self._ending is not None and not isinstance(self._ending, Interrupted)
            try:
                arrived.append(self._arrivals.get(timeout=_GRACE_S if hurried else None))
            except queue.Empty:
                return []
        while not self._arrivals.empty():
            arrived.append(self._arrivals.get())
        return [(self._flying.pop(each.write.id), each) for each in arrived]

    def _now_ms(self) -> int:
        return int(self._clock.now_s() * 1000)

    def _end(self, error: BaseException | None) -> None:
        """No new writes; an error says more than the signal that ended the rest."""
        if self._ending is None or isinstance(self._ending, Interrupted):
            self._ending = error


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Threads that nobody waits for: after a fatal error some may still wait for a permit, and
    end when the budget is closed."""
    pool = ThreadPoolExecutor(MOST_IN_FLIGHT, thread_name_prefix="push")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
