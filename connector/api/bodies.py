"""The bytes of an answer, parsed. Pure.

orjson is fast and right for nearly every body. What it refuses (lone surrogates, a byte order
mark, numbers beyond a double) or silently changes (integers over 64 bits, digits that a double
can't hold) is parsed by the standard library instead, so that one such record never costs a page.
Values nested deeper than either can parse are replaced by their text first.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any, Self

import orjson

from connector.logs import masked, redact

_MESSAGE_MAX = 300  # characters
_READ_MAX = 20_000  # characters of an error text, cut before it is redacted
_INT_DIGITS_MAX = 4000  # Python refuses to read longer integers; kept as text
_LONG_DIGITS = b"0" * 17  # the shortest number that may not fit a double, period included
_SMALL = b"0e-000"  # 1e-400
_SHAPES = bytes(
    48 if byte in b"0123456789." else {69: 101, 101: 101, 45: 45}.get(byte, 32)
    for byte in range(256)
)
_SUSPECT = re.compile(rb"[:\[,\s]-?(?:[\d.]{17}|\d++(?:\.\d++)?[eE]-\d{3})")
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_DEPTH_MAX = 60
_DEEP = "hc-nested-too-deep"
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)


class NoContent:
    """Stands for the body of a 204, where a JSON value was expected."""


class NotJson(ValueError):
    """The body isn't JSON, or is incomplete. The message says what it looks like."""


def read_json(body: bytes) -> Any:
    """The value in `body`, whatever its content type claims.

    Integers keep every digit. Bytes that aren't UTF-8 become lone surrogates (U+DC80..U+DCFF),
    1e400 and NaN become text, and other values that a double or the parser can't hold KeptAsText.

    Raises:
        NotJson: there is no JSON value in it.
    """
    if _is_deep(body):
        return _flat(body)
    shape = body.translate(_SHAPES)
    is_suspect = (_LONG_DIGITS in shape or _SMALL in shape) and _SUSPECT.search(b" " + body)
    if not is_suspect:
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            pass  # the standard library decides
    try:
        return _loads_exactly(body)
    except RecursionError:  # a bracket inside a string hid the depth
        return _flat(body)
    except ValueError:
        raise NotJson(f"the answer is not JSON but {describe(body)}") from None


def _flat(body: bytes) -> Any:
    try:
        return _loads_exactly(_flattened(body), object_hook=_deep_as_text)
    except (ValueError, RecursionError):
        raise NotJson(f"the answer is not JSON but {describe(body)}") from None


def _loads_exactly(body: bytes, **hooks: Any) -> Any:
    return json.loads(
        _text(body), parse_int=_integer, parse_float=_real, parse_constant=str, **hooks
    )


def _is_deep(body: bytes) -> bool:
    """Whether a value is nested deeper than _DEPTH_MAX. Looks at brackets only and removes the
    innermost pairs in each round: a few milliseconds per megabyte."""
    brackets = body.translate(None, _NO_BRACKETS)
    for _ in range(_DEPTH_MAX):
        fewer = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(fewer) == len(brackets):
            return False
        brackets = fewer
    return True


def _flattened(body: bytes) -> bytes:
    """`body` with each value that is nested too deep replaced by its text."""
    parts: list[bytes] = []
    depth, done, deep_from = 0, 0, -1
    for token in _TOKEN.finditer(body):
        sign = token[0][:1]
        if sign in b"[{":
            depth += 1
            if depth == _DEPTH_MAX + 1:
                parts.append(body[done : token.start()])
                deep_from = token.start()
        elif sign in b"]}":
            depth -= 1
            if depth == _DEPTH_MAX and deep_from >= 0:
                deep = body[deep_from : token.end()].decode("utf-8", "surrogateescape")
                parts.append(json.dumps({_DEEP: deep}).encode())
                done, deep_from = token.end(), -1
    if depth or deep_from >= 0:
        raise ValueError("a value doesn't end")
    return b"".join([*parts, body[done:]])


def _deep_as_text(value: dict[str, Any]) -> Any:
    if value.keys() == {_DEEP}:
        return KeptAsText(value[_DEEP], "nested too deep, kept as text")
    return value


class KeptAsText(str):
    """A value that Python's types can't hold, as it was sent. why: the warning."""

    why: str

    def __new__(cls, text: str, why: str) -> Self:
        made = super().__new__(cls, text)
        made.why = why
        return made


def _text(body: bytes) -> str:
    try:
        return body.decode(json.detect_encoding(body), "surrogatepass")
    except UnicodeDecodeError:
        return body.decode("utf-8", "surrogateescape")


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _INT_DIGITS_MAX else digits


def _real(text: str) -> float | str:
    value = float(text)
    if not math.isfinite(value):
        return text
    if len(text) < 17 and "e-" not in text.lower():
        return value
    try:
        exact = Decimal(text)
        same = exact in (Decimal(repr(value)), Decimal(f"{value:.17g}"))
    except ArithmeticError:  # an exponent of more digits than any number has
        same = False
    return value if same else KeptAsText(text, "number too precise for a double, kept as text")


def describe(body: bytes) -> str:
    """What kind of body this is, without quoting records; for error messages."""
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
    """The message of an error answer, by the API's `Error` schema; personal data is masked."""
    try:
        value = read_json(body)
    except NotJson:
        return describe(body)
    return error_message(value) or "no reason was given"


def error_message(value: Any) -> str:
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
    return line if len(line) <= _MESSAGE_MAX else line[: _MESSAGE_MAX - 1] + "…"
