"""Fetching ahead: how much waits before it is loaded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

from connector.clock import SystemClock
from connector.source.scan import Scan
from connector.source.scans import Checkpoint, ScanKind, ScannedPage, ScanPlan
from pipelines.pull.chunks import CHUNK_BYTES, Chunk, Fetching

_START = Checkpoint(ScanPlan("notes", ScanKind.FULL, "test"), 0)


class _Scan:
    """Pages of `size_bytes` each, counted as they are fetched."""

    def __init__(self, pages: int, size_bytes: int) -> None:
        self.pages, self.size_bytes, self.fetched = pages, size_bytes, 0

    def __iter__(self) -> Iterator[ScannedPage]:
        for number in range(self.pages):
            self.fetched += 1
            yield ScannedPage("notes", [{"id": str(number)}], [], _START, self.size_bytes)


def _fetching(*scans: _Scan, chunk_pages: int = 100) -> Fetching:
    return Fetching(
        {f"r{number}": cast(Scan, scan) for number, scan in enumerate(scans)},
        chunk_s=60.0, chunk_pages=chunk_pages, clock=SystemClock(), stop=threading.Event(),
    )  # fmt: skip


def _pages(chunk: Chunk) -> int:
    return sum(map(len, chunk.values()))


def _ids(chunks: list[Chunk]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for chunk in chunks:
        for resource, pages in chunk.items():
            found.setdefault(resource, []).extend(page.records[0]["id"] for page in pages)
    return found


def test_big_pages_wait_in_small_numbers():
    """While a chunk loads, what was fetched beyond it never exceeds the bound by over a page."""
    scan = _Scan(pages=40, size_bytes=CHUNK_BYTES // 4)
    loaded, chunks = 0, []
    for chunk in _fetching(scan).chunks():
        assert scan.fetched - loaded <= 4
        loaded += _pages(chunk)
        chunks.append(chunk)
    assert _ids(chunks) == {"r0": [str(number) for number in range(40)]}


def test_a_page_above_the_bound_is_a_chunk_of_its_own():
    scan = _Scan(pages=3, size_bytes=CHUNK_BYTES * 2)
    assert [_pages(chunk) for chunk in _fetching(scan).chunks()] == [1, 1, 1]


def test_small_pages_are_bounded_by_their_number():
    scans = [_Scan(pages=25, size_bytes=10), _Scan(pages=25, size_bytes=10)]
    chunks = list(_fetching(*scans, chunk_pages=10).chunks())
    assert max(_pages(chunk) for chunk in chunks) <= 10
    assert {name: len(ids) for name, ids in _ids(chunks).items()} == {"r0": 25, "r1": 25}
