"""What the ledger stores: the tables of the rate budget, the ids of API keys, and its clock.

`spent` numbers the ended requests of a key (`seq`, and `push_seq` for those of the push lane).
`end_s` is set under the ledger's lock, so it rises with `seq`: the number of requests that still
count is the difference of two sequence numbers, and the `end_s` of one row shows when the next
leaves. Rows are never counted one by one. All times are seconds of the ledger's own clock.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets as randomness
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from math import inf
from pathlib import Path

import sqlalchemy as sa

from connector.budget.database import (
    Database,
    create_missing,
    half_path,
    insert_into,
    table_names,
)
from connector.clock import Clock, SteadyClock, SystemClock

metadata = sa.MetaData()
_Number = sa.BigInteger
_Key = sa.String(32)
_Seconds = sa.Double

secrets = sa.Table(
    "budget_secrets",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)

clocks = sa.Table(
    "budget_clocks",
    metadata,
    sa.Column("boot", sa.String(64), primary_key=True),
    sa.Column("offset_s", _Seconds, nullable=False),
    sa.Column("reading_s", _Seconds, nullable=False),
    sa.Column("ledger_s", _Seconds, nullable=False),
    sa.Column("wall_s", _Seconds, nullable=False),
)

keys = sa.Table(
    "budget_keys",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    sa.Column("next_permit", _Number, nullable=False),
    sa.Column("seq", _Number, nullable=False),
    sa.Column("push_seq", _Number, nullable=False),
    sa.Column("pruned_seq", _Number, nullable=False),
    sa.Column("pruned_push_seq", _Number, nullable=False),
    sa.Column("last_end_s", _Seconds, nullable=False),
    sa.Column("last_grant_s", _Seconds),
    sa.Column("latency_s", _Seconds),
    sa.Column("keep_s", _Seconds, nullable=False),
    sa.Column("learnt", sa.Text, nullable=False),
    sa.Column("past_pulls", sa.Text, nullable=False),
)

outstanding = sa.Table(
    "budget_outstanding",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    sa.Column("id", _Number, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.String(32), nullable=False),
    sa.Column("push", sa.Integer, nullable=False),
    sa.Column("granted_s", _Seconds, nullable=False),
    sa.Column("awaited_until_s", _Seconds, nullable=False),
    sa.Column("deadline_s", _Seconds, nullable=False),
)

spent = sa.Table(
    "budget_spent",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    sa.Column("seq", _Number, primary_key=True, autoincrement=False),
    sa.Column("push_seq", _Number, nullable=False),
    sa.Column("granted_s", _Seconds, nullable=False),
    sa.Column("end_s", _Seconds, nullable=False),
    sa.Index("budget_spent_by_end", "key", "end_s", "seq", "push_seq"),
    sa.Index("budget_spent_by_push", "key", "push_seq", "end_s"),
)

owners = sa.Table(
    "budget_owners",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    sa.Column("owner", sa.String(32), primary_key=True),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("command", sa.String(255), nullable=False),
    sa.Column("since_s", _Seconds, nullable=False),
    sa.Column("seen_s", _Seconds, nullable=False),
    # callers that wait for a permit, and until when that counts
    sa.Column("waiting_pull", sa.Integer, nullable=False),
    sa.Column("waiting_push", sa.Integer, nullable=False),
    sa.Column("pull_since_s", _Seconds, nullable=False),  # not used any more
    sa.Column("push_since_s", _Seconds, nullable=False),  # not used any more
    sa.Column("valid_until_s", _Seconds, nullable=False),
    # what this process reads; see `windows.RunningPull`
    sa.Column("pull_declared", sa.Integer, nullable=False),
    sa.Column("pull_seen_s", _Seconds, nullable=False),
    sa.Column("pull_requests", sa.Integer, nullable=False),
    sa.Column("pull_expected", sa.Integer),
    sa.Column("pull_chains", sa.Integer, nullable=False),
    sa.Column("pull_latency_s", _Seconds),
)

MIGRATIONS = (partial(create_missing, metadata),)

OUTBOX_SUFFIX = "-outbox"
SALT_COPY = "key-salt"  # name of the copy among the outbox's salts
_SALT = "key-salt"
_COPY = "SELECT value FROM outbox_salts WHERE name = :name"


def key_id(api_key: str, database: Database) -> str:
    """32 hex digits that identify `api_key` in this ledger, which never contains the key. Without
    the ledger's secret salt they can't be used to test guessed keys.

    Raises:
        BudgetError: the ledger can't be read or written.
    """
    database.migrate("budget", MIGRATIONS)
    with database.read() as connection:
        salt = salt_of(connection)
    if salt is None:
        with database.write() as connection:
            salt = _new_salt(connection, database)
    return hmac.new(bytes(salt), api_key.encode(), hashlib.sha256).hexdigest()[:32]


def salt_of(connection: sa.Connection) -> bytes | None:
    """The salt of a ledger's key ids, of which its outbox keeps a copy."""
    return connection.scalar(sa.select(secrets.c.value).where(secrets.c.name == _SALT))


def _new_salt(connection: sa.Connection, database: Database) -> bytes:
    """A new budget takes the copy of an existing outbox: with another salt, the key's earlier
    writes would not be found. Of two processes that start at once, the first one's salt stays."""
    salt = _salt_of_outbox(connection, database) or randomness.token_bytes(32)
    insert = insert_into(connection, secrets).values(name=_SALT, value=salt)
    connection.execute(insert.on_conflict_do_nothing())
    return salt_of(connection) or salt


def _salt_of_outbox(connection: sa.Connection, database: Database) -> bytes | None:
    path = half_path(database.url, OUTBOX_SUFFIX)
    if path is None:
        there = "outbox_salts" in table_names(connection)
        return connection.scalar(sa.text(_COPY), {"name": SALT_COPY}) if there else None
    if not path.exists() or not path.stat().st_size:
        return None
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as outbox:
            found = outbox.execute(_COPY, {"name": SALT_COPY}).fetchone()
    except sqlite3.Error:  # damaged, or without the table: opening the outbox reports that
        return None
    return found[0] if found else None


# --- the clock ------------------------------------------------------------------------------------
#
# Seconds that never step, the same for every process that shares a ledger.
# SQLite (one machine): the time since boot, sleep included, plus an offset that is stored once per
# boot; steps of the wall clock don't matter. Across a reboot the wall clock shows how long the
# machine was off, at least the time since boot: this clock never goes back.
# PostgreSQL (several machines): the server's `clock_timestamp()`, read after the lock.

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
