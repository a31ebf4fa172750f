"""How an answer leaves: whole, in pieces, half, or not at all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from connector.sandbox.options import Duration, SandboxOptions

TRANSPORT = "sandbox.transport"
PIECES = 10


class SandboxProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 that lets the application reach its connection, to break it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._inner = self.app
        self.app = self._with_transport

    async def _with_transport(self, scope: Any, receive: Any, send: Any) -> None:
        scope[TRANSPORT] = self.transport
        await self._inner(scope, receive, send)


async def pause(duration: Duration) -> None:
    """Sleep for a number of seconds, or for a random one between two."""
    seconds = random.uniform(*duration) if isinstance(duration, tuple) else duration
    if seconds > 0:
        await asyncio.sleep(seconds)


async def drop(scope: Scope, receive: Receive, *, reset: bool) -> None:
    """Close the connection without an answer: with a TCP reset, or orderly."""
    transport: asyncio.Transport = scope[TRANSPORT]
    if reset:
        transport.abort()
    else:
        transport.close()
    await _until_gone(receive)


async def deliver(
    answer: Response,
    fault: str | None,
    options: SandboxOptions,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Send `answer`, damaged as `fault` says; without one it goes out whole."""
    damaged = _DAMAGED.get(fault or "")
    if damaged is None:
        await answer(scope, receive, send)
    else:
        await damaged(answer, options, scope, receive, send)


async def _truncate(
    answer: Response, _options: SandboxOptions, scope: Scope, receive: Receive, send: Send
) -> None:
    await _send_half(answer, send)
    await drop(scope, receive, reset=False)


async def _stall(
    answer: Response, options: SandboxOptions, scope: Scope, receive: Receive, send: Send
) -> None:
    await _send_half(answer, send)
    await _hang(answer, options, scope, receive, send)


async def _hang(
    _answer: Response, options: SandboxOptions, scope: Scope, receive: Receive, _send: Send
) -> None:
    try:
        await asyncio.wait_for(_until_gone(receive), options.stall_s)
    except TimeoutError:
        await drop(scope, receive, reset=True)


async def _slow_body(
    answer: Response, options: SandboxOptions, _scope: Scope, _receive: Receive, send: Send
) -> None:
    await _send_start(answer, send)
    body = bytes(answer.body)
    size = max(1, -(-len(body) // PIECES))
    for at in range(0, len(body), size):
        await asyncio.sleep(options.slow_body_s / PIECES)
        await _send_body(body[at : at + size], send, more=True)
    await _send_body(b"", send, more=False)


_DAMAGED: dict[str, Callable[[Response, SandboxOptions, Scope, Receive, Send], Awaitable[None]]] = {
    "truncate": _truncate,
    "stall": _stall,
    "hang": _hang,
    "slow_body": _slow_body,
}


async def _send_half(answer: Response, send: Send) -> None:
    """The head that promises the whole body, and half of it."""
    await _send_start(answer, send)
    await _send_body(bytes(answer.body)[: len(answer.body) // 2], send, more=True)


async def _send_start(answer: Response, send: Send) -> None:
    await send(
        {"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers}
    )


async def _send_body(body: bytes, send: Send, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
