"""DuckDB's published copy: one complete pull, read-only, swapped in by an atomic rename.

DuckDB lets one process write a file while nobody reads it; analysts keep files open all day. So
they read a copy that never changes: who has it open keeps what they opened, who opens it anew
gets the newest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from connector.errors import DestinationError
from connector.logs import get_logger
from pipelines.destination.datasets import datasets, tables, working_catalog
from pipelines.destination.foreign_writes import (
    Published,
    guard_against_writer,
    has_locks,
    keep_what_others_wrote,
)
from pipelines.destination.installation import sign
from pipelines.destination.load_errors import describe

_log = get_logger("publish")
_STORAGE_VERSION = "v1.0.0"  # the oldest DuckDB that can read the copy
_MODE = 0o444
_ALIAS = "_hc_published"
_ABOUT_RUNS = ("_hc_runs", "_hc_freshness")


def publish(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    dataset: str,
    record: Published,
    own_id: str,
) -> None:
    """Copy every dataset's tables (without dlt's own) to `path`. dataset: the one of this run.

    record: remembers the copy, so that what somebody else writes to it is noticed and kept.
    own_id: this installation's, which the copy names.

    Raises:
        DestinationError: the copy can't be written; the old one stays as it is.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _make_folder(path.parent)
        _sweep(path)
        _copy_where_locks_are(connection, temporary, dataset, own_id, record.folder)
        _seal(temporary)
        keep_what_others_wrote(path, record)
        _swap_in(temporary, path, record)
    except (OSError, duckdb.Error) as error:
        _sweep(path)
        raise _unwritable(path, error) from error
    _log.info("publish.done", file=str(path), bytes=path.stat().st_size)


def refresh(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    dataset: str,
    record: Published,
    own_id: str,
) -> None:
    """Bring what the copy says about runs up to date; all other tables are as they were.

    A copy of the file's bytes, with two small tables made anew: a tenth of what `publish` costs.

    Raises:
        DestinationError: the copy can't be written; the old one stays as it is.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _sweep(path)
        if not has_locks(temporary):
            return publish(connection, path, dataset, record, own_id)
        shutil.copyfile(path, temporary)
        _renew(connection, temporary, dataset, own_id)
        _seal(temporary)
        _swap_in(temporary, path, record)
    except (OSError, duckdb.Error) as error:
        _sweep(path)
        raise _unwritable(path, error) from error


def try_publishing(path: Path) -> None:
    """Whether a copy could be written beside `path`; leaves nothing behind.

    Raises:
        DestinationError: it could not.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _make_folder(path.parent)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: Exception) -> DestinationError:
    return DestinationError(
        f"{path}: the copy for analysts can't be written: {describe(error)}. Rows that were "
        "loaded are safe in the working file. Make the folder writable and not full, then run "
        "the command again."
    )


def _make_folder(folder: Path) -> None:
    """Analysts may look into it, whatever the umask of the run is."""
    if not folder.exists():
        _make_folder(folder.parent)
        folder.mkdir()
        folder.chmod(0o755)


def _sweep(path: Path) -> None:
    """Half-made copies of runs that were killed."""
    for stale in path.parent.glob(f".{path.name}.*.tmp*"):
        stale.unlink(missing_ok=True)


def _copy_where_locks_are(
    connection: duckdb.DuckDBPyConnection, target: Path, dataset: str, own_id: str, folder: Path
) -> None:
    """DuckDB writes no file on a mount without locks: there it is made in `folder`, and moved."""
    if has_locks(target):
        return _copy(connection, target, dataset, own_id)
    made = folder / f"{target.name}.made"
    try:
        made.unlink(missing_ok=True)
        _copy(connection, made, dataset, own_id)
        shutil.copyfile(made, target)
    finally:
        made.unlink(missing_ok=True)


def _copy(connection: duckdb.DuckDBPyConnection, target: Path, dataset: str, own_id: str) -> None:
    with _attached(connection, target, dataset, own_id) as cursor:
        working = working_catalog(cursor)
        for each in datasets(cursor, working, dataset):
            for name in tables(cursor, working, each):
                cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {_ALIAS}.{name.schema}")
                cursor.execute(f"CREATE TABLE {_ALIAS}.{name} AS FROM {name}")


def _renew(connection: duckdb.DuckDBPyConnection, target: Path, dataset: str, own_id: str) -> None:
    with _attached(connection, target, dataset, own_id) as cursor:
        for name in tables(cursor, working_catalog(cursor), dataset):
            if name.table in _ABOUT_RUNS:
                cursor.execute(f"CREATE OR REPLACE TABLE {_ALIAS}.{name} AS FROM {name}")


@contextmanager
def _attached(
    connection: duckdb.DuckDBPyConnection, target: Path, dataset: str, own_id: str
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A cursor that has the copy `target` as `_ALIAS`; signed at the end."""
    cursor = connection.cursor()
    quoted = str(target).replace("'", "''")
    cursor.execute(f"ATTACH '{quoted}' AS {_ALIAS} (STORAGE_VERSION '{_STORAGE_VERSION}')")
    try:
        yield cursor
        sign(cursor, _ALIAS, dataset, own_id)
    finally:
        cursor.execute(f"DETACH {_ALIAS}")
        cursor.close()


def _swap_in(temporary: Path, path: Path, record: Published) -> None:
    guard_against_writer(path)
    record.expect(temporary, path)
    temporary.replace(path)
    _sync(path.parent)


def _seal(path: Path) -> None:
    path.chmod(_MODE)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
