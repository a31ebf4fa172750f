"""A budget that grants at once and records what happened to each permit."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from math import inf

from connector.budget import Lane, Permit
from connector.clock import Clock, SystemClock


class RecordingBudget:
    """outcomes: per permit that ended, its status, "unanswered" or "unsent", in order.

    late: how many of the first permits come too late to be used. on_answer: called at each answer.
    """

    waited_s = 0.0

    def __init__(self, clock: Clock | None = None, *, late: int = 0) -> None:
        self._clock = clock or SystemClock()
        self._late = late
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self.lanes: list[Lane] = []
        self.outcomes: list[int | str] = []
        self.headers: list[Mapping[str, str]] = []
        self.on_answer: Callable[[], None] = lambda: None

    def permit(self, lane: Lane, *, until_s: float = inf) -> Permit:
        with self._lock:
            self.lanes.append(lane)
            number = next(self._ids)
        in_s = -1.0 if number < self._late else 5.0
        return Permit(number, lane, self._clock.monotonic_s() + in_s)

    def answered(self, permit: Permit, status: int, headers: Mapping[str, str]) -> None:
        with self._lock:
            self.outcomes.append(status)
            self.headers.append(headers)
        self.on_answer()

    def unanswered(self, permit: Permit) -> None:
        self.outcomes.append("unanswered")

    def unsent(self, permit: Permit) -> None:
        self.outcomes.append("unsent")
