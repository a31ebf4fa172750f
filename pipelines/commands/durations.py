"""Times and durations as people write and read them."""

from __future__ import annotations

import re

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_duration_s(text: str) -> float:
    """`90s`, `45m`, `2h`, `1.5d` in seconds.

    Raises:
        UsageError: anything else.
    """
    from connector.errors import UsageError

    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", text)
    if match is None:
        raise UsageError(f"{text!r} is no duration. Write 90s, 45m, 2h or 1d.")
    return float(match[1]) * _UNITS_S[match[2]]


def duration(length_s: float) -> str:
    """Two units at most: `3 d 4 h`, `12 min`, `8 s`."""
    left = int(length_s)
    parts: list[str] = []
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:2])


def utc(ms: int | None) -> str | None:
    """UTC epoch ms as `2026-03-01T12:00:00Z`; None stays None."""
    from datetime import UTC, datetime

    if ms is None:
        return None
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
