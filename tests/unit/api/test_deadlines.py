"""Deadlines hold where no time-out of a socket does: in name lookups and over several addresses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpcore
import pytest

from connector.api.transport import Deadline, DeadlineBackend
from tests.fake_clock import FakeClock

Facts = list[tuple[Any, ...]]


def _connect(port: int, deadline: Deadline | None = None) -> httpcore.NetworkStream:
    """httpcore hands a request's deadline on as the time-out."""
    return DeadlineBackend().connect_tcp("api.test", port, deadline or Deadline(60))  # type: ignore[arg-type]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def _resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    facts = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in addresses]
    real = socket.getaddrinfo

    def resolve(host: str, *args: Any, **options: Any) -> Any:
        return facts if host == "api.test" else real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_a_lookup_that_hangs_ends_with_the_deadline(monkeypatch: pytest.MonkeyPatch):
    """The system's resolver takes no time-out."""
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait() and [])
    with pytest.raises(httpcore.ReadTimeout, match=r"within 0\.05 s"):
        _connect(443, Deadline(0.05))
    released.set()


def test_a_lookup_that_hangs_ends_with_a_signal(monkeypatch: pytest.MonkeyPatch):
    """Long before its deadline."""
    released, stop = threading.Event(), threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait() and [])
    stop.set()
    with pytest.raises(httpcore.ReadTimeout, match="signal"):
        _connect(443, Deadline(1e6, stop))
    released.set()


@pytest.mark.parametrize(
    "error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")]
)
def test_an_unknown_host_is_a_failed_connection(monkeypatch: pytest.MonkeyPatch, error: Exception):
    """Not a crash of the run; the host is named."""

    def refuse(*_: object, **__: object) -> Facts:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(httpcore.ConnectError, match="api.test: "):
        _connect(443)


def test_the_next_address_is_tried_when_one_is_dead(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket
):
    """As with a host whose IPv6 leads nowhere."""
    _resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")
    port = listener.getsockname()[1]
    stream = _connect(port)
    assert stream.get_extra_info("server_addr") == ("127.0.0.1", port)
    stream.close()


def test_a_host_without_a_living_address_is_a_failed_connection(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket
):
    """The last failure is the one that is reported."""
    _resolve_to(monkeypatch, "127.0.0.2", "127.0.0.3")
    with pytest.raises(httpcore.ConnectError, match="refused"):
        _connect(listener.getsockname()[1])


def test_after_a_signal_only_the_patience_is_left():
    """And no more of it when it is asked for again."""
    stop, clock = threading.Event(), FakeClock()
    deadline = Deadline(1000, stop, patience_s=5, clock=clock)
    assert deadline.left_s() == 1000
    stop.set()
    assert deadline.left_s() == 5
    clock.advance(1)
    assert deadline.left_s() == 4


def test_a_signal_never_lengthens_a_deadline():
    """Patience is a bound, not a gift."""
    stop = threading.Event()
    stop.set()
    assert Deadline(3, stop, patience_s=500).left_s() <= 3


def test_what_is_opened_while_others_close_is_closed_too(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket
):
    """A run may end while one of its threads connects; that connection would never be used."""
    _resolve_to(monkeypatch, "127.0.0.1")
    backend, port, deadline = DeadlineBackend(), listener.getsockname()[1], Deadline(60)
    stream = backend.connect_tcp("api.test", port, deadline)  # type: ignore[arg-type]
    backend.close()
    assert stream.get_extra_info("socket").fileno() == -1
    with pytest.raises(httpcore.ConnectError, match="closed"):
        backend.connect_tcp("api.test", port, deadline)  # type: ignore[arg-type]
