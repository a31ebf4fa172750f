"""Which answers are tried again, after how long, and when to stop. Pure.

The total counts the time spent sending, waiting for answers and backing off. Time spent waiting
for a permit doesn't count: a window that is full for an hour is no failure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from connector.api.headers import retry_after_s

BACKOFF_FIRST_S = 0.25
BACKOFF_MAX_S = 30.0
DOUBTFUL_TRIES = 8
DOUBTFUL_BACKOFF_MAX_S = 2.0
EMPTY_TRIES = 3
BUSY_TRIES = 60
LEAST_TRY_S = 1.0
"""A try that has less time left than this is not made: it would only lose its answer."""


class Outcome(StrEnum):
    """What one try came to."""

    USABLE = "usable"  # what was asked for
    LOST = "lost"  # no whole answer: refused, dropped, truncated, timed out, not JSON
    FAULTY = "faulty"  # the server says that it failed: 5xx, 408, 425
    RUNNING = "running"  # 409: the first request with this idempotency key still runs
    BUSY = "busy"  # 429
    DOUBTFUL = "doubtful"  # whole and readable, but not what was asked for
    EMPTY = "empty"  # no list where one was asked for: believed once it was said again and again
    DENIED = "denied"  # a whole answer says that what was asked for was not done
    FINAL = "final"  # the same request would get the same answer


class Action(StrEnum):
    RETURN = "return"
    RETRY = "retry"
    GIVE_UP = "give up"  # transient, but for too long
    FAIL = "fail"  # terminal


@dataclass(frozen=True)
class Effort:
    """What one request has cost so far. spent_s: seconds, without waits for permits."""

    tries: int = 0
    sent: int = 0
    busy: int = 0
    doubtful: int = 0
    empty: int = 0
    spent_s: float = 0.0

    def after(self, outcome: Outcome, *, sent: bool, took_s: float) -> Effort:
        """This effort and one more try."""
        return replace(
            self,
            tries=self.tries + 1,
            sent=self.sent + sent,
            busy=self.busy + (outcome is Outcome.BUSY),
            doubtful=self.doubtful + (outcome is Outcome.DOUBTFUL),
            empty=self.empty + (outcome is Outcome.EMPTY),
            spent_s=self.spent_s + took_s,
        )

    def waited(self, wait_s: float) -> Effort:
        """This effort and a wait between two tries."""
        return replace(self, spent_s=self.spent_s + wait_s)


@dataclass(frozen=True)
class Decision:
    """wait_s: seconds before the next try, if there is one."""

    action: Action
    wait_s: float = 0.0


def decide(
    outcome: Outcome, headers: Mapping[str, str], effort: Effort, *,
    total_s: float, now_s: float, jitter: float,
) -> Decision:  # fmt: skip
    """What to do after the last try of `effort`, which came to `outcome`.

    headers: of its answer, names in lower case; empty if there was none. total_s: the retry
    budget. now_s: UTC epoch seconds, for a `Retry-After` that is a date. jitter: 0..1, random,
    so that threads which failed together don't come back together.
    """
    if outcome is Outcome.USABLE or (outcome is Outcome.EMPTY and effort.empty >= EMPTY_TRIES):
        return Decision(Action.RETURN)
    if outcome in (Outcome.FINAL, Outcome.DENIED):
        return Decision(Action.FAIL)
    if outcome is Outcome.BUSY:
        # The budget was told and holds every process back until the server's time; asking it
        # for a permit is the wait. The count stops a server that says 429 for ever.
        return Decision(Action.GIVE_UP if effort.busy >= BUSY_TRIES else Action.RETRY)
    if outcome is Outcome.DOUBTFUL and effort.doubtful >= DOUBTFUL_TRIES:
        # A proxy in between may have made this one up, but hardly so many: the API has changed.
        return Decision(Action.FAIL)
    wait_s = retry_after_s(headers, now_s)
    if wait_s is None:  # the server's word wins; without it, back off
        wait_s = backoff_s(outcome, effort, jitter)
    if effort.spent_s + wait_s >= total_s - min(LEAST_TRY_S, total_s / 4):
        return Decision(Action.GIVE_UP)
    return Decision(Action.RETRY, wait_s)


def backoff_s(outcome: Outcome, effort: Effort, jitter: float) -> float:
    """Seconds before the next try: doubled by each failure, 50..100 % of it by `jitter`."""
    is_readable = outcome in (Outcome.DOUBTFUL, Outcome.EMPTY)
    most_s = DOUBTFUL_BACKOFF_MAX_S if is_readable else BACKOFF_MAX_S
    failures = min(effort.tries - effort.busy, 20)
    doubled_s = BACKOFF_FIRST_S * 2.0 ** max(0, failures - 1)
    return min(most_s, doubled_s) * (0.5 + 0.5 * jitter)


# --- what a status means ---------------------------------------------------------------------

_TRANSIENT_STATUS = {408, 425}
_STILL_RUNNING = re.compile(
    r"in.?progress|in.?flight|being.processed|processing|running|concurrent|pending|locked|"
    r"try.again|retry|still",
    re.IGNORECASE,
)
_CONFLICT = re.compile(
    r"different|mismatch|match|payload|body|exist|duplicate|already|another", re.IGNORECASE
)


def outcome_of_status(status: int, *, keyed: bool, said: str) -> Outcome:
    """What an answer with `status` came to; 2xx is USABLE as far as the status tells.

    keyed: the request carried an idempotency key. said: what the answer says, since the API has
    one status, 409, both for "the first one still runs" and for a real conflict.
    """
    if 200 <= status < 300:
        return Outcome.USABLE
    if status == 429:
        return Outcome.BUSY
    if status >= 500 or status in _TRANSIENT_STATUS:
        return Outcome.FAULTY
    if status == 409 and keyed:
        return _outcome_of_conflict(said)
    return Outcome.FINAL


def _outcome_of_conflict(said: str) -> Outcome:
    if _STILL_RUNNING.search(said):
        return Outcome.RUNNING
    return Outcome.FINAL if _CONFLICT.search(said) else Outcome.DOUBTFUL
