"""An ASGI server of one request at a time, without a network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from connector.webhooks.receiver import WebhookApp, sign


class Answered(NamedTuple):
    """unread: messages of the body that the application didn't ask for."""

    status: int
    headers: dict[str, str]
    text: str
    unread: int


class Hang:
    """Stands for a part of a body that never comes."""


def signed(body: bytes, secret: bytes = b"secret-a", *, off_s: int = 0) -> dict[str, str]:
    return {"X-HiringCenter-Signature": sign(body, secret, at_s=int(time.time()) + off_s)}


def deliver(
    app: WebhookApp,
    body: bytes | Iterable[bytes | type[Hang]],
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "POST",
    path: str = "/",
) -> Answered:
    return asyncio.run(exchange(app, body, headers, method=method, path=path))


async def exchange(
    app: WebhookApp,
    body: bytes | Iterable[bytes | type[Hang]],
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "POST",
    path: str = "/",
) -> Answered:
    parts = [body] if isinstance(body, bytes) else [*body]
    if headers is None:
        headers = signed(b"".join(each for each in parts if isinstance(each, bytes)))
    sent: list[dict[str, Any]] = []
    left = list(parts)

    async def receive() -> dict[str, Any]:
        if not left:
            return {"type": "http.disconnect"}
        part = left.pop(0)
        if not isinstance(part, bytes):
            await asyncio.Event().wait()
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "http_version": "1.1",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    await app(scope, receive, send)
    if not sent:
        return Answered(0, {}, "", len(left))
    got = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answered(sent[0]["status"], got, sent[1]["body"].decode(), len(left))
