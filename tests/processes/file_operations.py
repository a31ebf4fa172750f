"""Ends a process before its N-th file operation, or lets operations fail (see the C file).

    with Zygote(folder, environment, watches_files=True) as zygote:
        zygote.start("pull")
        zygote.wait()
        operations = zygote.operations()           # what a run does, in order
        zygote.start("pull", fault=FileFault(kill_before=17))
        assert zygote.wait() == -signal.SIGKILL    # zygote.operations()[-1] wasn't done

Threads run in no fixed order, so the N-th operation differs from run to run.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")


@dataclass(frozen=True)
class FileFault:
    """kill_before, fail_from: numbers of operations, from 1; 0: never. kill_at: a part of the
    name or path of the operation to be killed before; threads don't shift it.

    From `fail_from` on, every operation but removals fails with `errno`.
    without_locks: a folder, relative to the watched one, in which no file can be locked.
    """

    kill_before: int = 0
    fail_from: int = 0
    errno: int = 0
    without_locks: str = ""
    kill_at: str = ""


@functools.cache
def library() -> Path | None:
    """The compiled library for LD_PRELOAD; None on a machine that can't compile or use it."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    target = Path(tempfile.mkdtemp(prefix="file_operations-")) / "file_operations.so"
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", target, _SOURCE, "-ldl", "-pthread"],
        capture_output=True,
    )
    return target if done.returncode == 0 else None


def watch(folder: str, log: str, fault: FileFault) -> None:
    """Count this process' operations below `folder` from now on; each is appended to `log`."""
    if fault.without_locks:
        ctypes.CDLL(None).file_operations_no_locks(f"{folder}/{fault.without_locks}".encode())
    if fault.kill_at:
        ctypes.CDLL(None).file_operations_kill_at(fault.kill_at.encode())
    begun = ctypes.CDLL(None).file_operations_watch(
        folder.encode(),
        log.encode(),
        ctypes.c_long(fault.kill_before),
        ctypes.c_long(fault.fail_from),
        fault.errno,
    )
    assert begun == 0, "the log can't be opened"
