"""Bytes of an answer → what they say. Pure.

orjson is fast and right for nearly every body. What it refuses (lone surrogates, a byte order
mark, numbers beyond a double) or changes without a word (integers over 64 bits become floats) is
read by the standard library instead, so that one odd record never costs a page.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

from connector.logs import masked, redact

_SAID_MAX = 300  # characters
_READ_MAX = 20_000  # of what a server says; cut before it is looked through
_INT_DIGITS_MAX = 4000  # Python refuses to read longer integers; kept as text
_LONG_DIGITS = b"0" * 19  # the shortest integer over 64 bits
_DIGITS_TO_ZERO = bytes(48 if 48 <= byte <= 57 else 32 for byte in range(256))
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)


class NoContent:
    """What a 204 holds, where a JSON value was expected."""


class NotJson(ValueError):
    """The body isn't JSON, or not all of it arrived. The message says what it looks like."""


def read_json(body: bytes) -> Any:
    """The value that `body` holds, whatever its content type claimed.

    Integers keep every digit. Bytes that aren't UTF-8 arrive as lone surrogates (U+DC80..U+DCFF)
    and numbers beyond a double (1e400, NaN) as text, for the reader to deal with.

    Raises:
        NotJson: there is no JSON value in it.
    """
    if _LONG_DIGITS not in body.translate(_DIGITS_TO_ZERO):
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            pass  # the standard library decides
    try:
        return json.loads(_text(body), parse_int=_integer, parse_float=_real, parse_constant=str)
    except (ValueError, RecursionError):
        raise NotJson(f"the answer is not JSON but {describe(body)}") from None


def _text(body: bytes) -> str:
    try:
        return body.decode(json.detect_encoding(body), "surrogatepass")
    except UnicodeDecodeError:
        return body.decode("utf-8", "surrogateescape")


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _INT_DIGITS_MAX else digits


def _real(text: str) -> float | str:
    return value if math.isfinite(value := float(text)) else text


def describe(body: bytes) -> str:
    """What kind of thing `body` is, without quoting records: for error messages."""
    if not body.strip():
        return "an empty body"
    start = body[:4096].decode("utf-8", "replace").lstrip()
    title = _TITLE.search(start)
    if title:
        return f"an HTML page titled {_short(title[1])!r}"
    if start.startswith("<"):
        return "an HTML page"
    if start.startswith(("{", "[")):
        return f"{len(body)} bytes of incomplete JSON"
    return f"{len(body)} bytes of text"


def error_text(body: bytes) -> str:
    """What an error answer says, by the API's `Error` schema; personal data is masked."""
    try:
        value = read_json(body)
    except NotJson:
        return describe(body)
    return said(value) or "no reason was given"


def said(value: Any) -> str:
    """`error` and `message` of a JSON answer, as one line; empty if it has neither."""
    if not isinstance(value, dict):
        return ""
    parts = [value.get("error"), value.get("message")]
    if isinstance(parts[0], dict):  # {"error": {"message": ...}}
        parts = [parts[0].get("code"), parts[0].get("message"), parts[1]]
    texts = [part for part in parts if isinstance(part, str) and part.strip()]
    return _short(": ".join(dict.fromkeys(texts)))


def _short(text: str) -> str:
    text = masked(text)[:_READ_MAX].encode("utf-8", "replace").decode("utf-8")
    line = redact(" ".join(text.split()))
    return line if len(line) <= _SAID_MAX else line[: _SAID_MAX - 1] + "…"
