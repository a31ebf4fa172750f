"""What threads leave for the dispatcher, and what it leaves for them. No clock, no ledger."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from connector.budget import Lane, Permit
from connector.budget.policy.readings import Reading
from connector.errors import BudgetClosed


@dataclass(eq=False)
class Waiter:
    """A caller that waits. Once `done` is set, it has a permit or an error."""

    lane: Lane
    since_s: float
    done: threading.Event = field(default_factory=threading.Event)
    permit: Permit | None = None
    error: Exception | None = None


@dataclass
class Mail:
    """What became of permits. answers: permit id, monotonic seconds of its arrival, reading."""

    answers: list[tuple[int, float, Reading]] = field(default_factory=list)
    unanswered: list[int] = field(default_factory=list)
    unsent: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.answers or self.unanswered or self.unsent)

    def add(self, other: Mail) -> None:
        self.answers += other.answers
        self.unanswered += other.unanswered
        self.unsent += other.unsent


class WaitingRoom:
    """Thread-safe. news: set whenever there may be something to do."""

    def __init__(self) -> None:
        self.news = threading.Event()
        self.closed = False
        self.waited_s = 0.0
        self._inside = 0
        self._since_s = 0.0
        self._lock = threading.Lock()
        self._waiters: dict[Lane, deque[Waiter]] = {lane: deque() for lane in Lane}
        self._mail = Mail()

    def enter(self, waiter: Waiter) -> None:
        """Begin to wait.

        Raises:
            BudgetClosed: nobody will ever answer.
        """
        with self._lock:
            if self.closed:
                raise BudgetClosed
            self._waiters[waiter.lane].append(waiter)
            self._inside += 1
            if self._inside == 1:
                self._since_s = waiter.since_s

    def leave(self, now_s: float) -> None:
        """A caller waits no more."""
        with self._lock:
            self._inside -= 1
            self.waited_s += max(0.0, now_s - self._since_s)
            self._since_s = now_s

    def post(self, mail: Mail) -> None:
        with self._lock:
            self._mail.add(mail)
        self.news.set()

    def take_mail(self) -> Mail:
        with self._lock:
            mail, self._mail = self._mail, Mail()
        return mail

    @property
    def has_mail(self) -> bool:
        return bool(self._mail)

    def waiting(self) -> dict[Lane, int]:
        """Callers that wait, by lane."""
        with self._lock:
            return {lane: len(waiters) for lane, waiters in self._waiters.items()}

    def oldest_s(self, now_s: float) -> dict[Lane, float]:
        """Seconds that the first of those that wait has waited, by lane."""
        with self._lock:
            return {
                lane: now_s - waiters[0].since_s
                for lane, waiters in self._waiters.items()
                if waiters
            }

    def grant(self, lane: Lane, permits: Sequence[Permit]) -> list[Permit]:
        """Give `permits` to those who have waited longest; those that nobody waits for any more
        are left over: callers give up, and a signal sends them all away, at any moment."""
        with self._lock:
            waiters = self._waiters[lane]
            served = [waiters.popleft() for _ in range(min(len(waiters), len(permits)))]
        for waiter, permit in zip(served, permits, strict=False):
            waiter.permit = permit
            waiter.done.set()
        return list(permits[len(served) :])

    def give_up(self, waiter: Waiter) -> Permit | None:
        """`waiter` is interrupted: it waits no more; the permit that it had got by then."""
        with self._lock:
            if waiter in self._waiters[waiter.lane]:
                self._waiters[waiter.lane].remove(waiter)
                return None
        waiter.done.wait()  # it was taken out to be served, or to be told why not
        return waiter.permit

    def fail_all(self, error: Exception) -> None:
        with self._lock:
            failed = [waiter for waiters in self._waiters.values() for waiter in waiters]
            self._waiters = {lane: deque() for lane in Lane}
        for waiter in failed:
            waiter.error = error
            waiter.done.set()

    def close(self) -> None:
        with self._lock:
            self.closed = True
        self.news.set()
