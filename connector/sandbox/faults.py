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
        script = self._options.script
        if callable(script):
            name = script(request) or self._drawn(request)
        else:
            by_number = script if isinstance(script, Mapping) else dict(enumerate(script or (), 1))
            is_scripted = request.number in by_number
            name = by_number[request.number] if is_scripted else self._drawn(request)
        if name is not None and name not in FAULT_NAMES:
            raise ValueError(f"unknown fault {name!r}; known: {', '.join(FAULT_NAMES)}")
        return name

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


def faulty_answer(
    request: LoggedRequest, answer: Response | None, headers: Mapping[str, str]
) -> Response | None:
    """What the request's fault makes of `answer`; None = closed without one. Faults of delivery
    leave it unchanged. headers: of the rate limits, for answers that come from the API itself."""
    match request.fault:
        case "drop_before" | "drop_after":
            return None
        case "error_500" | "error_503" | "error_500_after" as fault:
            error = {"error": "Internal error", "message": "Something failed on our side."}
            return json_response(orjson.dumps(error), int(fault[6:9]), headers)
        case "html_502" | "html_502_after" | "html_200" as fault:
            return Response(HTML_PAGE, int(fault[5:8]), media_type="text/html")
        case "redirect":
            return Response(status_code=302, headers={"location": "http://127.0.0.2:9/elsewhere"})
        case "bare_429" | "dated_429" as fault:
            error = {"error": "Too many requests", "message": "Please try again later."}
            date = formatdate(request.received_s + 2, usegmt=True)
            dated = {"Retry-After": date} if fault == "dated_429" else {}
            return json_response(orjson.dumps(error), 429, dated)
        case "wrong_json" if answer is not None:
            body = _WRONG_BODIES[request.number % len(_WRONG_BODIES)]
            return json_response(body, answer.status_code, headers)
        case "wrong_content_type" if answer is not None:
            return Response(answer.body, answer.status_code, dict(headers), "text/html")
    return answer


def json_response(body: bytes, status: int, headers: Mapping[str, str]) -> Response:
    return Response(body, status, dict(headers), "application/json")


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
