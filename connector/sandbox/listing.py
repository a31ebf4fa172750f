"""One page of one list: limits, filters, place in the list, and the answer's envelope."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from connector.sandbox.envelope import Page, enveloped
from connector.sandbox.errors import bad_request
from connector.sandbox.filters import FILTERS, OLDER_FILTERS, Params, wanted_by
from connector.sandbox.options import SandboxOptions
from connector.sandbox.records import SORT_FIELDS
from connector.sandbox.store import Store
from connector.sandbox.table import Table, matching
from connector.sandbox.tokens import read_token, write_token

_FILTERED_KEPT = 8  # filtered lists that stay sorted out between their pages


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
        legacy = self._options.envelope_of(resource) == "legacy"
        limit = self._limit(resource, params)
        older = OLDER_FILTERS.get(resource, {}) if legacy else {}
        filters = [(older.get(name, name), value) for name, value in params]
        filters = [pair for pair in filters if pair[0] in FILTERS[resource]]
        with self._store.lock:
            table = self._store.table(resource)
            rows = self._rows(table, resource, filters)
            start = self._start(table, rows, resource, params, now_s)
            page = self._page(table, rows, resource, (start, limit), now_s)
        return enveloped(resource, page, self._options)

    def unknown(self, resource: str, params: Params) -> list[str]:
        """Names of parameters that this revision of this list doesn't know."""
        known = set(FILTERS[resource]) | {"limit"}
        if self._options.envelope_of(resource) == "legacy":
            known |= set(OLDER_FILTERS.get(resource, ())) | {"startAfter"}
        elif self._is_paged(resource):
            known.add("pageToken")
        return [name for name, _ in params if name not in known]

    def _is_paged(self, resource: str) -> bool:
        return resource != "prospects" or self._options.prospects_paged

    def _limit(self, resource: str, params: Params) -> int | None:
        """Rows on a page; None = all."""
        options = self._options
        given = next((value for name, value in params if name == "limit"), None)
        limit = options.default_limit_of(resource) if given is None else _positive(given)
        maximum, policy = options.max_limit_of(resource), options.over_limit_of(resource)
        if maximum is None or policy == "unbounded" or limit <= maximum:
            return limit
        if policy == "refuse":
            raise bad_request(f"limit: must be at most {maximum}, got {limit}")
        return maximum

    def _rows(self, table: Table, resource: str, filters: Params) -> Sequence[int] | None:
        """The serial numbers of a filtered list; None = all rows."""
        test = wanted_by(resource, filters)
        if test is None:
            return None
        key = (resource, table.version, *filters)
        if key not in self._filtered:
            self._filtered[key] = self._sorted_out(table, resource, filters, test)
            if len(self._filtered) > _FILTERED_KEPT:
                self._filtered.popitem(last=False)
        return self._filtered[key]

    def _sorted_out(self, table: Table, resource: str, filters: Params, test: Any) -> list[int]:
        for name, value in filters:
            if name in ("email", "phone") and resource == "prospects":
                candidates = table.in_list_order(self._store.prospects_by(name, value))
                return [serial for serial in candidates if test(table.record(serial))]
        return matching(table, test)

    def _start(
        self, table: Table, rows: Sequence[int] | None, resource: str, params: Params, now_s: float
    ) -> int:
        """How many rows of the list were given before."""
        given = dict(params)
        if not self._is_paged(resource):
            return 0
        if self._options.envelope_of(resource) == "legacy":
            return (
                _count_until_time(table, rows, given["startAfter"]) if "startAfter" in given else 0
            )
        if "pageToken" not in given:
            return 0
        place = read_token(given["pageToken"], resource, now_s, self._options.token_ttl_s)
        if isinstance(place, int):
            return place
        return _count_until(table, rows, *place)

    def _page(
        self,
        table: Table,
        rows: Sequence[int] | None,
        resource: str,
        place: tuple[int, int | None],
        now_s: float,
    ) -> Page:
        start, limit = place
        total = len(table) if rows is None else len(rows)
        stop = total if limit is None else min(start + limit, total)
        if self._options.envelope_of(resource) == "legacy" and stop > start:
            stop = _timed_stop(table, rows, stop, total, resource)
        serials = table.serials_between(start, stop) if rows is None else list(rows[start:stop])
        token = last_ms = None
        if serials and stop < total and self._is_paged(resource):
            offset = self._options.token_kind == "offset"  # noqa: S105 - no password
            token = write_token(
                resource, stop if offset else (table.key(serials[-1]), serials[-1]), now_s
            )
            last_ms = _sort_ms(table, serials[-1], resource)
        return Page([table.encoded(serial) for serial in serials], total, token, last_ms)


def _timed_stop(
    table: Table, rows: Sequence[int] | None, stop: int, total: int, resource: str
) -> int:
    """Where a page ends: rows without a time mark no place, so whoever meets them gets them all."""
    last = table.serials_between(stop - 1, stop)[0] if rows is None else rows[stop - 1]
    return total if _sort_ms(table, last, resource) is None else stop


def _positive(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise bad_request(f"limit: expected a whole number of at least 1, got {value!r}")
    return int(value)


def _count_until(table: Table, rows: Sequence[int] | None, key: Any, serial: int) -> int:
    before = table.index_after(key, serial)
    if rows is None:
        return before
    return sum(1 for row in rows if table.index_after(table.key(row), row) <= before)


def _count_until_time(table: Table, rows: Sequence[int] | None, value: str) -> int:
    """Rows up to all that share the millisecond `value`: those not yet given are lost."""
    if not value.lstrip("-").isdecimal():
        raise bad_request(f"startAfter: expected Unix milliseconds, got {value!r}")
    return _count_until(table, rows, *table.last_place_of(int(value)))


def _sort_ms(table: Table, serial: int, resource: str) -> int | None:
    record = table.record(serial)
    value = record.get(SORT_FIELDS[resource]) if isinstance(record, dict) else table.key(serial)
    return value if isinstance(value, int) else None
