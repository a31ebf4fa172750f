"""When N more requests will be done: the greedy optimum against sliding windows.

Request i may start at `max over windows of answered[i − limit] + held_s`. No schedule within the
windows is faster, and the scheduler grants exactly so; what others will spend is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isclose

from connector.budget.policy.permits import Allowance
from connector.budget.policy.windows import Lane, Window


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
