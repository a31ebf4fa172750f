"""What the headers of an answer say about time. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

_FARTHEST_S = 86_400.0


def http_date_s(text: str) -> float | None:
    """An HTTP date as UTC epoch seconds; None if it can't be read."""
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, IndexError):
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """Seconds that `Retry-After` asks for, as a delta or an HTTP date.

    headers: names in lower case. now_s: UTC epoch seconds. None if it is absent, unreadable, 0,
    over, or so far off that its unit was misread: then it says nothing about when a retry makes
    sense.
    """
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        wait_s: float | None = float(text)
    else:
        until_s = http_date_s(text)
        wait_s = None if until_s is None else until_s - now_s
    return wait_s if wait_s and 0 < wait_s <= _FARTHEST_S else None


def says_replayed(headers: Mapping[str, str]) -> bool:
    """Whether an answer is marked as one given before. The header's name isn't documented, only
    that there is one: any with "replay" in its name counts. headers: names in lower case."""
    return any(
        "replay" in name and text.strip().lower() not in ("", "0", "false", "no")
        for name, text in headers.items()
    )
