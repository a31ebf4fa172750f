"""The ledger's clock: steps of the wall, sleep, reboots, machines without a name for a boot."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from freezegun import freeze_time

from connector.budget.database import Database
from connector.budget.ledger_schema import (
    MIGRATIONS,
    BootClock,
    boot_id,
    first_offset_s,
    ledger_clock,
    steady_clock,
)
from connector.clock import SteadyClock, SystemClock
from tests.fake_clock import FakeClock


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    database.migrate("budget", MIGRATIONS)
    yield database
    database.close()


def now_s(database: Database, clock: FakeClock | SystemClock) -> float:
    """Ledger time as a process sees it that starts now."""
    rule = BootClock(clock)
    with database.write() as connection:
        rule.open(connection)
        return rule.now_s(connection)


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
def test_steps_of_the_wall_go_unnoticed(database: Database, step_s: float):
    """An hour's step either way between two processes moves the ledger's clock by nothing."""
    clock = FakeClock()
    before_s = now_s(database, clock)
    clock.advance(5)
    clock.step(step_s)
    assert now_s(database, clock) == pytest.approx(before_s + 5)


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_steps_of_this_machines_wall_go_unnoticed(database: Database, step_s: int):
    """The same with the system's own clock, whose wall freezegun moves."""
    before_s = now_s(database, SystemClock())
    with freeze_time(tz_offset=0) as frozen:
        frozen.tick(timedelta(seconds=step_s))
        assert abs(now_s(database, SystemClock()) - before_s) < 1800  # but not the step


def test_a_new_ledger_starts_with_the_wall(database: Database):
    """Its seconds read like UTC epoch seconds, for people who look into it."""
    clock = FakeClock(1_760_000_000.0)
    clock.advance(7)
    assert now_s(database, clock) == pytest.approx(1_760_000_007.0)


def test_a_reboot_takes_as_long_as_the_wall_says(database: Database):
    """Off for ten minutes, then five seconds of uptime: ten minutes have passed."""
    before_s = now_s(database, FakeClock(1_760_000_000.0))
    after = FakeClock(1_760_000_600.0)
    after.advance(5)
    assert _after_reboot_s(database, after) == pytest.approx(before_s + 605)


def test_after_a_reboot_the_clock_never_goes_back(database: Database):
    """A machine whose wall restarts in the past has at least been up as long as it has."""
    before_s = now_s(database, FakeClock(1_760_000_000.0))
    after = FakeClock(1_000.0)
    after.advance(5)
    assert _after_reboot_s(database, after) == pytest.approx(before_s + 5)


def _after_reboot_s(database: Database, clock: FakeClock) -> float:
    rule = BootClock(clock)
    rule._boot = "another"
    with database.write() as connection:
        rule.open(connection)
        return rule.now_s(connection)


def test_where_a_boot_has_no_name_a_reading_that_went_back_is_a_new_one(database: Database):
    """The uptime fell from 500 s to 5 s: that was a reboot."""
    clock = FakeClock()
    clock.advance(500)
    before_s = now_s(database, clock)
    after = FakeClock(clock.now_s() + 100)
    after.advance(5)
    assert now_s(database, after) == pytest.approx(before_s + 105)


def test_what_was_stamped_last_is_before_everything_later():
    """Ends that were stamped after the last note of the wall stay in the past."""
    offset_s = first_offset_s(3.0, 100.0, last=(1000.0, 100.0), latest_s=1008.0)
    assert offset_s + 3.0 == pytest.approx(1011.0)


def test_this_machine_names_its_boot():
    """Linux does; a fake clock has none."""
    assert boot_id(FakeClock()) == ""
    assert len(boot_id(SystemClock())) in (0, 36)


@pytest.mark.parametrize("step_s", [7200.0, -7200.0])
def test_a_stamp_has_the_same_age_whatever_the_wall_does(database: Database, step_s: float):
    """Stamped by one process, read by the next after a step: 300 s are 300 s."""
    clock = FakeClock()
    clock.advance(100)  # the machine has been up for a while
    stamp_s = steady(database, clock).now_s()
    clock.advance(300)
    clock.step(step_s)
    assert steady(database, clock).age_s(stamp_s) == pytest.approx(300)


def test_the_age_of_an_earlier_boots_stamp_is_not_sure(database: Database):
    """The wall alone says how long the machine was off, and it may be wrong."""
    before = FakeClock(1_760_000_000.0)
    before.advance(500)
    stamp_s = steady(database, before).now_s()
    after = FakeClock(1_760_000_500.0)
    after.advance(5)
    assert steady(database, after).age_s(stamp_s) == float("inf")


def test_a_stamp_of_the_future_or_none_has_no_sure_age(database: Database):
    """Whatever wrote it kept another time."""
    rule = steady(database, FakeClock())
    assert rule.age_s(rule.now_s() + 1) == rule.age_s(None) == float("inf")


def steady(database: Database, clock: FakeClock) -> SteadyClock:
    """The ledger's clock in a process that starts now."""
    rule = BootClock(clock)
    with database.write() as connection:
        rule.open(connection)
    return steady_clock(database, rule, clock)


def test_postgresql_keeps_its_own_time(postgres_url: str):
    """A process whose wall is off by a day reads the server's clock."""
    database = Database(postgres_url)
    with freeze_time("2020-01-01"), database.write() as connection:
        rule = ledger_clock(database, SystemClock())
        rule.open(connection)
        assert rule.now_s(connection) > 1_700_000_000
    database.close()
