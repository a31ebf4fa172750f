"""How many requests are in flight at once."""

from __future__ import annotations

import math
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LEAST_IN_FLIGHT = 4
MOST_IN_FLIGHT = 64
_FILES_ENOUGH = 1024
_USUALLY_OPEN = 40
_OPEN_FILES = (Path("/proc/self/fd"), Path("/dev/fd"))
BURST_SHARE = 0.05
"""When a window opens, all of its slots are to be used within this share of its length: what the
last burst takes longer, the whole push takes longer."""


@dataclass(frozen=True)
class Pace:
    """rate_per_s: what the windows allow in a burst. most: requests in flight, at most."""

    rate_per_s: float
    most: int


def in_flight_for(latency_s: float | None, rate_per_s: float, most: int = MOST_IN_FLIGHT) -> int:
    """How many requests at once spend what a window allows within BURST_SHARE of its length.

    rate_per_s: the window's limit over its length. latency_s: of one request; None: not known yet.
    """
    if latency_s is None:
        return min(most, LEAST_IN_FLIGHT)
    return min(most, max(LEAST_IN_FLIGHT, math.ceil(rate_per_s * latency_s / BURST_SHARE)))


def files_free() -> int:
    """How many more files and connections this process may open (`ulimit -n`)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FILES_ENOUGH and soft != hard:  # macOS begins with 256
        with suppress(OSError, ValueError):
            most = _FILES_ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _FILES_ENOUGH)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    if soft == resource.RLIM_INFINITY:
        return _FILES_ENOUGH
    places = [place for place in _OPEN_FILES if place.is_dir()]
    used = len(list(places[0].iterdir())) if places else _USUALLY_OPEN
    return max(0, soft - used)
