"""The server's own clock: it follows the monotonic one, so that a stepped host moves no window."""

from __future__ import annotations

import time
from email.utils import formatdate


class ServerClock:
    """UTC epoch time that only moves forward, from the wall clock at construction."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    def now_s(self) -> float:
        return time.monotonic() + self._offset_s

    def now_ms(self) -> int:
        return int(self.now_s() * 1000)


def http_date(epoch_s: float) -> str:
    """`epoch_s` (UTC) as in the `Date` header, to the second."""
    return formatdate(epoch_s, usegmt=True)


def start_of_today_ms() -> int:
    """Midnight UTC in ms: a `base_time_ms` that puts meetings into this week."""
    day_s = 86_400
    return int(time.time() // day_s * day_s * 1000)
