"""How many requests are in flight at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

LEAST_IN_FLIGHT = 4
MOST_IN_FLIGHT = 64
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
