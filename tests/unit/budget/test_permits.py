"""How many permits now, and when to ask again."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.budget import Lane
from connector.budget.policy import permits
from connector.budget.policy.feedback import FeedbackState, WindowState
from connector.budget.policy.permits import TICK_S, Allowance, Facts
from connector.budget.policy.windows import Ceiling, Live, Pulls, RunningPull, Window

WINDOWS = (Window(300, 60.0), Window(6000, 3600.0))
OPEN = FeedbackState(probing=0)
lanes_of = st.sampled_from(Lane)
counts = st.builds(Live, st.integers(0, 20), st.integers(0, 20))
ceilings = st.builds(Ceiling, st.integers(0, 20), st.integers(0, 20))


def facts(minute: Live, hour: Live, **more: float) -> Facts:
    return Facts(now_s=1000.0, live=(minute, hour), **more)  # type: ignore[arg-type]


def never(window_index: int, lane: Lane | None, live: int) -> float | None:
    return None


def test_the_fuller_window_decides():
    free = facts(Live(290, 290), Live(5997, 5997))
    allowed = permits.allowance(WINDOWS, OPEN, Pulls(), free)
    assert permits.room(allowed, free, Lane.PUSH, 64) == 3
    assert permits.room(allowed, free, Lane.PUSH, 2) == 2


def test_the_first_request_ever_goes_alone():
    """The limits may be lower than configured; its headers show it."""
    empty = facts(Live(0, 0), Live(0, 0))
    allowed = permits.allowance(WINDOWS, FeedbackState(), Pulls(), empty)
    assert permits.room(allowed, empty, Lane.PULL, 64) == 1
    one_out = facts(Live(1, 1), Live(1, 1), in_flight=1)
    assert permits.room(allowed, one_out, Lane.PULL, 64) == 0


def test_nothing_is_sent_before_a_hold_ends():
    state = FeedbackState(hold_until_s=1030.0, probing=1)
    empty = facts(Live(0, 0), Live(0, 0))
    allowed = permits.allowance(WINDOWS, state, Pulls(), empty)
    assert permits.room(allowed, empty, Lane.PULL, 1) == 0
    assert permits.retry_at_s(WINDOWS, allowed, empty, Lane.PULL, never) == 1030.0 + TICK_S


def test_evenly_spaced_grants_come_one_at_a_time():
    state = FeedbackState(
        probing=0, windows={"60": WindowState(paced_until_s=2000, pace=0.5, pace_since_s=1000)}
    )
    just_now = facts(Live(5, 5), Live(5, 5), last_grant_s=999.9)
    allowed = permits.allowance(WINDOWS, state, Pulls(), just_now)
    assert allowed.spacing_s == pytest.approx(60.05 / 150)
    assert permits.room(allowed, just_now, Lane.PUSH, 9) == 0
    assert permits.retry_at_s(WINDOWS, allowed, just_now, Lane.PUSH, never) == pytest.approx(
        999.9 + 60.05 / 150 + TICK_S
    )
    assert permits.room(allowed, facts(Live(5, 5), Live(5, 5)), Lane.PUSH, 9) == 1


def test_pushes_leave_room_for_pulls_that_wait():
    free = facts(Live(296, 296), Live(296, 296), waiting_pull=3)
    allowed = permits.allowance(WINDOWS, OPEN, Pulls(), free)
    assert permits.room(allowed, free, Lane.PUSH, 64) == 1
    assert permits.room(allowed, free, Lane.PULL, 64) == 4


def test_pulls_that_hold_half_of_the_hour_no_longer_go_first():
    free = facts(Live(290, 0), Live(4000, 900), waiting_pull=64)
    allowed = permits.allowance(WINDOWS, OPEN, Pulls(), free)
    assert permits.room(allowed, free, Lane.PUSH, 64) == 10


def test_the_reserve_caps_live_pushes_and_leaves_nothing_idle():
    """A pull reserves 100 of a minute: 200 pushes may be live, whatever the pull has spent."""
    pulls = Pulls(running=RunningPull(seen_s=999, requests=0, expected=100))
    before = facts(Live(200, 200), Live(200, 200))
    allowed = permits.allowance(WINDOWS, OPEN, pulls, before)
    assert permits.room(allowed, before, Lane.PUSH, 64) == 0
    assert permits.room(allowed, before, Lane.PULL, 64) == 64
    pulls = Pulls(running=RunningPull(seen_s=999, requests=60, expected=100))
    half = facts(Live(259, 199), Live(259, 199))
    allowed = permits.allowance(WINDOWS, OPEN, pulls, half)
    assert permits.room(allowed, half, Lane.PUSH, 64) == 1


def test_a_push_held_up_by_a_reserve_looks_again_within_a_second():
    """The pull may end, or stop showing life, and no clock says when."""
    pulls = Pulls(running=RunningPull(seen_s=999, expected=300))
    busy = facts(Live(10, 10), Live(10, 10))
    allowed = permits.allowance(WINDOWS, OPEN, pulls, busy)
    assert permits.room(allowed, busy, Lane.PUSH, 1) == 0
    assert permits.retry_at_s(WINDOWS, allowed, busy, Lane.PUSH, never) == 1001.0 + TICK_S


def test_waits_until_the_slowest_window_has_room():
    full = facts(Live(300, 300), Live(6000, 6000))
    allowed = permits.allowance(WINDOWS, OPEN, Pulls(), full)
    when = {0: 1007.0, 1: 1900.0}
    at_s = permits.retry_at_s(WINDOWS, allowed, full, Lane.PULL, lambda index, *_: when[index])
    assert at_s == 1900.0 + TICK_S


def test_unanswered_requests_free_nothing_before_a_whole_window():
    full = facts(Live(300, 300), Live(300, 300))
    allowed = permits.allowance(WINDOWS, OPEN, Pulls(), full)
    at_s = permits.retry_at_s(WINDOWS, allowed, full, Lane.PULL, never)
    assert at_s == pytest.approx(1000 + WINDOWS[0].held_s + TICK_S)


def test_looks_again_when_foreign_mode_ends():
    state = FeedbackState(
        probing=0,
        windows={"60": WindowState(foreign_until_s=1012, foreign_most=200, server_limit=300)},
    )
    full = facts(Live(200, 200), Live(200, 200))
    allowed = permits.allowance(WINDOWS, state, Pulls(), full)
    at_s = permits.retry_at_s(WINDOWS, allowed, full, Lane.PULL, never)
    assert at_s == 1012.0 + TICK_S


def test_a_permit_ends_long_after_all_waiters_gave_up():
    """5 s to send it, the request's total time-out, 60 s for a request that arrives late."""
    assert permits.send_by_s(100.0) == 105.0
    assert permits.deadline_s(100.0, request_timeout_s=30.0) == 195.0


@given(
    st.lists(st.tuples(ceilings, counts), min_size=1, max_size=3),
    lanes_of,
    st.integers(1, 30),
    st.integers(0, 5),
)
def test_what_is_granted_fits_below_every_ceiling(
    pairs: list[tuple[Ceiling, Live]], lane: Lane, asked: int, waiting: int
):
    """Never more than asked, never over a ceiling of the lane, and all that fits."""
    now = Facts(now_s=0.0, live=[live for _, live in pairs], waiting_pull=waiting)
    allowed = Allowance([ceiling for ceiling, _ in pairs])
    count = permits.room(allowed, now, lane, asked)
    assert 0 <= count <= asked
    taken = waiting if lane is Lane.PUSH else 0
    fits = [
        live.all + taken + more <= ceiling.all
        and (lane is Lane.PULL or live.push + more <= ceiling.push)
        for more in (count, count + 1)
        for ceiling, live in pairs
    ]
    here, one_more = fits[: len(pairs)], fits[len(pairs) :]
    assert count == 0 or all(here)
    assert count == asked or not all(one_more)


@given(
    st.lists(st.tuples(ceilings, counts), min_size=2, max_size=2),
    lanes_of,
    st.floats(900, 5000),
    st.floats(-100, 5000),
)
def test_the_next_look_lies_ahead(
    pairs: list[tuple[Ceiling, Live]], lane: Lane, hold_s: float, free_s: float
):
    """However wrong what is known, a dispatcher never spins, and never sleeps for ever."""
    now = Facts(now_s=1000.0, live=[live for _, live in pairs])
    allowed = Allowance([ceiling for ceiling, _ in pairs], not_before_s=hold_s)
    at_s = permits.retry_at_s(WINDOWS, allowed, now, lane, lambda *_: free_s)
    assert 1000.0 < at_s < math.inf
