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
