"""One exchange with the ledger at a time, for all threads of the process that wait.

A caller that finds nobody at the ledger asks for itself, which spares two changes of threads; all
others leave it to the dispatcher's thread, which sleeps until the time the ledger computed and
never polls the ledger. So does the main thread: Python handles signals there, between any two
steps of an exchange. Answers ride in the next grant's transaction, or go alone a few
milliseconds later when nobody waits.
"""

from __future__ import annotations

import signal
import threading
from math import inf

from connector import logs
from connector.budget import Lane, Permit
from connector.budget.booking import Answered
from connector.budget.ledger import Ledger
from connector.budget.policy.permits import send_by_s
from connector.budget.turn import Exchange, Request
from connector.budget.waiting import Mail, Waiter, WaitingRoom
from connector.clock import Clock
from connector.errors import BudgetClosed, ConnectorError, Interrupted

_LINGER_S = 0.005
"""Answers wait so long for a grant to ride with."""
_GLANCE_S = 0.2
"""`stop` is set by a signal handler, which can wake nobody; looked at this often while waiting."""
_MAIL_AGAIN_S = 1.0
"""After a failure, answers alone are brought to the ledger again this much later."""

log = logs.get_logger("budget")


class Dispatcher:
    """stop: when set, callers that wait get Interrupted (`stop.number`: the signal's number)."""

    def __init__(self, ledger: Ledger, clock: Clock, stop: threading.Event | None) -> None:
        self._ledger, self._clock, self._stop = ledger, clock, stop
        self._room = WaitingRoom()
        self._at_ledger = threading.Lock()
        self._retry_at_s: dict[Lane, float] = {}
        self._mail_at_s = 0.0
        self._thread = threading.Thread(target=self._run, name="budget", daemon=True)
        self._thread.start()

    def permit(self, lane: Lane) -> Permit:
        """Block until one request may go out.

        Raises:
            BudgetError: the ledger can't be used; nothing may be sent.
            Interrupted: `stop` was set.
        """
        waiter = Waiter(lane, self._clock.monotonic_s())
        self._room.enter(waiter)
        try:
            if not self._asked_at_once(waiter):
                self._room.news.set()
                waiter.done.wait()
        except BaseException:  # KeyboardInterrupt, in a program that doesn't handle signals
            if (permit := self._room.give_up(waiter)) is not None:
                self._room.post(Mail(unsent=[permit.id]))
            raise
        finally:
            self._room.leave(self._clock.monotonic_s())
        if waiter.error is not None:
            raise waiter.error
        assert waiter.permit is not None
        return waiter.permit

    def _asked_at_once(self, waiter: Waiter) -> bool:
        """Whether `waiter` was served (or failed) in its own thread: the ledger was free, and
        asking it was not known to be in vain."""
        if threading.current_thread() is threading.main_thread():
            return False
        if self._stopped or self._retry_at_s.get(waiter.lane, -inf) > waiter.since_s:
            return False
        if not self._at_ledger.acquire(blocking=False):
            return False
        try:
            self._try_exchange()
        finally:
            self._at_ledger.release()
        return waiter.done.is_set()

    def post(self, mail: Mail) -> None:
        """Bring `mail` to the ledger with the next exchange, soon."""
        self._room.post(mail)

    @property
    def waited_s(self) -> float:
        """Seconds during which somebody waited for a permit; several at once count once."""
        return self._room.waited_s

    def waiting(self, lane: Lane) -> int:
        """Callers that wait now."""
        return self._room.waiting()[lane]

    def close(self) -> None:
        """Book what is answered, and leave. Callers that still wait get BudgetClosed."""
        self._room.close()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._room.closed:
                self._sleep()
                if self._stopped:
                    self._room.fail_all(self._interrupted())
                with self._at_ledger:
                    self._try_exchange()
        finally:
            self._room.close()
            self._room.fail_all(BudgetClosed())
        with self._at_ledger:
            self._leave()

    @property
    def _stopped(self) -> bool:
        return self._stop is not None and self._stop.is_set()

    def _interrupted(self) -> Interrupted:
        return Interrupted(int(getattr(self._stop, "signal_number", signal.SIGTERM)))

    def _sleep(self) -> None:
        """Until there is something to bring to the ledger, or asking it again can help."""
        lingered = False
        while not self._room.closed:
            self._room.news.clear()
            lanes = [lane for lane, count in self._room.waiting().items() if count]
            if lanes and self._stopped:
                return
            now_s = self._clock.monotonic_s()
            wait_s = min((self._retry_at_s.get(lane, now_s) for lane in lanes), default=inf) - now_s
            if wait_s <= 0:
                return
            if self._room.has_mail and now_s >= self._mail_at_s:
                if lingered:
                    return
                lingered = True
                self._room.news.wait(_LINGER_S)
            elif lanes or self._room.has_mail:
                self._clock.sleep(min(wait_s, _GLANCE_S), self._room.news)
            else:
                self._room.news.wait()

    def _try_exchange(self) -> None:
        try:
            self._exchange()
        except ConnectorError as error:
            self._mail_at_s = self._clock.monotonic_s() + _MAIL_AGAIN_S
            self._room.fail_all(error)

    def _exchange(self) -> None:
        began_s = self._clock.monotonic_s()
        wants, mail = self._room.waiting(), self._room.take_mail()
        if not mail and not any(wants.values()):
            return
        answers = [Answered(number, began_s - at_s, said) for number, at_s, said in mail.answers]
        try:
            exchange = self._ledger.exchange(
                Request(wants, self._room.oldest_s(began_s), answers, mail.unanswered, mail.unsent)
            )
        except BaseException:  # an interrupt too: this may be a caller's thread
            self._room.post(mail)
            raise
        self._hand_out(exchange, began_s)

    def _hand_out(self, exchange: Exchange, began_s: float) -> None:
        for lane, ids in exchange.granted.items():
            by_s = send_by_s(began_s)
            left = self._room.grant(lane, [Permit(number, lane, by_s) for number in ids])
            if left:
                self._room.post(Mail(unsent=[permit.id for permit in left]))
        self._retry_at_s = {lane: began_s + wait_s for lane, wait_s in exchange.wait_s.items()}
        if exchange.hold_s is not None:
            log.warning(
                "budget.hold", hold_s=round(exchange.hold_s, 1), reason=exchange.hold_reason
            )

    def _leave(self) -> None:
        try:
            self._exchange()
            self._ledger.close()
        except ConnectorError as error:
            log.warning("budget.left_open", error=str(error))
