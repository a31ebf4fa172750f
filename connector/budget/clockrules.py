"""The ledger's clock: seconds that never step, the same for every process that shares a ledger.

SQLite (one machine): the time since boot, sleep included, plus an offset that is stored once per
boot; steps of the wall clock go unnoticed. Across a reboot the wall says how long the machine was
off, but never less than the time since boot: the clock does not go back.
PostgreSQL (several machines): the server's `clock_timestamp()`, read after the lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from connector.budget.database import Database
from connector.budget.schema import clocks, keys, outstanding
from connector.budget.statements import Statement, Transaction
from connector.clock import Clock, SteadyClock, SystemClock

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NOTE_EVERY_S = 10.0
_BOOT_MARGIN_S = 60.0
"""The last seconds before a machine crashed may be on no disk: a boot could begin before them."""

_BOOT = clocks.c.boot == sa.bindparam("boot")
_THIS_BOOT = Statement(sa.select(clocks.c.offset_s, clocks.c.reading_s).where(_BOOT))
_LAST_NOTE = Statement(
    sa.select(clocks.c.ledger_s, clocks.c.wall_s).order_by(clocks.c.ledger_s.desc()).limit(1)
)
_FORGET = Statement(sa.delete(clocks).where(_BOOT))
_NOTE = Statement(sa.insert(clocks).values({c.name: sa.bindparam(c.name) for c in clocks.columns}))
_LATEST = Statement(
    sa.select(
        sa.func.max(
            sa.union_all(
                sa.select(sa.func.max(keys.c.last_end_s).label("stamp_s")),
                sa.select(sa.func.max(outstanding.c.granted_s)),
            ).subquery("stamps").c.stamp_s
        )
    )
)  # fmt: skip


def boot_id(clock: Clock) -> str:
    """What names this boot; empty where the system (or a fake clock) has no name for it."""
    if not isinstance(clock, SystemClock):
        return ""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


class LedgerClock(Protocol):
    """open: once, in a write transaction, before anything else. now_s: ledger seconds, read after
    the lock is held. note: in write transactions, now and then, what the next boot must know."""

    def open(self, tx: Transaction) -> None: ...

    def now_s(self, tx: Transaction) -> float: ...

    def note(self, tx: Transaction) -> None: ...


class ServerClock:
    """PostgreSQL's clock."""

    _NOW = Statement(sa.text("SELECT extract(epoch FROM clock_timestamp())::float8"))

    def open(self, tx: Transaction) -> None:
        """The server's clock needs no preparation."""

    def now_s(self, tx: Transaction) -> float:
        found = tx.first(self._NOW)
        assert found is not None
        return float(found[0])

    def note(self, tx: Transaction) -> None:
        """The server keeps its own time."""


def first_offset_s(
    reading_s: float, wall_s: float, *, last: Sequence[float] | None, latest_s: float | None
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
        self._offset_s = 0.0
        self._noted_s = float("-inf")

    def open(self, tx: Transaction) -> None:
        self._offset_s = self._stored_offset_s(tx, self._clock.monotonic_s())
        self.note(tx)

    def now_s(self, tx: Transaction) -> float:  # noqa: ARG002 - PostgreSQL's clock needs it
        return self._offset_s + self._clock.monotonic_s()

    def _stored_offset_s(self, tx: Transaction, reading_s: float) -> float:
        found = tx.first(_THIS_BOOT, boot=self._boot)
        # where a boot has no name, a reading that went back is what tells a new one
        if found is not None and reading_s >= found[1]:
            return float(found[0])
        latest = tx.first(_LATEST)
        return first_offset_s(
            reading_s,
            self._clock.now_s(),
            last=tx.first(_LAST_NOTE),
            latest_s=latest[0] if latest else None,
        )

    def note(self, tx: Transaction) -> None:
        """Keep the wall beside the ledger's time, for the next boot."""
        reading_s = self._clock.monotonic_s()
        if reading_s - self._noted_s < _NOTE_EVERY_S:
            return
        tx.run(_FORGET, boot=self._boot)
        tx.run(
            _NOTE,
            boot=self._boot,
            offset_s=self._offset_s,
            reading_s=reading_s,
            ledger_s=self._offset_s + reading_s,
            wall_s=self._clock.now_s(),
        )
        self._noted_s = reading_s


def steady_clock(database: Database, rule: LedgerClock, clock: Clock) -> SteadyClock:
    """The ledger's clock for one process to read without the ledger; `rule` is open."""
    with database.quick_write() as tx:
        offset_s = rule.now_s(tx) - clock.monotonic_s()
    # a boot's offset is stored: within it, nothing but time moves the clock
    since_s = offset_s + _BOOT_MARGIN_S if isinstance(rule, BootClock) else float("-inf")
    return SteadyClock(clock, offset_s, since_s)


def ledger_clock(database: Database, clock: Clock) -> LedgerClock:
    """The clock of this ledger; a fake `clock` is followed on every database."""
    if database.is_sqlite or not isinstance(clock, SystemClock):
        return BootClock(clock)
    return ServerClock()
