"""What one exchange came to: a value, a reason to try again, or an error. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from connector.api.bodies import NoContent, NotJson, describe, error_text, read_json
from connector.api.envelopes import NoList, NotDone, UnknownShape
from connector.api.retry import Outcome, outcome_of_status
from connector.api.transport import Exchange
from connector.errors import (
    ApiError,
    Redirected,
    Refused,
    Unauthorized,
    UnexpectedAnswer,
    UntrustedServer,
)
from connector.logs import redact

Read = Callable[[Any], Any]
_REDIRECTS = {300, 301, 302, 303, 305, 307, 308}


@dataclass(frozen=True)
class Answer:
    """outcome: what to do with it is `retry.decide`'s business. value: what `read` made of the
    body, if usable. reason: why it isn't usable, for people. first_sent_before_s: how long before
    the answered try the same request was sent first; None: it is the first."""

    outcome: Outcome
    exchange: Exchange
    value: Any = None
    reason: str = ""
    first_sent_before_s: float | None = None


def understand(exchange: Exchange, read: Read, *, keyed: bool, absent_at_404: bool) -> Answer:
    """What `exchange` came to. read: JSON value → what the caller wants, or UnknownShape.

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
    said = exchange.failure or error_text(exchange.body)
    return Answer(outcome_of_status(status, keyed=keyed, said=said), exchange, reason=said)


def _understand_success(exchange: Exchange, read: Read, *, keyed: bool) -> Answer:
    if exchange.failure:
        return Answer(Outcome.LOST, exchange, reason=exchange.failure)
    try:
        body = NoContent() if exchange.status == 204 else read_json(exchange.body)
        return Answer(Outcome.USABLE, exchange, value=read(body))
    except NotJson as error:
        return Answer(Outcome.LOST, exchange, reason=str(error))
    except NoList as error:
        return Answer(Outcome.EMPTY, exchange, value=error.page, reason=str(error))
    except NotDone as error:  # a write with a key would be told the same again
        return Answer(Outcome.DENIED if keyed else Outcome.DOUBTFUL, exchange, reason=str(error))
    except UnknownShape as error:
        return Answer(Outcome.DOUBTFUL, exchange, reason=str(error))


def _understand_absence(exchange: Exchange) -> Answer:
    """A record that is gone ends as a tombstone, so a proxy's 404 page must not pass for it."""
    page = describe(exchange.body)
    if exchange.failure or "HTML" in page:
        return Answer(Outcome.DOUBTFUL, exchange, reason=exchange.failure or page)
    return Answer(Outcome.USABLE, exchange, value=None)


def failure(answer: Answer, *, url_path: str, host: str) -> ApiError:
    """The error for an answer that no retry will change."""
    status, reason = answer.exchange.status, answer.reason
    if status is None:
        return UntrustedServer(host=host, reason=reason)
    if status in _REDIRECTS:
        target = _origin(answer.exchange.headers.get("location", ""), host)
        return Redirected(status=status, url_path=url_path, target=target)
    if status in (401, 403):
        return Unauthorized(status=status, url_path=url_path, said=reason)
    if 400 <= status < 500 or answer.outcome is Outcome.DENIED:
        return Refused(status=status, url_path=url_path, said=reason)
    if status == 304:
        reason = "304 to a request without a condition: a cache in between is broken"
    return UnexpectedAnswer(status=status, url_path=url_path, reason=reason)


def _origin(location: str, host: str) -> str:
    """Scheme and host of a redirect's target; the rest of it may hold anything."""
    try:
        parts = urlsplit(location)
        where = parts.hostname or host
    except ValueError:
        return "an address that can't be read"
    return redact(f"{parts.scheme}://{where}" if parts.scheme else where)
