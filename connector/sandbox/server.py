"""A sandbox that serves: uvicorn in a thread of its own, on loopback."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from connector.sandbox.control import PREFIX, control_routes
from connector.sandbox.exchange import Api
from connector.sandbox.faults import SandboxProtocol
from connector.sandbox.sandbox_options import SandboxOptions
from connector.sandbox.state import BASE_PATH, State

HOST = "127.0.0.1"
START_TIMEOUT_S = 30.0


class Sandbox(State):
    """The HiringCenter API on a port of 127.0.0.1, from `start` to `stop` or within `with`.

    port: 0 = any free one, which it names from `start` on. Leaving the `with` raises any error
    inside the sandbox (or in `on_request`), so that no test misses it.
    """

    def __init__(self, options: SandboxOptions | None = None, *, port: int = 0) -> None:
        super().__init__(options)
        self.port = port
        self._server: StoppableServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The base URL, `/v2` included."""
        return f"http://{HOST}:{self.port}{BASE_PATH}"

    @property
    def control_url(self) -> str:
        return f"http://{HOST}:{self.port}{PREFIX}"

    @property
    def api_key(self) -> str:
        return self.options.api_key

    def start(self) -> Sandbox:
        """Serve, and return when ready.

        Raises:
            OSError: the port is taken.
        """
        listening = self.listen()
        self.port = listening.getsockname()[1]
        self._server = server = StoppableServer(server_config(self))
        self._thread = threading.Thread(
            target=lambda: asyncio.run(server.serve(sockets=[listening])), daemon=True
        )
        self._thread.start()
        if not server.ready.wait(START_TIMEOUT_S):
            raise RuntimeError(f"the sandbox did not start within {START_TIMEOUT_S:.0f} s")
        return self

    def listen(self) -> socket.socket:
        """The socket that is served."""
        listening = socket.create_server((HOST, self.port), backlog=1024)
        # asyncio does this only for sockets that name their protocol; without it every body waits
        # 40 ms for the delayed ACK of its head
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening

    def stop(self) -> None:
        """Close all connections, answered or not, and wait for the thread to end."""
        if self._server is not None and self._thread is not None:
            self._server.stop_soon()
            self._thread.join()
            self._server = self._thread = None
        self.webhooks.stop()

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self.stop()
        if error is None and self.failures:
            raise self.failures[0]


def serve(options: SandboxOptions, port: int, on_ready: Callable[[Sandbox], None]) -> int:
    """Serve until SIGINT or SIGTERM, and return that signal's number. For the main thread.

    on_ready: called once, when ready. OSError: the port is taken.
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


# --- uvicorn ---------------------------------------------------------------------------------


class StoppableServer(uvicorn.Server):
    """uvicorn's server, which signals when it is ready, and doesn't wait for stalled answers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop_soon(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.ready.set()
        await self._stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # accept no more, and give what was accepted just now its transport: a server that is closed
        # first forgets it, with its socket open
        for each in sockets or []:
            asyncio.get_running_loop().remove_reader(each.fileno())
        for _ in range(3):
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        for each in sockets or []:
            each.close()
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()
        await asyncio.gather(*self.server_state.tasks, return_exceptions=True)
        await asyncio.sleep(0)  # what was aborted closes its socket now


def server_config(state: State) -> uvicorn.Config:
    """Quiet, and without features that the sandbox doesn't need."""
    app = Starlette(routes=[*control_routes(state), Route("/{path:path}", Api(state))])
    return uvicorn.Config(
        app,
        http=SandboxProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # lost answers are on purpose; `Sandbox` raises real failures
        access_log=False,
        date_header=False,
        server_header=False,
        timeout_keep_alive=60,
    )
