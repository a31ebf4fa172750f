"""The ASGI application that receives deliveries: verified, on disk, and only then acknowledged.

Bodies are bounded in size, in time, and together in memory. Deliveries that arrive at once are
committed together by one thread, which also records that the receiver is running.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from connector.errors import ConfigurationError, ConnectorError, printable
from connector.logs import get_logger, hide
from connector.settings import Settings, account_settings
from connector.webhooks.inbox import Arrival, Inbox, InboxWriter, account_of, open_inbox

BODY_MAX = 1 << 20  # bytes
RETRY_AFTER_S = 30
ALERT_AT = 3  # refused deliveries in a row
ALERT_AGAIN_S = 3600.0
CONNECTIONS = 256  # above that, those without a request give way …
CONNECTIONS_MAX = 512  # … and above that, new ones
HEAD_WITHIN_S = 10.0  # in which the head of a request has to arrive
_BACKLOG = 64  # asyncio accepts as many at once, before any can be closed again
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_Alert = Callable[[str, str], None]
_log = get_logger("webhooks")


def asgi_app(settings: Settings, *, on_alert: _Alert | None = None) -> WebhookApp:
    """An application for any ASGI server: a POST to any path is a delivery.

    settings: of `connector.settings.load`. With several accounts, the secret that matches shows
    whose event it is. on_alert: called in a thread with the name of an alert and a sentence, at
    most once an hour for each name.

    Raises:
        ConfigurationError: no secret is set, or two accounts have the same one.
    """
    secrets: dict[bytes, str] = {}
    names = settings.accounts if settings.account is None else ()
    for own in (settings, *(account_settings(settings, name) for name in names)):
        for secret in own.webhook_secrets:
            text = secret.get_secret_value()
            hide(text)
            if secrets.setdefault(text.encode(), account_of(own)) != account_of(own):
                raise ConfigurationError(
                    "Two accounts have the same webhook secret, so an event could belong to "
                    "either. Create a separate webhook for each account."
                )
    if not secrets:
        raise ConfigurationError(
            "No webhook secret is set, so no delivery could be verified. Put the secret of your "
            "webhook (HiringCenter, Settings -> API / Webhooks; or `hiringcenter webhooks "
            "subscribe`) into HIRINGCENTER_WEBHOOK_SECRETS."
        )
    return WebhookApp(secrets, lambda: open_inbox(settings), on_alert)


class _Reply(Exception):
    """How a delivery is answered early. closes: the rest of its body isn't read."""

    def __init__(self, status: int, text: str, *, closes: bool = False) -> None:
        self.status, self.text, self.closes = status, text, closes
        super().__init__(text)


@dataclass(frozen=True)
class Bounds:
    """body_within_s: in which a body has to arrive, and stored_within_s: be on disk. held_bytes: of
    all bodies in memory. at_once: deliveries."""

    body_within_s: float = 10.0
    stored_within_s: float = 8.0
    held_bytes: int = 32 * BODY_MAX
    at_once: int = 256


class WebhookApp:
    """secrets: secret → key of its account in the inbox. open_inbox: called in the app's thread."""

    def __init__(
        self,
        secrets: Mapping[bytes, str],
        open_inbox: Callable[[], Inbox],
        on_alert: _Alert | None = None,
        bounds: Bounds = Bounds(),
    ) -> None:
        self._bounds = bounds
        self._secrets, self._accounts = list(secrets), list(secrets.values())
        self._writer = InboxWriter(open_inbox, set(self._accounts))
        self._held_bytes = self._at_work = 0
        self._refused_in_a_row = 0
        self._on_alert = on_alert
        self._alerted_s: dict[str, float] = {}

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            self._writer.start()
            self._at_work += 1
            try:
                with suppress(_Gone):
                    await self._respond(scope, receive, send)
            finally:
                self._at_work -= 1
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})

    def close(self) -> None:
        """Stop the thread, once everything that was taken is stored."""
        self._writer.close()

    async def _live(self, receive: _Receive, send: _Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._writer.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await asyncio.to_thread(self.close)
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _respond(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        try:
            answer = _Reply(200, await self._take(scope, receive))
        except _Reply as early:
            answer = early
        if answer.status == 503:
            headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
        if answer.status == 405:
            headers.append((b"allow", b"POST"))
        if answer.closes and scope.get("http_version", "1.1").startswith("1"):
            headers.append((b"connection", b"close"))
        text = b"" if scope["method"] == "HEAD" else f"{answer.text}\n".encode()
        headers.append((b"content-length", str(len(text)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    async def _take(self, scope: _Message, receive: _Receive) -> str:
        """Take one delivery; the text of its answer."""
        if scope["method"] in ("GET", "HEAD"):
            return "HiringCenter's webhooks are received here, by POST."
        if scope["method"] != "POST":
            raise _Reply(405, "Only POST is accepted here.", closes=True)
        if self._at_work > self._bounds.at_once:
            raise _Reply(503, "Too many deliveries at once.", closes=True)
        headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        found = [value.decode("latin-1") for name, value in headers if _name(name) in HEADERS]
        if not found:
            self._refuse("it has no signature header")
            raise _Reply(401, "The delivery isn't signed.", closes=True)
        body = b""
        try:
            body = await self._read(headers, receive)
            account = self._verified(found, body)
        finally:
            self._held_bytes -= len(body)
        arrivals = [Arrival(account, *each) for each in events_in(body)]
        await self._store(arrivals)
        lost = sum(each.prospect_id is None for each in arrivals)
        if lost:
            _log.warning("webhooks.unidentified", events=lost, bytes=len(body))
            self._alert(
                "unidentified",
                "A verified webhook event came in which no prospect was found: its format isn't "
                "known. Pulls read all prospects as before, until it is.",
            )
        return f"Received: {len(arrivals)}"

    async def _read(self, headers: Sequence[tuple[bytes, bytes]], receive: _Receive) -> bytes:
        """The body; its size is in `_held_bytes`."""
        lengths = [value for name, value in headers if _name(name) == "content-length"]
        announced = int(lengths[0]) if lengths and lengths[0].isdigit() else 0
        if announced > BODY_MAX:
            raise _Reply(413, f"A body has at most {BODY_MAX} bytes.", closes=True)
        parts: list[bytes] = []
        size, is_whole = 0, False
        try:
            async with asyncio.timeout(self._bounds.body_within_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    self._held_bytes += len(parts[-1])
                    if size > BODY_MAX:
                        raise _Reply(413, f"A body has at most {BODY_MAX} bytes.", closes=True)
                    if self._held_bytes > self._bounds.held_bytes:
                        raise _Reply(503, "Too many deliveries at once.", closes=True)
                    if not message.get("more_body"):
                        is_whole = True
                        return b"".join(parts)
        except TimeoutError:
            raise _Reply(408, "The body took too long.", closes=True) from None
        finally:
            if not is_whole:
                self._held_bytes -= size

    def _verified(self, signatures: Sequence[str], body: bytes) -> str:
        """The account whose event it is."""
        found = verify(signatures, body, self._secrets, now_s=time.time())
        if found.verdict is not Signature.GENUINE or found.secret is None:
            self._refuse(found.reason)
            if found.verdict is Signature.STALE:
                raise _Reply(401, f"The delivery isn't accepted: {found.reason}.")
            raise _Reply(401, "The signature isn't accepted.")
        self._refused_in_a_row = 0
        return self._accounts[found.secret]

    def _refuse(self, reason: str) -> None:
        self._refused_in_a_row += 1
        count = self._refused_in_a_row
        if count <= ALERT_AT or count % 1000 == 0:  # a flood of these isn't one of the log
            _log.warning("webhooks.refused", reason=reason, in_a_row=count)
        if count == ALERT_AT:
            self._alert(
                "refused",
                f"{count} webhook deliveries in a row were refused; of the last one, {reason}. If "
                "the secret was changed, add the new one to HIRINGCENTER_WEBHOOK_SECRETS.",
            )

    async def _store(self, arrivals: Sequence[Arrival]) -> None:
        within_s = self._bounds.stored_within_s
        try:
            async with asyncio.timeout(within_s):
                await asyncio.wrap_future(self._writer.put(arrivals))
        except (ConnectorError, TimeoutError) as error:
            why = str(error) or f"not stored within {within_s:g} s"
            _log.warning("webhooks.not_stored", why=why)
            self._alert("not_stored", f"Webhook deliveries can't be stored: {why}")
            raise _Reply(503, "The delivery can't be stored now; send it again.") from None

    def _alert(self, name: str, message: str) -> None:
        now_s = time.monotonic()
        if self._on_alert and now_s - self._alerted_s.get(name, -ALERT_AGAIN_S) >= ALERT_AGAIN_S:
            self._alerted_s[name] = now_s
            threading.Thread(target=self._on_alert, args=(name, message), daemon=True).start()


class _Gone(Exception):
    """The sender has closed the connection."""


def _name(header: bytes) -> str:
    return header.decode("latin-1").lower()


# --- a server of its own --------------------------------------------------------------------------


def serve(
    settings: Settings,
    host: str,
    port: int,
    *,
    on_ready: Callable[[int], None],
    on_alert: _Alert | None = None,
) -> None:
    """Receive deliveries until a signal comes, which is raised again once what was taken is stored.

    port: 0 for any free one. on_ready: called with the port once it listens. See `asgi_app`.

    Raises:
        OSError: nothing can listen there.
    """
    import uvicorn

    class Receiver(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started and sockets:
                on_ready(sockets[0].getsockname()[1])

    config = uvicorn.Config(
        asgi_app(settings, on_alert=on_alert), http=_bounded_connection(), lifespan="on", ws="none",
        log_config=None, log_level="error", access_log=False, server_header=False,
        backlog=_BACKLOG, timeout_keep_alive=65, timeout_graceful_shutdown=15,
    )  # fmt: skip
    with listening(host, port) as listener:
        Receiver(config).run([listener])


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there, also where another has just stopped.

    Raises:
        OSError: none can.
    """
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.create_server(address, family=family, backlog=_BACKLOG)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio doesn't, for those
    return listener


def _bounded_connection() -> Any:
    """uvicorn's class for connections, bounded for senders that open many of them, or send the
    head of a request slowly. A proxy in front does both as well, if there is one."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class BoundedConnection(H11Protocol):
        """opened_s: monotonic."""

        opened_s = 0.0
        head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            others: list[Any] = [each for each in self.connections if not each.is_closing()]  # type: ignore[union-attr]
            super().connection_made(transport)
            self.opened_s = self.loop.time()
            self.bound_head()
            if len(others) >= CONNECTIONS:
                idle = [each for each in others if each.is_idle()]
                if idle:
                    min(idle, key=lambda each: each.opened_s).transport.abort()
                elif len(others) >= CONNECTIONS_MAX:
                    transport.abort()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.bound_head()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self.bound_head()

        def is_closing(self) -> bool:
            return self.transport.is_closing()

        def is_idle(self) -> bool:
            """Whether the head of a request is still to come."""
            return self.cycle is None or self.cycle.response_complete

        def bound_head(self) -> None:
            """However slowly its bytes come: the timer isn't set again by each."""
            if self.is_idle() and not self.is_closing():
                if self.head_timer is None and self.timeout_keep_alive_task is None:
                    close = self.timeout_keep_alive_handler
                    self.head_timer = self.loop.call_later(HEAD_WITHIN_S, close)
            elif self.head_timer is not None:
                self.head_timer.cancel()
                self.head_timer = None

    return BoundedConnection


# --- whether it is signed with one of our secrets: pure ------------------------------------------

HEADERS = ("x-hiringcenter-signature", "x-hiringcenter-pro-signature")
TOLERANCE_S = 300
_SIGNATURES_MAX = 4  # headers: each costs a MAC of the body for each secret
_MACS_MAX = 8  # in one header
_HEADER_MAX = 2048  # characters
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_DIGITS = re.compile(r"[0-9]{1,15}")


class Signature(StrEnum):
    """The best first. stale: signed with a secret of ours, but too long ago, or by a clock that is
    ahead."""

    GENUINE = "genuine"
    STALE = "stale"
    FORGED = "forged"
    MALFORMED = "malformed"
    UNSIGNED = "unsigned"


@dataclass(frozen=True)
class Verification:
    """reason: a phrase for people. secret: the place of the one that matched, None if none did."""

    verdict: Signature
    reason: str
    secret: int | None = None


def verify(
    signatures: Sequence[str], body: bytes, secrets: Sequence[bytes], *, now_s: float
) -> Verification:
    """What the signature headers of a delivery prove; the best of them where there are several.

    signatures: the values of `HEADERS`. body: the bytes as they came. now_s: UTC epoch seconds.

    Raises:
        ValueError: an empty secret, with which anyone could sign.
    """
    if not all(secrets):
        raise ValueError("a secret is empty")
    if len(signatures) > _SIGNATURES_MAX:
        return Verification(Signature.MALFORMED, "it has too many signature headers")
    if len(body) > BODY_MAX:
        return Verification(Signature.MALFORMED, f"its body is larger than {BODY_MAX:,} bytes")
    found = [_verify_one(each, body, secrets, now_s) for each in signatures]
    if not found:
        return Verification(Signature.UNSIGNED, "it has no signature header")
    return min(found, key=lambda each: [*Signature].index(each.verdict))


def sign(body: bytes, secret: bytes, *, at_s: int) -> str:
    """The header's value for a body that is sent at `at_s` (UTC epoch seconds)."""
    return f"t={at_s},v1={_mac(secret, str(at_s), body).decode()}"


def _verify_one(
    signature: str, body: bytes, secrets: Sequence[bytes], now_s: float
) -> Verification:
    if len(signature) > _HEADER_MAX:
        return Verification(Signature.MALFORMED, "its signature header is too long")
    pairs = [part.strip().partition("=") for part in signature.split(",")]
    times = [value for name, _, value in pairs if name == "t"]
    macs = [value for name, _, value in pairs if name == "v1"]
    if len(times) != 1 or not _DIGITS.fullmatch(times[0]):
        return Verification(Signature.MALFORMED, "its signature has no `t` of digits alone")
    if not 1 <= len(macs) <= _MACS_MAX or not all(map(_HEX.fullmatch, macs)):
        return Verification(
            Signature.MALFORMED,
            f"its signature needs 1 to {_MACS_MAX} `v1` of 64 hex digits",
        )
    given = [mac.lower().encode() for mac in macs]
    own = [_mac(secret, times[0], body) for secret in secrets]
    # each is compared with each: the time it takes says nothing of what they are
    matching = [sum(hmac.compare_digest(each, mac) for each in given) > 0 for mac in own]
    if not any(matching):
        return Verification(Signature.FORGED, "its signature matches none of the secrets")
    place, off_s = matching.index(True), int(times[0]) - now_s
    if abs(off_s) > TOLERANCE_S:  # after the MAC: only the sender can have set this time
        way = "ahead of" if off_s > 0 else "behind"
        reason = f"its signature is right, but its time is {abs(off_s):.0f} s {way} this clock"
        return Verification(Signature.STALE, reason, place)
    return Verification(Signature.GENUINE, "its signature is right", place)


def _mac(secret: bytes, time: str, body: bytes) -> bytes:
    return hmac.new(secret, time.encode() + b"." + body, hashlib.sha256).hexdigest().encode()


# --- what an event says --------------------------------------------------------------------------

_TYPES = ("eventType", "event_type", "event", "type")
_IDS = ("prospectId", "prospect_id")
_INNER = ("prospect", "data", "object", "item", "record", "payload", "resource", "body")
_PERSONAL = {"firstName", "lastName", "first_name", "last_name", "email", "phone"}
_DEPTH_MAX = 5


def events_in(body: bytes) -> list[tuple[str | None, str]]:
    """(prospect id, event type) of each event in a delivery; None where no id can be found.

    The shape isn't documented: any field named `prospectId` counts, else the `id` of what the
    envelope contains, else the event's own, which the look-up by it will prove right or wrong.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return [(None, "")]
    events = found if isinstance(found, list) else [found]
    return [(prospect_in(each), _event_type(each)) for each in events] or [(None, "")]


def _event_type(event: Any) -> str:
    for name in _TYPES if isinstance(event, dict) else ():
        text = event.get(name)
        if isinstance(text, str):
            return printable(text[:64])
    return ""


def prospect_in(event: Any) -> str | None:
    """Its id; see `events_in`."""
    levels = [_dicts([event])]
    while levels[-1] and len(levels) < _DEPTH_MAX:
        levels.append(_dicts(value for each in levels[-1] for value in each.values()))
    everything = [each for level in levels for each in level]
    named = [each[name] for each in everything for name in _IDS if name in each]
    if named:
        return _as_id(named[0])
    inner = event
    while isinstance(inner, dict) and not _PERSONAL.intersection(inner):
        below = [inner[name] for name in _INNER if isinstance(inner.get(name), dict)]
        if not below:
            break
        inner = below[0]
    return _as_id(inner.get("id")) if isinstance(inner, dict) else None


def _dicts(values: Any) -> list[dict[str, Any]]:
    return [each for each in values if isinstance(each, dict)]


def _as_id(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    is_id = isinstance(value, str) and 0 < len(value) <= 255 and value.isprintable()
    return value.strip() or None if is_id else None
