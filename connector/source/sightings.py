"""The rows that one scan has seen so far: ids, the server's count, newest times, order. Pure."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Self, TypeGuard

import pyarrow as pa
import pyarrow.compute as pc

WATERMARK_FIELDS = ("createdAt", "updatedAt")
_LATEST_MS = 253_402_300_799_999  # the year 9999; what is beyond is no time, and may fit no state


class IdCount:
    """Counts different ids in 8 bytes each; a million rows must not cost a million strings.

    earlier: ids that a scan counted before it was cut, taken as different from all later ones.
    """

    def __init__(self, earlier: int = 0) -> None:
        self._earlier = earlier
        self._hashes = array("q")

    def add(self, ids: Iterable[str]) -> None:
        self._hashes.extend(map(hash, ids))

    def distinct(self) -> int:
        if not self._hashes:
            return self._earlier
        values = pa.Array.from_buffers(
            pa.int64(), len(self._hashes), [None, pa.py_buffer(self._hashes)]
        )
        return self._earlier + int(pc.count_distinct(values).as_py())

    def repeated(self) -> int:
        """How many of those that were added had been added before."""
        return self._earlier + len(self._hashes) - self.distinct()


COUNT_MAX = 2**31 - 1  # the largest number of many servers, which stands for "not counted"


class Totals:
    """`totalCount` as it was reported page by page, while rows came and went.

    grown: how many rows were added during the scan, at least.
    """

    def __init__(self, last: int | None = None, grown: int = 0) -> None:
        self.last, self.grown = last, grown

    def note(self, total_count: int | None) -> int:
        """Record a page's `totalCount`; returns how many rows were deleted since the last page."""
        if total_count is None:
            return 0
        total_count = min(total_count, COUNT_MAX)  # states hold 64 bits
        change = 0 if self.last is None else total_count - self.last
        self.last = total_count
        self.grown += max(0, change)
        return max(0, -change)

    @property
    def is_placeholder(self) -> bool:
        """Whether the number sent as the count can't be one."""
        return self.last is not None and self.last >= COUNT_MAX

    def missing(self, listed: int) -> int:
        """How many rows were not listed that were there all the time; 0 without a count."""
        if self.last is None or self.is_placeholder:
            return 0
        return max(0, self.last - listed - self.grown)


class Times:
    """The newest `createdAt` and `updatedAt` (ms) of the rows, never later than `until_ms`.

    Times in the future are clamped: a watermark must not step over rows that come later.
    """

    def __init__(self, until_ms: int) -> None:
        self._until_ms = until_ms
        self.newest: dict[str, int] = {}
        self._first: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._unordered: set[str] = set()

    def see(self, records: Sequence[Mapping[str, Any]], *, in_order: bool) -> None:
        """Take note of a page's rows. in_order: it is the next page of the list.

        Pinned notes say nothing about the order: servers show them before all others.
        """
        for field in WATERMARK_FIELDS:
            times = [ms for record in records if _is_time(ms := record.get(field))]
            if times:
                newest = min(max(times), self._until_ms)
                self.newest[field] = max(newest, self.newest.get(field, newest))
            if in_order:
                self._see_in_order(field, [one for one in records if one.get("pin") is not True])

    def _see_in_order(self, field: str, records: Sequence[Mapping[str, Any]]) -> None:
        times = [ms for record in records if _is_time(ms := record.get(field))]
        if not times:
            return
        before = self._last.get(field, times[0])
        if any(later > earlier for earlier, later in pairwise([before, *times])):
            self._unordered.add(field)
        self._first.setdefault(field, times[0])
        self._last[field] = times[-1]

    def restart(self) -> None:
        """The list is read from its beginning again."""
        self._last = {}

    def is_newest_first(self, field: str) -> bool:
        """Whether nothing seen contradicts that rows come newest `field` first."""
        return field not in self._unordered

    @property
    def order(self) -> str | None:
        """The field by which rows came newest first; None if neither, or too few to tell."""
        ordered = [
            field
            for field in WATERMARK_FIELDS
            if field not in self._unordered and self._first.get(field) != self._last.get(field)
        ]
        return ordered[0] if ordered else None

    def first_ms(self, field: str) -> int | None:
        """The time of the first row of the list that had one."""
        return self._first.get(field)

    def last_ms(self, field: str) -> int | None:
        """The time of the last row of the list so far that had one."""
        return self._last.get(field)

    def to_json(self) -> dict[str, Any]:
        return {
            "newest": dict(self.newest),
            "first": dict(self._first),
            "last": dict(self._last),
            "unordered": sorted(self._unordered),
        }

    @classmethod
    def from_json(cls, until_ms: int, facts: Mapping[str, Any]) -> Self:
        times = cls(until_ms)
        times.newest = dict(facts["newest"])
        times._first, times._last = dict(facts["first"]), dict(facts["last"])
        times._unordered = set(facts["unordered"])
        return times


def _is_time(value: Any) -> TypeGuard[int]:
    return type(value) is int and abs(value) <= _LATEST_MS


class Sightings:
    """pages, rows: requests for pages and items read, repetitions included.

    malformed: items without an id. restarts: how often the list was restarted. totals, times:
    see their classes. ids_in_order: of the list's pages since it was last begun, as they came.
    """

    def __init__(self, until_ms: int) -> None:
        self.pages = self.rows = self.malformed = self.restarts = 0
        self.totals = Totals()
        self.times = Times(until_ms)
        self.ids_in_order = IdCount()
        self._ids = IdCount()
        self._malformed_hashes: set[int] = set()
        self._page_ids: set[str] = set()

    def see(
        self, records: list[dict[str, Any]], malformed: list[Any], *, in_order: bool
    ) -> list[str]:
        """Take note of one page; the ids on it. in_order: it is the next page of the list."""
        self.pages += 1
        self.rows += len(records) + len(malformed)
        self._count_malformed(malformed, in_order=in_order)
        ids = [str(record["id"]) for record in records]
        self._ids.add(ids)
        self.times.see(self._new_records(records, ids), in_order=in_order)
        return ids

    def _count_malformed(self, malformed: list[Any], *, in_order: bool) -> None:
        """All of the list's own pages; of pages read again, those that weren't seen before."""
        hashes = [hash(json.dumps(item, sort_keys=True)) for item in malformed]
        self.malformed += len(malformed) if in_order else len(set(hashes) - self._malformed_hashes)
        self._malformed_hashes.update(hashes)

    def _new_records(self, records: list[dict[str, Any]], ids: list[str]) -> list[dict[str, Any]]:
        """Without what the page before had too: rows that came meanwhile moved it down."""
        before, self._page_ids = self._page_ids, set(ids)
        if before.isdisjoint(ids):
            return records
        return [record for record, known in zip(records, ids, strict=True) if known not in before]

    def restart(self) -> None:
        """The list is read from its beginning again; ids that were seen stay seen."""
        self.restarts += 1
        self.pages = self.rows = self.malformed = 0
        self.times.restart()

    def listed(self) -> int:
        """How many rows of the list were seen: different ids, and items without one."""
        return self._ids.distinct() + self.malformed

    def missing(self) -> int:
        """How many rows the server counts that weren't listed.

        A row that it lists twice it counts twice; rows that came meanwhile also make others
        appear twice, and are in the count already.
        """
        twice = max(0, self.ids_in_order.repeated() - self.totals.grown)
        return self.totals.missing(self.listed() + twice)

    def is_miscounted(self) -> bool:
        """Whether the server's count can't be right: none at all, or below what it lists."""
        return self.totals.is_placeholder or self.listed() > (self.totals.last or 0)

    def to_json(self) -> dict[str, Any]:
        return {
            "pages": self.pages,
            "rows": self.rows,
            "malformed": self.malformed,
            "restarts": self.restarts,
            "last_total": self.totals.last,
            "grown": self.totals.grown,
            "times": self.times.to_json(),
        }

    @classmethod
    def from_json(cls, until_ms: int, facts: Mapping[str, Any]) -> Self:
        """What a cut scan had seen. Its rows are taken as different from all that follow."""
        seen = cls(until_ms)
        if facts:
            malformed = facts["malformed"] if "malformed" in facts else facts["odd"]
            seen.pages, seen.rows, seen.malformed = facts["pages"], facts["rows"], malformed
            seen.restarts = facts["restarts"]
            seen.totals = Totals(facts["last_total"], facts["grown"])
            seen.times = Times.from_json(until_ms, facts["times"])
            seen._ids = IdCount(seen.rows - seen.malformed)
        return seen
