"""dlt's part of a pull: load packages, schema evolution, and the state that travels with rows.

A load package holds rows and state together, and dlt loads rows before the state's row: after a
kill anywhere, rows may be loaded a second time (a harmless upsert), and none is skipped.

dlt's local files are scratch. Each run, and each load after a failed one, begins without them,
from the state and the schema in the destination: a package that a kill cut short is read again
instead of being finished. So there is one way to recover, it is used every time, and nothing that
dlt finds on disk can keep it from loading.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dlt
import duckdb
import orjson
import pyarrow as pa
from dlt.common.storages.exceptions import StorageException
from dlt.destinations.job_client_impl import SqlJobClientBase

from connector.logs import get_logger
from connector.source.dlt_source import list_resource, merge_strategy, with_state
from connector.source.fields import HASH_COLUMN, arrow_table
from connector.source.row_maker import MALFORMED_TABLE
from connector.source.scans import note
from pipelines.destination.dlt_options import SCHEMA_NAME, make_pipeline
from pipelines.destination.load_errors import chain, translated
from pipelines.destination.working_file import work_schema

_log = get_logger("load")
States = dict[str, dict[str, Any]]
_RENAMED = {"_hc_odd_records": MALFORMED_TABLE}  # since version 0.1


@dataclass(frozen=True)
class Batch:
    """Rows for one table, each key at most once, as dicts or as an Arrow table (dlt takes six times
    as long for dicts).

    columns: dlt column schemas by name. state: dlt's state of `table` once these rows are loaded;
    None leaves it unchanged. is_new: the destination has none of the keys yet, so the rows are
    inserted without a merge, at half the cost.
    """

    table: str
    rows: Sequence[Mapping[str, Any]] | pa.Table
    columns: Mapping[str, Mapping[str, Any]]
    key: str | Sequence[str] = "id"
    state: Mapping[str, Any] | None = None
    is_new: bool = False

    def as_table(self) -> pa.Table:
        """The rows with exactly the types of their columns."""
        if isinstance(self.rows, pa.Table):
            return self.rows
        cells = {name: [row.get(name) for row in self.rows] for name in self.columns}
        return arrow_table(cells, self.columns, rows=len(self.rows))

    def as_dicts(self) -> list[dict[str, Any]]:
        """The rows with their JSON as values."""
        rows: list[dict[str, Any]] = self.as_table().to_pylist()
        nested = [name for name, column in self.columns.items() if column["data_type"] == "json"]
        for row in rows:
            for name in nested:
                if row[name] is not None:
                    row[name] = orjson.loads(row[name])
        return rows


@dataclass(frozen=True)
class LoadForm:
    """How a destination takes rows. file_format: of load files; None for the destination's own.
    is_plain: as dictionaries, whose JSON dlt writes itself: a destination with a JSON type of its
    own would take JSON that is text already for a text. table_format: of tables in a bucket."""

    file_format: str | None
    is_plain: bool = False
    table_format: str | None = None


class Loader:
    """One dlt pipeline, which `recover` opens. Not thread-safe; the pull lock is held.

    destination: a dlt destination. form: of its load files. folder: for dlt's scratch files.
    connection: of the working file, which keeps states that no load has carried to the destination
    yet.
    """

    pipeline: dlt.Pipeline

    def __init__(
        self,
        destination: Any,
        *,
        dataset: str,
        folder: Path,
        form: LoadForm,
        connection: duckdb.DuckDBPyConnection,
    ) -> None:
        self._destination, self._dataset = destination, dataset
        self._form, self._folder = form, folder
        self._local_states = _LocalStates(connection, dataset)
        self._columns: dict[str, dict[str, Any]] = {}
        self._states: States = {}
        self._unsent: set[str] = set()  # tables whose states the next load stores
        self._is_clean = False

    def recover(self) -> None:
        """Start without local files, from the state and the schema in the destination.

        Tables and columns that were dropped there are created again, and their rows read again.

        Raises:
            DestinationError: the destination can't be reached or read.
        """
        self.discard_local_files()
        with translated():
            scratch = Path(tempfile.mkdtemp(prefix="run-", dir=self._folder))
            self.pipeline = make_pipeline(self._destination, self._dataset, scratch)
            self.pipeline.sync_destination()
            sources = self.pipeline.state.get("sources", {})
            local = self._local_states.after(sources)
            self._states = {**sources.get(SCHEMA_NAME, {}).get("resources", {}), **local}
            self._unsent = set(local)
            for old, new in _RENAMED.items():
                _rename_table(self.pipeline, old, new)
            self._learn_columns()
            dropped = _restore_dropped(self.pipeline, list(self._columns))
        if dropped:
            self.save_states({name: {} for name in dropped})
        self._is_clean = True  # not before: a load after half a recovery must merge

    def discard_local_files(self) -> None:
        """Remove dlt's local files, as far as possible; call `recover` before the next load."""
        with suppress(OSError):
            if self._folder.is_dir():
                shutil.rmtree(self._folder, ignore_errors=True)
            else:
                self._folder.unlink(missing_ok=True)
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def columns(self, table: str) -> dict[str, Any]:
        """dlt column schemas of `table`; empty if dlt doesn't know it."""
        return self._columns.get(table, {})

    def _learn_columns(self) -> None:
        """Remember dlt's columns: it reads its schema each time they are needed."""
        if self.pipeline.default_schema_name is None:
            return
        for table, found in self.pipeline.default_schema.tables.items():
            self._columns[table] = {
                name: column
                for name, column in found.get("columns", {}).items()
                if "data_type" in column and not name.startswith("_dlt_")
            }

    def state_of(self, table: str) -> dict[str, Any]:
        """dlt's state of `table`; empty if there is none."""
        return dict(self._states.get(table, {}))

    def save_states(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Save states that come without rows, by table; the next load stores them with dlt's."""
        with translated():
            self._local_states.add(states)
        self._states.update((table, dict(state)) for table, state in states.items())
        self._unsent.update(states)

    def load(self, batches: Sequence[Batch]) -> None:
        """Upsert every batch in one load package. May be called again after a failure.

        Raises:
            DestinationError: the rows can't be written; what was loaded before stays.
        """
        is_retry = not self._is_clean  # then some of the rows may be there
        if is_retry:
            self.recover()
        try:
            self._load(batches, merges=is_retry)
        except Exception as error:
            if not _is_about_local_files(error):
                raise
            _log.warning("load.local_files_unusable", folder=str(self._folder))
            self.recover()
            self._load(batches, merges=True)
        self._states.update((each.table, dict(each.state)) for each in batches if each.state)
        self._unsent.clear()
        with translated():
            self._local_states.loaded(self.pipeline.state.get("sources", {}))
        self._learn_columns()

    def _load(self, batches: Sequence[Batch], *, merges: bool) -> None:
        """merges: also rows that are new."""
        pipeline = self.pipeline
        is_new = pipeline.default_schema_name is None
        self._is_clean = False
        with translated():
            if rest := self._unsent - {batch.table for batch in batches if batch.state}:
                with pipeline.managed_state() as state:
                    sources = state.setdefault("sources", {}).setdefault(SCHEMA_NAME, {})
                    for table in rest:
                        found = sources.setdefault("resources", {}).setdefault(table, {})
                        note(found, self._states[table])
            pipeline.run(
                [self._resource(batch, merges=merges) for batch in batches],
                schema=dlt.Schema(SCHEMA_NAME) if is_new else pipeline.default_schema,
                loader_file_format=self._form.file_format,  # type: ignore[arg-type]
            )
        self._is_clean = True

    def _resource(self, batch: Batch, *, merges: bool) -> Any:
        def rows() -> list[Any]:
            # without rows, only Arrow makes dlt create the table
            is_plain = self._form.is_plain and len(batch.rows) > 0
            items: Any = batch.as_dicts() if is_plain else batch.as_table()
            return [items if batch.state is None else with_state(items, batch.state)]

        resource = list_resource(
            batch.table,
            rows,
            columns=batch.columns,
            primary_key=batch.key,
            strategy=merge_strategy(self.pipeline.destination.capabilities()),
            table_format=self._form.table_format,
        )
        if batch.is_new and not merges:
            resource.apply_hints(write_disposition="append")
        return resource


class _LocalStates:
    """States that no load has carried to the destination yet, in a table of the working file.

    They are valid only together with the state of the load before them: each names it by a digest,
    and is ignored if the destination has another one.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, dataset: str) -> None:
        self._connection, self._base = connection, ""
        self._table = f"{work_schema(connection, dataset)}.local_marks"
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self._table} "
            "(resource VARCHAR, base VARCHAR, mark VARCHAR)"
        )

    def after(self, sources: Mapping[str, Any]) -> States:
        """The states, by table, that were saved after the destination's state `sources`."""
        self._base = _digest(sources)
        rows = self._connection.execute(
            f"SELECT resource, mark FROM {self._table} WHERE base = ? ORDER BY rowid",  # noqa: S608
            [self._base],
        ).fetchall()
        return {resource: json.loads(state) for resource, state in rows}

    def add(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        rows = [[resource, self._base, json.dumps(state)] for resource, state in states.items()]
        if not rows:
            return
        with closing(self._connection.cursor()) as cursor:
            cursor.execute("BEGIN")
            delete = f"DELETE FROM {self._table} WHERE resource = ?"  # noqa: S608 - a name of ours
            cursor.executemany(delete, [[resource] for resource in states])
            insert = f"INSERT INTO {self._table} VALUES (?, ?, ?)"  # noqa: S608 - a name of ours
            cursor.executemany(insert, rows)
            cursor.execute("COMMIT")

    def loaded(self, sources: Mapping[str, Any]) -> None:
        """The destination now has the state `sources`, which includes all of these."""
        self._base = _digest(sources)
        self._connection.execute(f"DELETE FROM {self._table}")  # noqa: S608 - a name of ours


def _digest(sources: Mapping[str, Any]) -> str:
    text = json.dumps(sources, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _is_about_local_files(error: BaseException) -> bool:
    """Whether dlt failed on one of its local files, which another process may have removed."""
    return any(
        isinstance(cause, StorageException | FileNotFoundError | NotADirectoryError)
        for cause in chain(error)
    )


def _rename_table(pipeline: dlt.Pipeline, old: str, new: str) -> None:
    """Rename a table of an earlier version. On a server, whose tables are read directly, its old
    name stays as a view."""
    schema = None if pipeline.default_schema_name is None else pipeline.default_schema
    if schema is None or old not in schema.tables:
        return
    with pipeline.destination_client() as client:
        if isinstance(client, SqlJobClientBase):
            found = dict(client.get_storage_tables([old, new]))
            if found.get(old) and not found.get(new):
                name, server = client.sql_client.make_qualified_table_name, client.sql_client
                with server.begin_transaction():
                    renamed = server.escape_column_name(new)
                    server.execute_sql(f"ALTER TABLE {name(old)} RENAME TO {renamed}")
                    if not pipeline.destination.destination_type.endswith("duckdb"):
                        server.execute_sql(f"CREATE VIEW {name(old)} AS SELECT * FROM {name(new)}")  # noqa: S608
                _log.info("load.table_renamed", old=old, new=new)
    (table,) = schema.drop_tables([old])
    schema.update_table({**table, "name": new})
    pipeline.schemas.commit_live_schema(schema.name)


def _restore_dropped(pipeline: dlt.Pipeline, known: Sequence[str]) -> list[str]:
    """Recreate tables and columns that were dropped by hand: dlt trusts its schema, so every load
    would fail. known: tables of dlt's schema. Returns the recreated tables, which are empty."""
    names = [name for name in known if not name.startswith("_dlt_")]
    if not names:
        return []
    with pipeline.destination_client() as client:
        if not isinstance(client, SqlJobClientBase):
            return []
        found = dict(client.get_storage_tables([*names, client.schema.version_table_name]))
        if not found.get(client.schema.version_table_name):
            return []  # nothing was ever loaded, or all of it was dropped: dlt creates everything
        dropped = [name for name in names if not found.get(name)]
        lacking = [name for name in names if found[name] and _lacks(client, name, found[name])]
        if dropped or lacking:
            client.update_stored_schema(only_tables=[*dropped, *lacking], force=True)
            _log.warning("load.dropped_restored", tables=dropped, columns_of=lacking)
        for name in lacking:  # a column that was dropped has lost its values: no row is unchanged
            if HASH_COLUMN in client.schema.get_table_columns(name):
                qualified = client.sql_client.make_qualified_table_name(name)
                client.sql_client.execute_sql(f"UPDATE {qualified} SET {HASH_COLUMN} = NULL")  # noqa: S608
    return dropped


def _lacks(client: SqlJobClientBase, table: str, found: dict[str, Any]) -> bool:
    is_exact = client.capabilities.generates_case_sensitive_identifiers()
    return bool(client.schema.get_new_table_columns(table, found, case_sensitive=is_exact))
