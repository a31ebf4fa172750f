"""The decision: how many permits may be granted now, and when to ask again.

Pure. A ledger (SQL, or in memory in the simulator) looks up `Facts` in its transaction, asks
`allowance` for what applies now and `room` for how many to grant, or `retry_at_s` for when to try
again. `forecast` says when N more requests will be done. Times are seconds of the ledger's clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, isclose

from connector.budget.policy import feedback
from connector.budget.policy.windows import (
    Ceiling,
    Lane,
    Live,
    Pulls,
    Window,
    pull_has_its_share,
    reserves,
)

SEND_WITHIN_S = 5.0
GRACE_S = 60.0
"""A request may reach the server after we gave up on it; it counts for this long after that."""
GLANCE_S = 0.2
"""How soon to try again for events that no clock announces: answers to other processes."""
TICK_S = 0.001
"""Added to every computed time; otherwise, after rounding, the slot may still be taken."""
RESERVE_GLANCE_S = 1.0
"""How soon a push checks a reserve again: pulls end, or die."""

AHEAD_S = 1.0
"""A process may hold permits that it took ahead of its need for this long."""
MOST_AHEAD = 9
"""How many permits it may take ahead: then the ledger is asked once per ten requests."""
AHEAD_SHARE = 16
"""Of the free permits, at most one in so many is taken ahead: other processes hardly notice."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts that a ledger looks up for one decision.

    live: per window, shortest first: permits that still count (unanswered ones, and answered
        ones for `held_s` after their answer; one past its deadline was answered at its deadline).
    in_flight: permits still awaited: neither answered nor reported unanswered nor given back,
        granted less than send-by plus request timeout ago, to a process that may still live.
    waiting_pull: callers of lane pull that wait for a permit, in all living processes.
    last_grant_s: when the last permit of any lane was granted; -inf if never.
    """

    now_s: float
    live: Sequence[Live]
    in_flight: int = 0
    waiting_pull: int = 0
    last_grant_s: float = -math.inf


@dataclass(frozen=True, slots=True)
class Allowance:
    """What applies to every grant until the next answer.

    ceilings: per window, shortest first. not_before_s: end of a hold. width: how many may be
    in flight at once, None for any number. spacing_s: seconds between two grants.
    reserved: whether some ceiling of lane push is lowered for a pull.
    pull_first: whether pushes leave room for waiting pulls.
    until_s: when any of this next changes by time alone.
    """

    ceilings: Sequence[Ceiling]
    not_before_s: float = -math.inf
    width: int | None = None
    spacing_s: float = 0.0
    reserved: bool = False
    pull_first: bool = True
    until_s: float = math.inf


FreeAt = Callable[[int, Lane | None, int], float | None]
"""(window index, lane or None for both, n) -> when at most n live permits still count, with no
further grant; None if unanswered ones alone are more than that."""


def send_by_s(granted_s: float) -> float:
    """Until when a permit granted at `granted_s` may be used."""
    return granted_s + SEND_WITHIN_S


def deadline_s(granted_s: float, request_timeout_s: float) -> float:
    """When a permit that was never answered is taken to have been answered.

    request_timeout_s: the total one, from sending until we give up.
    """
    return send_by_s(granted_s) + request_timeout_s + GRACE_S


def allowance(
    windows: Sequence[Window], state: feedback.FeedbackState, pulls: Pulls, facts: Facts
) -> Allowance:
    """What applies now: configured windows, corrected by feedback, shared between lanes."""
    now_s = facts.now_s
    limits = feedback.limits(windows, state, now_s)
    pairs = zip(windows, limits, strict=True)
    corrected = [Window(limit, window.length_s) for window, limit in pairs]
    kept = reserves(corrected, facts.live, pulls, now_s)
    ceilings = [
        Ceiling(limit, max(0, limit - reserve)) for limit, reserve in zip(limits, kept, strict=True)
    ]
    return Allowance(
        ceilings,
        not_before_s=state.hold_until_s,
        width=feedback.width(state, now_s),
        spacing_s=max(
            feedback.spacing_s(window, state, now_s, live.all)
            for window, live in zip(windows, facts.live, strict=True)
        ),
        reserved=any(kept),
        pull_first=not pull_has_its_share(corrected, facts.live),
        until_s=feedback.changes_at_s(state, now_s),
    )


def room(allowed: Allowance, facts: Facts, lane: Lane, asked: int) -> int:
    """How many of `asked` permits of `lane` may be granted at `facts.now_s`."""
    if facts.now_s < max(allowed.not_before_s, facts.last_grant_s + allowed.spacing_s):
        return 0
    pairs = list(zip(allowed.ceilings, facts.live, strict=True))
    first = facts.waiting_pull if lane is Lane.PUSH and allowed.pull_first else 0
    free = [asked, *(ceiling.all - live.all - first for ceiling, live in pairs)]
    if lane is Lane.PUSH:
        free += [ceiling.push - live.push for ceiling, live in pairs]
    if allowed.width is not None:
        free.append(allowed.width - facts.in_flight)
    if allowed.spacing_s > 0:
        free.append(1)
    return max(0, min(free))


def may_need(issued_s: Iterable[float], now_s: float) -> int:
    """How many permits a process may need soon: as many as it needed in most of the last second.
    issued_s: when it got its latest ones."""
    recent = sum(each_s > now_s - AHEAD_S for each_s in issued_s)
    return min(MOST_AHEAD, 2 * recent // 3)


def room_ahead(allowed: Allowance, facts: Facts, lane: Lane, granted: int) -> int:
    """How many more permits of `lane` a process may take ahead of its need, besides the `granted`
    ones that it needs now. None once half of a window is spent, nor while anything but windows
    limits this lane: a probe, spacing, others' spending, a reserve, a pull that waits."""
    is_push = lane is Lane.PUSH
    if allowed.width is not None or allowed.spacing_s > 0:
        return 0
    if is_push and (allowed.reserved or facts.waiting_pull):
        return 0
    free = []
    for ceiling, live in zip(allowed.ceilings, facts.live, strict=True):
        free.append(ceiling.all - live.all - granted)
        if 2 * free[-1] < ceiling.all:
            return 0
    return min(MOST_AHEAD, min(free) // AHEAD_SHARE)


def retry_at_s(
    windows: Sequence[Window], allowed: Allowance, facts: Facts, lane: Lane, free_at: FreeAt
) -> float:
    """When to try again after `room` was 0: never later than a slot can become free by itself.

    Permits returned unsent, and answers that end a probe, free slots sooner; the scheduler that
    learns of them tries again at once.
    """
    now_s = facts.now_s
    times_s = [allowed.not_before_s, facts.last_grant_s + allowed.spacing_s]
    for index, window in enumerate(windows):
        ceiling, live = allowed.ceilings[index], facts.live[index]
        full: list[tuple[Lane | None, int]] = []
        if live.all >= ceiling.all:
            full.append((None, ceiling.all - 1))
        if lane is Lane.PUSH and live.push >= ceiling.push:
            full.append((Lane.PUSH, ceiling.push - 1))
        for of_lane, below in full:
            known_s = free_at(index, of_lane, below)
            # what is unanswered now can't leave before `held_s`
            times_s.append(now_s + window.held_s if known_s is None else known_s)
    at_s = min(max(times_s), max(allowed.until_s, allowed.not_before_s))
    pull_goes_first = lane is Lane.PUSH and allowed.pull_first and facts.waiting_pull > 0
    too_many = allowed.width is not None and facts.in_flight >= allowed.width
    if pull_goes_first or too_many:
        at_s = max(at_s, now_s + GLANCE_S)
    if lane is Lane.PUSH and (allowed.reserved or pull_goes_first):
        at_s = min(at_s, now_s + RESERVE_GLANCE_S)
    return max(at_s, now_s) + TICK_S


# --- forecast -------------------------------------------------------------------------------------
#
# The greedy optimum against sliding windows: request i may start at
# `max over windows of answered[i - limit] + held_s`. No schedule within the windows is faster, and
# the scheduler grants exactly so; what others will spend is unknown.


@dataclass(frozen=True, slots=True)
class Constraint:
    """At most `limit` requests count at once, each until `held_s` after its answer.

    ends_s: when those that count now were answered, ascending (ledger seconds); unanswered
    ones as if they were answered one latency from now.
    """

    limit: int
    held_s: float
    ends_s: Sequence[float]


@dataclass(frozen=True, slots=True)
class Forecast:
    """first_s: the first of the requests goes out; done_s: the last is answered. Ledger
    seconds; inf where a ceiling of 0 lets nothing through."""

    first_s: float
    done_s: float


def constraints(
    windows: Sequence[Window],
    allowed: Allowance,
    lane: Lane,
    ends_s: Sequence[Sequence[float]],
    push_ends_s: Sequence[Sequence[float]],
) -> list[Constraint]:
    """The constraints on requests of `lane`. ends_s, push_ends_s: per window, shortest first."""
    found = []
    for window, ceiling, both, pushes in zip(
        windows, allowed.ceilings, ends_s, push_ends_s, strict=True
    ):
        found.append(Constraint(ceiling.all, window.held_s, both))
        if lane is Lane.PUSH and ceiling.push < ceiling.all:
            found.append(Constraint(ceiling.push, window.held_s, pushes))
    return found


def forecast(
    bounds: Sequence[Constraint],
    count: int,
    *,
    now_s: float,
    not_before_s: float = -inf,
    spacing_s: float = 0.0,
    latency_s: float = 0.0,
    in_flight: int = 64,
) -> Forecast:
    """When `count` more requests would be done, `in_flight` of them at a time at most."""
    earliest_s = max(now_s, not_before_s)
    if count < 1:
        return Forecast(earliest_s, earliest_s)
    if any(bound.limit < 1 for bound in bounds):
        return Forecast(inf, inf)
    lags = [Lag(bound.limit, bound.held_s + latency_s) for bound in bounds]
    lags += [Lag(in_flight, latency_s), Lag(1, spacing_s)]
    first_s, last_s = _greedy(
        [_releases(bound, count) for bound in bounds], lags, count, earliest_s
    )
    return Forecast(first_s, last_s + latency_s)


@dataclass(frozen=True, slots=True)
class Lag:
    """Request i starts no earlier than `length_s` after request i - `count` did."""

    count: int
    length_s: float


def _greedy(
    releases: Sequence[Sequence[float]], lags: Sequence[Lag], count: int, earliest_s: float
) -> tuple[float, float]:
    """Start times of the first and the last of `count` requests.

    Lags alone make the start times periodic: after a while each request starts one length of the
    slowest lag after the one `count` before it. Once that has held for as many requests as the
    longest lag spans, it holds for all later ones, which are then computed by arithmetic.
    """
    slowest = max(lags, key=lambda lag: lag.length_s / lag.count)
    settled = max(lag.count for lag in lags)
    released = slowest.count + max(map(len, releases), default=0)
    starts_s: list[float] = []
    at_s, in_rhythm = earliest_s, 0
    for number in range(count):
        at_s = max([at_s, *(each[number] for each in releases if number < len(each))])
        for lag in lags:
            if number >= lag.count and starts_s[number - lag.count] + lag.length_s > at_s:
                at_s = starts_s[number - lag.count] + lag.length_s
        starts_s.append(at_s)
        is_next = number >= slowest.count and isclose(
            at_s, starts_s[number - slowest.count] + slowest.length_s, abs_tol=1e-9
        )
        in_rhythm = in_rhythm + 1 if is_next else 0
        if in_rhythm > settled and number > released:
            rounds, rest = divmod(count - 1 - number, slowest.count)
            back = number - slowest.count + rest
            return starts_s[0], starts_s[back] + (rounds + 1) * slowest.length_s
    return starts_s[0], at_s


def _releases(bound: Constraint, count: int) -> list[float]:
    """When the first requests (at most min(limit, count)) each find room among what counts now.

    Request i needs the (len(ends) + i − limit + 1)-th oldest to have left.
    """
    already = list(bound.ends_s)
    surplus = len(already) - bound.limit
    return [
        already[surplus + number] + bound.held_s if surplus + number >= 0 else -inf
        for number in range(min(bound.limit, count))
    ]
