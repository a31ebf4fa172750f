"""One SQL database for budget, locks, outbox and run history: SQLite file or PostgreSQL.

SQLite starves writers that poll its busy handler (4 s measured with eight processes), so a
blocking file lock stands in front of every write transaction; the kernel queues fairly.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from connector.errors import BudgetError

Migration = Callable[[sa.Connection], None]

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
    """

    def __init__(self, url: str, *, durable: bool = False, suffix: str = "") -> None:
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.path: Path | None = None
        if self.is_sqlite:
            path = Path(parsed.database or "")
            self.path = path.with_name(f"{path.stem}{suffix}{path.suffix}")
            parsed = parsed.set(database=str(self.path))
        elif parsed.get_backend_name() == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self._durable = durable
        self._thread_lock = threading.Lock()
        self._lock_fd: int | None = None
        self.engine = self._engine(parsed)

    def _engine(self, url: sa.URL) -> sa.Engine:
        if not self.is_sqlite:
            return sa.create_engine(url, pool_pre_ping=True)
        self._prepare_files()
        engine = sa.create_engine(url, connect_args={"timeout": 30, "check_same_thread": False})
        sa.event.listen(engine, "connect", self._on_connect)
        sa.event.listen(engine, "begin", _on_begin)
        return engine

    def _prepare_files(self) -> None:
        assert self.path is not None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock_path = self.path.with_name(self.path.name + ".lock")
            self._lock_fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise BudgetError(
                f"{self.path}: the ledger can't be opened: {error.strerror}. Without it nothing "
                "is sent. Make the state directory writable, or set HIRINGCENTER_STATE_DIR."
            ) from error

    def _on_connect(self, connection: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]  # we send BEGIN ourselves
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={'FULL' if self._durable else 'NORMAL'}")
        cursor.close()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A write transaction; commits at the end, rolls back on an exception."""
        if self._lock_fd is None:
            with self.engine.begin() as connection:
                yield connection
            return
        with self._thread_lock:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
            try:
                with self.engine.connect().execution_options(write=True) as connection:
                    with connection.begin():
                        yield connection
            finally:
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A read transaction: one consistent view."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    def migrate(self, component: str, migrations: Sequence[Migration]) -> None:
        """Bring `component`'s tables to version len(migrations), each step once, in order.

        Raises:
            BudgetError: the tables were written by a newer version of the connector.
        """
        with self.write() as connection:
            if not self.is_sqlite:  # two processes may start at once
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7466104401)"))
            _versions.create(connection, checkfirst=True)
            found = connection.scalar(
                sa.select(_versions.c.version).where(_versions.c.component == component)
            )
            if (found or 0) > len(migrations):
                raise BudgetError(
                    f"The ledger's {component} tables are version {found}, this connector knows "
                    f"{len(migrations)}. Update the connector on this machine."
                )
            for migration in migrations[found or 0 :]:
                migration(connection)
            _store_version(connection, component, found, len(migrations))

    def close(self) -> None:
        self.engine.dispose()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None


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
