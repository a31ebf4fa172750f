"""The decision: how many permits may be granted now, and when to ask again.

Pure. A ledger (SQL, or in memory in the simulator) looks up `Facts` in its transaction, asks
`allowance` for what applies now and `room` for how many to grant, or `retry_at_s` for when to try
again. Times are seconds of the ledger's clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from connector.budget.policy import feedback, lanes
from connector.budget.policy.windows import Ceiling, Lane, Live, Window

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
    windows: Sequence[Window], state: feedback.FeedbackState, pulls: lanes.Pulls, facts: Facts
) -> Allowance:
    """What applies now: configured windows, corrected by feedback, shared between lanes."""
    now_s = facts.now_s
    limits = feedback.limits(windows, state, now_s)
    pairs = zip(windows, limits, strict=True)
    corrected = [Window(limit, window.length_s) for window, limit in pairs]
    reserves = lanes.reserves(corrected, facts.live, pulls, now_s)
    ceilings = [
        Ceiling(limit, max(0, limit - reserve))
        for limit, reserve in zip(limits, reserves, strict=True)
    ]
    return Allowance(
        ceilings,
        not_before_s=state.hold_until_s,
        width=feedback.width(state, now_s),
        spacing_s=max(
            feedback.spacing_s(window, state, now_s, live.all)
            for window, live in zip(windows, facts.live, strict=True)
        ),
        reserved=any(reserves),
        pull_first=not lanes.pull_has_its_share(corrected, facts.live),
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
