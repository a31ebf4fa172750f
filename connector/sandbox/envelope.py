"""A page as the four known revisions of the API put it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from connector.sandbox.encoding import encode
from connector.sandbox.options import SandboxOptions

LAST_NAMES = {
    "prospects": "lastProspect",
    "notes": "lastNote",
    "tasks": "lastTask",
    "meetings": "lastMeeting",
}


@dataclass(frozen=True)
class Page:
    """rows: JSON, in list order. total: rows of the filtered list. last_ms: the last row's time."""

    rows: list[bytes]
    total: int
    token: str | None
    last_ms: int | None


def enveloped(resource: str, page: Page, options: SandboxOptions) -> bytes:
    """The body of a list's answer, in the revision that the options ask for."""
    kind = options.envelope_of(resource)
    token = {"nextPageToken": page.token} if page.token else {}
    counted = resource == "prospects" and options.total_count
    total = {"totalCount": page.total} if counted else {}
    if kind == "pagination":
        return _body({"success": True}, "items", page.rows, {"pagination": {**token, **total}})
    if kind == "next_token":
        return _body({"success": True}, "items", page.rows, {"nextPageToken": page.token})
    if kind == "legacy":
        last = {LAST_NAMES[resource]: page.last_ms}
        return _body({"success": True}, resource, page.rows, last)
    return _body({}, resource, page.rows, {**total, **token})


def _body(before: dict[str, Any], name: str, rows: list[bytes], after: dict[str, Any]) -> bytes:
    """An object with `rows` between two groups of fields, without encoding them again."""
    listed = b'"%s":[%s]' % (name.encode(), b",".join(rows))
    parts = [encode(before)[1:-1], listed, encode(after)[1:-1]]
    return b"{" + b",".join(part for part in parts if part) + b"}"
