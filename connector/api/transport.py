"""One HTTP request and its answer, under one deadline for all of it.

httpx's time-outs are per operation: a server that sends one byte a second never meets them. So
requests run on an event loop in a thread of their own, where a whole exchange can be ended from
outside, at its deadline or when the run is to stop. Threads wait for their result.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import httpx

from connector.api.connections import checked_base_url, open_connections
from connector.logs import redact

BODY_MAX_BYTES = 256 * 1024 * 1024
_POLL_S = 0.2
_CLEAN_UP_S = 1.0


@dataclass
class Exchange:
    """What became of one request. Filled while it runs, so that an ended one tells how far it got.

    sent: whether a byte of it may have left this machine. status: None = no head of an answer
    arrived. headers: of the answer, names in lower case. failure: why there is no whole answer.
    untrusted: the server's certificate was not accepted. too_large: more than BODY_MAX_BYTES.
    sent_s, head_s: when it was sent and when the head arrived, monotonic seconds.
    """

    sent: bool = False
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    failure: str | None = None
    untrusted: bool = False
    too_large: bool = False
    sent_s: float = 0.0
    head_s: float = 0.0

    @property
    def latency_s(self) -> float | None:
        """Seconds from sending to the answer's head; None if none arrived."""
        return None if self.status is None else self.head_s - self.sent_s

    async def on_trace(self, event: str, info: Mapping[str, Any]) -> None:
        """httpcore's report of what it does. A CONNECT to a proxy isn't the request yet."""
        if event.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
            self.sent, self.sent_s = True, time.monotonic()


class Transport:
    """Sends requests to one host, from any number of threads.

    base_url: https, or http to loopback. headers: sent with each request, the key among them.

    Raises:
        BadSetting: a base URL that would show the key, or a proxy that can't be used.
    """

    def __init__(self, base_url: str, *, headers: Mapping[str, str]) -> None:
        self._base_url = checked_base_url(base_url)
        self.host = urlsplit(base_url).hostname or ""
        self._client = open_connections(base_url, headers)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="hiringcenter-http", daemon=True)
        self._thread.start()
        self._closing = threading.Lock()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
        stop: threading.Event | None = None,
        patience_s: float = 0.0,
    ) -> Exchange:
        """Send one request and wait for its whole answer, at most `timeout_s`.

        path: below the base URL, already quoted. stop: when set, the exchange ends after at most
        `patience_s` more. What the network does is never an exception: see Exchange.failure.
        """
        exchange = Exchange()
        request = self._client.build_request(
            method,
            self._base_url + path,
            params=list(params) or None,
            content=body,
            headers=headers,
            extensions={"trace": exchange.on_trace},
        )
        running = self._watch(request, exchange, timeout_s, stop, patience_s)
        asyncio.run_coroutine_threadsafe(running, self._loop).result()
        return exchange

    async def _watch(
        self,
        request: httpx.Request,
        exchange: Exchange,
        timeout_s: float,
        stop: threading.Event | None,
        patience_s: float,
    ) -> None:
        """Run the exchange and watch it from outside: nothing in it can outlast the deadline."""
        task = asyncio.ensure_future(self._converse(request, exchange))
        deadline_s = time.monotonic() + timeout_s
        failure = f"no whole answer within {timeout_s:g} s"
        while not task.done() and (left_s := deadline_s - time.monotonic()) > 0:
            if stop is not None and stop.is_set() and left_s > patience_s:
                deadline_s, failure = time.monotonic() + patience_s, "stopped by a signal"
                continue
            await asyncio.wait({task}, timeout=min(left_s, _POLL_S))
        if task.done():
            task.result()  # whatever `_converse` doesn't know is a bug, and surfaces in the caller
            return
        exchange.failure = failure
        task.cancel()
        await asyncio.wait({task}, timeout=_CLEAN_UP_S)

    async def _converse(self, request: httpx.Request, exchange: Exchange) -> None:
        try:
            response = await self._client.send(request, stream=True)
            try:
                exchange.head_s = time.monotonic()
                exchange.status = response.status_code
                exchange.headers = {name.lower(): text for name, text in response.headers.items()}
                await _read_body(response, exchange)
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            exchange.failure, exchange.untrusted = _explain(error)
        except (OSError, ValueError, RuntimeError, AssertionError) as error:
            # what leaks out of httpx in odd cases (a host name that IDNA refuses, a TLS record
            # out of place) is a failed request, not a crash of the run
            exchange.failure = redact(f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """End what still runs and close all connections. A second call does nothing."""
        with self._closing:
            if not self._thread.is_alive():
                return
            asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    async def _shut_down(self) -> None:
        running = asyncio.all_tasks() - {cast("asyncio.Task[Any]", asyncio.current_task())}
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=_CLEAN_UP_S)
        await self._client.aclose()


async def _read_body(response: httpx.Response, exchange: Exchange) -> None:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_bytes():
        chunks.append(chunk)
        size += len(chunk)
        if size > BODY_MAX_BYTES:
            exchange.too_large = True
            exchange.failure = f"an answer of more than {BODY_MAX_BYTES >> 20} MB"
            return
    exchange.body = b"".join(chunks)


def _explain(error: httpx.HTTPError) -> tuple[str, bool]:
    """What failed, for people, and whether it was the server's certificate."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return redact(cause.verify_message), True
        cause = cause.__cause__ or cause.__context__
    return redact(f"{type(error).__name__}: {error}".rstrip(": ")), False
