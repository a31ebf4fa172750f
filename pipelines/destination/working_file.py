"""DuckDB's working file: opened by one run, its memory bounded, and rebuilt if it is damaged.

There is one way to rebuild it: the damaged file is put aside under another name, and its rows come
from what is left: the tables that can still be read, the published snapshot, the API.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import duckdb
import pyarrow as pa

from connector.errors import DestinationError, DestinationRefused, WorkingFileFailed
from connector.logs import get_logger
from pipelines.destination.load_errors import chain, describe, root_cause

_log = get_logger("destination")
T = TypeVar("T")
RUNS_TABLE = "_hc_runs"  # every dataset of ours has this table
_STAGING = "_staging"  # dlt's datasets with this suffix have tables of the same names
_WORK = "_hc_work_"
_INITIAL_MB = 120
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": f"{_INITIAL_MB}MB",
    "threads": min(4, os.cpu_count() or 1),
    "preserve_insertion_order": False,
    "autoinstall_known_extensions": False,
}
_LOG_MAX_BYTES = 64 * 1024 * 1024  # of three chunks with their histories
_KEPT_DAMAGED = 4  # files: two working files, each with its log
_NO_DAMAGE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE,
    errno.ENFILE, errno.ENOMEM, errno.ENOLCK,
)  # fmt: skip
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h; `man 3 mallopt`


class TableName(NamedTuple):
    """A table of a dataset; as text, quoted and qualified by its schema."""

    dataset: str
    table: str

    @property
    def schema(self) -> str:
        return quoted_name(self.dataset)

    def __str__(self) -> str:
        return f"{self.schema}.{quoted_name(self.table)}"


def quoted_name(identifier: str) -> str:
    """A name as SQL takes it, whatever it holds."""
    return '"' + identifier.replace('"', '""') + '"'


def quoted_text(value: object) -> str:
    """A text, or a path, as SQL takes it, whatever it holds."""
    return "'" + str(value).replace("'", "''") + "'"


def comment_on(table: str, column: str | None, text: str) -> str:
    """SQL that comments on a table, or on one of its columns. table: as SQL takes it."""
    what = f"TABLE {table}" if column is None else f"COLUMN {table}.{quoted_name(column)}"
    return f"COMMENT ON {what} IS {quoted_text(text)}"


@contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """A cursor, whose statements all take effect at the end of the block, or none of them."""
    with closing(connection.cursor()) as cursor:  # which rolls back unless committed
        cursor.execute("BEGIN")
        yield cursor
        cursor.execute("COMMIT")


def all_tables(connection: duckdb.DuckDBPyConnection) -> list[TableName]:
    """All tables of the opened file, in the order they were created."""
    rows = connection.execute(
        "SELECT schema_name, table_name FROM duckdb_tables() "
        "WHERE database_name = current_database() AND NOT temporary ORDER BY table_oid"
    ).fetchall()
    return [TableName(*row) for row in rows]


def columns_query(names: Iterable[TableName], database: str | None = None) -> str:
    """SQL for all columns of some tables, in order: schema, table, column, type. To answer from
    `duckdb_columns()`, DuckDB first looks into all of its own views: 20 ms."""
    prefix = "" if database is None else f"{database}."
    parts = [
        f"SELECT {quoted_text(name.dataset)}, {quoted_text(name.table)}, name, type, cid "  # noqa: S608
        f"FROM pragma_table_info({quoted_text(f'{prefix}{name}')})"
        for name in names
    ]
    return f"SELECT * EXCLUDE (cid) FROM ({' UNION ALL '.join(parts)}) ORDER BY 1, 2, cid"  # noqa: S608


def tables_to_publish(connection: duckdb.DuckDBPyConnection) -> list[TableName]:
    """Every dataset's tables in the opened file, without dlt's own and staging."""
    found = all_tables(connection)
    ours = {name.dataset for name in found if name.table == RUNS_TABLE}
    ours -= {f"{dataset}{_STAGING}" for dataset in ours}
    return [name for name in found if name.dataset in ours and not name.table.startswith("_dlt_")]


def work_schema(connection: duckdb.DuckDBPyConnection, dataset: str) -> str:
    """The quoted schema for internal data about `dataset`; created if it is missing."""
    schema = quoted_name(f"{_WORK}{dataset}")
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    return schema


def work_tables(connection: duckdb.DuckDBPyConnection) -> list[TableName]:
    """The tables in these schemas, of all datasets."""
    return [name for name in all_tables(connection) if name.dataset.startswith(_WORK)]


# --- what is known without opening the file -----------------------------------------------------


@dataclass
class WorkRecord:
    """What a run notes about the working file and the snapshot, in one small file.

    copies: inode, size and modification time (ns) of the snapshot published last, and of the one
    before if a kill came between them. is_behind: rows have landed that the snapshot lacks.
    is_suspect: a run met an error in the working file. merges_with: the version of dlt with which
    an untested destination has been seen to merge rows. failed_marts: names and digests of marts
    that couldn't be made. keys_after_s: when primary keys that a server couldn't have are tried
    again, UTC epoch seconds.
    """

    file: Path
    copies: list[list[int]] = field(default_factory=list)
    is_behind: bool = False
    is_suspect: bool = False
    merges_with: str = ""
    failed_marts: list[str] = field(default_factory=list)
    keys_after_s: float = 0.0

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The record of a work folder, which is created if it is missing.

        Raises:
            DestinationError: the folder can't be made or written.
        """
        file = folder / "published.json"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in (file, _new(file)):
                if path.is_dir() and not path.is_symlink():  # Docker makes one to mount it
                    put_aside(path)
        except OSError as error:
            raise DestinationError(
                f"{folder}: the working file can't be made: {error.strerror}. Make the state "
                "directory writable, or set HIRINGCENTER_STATE_DIR to another folder."
            ) from error
        if not file.exists():
            return cls(file)
        try:
            return cls(file, **json.loads(file.read_text()))
        except (OSError, ValueError, TypeError):  # of version 0.1, or damaged: publish again
            return cls(file, is_behind=True)

    def save(self, **changes: Any) -> None:
        """Change the record, in memory and then on disk.

        Raises:
            DestinationError: it can't be written.
        """
        for name, value in changes.items():
            setattr(self, name, value)
        names = (
            "copies", "is_behind", "is_suspect", "merges_with", "failed_marts", "keys_after_s",
        )  # fmt: skip
        known = {name: getattr(self, name) for name in names}
        try:
            _new(self.file).write_text(json.dumps(known))
            _new(self.file).replace(self.file)
        except OSError as error:
            raise DestinationError(
                f"{self.file}: this file can't be written: {error.strerror}. Rows loaded before "
                "are kept. Make the state directory writable and not full, then run the command "
                "again."
            ) from error


def _new(file: Path) -> Path:
    return file.with_name(f"{file.name}.new")


def put_aside(path: Path) -> Path:
    """Rename what can't be used, and return its new path; the newest ones are kept."""
    for older in sorted(path.parent.glob(f"{path.name}.damaged-*"))[:-_KEPT_DAMAGED]:
        if older.is_dir():
            shutil.rmtree(older, ignore_errors=True)
        else:
            older.unlink()
    moment = f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09}"
    aside = path.with_name(f"{path.name}.damaged-{moment}")
    _log.warning("destination.put_aside", path=str(path), aside=str(aside))
    return path.rename(aside)


# --- opening and healing ------------------------------------------------------------------------


def open_working_file(
    path: Path, record: WorkRecord, *, snapshot: Path | None
) -> duckdb.DuckDBPyConnection:
    """A connection for writing. snapshot: the copy to start from where there is no file yet.

    A file that can't be read is put aside, never deleted.

    Raises:
        DestinationError: another process has the file open, or it can't be made.
    """
    try:
        connection = _connect(path)
        if record.is_suspect:
            _read_everything(connection)
    except duckdb.Error as error:
        if refusal := _refusal(path, error):
            raise refusal from error
        connection = _rebuilt(path, error, snapshot)
    else:
        if not all_tables(connection):  # new, or emptied by another program
            _fill_from(snapshot, connection)
    if record.is_suspect:
        record.save(is_suspect=False)
    return connection


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(str(path), config=_CONFIG)
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def _read_everything(connection: duckdb.DuckDBPyConnection) -> None:
    """Read the whole file, and write what is in its log.

    Raises:
        duckdb.Error: it is damaged; the connection is closed.
    """
    try:
        connection.execute("FORCE CHECKPOINT")
        for name in all_tables(connection):
            connection.execute(f"SELECT max(hash(t)) FROM {name} t").fetchall()  # noqa: S608
    except duckdb.Error:
        connection.close()
        raise


def _refusal(path: Path, error: duckdb.Error) -> DestinationError | None:
    """The error for a file that can't be opened but isn't damaged; None if it is damaged."""
    message = str(error)
    if "locks are not supported" in message or os.strerror(errno.ENOLCK) in message:
        what = (
            "this file system has no file locks, which the working file needs. Set "
            "HIRINGCENTER_STATE_DIR to a folder on a local disk; the published copy may stay "
            "where it is."
        )
    elif "Could not set lock" in message:
        what = (
            "another process has the working file open. It belongs to the connector alone: close "
            "that program and run the command again. Analysts open the published copy."
        )
    elif "No space left" in message:
        what = (
            "the disk is full. Rows loaded before are kept. Free some space, or set "
            "HIRINGCENTER_STATE_DIR to another folder, and run the command again."
        )
    elif _is_no_damage(message):
        what = (
            f"the working file can't be opened ({describe(error)}). Rows loaded before are kept. "
            "Correct that, or set HIRINGCENTER_STATE_DIR to another folder, and run the command "
            "again."
        )
    else:
        return None
    return DestinationError(f"{path}: {what}")


def _is_no_damage(message: str) -> bool:
    """Whether the system refused something because of this process or its limits."""
    return any(os.strerror(number) in message for number in _NO_DAMAGE)


def damage_suspected(
    path: Path, record: WorkRecord, error: BaseException
) -> DestinationError | None:
    """The error of a run that met `error` in the working file, or None if it isn't about the file.

    The error may have ended DuckDB's instance of this file, which lives as long as the process: so
    the next run checks the file.
    """
    causes = [each for each in chain(error) if isinstance(each, duckdb.Error)]
    is_ours = isinstance(error, duckdb.Error | DestinationError)
    if not (is_ours and causes) or isinstance(error, DestinationRefused | WorkingFileFailed):
        return None
    if isinstance(causes[-1], duckdb.OutOfMemoryException) or _is_no_damage(str(causes[-1])):
        return None
    with suppress(DestinationError):
        record.save(is_suspect=True)
    return WorkingFileFailed(path=str(path), reason=describe(error))


def _rebuilt(path: Path, error: Exception, snapshot: Path | None) -> duckdb.DuckDBPyConnection:
    """A new file instead of a damaged one, with all of its rows that can be recovered."""
    _log.warning("destination.damaged", file=str(path), reason=describe(error))
    try:
        aside, log = put_aside(path), path.with_name(f"{path.name}.wal")
        if log.exists():
            log.rename(aside.with_name(f"{aside.name}.wal"))
        connection = _connect(path)
    except (OSError, duckdb.Error) as second:
        raise DestinationError(
            f"{path}: the working file is damaged ({describe(error)}), and it can't be replaced "
            f"({describe(second)}). Check the disk, or set HIRINGCENTER_STATE_DIR to another "
            "folder."
        ) from second
    try:
        _fill_from(snapshot, connection)
    except DestinationError:
        if not _salvage(connection, aside):
            raise
    else:
        _salvage(connection, aside)
    return connection


def _fill_from(snapshot: Path | None, connection: duckdb.DuckDBPyConnection) -> None:
    """Copy the rows of the published copy, if there is one."""
    if snapshot is None or not snapshot.exists():
        return
    try:
        with _readable(snapshot) as source:
            names = tables_to_publish(source)
            MemoryLimit(connection).fit(lambda: _copy_tables(connection, source, names))
    except (duckdb.Error, pa.ArrowException) as error:
        raise DestinationError(
            f"{snapshot}: this file has the path of the published copy but can't be read as one "
            f"({describe(error)}). Move it away, or set HIRINGCENTER_DUCKDB_PATH."
        ) from error
    if names:
        _log.warning("destination.rebuilt", source=str(snapshot), tables=len(names))


def _salvage(connection: duckdb.DuckDBPyConnection, damaged: Path) -> bool:
    """Replace tables with those of a `damaged` file that can still be read; True if all could be.

    dlt's own come last, and only if all others could be read: its state vouches for every row.
    """
    lost: list[str] = []
    try:
        with _readable(damaged) as source:
            names = all_tables(source)
            staging = {f"{name.dataset}{_STAGING}" for name in names}
            names = [name for name in names if name.dataset not in staging]
            of_dlt = [name for name in names if name.table.startswith("_dlt_")]
            rows = [name for name in names if name not in of_dlt]
            for group in [*([name] for name in rows), of_dlt]:
                try:
                    if group is not of_dlt or not lost:
                        _copy_tables(connection, source, group)
                except (duckdb.Error, pa.ArrowException):
                    lost += map(str, group)
    except duckdb.Error:  # nothing can be read, not even which tables there are
        return False
    _log.warning("destination.salvaged", tables=len(names) - len(lost), lost=lost)
    return not lost


def _readable(path: Path) -> duckdb.DuckDBPyConnection:
    """A file, opened in a DuckDB instance of its own, which an error in it would end."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    # under a name of ours: DuckDB's own, "x" for x.duckdb, may be a schema's too
    connection.execute(f"ATTACH {quoted_text(path)} AS _hc_source (READ_ONLY)")
    connection.execute("USE _hc_source")
    return connection


def _copy_tables(
    target: duckdb.DuckDBPyConnection,
    source: duckdb.DuckDBPyConnection,
    names: Sequence[TableName],
) -> None:
    """Copy all the tables or none: half of them, after a kill, would pass for all."""
    with transaction(target) as cursor:
        for name in names:
            ((definition,),) = source.execute(
                "SELECT sql FROM duckdb_tables() WHERE database_name = current_database() "
                "AND schema_name = ? AND table_name = ?",
                list(name),
            ).fetchall()
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {name.schema}")
            cursor.execute(f"DROP TABLE IF EXISTS {name}")
            cursor.execute(definition)
            cursor.register("copied", source.sql(f"FROM {name}").to_arrow_reader())
            cursor.execute(f"INSERT INTO {name} FROM copied")
            cursor.unregister("copied")


def rewrite_file(path: Path) -> None:
    """Copy a DuckDB file as a whole, and put the copy in its place. A deleted row stays in the file
    until its blocks are used again, also after a checkpoint; the copy doesn't have it.

    Raises:
        DestinationError: another process has it open, or the copy can't be written; the file stays
            as it is.
    """
    new, log = path.with_name(f".{path.name}.rewritten"), path.with_name(f"{path.name}.wal")
    unfinished = (new, new.with_name(f"{new.name}.wal"))
    try:
        for left in unfinished:  # of a run that was killed
            left.unlink(missing_ok=True)
        with closing(_connect(path)) as connection:
            connection.execute("FORCE CHECKPOINT")
            ((name,),) = connection.execute("SELECT current_database()").fetchall()
            connection.execute(f"ATTACH {quoted_text(new)} AS _hc_rewritten")
            copy = f"COPY FROM DATABASE {quoted_name(name)} TO _hc_rewritten"
            MemoryLimit(connection).fit(lambda: connection.execute(copy))
            connection.execute("DETACH _hc_rewritten")
        new.chmod(path.stat().st_mode & 0o777)
        sync_path(new)
        log.unlink(missing_ok=True)  # all of it is in the file: the copy mustn't get it again
        new.replace(path)
        sync_path(path.parent)
    except (OSError, duckdb.Error) as error:
        if isinstance(error, duckdb.Error) and (refusal := _refusal(path, error)):
            raise refusal from error
        raise DestinationError(
            f"{path}: this file can't be rewritten: {describe(error)}. It still has what was "
            "deleted. Make its folder writable and not full, then run the command again."
        ) from error
    finally:
        with suppress(OSError):
            for left in unfinished:
                left.unlink(missing_ok=True)


def sync_path(path: Path) -> None:
    """Have a file, or the names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- memory and the log -------------------------------------------------------------------------


def checkpoint_if_due(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Move logged rows into the file. dlt lets the log grow to 1 GB; until then they are held in
    memory, and after a kill the next run has to replay them all."""
    log = path.with_name(f"{path.name}.wal")
    if log.exists() and log.stat().st_size > _LOG_MAX_BYTES:
        connection.execute("CHECKPOINT")


class MemoryLimit:
    """DuckDB's memory limit on one connection: low, so that a pull's memory stays flat, and raised
    only when something doesn't fit. What a load needs grows with the columns and the length of
    texts, which aren't known beforehand. Once raised it stays: the next load will be like the last.

    max_mb: None for DuckDB's own default, most of the memory of the machine or the container.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, *, max_mb: float | None = None
    ) -> None:
        self._connection, self._limit_mb, self._max_mb = connection, _limit_mb(connection), max_mb

    def fit(self, work: Callable[[], T]) -> T:
        """The result of `work`, retried with twice the memory if there was too little.

        Raises:
            duckdb.Error, DestinationError: what `work` raises; OutOfMemory if the machine has no
                more.
        """
        while True:
            try:
                return work()
            except (duckdb.Error, DestinationError) as error:
                is_too_little = isinstance(root_cause(error), duckdb.OutOfMemoryException)
                if not (is_too_little and self._widen()):
                    raise

    def _widen(self) -> bool:
        if self._max_mb is None:  # DuckDB's own limit, which sees a container's
            self._connection.execute("RESET memory_limit")
            self._max_mb = _limit_mb(self._connection)
        if self._limit_mb >= self._max_mb:
            return False
        self._limit_mb = min(self._limit_mb * 2, self._max_mb)
        self._connection.execute(f"SET memory_limit = '{self._limit_mb:.0f}MB'")
        _log.info("destination.memory_widened", limit_mb=round(self._limit_mb))
        return True


def _limit_mb(connection: duckdb.DuckDBPyConnection) -> float:
    sql = "SELECT parse_formatted_bytes(current_setting('memory_limit'))"
    ((limit_bytes,),) = connection.execute(sql).fetchall()
    return float(limit_bytes) / 1e6


def return_freed_memory() -> None:
    """Make glibc return freed memory, so that a long pull's peak is what it holds at one time.

    glibc has an arena for every thread, and each keeps what was freed in it: more than a hundred
    megabytes in a pull of a million rows. But up to 16 MB are kept: each page of memory that
    the system takes and gives again costs as much as parsing it. Other C libraries are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # Windows, macOS, musl: no such function
        return
    mallopt(_M_ARENA_MAX, 2)
    mallopt(_M_TRIM_THRESHOLD, 16 * 1024 * 1024)
    mallopt(_M_MMAP_THRESHOLD, 4 * 1024 * 1024)
    pa.set_memory_pool(pa.system_memory_pool())
