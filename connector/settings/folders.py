"""The folders of a command: its project, with the settings files that count, and its state.

A project is the nearest folder upwards that has `config/hiringcenter.toml`, or a `.env` with a
HIRINGCENTER_ name in it; or the folder given by hand. Relative paths, and dlt's own `.dlt/`,
belong to it, so that cron needs no `cd`. A file that was merely found can redirect the API key,
so it counts only where no other user can have written it.
"""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import grp
import os
import pwd
import re
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import platformdirs

from connector.errors import (
    AlreadyRunning,
    ConfigurationError,
    StateConflict,
    UntrustedFile,
    UsageError,
)

CONFIG_FILE = Path("config/hiringcenter.toml")
DOTENV_FILE = Path(".env")
DLT_FILES = (Path(".dlt/config.toml"), Path(".dlt/secrets.toml"))
_LARGEST_DOTENV = 1 << 20  # bytes; what is larger was not written as settings
_OWN_NAME = re.compile(rb"^[ \t]*+(?:export\s+)?HIRINGCENTER_\w", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Project:
    """Where relative paths start, and the settings files that count.

    folder: absolute. config, dotenv: None if missing or untrusted. uses_dlt_files: whether `.dlt/`
    in `folder` counts. is_found: False if no project was found and the working folder stands in
    for one. notes: warnings, such as about a file that was skipped. variables: those of `dotenv`,
    once the settings are loaded; some are secrets.
    """

    folder: Path
    config: Path | None = None
    dotenv: Path | None = None
    uses_dlt_files: bool = True
    is_found: bool = False
    notes: tuple[str, ...] = ()
    variables: Mapping[str, str | None] = field(default_factory=dict, repr=False)

    @property
    def searched(self) -> str:
        """Where settings were looked for, as a phrase for people."""
        if self.is_found:
            return f"the environment, {self.folder / DOTENV_FILE} and {self.folder / CONFIG_FILE}"
        return (
            f"the environment, and {CONFIG_FILE} and {DOTENV_FILE} in {self.folder} and the "
            "folders above it"
        )

    def path(self, relative: Path) -> Path:
        """`relative` resolved in this project; `~` is the home. It stays relative if the project's
        folder is the working folder."""
        path = relative.expanduser()
        return path if self.folder == Path.cwd() else self.folder / path


def open_project(given: Path | None = None) -> Project:
    """The project given by hand, or the nearest one upwards from the working folder.

    Raises:
        UsageError: `given` isn't a folder, or the working folder no longer exists.
        UntrustedFile: a file in the working folder itself could have been written by another user.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was removed
        here = None
    if given is not None:
        folder = given.expanduser().absolute()
        if not folder.is_dir():
            raise UsageError(f"--project {given}: no such folder.")
        if here is None:
            os.chdir(folder)  # libraries need a working folder
        return _project_in(folder, lambda _: True)
    if here is None:
        raise UsageError(
            "The working folder has been removed. Run the command in another folder, or name one "
            "with --project DIR."
        )
    notes: dict[str, None] = {}

    def counts(path: Path) -> bool:
        reason = why_untrusted(path)
        if reason is not None and path.is_relative_to(here):
            raise UntrustedFile(path=str(path), reason=reason)
        if reason is not None:
            way = "If it is yours, pass its folder as --project."
            notes[f"{path} is ignored: {reason}. {way}"] = None
        return reason is None

    for folder in (here, *here.parents):
        settings_files = filter(_has_settings, (folder / CONFIG_FILE, folder / DOTENV_FILE))
        if [path for path in settings_files if counts(path)]:
            project = _project_in(folder, counts)
            return replace(project, notes=(*notes, *project.notes))
    for path in _dlt_files(here):  # dlt would read them anyway
        counts(path)
    return Project(here, notes=tuple(notes))


def _project_in(folder: Path, counts: Callable[[Path], bool]) -> Project:
    config, dotenv = folder / CONFIG_FILE, folder / DOTENV_FILE
    has_dotenv = _is_file(dotenv) and counts(dotenv)
    is_exposed = has_dotenv and dotenv.stat().st_mode & 0o004
    exposed = f"{dotenv} can be read by other users of this machine: chmod 600 {dotenv}"
    return Project(
        folder,
        config=config if _is_file(config) and counts(config) else None,
        dotenv=dotenv if has_dotenv else None,
        uses_dlt_files=not [path for path in _dlt_files(folder) if not counts(path)],
        is_found=True,
        notes=(exposed,) if is_exposed else (),
    )


def _dlt_files(folder: Path) -> list[Path]:
    return [folder / name for name in DLT_FILES if _is_file(folder / name)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a parent folder that can't be read
        return False


def _has_settings(path: Path) -> bool:
    """Whether a file makes its folder a project: a `.env` does if it names a setting of ours."""
    if path.name != DOTENV_FILE.name or not _is_file(path):
        return _is_file(path)
    try:
        return path.stat().st_size <= _LARGEST_DOTENV and bool(_OWN_NAME.search(path.read_bytes()))
    except OSError:
        return False


def why_untrusted(path: Path) -> str | None:
    """Why another user may have written `path` (a file or a folder); None if only this user or
    root can have."""
    for found in {path, path.resolve()}:  # a link, and its target
        facts = found.lstat()
        if facts.st_uid not in (os.geteuid(), 0):
            return f"it belongs to {_user_name(facts.st_uid)}, not to you or root"
        if stat.S_ISLNK(facts.st_mode):  # its own mode says nothing
            continue
        is_sticky = stat.S_ISDIR(facts.st_mode) and facts.st_mode & stat.S_ISVTX
        if facts.st_mode & stat.S_IWOTH and not is_sticky:
            return "every user of this machine can write to it"
        if facts.st_mode & stat.S_IWGRP and not _is_private_group(facts.st_gid):
            return "other users of its group can write to it"
    return None


def _is_private_group(gid: int) -> bool:
    """Whether the group has no member but this user (many systems give each user one), or root."""
    if gid == 0:
        return True
    try:
        own = pwd.getpwuid(os.geteuid())
        members = set(grp.getgrgid(gid).gr_mem) - {own.pw_name, "root"}
    except KeyError:
        return False
    others = [each for each in pwd.getpwall() if each.pw_gid == gid and each.pw_uid != own.pw_uid]
    return not members and not others and gid == own.pw_gid


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


# --- the state directory --------------------------------------------------------------------------
#
# One per user, private, with the ledger of every API key. Version 0.1 kept one in each working
# folder (`.hiringcenter`); its contents (receipts, outbox, run history, working files) are moved
# here once.

OLD_STATE_NAME = ".hiringcenter"
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


def effective_state_dir(configured: Path) -> Path:
    """Where state is kept for the setting `configured`.

    A folder that existed before (a mounted volume with its `lost+found`, a home) isn't ours to make
    private: a subfolder of it holds everything.
    """
    path = configured.expanduser().absolute()
    return path / SUBFOLDER if path.exists() and not _is_ours(path) else path


def _is_ours(path: Path) -> bool:
    return (path / _MARKER).exists() or (path / LEDGER).exists()


def open_state_dir(configured: Path, *, old: Path | None = None) -> Path:
    """The state directory, created for this user alone (0700) if it is missing.

    old: a `.hiringcenter` of version 0.1, moved here if nothing is here yet.

    Raises:
        ConfigurationError: it can't be created or written, or dlt can't load from its path.
        StateConflict: both hold what was sent.
        AlreadyRunning: a run of version 0.1 is using `old`.
    """
    path = effective_state_dir(configured)
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
