"""PostgreSQL: no statement waits without limit, neither for another session's lock nor for a reply.

An analyst's open transaction holds its tables against ALTER TABLE, and behind the waiting ALTER
TABLE every other reader waits too. So each of our statements gives up after a moment and is tried
again; in between, the log names the session that holds the lock, and signals are handled.

A server that hangs, or whose machine does, sends nothing at all, and the system keeps such a
connection open for hours.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from connector.clock import Clock, SystemClock
from connector.errors import ConnectorError, DestinationLocked, Interrupted
from connector.logs import get_logger
from pipelines.destination.load_errors import chain

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
    patience_s: float = PATIENCE_S,
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
            if waited_s >= patience_s:
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
