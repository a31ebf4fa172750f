"""The state directory: one per user, for this user alone, with the ledger of every API key.

Version 0.1 kept one in each working folder (`.hiringcenter`). What it holds (receipts, outbox,
run history, the working files of each destination) is moved here once.
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
_MARK = "hiringcenter-state"
_MARK_TEXT = (
    "State of the HiringCenter connector: rate budget, sent rows, run history, working files.\n"
    "Without it, pushed rows can't be recognised. To move it, move the whole folder.\n"
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

    A folder that was there before (a mounted volume with its `lost+found`, a home) isn't ours to
    close to others: a subfolder of it holds everything.
    """
    path = configured.expanduser().absolute()
    return path / SUBFOLDER if path.exists() and not _is_ours(path) else path


def _is_ours(path: Path) -> bool:
    return (path / _MARK).exists() or (path / LEDGER).exists()


def prepare(configured: Path, *, old: Path | None = None) -> Path:
    """The state directory, made for this user alone (0700) where it is missing.

    old: a `.hiringcenter` of version 0.1, which moves in where nothing else lives here yet.

    Raises:
        ConfigurationError: it can't be made or written, or nothing can be loaded from its path.
        StateConflict: both hold what was sent.
        AlreadyRunning: a run of version 0.1 is using `old`.
    """
    path = effective(configured)
    if found := sorted(set(_UNUSABLE) & set(str(path))):
        raise ConfigurationError(
            f"{path}: DuckDB and dlt can't load from a path with {' or '.join(found)} in it. "
            "Set HIRINGCENTER_STATE_DIR to another place."
        )
    try:
        if old is not None and _is_movable(old, path):
            _adopt(old, path, is_default=configured == default_state_dir())
        if old is not None and (path / LEDGER).is_file():
            with contextlib.suppress(OSError):  # another process does the same
                _remove_moved(old)
        _make(path)
        if (path / _MARK).exists() and path.stat().st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(
            f"{path}: the state directory can't be used: {error.strerror}. Make it writable for "
            "you alone, or set HIRINGCENTER_STATE_DIR to another place."
        ) from error
    return path


def _make(path: Path) -> None:
    """Appears whole, with its mark: two processes that start at once must agree on one folder."""
    if path.exists():
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
        return
    _make_parents(path)
    new = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))  # 0700
    try:
        (new / _MARK).write_text(_MARK_TEXT)
        new.rename(path)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        if not _is_ours(path):
            raise
    _remove_unfinished(path, lambda left: {each.name for each in left.iterdir()} <= {_MARK})


def _remove_unfinished(path: Path, is_left_behind: Callable[[Path], bool]) -> None:
    """What runs that were killed have left next to `path`, of names that `mkdtemp` gives."""
    for left in path.parent.glob(f".{path.name}-????????"):
        with contextlib.suppress(OSError):
            if left.is_dir() and left.stat().st_uid == os.geteuid() and is_left_behind(left):
                shutil.rmtree(left)


def _make_parents(path: Path) -> None:
    """Only the state directory is private: `data/`, where the demo has its own, is for analysts."""
    is_home = path.is_relative_to(platformdirs.user_state_path())
    for folder in reversed(path.parents):
        if not folder.exists():
            with contextlib.suppress(FileExistsError):  # another process was faster
                folder.mkdir()
                folder.chmod(0o700 if is_home else 0o755)  # whatever the umask of the run is


def _is_movable(old: Path, path: Path) -> bool:
    return (
        (old / LEDGER).is_file()
        and old.absolute() != path
        and not old.is_symlink()
        and why_untrusted(old) is None
        and _has_history(old)
    )


def _adopt(old: Path, path: Path, *, is_default: bool) -> None:
    """Move the state of version 0.1 to `path`, unless another one with a history is there."""
    with _unused(old) as is_there:
        if not is_there:  # another process has just moved it
            return
        if not (path.exists() and _has_history(path)):
            _move(old, path)
        elif _is_copy(old, path):  # its maker was killed before the old one went
            old.rename(_moved(old))
        elif is_default:
            raise StateConflict(old=str(old.absolute()), new=str(path))
        # else configured by hand: what lies in the working folder is left alone


def _move(old: Path, path: Path) -> None:
    if path.exists():
        path.rename(path.with_name(f"{path.name}.before-{time.time_ns()}"))
    _make_parents(path)
    (old / _MARK).write_text(_MARK_TEXT)
    try:
        old.rename(path)
    except OSError:  # another file system
        _remove_unfinished(path, lambda left: (left / _MARK).exists())
        new = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        (new / _MARK).write_text(_MARK_TEXT)
        shutil.copytree(old, new, dirs_exist_ok=True)
        new.chmod(0o700)
        new.rename(path)
        old.rename(_moved(old))


def _moved(old: Path) -> Path:
    return old.with_name(f"{old.name}.moved")


def _remove_moved(old: Path) -> None:
    """The state of version 0.1 that was copied to another file system."""
    moved = _moved(old)
    if not (moved / _MARK).is_file() or moved.is_symlink() or why_untrusted(moved) is not None:
        return
    for each in moved.iterdir():
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        elif each.name != _MARK:  # which goes last: a run that is killed here is continued
            each.unlink()
    shutil.rmtree(moved)


def _is_copy(old: Path, path: Path) -> bool:
    """Whether a move to another file system made `path`: the same runs and sent rows, to the
    byte."""
    return (old / _MARK).exists() and all(
        (old / name).is_file() == (path / name).is_file()
        and (not (old / name).is_file() or filecmp.cmp(old / name, path / name, shallow=False))
        for name in _HISTORY
    )


def _has_history(folder: Path) -> bool:
    """Whether a state directory holds runs or rows that were sent; also where it can't be read."""
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
    """Hold every lock of version 0.1 below `old`; False where it is gone by now.

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
                    lock=f"{old}, which is to be moved", holder="a run of version 0.1"
                ) from None
        yield is_there
