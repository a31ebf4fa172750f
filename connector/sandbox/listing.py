"""One page of one list: limits, page tokens, the answer's envelope, and filters."""

from __future__ import annotations

import base64
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from connector.sandbox.generated_records import Record
from connector.sandbox.request_checks import CONTACT_KEYS, bad_request
from connector.sandbox.sandbox_options import DEFAULT_LIMITS, SandboxOptions
from connector.sandbox.store import Store, Table, encode

MAX_LABELS = 10
FILTERS: dict[str, set[str]] = {
    "prospects": {"email", "phone", "name", "title", "company", "stage", "label"},
    "notes": {"prospectId", "userId"},
    "tasks": {"prospectId", "assignedTo", "userId", "incompleteOnly", "dueBefore", "dueAfter"},
    "meetings": {"prospectId", "ownerId", "meetingType", "meetingDateAfter", "meetingDateBefore"},
}  # fmt: skip
OLDER_FILTERS = {"tasks": {"assignTo": "assignedTo"}}
Params = list[tuple[str, str]]
Test = Callable[[Record], bool]
Rows = Table | list[int]  # serial numbers, in list order
PageStart = int | tuple[Any, int]  # rows returned before, or (sort key, serial) of the last of them
_FILTERED_KEPT = 8  # filtered lists that are cached between their pages


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
            rows = self._rows(table, resource, filters)
            start = self._start(table, rows, resource, dict(params), now_s)
            return self._page(table, rows, resource, start, limit, now_s)

    def known_parameters(self, resource: str) -> set[str]:
        """Names of the parameters that this revision of this list knows."""
        known = FILTERS[resource] | {"limit"}
        if self._is_legacy(resource):
            return known | set(OLDER_FILTERS.get(resource, ())) | {"startAfter"}
        return known | {"pageToken"} if self._is_paged(resource) else known

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
        limit = DEFAULT_LIMITS[resource] if given is None else int(given)
        maximum, policy = options.max_limit_of(resource), options.over_limit_of(resource)
        if maximum is None or policy == "unbounded" or limit <= maximum:
            return limit
        if policy == "refuse":
            raise bad_request(f"limit: must be at most {maximum}, got {limit}")
        return maximum

    def _rows(self, table: Table, resource: str, filters: Params) -> Rows:
        """The rows that the filters accept, in list order; without filters, the table itself."""
        test = wanted_by(resource, filters)
        if test is None:
            return table
        key = (resource, table.version, *filters)
        if key not in self._filtered:
            contact = next((pair for pair in filters if pair[0] in ("email", "phone")), None)
            serials: Iterable[int] = table.serials()
            if contact is not None:
                serials = table.in_list_order(self._store.prospects_by(*contact))
            records = ((row, table.record(row)) for row in serials)
            self._filtered[key] = [row for row, it in records if isinstance(it, dict) and test(it)]
            if len(self._filtered) > _FILTERED_KEPT:
                self._filtered.popitem(last=False)
        return self._filtered[key]

    def _start(
        self, table: Table, rows: Rows, resource: str, given: dict[str, str], now_s: float
    ) -> int:
        """How many rows of the list were returned before."""
        if self._is_legacy(resource) and "startAfter" in given:
            after = given["startAfter"]
            if not after.lstrip("-").isdecimal():
                raise bad_request(f"startAfter: expected Unix milliseconds, got {after!r}")
            # all that share the millisecond: those of them that weren't returned yet are lost
            return _count_until(table, rows, *table.end_of(int(after)))
        if "pageToken" not in given or self._is_legacy(resource) or not self._is_paged(resource):
            return 0
        start = read_token(given["pageToken"], resource, now_s, self._options.token_ttl_s)
        return start if isinstance(start, int) else _count_until(table, rows, *start)

    def _page(
        self, table: Table, rows: Rows, resource: str, start: int, limit: int | None, now_s: float
    ) -> bytes:
        total = len(rows)
        stop = total if limit is None else min(start + limit, total)
        serials = rows[start:stop]
        if serials and self._is_legacy(resource) and table.time_ms(serials[-1]) is None:
            # no page can start at a row without a time, so the page that reaches them has them all
            stop, serials = total, rows[start:total]
        token = last_ms = None
        if serials and stop < total and self._is_paged(resource):
            last = serials[-1]
            offset = self._options.token_kind == "offset"  # noqa: S105 - no password
            token = write_token(resource, stop if offset else (table.key(last), last), now_s)
            last_ms = table.time_ms(last)
        encoded = [table.encoded(serial) for serial in serials]
        return self._enveloped(resource, encoded, total, token, last_ms)

    def _enveloped(
        self, resource: str, rows: list[bytes], total: int, token: str | None, last_ms: int | None
    ) -> bytes:
        """The body of a page, in the revision that the options ask for.

        rows: JSON, in list order. total: rows of the filtered list. last_ms: the last row's time.
        """
        next_page = {"nextPageToken": token} if token else {}
        counted = resource == "prospects" and self._options.total_count
        count = {"totalCount": total} if counted else {}
        match self._options.envelope_of(resource):
            case "pagination":
                pagination = {"pagination": {**next_page, **count}}
                return _body({"success": True}, "items", rows, pagination)
            case "next_token":
                return _body({"success": True}, "items", rows, {"nextPageToken": token})
            case "legacy":
                last = {f"last{resource[:-1].title()}": last_ms}
                return _body({"success": True}, resource, rows, last)
        return _body({}, resource, rows, {**count, **next_page})


def _count_until(table: Table, rows: Rows, key: Any, serial: int) -> int:
    """How many rows come before (key, serial) or are there."""
    before = table.index_after(key, serial)
    if isinstance(rows, Table):
        return before
    return sum(table.index_after(table.key(row), row) <= before for row in rows)


def write_token(resource: str, start: PageStart, now_s: float) -> str:
    payload = json.dumps({"r": resource, "p": start, "t": now_s})  # rows without a time: Infinity
    return base64.urlsafe_b64encode(payload.encode()).rstrip(b"=").decode()


def read_token(token: str, resource: str, now_s: float, ttl_s: float | None) -> PageStart:
    """Where a token's page starts. Refused: of another list, or older than `ttl_s` seconds."""
    try:
        payload = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        start, issued_s = payload["p"], payload["t"]
        known = payload["r"] == resource
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise bad_request("pageToken: not a token of this list")
    if ttl_s is not None and now_s - issued_s > ttl_s:
        raise bad_request("pageToken: this token has expired, start again without it")
    return start if isinstance(start, int) else (start[0], start[1])


def _body(before: dict[str, Any], name: str, rows: list[bytes], after: dict[str, Any]) -> bytes:
    """An object with `rows` between two groups of fields, without encoding them again."""
    listed = b'"%s":[%s]' % (name.encode(), b",".join(rows))
    parts = [encode(before)[1:-1], listed, encode(after)[1:-1]]
    return b"{" + b",".join(part for part in parts if part) + b"}"


# --- filters: query parameters → a test of one record ----------------------------------------


def wanted_by(resource: str, params: Params) -> Test | None:
    """A test that accepts the records that all filters in `params` accept; None without filters.
    Refused: a value that the filter can't read, or more than `MAX_LABELS` labels."""
    simple = FILTERS[resource] - {"label"}
    tests = [_test(resource, name, value) for name, value in params if name in simple]
    repeated = [value for name, value in params if name == "label"]
    labels = {part.strip() for value in repeated for part in value.split(",") if part.strip()}
    if len(labels) > MAX_LABELS:
        raise bad_request(f"label: at most {MAX_LABELS} labels, got {len(labels)}")
    if labels:
        tests.append(lambda record: not labels.isdisjoint(record.get("labels") or ()))
    return (lambda record: all(test(record) for test in tests)) if tests else None


def _test(resource: str, name: str, value: str) -> Test:
    match name:
        case "email" | "phone":
            contact_key = CONTACT_KEYS[name]
            key = contact_key(value)
            return lambda record: key is not None and contact_key(record.get(name)) == key
        case "name":
            part = value.casefold()
            return lambda record: part in _full_name(record).casefold()
        case "title" | "company":
            text = value.casefold()
            return lambda record: str(record.get(name) or "").casefold() == text
        case "stage":
            return lambda record: (
                value in (record.get("currentStage"), record.get("currentStageId"))
            )
        case "userId" if resource == "tasks":
            return lambda record: value in map(record.get, ("assignedTo", "createdBy"))
        case "incompleteOnly":
            if value.lower() not in {"true", "false", "1", "0"}:
                raise bad_request(f"incompleteOnly: expected true or false, got {value!r}")
            return _is_open if value.lower() in {"true", "1"} else lambda _record: True
        case "dueBefore" | "dueAfter":
            within = _bound("dueAt", value, upper=name == "dueBefore")
            return lambda record: _is_open(record) and within(record)
        case "meetingDateBefore" | "meetingDateAfter":
            return _bound("meetingDate", value, upper=name == "meetingDateBefore")
    return lambda record: record.get(name) == value


def _full_name(record: Record) -> str:
    return f"{record.get('firstName') or ''} {record.get('lastName') or ''}"


def _is_open(record: Record) -> bool:
    return record.get("completedAt") is None


def _bound(field: str, value: str, *, upper: bool) -> Test:
    """Inclusive; a record without the field is outside."""
    try:
        bound_ms = int(value)
    except ValueError:
        raise bad_request(f"expected Unix milliseconds, got {value!r}") from None

    def test(record: Record) -> bool:
        at_ms: Any = record.get(field)
        if not isinstance(at_ms, int | float) or isinstance(at_ms, bool):
            return False
        return bool(at_ms <= bound_ms if upper else at_ms >= bound_ms)

    return test
