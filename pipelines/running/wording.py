"""Times, durations and counts as people write and read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SOON_S = 120.0


def parse_duration_s(text: str) -> float:
    """`90s`, `45m`, `2h`, `1.5d` in seconds.

    Raises:
        UsageError: anything else.
    """
    from connector.errors import UsageError

    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", text)
    if match is None:
        raise UsageError(f"{text!r} isn't a valid duration. Write 90s, 45m, 2h or 1d.")
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


def elapsed(length_s: float) -> str:
    """How long something took: `4.3 s`, and from two minutes on as `duration`."""
    return f"{length_s:.1f} s" if length_s < _SOON_S else duration(length_s)


def eta(length_s: float, now: datetime | None = None) -> str:
    """How long something will take: `45 s`, `1 h 19 min, done about 01:52` (the local clock; with
    the day, if that is another one)."""
    if length_s < _SOON_S:
        return f"{length_s:.0f} s"
    now = now or datetime.now().astimezone()
    done = now + timedelta(seconds=length_s)
    clock = f"{done:%H:%M}" if done.date() == now.date() else f"{done:%a %H:%M}"
    return f"{duration(length_s)}, done about {clock}"


def utc(ms: int | None) -> str | None:
    """UTC epoch ms as `2026-03-01T12:00:00Z`; None stays None."""
    return None if ms is None else f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def plural(count: int, noun: str) -> str:
    """`1 row`, `2 rows`, `12,000 rows`."""
    return f"{count:,} {noun if count == 1 else f'{noun}s'}"


def numbers(values: Sequence[int], *, most: int = 12) -> str:
    """Ascending numbers with runs folded: `3, 7, 12-15`; at most `most` entries, then how many
    numbers are left out."""
    runs: list[tuple[int, int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], value)
        else:
            runs.append((value, value))
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs[:most])
    left = sum(b - a + 1 for a, b in runs[most:])
    return f"{shown} and {left:,} more" if left else shown
