"""Checks of a request's fields; each raises `Refused` (400) with the field's name."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
_PHONE_NOISE = re.compile(r"[\s().\-/]")
_PHONE = re.compile(r"\+?\d{8,15}")
Check = Callable[[str, Any], Any]


class Refused(Exception):
    """A request that is answered with `status` and `{"error", "message"}`, and further `facts`."""

    def __init__(self, status: int, error: str, message: str, **facts: Any) -> None:
        self.status, self._error, self._facts = status, error, facts
        super().__init__(message)

    def as_json(self) -> dict[str, Any]:
        return {"error": self._error, "message": str(self), **self._facts}


def bad_request(message: str) -> Refused:
    return Refused(400, "Bad request", message)


def email_key(value: Any) -> str | None:
    """Lower case, without surrounding spaces; None if it isn't an email."""
    if not isinstance(value, str) or not _EMAIL.fullmatch(value.strip()):
        return None
    return value.strip().lower()


def phone_key(value: Any) -> str | None:
    """`+` and 8 to 15 digits, ten digits being a US number; None if it isn't a phone."""
    if not isinstance(value, str):
        return None
    bare = _PHONE_NOISE.sub("", value)
    if not _PHONE.fullmatch(bare):
        return None
    if bare.startswith("+"):
        return bare
    return f"+1{bare}" if len(bare) == 10 else f"+{bare}"


CONTACT_KEYS: dict[str, Callable[[Any], str | None]] = {"email": email_key, "phone": phone_key}


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


def _null_or(expected: str, is_right: Callable[[Any], bool]) -> Check:
    def check(name: str, value: Any) -> Any:
        if value is not None and not is_right(value):
            raise bad_request(f"{name}: expected {expected}, got {type(value).__name__}")
        return value

    return check


def one_of(*allowed: str) -> Check:
    return _null_or(f"one of {', '.join(allowed)}", allowed.__contains__)


def _is_list_of(kind: type, value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, kind) for each in value)


text = _null_or("a string", lambda value: isinstance(value, str))
flag = _null_or("true or false", lambda value: isinstance(value, bool))
plain_object = _null_or("an object", lambda value: isinstance(value, dict))
list_of_objects = _null_or("a list of objects", partial(_is_list_of, dict))
_list_of_strings = _null_or("a list of strings", partial(_is_list_of, str))


def required_text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise bad_request(f"{name}: expected a string that isn't blank")
    return value


def labels(name: str, value: Any) -> list[str]:
    """A list of strings, or one comma-separated string; null is the empty list."""
    if isinstance(value, str):
        return [label.strip() for label in value.split(",") if label.strip()]
    return _list_of_strings(name, value) or []


def milliseconds(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise bad_request(f"{name}: expected Unix milliseconds")
    return value


def milliseconds_or_iso(name: str, value: Any) -> int:
    """Milliseconds, also from an ISO 8601 string (without an offset: UTC)."""
    if not isinstance(value, str):
        return milliseconds(name, value)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise bad_request(f"{name}: expected Unix milliseconds or ISO 8601") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def time_zone(name: str, value: Any) -> str:
    try:
        return ZoneInfo(required_text(name, value)).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise bad_request(f"{name}: {value!r} is not an IANA time zone") from None
