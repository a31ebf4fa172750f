"""What sending needs of the API client, and what it must know of the API's clock and memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from connector.api.client import WriteAnswer
from connector.api.envelopes import Page
from connector.budget import Lane
from connector.errors import ConnectorError

SKEW_ERROR_MS = 2_000  # `Date` has whole seconds, and the answer took its time


class Api(Protocol):
    """What sending needs of the API client."""

    @property
    def latency_s(self) -> float | None: ...

    @property
    def server_clock_skew_s(self) -> float | None: ...

    def page(self, resource: str, params: Mapping[str, str], *, lane: Lane = Lane.PULL) -> Page: ...

    def record(
        self, resource: str, record_id: str, *, lane: Lane = Lane.PULL
    ) -> dict[str, Any] | None: ...

    def post(
        self,
        resource: str,
        body: bytes,
        *,
        idempotency_key: str,
        lane: Lane = Lane.PUSH,
        first_sent_s: float | None = None,
        remembered_s: float = ...,
        patience_s: float = ...,
    ) -> WriteAnswer: ...


@dataclass(frozen=True)
class KeyMemory:
    """memory_s: how long the API surely knows an idempotency key. request_timeout_s: see states."""

    memory_s: float
    request_timeout_s: float

    @property
    def usable_s(self) -> float:
        return self.memory_s - min(self.request_timeout_s, self.memory_s / 2)


def server_ms(api: Api, now_ms: int) -> int | None:
    """The earliest the server's clock can say at `now_ms`; None where nothing is known of it."""
    skew_s = api.server_clock_skew_s
    return None if skew_s is None else now_ms + int(skew_s * 1000) - SKEW_ERROR_MS


class UnfilteredList(ConnectorError):
    """A list answered with people that weren't asked for."""

    transient = True

    def __init__(self) -> None:
        super().__init__(
            "the API didn't filter its list by email or phone, so whether this person exists "
            "can't be told; nothing was sent"
        )
