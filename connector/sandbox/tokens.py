"""Page tokens: opaque to clients, a place in one list and the time it was given out."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import orjson

from connector.sandbox.errors import bad_request

Place = (
    int | tuple[Any, int]
)  # rows already given, or (sort key, serial number) of the last of them


def write_token(resource: str, place: Place, now_s: float) -> str:
    payload = {"r": resource, "p": _without_infinity(place), "t": now_s}
    return base64.urlsafe_b64encode(orjson.dumps(payload)).rstrip(b"=").decode()


def read_token(token: str, resource: str, now_s: float, ttl_s: float | None) -> Place:
    """The place behind a token.

    Raises:
        Refused: 400; not a token of this list, or older than `ttl_s` seconds.
    """
    try:
        payload = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        place, given_s = payload["p"], payload["t"]
        known = payload["r"] == resource
    except (ValueError, binascii.Error, KeyError, TypeError):
        known = False
    if not known:
        raise bad_request("pageToken: not a token of this list")
    if ttl_s is not None and now_s - given_s > ttl_s:
        raise bad_request("pageToken: this token has expired, start again without it")
    return place if isinstance(place, int) else (_with_infinity(place[0]), int(place[1]))


def _without_infinity(place: Place) -> Any:
    """JSON has no infinities, which are the sort keys of rows without a time."""
    if isinstance(place, int):
        return place
    key, serial = place
    return [str(key) if key in (float("inf"), float("-inf")) else key, serial]


def _with_infinity(key: Any) -> Any:
    return float(key) if key in ("inf", "-inf") else key
