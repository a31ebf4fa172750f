"""The clocks: wall time, monotonic time, and waiting."""

from __future__ import annotations

import threading
import time
from typing import Protocol

_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Also counts while the machine sleeps: BOOTTIME on Linux, MONOTONIC on macOS."""

SIGNALS_S = 0.5
"""How long a main thread waits in one go: Python may overlook a signal until the wait ends."""


class Clock(Protocol):
    """now_s: UTC epoch seconds, may step. monotonic_s: seconds that never step and count while the
    machine sleeps, the same for every process of this machine."""

    def now_s(self) -> float: ...

    def monotonic_s(self) -> float: ...

    def sleep(self, wait_s: float, stop: threading.Event | None = None) -> bool:
        """Wait `wait_s` seconds, or until `stop` is set; True if it was set."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.clock_gettime(_SINCE_BOOT)

    def sleep(self, wait_s: float, stop: threading.Event | None = None) -> bool:
        if stop is not None:
            return stop.wait(max(0.0, wait_s))
        time.sleep(max(0.0, wait_s))
        return False


class SteadyClock:
    """A clock whose `now_s` never steps: monotonic seconds plus the ledger's offset.

    offset_s: what to add to `clock.monotonic_s()`. sure_since_s: the time since which its seconds
    are exact; before that (an earlier boot) they are an estimate.
    """

    def __init__(self, clock: Clock, offset_s: float, sure_since_s: float = float("-inf")) -> None:
        self._clock, self._offset_s, self.sure_since_s = clock, offset_s, sure_since_s

    def now_s(self) -> float:
        return self._offset_s + self._clock.monotonic_s()

    def now_ms(self) -> int:
        return int(self.now_s() * 1000)

    def monotonic_s(self) -> float:
        return self._clock.monotonic_s()

    def wall_s(self) -> float:
        """UTC epoch seconds of the wall clock: for people to read, never for decisions."""
        return self._clock.now_s()

    def age_s(self, stamp_s: float | None) -> float:
        """Seconds since `stamp_s` of this clock; infinite if that isn't certain."""
        now_s = self.now_s()
        if stamp_s is None or not self.sure_since_s <= stamp_s <= now_s:
            return float("inf")
        return now_s - stamp_s

    def sleep(self, wait_s: float, stop: threading.Event | None = None) -> bool:
        return self._clock.sleep(wait_s, stop)
