"""DuckDB files opened for reading, so that the names people write mean what they think.

DuckDB names a file's catalog after the file. Where a schema has the same name (the default:
`data/hiringcenter.duckdb`, schema `hiringcenter`), `hiringcenter.prospects` is "ambiguous", so
such a file is attached under another name.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

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
