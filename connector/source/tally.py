"""What a scan has seen so far: how many ids, what the server counts, newest times, order. Pure."""

from __future__ import annotations

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


class Totals:
    """`totalCount` as it was said page by page, while rows came and went.

    grown: how many rows were added during the scan, at least. shrunk: rows were deleted.
    """

    def __init__(self, last: int | None = None, grown: int = 0) -> None:
        self.last, self.grown = last, grown

    def say(self, total_count: int | None) -> int:
        """Take note of a page's `totalCount`; how many rows were deleted since the page before."""
        if total_count is None:
            return 0
        change = 0 if self.last is None else total_count - self.last
        self.last = total_count
        self.grown += max(0, change)
        return max(0, -change)

    def missing(self, listed: int) -> int:
        """How many rows were not listed that were there all the time; 0 where nobody counts."""
        return 0 if self.last is None else max(0, self.last - listed - self.grown)


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
        """Take note of a page's rows. in_order: it is the next page of the list."""
        for field in WATERMARK_FIELDS:
            times = [ms for record in records if _is_time(ms := record.get(field))]
            if times:
                newest = min(max(times), self._until_ms)
                self.newest[field] = max(newest, self.newest.get(field, newest))
                if in_order:
                    self._see_in_order(field, times)

    def _see_in_order(self, field: str, times: list[int]) -> None:
        before = self._last.get(field, times[0])
        if any(later > earlier for earlier, later in pairwise([before, *times])):
            self._unordered.add(field)
        self._first.setdefault(field, times[0])
        self._last[field] = times[-1]

    def begin_anew(self) -> None:
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
