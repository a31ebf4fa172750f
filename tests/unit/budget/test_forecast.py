"""When N more requests would be done."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.budget import Lane
from connector.budget.policy.permits import Allowance, Constraint, constraints, forecast
from connector.budget.policy.windows import Ceiling, Window


def test_ten_thousand_take_seventy_three_minutes():
    """300 a minute for 20 minutes, the hour's end, then 300 a minute again."""
    bounds = [Constraint(300, 60.0, []), Constraint(6000, 3600.0, [])]
    assert forecast(bounds, 10_000, now_s=0.0).done_s == 73 * 60


def test_ten_million_take_a_rhythm_not_a_list():
    """6000 an hour for ten weeks: 1,666 hours, and the last 4000 in their first 13 minutes."""
    bounds = [Constraint(300, 60.0, []), Constraint(6000, 3600.0, [])]
    assert forecast(bounds, 10_000_000, now_s=0.0).done_s == 1666 * 3600 + 13 * 60


def test_nothing_to_do_is_done_at_once():
    assert forecast([Constraint(1, 60.0, [])], 0, now_s=5.0).done_s == 5.0


def test_what_still_counts_is_waited_for():
    """Two of two spent at 0 and 4: the next go at 10 and 14."""
    eta = forecast([Constraint(2, 10.0, [0.0, 4.0])], 2, now_s=9.0)
    assert (eta.first_s, eta.done_s) == (10.0, 14.0)


def test_more_live_than_the_ceiling_allows_leave_first():
    """After a limit fell to 1: both old ones go before the next may come."""
    eta = forecast([Constraint(1, 10.0, [0.0, 4.0])], 2, now_s=9.0)
    assert (eta.first_s, eta.done_s) == (14.0, 24.0)


def test_a_hold_spacing_latency_and_concurrency_are_counted_in():
    wide = [Constraint(1000, 60.0, [])]
    assert forecast(wide, 1, now_s=0.0, not_before_s=30.0).first_s == 30.0
    assert forecast(wide, 5, now_s=0.0, spacing_s=2.0).done_s == 8.0
    assert forecast(wide, 6, now_s=0.0, latency_s=3.0, in_flight=2).done_s == 9.0


def test_a_ceiling_of_nothing_is_never_done():
    assert forecast([Constraint(0, 60.0, [])], 1, now_s=0.0).done_s == math.inf


def test_pushes_are_bound_by_their_own_ceiling_too():
    windows, allowed = [Window(300, 60.0)], Allowance([Ceiling(300, 100)])
    assert [each.limit for each in constraints(windows, allowed, Lane.PULL, [[]], [[]])] == [300]
    pushing = constraints(windows, allowed, Lane.PUSH, [[1.0, 2.0]], [[2.0]])
    assert [(each.limit, each.ends_s) for each in pushing] == [(300, [1.0, 2.0]), (100, [2.0])]


bounds = st.builds(
    Constraint,
    st.integers(1, 8),
    st.floats(1, 50),
    st.lists(st.floats(0, 100), max_size=12).map(sorted),
)


@given(st.lists(bounds, min_size=1, max_size=3), st.integers(1, 150), st.floats(0, 3))
def test_equals_trying_every_instant(bounds: list[Constraint], count: int, latency_s: float):
    """The forecast is when a dispatcher that grants whenever all windows have room is done."""
    eta = forecast(bounds, count, now_s=100.0, latency_s=latency_s, in_flight=64)
    ends_s = [list(bound.ends_s) for bound in bounds]
    at_s = 100.0
    for _ in range(count):
        at_s = max([at_s, *map(_room_at_s, bounds, ends_s)])
        for own in ends_s:
            own.append(at_s + latency_s)
    assert eta.done_s == pytest.approx(at_s + latency_s)


def _room_at_s(bound: Constraint, ends_s: list[float]) -> float:
    """When at most limit - 1 of `ends_s` still count."""
    leaving = sorted(end_s + bound.held_s for end_s in ends_s)
    return leaving[-bound.limit] if len(leaving) >= bound.limit else -math.inf
