"""Locks held through the ledger and freed when their holder dies, each with a fencing number.

SQLite: the kernel's file lock, which dies with its process. PostgreSQL: a session's advisory
lock, which dies with its connection. The fencing number rises with every holder, so that a
holder that lost its connection without noticing is not taken for its successor.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from connector.budget.database import (
    Database,
    cant_open,
    create_missing,
    insert_into,
    open_private,
)
from connector.errors import AlreadyRunning, BudgetError

_metadata = sa.MetaData()
holders = sa.Table(
    "lock_holders",
    _metadata,
    sa.Column("name", sa.String(256), primary_key=True),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("holder", sa.String(512), nullable=False),
)
MIGRATIONS = (partial(create_missing, _metadata),)


@dataclass(frozen=True)
class HeldLock:
    """A lock that is held. fence: rises with every holder of `name`."""

    name: str
    fence: int

    def check(self, connection: sa.Connection) -> None:
        """Raise BudgetError if another run has taken the lock; call it in the transaction that
        must not happen twice."""
        now = connection.scalar(sa.select(holders.c.fence).where(holders.c.name == self.name))
        if now != self.fence:
            raise BudgetError(
                f"The lock {self.name} was lost (the ledger's connection broke) and another run "
                "took it. Nothing was sent twice; run the command again."
            )


@contextmanager
def take_lock(database: Database, name: str, *, run_id: str) -> Iterator[HeldLock]:
    """Hold the lock `name` in this process; AlreadyRunning (naming the holder) if it is held."""
    database.migrate("locks", MIGRATIONS)
    with ExitStack() as stack:
        taken = _file_lock if database.is_sqlite else _advisory_lock
        if not stack.enter_context(taken(database, name)):
            raise AlreadyRunning(lock=name, holder=_holder(database, name))
        yield HeldLock(name, _next_fence(database, name, run_id))


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def forget_file(database: Database, name: str) -> None:
    """Remove the file of a lock whose name is no longer used; PostgreSQL has none."""
    if database.path is not None:
        _file_of(database.path, name).unlink(missing_ok=True)


def _file_of(ledger: Path, name: str) -> Path:
    return ledger.parent / "locks" / f"{_digest(name).hex()[:24]}.lock"


@contextmanager
def _file_lock(database: Database, name: str) -> Iterator[bool]:
    assert database.path is not None
    path = _file_of(database.path, name)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = open_private(path)
    except OSError as error:
        raise cant_open(database.name, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_free = True
    except BlockingIOError:
        is_free = False
    try:
        yield is_free
    finally:
        os.close(descriptor)


@contextmanager
def _advisory_lock(database: Database, name: str) -> Iterator[bool]:
    number = int.from_bytes(_digest(name)[:8], "big", signed=True)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        taken = connection.scalar(sa.select(sa.func.pg_try_advisory_lock(number)))
        try:
            yield bool(taken)
        finally:
            if taken:
                with suppress(sa.exc.DBAPIError):  # a broken connection has freed it already
                    connection.scalar(sa.select(sa.func.pg_advisory_unlock(number)))


def _next_fence(database: Database, name: str, run_id: str) -> int:
    since = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")
    command = Path(sys.argv[0]).name
    holder = f"run {run_id} ({command}, pid {os.getpid()} on {os.uname().nodename}, since {since})"
    again = {"fence": holders.c.fence + 1, "holder": holder[:512]}
    with database.write() as connection:
        insert = insert_into(connection, holders).values(name=name, fence=1, holder=holder[:512])
        upsert = insert.on_conflict_do_update(index_elements=["name"], set_=again)
        return int(connection.execute(upsert.returning(holders.c.fence)).scalar_one())


def _holder(database: Database, name: str) -> str:
    with database.read() as connection:
        found = connection.scalar(sa.select(holders.c.holder).where(holders.c.name == name))
    return found or "a run that has just started"
