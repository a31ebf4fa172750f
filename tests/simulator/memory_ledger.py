"""The SQL ledger's twin in memory: the same facts, the same moments, the same policy.

One instance is shared by all simulated processes; the simulator runs one event at a time, which
stands for the ledger's lock. Times: seconds of the ledger's clock.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from connector.budget import Lane
from connector.budget.policy import feedback, permits, windows
from connector.budget.policy.feedback import FeedbackState
from connector.budget.policy.windows import Live, Window
from tests.simulator.servers import EPOCH_S


@dataclass
class Granted:
    """A permit that is out. awaited_until_s: as long as its holder may expect an answer.
    held_s: how long its holder kept it before it was used."""

    id: int
    lane: Lane
    owner: str
    granted_s: float
    deadline_s: float
    awaited_until_s: float
    held_s: float = 0.0


@dataclass
class Ask:
    """granted: permits, or none. retry_at_s: when to ask again if fewer than asked were granted."""

    granted: list[Granted]
    retry_at_s: float


@dataclass
class MemoryLedger:
    """listens: False ignores what servers say, for comparison. holding: False counts a permit
    from its grant alone, as a naive limiter does; for the proof that the simulator sees it."""

    windows: tuple[Window, ...]
    request_timeout_s: float = 60.0
    listens: bool = True
    holding: bool = True
    grace: bool = True
    wall_offset_s: float = 0.0
    state: FeedbackState = field(default_factory=FeedbackState)
    pulls: windows.Pulls = field(default_factory=windows.Pulls)
    out: dict[int, Granted] = field(default_factory=dict)
    push_out: int = 0
    ends_s: list[float] = field(default_factory=list)
    push_ends_s: list[float] = field(default_factory=list)
    answered_s: list[tuple[float, float]] = field(default_factory=list)  # (end, granted)
    waiting_pull: dict[str, int] = field(default_factory=dict)
    last_grant_s: float = -math.inf
    last_end_s: float = -math.inf
    next_id: int = 0
    granted_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.listens:
            self.state = FeedbackState(probing=0)

    def ask(self, owner: str, lane: Lane, asked: int, now_s: float, ahead: int = 0) -> Ask:
        """Grant up to `asked` permits of `lane`, and up to `ahead` more if there is plenty."""
        self._expire(now_s)
        if lane is Lane.PULL:
            self.waiting_pull[owner] = asked
            self._pull_seen(now_s, asked)
        facts = self._facts(now_s)
        allowed = permits.allowance(self.windows, self.state, self.pulls, facts)
        count = permits.room(allowed, facts, lane, asked)
        if count == asked:
            count += min(ahead, permits.room_ahead(allowed, facts, lane, count))
        granted = [self._grant(owner, lane, now_s) for _ in range(count)]
        if lane is Lane.PULL:
            self.waiting_pull[owner] = max(0, asked - count)
        if count >= asked:
            return Ask(granted, now_s)
        facts = self._facts(now_s)
        return Ask(granted, permits.retry_at_s(self.windows, allowed, facts, lane, self._free_at()))

    def answered(
        self,
        permit: Granted,
        status: int,
        headers: Mapping[str, str],
        arrived_s: float,
        now_s: float,
    ) -> None:
        """arrived_s: when the answer arrived; it may be recorded later."""
        if not self._take(permit):
            return  # its deadline passed first
        granted_s = permit.granted_s + permit.held_s
        now_s = self.last_end_s = max(self.last_end_s, granted_s, arrived_s)
        self._end(permit, now_s)
        self.answered_s.append((now_s, granted_s))
        if permit.lane is Lane.PULL:
            self._pull_answered(now_s - granted_s, now_s)
        if not self.listens:
            return
        reading = feedback.read_answer(
            status,
            headers,
            wall_s=EPOCH_S + now_s + self.wall_offset_s,
            longest_s=self.windows[-1].length_s,
        )
        self.state = feedback.update(
            self.state,
            self.windows,
            reading,
            _Own(self, granted_s, now_s),
            granted_s=granted_s,
            now_s=now_s,
            jitter=0.5,
        )

    def unanswered(self, permit: Granted) -> None:
        permit.awaited_until_s = -math.inf

    def unsent(self, permit: Granted) -> None:
        self._take(permit)

    def _take(self, permit: Granted) -> bool:
        """Remove a permit that is out; whether it was."""
        found = self.out.pop(permit.id, None) is not None
        self.push_out -= found and permit.lane is Lane.PUSH
        return found

    def died(self, owner: str) -> None:
        """SIGKILL: its permits stay out; that it waits is forgotten."""
        self.waiting_pull.pop(owner, None)

    def pull_started(self, now_s: float, expected: int | None = None) -> None:
        running = windows.RunningPull(seen_s=now_s, expected=expected)
        self.pulls = replace(self.pulls.started(now_s), running=running)

    def pull_ended(self) -> None:
        assert self.pulls.running is not None
        self.pulls = self.pulls.ended(self.pulls.running.requests)

    def _pull_seen(self, now_s: float, asked: int) -> None:
        running = self.pulls.running
        if running:
            chains = asked + sum(each.lane is Lane.PULL for each in self.out.values())
            running = replace(running, seen_s=now_s, chains=max(running.chains, chains))
            self.pulls = replace(self.pulls, running=running)

    def _pull_answered(self, latency_s: float, now_s: float) -> None:
        running = self.pulls.running
        if running:
            before_s = running.latency_s or latency_s
            running = replace(running, seen_s=now_s, latency_s=before_s * 0.8 + latency_s * 0.2)
            self.pulls = replace(self.pulls, running=running)

    def _grant(self, owner: str, lane: Lane, now_s: float) -> Granted:
        self.next_id += 1
        deadline_s = permits.deadline_s(now_s, self.request_timeout_s)
        if not self.grace:
            deadline_s -= permits.GRACE_S
        awaited_s = permits.send_by_s(now_s) + self.request_timeout_s
        permit = Granted(self.next_id, lane, owner, now_s, deadline_s, awaited_s)
        self.last_grant_s = now_s
        self.granted_s.append(now_s)
        if self.holding:
            self.out[permit.id] = permit
            self.push_out += lane is Lane.PUSH
        else:
            self._end(permit, now_s)
        if lane is Lane.PULL and self.pulls.running:
            running = replace(self.pulls.running, requests=self.pulls.running.requests + 1)
            self.pulls = replace(self.pulls, running=running)
        return permit

    def _end(self, permit: Granted, end_s: float) -> None:
        insort(self.ends_s, end_s)
        if permit.lane is Lane.PUSH:
            insort(self.push_ends_s, end_s)

    def _expire(self, now_s: float) -> None:
        """A permit past its deadline was answered at its deadline."""
        if self.out and next(iter(self.out.values())).deadline_s <= now_s:
            for permit in [each for each in self.out.values() if each.deadline_s <= now_s]:
                self._take(permit)
                self._end(permit, permit.deadline_s)

    def _facts(self, now_s: float) -> permits.Facts:
        limited = (
            feedback.width(self.state, now_s) is not None
        )  # else what is in flight isn't asked
        return permits.Facts(
            now_s=now_s,
            live=[
                Live(
                    len(self.out) + live(self.ends_s, window, now_s),
                    self.push_out + live(self.push_ends_s, window, now_s),
                )
                for window in self.windows
            ],
            in_flight=sum(now_s < each.awaited_until_s for each in self.out.values() if limited),
            waiting_pull=sum(self.waiting_pull.values()),
            last_grant_s=self.last_grant_s,
        )

    def _free_at(self) -> permits.FreeAt:
        def free_at(window_index: int, lane: Lane | None, live: int) -> float | None:
            ends_s: Sequence[float] = self.push_ends_s if lane is Lane.PUSH else self.ends_s
            out = self.push_out if lane is Lane.PUSH else len(self.out)
            return free_at_s(ends_s, self.windows[window_index], live - out)

        return free_at


@dataclass
class _Own:
    """Bounds on our own requests, for one answered request."""

    ledger: MemoryLedger
    granted_s: float
    answered_s: float

    def most(self, window: Window) -> int:
        ends_s = self.ledger.ends_s
        return (
            len(self.ledger.out)
            + len(ends_s)
            - bisect_right(ends_s, self.granted_s - window.held_s)
        )

    def least(self, window: Window) -> int:
        since_s = self.answered_s - window.sure_s
        answered_s = self.ledger.answered_s
        first = bisect_right(answered_s, (since_s, math.inf))
        last = bisect_right(answered_s, (self.granted_s, math.inf))
        return 1 + sum(granted_s > since_s for _, granted_s in answered_s[first:last])


def live(ends_s: Sequence[float], window: Window, now_s: float) -> int:
    """How many of the requests answered at `ends_s` (ascending) still count at `now_s`.

    A request answered exactly `held_s` ago has left the window.
    """
    return len(ends_s) - bisect_right(ends_s, now_s - window.held_s)


def free_at_s(ends_s: Sequence[float], window: Window, allowed: int) -> float | None:
    """When at most `allowed` of the requests answered at `ends_s` (ascending) still count.

    None when `allowed` is negative: requests that are still unanswered take all the room, and
    it is unknown when those will end.
    """
    if allowed < 0:
        return None
    surplus = len(ends_s) - allowed
    return ends_s[surplus - 1] + window.held_s if surplus > 0 else float("-inf")
