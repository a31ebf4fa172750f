"""How many requests are in flight at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

LEAST_IN_FLIGHT = 4
MOST_IN_FLIGHT = 64


@dataclass(frozen=True)
class Pace:
    """rate_per_s: what the windows allow in a burst. most: requests in flight, at most."""

    rate_per_s: float
    most: int


def in_flight_for(latency_s: float | None, rate_per_s: float, most: int = MOST_IN_FLIGHT) -> int:
    """How many requests keep `rate_per_s` going at `latency_s`, twice over to use up bursts."""
    if latency_s is None:
        return min(most, LEAST_IN_FLIGHT)
    return min(most, max(LEAST_IN_FLIGHT, math.ceil(2 * rate_per_s * latency_s)))
