"""Processes, latencies, crashes and other spenders, as events in virtual time."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Protocol

from connector.budget import Lane
from connector.budget.policy import permits
from tests.simulator.memory_ledger import Ask, Granted
from tests.simulator.servers import Server


class SimulatedLedger(Protocol):
    """What a simulated process needs of a ledger; its twin in memory, or the real one on SQL."""

    request_timeout_s: float
    granted_s: list[float]

    def ask(self, owner: str, lane: Lane, asked: int, now_s: float, ahead: int = 0) -> Ask: ...

    def answered(
        self,
        permit: Granted,
        status: int,
        headers: dict[str, str],
        arrived_s: float,
        now_s: float,
    ) -> None: ...

    def unanswered(self, permit: Granted) -> None: ...

    def unsent(self, permit: Granted) -> None: ...

    def died(self, owner: str) -> None: ...


@dataclass
class World:
    """True time and what is to happen. Events at one instant run in the order they were made."""

    server: Server
    ledger: SimulatedLedger
    random: Random
    now_s: float = 0.0
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _number: count[int] = field(default_factory=count)

    def at(self, when_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(when_s, self.now_s), next(self._number), event))

    def run(self, until: Callable[[], bool], limit_s: float = 1e7) -> None:
        """Run events until `until()`, none is left, or `limit_s` of virtual time."""
        while self._events and not until():
            self.now_s, _, event = heapq.heappop(self._events)
            assert self.now_s < limit_s, f"not done after {self.now_s:.0f} virtual seconds"
            event()


@dataclass(frozen=True)
class Latency:
    """Lognormal with this mean, split at random into the ways there and back.

    late: share of requests that time out and arrive up to `late_by_s` after we gave up.
    unsent: share of permits that are given back.
    """

    mean_s: float
    sigma: float = 0.4
    late: float = 0.0
    late_by_s: float = 30.0
    unsent: float = 0.0

    def draw(self, random: Random) -> tuple[float, float]:
        whole_s = self.mean_s * random.lognormvariate(-(self.sigma**2) / 2, self.sigma)
        there_s = whole_s * random.random()
        return there_s, whole_s - there_s


@dataclass
class Process:
    """One process: a dispatcher for the callers of one lane, `concurrency` of them at a time.

    It takes permits ahead, and records answers together, as `connector.budget.scheduler` does.
    jobs: requests to be done; a refused or lost one is done again. concurrency may be a
    function of the smoothed latency in seconds.
    """

    world: World
    name: str
    lane: Lane
    jobs: int
    latency: Latency
    concurrency: int | Callable[[float], int] = 64
    done: int = 0
    refused: int = 0
    sent: int = 0
    busy: int = 0
    waiting: int = 0
    latency_s: float | None = None
    dead: bool = False
    finished_s: float | None = None
    on_done: Callable[[], None] | None = None
    waits: deque[float] = field(default_factory=deque)
    waited_s: float = 0.0
    asked: int = 0
    ahead: deque[Granted] = field(default_factory=deque)
    ahead_until_s: float = -math.inf
    notes: list[tuple[Granted, int, dict[str, str], float]] = field(default_factory=list)
    issued_s: deque[float] = field(default_factory=lambda: deque(maxlen=2 * permits.MOST_AHEAD))
    _wake_s: float = math.inf

    def start(self) -> None:
        self._fill()

    def kill(self) -> None:
        """SIGKILL: what is on the way still arrives; nothing is reported any more."""
        self.dead = True
        self.world.ledger.died(self.name)

    def _width(self) -> int:
        if callable(self.concurrency):
            return self.concurrency(self.latency_s or 0.0)
        return self.concurrency

    def _fill(self) -> None:
        """As many callers as are wanted; then ask for those that wait."""
        while self.busy < min(self._width(), self.jobs - self.done):
            self.busy += 1
            self.waits.append(self.world.now_s)
        self._ask()

    def _ask(self) -> None:
        if self.dead:
            return
        while self.waits and self.ahead and self.world.now_s < self.ahead_until_s:
            self._issue(self.ahead.popleft())
        if not self.waits:
            return
        self._record()
        now_s = self.world.now_s
        asked, ahead = len(self.waits), permits.may_need(self.issued_s, now_s)
        self.asked += 1
        answer = self.world.ledger.ask(self.name, self.lane, asked, now_s, ahead)
        for permit in answer.granted[:asked]:
            self._issue(permit)
        self.ahead.extend(answer.granted[asked:])
        if self.ahead:
            self.ahead_until_s = now_s + permits.AHEAD_S
            self.world.at(self.ahead_until_s, self._expire)
        if self.waits and not now_s < self._wake_s <= answer.retry_at_s:
            self._wake_s = answer.retry_at_s
            self.world.at(answer.retry_at_s, self._wake)

    def _issue(self, permit: Granted) -> None:
        now_s = self.world.now_s
        permit.held_s = now_s - permit.granted_s
        self.issued_s.append(now_s)
        self.waited_s += now_s - self.waits.popleft()
        self._send(permit)

    def _expire(self) -> None:
        if self.world.now_s >= self.ahead_until_s:
            self._record()

    def _record(self) -> None:
        """Give back what was taken ahead and report the answers so far."""
        if self.dead:
            return
        while self.ahead:
            self.world.ledger.unsent(self.ahead.popleft())
        self.ahead_until_s = -math.inf
        for note in self.notes:
            self.world.ledger.answered(*note, now_s=self.world.now_s)
        self.notes.clear()

    def _wake(self) -> None:
        if self.world.now_s >= self._wake_s:
            self._wake_s = math.inf
            self._ask()

    def _send(self, permit: Granted) -> None:
        world, timeout_s = self.world, self.world.ledger.request_timeout_s
        if world.random.random() < self.latency.unsent:
            world.ledger.unsent(permit)
            world.at(world.now_s, self._next)
            return
        self.sent += 1
        if world.random.random() < self.latency.late:
            arrives_s = world.now_s + timeout_s + world.random.random() * self.latency.late_by_s
            world.at(arrives_s, lambda: world.server.arrive(world.now_s) and None)
            world.at(world.now_s + timeout_s, lambda: self._gave_up(permit))
            return
        there_s, back_s = self.latency.draw(world.random)
        world.at(world.now_s + there_s, lambda: self._arrive(permit, back_s))

    def _arrive(self, permit: Granted, back_s: float) -> None:
        status, headers = self.world.server.arrive(self.world.now_s)
        self.world.at(self.world.now_s + back_s, lambda: self._answered(permit, status, headers))

    def _answered(self, permit: Granted, status: int, headers: dict[str, str]) -> None:
        if self.dead:
            return
        now_s = self.world.now_s
        self.notes.append((permit, status, headers, now_s))
        remaining = int(headers.get("ratelimit-remaining", "1000"))
        is_near = status == 429 or remaining < 3 * permits.MOST_AHEAD
        if is_near or now_s >= self.ahead_until_s:
            self._record()
        took_s = now_s - permit.granted_s - permit.held_s
        self.latency_s = took_s if self.latency_s is None else self.latency_s * 0.8 + took_s * 0.2
        self.done += status == 200
        self.refused += status == 429
        self._next()

    def _gave_up(self, permit: Granted) -> None:
        if not self.dead:
            self.world.ledger.unanswered(permit)
            self._next()

    def _next(self) -> None:
        self.busy -= 1
        if self.done == self.jobs and self.finished_s is None:
            self.finished_s = self.world.now_s
            if self.on_done:
                self.on_done()
        self._fill()


def spend(world: World, rate: Callable[[float], float], *, until: Callable[[], bool]) -> None:
    """Another program's requests, Poisson with `rate(now_s)` per second (0: looks again in 1 s)."""

    def arrive() -> None:
        if until():
            return
        if rate(world.now_s) > 0:
            world.server.arrive(world.now_s, foreign=True)
        step_s = world.random.expovariate(max(rate(world.now_s), 1e-9))
        world.at(world.now_s + min(step_s, 1.0), arrive if step_s <= 1.0 else again)

    def again() -> None:
        if not until():
            now_rate = rate(world.now_s)
            step_s = world.random.expovariate(max(now_rate, 1e-9))
            world.at(world.now_s + min(step_s, 1.0), arrive if step_s <= 1.0 else again)

    world.at(world.now_s, again)
