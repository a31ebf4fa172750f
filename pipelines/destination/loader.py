"""What is loaded, and the state that travels with it.

A load package holds rows and state together, and dlt loads rows before the state's row; where a
state is saved without dlt, its rows are loaded before it. After a kill anywhere, rows may be loaded
a second time (a harmless upsert), and none is skipped.

dlt's local files are scratch. Each run, and each load after a failed one, begins without them,
from the state and the schema in the destination: a package that a kill cut short is read again
instead of being finished. So there is one way to recover, it is used every time, and nothing that
dlt finds on disk can keep it from loading.

In a DuckDB file the state and the schema can be read without dlt, which isn't even imported until
there is something to load.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import orjson
import pyarrow as pa

from connector.logs import get_logger
from connector.source.fields import arrow_table
from connector.source.row_maker import MALFORMED_TABLE
from pipelines.destination.load_errors import translated
from pipelines.destination.working_file import transaction, work_schema

if TYPE_CHECKING:
    from pipelines.destination.load_packages import LoadPipeline

PIPELINE_NAME = SCHEMA_NAME = "hiringcenter"
RENAMED_TABLES = {"_hc_odd_records": MALFORMED_TABLE}  # since version 0.1
_STATE_ENGINE, _SCHEMA_ENGINE = 4, 11  # dlt's formats that are read here; it migrates others
_log = get_logger("load")
States = dict[str, dict[str, Any]]
Tables = Mapping[str, Mapping[str, Any]]
"""dlt column schemas by table and column."""


@dataclass(frozen=True)
class Batch:
    """Rows for one table, each key at most once, as dicts or as an Arrow table (dlt takes six times
    as long for dicts).

    columns: dlt column schemas by name. state: dlt's state of `table` once these rows are loaded;
    None leaves it unchanged. is_new: the destination has none of the keys yet, so the rows are
    inserted without a merge, at half the cost. asked_ms: before the rows were requested, UTC epoch
    ms; None: unknown.
    """

    table: str
    rows: Sequence[Mapping[str, Any]] | pa.Table
    columns: Mapping[str, Mapping[str, Any]]
    key: str | Sequence[str] = "id"
    state: Mapping[str, Any] | None = None
    is_new: bool = False
    asked_ms: int | None = None

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
    own would take JSON that is text already for a text. table_format: of tables in a bucket.
    has_update: whether rows can be changed with SQL; else whole rows are loaded again."""

    file_format: str | None
    is_plain: bool = False
    table_format: str | None = None
    has_update: bool = True


class Loader:
    """One dlt pipeline and what it has loaded. Not thread-safe; the pull lock is held.

    open_pipeline: opens it, working in a folder. tables: reads which tables and columns the
    destination has, if dlt isn't needed to know them. folder: for dlt's scratch files. connection:
    of the working file, which keeps states that no load has carried to the destination yet.
    """

    def __init__(
        self,
        open_pipeline: Callable[[Path], LoadPipeline],
        *,
        dataset: str,
        tables: Callable[[], Tables] | None,
        folder: Path,
        connection: duckdb.DuckDBPyConnection,
    ) -> None:
        self._open_pipeline, self._tables = open_pipeline, tables
        self._folder, self._dataset, self._connection = folder, dataset, connection
        self._local_states = _LocalStates(connection, dataset)
        self._opened: LoadPipeline | None = None
        self._columns: dict[str, dict[str, Any]] = {}
        self._states: States = {}
        self._unsent: set[str] = set()  # tables whose states dlt doesn't have yet
        self._is_clean = self._stores_states = True

    @property
    def opened(self) -> LoadPipeline:
        """The pipeline, opened if it isn't yet."""
        if self._opened is None:
            self.recover()
        assert self._opened is not None
        return self._opened

    def open(self) -> None:
        """Learn the tables and the states, if possible without dlt.

        Raises:
            DestinationError: the destination can't be reached or read.
        """
        self.discard_local_files()
        if self._tables is not None:
            stored = _stored_by_dlt(self._connection, self._dataset, self._tables())
            if stored is not None:
                self._learn(*stored)
                return
        self.recover()

    def recover(self) -> None:
        """Start without local files, from the state and the schema in the destination.

        Tables and columns that were dropped there are created again, and their rows read again.

        Raises:
            DestinationError: the destination can't be reached or read.
        """
        self.discard_local_files()
        self._is_clean = False  # until all of it is done: a load after half a recovery must merge
        self._stores_states = True
        with translated():
            self._opened = self._open_pipeline(self._folder)
            dropped = self._opened.restore_dropped()
            self._learn(self._opened.sources, self._opened.columns())
        if dropped:
            self.save_states({name: {} for name in dropped})
        self._is_clean = True

    def _learn(self, sources: Mapping[str, Any], columns: Tables) -> None:
        """sources: the states of dlt's sources. A state without its table is void."""
        self.learn_tables(columns)
        local = self._local_states.after(sources)
        states = {**sources.get(SCHEMA_NAME, {}).get("resources", {}), **local}
        self._states = {name: state for name, state in states.items() if name in self._columns}
        self._unsent = set(local) & set(self._states)

    def learn_tables(self, columns: Tables | None = None) -> None:
        """Remember the columns at the destination. columns: those that dlt knows."""
        known = self._columns if columns is None else columns
        found = self._tables() if self._tables is not None else {}
        self._columns = {
            name: {**found.get(name, {}), **known.get(name, {})} for name in {**found, **known}
        }

    def discard_local_files(self) -> None:
        """Remove dlt's local files, as far as possible; call `recover` before the next load."""
        with suppress(OSError):
            if self._folder.is_dir():
                shutil.rmtree(self._folder, ignore_errors=True)
            else:
                self._folder.unlink(missing_ok=True)
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def columns(self, table: str) -> dict[str, Any]:
        """dlt column schemas of `table`; empty if there is no such table yet."""
        return self._columns.get(table, {})

    def state_of(self, table: str) -> dict[str, Any]:
        """dlt's state of `table`; empty if there is none."""
        return dict(self._states.get(table, {}))

    def save_states(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Save states that come without rows, by table; the next load that stores states has dlt
        store them."""
        with translated():
            self._local_states.add(states)
        self._states.update((table, dict(state)) for table, state in states.items())
        self._unsent.update(states)

    def load(self, batches: Sequence[Batch]) -> None:
        """Upsert every batch in one load package. May be called again after a failure.

        In a DuckDB file only the first package of a run stores states: each would cost dlt as much
        as ten thousand rows. Later ones are saved in the same file, as soon as their rows are.

        Raises:
            DestinationError: the rows can't be written; what was loaded before stays.
        """
        is_retry = not self._is_clean  # then some of the rows may be there
        if is_retry or self._opened is None:
            self.recover()
        try:
            self._load(batches, merges=is_retry)
        except Exception as error:
            if not self.opened.is_about_local_files(error):
                raise
            _log.warning("load.local_files_unusable", folder=str(self._folder))
            self.recover()
            self._load(batches, merges=True)
        self._note_states({each.table: each.state for each in batches if each.state})
        self.learn_tables(self.opened.columns())

    def _load(self, batches: Sequence[Batch], *, merges: bool) -> None:
        others: set[str] = set()
        if self._stores_states:
            others = self._unsent - {batch.table for batch in batches if batch.state}
        else:
            batches = [replace(batch, state=None) for batch in batches]
        self._is_clean = False
        with translated():
            states = {name: self._states[name] for name in others}
            self.opened.load(batches, states, merges=merges)
        self._is_clean = True

    def _note_states(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """The states of tables whose rows were loaded just now."""
        if not self._stores_states:
            self.save_states(states)
            return
        self._states.update((table, dict(state)) for table, state in states.items())
        self._unsent.clear()
        with translated():
            self._local_states.loaded(self.opened.sources)
        # those that are saved here are tied to one that dlt has, so that they can't outlive it
        self._stores_states = self._tables is None or not self.opened.sources


# --- what dlt has stored ------------------------------------------------------------------------


def _stored_by_dlt(
    connection: duckdb.DuckDBPyConnection, dataset: str, found: Tables
) -> tuple[Mapping[str, Any], Tables] | None:
    """The states of dlt's sources and the columns that it knows, as it restores them itself from a
    dataset of the opened file.

    None if dlt has to open it: in another version's format, or where a table or a column that it
    knows is missing or has another name now. found: the tables and columns that are there.
    """
    if "_dlt_pipeline_state" not in found:
        return {}, {}
    try:
        state = _newest(
            connection,
            f'FROM "{dataset}"._dlt_pipeline_state s '
            f'JOIN "{dataset}"._dlt_loads l ON l.load_id = s._dlt_load_id '
            "SELECT engine_version, state WHERE pipeline_name = ? AND status = 0 "
            "ORDER BY load_id DESC LIMIT 1",
            PIPELINE_NAME,
            _STATE_ENGINE,
        )
        if state is None:
            return {}, {}
        schema = _newest(
            connection,
            f'FROM "{dataset}"._dlt_version SELECT engine_version, schema '
            "WHERE schema_name = ? ORDER BY inserted_at DESC LIMIT 1",
            SCHEMA_NAME,
            _SCHEMA_ENGINE,
        )
        columns = own_columns(schema["tables"] if schema else {})
    except (duckdb.Error, ValueError, LookupError, TypeError):
        return None
    is_all_there = all(columns[name].keys() <= found.get(name, {}).keys() for name in columns)
    if not (columns and is_all_there) or RENAMED_TABLES.keys() & columns.keys():
        return None
    return state.get("sources", {}), columns


def _newest(
    connection: duckdb.DuckDBPyConnection, sql: str, name: str, engine: int
) -> dict[str, Any] | None:
    rows = connection.execute(sql, [name]).fetchall()
    if not rows:
        return None
    ((version, text),) = rows
    if version != engine:
        raise ValueError("stored by another version of dlt")
    return parsed_state(text)


def parsed_state(text: str) -> dict[str, Any]:
    """A state or a schema as dlt stores it: base64, or JSON as it is.

    Raises:
        ValueError: it is neither.
    """
    found: dict[str, Any] = json.loads(_unpacked(text))
    return found


def _unpacked(text: str) -> str:
    with suppress(ValueError, zlib.error):
        return zlib.decompress(base64.b64decode(text, validate=True)).decode()
    return text


def state_without(text: str, ids: Sequence[str]) -> str:
    """A state as dlt stores it, or as it waits here, with other names in place of these ids."""
    changed = plain = _unpacked(text)
    for id_ in ids:
        for quoted in (json.dumps(id_), json.dumps(id_, ensure_ascii=False)):
            changed = changed.replace(quoted, json.dumps(other_name()))
    if changed == plain:
        return text
    return changed if plain == text else base64.b64encode(zlib.compress(changed.encode())).decode()


def other_name() -> str:
    """A name that no id has, in place of one that must not be known any more."""
    return f"forgotten-{secrets.token_hex(8)}"


def own_columns(tables: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By table, the columns in a schema of dlt's that have a type and aren't its own."""
    return {
        table: {
            name: column
            for name, column in found.get("columns", {}).items()
            if "data_type" in column and not name.startswith("_dlt_")
        }
        for table, found in tables.items()
    }


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
        if not states:
            return
        delete = f"DELETE FROM {self._table} WHERE list_contains(?, resource)"  # noqa: S608 - ours
        insert = f"INSERT INTO {self._table} SELECT unnest(?), ?, unnest(?)"
        texts = [json.dumps(state) for state in states.values()]
        with transaction(self._connection) as cursor:
            cursor.execute(delete, [[*states]])
            cursor.execute(insert, [[*states], self._base, texts])

    def loaded(self, sources: Mapping[str, Any]) -> None:
        """The destination now has the state `sources`, which includes all of these."""
        self._base = _digest(sources)
        self._connection.execute(f"DELETE FROM {self._table}")  # noqa: S608 - a name of ours


def digest_of_stored(text: str) -> str:
    """The digest by which states that are saved without dlt name one that dlt has stored."""
    return _digest(parsed_state(text).get("sources", {}))


def _digest(sources: Mapping[str, Any]) -> str:
    text = json.dumps(sources, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
