"""Which datasets, and which of their tables, a DuckDB file holds; accounts may share a file."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

MARK = "_hc_runs"  # every dataset of ours has this table
_MARTS = "_marts"
STAGING = "_staging"  # dlt's: holds tables of the same names


@dataclass(frozen=True)
class TableName:
    """A table of a dataset; as text, quoted and qualified by its schema."""

    dataset: str
    table: str

    @property
    def schema(self) -> str:
        return _quoted(self.dataset)

    def __str__(self) -> str:
        return f"{self.schema}.{_quoted(self.table)}"


def working_catalog(connection: duckdb.DuckDBPyConnection) -> str:
    """The name that DuckDB gives to the file `connection` was opened with."""
    found = connection.execute("SELECT current_database()").fetchone()
    assert found is not None
    return str(found[0])


def datasets(connection: duckdb.DuckDBPyConnection, catalog: str, own: str) -> list[str]:
    """Ours in `catalog`, without dlt's staging, sorted. own: is one even if it is new."""
    rows = connection.execute(
        "SELECT schema_name FROM duckdb_tables() WHERE database_name = ? AND table_name = ?",
        [catalog, MARK],
    ).fetchall()
    found = {row[0] for row in rows} | {own}
    return sorted(found - {f"{each}{STAGING}" for each in found})


def foreign_tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Tables and views of an opened file that belong to no dataset of ours, nor to its marts."""
    catalog = working_catalog(connection)
    rows = connection.execute(
        "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = ? UNION ALL "
        "SELECT schema_name, view_name FROM duckdb_views() WHERE database_name = ? "
        "AND NOT internal ORDER BY ALL",
        [catalog, catalog],
    ).fetchall()
    ours = {schema for schema, name in rows if name == MARK}
    ours |= {f"{schema}{_MARTS}" for schema in ours}
    return [f"{schema}.{name}" for schema, name in rows if schema not in ours]


def tables(connection: duckdb.DuckDBPyConnection, catalog: str, dataset: str) -> list[TableName]:
    """A dataset's tables without dlt's own, in the order they were made."""
    rows = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = ? AND schema_name = ? "
        "AND NOT starts_with(table_name, '_dlt_') ORDER BY table_oid",
        [catalog, dataset],
    ).fetchall()
    return [TableName(dataset, row[0]) for row in rows]


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
