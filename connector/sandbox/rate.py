"""The server's side of the rate limits: one verdict per request, and the headers that tell it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from connector.sandbox.clock import http_date
from connector.sandbox.options import SandboxOptions
from connector.sandbox.windows import Window, make_window


@dataclass(frozen=True)
class Verdict:
    """What the limits say to one request, about the window that is closest to its limit.

    wait_s: seconds until it would be let in; 0.0 = it was. name: "Minute" or "Hour".
    """

    limit: int
    remaining: int
    reset_s: float
    wait_s: float
    name: str


class RateLimits:
    """All windows of the one key, and the others who spend from it."""

    def __init__(self, options: SandboxOptions) -> None:
        self._options = options
        self._shape: object = None
        self._windows: list[Window] = []
        self._foreign_at_s: float | None = None
        self.foreign_spent = 0

    def arrive(self, now_s: float) -> Verdict | None:
        """Count a request that arrives now; None where there are no limits."""
        self._reshape()
        if not self._windows:
            return None
        self._spend_foreign(now_s)
        blocking = max(self._windows, key=lambda window: window.wait_s(now_s))
        wait_s = blocking.wait_s(now_s)
        if wait_s <= 0 or self._options.count_refused:
            self._count(now_s)
        return self._verdict(blocking if wait_s > 0 else self._closest(now_s), wait_s, now_s)

    def spend(self, count: int, now_s: float) -> int:
        """`count` requests of somebody else arrive now; returns how many were let in."""
        self._reshape()
        let_in = 0
        for _ in range(count):
            if all(window.wait_s(now_s) <= 0 for window in self._windows):
                self._count(now_s)
                let_in += 1
        self.foreign_spent += let_in
        return let_in

    def _reshape(self) -> None:
        options = self._options
        shape = (tuple(options.windows or ()), options.window_kind, options.window_alignment_s)
        if shape != self._shape:
            self._shape = shape
            self._windows = [make_window(options, limit, length_s) for limit, length_s in shape[0]]

    def _spend_foreign(self, now_s: float) -> None:
        spender, since_s = self._options.foreign_spender, self._foreign_at_s
        if callable(spender):
            self.spend(spender(now_s), now_s)
        elif spender and since_s is not None:
            due = math.floor((now_s - since_s) * spender)
            for nth in range(1, due + 1):
                self.spend(1, since_s + nth / spender)
            now_s = since_s + due / spender
        self._foreign_at_s = now_s

    def _count(self, now_s: float) -> None:
        for window in self._windows:
            window.add(now_s)

    def _closest(self, now_s: float) -> Window:
        return min(
            self._windows, key=lambda window: (window.limit - window.used(now_s), window.length_s)
        )

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
        seconds = retry_after_s(verdict)
        headers["Retry-After"] = (
            http_date(now_s + seconds) if options.retry_after == "date" else str(seconds)
        )
    return headers


def retry_after_s(verdict: Verdict) -> int:
    """Whole seconds, rounded up: a request after them is let in."""
    return max(1, math.ceil(verdict.wait_s))
