"""Locks: one holder, named; freed by death; fencing numbers that rise."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from connector.budget.database import Database
from connector.budget.locks import take_lock
from connector.errors import AlreadyRunning, BudgetError

HOLDER = """
import sys, time
from connector.budget.database import Database
from connector.budget.locks import take_lock
with take_lock(Database(sys.argv[1]), "push", run_id="other"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return str(request.getfixturevalue("postgres_url"))


def wait_until_noticed(database: Database) -> None:
    """PostgreSQL needs a moment to see that a client has gone, and frees its locks then."""
    held = "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_locks.database = pg_database.oid "
    held += "WHERE locktype = 'advisory' AND datname = current_database()"
    until_s = time.monotonic() + 120  # so long that only what never happens fails
    while not database.is_sqlite:
        with database.read() as connection:
            if connection.scalar(sa.text(held)) == 0:
                return
        assert time.monotonic() < until_s
        time.sleep(0.005)


def test_a_second_holder_is_refused_and_the_first_is_named(url: str):
    """A process that dies by SIGKILL frees its lock at once; while it lives it is named."""
    database = Database(url)
    with subprocess.Popen([sys.executable, "-c", HOLDER, url], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyRunning, match=f"run other .*pid {other.pid}"):
            take_lock(database, "push", run_id="mine").__enter__()
        other.send_signal(signal.SIGKILL)
        other.wait()
    wait_until_noticed(database)
    with take_lock(database, "push", run_id="mine") as held:
        assert held.fence == 2
    database.close()


def test_a_lost_lock_is_noticed_by_its_fence(url: str):
    """A holder whose lock another process took since can't write any more."""
    database = Database(url)
    with take_lock(database, "push", run_id="first") as first, database.write() as connection:
        first.check(connection)
    with take_lock(database, "push", run_id="second"), database.write() as connection:
        with pytest.raises(BudgetError, match="was lost"):
            first.check(connection)
    database.close()


def test_a_broken_connection_hides_no_error(postgres_url: str):
    """The server ends every session while a lock is held: what failed in the work is what is
    raised, not the unlocking that failed after it; and the lock is free."""
    database, other = Database(postgres_url), Database(postgres_url)
    with pytest.raises(BudgetError, match="the work"):
        _cut_while_held(database, other)
    wait_until_noticed(other)
    with take_lock(other, "push", run_id="next") as held:
        assert held.fence == 2
    database.close()
    other.close()


def _cut_while_held(database: Database, other: Database) -> None:
    """Hold the lock, end all sessions but those of `other`, and fail."""
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    with take_lock(database, "push", run_id="cut"):
        with other.write() as connection:
            connection.execute(sa.text(cut))
        raise BudgetError("the work")
