"""From pages to rows in the destination: a chunk at a time, unchanged rows left alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from connector.errors import BadSetting
from connector.settings import PullSettings
from connector.source.columns import UNLISTED_COLUMN
from connector.source.paging import ScannedPage
from connector.source.records import ODD_COLUMNS, ODD_TABLE, odd_rows
from connector.source.rows import RowMaker
from pipelines.destination.destination import Destination
from pipelines.destination.loader import Batch, to_table
from pipelines.pull.fetching import Chunk
from pipelines.pull.scanning import ResourceRun
from pipelines.push.push_results import COLUMNS as PUSH_COLUMNS
from pipelines.push.push_results import KEY as PUSH_KEY
from pipelines.push.push_results import TABLE as PUSH_RESULTS


class Landing:
    """Loads chunks. runs: by resource; their counts and marks move on with every chunk."""

    def __init__(
        self, destination: Destination, runs: Mapping[str, ResourceRun], pull: PullSettings
    ) -> None:
        self._destination, self._runs = destination, runs
        self._makers = {name: _row_maker(destination, name, pull) for name in runs}
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
        """Load what changed; where nothing did, only the scans' places are kept. Empties `chunk`.

        Raises:
            DestinationError: the rows can't be written; the chunk will be read again.
        """
        changed: dict[str, list[dict[str, Any]]] = {}
        odd: list[dict[str, Any]] = []
        while chunk.pages:  # pages go as rows come: a chunk is in memory once, not twice
            resource, pages = chunk.pages.popitem()
            odd += [row for page in pages for row in odd_rows(resource, page.odd)]
            changed[resource] = self.changed(resource, self._rows(resource, pages))
            del pages
        written = {resource: len(rows) for resource, rows in changed.items()}
        self._load(changed, {row["id"]: row for row in odd})
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

    def _rows(self, resource: str, pages: list[ScannedPage]) -> list[dict[str, Any]]:
        run = self._runs[resource]
        records = [record for page in pages for record in page.records]
        rows = self._makers[resource].rows(records)
        run.counts["rows_read"] += len(records)
        run.at(pages[-1].place)
        if run.finds_deletions or run.left:  # before the rows are loaded: see `seen`
            self._destination.seen.add(resource, [row["id"] for row in rows])
        if run.finds_deletions:
            run.saw(len(rows))
        return rows

    def _load(
        self, rows: dict[str, list[dict[str, Any]]], odd: Mapping[str, dict[str, Any]]
    ) -> None:
        """Load `rows`, by resource; the places alone of those that have none. Empties `rows`."""
        places = {name: self._runs[name].state() for name in rows}
        names = [name for name in self._makers if rows.get(name) or name in self._missing]
        batches = [self._batch(name, rows.pop(name, [])) for name in names]
        if odd:
            batches.append(Batch(ODD_TABLE, list(odd.values()), ODD_COLUMNS))
        if PUSH_RESULTS in self._missing:
            batches.append(Batch(PUSH_RESULTS, (), PUSH_COLUMNS, key=PUSH_KEY))
        if batches:
            self._destination.load(batches)
        self._missing = frozenset()
        still = {name: place for name, place in places.items() if name not in names}
        if still:
            self._destination.loader.set_marks(still)

    def _batch(self, resource: str, rows: list[dict[str, Any]]) -> Batch:
        """As Arrow at once: a fraction of the memory that dicts would hold through the load."""
        columns = self._makers[resource].columns
        return Batch(resource, to_table(rows, columns), columns, mark=self._runs[resource].state())


def _missing_tables(destination: Destination, runs: Mapping[str, ResourceRun]) -> frozenset[str]:
    """Tables that the first load makes, since one load of many costs as much as of one."""
    return frozenset(name for name in (*runs, PUSH_RESULTS) if not destination.columns(name))


def _row_maker(destination: Destination, resource: str, pull: PullSettings) -> RowMaker:
    own = getattr(pull, resource)
    key = pull.hash_key.get_secret_value() if pull.hash_key else ""
    if own.hash_columns and not key:
        raise BadSetting(
            name="pull.hash_key",
            place=f"[pull.{resource}] hash_columns",
            reason="hashing needs a key: set HIRINGCENTER_PULL__HASH_KEY to a long random text",
        )
    return RowMaker(
        resource,
        destination.columns(resource),
        exclude=own.exclude_columns,
        hashed=own.hash_columns,
        hash_key=key.encode(),
    )
