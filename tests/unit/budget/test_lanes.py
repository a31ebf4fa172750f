"""The reserve: what pushes leave to pulls, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.budget.policy import windows
from connector.budget.policy.windows import Live, Pulls, RunningPull, Window

WINDOWS = (Window(300, 60.0), Window(6000, 3600.0))
IDLE = (Live(0, 0), Live(0, 0))
HOURLY = Pulls(starts_s=(0.0, 3600.0, 7200.0), costs=(600, 600))


def reserve(pulls: Pulls, now_s: float, live: tuple[Live, Live] = IDLE) -> tuple[int, ...]:
    return windows.reserves(WINDOWS, live, pulls, now_s)


def test_without_pulls_pushes_may_have_everything():
    assert reserve(Pulls(), 100.0) == (0, 0)


def test_one_pull_says_nothing_about_the_next():
    assert reserve(Pulls(starts_s=(0.0,), costs=(600,)), 1000.0) == (0, 0)


def test_a_pull_due_within_the_hour_has_its_cost_reserved():
    """At first exactly its cost; from a tenth of the way on, some spare slots too."""
    assert reserve(HOURLY, 7300.0) == (0, 600)
    assert reserve(HOURLY, 9000.0) == (0, 660)


def test_pulls_that_come_often_have_as_many_costs_reserved_as_an_hour_holds():
    often = Pulls(starts_s=(0.0, 600.0), costs=(100,))
    assert reserve(often, 1190.0) == (103, 660)


def test_a_pull_due_within_the_minute_finds_half_of_it_free():
    assert reserve(HOURLY, 10_745.0) == (150, 660)


def test_a_dear_pull_gets_no_more_than_half():
    dear = Pulls(starts_s=(0.0, 3600.0), costs=(9000,))
    assert reserve(dear, 7100.0) == (0, 3000)


def test_the_dearest_of_the_last_three_pulls_counts():
    assert Pulls(costs=(900, 10, 700, 20)).cost == 700


def test_a_pull_due_later_than_the_window_reserves_nothing_yet():
    daily = Pulls(starts_s=(0.0, 86_400.0), costs=(600,))
    assert reserve(daily, 90_000.0) == (0, 0)
    assert reserve(daily, 172_800.0 - 3000) == (0, 660)


def test_a_pull_that_stays_away_is_not_waited_for_longer_than_its_interval():
    often = Pulls(starts_s=(0.0, 600.0), costs=(100,))
    assert reserve(often, 1200.0 + 500)[1] == 660
    assert reserve(often, 1200.0 + 601) == (0, 0)


def test_the_interval_is_the_median_so_one_missed_pull_shifts_nothing():
    assert windows.next_due((0.0, 3600.0, 10_800.0, 14_400.0)) == (18_000.0, 3600.0)


@pytest.mark.parametrize(
    ("running", "expected"),
    [
        (RunningPull(seen_s=100, expected=40), (40, 40)),
        (RunningPull(seen_s=100, requests=30, expected=40), (10, 10)),
        (RunningPull(seen_s=100, expected=4000, latency_s=0.3), (251, 3000)),
        (RunningPull(seen_s=100, expected=4000, latency_s=0.3, chains=4), (300, 3000)),
        (RunningPull(seen_s=100, requests=50, expected=40), (300, 3000)),
        (RunningPull(seen_s=96, expected=40), (0, 0)),
    ],
    ids=["what it needs", "what is left", "what latency lets through", "chains at once",
         "longer than known", "no sign of life for 3 s"],
)  # fmt: skip
def test_a_running_pull_reserves_what_it_can_still_use(
    running: RunningPull, expected: tuple[int, int]
):
    assert reserve(Pulls(running=running), 100.0) == expected


def test_what_a_pull_has_spent_stays_part_of_its_reserve():
    """Live pulls are counted in, so pushes gain nothing and lose nothing when it spends."""
    running = RunningPull(seen_s=100, requests=30, expected=40)
    assert reserve(Pulls(running=running), 100.0, (Live(30, 0), Live(30, 0))) == (40, 40)


def test_a_pull_that_holds_half_of_the_hour_shares_the_minute_evenly():
    running = RunningPull(seen_s=100, requests=3000)
    live = (Live(300, 0), Live(3000, 0))
    assert reserve(Pulls(running=running), 100.0, live) == (150, 3000)


@given(
    starts=st.lists(st.floats(0, 1e5), max_size=5).map(sorted),
    costs=st.lists(st.integers(0, 10_000), max_size=5),
    running=st.none()
    | st.builds(
        RunningPull,
        seen_s=st.floats(0, 1e5),
        requests=st.integers(0, 9000),
        expected=st.none() | st.integers(0, 9000),
        chains=st.integers(1, 64),
        latency_s=st.none() | st.floats(0.001, 60),
    ),
    now_s=st.floats(0, 1.1e5),
    spent=st.tuples(st.integers(0, 300), st.integers(0, 6000)),
)
def test_a_reserve_never_leaves_pushes_less_than_half_of_the_hour(
    starts: list[float],
    costs: list[int],
    running: RunningPull | None,
    now_s: float,
    spent: tuple[int, int],
):
    """0 to the whole limit of a minute, 0 to half of the hour."""
    live = (Live(spent[0], 0), Live(spent[1], 0))
    minute, hour = windows.reserves(WINDOWS, live, Pulls(starts, costs, running), now_s)
    assert 0 <= minute <= 300
    assert 0 <= hour <= 3000


def test_pulls_started_at_one_instant_have_no_rhythm():
    """Two machines whose cron fires in the same second: nothing is reserved for a next one."""
    assert windows.next_due((0.0, 0.0)) is None
