"""What the last pull knows of prospects: who exists, who was deleted, what was edited since."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from connector.upsert.outbox.comparing import READ_AS, compare
from connector.upsert.outbox.receipts import Receipt


@dataclass(frozen=True)
class PulledProspect:
    """One prospect as the destination has it. fields: by API name. Times: UTC epoch ms."""

    id: str
    updated_at_ms: int | None
    deleted_at_ms: int | None
    fields: Mapping[str, Any] = field(default_factory=dict)


class Pulled(Protocol):
    """A look into the destination. Where nothing was pulled yet, every answer is empty."""

    complete_ms: int | None
    """When the last complete scan began (UTC epoch ms): whoever isn't there, didn't exist then."""

    def by_id(self, ids: Collection[str]) -> dict[str, PulledProspect]:
        """Those of `ids` that the destination has, deleted ones included; without `fields`."""
        ...

    def with_fields(self, ids: Collection[str]) -> dict[str, PulledProspect]:
        """The same with `fields`."""
        ...

    def by_email(self, emails: Collection[str]) -> dict[str, frozenset[str]]:
        """email (casefolded) → ids of the living prospects that have it."""
        ...

    def by_phone(self, phones: Collection[str]) -> dict[str, frozenset[str]]:
        """phone (E.164) → ids of the living prospects that have it."""
        ...


class NothingPulled:
    """A destination that has no prospects."""

    complete_ms: int | None = None

    def by_id(self, ids: Collection[str]) -> dict[str, PulledProspect]:  # noqa: ARG002
        return {}

    def with_fields(self, ids: Collection[str]) -> dict[str, PulledProspect]:  # noqa: ARG002
        return {}

    def by_email(self, emails: Collection[str]) -> dict[str, frozenset[str]]:  # noqa: ARG002
        return {}

    def by_phone(self, phones: Collection[str]) -> dict[str, frozenset[str]]:  # noqa: ARG002
        return {}


def is_gone(accepted_ms: int, pulled: PulledProspect | None, complete_ms: int | None) -> bool:
    """Whether the last pull shows that a prospect was deleted after `accepted_ms`; see below."""
    if pulled is None:
        return complete_ms is not None and complete_ms > accepted_ms
    return pulled.deleted_at_ms is not None and pulled.deleted_at_ms > accepted_ms


def is_suspect(
    accepted_ms: int,
    accepted_updated_at_ms: int | None,
    pulled: PulledProspect | None,
    complete_ms: int | None,
) -> bool:
    """Whether the last pull shows something newer than what was accepted last.

    accepted_ms, accepted_updated_at_ms: when it was accepted, by our clock and by `updatedAt`.
    pulled: None where the destination has no such prospect. complete_ms: see `Pulled`.
    """
    if pulled is None or is_gone(accepted_ms, pulled, complete_ms):
        return is_gone(accepted_ms, pulled, complete_ms)
    if pulled.updated_at_ms is None or accepted_updated_at_ms is None:
        return False
    return pulled.updated_at_ms > accepted_updated_at_ms


def why_stale(
    receipt: Receipt, pulled: PulledProspect | None, payload: Mapping[str, Any]
) -> str | None:
    """Why a suspect's payload, though accepted last, is to be sent again; None if it holds."""
    if pulled is None or (pulled.deleted_at_ms or 0) > receipt.accepted_ms:
        return "the prospect was deleted since"
    readable = {
        name: value for name, value in payload.items() if READ_AS.get(name, name) in pulled.fields
    }
    differs = compare(readable, pulled.fields).differs
    return f"{', '.join(differs)} changed in HiringCenter since" if differs else None
