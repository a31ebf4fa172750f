"""What answers report about the rate, and how it corrects the windows: others' spending, lower
limits, holds, pacing.

Without others, nothing here ever changes a grant. `Remaining` lags by what is in flight, so it is
never compared with our own count directly but with bounds on it: between a request's grant and its
answer the server counted at least `own.least` and at most `own.most` of ours.

    others_least = used − own.most > 0   proof that another program spends from the key
    others_most  = used − own.least      what it may have spent

Proof starts *foreign mode* for one window: the ceiling falls by what others may have spent and a
margin, and grants are spaced, but only near that ceiling. A 429 that neither others nor a lower
limit explain *paces* the window: the server counts differently (a weighted counter, a smaller
bucket), or doesn't report the others. Every 429 puts a *hold* on the key; after it one probe is
sent, then twice as many with each answer. The first request of a new ledger is such a probe too,
since the limits may be lower than configured.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Protocol

from connector.budget.policy.windows import Window

# --- one answer -----------------------------------------------------------------------------------
#
# Status, the `RateLimit-*` headers, `Retry-After`. A reset comes as delta seconds (IETF draft) or
# as a Unix timestamp (one vendor revision, also in milliseconds); its size shows which. Times
# further off than the longest window have a misread unit and are dropped.

TOO_MANY = 429
_EPOCH_S = 1e8
_EPOCH_MS = 1e11


@dataclass(frozen=True, slots=True)
class Reading:
    """limit, remaining: requests, as the server counts. reset_s, retry_after_s: seconds from
    the answer. None: absent or unusable."""

    status: int
    limit: int | None = None
    remaining: int | None = None
    reset_s: float | None = None
    retry_after_s: float | None = None

    @property
    def refused(self) -> bool:
        return self.status == TOO_MANY

    @property
    def used(self) -> int | None:
        """Requests that the server counts in the window, this one included."""
        if self.limit is None or self.remaining is None:
            return None
        return max(0, self.limit - self.remaining)

    def remaining_below(self, count: int) -> bool:
        """Whether the server refused the request, or will after fewer than `count` more."""
        return self.refused or (self.remaining is not None and self.remaining < count)


def read_answer(
    status: int, headers: Mapping[str, str], *, wall_s: float, longest_s: float
) -> Reading:
    """The reading of one answer.

    headers: names in lower case. wall_s: UTC epoch seconds here, used where the answer has no
    `Date` of its own to measure timestamps against. longest_s: length of the longest window.
    """
    now_s = http_date_s(headers.get("date")) or wall_s
    return Reading(
        status=status,
        limit=_count(_header(headers, "limit")),
        remaining=_count(_header(headers, "remaining")),
        reset_s=seconds_ahead(_header(headers, "reset"), now_s, longest_s),
        retry_after_s=seconds_ahead(headers.get("retry-after"), now_s, longest_s),
    )


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return headers.get(f"ratelimit-{name}") or headers.get(f"x-ratelimit-{name}")


def _count(text: str | None) -> int | None:
    """The first number of `100` or `100, 100;w=60`."""
    match = re.match(r"\s*(\d{1,12})\b", text or "")
    return int(match[1]) if match else None


def seconds_ahead(text: str | None, now_s: float, longest_s: float) -> float | None:
    """Seconds from now until `text`: a delta, Unix timestamp (s or ms) or HTTP date. None if it is
    unreadable, or further off than `longest_s`."""
    if not text:
        return None
    match = re.match(r"\s*(\d{1,15}(?:\.\d+)?)\s*(?:$|[,;])", text)
    if match:
        number = float(match[1])
        number /= 1000 if number >= _EPOCH_MS else 1
        ahead_s = number - now_s if number >= _EPOCH_S else number
    else:
        date_s = http_date_s(text)
        if date_s is None:
            return None
        ahead_s = date_s - now_s
    return max(0.0, ahead_s) if ahead_s <= longest_s + slack_s(longest_s) else None


def slack_s(length_s: float) -> float:
    """By how much a server's whole seconds may overshoot a window."""
    return 1.0 + 0.02 * length_s


def http_date_s(text: str | None) -> float | None:
    """An HTTP date as UTC epoch seconds; None if it can't be read."""
    if not text:
        return None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, IndexError):
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


# --- state ----------------------------------------------------------------------------------------

FOREIGN_LASTS = 1.25
"""Foreign mode lasts this many lengths of its window after the last proof. With 1, it would end
just when last window's burst may be repeated, with dozens of requests in flight."""
MARGIN = 0.03
"""The share of a window left to others in foreign mode, on top of what they may have spent: enough
for what they send within one latency."""
NEAR_OTHERS, NEAR_SHARE = 0.5, 0.1
"""In foreign mode grants are spaced once less is free than this share of what others may have
spent, or of the limit: as much as they can add before an answer shows it."""
CATCH_UP = 2.0
"""How much faster than evenly spaced grants go: others don't spend evenly either, and slots that
they left unused would otherwise never be taken."""
OTHERS_GROW = 2.0
"""How much faster others may become between two answers than they were in the window so far."""
FASTEST_PACE, SLOWER, SLOWEST = 0.98, 0.8, 0.05
"""Evenly spaced and just below the limit, even a weighted counter accepts; otherwise slower yet."""
PACE_RISE = 0.05
"""How much a pace rises per window length without a 429."""
PACE_LASTS, PACE_LASTS_S = 30, 43_200.0
"""A paced window is trusted again after this many lengths, or seconds, without another 429."""
WIDE = 64
FLOOR_S, LONGEST_FLOOR_S = 1.0, 60.0
REMEMBERED_LIMITS = 8


@dataclass(frozen=True)
class WindowState:
    """The feedback state of one window. Times: ledger seconds; 0 = never.

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


@dataclass(frozen=True)
class FeedbackState:
    """The feedback state of one key; `dumps` and `loads` for the ledger.

    hold_until_s: of the last hold. hold_reason: for people. strikes: holds in a row without an
    accepted answer. probing: requests that may be in flight, 0 for any number.
    windows: by `f"{length_s:g}"`. resets: largest reset_s seen with each reported limit.
    """

    hold_until_s: float = 0.0
    hold_reason: str = ""
    strikes: int = 0
    probing: int = 1
    windows: Mapping[str, WindowState] = field(default_factory=dict)
    resets: Mapping[str, float] = field(default_factory=dict)

    def of(self, window: Window) -> WindowState:
        return self.windows.get(f"{window.length_s:g}", WindowState())

    def with_window(self, window: Window, **learnt: float | None) -> FeedbackState:
        """This state with some of one window's values changed; itself if they are the same."""
        before = self.of(window)
        after = replace(before, **learnt)  # type: ignore[arg-type]
        if after == before:
            return self
        return replace(self, windows={**self.windows, f"{window.length_s:g}": after})

    def dumps(self) -> str:
        return json.dumps(vars(self), default=vars)

    @classmethod
    @lru_cache(maxsize=16)
    def loads(cls, text: str) -> FeedbackState:
        """The state as stored, without fields that another version of the connector added."""
        stored = _known(cls, json.loads(text))
        windows = {
            name: WindowState(**_known(WindowState, each))
            for name, each in stored.pop("windows", {}).items()
        }
        return cls(**stored, windows=windows)


def _known(kind: type[FeedbackState | WindowState], stored: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in stored.items() if name in names}


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


# --- learning from an answer ----------------------------------------------------------------------


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
    """The state after one answer; equal to `state` if the answer taught nothing.

    windows: as configured, shortest first. granted_s, now_s: of the answered request.
    jitter: uniform in [0, 1), spreads the ends of holds for which the server gave no time.
    """
    before = state = _remember_reset(state, reading)
    window = window_of(windows, state, reading)
    if window is not None:
        state = _tighten(state, window, reading)
        state = _read_others(state, window, reading, own, granted_s=granted_s, now_s=now_s)
    if not reading.refused:
        return _widen(state, granted_s)
    is_new = granted_s >= state.hold_until_s  # not part of a burst that was already refused
    window = window or _by_wait(windows, reading)
    if is_new and state.of(window).limit == before.of(window).limit:
        state = _slow_down(state, window, now_s)
    strikes = max(1, state.strikes + is_new)
    longest_s = windows[-1].length_s
    return _hold(state, reading, strikes, longest_s, now_s=now_s, jitter=jitter)


def window_of(windows: Sequence[Window], state: FeedbackState, reading: Reading) -> Window | None:
    """The window that the headers describe; None if that can't be determined.

    By its limit, as configured or as learnt; otherwise, of the windows at least as long as the
    largest reset seen with this limit, the one whose limit is nearest.
    """
    if not (limit := reading.limit):
        return None
    reset_s = state.resets.get(str(limit), reading.reset_s or 0.0)
    fits = [window for window in windows if _fits(reset_s, window)]
    for window in fits:
        if limit in (window.limit, state.of(window).limit):
            return window
    return min(fits, key=lambda window: abs(math.log(limit / window.limit)), default=None)


def _fits(wait_s: float, window: Window) -> bool:
    return wait_s <= window.length_s + slack_s(window.length_s)


def _by_wait(windows: Sequence[Window], reading: Reading) -> Window:
    """The shortest window at least as long as the wait that the server asks for."""
    wait_s = reading.retry_after_s or reading.reset_s or 0.0
    return next((window for window in windows if _fits(wait_s, window)), windows[-1])


def _remember_reset(state: FeedbackState, reading: Reading) -> FeedbackState:
    """Keep the largest reset per limit; only steps of a tenth, so that it is rarely written."""
    name = str(reading.limit)
    if not reading.limit or reading.reset_s is None:
        return state
    if reading.reset_s <= state.resets.get(name, -1.0) * 1.1:
        return state
    newest = list(state.resets.items())[-REMEMBERED_LIMITS + 1 :]
    return replace(state, resets={**dict(newest), name: reading.reset_s})


def _tighten(state: FeedbackState, window: Window, reading: Reading) -> FeedbackState:
    """Follow the reported limit down, and up again as far as configured.

    A lower limit whose resets are all short compared with the window belongs to a shorter window
    that isn't configured; if that ever matters, its 429s pace us.
    """
    lower = reading.limit if reading.limit and reading.limit < window.limit else None
    if lower and state.resets.get(str(lower), window.length_s) < window.length_s / 10:
        return state
    return state.with_window(window, limit=lower)


def _read_others(
    state: FeedbackState,
    window: Window,
    reading: Reading,
    own: OwnCounts,
    *,
    granted_s: float,
    now_s: float,
) -> FeedbackState:
    """Whether others spend from `window`, and how much."""
    used, learnt = reading.used, state.of(window)
    if used is None:
        return state
    proven = not reading.refused and used > own.most(window)  # a refusal only reports that 0 remain
    known = now_s < learnt.foreign_until_s
    if not proven and not known:
        return state
    others = _others(learnt, window, used, own, now_s) if known else used - own.least(window)
    remaining, remaining_read_s = reading.remaining or 0, now_s
    if known and granted_s < learnt.remaining_read_s and learnt.remaining < remaining:
        # answers overtake each other: this one may be older than the one that reported less
        remaining, remaining_read_s = learnt.remaining, learnt.remaining_read_s
    if proven or reading.refused:
        state = state.with_window(window, foreign_until_s=now_s + FOREIGN_LASTS * window.length_s)
    if proven and now_s - max(learnt.pace_since_s, state.hold_until_s) <= window.length_s:
        state = state.with_window(window, paced_until_s=0.0)  # that 429 is explained
    return state.with_window(
        window, foreign_most=max(0, others), foreign_read_s=now_s, remaining=remaining,
        remaining_read_s=remaining_read_s, server_limit=reading.limit or 0,
    )  # fmt: skip


def _others(learnt: WindowState, window: Window, used: int, own: OwnCounts, now_s: float) -> int:
    """What others may have spent, as far as known.

    The upper bound alone counts each of our requests in flight as one of theirs. But since the
    last reading they can hardly have spent at more than twice their pace so far.
    """
    since = (now_s - learnt.foreign_read_s) / window.length_s
    grown = learnt.foreign_most + math.ceil(OTHERS_GROW * learnt.foreign_most * since)
    return max(used - own.most(window), min(used - own.least(window), grown))


def _slow_down(state: FeedbackState, window: Window, now_s: float) -> FeedbackState:
    """Pace a window whose 429 isn't explained by others."""
    learnt = state.of(window)
    paced = now_s < learnt.paced_until_s
    had_no_time = paced and now_s - learnt.pace_since_s < window.length_s
    if now_s < learnt.foreign_until_s or had_no_time:
        return state
    pace = pace_of(window, learnt, now_s) * SLOWER if paced else FASTEST_PACE
    lasts_s = min(PACE_LASTS * window.length_s, PACE_LASTS_S)
    return state.with_window(
        window, pace=max(SLOWEST, pace), pace_since_s=now_s, paced_until_s=now_s + lasts_s
    )


def _hold(
    state: FeedbackState,
    reading: Reading,
    strikes: int,
    longest_s: float,
    *,
    now_s: float,
    jitter: float,
) -> FeedbackState:
    """Close the ledger until the server's time. If it names none, or a probe after that time was
    refused as well, for a minimum that doubles with each strike."""
    named_s = reading.retry_after_s or (reading.reset_s if reading.remaining == 0 else None)
    doubled_s = FLOOR_S * 2 ** min(10, strikes - 1)
    floor_s = min(LONGEST_FLOOR_S, longest_s, doubled_s) * (1 + jitter)
    wait_s = floor_s if not named_s else max(named_s, floor_s if strikes > 1 else 0.0)
    return replace(
        state,
        hold_until_s=max(state.hold_until_s, now_s + wait_s),
        hold_reason=f"429, asked to wait {wait_s:.0f} s"
        if named_s
        else "429 that names no time to wait",
        strikes=strikes,
        probing=1,
    )


def _widen(state: FeedbackState, granted_s: float) -> FeedbackState:
    """After a hold: twice as many in flight with every answer to a request sent since."""
    if not state.probing or granted_s < state.hold_until_s:
        return state
    was_first = state.hold_until_s == 0  # the first request ever: its headers reported the limits
    probing = 0 if was_first or state.probing >= WIDE else state.probing * 2
    return replace(state, probing=probing, strikes=0)


# --- consequences for the next grant --------------------------------------------------------------


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


def spacing_s(window: Window, state: FeedbackState, now_s: float, live: int) -> float:
    """Seconds between two grants that one window asks for: 0, unless it is paced, or others spend
    from it and its ceiling is near. live: permits that still count."""
    learnt = state.of(window)
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
    widths = [
        max(1, each.remaining)
        for each in state.windows.values()
        if now_s < each.foreign_until_s and each.server_limit > 0
    ]
    if state.probing:
        widths.append(state.probing)
    return min(widths, default=None)


def changes_at_s(state: FeedbackState, now_s: float) -> float:
    """When the state next changes by time alone: the end of a hold, of foreign mode or of a pace;
    inf if none is active."""
    ends_s = [state.hold_until_s]
    for each in state.windows.values():
        ends_s += [each.foreign_until_s, each.paced_until_s]
    return min((end_s for end_s in ends_s if end_s > now_s), default=math.inf)
