"""The ledger's clock: seconds that never step, the same for every process that shares a ledger.

SQLite (one machine): the time since boot, sleep included, plus an offset that is stored once per
boot; steps of the wall clock go unnoticed. Across a reboot the wall says how long the machine was
off, but never less than the time since boot: the clock does not go back.
PostgreSQL (several machines): the server's `clock_timestamp()`, read after the lock.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from connector.budget.database import Database
from connector.budget.schema import clocks, keys, outstanding
from connector.clock import Clock, SystemClock

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NOTE_EVERY_S = 10.0


def boot_id(clock: Clock) -> str:
    """What names this boot; empty where the system (or a fake clock) has no name for it."""
    if not isinstance(clock, SystemClock):
        return ""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


class LedgerClock(Protocol):
    """now_s: ledger seconds; call it inside a write transaction, after the lock is held."""

    def now_s(self, connection: sa.Connection) -> float: ...


class ServerClock:
    """PostgreSQL's clock."""

    _NOW = sa.text("SELECT extract(epoch FROM clock_timestamp())::float8")

    def now_s(self, connection: sa.Connection) -> float:
        return float(connection.execute(self._NOW).scalar_one())


def first_offset_s(
    reading_s: float, wall_s: float, last: tuple[float, float] | None, latest_s: float | None
) -> float:
    """What to add to a reading of the time since boot, in a boot that the ledger hasn't seen.

    last: ledger and wall seconds of one earlier moment; None in a new ledger.
    latest_s: the latest ledger second that was ever stamped.
    """
    if last is None:
        return wall_s - reading_s
    by_wall_s = last[0] + (wall_s - last[1])
    by_uptime_s = max(last[0], latest_s or last[0]) + reading_s
    return max(by_wall_s, by_uptime_s) - reading_s


class BootClock:
    """The time since boot plus the boot's stored offset."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._boot = boot_id(clock)
        self._offset_s: float | None = None
        self._noted_s = float("-inf")

    def now_s(self, connection: sa.Connection) -> float:
        reading_s = self._clock.monotonic_s()
        if self._offset_s is None:
            self._offset_s = self._stored_offset_s(connection, reading_s)
        if reading_s - self._noted_s >= _NOTE_EVERY_S:
            self._note(connection, reading_s, self._offset_s)
        return self._offset_s + reading_s

    def _stored_offset_s(self, connection: sa.Connection, reading_s: float) -> float:
        found = connection.execute(sa.select(clocks).where(clocks.c.boot == self._boot)).first()
        # where a boot has no name, a reading that went back is what tells a new one
        if found is not None and reading_s >= found.reading_s:
            return float(found.offset_s)
        newest = sa.select(clocks).order_by(clocks.c.ledger_s.desc()).limit(1)
        last = connection.execute(newest).first()
        pair = None if last is None else (last.ledger_s, last.wall_s)
        return first_offset_s(reading_s, self._clock.now_s(), pair, _latest_s(connection))

    def _note(self, connection: sa.Connection, reading_s: float, offset_s: float) -> None:
        """Keep the wall beside the ledger's time, for the next boot."""
        connection.execute(sa.delete(clocks).where(clocks.c.boot == self._boot))
        connection.execute(
            sa.insert(clocks).values(
                boot=self._boot,
                offset_s=offset_s,
                reading_s=reading_s,
                ledger_s=offset_s + reading_s,
                wall_s=self._clock.now_s(),
            )
        )
        self._noted_s = reading_s


def _latest_s(connection: sa.Connection) -> float | None:
    ends = connection.scalar(sa.select(sa.func.max(keys.c.last_end_s)))
    grants = connection.scalar(sa.select(sa.func.max(outstanding.c.granted_s)))
    return max((float(stamp) for stamp in (ends, grants) if stamp is not None), default=None)


def ledger_clock(database: Database, clock: Clock) -> LedgerClock:
    """The clock of this ledger; a fake `clock` is followed on every database."""
    if database.is_sqlite or not isinstance(clock, SystemClock):
        return BootClock(clock)
    return ServerClock()
