"""A file lock between processes and threads: fair like the kernel's queue, and bounded.

The kernel has no timed `flock`; where the lock is taken, a thread of its own waits in the
kernel's queue, and is left behind (and gives the lock back at once) if the caller gives up.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LockHeld(Exception):
    """Others held the lock for as long as we were willing to wait."""


class FileLock:
    """path: created where it is missing, for its owner alone.

    Raises:
        OSError: it can't be created.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = threading.Lock()
        self._descriptor = self._open()

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextmanager
    def held(self, wait_s: float) -> Iterator[None]:
        """Hold the lock.

        Raises:
            LockHeld: others, here or in other processes, held it for `wait_s`.
        """
        if not self._threads.acquire(timeout=wait_s):
            raise LockHeld(f"another thread held it for {wait_s:g} s")
        try:
            self._take(wait_s)
            try:
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def _take(self, wait_s: float) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            attempt = _Attempt(self._descriptor)
            if not attempt.succeeded(wait_s):
                self._descriptor = self._open()  # the left attempt keeps the old one, and closes it
                raise LockHeld(f"another process held it for {wait_s:g} s") from None

    def close(self) -> None:
        os.close(self._descriptor)


class _Attempt:
    """One wait in the kernel's queue, in a thread that may be left behind."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._decision = threading.Lock()
        self._taken = threading.Event()
        self._left = False
        threading.Thread(target=self._wait, name="ledger-lock", daemon=True).start()

    def _wait(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        with self._decision:
            if self._left:
                os.close(self._descriptor)  # frees the lock as well
            else:
                self._taken.set()

    def succeeded(self, wait_s: float) -> bool:
        """Whether the lock was taken within `wait_s`; if not, it never will be."""
        if self._taken.wait(wait_s):
            return True
        with self._decision:
            self._left = not self._taken.is_set()
            return not self._left
