"""The rows that one scan has seen so far: ids, the server's count, newest times, order. Pure."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping
from operator import gt
from typing import Any, Self

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


class Sightings:
    """What one scan has seen of its list.

    pages, rows: requests for pages and items read, repetitions included. malformed: items without
    an id. restarts: how often the list was restarted. total_count: `totalCount`, as it was reported
    last. grown: how many rows were added during the scan, at least. newest_ms: the newest
    `createdAt` and `updatedAt`, never later than `until_ms`: a watermark must not step over rows
    that come later. ids_in_order: of the list's pages since it was last begun, as they came.
    """

    def __init__(self, until_ms: int) -> None:
        self._until_ms = until_ms
        self.pages = self.rows = self.malformed = self.restarts = self.grown = 0
        self.total_count: int | None = None
        self.newest_ms: dict[str, int] = {}
        self.ids_in_order, self._ids = IdCount(), IdCount()
        self._first_ms: dict[str, int] = {}
        self._last_ms: dict[str, int] = {}
        self._unordered: set[str] = set()
        self._malformed_hashes: set[int] = set()
        self._page_ids: set[str] = set()

    def see(
        self, records: list[dict[str, Any]], malformed: list[Any], *, in_order: bool
    ) -> list[str]:
        """Take note of one page; the ids on it. in_order: it is the next page of the list."""
        self.pages += 1
        self.rows += len(records) + len(malformed)
        if malformed:
            self._count_malformed(malformed, in_order=in_order)
        ids = [str(record["id"]) for record in records]
        self._ids.add(ids)
        # rows that came meanwhile moved down what the page before had, too
        before, self._page_ids = self._page_ids, set(ids)
        if not before.isdisjoint(ids):
            both = zip(records, ids, strict=True)
            records = [record for record, known in both if known not in before]
        self._see_times(records, in_order=in_order)
        return ids

    def _count_malformed(self, malformed: list[Any], *, in_order: bool) -> None:
        """All of the list's own pages; of pages read again, those that weren't seen before."""
        hashes = [hash(json.dumps(item, sort_keys=True)) for item in malformed]
        self.malformed += len(malformed) if in_order else len(set(hashes) - self._malformed_hashes)
        self._malformed_hashes.update(hashes)

    def _see_times(self, records: list[dict[str, Any]], *, in_order: bool) -> None:
        """Pinned notes say nothing about the order: servers show them before all others."""
        unpinned = [record for record in records if record.get("pin") is not True]
        for field in WATERMARK_FIELDS:
            times = _times(records, field)
            if times:
                newest_ms = min(max(times), self._until_ms)
                self.newest_ms[field] = max(newest_ms, self.newest_ms.get(field, newest_ms))
            if len(unpinned) < len(records):
                times = _times(unpinned, field)
            if in_order and times:
                before = self._last_ms.get(field, times[0])
                if any(map(gt, times, [before, *times])):
                    self._unordered.add(field)
                self._first_ms.setdefault(field, times[0])
                self._last_ms[field] = times[-1]

    def restart(self) -> None:
        """The list is read from its beginning again; ids that were seen stay seen."""
        self.restarts += 1
        self.pages = self.rows = self.malformed = 0
        self._last_ms = {}

    # --- order ----------------------------------------------------------------------------------

    def is_newest_first(self, field: str) -> bool:
        """Whether nothing seen contradicts that rows come newest `field` first."""
        return field not in self._unordered

    @property
    def order(self) -> str | None:
        """The field by which rows came newest first; None if neither, or too few to tell."""
        for field in WATERMARK_FIELDS:
            has_range = self._first_ms.get(field) != self._last_ms.get(field)
            if has_range and self.is_newest_first(field):
                return field
        return None

    def first_ms(self, field: str) -> int | None:
        """The time of the first row of the list that had one."""
        return self._first_ms.get(field)

    def last_ms(self, field: str) -> int | None:
        """The time of the last row of the list so far that had one."""
        return self._last_ms.get(field)

    # --- counts ---------------------------------------------------------------------------------

    def note_total(self, total_count: int | None) -> int:
        """Record a page's `totalCount`; returns how many rows were deleted since the last page."""
        if total_count is None:
            return 0
        total_count = min(total_count, COUNT_MAX)  # states hold 64 bits
        change = 0 if self.total_count is None else total_count - self.total_count
        self.total_count = total_count
        self.grown += max(0, change)
        return max(0, -change)

    @property
    def is_placeholder(self) -> bool:
        """Whether the number sent as the count can't be one."""
        return self.total_count is not None and self.total_count >= COUNT_MAX

    def listed(self) -> int:
        """How many rows of the list were seen: different ids, and items without one."""
        return self._ids.distinct() + self.malformed

    def missing(self) -> int:
        """How many rows the server counts that were there all the time and weren't listed; 0 if it
        doesn't count.

        A row that it lists twice it counts twice; rows that came meanwhile also make others
        appear twice, and are in the count already.
        """
        if self.total_count is None or self.is_placeholder:
            return 0
        twice = max(0, self.ids_in_order.repeated() - self.grown)
        return max(0, self.total_count - self.listed() - twice - self.grown)

    def is_miscounted(self) -> bool:
        """Whether the server's count can't be right: none at all, or below what it lists."""
        return self.is_placeholder or self.listed() > (self.total_count or 0)

    # --- state ----------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        return {
            "pages": self.pages,
            "rows": self.rows,
            "malformed": self.malformed,
            "restarts": self.restarts,
            "last_total": self.total_count,
            "grown": self.grown,
            "times": {
                "newest": dict(self.newest_ms),
                "first": dict(self._first_ms),
                "last": dict(self._last_ms),
                "unordered": sorted(self._unordered),
            },
        }

    @classmethod
    def from_json(cls, until_ms: int, facts: Mapping[str, Any]) -> Self:
        """What a cut scan had seen. Its rows are taken as different from all that follow."""
        seen = cls(until_ms)
        if facts:
            seen.pages, seen.rows, seen.restarts = facts["pages"], facts["rows"], facts["restarts"]
            seen.malformed = facts["malformed"] if "malformed" in facts else facts["odd"]
            seen.total_count, seen.grown = facts["last_total"], facts["grown"]
            times = facts["times"]
            seen.newest_ms = dict(times["newest"])
            seen._first_ms, seen._last_ms = dict(times["first"]), dict(times["last"])
            seen._unordered = set(times["unordered"])
            seen._ids = IdCount(seen.rows - seen.malformed)
        return seen


def _times(records: Iterable[Mapping[str, Any]], field: str) -> list[int]:
    values = [record.get(field) for record in records]
    return [ms for ms in values if type(ms) is int and abs(ms) <= _LATEST_MS]
