"""Servers that count requests when they arrive, each in its own way. Times: server seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import formatdate

from connector.sandbox.rate_limits import Bucket, Window

EPOCH_S = 1_760_000_000.0


class SmallBucket(Bucket):
    """Refilled as the bucket that it is, but holds a quarter of the tokens."""

    def wait_s(self, now_s: float) -> float:
        over = self.used(now_s) - (max(1, self.limit // 4) - 1)
        return max(0.0, over) * self.length_s / self.limit


@dataclass
class Server:
    """Counters in front of one key. Counts a request when it arrives; refused ones don't count.

    headers: "delta", "epoch" or "none". retry_after: "delta", "date" or "none".
    shows: the counter that headers speak of: the "fullest", or the "longest".
    clock_rate: how fast its clock runs against true time; wall_offset_s: by how much it is off.
    """

    counters: Sequence[Window]
    headers: str = "delta"
    retry_after: str = "delta"
    shows: str = "fullest"
    clock_rate: float = 1.0
    wall_offset_s: float = 0.0
    accepted: int = 0
    refused: int = 0
    foreign_accepted: int = 0
    arrivals_s: list[float] = field(default_factory=list)

    def arrive(self, true_s: float, *, foreign: bool = False) -> tuple[int, dict[str, str]]:
        """(status, headers) of a request that arrives at `true_s`."""
        now_s = true_s * self.clock_rate
        blocking = max(self.counters, key=lambda counter: counter.wait_s(now_s))
        wait_s = blocking.wait_s(now_s)
        if wait_s <= 0:
            for counter in self.counters:
                counter.add(now_s)
        self._tally(true_s, wait_s <= 0, foreign)
        if foreign:
            return (429 if wait_s > 0 else 200), {}
        return self._answer(blocking, wait_s, now_s)

    def _tally(self, true_s: float, accepted: bool, foreign: bool) -> None:
        if foreign:
            self.foreign_accepted += accepted
        elif accepted:
            self.accepted += 1
            self.arrivals_s.append(true_s)
        else:
            self.refused += 1

    def _answer(self, blocking: Window, wait_s: float, now_s: float) -> tuple[int, dict[str, str]]:
        fullest = min(self.counters, key=lambda each: _left(each, now_s))
        shown = self.counters[-1] if self.shows == "longest" else fullest
        shown = blocking if wait_s > 0 else shown
        wall_s = EPOCH_S + now_s + self.wall_offset_s
        answer = {"date": formatdate(math.floor(wall_s), usegmt=True)}
        if self.headers != "none":
            reset_s = max(shown.reset_s(now_s), wait_s)
            left = 0 if wait_s > 0 else max(0, math.floor(_left(shown, now_s)))
            answer["ratelimit-limit"] = str(shown.limit)
            answer["ratelimit-remaining"] = str(left)
            reset = reset_s + wall_s if self.headers == "epoch" else reset_s
            answer["ratelimit-reset"] = str(math.ceil(reset))
        if wait_s <= 0:
            return 200, answer
        if self.retry_after == "delta":
            answer["retry-after"] = str(max(1, math.ceil(wait_s)))
        elif self.retry_after == "date":
            answer["retry-after"] = formatdate(math.ceil(wall_s + wait_s), usegmt=True)
        return 429, answer


def _left(counter: Window, now_s: float) -> float:
    return counter.limit - counter.used(now_s)
