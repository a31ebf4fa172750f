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

MARGIN = 0.03
"""The share of a window that is left to others, beside what they may have spent, while they are
known to be there: enough for what they send within one latency."""
NEAR_OTHERS = 0.5
NEAR_SHARE = 0.1
"""With others there, grants are spaced once less is free than this share of what they may have
spent, or of the limit: as much as they can add before we hear of it."""
CATCH_UP = 2.0
"""How much faster than evenly these go: what others leave isn't even, and a slot that they left
unused a while ago is else never taken."""
FASTEST_PACE = 0.98
"""Evenly spaced and this much below the limit, even a weighted counter is content."""
PACE_RISE = 0.05
"""By how much a pace rises per window length without a 429."""


@dataclass(frozen=True, slots=True)
class WindowState:
    """What was learnt of one window. Times: ledger seconds; 0 = never.

    limit: as last reported, where it is lower than configured. foreign_until_s: end of foreign
    mode. foreign_most: what others may have spent, as read at foreign_read_s. remaining:
    Remaining, as read at remaining_read_s. server_limit: Limit at the last reading.
    pace: share of the limit to keep to until paced_until_s, since pace_since_s.
    """

    limit: int | None = None
    foreign_until_s: float = 0.0
    foreign_most: int = 0
    foreign_read_s: float = 0.0
    remaining: int = 0
    remaining_read_s: float = 0.0
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


def spacing_s(
    windows: Sequence[Window], state: FeedbackState, now_s: float, live: Sequence[int]
) -> float:
    """Seconds between two grants: 0, except in paced windows, and near the ceiling of those
    that others spend from.

    live: per window, the permits that still count.
    """
    return max(
        window_spacing_s(window, state.of(window), now_s, count)
        for window, count in zip(windows, live, strict=True)
    )


def window_spacing_s(window: Window, learnt: WindowState, now_s: float, live: int) -> float:
    """Seconds between two grants that one window asks for; live: permits that still count."""
    limit = _limit(window, learnt, now_s)
    evenly_s = window.held_s / limit
    if now_s < learnt.paced_until_s:
        return evenly_s
    near = max(NEAR_OTHERS * learnt.foreign_most, NEAR_SHARE * window.limit)
    if now_s < learnt.foreign_until_s and limit - live < near:
        return evenly_s / CATCH_UP
    return 0.0


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
