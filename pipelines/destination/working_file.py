"""DuckDB's working file: opened by one pull, made anew from the published copy where it is lost."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import duckdb
import pyarrow as pa

from connector.errors import DestinationError, DestinationRefused, WorkingFileFailed
from connector.logs import get_logger
from pipelines.destination.datasets import STAGING, TableName, datasets, tables
from pipelines.destination.load_errors import chain, describe
from pipelines.destination.places import Places
from pipelines.destination.room import FIRST_MB, Room

_log = get_logger("destination")
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": f"{FIRST_MB}MB",
    "threads": min(4, os.cpu_count() or 1),
    "preserve_insertion_order": False,
    "autoinstall_known_extensions": False,
}
_LOG_MAX_BYTES = 32 * 1024 * 1024
_KEPT_DAMAGED = 2
_NOTES = ("unpublished", "suspect")
_NO_DAMAGE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE,
    errno.ENFILE, errno.ENOMEM, errno.ENOLCK,
)  # fmt: skip


def open_working_file(
    places: Places, *, published: Path | None, dataset: str
) -> duckdb.DuckDBPyConnection:
    """A connection for writing. published: the copy to start from where there is no file yet.

    A file that can't be read is moved aside, never deleted.

    Raises:
        DestinationError: another process has the file open, or it can't be made.
    """
    path = places.working_file
    try:
        places.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _put_folders_aside(places)
        connection = _connect(path)
        _check(places, connection)
        _suspicion(places).unlink(missing_ok=True)
    except OSError as error:
        raise DestinationError(
            f"{places.work_dir}: the working file can't be made: {error.strerror}. Make the state "
            "directory writable, or set HIRINGCENTER_STATE_DIR to another place."
        ) from error
    except duckdb.Error as error:
        if refusal := _refusal(path, error):
            raise refusal from error
        connection = _rebuilt(places, error, published, dataset)
        _suspicion(places).unlink(missing_ok=True)
        return connection
    if _is_empty(connection):
        _start_over(places, connection, published, dataset)
    return connection


def _refusal(path: Path, error: duckdb.Error) -> DestinationError | None:
    """What keeps the file from being opened though it isn't damaged; None where it is."""
    said = str(error)
    if "locks are not supported" in said or os.strerror(errno.ENOLCK) in said:
        return DestinationError(
            f"{path}: this file system has no file locks, which the working file needs. Set "
            "HIRINGCENTER_STATE_DIR to a folder on a local disk; the published copy may stay "
            "where it is."
        )
    if "Could not set lock" in said:
        return DestinationError(
            f"{path}: another process has the working file open. It belongs to the "
            "connector alone: close that program and run the command again. Analysts open "
            "the published copy."
        )
    if "No space left" in said:
        return DestinationError(
            f"{path}: the disk is full. Rows loaded before are kept. Free some space, or set "
            "HIRINGCENTER_STATE_DIR to another place, and run the command again."
        )
    if is_no_damage(said):
        return DestinationError(
            f"{path}: the working file can't be opened ({describe(error)}). Rows loaded before "
            "are kept. Mend that, or set HIRINGCENTER_STATE_DIR to another place, and run the "
            "command again."
        )
    return None


def is_no_damage(said: str) -> bool:
    """Whether the system refused something that has to do with this process or its limits."""
    return any(os.strerror(number) in said for number in _NO_DAMAGE)


def suspected(places: Places, error: BaseException) -> DestinationError | None:
    """The error of a run that met `error` in the working file; the next run checks the file.

    None where the error says nothing about the file. What has failed once may have ended DuckDB's
    instance of this file, which lives as long as the process: so the check is the next run's.
    """
    causes = [each for each in chain(error) if isinstance(each, duckdb.Error)]
    is_ours = isinstance(error, duckdb.Error | DestinationError)
    if not (is_ours and causes) or isinstance(error, DestinationRefused | WorkingFileFailed):
        return None
    if isinstance(causes[-1], duckdb.OutOfMemoryException) or is_no_damage(str(causes[-1])):
        return None
    with suppress(OSError):
        _suspicion(places).touch()
    return WorkingFileFailed(path=str(places.working_file), reason=describe(error))


def _suspicion(places: Places) -> Path:
    """A file that is there when the working file is to be checked before it is used."""
    return places.work_dir / "suspect"


def _check(places: Places, connection: duckdb.DuckDBPyConnection) -> None:
    """Read and write all of the file where the last run met an error in it.

    Raises:
        duckdb.Error: it is damaged.
    """
    if not _suspicion(places).exists():
        return
    try:
        connection.execute("FORCE CHECKPOINT")
        for name in _all_tables(connection):
            connection.execute(f"SELECT max(hash(t)) FROM {name} t").fetchall()  # noqa: S608
    except duckdb.Error:
        connection.close()
        raise


def checkpoint_if_due(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Move logged rows into the file. dlt lets the log grow to 1 GB; until then they are held in
    memory, and a killed run's successor has them all to replay."""
    log = path.with_name(path.name + ".wal")
    if log.exists() and log.stat().st_size > _LOG_MAX_BYTES:
        connection.execute("CHECKPOINT")


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(str(path), config=_CONFIG)
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def _all_tables(connection: duckdb.DuckDBPyConnection) -> list[TableName]:
    rows = connection.execute(
        "SELECT schema_name, table_name FROM duckdb_tables() "
        "WHERE database_name = current_database() AND NOT temporary ORDER BY table_oid"
    ).fetchall()
    return [TableName(*row) for row in rows]


def _is_empty(connection: duckdb.DuckDBPyConnection) -> bool:
    """New, or emptied by somebody: nothing was ever loaded into it."""
    return not _all_tables(connection)


def _rebuilt(
    places: Places, error: Exception, published: Path | None, dataset: str
) -> duckdb.DuckDBPyConnection:
    """A new file in the place of a damaged one, which is put aside."""
    path = places.working_file
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
    _log.warning("destination.damaged", file=str(path), aside=str(aside), reason=describe(error))
    try:
        for older in sorted(path.parent.glob(f"{path.name}.damaged-*"))[: -2 * _KEPT_DAMAGED]:
            _remove(older)
        path.rename(aside)
        wal = path.with_name(path.name + ".wal")
        if wal.exists():
            wal.rename(aside.with_name(aside.name + ".wal"))
        connection = _connect(path)
    except (OSError, duckdb.Error) as second:
        raise DestinationError(
            f"{path}: the working file is damaged ({describe(error)}), and it can't be replaced "
            f"({describe(second)}). Check the disk, or set HIRINGCENTER_STATE_DIR to another "
            "place."
        ) from second
    try:
        _start_over(places, connection, published, dataset)
    except DestinationError:
        if not _salvage(connection, aside):
            raise
    else:
        _salvage(connection, aside)
    return connection


def _put_folders_aside(places: Places) -> None:
    """Folders in the place of our small files, such as a container's mount of a missing file
    makes; each can be lost."""
    for folder in [*places.work_dir.iterdir(), *places.all_pipelines_dir.glob("*.marks.json*")]:
        is_ours = folder.name in _NOTES or folder.suffix in (".json", ".new")
        if is_ours and folder.is_dir() and not folder.is_symlink():
            aside = folder.with_name(f"{folder.name}.damaged-{time.time_ns()}")
            _log.warning("destination.folder_in_the_way", folder=str(folder), aside=str(aside))
            folder.rename(aside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _salvage(connection: duckdb.DuckDBPyConnection, damaged: Path) -> bool:
    """Put the tables of a `damaged` file that can be read in the place of older ones.

    dlt's own come last, and only where all others could be read: its state vouches for every row.
    True if that is so.
    """
    try:
        with duckdb.connect(str(damaged), read_only=True) as source:
            source.execute("SET TimeZone = 'UTC'")
            everything = _all_tables(source)
            bases = {name.dataset for name in everything}
            names = [name for name in everything if name.dataset.removesuffix(STAGING) not in (
                bases - {name.dataset})]  # fmt: skip
            rows = [name for name in names if not name.table.startswith("_dlt_")]
            lost = [name for name in rows if not _is_copied(connection, source, [name])]
            of_dlt = [name for name in names if name.table.startswith("_dlt_")]
            is_whole = not lost and _is_copied(connection, source, of_dlt)
    except duckdb.Error:  # nothing can be read, not even which tables there are
        return False
    _log.warning("destination.salvaged", tables=len(rows) - len(lost), lost=list(map(str, lost)))
    return is_whole


def _is_copied(
    connection: duckdb.DuckDBPyConnection,
    source: duckdb.DuckDBPyConnection,
    names: Sequence[TableName],
) -> bool:
    """Whether all the tables could be copied; if not, what was there before stays."""
    cursor = connection.cursor()
    try:
        cursor.execute("BEGIN")
        for name in names:
            definition = source.execute(
                "SELECT sql FROM duckdb_tables() WHERE database_name = current_database() "
                "AND schema_name = ? AND table_name = ?",
                [name.dataset, name.table],
            ).fetchall()[0][0]
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {name.schema}")
            cursor.execute(f"DROP TABLE IF EXISTS {name}")
            cursor.execute(definition)
            cursor.register("salvaged", source.sql(f"FROM {name}").to_arrow_reader())
            cursor.execute(f"INSERT INTO {name} FROM salvaged")
            cursor.unregister("salvaged")
        cursor.execute("COMMIT")
    except (duckdb.Error, pa.ArrowException) as error:
        names_lost = [str(name) for name in names]
        _log.info("destination.not_salvaged", tables=names_lost, reason=describe(error))
        with suppress(duckdb.Error):  # where it has rolled back by itself
            cursor.execute("ROLLBACK")
        return False
    finally:
        cursor.close()
    return True


def _start_over(
    places: Places, connection: duckdb.DuckDBPyConnection, published: Path | None, dataset: str
) -> None:
    """Rows come back from the published copy; marks of scans speak of the file that is gone."""
    shutil.rmtree(places.all_pipelines_dir, ignore_errors=True)
    if published is None or not published.exists():
        return
    try:
        Room(connection).fit(lambda: _copy_from(connection, published, dataset))
    except duckdb.Error as error:
        raise DestinationError(
            f"{published}: this file is in the way of the published copy and can't be read as "
            f"one ({describe(error)}). Move it away, or set HIRINGCENTER_DUCKDB_PATH."
        ) from error


def _copy_from(connection: duckdb.DuckDBPyConnection, published: Path, dataset: str) -> None:
    """All tables or none: a half that a kill leaves would pass for the whole."""
    quoted = str(published).replace("'", "''")
    connection.execute(f"ATTACH '{quoted}' AS published (READ_ONLY)")
    try:
        names = [
            name
            for each in datasets(connection, "published", dataset)
            for name in tables(connection, "published", each)
        ]
        connection.execute("BEGIN")
        for name in names:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name.schema}")
            connection.execute(f"CREATE OR REPLACE TABLE {name} AS FROM published.{name}")
        connection.execute("COMMIT")
        if names:
            _log.warning("destination.rebuilt", source=str(published), tables=len(names))
    except duckdb.Error:
        with suppress(duckdb.Error):
            connection.execute("ROLLBACK")
        raise
    finally:
        connection.execute("DETACH published")
