"""A process may end before any of its file operations, its C code's included; files may break."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.file_operations import FileFault, library
from tests.processes.pull_kills import KillPoints, pulling_from, small_sandbox
from tests.processes.zygote import ROOT

SCRIPT = """
import sqlite3, sys
from pathlib import Path
from tests.processes.file_operations import FileFault, watch
folder = Path(sys.argv[1])
watch(str(folder), f"{folder}.log", FileFault(*map(int, sys.argv[2:])))
(folder / "a").write_text("1")
(folder / "a").rename(folder / "b")
with sqlite3.connect(folder / "db") as database:
    database.execute("CREATE TABLE t (x)")
(folder / "b").unlink()
"""


def outcome(folder: Path, fault: FileFault) -> tuple[int, list[str], list[str], str]:
    """Exit code, operations, what is left in the folder, stderr."""
    shim = library()
    if shim is None:
        pytest.skip("needs a C compiler (cc) and LD_PRELOAD")
    folder.mkdir()
    numbers = map(str, (fault.kill_before, fault.fail_from, fault.errno))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), *numbers],
        env={**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    log = folder.with_name(f"{folder.name}.log").read_text().splitlines()
    return done.returncode, log, sorted(file.name for file in folder.iterdir()), done.stderr


def test_a_process_is_killed_before_the_chosen_operation_and_what_came_before_is_done(
    tmp_path: Path,
):
    """Every operation is counted, SQLite's too; the last one that is logged wasn't made."""
    code, operations, left, error = outcome(tmp_path / "whole", FileFault())
    assert (code, left) == (0, ["db"]), error
    assert operations[:3] == ["open a", "write a", "rename b"]
    assert {"open db", "write db", "fsync db"} <= set(operations)
    assert operations[-1] == "remove b"
    before_rename = outcome(tmp_path / "cut", FileFault(kill_before=3))
    assert before_rename[:3] == (-signal.SIGKILL, operations[:3], ["a"])


def test_operations_fail_from_the_chosen_one_on_but_removals(tmp_path: Path):
    """A full disk: the rename fails, and the caller learns why."""
    code, _, left, error = outcome(tmp_path / "full", FileFault(fail_from=3, errno=errno.ENOSPC))
    assert (code, left) == (1, ["a"])
    assert os.strerror(errno.ENOSPC) in error


STATE_SCRIPT = """
import os, shutil, sqlite3, sys, tarfile
from pathlib import Path
from connector.settings.folders import open_state_dir
from tests.processes.file_operations import FileFault, watch

home, target, watched = map(Path, sys.argv[1:4])

def run(number):
    if (pid := os.fork()) == 0:
        watch(str(watched), f"{home}.log", FileFault(kill_before=number))
        open_state_dir(target / "state", old=home / ".hiringcenter")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

whole = home.with_name("whole")
whole.mkdir()
if sys.argv[4]:
    with tarfile.open(sys.argv[4]) as archive:
        archive.extractall(whole, filter="data")
step = int(sys.argv[5])
for number in range(int(sys.argv[6]), 1000, step):
    for folder in (home, target):
        shutil.rmtree(folder, ignore_errors=True)
    target.mkdir()
    shutil.copytree(whole, home)
    ended = run(number)
    again = run(0)
    left = set(os.listdir(home) + os.listdir(target)) - {"data", "people.csv"}
    known = 3
    if sys.argv[4]:
        with sqlite3.connect(target / "state/ledger-outbox.db") as outbox:
            known = outbox.execute("SELECT count(*) FROM outbox_receipts").fetchone()[0]
    mode = (target / "state").stat().st_mode & 0o777
    found = (again, left, known, oct(mode), (target / "state/hiringcenter-state").exists())
    if found != (0, {"state"}, 3, "0o700", True):
        print(f"killed before operation {number}: {found}")
    if ended == 0:
        print(f"tried {number}")
        break
"""


@pytest.mark.parametrize(
    ("case", "step"), [("new", 1), ("moved", 2), ("copied from", 19), ("copied to", 61)]
)
def test_a_state_directory_comes_into_being_whatever_operation_a_run_was_killed_before(
    request: pytest.FixtureRequest, tmp_path: Path, chance: random.Random, case: str, step: int
):
    """Made, or moved from where version 0.1 had it, to another file system as well: nothing of it
    is lost, and nothing is left behind."""
    shim = library()
    if shim is None:
        pytest.skip("needs a C compiler (cc) and LD_PRELOAD")
    home, target = tmp_path / "home", tmp_path / "target"
    if "copied" in case:
        target = request.getfixturevalue("elsewhere") / "target"
    watched = home if case == "copied from" else target if case == "copied to" else tmp_path
    old = "" if case == "new" else str(ROOT / "tests/fixtures/state-0.1.tar.xz")
    numbers = [str(step), str(chance.randint(1, step))]
    done = subprocess.run(
        [sys.executable, "-c", STATE_SCRIPT, str(home), str(target), str(watched), old, *numbers],
        env={**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert re.fullmatch(r"tried \d+\n", done.stdout), done.stdout + done.stderr


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillPoints]:
    folder = tmp_path_factory.mktemp("points")
    with small_sandbox() as sandbox, pulling_from(sandbox, folder, watches_files=True) as zygote:
        yield KillPoints(zygote, sandbox)


@pytest.mark.slow
def test_a_pull_killed_before_a_file_operation_loses_nothing_and_leaves_nothing(
    points: KillPoints, chance: random.Random
):
    """A sample of a first pull and of the one that resumes it; every second operation, one by one:
    make bench. At most two runs later the copy equals the API, and no file is there that an
    undisturbed pull doesn't leave."""
    numbers = chance.randrange(1, points.first), chance.randrange(1, points.first // 2)
    series = [FileFault(kill_before=number) for number in numbers]
    assert points.try_series(series, fresh=True) is None


@pytest.mark.slow
def test_a_pull_killed_where_it_used_to_be_stuck(points: KillPoints):
    """Between the copy and the record of it; in what that left, between dlt's two renames."""
    operations = ["rename data/hiringcenter.duckdb", "load/normalized"]
    before = points.cut
    assert points.try_series([FileFault(kill_at=each) for each in operations]) is None
    assert points.cut - before == len(operations)


@pytest.mark.slow
def test_a_damaged_file_heals_or_is_named(points: KillPoints, chance: random.Random):
    """One of dlt's, the marks, the working file, the copy, the ledger. (A hundred: make bench.)"""
    assert points.try_damage(chance) is None


@pytest.mark.slow
def test_a_disk_that_fails_during_a_pull_ends_it_with_a_clear_error(
    points: KillPoints, chance: random.Random
):
    """A full or dying disk: one JSON object, no crash, and the next run recovers."""
    code = chance.choice([errno.ENOSPC, errno.EIO])
    assert points.try_failing(chance.randrange(1, points.first // 2), code) is None


@pytest.mark.slow
def test_a_folder_without_locks_gets_a_copy_each_time_and_nothing_else(points: KillPoints):
    """As some network mounts are; DuckDB can't write there, so the copy is made elsewhere."""
    assert points.try_without_locks("data") is None
