"""All that one scan has seen so far, as it is carried over a kill."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from connector.source.slices import Slices
from connector.source.tally import IdCount, Times, Totals


class Sightings:
    """pages, rows: requests for pages and items read, repetitions included. odd: items without id.

    restarts: how often the list was begun anew. totals, times, slices: see their classes.
    """

    def __init__(self, until_ms: int) -> None:
        self.pages = self.rows = self.odd = self.restarts = 0
        self.totals = Totals()
        self.times = Times(until_ms)
        self.slices = Slices()
        self._ids = IdCount()
        self._page_ids: set[str] = set()

    def see(self, records: list[dict[str, Any]], odd: list[Any], *, in_order: bool) -> list[str]:
        """Take note of one page; the ids on it. in_order: it is the next page of the list."""
        self.pages += 1
        self.rows += len(records) + len(odd)
        self.odd += len(odd)
        ids = [str(record["id"]) for record in records]
        self._ids.add(ids)
        self.times.see(self._news(records, ids), in_order=in_order)
        return ids

    def _news(self, records: list[dict[str, Any]], ids: list[str]) -> list[dict[str, Any]]:
        """Without what the page before had too: rows that came meanwhile moved it down."""
        before, self._page_ids = self._page_ids, set(ids)
        if before.isdisjoint(ids):
            return records
        return [record for record, known in zip(records, ids, strict=True) if known not in before]

    def begin_anew(self) -> None:
        """The list is read from its beginning again; ids that were seen stay seen."""
        self.restarts += 1
        self.pages = self.rows = self.odd = 0
        self.times.begin_anew()

    def listed(self) -> int:
        """How many rows of the list were seen: different ids, and items without one."""
        return self._ids.distinct() + self.odd

    def missing(self) -> int:
        return 0 if self.totals.last is None else self.totals.missing(self.listed())

    def to_json(self) -> dict[str, Any]:
        return {
            "pages": self.pages,
            "rows": self.rows,
            "odd": self.odd,
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
            seen.pages, seen.rows, seen.odd = facts["pages"], facts["rows"], facts["odd"]
            seen.restarts = facts["restarts"]
            seen.totals = Totals(facts["last_total"], facts["grown"])
            seen.times = Times.from_json(until_ms, facts["times"])
            seen._ids = IdCount(seen.rows - seen.odd)
        return seen
