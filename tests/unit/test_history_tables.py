"""Histories of rows, and the bounds of each change, by SQL in a DuckDB file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import duckdb
import pytest
from pydantic import SecretStr

from connector.settings import PullSettings, ResourceSettings
from connector.source.row_maker import configured_maker
from connector.source.scans import (
    Checkpoint,
    ListScan,
    ResourceFacts,
    ScanKind,
    ScanOutcome,
    ScanPlan,
)
from pipelines.destination.history_tables import HistoryTables
from pipelines.destination.loader import Batch
from pipelines.destination.warehouse import DuckWarehouse, SeenIds

Version = tuple[Any, ...]


@dataclass
class Rig:
    """Prospects and their history in a DuckDB file; times are in seconds."""

    connection: duckdb.DuckDBPyConnection
    pull: PullSettings = field(default_factory=PullSettings)

    def __post_init__(self) -> None:
        self.warehouse = DuckWarehouse(self.connection, "d")
        self.seen = SeenIds(self.connection, "d")
        self.state: dict[str, Any] = {}
        self.now_s = 1.0
        self.reopen()

    def reopen(self, **changes: Any) -> None:
        """Another run begins, with other settings."""
        self.pull = self.pull.model_copy(update=changes)
        self.history = HistoryTables(
            self.pull,
            kind="duckdb",
            dataset="d",
            connection=self.connection,
            warehouse=self.warehouse,
            seen=self.seen,
            columns=lambda table: self.warehouse.columns().get(table, {}),
            create=self.warehouse.create_tables,
            attempt=lambda work: work(),
            note_change=lambda: None,
            now_ms=lambda: round(self.now_s * 1000),
        )
        lists = [Batch("prospects", (), configured_maker("prospects", {}, self.pull).columns)]
        self.warehouse.create_tables([*lists, *self.history.batches(lists)])

    def prepare(self, at_s: float = 1) -> None:
        self.now_s = at_s
        self.history.prepare(lambda _: self.state)

    def batch(self, asked_s: float, *records: Mapping[str, Any]) -> Batch:
        known = self.warehouse.columns()["prospects"]
        maker = configured_maker("prospects", known, self.pull)
        rows = maker.table(maker.unique([dict(each) for each in records]))
        return Batch("prospects", rows, maker.columns, asked_ms=round(asked_s * 1000))

    def land(self, asked_s: float, *records: Mapping[str, Any], takes_s: float = 1) -> None:
        """Load records that were requested at `asked_s`, and arrived `takes_s` later."""
        batch = self.batch(asked_s, *records)
        self.now_s = asked_s + takes_s
        self.history.expect([batch])
        self.load(batch)
        self.history.follow([batch])

    def land_and_die(self, asked_s: float, *records: Mapping[str, Any]) -> None:
        """A load, and a kill before the history follows."""
        batch = self.batch(asked_s, *records)
        self.now_s = asked_s + 1
        self.history.expect([batch])
        self.load(batch)

    def load(self, batch: Batch) -> None:
        self.warehouse.create_tables([batch])
        self.warehouse.upsert([batch])

    def delete(self, at_s: float, *ids: str) -> None:
        sql = "UPDATE d.prospects SET _hc_deleted_at = %s WHERE id IN ({ids})"
        ending = self.history.ending("prospects", round(at_s * 1000))
        self.warehouse.execute_ids([(sql, [moment(at_s)]), *ending], ids)

    def scan(
        self, began_s: float, kind: ScanKind, *ids: str, outcome: ScanOutcome | None = None
    ) -> None:
        """A scan that began then has seen these, and has ended."""
        plan = ScanPlan("prospects", kind, "why")
        run = ListScan("prospects", ResourceFacts(), Checkpoint(plan, round(began_s * 1000)))
        self.history.begin_scan(run)
        if kind is ScanKind.FULL:
            self.seen.begin("prospects")
            self.seen.add("prospects", ids)
        self.history.note_seen(run, ids)
        if outcome is not None:
            run.end(outcome)
        self.history.end_scan(run)

    def versions(self, column: str = "title") -> list[Version]:
        """(id, value, from, to, after, before): seconds."""
        rows = self.warehouse.query(
            f"SELECT id, {column}, _hc_valid_from, _hc_valid_to, _hc_changed_after, "
            "_hc_changed_before FROM d.prospects_history ORDER BY id, _hc_valid_from"
        )
        return [(*row[:2], *map(seconds, row[2:])) for row in rows]


def moment(at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)


def seconds(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


@pytest.fixture
def rig() -> Iterator[Rig]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield Rig(connection)


def a(title: str | None, **more: Any) -> dict[str, Any]:
    return {"id": "a", "title": title, "labels": ["x", "y"], **more}


def test_versions_join_and_a_change_lies_between_two_sightings(rig: Rig):
    """From when a version was requested, to when the next one was; the change was after the former
    was seen, and before the answer with the next one had arrived."""
    rig.prepare()
    rig.land(10, a("1"))
    rig.land(20, a("2"))
    assert rig.versions() == [("a", "1", 10, 20, None, 11), ("a", "2", 20, None, 10, 21)]


@pytest.mark.parametrize("kind", [ScanKind.FULL, ScanKind.OPEN])
def test_a_scan_that_saw_the_row_narrows_the_bounds(rig: Rig, kind: ScanKind):
    """What was unchanged when a scan had begun changed after that. Who wasn't in it may have
    changed before."""
    rig.prepare()
    rig.land(10, a("1"), a("1") | {"id": "b"})
    rig.scan(100, kind, "a")
    rig.land(200, a("2"), a("2") | {"id": "b"})
    assert [(each[0], each[4]) for each in rig.versions() if each[1] == "2"] == [
        ("a", 100), ("b", 10)
    ]  # fmt: skip


def test_a_scan_before_the_former_version_is_ignored(rig: Rig):
    """A scan that began at 10, and saw the second version at 20, doesn't widen its bounds."""
    rig.prepare()
    rig.land(10, a("1"))
    rig.land(20, a("2"))
    rig.scan(10, ScanKind.FULL, "a")
    rig.land(30, a("3"))
    assert rig.versions()[-1] == ("a", "3", 30, None, 20, 31)


def test_a_deletion_ends_a_version_and_a_return_begins_another(rig: Rig):
    """The gap is the time for which the row was known to be deleted."""
    rig.prepare()
    rig.land(10, a("1"))
    rig.delete(50, "a")
    rig.land(80, a("1"))
    assert rig.versions() == [("a", "1", 10, 50, None, 11), ("a", "1", 80, None, 10, 81)]


def test_who_was_deleted_while_their_table_was_dropped_has_no_open_version(rig: Rig):
    """A table that was dropped by hand is filled again without them, so nothing flags them: a full
    scan that is proven complete ends their versions, and no other scan does."""
    rig.prepare()
    rig.land(10, a("1"), a("1") | {"id": "b"})
    rig.connection.execute("DELETE FROM d.prospects")
    rig.land(20, a("1"))
    for kind, complete in ((ScanKind.FULL, False), (ScanKind.HEAD, True), (ScanKind.FULL, True)):
        assert [each[3] for each in rig.versions()] == [None, None]
        rig.scan(20, kind, "a", outcome=ScanOutcome(complete, ""))
    assert [(each[0], each[3]) for each in rig.versions()] == [("a", None), ("b", 21)]
    rig.land(30, a("1") | {"id": "b"})
    assert [each[2:4] for each in rig.versions()[1:]] == [(10, 21), (30, None)]


def test_versions_never_begin_at_the_same_moment(rig: Rig):
    """Pages that were requested together, or a clock that was set back, leave an order."""
    rig.prepare()
    rig.land(10, a("1"))
    rig.land(10, a("2"), takes_s=0)
    rig.land(5, a("3"), takes_s=0)
    froms = [(each[2], each[3]) for each in rig.versions()]
    assert froms == [(10, 10.001), (10.001, 10.002), (10.002, None)]
    assert all(each[2] <= each[5] for each in rig.versions())


@pytest.mark.parametrize("kind", [ScanKind.FULL, ScanKind.OPEN])
def test_a_change_never_comes_before_the_scan_after_which_it_was_made(rig: Rig, kind: ScanKind):
    """The clock was set back after a scan that saw the row as it was before."""
    rig.prepare()
    rig.land(10, a("1"), a("1") | {"id": "b"})
    rig.scan(100, kind, "a")
    rig.land(5, a("2"), a("2") | {"id": "b"})
    assert rig.versions() == [
        ("a", "1", 10, 100, None, 11), ("a", "2", 100, None, 100, 100),
        ("b", "1", 10, 10.001, None, 11), ("b", "2", 10.001, None, 10, 10.001),
    ]  # fmt: skip


def test_what_isnt_another_version(rig: Rig):
    """Labels in another order, a new field without a value, a row that is read again, a row that
    was noted as unlisted: the version stays, with the hash of what the row is now."""
    rig.prepare()
    rig.land(10, a("1"))
    rig.land(20, a("1"))
    rig.land(30, a("1", labels=["y", "x"]))
    rig.land(40, a("1", labels=["y", "x"], office=None))
    rig.connection.execute("UPDATE d.prospects SET _hc_unlisted_at = now()")
    rig.land(50, a("1", labels=["y", "x"], office=None))
    assert rig.versions() == [("a", "1", 10, None, None, 11)]
    joined = "SELECT count(*) FROM d.prospects JOIN d.prospects_history USING (id, _hc_hash)"
    assert rig.warehouse.query(joined) == [(1,)]


@pytest.mark.parametrize(
    "changes",
    [{"labels": ["x"]}, {"labels": None}, {"labels": "x"}, {"office": "north"}, {"title": 7}],
)
def test_what_is_another_version(rig: Rig, changes: dict[str, Any]):
    """A label less, none, a value in a new column, a value of another type in a variant column."""
    rig.prepare()
    rig.land(10, a("1"))
    rig.land(20, a("1") | changes)
    rig.land(30, a("1") | changes)
    assert len(rig.versions()) == 2
    rig.land(40, a("1"))
    assert len(rig.versions()) == 3


def test_hidden_columns_make_no_versions_when_the_settings_change(rig: Rig):
    """Neither when a column is hashed, nor with another key, nor left out, nor shown again; other
    changes do meanwhile, and so does a hashed value that is another. Former versions lose what is
    hidden now."""

    def settings(key: str = "k", **own: Any) -> None:
        rig.reopen(prospects=ResourceSettings(**own), hash_key=SecretStr(key))
        rig.prepare()

    rig.prepare()
    rig.land(5, a("0", email="a@x.example"))
    rig.land(10, a("1", email="a@x.example"))
    settings(hash_columns=("email",))
    assert [each[1] for each in rig.versions("email")] == [None, "a@x.example"]
    rig.land(20, a("1", email="a@x.example"))
    hashed = rig.versions("email")[-1]
    assert len(hashed[1]) == 32
    rig.land(30, a("1", email="b@x.example"))
    settings("other", hash_columns=("email",))
    rig.land(40, a("2", email="b@x.example"))
    settings(exclude_columns=("email",))
    rig.land(50, a("2", email="b@x.example"))
    settings()
    rig.land(60, a("2", email="c@x.example"))
    assert [each[2] for each in rig.versions()] == [5, 10, 30, 40]
    assert [each[1] for each in rig.versions("email")] == [None, None, None, "c@x.example"]


def test_after_a_kill_between_rows_and_history_the_next_run_completes_it(rig: Rig):
    """With the bounds that it would have had, also where another load comes right after."""
    rig.prepare()
    rig.land(10, a("1"))
    rig.land_and_die(20, a("2"), a("2") | {"id": "b"})
    rig.reopen()
    rig.prepare(300)
    first = [("a", "1", 10, 20, None, 11), ("a", "2", 20, None, 10, 21)]
    assert rig.versions() == [*first, ("b", "2", 20, None, None, 21)]


def test_a_load_after_one_that_failed_in_part_comes_second(rig: Rig):
    """What the failed one has landed gets its versions before it is overwritten."""
    rig.prepare()
    rig.land(10, a("1"))
    rig.land_and_die(20, a("2"))
    rig.land(30, a("3"))
    assert [each[1:4] for each in rig.versions()] == [("1", 10, 20), ("2", 20, 30), ("3", 30, None)]


def _fill(rig: Rig, *, complete: bool) -> None:
    """A copy of before there were histories: b was unlisted, c deleted."""
    rig.load(rig.batch(0, *(a("1") | {"id": id_} for id_ in "abc")))
    rig.connection.execute("UPDATE d.prospects SET _hc_unlisted_at = now() WHERE id = 'b'")
    rig.connection.execute("UPDATE d.prospects SET _hc_deleted_at = now() WHERE id = 'c'")
    rig.connection.execute("CREATE TABLE d._hc_runs (started_at TIMESTAMPTZ)")
    rig.connection.execute("INSERT INTO d._hc_runs VALUES (?)", [moment(100)])
    facts = ResourceFacts(last_full_ms=500_000, last_complete_ms=500_000 if complete else 400_000)
    rig.state = {"facts": facts.to_json(), "scan": None}


def test_an_existing_table_fills_its_history_once(rig: Rig):
    """Listed rows have been seen since the last complete scan began, the others since the first
    run; the next change is bounded by that. Deleted rows have no version."""
    _fill(rig, complete=True)
    rig.prepare(1000)
    filled = [("a", "1", 500, None, None, 1000), ("b", "1", 100, None, None, 1000)]
    assert rig.versions() == filled
    rig.reopen()
    rig.prepare(2000)
    assert rig.versions() == filled
    rig.land(2000, a("2"))
    assert rig.versions()[1] == ("a", "2", 2000, None, 500, 2001)


def test_an_existing_table_without_a_complete_scan(rig: Rig):
    """Then nothing is known but that all were seen since the first run."""
    _fill(rig, complete=False)
    rig.prepare(1000)
    assert [each[2] for each in rig.versions()] == [100, 100]


def test_a_history_that_was_switched_off_is_taken_up_again(rig: Rig):
    """What changed meanwhile is one change, bounded by what was known before and by now."""
    rig.prepare()
    rig.land(10, a("1"))
    rig.reopen(history=())
    rig.prepare()
    rig.land(20, a("2"))
    rig.land(30, a("3"))
    assert rig.versions() == [("a", "1", 10, None, None, 11)]
    rig.reopen(history=("prospects",))
    rig.prepare(500)
    ((_, *former), (_, *last)) = rig.versions()
    assert (former[0], last[0], former[2]) == ("1", "3", last[1])
    assert last[3:] == [10, 500]


@pytest.mark.parametrize("days", [1_000_000, 10**10])
def test_versions_may_be_kept_for_longer_than_the_calendar_goes_back(rig: Rig, days: float):
    """Whoever wants all of them may write a number that is large enough for ever."""
    rig.prepare()
    rig.land(10, a("1"))
    rig.land(20, a("2"))
    rig.reopen(history_days=days)
    rig.prepare(500)
    assert [each[1] for each in rig.versions()] == ["1", "2"]


def test_old_versions_are_forgotten(rig: Rig):
    """Those that ended more than `history_days` ago; the open one stays for however long."""
    rig.prepare()
    rig.land(10, a("1"))
    rig.land(20, a("2"))
    rig.land(500_000, a("3"))
    rig.reopen(history_days=5)
    rig.prepare(5 * 86_400 + 21)
    assert [each[1] for each in rig.versions()] == ["2", "3"]
    rig.prepare(9_000_000)
    assert [each[1] for each in rig.versions()] == ["3"]
