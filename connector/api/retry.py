"""The outcome of one try, whether to try again, after how long, and when to stop. Pure.

The retry budget covers sending, waiting for answers and backing off. Waiting for a permit doesn't
count: a window that is full for an hour isn't a failure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from connector.api.envelopes import (
    NoContent,
    NoList,
    NoRecord,
    NotDone,
    NotJson,
    UnknownShape,
    describe,
    error_text,
    read_json,
)
from connector.budget.policy.feedback import seconds_ahead
from connector.errors import (
    ApiError,
    Redirected,
    Refused,
    Unauthorized,
    UnexpectedAnswer,
    UntrustedServer,
)
from connector.logs import redact

if TYPE_CHECKING:
    from connector.api.transport import Exchange

Read = Callable[[Any], Any]
BACKOFF_FIRST_S = 0.25
BACKOFF_MAX_S = 30.0
DOUBTFUL_TRIES = 8
DOUBTFUL_BACKOFF_MAX_S = 2.0
EMPTY_TRIES = 3
UNSHOWN_TRIES = 2
BUSY_TRIES = 60
_FARTHEST_S = 86_400.0
LEAST_TRY_S = 1.0
"""A try with less time left than this isn't made: its answer would only be lost."""

_REDIRECTS = {300, 301, 302, 303, 305, 307, 308}
_TRANSIENT_STATUS = {408, 425}
_STILL_RUNNING = re.compile(
    r"in.?progress|in.?flight|being.processed|processing|running|concurrent|pending|locked|"
    r"try.again|retry|still",
    re.IGNORECASE,
)
_CONFLICT = re.compile(
    r"different|mismatch|match|payload|body|exist|duplicate|already|another", re.IGNORECASE
)


class Outcome(StrEnum):
    """The outcome of one try."""

    USABLE = "usable"  # what was requested
    LOST = "lost"  # no whole answer: refused, dropped, truncated, timed out, not JSON
    FAULTY = "faulty"  # the server says that it failed: 5xx, 408, 425
    RUNNING = "running"  # 409: the first request with this idempotency key still runs
    BUSY = "busy"  # 429
    DOUBTFUL = "doubtful"  # whole and readable, but of an unexpected shape
    UNSHOWN = "unshown"  # a write with a key is done, but the answer doesn't show its record
    EMPTY = "empty"  # no list where one was expected: accepted if the next try gives the same
    DENIED = "denied"  # a whole answer says that the request was not carried out
    FINAL = "final"  # the same request would get the same answer


class Action(StrEnum):
    RETURN = "return"
    RETRY = "retry"
    GIVE_UP = "give up"  # transient, but for too long
    FAIL = "fail"  # terminal


@dataclass(frozen=True)
class Effort:
    """The tries of one request so far. spent_s: seconds, without waits for permits."""

    tries: int = 0
    sent: int = 0
    busy: int = 0
    doubtful: int = 0
    unshown: int = 0
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
            unshown=self.unshown + (outcome is Outcome.UNSHOWN),
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
    """What to do after the last try of `effort`, whose outcome is `outcome`.

    headers: of its answer, names in lower case; empty if there was none. total_s: the retry
    budget. now_s: UTC epoch seconds, for a `Retry-After` that is a date. jitter: 0..1, random,
    so that threads that failed together don't retry together.
    """
    if outcome is Outcome.USABLE or (outcome is Outcome.EMPTY and effort.empty >= EMPTY_TRIES):
        return Decision(Action.RETURN)
    if outcome in (Outcome.FINAL, Outcome.DENIED):
        return Decision(Action.FAIL)
    if outcome is Outcome.BUSY:
        # The budget has seen the answer and grants no process a permit until the server's time, so
        # taking a permit is the wait. The count ends an endless series of 429s.
        return Decision(Action.GIVE_UP if effort.busy >= BUSY_TRIES else Action.RETRY)
    if outcome is Outcome.DOUBTFUL and effort.doubtful >= DOUBTFUL_TRIES:
        # A proxy may have made up one such answer, but hardly so many: the API has changed.
        return Decision(Action.FAIL)
    if outcome is Outcome.UNSHOWN and effort.unshown >= UNSHOWN_TRIES:
        # The server answers a key that it knows as it did before: a third answer would be the same.
        return Decision(Action.FAIL)
    wait_s = retry_after_s(headers, now_s)
    if wait_s is None:  # the server's wish wins; without one, back off
        wait_s = backoff_s(outcome, effort, jitter)
    if effort.spent_s + wait_s >= total_s - min(LEAST_TRY_S, total_s / 4):
        return Decision(Action.GIVE_UP)
    return Decision(Action.RETRY, wait_s)


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """Seconds that `Retry-After` asks for. None if it is absent, unreadable, 0, in the past, or so
    far off that its unit must have been misread."""
    return seconds_ahead(headers.get("retry-after"), now_s, _FARTHEST_S) or None


def backoff_s(outcome: Outcome, effort: Effort, jitter: float) -> float:
    """Seconds before the next try: doubled with each failure, times 0.5 to 1 by `jitter`."""
    is_readable = outcome in (Outcome.DOUBTFUL, Outcome.UNSHOWN, Outcome.EMPTY)
    most_s = DOUBTFUL_BACKOFF_MAX_S if is_readable else BACKOFF_MAX_S
    failures = min(effort.tries - effort.busy, 20)
    doubled_s = BACKOFF_FIRST_S * 2.0 ** max(0, failures - 1)
    return min(most_s, doubled_s) * (0.5 + 0.5 * jitter)


# --- what an exchange came to ----------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """value: the parsed body, if usable. reason: why it isn't usable, for people.
    first_sent_before_s: how long before the answered try the same request was first sent; None: it
    is the first."""

    outcome: Outcome
    exchange: Exchange
    value: Any = None
    reason: str = ""
    first_sent_before_s: float | None = None


def understand(exchange: Exchange, read: Read, *, keyed: bool, absent_at_404: bool) -> Answer:
    """The outcome of `exchange`. read: JSON value → what the caller wants, or UnknownShape.

    keyed: the request carried an idempotency key. absent_at_404: 404 is an answer (None).
    """
    status = exchange.status
    if exchange.untrusted or exchange.too_large:
        return Answer(Outcome.FINAL, exchange, reason=str(exchange.failure))
    if status is None:
        return Answer(Outcome.LOST, exchange, reason=str(exchange.failure))
    if 200 <= status < 300:
        return _understand_success(exchange, read, keyed=keyed)
    if status == 404 and absent_at_404:
        return _understand_absence(exchange)
    reason = exchange.failure or error_text(exchange.body)
    outcome = outcome_of_status(status, keyed=keyed, message=reason)
    return Answer(outcome, exchange, reason=reason)


def _understand_success(exchange: Exchange, read: Read, *, keyed: bool) -> Answer:
    if exchange.failure:
        return Answer(Outcome.LOST, exchange, reason=exchange.failure)
    # a write may be accepted without content (202); a list without any may be cut short
    is_empty = exchange.status == 204 or (keyed and exchange.status == 202 and not exchange.body)
    try:
        body = NoContent() if is_empty else read_json(exchange.body)
        return Answer(Outcome.USABLE, exchange, value=read(body))
    except NotJson as error:
        return Answer(Outcome.LOST, exchange, reason=str(error))
    except NoList as error:
        return Answer(Outcome.EMPTY, exchange, value=error.page, reason=str(error))
    except NotDone as error:  # a write with a key would get the same answer
        return Answer(Outcome.DENIED if keyed else Outcome.DOUBTFUL, exchange, reason=str(error))
    except NoRecord as error:
        return Answer(Outcome.UNSHOWN if keyed else Outcome.DOUBTFUL, exchange, reason=str(error))
    except UnknownShape as error:
        return Answer(Outcome.DOUBTFUL, exchange, reason=str(error))


def _understand_absence(exchange: Exchange) -> Answer:
    """A missing record becomes a tombstone, so a proxy's 404 page must not count as proof."""
    page = describe(exchange.body)
    if exchange.failure or "HTML" in page:
        return Answer(Outcome.DOUBTFUL, exchange, reason=exchange.failure or page)
    return Answer(Outcome.USABLE, exchange, value=None)


def final_error(answer: Answer, *, url_path: str, host: str) -> ApiError:
    """The error for an answer that no retry will change."""
    status, reason = answer.exchange.status, answer.reason
    if status is None:
        return UntrustedServer(host=host, reason=reason)
    if status in _REDIRECTS:
        target = _origin(answer.exchange.headers.get("location", ""), host)
        return Redirected(status=status, url_path=url_path, target=target)
    if status in (401, 403):
        return Unauthorized(status=status, url_path=url_path, reason=reason)
    if 400 <= status < 500 or answer.outcome is Outcome.DENIED:
        return Refused(status=status, url_path=url_path, reason=reason)
    if status == 304:
        reason = "304 to an unconditional request: a broken cache sits in between"
    return UnexpectedAnswer(status=status, url_path=url_path, reason=reason)


def _origin(location: str, host: str) -> str:
    """Scheme and host of a redirect's target; its path and query may hold anything."""
    try:
        parts = urlsplit(location)
        where = parts.hostname or host
    except ValueError:
        return "an unreadable address"
    return redact(f"{parts.scheme}://{where}" if parts.scheme else where)


def outcome_of_status(status: int, *, keyed: bool, message: str) -> Outcome:
    """The outcome of an answer with `status`; 2xx is USABLE as far as the status goes.

    keyed: the request carried an idempotency key. message: of the answer, since the API uses 409
    both for "the first request is still running" and for a real conflict.
    """
    if 200 <= status < 300:
        return Outcome.USABLE
    if status == 429:
        return Outcome.BUSY
    if status >= 500 or status in _TRANSIENT_STATUS:
        return Outcome.FAULTY
    if status == 409 and keyed:
        if _STILL_RUNNING.search(message):
            return Outcome.RUNNING
        return Outcome.FINAL if _CONFLICT.search(message) else Outcome.DOUBTFUL
    return Outcome.FINAL
