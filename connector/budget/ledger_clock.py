"""The ledger's clock: seconds that never step, the same for every process that shares a ledger.

SQLite (one machine): the time since boot, sleep included, plus an offset that is stored once per
boot; steps of the wall clock don't matter. Across a reboot the wall clock tells how long the
machine was off, at least the time since boot: this clock never goes back.
PostgreSQL (several machines): the server's `clock_timestamp()`, read after the lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from pathlib import Path

import sqlalchemy as sa

from connector.budget.database import Database
from connector.budget.ledger_schema import clocks, keys, outstanding
from connector.clock import Clock, SteadyClock, SystemClock

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NOTE_EVERY_S = 10.0
_BOOT_MARGIN_S = 60.0
"""The last seconds before a crash may not be on disk: the next boot could begin before them."""


class LedgerClock:
    """PostgreSQL's clock, which needs no preparation."""

    _NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"

    def open(self, connection: sa.Connection) -> None:
        """Call it once, in a write transaction, before anything else."""

    def now_s(self, connection: sa.Connection) -> float:
        """Ledger seconds; in a write transaction, read while the lock is held."""
        return float(connection.exec_driver_sql(self._NOW).scalar_one())

    def note(self, connection: sa.Connection) -> None:
        """Store what the next boot needs; call it now and then in a write transaction."""


def ledger_clock(database: Database, clock: Clock) -> LedgerClock:
    """The clock of this ledger; a fake `clock` is used with every database."""
    is_local = database.is_sqlite or not isinstance(clock, SystemClock)
    return BootClock(clock) if is_local else LedgerClock()


def steady_clock(database: Database, time_source: LedgerClock, clock: Clock) -> SteadyClock:
    """The ledger's clock, readable without a transaction. time_source: already opened."""
    with database.read() as connection:
        offset_s = time_source.now_s(connection) - clock.monotonic_s()
    # the boot's offset is stored, so the clock never steps until the next boot
    since_s = offset_s + _BOOT_MARGIN_S if isinstance(time_source, BootClock) else -inf
    return SteadyClock(clock, offset_s, since_s)


class BootClock(LedgerClock):
    """The time since boot plus the boot's stored offset."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._boot = boot_id(clock)
        self._offset_s = 0.0
        self._noted_s = -inf

    def open(self, connection: sa.Connection) -> None:
        self._offset_s = self._stored_offset_s(connection, self._clock.monotonic_s())
        self.note(connection)

    def now_s(self, connection: sa.Connection) -> float:  # noqa: ARG002 - PostgreSQL needs it
        return self._offset_s + self._clock.monotonic_s()

    def note(self, connection: sa.Connection) -> None:
        reading_s = self._clock.monotonic_s()
        if reading_s - self._noted_s < _NOTE_EVERY_S:
            return
        note = {
            "boot": self._boot,
            "offset_s": self._offset_s,
            "reading_s": reading_s,
            "ledger_s": self._offset_s + reading_s,
            "wall_s": self._clock.now_s(),
        }
        connection.execute(sa.delete(clocks).where(clocks.c.boot == self._boot))
        connection.execute(sa.insert(clocks).values(note))
        self._noted_s = reading_s

    def _stored_offset_s(self, connection: sa.Connection, reading_s: float) -> float:
        stored = sa.select(clocks.c.offset_s, clocks.c.reading_s)
        found = connection.execute(stored.where(clocks.c.boot == self._boot)).first()
        # if boots have no id, a reading that went back shows a new boot
        if found is not None and reading_s >= found.reading_s:
            return float(found.offset_s)
        noted = sa.select(clocks.c.ledger_s, clocks.c.wall_s).order_by(clocks.c.ledger_s.desc())
        latest_s = max(
            connection.scalar(sa.select(sa.func.max(column))) or 0.0
            for column in (keys.c.last_end_s, outstanding.c.granted_s)
        )
        last = connection.execute(noted.limit(1)).first()
        return first_offset_s(reading_s, self._clock.now_s(), last=last, latest_s=latest_s)


def first_offset_s(
    reading_s: float, wall_s: float, *, last: Sequence[float] | None, latest_s: float
) -> float:
    """What to add to the time since boot, in a boot that the ledger hasn't seen.

    last: ledger and wall seconds of one earlier moment; None in a new ledger.
    latest_s: the latest ledger second ever recorded.
    """
    if last is None:
        return wall_s - reading_s
    by_wall_s = last[0] + (wall_s - last[1])
    by_uptime_s = max(last[0], latest_s) + reading_s
    return max(by_wall_s, by_uptime_s) - reading_s


def boot_id(clock: Clock) -> str:
    """An id of this boot; empty if the system (or a fake clock) has none."""
    if not isinstance(clock, SystemClock):
        return ""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
