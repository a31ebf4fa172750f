"""Rate windows, and how the two lanes share them, as arithmetic.

A server counts a request at some time between its grant and its answer, so a permit counts from
its grant until its answer plus `held_s`. Keeping the live permits below `limit` exceeds neither a
sliding log, nor a fixed window of any alignment, nor a token bucket of that capacity.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from statistics import median
from typing import Protocol

SLOW_SERVER = 1.0005
"""A server's clock may be 500 ppm slower than the ledger's: its window lasts longer."""
GUARD_S = 0.020


class Lane(StrEnum):
    """What a request is for: pulls go first, up to a reserve; pushes use the remaining room."""

    PULL = "pull"
    PUSH = "push"


class Limits(Protocol):
    """Anything with a count and a length, such as `connector.settings.RateLimit`."""

    @property
    def limit(self) -> int: ...

    @property
    def length_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Window:
    """At most `limit` requests in any `length_s` seconds.

    Raises:
        ValueError: no request could ever fit.
    """

    limit: int
    length_s: float

    def __post_init__(self) -> None:
        if self.limit < 1 or self.length_s <= 0:
            raise ValueError(f"no request fits {self.limit}/{self.length_s:g}s")

    @property
    def held_s(self) -> float:
        """Seconds after its answer for which a request may still count at the server."""
        return self.length_s * SLOW_SERVER + GUARD_S

    @property
    def sure_s(self) -> float:
        """A request that arrived less than this long ago certainly counts at the server."""
        return max(0.0, 2 * self.length_s - self.held_s)


@dataclass(frozen=True, slots=True)
class Live:
    """Permits that still count in one window. all: of both lanes; push: of lane push alone."""

    all: int
    push: int

    @property
    def pull(self) -> int:
        return self.all - self.push


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The limit of grants in one window: one more needs live.all < all and, for lane push, also
    live.push < push."""

    all: int
    push: int


def windows_of(limits: Iterable[Limits]) -> tuple[Window, ...]:
    """The windows, shortest first; of two with the same length the stricter counts.

    Raises:
        ValueError: there are none, or one of them admits no request.
    """
    strictest: dict[float, int] = {}
    for each in limits:
        strictest[each.length_s] = min(each.limit, strictest.get(each.length_s, each.limit))
    if not strictest:
        raise ValueError("at least one rate window is needed, as in 300/60s")
    return tuple(Window(strictest[length_s], length_s) for length_s in sorted(strictest))


# --- lanes ----------------------------------------------------------------------------------------
#
# Pulls go first without starving pushes. The reserve is a cap on *live pushes* (limit - reserve),
# not room that is left free: what a pull has already spent of its reserve costs pushes nothing
# more, so no slot is wasted. Priority alone isn't enough: a page-by-page pull is rarely waiting at
# the instant a slot becomes free.

HEARTBEAT_S = 3.0
"""A pull that asked for nothing and got no answer for this long has ended or died."""
REMEMBERED_PULLS = 5
SWIFT = 1.25
"""A pull may for a while be this much faster than its smoothed latency suggests."""
SPARE, SPARE_FROM = 0.01, 0.9
"""Pushes leave this share of a limit free in addition to the next pull's cost: the slots of the
last pull become free a guard and a latency too late for the next, so without it each pull during a
long push would take some seconds longer than the one before. In the first tenth of the time between
two pulls, pushes may use it, unless they would still count at the next pull."""


@dataclass(frozen=True, slots=True)
class RunningPull:
    """A pull in progress, as the ledger sees it.

    seen_s: when it last asked for a permit or had an answer (ledger seconds).
    requests: permits of lane pull granted to it so far.
    expected: requests it will need in all; None if unknown.
    chains: how many of its requests were recently in flight or waiting at once.
    latency_s: seconds from grant to answer, smoothed; None before the first answer.
    """

    seen_s: float
    requests: int = 0
    expected: int | None = None
    chains: int = 1
    latency_s: float | None = None

    @classmethod
    def merged(cls, pulls: Sequence[RunningPull]) -> RunningPull | None:
        """Pulls that run at once, as one with all their needs; None for none."""
        if not pulls:
            return None
        expected = [pull.expected for pull in pulls if pull.expected is not None]
        return cls(
            seen_s=max(pull.seen_s for pull in pulls),
            requests=sum(pull.requests for pull in pulls),
            expected=sum(expected) if len(expected) == len(pulls) else None,
            chains=sum(pull.chains for pull in pulls),
            latency_s=min((p.latency_s for p in pulls if p.latency_s is not None), default=None),
        )


@dataclass(frozen=True, slots=True)
class Pulls:
    """The recent pulls with this key.

    starts_s: when the last REMEMBERED_PULLS pulls started (ledger seconds, ascending).
    costs: requests of the last finished ones, oldest first.
    """

    starts_s: Sequence[float] = ()
    costs: Sequence[int] = ()
    running: RunningPull | None = None

    @classmethod
    def loads(cls, text: str, running: Sequence[RunningPull] = ()) -> Pulls:
        """The stored pulls, and those that run now."""
        stored = _stored(text)
        return replace(stored, running=RunningPull.merged(running)) if running else stored

    def dumps(self) -> str:
        return json.dumps({"starts_s": self.starts_s, "costs": self.costs})

    def started(self, now_s: float) -> Pulls:
        return replace(self, starts_s=[*self.starts_s, now_s][-REMEMBERED_PULLS:])

    def ended(self, requests: int) -> Pulls:
        return replace(self, costs=[*self.costs, requests][-REMEMBERED_PULLS:], running=None)

    @property
    def cost(self) -> int:
        """Requests that a pull is expected to take: the most of the last three."""
        return max(self.costs[-3:], default=0)


@lru_cache(maxsize=16)
def _stored(text: str) -> Pulls:
    stored = json.loads(text)
    return Pulls(stored.get("starts_s", ()), stored.get("costs", ()))


def next_due(starts_s: Sequence[float]) -> tuple[float, float] | None:
    """(when the next pull is due, seconds between pulls); None if the pulls aren't regular."""
    interval_s = median([after - before for before, after in pairwise(starts_s)] or [0.0])
    started_at_once = interval_s < 0.001
    return None if started_at_once else (starts_s[-1] + interval_s, interval_s)


def reserves(
    windows: Sequence[Window], live: Sequence[Live], pulls: Pulls, now_s: float
) -> tuple[int, ...]:
    """Per window (shortest first), how much of its limit pushes must not hold.

    A running pull may have all of a short window, until it has half of the longest.
    """
    has_share = pull_has_its_share(windows, live)
    found = []
    for window, count in zip(windows, live, strict=True):
        half = window.limit // 2
        most = half if has_share or window is windows[-1] else window.limit
        due = min(half, _for_the_next(window, pulls, now_s))
        found.append(max(due, min(most, _still_usable(window, count, pulls, now_s))))
    return tuple(found)


def pull_has_its_share(windows: Sequence[Window], live: Sequence[Live]) -> bool:
    """Whether pulls hold half of the longest window: then they no longer go first."""
    return live[-1].pull >= windows[-1].limit / 2


def _for_the_next(window: Window, pulls: Pulls, now_s: float) -> int:
    """What pulls will have spent of the window once the next is done, if pushes sent now would
    still count when it is due: several pulls, if they come more often than the window is long.

    A pull that is late by more than the window, or than its own interval, isn't waited for.
    """
    due = next_due(pulls.starts_s)
    if due is None or not pulls.cost:
        return 0
    ahead_s, interval_s = due[0] - now_s, due[1]
    if not -min(window.held_s, interval_s) <= ahead_s <= window.held_s:
        return 0
    # pulls about one window apart count as one per window, not as two in some
    cost = pulls.cost * math.ceil(0.95 * window.length_s / interval_s)
    is_early = ahead_s > SPARE_FROM * max(interval_s, window.length_s)
    return cost if is_early else cost + math.ceil(SPARE * window.limit)


def _still_usable(window: Window, live: Live, pulls: Pulls, now_s: float) -> int:
    """What the running pull has used and can still use of this window: no more than its remaining
    requests, and no more than its latency allows."""
    running = pulls.running
    if running is None or now_s - running.seen_s > HEARTBEAT_S:
        return 0
    by_latency = window.limit
    if running.latency_s:
        by_latency = math.ceil(SWIFT * window.held_s * running.chains / running.latency_s)
    expected = pulls.cost if running.expected is None else running.expected
    if running.requests >= expected:  # longer than expected
        return by_latency
    return min(by_latency, live.pull + expected - running.requests)
