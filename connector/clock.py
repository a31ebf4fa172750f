"""Time as the connector sees it: what the wall says, what passes, and waiting."""

from __future__ import annotations

import threading
import time
from typing import Protocol

_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Counts while the machine sleeps, too: Linux' BOOTTIME; MONOTONIC does so on macOS."""


class Clock(Protocol):
    """now_s: UTC epoch seconds, may step. monotonic_s: seconds that pass, asleep or awake,
    never stepping and the same for every process of this machine."""

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


class FakeClock:
    """A clock that moves only when it is told to, or when somebody sleeps on it.

    `step` moves the wall alone, as an administrator or NTP does.
    """

    def __init__(self, now_s: float = 1_760_000_000.0) -> None:
        self._now_s = now_s
        self._monotonic_s = 0.0
        self.slept_s: list[float] = []
        self._lock = threading.Lock()

    def now_s(self) -> float:
        return self._now_s

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def advance(self, by_s: float) -> None:
        with self._lock:
            self._now_s += by_s
            self._monotonic_s += by_s

    def step(self, by_s: float) -> None:
        self._now_s += by_s

    def sleep(self, wait_s: float, stop: threading.Event | None = None) -> bool:
        if stop is not None and stop.is_set():
            return True
        self.slept_s.append(wait_s)
        self.advance(max(0.0, wait_s))
        return False
