"""One rate window, counted in four ways: exact log, fixed, weighted, and token bucket."""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

from connector.sandbox.options import SandboxOptions


class Window(Protocol):
    """One limit over one length of time. Times are server seconds and never go back."""

    limit: int
    length_s: float

    def used(self, now_s: float) -> float:
        """Requests that count now."""

    def wait_s(self, now_s: float) -> float:
        """Seconds until one more fits; 0.0 if it fits now."""

    def reset_s(self, now_s: float) -> float:
        """Seconds until the count next falls."""

    def add(self, now_s: float) -> None:
        """Count one request."""


class SlidingWindow:
    """An exact log: a request counts for `length_s` after its arrival, not a moment longer."""

    def __init__(self, limit: int, length_s: float) -> None:
        self.limit, self.length_s = limit, length_s
        self._arrivals: deque[float] = deque()

    def used(self, now_s: float) -> float:
        while self._arrivals and self._arrivals[0] + self.length_s <= now_s:
            self._arrivals.popleft()
        return len(self._arrivals)

    def wait_s(self, now_s: float) -> float:
        surplus = int(self.used(now_s)) - self.limit
        return 0.0 if surplus < 0 else self._arrivals[surplus] + self.length_s - now_s

    def reset_s(self, now_s: float) -> float:
        return self._arrivals[0] + self.length_s - now_s if self.used(now_s) else 0.0

    def add(self, now_s: float) -> None:
        self._arrivals.append(now_s)


class FixedWindow:
    """Counts from zero again at every border, which lie `length_s` apart from `alignment_s` on."""

    def __init__(self, limit: int, length_s: float, alignment_s: float = 0.0) -> None:
        self.limit, self.length_s, self._alignment_s = limit, length_s, alignment_s
        self._index = -1
        self._count = 0
        self._previous = 0

    def used(self, now_s: float) -> float:
        self._turn(now_s)
        return self._count

    def wait_s(self, now_s: float) -> float:
        return 0.0 if self.used(now_s) < self.limit else self.reset_s(now_s)

    def reset_s(self, now_s: float) -> float:
        return self.length_s - (now_s - self._alignment_s) % self.length_s

    def add(self, now_s: float) -> None:
        self._turn(now_s)
        self._count += 1

    def _turn(self, now_s: float) -> None:
        index = math.floor((now_s - self._alignment_s) / self.length_s)
        if index != self._index:
            self._previous = self._count if index == self._index + 1 else 0
            self._index, self._count = index, 0


class WeightedWindow(FixedWindow):
    """Adds the previous count, in the share that a sliding window would still cover of it."""

    def used(self, now_s: float) -> float:
        self._turn(now_s)
        return self._count + self._previous * self.reset_s(now_s) / self.length_s

    def wait_s(self, now_s: float) -> float:
        surplus = self.used(now_s) - (self.limit - 1)
        if surplus <= 0:
            return 0.0
        to_border_s = self.reset_s(now_s)
        if self._previous and surplus * self.length_s / self._previous <= to_border_s:
            return surplus * self.length_s / self._previous
        after_border = max(
            self._count - (self.limit - 1), 0
        )  # all of this window weighs full at its border
        return to_border_s + (after_border * self.length_s / self._count if self._count else 0.0)


class Bucket:
    """A token bucket of `limit` tokens that fills up in `length_s`."""

    def __init__(self, limit: int, length_s: float) -> None:
        self.limit, self.length_s = limit, length_s
        self._used = 0.0
        self._at_s = 0.0

    def used(self, now_s: float) -> float:
        self._used = max(0.0, self._used - (now_s - self._at_s) * self.limit / self.length_s)
        self._at_s = now_s
        return self._used

    def wait_s(self, now_s: float) -> float:
        return max(0.0, self.used(now_s) - (self.limit - 1)) * self.length_s / self.limit

    def reset_s(self, now_s: float) -> float:
        return self.used(now_s) * self.length_s / self.limit

    def add(self, now_s: float) -> None:
        self._used = self.used(now_s) + 1


def make_window(options: SandboxOptions, limit: int, length_s: float) -> Window:
    if options.window_kind == "sliding":
        return SlidingWindow(limit, length_s)
    if options.window_kind == "bucket":
        return Bucket(limit, length_s)
    kind = FixedWindow if options.window_kind == "fixed" else WeightedWindow
    return kind(limit, length_s, options.window_alignment_s)
