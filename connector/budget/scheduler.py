"""The budget that the other packages use: permits, their outcomes, and the forecast.

One thread per process talks to the ledger on behalf of all waiting threads. It sleeps until the
time that the ledger computed and never polls. Answers are recorded in the next grant's transaction,
or a few milliseconds later on their own if no caller waits.

Far from every limit it takes permits ahead, for one second at most: callers get those without the
ledger, and their answers are recorded together, each with its own time.
"""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from math import inf
from typing import Self

from connector import logs
from connector.budget import Lane, Permit
from connector.budget.database import Database
from connector.budget.ledger import Answered, Grants, Ledger, Request
from connector.budget.ledger_schema import key_id, ledger_clock, steady_clock
from connector.budget.ledger_view import BudgetReport
from connector.budget.policy.feedback import read_answer
from connector.budget.policy.permits import AHEAD_S, MOST_AHEAD, may_need, send_by_s
from connector.budget.policy.windows import Limits, windows_of
from connector.clock import Clock, SteadyClock, SystemClock
from connector.errors import BudgetClosed, ConnectorError, Interrupted

_LINGER_S = 0.005
"""Outcomes wait this long for the transaction of a grant."""
_GLANCE_S = 0.2
"""`stop` is set by a signal handler, which can't wake a thread: how often to check it."""
_RETRY_OUTCOMES_S = 1.0
"""After a failure, recording outcomes alone is retried this much later."""

log = logs.get_logger("budget")


class RateBudget(BudgetReport):
    """Grants permits for one API key to any number of threads; see `connector.budget.Budget`.

    limits: the windows that this process was configured with.
    request_timeout_s: the total time one request may take, from sending to its answer.
    stop: when set, callers that wait get Interrupted (`stop.signal_number`: the signal).

    Raises:
        BudgetError: the ledger can't be opened.
    """

    def __init__(
        self,
        database: Database,
        *,
        api_key: str,
        limits: Sequence[Limits],
        request_timeout_s: float,
        clock: Clock | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._clock, self._stop = clock or SystemClock(), stop
        windows, key = windows_of(limits), key_id(api_key, database)
        self._longest_s = windows[-1].length_s
        time_source = ledger_clock(database, self._clock)
        super().__init__(database, key=key, time_source=time_source, windows=windows)
        self._ledger = Ledger(
            database, key=key, owner=uuid.uuid4().hex, clock=time_source, windows=windows,
            request_timeout_s=request_timeout_s,
        )  # fmt: skip
        self.steady_clock: SteadyClock = steady_clock(database, time_source, self._clock)
        """The ledger's clock: decisions about writes use no other."""
        self.waited_s = 0.0
        """Seconds during which some caller waited for a permit; several at once count once."""
        self._callers, self._since_s = 0, 0.0
        self._lock = threading.Lock()  # guards what callers share with the thread
        self._wake_up = threading.Event()  # set when there may be something to do
        self._waiters: dict[Lane, deque[Future[Permit]]] = {lane: deque() for lane in Lane}
        self._outcomes = Request()
        self._ahead: dict[Lane, deque[int]] = {lane: deque() for lane in Lane}
        self._granted_s = self._send_by_s = self._ahead_until_s = -inf  # of the latest grants
        self._issued_s = {lane: deque[float](maxlen=2 * MOST_AHEAD) for lane in Lane}
        self._is_near = False  # by an answer that the ledger doesn't know yet
        self._closed = False
        self._pid = os.getpid()  # a fork has no thread, and a copy of the permits taken ahead
        self._retry_at_s: dict[Lane, float] = {}
        self._outcomes_at_s = 0.0
        self._thread = threading.Thread(target=self._run, name="budget", daemon=True)
        self._thread.start()

    def permit(self, lane: Lane, *, until_s: float = inf) -> Permit:
        """See `Budget.permit`."""
        if os.getpid() != self._pid:  # before the lock, which may have been copied while held
            raise BudgetClosed
        waiter: Future[Permit] = Future()
        with self._lock:
            if self._closed:
                raise BudgetClosed
            if self._stopped:  # at once, even while the thread waits for the ledger
                raise self._interrupted()
            now_s = self._clock.monotonic_s()
            if self._ahead[lane] and now_s < self._ahead_until_s:
                return self._issue(self._ahead[lane].popleft(), lane, now_s)
            self._waiters[lane].append(waiter)
            self._callers += 1
            if self._callers == 1:
                self._since_s = self._clock.monotonic_s()
        try:
            self._wake_up.set()
            left_s = until_s - self._clock.monotonic_s()
            return waiter.result(None if left_s == inf else max(0.0, left_s))
        except BaseException:  # also KeyboardInterrupt, in a program that doesn't handle signals
            if not waiter.cancel() and waiter.exception() is None:
                self.unsent(waiter.result())
            raise
        finally:
            with self._lock:
                now_s = self._clock.monotonic_s()
                self._callers -= 1
                self.waited_s += max(0.0, now_s - self._since_s)
                self._since_s = now_s

    def answered(self, permit: Permit, status: int, headers: Mapping[str, str]) -> None:
        wall_s, longest_s = self._clock.now_s(), self._longest_s
        reading = read_answer(status, headers, wall_s=wall_s, longest_s=longest_s)
        answer = Answered(permit.id, self._clock.monotonic_s(), reading, permit.held_s)
        self._note(Request(answers=[answer]), is_near=reading.remaining_below(3 * MOST_AHEAD))

    def unanswered(self, permit: Permit) -> None:
        self._note(Request(unanswered=[permit.id]))

    def unsent(self, permit: Permit) -> None:
        self._note(Request(unsent=[permit.id]))

    def waiting(self, lane: Lane) -> int:
        """How many callers wait now."""
        with self._lock:
            return sum(not waiter.done() for waiter in self._waiters[lane])

    def pull_started(self, expected: int | None = None) -> None:
        """A pull begins: pushes leave room for it. expected: how many requests it will need."""
        self._ledger.pull_started(expected)

    def pull_ended(self, requests: int) -> None:
        """The pull has ended. requests: how many it took; the next one may cost as much."""
        self._ledger.pull_ended(requests)

    def close(self) -> None:
        """Record all outcomes and disconnect. Callers that still wait get BudgetClosed."""
        with self._lock:
            self._closed = True
        self._wake_up.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _note(self, outcomes: Request, *, is_near: bool = False) -> None:
        """Record `outcomes` in the next exchange. is_near: they show that a limit is near, or was
        exceeded: the ledger learns that at once, and permits taken ahead are given back."""
        with self._lock:
            self._outcomes.add(outcomes)
            if is_near:
                self._is_near = True
                self._give_back()
            if self._clock.monotonic_s() >= self._ahead_until_s:
                self._wake_up.set()

    def _give_back(self) -> None:
        for ids in self._ahead.values():
            self._outcomes.unsent += ids
            ids.clear()
        self._ahead_until_s = -inf

    def _issue(self, id: int, lane: Lane, now_s: float) -> Permit:
        self._issued_s[lane].append(now_s)
        return Permit(id, lane, self._send_by_s, max(0.0, now_s - self._granted_s))

    def _run(self) -> None:
        try:
            while not self._closed:
                self._sleep()
                if self._stopped:
                    self._fail_all(self._interrupted())
                try:
                    self._exchange()
                except ConnectorError as error:
                    self._outcomes_at_s = self._clock.monotonic_s() + _RETRY_OUTCOMES_S
                    self._fail_all(error)
        finally:
            with self._lock:
                self._closed = True
            self._fail_all(BudgetClosed())
        try:
            self._exchange()
            self._ledger.leave()
        except ConnectorError as error:
            log.warning("budget.left_open", error=str(error))

    def _sleep(self) -> None:
        """Until there is something to record, or asking again can help."""
        lingered = False
        while True:
            self._wake_up.clear()
            if self._closed:  # looked at after the clear, which may have undone its wake-up
                return
            lanes = [lane for lane in Lane if self.waiting(lane)]
            with self._lock:
                now_s = self._clock.monotonic_s()
                is_idle = self._outcomes.is_empty and not any(self._ahead.values())
                record_s = max(self._outcomes_at_s, self._ahead_until_s)
                if is_idle and now_s >= self._ahead_until_s:
                    record_s = inf
            ask_s = min((self._retry_at_s.get(lane, now_s) for lane in lanes), default=inf)
            if ask_s <= now_s or (lanes and self._stopped):
                return
            if record_s <= now_s:
                if lingered:
                    return
                lingered = True
                self._wake_up.wait(_LINGER_S)
            elif (until_s := min(ask_s, record_s)) < inf:
                glance_s = _GLANCE_S if lanes else inf
                self._clock.sleep(min(until_s - now_s, glance_s), self._wake_up)
            else:
                self._wake_up.wait()

    @property
    def _stopped(self) -> bool:
        return self._stop is not None and self._stop.is_set()

    def _interrupted(self) -> Interrupted:
        return Interrupted(int(getattr(self._stop, "signal_number", signal.SIGTERM)))

    def _exchange(self) -> None:
        began_s = self._clock.monotonic_s()
        with self._lock:
            self._give_back()
            outcomes, self._outcomes, self._is_near = self._outcomes, Request(), False
            ahead = {lane: may_need(self._issued_s[lane], began_s) for lane in Lane}
        wants = {lane: self.waiting(lane) for lane in Lane}
        request = replace(outcomes, wants=wants, asked_s=began_s, ahead=ahead)
        if request.is_empty:
            return
        try:
            grants = self._ledger.exchange(request)
        except BaseException:
            self._note(outcomes)
            raise
        if self._stopped:  # while the ledger was asked
            self._fail_all(self._interrupted())
        self._hand_out(grants, wants, began_s)

    def _hand_out(self, grants: Grants, wants: Mapping[Lane, int], began_s: float) -> None:
        with self._lock:
            self._granted_s, self._send_by_s = self._clock.monotonic_s(), send_by_s(began_s)
            for lane, ids in grants.granted.items():
                if len(ids) > wants[lane] and not self._is_near:
                    self._ahead_until_s = began_s + AHEAD_S
                left, waiters = deque(ids), self._waiters[lane]
                while left and waiters:
                    waiter = waiters.popleft()
                    if waiter.set_running_or_notify_cancel():
                        waiter.set_result(self._issue(left.popleft(), lane, self._granted_s))
                self._ahead[lane] = left  # also of callers that gave up, as a signal makes them
        self._retry_at_s = {lane: began_s + wait_s for lane, wait_s in grants.wait_s.items()}
        if grants.hold_s is not None:
            log.warning("budget.hold", hold_s=round(grants.hold_s, 1), reason=grants.hold_reason)

    def _fail_all(self, error: Exception) -> None:
        with self._lock:
            waiters = [waiter for each in self._waiters.values() for waiter in each]
            self._waiters = {lane: deque() for lane in Lane}
        for waiter in waiters:
            if waiter.set_running_or_notify_cancel():
                waiter.set_exception(error)
