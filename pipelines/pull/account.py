"""The `account` table: whose data this is, and what the key may do. Never the key itself."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import orjson

from connector.logs import masked
from connector.source.columns import DELETED_COLUMN, HASH_COLUMN
from connector.source.values import holdable
from pipelines.destination.loader import Batch

TABLE = "account"
_SECRET = re.compile(r"(?i)key|secret|token|password")
_NAMED = ("accountId", "active", "permissions")
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

    details: what the contract doesn't name, except what could be a secret, at any depth.
    """
    known = _without_secrets(holdable(dict(facts), Counter()))
    active = known.get("active")
    details = {name: value for name, value in known.items() if name not in _NAMED}
    row = {
        "id": str(known.get("accountId") or "unknown"),
        "active": active if isinstance(active, bool) else None,
        "permissions": orjson.dumps(known.get("permissions")).decode(),
        "details": orjson.dumps(details, option=orjson.OPT_SORT_KEYS).decode(),
    }
    content = orjson.dumps(row, option=orjson.OPT_SORT_KEYS)
    row[HASH_COLUMN] = hashlib.blake2b(content, digest_size=16).hexdigest()
    return Batch(TABLE, [row], _COLUMNS)


def _without_secrets(value: Any) -> Any:
    """`value` without what is named like a secret, and without the key wherever it is quoted."""
    if isinstance(value, dict):
        kept = {name: item for name, item in value.items() if not _SECRET.search(name)}
        return {name: _without_secrets(item) for name, item in kept.items()}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return masked(value) if isinstance(value, str) else value
