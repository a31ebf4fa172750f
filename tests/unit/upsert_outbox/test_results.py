"""Outcomes on their way to the destination, while a push keeps writing them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from connector.budget.database import Database
from connector.upsert.outbox.outbox_schema import results
from connector.upsert.outbox.receipts import ResultStore, RowResult, Status

RUN = "run-1"


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    if request.param == "postgres":
        url = str(request.getfixturevalue("postgres_url"))
    database = Database(url, suffix="-outbox")
    yield database
    database.close()


def put(database: Database, *found: RowResult, at_ms: int = 1) -> ResultStore:
    store = ResultStore(database, scope=42)
    with database.write() as connection:
        store.put(connection, RUN, found, at_ms)
    return store


def left(store: ResultStore) -> dict[int, str]:
    return {row["row_number"]: row["status"] for row in store.unlanded(100)}


def test_outcomes_that_arrive_while_a_load_runs_land_with_the_next(database: Database):
    """Rows 2 and 6 are being loaded when rows 3 and 4 get their outcomes between them."""
    store = put(database, RowResult(2, Status.CREATED), RowResult(6, Status.UNCHANGED))
    loading = store.unlanded(100)
    put(database, RowResult(3, Status.CREATED), RowResult(4, Status.UNCHANGED))
    store.mark_landed(loading)
    assert left(store) == {3: "created", 4: "unchanged"}
    store.mark_landed(store.unlanded(100))
    assert left(store) == {}
    with database.read() as connection:
        assert list(connection.execute(sa.select(results.c.status)).scalars()) == ["created"] * 2


@pytest.mark.parametrize(
    "later",
    [
        RowResult(2, Status.FAILED, "p1", "uncertain"),
        RowResult(2, Status.UNCHANGED, "p1", "says more"),
        RowResult(2, Status.UNCHANGED, "p2"),
        RowResult(2, Status.UNCHANGED, "p1", kept_fields=("title",)),
        RowResult(2, Status.UNCHANGED, "p1", record_kind="notes", record_id="n1"),
    ],
    ids=["status", "message", "prospect", "kept fields", "record"],
)
def test_an_outcome_that_was_replaced_while_it_was_loaded_stays_unlanded(
    database: Database, later: RowResult
):
    """The destination has the former one: the later is loaded next, and then replaces it."""
    store = put(database, RowResult(2, Status.UNCHANGED, "p1"), RowResult(3, Status.UPDATED))
    loading = store.unlanded(100)
    put(database, later)
    store.mark_landed(loading)
    (row,) = store.unlanded(100)
    assert (row["status"], row["prospect_id"], row["message"]) == (
        later.status,
        later.prospect_id,
        later.message,
    )


def test_the_same_outcome_at_a_later_time_is_another(database: Database):
    """Its `pushed_at` is what the destination doesn't have yet."""
    store = put(database, RowResult(2, Status.CREATED, "p1"), at_ms=1)
    loading = store.unlanded(100)
    put(database, RowResult(2, Status.CREATED, "p1"), at_ms=2)
    store.mark_landed(loading)
    assert left(store) == {2: "created"}


def test_what_has_landed_and_says_nothing_more_is_dropped(database: Database):
    """Unchanged rows without a message; the others are kept for `runs`."""
    store = put(
        database,
        RowResult(2, Status.UNCHANGED, "p1"),
        RowResult(3, Status.UNCHANGED, "p2", "a warning"),
        RowResult(4, Status.CREATED, "p3"),
    )
    store.mark_landed(store.unlanded(100))
    with database.read() as connection:
        kept = connection.execute(sa.select(results.c.row_number).where(results.c.landed))
        assert sorted(row[0] for row in kept) == [3, 4]


def test_an_outcome_says_which_record_and_fields_it_is_about(database: Database):
    """The prospect, unless given; lists of names as JSON, and null where none."""
    note = RowResult(3, Status.CREATED, "p1", "why", "notes", "n1", ("body", "pin"))
    store = put(database, RowResult(2, Status.UPDATED, "p1", "why", kept_fields=("title",)), note)
    names = ("record_kind", "record_id", "changed_fields", "kept_fields")
    assert [tuple(row[name] for name in names) for row in store.unlanded(100)] == [
        ("prospects", "p1", None, '["title"]'),
        ("notes", "n1", '["body","pin"]', None),
    ]
    first, second = store.noteworthy(RUN, 10)
    assert (first.record_id, first.kept_fields) == ("p1", ("title",))
    assert second == note


def test_a_ledger_of_an_earlier_version_gets_the_new_columns(database: Database):
    """Its outcomes stay, and say nothing of records."""
    with database.write() as connection:
        results.create(connection)
        for name in ("record_kind", "record_id", "changed_fields", "kept_fields"):
            connection.exec_driver_sql(f"ALTER TABLE push_results DROP COLUMN {name}")
        known = ("run_id", "row_number", "scope", "status", "message", "pushed_ms", "destination")
        row = dict(zip(known, (RUN, 2, 42, "created", "hello", 1, 0), strict=True))
        connection.execute(
            sa.table("push_results", *map(sa.column, (*known, "landed"))).insert(),
            [row | {"landed": False}],
        )
    store = put(database, RowResult(3, Status.CREATED, "p1"))
    assert [row["record_kind"] for row in store.unlanded(100)] == [None, "prospects"]
    (hello,) = store.noteworthy(RUN, 10)
    assert (hello.record_kind, hello.changed_fields) == ("prospects", ())
