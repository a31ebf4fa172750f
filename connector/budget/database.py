"""One SQL database for budget, locks, outbox and run history: SQLite file or PostgreSQL.

SQLite starves writers that poll its busy handler (4 s measured with eight processes), so a
blocking file lock stands in front of every write transaction; the kernel queues fairly.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from connector.budget.filelock import FileLock
from connector.budget.ledger_errors import cant_open, translated
from connector.budget.statements import Transaction
from connector.errors import LedgerTooNew, LedgerUnusable
from connector.logs import hide

Migration = Callable[[sa.Connection], None]


class Proof(Protocol):
    """That a database is the one that was opened; each method raises the error that says not.

    of_file: without a transaction. of_rows: at the begin of each write transaction. of_failure:
    where the database failed.
    """

    def of_file(self) -> None: ...

    def of_rows(self, connection: sa.Connection) -> None: ...

    def of_failure(self, error: LedgerUnusable) -> None: ...


LOCK_WAIT_S = 30.0
"""How long a ledger that others hold is waited for. A write transaction takes milliseconds."""
_POSTGRES_OPTIONS = (
    f"-c lock_timeout={LOCK_WAIT_S:.0f}s -c idle_in_transaction_session_timeout={LOCK_WAIT_S:.0f}s"
)
_MIGRATION_LOCK = 7_466_104_401
_QUICK_BEGIN = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "SET LOCAL synchronous_commit TO off",  # psycopg itself has begun by then
}

_versions = sa.Table(
    "schema_versions",
    sa.MetaData(),
    sa.Column("component", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)


class Database:
    """url: SQLAlchemy URL, `sqlite:///absolute/path` or `postgresql://…`.

    durable: True makes SQLite fsync each commit (outbox keys need it, permits don't).
    suffix: on SQLite, a file of its own beside the ledger (`ledger.db` → `ledger-outbox.db`),
    so that long writes there never block grants here; PostgreSQL keeps one database.
    lock_wait_s: how long to wait for others before LedgerUnusable. answer_within_s: on PostgreSQL,
    how long its server may say nothing.

    Raises:
        LedgerUnusable: here and in every method: missing, locked, full, damaged, unreachable.
    """

    def __init__(
        self,
        url: str,
        *,
        durable: bool = False,
        suffix: str = "",
        lock_wait_s: float = LOCK_WAIT_S,
        answer_within_s: float | None = None,
    ) -> None:
        parsed = make_url(url)
        self.url = url
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.path: Path | None = None
        self._lock: FileLock | None = None
        self._kept: sa.PoolProxiedConnection | None = None  # under the lock
        self._durable, self._lock_wait_s = durable, lock_wait_s
        self._proof: Proof | None = None
        if self.is_sqlite:
            self.path = half_path(url, suffix)
            parsed = parsed.set(database=str(self.path))
        elif parsed.get_backend_name() == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.name = str(self.path or _server_name(parsed))
        self.engine = (
            self._sqlite(self.path, parsed)
            if self.path
            else _postgres(parsed, answer_within_s or 2 * lock_wait_s)
        )

    def _sqlite(self, path: Path, url: sa.URL) -> sa.Engine:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._lock = FileLock(path.with_name(path.name + ".lock"))
        except OSError as error:
            raise cant_open(self.name, error) from error
        arguments = {"timeout": self._lock_wait_s, "check_same_thread": False}
        engine = sa.create_engine(url, connect_args=arguments, max_overflow=-1)
        sa.event.listen(engine, "connect", self._on_connect)
        sa.event.listen(engine, "begin", _on_begin)
        return engine

    def _on_connect(self, connection: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
        connection.isolation_level = None  # we send BEGIN ourselves
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA secure_delete=ON")  # not every build of SQLite does by itself
        cursor.execute(f"PRAGMA synchronous={'FULL' if self._durable else 'NORMAL'}")
        cursor.close()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A write transaction; commits at the end, rolls back on an exception."""
        with self._guarded(), self._exclusive(), self._begun_for_write() as connection:
            if self._proof is not None:
                self._proof.of_file()
                self._proof.of_rows(connection)
            yield connection

    def _begun_for_write(self) -> AbstractContextManager[sa.Connection]:
        return self._begun(write=True) if self.is_sqlite else self.engine.begin()

    def require(self, proof: Proof) -> None:
        """From now on, let no write transaction begin without `proof`, and let it explain
        failures."""
        self._proof = proof

    @contextmanager
    def quick_write(self) -> Iterator[Transaction]:
        """A write transaction on the driver's own cursor, for short ones many times a second.

        A crash of the machine may lose the last of them, never of the process: no fsync.
        """
        with self._guarded(), self._exclusive():
            connection = self._kept or self.engine.raw_connection()
            self._kept = None
            try:
                cursor = connection.cursor()
                cursor.execute(_QUICK_BEGIN[self.engine.dialect.name])
                yield Transaction(cursor, self.engine.dialect)
                connection.commit()
            except BaseException:
                connection.close()  # back into the pool, which rolls it back
                raise
            if self.is_sqlite:  # the way through the pool is a tenth of a grant
                self._kept = connection
            else:  # whose pool finds out whether the server has hung up
                connection.close()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            with translated(self.name, self.engine.dialect):
                yield
        except LedgerUnusable as error:
            if self._proof is not None:
                self._proof.of_failure(error)
            raise

    def _exclusive(self) -> AbstractContextManager[None]:
        return nullcontext() if self._lock is None else self._lock.held(self._lock_wait_s)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A read transaction: one consistent view."""
        with self._guarded(), self._begun(write=False) as connection:
            yield connection

    @contextmanager
    def _begun(self, *, write: bool) -> Iterator[sa.Connection]:
        with self.engine.connect() as connection:
            if self.is_sqlite:
                connection = connection.execution_options(write=write)
            else:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    def migrate(self, component: str, migrations: Sequence[Migration]) -> None:
        """Bring `component`'s tables to version len(migrations), each step once, in order.

        Raises:
            LedgerTooNew: the tables were written by a newer version of the connector.
        """
        with self.write() as connection:
            if not self.is_sqlite:  # two processes may start at once
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            _versions.create(connection, checkfirst=True)
            found = connection.scalar(
                sa.select(_versions.c.version).where(_versions.c.component == component)
            )
            if (found or 0) > len(migrations):
                raise LedgerTooNew(component=component, found=found or 0, known=len(migrations))
            for migration in migrations[found or 0 :]:
                migration(connection)
            _store_version(connection, component, found, len(migrations))

    def version(self, component: str) -> int:
        """To which version `component`'s tables were brought; 0 if to none."""
        with self.read() as connection:
            query = sa.select(_versions.c.version).where(_versions.c.component == component)
            return int(connection.scalar(query) or 0)

    def scrub(self) -> None:
        """Write a SQLite file anew, so that nothing that was deleted can be read in it. What
        PostgreSQL deletes is gone with its next vacuum."""
        if not self.is_sqlite:
            return
        with self._guarded(), self._exclusive(), closing(self.engine.raw_connection()) as raw:
            cursor = raw.cursor()
            cursor.execute("VACUUM")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
        self.engine.dispose()
        if self._lock is not None:
            self._lock.close()


def _server_name(url: sa.URL) -> str:
    """A server for messages: host, port and database, never a user or what opens it. Passwords
    may be in the query as well; libpq's own messages are kept from quoting them."""
    parameters = {name: value for name, value in url.query.items() if isinstance(value, str)}
    for secret in (url.password, parameters.get("password"), parameters.get("sslpassword")):
        hide(str(secret or ""))
    host = parameters.get("host") or url.host or "localhost"
    port = parameters.get("port") or url.port or 5432
    return f"postgresql://{host}:{port}/{parameters.get('dbname') or url.database or ''}"


def half_path(url: str, suffix: str) -> Path | None:
    """Where a SQLite ledger keeps the file of `suffix`, see `Database`; None on PostgreSQL."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    path = Path(parsed.database or "")
    return path.with_name(f"{path.stem}{suffix}{path.suffix}")


def _postgres(url: sa.URL, answer_within_s: float) -> sa.Engine:
    """answer_within_s: of one statement; a server that is stopped, or its host, says nothing at
    all, and the system keeps such a connection for hours."""
    import psycopg

    class BoundedConnection(psycopg.Connection[Any]):
        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            until_s = answer_within_s if timeout is None else timeout
            began_s = time.monotonic()
            try:
                return super().wait(gen, interval, until_s)
            except psycopg.Error as error:
                if time.monotonic() - began_s < until_s or timeout is not None:
                    raise
                self.pgconn.finish()  # what it was doing, nobody knows
                raise psycopg.OperationalError(f"no answer within {until_s:g} s") from error

    connect_s = max(2, int(min(10, answer_within_s)))
    arguments = {"connect_timeout": connect_s, "keepalives_idle": 30, "options": _POSTGRES_OPTIONS}
    engine = sa.create_engine(url, pool_pre_ping=True, max_overflow=-1, connect_args=arguments)

    def connect(_dialect: Any, _record: Any, cargs: Any, cparams: Any) -> Any:
        return BoundedConnection.connect(*cargs, **cparams)

    sa.event.listen(engine, "do_connect", connect)
    return engine


def _on_begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _store_version(
    connection: sa.Connection, component: str, found: int | None, version: int
) -> None:
    if found is None:
        connection.execute(sa.insert(_versions).values(component=component, version=version))
    elif found != version:
        connection.execute(
            sa.update(_versions).where(_versions.c.component == component).values(version=version)
        )


def forget_version(connection: sa.Connection, component: str) -> None:
    """Let `component`'s tables be made again by the next `migrate`."""
    _versions.create(connection, checkfirst=True)
    connection.execute(sa.delete(_versions).where(_versions.c.component == component))
