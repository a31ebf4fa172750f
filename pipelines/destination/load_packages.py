"""Load packages: the pipeline of dlt's that loads them, and the form in which rows are tried.

This module imports dlt, which takes half a second: import it once something is to be loaded.

Fields that can't be columns at a destination land in the JSON column `_hc_more`, by API name. Most
are known beforehand: names of system columns, more columns than a table may have, more values than
fit into one of PostgreSQL's rows of 8 kB. Others show up when a load is refused: then the fields
that are new to the table move, and the column's schema remembers them, so that later loads aren't
refused. If that isn't enough, every field that the API's contract doesn't name moves, for this load
only.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dlt
import orjson
import pyarrow as pa
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.normalizers.naming import NamingConvention
from dlt.common.storages.exceptions import StorageException
from dlt.destinations import duckdb as dlt_duckdb
from dlt.destinations.job_client_impl import SqlJobClientBase

from connector.logs import get_logger
from connector.source.dlt_source import list_resource, merge_strategy, with_state
from connector.source.fields import CONTRACT, FIELD_HINT, HASH_COLUMN, MORE_COLUMN
from connector.source.row_maker import column_name, is_reserved
from connector.source.scans import note
from pipelines.destination.dlt_options import make_pipeline
from pipelines.destination.load_errors import chain
from pipelines.destination.loader import RENAMED_TABLES, SCHEMA_NAME, Batch, LoadForm, own_columns

_log = get_logger("load")
_REMEMBERED = "x-hc-moved"  # a hint of MORE_COLUMN: columns that were refused
_SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
_NOT_COLUMNS = {
    "postgres": _SYSTEM_COLUMNS,
    "redshift": _SYSTEM_COLUMNS | {"oid", "insertxid", "deletexid"},
}
_MAX_COLUMNS = {"postgres": 1600, "redshift": 1600, "mssql": 1024, "synapse": 1024}
_SPARE_COLUMNS = 20  # for those that are ours or dlt's
# of a page of 8192, left for optional values; long ones are stored outside, by an 18-byte pointer
_MAX_BYTES = {"postgres": 7000}
_BYTES = {"bool": 1, "text": 21, "json": 21}  # at most, alignment included; others 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Columns = Mapping[str, Mapping[str, Any]]


# --- the pipeline ---------------------------------------------------------------------------------


class DuckDb(dlt_duckdb):
    """dlt's DuckDB destination, with its capabilities cached.

    dlt asks for them some twenty times per load, and resolves its configuration each time: nearly
    half the cost of a small load.
    """

    def __init__(self, connection: Any) -> None:
        # a dataset has the very name of the settings: dlt would load `MyData` into `my_data`
        super().__init__(connection, enable_dataset_name_normalization=False)
        self._known: dict[str | None, DestinationCapabilitiesContext] = {}

    @property
    def destination_type(self) -> str:
        return "dlt.destinations.duckdb"

    def capabilities(
        self, config: Any = None, naming: NamingConvention | None = None
    ) -> DestinationCapabilitiesContext:
        if config is not None:
            return super().capabilities(config, naming)
        name = naming.name() if naming else None
        if name not in self._known:
            self._known[name] = super().capabilities(None, naming)
        return self._known[name].copy()


# what dlt adds to dictionaries; also in a table that is made without rows, or that had rows before:
# a column that may not be null couldn't be added to those
_OF_DICTS: dict[str, Any] = {
    name: {"name": name, "data_type": "text", "nullable": True}
    for name in ("_dlt_id", "_dlt_load_id")
}


class LoadPipeline:
    """One dlt pipeline without local files from before: it begins with the state and the schema in
    the destination. form: of its load files.
    """

    def __init__(self, destination: Any, *, dataset: str, folder: Path, form: LoadForm) -> None:
        scratch = Path(tempfile.mkdtemp(prefix="run-", dir=folder))
        self.pipeline = make_pipeline(destination, dataset, scratch)
        self._form = form
        self.pipeline.sync_destination()
        for old, new in RENAMED_TABLES.items():
            self._rename_table(old, new)

    @property
    def sources(self) -> Mapping[str, Any]:
        """The states of dlt's sources."""
        found: Mapping[str, Any] = self.pipeline.state.get("sources", {})
        return found

    def columns(self) -> dict[str, dict[str, Any]]:
        """dlt column schemas by table: a copy, since dlt reads its schema each time."""
        if self.pipeline.default_schema_name is None:
            return {}
        return own_columns(self.pipeline.default_schema.tables)

    def _rename_table(self, old: str, new: str) -> None:
        """Rename a table of an earlier version. On a server, whose tables are read directly, its
        old name stays as a view."""
        pipeline = self.pipeline
        if old not in self.columns():
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
                            view = f"{name(old)} AS SELECT * FROM {name(new)}"  # noqa: S608
                            server.execute_sql(f"CREATE VIEW {view}")
                    _log.info("load.table_renamed", old=old, new=new)
        schema = pipeline.default_schema
        (table,) = schema.drop_tables([old])
        schema.update_table({**table, "name": new})
        pipeline.schemas.commit_live_schema(schema.name)  # type: ignore[attr-defined]

    def restore_dropped(self) -> list[str]:
        """Recreate tables and columns that were dropped by hand: dlt trusts its schema, so every
        load would fail. Returns the recreated tables, which are empty."""
        with self.pipeline.destination_client() as client:
            if not isinstance(client, SqlJobClientBase):
                return []
            if self.pipeline.default_schema_name is None:
                _forget_schema_of_dropped(client)
                return []
            names = [name for name in self.columns() if not name.startswith("_dlt_")]
            versions = client.schema.version_table_name
            found = dict(client.get_storage_tables([*names, versions]))
            if not found.get(versions):
                return []  # nothing was ever loaded, or all was dropped: dlt creates everything
            dropped = [name for name in names if not found.get(name)]
            lacking = [name for name in names if found[name] and _lacks(client, name, found[name])]
            if dropped or lacking:
                client.update_stored_schema(only_tables=[*dropped, *lacking], force=True)
                _log.warning("load.dropped_restored", tables=dropped, columns_of=lacking)
            for name in lacking:  # a dropped column has lost its values: no row is unchanged
                if HASH_COLUMN in client.schema.get_table_columns(name):
                    table = client.sql_client.make_qualified_table_name(name)
                    client.sql_client.execute_sql(f"UPDATE {table} SET {HASH_COLUMN} = NULL")  # noqa: S608
        return dropped

    def load(
        self, batches: Sequence[Batch], states: Mapping[str, Mapping[str, Any]], *, merges: bool
    ) -> None:
        """Upsert every batch in one load package. states: of other tables, stored with it.
        merges: also rows that are new."""
        pipeline = self.pipeline
        is_new = pipeline.default_schema_name is None
        if states:
            with pipeline.managed_state() as state:
                sources = state.setdefault("sources", {}).setdefault(SCHEMA_NAME, {})
                for table, scans in states.items():
                    found = sources.setdefault("resources", {}).setdefault(table, {})
                    note(found, scans)
        pipeline.run(
            [self._resource(batch, merges=merges) for batch in batches],
            schema=dlt.Schema(SCHEMA_NAME) if is_new else pipeline.default_schema,
            loader_file_format=self._form.file_format,  # type: ignore[arg-type]
        )

    def _resource(self, batch: Batch, *, merges: bool) -> Any:
        columns = {**batch.columns, **(_OF_DICTS if self._form.is_plain else {})}

        def rows() -> list[Any]:
            # without rows, only Arrow makes dlt create the table
            is_plain = self._form.is_plain and len(batch.rows) > 0
            items: Any = batch.as_dicts() if is_plain else _with_columns(batch.as_table(), columns)
            return [items if batch.state is None else with_state(items, batch.state)]

        resource = list_resource(
            batch.table,
            rows,
            columns=columns,
            primary_key=batch.key,
            strategy=merge_strategy(self.pipeline.destination.capabilities()),
            table_format=self._form.table_format,
        )
        if batch.is_new and not merges:
            resource.apply_hints(write_disposition="append")
        return resource

    @staticmethod
    def is_about_local_files(error: BaseException) -> bool:
        """Whether dlt failed on one of its local files, which another process may have removed."""
        return any(
            isinstance(cause, StorageException | FileNotFoundError | NotADirectoryError)
            for cause in chain(error)
        )


def _with_columns(table: pa.Table, columns: Mapping[str, Any]) -> pa.Table:
    for name in columns.keys() - set(table.column_names):
        table = table.append_column(name, pa.nulls(len(table), pa.string()))
    return table


def _forget_schema_of_dropped(client: SqlJobClientBase) -> None:
    """Where dlt's own tables were dropped by hand it starts without a state, but as soon as its
    schema equals the stored one it trusts that, and would load into tables that aren't there."""
    schema, server = client.schema, client.sql_client
    versions, *others = (
        schema.version_table_name, schema.loads_table_name, schema.state_table_name,
    )  # fmt: skip
    found = dict(client.get_storage_tables([versions, *others]))
    if found.get(versions) and not all(found.get(name) for name in others):
        name = server.make_qualified_table_name(versions)
        server.execute_sql(f"DELETE FROM {name} WHERE schema_name = %s", SCHEMA_NAME)  # noqa: S608
        _log.warning("load.schema_forgotten", tables=[n for n in others if not found.get(n)])


def _lacks(client: SqlJobClientBase, table: str, found: dict[str, Any]) -> bool:
    is_exact = client.capabilities.generates_case_sensitive_identifiers()
    return bool(client.schema.get_new_table_columns(table, found, case_sensitive=is_exact))


# --- forms of a load ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """What to load. warnings: by table, which fields moved to `_hc_more`, and how often."""

    batches: Sequence[Batch]
    warnings: Mapping[str, Counter[str]]


def forms(
    destination: str, batches: Sequence[Batch], known: Mapping[str, Columns]
) -> Iterator[Form]:
    """What to load; then, each time the load is refused, the same rows with fewer columns.

    destination: its name, as dlt calls it. known: by table, the columns at the destination.
    """
    optional = {batch.table: _optional(batch) for batch in batches}
    impossible = {
        batch.table: _impossible(destination, batch, optional[batch.table], known[batch.table])
        for batch in batches
    }
    new = {table: names - set(known[table]) for table, names in optional.items()}
    before = None
    for more, is_remembered in ((impossible, True), (new, True), (optional, False)):
        moving = {table: names | impossible[table] for table, names in more.items()}
        if moving == before:
            continue
        before = moving
        moves = [
            _Move(destination, batch, known[batch.table], optional[batch.table])
            for batch in batches
        ]
        narrowed = [move.without(moving[move.batch.table], is_remembered) for move in moves]
        yield Form(narrowed, {move.batch.table: move.warnings for move in moves if move.warnings})


def _optional(batch: Batch) -> set[str]:
    """Columns of fields that the contract doesn't name."""
    if batch.table not in CONTRACT:
        return set()
    own = {column_name(name) for name in CONTRACT[batch.table]}
    return {name for name in batch.columns if name not in own and not is_reserved(name)}


def _impossible(destination: str, batch: Batch, optional: set[str], known: Columns) -> set[str]:
    found = optional & {*_NOT_COLUMNS.get(destination, ()), *_remembered(known)}
    if destination in _MAX_COLUMNS:
        new = [name for name in batch.columns if name in optional - found - set(known)]
        others = {*known, *batch.columns} - set(new) - found
        found |= set(new[max(0, _MAX_COLUMNS[destination] - _SPARE_COLUMNS - len(others)) :])
    return found


def _remembered(known: Columns) -> Sequence[str]:
    return tuple(known.get(MORE_COLUMN, {}).get(_REMEMBERED, ()))


class _Move:
    """Moves columns of a batch, and single values of rows that are too big."""

    def __init__(self, destination: str, batch: Batch, known: Columns, optional: set[str]) -> None:
        self.batch = batch
        self.warnings: Counter[str] = Counter()
        self._destination, self._known, self._optional = destination, known, optional
        self._more: dict[int, dict[str, Any]] = defaultdict(dict)

    def without(self, names: set[str], is_remembered: bool) -> Batch:
        """The batch without the columns `names`."""
        batch, max_bytes = self.batch, _MAX_BYTES.get(self._destination)
        if max_bytes is not None and len(batch.columns) * max(_BYTES.values()) <= max_bytes:
            max_bytes = None
        if not names and max_bytes is None:
            return batch
        rows = batch.as_table()
        for name in sorted(names):
            self._move(name, enumerate(rows[name].to_pylist()))
        rows = rows.drop_columns(sorted(names))
        if max_bytes is not None:
            rows = self._without_oversized_values(rows, max_bytes)
        if not (names or self._more):
            return batch
        more: dict[str, Any] = {"name": MORE_COLUMN, "data_type": "json", "nullable": True}
        if remembered := {*_remembered(self._known), *(names if is_remembered else ())}:
            more[_REMEMBERED] = sorted(remembered)
        columns = {name: batch.columns[name] for name in rows.column_names} | {MORE_COLUMN: more}
        texts = [_json(self._more[at]) if at in self._more else None for at in range(len(rows))]
        rows = rows.append_column(MORE_COLUMN, pa.array(texts, pa.string()))
        return replace(batch, rows=rows, columns=columns)

    def _move(self, name: str, values: Iterable[tuple[int, Any]]) -> None:
        """Move a column's values, by row, under the API's name."""
        column = self.batch.columns[name]
        field = str(column.get(FIELD_HINT, name))
        warning = f"field {field} can't be a column of {self._destination}"
        for at, value in values:
            if value is not None:
                is_json = column["data_type"] == "json"
                self._more[at][field] = orjson.Fragment(value) if is_json else _plain(value)
                self.warnings[f"{warning}; kept in {MORE_COLUMN}"] += 1

    def _without_oversized_values(self, rows: pa.Table, max_bytes: int) -> pa.Table:
        sizes = [0] * len(rows)
        for index, name in enumerate(rows.column_names):
            if name not in self._optional:
                continue
            size = _BYTES.get(self.batch.columns[name]["data_type"], 8)
            values, moved = rows[name].to_pylist(), []
            for at, value in enumerate(values):
                sizes[at] += 0 if value is None else size
                if value is not None and sizes[at] > max_bytes:
                    moved.append((at, value))
                    values[at] = None
            if moved:
                self._move(name, moved)
                kept = pa.array(values, rows.schema.field(name).type)
                rows = rows.set_column(index, rows.schema.field(name), kept)
        return rows


def _json(values: Mapping[str, Any]) -> str:
    return orjson.dumps(values, option=orjson.OPT_SORT_KEYS).decode()


def _plain(value: Any) -> Any:
    """A time as in the API: Unix milliseconds."""
    return (value - _EPOCH) // timedelta(milliseconds=1) if isinstance(value, datetime) else value
