"""Starts `hiringcenter` again and again in real processes, paying for its imports once.

A process that has imported everything and has no threads forks a child for each command line;
the child is a process of its own, which may be killed by its pid.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import gc
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from connector.sandbox import Sandbox
from tests.processes.file_operations import FileFault, library, watch

ROOT = Path(__file__).parents[2]
_PATIENCE_S = 500.0
# Python overlooks a signal that comes just before its main thread begins to wait, until that wait
# ends: here with an answer, which may not be held back for ever then
_OVERDUE_S = 5.0
# what the commands import late: killed while importing, a child would prove little
_HEAVY = (
    "connector.webhooks.receiver",
    "pipelines.commands.server_commands",
    "pipelines.commands.transfer_commands",
    "pipelines.pull.drain",
    "pipelines.pull.pull_run",
    "pipelines.push.apply_and_undo",
    "pipelines.push.push_run",
    "pipelines.push.push_report",
    "dlt._workspace.cli",
    "dlt.destinations.impl.duckdb.sql_client",
    "dlt.sources.helpers.requests",
    "pyarrow.parquet",
    "uvicorn",
)


class _Forks:
    """A process that forks children, and lives as long as this one.

    watches_files: children note their file operations, and can be killed before one of them.
    """

    def __init__(self, *, watches_files: bool) -> None:
        preload = {"LD_PRELOAD": _library()} if watches_files else {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.processes.zygote"],
            env={**os.environ, **preload, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == "ready"
        atexit.register(self._process.communicate)

    def ask(self, command: dict[str, Any] | int | None) -> int:
        """Of a command line, the pid of the child; of a pid, or of None, how that child ended, or
        the last one."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return int(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


_forks = functools.cache(_Forks)


class Zygote:
    """A context manager; every child has ended when it is left.

    watches_files: children note their file operations, and can be killed before one of them.
    Skips the test where the machine has no C compiler. What forks them has paid for its imports
    once for all tests; `environment` is each child's own.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str], *, watches_files: bool = False
    ) -> None:
        self.folder, self._watches_files = folder, watches_files
        self._environment = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
        self._forks = _forks(watches_files=watches_files)
        self._is_running = False

    def start(self, *arguments: str, fault: FileFault | None = None) -> int:
        """Run one command line in `folder`, which may be another one each time; its pid.

        Its output is in the files `out` and `err`. fault: what befalls its file operations below
        `folder`; only if `watches_files`.
        """
        command: dict[str, Any] = {
            "arguments": arguments,
            "folder": str(self.folder),
            "environment": self._environment,
        }
        if self._watches_files:
            self._log.unlink(missing_ok=True)
            command["log"] = str(self._log)
            command["fault"] = dataclasses.asdict(fault or FileFault())
        self._is_running = True
        return self._forks.ask(command)

    def child(self, *arguments: str) -> Child:
        """Start one in parallel: unlike with `start`, the caller ends it."""
        pid = self.start(*arguments)
        self._is_running = False
        return Child(self, pid)

    def operations(self) -> list[str]:
        """File operations of the child started last, as `name path`, in order."""
        return self._log.read_text().splitlines()

    @property
    def _log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.operations")

    def wait(self, pid: int | None = None) -> int:
        """Wait for the child started last, or for an earlier one: its exit code, negative for a
        signal."""
        self._is_running = pid is not None and self._is_running
        return os.waitstatus_to_exitcode(self._forks.ask(pid))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_running:
            self.wait()


@dataclasses.dataclass(frozen=True)
class Child:
    """A command that runs in parallel with others."""

    zygote: Zygote
    pid: int

    def first_line(self) -> str:
        """Of its output, once it is there."""
        until_s, out = time.monotonic() + _PATIENCE_S, self.zygote.folder / "out"
        while not out.exists() or "\n" not in out.read_text():
            assert time.monotonic() < until_s
            time.sleep(0.005)
        return out.read_text().partition("\n")[0]

    def kill(self) -> bool:
        """SIGKILL; whether it was still at work."""
        os.kill(self.pid, signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> int:
        """Its exit code, negative for a signal."""
        return self.zygote.wait(self.pid)


def _library() -> str:
    found = library()
    if found is None:
        pytest.skip("needs a C compiler (cc) and LD_PRELOAD")
    return str(found)


def _serve() -> None:
    for module in _HEAVY:
        importlib.import_module(module)
    gc.freeze()  # a child's collector needn't look through what was imported
    print("ready", flush=True)
    child = 0
    for line in sys.stdin:
        command = json.loads(line)
        if not isinstance(command, dict):
            print(os.waitpid(command or child, 0)[1], flush=True)
            continue
        child = os.fork()
        if child == 0:
            _become(command)
        print(child, flush=True)


def _become(command: dict[str, Any]) -> None:
    from pipelines.cli import main

    os.environ.clear()
    os.environ.update(command["environment"])
    os.chdir(command["folder"])
    for name, descriptor in (("out", 1), ("err", 2)):
        opened = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, descriptor)
    sys.argv = ["hiringcenter", *command["arguments"]]
    if "log" in command:
        watch(command["folder"], command["log"], FileFault(**command["fault"]))
    try:
        main()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)
    finally:
        os._exit(99)


def signalled(
    zygote: Zygote, sandbox: Sandbox, number: int, *arguments: str, when: Callable[[], bool]
) -> int:
    """Run one command line, and send it signal `number` at the first request for which `when()`
    holds, which the API answers only once the signal is noticed. Its exit code."""
    reached, answers = threading.Event(), threading.Event()

    def hold(_request: object) -> None:
        if when():
            reached.set()
            answers.wait(_PATIENCE_S)

    sandbox.on_request = hold
    pid = zygote.start(*arguments)
    assert reached.wait(_PATIENCE_S)
    os.kill(pid, number)
    overdue_s = time.monotonic() + _OVERDUE_S
    while _is_caught(pid, number):  # a run that has noticed it leaves a second one to the system
        if time.monotonic() > overdue_s:
            answers.set()
        time.sleep(0.005)
    sandbox.on_request = None
    answers.set()
    return zygote.wait()


def _is_caught(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal; False where the system doesn't show it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


if __name__ == "__main__":
    _serve()
