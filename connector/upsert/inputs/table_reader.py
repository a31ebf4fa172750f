"""Tables and queries of DuckDB, streamed; names are quoted, databases opened read-only."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from connector.errors import InputError, nearest
from connector.logs import redact
from connector.upsert.inputs.reader import Input, check_header
from connector.upsert.rows.cells import InputRow, Unreadable

# a name that is no table is an error, never a variable of this program
_NO_PYTHON = "SET python_enable_replacements = false"

# these quote names and the query itself; others, such as a failed conversion, quote values
_ABOUT_THE_QUERY = (
    duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException, duckdb.IOException,
)  # fmt: skip
_QUOTED = re.compile(r"""(['"]).*\1""")

_AS_TEXT = re.compile(r"\b(UHUGEINT|BIGNUM|VARINT|TIME WITH TIME ZONE|TIME_NS|VARIANT)\b")
_JSON = {
    "JSON": "CASE json_type({0}) WHEN 'VARCHAR' THEN {0} ->> '$' WHEN 'NULL' THEN NULL "
    "ELSE CAST({0} AS VARCHAR) END",
    "JSON[]": "from_json(to_json({0}), '[\"VARCHAR\"]')",
}
_NESTED = ("STRUCT", "MAP", "UNION", "TUPLE")

Database = duckdb.DuckDBPyConnection | str | Path


def table_input(database: Database, table: str, *, schema: str | None = None) -> BatchesInput:
    """The rows of a table or view, called `name` or `schema.name`.

    database: a connection, which stays open, or the path of a DuckDB file.
    schema: where `table` is looked for first.

    Raises:
        InputError: no such table, or the file can't be opened.
    """
    with _connected(database, schema) as connection:
        found = _find(connection, table, schema)
    return _input(database, f"SELECT * FROM {found}", schema, name=f"table {table}")  # noqa: S608


def sql_input(database: Database, query: str, *, schema: str | None = None) -> BatchesInput:
    """The rows of one SELECT. database, schema: as in `table_input`.

    Raises:
        InputError: the query is wrong, isn't one SELECT, or the file can't be opened.
    """
    return _input(database, query, schema, name="query")


def _input(database: Database, query: str, schema: str | None, *, name: str) -> BatchesInput:
    @contextmanager
    def open_batches() -> Iterator[Iterable[pa.RecordBatch]]:
        with _connected(database, schema) as connection, _explained(name):
            yield _readable(connection.sql(query)).to_arrow_reader(BATCH_ROWS)

    with _connected(database, schema) as connection, _explained(name):
        _check_one_select(connection, query, name)
        columns = list(connection.sql(query).columns)
    return BatchesInput(
        open_batches, name=name, columns=columns, description=f"DuckDB, {name}", from_table=True
    )


def _readable(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """`relation` with what Arrow would hand over as another value (a TIMETZ without its offset, a
    UHUGEINT as -1) as the text that DuckDB shows, and with what JSON says in the place of its
    spelling: "Acme" in JSON is Acme, and its null is none."""
    kinds = [str(kind) for kind in relation.types]
    if not any(_AS_TEXT.search(kind) or kind in _JSON for kind in kinds):
        return relation
    return relation.project(
        ", ".join(
            f"{_as_text(f'#{position}', kind)} AS {quoted(name)}"
            for position, (name, kind) in enumerate(zip(relation.columns, kinds, strict=True), 1)
        )
    )


def _as_text(reference: str, kind: str) -> str:
    """A column as text; within lists and structs, as the same type with text inside."""
    if kind in _JSON:
        return _JSON[kind].format(reference)
    if not _AS_TEXT.search(kind):
        return reference
    is_nested = kind.startswith(_NESTED) or kind.endswith("]")
    to = _AS_TEXT.sub("VARCHAR", kind) if is_nested else "VARCHAR"
    return f"CAST({reference} AS {to})"


def _check_one_select(connection: duckdb.DuckDBPyConnection, query: str, name: str) -> None:
    statements = connection.extract_statements(query)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise InputError(place=name, reason="isn't one SELECT. Push the rows of one SELECT.")


def _find(connection: duckdb.DuckDBPyConnection, table: str, schema: str | None) -> str:
    """The quoted name of `table`."""
    rows = connection.execute(
        "SELECT table_schema, table_name FROM information_schema.tables "
        "ORDER BY table_schema = ? DESC, table_schema = 'main' DESC, table_schema",
        [schema],
    ).fetchall()
    for found_schema, found in rows:
        if table in (found, f"{found_schema}.{found}"):
            return f"{quoted(found_schema)}.{quoted(found)}"
    like = nearest(table, [found for _, found in rows])
    hint = f" Did you mean {like!r}?" if like else ""
    raise InputError(place=f"table {table}", reason=f"no such table or view.{hint}")


@contextmanager
def _connected(database: Database, schema: str | None) -> Iterator[duckdb.DuckDBPyConnection]:
    if isinstance(database, duckdb.DuckDBPyConnection):
        with database.cursor() as cursor:
            cursor.execute(_NO_PYTHON)
            yield cursor
        return
    with _opened(Path(database), schema) as connection:
        connection.execute(_NO_PYTHON)
        yield connection


def _opened(path: Path, schema: str | None) -> duckdb.DuckDBPyConnection:
    if not path.is_file():
        raise InputError(place=str(path), reason="no such database file. Check --database.")
    try:
        return open_read_only(path, schema)
    except duckdb.Error as error:
        reason = (
            f"can't be opened as a DuckDB database ({_first_line(error)}). Is it one, and has "
            "another program opened it for writing?"
        )
        raise InputError(place=str(path), reason=reason) from None


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, pa.ArrowException) as error:
        raise InputError(place=name, reason=f"{_first_line(error)}. Correct the query.") from None


def _first_line(error: Exception) -> str:
    """What the database says, without what it may quote from a row."""
    line = redact(str(error).strip().splitlines()[0].rstrip("."))
    return line if isinstance(error, _ABOUT_THE_QUERY) else _QUOTED.sub("'…'", line)


_TAKEN = {"memory", "main", "system", "temp"}


def quoted(identifier: str) -> str:
    """`identifier` as SQL names it, whatever is in it."""
    return '"' + identifier.replace('"', '""') + '"'


def open_read_only(path: Path, schema: str | None = None) -> duckdb.DuckDBPyConnection:
    """A connection to the file in which a plain table name is looked for in `schema` first
    (`main` where that is None or isn't there).

    Raises:
        duckdb.Error: it isn't a DuckDB file, or somebody writes to it.
    """
    connection = duckdb.connect()
    try:
        connection.execute("SET TimeZone = 'UTC'")
        catalog, schemas = _attach(connection, path)
        found = schema if schema in schemas else "main"
        connection.execute(f"USE {quoted(catalog)}.{quoted(found)}")
    except BaseException:
        connection.close()
        raise
    return connection


def _attach(connection: duckdb.DuckDBPyConnection, path: Path) -> tuple[str, set[str]]:
    """(the catalog's name, its schemas)."""
    name = path.stem
    if name.lower() in _TAKEN:
        name = f"{name}_file"
    _attach_as(connection, path, name)
    schemas = _schemas(connection, name)
    if name.lower() not in {each.lower() for each in schemas}:
        return name, schemas
    connection.execute(f"DETACH {quoted(name)}")
    _attach_as(connection, path, f"{name}_file")
    return f"{name}_file", schemas


def _attach_as(connection: duckdb.DuckDBPyConnection, path: Path, name: str) -> None:
    literal = str(path).replace("'", "''")
    connection.execute(f"ATTACH '{literal}' AS {quoted(name)} (READ_ONLY)")


def _schemas(connection: duckdb.DuckDBPyConnection, catalog: str) -> set[str]:
    rows = connection.execute(
        "SELECT schema_name FROM duckdb_schemas() WHERE database_name = ?", [catalog]
    ).fetchall()
    return {row[0] for row in rows}


BATCH_ROWS = 5_000
_EXACT_BELOW = 2**53  # a double holds each whole number below it

OpenBatches = Callable[[], AbstractContextManager[Iterable[pa.RecordBatch]]]
OpenRecords = Callable[[], AbstractContextManager[Iterable[Sequence[Any]]]]


class BatchesInput(Input):
    """Rows of record batches. `row_number` is the position, from 1.

    open_batches: starts reading from the first row on. Columns must keep their order.
    utc_times: columns of times of day that are in UTC, which Arrow's type can't say.

    Raises:
        InputError: a doubled or unnamed column.
    """

    def __init__(
        self,
        open_batches: OpenBatches,
        *,
        name: str,
        columns: list[str],
        description: str,
        from_table: bool = False,
        utc_times: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(name=name, columns=columns, description=description)
        check_header(columns, place=name)
        self._open_batches, self.from_table = open_batches, from_table
        self._utc_times = utc_times

    def _rows(self) -> Iterator[InputRow]:
        number = 0
        with self._open_batches() as batches:
            for batch in batches:
                columns = map(self._column_cells, self.columns, batch.columns)
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield InputRow(number, dict(zip(self.columns, cells, strict=True)))

    def _column_cells(self, name: str, column: pa.Array) -> list[Any]:
        cells = _cells(column)
        if name in self._utc_times:
            cells = [cell and cell.replace(tzinfo=UTC) for cell in cells]
        return cells


class RecordsInput(Input):
    """Rows of a server's cursor, as its driver hands them out: in Python's own types, which hold
    its decimals and times as they are. `row_number` is the position, from 1.

    open_records: starts reading from the first row on.
    """

    from_table = True

    def __init__(
        self, open_records: OpenRecords, *, name: str, columns: list[str], description: str
    ) -> None:
        super().__init__(name=name, columns=columns, description=description)
        check_header(columns, place=name)
        self._open_records = open_records

    def _rows(self) -> Iterator[InputRow]:
        with self._open_records() as records:
            for number, record in enumerate(records, start=1):
                yield InputRow(number, dict(zip(self.columns, record, strict=True)))


def _cells(column: pa.Array) -> list[Any]:
    """The values of `column` as Python has them; what it can't hold, as Unreadable."""
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
    if pa.types.is_float64(kind):
        return _exact(column, cells)
    return [_shortest(cell, kind) for cell in cells] if _holds_floats(kind) else cells


def _cell(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (pa.ArrowException, ValueError, OverflowError):
        return Unreadable(f"a {value.type} that is out of range")


def _exact(column: pa.Array, cells: list[Any]) -> list[Any]:
    """`cells` of doubles, without those whose digits the writer's rounding has made up."""
    largest = pc.max(pc.abs(column)).as_py()
    if largest is None or not largest >= _EXACT_BELOW:
        return cells
    return [
        Unreadable(
            "a floating-point number of more than 15 digits, the last of which are rounded",
            text=repr(cell),
            advice="Write it as text or as a decimal",
        )
        if cell is not None and _EXACT_BELOW <= abs(cell) < float("inf")
        else cell
        for cell in cells
    ]


def _holds_floats(kind: pa.DataType) -> bool:
    """Whether values of fewer bits than Python's floats are in it, at any depth."""
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        return True
    return any(_holds_floats(kind.field(number).type) for number in range(kind.num_fields))


def _shortest(value: Any, kind: pa.DataType) -> Any:
    """`value` with its short floats as people wrote them: 1.1, not 1.100000023841858."""
    if isinstance(value, float):
        if pa.types.is_float16(kind):
            return _as_short_as("e", value)
        return _as_short_as("f", value) if pa.types.is_float32(kind) else value
    if isinstance(value, dict):
        return {name: _shortest(item, kind.field(name).type) for name, item in value.items()}
    if isinstance(value, list) and pa.types.is_map(kind):
        return [(_shortest(k, kind.key_type), _shortest(v, kind.item_type)) for k, v in value]
    if isinstance(value, list):
        return [_shortest(item, kind.value_type) for item in value]
    return value


def _as_short_as(code: str, value: float) -> float:
    """The float of fewest digits that is `value` in the C type `code`."""
    for digits in range(1, 9):
        shorter = float(f"{value:.{digits}g}")
        try:
            if struct.unpack(code, struct.pack(code, shorter))[0] == value:
                return shorter
        except OverflowError:
            continue
    return value
