"""What one answer reports about the rate: status, the `RateLimit-*` headers, `Retry-After`.

A reset comes as delta seconds (IETF draft) or as a Unix timestamp (one vendor revision, also in
milliseconds); its size tells which. Times further off than the longest window have a misread unit
and are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

TOO_MANY = 429
_EPOCH_S = 1e8
_EPOCH_MS = 1e11


@dataclass(frozen=True, slots=True)
class Reading:
    """limit, remaining: requests, as the server counts. reset_s, retry_after_s: seconds from
    the answer. None: absent or unusable."""

    status: int
    limit: int | None = None
    remaining: int | None = None
    reset_s: float | None = None
    retry_after_s: float | None = None

    @property
    def refused(self) -> bool:
        return self.status == TOO_MANY

    @property
    def used(self) -> int | None:
        """Requests that the server counts in the window, this one included."""
        if self.limit is None or self.remaining is None:
            return None
        return max(0, self.limit - self.remaining)

    def remaining_below(self, count: int) -> bool:
        """Whether the server refused the request, or will after fewer than `count` more."""
        return self.refused or (self.remaining is not None and self.remaining < count)


def parse(status: int, headers: Mapping[str, str], *, wall_s: float, longest_s: float) -> Reading:
    """The reading of one answer.

    headers: names in lower case. wall_s: UTC epoch seconds here, used where the answer has no
    `Date` of its own to measure timestamps against. longest_s: length of the longest window.
    """
    now_s = http_date_s(headers.get("date")) or wall_s
    return Reading(
        status=status,
        limit=_count(_header(headers, "limit")),
        remaining=_count(_header(headers, "remaining")),
        reset_s=seconds_ahead(_header(headers, "reset"), now_s, longest_s),
        retry_after_s=seconds_ahead(headers.get("retry-after"), now_s, longest_s),
    )


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return headers.get(f"ratelimit-{name}") or headers.get(f"x-ratelimit-{name}")


def _count(text: str | None) -> int | None:
    """The first number of `100` or `100, 100;w=60`."""
    match = re.match(r"\s*(\d{1,12})\b", text or "")
    return int(match[1]) if match else None


def seconds_ahead(text: str | None, now_s: float, longest_s: float) -> float | None:
    """Seconds from now until `text`: a delta, Unix timestamp (s or ms) or HTTP date. None if it is
    unreadable, or further off than `longest_s`."""
    if not text:
        return None
    match = re.match(r"\s*(\d{1,15}(?:\.\d+)?)\s*(?:$|[,;])", text)
    if match:
        number = float(match[1])
        number /= 1000 if number >= _EPOCH_MS else 1
        ahead_s = number - now_s if number >= _EPOCH_S else number
    else:
        date_s = http_date_s(text)
        if date_s is None:
            return None
        ahead_s = date_s - now_s
    return max(0.0, ahead_s) if ahead_s <= longest_s + slack_s(longest_s) else None


def slack_s(length_s: float) -> float:
    """By how much a server's whole seconds may overshoot a window."""
    return 1.0 + 0.02 * length_s


def http_date_s(text: str | None) -> float | None:
    """An HTTP date as UTC epoch seconds; None if it can't be read."""
    if not text:
        return None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, IndexError):
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
