"""Correction by what the server says: others' spending, lower limits, holds, pacing.

Alone, nothing here ever changes a grant. `Remaining` lags by what is in flight, so it is never
compared with our own count directly but with bounds on it: between a request's grant and its
answer the server surely counted at least `own.least` and at most `own.most` of ours.

    others_least = used − own.most > 0   proof that another program spends from the key
    others_most  = used − own.least      what it may have spent

Proof opens *foreign mode* for one window: the ceiling falls by what others may have spent and a
margin, and grants are spaced near that ceiling (`learnt.spacing_s`), not before. A 429 that
neither others nor a limit lower than known explain *paces* the window: the server counts in a way
of its own (a weighted counter, a smaller bucket), or doesn't say that others are there. Every 429
puts a *hold* on the key; behind it goes one probe, then twice as many with each answer. The first
request a ledger ever sends is such a probe too, since the limits may be lower than configured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from connector.budget.policy.learnt import FASTEST_PACE, FeedbackState, WindowState, pace_of
from connector.budget.policy.readings import Reading, slack_s
from connector.budget.policy.windows import Window

FOREIGN_LASTS = 1.25
"""Lengths of its window that foreign mode goes on for after the last proof. With 1, it ends just
when a burst of a window ago may be repeated: blindly, with dozens of requests in flight."""
OTHERS_GROW = 2.0
"""By how much faster others may become between two answers, against their whole window so far."""
SLOWER = 0.8
SLOWEST = 0.05
PACE_LASTS = 30
"""A paced window is trusted again after so many of its lengths without another 429, ..."""
PACE_LASTS_S = 43_200.0
"""... or after so many seconds."""
WIDE = 64
FLOOR_S = 1.0
LONGEST_FLOOR_S = 60.0
REMEMBERED_LIMITS = 8


class OwnCounts(Protocol):
    """Bounds on our own requests that the server counted in a window when it answered this
    one, all processes of the ledger together, this request included.

    granted_s, answered_s: of this request (ledger seconds), already fixed by the ledger.
    """

    def most(self, window: Window) -> int:
        """Granted by answered_s, less those answered by granted_s − window.held_s."""
        ...

    def least(self, window: Window) -> int:
        """1 + those answered by granted_s that were granted after answered_s − window.sure_s."""
        ...


def update(
    state: FeedbackState,
    windows: Sequence[Window],
    reading: Reading,
    own: OwnCounts,
    *,
    granted_s: float,
    now_s: float,
    jitter: float,
) -> FeedbackState:
    """What is known after one answer; equal to `state` where the answer taught nothing.

    windows: as configured, shortest first. granted_s, now_s: of the answered request.
    jitter: uniform in [0, 1), spreads the ends of holds that the server gave no time for.
    """
    before = _remember_reset(state, reading)
    window = window_of(windows, before, reading)
    state = (
        before
        if window is None
        else _read_window(before, window, reading, own, granted_s=granted_s, now_s=now_s)
    )
    if not reading.refused:
        return _widen(state, granted_s)
    if granted_s >= state.hold_until_s:  # not the rest of a burst that was refused already
        state = _explain(state, before, window or _by_wait(windows, reading), now_s)
    return _hold(state, windows, reading, granted_s=granted_s, now_s=now_s, jitter=jitter)


def window_of(windows: Sequence[Window], state: FeedbackState, reading: Reading) -> Window | None:
    """The window that the headers speak of; None where that can't be told.

    By its limit, as configured or as learnt; else, of those that the largest reset seen with
    this limit fits into, the one whose limit is nearest.
    """
    if not reading.limit:
        return None
    reset_s = state.resets.get(str(reading.limit), reading.reset_s or 0.0)
    fits = [window for window in windows if reset_s <= window.length_s + slack_s(window.length_s)]
    for window in fits:
        if reading.limit in (window.limit, state.of(window).limit):
            return window
    return min(fits, key=_distance_to(reading.limit), default=None)


def _distance_to(limit: int) -> Callable[[Window], float]:
    return lambda window: abs(math.log(limit / window.limit))


def _by_wait(windows: Sequence[Window], reading: Reading) -> Window:
    """The shortest window that what the server asks us to wait fits into."""
    wait_s = reading.retry_after_s or reading.reset_s or 0.0
    fits = (window for window in windows if wait_s <= window.length_s + slack_s(window.length_s))
    return next(fits, windows[-1])


def _remember_reset(state: FeedbackState, reading: Reading) -> FeedbackState:
    """Keep the largest reset per limit; by whole tenths more, so that it is rarely written."""
    if not reading.limit or reading.reset_s is None:
        return state
    name = str(reading.limit)
    if reading.reset_s <= state.resets.get(name, -1.0) * 1.1:
        return state
    newest = list(state.resets.items())[-REMEMBERED_LIMITS + 1 :]
    return replace(state, resets={**dict(newest), name: reading.reset_s})


def _tighten(state: FeedbackState, window: Window, reading: Reading) -> FeedbackState:
    """Follow the reported limit downwards, and up again as far as configured.

    A lower limit whose resets are all short against the window belongs to a shorter window that
    isn't configured; if it ever matters, its 429s pace us.
    """
    assert reading.limit is not None
    lower = reading.limit if reading.limit < window.limit else None
    if lower and state.resets.get(str(lower), window.length_s) < window.length_s / 10:
        return state
    return state.with_window(window, replace(state.of(window), limit=lower))


def _read_window(
    state: FeedbackState,
    window: Window,
    reading: Reading,
    own: OwnCounts,
    *,
    granted_s: float,
    now_s: float,
) -> FeedbackState:
    """What the headers say of `window`: its limit, and whether others spend from it."""
    state = _tighten(state, window, reading)
    used, learnt = reading.used, state.of(window)
    if used is None:
        return state
    proven = not reading.refused and used > own.most(window)  # a refusal just says 0 remain
    known = now_s < learnt.foreign_until_s
    if not proven and not known:
        return state
    others = _others(learnt, window, used, own, now_s) if known else used - own.least(window)
    remaining, remaining_read_s = reading.remaining or 0, now_s
    if known and granted_s < learnt.remaining_read_s and learnt.remaining < remaining:
        # answers overtake each other: this one may well be older than the one that told less
        remaining, remaining_read_s = learnt.remaining, learnt.remaining_read_s
    if proven or reading.refused:
        learnt = replace(learnt, foreign_until_s=now_s + FOREIGN_LASTS * window.length_s)
    if proven and now_s - max(learnt.pace_since_s, state.hold_until_s) <= window.length_s:
        learnt = replace(learnt, paced_until_s=0.0)  # that 429 is explained
    learnt = replace(
        learnt,
        foreign_most=max(0, others),
        foreign_read_s=now_s,
        remaining=remaining,
        remaining_read_s=remaining_read_s,
        server_limit=reading.limit or 0,
    )
    return state.with_window(window, learnt)


def _others(learnt: WindowState, window: Window, used: int, own: OwnCounts, now_s: float) -> int:
    """What others may have spent, where something is known of them.

    The upper bound alone takes each of our requests in flight for one of theirs. But since the
    last reading they can hardly have spent more than at twice their pace so far.
    """
    since = (now_s - learnt.foreign_read_s) / window.length_s
    grown = learnt.foreign_most + math.ceil(OTHERS_GROW * learnt.foreign_most * since)
    return max(used - own.most(window), min(used - own.least(window), grown))


def _explain(
    state: FeedbackState, before: FeedbackState, window: Window, now_s: float
) -> FeedbackState:
    """Slow a window down whose 429 nothing explains: no others, no limit learnt just now."""
    learnt = state.of(window)
    if now_s < learnt.foreign_until_s or learnt.limit != before.of(window).limit:
        return state
    paced = now_s < learnt.paced_until_s
    if paced and now_s - learnt.pace_since_s < window.length_s:
        return state  # the pace had no time to show
    pace = pace_of(window, learnt, now_s) * SLOWER if paced else FASTEST_PACE
    learnt = replace(
        learnt,
        pace=max(SLOWEST, pace),
        pace_since_s=now_s,
        paced_until_s=now_s + min(PACE_LASTS * window.length_s, PACE_LASTS_S),
    )
    return state.with_window(window, learnt)


def _hold(
    state: FeedbackState,
    windows: Sequence[Window],
    reading: Reading,
    *,
    granted_s: float,
    now_s: float,
    jitter: float,
) -> FeedbackState:
    """Close the ledger until the server's time; where it names none, or a probe after the time
    it named was refused as well, for a floor that doubles with each strike."""
    strikes = max(1, state.strikes + (granted_s >= state.hold_until_s))
    said_s = reading.retry_after_s or (reading.reset_s if reading.remaining == 0 else None)
    doubled_s = FLOOR_S * 2 ** min(10, strikes - 1)
    floor_s = min(LONGEST_FLOOR_S, windows[-1].length_s, doubled_s) * (1 + jitter)
    wait_s = floor_s if not said_s else max(said_s, floor_s if strikes > 1 else 0.0)
    reason = f"429, asked to wait {wait_s:.0f} s" if said_s else "429 that names no time"
    return replace(
        state,
        hold_until_s=max(state.hold_until_s, now_s + wait_s),
        held_at_s=now_s,
        hold_reason=reason,
        strikes=strikes,
        probing=1,
    )


def _widen(state: FeedbackState, granted_s: float) -> FeedbackState:
    """After a hold: twice as many in flight with every answer to a request sent since."""
    if not state.probing or granted_s < state.hold_until_s:
        return state
    met = state.hold_until_s == 0  # the first request ever: its headers told the limits
    probing = 0 if met or state.probing >= WIDE else state.probing * 2
    return replace(state, probing=probing, strikes=0)
