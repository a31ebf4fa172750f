"""DuckDB's memory: little at first, more for what doesn't fit."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from pipelines.destination.working_file import MemoryLimit

WIDE = "SELECT i AS id, " + ", ".join(f"md5((i + {n})::VARCHAR) AS c{n}" for n in range(120))


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    config: dict[str, str | bool | int | float | list[str]] = {"memory_limit": "20MB", "threads": 2}
    with duckdb.connect(":memory:", config=config) as opened:
        opened.execute("SET temp_directory = ''")
        yield opened


def _make_wide_table(connection: duckdb.DuckDBPyConnection) -> int:
    connection.execute(f"CREATE TABLE wide AS {WIDE} FROM range(20000) numbers(i)")
    (count,) = connection.execute("SELECT count(*) FROM wide").fetchall()[0]
    return int(count)


def test_what_does_not_fit_is_done_again_with_more(connection: duckdb.DuckDBPyConnection):
    """The caller sees the result alone."""
    tries: list[int] = []

    def make() -> int:
        tries.append(1)
        return _make_wide_table(connection)

    assert MemoryLimit(connection).fit(make) == 20000
    assert len(tries) > 1


def test_what_no_machine_has_is_an_error(connection: duckdb.DuckDBPyConnection):
    room = MemoryLimit(connection, max_mb=30.0)
    with pytest.raises(duckdb.OutOfMemoryException):
        room.fit(lambda: _make_wide_table(connection))


def test_another_error_is_raised_at_once(connection: duckdb.DuckDBPyConnection):
    tries: list[int] = []

    def fail() -> None:
        tries.append(1)
        connection.execute("SELECT nothing FROM nowhere")

    with pytest.raises(duckdb.CatalogException):
        MemoryLimit(connection).fit(fail)
    assert len(tries) == 1
