"""A signal ends every wait."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading

import pytest

from connector import errors
from tests.sync.client.conftest import Bench
from tests.sync.client.raw_server import (
    Handler,
    answer,
    page,
)


def _stopping(stop: threading.Event, then: Handler) -> Handler:
    def handle(connection: socket.socket) -> None:
        stop.signal_number = signal.SIGINT  # type: ignore[attr-defined]
        stop.set()
        then(connection)

    return handle


def test_a_signal_ends_the_wait_for_an_answer(bench: Bench):
    """Promptly, with the signal in the error; the permit counts until its deadline."""
    stop = threading.Event()

    def silent_seconds(connection: socket.socket) -> None:
        connection.settimeout(0.01)
        while True:
            bench.clock.advance(1)
            with contextlib.suppress(TimeoutError):
                connection.recv(1)
                return  # the client has gone

    client = bench.serve(_stopping(stop, silent_seconds), stop=stop)
    with pytest.raises(errors.Interrupted) as caught:
        client.page("notes", {})
    assert caught.value.exit_code == 130
    assert bench.budget.outcomes == ["unanswered"]


@pytest.mark.parametrize("status", [500, 429])
def test_a_signal_ends_the_wait_for_another_try(bench: Bench, status: int):
    """Backing off, or about to ask for a permit."""
    stop = threading.Event()
    client = bench.serve(answer(status), stop=stop)
    bench.budget.on_answer = stop.set
    with pytest.raises(errors.Interrupted) as caught:
        client.page("notes", {})
    assert caught.value.exit_code == 143
    assert bench.budget.outcomes == [status]


def test_after_a_signal_nothing_new_is_sent(bench: Bench):
    """No permit is asked for either."""
    stop = threading.Event()
    stop.set()
    client = bench.serve(page(), stop=stop)
    with pytest.raises(errors.Interrupted):
        client.page("notes", {})
    assert bench.budget.lanes == []


def test_a_write_on_its_way_is_waited_for_after_a_signal(bench: Bench):
    """Its answer settles its fate."""
    stop, asked = threading.Event(), threading.Event()

    def late(connection: socket.socket) -> None:
        asked.wait(0.5)  # longer than the client takes to see the signal
        answer(201, {"item": {"id": "1"}})(connection)

    client = bench.serve(_stopping(stop, late), stop=stop)
    assert client.post("notes", b"{}", idempotency_key="k").item == {"id": "1"}
