"""A total deadline under a blocking HTTP client.

httpx's time-outs are per operation: a server that sends one byte a second never meets them. Here
every wait on a socket is bounded by what is left of the whole exchange, and looks up now and
then to see whether the run is to stop.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from typing import Any, cast

import httpcore

LOOK_UP_S = 0.2  # how long a wait goes on before it asks whether the run is to stop
CONNECT_EACH_S = 10.0  # for one of a host's addresses, so that a dead one leaves time for the next


class Deadline:
    """Until when one exchange may go on. timeout_s: from now. stop: when set, `patience_s` more."""

    def __init__(
        self, timeout_s: float, stop: threading.Event | None = None, patience_s: float = 0.0
    ) -> None:
        self._until_s = time.monotonic() + timeout_s
        self._why = f"no whole answer within {timeout_s:g} s"
        self._stop, self._patience_s = stop, patience_s

    def left_s(self) -> float:
        """Seconds that are left.

        Raises:
            httpcore.ReadTimeout: none. The message says why.
        """
        now_s = time.monotonic()
        stopped = self._stop is not None and self._stop.is_set()
        if stopped and now_s + self._patience_s < self._until_s:
            self._until_s, self._why = now_s + self._patience_s, "stopped by a signal"
        if now_s >= self._until_s:
            raise httpcore.ReadTimeout(self._why)
        return self._until_s - now_s

    def slice_s(self) -> float:
        """Seconds to wait before looking up again. Raises as `left_s`."""
        return min(self.left_s(), LOOK_UP_S)


_current = threading.local()


def keep(deadline: Deadline) -> None:
    """From now on, what this thread does on a socket ends at `deadline`."""
    _current.deadline = deadline


def _deadline() -> Deadline:
    return cast(Deadline, _current.deadline)


class DeadlineStream(httpcore.NetworkStream):
    """A stream whose every operation ends with the deadline of the thread that uses it."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        while True:
            try:
                return self._inner.read(max_bytes, timeout=_deadline().slice_s())
            except httpcore.ReadTimeout:
                _deadline().left_s()

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        # not in slices: after a time-out nobody knows how much of it is written
        self._inner.write(buffer, timeout=_deadline().left_s())

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        left_s = _deadline().left_s()
        return DeadlineStream(self._inner.start_tls(ssl_context, server_hostname, left_s))

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class DeadlineBackend(httpcore.NetworkBackend):
    """Opens DeadlineStreams."""

    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in _addresses(host, port):
            left_s = min(_deadline().left_s(), CONNECT_EACH_S)
            try:
                stream = self._inner.connect_tcp(
                    address, port, left_s, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return DeadlineStream(stream)
        raise failure


def _addresses(host: str, port: int) -> list[str]:
    """The addresses of `host`, looked up in a thread of its own: a lookup can't be ended."""
    found: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()
    threading.Thread(target=_look_up, args=(host, port, found), daemon=True).start()
    while True:
        try:
            answer = found.get(timeout=_deadline().slice_s())
        except queue.Empty:
            continue
        if isinstance(answer, OSError):
            raise httpcore.ConnectError(f"{host}: {answer.strerror or answer}")
        return answer


def _look_up(host: str, port: int, found: queue.SimpleQueue[list[str] | OSError]) -> None:
    try:
        facts = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that IDNA refuses
        found.put(error if isinstance(error, OSError) else OSError(str(error)))
    else:
        found.put(list(dict.fromkeys(str(fact[4][0]) for fact in facts)))
