"""Pages are fetched ahead while earlier ones are loaded, and never too far ahead.

One thread per resource iterates its scan. What was fetched and isn't loaded yet, on the way to the
destination or waiting for it, is what a kill costs: it never exceeds `chunk_pages` pages, and no
page is begun while one waits that was begun more than `chunk_s` ago. It is also what a pull holds
in memory, so none is begun while `CHUNK_BYTES` wait: texts may be long, and fields many. At the
pace the API allows, chunks are cut by time and fetching continues while they load; a fast server
fills a chunk before that, and a big chunk loads cheaper than two.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from connector.clock import Clock
from connector.errors import ConnectorError, Interrupted, Unexpected
from connector.logs import get_logger
from connector.settings import PullSettings
from connector.source.fields import UNLISTED_COLUMN
from connector.source.list_scan import ListScan, Row
from connector.source.row_maker import MALFORMED_COLUMNS, MALFORMED_TABLE, configured_maker
from connector.source.scan import Scan
from connector.source.scans import ScannedPage
from pipelines.destination.destination import Destination
from pipelines.destination.loader import Batch, to_table
from pipelines.pull.push_results import COLUMNS as PUSH_COLUMNS
from pipelines.pull.push_results import KEY as PUSH_KEY
from pipelines.pull.push_results import TABLE as PUSH_RESULTS

CHUNK_BYTES = 16 * 1024 * 1024  # of JSON; a hundred pages of ordinary rows are 10 MB
_log = get_logger("pull")


@dataclass(frozen=True)
class Chunk:
    """What is loaded together: pages by resource, each in the order of its scan."""

    pages: dict[str, list[ScannedPage]]

    @property
    def page_count(self) -> int:
        return sum(len(pages) for pages in self.pages.values())


@dataclass
class _Waiting:
    """Pages that arrived, each with when its fetching began (monotonic seconds).

    size_bytes: of the answers that arrived or are loading.
    """

    arrived: deque[tuple[float, str, ScannedPage]] = field(default_factory=deque)
    loading: list[float] = field(default_factory=list)
    fetching: int = 0
    size_bytes: int = 0

    @property
    def pages(self) -> int:
        return len(self.arrived) + len(self.loading) + self.fetching

    def oldest_s(self) -> float | None:
        began = [*self.loading, *(began_s for began_s, _, _ in self.arrived)]
        return min(began, default=None)


class Fetching:
    """Walks scans in threads. Iterate `chunks` to its end, loading each before asking for the next.

    errors: by resource, why its scan ended early. stop: when set, no page is begun any more.
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
        self._changed = threading.Condition()
        self._waiting = _Waiting()
        self._running = len(scans)
        self._abandoned = False
        self.errors: dict[str, ConnectorError] = {}
        self._threads = [
            threading.Thread(target=self._read, args=item, name=f"fetch-{item[0]}", daemon=True)
            for item in scans.items()
        ]

    def chunks(self) -> Iterator[Chunk]:
        """Chunks until every scan has ended; each counts as loaded when the next is asked for."""
        for thread in self._threads:
            thread.start()
        try:
            while (chunk := self._next()) is not None:
                yield chunk
                self._loaded()
        finally:
            self._abandon()

    def _next(self) -> Chunk | None:
        with self._changed:
            while not self._is_due():
                if not self._running and not self._waiting.arrived:
                    return None
                self._changed.wait(self._due_in_s())
            return self._cut()

    def _is_due(self) -> bool:
        if not self._waiting.arrived:
            return False
        return self._is_full() or not self._running or self._age_s() >= self._chunk_s / 2

    def _is_full(self) -> bool:
        waiting = self._waiting
        return waiting.pages >= self._chunk_pages or waiting.size_bytes >= CHUNK_BYTES

    def _due_in_s(self) -> float | None:
        if not self._waiting.arrived:
            return None
        return max(0.01, self._chunk_s / 2 - self._age_s())

    def _age_s(self) -> float:
        oldest_s = self._waiting.oldest_s()
        return 0.0 if oldest_s is None else self._clock.monotonic_s() - oldest_s

    def _cut(self) -> Chunk:
        pages: dict[str, list[ScannedPage]] = {}
        while self._waiting.arrived:
            began_s, resource, page = self._waiting.arrived.popleft()
            self._waiting.loading.append(began_s)
            pages.setdefault(resource, []).append(page)
        return Chunk(pages)

    def _loaded(self) -> None:
        with self._changed:
            self._waiting.loading.clear()
            self._waiting.size_bytes = sum(page.size_bytes for _, _, page in self._waiting.arrived)
            self._changed.notify_all()

    def _abandon(self) -> None:
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=1.0)

    def _read(self, resource: str, scan: Scan) -> None:
        try:
            pages = iter(scan)
            while self._may_begin():
                began_s = self._clock.monotonic_s()
                page = next(pages, None)
                self._arrived(began_s, resource, page)
                if page is None:
                    return
            self.errors[resource] = Interrupted(getattr(self._stop, "signal_number", 15))
        except ConnectorError as error:
            self.errors[resource] = error
            self._arrived(0.0, resource, None)
        except Exception as error:  # noqa: BLE001 - a thread's failure is the run's, whatever it is
            self.errors[resource] = _fault(resource, error)
            self._arrived(0.0, resource, None)
        finally:
            self._ended()

    def _may_begin(self) -> bool:
        """Wait until one more page may be begun; False where none may any more."""
        with self._changed:
            while not (self._abandoned or self._stop.is_set()):
                if not self._is_full() and self._age_s() < self._chunk_s:
                    self._waiting.fetching += 1
                    return True
                self._changed.wait(0.2)
            return False

    def _arrived(self, began_s: float, resource: str, page: ScannedPage | None) -> None:
        with self._changed:
            self._waiting.fetching -= 1
            if page is not None:
                self._waiting.arrived.append((began_s, resource, page))
                self._waiting.size_bytes += page.size_bytes
            self._changed.notify_all()

    def _ended(self) -> None:
        with self._changed:
            self._running -= 1
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
        """By resource: what could not land as it came, and how often."""
        moved = self._destination.warnings
        found = {
            name: maker.warnings + self._runs[name].warnings + moved.get(name, Counter())
            for name, maker in self._makers.items()
        }
        return {name: counts for name, counts in found.items() if counts}

    def _add_columns(self) -> None:
        """Columns that tables of an earlier version lack, before anything asks for them."""
        tables = [
            name
            for name in self._runs
            if name not in self._missing and UNLISTED_COLUMN not in self._destination.columns(name)
        ]
        if tables:
            batches = [Batch(name, (), self._makers[name].columns) for name in tables]
            self._destination.load(batches, worth_publishing=False)

    def create_tables(self) -> None:
        """Tables with every column of the contract, also where a list is empty."""
        if self._missing:
            self._load({}, {})

    def land(self, chunk: Chunk) -> None:
        """Load what changed; where nothing did, only the checkpoints are kept. Empties `chunk`.

        Raises:
            DestinationError: the rows can't be written; the chunk will be read again.
        """
        changed: dict[str, list[dict[str, Any]]] = {}
        malformed: list[dict[str, Any]] = []
        while chunk.pages:  # pages go as rows come: a chunk is in memory once, not twice
            resource, pages = chunk.pages.popitem()
            rows, others = self._rows(resource, pages)
            del pages
            malformed += others
            changed[resource] = self.changed(resource, rows)
            del rows
        written = {resource: len(rows) for resource, rows in changed.items()}
        self._load(changed, {row["id"]: row for row in malformed})
        for resource, count in written.items():
            self._runs[resource].counts["rows_written"] += count

    def land_records(self, resource: str, records: list[dict[str, Any]]) -> None:
        """Load single records that were looked at by their ids, since their list lacks them."""
        rows = self._makers[resource].rows(records)
        unchanged = self._destination.unchanged(resource, rows, is_listed=False)
        rows = [row for row in rows if row["id"] not in unchanged]
        self._runs[resource].counts["rows_read"] += len(records)
        self._runs[resource].counts["rows_written"] += len(rows)
        self._load({resource: rows}, {})

    def changed(self, resource: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of `rows` that aren't in the destination with the same content."""
        unchanged = self._destination.unchanged(resource, rows)
        return [row for row in rows if row["id"] not in unchanged]

    def _rows(self, resource: str, pages: list[ScannedPage]) -> tuple[list[Row], list[Row]]:
        run = self._runs[resource]
        rows, malformed = run.rows(pages, self._makers[resource])
        if run.finds_deletions or run.left:  # before the rows are loaded: see `seen`
            self._destination.seen.add(resource, [row["id"] for row in rows])
        if run.finds_deletions:
            run.keep_ids(len(rows))
        return rows, malformed

    def _load(self, rows: dict[str, list[dict[str, Any]]], malformed: Mapping[str, Row]) -> None:
        """Load `rows`, by resource; the states alone of those that have none. Empties `rows`."""
        states = {name: self._runs[name].state() for name in rows}
        names = [name for name in self._makers if rows.get(name) or name in self._missing]
        batches = [self._batch(name, rows.pop(name, [])) for name in names]
        if malformed:
            batches.append(Batch(MALFORMED_TABLE, list(malformed.values()), MALFORMED_COLUMNS))
        if PUSH_RESULTS in self._missing:
            batches.append(Batch(PUSH_RESULTS, (), PUSH_COLUMNS, key=PUSH_KEY))
        if batches:
            self._destination.load(batches)
        self._missing = frozenset()
        still = {name: state for name, state in states.items() if name not in names}
        if still:
            self._destination.loader.set_marks(still)

    def _batch(self, resource: str, rows: list[dict[str, Any]]) -> Batch:
        """As Arrow at once: a fraction of the memory that dicts would hold through the load."""
        columns = self._makers[resource].columns
        return Batch(resource, to_table(rows, columns), columns, mark=self._runs[resource].state())


def _missing_tables(destination: Destination, runs: Mapping[str, ListScan]) -> frozenset[str]:
    """Tables that the first load makes, since one load of many costs as much as of one."""
    return frozenset(name for name in (*runs, PUSH_RESULTS) if not destination.columns(name))
