"""The API as Python calls."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self
from urllib.parse import quote

from connector import __version__
from connector.api.calls import Call, Caller
from connector.api.endpoints import ENDPOINTS, IDEMPOTENCY_KEY_MAX, check_parameters
from connector.api.envelopes import Page, to_account, to_item, to_page
from connector.api.headers import http_date_s, says_replayed
from connector.api.measures import Measures
from connector.api.transport import Transport
from connector.budget import Budget, Lane
from connector.clock import Clock, SystemClock
from connector.errors import BadSetting
from connector.logs import hide

Params = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class WriteAnswer:
    """What a POST came to. status: 201 created, 200 matched. item: the record as it is now.

    message: a warning of the API, for the user. server_date_s: the server's clock (UTC epoch
    seconds, whole ones), None where it didn't say. first_sent_before_s: how long before the
    answered try the same request was sent first; None: it was sent once. took_s: the answered try.
    replayed: the answer is marked as one that was given before.
    """

    status: int
    item: dict[str, Any]
    message: str | None
    server_date_s: float | None
    first_sent_before_s: float | None = None
    took_s: float = 0.0
    replayed: bool = False


class ApiClient:
    """Thread-safe. Close it, or use it as a context manager.

    base_url: https, or http to loopback. request_timeout_s: for one whole exchange, connecting
    and reading included. retry_total_s: for all tries of one call; waits for permits don't
    count. stop: when set, calls raise Interrupted within moments (a write that is on its way
    gets `calls.WRITE_PATIENCE_S` to be answered).

    Every call may raise
        Unauthorized: 401 or 403.
        Refused: another 4xx. Redirected: a 3xx; redirects are never followed.
        UnexpectedAnswer: an answer in a shape that this connector doesn't know.
        UntrustedServer: the server's certificate was not accepted.
        Unreachable: no usable answer within `retry_total_s`.
        BudgetError: the ledger can't be used; nothing was sent.
        Interrupted: `stop` was set.

    Raises:
        BadSetting: a key that no HTTP header can hold, or a base URL that would show it.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        budget: Budget,
        request_timeout_s: float = 60.0,
        retry_total_s: float = 300.0,
        clock: Clock | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        hide(api_key)
        self._measures = Measures()
        self._clock = clock or SystemClock()
        self._transport = Transport(base_url, headers=_headers(api_key))
        self._caller = Caller(
            transport=self._transport,
            budget=budget,
            measures=self._measures,
            clock=self._clock,
            stop=stop,
            request_timeout_s=request_timeout_s,
            retry_total_s=retry_total_s,
        )

    def page(self, resource: str, params: Params, *, lane: Lane = Lane.PULL) -> Page:
        """One page of a list. params: query parameters; a sequence repeats its name.

        Raises:
            ValueError: a list or a parameter that the API doesn't know.
        """
        check_parameters(resource, params)
        call = Call("GET", f"/{resource}", lane, params=_pairs(params))
        is_first = params.keys().isdisjoint({"pageToken", "startAfter"})
        answer = self._caller.answer(call, lambda body: to_page(resource, body, is_first=is_first))
        page: Page = answer.value
        return replace(page, size_bytes=len(answer.exchange.body))

    def record(
        self,
        resource: str,
        record_id: str,
        *,
        lane: Lane = Lane.PULL,
        patience_s: float = math.inf,
    ) -> dict[str, Any] | None:
        """One record; None if the API says that there is none (404).

        patience_s: tries end after this, where that is sooner than `retry_total_s`.
        """
        item_name = ENDPOINTS[resource].item_name
        path = f"/{resource}/{_quoted(record_id)}"
        call = Call("GET", path, lane, absent_at_404=True, patience_s=patience_s)
        answer = self._caller.answer(call, lambda body: to_item(item_name, body))
        found: dict[str, Any] | None = answer.value
        return found

    def account(self, *, lane: Lane = Lane.PULL) -> dict[str, Any]:
        """Metadata of the key: its account, its permissions, whether it is active."""
        facts: dict[str, Any] = self._caller.answer(Call("GET", "/auth", lane), to_account).value
        return facts

    def post(
        self,
        resource: str,
        body: bytes,
        *,
        idempotency_key: str,
        lane: Lane = Lane.PUSH,
        first_sent_s: float | None = None,
        remembered_s: float = math.inf,
        patience_s: float = math.inf,
    ) -> WriteAnswer:
        """Create or update one record. body: JSON. Each try sends the same key and bytes.

        first_sent_s: when an earlier call sent this key first, by the clock's monotonic seconds.
        remembered_s: for how long after that the API surely knows the key; no try starts later.
        patience_s: tries end after this, where that is sooner than `retry_total_s`.

        After Unreachable (with `.sent` > 0), UnexpectedAnswer or Interrupted the change may have
        been applied; the same call again, while the server remembers the key, tells.

        Raises:
            ValueError: an idempotency key that no header can hold, or longer than the API takes.
        """
        _check_idempotency_key(idempotency_key)
        item_name = ENDPOINTS[resource].item_name
        call = Call(
            "POST", f"/{resource}", lane, body=body, idempotency_key=idempotency_key,
            first_sent_s=first_sent_s, remembered_s=remembered_s, patience_s=patience_s,
        )  # fmt: skip
        answer = self._caller.answer(call, lambda body: (to_item(item_name, body), _message(body)))
        item, message = answer.value
        return WriteAnswer(
            status=answer.exchange.status or 0,
            item=item,
            message=message,
            server_date_s=http_date_s(answer.exchange.headers.get("date", "")),
            first_sent_before_s=answer.first_sent_before_s,
            took_s=answer.exchange.latency_s or 0.0,
            replayed=says_replayed(answer.exchange.headers),
        )

    @property
    def requests(self) -> int:
        """How many tries were really sent."""
        return self._measures.requests

    @property
    def latency_s(self) -> float | None:
        """Smoothed seconds from sending a request to the head of its answer; None before any."""
        return self._measures.latency_s

    @property
    def server_clock_skew_s(self) -> float | None:
        """How far the server's clock is ahead of our wall, to about a second; None if unknown."""
        return self._measures.server_clock_skew_s

    def server_now_s(self) -> float | None:
        """What the server's clock says now (UTC epoch seconds), to about a second; None if unknown.
        Steps of our wall don't move it."""
        ahead_s = self._measures.server_less_monotonic_s
        return None if ahead_s is None else ahead_s + self._clock.monotonic_s()

    def close(self) -> None:
        """End running calls and close all connections. A second call does nothing."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _headers(api_key: str) -> dict[str, str]:
    if not re.fullmatch(r"[\x21-\x7e]+", api_key):
        # httpx would refuse it too, but quote it in its message
        raise BadSetting(
            name="api_key",
            place="HIRINGCENTER_API_KEY",
            reason="a key is made of visible ASCII characters, without spaces or line ends",
        )
    return {
        "Authorization": f"Bearer {api_key}",
        "Accept": "application/json",
        "User-Agent": f"hiringcenter-connector/{__version__}",
    }


def _pairs(params: Params) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, value)
        for name, values in params.items()
        for value in ([values] if isinstance(values, str) else values)
    )


def _quoted(record_id: str) -> str:
    if record_id in ("", ".", ".."):  # these would name another address
        raise ValueError(f"{record_id!r} can't be the id of a record")
    return quote(record_id, safe="")


def _check_idempotency_key(key: str) -> None:
    if not re.fullmatch(rf"[\x21-\x7e]{{1,{IDEMPOTENCY_KEY_MAX}}}", key):
        raise ValueError(
            f"an idempotency key has 1 to {IDEMPOTENCY_KEY_MAX} visible ASCII characters"
        )


def _message(body: Any) -> str | None:
    message = body.get("message")
    return message if isinstance(message, str) and message.strip() else None
