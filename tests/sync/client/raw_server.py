"""A server of raw bytes on loopback, for answers that no well-behaved server sends."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from tests.fake_clock import FakeClock

Handler = Callable[[socket.socket], None]


@dataclass
class Received:
    """One request as it arrived. headers: names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class RawServer:
    """Answers the nth request with the nth handler; the last one answers all that follow."""

    handlers: Sequence[Handler]
    tls: ssl.SSLContext | None = None
    received: list[Received] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._connections: list[socket.socket] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # a shutdown wakes the thread that is blocked in accept; a close alone would not
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://localhost:{self.port}/v2"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with self._lock:
                self._connections.append(connection)
            while request := _read_request(connection):
                with self._lock:
                    self.received.append(request)
                    handler = self.handlers[min(len(self.received), len(self.handlers)) - 1]
                handler(connection)
        connection.close()


def _read_request(connection: socket.socket) -> Received | None:
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = connection.recv(65536)
        if not chunk:
            return None
        head += chunk
    head, _, body = head.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): text.strip() for name, _, text in (x.partition(":") for x in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(65536)
    method, target, _ = first.split(" ")
    return Received(method, target, headers, body)


def answer(
    status: int = 200, body: Any = b"", *, headers: Sequence[str] = (), length: int | None = None
) -> Handler:
    """A whole answer. body: bytes, or JSON. length: what Content-Length claims; None: the truth."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    claimed = len(content) if length is None else length
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {claimed}", *headers, "", ""]
    return lambda connection: connection.sendall("\r\n".join(lines).encode() + content)


def page(*ids: str) -> Handler:
    """A good page of records with these ids."""
    return answer(200, {"success": True, "items": [{"id": each} for each in ids]})


def half(body: bytes = b'{"items": [') -> Handler:
    """Half of the promised body, then closed."""

    def handle(connection: socket.socket) -> None:
        answer(200, body, length=len(body) + 100)(connection)
        connection.shutdown(socket.SHUT_RDWR)

    return handle


def drop(connection: socket.socket) -> None:
    """Closed without an answer."""
    connection.shutdown(socket.SHUT_RDWR)


def silence(connection: socket.socket) -> None:
    """No answer, for as long as the client waits."""
    connection.recv(1)


def dribble(prefix: bytes, meanwhile: Callable[[], None] = lambda: None) -> Handler:
    """`prefix`, then a byte now and then, for as long as the client listens. meanwhile: called once
    the prefix is sent; of many megabytes the client has read the most by then."""

    def handle(connection: socket.socket) -> None:
        connection.sendall(prefix)
        meanwhile()
        while True:
            time.sleep(0.02)
            connection.sendall(b"x")

    return handle


def late(clock: FakeClock, handler: Handler) -> Handler:
    """`handler` a minute and a second after the request."""

    def handle(connection: socket.socket) -> None:
        clock.advance(61)
        handler(connection)

    return handle
