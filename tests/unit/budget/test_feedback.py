"""What one answer teaches, and what follows from it for the next grant."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.budget.policy import feedback
from connector.budget.policy.feedback import FeedbackState, Reading, WindowState
from connector.budget.policy.windows import Window

WINDOWS = (Window(300, 60.0), Window(6000, 3600.0))
SETTLED = FeedbackState(probing=0)


@dataclass
class Own:
    """Bounds on our own requests, the same for every window."""

    at_most: int = 100
    at_least: int = 90

    def most(self, window: Window) -> int:
        return self.at_most

    def least(self, window: Window) -> int:
        return self.at_least


def after(
    reading: Reading,
    state: FeedbackState = SETTLED,
    own: Own | None = None,
    *,
    granted_s: float = 99.0,
    now_s: float = 100.0,
) -> FeedbackState:
    return feedback.update(
        state, WINDOWS, reading, own or Own(), granted_s=granted_s, now_s=now_s, jitter=0.5
    )


def ok(limit: int = 300, remaining: int = 200, reset_s: float = 40.0) -> Reading:
    return Reading(200, limit, remaining, reset_s)


def limits(state: FeedbackState, now_s: float = 101.0) -> tuple[int, ...]:
    return feedback.limits(WINDOWS, state, now_s)


def spacing_s(state: FeedbackState, now_s: float, live: int = 0) -> float:
    return max(feedback.spacing_s(window, state, now_s, live) for window in WINDOWS)


def test_alone_nothing_changes():
    """The server counts no more than we may have sent, however far Remaining lags."""
    state = after(ok(remaining=200), own=Own(at_most=100, at_least=1))
    assert limits(state) == (300, 6000)
    assert spacing_s(state, 101) == 0
    assert feedback.width(state, 101) is None
    assert state.windows == {}


def test_more_than_we_can_have_sent_proves_others():
    """60 of 160 are others' at least, 70 at most: 300 - 70 - 3 % stay for us."""
    state = after(ok(remaining=140))
    assert limits(state) == (300 - 70 - 9 - 1, 6000)
    assert feedback.width(state, 101) == 140


def test_requests_are_spaced_only_near_the_ceiling_that_others_leave():
    """220 stay next to others' 70: as fast as ever until less than half of those 70 is free."""
    state = after(ok(remaining=140))
    assert spacing_s(state, 101, live=220 - 35) == 0
    assert spacing_s(state, 101, live=220 - 34) == pytest.approx(60.05 / 220 / 2)


def test_one_foreign_request_in_the_hour_slows_nothing_down():
    """5,818 of 5,999 are ours still, and go out as they did until 600 of them are left."""
    state = after(ok(limit=6000, remaining=5898, reset_s=1800.0), own=Own(100, 99))
    assert limits(state)[1] == 6000 - 3 - 180 - 1
    assert spacing_s(state, 101, live=5000) == 0
    assert 0 < spacing_s(state, 101, live=5300) < 1


def test_own_requests_in_flight_arent_counted_as_another_programs():
    """What others had spent a second ago is known; since then they can't have spent 40."""
    state = after(ok(remaining=180), own=Own(110, 110))
    assert state.windows["60"].foreign_most == 10
    state = after(ok(remaining=130), state, Own(160, 120), granted_s=100.0, now_s=101.0)
    assert state.windows["60"].foreign_most == 11
    state = after(ok(remaining=100), state, Own(160, 130), granted_s=101.0, now_s=102.0)
    assert state.windows["60"].foreign_most == 40, "unless the server proves it"


def test_an_answer_that_was_overtaken_does_not_raise_what_remains():
    """Sent before the last answer came, it may be older, whatever it says."""
    state = after(ok(remaining=140))
    state = after(ok(remaining=20), state, granted_s=100.5, now_s=101.0)
    assert feedback.width(after(ok(remaining=90), state, granted_s=100.9, now_s=101.2), 102) == 20
    assert feedback.width(after(ok(remaining=90), state, granted_s=101.1, now_s=101.4), 102) == 90


def test_foreign_mode_ends_a_window_and_a_quarter_after_the_last_proof():
    """After exactly one, our own burst of a window ago would be repeated blindly."""
    state = after(ok(remaining=140))
    again = after(ok(remaining=200), state, now_s=130.0)
    assert limits(again, 174.0)[0] < 300
    assert limits(again, 175.0) == (300, 6000)
    assert feedback.changes_at_s(state, 101.0) == 175.0


def test_others_who_took_everything_leave_us_a_few():
    """A request must show from time to time whether they are still there."""
    state = after(ok(remaining=0), own=Own(1, 1))
    assert limits(state)[0] == 9


def test_the_hour_is_recognized_by_its_limit():
    state = after(ok(limit=6000, remaining=3000))
    assert limits(state) == (300, 6000 - 2910 - 180 - 1)


@pytest.mark.parametrize(
    ("reading", "length_s"),
    [
        (ok(limit=300, reset_s=40), 60),
        (ok(limit=6000, reset_s=40), 3600),
        (ok(limit=5400, reset_s=30), 3600),
        (ok(limit=1200, reset_s=30), 60),
        (ok(limit=300, reset_s=2000), 3600),
        (ok(limit=100, reset_s=2000), 3600),
    ],
    ids=["the minute", "the hour", "nearer to the hour", "nearer to the minute",
         "a reset that no minute has", "unknown, and too far for the minute"],
)  # fmt: skip
def test_headers_speak_of_the_window_that_fits_best(reading: Reading, length_s: float):
    window = feedback.window_of(WINDOWS, SETTLED, reading)
    assert window is not None
    assert window.length_s == length_s


def test_a_limit_is_remembered_by_the_largest_reset_seen_with_it():
    """Near the end of a fixed hour its reset would fit the minute too."""
    state = after(ok(limit=400, reset_s=3000))
    window = feedback.window_of(WINDOWS, state, ok(limit=400, reset_s=10))
    assert window == WINDOWS[1]


def test_headers_without_a_limit_speak_of_nothing():
    assert feedback.window_of(WINDOWS, SETTLED, Reading(200, remaining=3)) is None
    assert feedback.window_of(WINDOWS, SETTLED, Reading(200, limit=0)) is None


def test_a_lower_limit_tightens_and_goes_up_again_with_the_servers_word():
    state = after(ok(limit=100, remaining=99))
    assert limits(state) == (100, 6000)
    assert limits(after(ok(limit=200, remaining=199), state)) == (200, 6000)
    assert limits(after(ok(), state)) == (300, 6000)


def test_nothing_raises_above_what_was_configured():
    assert limits(after(ok(limit=1200, remaining=1190))) == (300, 6000)


def test_a_short_burst_limit_does_not_become_the_minutes():
    """10 per second, seen as 10 with a reset of 1 s, is not 10 per minute."""
    assert limits(after(ok(limit=10, remaining=9, reset_s=1.0))) == (300, 6000)


def refusal(**more: float | int | None) -> Reading:
    return Reading(429, **more)  # type: ignore[arg-type]


def test_a_429_closes_the_ledger_until_the_server_says():
    state = after(refusal(retry_after_s=30.0))
    assert state.hold_until_s == 130.0
    assert state.hold_reason == "429, asked to wait 30 s"


def test_a_429_that_names_no_time_waits_for_the_reset_of_an_empty_window():
    assert after(refusal(limit=300, remaining=0, reset_s=20.0)).hold_until_s == 120.0


def test_a_bare_429_waits_a_floor_that_doubles_with_each_probe_refused():
    """1 s, 2 s, 4 s … 60 s, each with its jitter."""
    state, waits_s, now_s = SETTLED, [], 100.0
    for _ in range(8):
        state = after(refusal(), state, granted_s=now_s, now_s=now_s)
        waits_s.append(state.hold_until_s - now_s)
        now_s = state.hold_until_s
    assert waits_s == pytest.approx([1.5, 3, 6, 12, 24, 48, 90, 90])
    assert after(ok(), state, granted_s=now_s, now_s=now_s + 1).strikes == 0


def test_retry_after_zero_is_ignored():
    assert after(refusal(retry_after_s=0.0)).hold_until_s == 101.5


def test_the_rest_of_a_refused_burst_is_one_event():
    """It may extend the hold, but neither counts as another strike nor slows down further."""
    first = after(refusal(retry_after_s=10.0), granted_s=99.0)
    second = after(refusal(retry_after_s=12.0), first, granted_s=99.5, now_s=101.0)
    assert second.strikes == 1
    assert second.hold_until_s == 113.0
    assert second.windows == first.windows


def test_after_a_hold_one_probe_then_twice_as_many_with_each_answer():
    state = after(refusal(retry_after_s=30.0))
    assert feedback.width(state, 131) == 1
    widths = []
    for second in range(131, 140):
        state = after(ok(), state, granted_s=second, now_s=second + 0.3)
        widths.append(feedback.width(state, second + 1))
    assert widths == [2, 4, 8, 16, 32, 64, None, None, None]


def test_an_answer_to_a_request_from_before_the_hold_proves_nothing():
    state = after(refusal(retry_after_s=30.0))
    assert feedback.width(after(ok(), state, granted_s=99.9, now_s=101.0), 131) == 1


def test_a_429_that_nothing_explains_paces_its_window():
    state = after(refusal(limit=300, remaining=0, reset_s=5.0, retry_after_s=5.0))
    assert limits(state)[0] == 294
    assert spacing_s(state, 110) == pytest.approx(60.05 / 294)
    assert limits(state, 100 + 30 * 60.0 + 1)[0] == 300


def test_without_headers_retry_after_shows_the_window():
    assert after(refusal(retry_after_s=30.0)).windows.keys() == {"60"}
    assert after(refusal(retry_after_s=1800.0)).windows.keys() == {"3600"}


def test_a_paced_window_that_is_refused_again_slows_down_and_recovers():
    state = after(refusal(retry_after_s=5.0))
    soon = after(refusal(retry_after_s=5.0), state, granted_s=110, now_s=111)
    assert limits(soon, 112)[0] == 294, "the pace had no time to show"
    later = after(refusal(retry_after_s=5.0), state, granted_s=170, now_s=171)
    assert limits(later, 172)[0] == pytest.approx(300 * 0.98 * 0.8, abs=2)
    assert limits(later, 172 + 4 * 60)[0] == 294


def test_a_429_that_taught_a_lower_limit_needs_no_pace():
    state = after(refusal(limit=100, remaining=0, reset_s=30.0, retry_after_s=30.0))
    assert limits(state)[0] == 100
    assert spacing_s(state, 140) == 0


def test_others_found_behind_a_429_end_its_pace():
    paced = after(refusal(limit=300, remaining=0, reset_s=5.0, retry_after_s=5.0))
    state = after(ok(remaining=140), paced, granted_s=106, now_s=107)
    assert state.windows["60"].paced_until_s == 0
    assert limits(state, 183) == (300, 6000)


def test_others_found_after_a_hold_as_long_as_the_window_end_its_pace_too():
    """The hold lasted as long as the window: nothing could be learnt of others before its end."""
    paced = after(refusal(limit=300, remaining=0, reset_s=60.0, retry_after_s=60.0))
    assert paced.windows["60"].paced_until_s > 0
    state = after(ok(remaining=290), paced, Own(2, 1), granted_s=160, now_s=161)
    assert state.windows["60"].paced_until_s == 0


def test_a_429_among_others_keeps_foreign_mode_on():
    state = after(ok(remaining=140))
    state = after(refusal(limit=300, remaining=0, reset_s=5.0), state, granted_s=109, now_s=110)
    assert state.windows["60"].foreign_until_s == 185
    assert state.windows["60"].paced_until_s == 0


readings = st.builds(
    Reading,
    st.sampled_from([200, 201, 404, 429, 500, 503]),
    st.none() | st.integers(0, 20_000),
    st.none() | st.integers(0, 20_000),
    st.none() | st.floats(0, 3600),
    st.none() | st.floats(0, 3600),
)
owns = st.tuples(st.integers(1, 6000), st.integers(1, 6000)).map(
    lambda two: Own(max(two), min(two))
)
answers = st.lists(st.tuples(readings, owns, st.floats(0, 100), st.floats(0, 60)), max_size=12)


@given(answers)
def test_whatever_servers_say_limits_stay_within_1_and_what_was_configured(
    said: list[tuple[Reading, Own, float, float]],
):
    """Any sequence of answers: no ceiling of 0, no raise, no hold beyond the longest window,
    no spacing that lets nothing through; and the state survives its way through JSON."""
    state, now_s = FeedbackState(), 0.0
    for reading, own, pause_s, latency_s in said:
        granted_s, now_s = now_s + pause_s, now_s + pause_s + latency_s
        state = after(reading, state, own, granted_s=granted_s, now_s=now_s)
        assert FeedbackState.loads(state.dumps()) == state
        for limit, window in zip(feedback.limits(WINDOWS, state, now_s), WINDOWS, strict=True):
            assert 1 <= limit <= window.limit
        assert state.hold_until_s <= now_s + 3600
        assert 0 <= spacing_s(state, now_s, live=150) <= WINDOWS[-1].held_s
        width = feedback.width(state, now_s)
        assert width is None or width >= 1


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 50), st.floats(0, 60)), max_size=20))
def test_an_honest_server_never_makes_us_think_of_others(
    counted: list[tuple[int, int, float]],
):
    """What it counts lies within the bounds of our own: the grants stay as if there were none."""
    state = SETTLED
    for used, lag, reset_s in counted:
        own = Own(at_most=used + lag, at_least=max(1, used - lag))
        state = after(ok(remaining=300 - used, reset_s=reset_s), state, own)
        assert replace(state, resets={}) == SETTLED


def test_what_another_version_stored_is_left_out():
    newer = {"later": 1, "windows": {"60": {"limit": 5, "newer": 2}}}
    stored = {**json.loads(SETTLED.dumps()), **newer}
    assert FeedbackState.loads(json.dumps(stored)).windows == {"60": WindowState(limit=5)}
