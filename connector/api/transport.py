"""One HTTP request and its answer, under one deadline for all of it."""

from __future__ import annotations

import ssl
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx

from connector.api import deadlines
from connector.api.connections import checked_base_url, open_client
from connector.logs import redact

BODY_MAX_BYTES = 256 * 1024 * 1024
_GZIP_FIRST = 0x1F
_NETWORK_ERRORS = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpx.HTTPError,  # a body that doesn't decompress
)


@dataclass
class Exchange:
    """What became of one request.

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

    def on_trace(self, event: str, info: Mapping[str, Any]) -> None:
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
        self._client = open_client(base_url, headers)

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
        deadlines.keep(deadlines.Deadline(timeout_s, stop, patience_s))
        try:
            self._receive(request, exchange)
        except _NETWORK_ERRORS as error:
            exchange.failure, exchange.untrusted = _explain(error)
        return exchange

    def _receive(self, request: httpx.Request, exchange: Exchange) -> None:
        response = self._client.send(request, stream=True)
        try:
            exchange.head_s = time.monotonic()
            exchange.status = response.status_code
            exchange.headers = {name.lower(): text for name, text in response.headers.items()}
            _read_body(response, exchange)
        finally:
            response.close()

    def close(self) -> None:
        """Close all connections; what still runs on them fails."""
        self._client.close()


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
        exchange.failure = f"the {coding} of the answer ends in its middle"
        return
    exchange.body = bytes(body)


class Unpacker:
    """Unpacks gzip, all of its members, and deflate with and without its head, bit by bit.

    httpx stops after the first member of gzip, which leaves a list cut in its middle. is_whole:
    whether what came so far ends where its packing says.

    Raises (unpack):
        httpx.DecodingError: that isn't packed so.
    """

    _PART_BYTES = 1 << 20

    def __init__(self, coding: str) -> None:
        self._is_gzip = coding != "deflate"
        self._stream = self._fresh()
        self._began = False
        self.is_whole = False

    def _fresh(self) -> Any:
        return zlib.decompressobj(zlib.MAX_WBITS | 16 if self._is_gzip else zlib.MAX_WBITS)

    def unpack(self, data: bytes) -> Iterator[bytes]:
        """What `data`, the next of it, unpacks to, in parts of at most 1 MB."""
        while data:
            if self._stream.eof:
                if not self._is_gzip or data[0] != _GZIP_FIRST:
                    return  # padding behind the end
                self._stream = self._fresh()
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


def _explain(error: Exception) -> tuple[str, bool]:
    """What failed, for people, and whether it was the server's certificate."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return redact(cause.verify_message), True
        cause = cause.__cause__ or cause.__context__
    return redact(f"{type(error).__name__}: {error}".rstrip(": ")), False
