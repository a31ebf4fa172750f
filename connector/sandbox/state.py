"""Everything that one running sandbox knows: its clock, data, limits, requests and keys."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from connector.sandbox.faults import FaultPicker
from connector.sandbox.listing import Listing
from connector.sandbox.rate_limits import RateLimits
from connector.sandbox.request_checks import Refused, bad_request
from connector.sandbox.sandbox_options import SandboxOptions
from connector.sandbox.store import Store
from connector.sandbox.webhooks import Webhooks

BASE_PATH = "/v2"
MAX_KEY_LENGTH = 512


class ServerClock:
    """UTC epoch time that only moves forward, even if the host's clock is set."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    def now_s(self) -> float:
        return time.monotonic() + self._offset_s

    def now_ms(self) -> int:
        return int(self.now_s() * 1000)


@dataclass
class LoggedRequest:
    """One request to the API. `status`, `answered_s` and `fault` are set when it is answered.

    number: 1 is the first since the log was cleared. status: the status sent; 0 = closed or never
    answered. Times: UTC epoch seconds of the server; `received_s` is when it was counted. headers:
    lower-case names, without `authorization`.
    """

    method: str
    path: str
    params: list[tuple[str, str]]
    received_s: float
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None
    status: int | None = None
    answered_s: float | None = None
    fault: str | None = None
    replayed: bool = False
    number: int = 0

    @property
    def parts(self) -> list[str]:
        """The names in the path, without the base path; [""] for the base path alone."""
        return self.path.removeprefix(BASE_PATH).strip("/").split("/")

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "body": self.body.decode("utf-8", "replace")}


@dataclass(frozen=True)
class AppliedChange:
    """One change that a `POST` or `DELETE` made; a replay makes none."""

    resource: str
    id: str
    action: str  # "created", "updated" or "deleted"
    idempotency_key: str | None
    payload: Any
    at_s: float


@dataclass(frozen=True)
class Answer:
    """A finished answer: HTTP status and JSON body."""

    status: int
    body: bytes


@dataclass
class _Kept:
    fingerprint: str
    answer: Answer | None = None
    finished_s: float = math.inf


class IdempotencyKeys:
    """What the server remembers of each key: the payload, and the answer once there is one."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}

    def begin(self, key: str, fingerprint: str, now_s: float, ttl_s: float | None) -> Answer | None:
        """The answer to replay; None = run the request, then call `finish` or `abandon`.

        fingerprint: stands for method, path and the payload's bytes. ttl_s: seconds from the answer
        until the key is forgotten; None = never.

        Raises:
            Refused: 409, another payload came with this key, or the first still runs;
                400, the key is too long.
        """
        if len(key) > MAX_KEY_LENGTH:
            most = f"at most {MAX_KEY_LENGTH} characters, got {len(key)}"
            raise bad_request(f"X-Idempotency-Key: {most}")
        kept = self._kept.get(key)
        if kept is None or (ttl_s is not None and now_s - kept.finished_s > ttl_s):
            self._kept[key] = _Kept(fingerprint)
            return None
        if kept.fingerprint != fingerprint:
            raise Refused(409, "Conflict", "This idempotency key was used with another payload.")
        if kept.answer is None:
            message = "A request with this idempotency key is still in progress."
            raise Refused(409, "Conflict", message)
        return kept.answer

    def finish(self, key: str, answer: Answer, now_s: float) -> None:
        self._kept[key].answer, self._kept[key].finished_s = answer, now_s

    def abandon(self, key: str) -> None:
        """Forget a key whose request failed before it changed anything."""
        self._kept.pop(key, None)


class State:
    """options: may be changed at any time. requests, applied: in order of arrival and application,
    since the start or `clear_log`. unknown_parameters, unknown_fields: names that the configured
    revision doesn't know, each time they occurred. failures: exceptions of the sandbox itself or of
    `on_request`, which a test must not miss. on_request: called in the server's thread as a request
    arrives, before it is judged; must be quick.
    """

    def __init__(self, options: SandboxOptions | None = None) -> None:
        self.options = options or SandboxOptions()
        self.clock = ServerClock()
        self.store = Store(self.options, self.clock)
        self.webhooks = Webhooks(self.options, self.clock)
        self.store.on_change = self.webhooks.changed
        self.listing = Listing(self.store, self.options)
        self.limits = RateLimits(self.options)
        self.faults = FaultPicker(self.options)
        self.keys = IdempotencyKeys()
        self.failures: list[Exception] = []
        self.on_request: Callable[[LoggedRequest], None] | None = None
        self.clear_log()

    def clear_log(self) -> None:
        """Forget requests, applied changes and unknown names; data and limits stay."""
        self.requests: list[LoggedRequest] = []
        self.applied: list[AppliedChange] = []
        self.unknown_parameters: list[str] = []
        self.unknown_fields: list[str] = []

    @property
    def foreign_spent(self) -> int:
        """Requests of other clients that were admitted."""
        return self.limits.foreign_spent

    def spend(self, count: int) -> int:
        """Let another client send `count` requests now; returns how many were admitted."""
        return self.limits.spend(count, self.clock.now_s())
