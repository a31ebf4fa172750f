"""One SQL database for budget, locks, outbox and run history: a SQLite file or PostgreSQL.

SQLite starves writers that poll its busy handler (4 s measured with eight processes), so every
write transaction takes a blocking file lock first; the kernel queues fairly.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import make_url
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.util import LRUCache

from connector.errors import LedgerDamaged, LedgerTooNew, LedgerUnusable
from connector.logs import hide

Migration = Callable[[sa.Connection], None]

LOCK_WAIT_S = 30.0
"""How long to wait for a locked ledger. A write transaction takes milliseconds."""
_WAL_RETRY_S = 0.005
_CACHE_KB = 32_000  # of a large outbox: else SQLite writes and reads its pages over and over
_POSTGRES_OPTIONS = (
    f"-c lock_timeout={LOCK_WAIT_S:.0f}s -c idle_in_transaction_session_timeout={LOCK_WAIT_S:.0f}s"
)
_MIGRATION_LOCK = 7_466_104_401
# an earlier version's tables, in whichever schema it has found first; other programs' tables of
# the same names don't count, unless a table of versions is next to them
_OWN_TABLES = """
SELECT quote_ident(n.nspname), c.relname, pg_has_role(c.relowner, 'USAGE')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relname = ANY(%s)
  AND n.oid = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('schema_versions'))
"""
_MAY_CREATE = """
SELECT COALESCE(has_schema_privilege(to_regnamespace('hiringcenter_ledger'), 'CREATE'),
                has_database_privilege(current_database(), 'CREATE'))
"""

LEDGER_SCHEMA = "hiringcenter_ledger"
"""On PostgreSQL: the schema of all tables, so that the database may be the warehouse's own."""
LEDGER_TABLES = (
    "schema_versions", "budget_clocks", "budget_keys", "budget_outstanding", "budget_owners",
    "budget_secrets", "budget_spent", "freshness", "freshness_published", "lock_holders",
    "outbox_activity_rows", "outbox_aliases", "outbox_applied_plans", "outbox_attached",
    "outbox_before_images", "outbox_disputed", "outbox_entries", "outbox_entry_contacts",
    "outbox_key_memory", "outbox_learnt", "outbox_receipts", "outbox_refusals", "outbox_salts",
    "outbox_scopes", "outbox_settled_names", "outbox_sources", "outbox_writes", "push_results",
    "runs",
)  # fmt: skip
"""Those that versions without a schema of their own may have made."""

_own = sa.MetaData()
_versions = sa.Table(
    "schema_versions",
    _own,
    sa.Column("component", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)

_HAS_VERSIONS = {
    "sqlite": "SELECT max(name) FROM sqlite_master WHERE name = 'schema_versions'",
    "postgresql": "SELECT to_regclass('schema_versions')",
}
_TABLE_NAMES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
    "postgresql": "SELECT relname FROM pg_class WHERE relkind = 'r' AND pg_table_is_visible(oid)",
}
_definitions: dict[tuple[str, sa.Table], list[str]] = {}


class LedgerDialect(SQLiteDialect_pysqlite):
    """SQLAlchemy's dialect of SQLite. Any two are equal, so that a statement is compiled once for
    all files of a process: a small run spends more on compiling than SQLite does on all else."""

    supports_statement_cache = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LedgerDialect)

    def __hash__(self) -> int:
        return hash(LedgerDialect)


registry.register("sqlite.ledger", __name__, LedgerDialect.__name__)
_compiled: LRUCache[Any, Any] = LRUCache(1000)


class Prepared:
    """A statement compiled once per kind of database and executed by the driver itself: executing
    a small one through SQLAlchemy costs several times what SQLite needs for it.

    columns: those that an `update` sets or an `insert` names.
    """

    def __init__(self, statement: sa.ClauseElement, columns: Collection[str] | None = None) -> None:
        self._statement, self._columns = statement, columns
        self._compiled: dict[str, tuple[str, dict[str, Any]]] = {}
        self._of_tuples: dict[str, str] = {}

    @classmethod
    def update_of(cls, table: sa.Table) -> Prepared:
        """Set all columns of the row with this primary key."""
        keys = [column == sa.bindparam(column.name) for column in table.primary_key]
        return cls(
            sa.update(table).where(*keys),
            [column.name for column in table.c if not column.primary_key],
        )

    def execute(self, connection: sa.Connection, values: Mapping[str, Any]) -> Any:
        """The driver's cursor."""
        text, literals = self._on(connection.dialect)
        cursor = connection.connection.cursor()
        cursor.execute(text, {**literals, **values})
        return cursor

    def execute_many(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        text, literals = self._on(connection.dialect)
        if rows:
            cursor = connection.connection.cursor()
            cursor.executemany(
                text, [{**literals, **values} for values in rows] if literals else rows
            )

    def execute_tuples(self, connection: sa.Connection, rows: Sequence[Sequence[Any]]) -> None:
        """As `execute_many`, for an `insert` without values of its own. rows: its columns, in the
        order of the table: dictionaries of a million rows cost as much as storing them."""
        dialect = connection.dialect
        if (text := self._of_tuples.get(dialect.name)) is None:
            kind: Any = type(dialect)  # SQLAlchemy's base class has narrower parameters
            by_position = kind(paramstyle="qmark" if dialect.name == "sqlite" else "format")
            made = self._statement.compile(dialect=by_position, column_keys=self._columns)
            text = self._of_tuples[dialect.name] = str(made)
        connection.connection.cursor().executemany(text, rows)

    def _on(self, dialect: sa.Dialect) -> tuple[str, dict[str, Any]]:
        """The SQL text, and the values that the statement itself contains."""
        if (found := self._compiled.get(dialect.name)) is None:
            made = self._statement.compile(dialect=dialect, column_keys=self._columns)
            literals = {
                name: value
                for name, value in made.params.items()
                if value is not None and name not in (self._columns or ())
            }
            found = self._compiled[dialect.name] = str(made), literals
        return found


class Proof(Protocol):
    """Checks that a database is still the one that was opened; each method raises if it isn't.

    of_file: called without a transaction. of_rows: at the start of each write transaction.
    of_failure: when the database has failed.
    """

    def of_file(self) -> None: ...

    def of_rows(self, connection: sa.Connection) -> None: ...

    def of_failure(self, error: LedgerUnusable) -> None: ...


class Database:
    """url: SQLAlchemy URL, `sqlite:///absolute/path` or `postgresql://…`.

    durable: True makes SQLite fsync each commit (outbox keys need it, permits don't).
    suffix: on SQLite, a file of its own next to the ledger (`ledger.db` → `ledger-outbox.db`),
    so that long writes there never block grants here; PostgreSQL keeps one database.
    lock_wait_s: how long to wait for a lock before LedgerUnusable. answer_within_s: on PostgreSQL,
    how long the server may take to answer.

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
        self.path = half_path(url, suffix)
        self.is_sqlite = self.path is not None
        self.name = str(self.path or _server_name(parsed))
        self._lock: FileLock | None = None
        self._durable, self._lock_wait_s = durable, lock_wait_s
        self._proof: Proof | None = None
        if self.path is not None:
            self.engine = self._sqlite(self.path, parsed.set(database=str(self.path)))
        else:
            parsed = parsed.set(drivername="postgresql+psycopg")
            self.engine = _postgres(parsed, answer_within_s or 2 * lock_wait_s)

    def _sqlite(self, path: Path, url: sa.URL) -> sa.Engine:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _create_private(path)
            self._lock = FileLock(path.with_name(path.name + ".lock"))
        except OSError as error:
            raise cant_open(self.name, error) from error
        arguments = {"timeout": self._lock_wait_s, "check_same_thread": False}
        engine = sa.create_engine(
            url.set(drivername="sqlite+ledger"), connect_args=arguments, max_overflow=-1,
            paramstyle="named", execution_options={"compiled_cache": _compiled},
        )  # fmt: skip
        sa.event.listen(engine, "connect", self._on_connect)
        sa.event.listen(engine, "begin", _on_begin)
        return engine

    def _on_connect(self, connection: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
        connection.isolation_level = None  # we send BEGIN ourselves
        cursor = connection.cursor()
        self._use_wal(cursor)
        cursor.execute("PRAGMA secure_delete=ON")  # not every build of SQLite does by itself
        cursor.execute(f"PRAGMA synchronous={'FULL' if self._durable else 'NORMAL'}")
        if self._durable:
            cursor.execute(f"PRAGMA cache_size=-{_CACHE_KB}")
        cursor.close()

    def _use_wal(self, cursor: sa.engine.interfaces.DBAPICursor) -> None:
        """While another process changes a new file to WAL, SQLite fails at once instead of
        waiting; readers hold no lock of ours that could prevent that."""
        until_s = time.monotonic() + self._lock_wait_s
        while True:
            try:
                cursor.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until_s:
                    raise
            time.sleep(_WAL_RETRY_S)

    def connect(self) -> sa.Connection:
        """A connection for one caller alone, who closes it: it may have temporary tables, which are
        gone then."""
        with self._guarded():
            connection = self.engine.connect()
            connection.detach()
            return connection

    @contextmanager
    def write(
        self, *, to_disk: bool = True, on: sa.Connection | None = None, keeps: bool = True
    ) -> Iterator[sa.Connection]:
        """A write transaction; commits at the end, rolls back on an exception.

        to_disk: False doesn't wait for PostgreSQL's disk. A crash of its machine may lose the
        latest of these transactions; a killed process never does. on: a connection of `connect`.
        keeps: False rolls back at the end, so that changes are only counted.
        """
        with self._guarded(), self._exclusive(), self._begun(write=True, on=on) as connection:
            if not (to_disk or self.is_sqlite):
                connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")
            if self._proof is not None:
                self._proof.of_file()
                self._proof.of_rows(connection)
            yield connection
            if not keeps and (transaction := connection.get_transaction()) is not None:
                transaction.rollback()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A read transaction: one consistent view."""
        with self._guarded(), self._begun(write=False) as connection:
            yield connection

    def require(self, proof: Proof) -> None:
        """From now on, check `proof` in every write transaction, and after every failure."""
        self._proof = proof

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turn failures of the database into LedgerUnusable, and let the proof look at each."""
        driver: Any = self.engine.dialect.dbapi
        try:
            yield
        except LedgerUnusable as error:
            self._look_at(error)
            raise
        except (LockHeld, sa.exc.DatabaseError, sa.exc.InterfaceError, driver.Error) as error:
            if (failure := _unusable(self.name, error, driver)) is None:
                raise
            self._look_at(failure)
            raise failure from error

    def _look_at(self, failure: LedgerUnusable) -> None:
        if self._proof is not None:
            self._proof.of_failure(failure)

    def _exclusive(self) -> AbstractContextManager[None]:
        return nullcontext() if self._lock is None else self._lock.held(self._lock_wait_s)

    @contextmanager
    def _begun(self, *, write: bool, on: sa.Connection | None = None) -> Iterator[sa.Connection]:
        with self.engine.connect() if on is None else nullcontext(on) as connection:
            if self.is_sqlite:
                connection = connection.execution_options(write=write)
            elif not write:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    def migrate(self, component: str, migrations: Sequence[Migration]) -> None:
        """Bring `component`'s tables to version len(migrations), each step once, in order.

        Raises:
            LedgerTooNew: the tables were written by a newer version of the connector.
        """
        if self.version(component) == len(migrations):
            return
        with self.write() as connection:
            if not self.is_sqlite:  # two processes may start at once
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            found = _version(connection, component)
            if found > len(migrations):
                raise LedgerTooNew(component=component, found=found, known=len(migrations))
            for migration in migrations[found:]:
                migration(connection)
            forget_version(connection, component)
            stored = {"component": component, "version": len(migrations)}
            connection.execute(sa.insert(_versions).values(stored))

    def version(self, component: str) -> int:
        """The version of `component`'s tables; 0 if there are none."""
        with self.read() as connection:
            return _version(connection, component)

    def scrub(self) -> bool:
        """Rewrite a SQLite file, so that it contains no deleted data; False where another process
        is reading its log, which then still has some. PostgreSQL removes deleted data with its next
        vacuum."""
        if not self.is_sqlite:
            return True
        with self._guarded(), self._exclusive(), closing(self.engine.raw_connection()) as raw:
            cursor = raw.cursor()
            cursor.execute("VACUUM")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            answer = cursor.fetchone()
            return not (answer and answer[0])

    def close(self) -> None:
        self.engine.dispose()
        if self._lock is not None:
            self._lock.close()


def half_path(url: str, suffix: str) -> Path | None:
    """The path of a SQLite ledger's file of `suffix`, see `Database`; None on PostgreSQL."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    path = Path(parsed.database or "")
    return path.with_name(f"{path.stem}{suffix}{path.suffix}")


def insert_into(connection: sa.Connection, table: sa.Table) -> Any:
    """An INSERT that can say ON CONFLICT, which SQLAlchemy has only in its dialects: importing
    PostgreSQL's where SQLite is at work would delay each start."""
    return import_module(f"sqlalchemy.dialects.{connection.dialect.name}").insert(table)


def run_as_it_is(connection: sa.Connection, sql: str) -> Any:
    """The driver's cursor, after SQL without parameters: SQLAlchemy's own would cost more than what
    SQLite does."""
    cursor = connection.connection.cursor()
    cursor.execute(sql)
    return cursor


def table_names(connection: sa.Connection) -> set[str]:
    """The tables that are there, found by one query; SQLAlchemy has one for each table."""
    found = run_as_it_is(connection, _TABLE_NAMES[connection.dialect.name]).fetchall()
    return {name for (name,) in found}


def create_missing(metadata: sa.MetaData, connection: sa.Connection) -> None:
    """Create those tables that are missing, with their indexes."""
    found, dialect = table_names(connection), connection.dialect
    for table in metadata.tables.values():
        if table.name in found:
            continue
        if (key := (dialect.name, table)) not in _definitions:
            indexes = sorted(table.indexes, key=lambda index: str(index.name))
            parts: list[sa.DDLElement] = [CreateTable(table), *map(CreateIndex, indexes)]
            _definitions[key] = [str(part.compile(dialect=dialect)) for part in parts]
        for definition in _definitions[key]:
            run_as_it_is(connection, definition)


def forget_version(connection: sa.Connection, component: str) -> None:
    """Make the next `migrate` create `component`'s tables again."""
    create_missing(_own, connection)
    connection.execute(sa.delete(_versions).where(_versions.c.component == component))


def _version(connection: sa.Connection, component: str) -> int:
    """Plain SQL: this is all that most starts need, and compiling a statement takes longer."""
    (there,) = run_as_it_is(connection, _HAS_VERSIONS[connection.dialect.name]).fetchone()
    if there is None:
        return 0
    found = run_as_it_is(connection, "SELECT component, version FROM schema_versions").fetchall()
    return next((int(version) for name, version in found if name == component), 0)


def _on_begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("write", False)
    connection.connection.cursor().execute("BEGIN IMMEDIATE" if write else "BEGIN")


def _server_name(url: sa.URL) -> str:
    """The server's name for messages: host, port and database, never a user or a password, which
    may also be in the query."""
    parameters = {name: value for name, value in url.query.items() if isinstance(value, str)}
    for secret in (url.password, parameters.get("password"), parameters.get("sslpassword")):
        hide(str(secret or ""))
    host = parameters.get("host") or url.host or "localhost"
    port = parameters.get("port") or url.port or 5432
    return f"postgresql://{host}:{port}/{parameters.get('dbname') or url.database or ''}"


def _postgres(url: sa.URL, answer_within_s: float) -> sa.Engine:
    """answer_within_s: for one statement. A server that is suspended, or whose host is, never
    answers, and the system keeps such a connection open for hours."""
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
                self.pgconn.finish()  # its state is unknown
                raise psycopg.OperationalError(f"no answer within {until_s:g} s") from error

    schema: list[str | None] = []  # once it is known
    connect_s = max(2, int(min(10, answer_within_s)))
    arguments = {"connect_timeout": connect_s, "keepalives_idle": 30, "options": _POSTGRES_OPTIONS}
    engine = sa.create_engine(url, pool_pre_ping=True, max_overflow=-1, connect_args=arguments)

    def connect(_dialect: Any, _record: Any, cargs: Any, cparams: Any) -> Any:
        if schema and schema[0] is not None:
            cparams["options"] += f" -c search_path={schema[0]}"
        connection = BoundedConnection.connect(*cargs, **cparams)
        if not schema:
            schema.append(_settle_schema(connection))
            if schema[0] is not None:
                connection.execute(f"SET search_path TO {schema[0]}")
                connection.commit()
        return connection

    sa.event.listen(engine, "do_connect", connect)
    return engine


def _settle_schema(connection: Any) -> str | None:
    """The schema of the ledger's tables, which are moved there once; None where this user may
    neither create it nor move them: they stay where they are.

    A view stays behind for each table, for machines that still run an earlier version.
    """
    moved = f"SELECT to_regclass('{LEDGER_SCHEMA}.schema_versions') IS NOT NULL"
    with connection.transaction():
        if connection.execute(moved).fetchone()[0]:
            return LEDGER_SCHEMA
    with connection.transaction():
        connection.execute(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
        if connection.execute(moved).fetchone()[0]:  # another process has done it
            return LEDGER_SCHEMA
        found = connection.execute(_OWN_TABLES, [list(LEDGER_TABLES)]).fetchall()
        may_create = connection.execute(_MAY_CREATE).fetchone()[0]
        if not may_create or not all(is_owned for _, _, is_owned in found):
            return None
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {LEDGER_SCHEMA}")
        for old_schema, table, _ in found:
            connection.execute(f"ALTER TABLE {old_schema}.{table} SET SCHEMA {LEDGER_SCHEMA}")
            connection.execute(
                f"CREATE VIEW {old_schema}.{table} AS SELECT * FROM {LEDGER_SCHEMA}.{table}"  # noqa: S608 - names of ours and of the catalog
            )
    return LEDGER_SCHEMA


class LockHeld(Exception):
    """The lock wasn't free within the time to wait."""


class FileLock:
    """A lock between processes and threads: fair like the kernel's queue, and with a time-out.

    path: created if it is missing, readable by its owner only.

    Raises:
        OSError: it can't be created.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = threading.Lock()
        self._descriptor = open_private(path)

    @contextmanager
    def held(self, wait_s: float) -> Iterator[None]:
        """Hold the lock.

        Raises:
            LockHeld: another thread or process held it for `wait_s`.
        """
        if not self._threads.acquire(timeout=wait_s):
            raise LockHeld(f"another thread held it for {wait_s:g} s")
        try:
            self._take(wait_s)
            try:
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def _take(self, wait_s: float) -> None:
        """`flock` has no time-out: a thread waits in the kernel's queue, and is abandoned if that
        takes too long."""
        descriptor = self._descriptor
        taken: Future[None] = Future()

        def wait_in_queue() -> None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if taken.set_running_or_notify_cancel():
                taken.set_result(None)
            else:
                os.close(descriptor)  # frees the lock as well

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            threading.Thread(target=wait_in_queue, name="ledger-lock", daemon=True).start()
            try:
                taken.result(wait_s)
            except BaseException as error:
                self._descriptor = open_private(self._path)
                if not taken.cancel():  # it was acquired at the last moment
                    os.close(descriptor)
                if isinstance(error, TimeoutError):
                    raise LockHeld(f"another process held it for {wait_s:g} s") from None
                raise

    def close(self) -> None:
        os.close(self._descriptor)


def open_private(path: Path) -> int:
    """A descriptor of a file that is created if missing, readable by its owner only."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


_creating = threading.Lock()


def _create_private(path: Path) -> None:
    """Create a SQLite file, readable by its owner only, unless it is there.

    One that is there isn't opened: to close any descriptor of a file frees all locks that this
    process has on it (POSIX), SQLite's too. The next process to close the file would take itself
    for the last one, and delete the log that this one still writes to.
    """
    path = Path(os.path.realpath(path))
    with _creating, suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


_MOVE_AWAY = (
    "Move it away (the next run creates a new one), wait as long as the longest rate window, and "
    "run the command again."
)
_WRITABLE = "Make the state directory writable for this user."
_FREE_SPACE = "Free some space and run the command again."
_CLOSE_OTHERS = (
    "Close the program that has it open for writing (a database browser, a suspended process) and "
    "run the command again."
)
_END_IT = "Look for a stopped or hanging hiringcenter process, end it and run the command again."
_BY_SQLITE_CODE = {
    "SQLITE_CORRUPT": ("is damaged", _MOVE_AWAY),
    "SQLITE_NOTADB": ("is damaged, or isn't a SQLite file", _MOVE_AWAY),
    "SQLITE_READONLY": ("is read-only", _WRITABLE),
    "SQLITE_CANTOPEN": ("can't be opened", _WRITABLE),
    "SQLITE_FULL": ("can't grow: the disk is full", _FREE_SPACE),
    "SQLITE_IOERR": ("can't be read or written: the disk failed or is full", _FREE_SPACE),
    "SQLITE_BUSY": ("is locked by another program", _CLOSE_OTHERS),
    "SQLITE_LOCKED": ("is locked", _CLOSE_OTHERS),
}
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


def cant_open(ledger: str, error: OSError) -> LedgerUnusable:
    """The ledger's file, or a lock file next to it, can't be created or opened."""
    if isinstance(error, IsADirectoryError):
        return _folder_instead_of_file(ledger, error.filename)
    return LedgerUnusable(
        ledger=ledger,
        reason=f"can't be opened: {error.strerror}",
        action="Make the state directory writable, or set HIRINGCENTER_STATE_DIR.",
    )


def _folder_instead_of_file(ledger: str, folder: str) -> LedgerUnusable:
    return LedgerUnusable(
        ledger=ledger,
        reason=f"can't be used: {folder} is a folder",
        action="Move that folder away and run the command again.",
    )


def _unusable(ledger: str, error: Exception, driver: Any) -> LedgerUnusable | None:
    """What `error` says of the ledger; None if it is the caller's. driver: the DBAPI module."""
    if isinstance(error, LockHeld):
        return LedgerUnusable(ledger=ledger, reason=f"is locked: {error}", action=_END_IT)
    original = getattr(error, "orig", None) or error
    code, message = str(getattr(original, "sqlite_errorname", "")), str(original)
    its_fault = isinstance(original, (driver.OperationalError, driver.InterfaceError))
    if not its_fault and not code.startswith(_DAMAGED):
        return None
    if code.startswith(("SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_READONLY")):
        for ending in ("-wal", "-shm", "-journal"):
            if Path(ledger + ending).is_dir():
                return _folder_instead_of_file(ledger, ledger + ending)
    if "Could not decode to UTF-8" in message:  # SQLite itself doesn't check text
        code = "SQLITE_CORRUPT"
    for prefix, (reason, action) in _BY_SQLITE_CODE.items():
        if code.startswith(prefix):
            kind = LedgerDamaged if prefix in _DAMAGED else LedgerUnusable
            return kind(ledger=ledger, reason=reason, action=action)
    first_line = (message.strip().splitlines() or ["no reason given"])[0]
    return LedgerUnusable(
        ledger=ledger,
        reason=f"doesn't answer: {first_line}",
        action="Check HIRINGCENTER_LEDGER_URL and the database, and run the command again.",
    )
