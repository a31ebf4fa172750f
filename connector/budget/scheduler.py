"""Permits: one dispatcher thread per process asks the ledger for all threads that wait.

The dispatcher sleeps until the time the ledger computed, never polls it. Answers ride in the
next grant's transaction, or go alone when nobody waits.
"""

from __future__ import annotations

import signal
import threading
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from connector.budget import Lane, Permit
from connector.budget.clockrules import BootClock, LedgerClock, ServerClock
from connector.budget.database import Database
from connector.budget.keys import key_id
from connector.budget.ledger import Ended, Ledger
from connector.clock import Clock, SystemClock
from connector.errors import BudgetError, ConnectorError, Interrupted
from connector.settings import RateLimit

SEND_WITHIN_S = 5.0
GRACE_S = 60.0
_LINGER_S = 0.005
_STOP_CHECK_S = 0.2


@dataclass(eq=False)
class _Waiter:
    lane: Lane
    done: threading.Event = field(default_factory=threading.Event)
    permit: Permit | None = None
    error: ConnectorError | None = None


class RateBudget:
    """Hands out permits for one API key to any number of threads. See `connector.budget.Budget`.

    limits: the windows that this process was configured with.
    request_timeout_s: the total time one request may take, from sending to its answer.
    stop: when set, waiting callers get Interrupted.

    Raises:
        BudgetError: the ledger can't be opened.
    """

    def __init__(
        self,
        database: Database,
        *,
        api_key: str,
        limits: Sequence[RateLimit],
        request_timeout_s: float,
        clock: Clock | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._stop = stop
        self._ledger = Ledger(
            database,
            key=key_id(api_key, database),
            owner=uuid.uuid4().hex,
            clock=self._ledger_clock(database),
            limits=limits,
            permit_life_s=SEND_WITHIN_S + request_timeout_s + GRACE_S,
        )
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._waiting: deque[_Waiter] = deque()
        self._ended: list[tuple[int, float]] = []
        self._unsent: list[int] = []
        self._closing = False
        self._waited_s = 0.0
        self._thread = threading.Thread(target=self._run, name="budget", daemon=True)
        self._thread.start()

    def _ledger_clock(self, database: Database) -> LedgerClock:
        real = isinstance(self._clock, SystemClock)
        return BootClock(self._clock) if database.is_sqlite or not real else ServerClock()

    def permit(self, lane: Lane) -> Permit:
        """Block until one request may go out.

        Raises:
            BudgetError: the ledger can't be used; nothing may be sent.
            Interrupted: `stop` was set.
        """
        waiter, began_s = _Waiter(lane), self._clock.monotonic_s()
        with self._lock:
            if self._closing:
                raise BudgetError("The budget is closed; open a new one to send requests.")
            self._waiting.append(waiter)
        self._wake.set()
        waiter.done.wait()
        with self._lock:
            self._waited_s += self._clock.monotonic_s() - began_s
        if waiter.error is not None:
            raise waiter.error
        assert waiter.permit is not None
        return waiter.permit

    def answered(self, permit: Permit, status: int, headers: Mapping[str, str]) -> None:
        with self._lock:
            self._ended.append((permit.id, self._clock.monotonic_s()))
        self._wake.set()

    def unanswered(self, permit: Permit) -> None:
        """No answer will come; the permit counts until its deadline."""

    def unsent(self, permit: Permit) -> None:
        with self._lock:
            self._unsent.append(permit.id)
        self._wake.set()

    @property
    def waited_s(self) -> float:
        return self._waited_s

    def close(self) -> None:
        """Book what is answered, and stop; callers that still wait get BudgetError."""
        with self._lock:
            self._closing = True
        self._wake.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        retry_at_s = 0.0
        while True:
            self._pause(retry_at_s)
            if self._stop is not None and self._stop.is_set():
                self._fail(Interrupted(getattr(self._stop, "signal_number", signal.SIGTERM)))
            try:
                retry_at_s = self._exchange()
            except ConnectorError as error:
                self._fail(error)
            except (sa.exc.SQLAlchemyError, OSError) as error:
                self._fail(BudgetError(f"The ledger can't be used: {type(error).__name__}"))
            with self._lock:
                if self._closing:
                    break
        self._fail(BudgetError("The budget was closed."))

    def _pause(self, retry_at_s: float) -> None:
        """Sleep until `retry_at_s` or something new to do."""
        while True:
            with self._lock:
                self._wake.clear()
                if self._closing or self._ended or self._unsent:
                    return
                waiting = bool(self._waiting)
            now_s = self._clock.monotonic_s()
            if waiting and now_s >= retry_at_s:
                return
            if self._stop is not None and self._stop.is_set() and waiting:
                return
            if waiting:
                self._clock.sleep(min(_STOP_CHECK_S, retry_at_s - now_s), self._wake)
            else:
                self._wake.wait()

    def _exchange(self) -> float:
        began_s = self._clock.monotonic_s()
        with self._lock:
            ended, self._ended = self._ended, []
            unsent, self._unsent = self._unsent, []
            waiting = list(self._waiting)
        wants = {lane: sum(waiter.lane == lane for waiter in waiting) for lane in Lane}
        if not waiting and not ended and not unsent:
            return began_s
        result = self._ledger.exchange(
            wants, [Ended(permit, began_s - at_s) for permit, at_s in ended], unsent
        )
        with self._lock:
            for waiter in waiting:
                if result.granted[waiter.lane]:
                    number = result.granted[waiter.lane].pop(0)
                    waiter.permit = Permit(number, waiter.lane, began_s + SEND_WITHIN_S)
                    self._waiting.remove(waiter)
                    waiter.done.set()
        return began_s + result.wait_s

    def _fail(self, error: ConnectorError) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            waiter.error = error
            waiter.done.set()
