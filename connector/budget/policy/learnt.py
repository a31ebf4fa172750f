"""What feedback remembers of a key, and what follows from it for the next grant.

`feedback.update` writes it, one answer at a time; a ledger keeps it as JSON. As long as nothing
was learnt, `limits` are the configured ones, `spacing_s` is 0 and `width` is None.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from typing import Any

from connector.budget.policy.windows import Window

MARGIN = 0.05
"""The share of a window that is left to others while they are known to be there."""
FASTEST_PACE = 0.98
"""Evenly spaced and this much below the limit, even a weighted counter is content."""
PACE_RISE = 0.05
"""By how much a pace rises per window length without a 429."""


@dataclass(frozen=True, slots=True)
class WindowState:
    """What was learnt of one window. Times: ledger seconds; 0 = never.

    limit: as last reported, where it is lower than configured. foreign_until_s: end of foreign
    mode. foreign_most, remaining, server_limit: others_most, Remaining and Limit at the last
    reading in it.
    pace: share of the limit to keep to until paced_until_s, since pace_since_s.
    """

    limit: int | None = None
    foreign_until_s: float = 0.0
    foreign_most: int = 0
    remaining: int = 0
    server_limit: int = 0
    pace: float = 1.0
    pace_since_s: float = 0.0
    paced_until_s: float = 0.0


_NOTHING = WindowState()


@dataclass(frozen=True, slots=True)
class FeedbackState:
    """All that feedback remembers of one key; `dumps` and `loads` for the ledger.

    hold_until_s, held_at_s: the last hold. hold_reason: for people. strikes: holds in a row
    without an accepted answer. probing: requests that may be in flight, 0 for any number.
    windows: by `f"{length_s:g}"`. resets: largest reset_s seen with each reported limit.
    """

    hold_until_s: float = 0.0
    held_at_s: float = 0.0
    hold_reason: str = ""
    strikes: int = 0
    probing: int = 1
    windows: Mapping[str, WindowState] = field(default_factory=dict)
    resets: Mapping[str, float] = field(default_factory=dict)

    def of(self, window: Window) -> WindowState:
        return self.windows.get(_name(window), _NOTHING)

    def with_window(self, window: Window, learnt: WindowState) -> FeedbackState:
        """This state with `learnt` of one window; itself where that is nothing new."""
        if learnt == self.of(window):
            return self
        return replace(self, windows={**self.windows, _name(window): learnt})

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    @lru_cache(maxsize=16)  # each grant loads it, and it rarely changes
    def loads(cls, text: str) -> FeedbackState:
        """The state as stored; what another version of the connector added is left out."""
        stored = json.loads(text)
        windows = {
            name: WindowState(**_known(WindowState, each))
            for name, each in stored.get("windows", {}).items()
        }
        return cls(**{**_known(cls, stored), "windows": windows})


def _known(kind: type[FeedbackState | WindowState], stored: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in stored.items() if name in names}


def limits(windows: Sequence[Window], state: FeedbackState, now_s: float) -> tuple[int, ...]:
    """Per window, how many permits may be live: never more than configured, and at least 1."""
    return tuple(_limit(window, state.of(window), now_s) for window in windows)


def _limit(window: Window, learnt: WindowState, now_s: float) -> int:
    limit = min(window.limit, learnt.limit or window.limit)
    if now_s < learnt.foreign_until_s:
        server = learnt.server_limit or limit
        ours = math.ceil(server - learnt.foreign_most - MARGIN * server) - 1
        limit = min(limit, max(ours, math.floor(MARGIN * server)))
    return max(1, min(limit, math.floor(limit * pace_of(window, learnt, now_s))))


def pace_of(window: Window, learnt: WindowState, now_s: float) -> float:
    """The share of a window's limit to keep to; it rises again with time."""
    if now_s >= learnt.paced_until_s:
        return 1.0
    lengths = max(0.0, now_s - learnt.pace_since_s) / window.length_s
    return min(FASTEST_PACE, learnt.pace + PACE_RISE * lengths)


def spacing_s(windows: Sequence[Window], state: FeedbackState, now_s: float) -> float:
    """Seconds between two grants: 0, except for paced windows and those with others in them."""
    spacings_s = [
        window.held_s / _limit(window, state.of(window), now_s)
        for window in windows
        if now_s < max(state.of(window).foreign_until_s, state.of(window).paced_until_s)
    ]
    return max(spacings_s, default=0.0)


def width(state: FeedbackState, now_s: float) -> int | None:
    """How many requests may be in flight at once; None for any number."""
    widths = [max(1, each.remaining) for each in state.windows.values() if _crowded(each, now_s)]
    if state.probing:
        widths.append(state.probing)
    return min(widths, default=None)


def _crowded(learnt: WindowState, now_s: float) -> bool:
    return now_s < learnt.foreign_until_s and learnt.server_limit > 0


def changes_at_s(state: FeedbackState, now_s: float) -> float:
    """When what is said here changes by time alone: the next end of a hold, of foreign mode or
    of a pace; inf if nothing does."""
    ends_s = [state.hold_until_s]
    for each in state.windows.values():
        ends_s += [each.foreign_until_s, each.paced_until_s]
    return min((end_s for end_s in ends_s if end_s > now_s), default=math.inf)


def _name(window: Window) -> str:
    return f"{window.length_s:g}"
