"""httpx as the client needs it: one host, one deadline for a whole exchange, bounded bodies.

httpx's time-outs are per operation: a server that sends one byte a second never exceeds them. Here
every wait on a socket is bounded by the time left for the whole exchange, and checks at intervals
whether the run must stop.
"""

from __future__ import annotations

import logging
import queue
import socket
import ssl
import threading
import time
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from connector.clock import Clock, SystemClock
from connector.errors import BadSetting
from connector.logs import redact
from connector.settings import check_base_url

BODY_MAX_BYTES = 256 * 1024 * 1024
KEEP_ALIVE_S = 4.0  # below the 5 s after which common servers close: no race with their FIN
CONNECTIONS_KEPT = 64
LOOK_UP_S = 0.2  # between two checks whether the run must stop
CONNECT_EACH_S = 10.0  # for one of a host's addresses, so that a dead one leaves time for the next
_TO_PROXY = b"CONNECT "  # the request for a tunnel, before the request itself
_GZIP_FIRST = 0x1F


@dataclass
class Exchange:
    """One request and its answer, as far as one arrived.

    sent: whether a byte of it may have left this machine. status: None if no answer's head
    arrived. headers: of the answer, names in lower case. failure: why the answer is incomplete.
    untrusted: the server's certificate was not accepted. too_large: more than BODY_MAX_BYTES.
    sent_s, head_s: when it was sent and when the head arrived, monotonic seconds.
    """

    sent_s: float | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    failure: str | None = None
    untrusted: bool = False
    too_large: bool = False
    head_s: float = 0.0

    @property
    def sent(self) -> bool:
        return self.sent_s is not None

    @property
    def latency_s(self) -> float | None:
        """Seconds from sending to the answer's head; None if none arrived."""
        if self.status is None or self.sent_s is None:
            return None
        return self.head_s - self.sent_s


class Transport:
    """Sends requests to one host, from any number of threads.

    base_url: https, or http to loopback. headers: sent with each request, the key among them.

    Raises:
        BadSetting: a base URL that would expose the key, or an unusable proxy or certificate file.
    """

    def __init__(
        self, base_url: str, *, headers: Mapping[str, str], clock: Clock | None = None
    ) -> None:
        self._clock = clock or SystemClock()
        try:  # the settings check it too; this check can't be bypassed
            self._base_url = check_base_url(base_url)
        except ValueError as error:
            reason = str(error)
            raise BadSetting(
                name="base_url", location="HIRINGCENTER_BASE_URL", reason=reason
            ) from None
        base = urlsplit(self._base_url)
        self.host = base.hostname or ""
        self._backend = DeadlineBackend()
        self._client = httpx.Client(
            transport=_PoolTransport(_pool(base, self._backend)),
            headers=dict(headers),
            follow_redirects=False,
            trust_env=False,  # `_pool` reads the environment
        )
        # cookies set by a proxy or a login page must not be sent with the next request
        self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))

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
        `patience_s` more. Network failures are never raised: see Exchange.failure.
        """
        deadline = Deadline(timeout_s, stop, patience_s, clock=self._clock)
        exchange = deadline.exchange
        request = self._client.build_request(
            method,
            self._base_url + path,
            params=list(params) or None,
            content=body,
            headers=headers,
            # httpcore passes the time-outs on to our streams
            extensions={"timeout": dict.fromkeys(("connect", "read", "write"), deadline)},
        )
        try:
            with closing(self._client.send(request, stream=True)) as response:
                exchange.head_s = time.monotonic()
                exchange.status = response.status_code
                exchange.headers = _headers_of(response)
                _read_body(response, exchange)
        except httpx.HTTPError as error:
            exchange.failure, exchange.untrusted = _explain(error)
        return exchange

    def close(self) -> None:
        """Close all connections; requests still running on them fail."""
        self._client.close()
        self._backend.close()


def _headers_of(response: httpx.Response) -> dict[str, str]:
    headers = {name.lower(): text for name, text in response.headers.items()}
    if "location" in response.extensions:  # see `_PoolTransport`
        headers["location"] = response.extensions["location"]
    return headers


def _explain(error: Exception) -> tuple[str, bool]:
    """The failure, for people, and whether it was the server's certificate."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return redact(cause.verify_message), True
        cause = cause.__cause__ or cause.__context__
    return redact(f"{type(error).__name__}: {error}".rstrip(": ")), False


# --- bodies ---------------------------------------------------------------------------------


def _read_body(response: httpx.Response, exchange: Exchange) -> None:
    body = bytearray()
    coding = exchange.headers.get("content-encoding", "").strip().lower()
    unpacker = Unpacker(coding) if coding in ("gzip", "x-gzip", "deflate") else None
    for chunk in response.iter_raw():
        for part in [chunk] if unpacker is None else unpacker.unpack(chunk):
            body += part
            if len(body) > BODY_MAX_BYTES:
                exchange.too_large = True
                exchange.failure = f"an answer of more than {BODY_MAX_BYTES >> 20} MB"
                return
    if unpacker is not None and body and not unpacker.is_whole:
        exchange.failure = f"the answer's {coding} data is cut short"
        return
    exchange.body = bytes(body)


class Unpacker:
    """Unpacks gzip with all its members, and deflate with and without its header, incrementally.

    httpx stops after the first gzip member, which would cut a list short. is_whole: whether the
    data so far ends at the end of a stream.

    Raises (unpack):
        httpx.DecodingError: the data isn't in this format.
    """

    _PART_BYTES = 1 << 20

    def __init__(self, coding: str) -> None:
        self._is_gzip = coding != "deflate"
        self._stream = self._new_stream()
        self._began = False
        self.is_whole = False

    def _new_stream(self) -> Any:
        return zlib.decompressobj(zlib.MAX_WBITS | 16 if self._is_gzip else zlib.MAX_WBITS)

    def unpack(self, data: bytes) -> Iterator[bytes]:
        """Unpack `data`, the next bytes, in parts of at most 1 MB."""
        while data:
            if self._stream.eof:
                if not self._is_gzip or data[0] != _GZIP_FIRST:
                    return  # padding after the end
                self._stream = self._new_stream()
            try:
                yield self._stream.decompress(data, self._PART_BYTES)
            except zlib.error as error:
                if self._is_gzip or self._began:
                    raise httpx.DecodingError(str(error)) from error
                self._stream, self._began = zlib.decompressobj(-zlib.MAX_WBITS), True
                continue
            self._began = True
            self.is_whole = self._stream.eof
            data = self._stream.unconsumed_tail or self._stream.unused_data


# --- connections ----------------------------------------------------------------------------


class _PoolTransport(httpx.HTTPTransport):
    """httpx over a pool of ours: its own pool takes no network backend."""

    def __init__(self, pool: httpcore.ConnectionPool) -> None:
        self._pool = pool

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Its `Location` is among the extensions: httpx's client reads the header even where it
        follows no redirect, and fails where that isn't a URL."""
        response = super().handle_request(request)
        if (location := response.headers.pop("location", None)) is not None:
            response.extensions["location"] = location
        return response


def _pool(base: SplitResult, backend: DeadlineBackend) -> httpcore.ConnectionPool:
    """For https, where the key is inside TLS, a proxy comes from the environment (HTTPS_PROXY,
    ALL_PROXY, NO_PROXY); a plain-http request to loopback never uses a proxy."""
    options: dict[str, Any] = {
        "ssl_context": _ssl_context() if base.scheme == "https" else None,
        "max_connections": None,  # as many as there are threads
        "max_keepalive_connections": CONNECTIONS_KEPT,
        "keepalive_expiry": KEEP_ALIVE_S,
        "network_backend": backend,
    }
    proxy = _proxy(base)
    if proxy is None:
        return httpcore.ConnectionPool(**options)
    return httpcore.HTTPProxy(proxy_url=str(proxy.url), proxy_auth=proxy.raw_auth, **options)


def _ssl_context() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise BadSetting(
            name="SSL_CERT_FILE or SSL_CERT_DIR",
            location="environment",
            reason=f"can't read the certificates: {error.strerror or error}",
        ) from None


def _proxy(base: SplitResult) -> httpx.Proxy | None:
    proxies = getproxies()
    url = proxies.get("https") or proxies.get("all")
    if base.scheme != "https" or not url or proxy_bypass(base.hostname or ""):
        return None
    try:
        proxy = httpx.Proxy(url if "://" in url else f"http://{url}")
    except (ValueError, httpx.InvalidURL):
        proxy = None
    if proxy is None or proxy.url.scheme not in ("http", "https"):
        raise BadSetting(
            name="HTTPS_PROXY or ALL_PROXY",
            location="environment",
            reason="expected the http:// or https:// URL of a proxy",
        )
    return proxy


class _WithoutQuery(logging.Filter):
    """httpx logs the URL of every request; a query may hold an email or a phone."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                arg.copy_with(query=None) if isinstance(arg, httpx.URL) else arg
                for arg in record.args
            )
        return True


logging.getLogger("httpx").addFilter(_WithoutQuery())


# --- deadlines ------------------------------------------------------------------------------


class Deadline:
    """The end of one exchange. timeout_s: from now. stop: when set, at most `patience_s` more.

    exchange: notes when its request is sent.
    """

    def __init__(
        self,
        timeout_s: float,
        stop: threading.Event | None = None,
        patience_s: float = 0.0,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._until_s = self._clock.monotonic_s() + timeout_s
        self._why = f"no complete answer within {timeout_s:g} s"
        self._stop, self._patience_s = stop, patience_s
        self.exchange = Exchange()

    def left_s(self) -> float:
        """Seconds left.

        Raises:
            httpcore.ReadTimeout: none are left; the message says why.
        """
        now_s = self._clock.monotonic_s()
        stopped = self._stop is not None and self._stop.is_set()
        if stopped and now_s + self._patience_s < self._until_s:
            self._until_s, self._why = now_s + self._patience_s, "stopped by a signal"
        if now_s >= self._until_s:
            raise httpcore.ReadTimeout(self._why)
        return self._until_s - now_s

    def slice_s(self) -> float:
        """Seconds to wait until the next check of `stop`. Raises as `left_s`."""
        return min(self.left_s(), LOOK_UP_S)


class DeadlineStream(httpcore.NetworkStream):
    """A stream that takes Deadlines as time-outs."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        deadline = cast("Deadline", timeout)
        while True:
            try:
                return self._inner.read(max_bytes, timeout=deadline.slice_s())
            except httpcore.ReadTimeout:
                deadline.left_s()

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        deadline = cast("Deadline", timeout)
        left_s, exchange = deadline.left_s(), deadline.exchange
        if exchange.sent_s is None and buffer and not buffer.startswith(_TO_PROXY):
            exchange.sent_s = time.monotonic()
        # not in slices: after a time-out, how much was written is unknown
        self._inner.write(buffer, timeout=left_s)

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left_s = cast("Deadline", timeout).left_s()
        self._inner = self._inner.start_tls(ssl_context, server_hostname, left_s)
        return self

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class DeadlineBackend(httpcore.NetworkBackend):
    """Opens DeadlineStreams; it takes Deadlines as time-outs, too.

    It knows what it has opened: httpcore's pool forgets a connection that another thread is opening
    while the pool is closed.
    """

    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()
        self._lock = threading.Lock()
        self._opened = weakref.WeakSet[DeadlineStream]()
        self._is_closed = False

    def close(self) -> None:
        """Close every connection, and those that are being opened as soon as they are."""
        with self._lock:
            self._is_closed = True
            opened = list(self._opened)
        for stream in opened:
            stream.close()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        deadline = cast("Deadline", timeout)
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in _addresses(host, port, deadline):
            left_s = min(deadline.left_s(), CONNECT_EACH_S)
            try:
                stream = self._inner.connect_tcp(
                    address, port, left_s, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return self._kept(DeadlineStream(stream))
        raise failure

    def _kept(self, stream: DeadlineStream) -> DeadlineStream:
        with self._lock:
            if not self._is_closed:
                self._opened.add(stream)
                return stream
        stream.close()
        raise httpcore.ConnectError("closed")


def _addresses(host: str, port: int, deadline: Deadline) -> list[str]:
    """The addresses of `host`, looked up in another thread, since a look-up can't be cancelled."""
    found: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            facts = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that IDNA refuses
            found.put(error if isinstance(error, OSError) else OSError(str(error)))
        else:
            found.put(list(dict.fromkeys(str(fact[4][0]) for fact in facts)))

    threading.Thread(target=look_up, daemon=True).start()
    while True:
        try:
            answer = found.get(timeout=deadline.slice_s())
        except queue.Empty:
            continue
        if isinstance(answer, OSError):
            raise httpcore.ConnectError(f"{host}: {answer.strerror or answer}")
        return answer
