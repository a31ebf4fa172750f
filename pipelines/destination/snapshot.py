"""The snapshot: DuckDB's published copy, one complete run, read-only, swapped in by a rename.

DuckDB lets one process write a file only while no other reads it, and analysts keep files open all
day. So they read a copy that never changes: a session keeps the copy that it opened, and a new one
gets the newest.

A copy that another process opened for writing anyway is kept under another name, with its log.
DuckDB finds a write-ahead log by the file's name, so every reader would replay into the new copy
what that process writes next: while it lives, the log's name is a link to /dev/null. DuckDB 1.0 to
2.0 reads that as an empty log, and the writer's commit fails.

Two installations that publish to one path would undo each other's work, so a copy is signed.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import duckdb

from connector.clock import wall_ms
from connector.errors import ConfigurationError, CopyOfAnother, DestinationError
from connector.logs import get_logger
from connector.source.dictionary import comments, table_text
from pipelines.destination.load_errors import describe
from pipelines.destination.marts import Marts
from pipelines.destination.working_file import (
    RUNS_TABLE,
    TableName,
    WorkRecord,
    columns_query,
    comment_on,
    quoted_text,
    sync_path,
    tables_to_publish,
)

_log = get_logger("publish")
_STORAGE_VERSION = "v1.0.0"  # the oldest DuckDB that can read the copy
_MODE = 0o444
_ALIAS = "_hc_published"
_ABOUT_RUNS = (RUNS_TABLE, "_hc_freshness")
_TAKEN_OVER_AFTER_S = 86_400.0
# a comment of the copy's table of runs, where no query meets it
_SIGNATURE = "Published by installation {} at {} ms."
_SIGNED = re.compile(r"(?:.+ )?Published by installation ([0-9a-f]{16}) at (\d{1,15}) ms\.")


class Snapshot:
    """The file that analysts open, as one installation publishes it. The pull lock is held.

    path: at the end of all links. dataset: this run's; the copy holds every one of the working
    file. installation: 16 hex digits. record: remembers the copy that was published last. marts:
    made in each copy.
    """

    def __init__(
        self, path: Path, *, dataset: str, installation: str, record: WorkRecord, marts: Marts
    ) -> None:
        self.path, self._marts = path, marts
        self._dataset, self._installation, self._record = dataset, installation, record
        self._log_path = _log_of(path)
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def refuse_foreign_file(self, *, take_over: bool) -> None:
        """Refuse to publish over a database that isn't one of our copies.

        A copy by another installation, or by this one before its state was lost, is recognized by
        its tables. take_over: publish over another installation's copy.

        Raises:
            ConfigurationError: the file has tables of a user's own.
            CopyOfAnother: another installation published it within a day.
            DestinationError: another program has it open for writing, so it can't be examined.
        """
        path = self.path
        if not path.is_file() or path.stat().st_size == 0:
            return
        if path.stat().st_ino in [inode for inode, *_ in self._record.copies]:
            return  # ours; what was written into it since is kept
        try:
            with duckdb.connect(str(path), read_only=True) as connection:
                foreign = _foreign_tables(connection)
                publishers = _publishers(connection)
        except duckdb.Error as error:
            if not isinstance(error, duckdb.IOException) or "lock" not in str(error):
                return  # no database, or damaged: kept under another name by `publish`
            raise DestinationError(
                f"{path}: another program has this database open for writing, and it isn't the "
                "copy that this installation has published. Close that program, or set "
                "HIRINGCENTER_DUCKDB_PATH to another path, and run the command again."
            ) from error
        if foreign:
            shown = ", ".join(foreign[:3])
            shown += f" and {len(foreign) - 3} more" if foreign[3:] else ""
            raise ConfigurationError(
                f"{path}: this is a database of your own (it has {shown}), and a published copy "
                "would replace it. Set HIRINGCENTER_DUCKDB_PATH to another path, and ATTACH the "
                "copy from your database."
            )
        published_ms, publisher = max(publishers, default=(0, self._installation))
        if publisher != self._installation:
            self._take_over(published_ms, by_hand=take_over)

    def _take_over(self, published_ms: int, *, by_hand: bool) -> None:
        age_s = max(0.0, time.time() - published_ms / 1000)
        if not by_hand and age_s < _TAKEN_OVER_AFTER_S:
            raise CopyOfAnother(path=str(self.path), age_s=age_s)
        _log.warning("publish.taken_over", file=str(self.path), age_s=round(age_s), by_hand=by_hand)

    def try_publishing(self) -> None:
        """Check that a copy can be written; leaves nothing behind.

        Raises:
            DestinationError: no copy can be written there.
        """
        with self._written():
            self._temporary.touch()

    def publish(self, connection: duckdb.DuckDBPyConnection) -> bool:
        """Make a new copy if rows have landed or another process changed the old one; True if so.
        Otherwise update only its tables about runs and the marts that read them, at a tenth of the
        cost.

        Raises:
            DestinationError: the copy can't be written; the old one stays as it is.
        """
        with self._written():
            is_new = self._record.is_behind or not self._is_intact()
            self._make(connection, is_new=is_new)
            self._temporary.chmod(_MODE)
            sync_path(self._temporary)
            self.keep_foreign_writes()
            self._guard_against_writers()
            old = [_stamp(self.path)] if self.path.exists() else []
            known = [stamp for stamp in old if stamp in self._record.copies]
            self._record.save(copies=[*known, _stamp(self._temporary)])  # first, in case of a kill
            self._temporary.replace(self.path)
            sync_path(self.path.parent)
            self._record.save(is_behind=False)
        self._marts.report()
        if is_new:
            _log.info("publish.done", file=str(self.path), bytes=self.path.stat().st_size)
        return is_new

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Remove unfinished copies, those of killed runs too, before and after the block."""
        half_made = f".{glob.escape(self.path.name)}.*.tmp*"
        try:
            _make_folder(self.path.parent)
            for stale in self.path.parent.glob(half_made):
                stale.unlink(missing_ok=True)
            yield
        except (OSError, duckdb.Error) as error:
            raise DestinationError(
                f"{self.path}: the copy for analysts can't be written: {describe(error)}. Rows "
                "that were loaded are safe in the working file. Make the folder writable and not "
                "full, then run the command again."
            ) from error
        finally:
            with suppress(OSError):
                for stale in self.path.parent.glob(half_made):
                    stale.unlink(missing_ok=True)

    def _make(self, connection: duckdb.DuckDBPyConnection, *, is_new: bool) -> None:
        """DuckDB can't write a file on a mount without locks: there it is made in the state
        directory, and copied."""
        target = self._temporary
        has_locks = _has_locks(target)
        made = target if has_locks else self._record.file.with_name(f"{target.name}.made")
        try:
            made.unlink(missing_ok=True)
            if not is_new:
                shutil.copyfile(self.path, made)
            changed = self._fill(connection, made, is_new=is_new)
            self._marts.make_own_tables(connection, made, changed, is_new=is_new)
            if made != target:
                shutil.copyfile(made, target)
        finally:
            if made != target:
                made.unlink(missing_ok=True)

    def _fill(
        self, connection: duckdb.DuckDBPyConnection, made: Path, *, is_new: bool
    ) -> dict[str, set[str]]:
        """Write tables, and marts of ours; returns which, by dataset."""
        own_runs, own_freshness = (TableName(self._dataset, table) for table in _ABOUT_RUNS)
        names = tables_to_publish(connection)
        if not is_new:
            names = [name for name in names if name in (own_runs, own_freshness)]
        written: dict[str, set[str]] = {}
        for name in names:
            written.setdefault(name.dataset, set()).add(name.table)
        with closing(connection.cursor()) as cursor:
            # a copy that isn't finished is thrown away: it needs no log
            options = f"STORAGE_VERSION '{_STORAGE_VERSION}', RECOVERY_MODE NO_WAL_WRITES"
            cursor.execute(f"ATTACH {quoted_text(made)} AS {_ALIAS} ({options})")
            try:
                for name in names:
                    cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {_ALIAS}.{name.schema}")
                    cursor.execute(f"CREATE OR REPLACE TABLE {_ALIAS}.{name} AS FROM {name}")
                _comment(cursor, names)
                for dataset, changed in written.items():
                    self._marts.make_tables(connection, _ALIAS, dataset, changed, is_new=is_new)
                signature = _SIGNATURE.format(self._installation, wall_ms())
                signed = f"{table_text(RUNS_TABLE)}. {signature}"
                cursor.execute(comment_on(f"{_ALIAS}.{own_runs}", None, signed))
                cursor.execute(f"CHECKPOINT {_ALIAS}")  # DETACH alone would hide that it fails
            finally:
                cursor.execute(f"DETACH {_ALIAS}")
        return written

    def _is_intact(self) -> bool:
        """Whether a reader who opens the path now sees exactly what was published last."""
        path = self.path
        if not path.exists() or _is_log(self._log_path) or _stamp(path) not in self._record.copies:
            return False
        return not _is_held_for_writing(path)

    def keep_foreign_writes(self) -> None:
        """Keep a copy that another process has changed or still may, with its log."""
        path = self.path
        if not path.exists() or self._is_intact():
            return
        kept = path.with_name(f"{path.stem}.kept-{time.strftime('%Y%m%dT%H%M%S')}{path.suffix}")
        if path.is_dir():
            path.rename(kept)
        elif not kept.exists():
            try:
                os.link(path, kept)
            except OSError:  # another user's file, or a file system without hard links
                path.rename(kept)
        if _is_log(self._log_path):
            self._log_path.rename(_log_of(kept))
        _log.warning("publish.kept_foreign_writes", file=str(path), kept=str(kept))

    def _guard_against_writers(self) -> None:
        """Link the log to /dev/null, for as long as another process may write it."""
        copies = self.path.parent.glob(
            f"{glob.escape(self.path.stem)}.kept-*{glob.escape(self.path.suffix)}"
        )
        is_held = any(_is_held_for_writing(copy) for copy in [self.path, *copies] if copy.is_file())
        if is_held and not self._log_path.is_symlink():
            self._log_path.symlink_to(os.devnull)
        elif not is_held and self._log_path.is_symlink():
            self._log_path.unlink()


def _comment(cursor: duckdb.DuckDBPyConnection, names: Iterable[TableName]) -> None:
    """Comment tables of the new copy and their columns, in one transaction."""
    columns: dict[TableName, list[str]] = {}
    for dataset, table, column, _ in cursor.execute(columns_query(names, _ALIAS)).fetchall():
        columns.setdefault(TableName(dataset, table), []).append(column)
    statements = []
    for name, listed in columns.items():
        for column, text in comments(name.table, listed):
            statements.append(comment_on(f"{_ALIAS}.{name}", column, text))
    cursor.execute("; ".join(["BEGIN", *statements, "COMMIT"]))


def _foreign_tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Tables and views of an opened file that belong to no dataset of ours, nor to its marts."""
    rows = connection.execute(
        "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = "
        "current_database() UNION ALL SELECT schema_name, view_name FROM duckdb_views() "
        "WHERE database_name = current_database() AND NOT internal ORDER BY ALL"
    ).fetchall()
    ours = {schema for schema, name in rows if name == RUNS_TABLE}
    ours |= {f"{schema}_marts" for schema in ours}
    return [f"{schema}.{name}" for schema, name in rows if schema not in ours]


def _publishers(connection: duckdb.DuckDBPyConnection) -> list[tuple[int, str]]:
    """(when, UTC epoch ms; which installation) of each signed dataset in the opened copy."""
    rows = connection.execute(
        "SELECT comment FROM duckdb_tables() WHERE table_name = ? AND comment IS NOT NULL",
        [RUNS_TABLE],
    ).fetchall()
    signed = [found for (comment,) in rows if (found := _SIGNED.fullmatch(comment))]
    return [(int(found[2]), found[1]) for found in signed]


def _make_folder(folder: Path) -> None:
    """Create a folder that analysts can read, whatever the umask of the run is."""
    if not folder.exists():
        _make_folder(folder.parent)
        folder.mkdir()
        folder.chmod(0o755)


def _is_held_for_writing(path: Path) -> bool:
    """Whether a process of this machine holds DuckDB's write lock on `path`.

    False where the file system has no locks: there is none to hold.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # our readers can't open it either
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)
    finally:
        os.close(descriptor)
    return False


def _has_locks(file: Path) -> bool:
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


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.wal")


def _is_log(log: Path) -> bool:
    """Whether it is a real log, not our link."""
    return log.is_file() and not log.is_symlink()


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns]
