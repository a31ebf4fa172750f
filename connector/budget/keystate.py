"""What the ledger remembers of one key beside its requests, as one JSON value.

What feedback learnt, when pulls ran and what they cost, which pulls run now, and how long an
answer takes. Values only; the ledger reads and writes them in its transactions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from connector.budget.learnt import FeedbackState
from connector.budget.lanes import HEARTBEAT_S, REMEMBERED_PULLS, Pulls, RunningPull

_SMOOTHING = 0.2
_FORGOTTEN_S = 3600.0
_UNDECLARED_AFTER = 5
"""A process that reads without saying that it pulls is taken for a pull from here on."""


@dataclass(frozen=True, slots=True)
class OwnPull:
    """One process' pull. declared: it said so. The rest: see `lanes.RunningPull`."""

    seen_s: float
    declared: bool = False
    requests: int = 0
    expected: int | None = None
    chains: int = 1
    latency_s: float | None = None

    def active(
        self, now_s: float, *, granted: int, chains: int, latency_s: float | None
    ) -> OwnPull:
        """This pull after it asked, was granted permits, or was answered."""
        return replace(
            self,
            seen_s=now_s,
            requests=self.requests + granted,
            chains=max(1, chains, self.chains * 9 // 10),
            latency_s=smoothed_s(self.latency_s, latency_s),
        )

    def counts(self, now_s: float) -> bool:
        known = self.declared or self.requests >= _UNDECLARED_AFTER
        return known and now_s - self.seen_s <= HEARTBEAT_S


@dataclass(frozen=True, slots=True)
class KeyState:
    """latency_s: from grant to answer, smoothed, both lanes. running: by owner."""

    feedback: FeedbackState = field(default_factory=FeedbackState)
    starts_s: tuple[float, ...] = ()
    costs: tuple[int, ...] = ()
    running: Mapping[str, OwnPull] = field(default_factory=dict)
    latency_s: float | None = None

    def dumps(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def loads(cls, text: str) -> KeyState:
        stored: dict[str, Any] = json.loads(text)
        if not stored:
            return cls()
        running = {owner: OwnPull(**each) for owner, each in stored["running"].items()}
        return cls(
            feedback=FeedbackState.from_json(stored["feedback"]),
            starts_s=tuple(stored["starts_s"]),
            costs=tuple(stored["costs"]),
            running=running,
            latency_s=stored["latency_s"],
        )

    def pulls(self, now_s: float) -> Pulls:
        """The pulls as lanes see them; several that run at once are one with all their needs."""
        alive = [pull for pull in self.running.values() if pull.counts(now_s)]
        return Pulls(self.starts_s, self.costs, _together(alive) if alive else None)

    def started(self, owner: str, now_s: float, expected: int | None) -> KeyState:
        pull = OwnPull(now_s, declared=True, expected=expected)
        starts_s = (*self.starts_s, now_s)[-REMEMBERED_PULLS:]
        return replace(self, starts_s=starts_s, running={**self.running, owner: pull})

    def ended(self, owner: str, requests: int) -> KeyState:
        costs = (*self.costs, requests)[-REMEMBERED_PULLS:]
        return replace(self.without(owner), costs=costs)

    def without(self, owner: str) -> KeyState:
        running = {each: pull for each, pull in self.running.items() if each != owner}
        return replace(self, running=running)

    def with_pull(self, owner: str, pull: OwnPull, now_s: float) -> KeyState:
        """`owner`'s pull as it is now; those of others that died are forgotten."""
        alive = {
            each: other
            for each, other in self.running.items()
            if now_s - other.seen_s <= _FORGOTTEN_S
        }
        return replace(self, running={**alive, owner: pull})

    def answered(self, latencies_s: Sequence[float]) -> KeyState:
        latency_s = self.latency_s
        for each_s in latencies_s:
            latency_s = smoothed_s(latency_s, each_s)
        return replace(self, latency_s=latency_s)


def _together(pulls: Sequence[OwnPull]) -> RunningPull:
    expected = [pull.expected for pull in pulls if pull.expected is not None]
    latencies_s = [pull.latency_s for pull in pulls if pull.latency_s is not None]
    return RunningPull(
        seen_s=max(pull.seen_s for pull in pulls),
        requests=sum(pull.requests for pull in pulls),
        expected=sum(expected) if len(expected) == len(pulls) else None,
        chains=sum(pull.chains for pull in pulls),
        latency_s=min(latencies_s, default=None),
    )


def smoothed_s(before_s: float | None, new_s: float | None) -> float | None:
    """An exponential mean; None before the first value."""
    if before_s is None or new_s is None:
        return before_s if new_s is None else new_s
    return before_s + _SMOOTHING * (new_s - before_s)
