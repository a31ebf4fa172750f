"""PostgreSQL: no statement waits without limit, neither for another session's lock nor for a reply.

An analyst's open transaction holds its tables against ALTER TABLE, and behind the waiting ALTER
TABLE every other reader waits too. So each of our statements gives up after a moment and is tried
again; in between, the log names the session that holds the lock, and signals are handled.

A server that hangs, or whose machine does, sends nothing at all, and the system keeps such a
connection open for hours.

Tables that dlt has made get comments, a primary key and indexes here.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from connector.clock import Clock, SystemClock
from connector.errors import ConnectorError, DestinationLocked, Interrupted
from connector.logs import get_logger
from connector.source.dictionary import comments
from connector.source.fields import CONTRACT
from pipelines.destination.history_tables import history_of
from pipelines.destination.load_errors import chain, describe, translated
from pipelines.destination.working_file import comment_on, quoted_name

if TYPE_CHECKING:
    import dlt

PATIENCE_S = 120.0
_SSL_REQUEST = struct.pack("!ii", 8, 80_877_103)
"""Any client may send this first, see
https://www.postgresql.org/docs/current/protocol-message-formats.html"""
_LOCK_NOT_AVAILABLE = "55P03"
_BLOCKERS = """
SELECT a.pid, a.application_name, a.usename,
       to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), min(c.relname)
FROM pg_locks l
JOIN pg_stat_activity a ON a.pid = l.pid
JOIN pg_class c ON c.oid = l.relation
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND a.pid <> pg_backend_pid() AND n.nspname IN (%s, %s)
GROUP BY 1, 2, 3, 4 ORDER BY 4 LIMIT 3
"""
_log = get_logger("destination")
T = TypeVar("T")


@dataclass(frozen=True)
class AnswerTimeouts:
    """How long a server may take to answer. connect_s: a new connection. statement_s: a statement,
    before it is checked whether the server answers others; while it does, up to max_s."""

    connect_s: float = 10.0
    statement_s: float = 30.0
    max_s: float = 3600.0


@contextmanager
def bounded_waits(timeouts: AnswerTimeouts) -> Iterator[None]:
    """No connection of psycopg2 in this process waits longer than `timeouts`.

    Its calls would wait in C code, where neither time-outs nor signals end them.
    """
    from psycopg2 import extensions  # of an extra that not every destination needs

    before = extensions.get_wait_callback()
    extensions.set_wait_callback(lambda connection: _wait(connection, timeouts))
    try:
        yield
    finally:
        extensions.set_wait_callback(before)


def _wait(connection: Any, timeouts: AnswerTimeouts) -> None:
    """Wait until `connection` is done; psycopg2 closes it where this raises."""
    from psycopg2 import OperationalError, extensions

    began_s = time.monotonic()
    is_new = connection.status == extensions.STATUS_SETUP
    limit_s = timeouts.connect_s if is_new else timeouts.statement_s
    while (state := connection.poll()) != extensions.POLL_OK:
        silent_s = time.monotonic() - began_s
        if silent_s >= limit_s:
            if is_new or silent_s >= timeouts.max_s or not _is_alive(connection, timeouts):
                raise OperationalError(f"the server gave no answer within {limit_s:g} s")
            limit_s = silent_s + timeouts.statement_s
        wait_s = max(0.0, began_s + limit_s - time.monotonic())
        poller = select.poll()
        poller.register(
            connection, select.POLLIN if state == extensions.POLL_READ else select.POLLOUT
        )
        poller.poll(wait_s * 1000)


def _is_alive(connection: Any, timeouts: AnswerTimeouts) -> bool:
    """Whether the server answers a new client, as one that is only busy does."""
    known = connection.get_dsn_parameters()
    host = (known.get("hostaddr") or known.get("host") or "localhost").partition(",")[0]
    port = int((known.get("port") or "5432").partition(",")[0])
    try:
        with _socket(host, port, timeouts.connect_s) as asked:
            asked.settimeout(timeouts.connect_s)
            asked.sendall(_SSL_REQUEST)
            return len(asked.recv(1)) == 1
    except OSError:
        return False


def _socket(host: str, port: int, timeout_s: float) -> socket.socket:
    if not host.startswith("/"):
        return socket.create_connection((host, port), timeout_s)
    opened = socket.socket(socket.AF_UNIX)
    opened.settimeout(timeout_s)
    opened.connect(f"{host}/.s.PGSQL.{port}")
    return opened


@dataclass(frozen=True)
class Blocker:
    """A session that holds a lock on one of our tables. Its queries are never read.

    since: when its transaction began, UTC; None if the server hides that from our user.
    """

    pid: int
    application: str | None
    user: str | None
    since: str | None
    table: str

    def __str__(self) -> str:
        who = f"pid {self.pid} ({self.application or 'no application name'}"
        who += f", user {self.user})" if self.user else ")"
        since = f" since {self.since} UTC" if self.since else ""
        return f"{who} holds {self.table}{since}"


def wait_out_locks(
    work: Callable[[], T],
    blockers: Callable[[], Sequence[Blocker]],
    *,
    stop: threading.Event | None = None,
    clock: Clock | None = None,
) -> T:
    """The result of `work`, retried while another session's lock makes it fail.

    blockers: the sessions that may hold it. stop: when set, `work` isn't tried again.

    Raises:
        DestinationLocked: the lock was held for too long. Interrupted: a signal came.
    """
    clock = clock or SystemClock()
    began_s = clock.monotonic_s()
    while True:
        try:
            return work()
        except ConnectorError as error:
            if _LOCK_NOT_AVAILABLE not in [getattr(each, "pgcode", None) for each in chain(error)]:
                raise
            held, waited_s = list(blockers()), clock.monotonic_s() - began_s
            for known in [asdict(each) for each in held] or [{}]:
                _log.warning("destination.locked", **known, waited_s=round(waited_s))
            if stop is not None and stop.is_set():
                raise Interrupted(getattr(stop, "signal_number", 15)) from error
            if waited_s >= PATIENCE_S:
                raise DestinationLocked(
                    blockers=[str(each) for each in held],
                    pids=[each.pid for each in held],
                    waited_s=waited_s,
                ) from error


def blockers_of(pipeline: dlt.Pipeline, dataset: str) -> list[Blocker]:
    """Sessions that hold locks on the tables of a dataset; empty where the server doesn't say."""
    try:
        with pipeline.sql_client() as client:
            rows = client.execute_sql(_BLOCKERS, dataset, f"{dataset}_staging")
    except Exception as error:  # noqa: BLE001 - it only adds to a message
        _log.debug("destination.blockers_unknown", exc_info=error)
        return []
    return [Blocker(*row) for row in rows or ()]


# --- comments, keys and indexes -------------------------------------------------------------------

_COMMENTED = """
SELECT c.relname, a.attname, obj_description(c.oid, 'pg_class'), col_description(c.oid, a.attnum)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE n.nspname = %s AND c.relkind IN ('r', 'p')
"""
_INDEXED = """
SELECT c.relname, x.relname, i.indisprimary, i.indisvalid, a.attname
FROM pg_index i
JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_class x ON x.oid = i.indexrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
WHERE n.nspname = %s
"""
_KEY_NAME, _INDEX_NAME = "{}_hc_id", "{}_hc_prospect_id"
_AGAIN_S = {_LOCK_NOT_AVAILABLE: 3600.0}  # the session that holds it may end; else there is a cause
_AGAIN_MOST_S = 7 * 86_400.0
_TOO_BIG = "54000"


def write_comments(pipeline: dlt.Pipeline, dataset: str, tables: Iterable[str]) -> None:
    """Comment tables and columns that have no comment; a user's own stays. It takes locks that
    neither readers nor writers meet.

    Raises:
        DestinationError: a table belongs to another role, say.
    """
    with translated(), pipeline.sql_client() as client:
        columns: dict[str, list[str]] = {}
        commented = set[tuple[str, str | None]]()
        for table, column, of_table, of_column in client.execute_sql(_COMMENTED, dataset) or ():
            columns.setdefault(table, []).append(column)
            commented |= {(table, None)} if of_table else set()
            commented |= {(table, column)} if of_column else set()
        for table in set(tables) & columns.keys():
            name = client.make_qualified_table_name(table)
            statements = [
                comment_on(name, column, text)
                for column, text in comments(table, columns[table])
                if (table, column) not in commented
            ]
            if statements:
                client.execute_sql("; ".join(statements))


def make_keys(pipeline: dlt.Pipeline, dataset: str, tables: Mapping[str, Any]) -> list[str]:
    """Make the primary key on `id` of each list's table, an index on its `prospect_id`, and one on
    the `id` of its history, where they are missing. Others may read and write meanwhile; the key's
    last step locks its table for an instant. Returns what was made.

    tables: columns by table. Whatever is left of a failed try is dropped.

    Raises:
        DestinationError: there are doubled ids, a lock isn't free, or rights are missing.
    """
    made: list[str] = []
    with translated(), pipeline.sql_client() as client:
        indexes = [tuple(row) for row in client.execute_sql(_INDEXED, dataset) or ()]
        known = {name: ok for _, name, _, ok, _ in indexes}
        keyed = {table for table, _, is_primary, _, _ in indexes if is_primary}
        indexed = {(table, first) for table, _, _, ok, first in indexes if ok}
        for table in (name for name in CONTRACT if "id" in tables.get(name, ())):
            qualified = client.make_qualified_table_name(table)
            if table not in keyed:
                name = _KEY_NAME.format(table)
                what = f"UNIQUE INDEX CONCURRENTLY {name} ON {qualified} (id)"
                _make_index(client, dataset, what, name, known)
                constraint = f"ADD CONSTRAINT {name} PRIMARY KEY USING INDEX {name}"
                client.execute_sql(f"ALTER TABLE {qualified} {constraint}")
                made.append(name)
            for each, column, form in _indexes_of(table):
                if column in tables.get(each, ()) and (each, column) not in indexed:
                    name, on = form.format(each), client.make_qualified_table_name(each)
                    what = f"INDEX CONCURRENTLY {name} ON {on} ({column})"
                    _make_index(client, dataset, what, name, known)
                    made.append(name)
    return made


def _indexes_of(table: str) -> tuple[tuple[str, str, str], ...]:
    """(table, column, form of the name) of the indexes of a list and of its history, whose versions
    each pull looks up by their ids."""
    return (table, "prospect_id", _INDEX_NAME), (history_of(table), "id", _KEY_NAME)


def _make_index(client: Any, dataset: str, what: str, name: str, known: Mapping[str, bool]) -> None:
    """Outside of a transaction: only so can it be made while others write. known: indexes that are
    there, and whether they are complete."""
    if known.get(name):
        return
    drop = f"DROP INDEX IF EXISTS {quoted_name(dataset)}.{name}"
    if name in known:  # a try that was killed
        client.execute_sql(drop)
    try:
        client.execute_sql(f"CREATE {what}")
    except Exception:
        with suppress(Exception):  # the first error is the one to report
            client.execute_sql(drop)
        raise


def drop_keys(pipeline: dlt.Pipeline, dataset: str, tables: Iterable[str]) -> None:
    """Drop what `make_keys` has made of some tables.

    Raises:
        DestinationError: a lock isn't free, say.
    """
    with translated(), pipeline.sql_client() as client:
        for table in tables:
            name = client.make_qualified_table_name(table)
            key = _KEY_NAME.format(table)
            client.execute_sql(f"ALTER TABLE {name} DROP CONSTRAINT IF EXISTS {key}")
            for each, _, form in _indexes_of(table):
                index = f"{quoted_name(dataset)}.{form.format(each)}"
                client.execute_sql(f"DROP INDEX IF EXISTS {index}")


def is_too_big_for_an_index(error: BaseException) -> bool:
    """Whether a row was refused since one of its values is longer than an index can hold."""
    return any(
        getattr(each, "pgcode", None) == _TOO_BIG and "index" in str(each) for each in chain(error)
    )


def again_after_s(error: ConnectorError) -> float:
    """Seconds until keys that couldn't be made are tried again; logs why they couldn't."""
    codes = [getattr(each, "pgcode", None) for each in chain(error)]
    wait_s = min((_AGAIN_S[code] for code in codes if code in _AGAIN_S), default=_AGAIN_MOST_S)
    _log.warning(
        "destination.no_keys", why=describe(error), again_in_h=round(wait_s / 3600),
        note="tables have no primary key or index; everything else is as usual",
    )  # fmt: skip
    return wait_s
