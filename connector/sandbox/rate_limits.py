"""The server's side of the rate limits: windows counted in four ways, one verdict per request, and
the headers that report it."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from email.utils import formatdate

from connector.sandbox.sandbox_options import SandboxOptions


@dataclass(frozen=True)
class Verdict:
    """How the limits judge one request, by the window that is closest to its limit.

    wait_s: seconds until it would be admitted; 0.0 = it was. name: "Minute" or "Hour".
    """

    limit: int
    remaining: int
    reset_s: float
    wait_s: float
    name: str


class RateLimits:
    """All windows of the one key, and the other clients that use it."""

    def __init__(self, options: SandboxOptions) -> None:
        self._options = options
        self._shape: object = None
        self._windows: list[Window] = []
        self.foreign_spent = 0

    def arrive(self, now_s: float) -> Verdict | None:
        """Count a request that arrives now; None where there are no limits."""
        self._reshape()
        if not self._windows:
            return None
        blocking = max(self._windows, key=lambda window: window.wait_s(now_s))
        wait_s = blocking.wait_s(now_s)
        if wait_s <= 0 or self._options.count_refused:
            self._count(now_s)
        return self._verdict(blocking if wait_s > 0 else self._closest(now_s), wait_s, now_s)

    def spend(self, count: int, now_s: float) -> int:
        """`count` requests of another client arrive now; returns how many were admitted."""
        self._reshape()
        admitted = 0
        for _ in range(count):
            if all(window.wait_s(now_s) <= 0 for window in self._windows):
                self._count(now_s)
                admitted += 1
        self.foreign_spent += admitted
        return admitted

    def _reshape(self) -> None:
        options = self._options
        shape = (tuple(options.windows or ()), options.window_kind, options.window_alignment_s)
        if shape != self._shape:
            self._shape = shape
            make, alignment_s = _KINDS[options.window_kind], options.window_alignment_s
            self._windows = [make(limit, length_s, alignment_s) for limit, length_s in shape[0]]

    def _count(self, now_s: float) -> None:
        for window in self._windows:
            window.add(now_s)

    def _closest(self, now_s: float) -> Window:
        return min(self._windows, key=lambda each: (each.limit - each.used(now_s), each.length_s))

    def _verdict(self, window: Window, wait_s: float, now_s: float) -> Verdict:
        remaining = 0 if wait_s > 0 else max(0, math.floor(window.limit - window.used(now_s)))
        shortest = min(each.length_s for each in self._windows)
        name = "Minute" if window.length_s == shortest < 3600 else "Hour"
        return Verdict(window.limit, remaining, window.reset_s(now_s), max(wait_s, 0.0), name)


def limit_headers(verdict: Verdict, options: SandboxOptions, now_s: float) -> dict[str, str]:
    """`RateLimit-*` in the configured style, with `Retry-After` where the request was refused."""
    reset_s = max(verdict.reset_s, verdict.wait_s)
    reset = math.ceil(now_s + reset_s if options.reset_style == "epoch" else reset_s)
    headers = {
        "RateLimit-Limit": str(verdict.limit),
        "RateLimit-Remaining": str(verdict.remaining),
        "RateLimit-Reset": str(reset),
    }
    if verdict.wait_s > 0 and options.retry_after != "absent":
        wait_s = retry_after_s(verdict)
        date = formatdate(now_s + wait_s, usegmt=True)
        headers["Retry-After"] = date if options.retry_after == "date" else str(wait_s)
    return headers


def retry_after_s(verdict: Verdict) -> int:
    """Whole seconds, rounded up: a request after them is admitted."""
    return max(1, math.ceil(verdict.wait_s))


# --- windows --------------------------------------------------------------------------------


@dataclass
class SlidingWindow:
    """An exact log: a request counts for exactly `length_s` after its arrival.

    used: requests that count now. wait_s: seconds until one more fits; 0.0 if it fits now. reset_s:
    seconds until the count next falls. Times are server seconds and never run backwards.
    """

    limit: int
    length_s: float
    _alignment_s: float = 0.0
    _arrivals: deque[float] = field(default_factory=deque)

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


@dataclass
class FixedWindow:
    """Restarts from zero at every boundary: `_alignment_s` plus multiples of `length_s`."""

    limit: int
    length_s: float
    _alignment_s: float = 0.0
    _index: int = -1
    _count: int = 0
    _previous: int = 0

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
    """Adds the share of the previous count that a sliding window would still cover."""

    def used(self, now_s: float) -> float:
        self._turn(now_s)
        return self._count + self._previous * self.reset_s(now_s) / self.length_s

    def wait_s(self, now_s: float) -> float:
        surplus = self.used(now_s) - (self.limit - 1)
        if surplus <= 0:
            return 0.0
        to_boundary_s = self.reset_s(now_s)
        if self._previous and surplus * self.length_s / self._previous <= to_boundary_s:
            return surplus * self.length_s / self._previous
        over_then = max(self._count - (self.limit - 1), 0)  # there, all of it counts
        return to_boundary_s + (over_then * self.length_s / self._count if self._count else 0.0)


@dataclass
class Bucket:
    """A token bucket of `limit` tokens that refills in `length_s`."""

    limit: int
    length_s: float
    _alignment_s: float = 0.0
    _used: float = 0.0
    _at_s: float = 0.0

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


Window = SlidingWindow | FixedWindow | Bucket
_KINDS: dict[str, type[Window]] = {
    "sliding": SlidingWindow, "fixed": FixedWindow, "weighted": WeightedWindow, "bucket": Bucket
}  # fmt: skip
