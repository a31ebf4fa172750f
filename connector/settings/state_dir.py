"""The state directory: one per user, private, with the ledger of every API key.

Version 0.1 kept one in each working folder (`.hiringcenter`). Its contents (receipts, outbox, run
history, the working files of each destination) are moved here once.
"""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

from connector.errors import AlreadyRunning, ConfigurationError, StateConflict
from connector.settings.project import why_untrusted

OLD_NAME = ".hiringcenter"
SUBFOLDER = "hiringcenter"
LEDGER = "ledger.db"
_MARKER = "hiringcenter-state"
_MARKER_TEXT = (
    "State of the HiringCenter connector: rate budget, sent rows, run history, working files.\n"
    "Without it, pushed rows can't be recognized. To move it, move the whole folder.\n"
)
_UNUSABLE = "'%?\\"  # in a path: dlt pastes it into SQL, or DuckDB takes what follows for options
_HISTORY = {
    LEDGER: ("runs",),
    "ledger-outbox.db": ("outbox_writes", "outbox_receipts"),
}


def default_state_dir() -> Path:
    """The user's state directory, such as `~/.local/state/hiringcenter`."""
    return platformdirs.user_state_path("hiringcenter", appauthor=False)


def effective(configured: Path) -> Path:
    """Where state is kept for the setting `configured`.

    A folder that existed before (a mounted volume with its `lost+found`, a home) isn't ours to make
    private: a subfolder of it holds everything.
    """
    path = configured.expanduser().absolute()
    return path / SUBFOLDER if path.exists() and not _is_ours(path) else path


def _is_ours(path: Path) -> bool:
    return (path / _MARKER).exists() or (path / LEDGER).exists()


def prepare(configured: Path, *, old: Path | None = None) -> Path:
    """The state directory, created for this user alone (0700) if it is missing.

    old: a `.hiringcenter` of version 0.1, moved here if nothing is here yet.

    Raises:
        ConfigurationError: it can't be created or written, or dlt can't load from its path.
        StateConflict: both hold what was sent.
        AlreadyRunning: a run of version 0.1 is using `old`.
    """
    path = effective(configured)
    if found := sorted(set(_UNUSABLE) & set(str(path))):
        raise ConfigurationError(
            f"{path}: DuckDB and dlt can't load from a path with {' or '.join(found)} in it. "
            "Set HIRINGCENTER_STATE_DIR to another path."
        )
    try:
        if old is not None and _is_movable(old, path):
            _adopt(old, path, is_default=configured == default_state_dir())
        if old is not None and (path / LEDGER).is_file():
            with contextlib.suppress(OSError):  # another process does the same
                _remove_moved(old)
        _make(path)
        if (path / _MARKER).exists() and path.stat().st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(
            f"{path}: the state directory can't be used: {error.strerror}. Make it writable for "
            "you alone, or set HIRINGCENTER_STATE_DIR to another path."
        ) from error
    return path


def _make(path: Path) -> None:
    """Create it atomically, marker file included: two processes that start at once must agree on
    one folder."""
    if path.exists():
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
        return
    _make_parents(path)
    new = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))  # 0700
    try:
        (new / _MARKER).write_text(_MARKER_TEXT)
        new.rename(path)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        if not _is_ours(path):
            raise
    _remove_unfinished(path, lambda left: {each.name for each in left.iterdir()} <= {_MARKER})


def _remove_unfinished(path: Path, is_left_behind: Callable[[Path], bool]) -> None:
    """Remove what killed runs left next to `path`, under names that `mkdtemp` gives."""
    for left in path.parent.glob(f".{path.name}-????????"):
        with contextlib.suppress(OSError):
            if left.is_dir() and left.stat().st_uid == os.geteuid() and is_left_behind(left):
                shutil.rmtree(left)


def _make_parents(path: Path) -> None:
    """Only the state directory is private: its parent `data/` in the demo is for analysts."""
    is_home = path.is_relative_to(platformdirs.user_state_path())
    for folder in reversed(path.parents):
        if not folder.exists():
            with contextlib.suppress(FileExistsError):  # another process created it first
                folder.mkdir()
                folder.chmod(0o700 if is_home else 0o755)  # whatever the run's umask


def _is_movable(old: Path, path: Path) -> bool:
    return (
        (old / LEDGER).is_file()
        and old.absolute() != path
        and not old.is_symlink()
        and why_untrusted(old) is None
        and _has_history(old)
    )


def _adopt(old: Path, path: Path, *, is_default: bool) -> None:
    """Move the state of version 0.1 to `path`, unless another state with a history is there."""
    with _unused(old) as is_there:
        if not is_there:  # another process has just moved it
            return
        if not (path.exists() and _has_history(path)):
            _move(old, path)
        elif _is_copy(old, path):  # a process was killed before it removed `old`
            old.rename(_moved(old))
        elif is_default:
            raise StateConflict(old=str(old.absolute()), new=str(path))
        # otherwise `path` was configured: the folder in the working folder stays as it is


def _move(old: Path, path: Path) -> None:
    if path.exists():
        path.rename(path.with_name(f"{path.name}.before-{time.time_ns()}"))
    _make_parents(path)
    (old / _MARKER).write_text(_MARKER_TEXT)
    try:
        old.rename(path)
    except OSError:  # another file system
        _remove_unfinished(path, lambda left: (left / _MARKER).exists())
        new = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        (new / _MARKER).write_text(_MARKER_TEXT)
        shutil.copytree(old, new, dirs_exist_ok=True)
        new.chmod(0o700)
        new.rename(path)
        old.rename(_moved(old))


def _moved(old: Path) -> Path:
    return old.with_name(f"{old.name}.moved")


def _remove_moved(old: Path) -> None:
    """The state of version 0.1 that was copied to another file system."""
    moved = _moved(old)
    if not (moved / _MARKER).is_file() or moved.is_symlink() or why_untrusted(moved) is not None:
        return
    for each in moved.iterdir():
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        elif each.name != _MARKER:  # removed last, so that the next run can resume after a kill
            each.unlink()
    shutil.rmtree(moved)


def _is_copy(old: Path, path: Path) -> bool:
    """Whether a move to another file system made `path`: the same runs and sent rows, byte for
    byte."""
    return (old / _MARKER).exists() and all(
        (old / name).is_file() == (path / name).is_file()
        and (not (old / name).is_file() or filecmp.cmp(old / name, path / name, shallow=False))
        for name in _HISTORY
    )


def _has_history(folder: Path) -> bool:
    """Whether a state directory holds runs or sent rows; True if that can't be read."""
    return any(
        (folder / name).is_file() and not _is_empty(folder / name, tables)
        for name, tables in _HISTORY.items()
    )


def _is_empty(database: Path, tables: tuple[str, ...]) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=5)) as connection:
            known = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
            rows = (f"SELECT 1 FROM {table} LIMIT 1" for table in known.intersection(tables))  # noqa: S608
            return not any(connection.execute(query).fetchone() for query in rows)
    except sqlite3.Error:
        return False


@contextlib.contextmanager
def _unused(old: Path) -> Iterator[bool]:
    """Hold every lock of version 0.1 below `old`; False if `old` no longer exists.

    Raises:
        AlreadyRunning: a run holds one.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = os.open(old, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, folder)
            fcntl.flock(folder, fcntl.LOCK_EX)
            is_there = os.path.samestat(os.fstat(folder), old.stat())
        except FileNotFoundError:
            is_there = False
        for path in sorted(old.glob("locks/*.lock")) if is_there else ():
            lock = stack.enter_context(path.open("r+b"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyRunning(
                    lock=f"{old}, which is about to be moved", holder="a run of version 0.1"
                ) from None
        yield is_there
