"""What is kept of a push, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from connector.upsert.outbox.outbox import Outbox
from connector.upsert.outbox.outbox_schema import aliases, receipts, results, writes
from tests.fake_clock import FakeClock
from tests.pushes.fake_api import Crash, FakeApi
from tests.pushes.rig import SCOPE, Rig

DAY_S = 86_400.0
ROW = {"email": "ada@example.org", "title": "Dr", "note": {"body": "private"}}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    clock = FakeClock()
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", FakeApi(clock), clock=clock)
    yield rig
    rig.close()


def count(rig: Rig, table: sa.Table) -> int:
    with rig.database.read() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def forget_older(rig: Rig, days: float) -> None:
    assert isinstance(rig.clock, FakeClock)
    Outbox(rig.database, SCOPE, rig.steady).forget(int((rig.clock.now_s() - days * DAY_S) * 1000))


def test_a_closed_write_holds_nothing_of_the_person(rig: Rig):
    """Bytes and the row's own values are deleted as soon as the answer is recorded."""
    rig.push([ROW])
    with rig.database.read() as connection:
        for row in connection.execute(sa.select(writes)):
            assert (row.body, row.row_values, row.note) == (None, None, None)


def test_what_nothing_uses_is_forgotten_after_its_time(rig: Rig):
    """Outcomes, hashes and names go; before that, nothing does."""
    rig.push([ROW])
    with rig.database.write() as connection:
        connection.execute(sa.update(results).values(landed=True))
    forget_older(rig, 90)
    assert [count(rig, table) for table in (writes, results, receipts, aliases)] == [2, 1, 1, 1]
    assert isinstance(rig.clock, FakeClock)
    rig.clock.advance(91 * DAY_S)
    forget_older(rig, 90)
    assert [count(rig, table) for table in (writes, results, receipts, aliases)] == [0, 0, 0, 0]


def test_receipts_that_are_used_stay(rig: Rig):
    """A nightly file of unchanged rows isn't sent again when receipts get old, nor its notes."""
    rig.push([ROW])
    assert isinstance(rig.clock, FakeClock)
    for _ in range(10):
        rig.clock.advance(30 * DAY_S)
        assert rig.push([ROW]).statuses == {2: "unchanged"}
        forget_older(rig, 90)
    assert isinstance(rig.api, FakeApi)
    assert rig.api.posts == 2


def test_results_that_have_not_landed_stay(rig: Rig):
    """However old: the destination doesn't have them yet."""
    rig.push([ROW])
    assert isinstance(rig.clock, FakeClock)
    rig.clock.advance(1000 * DAY_S)
    forget_older(rig, 90)
    assert count(rig, results) == 1


def test_writes_of_unknown_fate_stay(rig: Rig):
    """Forgetting one could send it twice."""
    assert isinstance(rig.api, FakeApi)
    assert isinstance(rig.clock, FakeClock)
    rig.api.fate = lambda n: "crash after" if n == 0 else "ok"
    with pytest.raises(Crash):
        rig.push([ROW])
    rig.clock.advance(1000 * DAY_S)
    forget_older(rig, 90)
    with rig.database.read() as connection:
        assert [row.state for row in connection.execute(sa.select(writes))][:1] == ["sending"]
