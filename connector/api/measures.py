"""What the client learns by the way: requests sent, latency, how far the server's clock is off."""

from __future__ import annotations

import threading
import time

from connector.api.headers import http_date_s
from connector.api.transport import Exchange

_NEWEST_SHARE = 0.2  # of the smoothed latency: it follows a change within ten answers


class Measures:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = 0
        self.latency_s: float | None = None
        self.server_clock_skew_s: float | None = None
        self.server_less_monotonic_s: float | None = None

    def note(self, exchange: Exchange, *, now_s: float, monotonic_s: float) -> None:
        """Learn from an exchange that just ended. now_s: UTC epoch seconds, by our wall;
        monotonic_s: at the same moment."""
        latency_s, skew_s = exchange.latency_s, _skew_s(exchange, now_s)
        with self._lock:
            self.requests += exchange.sent
            if latency_s is not None:
                before_s = latency_s if self.latency_s is None else self.latency_s
                self.latency_s = before_s + _NEWEST_SHARE * (latency_s - before_s)
            if skew_s is not None:
                self.server_clock_skew_s = skew_s
                self.server_less_monotonic_s = skew_s + now_s - monotonic_s


def _skew_s(exchange: Exchange, now_s: float) -> float | None:
    """Server less ours. `Date` has whole seconds, and was written half a latency ago."""
    date_s = http_date_s(exchange.headers.get("date", ""))
    if date_s is None or exchange.latency_s is None:
        return None
    written_s = now_s - (time.monotonic() - exchange.head_s) - exchange.latency_s / 2
    return date_s + 0.5 - written_s
