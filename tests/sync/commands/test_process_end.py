"""How the process of a command ends: at once, but never before its work and its output are done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BUSY = """
import sys, threading, time
from pathlib import Path
from pipelines import cli

def write():
    time.sleep(0.3)
    Path("written").touch()

def main():
    threading.Thread(target=write).start()
    sys.exit(3)

cli.main = main
cli.run()
"""


def test_a_thread_at_work_is_waited_for(tmp_path: Path):
    """A write on its way is worth its answer."""
    ended = subprocess.run([sys.executable, "-c", BUSY], cwd=tmp_path, check=False)
    assert ended.returncode == 3
    assert (tmp_path / "written").exists()


def test_all_that_was_said_arrives(tmp_path: Path):
    """More than a pipe holds at once."""
    code = (
        "from pipelines import cli; cli.main = lambda: exit(print('x' * 300_000) or 0); cli.run()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True
    )
    assert len(ended.stdout.strip()) == 300_000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_full_stdout_is_told_without_a_traceback(tmp_path: Path):
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", "budget", "--help"],
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: ")
    assert "Traceback" not in ended.stderr
