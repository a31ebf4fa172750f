"""How many writes are on their way at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from connector.upsert.sending import (
    BURST_SHARE,
    LEAST_IN_FLIGHT,
    MOST_IN_FLIGHT,
    in_flight_for,
)


def test_a_few_until_the_latency_is_known():
    assert in_flight_for(None, 5.0) == LEAST_IN_FLIGHT
    assert in_flight_for(None, 5.0, most=1) == 1


@given(st.floats(0.001, 10), st.integers(1, 1000), st.floats(1, 3600), st.integers(1, 64))
def test_a_burst_is_sent_within_its_share_of_the_window(
    latency_s: float, limit: int, length_s: float, most: int
):
    """Unless that takes more than may be in flight."""
    width = in_flight_for(latency_s, limit / length_s, most)
    assert 1 <= width <= most <= MOST_IN_FLIGHT
    if width < most:
        assert limit / width * latency_s <= BURST_SHARE * length_s + 1e-9
