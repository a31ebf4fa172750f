"""The API as Python calls: each try takes a permit, and failed tries are repeated."""

from __future__ import annotations

import json
import math
import random
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar
from urllib.parse import quote

from connector import __version__
from connector.api.envelopes import (
    ENDPOINTS,
    IDEMPOTENCY_KEY_MAX,
    URL_PART_MAX,
    Page,
    check_parameters,
    to_account,
    to_item,
    to_page,
)
from connector.api.retry import (
    Action,
    Answer,
    Effort,
    Outcome,
    Read,
    decide,
    final_error,
    understand,
)
from connector.api.transport import Exchange, Transport
from connector.budget import Budget, Lane, Permit
from connector.budget.policy.feedback import http_date_s
from connector.clock import Clock, SystemClock
from connector.errors import BadSetting, Interrupted, Refused, Unreachable
from connector.logs import get_logger, hide

Params = Mapping[str, str | Sequence[str]]
READ_PATIENCE_S = 0.5  # after a signal: a page that has almost arrived is kept
WRITE_PATIENCE_S = 5.0  # after a signal: a write in flight is waited for, so its fate is known
_NEWEST_SHARE = 0.2  # weight of the newest latency: a change shows within ten answers
log = get_logger("api")
T = TypeVar("T")


@dataclass(frozen=True)
class WriteAnswer:
    """The answer to a POST. status: 201 created, 200 matched. item: the record as it is now.

    message: a warning of the API, for the user. first_sent_before_s: how long before the answered
    try the same request was first sent; None: it was sent once. took_s: duration of the answered
    try. replayed: the answer is marked as a replay of an earlier one.
    """

    status: int
    item: dict[str, Any]
    message: str | None
    first_sent_before_s: float | None = None
    took_s: float = 0.0
    replayed: bool = False


@dataclass(frozen=True)
class _Call:
    """One request; every try sends the same bytes. path: quoted, below the base URL. The other
    fields are the arguments of `ApiClient`'s methods."""

    method: str
    path: str
    lane: Lane
    params: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    idempotency_key: str | None = None
    absent_at_404: bool = False
    first_sent_s: float | None = None
    remembered_s: float = math.inf
    patience_s: float = math.inf
    permit_until_s: float = math.inf

    def headers(self) -> dict[str, str]:
        if self.idempotency_key is None:
            return {}
        return {"Content-Type": "application/json", "X-Idempotency-Key": self.idempotency_key}


class ApiClient:
    """Thread-safe. Close it, or use it as a context manager.

    base_url: https, or http to loopback. request_timeout_s: for one whole exchange, connecting
    and reading included. retry_total_s: for all tries of one call; waits for permits don't
    count. stop: when set, calls soon raise Interrupted (a write in flight gets WRITE_PATIENCE_S to
    be answered).

    Every call may raise
        Unauthorized: 401 or 403.
        Refused: another 4xx. Redirected: a 3xx; redirects are never followed.
        UnexpectedAnswer: an answer in an unknown format.
        UntrustedServer: the server's certificate was not accepted.
        Unreachable: no usable answer within `retry_total_s`.
        BudgetError: the ledger can't be used; nothing was sent.
        Interrupted: `stop` was set.

    Raises:
        BadSetting: a key that doesn't fit an HTTP header, or a base URL that would expose it.
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
        self._clock = clock or SystemClock()
        self._transport = Transport(base_url, headers=_headers(api_key), clock=self._clock)
        self._budget = budget
        self._request_timeout_s, self._retry_total_s = request_timeout_s, retry_total_s
        self._stop = stop
        self._lock = threading.Lock()
        self._server_ahead_of_monotonic_s: float | None = None
        self.requests = 0
        """How many tries were actually sent."""
        self.latency_s: float | None = None
        """Smoothed seconds from sending a request to the head of its answer; None before any."""
        self.server_clock_skew_s: float | None = None
        """How far the server's clock is ahead of ours, to about a second; None if unknown."""

    def page(self, resource: str, params: Params, *, lane: Lane = Lane.PULL) -> Page:
        """One page of a list. params: query parameters; a sequence repeats its name.

        Raises:
            ValueError: a list or a parameter that the API doesn't know.
        """
        check_parameters(resource, params)
        pairs = tuple(
            (name, value)
            for name, values in params.items()
            for value in ([values] if isinstance(values, str) else values)
        )
        is_first = params.keys().isdisjoint({"pageToken", "startAfter"})
        call = _Call("GET", f"/{resource}", lane, params=pairs)
        asked_s, asked_ms = self._clock.monotonic_s(), int(self._clock.now_s() * 1000)
        answer = self._answer(call, lambda body: to_page(resource, body, is_first=is_first))
        page: Page = answer.value
        size_bytes = len(answer.exchange.body)
        return replace(page, size_bytes=size_bytes, asked_s=asked_s, asked_ms=asked_ms)

    def record(
        self,
        resource: str,
        record_id: str,
        *,
        lane: Lane = Lane.PULL,
        patience_s: float = math.inf,
        permit_until_s: float = math.inf,
    ) -> dict[str, Any] | None:
        """One record; None if the API answers 404.

        patience_s: tries end after this, if that is sooner than `retry_total_s`. permit_until_s: no
        permit is waited for after that (monotonic).

        Raises:
            TimeoutError: there was no permit until then.
            ValueError: no URL can hold the id.
        """
        quoted = quote(record_id, safe="")
        # dots would change the URL's path
        if quoted in ("", ".", "..") or len(quoted) > URL_PART_MAX:
            raise ValueError(f"{record_id[:100]!r} can't be a record's id")
        path = f"/{resource}/{quoted}"
        call = _Call(
            "GET", path, lane,
            absent_at_404=True, patience_s=patience_s, permit_until_s=permit_until_s,
        )  # fmt: skip
        item_name = ENDPOINTS[resource].item_name
        found: dict[str, Any] | None = self._answer(
            call, lambda body: to_item(item_name, body)
        ).value
        return found

    def account(self, *, lane: Lane = Lane.PULL) -> dict[str, Any]:
        """Metadata of the key: its account, its permissions, whether it is active."""
        facts: dict[str, Any] = self._answer(_Call("GET", "/auth", lane), to_account).value
        return facts

    def polled(
        self, *, patience_s: float = math.inf, permit_until_s: float = math.inf
    ) -> list[Any]:
        """The latest new prospects, flat and in snake_case: no list, and no proof of anything else
        than that these exist. patience_s, permit_until_s: as `record`.
        """

        def ask(named: dict[str, str]) -> list[Any]:
            call = _Call(
                "GET", "/webhooks/poll", Lane.PULL,
                params=(("eventType", "prospect.created"), *named.items()),
                patience_s=patience_s, permit_until_s=permit_until_s,
            )  # fmt: skip
            page: Page = self._answer(call, lambda body: to_page("prospects", body)).value
            return list(page.items)

        return self._naming_account(ask)

    def subscribe(self, hook_url: str, event_type: str) -> dict[str, Any]:
        """Subscribe an address to an event; what the API says about it, perhaps with the secret."""

        def ask(named: dict[str, str]) -> dict[str, Any]:
            body = json.dumps({"hookUrl": hook_url, "eventType": event_type, **named}).encode()
            key = f"webhooks-{uuid.uuid4().hex}"
            call = _Call("POST", "/webhooks/subscribe", Lane.PUSH, body=body, idempotency_key=key)
            facts: dict[str, Any] = self._answer(call, to_account).value
            return facts

        return self._naming_account(ask)

    def _naming_account(self, ask: Callable[[dict[str, str]], T]) -> T:
        """Ask again with the account's id where the key doesn't imply it (400)."""
        try:
            return ask({})
        except Refused as error:
            account_id = self.account().get("accountId") if error.status == 400 else None
            if account_id is None:
                raise
        return ask({"accountId": str(account_id)})

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

        first_sent_s: when an earlier call first sent this key, by the clock's monotonic seconds.
        remembered_s: how long after that the API certainly knows the key; no try starts later.
        patience_s: tries end after this, if that is sooner than `retry_total_s`.

        After Unreachable (with `.sent` > 0), UnexpectedAnswer or Interrupted the change may have
        been applied; the same call again shows which, while the server remembers the key.

        Raises:
            ValueError: an idempotency key that doesn't fit a header or is too long for the API.
        """
        if not re.fullmatch(rf"[\x21-\x7e]{{1,{IDEMPOTENCY_KEY_MAX}}}", idempotency_key):
            raise ValueError(
                f"an idempotency key has 1 to {IDEMPOTENCY_KEY_MAX} visible ASCII characters"
            )
        item_name = ENDPOINTS[resource].item_name
        call = _Call(
            "POST", f"/{resource}", lane, body=body, idempotency_key=idempotency_key,
            first_sent_s=first_sent_s, remembered_s=remembered_s, patience_s=patience_s,
        )  # fmt: skip
        answer = self._answer(call, lambda body: (to_item(item_name, body), _message(body)))
        item, message = answer.value
        return WriteAnswer(
            status=answer.exchange.status or 0,
            item=item,
            message=message,
            first_sent_before_s=answer.first_sent_before_s,
            took_s=answer.exchange.latency_s or 0.0,
            replayed=_is_replay(answer.exchange.headers),
        )

    def server_now_s(self) -> float | None:
        """The server's time now (UTC epoch seconds), to about a second; None if unknown. Steps of
        our wall clock don't change it."""
        ahead_s = self._server_ahead_of_monotonic_s
        return None if ahead_s is None else ahead_s + self._clock.monotonic_s()

    def close(self) -> None:
        """End running calls and close all connections. A second call does nothing."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- one call: tries until there is an answer ------------------------------------------------

    def _answer(self, call: _Call, read: Read) -> Answer:
        """The first usable answer, parsed by `read`."""
        effort, first_sent_s = Effort(), call.first_sent_s
        total_s = min(self._retry_total_s, call.patience_s)
        keyed = call.idempotency_key is not None
        while True:
            permit = self._permit(call)
            started_s = self._clock.monotonic_s()
            since_s = None if first_sent_s is None else started_s - first_sent_s
            if since_s is not None and since_s > call.remembered_s:
                self._budget.unsent(permit)
                last = "its idempotency key may have expired, so it is not sent again"
                raise _unreachable(call, effort, last)
            exchange = self._try(call, permit, self._timeout_s(call, effort, total_s))
            if exchange.sent and first_sent_s is None:
                first_sent_s = started_s
            took_s = self._clock.monotonic_s() - started_s
            answer = understand(exchange, read, keyed=keyed, absent_at_404=call.absent_at_404)
            effort = effort.after(answer.outcome, sent=exchange.sent, took_s=took_s)
            wait_s = self._wait_s(call, answer, effort, total_s)
            if wait_s is None:
                return replace(answer, first_sent_before_s=since_s)
            if self._clock.sleep(wait_s, self._stop):
                self._check_stop()
            effort = effort.waited(wait_s)

    def _permit(self, call: _Call) -> Permit:
        """A permit that is still valid; one that came too late is returned unused."""
        while True:
            self._check_stop()
            permit = self._budget.permit(call.lane, until_s=call.permit_until_s)
            if self._clock.monotonic_s() <= permit.send_by_s:
                return permit
            self._budget.unsent(permit)

    def _timeout_s(self, call: _Call, effort: Effort, total_s: float) -> float:
        """The first try gets the full time-out, unless the caller's patience with a read is
        shorter; later ones end with the retry budget."""
        if effort.tries:
            return min(self._request_timeout_s, total_s - effort.spent_s)
        return min(self._request_timeout_s, call.patience_s if call.body is None else math.inf)

    def _try(self, call: _Call, permit: Permit, timeout_s: float) -> Exchange:
        """One exchange; its outcome is always reported to the budget."""
        try:
            exchange = self._transport.send(
                call.method, call.path,
                params=call.params, body=call.body, headers=call.headers(),
                timeout_s=timeout_s, stop=self._stop,
                patience_s=READ_PATIENCE_S if call.body is None else WRITE_PATIENCE_S,
            )  # fmt: skip
        except BaseException:
            self._budget.unanswered(permit)
            raise
        self._measure(exchange)
        if exchange.status is not None:
            self._budget.answered(permit, exchange.status, exchange.headers)
        elif exchange.sent:
            self._budget.unanswered(permit)
        else:
            self._budget.unsent(permit)
        return exchange

    def _measure(self, exchange: Exchange) -> None:
        """Measure the latency, and how far the server's clock is off."""
        now_s, monotonic_s = self._clock.now_s(), self._clock.monotonic_s()
        date_s, latency_s = http_date_s(exchange.headers.get("date")), exchange.latency_s
        with self._lock:
            self.requests += exchange.sent
            if latency_s is None:
                return
            before_s = latency_s if self.latency_s is None else self.latency_s
            self.latency_s = before_s + _NEWEST_SHARE * (latency_s - before_s)
            if date_s is not None:  # whole seconds, set about half a latency ago
                written_s = now_s - (time.monotonic() - exchange.head_s) - latency_s / 2
                self.server_clock_skew_s = date_s + 0.5 - written_s
                self._server_ahead_of_monotonic_s = self.server_clock_skew_s + now_s - monotonic_s

    def _wait_s(self, call: _Call, answer: Answer, effort: Effort, total_s: float) -> float | None:
        """Seconds until the next try; None if the answer is usable. Raises if it is the last."""
        if answer.outcome not in (Outcome.USABLE, Outcome.FINAL):
            self._check_stop()
        decision = decide(
            answer.outcome, answer.exchange.headers, effort,
            total_s=total_s, now_s=self._clock.now_s(), jitter=random.random(),
        )  # fmt: skip
        status = answer.exchange.status
        match decision.action:
            case Action.RETURN:
                return None
            case Action.RETRY:
                log.info(
                    "api.retry", url_path=call.path, status=status,
                    why=answer.reason, tries=effort.tries, wait_s=round(decision.wait_s, 3),
                )  # fmt: skip
                return decision.wait_s
            case Action.GIVE_UP:
                last = f"{status or ''} {answer.reason}".lstrip()
                raise _unreachable(call, effort, last)
            case Action.FAIL:
                raise final_error(answer, url_path=call.path, host=self._transport.host)

    def _check_stop(self) -> None:
        if self._stop is not None and self._stop.is_set():
            raise Interrupted(getattr(self._stop, "signal_number", signal.SIGTERM))


def _unreachable(call: _Call, effort: Effort, last: str) -> Unreachable:
    return Unreachable(
        url_path=call.path, tries=effort.tries, sent=effort.sent, tried_s=effort.spent_s, last=last
    )


def _headers(api_key: str) -> dict[str, str]:
    if not re.fullmatch(r"[\x21-\x7e]+", api_key):
        # httpx would refuse it too, but its message would quote it
        raise BadSetting(
            name="api_key",
            location="HIRINGCENTER_API_KEY",
            reason="a key consists of visible ASCII characters, without spaces or line breaks",
        )
    return {
        "Authorization": f"Bearer {api_key}",
        "Accept": "application/json",
        "Accept-Encoding": "gzip, deflate",  # what `Unpacker` takes; httpx may offer more
        "User-Agent": f"hiringcenter-connector/{__version__}",
    }


def _message(body: Any) -> str | None:
    message = body.get("message")
    return message if isinstance(message, str) and message.strip() else None


def _is_replay(headers: Mapping[str, str]) -> bool:
    """Whether an answer is marked as a replay. The documentation mentions a header without naming
    it: any header with "replay" in its name counts."""
    return any(
        "replay" in name and text.strip().lower() not in ("", "0", "false", "no")
        for name, text in headers.items()
    )
