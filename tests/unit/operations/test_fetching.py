"""Fetching ahead: how much waits before it is loaded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

from connector.clock import SystemClock
from connector.source.scan import Scan
from connector.source.scans import Checkpoint, ScanKind, ScannedPage, ScanPlan
from pipelines.pull.chunks import AHEAD_BYTES, CHUNK_BYTES, Fetching, Portion
from tests.fake_clock import FakeClock

_START = Checkpoint(ScanPlan("notes", ScanKind.FULL, "test"), 0)


class _Scan:
    """Pages of `size_bytes` each, counted as they are fetched."""

    def __init__(
        self, pages: int, size_bytes: int, after_page: Callable[[], None] = lambda: None
    ) -> None:
        self.pages, self.size_bytes, self.fetched = pages, size_bytes, 0
        self.after_page = after_page

    def __iter__(self) -> Iterator[ScannedPage]:
        for number in range(self.pages):
            self.fetched += 1
            yield ScannedPage([{"id": str(number)}], [], _START, self.size_bytes)
            self.after_page()


def _fetching(*scans: _Scan, chunk_pages: int | None = None) -> Fetching:
    return Fetching(
        {f"r{number}": cast(Scan, scan) for number, scan in enumerate(scans)},
        chunk_s=60.0, chunk_pages=chunk_pages, clock=SystemClock(), stop=threading.Event(),
    )  # fmt: skip


def _pages(portion: Portion) -> int:
    return sum(map(len, portion.pages.values()))


def _chunks(fetching: Fetching) -> list[int]:
    """Pages of each chunk."""
    sizes = [0]
    for portion in fetching.portions():
        sizes[-1] += _pages(portion)
        if portion.ends_chunk:
            sizes.append(0)
    assert sizes.pop() == 0
    return sizes


def _ids(portions: list[Portion]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for portion in portions:
        for resource, pages in portion.pages.items():
            found.setdefault(resource, []).extend(page.records[0]["id"] for page in pages)
    return found


def test_big_pages_wait_in_small_numbers():
    """What was fetched and isn't taken yet never exceeds the bound by over a page; nor does what
    was taken and isn't loaded."""
    scan = _Scan(pages=40, size_bytes=AHEAD_BYTES // 4)
    taken, in_chunk, portions = 0, 0, []
    for portion in _fetching(scan).portions():
        assert scan.fetched - taken <= 5 + _pages(portion)
        taken += _pages(portion)
        in_chunk += _pages(portion)
        assert (in_chunk - 5) * scan.size_bytes <= CHUNK_BYTES
        in_chunk = 0 if portion.ends_chunk else in_chunk
        portions.append(portion)
    assert _ids(portions) == {"r0": [str(number) for number in range(40)]}


def test_a_page_above_the_bound_is_a_chunk_of_its_own():
    scan = _Scan(pages=3, size_bytes=CHUNK_BYTES * 2)
    assert _chunks(_fetching(scan)) == [1, 1, 1]


def test_small_pages_are_one_chunk():
    """However many they are; fetching them took no time."""
    assert _chunks(_fetching(_Scan(pages=500, size_bytes=10))) == [500]


def test_a_setting_bounds_the_pages_of_a_chunk():
    scans = [_Scan(pages=25, size_bytes=10), _Scan(pages=25, size_bytes=10)]
    sizes = _chunks(_fetching(*scans, chunk_pages=10))
    assert max(sizes) <= 10
    assert sum(sizes) == 50


def test_a_chunk_ends_before_its_first_page_gets_old():
    """A slow list: each page comes seconds after the one before, by the clock of the pull."""
    clock = FakeClock()
    scan = _Scan(pages=10, size_bytes=10, after_page=lambda: clock.advance(1.5))
    fetching = Fetching(
        {"r0": cast(Scan, scan)}, chunk_s=5.0, chunk_pages=None, clock=clock, stop=threading.Event()
    )
    sizes = _chunks(fetching)
    assert max(sizes) <= 5  # the fourth ends it; one more may have been begun before
    assert sum(sizes) == 10
