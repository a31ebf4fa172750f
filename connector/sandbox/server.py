"""A sandbox that serves: uvicorn in a thread of its own, on loopback."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable
from types import TracebackType

from connector.sandbox.endpoints import BASE_PATH
from connector.sandbox.log import AppliedChange, LoggedRequest
from connector.sandbox.options import SandboxOptions
from connector.sandbox.serving import StoppableServer, server_config
from connector.sandbox.state import State
from connector.sandbox.store import Store

HOST = "127.0.0.1"
START_TIMEOUT_S = 30.0


class Sandbox:
    """The HiringCenter API on a port of 127.0.0.1, from `start` to `stop` or within `with`.

    port: 0 = any free one. Leaving the `with` raises what went wrong inside the sandbox (or in
    `on_request`), so that no test passes over it.
    """

    def __init__(self, options: SandboxOptions | None = None, *, port: int = 0) -> None:
        self._state = State(options or SandboxOptions())
        self._requested_port = port
        self._socket: socket.socket | None = None
        self._server: StoppableServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The base URL, `/v2` included. Before `start`, a port of 0."""
        return f"http://{HOST}:{self.port}{BASE_PATH}"

    @property
    def port(self) -> int:
        return self._requested_port

    @property
    def control_url(self) -> str:
        return f"http://{HOST}:{self.port}/__sandbox__"

    @property
    def api_key(self) -> str:
        return self._state.options.api_key

    @property
    def options(self) -> SandboxOptions:
        """May be changed at any time."""
        return self._state.options

    @property
    def store(self) -> Store:
        return self._state.store

    @property
    def requests(self) -> list[LoggedRequest]:
        """Every request to the API since the start or `clear_log`, in order of arrival."""
        return self._state.log.requests

    @property
    def applied(self) -> list[AppliedChange]:
        """One entry per change that was really made by a request."""
        return self._state.log.applied

    @property
    def unknown_parameters(self) -> list[str]:
        """Query parameters that the configured revision doesn't know, as often as they came."""
        return self._state.log.unknown_parameters

    @property
    def unknown_fields(self) -> list[str]:
        """Fields of payloads that the API doesn't know, as often as they came."""
        return self._state.log.unknown_fields

    @property
    def on_request(self) -> Callable[[LoggedRequest], None] | None:
        """Called in the server's thread as a request arrives, before it is judged: be quick."""
        return self._state.on_request

    @on_request.setter
    def on_request(self, callback: Callable[[LoggedRequest], None] | None) -> None:
        self._state.on_request = callback

    @property
    def foreign_spent(self) -> int:
        """Requests of others that were let in."""
        return self._state.limits.foreign_spent

    def spend(self, count: int) -> int:
        """Let somebody else send `count` requests with this key now; how many were let in."""
        return self._state.limits.spend(count, self._state.clock.now_s())

    def clear_log(self) -> None:
        """Forget requests, applied changes and unknown names; data and limits stay."""
        self._state.log.clear()

    def start(self) -> Sandbox:
        """Serve, and return when the port answers.

        Raises:
            OSError: the port is taken.
        """
        self._socket = socket.create_server((HOST, self._requested_port), backlog=1024)
        # asyncio does this only for sockets that name their protocol; without it every body waits
        # 40 ms for the delayed ACK of its head
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._requested_port = self._socket.getsockname()[1]
        self._server = StoppableServer(server_config(self._state))
        self._thread = threading.Thread(target=self._run, name="sandbox", daemon=True)
        self._thread.start()
        if not self._server.ready.wait(START_TIMEOUT_S):
            raise RuntimeError(f"the sandbox did not start within {START_TIMEOUT_S:.0f} s")
        return self

    def stop(self) -> None:
        """Close all connections, answered or not, and wait for the thread's end."""
        if self._server is not None and self._thread is not None:
            self._server.stop_soon()
            self._thread.join()
            self._server = self._thread = None

    def _run(self) -> None:
        assert self._server is not None
        assert self._socket is not None
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if error is None and self._state.failures:
            raise self._state.failures[0]


def serve(options: SandboxOptions, port: int, on_ready: Callable[[Sandbox], None]) -> int:
    """Serve until SIGINT or SIGTERM, and return that signal's number. For the main thread.

    on_ready: called once, when the port answers.

    Raises:
        OSError: the port is taken.
    """
    received: list[int] = []
    stop = threading.Event()

    def note(number: int, _frame: object) -> None:
        received.append(number)
        stop.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Sandbox(options, port=port) as sandbox:
            on_ready(sandbox)
            stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return received[0]
