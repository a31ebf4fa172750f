"""Which datasets, and which of their tables, a DuckDB file holds; accounts may share a file."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

_MARK = "_hc_runs"  # every dataset of ours has this table
_STAGING = "_staging"  # dlt's: holds tables of the same names


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
        [catalog, _MARK],
    ).fetchall()
    found = {row[0] for row in rows} | {own}
    return sorted(found - {f"{each}{_STAGING}" for each in found})


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
