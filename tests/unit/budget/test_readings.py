"""What an answer says about the rate, in every style that servers use."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.budget.policy.feedback import Reading, read_answer

NOW_S = 1_760_000_000.0


def read(status: int = 200, **headers: str) -> Reading:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_answer(status, named, wall_s=NOW_S, longest_s=3600.0)


def test_reads_the_three_headers():
    reading = read(ratelimit_limit="300", ratelimit_remaining="12", ratelimit_reset="41")
    assert reading == Reading(200, limit=300, remaining=12, reset_s=41.0)
    assert reading.used == 288


def test_the_x_prefix_and_quota_policies_are_understood():
    reading = read(x_ratelimit_limit="100, 100;w=60", x_ratelimit_remaining="7")
    assert (reading.limit, reading.remaining) == (100, 7)


@pytest.mark.parametrize(
    ("text", "reset_s"),
    [
        ("41", 41.0),
        ("0", 0.0),
        ("12.5", 12.5),
        (str(int(NOW_S) + 41), 41.0),
        (str((int(NOW_S) + 41) * 1000), 41.0),
        (str(int(NOW_S) - 5), 0.0),
        ("41000", None),
        (str(int(NOW_S) + 90_000), None),
        ("soon", None),
        ("-4", None),
        ("", None),
    ],
    ids=["delta", "zero", "fraction", "epoch", "epoch ms", "past", "delta in ms",
         "epoch too far", "no number", "negative", "empty"],
)  # fmt: skip
def test_the_unit_of_a_reset_follows_from_its_size(text: str, reset_s: float | None):
    """Delta seconds or a Unix time; further off than the longest window is a misread unit."""
    assert read(ratelimit_reset=text).reset_s == reset_s


def test_a_unix_time_is_measured_against_the_servers_own_date():
    """So that a wrong clock here, or there, changes nothing."""
    server_s = NOW_S + 3600
    date = formatdate(server_s, usegmt=True)
    assert read(ratelimit_reset=str(int(server_s) + 41), date=date).reset_s == 41.0


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("30", 30.0),
        (formatdate(NOW_S + 30, usegmt=True), 30.0),
        (formatdate(NOW_S - 30, usegmt=True), 0.0),
        ("Sun, 99 Foo 2026", None),
        ("99999", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, wait_s: float | None):
    assert read(429, retry_after=text).retry_after_s == wait_s


def test_a_refusal_without_headers_is_still_a_refusal():
    assert read(429) == Reading(429)
    assert read(429).refused


@given(
    st.integers(100, 599),
    st.dictionaries(
        st.sampled_from(
            ["date", "retry-after", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"]
        ),
        st.text(max_size=40) | st.integers(-10, 10**20).map(str),
    ),
)
def test_any_header_value_can_be_read(status: int, headers: dict[str, str]):
    """What is read is never negative, and no time lies beyond the longest window."""
    reading = read_answer(status, headers, wall_s=NOW_S, longest_s=3600.0)
    assert reading.limit is None or reading.limit >= 0
    assert reading.used is None or reading.used >= 0
    for time_s in (reading.reset_s, reading.retry_after_s):
        assert time_s is None or 0 <= time_s <= 3600 * 1.02 + 1
