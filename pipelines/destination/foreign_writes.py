"""Somebody opened the published copy for writing anyway: theirs is kept, ours stays whole.

DuckDB looks for a write-ahead log by the file's name. A log that somebody wrote beside the old
copy would be replayed into the new one, by every reader: so logs are moved aside with the file
they belong to, and while somebody still holds the old copy for writing, a log of that name leads
to /dev/null. Readers of DuckDB 1.0 to 2.0 take that for an empty log; the writer's next commit
fails instead of changing what others read.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from pathlib import Path

import duckdb

from connector.errors import ConfigurationError, DestinationError
from connector.logs import get_logger
from pipelines.destination.datasets import foreign_tables
from pipelines.destination.installation import publisher_of, refuse_another

_log = get_logger("publish")
_NOWHERE = "/dev/null"


class Published:
    """What the last published copy looked like, kept in a file of the state directory."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def folder(self) -> Path:
        """Where it is kept: in the state directory."""
        return self._file.parent

    def expect(self, new: Path, path: Path) -> None:
        """`new` is about to be renamed to `path`: either is ours, whenever a kill comes."""
        known = [_signature(path)] if path.exists() and self.is_untouched(path) else []
        written = self._file.with_name(f"{self._file.name}.new")
        written.write_text(json.dumps([*known, _signature(new)]))
        written.replace(self._file)

    def is_untouched(self, path: Path) -> bool:
        """Whether `path` is the copy that was published last, unchanged."""
        return path.exists() and _signature(path) in self._signatures()

    def is_ours(self, path: Path) -> bool:
        """Whether `path` is that copy, whatever somebody has written into it since."""
        return path.exists() and path.stat().st_ino in [known[0] for known in self._signatures()]

    def _signatures(self) -> list[list[int]]:
        """Of the copy, and of the one before where a kill came between them; none if damaged."""
        try:
            found = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return []
        if not isinstance(found, list):
            return []
        if found and isinstance(found[0], int):  # as version 0.1 wrote it
            found = [found]
        return [known for known in found if isinstance(known, list) and len(known) == 3]


def refuse_other_database(
    path: Path, record: Published, own_id: str, *, take_over: bool = False
) -> None:
    """Nothing is published over a database that isn't a copy of ours.

    A copy that another installation has published, or this one before its state was lost, is told
    by its tables. Where somebody has added to the copy of this one, theirs is kept beside it.
    own_id: this installation's. take_over: publish over another installation's copy.

    Raises:
        ConfigurationError: `path` has tables of somebody's own.
        CopyOfAnother: another installation published it within a day.
        DestinationError: another program has it open for writing, so that nobody can tell.
    """
    if not path.is_file() or path.stat().st_size == 0 or record.is_ours(path):
        return
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            others = foreign_tables(connection)
            publisher = publisher_of(connection)
    except duckdb.IOException as error:
        if "lock" not in str(error):
            return  # no database, or damaged: kept beside the copy when that is made
        raise DestinationError(
            f"{path}: another program has this database open for writing, and it isn't the copy "
            "that this installation has published. Close that program, or set "
            "HIRINGCENTER_DUCKDB_PATH to a path of its own, and run the command again."
        ) from error
    except duckdb.Error:
        return
    if others:
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if others[3:] else "")
        raise ConfigurationError(
            f"{path}: this is a database of your own (it has {shown}), and a published copy would "
            "replace it. Set HIRINGCENTER_DUCKDB_PATH to another path, and ATTACH the copy from "
            "your database."
        )
    refuse_another(path, publisher, own_id, take_over=take_over)


def is_as_published(path: Path, record: Published) -> bool:
    """Whether who opens `path` now sees what was published last, and nothing else."""
    if not path.exists() or _has_log(path):
        return False
    return record.is_untouched(path) and not is_held_for_writing(path)


def keep_what_others_wrote(path: Path, record: Published) -> None:
    """Move a log aside; keep the file as well where it isn't what we published, or is held."""
    if not path.exists() or is_as_published(path, record):
        return
    kept = path.with_name(f"{path.stem}.kept-{time.strftime('%Y%m%dT%H%M%S')}{path.suffix}")
    if path.is_dir():
        path.rename(kept)
    elif not kept.exists():
        try:
            os.link(path, kept)
        except OSError:  # another user's file, or a file system without hard links
            path.rename(kept)
    if _has_log(path):
        _log_of(path).rename(_log_of(kept))
    _log.warning("publish.kept_foreign_writes", file=str(path), kept=str(kept))


def guard_against_writer(path: Path) -> None:
    """Put the guard where somebody holds the copy for writing; take it away where nobody does."""
    log = _log_of(path)
    if path.exists() and is_held_for_writing(path):
        if not log.is_symlink():
            log.symlink_to(_NOWHERE)
    elif log.is_symlink() and not _kept_is_held(path):
        log.unlink()


def is_held_for_writing(path: Path) -> bool:
    """Whether a process of this machine holds DuckDB's write lock on `path`.

    False where the file system has no locks: nobody can hold one there.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)
    finally:
        os.close(descriptor)
    return False


def has_locks(file: Path) -> bool:
    """Whether a file like `file` can be locked; on some network and container mounts none can."""
    trial = file.with_name(f"{file.name}.locks")
    try:
        with trial.open("w") as opened:
            fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        trial.unlink(missing_ok=True)
    return True


def _kept_is_held(path: Path) -> bool:
    kept = path.parent.glob(f"{path.stem}.kept-*{path.suffix}")
    return any(is_held_for_writing(file) for file in kept)


def _has_log(path: Path) -> bool:
    log = _log_of(path)
    return log.is_file() and not log.is_symlink()


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + ".wal")


def _signature(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns]
