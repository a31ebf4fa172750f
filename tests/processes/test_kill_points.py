"""A process may end before any of its file operations, its C code's included."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes.file_operations import FileFault, library
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
