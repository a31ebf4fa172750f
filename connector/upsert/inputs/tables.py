"""Tables and queries of DuckDB, streamed; names are quoted, databases opened read-only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from connector.errors import InputError, nearest
from connector.logs import redact
from connector.upsert.inputs.batches import BATCH_ROWS, BatchesInput
from connector.upsert.inputs.database_files import open_read_only, quoted

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
