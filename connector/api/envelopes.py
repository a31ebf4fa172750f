"""The API's lists, and its answers: from bytes to values, from envelopes to one type of page.

Pure. Source: the vendor's reference, whose revisions differ. No list can be filtered or ordered by
`updatedAt`. Lists come as (newest first)
    pagination  {"success": true, "items": [...], "pagination": {"nextPageToken"?, "totalCount"?}}
    next_token  {"success": true, "items": [...], "nextPageToken": str | null}
    legacy      {"success": true, "notes": [...], "lastNote": ms | null}, next: startAfter=ms
    bare        {"prospects": [...], "totalCount": n}
and are distinguished by their keys, not by a version. An answer of unknown shape is an error: taken
for an empty page, it would silently lose rows. If only the link to the next page is unreadable, the
rows are taken, and `Page.cut` says why. `[]`, a `totalCount` of 0 and 204 prove that a list is
empty; `null`, or `"success": true` without a list, may mean the same but prove nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, Self
from urllib.parse import quote

import orjson

from connector.logs import masked, redact

# --- bodies ---------------------------------------------------------------------------------------
#
# orjson is fast and right for nearly every body. What it refuses (lone surrogates, a byte order
# mark, numbers beyond a double) or silently changes (integers over 64 bits, digits that a double
# can't hold) is parsed by the standard library instead, so that one such record never costs a page.
# Values nested deeper than either can parse are replaced by their text first.

_MESSAGE_MAX = 300  # characters
_READ_MAX = 20_000  # characters of an error text, cut before it is redacted
_INT_DIGITS_MAX = 4000  # Python refuses to read longer integers; kept as text
_DIGITS, _BEFORE_NUMBERS = b"0123456789.", b":[, \t\r\n"
_SHAPES = bytes.maketrans(  # of bytes that matter for numbers
    bytes(range(256)),
    bytes(
        ord("0") if byte in _DIGITS else ord(":") if byte in _BEFORE_NUMBERS
        else byte | 0x20 if byte in b"-eE" else ord(" ")
        for byte in range(256)
    ),
)  # fmt: skip
_DIGITS_MAX = 17  # of the shortest number that may not fit a double, period included
_LONG = (b":" + b"0" * _DIGITS_MAX, b":-" + b"0" * _DIGITS_MAX)
_SMALL = b"0e-000"  # 1e-400
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_DEPTH_MAX = 60
_DEEP = "hc-nested-too-deep"
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)


class NoContent:
    """Stands for the body of an answer without any, where a JSON value was expected."""


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
    if not _has_extreme_number(body):
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


def _has_extreme_number(body: bytes) -> bool:
    """Whether a number may be in it that a double or 64 bits can't hold. Texts may look like one,
    rarely; ids don't."""
    shape = b":" + body.translate(_SHAPES)
    if any(long in shape for long in _LONG):
        return True
    at = shape.find(_SMALL)
    while at >= 0:
        before = shape[max(0, at - _DIGITS_MAX) : at].rstrip(b"0").removesuffix(b"-")
        if not before or before.endswith(b":"):
            return True
        at = shape.find(_SMALL, at + 1)
    return False


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
    """`error` and `message` of a JSON answer, and its list of `errors`, as one line; empty if it
    has none of them."""
    if not isinstance(value, dict):
        return ""
    parts = [value.get("error"), value.get("message")]
    if isinstance(parts[0], dict):  # {"error": {"message": ...}}
        parts = [parts[0].get("code"), parts[0].get("message"), parts[1]]
    listed = value.get("errors")  # [{"field": ..., "message": ...}]
    each = map(_error_of_list, listed if isinstance(listed, list) else ())
    return _short(_joined([*parts, "; ".join(filter(None, each))]))


def _error_of_list(value: Any) -> str:
    facts = value if isinstance(value, dict) else {"message": value}
    return _joined([facts.get("field"), facts.get("message")])


def _joined(parts: list[Any]) -> str:
    texts = [part for part in parts if isinstance(part, str) and part.strip()]
    return ": ".join(dict.fromkeys(texts))


def _short(text: str) -> str:
    text = masked(text)[:_READ_MAX].encode("utf-8", "replace").decode("utf-8")
    line = redact(" ".join(text.split()))
    return line if len(line) <= _MESSAGE_MAX else line[: _MESSAGE_MAX - 1] + "…"


# --- lists ----------------------------------------------------------------------------------------

IDEMPOTENCY_KEY_MAX = 512  # characters
PAGING = frozenset({"limit", "pageToken", "startAfter"})  # the last two come from an answer
_OF_PAGES = frozenset({"pagination", "nextPageToken", "totalCount"})
_OF_ACCOUNTS = frozenset({"accountId", "permissions", "active"})


@dataclass(frozen=True)
class Endpoint:
    """One list, `GET /<name>`, and its single records, `GET /<name>/{id}`.

    item_name: the key of one record in an answer.
    parameters: every query parameter that some revision documents. Others are never sent: a
        server ignores what it doesn't know, so a misspelled filter would return everything.
    order_by, order: the field that pages are ordered by, and how; None = not documented.
    """

    name: str
    item_name: str
    parameters: frozenset[str]
    order_by: str | None = None
    order: Literal["ascending", "descending"] | None = None


PROSPECTS = Endpoint(
    name="prospects",
    item_name="prospect",
    parameters=PAGING | {"email", "phone", "name", "title", "company", "stage", "label"},
)
NOTES = Endpoint(
    name="notes",
    item_name="note",
    parameters=PAGING | {"prospectId", "userId"},
    order_by="createdAt",
    order="descending",
)
TASKS = Endpoint(
    name="tasks",
    item_name="task",
    parameters=PAGING
    | {"prospectId", "assignedTo", "userId", "incompleteOnly", "dueBefore", "dueAfter"}
    | {"assignTo"},  # assignedTo in an older revision
    order_by="dueAt",
    order="ascending",
)
MEETINGS = Endpoint(
    name="meetings",
    item_name="meeting",
    parameters=PAGING
    | {"prospectId", "ownerId", "meetingType", "meetingDateAfter", "meetingDateBefore"},
    order_by="meetingDate",
    order="descending",
)
ENDPOINTS = {endpoint.name: endpoint for endpoint in (PROSPECTS, NOTES, TASKS, MEETINGS)}
RESOURCES = tuple(ENDPOINTS)


def check_parameters(resource: str, names: Iterable[str]) -> None:
    """Raise ValueError if `resource` isn't a list, or a name isn't one of its parameters."""
    if resource not in ENDPOINTS:
        raise ValueError(f"the API has no list {resource!r}, only {', '.join(ENDPOINTS)}")
    unknown = sorted(set(names) - ENDPOINTS[resource].parameters)
    if unknown:
        raise ValueError(f"GET /{resource} has no parameter {', '.join(unknown)}")


# --- envelopes ------------------------------------------------------------------------------------

URL_PART_MAX = 32_000  # bytes, quoted; the HTTP library refuses URLs from 65,536 on


class UnknownShape(ValueError):
    """The answer is JSON, but not of the expected shape. The message says what it is instead."""


@dataclass(frozen=True)
class Page:
    """One page of a list.

    items: as sent, in order, malformed ones (null, text) included. next_params: parameters that
    give the next page; None: this is the last. total_count: rows in the whole list, if the server
    counts them. is_sure: False if there is no list, only a reason to assume an empty one.
    size_bytes: of the decoded body; 0 if not counted. cut: why a next page that the server
    announces can't be requested; else None. asked_s, asked_ms: monotonic seconds, and UTC epoch ms,
    before the request; 0 if they weren't measured.
    """

    items: list[Any]
    next_params: dict[str, str] | None
    total_count: int | None
    is_sure: bool = True
    size_bytes: int = 0
    cut: str | None = None
    asked_s: float = 0.0
    asked_ms: int = 0


class NoList(UnknownShape):
    """The answer reports success and nothing else: perhaps an empty list, which is `page`."""

    def __init__(self, page: Page) -> None:
        self.page = page
        super().__init__("it contains no list, only success")


class _UnreachablePage(ValueError):
    """There is a next page that can't be requested. The message says why."""


class NotDone(UnknownShape):
    """The answer says `success: false`."""


class NoRecord(UnknownShape):
    """The answer says `success: true`, and shows no record."""


def to_page(resource: str, body: Any, *, is_first: bool = True) -> Page:
    """The page in `body`, an answer to GET /<resource>.

    is_first: it is the list's first page, so that the list may be empty.

    Raises:
        NoList: there is no list, which may mean an empty one.
        UnknownShape: it contains no list, several candidates, or an error.
    """
    if isinstance(body, NoContent):
        return Page(items=[], next_params=None, total_count=None)
    if isinstance(body, list):
        return Page(items=body, next_params=None, total_count=None)
    _check_success(body)
    pagination = body.get("pagination")
    if pagination is not None and not isinstance(pagination, dict):
        raise UnknownShape(f"`pagination` is {_kind(pagination)}")
    total_count = _count((pagination or {}).get("totalCount"), body.get("totalCount"))
    is_absent = _reports_only_success(resource, body)
    items, key = ([], "items") if is_absent else _items(resource, body)
    next_params, cut = None, None
    try:
        next_params = _next_params(resource, body, pagination or {}, bool(items))
    except _UnreachablePage as error:
        cut = str(error)
    page = Page(
        items=items,
        next_params=next_params,
        total_count=total_count,
        is_sure=total_count == 0 or not (is_absent or body.get(key) is None),
        cut=cut,
    )
    if is_absent and not page.is_sure:
        raise NoList(page) if is_first else UnknownShape("it contains no list, only success")
    return page


def _reports_only_success(resource: str, body: dict[str, Any]) -> bool:
    """Whether an answer contains nothing that could be a list or a record."""
    parts = [value for key, value in body.items() if key != "pagination"]
    return (
        body.get("success") is True
        and not body.keys() & {"items", resource, "error"}
        and not any(isinstance(part, list | dict) for part in parts)
    )


def to_item(item_name: str, body: Any) -> dict[str, Any]:
    """The record in an answer about one: under `item`, its own name or another, alone in a list
    that isn't a page, or bare.

    Raises:
        NoRecord: it only says that all is well, or has no content at all.
        UnknownShape: there is none.
    """
    if isinstance(body, NoContent):
        raise NoRecord("it has no content")
    _check_success(body)
    for key in ("item", item_name):
        if isinstance(body.get(key), dict):
            return dict(body[key])
    if "id" in body:
        return dict(body)
    values = list(body.values())
    if not _OF_PAGES & body.keys():
        values += [value[0] for value in values if isinstance(value, list) and len(value) == 1]
    records = [value for value in values if isinstance(value, dict) and "id" in value]
    if len(records) == 1:
        return dict(records[0])
    is_success = body.get("success") is True and "error" not in body
    error = NoRecord if is_success else UnknownShape
    raise error(f"it contains no `item`, only {_names(body)}")


def to_account(body: Any) -> dict[str, Any]:
    """Key metadata of GET /auth, under `item`, bare, or in the only object of the answer.

    Raises:
        UnknownShape: there is none.
    """
    _check_success(body)
    named = [body["item"]] if "item" in body else [*body.values()]
    objects = [value for value in named if isinstance(value, dict)]
    is_wrapped = len(objects) == 1 and ("item" in body or not _OF_ACCOUNTS & body.keys())
    account = objects[0] if is_wrapped else body
    facts = {name: value for name, value in account.items() if name != "success"}
    if "error" in facts or all(value is None for value in facts.values()):
        raise UnknownShape(f"it contains no key metadata, only {_names(body)}")
    return facts


def _check_success(body: Any) -> None:
    if isinstance(body, NoContent):
        raise UnknownShape("it has no content")
    if not isinstance(body, dict):
        raise UnknownShape(f"it is {_kind(body)} where an object was expected")
    if body.get("success", True) is not True:
        raise NotDone(f"it says `success: false`: {error_message(body) or 'no reason given'}")


def _items(resource: str, body: dict[str, Any]) -> tuple[list[Any], str]:
    """The list of records and its key; null is an empty list."""
    named = [key for key in ("items", resource) if key in body]
    for key in named:
        if body[key] is not None and not isinstance(body[key], list):
            raise UnknownShape(f"`{key}` is {_kind(body[key])} where a list was expected")
    if named:
        key = max(named, key=lambda name: len(body[name] or ()))
        return body[key] or [], key
    lists = [key for key, value in body.items() if isinstance(value, list)]
    if len(lists) != 1:
        found = f"several lists ({', '.join(lists)})" if lists else "no list"
        message = error_message(body)
        reason = f": {message}" if message else ""
        raise UnknownShape(f"it contains {found}, only {_names(body)}{reason}")
    return body[lists[0]], lists[0]


def _next_params(
    resource: str, body: dict[str, Any], pagination: dict[str, Any], has_items: bool
) -> dict[str, str] | None:
    token = _token(pagination.get("nextPageToken")) or _token(body.get("nextPageToken"))
    if token:
        return {"pageToken": token}
    start_after = _start_after(body.get("last" + ENDPOINTS[resource].item_name.capitalize()))
    if start_after and has_items:  # an empty page has no last row
        return {"startAfter": start_after}
    for part in (pagination, body):
        if part.get("hasMore") is True:
            raise _UnreachablePage("it says `hasMore` but names no next page")
    return None


def _token(value: Any) -> str | None:
    """A page token; some servers send "" or false if there is none."""
    if value is None or value is False or value == "":
        return None
    if isinstance(value, str | int) and value is not True:
        return _fitting(str(value), "`nextPageToken`")
    raise _UnreachablePage(f"`nextPageToken` is {_kind(value)}")


def _start_after(value: Any) -> str | None:
    """The Unix milliseconds after which the next page starts; 0 means none."""
    if not value or isinstance(value, bool):
        return None
    if isinstance(value, int | str):
        return _fitting(str(value), "the time of the last row")
    raise _UnreachablePage(f"the time of the last row is {_kind(value)}")


def _fitting(text: str, what: str) -> str:
    """`text`, if a URL can hold it."""
    try:
        quoted = quote(text, safe="")
    except UnicodeEncodeError:
        raise _UnreachablePage(f"{what} has characters that no URL holds") from None
    if len(quoted) > URL_PART_MAX:
        raise _UnreachablePage(f"{what} is too long for a URL")
    return text


def _count(*values: Any) -> int | None:
    for value in values:
        if isinstance(value, str) and value.isdecimal():
            return int(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
            return int(value)
    return None


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", type(None): "null", bool: "a boolean"}
    return names.get(type(value), "a number")


def _names(body: dict[str, Any]) -> str:
    """The keys of an answer (never its values), for an error message."""
    shown = ", ".join(str(name)[:40] for name in list(body)[:8])
    return f"the keys {shown}" if shown else "an empty object"
