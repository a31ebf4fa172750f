"""Pages are fetched ahead while earlier ones are loaded, but never too far ahead.

One thread per resource iterates its scan. Pages that were fetched and aren't loaded yet are lost
in a kill: there are never more than `chunk_pages` of them, and no page is begun while one waits
that was begun more than `chunk_s` ago. They are also what a pull holds in memory, so none is begun
while `CHUNK_BYTES` wait: texts may be long, and fields many. At the pace the API allows, chunks are
cut by time, and fetching continues while they load; a fast server fills a chunk before that, and
one big chunk loads faster than two.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from connector.clock import Clock
from connector.errors import ConnectorError, Interrupted, Unexpected
from connector.logs import get_logger
from connector.settings import PullSettings
from connector.source.fields import UNLISTED_COLUMN
from connector.source.list_scan import ListScan, Row
from connector.source.row_maker import (
    MALFORMED_COLUMNS,
    MALFORMED_TABLE,
    UniqueRecords,
    configured_maker,
)
from connector.source.scan import Scan
from connector.source.scans import ScannedPage
from pipelines.destination.destination import Destination
from pipelines.destination.loader import Batch
from pipelines.pull.push_results import COLUMNS as PUSH_COLUMNS
from pipelines.pull.push_results import KEY as PUSH_KEY
from pipelines.pull.push_results import TABLE as PUSH_RESULTS

CHUNK_BYTES = 16 * 1024 * 1024  # of JSON; a hundred pages of ordinary rows are 10 MB
_log = get_logger("pull")


Chunk = dict[str, list[ScannedPage]]
"""Pages that are loaded together: by resource, in the order of its scan."""


class Fetching:
    """Reads scans in threads. Iterate `chunks` to its end, loading each before asking for the next.

    errors: by resource, why its scan ended early. stop: once set, no more pages are begun.
    """

    def __init__(
        self,
        scans: Mapping[str, Scan],
        *,
        chunk_s: float,
        chunk_pages: int,
        clock: Clock,
        stop: threading.Event,
    ) -> None:
        self._chunk_s, self._chunk_pages = chunk_s, chunk_pages
        self._clock, self._stop = clock, stop
        self.errors: dict[str, ConnectorError] = {}
        self._changed = threading.Condition()
        # fetched pages, each with the time when it was begun (monotonic seconds)
        self._arrived: deque[tuple[float, str, ScannedPage]] = deque()
        self._loading: list[float] = []
        self._fetching = self._size_bytes = 0
        self._running, self._abandoned = len(scans), False
        self._threads = [
            threading.Thread(target=self._read, args=item, name=f"fetch-{item[0]}", daemon=True)
            for item in scans.items()
        ]

    def chunks(self) -> Iterator[Chunk]:
        """Chunks until every scan has ended; each counts as loaded when the next is asked for."""
        for thread in self._threads:
            thread.start()
        try:
            while (chunk := self._next_chunk()) is not None:
                yield chunk
                with self._changed:
                    self._loading.clear()
                    self._size_bytes = sum(page.size_bytes for _, _, page in self._arrived)
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._abandoned = True
                self._changed.notify_all()
            for thread in self._threads:
                if thread.is_alive():
                    thread.join(timeout=1.0)

    def _next_chunk(self) -> Chunk | None:
        with self._changed:
            while not self._arrived or not (self._is_full() or not self._running):
                if not self._arrived and not self._running:
                    return None
                left_s = self._chunk_s / 2 - self._age_s()
                if self._arrived and left_s <= 0:
                    break
                self._changed.wait(max(0.01, left_s) if self._arrived else None)
            chunk: Chunk = {}
            while self._arrived:
                began_s, resource, page = self._arrived.popleft()
                self._loading.append(began_s)
                chunk.setdefault(resource, []).append(page)
            return chunk

    def _is_full(self) -> bool:
        pages = len(self._arrived) + len(self._loading) + self._fetching
        return pages >= self._chunk_pages or self._size_bytes >= CHUNK_BYTES

    def _age_s(self) -> float:
        """Seconds since the oldest page that waits or is being loaded was begun."""
        began = [*self._loading, *(began_s for began_s, _, _ in self._arrived)]
        return self._clock.monotonic_s() - min(began) if began else 0.0

    def _read(self, resource: str, scan: Scan) -> None:
        try:
            pages = iter(scan)
            while self._may_begin():
                began_s, page = self._clock.monotonic_s(), None
                try:
                    page = next(pages, None)
                finally:
                    self._finished(began_s, resource, page)
                if page is None:
                    return
            self.errors[resource] = Interrupted(getattr(self._stop, "signal_number", 15))
        except ConnectorError as error:
            self.errors[resource] = error
        except Exception as error:  # noqa: BLE001 - a thread's failure is the run's, whatever it is
            self.errors[resource] = _fault(resource, error)
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _may_begin(self) -> bool:
        """Wait until one more page may be begun; False if no more may be."""
        with self._changed:
            while not (self._abandoned or self._stop.is_set()):
                if not self._is_full() and self._age_s() < self._chunk_s:
                    self._fetching += 1
                    return True
                self._changed.wait(0.2)
            return False

    def _finished(self, began_s: float, resource: str, page: ScannedPage | None) -> None:
        with self._changed:
            self._fetching -= 1
            if page is not None:
                self._arrived.append((began_s, resource, page))
                self._size_bytes += page.size_bytes
            self._changed.notify_all()


def _fault(resource: str, error: Exception) -> Unexpected:
    _log.debug("pull.unexpected", exc_info=error)
    return Unexpected(error, doing=f"reading {resource}")


class Landing:
    """Loads chunks. runs: by resource; their counts and checkpoints change with every chunk."""

    def __init__(
        self, destination: Destination, runs: Mapping[str, ListScan], pull: PullSettings
    ) -> None:
        self._destination, self._runs = destination, runs
        self._makers = {
            name: configured_maker(name, destination.columns(name), pull) for name in runs
        }
        self._missing = _missing_tables(destination, runs)
        self._add_columns()

    @property
    def warnings(self) -> dict[str, Counter[str]]:
        """By resource: what could not be loaded unchanged, and how often."""
        moved = self._destination.warnings
        found = {
            name: maker.warnings + self._runs[name].warnings + moved.get(name, Counter())
            for name, maker in self._makers.items()
        }
        return {name: counts for name, counts in found.items() if counts}

    def _add_columns(self) -> None:
        """Add columns that tables of an earlier version lack, before any query needs them."""
        tables = [
            name
            for name in self._runs
            if name not in self._missing and UNLISTED_COLUMN not in self._destination.columns(name)
        ]
        if tables:
            batches = [Batch(name, (), self._makers[name].columns) for name in tables]
            self._destination.load(batches, worth_publishing=False)

    def create_tables(self) -> None:
        """Create tables with every column of the contract, even if a list is empty."""
        if self._missing:
            self._load({}, {})

    def land(self, chunk: Chunk) -> None:
        """Load what changed; if nothing did, save only the checkpoints. Empties `chunk`.

        Raises:
            DestinationError: the rows can't be written; the chunk will be read again.
        """
        changed: dict[str, pa.Table] = {}
        malformed: list[Row] = []
        while chunk:  # frees pages as rows are made: a chunk is in memory once, not twice
            resource, pages = chunk.popitem()
            records, others = self._records(resource, pages)
            del pages
            malformed += others
            changed[resource] = self._changed(resource, records)
            del records
        self._load(changed, {row["id"]: row for row in malformed})
        for resource, rows in changed.items():
            self._runs[resource].counts["rows_written"] += len(rows)

    def land_records(self, resource: str, records: list[dict[str, Any]]) -> None:
        """Load single records that were looked up by id, since their list lacks them."""
        unique = self._makers[resource].unique(records)
        rows = self._changed(resource, unique, is_listed=False)
        self._runs[resource].counts["rows_read"] += len(records)
        self._runs[resource].counts["rows_written"] += len(rows)
        self._load({resource: rows}, {})

    def _changed(
        self, resource: str, records: UniqueRecords, *, is_listed: bool = True
    ) -> pa.Table:
        """The rows of those records that the destination doesn't have with the same content."""
        changed = self._destination.changed(
            resource, records.ids, records.hashes, is_listed=is_listed
        )
        return self._makers[resource].table(records.only(changed))

    def _records(self, resource: str, pages: list[ScannedPage]) -> tuple[UniqueRecords, list[Row]]:
        run = self._runs[resource]
        records, malformed = run.take(pages, self._makers[resource])
        if run.finds_deletions or run.left:  # before the rows are loaded: see `seen`
            self._destination.seen.add(resource, records.ids)
        if run.finds_deletions:
            run.keep_ids(len(records.ids))
        return records, malformed

    def _load(self, rows: Mapping[str, pa.Table], malformed: Mapping[str, Row]) -> None:
        """Load `rows`, by resource; for those without any, save only the state."""
        states = {name: self._runs[name].state() for name in rows}
        names = [name for name in self._makers if len(rows.get(name, ())) or name in self._missing]
        batches = [self._batch(name, rows.get(name, ())) for name in names]
        if malformed:
            batches.append(Batch(MALFORMED_TABLE, list(malformed.values()), MALFORMED_COLUMNS))
        if PUSH_RESULTS in self._missing:
            batches.append(Batch(PUSH_RESULTS, (), PUSH_COLUMNS, key=PUSH_KEY))
        if batches:
            self._destination.load(batches)
        self._missing = frozenset()
        still = {name: state for name, state in states.items() if name not in names}
        if still:
            self._destination.loader.save_states(still)

    def _batch(self, resource: str, rows: pa.Table | Sequence[Row]) -> Batch:
        columns = self._makers[resource].columns
        return Batch(resource, rows, columns, state=self._runs[resource].state())


def _missing_tables(destination: Destination, runs: Mapping[str, ListScan]) -> frozenset[str]:
    """Tables that the first load creates, since a load of many costs as much as a load of one."""
    return frozenset(name for name in (*runs, PUSH_RESULTS) if not destination.columns(name))
