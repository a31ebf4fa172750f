"""The published copy: whole, read-only, old enough a format, and unharmed by those who open it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from connector.errors import ConfigurationError, DestinationError, WorkingFileFailed
from connector.sandbox import RESOURCES
from connector.settings import MartSettings
from pipelines.destination.destination import Destination
from pipelines.destination.marts import Marts
from pipelines.destination.snapshot import Snapshot
from pipelines.destination.working_file import WorkRecord
from pipelines.pull.sampling import open_landed
from pipelines.running.checks import run_checks
from tests.sync.pull.conftest import Puller
from tests.sync.pull.truth import all_duckdb, assert_equal_to_truth


@pytest.fixture
def puller(puller: Puller) -> Puller:
    """Of two lists: a copy of four is published in the same way."""
    puller.lists = ("prospects", "notes")
    return puller


_WRITER = """
import duckdb, os, sys
connection = duckdb.connect(sys.argv[1])
connection.execute("SET checkpoint_threshold = '1GB'")
print("open", flush=True)
for line in sys.stdin:
    try:
        connection.execute(line)
        print("done", flush=True)
    except duckdb.Error as error:
        print(type(error).__name__, flush=True)
        break
"""


class Writer:
    """A process that has opened the copy for writing, as root or its owner can."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._read() == "open"

    def run(self, sql: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(sql + "\n")
        self.process.stdin.flush()
        return self._read()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def _writer(path: Path) -> Iterator[Writer]:
    path.chmod(0o644)
    writer = Writer(path)
    try:
        yield writer
    finally:
        if writer.process.poll() is None:
            writer.process.communicate()


def _change(puller: Puller) -> None:
    puller.sandbox.store.create("prospects", {"firstName": "New", "lastName": "Person"})


def test_copy_is_read_only_and_holds_final_tables_alone(puller: Puller):
    """0444, in a folder that others may enter; nothing of dlt's, no staging, one schema."""
    puller.pulled(*RESOURCES)
    path = puller.settings.duckdb_path
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert list(path.parent.iterdir()) == [path]
    with duckdb.connect(str(path), read_only=True) as connection:
        tables = connection.execute(
            "SELECT table_schema, table_name FROM information_schema.tables ORDER BY 2"
        ).fetchall()
        version = connection.execute("SELECT tags FROM duckdb_databases() LIMIT 1").fetchone()
    assert {schema for schema, _ in tables} == {"hiringcenter"}
    assert [name for _, name in tables] == [
        "_hc_freshness", "_hc_push_results", "_hc_runs", "account", "meetings", "notes",
        "prospects", "prospects_history", "tasks", "tasks_history",
    ]  # fmt: skip
    assert version is not None
    assert version[0]["storage_version"].startswith("v1.0.0")


def test_a_pull_without_changes_updates_runs_and_freshness(puller: Puller):
    """`_hc_runs` and `_hc_freshness` show the last pull; rows, mode and format are as before. No
    package is loaded: what dlt would do for a row about the run costs more than a pull of small
    lists."""
    assert puller.pulled().published
    packages = _packages(puller)
    path = puller.settings.duckdb_path
    before = _about_runs(path)
    assert not puller.pull_ok().published
    after = _about_runs(path)
    assert (before[0], after[0]) == (1, 2)
    assert all(after[1][name] > moment for name, moment in before[1].items())
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert list(path.parent.iterdir()) == [path]
    with duckdb.connect(str(path), read_only=True) as connection:
        version = connection.execute("SELECT tags FROM duckdb_databases() LIMIT 1").fetchone()
    assert version is not None
    assert version[0]["storage_version"].startswith("v1.0.0")
    puller.assert_true()
    assert _packages(puller) == packages
    puller.sandbox.store.create("notes", {"body": "New"})
    puller.pull_ok()
    assert _packages(puller) == packages + 1


def _packages(puller: Puller) -> int:
    with Destination(puller.settings) as destination:
        ((count,),) = destination.query(f"SELECT count(*) FROM {destination.name('_dlt_loads')}")
    return int(count)


def _about_runs(path: Path) -> tuple[int, dict[str, Any]]:
    """(runs, when each resource was pulled last) as the copy has it."""
    with duckdb.connect(str(path), read_only=True) as connection:
        runs = connection.execute("SELECT count(*) FROM hiringcenter._hc_runs").fetchone()
        fresh = connection.execute("SELECT resource, last_pull_at FROM hiringcenter._hc_freshness")
        assert runs is not None
        return runs[0], dict(fresh.fetchall())


def test_a_linked_path_stays_a_link_and_its_target_is_the_copy(puller: Puller):
    """A chain of links to where no file is yet; again with the file there; and by a pull that
    updates only the tables about runs. Any sign that DuckDB takes may be in the path:
    quotes, blanks, globs and what URLs escape."""
    name = """it's 100% "so" #1 [a]*{x};.duckdb"""
    path = puller.settings.duckdb_path.with_name(name)
    puller.change(duckdb_path=path)
    shared = path.parent.parent / "shared"
    for folder in (path.parent, shared):
        folder.mkdir()
    path.symlink_to("middle.duckdb")
    (path.parent / "middle.duckdb").symlink_to(shared / name)
    for changes in (True, True, False):
        if changes:
            _change(puller)
        assert puller.pull_ok().published is changes
        assert path.is_symlink()
        assert not (shared / name).is_symlink()
    assert_equal_to_truth(puller.sandbox, all_duckdb(shared / name, puller.lists))
    assert [file.name for file in shared.iterdir()] == [name]


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE SCHEMA hiringcenter; CREATE TABLE hiringcenter.prospects AS SELECT 1 AS id",
        "CREATE TABLE mine AS SELECT 42 AS answer",
        "CREATE VIEW mine AS SELECT 42 AS answer",
        "CREATE SCHEMA east; CREATE TABLE east._hc_runs (id INT); CREATE TABLE mine (id INT)",
    ],
)
def test_a_database_of_a_users_own_is_refused_before_any_request(puller: Puller, sql: str):
    """By `pull` and by `check`, with a clear error; the file stays as it is."""
    path = puller.settings.duckdb_path
    path.parent.mkdir()
    with duckdb.connect(str(path)) as connection:
        connection.execute(sql)
    before = path.read_bytes()
    report = puller.pull()
    assert isinstance(report.error, ConfigurationError)
    assert "a database of your own" in str(report.error)
    assert "HIRINGCENTER_DUCKDB_PATH" in str(report.error)
    assert puller.sandbox.requests == []
    (check,) = (check for check in run_checks(puller.settings) if check.name == "destination")
    assert not check.ok
    assert "a database of your own" in check.detail
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_copy_is_made_again(puller: Puller):
    """Deleted by hand: the next pull brings it back, though no row changed. Half-made copies of
    killed runs are swept: they would fill the disk otherwise, one per kill."""
    puller.pulled()
    puller.settings.duckdb_path.unlink()
    stale = puller.settings.duckdb_path.with_name(".hc.duckdb.999.tmp")
    stale.write_text("half")
    assert puller.pull_ok().published
    puller.assert_true()
    assert not stale.exists()


def test_readers_hold_the_file_through_pulls(puller: Puller):
    """An open session keeps what it opened; a new one sees the newest pull."""
    puller.pulled()
    path = str(puller.settings.duckdb_path)
    code = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=True)\n"
        "for _ in sys.stdin:\n"
        "  print(*c.execute('FROM hiringcenter.prospects SELECT count(*)').fetchone(), flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as reader:  # fmt: skip
        assert reader.stdin is not None
        assert reader.stdout is not None

        def ask() -> int:
            reader.stdin.write("\n")
            reader.stdin.flush()
            return int(reader.stdout.readline())

        assert ask() == 300
        _change(puller)
        puller.pull_ok()
        assert ask() == 300
        reader.stdin.close()
    puller.assert_true()


@pytest.mark.parametrize("writes_before", [True, False])
def test_a_writer_that_is_killed_leaves_no_poison(puller: Puller, writes_before: bool):
    """Its log is kept with the file it belongs to; no reader of the new copy replays it."""
    puller.pulled()
    path = puller.settings.duckdb_path
    with _writer(path) as writer:
        if writes_before:
            assert writer.run("CREATE TABLE mine AS SELECT 42 AS answer") == "done"
            writer.kill()
        _change(puller)
        puller.pull_ok()
        puller.assert_true()
        if not writes_before:
            writer.run("DELETE FROM hiringcenter.prospects")
            puller.assert_true()
            writer.kill()
    puller.assert_true()
    if writes_before:
        (kept,) = path.parent.glob("*.kept-*.duckdb")
        with duckdb.connect(str(kept), read_only=True) as connection:
            assert connection.execute("SELECT answer FROM mine").fetchall() == [(42,)]
    _change(puller)
    puller.pull_ok()
    puller.assert_true()


def test_a_live_writer_never_changes_what_others_read(puller: Puller):
    """It holds the file through two pulls and keeps writing: every new reader sees a pull."""
    puller.pulled()
    path = puller.settings.duckdb_path
    with _writer(path) as writer:
        assert writer.run("CREATE TABLE mine AS SELECT 42 AS answer") == "done"
        for _ in range(2):
            _change(puller)
            puller.pull_ok()
            puller.assert_true()
            writer.run("INSERT INTO mine VALUES (43)")
            puller.assert_true()
    puller.assert_true()


def test_commands_that_read_a_copy_that_is_being_written_name_both_ways_out(puller: Puller):
    """Close that program, or pull, which publishes another copy beside it."""
    puller.pulled()
    with _writer(puller.settings.duckdb_path):
        with pytest.raises(DestinationError, match=r"open for writing.* Pull .*close that program"):
            open_landed(puller.settings).__enter__()
        puller.pull_ok()
        with open_landed(puller.settings):
            pass


def test_added_tables_are_kept_under_another_name(puller: Puller):
    """Closed cleanly, so there is no log: the file itself is kept under another name."""
    puller.pulled()
    path = puller.settings.duckdb_path
    path.chmod(0o644)
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 42 AS answer")
    _change(puller)
    puller.pull_ok()
    puller.assert_true()
    (kept,) = path.parent.glob("*.kept-*.duckdb")
    with duckdb.connect(str(kept), read_only=True) as connection:
        assert connection.execute("SELECT answer FROM mine").fetchall() == [(42,)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_a_copy_of_another_user_is_kept_where_links_to_it_are_refused():
    """As Linux refuses hard links to others' files, and some mounts to any: `--take-over` needs
    no more than a folder that both may write."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        copy = folder / "hc.duckdb"
        copy.write_bytes(b"published by root")
        copy.chmod(0o444)
        folder.chmod(0o777)
        os.seteuid(65534)
        try:
            record = WorkRecord.read(folder)
            marts = Marts(MartSettings(), record=record, folder=folder)
            snapshot = Snapshot(
                copy, dataset="x", installation="0" * 16, record=record, marts=marts
            )
            snapshot.keep_foreign_writes()
        finally:
            os.seteuid(0)
        (kept,) = folder.glob("*.kept-*.duckdb")
        assert kept.read_bytes() == b"published by root"


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_pull_with_nothing_new_undoes_what_a_writer_did(puller: Puller, is_closed: bool):
    """Its deletions are in the file itself, or no reader can open it: so it is published again."""
    puller.pulled()
    with _writer(puller.settings.duckdb_path) as writer:
        assert writer.run("DELETE FROM hiringcenter.prospects") == "done"
        if is_closed:
            writer.process.communicate()
        assert puller.pull_ok().published
        puller.assert_true()
    assert not puller.pull_ok().published


def test_a_lost_working_file_comes_back_from_the_copy(puller: Puller):
    """Without the state directory, tombstones and history survive in the published copy."""
    store = puller.sandbox.store
    puller.pulled()
    store.delete("notes", store.all("notes")[0]["id"])
    puller.pull_ok()
    _forget_state(puller.settings.state_dir)
    puller.pull_ok()
    puller.assert_true()
    assert puller.counts("rows_written") == dict.fromkeys(puller.counts("rows_written"), 0)
    with duckdb.connect(str(puller.settings.duckdb_path), read_only=True) as connection:
        found = connection.execute(
            "SELECT count(*) FROM hiringcenter.notes WHERE _hc_deleted_at IS NOT NULL"
        ).fetchone()
        runs = connection.execute("SELECT count(*) FROM hiringcenter._hc_runs").fetchone()
    assert found == (1,)
    assert runs is not None
    assert runs[0] >= 2


def test_a_damaged_working_file_is_moved_aside(puller: Puller):
    """Never deleted, never read as empty: the rows come back, the damaged file is kept."""
    puller.pulled()
    (working,) = puller.settings.state_dir.glob("work/*/_hc_working.duckdb")
    working.write_bytes(b"not a database" * 1000)
    puller.pull_ok()
    puller.assert_true()
    assert len(list(working.parent.glob("*.damaged-*"))) == 1


@pytest.mark.parametrize("table", ["prospects", "_dlt_version"])
def test_a_working_file_with_a_damaged_block_heals_in_two_runs(puller: Puller, table: str):
    """It opens, and fails where the block is read: the run names the file, and the next one makes
    it again from what can be read; tombstones are kept, and no row is assumed to be there."""
    store = puller.sandbox.store
    puller.pulled()
    (working,) = puller.settings.state_dir.glob("work/*/_hc_working.duckdb")
    store.delete("notes", store.all("notes")[0]["id"])
    _damage_block_of(working, table)
    store.create("prospects", {"firstName": "New", "lastName": "Person"})
    report = puller.pull(full=True)
    if report.error is not None:
        assert type(report.error) is WorkingFileFailed
        assert str(working) in str(report.error)
        puller.pull_ok(full=True)
    puller.assert_true()
    assert len(list(working.parent.glob("*.damaged-*"))) == 1
    assert not WorkRecord.read(working.parent).is_suspect


def test_an_emptied_working_file_is_filled_from_the_copy(puller: Puller):
    """DuckDB takes it for a new one; tombstones would be lost, and everything written again."""
    puller.pulled()
    (working,) = puller.settings.state_dir.glob("work/*/_hc_working.duckdb")
    working.write_bytes(b"")
    puller.pull_ok()
    puller.assert_true()
    assert set(puller.counts("rows_written").values()) == {0}


def _damage_block_of(working: Path, table: str) -> None:
    with duckdb.connect(str(working)) as connection:
        (block,) = connection.execute(
            f"SELECT min(block_id) FROM pragma_storage_info('hiringcenter.{table}') "
            "WHERE block_id >= 0"
        ).fetchall()[0]
        (size,) = connection.execute("SELECT block_size FROM pragma_database_size()").fetchall()[0]
    with working.open("r+b") as stream:
        stream.seek(3 * 4096 + block * size + 100)  # three headers come before the blocks
        stream.write(b"\xff\x00\xff\x00")


def _forget_state(folder: Path) -> None:
    folder.rename(folder.with_name(f"forgotten-{time.monotonic_ns()}"))
