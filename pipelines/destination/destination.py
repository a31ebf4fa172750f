"""Where rows land: dlt's pipeline, the SQL beside it, and DuckDB's working file and its copy."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import duckdb

from connector.errors import ConfigurationError, DestinationError, DestinationRefused
from connector.logs import get_logger
from connector.settings import Settings
from connector.source.fields import DELETED_COLUMN, UNLISTED_COLUMN
from pipelines.destination import dlt_options, memory
from pipelines.destination.duckdb_destination import DuckDb
from pipelines.destination.foreign_writes import (
    Published,
    is_as_published,
    refuse_other_database,
)
from pipelines.destination.installation import installation_id
from pipelines.destination.load_errors import describe
from pipelines.destination.loader import Batch, Loader
from pipelines.destination.more_column import forms
from pipelines.destination.places import (
    Places,
    destination_type,
    duckdb_file,
    places,
    prepare_state_dir,
    pull_lock_name,
)
from pipelines.destination.postgres import (
    Patience,
    Silence,
    blockers_of,
    bounded_waits,
    server_destination,
)
from pipelines.destination.publish import publish, refresh, try_publishing
from pipelines.destination.room import Room
from pipelines.destination.seen import SeenIds
from pipelines.destination.warehouse import DuckWarehouse, ServerWarehouse, Warehouse
from pipelines.destination.working_file import checkpoint_if_due, open_working_file, suspected

__all__ = ["Destination", "pull_lock_name"]

_log = get_logger("destination")
_KEPT_STATES = 20
T = TypeVar("T")
# of load files; what isn't named gets its destination's own. CSV would make '' null.
_FILE_FORMATS = {"duckdb": "parquet", "postgres": "insert_values"}


class Destination:
    """The configured destination, opened for loading. Hold the pull lock while it is open.

    take_over: publish over the copy of another installation. stop: when set, another session's
    lock is waited for no longer. silence: how long a server may say nothing.

    Raises:
        ConfigurationError: a destination that dlt doesn't know, or credentials it can't use.
        DestinationError: it can't be opened or written.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        take_over: bool = False,
        stop: threading.Event | None = None,
        silence: Silence = Silence(),  # noqa: B008 - it is frozen
    ) -> None:
        memory.settle()
        prepare_state_dir(settings)
        self._settings, self._take_over = settings, take_over
        self._own_id = installation_id(settings)
        self._type = destination_type(settings)
        self._places: Places = places(settings)
        self._stack = ExitStack()
        self._stop = stop
        self.warnings: dict[str, Counter[str]] = {}
        """By table: what could not land in a column of its own, and how often."""
        self._is_duckdb = self._type == "duckdb"
        try:
            tries = 2 if self._is_duckdb else 5  # a file hardly ever recovers
            self._stack.enter_context(dlt_options.own_configuration(job_tries=tries))
            if self._type == "postgres":
                self._stack.enter_context(bounded_waits(silence))
            self._open()
        except BaseException as error:
            self._stack.close()
            self._raise_suspected(error)
            raise

    def _open(self) -> None:
        settings = self._settings
        if self.published_path is not None:
            refuse_other_database(
                self.published_path, self._record, self._own_id, take_over=self._take_over
            )
        self._connection: duckdb.DuckDBPyConnection = open_working_file(
            self._places,
            published=self.published_path,
            dataset=settings.dataset,
        )
        self._stack.callback(self._connection.close)
        self._room = Room(self._connection)
        self.seen = SeenIds(self._connection, settings.dataset)
        self.loader = Loader(
            self._dlt_destination(),
            dataset=settings.dataset,
            folder=self._places.pipelines_dir,
            file_format=_FILE_FORMATS.get(self._type),
        )
        self._stack.callback(self.loader.close)
        self.warehouse: Warehouse = (
            DuckWarehouse(self._connection, settings.dataset)
            if self._is_duckdb
            else ServerWarehouse(lambda: self.loader.pipeline)
        )
        self._attempt(self.loader.recover)

    def _attempt(self, work: Callable[[], T]) -> T:
        """What `work` returns, with more memory, or after others' locks, where it needs that."""
        if self._type != "postgres":
            return self._room.fit(work)
        blockers = partial(blockers_of, self.loader.pipeline, self._settings.dataset)
        return Patience(blockers, stop=self._stop).wait_out(partial(self._room.fit, work))

    def _dlt_destination(self) -> Any:
        if self._is_duckdb:
            return DuckDb(self._connection)
        if self._type not in _FILE_FORMATS:
            _log.warning("destination.untested", destination=self._settings.destination)
        try:
            return server_destination(self._settings)
        except Exception as error:
            raise ConfigurationError(
                f"HIRINGCENTER_DESTINATION={self._settings.destination!r}: dlt can't make this "
                f"destination ({describe(error)}). Install its extra, and check its name."
            ) from error

    @property
    def published_path(self) -> Path | None:
        """The file that analysts open; None where the destination is a server."""
        return duckdb_file(self._settings) if self._is_duckdb else None

    def columns(self, table: str) -> dict[str, Any]:
        """dlt column schemas of a table by column name; empty if there is no such table yet."""
        return self.loader.columns(table) or self.warehouse.columns(table)

    def load(self, batches: Sequence[Batch], *, worth_publishing: bool = True) -> None:
        """Upsert all batches in one load package.

        worth_publishing: False for records about runs, which alone are no reason for a new copy.
        """
        if worth_publishing:
            self._unpublished.touch()
        self._load_in_some_form(batches)
        if self._is_duckdb:
            self._room.fit(partial(checkpoint_if_due, self._connection, self._places.working_file))

    def _load_in_some_form(self, batches: Sequence[Batch]) -> None:
        known = {batch.table: self.columns(batch.table) for batch in batches}
        refusal: DestinationRefused | None = None
        for form in forms(self._type, batches, known):
            try:
                self._attempt(partial(self.loader.load, form.batches))
            except DestinationRefused as error:
                _log.info("load.refused", reason=str(error))
                refusal = refusal or error
                continue
            except DestinationError as error:  # whoever catches it may not end the pull
                self._raise_suspected(error)
                raise
            for table, counts in form.warnings.items():
                self.warnings.setdefault(table, Counter()).update(counts)
            return
        assert refusal is not None
        raise refusal

    def load_rows(
        self,
        table: str,
        rows: Sequence[Mapping[str, Any]],
        columns: Mapping[str, Mapping[str, Any]],
        primary_key: str = "id",
    ) -> None:
        """Upsert rows of one table. columns: dlt column schemas by name."""
        self.load([Batch(table, rows, columns, key=primary_key)])

    def unchanged(
        self, table: str, rows: Sequence[Mapping[str, Any]], *, is_listed: bool = True
    ) -> set[str]:
        """Ids of those `rows` that are there with the same content and not flagged deleted.

        is_listed: the rows are in a list, so that one that is known to be unlisted has changed.
        """
        columns = self.columns(table)
        if not rows or not columns:
            return set()
        hashes = {row["id"]: row["_hc_hash"] for row in rows}
        is_listed = is_listed and UNLISTED_COLUMN in columns
        return self._attempt(partial(self.warehouse.unchanged, table, hashes, is_listed=is_listed))

    def missing(self, table: str) -> list[str]:
        """Ids of rows, neither flagged deleted nor known to be unlisted, that the scan in `seen`
        hasn't met."""
        if not self.columns(table):
            return []
        return self._attempt(partial(self.warehouse.missing, table, self.seen))

    def tombstone(self, table: str, ids: Sequence[str], at_ms: int) -> None:
        """Flag rows deleted; UTC epoch ms. Their other columns stay."""
        if ids:
            self._unpublished.touch()
            self._attempt(partial(self.warehouse.tombstone, table, ids, at_ms))

    def unlist(self, table: str, ids: Sequence[str], at_ms: int) -> None:
        """Note that rows have left the list and are there still; UTC epoch ms."""
        if ids:
            self._unpublished.touch()
            self._attempt(partial(self.warehouse.unlist, table, ids, at_ms))

    def unlisted(self, table: str) -> list[str]:
        """Ids of live rows that are known to be unlisted."""
        if UNLISTED_COLUMN not in self.columns(table):
            return []
        sql = (
            f"SELECT id FROM {self.name(table)} "  # noqa: S608 - names of ours
            f"WHERE {DELETED_COLUMN} IS NULL AND {UNLISTED_COLUMN} IS NOT NULL"
        )
        return [row[0] for row in self.query(sql)]

    def live_count(self, table: str) -> int:
        """Rows not flagged deleted; 0 where there is no such table yet."""
        if not self.columns(table):
            return 0
        return self._attempt(partial(self.warehouse.live_count, table))

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query; its parameters are `%s`. Table names: see `name`."""
        return self._attempt(partial(self.warehouse.query, sql, parameters))

    def name(self, table: str) -> str:
        """A table's quoted, qualified name for `query`."""
        return self.warehouse.name(table)

    def try_writing(self) -> str:
        """Make and drop a table where rows would land; what the place is called, for people.

        Raises:
            DestinationError: it can't be written.
        """
        self._attempt(partial(self.warehouse.try_writing, self._settings.dataset))
        if self.published_path is None:
            return f"{self._settings.destination}, schema {self._settings.dataset}"
        try_publishing(self.published_path)
        return str(self.published_path)

    def forget_old_loads(self) -> None:
        """Drop what dlt keeps of each load for good: hourly pulls would grow it for years."""
        states = self.name("_dlt_pipeline_state")
        self.query(
            f"DELETE FROM {states} WHERE version <= "  # noqa: S608 - a name of dlt's
            f"(SELECT max(version) - {_KEPT_STATES} FROM {states})"
        )

    def publish(self) -> bool:
        """Make the analysts' copy where rows, or somebody else, changed it; True if it was made.
        Elsewhere only what it says about runs is brought up to date.
        """
        path = self.published_path
        if path is None:
            return False
        record = self._record
        if not self._unpublished.exists() and is_as_published(path, record):
            self._room.fit(
                partial(
                    refresh, self._connection, path, self._settings.dataset, record, self._own_id
                )
            )
            return False
        self._room.fit(
            partial(publish, self._connection, path, self._settings.dataset, record, self._own_id)
        )
        self._unpublished.unlink(missing_ok=True)
        return True

    @property
    def _record(self) -> Published:
        return Published(self._places.work_dir / "published.json")

    @property
    def is_published(self) -> bool:
        """Whether readers see every row that has landed."""
        return self.published_path is None or not self._unpublished.exists()

    @property
    def _unpublished(self) -> Path:
        """A file that is there while the working file has rows that the copy lacks."""
        return self._places.work_dir / "unpublished"

    def close(self) -> None:
        """Close the working file; a second call does nothing."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()
        if error is not None:
            self._raise_suspected(error)

    def _raise_suspected(self, error: BaseException) -> None:
        if failed := suspected(self._places, error):
            raise failed from error
