"""How the process of a command ends: at once, but never before its work and its output are done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from connector.sandbox import Sandbox, SandboxOptions
from tests.processes.zygote import ROOT

BUSY = """
import sys, threading
from pathlib import Path
from pipelines import cli

def write():
    threading.main_thread().join()
    Path("written").touch()

def main():
    threading.Thread(target=write).start()
    sys.exit(3)

cli.main = main
cli.run()
"""


def test_a_thread_at_work_is_waited_for(tmp_path: Path):
    """A write on its way is worth its answer, also one that ends after all else has."""
    ended = subprocess.run([sys.executable, "-c", BUSY], cwd=tmp_path, check=False)
    assert ended.returncode == 3
    assert (tmp_path / "written").exists()


def test_all_output_arrives(tmp_path: Path):
    """More than a pipe holds at once."""
    code = (
        "from pipelines import cli; cli.main = lambda: exit(print('x' * 300_000) or 0); cli.run()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True
    )
    assert len(ended.stdout.strip()) == 300_000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
@pytest.mark.parametrize("option", ["--help", "--json"])
def test_a_full_stdout_is_reported_without_a_traceback(tmp_path: Path, option: str):
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", "budget", option],
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: ")
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
@pytest.mark.parametrize(
    "around", ["ulimit -n 40; {} 2>&-", "{} 2>/dev/full"], ids=["closed, few files", "full"]
)
def test_a_push_whose_output_is_not_read_is_done_and_counted(tmp_path: Path, around: str):
    """stderr closed or full, hardly a file to open: every row is sent and reported in the object on
    stdout."""
    rows = "".join(f"N{n},X,n{n}@example.org\n" for n in range(30))
    (tmp_path / "people.csv").write_text(f"firstName,lastName,email\n{rows}N,X,bad@\n")
    options = SandboxOptions(prospects=0, notes=0, tasks=0, meetings=0, latency_s=0.05)
    command = f"{sys.executable} -m pipelines.cli push people.csv --json"
    with Sandbox(options) as sandbox:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HIRINGCENTER_API_KEY": sandbox.api_key,
            "HIRINGCENTER_BASE_URL": sandbox.url,
            "HIRINGCENTER_RATE_LIMITS": "60000/60s",
            "HIRINGCENTER_STATE_DIR": str(tmp_path / "state"),
        }
        ended = subprocess.run(
            ["sh", "-c", around.format(command)],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        assert len(sandbox.applied) == 30
    assert ended.returncode == 3
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert (summary["rows"], summary["created"], summary["rejected"]) == (31, 30, 1)
