"""Rows of tables, queries and Parquet files, streamed as Arrow batches; those of servers' cursors.

Names are quoted, databases opened read-only. DuckDB names a file's catalog after the file. Where a
schema has the same name (the default: `data/hiringcenter.duckdb`, schema `hiringcenter`),
`hiringcenter.prospects` is "ambiguous", so such a file is attached under another name.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from connector.errors import InputError, did_you_mean
from connector.logs import redact
from connector.upsert.inputs.files import LocalFile
from connector.upsert.inputs.reader import Input, check_header
from connector.upsert.rows.cells import MOST_EXACT, InputRow, Unreadable

if TYPE_CHECKING:
    import pyarrow.parquet as pq

BATCH_ROWS = 5_000
_RESERVED_CATALOGS = {"memory", "main", "system", "temp"}
# a name that isn't a table is an error, never a variable of this program
_NO_PYTHON = "SET python_enable_replacements = false"
# these quote names and the query itself; others, such as a failed conversion, quote values
_ABOUT_THE_QUERY = (
    duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException, duckdb.IOException,
)  # fmt: skip
_QUOTED = re.compile(r"""(['"]).*\1""")
# types that Arrow would hand over as another value (a TIMETZ without its offset, a UHUGEINT as -1)
_AS_TEXT = re.compile(r"\b(UHUGEINT|BIGNUM|VARINT|TIME WITH TIME ZONE|TIME_NS|VARIANT)\b")
_NESTED = ("STRUCT", "MAP", "UNION", "TUPLE")
# what JSON says instead of its spelling: "Acme" in JSON is Acme, and its null is none
_JSON = {
    "JSON": "CASE json_type({0}) WHEN 'VARCHAR' THEN {0} ->> '$' WHEN 'NULL' THEN NULL "
    "ELSE CAST({0} AS VARCHAR) END",
    "JSON[]": "from_json(to_json({0}), '[\"VARCHAR\"]')",
}

Database = duckdb.DuckDBPyConnection | str | Path
OpenRecords = Callable[[], AbstractContextManager[Iterable[Sequence[Any]]]]


class TableInput(Input):
    """Rows of a table, query or Parquet file. `row_number` is the position, from 1.

    open_records: starts reading from the first row; each has a cell for each of `columns`, in
    Python's own types.

    Raises:
        InputError: a doubled or unnamed column.
    """

    def __init__(
        self,
        open_records: OpenRecords,
        *,
        name: str,
        columns: list[str],
        description: str,
        file: LocalFile | None = None,
    ) -> None:
        super().__init__(name=name, columns=columns, description=description, file=file)
        check_header(columns, location=name)
        self._open_records, self.from_table = open_records, file is None

    def _rows(self) -> Iterator[InputRow]:
        with self._open_records() as records:
            for number, record in enumerate(records, start=1):
                yield InputRow(number, dict(zip(self.columns, record, strict=True)))


def table_input(database: Database, table: str, *, schema: str | None = None) -> TableInput:
    """The rows of a table or view, called `name` or `schema.name`.

    database: a connection, which stays open, or the path of a DuckDB file.
    schema: where `table` is looked for first.

    Raises:
        InputError: no such table, or the file can't be opened.
    """
    with _connected(database, schema) as connection:
        found = _find(connection, table, schema)
    return _input(database, f"SELECT * FROM {found}", schema, name=f"table {table}")  # noqa: S608


def sql_input(database: Database, query: str, *, schema: str | None = None) -> TableInput:
    """The rows of one SELECT. database, schema: as in `table_input`.

    Raises:
        InputError: the query is wrong, isn't one SELECT, or the file can't be opened.
    """
    return _input(database, query, schema, name="query")


def _input(database: Database, query: str, schema: str | None, *, name: str) -> TableInput:
    @contextmanager
    def open_records() -> Iterator[Iterable[Sequence[Any]]]:
        with _connected(database, schema) as connection, _explained(name):
            yield records_of(_readable(connection.sql(query)).to_arrow_reader(BATCH_ROWS))

    with _connected(database, schema) as connection, _explained(name):
        statements = connection.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise InputError(location=name, reason="isn't one SELECT. Push one SELECT.")
        columns = list(connection.sql(query).columns)
    return TableInput(open_records, name=name, columns=columns, description=f"DuckDB, {name}")


def _readable(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """`relation` with what Arrow would change as the text that DuckDB shows."""
    kinds = [str(kind) for kind in relation.types]
    cells = [_as_text(f"#{position}", kind) for position, kind in enumerate(kinds, start=1)]
    if all(cell.startswith("#") for cell in cells):
        return relation
    named = zip(cells, relation.columns, strict=True)
    return relation.project(", ".join(f"{cell} AS {_quoted(name)}" for cell, name in named))


def _as_text(reference: str, kind: str) -> str:
    """A column as text; within lists and structs, as the same type with text inside."""
    if kind in _JSON:
        return _JSON[kind].format(reference)
    if not _AS_TEXT.search(kind):
        return reference
    is_nested = kind.startswith(_NESTED) or kind.endswith("]")
    to = _AS_TEXT.sub("VARCHAR", kind) if is_nested else "VARCHAR"
    return f"CAST({reference} AS {to})"


def _find(connection: duckdb.DuckDBPyConnection, table: str, schema: str | None) -> str:
    """The quoted name of `table`."""
    rows = connection.execute(
        "SELECT table_schema, table_name FROM information_schema.tables "
        "ORDER BY table_schema = ? DESC, table_schema = 'main' DESC, table_schema",
        [schema],
    ).fetchall()
    for found_schema, found in rows:
        if table in (found, f"{found_schema}.{found}"):
            return f"{_quoted(found_schema)}.{_quoted(found)}"
    hint = did_you_mean(table, [found for _, found in rows])
    raise InputError(location=f"table {table}", reason=f"no such table or view.{hint}")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, pa.ArrowException) as error:
        raise InputError(
            location=name, reason=f"{_first_line(error).rstrip('.!')}. Correct the query."
        ) from None


def _first_line(error: Exception) -> str:
    """What the database says, without what it may quote from a row."""
    line = redact(str(error).strip().splitlines()[0].rstrip("."))
    return line if isinstance(error, _ABOUT_THE_QUERY) else _QUOTED.sub("'…'", line)


# --- DuckDB files ---------------------------------------------------------------------------


@contextmanager
def _connected(database: Database, schema: str | None) -> Iterator[duckdb.DuckDBPyConnection]:
    if isinstance(database, duckdb.DuckDBPyConnection):
        opened = database.cursor()
    elif not Path(database).is_file():
        raise InputError(location=str(database), reason="no such database file. Check --database.")
    else:
        try:
            opened = open_read_only(Path(database), schema)
        except duckdb.Error as error:
            reason = (
                f"can't be opened as a DuckDB database ({_first_line(error)}). Is it one, and has "
                "another program opened it for writing?"
            )
            raise InputError(location=str(database), reason=reason) from None
    with opened as connection:
        connection.execute(_NO_PYTHON)
        yield connection


def open_read_only(path: Path, schema: str | None = None) -> duckdb.DuckDBPyConnection:
    """A connection to the file in which a plain table name is looked for in `schema` first
    (`main` where that is None or isn't there).

    Raises:
        duckdb.Error: it isn't a DuckDB file, or another program writes to it.
    """
    connection = duckdb.connect()
    try:
        connection.execute("SET TimeZone = 'UTC'")
        catalog, schemas = _attach(connection, path)
        found = schema if schema in schemas else "main"
        connection.execute(f"USE {_quoted(catalog)}.{_quoted(found)}")
    except BaseException:
        connection.close()
        raise
    return connection


def _attach(connection: duckdb.DuckDBPyConnection, path: Path) -> tuple[str, set[str]]:
    """(the catalog's name, which no schema has; its schemas)."""
    name = path.stem if path.stem.lower() not in _RESERVED_CATALOGS else f"{path.stem}_file"
    literal = str(path).replace("'", "''")
    while True:
        connection.execute(f"ATTACH '{literal}' AS {_quoted(name)} (READ_ONLY)")
        rows = connection.execute(
            "SELECT schema_name FROM duckdb_schemas() WHERE database_name = ?", [name]
        ).fetchall()
        schemas = {row[0] for row in rows}
        if name.lower() not in map(str.lower, schemas):
            return name, schemas
        connection.execute(f"DETACH {_quoted(name)}")
        name = f"{name}_file"


def _quoted(identifier: str) -> str:
    """`identifier` as SQL names it, whatever is in it."""
    return '"' + identifier.replace('"', '""') + '"'


# --- Arrow's values as Python has them ------------------------------------------------------


def records_of(
    batches: Iterable[pa.RecordBatch], *, utc_times: frozenset[str] = frozenset()
) -> Iterator[tuple[Any, ...]]:
    """The rows of `batches`; what Python can't hold, as Unreadable.

    utc_times: columns of times of day that are in UTC, which Arrow's type can't say.
    """
    for batch in batches:
        columns = list(map(_cells, batch.columns))
        for at, name in enumerate(batch.schema.names):
            if name in utc_times:
                columns[at] = [cell and cell.replace(tzinfo=UTC) for cell in columns[at]]
        yield from zip(*columns, strict=True)


def _cells(column: pa.Array) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    elif pa.types.is_time64(kind) and kind.unit == "ns":
        column = column.cast(pa.time64("us"), safe=False)
    try:
        cells: list[Any] = column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):
        cells = [_cell(value) for value in column]
    if pa.types.is_float64(kind) and (pc.max(pc.abs(column)).as_py() or 0) >= MOST_EXACT:
        return list(map(_exact, cells))
    return [_shortest(cell, kind) for cell in cells] if _holds_short_floats(kind) else cells


def _cell(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (pa.ArrowException, ValueError, OverflowError):
        return Unreadable(f"a {value.type} that is out of range")


def _exact(cell: float | None) -> float | Unreadable | None:
    """A double, unless the writer's rounding has made up some of its digits."""
    if cell is None or not MOST_EXACT <= abs(cell) < float("inf"):
        return cell
    return Unreadable(
        "a floating-point number of more than 15 digits, the last of which are rounded",
        text=repr(cell),
        advice="Write it as text or as a decimal",
    )


def _holds_short_floats(kind: pa.DataType) -> bool:
    """Whether values of fewer bits than Python's floats are in it, at any depth."""
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        return True
    return any(_holds_short_floats(kind.field(at).type) for at in range(kind.num_fields))


def _shortest(value: Any, kind: pa.DataType) -> Any:
    """`value` with its short floats as people wrote them: 1.1, not 1.100000023841858."""
    if isinstance(value, float) and not pa.types.is_float64(kind):
        code = "e" if pa.types.is_float16(kind) else "f"
        for digits in range(1, 9):
            shorter = float(f"{value:.{digits}g}")
            with suppress(OverflowError):
                if struct.unpack(code, struct.pack(code, shorter))[0] == value:
                    return shorter
        return value
    if isinstance(value, dict):
        return {name: _shortest(item, kind.field(name).type) for name, item in value.items()}
    if isinstance(value, list) and pa.types.is_map(kind):
        return [(_shortest(k, kind.key_type), _shortest(v, kind.item_type)) for k, v in value]
    if isinstance(value, list):
        return [_shortest(item, kind.value_type) for item in value]
    return value


# --- Parquet --------------------------------------------------------------------------------------
#
# A batch of rows at a time, bounded by what the footer says before any is read: a few bytes can
# stand for gigabytes (one long text that a million rows share, a page of zeros, a list without an
# end). So columns of text that are stored in little room are read as dictionaries, in which a
# shared text is held once; batches are as short as the longest text of the others asks for;
# everything else has limits.

MAX_ROWS, MAX_COLUMNS, MAX_LIST_ITEMS = 20_000_000, 5_000, 5_000_000
MAX_ROW_GROUP_BYTES = 512 * 1024**2
MAX_ROW_BYTES = 64 * 1024**2
_BATCH_BYTES, _SMALL_BYTES, _PROBED_ROWS = 32 * 1024**2, 4 * 1024**2, 65_536
_SHARED_PREFIXES = {"DELTA_BYTE_ARRAY"}  # an encoding in which a long text may take no room
_DICTIONARIES = {"PLAIN_DICTIONARY", "RLE_DICTIONARY"}


def parquet_input(file: LocalFile) -> TableInput:
    """The rows of a Parquet file.

    Raises:
        InputError: it can't be read, has two columns of one name, or is beyond a limit.
    """
    local = file.unpacked()
    with _opened(local) as opened:
        _check_limits(opened.metadata, file.name)
        columns = list(opened.schema_arrow.names)
        utc_times = _utc_times(opened.metadata)
        shared, large = _text_columns(opened.metadata)
        batch_rows = _batch_rows(opened.metadata)
    for column in large:
        batch_rows = min(batch_rows, _rows_that_fit(_longest(local, column)))
    pa.default_memory_pool().release_unused()

    @contextmanager
    def open_records() -> Iterator[Iterable[Sequence[Any]]]:
        with _opened(local, read_dictionary=shared) as read:
            batches = _short_batches(read.iter_batches(batch_size=batch_rows), file.name)
            yield records_of(batches, utc_times=utc_times)

    return TableInput(
        open_records, name=file.name, columns=columns, description="Parquet", file=file
    )


@contextmanager
def _opened(file: LocalFile, **options: Any) -> Iterator[pq.ParquetFile]:
    from pyarrow.parquet import ParquetFile  # which most pushes don't need

    try:
        with file.open() as stream, ParquetFile(stream, pre_buffer=False, **options) as opened:
            yield opened
    except (pa.ArrowException, OSError, ValueError) as error:
        lines = str(error).splitlines()
        reason = f"can't be read as Parquet ({(lines or [''])[0][:200]}). Write it again."
        raise InputError(location=file.name, reason=reason) from None


def _check_limits(metadata: pq.FileMetaData, location: str) -> None:
    limits = [
        (metadata.num_rows, MAX_ROWS, "rows"),
        (metadata.num_columns, MAX_COLUMNS, "columns"),
    ]
    for group in _row_groups(metadata):
        size = 0
        for number in range(group.num_columns):
            column = group.column(number)
            size += column.total_uncompressed_size
            if metadata.schema.column(number).max_repetition_level:
                limits.append((column.num_values, MAX_LIST_ITEMS, "items of lists in a row group"))
        limits.append((size >> 20, MAX_ROW_GROUP_BYTES >> 20, "MB in a row group"))
    for count, limit, what in limits:
        if count > limit:
            reason = f"has {count:,} {what}, and the limit is {limit:,}. Write it in smaller parts."
            raise InputError(location=location, reason=reason)


def _row_groups(metadata: pq.FileMetaData) -> Iterator[pq.RowGroupMetaData]:
    return map(metadata.row_group, range(metadata.num_row_groups))


def _leaves(metadata: pq.FileMetaData) -> Iterator[tuple[pq.ColumnSchema, set[str]]]:
    """Each column of values, with the encodings that it has anywhere."""
    for number in range(metadata.num_columns):
        chunks = (group.column(number) for group in _row_groups(metadata))
        encodings = {encoding for chunk in chunks for encoding in chunk.encodings}
        yield metadata.schema.column(number), encodings


def _text_columns(metadata: pq.FileMetaData) -> tuple[list[str], list[str]]:
    """Columns of text that rows may share: (those whose dictionaries are small, the others)."""
    shared: list[str] = []
    large: list[str] = []
    for number, (column, encodings) in enumerate(_leaves(metadata)):
        if column.physical_type == "BYTE_ARRAY" and encodings & _DICTIONARIES:
            chunks = (group.column(number) for group in _row_groups(metadata))
            size = max((chunk.total_uncompressed_size for chunk in chunks), default=0)
            (shared if size <= _SMALL_BYTES else large).append(column.path)
    return shared, large


def _longest(file: LocalFile, column: str) -> int:
    """The most bytes that a row of this one column of text takes."""
    with _opened(file, read_dictionary=[column]) as opened:
        batches = opened.iter_batches(batch_size=_PROBED_ROWS, columns=[column])
        return max((_shared_bytes(batch.column(0)) for batch in batches), default=0)


def _rows_that_fit(row_bytes: int) -> int:
    return max(1, min(BATCH_ROWS, _BATCH_BYTES // max(1, row_bytes)))


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """As many rows as take little memory: by their average size, and where texts share their
    prefixes as if each were as long as all that is stored of its column."""
    row_bytes = 1
    for group in _row_groups(metadata):
        for column in map(group.column, range(group.num_columns)):
            size = column.total_uncompressed_size
            shares = not _SHARED_PREFIXES.isdisjoint(column.encodings)
            row_bytes = max(row_bytes, size if shares else size // max(1, group.num_rows))
    return _rows_that_fit(row_bytes)


def _utc_times(metadata: pq.FileMetaData) -> frozenset[str]:
    """Columns of times of day that are marked as UTC. Arrow marks all it writes, also those of
    which it knows no zone, so that its files say nothing."""
    if b"ARROW:schema" in (metadata.metadata or {}):
        return frozenset()
    kinds = ((column.path, column.logical_type) for column, _ in _leaves(metadata))
    return frozenset(
        path
        for path, kind in kinds
        if kind.type == "TIME" and json.loads(kind.to_json()).get("isAdjustedToUTC")
    )


def _short_batches(batches: Iterable[pa.RecordBatch], location: str) -> Iterator[pa.RecordBatch]:
    """`batches` in slices whose texts, repeated where rows share them, take little memory."""
    for batch in batches:
        row_bytes = max(1, sum(map(_shared_bytes, batch.columns)))
        if row_bytes > MAX_ROW_BYTES:
            limit = f"{MAX_ROW_BYTES >> 20} MB"
            reason = f"has rows of more than {limit}, the limit. Is this a list of people?"
            raise InputError(location=location, reason=reason)
        rows = _rows_that_fit(row_bytes)
        yield from (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))


def _shared_bytes(column: pa.Array) -> int:
    """The most that one row's texts take once they aren't shared any more."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return pc.max(pc.binary_length(column.dictionary)).as_py() or 0
    if pa.types.is_struct(kind):
        return sum(_shared_bytes(column.field(number)) for number in range(kind.num_fields))
    if pa.types.is_map(kind):
        items = _shared_bytes(column.keys) + _shared_bytes(column.items)
        lengths = pc.subtract(column.offsets[1:], column.offsets[:-1])
        return items and items * (pc.max(lengths).as_py() or 0)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        items = _shared_bytes(column.values)
        return items and items * (pc.max(pc.list_value_length(column)).as_py() or 0)
    return 0
