"""What the sandbox remembers of its requests and of the changes that they made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class LoggedRequest:
    """One request to the API. `status`, `answered_s` and `fault` are set when it is answered.

    status: the status sent; 0 = closed or never answered. Times: UTC epoch seconds of the server;
    `received_s` is when it was counted. headers: lower-case names, without `authorization`.
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

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "body": self.body.decode("utf-8", "replace")}


@dataclass(frozen=True)
class AppliedChange:
    """One change that a `POST` or `DELETE` really made; a replay makes none."""

    resource: str
    id: str
    action: str  # "created", "updated" or "deleted"
    idempotency_key: str | None
    payload: Any
    at_s: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class RequestLog:
    """Requests in order of arrival, applied changes in order of application."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.requests: list[LoggedRequest] = []
        self.applied: list[AppliedChange] = []
        self.unknown_parameters: list[str] = []
        self.unknown_fields: list[str] = []

    def arrived(self, request: LoggedRequest) -> None:
        """Append, and number it: 1 is the first since the log was cleared."""
        self.requests.append(request)
        request.number = len(self.requests)
