"""The fields that the API contract names, and the types their columns have from the first pull on.

Types are dlt's. Every field but `id` may be missing or null in a record. Source: the vendor's
reference; fields that are not here land too, typed by their first value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

HASH_COLUMN = "_hc_hash"
DELETED_COLUMN = "_hc_deleted_at"
UNLISTED_COLUMN = "_hc_unlisted_at"
SEEN_COLUMN = "_hc_seen_at"
FIELD_HINT = "x-hc-field"

RESOURCES = ("prospects", "notes", "tasks", "meetings")

# Unix milliseconds wherever they appear, also on a resource whose reference doesn't name them
MS_FIELDS = frozenset({"createdAt", "updatedAt", "dueAt", "completedAt", "meetingDate"})

_NAMES = {
    "prospects": (
        "id firstName lastName email phone currentStage currentStageId labels title company "
        "createdAt updatedAt"
    ),
    "notes": (
        "id prospectId userId body createdAt createdByApi createdByApiKeyId createdByApiKeyName "
        "mentions pin fileUrl"
    ),
    "tasks": (
        "id prospectId task assignedTo assignedBy createdBy createdAt updatedAt dueAt completedAt "
        "createdByApi createdByApiKeyId createdByApiKeyName"
    ),
    "meetings": (
        "id prospectId meetingDate timeZone meetingType ownerId location notes createdBy "
        "createdByApi createdByApiKeyId createdByApiKeyName createdAt updatedAt"
    ),
}
_NOT_TEXT = {
    **dict.fromkeys(MS_FIELDS, "timestamp"),
    "labels": "json",
    "mentions": "json",
    "createdByApi": "bool",
    "pin": "bool",
}

CONTRACT: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        resource: MappingProxyType({name: _NOT_TEXT.get(name, "text") for name in names.split()})
        for resource, names in _NAMES.items()
    }
)
"""Resource → API name of each field → dlt data type."""


def record_id(item: Any) -> str | None:
    """The id of `item` as text, the key of its row; None if it has no usable one.

    Integers are ids too (an id is a name, not a number: 7 and "7" are one row).
    """
    value = item.get("id") if isinstance(item, dict) else None
    if type(value) is str:
        return value or None
    return str(value) if type(value) is int else None


def split_malformed(items: Iterable[Any]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Records with an id, and the malformed ones, each in order; nothing is dropped."""
    records: list[dict[str, Any]] = []
    malformed: list[Any] = []
    for item in items:
        if record_id(item) is None:
            malformed.append(item)
        else:
            records.append(item)
    return records, malformed
