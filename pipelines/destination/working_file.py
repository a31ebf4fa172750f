"""DuckDB's working file: opened by one pull, made anew from the published copy where it is lost."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import duckdb

from connector.errors import DestinationError
from connector.logs import get_logger
from pipelines.destination.datasets import datasets, tables
from pipelines.destination.load_errors import describe
from pipelines.destination.room import FIRST_MB, Room
from pipelines.places import Places

_log = get_logger("destination")
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": f"{FIRST_MB}MB",
    "threads": min(4, os.cpu_count() or 1),
    "preserve_insertion_order": False,
    "autoinstall_known_extensions": False,
}


_LOG_MAX_BYTES = 32 * 1024 * 1024


def open_working_file(
    places: Places, *, published: Path | None, dataset: str
) -> duckdb.DuckDBPyConnection:
    """A connection for writing. published: the copy to start from where there is no file yet.

    A file that can't be read is moved aside, never deleted.

    Raises:
        DestinationError: another process has the file open, or it can't be made.
    """
    path = places.working_file
    is_new = not path.exists()
    try:
        places.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        connection = _connect(path)
    except OSError as error:
        raise DestinationError(
            f"{places.work_dir}: the working file can't be made: {error.strerror}. Make the state "
            "directory writable, or set HIRINGCENTER_STATE_DIR to another place."
        ) from error
    except duckdb.IOException as error:
        if "lock" in str(error):
            raise DestinationError(
                f"{path}: another process has the working file open. It belongs to the "
                "connector alone: close that program and run the command again. Analysts open "
                "the published copy."
            ) from error
        if "No space left" in str(error):
            raise DestinationError(
                f"{path}: the disk is full. Rows loaded before are kept. Free some space, or set "
                "HIRINGCENTER_STATE_DIR to another place, and run the command again."
            ) from error
        connection, is_new = _without_damaged(places, error), True
    except duckdb.Error as error:
        connection, is_new = _without_damaged(places, error), True
    if is_new:
        _start_over(places, connection, published, dataset)
    return connection


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


def _without_damaged(places: Places, error: Exception) -> duckdb.DuckDBPyConnection:
    path = places.working_file
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
    _log.warning("destination.damaged", file=str(path), aside=str(aside), reason=describe(error))
    path.rename(aside)
    wal = path.with_name(path.name + ".wal")
    if wal.exists():
        wal.rename(aside.with_name(aside.name + ".wal"))
    return _connect(path)


def _start_over(
    places: Places, connection: duckdb.DuckDBPyConnection, published: Path | None, dataset: str
) -> None:
    """dlt's local state speaks of the file that is gone; rows come back from the copy."""
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
    quoted = str(published).replace("'", "''")
    connection.execute(f"ATTACH '{quoted}' AS published (READ_ONLY)")
    try:
        names = [
            name
            for each in datasets(connection, "published", dataset)
            for name in tables(connection, "published", each)
        ]
        for name in names:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name.schema}")
            connection.execute(f"CREATE OR REPLACE TABLE {name} AS FROM published.{name}")
        if names:
            _log.warning("destination.rebuilt", source=str(published), tables=len(names))
    finally:
        connection.execute("DETACH published")
