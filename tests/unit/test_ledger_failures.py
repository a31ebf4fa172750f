"""A ledger that can't be used is a clear error, and never an unpaced request."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from connector.budget import Lane, locks
from connector.budget.database import Database, FileLock, LockHeld
from connector.budget.scheduler import RateBudget
from connector.errors import BudgetClosed, BudgetError, LedgerTooNew, LedgerUnusable
from connector.logs import redact
from connector.settings import RateLimit

LIMITS = [RateLimit(1000, 60.0)]


@contextmanager
def opened(path: Path, *, lock_wait_s: float = 60) -> Iterator[RateBudget]:
    database = Database(f"sqlite:///{path}", lock_wait_s=lock_wait_s)
    try:
        with RateBudget(database, api_key="k", limits=LIMITS, request_timeout_s=5) as budget:
            yield budget
    finally:
        database.close()


def test_a_damaged_ledger_is_reported(tmp_path: Path):
    """Garbage where the file was: nothing is sent, and the message says what to do."""
    path = tmp_path / "ledger.db"
    path.write_bytes(b"this is no database, " * 1000)
    with pytest.raises(LedgerUnusable, match=r"ledger\.db is damaged.*Move it away"):
        opened(path).__enter__()


def test_a_ledger_that_gets_damaged_stops_permits(tmp_path: Path):
    """Pages overwritten while a process works: its next permit is an error."""
    path = tmp_path / "ledger.db"
    with opened(path) as budget:
        budget.answered(budget.permit(Lane.PULL), 200, {})
        budget.answered(budget.permit(Lane.PULL), 200, {})
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(path.stat().st_size - 4096))
        with closing(sqlite3.connect(path)) as connection:  # its readers must look again
            connection.execute("PRAGMA user_version = 7")
            connection.commit()
        with pytest.raises(LedgerUnusable, match="damaged"):
            budget.permit(Lane.PULL)


def test_a_ledger_that_another_program_locks_is_reported_in_time(tmp_path: Path):
    """A database browser left a write open: the permit fails after the wait, unsent."""
    path = tmp_path / "ledger.db"
    with opened(path, lock_wait_s=0.3) as budget:
        with closing(sqlite3.connect(path)) as browser:
            browser.execute("BEGIN IMMEDIATE")
            with pytest.raises(LedgerUnusable, match="locked by another program"):
                budget.permit(Lane.PULL)
        is_granted_in_the_end(budget)


def is_granted_in_the_end(budget: RateBudget) -> None:
    """A slow machine may need more than the short time that this budget waits for a lock."""
    while True:
        with suppress(LedgerUnusable):
            budget.permit(Lane.PULL)
            return


def test_a_new_ledger_that_another_process_is_making_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A reader comes while another process changes the new file to WAL, where SQLite doesn't wait
    by itself: it tries again until that is done."""
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(time, "sleep", lambda _: other.execute("COMMIT"))
        database = Database(f"sqlite:///{path}")
        assert database.version("budget") == 0
        database.close()


def test_a_process_that_hangs_with_the_file_lock_is_waited_for_so_long_only(tmp_path: Path):
    """Another process holds the lock file: an error in time, and work continues once it is free."""
    path = tmp_path / "ledger.db"
    with opened(path, lock_wait_s=0.3) as budget:
        with (tmp_path / "ledger.db.lock").open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(LedgerUnusable, match="another process held it for 0.3 s"):
                budget.permit(Lane.PULL)
        is_granted_in_the_end(budget)


def test_a_folder_that_is_not_writable_is_reported(tmp_path: Path):
    """The state directory can't be made: the message names the setting."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerUnusable, match=r"can't be opened.*HIRINGCENTER_STATE_DIR"):
        Database(f"sqlite:///{tmp_path / 'file' / 'ledger.db'}")


@pytest.mark.parametrize("name", ["ledger.db", "ledger.db.lock"])
def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path, name: str):
    """As a container's mount of a file that isn't there makes one; it only has to be moved."""
    (tmp_path / name).mkdir()
    with pytest.raises(LedgerUnusable, match=rf"/{name} is a folder.*Move that folder away"):
        Database(f"sqlite:///{tmp_path / 'ledger.db'}")


@pytest.mark.parametrize("ending", ["-wal", "-shm", "-journal"])
def test_a_folder_in_the_place_of_a_file_that_sqlite_makes_is_named(tmp_path: Path, ending: str):
    """SQLite itself only says that the database can't be opened."""
    with opened(tmp_path / "ledger.db"):
        pass
    (tmp_path / f"ledger.db{ending}" / "inside").mkdir(parents=True)
    with pytest.raises(LedgerUnusable, match=rf"{ending} is a folder.*Move that folder away"):
        opened(tmp_path / "ledger.db").__enter__()


def test_a_folder_in_the_place_of_a_lock_is_named(tmp_path: Path):
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    with locks.take_lock(database, "a lock", run_id="r"):
        (lock,) = (tmp_path / "locks").iterdir()
    lock.unlink()
    lock.mkdir()
    with pytest.raises(LedgerUnusable, match=r"\.lock is a folder.*Move that folder away"):
        with locks.take_lock(database, "a lock", run_id="r"):
            pass
    database.close()


def test_a_read_only_ledger_is_reported(tmp_path: Path):
    """A ledger that can be read but not written paces nothing."""
    path = tmp_path / "ledger.db"
    with opened(path) as budget:
        database = budget._ledger._database
        with database.read() as connection:
            connection.exec_driver_sql("PRAGMA query_only = ON")
        with pytest.raises(LedgerUnusable, match="read-only"):
            budget.permit(Lane.PULL)
        with database.read() as connection:
            connection.exec_driver_sql("PRAGMA query_only = OFF")


def test_concurrent_writes_of_other_processes_stay(tmp_path: Path):
    """Several parts of a command open one file. To open it again must not free the locks by which
    SQLite knows that it is in use: the next process to close it would delete its log."""
    path = tmp_path / "ledger.db"
    with closing(Database(f"sqlite:///{path}")) as first:
        with first.write() as connection:
            connection.exec_driver_sql("CREATE TABLE written (number INTEGER)")
        with closing(Database(f"sqlite:///{path}")):
            assert rows_seen_by_another_process(path, "written") == 0
            with first.write() as connection:
                connection.exec_driver_sql("INSERT INTO written VALUES (1)")
            assert rows_seen_by_another_process(path, "written") == 1


def test_a_full_disk_is_reported(tmp_path: Path):
    """No byte more fits: an error, and the permit that did not fit was not given."""
    path = tmp_path / "ledger.db"
    with opened(path) as budget:
        budget.answered(budget.permit(Lane.PULL), 200, {})
        with no_room(path.parent), pytest.raises(LedgerUnusable, match="disk"):
            budget.permit(Lane.PULL)
        budget.permit(Lane.PULL)


def rows_seen_by_another_process(path: Path, table: str) -> int:
    """It opens the file, reads, and closes it."""
    program = (
        "import sqlite3, sys; opened = sqlite3.connect(sys.argv[1]); "
        "print(*opened.execute(f'SELECT count(*) FROM {sys.argv[2]}').fetchone()); opened.close()"
    )
    command = [sys.executable, "-c", program, str(path), table]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@contextmanager
def no_room(folder: Path) -> Iterator[None]:
    """No file of this process may grow; writes fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_newer_ledger_is_left_alone(tmp_path: Path):
    """A table version from the future: update the connector, touch nothing."""
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    database.migrate("budget", [lambda _: None] * 9)
    with pytest.raises(LedgerTooNew, match="Update the connector") as caught:
        database.migrate("budget", [lambda _: None])
    assert (caught.value.found, caught.value.known) == (9, 1)
    database.close()


def test_each_migration_runs_once(tmp_path: Path):
    """A ledger of version 1 gets the second step only, in order."""
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    ran: list[str] = []
    database.migrate("x", [lambda _: ran.append("first")])
    database.migrate("x", [lambda _: ran.append("first"), lambda _: ran.append("second")])
    assert ran == ["first", "second"]
    database.close()


def test_an_unreachable_postgresql_names_the_setting_not_the_password():
    """Nothing listens there: which setting to check, and no secret in the message."""
    with pytest.raises(LedgerUnusable, match="HIRINGCENTER_LEDGER_URL") as caught:
        Database("postgresql://me:hunter2@127.0.0.1:9/none").migrate("budget", [])
    assert "hunter2" not in str(caught.value)


def test_state_files_are_private(tmp_path: Path):
    """Folder 0700; ledger, lock and journal files 0600."""
    folder = tmp_path / "state"
    with opened(folder / "ledger.db") as budget:
        budget.permit(Lane.PULL)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}


def test_a_closed_budget_gives_nothing(tmp_path: Path):
    """A permit asked after the end is an error, never a hang."""
    with opened(tmp_path / "ledger.db") as budget:
        pass
    with pytest.raises(BudgetClosed):
        budget.permit(Lane.PULL)


def test_closing_fails_those_who_wait(tmp_path: Path):
    """A caller that waits for a full window learns that the budget closed."""
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    caught: list[BudgetError] = []
    began = threading.Event()

    def wait() -> None:
        began.set()
        try:
            budget.permit(Lane.PULL)
        except BudgetError as error:
            caught.append(error)

    limits = [RateLimit(1, 600.0)]
    with RateBudget(database, api_key="k", limits=limits, request_timeout_s=5) as budget:
        budget.answered(budget.permit(Lane.PULL), 200, {})
        thread = threading.Thread(target=wait)
        thread.start()
        began.wait()
        while not budget.waiting(Lane.PULL):
            pass
    thread.join()
    assert isinstance(caught[0], BudgetClosed)
    database.close()


def test_a_lock_that_was_given_up_is_not_held_later(tmp_path: Path):
    """The wait that was left behind takes the lock when it is free, and gives it back at once."""
    lock = FileLock(tmp_path / "lock")
    with (tmp_path / "lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(LockHeld):
            lock.held(0.05).__enter__()
    with lock.held(60.0):
        pass
    lock.close()


def _froze_under(database: Database, frozen: list[int]) -> None:
    with database.read() as connection:
        frozen += connection.exec_driver_sql("SELECT pg_backend_pid()").scalars()
        os.kill(frozen[0], signal.SIGSTOP)
        connection.exec_driver_sql("SELECT 1")


def test_a_frozen_postgresql_is_reported(postgres_url: str):
    """It accepts and keeps connections, and answers nothing: no statement waits for it for ever."""
    database, frozen = Database(postgres_url, lock_wait_s=0.25), list[int]()
    try:
        with pytest.raises(LedgerUnusable, match=r"no answer within 0\.5 s"):
            _froze_under(database, frozen)
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
        database.close()


@pytest.mark.parametrize(
    "url",
    ["postgresql://etl:s3cr3t-pass@127.0.0.1:1/budget",
     "postgresql://etl@127.0.0.1:1/budget?password=s3cr3t-pass&sslmode=disable",
     "postgresql://127.0.0.1:1/budget?user=etl&password=s3cr3t-pass"],
)  # fmt: skip
def test_a_server_is_named_without_what_opens_it(url: str):
    """Host, port and database; wherever in its URL the password is."""
    with (
        closing(Database(url)) as database,
        pytest.raises(LedgerUnusable) as failure,
        database.read(),
    ):
        pass
    assert database.name == "postgresql://127.0.0.1:1/budget"
    assert "s3cr3t-pass" not in redact(str(failure.value))
    assert "etl@" not in str(failure.value)
