"""uvicorn as the sandbox needs it: ready when it says so, gone when it is told to."""

from __future__ import annotations

import asyncio
import socket
import threading

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from connector.sandbox.control import Control
from connector.sandbox.exchange import Api
from connector.sandbox.state import State
from connector.sandbox.wire import SandboxProtocol


class StoppableServer(uvicorn.Server):
    """uvicorn's server, which stops at once instead of waiting for stalled answers."""

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


def server_config(state: State) -> uvicorn.Config:
    """Quiet, on loopback, without what the sandbox doesn't need."""
    app = Starlette(routes=[*Control(state).routes(), Route("/{path:path}", Api(state))])
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
