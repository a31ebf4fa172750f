"""Which fault a request meets, what broken servers and proxies answer, and how an answer is sent:
whole, in pieces, half, or not at all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from connector.sandbox.sandbox_options import FAULT_NAMES, Duration, Faults, SandboxOptions

if TYPE_CHECKING:
    from connector.sandbox.state import LoggedRequest

TRANSPORT = "sandbox.transport"
PIECES = 10
HTML_PAGE = (
    b"<!DOCTYPE html><html><head><title>Bad gateway</title></head>"
    b"<body><h1>502</h1><p>The upstream server is unavailable.</p></body></html>"
)
_WRONG_BODIES = (b'{"success": true, "items": [', b"null", b'"ok"', b"", b'{"success": true}')


class FaultPicker:
    """Draws once per request, from the seed of the options' `Faults`; a script takes precedence."""

    def __init__(self, options: SandboxOptions) -> None:
        self._options = options
        self._drawn_from: Faults | None = None
        self._random = random.Random(0)

    def pick(self, request: LoggedRequest) -> str | None:
        """A fault's name, or None. ValueError: the script names one that doesn't exist."""
        is_scripted, name = self._scripted(request)
        if not is_scripted:
            name = self._drawn(request)
        if name is not None and name not in FAULT_NAMES:
            raise ValueError(f"unknown fault {name!r}; known: {', '.join(FAULT_NAMES)}")
        return name

    def _scripted(self, request: LoggedRequest) -> tuple[bool, str | None]:
        script = self._options.script
        if script is None:
            return False, None
        if callable(script):
            name = script(request)
            return name is not None, name
        if isinstance(script, Mapping):
            return request.number in script, script.get(request.number)
        decided = request.number <= len(script)
        return decided, script[request.number - 1] if decided else None

    def _drawn(self, request: LoggedRequest) -> str | None:
        faults = self._options.faults
        if faults is not self._drawn_from:
            self._drawn_from, self._random = faults, random.Random(faults.seed)
        draw = self._random.random()
        if not (faults.reads if request.method == "GET" else faults.writes):
            return None
        for name, probability in faults.probabilities.items():
            draw -= probability
            if draw < 0:
                return name
        return None


def early_answer(
    fault: str, options: SandboxOptions, now_s: float, headers: Mapping[str, str]
) -> Response | None:
    """The answer of a fault that comes before the change; None = closed without one.

    headers: of the rate limits, for answers that come from the API itself.
    """
    match fault:
        case "drop_before":
            return None
        case "error_500" | "error_503":
            return error_answer(int(fault[-3:]), headers)
        case "html_502":
            return html_answer(502)
        case "redirect":
            return Response(status_code=302, headers={"location": "http://127.0.0.2:9/elsewhere"})
    # a 429 without `Retry-After` and window headers, or with an HTTP date
    until_s = now_s + options.fault_retry_after_s + 1
    dated = {"Retry-After": formatdate(until_s, usegmt=True)} if fault == "dated_429" else {}
    body = orjson.dumps({"error": "Too many requests", "message": "Please try again later."})
    return Response(body, 429, dated, "application/json")


def late_answer(
    fault: str | None, answer: Response, number: int, headers: Mapping[str, str]
) -> Response:
    """The right answer as changed by a fault; faults of delivery leave it unchanged."""
    match fault:
        case "error_500_after":
            return error_answer(500, headers)
        case "html_502_after" | "html_200":
            return html_answer(502 if fault == "html_502_after" else 200)
        case "wrong_json":
            body = _WRONG_BODIES[number % len(_WRONG_BODIES)]
            return Response(body, answer.status_code, dict(headers), "application/json")
        case "wrong_content_type":
            return Response(answer.body, answer.status_code, dict(headers), "text/html")
    return answer


def error_answer(status: int, headers: Mapping[str, str]) -> Response:
    body = orjson.dumps({"error": "Internal error", "message": "Something failed on our side."})
    return Response(body, status, dict(headers), "application/json")


def html_answer(status: int) -> Response:
    return Response(HTML_PAGE, status, media_type="text/html")


# --- delivery -------------------------------------------------------------------------------


class SandboxProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which gives the application its connection, to break it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._inner = self.app
        self.app = self._with_transport

    async def _with_transport(self, scope: Any, receive: Any, send: Any) -> None:
        scope[TRANSPORT] = self.transport
        await self._inner(scope, receive, send)


async def pause(duration: Duration) -> None:
    """Sleep for a number of seconds, or for a random number between two."""
    seconds = random.uniform(*duration) if isinstance(duration, tuple) else duration
    if seconds > 0:
        await asyncio.sleep(seconds)


async def drop(scope: Scope, receive: Receive, *, reset: bool) -> None:
    """Close the connection without an answer: with a TCP reset, or gracefully."""
    transport: asyncio.Transport = scope[TRANSPORT]
    if reset:
        transport.abort()
    else:
        transport.close()
    await _until_disconnected(receive)


async def deliver(
    answer: Response,
    fault: str | None,
    options: SandboxOptions,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Send `answer`, damaged as `fault` says; without a fault, whole."""
    body = bytes(answer.body)
    match fault:
        case "truncate" | "stall" | "hang":
            if fault != "hang":  # the head that promises the whole body, and half of it
                await _send_start(answer, send)
                await _send_body(body[: len(body) // 2], send, more=True)
            if fault == "truncate":
                await drop(scope, receive, reset=False)
                return
            try:
                await asyncio.wait_for(_until_disconnected(receive), options.stall_s)
            except TimeoutError:
                await drop(scope, receive, reset=True)
        case "slow_body":
            await _send_start(answer, send)
            size = max(1, -(-len(body) // PIECES))
            for at in range(0, len(body), size):
                await asyncio.sleep(options.slow_body_s / PIECES)
                await _send_body(body[at : at + size], send, more=True)
            await _send_body(b"", send, more=False)
        case _:
            await answer(scope, receive, send)


async def _send_start(answer: Response, send: Send) -> None:
    await send(
        {"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers}
    )


async def _send_body(body: bytes, send: Send, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
