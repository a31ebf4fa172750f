"""DuckDB files whose name is a schema's, too: plain and qualified names both find the table."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from connector.upsert.inputs.table_reader import open_read_only, sql_input, table_input


@pytest.fixture(params=["hiringcenter.duckdb", "other.duckdb", "main.duckdb", "it's.duckdb"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    literal = str(path).replace("'", "''")
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{literal}' AS made")
        connection.execute("CREATE SCHEMA made.hiringcenter")
        connection.execute("CREATE TABLE made.hiringcenter.prospects AS SELECT 'Ada' AS first_name")
    return path


@pytest.mark.parametrize("name", ["prospects", "hiringcenter.prospects"])
def test_the_names_people_write_find_the_table(path: Path, name: str):
    """In --table and in --sql, whatever the file is called."""
    query = f"SELECT first_name FROM {name}"
    for rows in (
        table_input(path, name, schema="hiringcenter"),
        sql_input(path, query, schema="hiringcenter"),
    ):
        assert [row.values for row in rows] == [{"first_name": "Ada"}]


def test_it_cannot_be_written(path: Path):
    """A query in the configuration changes nothing."""
    with open_read_only(path) as connection, pytest.raises(duckdb.Error):
        connection.execute("DELETE FROM hiringcenter.prospects")
