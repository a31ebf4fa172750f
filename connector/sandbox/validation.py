"""Checks of write payloads, field by field. Each raises `Refused` (400) with the field's name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson

from connector.sandbox.errors import bad_request

Check = Callable[[str, Any], Any]


def json_object(body: bytes) -> dict[str, Any]:
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise bad_request("the body is not JSON") from None
    if not isinstance(payload, dict):
        raise bad_request("the body must be a JSON object")
    return payload


def checked(
    payload: Mapping[str, Any], checks: Mapping[str, Check], required: Collection[str]
) -> dict[str, Any]:
    """The known fields of a payload as their checks return them; fields left out stay out."""
    missing = [name for name in required if payload.get(name) in (None, "")]
    if missing:
        raise bad_request(f"{missing[0]}: is required")
    return {name: check(name, payload[name]) for name, check in checks.items() if name in payload}


def text(name: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise bad_request(f"{name}: expected a string, got {type(value).__name__}")
    return value


def required_text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise bad_request(f"{name}: expected a string that isn't blank")
    return value


def flag(name: str, value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise bad_request(f"{name}: expected true or false")
    return value


def plain_object(name: str, value: Any) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise bad_request(f"{name}: expected an object")
    return value


def list_of_objects(name: str, value: Any) -> list[Any] | None:
    if value is not None and not (
        isinstance(value, list) and all(isinstance(each, dict) for each in value)
    ):
        raise bad_request(f"{name}: expected a list of objects")
    return value


def labels(name: str, value: Any) -> list[str]:
    """A list of strings, or one comma-separated string; null is the empty list."""
    if isinstance(value, str):
        return [label.strip() for label in value.split(",") if label.strip()]
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(label, str) for label in value):
        raise bad_request(f"{name}: expected a list of strings")
    return value


def one_of(*allowed: str) -> Check:
    def check(name: str, value: Any) -> Any:
        if value is not None and value not in allowed:
            raise bad_request(f"{name}: expected one of {', '.join(allowed)}")
        return value

    return check


def milliseconds(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise bad_request(f"{name}: expected Unix milliseconds")
    return value


def milliseconds_or_iso(name: str, value: Any) -> int:
    """Milliseconds, also of an ISO 8601 string (without an offset: UTC)."""
    if not isinstance(value, str):
        return milliseconds(name, value)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise bad_request(f"{name}: expected Unix milliseconds or ISO 8601") from None
    return int(
        (moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo("UTC"))).timestamp() * 1000
    )


def time_zone(name: str, value: Any) -> str:
    try:
        return ZoneInfo(required_text(name, value)).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise bad_request(f"{name}: {value!r} is not an IANA time zone") from None
