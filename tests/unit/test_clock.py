"""Clocks: the fake one moves when set, and both stop waiting when asked."""

from __future__ import annotations

import threading

from connector.clock import SystemClock
from tests.fake_clock import FakeClock


def test_a_step_moves_the_wall_alone():
    """Monotonic time doesn't see administrators."""
    clock = FakeClock(now_s=100.0)
    clock.step(-3600)
    clock.advance(5)
    assert (clock.now_s(), clock.monotonic_s()) == (-3495.0, 5.0)


def test_sleep_ends_at_once_when_stop_is_set():
    """A set event doesn't wait, on either clock."""
    stop = threading.Event()
    stop.set()
    clock = FakeClock()
    assert clock.sleep(60, stop)
    assert clock.monotonic_s() == 0.0
    assert SystemClock().sleep(60, stop)


def test_fake_sleep_is_recorded():
    """So that tests can say how long would have been waited."""
    clock = FakeClock()
    assert not clock.sleep(2.5)
    assert clock.slept_s == [2.5]
