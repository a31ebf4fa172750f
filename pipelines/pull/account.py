"""The `account` table: whose data this is, and what the key may do. Never the key itself."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import orjson

from connector.source.columns import DELETED_COLUMN, HASH_COLUMN
from pipelines.destination.batches import Batch

TABLE = "account"
_SECRET = re.compile(r"(?i)key|secret|token|password")
_COLUMNS: dict[str, dict[str, Any]] = {
    "id": {"name": "id", "data_type": "text", "nullable": False, "primary_key": True},
    "active": {"name": "active", "data_type": "bool"},
    "permissions": {"name": "permissions", "data_type": "json"},
    "details": {"name": "details", "data_type": "json"},
    HASH_COLUMN: {"name": HASH_COLUMN, "data_type": "text"},
    DELETED_COLUMN: {"name": DELETED_COLUMN, "data_type": "timestamp"},
}


def account_batch(facts: Mapping[str, Any]) -> Batch:
    """The one row of the account that `facts` (of GET /auth) describe.

    details: what the contract doesn't name, except what could be a secret.
    """
    active = facts.get("active")
    details = {
        name: value
        for name, value in facts.items()
        if name not in ("accountId", "active", "permissions") and not _SECRET.search(name)
    }
    row = {
        "id": str(facts.get("accountId") or "unknown"),
        "active": active if isinstance(active, bool) else None,
        "permissions": orjson.dumps(facts.get("permissions")).decode(),
        "details": orjson.dumps(details, option=orjson.OPT_SORT_KEYS).decode(),
    }
    content = orjson.dumps(row, option=orjson.OPT_SORT_KEYS)
    row[HASH_COLUMN] = hashlib.blake2b(content, digest_size=16).hexdigest()
    return Batch(TABLE, [row], _COLUMNS)
