"""Servers that count requests when they arrive, each in its own way. Times: server seconds."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Protocol

EPOCH_S = 1_760_000_000.0


class Counter(Protocol):
    """One limit. used: what counts; wait_s: until one more fits; reset_s: as in the header."""

    limit: int

    def used(self, now_s: float) -> float: ...

    def wait_s(self, now_s: float) -> float: ...

    def reset_s(self, now_s: float) -> float: ...

    def add(self, now_s: float) -> None: ...


class SlidingLog:
    """A request counts for exactly `length_s` after its arrival."""

    def __init__(self, limit: int, length_s: float) -> None:
        self.limit, self.length_s = limit, length_s
        self._log: deque[float] = deque()

    def used(self, now_s: float) -> float:
        while self._log and self._log[0] <= now_s - self.length_s:
            self._log.popleft()
        return len(self._log)

    def wait_s(self, now_s: float) -> float:
        over = int(self.used(now_s)) - self.limit
        return 0.0 if over < 0 else self._log[over] + self.length_s - now_s

    def reset_s(self, now_s: float) -> float:
        return self._log[0] + self.length_s - now_s if self.used(now_s) else self.length_s

    def add(self, now_s: float) -> None:
        self._log.append(now_s)


class FixedWindow:
    """Starts from zero at every border; borders lie `length_s` apart, from `alignment_s` on."""

    def __init__(self, limit: int, length_s: float, alignment_s: float = 0.0) -> None:
        self.limit, self.length_s, self.alignment_s = limit, length_s, alignment_s
        self.number, self.count, self.before = -1, 0, 0

    def _turn(self, now_s: float) -> None:
        number = math.floor((now_s - self.alignment_s) / self.length_s)
        if number != self.number:
            self.before = self.count if number == self.number + 1 else 0
            self.number, self.count = number, 0

    def used(self, now_s: float) -> float:
        self._turn(now_s)
        return self.count

    def wait_s(self, now_s: float) -> float:
        return 0.0 if self.used(now_s) < self.limit else self.reset_s(now_s)

    def reset_s(self, now_s: float) -> float:
        return self.length_s - (now_s - self.alignment_s) % self.length_s

    def add(self, now_s: float) -> None:
        self._turn(now_s)
        self.count += 1


class Weighted(FixedWindow):
    """A fixed window plus the previous one, in the share that a sliding one would still cover."""

    def used(self, now_s: float) -> float:
        self._turn(now_s)
        return self.count + self.before * self.reset_s(now_s) / self.length_s

    def wait_s(self, now_s: float) -> float:
        over, left_s = self.used(now_s) - (self.limit - 1), self.reset_s(now_s)
        if over <= 0:
            return 0.0
        if self.before and over * self.length_s / self.before <= left_s:
            return over * self.length_s / self.before
        over = self.count - (self.limit - 1)  # at the border this window weighs full
        return left_s + max(0.0, over * self.length_s / max(1, self.count))


class TokenBucket:
    """Holds `capacity` tokens (default: the limit), refilled evenly with `limit` per length."""

    def __init__(self, limit: int, length_s: float, capacity: int | None = None) -> None:
        self.limit, self.length_s = limit, length_s
        self.capacity = capacity or limit
        self.missing, self.at_s = 0.0, 0.0

    def used(self, now_s: float) -> float:
        refilled = (now_s - self.at_s) * self.limit / self.length_s
        self.missing, self.at_s = max(0.0, self.missing - refilled), now_s
        return self.missing

    def wait_s(self, now_s: float) -> float:
        over = self.used(now_s) - (self.capacity - 1)
        return max(0.0, over) * self.length_s / self.limit

    def reset_s(self, now_s: float) -> float:
        return self.used(now_s) * self.length_s / self.limit

    def add(self, now_s: float) -> None:
        self.missing = self.used(now_s) + 1


@dataclass
class Server:
    """Counters in front of one key. Counts a request when it arrives; refused ones don't count.

    headers: "delta", "epoch" or "none". retry_after: "delta", "date" or "none".
    shows: the counter that headers speak of: the "fullest", or the "longest".
    clock_rate: how fast its clock runs against true time; wall_offset_s: by how much it is off.
    """

    counters: Sequence[Counter]
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

    def _answer(self, blocking: Counter, wait_s: float, now_s: float) -> tuple[int, dict[str, str]]:
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


def _left(counter: Counter, now_s: float) -> float:
    return counter.limit - counter.used(now_s)
