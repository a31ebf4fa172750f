"""What sending needs of the API client, and what it must know of the API's clock and memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from connector.api.client import WriteAnswer
from connector.api.envelopes import Page
from connector.budget import Lane
from connector.errors import ConnectorError
from connector.upsert.outbox.outbox import LearntMemory, key_is_remembered

SKEW_ERROR_MS = 2_000  # `Date` has whole seconds, and the answer took its time


class Api(Protocol):
    """What sending needs of the API client."""

    @property
    def latency_s(self) -> float | None: ...

    def server_now_s(self) -> float | None: ...

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


@dataclass
class KeyMemory:
    """How long the API remembers an idempotency key, as far as that is known.

    trusted_s: how long a key is trusted without evidence. request_timeout_s: see
    `states.key_is_remembered`. learnt: what answers to repeated writes have shown so far.
    """

    trusted_s: float
    request_timeout_s: float
    learnt: LearntMemory = field(default_factory=LearntMemory)

    @property
    def memory_s(self) -> float:
        if self.learnt.forgets:
            return 0.0
        return max(self.trusted_s, self.learnt.remembered_s)

    @property
    def usable_s(self) -> float:
        return self.memory_s - min(self.request_timeout_s, self.memory_s / 2)

    def learn(self, age_s: float, remembered: bool | None) -> bool:
        """Learn from an answer, see `LearntMemory.after`; whether it was news."""
        before, self.learnt = self.learnt, self.learnt.after(age_s, remembered)
        return self.learnt != before

    def is_sure(self, age_s: float) -> bool:
        """Whether the API surely still knows a key that was first sent `age_s` ago."""
        return key_is_remembered(age_s, self.memory_s, self.request_timeout_s)


def server_ms(api: Api) -> int | None:
    """The earliest the server's clock can say now; None where nothing is known of it."""
    now_s = api.server_now_s()
    return None if now_s is None else int(now_s * 1000) - SKEW_ERROR_MS


class Untold(ConnectorError):
    """Whether something is in HiringCenter already can't be told; it was not sent."""

    transient = True


class UnfilteredList(Untold):
    """A list answered with people that weren't asked for."""

    def __init__(self) -> None:
        super().__init__(
            "the API didn't filter its list by email, phone or name, so whether this person exists "
            "isn't known; nothing was sent"
        )


class LongList(Untold):
    """A person has more notes (tasks, meetings) than are looked through. `kind`, `seen`."""

    def __init__(self, *, kind: str, seen: int) -> None:
        self.kind, self.seen = kind, seen
        super().__init__(
            f"this person has more than {seen} {kind}, so whether it is among them isn't known; "
            "it was not sent. Look at the person in HiringCenter, and push the row with --force "
            "if it is missing"
        )
