"""A clock for tests."""

from __future__ import annotations

import threading


class FakeClock:
    """A clock that moves only when a test moves it, or when code sleeps on it.

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
