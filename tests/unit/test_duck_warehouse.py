"""Tables that are made and changed by SQL in the file of a DuckDB destination."""

from __future__ import annotations

import duckdb
import pytest

from connector.source.fields import HASH_COLUMN
from pipelines.destination.loader import Batch
from pipelines.destination.warehouse import DuckWarehouse


def batch(*names: str) -> Batch:
    columns = {name: {"name": name, "data_type": "text"} for name in ("id", HASH_COLUMN, *names)}
    return Batch("notes", (), columns)


@pytest.mark.parametrize(("column", "stays"), [("body", None), ("_hc_unlisted_at", "h")])
def test_rows_count_as_changed_once_a_field_of_theirs_gets_a_column(column: str, stays: str | None):
    """It may have been dropped by hand, with its values. A column of ours holds none of theirs."""
    with duckdb.connect() as connection:
        warehouse = DuckWarehouse(connection, "d")
        warehouse.create_tables([batch("title")])
        connection.execute("INSERT INTO d.notes VALUES ('a', 'h', 't')")
        warehouse.create_tables([batch("title")])
        hashes = f"SELECT {HASH_COLUMN} FROM d.notes"
        assert warehouse.query(hashes) == [("h",)]
        warehouse.create_tables([batch("title", column)])
        assert warehouse.query(hashes) == [(stays,)]


def test_rows_are_compared_alike_however_often_they_were_not_changed():
    """By a query at first, then by hashes that were read once; not by those of rows as they were
    before a change, nor by an invalid hash."""
    with duckdb.connect() as connection:
        warehouse = DuckWarehouse(connection, "d")
        warehouse.create_tables([batch()])
        ids = ["a", "b", "c", "d"]
        hashes = [beginning + 16 * "0" for beginning in ("f" * 16, "0" * 16, "7" * 16, "a" * 16)]
        connection.executemany(
            "INSERT INTO d.notes VALUES (?, ?)",
            [("a", hashes[0]), ("b", hashes[1]), ("c", None), ("z", "no hash")],
        )
        sql = f"SELECT id, {HASH_COLUMN} FROM d.notes"
        for _ in range(4):
            assert warehouse.changed(sql, ids, hashes) == [2, 3]
        connection.execute("UPDATE d.notes SET id = 'd', _hc_hash = ? WHERE id = 'a'", [hashes[3]])
        warehouse.rows_changed()
        for _ in range(4):
            assert warehouse.changed(sql, ids, hashes) == [0, 2]
