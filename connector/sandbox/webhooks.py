"""Webhooks as far as the contract knows them: subscribing, and polling instead of being called."""

from __future__ import annotations

import re
import secrets
import uuid
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import orjson

from connector.sandbox import validation as check
from connector.sandbox.errors import bad_request
from connector.sandbox.filters import Params
from connector.sandbox.records import Record
from connector.sandbox.store import Store

EVENT_TYPES = ("prospect.created", "prospect.updated")
POLLED = 25
_TIME_FIELDS = {"createdAt", "updatedAt"}


def subscribe(payload: dict[str, Any]) -> bytes:
    """Ids and the secret of a new subscription.

    Raises:
        Refused: 400 for a missing URL or an unknown event type.
    """
    checks = {"hookUrl": check.required_text, "eventType": check.one_of(*EVENT_TYPES)}
    check.checked(payload, checks, required=checks)
    made = {"subscriptionId": uuid.uuid4().hex, "hookId": uuid.uuid4().hex}
    return orjson.dumps({**made, "endpointSecret": f"whsec_{secrets.token_hex(24)}"})


def poll(store: Store, params: Params) -> bytes:
    """The latest prospects, flat, in snake_case, with ISO 8601 times.

    Raises:
        Refused: 400 for a missing or unknown event type.
    """
    event_type = dict(params).get("eventType")
    if event_type not in EVENT_TYPES:
        raise bad_request(f"eventType: expected one of {', '.join(EVENT_TYPES)}")
    with store.lock:
        table = store.table("prospects")
        records = [table.record(serial) for serial in islice(table.serials(), POLLED)]
    return orjson.dumps([_flat(record) for record in records if isinstance(record, dict)])


def _flat(record: Record) -> dict[str, Any]:
    return {
        re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(): _scalar(name, value)
        for name, value in record.items()
    }


def _scalar(name: str, value: Any) -> Any:
    if name in _TIME_FIELDS and isinstance(value, int):
        return datetime.fromtimestamp(value / 1000, UTC).isoformat(timespec="milliseconds")
    if isinstance(value, list):
        return ", ".join(str(each) for each in value)
    return orjson.dumps(value).decode() if isinstance(value, dict) else value
