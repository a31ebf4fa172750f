"""One page of one list: limits, filters, page tokens, and the answer's envelope."""

from __future__ import annotations

import base64
import binascii
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from connector.sandbox.generated_records import SORT_FIELDS
from connector.sandbox.list_filters import FILTERS, OLDER_FILTERS, Params, wanted_by
from connector.sandbox.request_checks import bad_request
from connector.sandbox.sandbox_options import SandboxOptions
from connector.sandbox.store import Store
from connector.sandbox.table import Table, encode, matching

LAST_NAMES = {
    "prospects": "lastProspect",
    "notes": "lastNote",
    "tasks": "lastTask",
    "meetings": "lastMeeting",
}
PageStart = int | tuple[Any, int]  # rows returned before, or (sort key, serial) of the last of them
_FILTERED_KEPT = 8  # filtered lists that are cached between their pages


@dataclass(frozen=True)
class Page:
    """rows: JSON, in list order. total: rows of the filtered list. last_ms: the last row's time."""

    rows: list[bytes]
    total: int
    token: str | None
    last_ms: int | None


@dataclass(frozen=True)
class _Rows:
    """A list, filtered or not, in its order. filtered: serial numbers; None = all of the table."""

    table: Table
    filtered: Sequence[int] | None
    sort_field: str

    def __len__(self) -> int:
        return len(self.table if self.filtered is None else self.filtered)

    def between(self, start: int, stop: int) -> list[int]:
        if self.filtered is None:
            return self.table.serials_between(start, stop)
        return list(self.filtered[start:stop])

    def count_until(self, key: Any, serial: int) -> int:
        """How many rows come before (key, serial) or are there."""
        before = self.table.index_after(key, serial)
        if self.filtered is None:
            return before
        indexes = (self.table.index_after(self.table.key(row), row) for row in self.filtered)
        return sum(1 for index in indexes if index <= before)

    def time_ms(self, serial: int) -> int | None:
        record = self.table.record(serial)
        is_record = isinstance(record, dict)
        value = record.get(self.sort_field) if is_record else self.table.key(serial)
        return value if isinstance(value, int) else None


class Listing:
    """Answers `GET /<resource>` in the revision that the options ask for."""

    def __init__(self, store: Store, options: SandboxOptions) -> None:
        self._store, self._options = store, options
        self._filtered: OrderedDict[tuple[Any, ...], list[int]] = OrderedDict()

    def answer(self, resource: str, params: Params, now_s: float) -> bytes:
        """The body of the answer.

        Raises:
            Refused: 400 for a bad limit, filter or page token, or one that has expired.
        """
        limit = self._limit(resource, params)
        older = OLDER_FILTERS.get(resource, {}) if self._is_legacy(resource) else {}
        filters = [(older.get(name, name), value) for name, value in params]
        filters = [pair for pair in filters if pair[0] in FILTERS[resource]]
        with self._store.lock:
            table = self._store.table(resource)
            filtered = self._serials(table, resource, filters)
            rows = _Rows(table, filtered, SORT_FIELDS[resource])
            start = self._start(rows, resource, dict(params), now_s)
            page = self._page(rows, resource, start, limit, now_s)
        return enveloped(resource, page, self._options)

    def unknown(self, resource: str, params: Params) -> list[str]:
        """Names of parameters that this revision of this list doesn't know."""
        known = set(FILTERS[resource]) | {"limit"}
        if self._is_legacy(resource):
            known |= set(OLDER_FILTERS.get(resource, ())) | {"startAfter"}
        elif self._is_paged(resource):
            known.add("pageToken")
        return [name for name, _ in params if name not in known]

    def _is_legacy(self, resource: str) -> bool:
        return self._options.envelope_of(resource) == "legacy"

    def _is_paged(self, resource: str) -> bool:
        return resource != "prospects" or self._options.prospects_paged

    def _limit(self, resource: str, params: Params) -> int | None:
        """Rows on a page; None = all."""
        options = self._options
        given = next((value for name, value in params if name == "limit"), None)
        if given is not None and (not given.isdecimal() or int(given) < 1):
            raise bad_request(f"limit: expected a whole number of at least 1, got {given!r}")
        limit = options.default_limit_of(resource) if given is None else int(given)
        maximum, policy = options.max_limit_of(resource), options.over_limit_of(resource)
        if maximum is None or policy == "unbounded" or limit <= maximum:
            return limit
        if policy == "refuse":
            raise bad_request(f"limit: must be at most {maximum}, got {limit}")
        return maximum

    def _serials(self, table: Table, resource: str, filters: Params) -> Sequence[int] | None:
        """The serial numbers of a filtered list; None = all rows."""
        test = wanted_by(resource, filters)
        if test is None:
            return None
        key = (resource, table.version, *filters)
        if key not in self._filtered:
            contact = next((pair for pair in filters if pair[0] in ("email", "phone")), None)
            if contact is None:
                self._filtered[key] = matching(table, test)
            else:
                candidates = table.in_list_order(self._store.prospects_by(*contact))
                self._filtered[key] = [row for row in candidates if test(table.record(row))]
            if len(self._filtered) > _FILTERED_KEPT:
                self._filtered.popitem(last=False)
        return self._filtered[key]

    def _start(self, rows: _Rows, resource: str, given: dict[str, str], now_s: float) -> int:
        """How many rows of the list were returned before."""
        if not self._is_paged(resource):
            return 0
        if self._is_legacy(resource):
            if "startAfter" not in given:
                return 0
            after = given["startAfter"]
            if not after.lstrip("-").isdecimal():
                raise bad_request(f"startAfter: expected Unix milliseconds, got {after!r}")
            # all that share the millisecond: those of them that weren't returned yet are lost
            return rows.count_until(*rows.table.end_of(int(after)))
        if "pageToken" not in given:
            return 0
        start = read_token(given["pageToken"], resource, now_s, self._options.token_ttl_s)
        return start if isinstance(start, int) else rows.count_until(*start)

    def _page(
        self, rows: _Rows, resource: str, start: int, limit: int | None, now_s: float
    ) -> Page:
        total = len(rows)
        stop = total if limit is None else min(start + limit, total)
        serials = rows.between(start, stop)
        if serials and self._is_legacy(resource) and rows.time_ms(serials[-1]) is None:
            # no page can start at a row without a time, so the page that reaches them has them all
            stop, serials = total, rows.between(start, total)
        token = last_ms = None
        if serials and stop < total and self._is_paged(resource):
            last = serials[-1]
            offset = self._options.token_kind == "offset"  # noqa: S105 - no password
            token = write_token(resource, stop if offset else (rows.table.key(last), last), now_s)
            last_ms = rows.time_ms(last)
        return Page([rows.table.encoded(serial) for serial in serials], total, token, last_ms)


def write_token(resource: str, start: PageStart, now_s: float) -> str:
    payload = {"r": resource, "p": _without_infinity(start), "t": now_s}
    return base64.urlsafe_b64encode(orjson.dumps(payload)).rstrip(b"=").decode()


def read_token(token: str, resource: str, now_s: float, ttl_s: float | None) -> PageStart:
    """Where a token's page starts. Refused: of another list, or older than `ttl_s` seconds."""
    try:
        payload = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        start, issued_s = payload["p"], payload["t"]
        known = payload["r"] == resource
    except (ValueError, binascii.Error, KeyError, TypeError):
        known = False
    if not known:
        raise bad_request("pageToken: not a token of this list")
    if ttl_s is not None and now_s - issued_s > ttl_s:
        raise bad_request("pageToken: this token has expired, start again without it")
    return start if isinstance(start, int) else (_with_infinity(start[0]), int(start[1]))


def _without_infinity(start: PageStart) -> Any:
    """JSON has no infinities, which are the sort keys of rows without a time."""
    if isinstance(start, int):
        return start
    key, serial = start
    return [str(key) if key in (float("inf"), float("-inf")) else key, serial]


def _with_infinity(key: Any) -> Any:
    return float(key) if key in ("inf", "-inf") else key


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
