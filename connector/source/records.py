"""Items of a page → records with an id, and the odd ones that are none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from dlt.common.schema.typing import TColumnSchema

ODD_TABLE = "_hc_odd_records"
ODD_COLUMNS: dict[str, TColumnSchema] = {
    "id": {"name": "id", "data_type": "text", "nullable": False, "primary_key": True},
    "resource": {"name": "resource", "data_type": "text"},
    "content": {"name": "content", "data_type": "text"},
}


def record_id(item: Any) -> str | None:
    """The id of `item` as text, by which its row is known; None where it can't be a row.

    Integers are ids too (an id is a name, not a number: 7 and "7" are one row).
    """
    value = item.get("id") if isinstance(item, dict) else None
    if type(value) is str:
        return value or None
    return str(value) if type(value) is int else None


def split(items: Iterable[Any]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Records with an id, and the other items, each in order; nothing is dropped."""
    records: list[dict[str, Any]] = []
    odd: list[Any] = []
    for item in items:
        if record_id(item) is None:
            odd.append(item)
        else:
            records.append(item)
    return records, odd


def odd_rows(resource: str, items: Iterable[Any]) -> list[dict[str, Any]]:
    """A row of ODD_TABLE for each item that is no record, known by its content.

    So nothing that was read is lost, and the same oddity read again is the same row.
    """
    rows = {}
    for item in items:
        content = json.dumps(item, sort_keys=True)  # ASCII: NUL and surrogates stay escaped
        digest = hashlib.blake2b(f"{resource}\n{content}".encode(), digest_size=16).hexdigest()
        rows[digest] = {"id": digest, "resource": resource, "content": content}
    return list(rows.values())
