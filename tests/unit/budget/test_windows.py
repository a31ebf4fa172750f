"""What counts in a window, and for how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.budget.policy.windows import Window, windows_of
from connector.settings import RateLimit
from tests.simulator.memory_ledger import free_at_s, live

MINUTE = Window(300, 60.0)
ends = st.lists(st.floats(0, 1000), max_size=40).map(sorted)
windows = st.builds(Window, st.integers(1, 20), st.floats(0.1, 500))


def test_a_request_counts_a_guard_longer_than_the_window():
    """The guard covers a server whose clock is 500 ppm slow, and 20 ms."""
    assert MINUTE.held_s == pytest.approx(60.05)
    assert live([100.0], MINUTE, 160.049) == 1
    assert live([100.0], MINUTE, 160.051) == 0


def test_a_request_surely_counts_a_guard_shorter_than_the_window():
    assert MINUTE.sure_s == pytest.approx(59.95)
    assert Window(1, 0.01).sure_s == 0.0


@pytest.mark.parametrize(("limit", "length_s"), [(0, 60), (-1, 60), (1, 0), (1, -5)])
def test_a_window_that_lets_nothing_through_is_refused(limit: int, length_s: float):
    with pytest.raises(ValueError, match="no request fits"):
        Window(limit, length_s)


def test_windows_come_shortest_first_and_the_stricter_of_two_equals_counts():
    limits = [RateLimit(6000, 3600), RateLimit(300, 60), RateLimit(250, 60)]
    assert windows_of(limits) == (Window(250, 60), Window(6000, 3600))


def test_no_window_at_all_is_an_error():
    with pytest.raises(ValueError, match="at least one rate window"):
        windows_of([])


@given(ends, windows, st.floats(0, 2000))
def test_live_is_what_a_count_one_by_one_finds(ends_s: list[float], window: Window, now_s: float):
    expected = sum(end_s > now_s - window.held_s for end_s in ends_s)
    assert live(ends_s, window, now_s) == expected


@given(ends, windows, st.integers(0, 40))
def test_free_at_is_the_first_instant_at_which_so_few_count(
    ends_s: list[float], window: Window, allowed: int
):
    """At that time no more than allowed count, a moment earlier one more did."""
    at_s = free_at_s(ends_s, window, allowed)
    assert at_s is not None
    if at_s == float("-inf"):
        assert len(ends_s) <= allowed
    else:
        assert live(ends_s, window, at_s + 1e-6) <= allowed
        assert live(ends_s, window, at_s - 1e-6) > allowed


def test_it_is_unknown_when_unanswered_requests_leave():
    assert free_at_s([1.0], MINUTE, -1) is None
