"""Comments on tables and columns, and on PostgreSQL primary keys and indexes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa

from connector.sandbox import Sandbox, SandboxOptions
from connector.source.dictionary import UNNAMED, column_text, table_text
from tests.sync.pull.conftest import Puller
from tests.sync.pull.first_pulls import FirstPulls

_LISTS = {"prospects", "notes", "tasks", "meetings"}
_KEYS = {
    "prospects_hc_id", "notes_hc_id", "tasks_hc_id", "meetings_hc_id",
    "notes_hc_prospect_id", "tasks_hc_prospect_id", "meetings_hc_prospect_id",
    "prospects_history_hc_id", "tasks_history_hc_id",
}  # fmt: skip


@pytest.fixture
def sandbox(first_pulls: FirstPulls) -> Iterator[Sandbox]:
    options = SandboxOptions(prospects=20, notes=5, tasks=5, meetings=5)
    with first_pulls.sandbox(options) as running:
        yield running


@pytest.fixture
def on_postgres(postgres_puller: Puller) -> Iterator[tuple[Puller, sa.Engine]]:
    url = sa.make_url(str(postgres_puller.postgres_url)).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    yield postgres_puller, engine
    engine.dispose()


def _all(engine: sa.Engine, sql: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(sql))]


def _indexes(engine: sa.Engine) -> set[str]:
    """Complete ones of ours."""
    sql = (
        "SELECT x.relname FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid "
        "WHERE i.indisvalid AND x.relname LIKE '%\\_hc\\_%'"
    )
    return {name for (name,) in _all(engine, sql)}


def test_every_table_and_column_of_the_copy_has_a_comment(puller: Puller):
    """What the dictionary says; also after a pull that renews only the tables about runs, and of a
    field that the contract doesn't name."""
    first = puller.sandbox.store.all("prospects")[0]["id"]
    puller.sandbox.store.update("prospects", first, {"shoeSize": "47"})
    puller.pull_ok()
    assert not puller.pull_ok().published
    with duckdb.connect(str(puller.settings.duckdb_path), read_only=True) as connection:
        tables = connection.execute(
            "SELECT table_name, comment FROM duckdb_tables() WHERE schema_name = 'hiringcenter'"
        ).fetchall()
        columns = connection.execute(
            "SELECT table_name, column_name, comment FROM duckdb_columns() "
            "WHERE schema_name = 'hiringcenter'"
        ).fetchall()
    assert {name for name, _ in tables} >= _LISTS
    for name, comment in tables:
        assert comment.startswith(table_text(name))
    for table, column, comment in columns:
        assert comment == (column_text(table, column) or UNNAMED)
    assert ("prospects", "shoe_size", UNNAMED) in columns


def test_postgres_has_comments_a_primary_key_and_an_index(on_postgres: tuple[Puller, sa.Engine]):
    """Made once, with the first pull, or in tables that are there already; a user's own comment
    stays, and merges continue."""
    puller, engine = on_postgres
    puller.pulled()
    bare = _all(
        engine,
        "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
        "WHERE relnamespace = 'hiringcenter'::regnamespace AND relkind = 'r' AND attnum > 0 "
        "AND relname NOT LIKE '\\_dlt%' AND col_description(c.oid, attnum) IS NULL",
    )
    assert bare == []
    assert _indexes(engine) == _KEYS
    oid = "SELECT oid FROM pg_class WHERE relname = 'prospects_hc_id'"
    before = _all(engine, oid)
    with engine.connect() as connection:
        connection.execute(sa.text("COMMENT ON TABLE hiringcenter.notes IS 'ours'"))
        connection.execute(sa.text("DROP INDEX hiringcenter.tasks_history_hc_id"))
    for each in puller.sandbox.store.all("prospects")[:9]:
        puller.sandbox.store.update("prospects", each["id"], {"title": "edited"})
    puller.pull_ok("prospects", "notes")
    puller.assert_true()
    assert _all(engine, oid) == before
    assert _indexes(engine) == _KEYS
    assert _all(engine, "SELECT obj_description('hiringcenter.notes'::regclass)") == [("ours",)]


def test_doubled_ids_are_a_warning_and_no_obstacle(
    on_postgres: tuple[Puller, sa.Engine], capsys: pytest.CaptureFixture[str]
):
    """A table that has them keeps them, and gets no key; nothing half-made stays. It is reported
    once, and tried again a week later."""
    puller, engine = on_postgres
    puller.pulled()
    with engine.connect() as connection:
        connection.execute(sa.text("ALTER TABLE hiringcenter.tasks DROP CONSTRAINT tasks_hc_id"))
        connection.execute(
            sa.text("INSERT INTO hiringcenter.tasks SELECT * FROM hiringcenter.tasks LIMIT 1")
        )
    capsys.readouterr()
    puller.pull_ok("tasks")
    puller.pull_ok("tasks")
    assert capsys.readouterr().out.count("destination.no_keys") == 1
    assert "tasks_hc_id" not in _indexes(engine)
    assert _all(engine, "SELECT 1 FROM pg_index WHERE NOT indisvalid") == []


def test_a_value_that_is_too_long_for_an_index_lands(on_postgres: tuple[Puller, sa.Engine]):
    """Then its table has no keys, nor its history: a row that can't land would be worse."""
    puller, engine = on_postgres
    puller.pulled()
    assert {"notes_hc_prospect_id", "tasks_history_hc_id"} <= _indexes(engine)
    long = "".join(f"{number:05d}" for number in range(3000))
    first = puller.sandbox.store.all("notes")[0]["id"]
    puller.sandbox.store.update("notes", first, {"prospectId": long})
    puller.pull_ok("notes", full=True)
    found = f"SELECT length(prospect_id) FROM hiringcenter.notes WHERE id = '{first}'"
    assert _all(engine, found) == [(15_000,)]
    assert not _indexes(engine) & {"notes_hc_id", "notes_hc_prospect_id"}
    puller.sandbox.store.put("tasks", {**puller.sandbox.store.all("tasks")[0], "id": long})
    puller.pull_ok("tasks", full=True)
    versions = f"SELECT count(*) FROM hiringcenter.tasks_history WHERE id = '{long}'"
    assert _all(engine, versions) == [(1,)]
    assert "tasks_history_hc_id" not in _indexes(engine)


def test_an_open_transaction_of_an_analyst_delays_no_pull(on_postgres: tuple[Puller, sa.Engine]):
    """Who has read a table in a transaction that stays open keeps its key from being made; the
    rows land, and the key is made by a later pull."""
    puller, engine = on_postgres
    puller.pulled()
    with engine.connect() as connection:
        connection.execute(sa.text("ALTER TABLE hiringcenter.tasks DROP CONSTRAINT tasks_hc_id"))
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as analyst:
        analyst.execute(sa.text("SELECT count(*) FROM hiringcenter.tasks"))
        puller.pull_ok("tasks")
        assert "tasks_hc_id" not in _indexes(engine)
