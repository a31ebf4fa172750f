"""Which people have changed by what events say, on disk until they are looked up.

On SQLite a file of its own next to the ledger, whose lock is the rate budget's; on PostgreSQL
tables of the ledger. Of a delivery, the prospect's id, the type of the event and times are kept,
never its body. A person waits once, however many events name them. Times are UTC epoch ms.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
import sqlalchemy as sa

from connector.budget.database import Database, create_missing, half_path, insert_into
from connector.clock import wall_ms
from connector.errors import ConnectorError, InboxFull, LedgerDamaged, Unexpected
from connector.logs import get_logger
from connector.settings import Settings
from connector.settings.folders import LEDGER, open_state_dir

SUFFIX = "-inbox"
EVENT_TYPES = ("prospect.created", "prospect.updated")
BEAT_S = 10.0  # between signs of life of a receiver
GAP_S = 45.0  # without one: deliveries may have been lost
SKEW_MS = 60_000  # between the clocks of machines that share a ledger
_AGAIN_MS = (30_000, 120_000, 600_000, 3_600_000)  # after so many look-ups that decided nothing
_COUNT_AGAIN_S = 5.0
_log = get_logger("webhooks")

_metadata = sa.MetaData()
_Account = sa.String(96)
_waiting = sa.Table(
    "webhook_waiting",
    _metadata,
    sa.Column("account", _Account, primary_key=True),
    sa.Column("prospect_id", sa.String(255), primary_key=True),
    sa.Column("first_ms", sa.BigInteger, nullable=False),
    sa.Column("last_ms", sa.BigInteger, nullable=False),
    sa.Column("deliveries", sa.Integer, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("again_ms", sa.BigInteger, nullable=False),
)
_types = sa.Table(
    "webhook_types",
    _metadata,
    sa.Column("account", _Account, primary_key=True),
    sa.Column("event_type", sa.String(64), primary_key=True),
    sa.Column("last_ms", sa.BigInteger, nullable=False),
    sa.Column("deliveries", sa.BigInteger, nullable=False),
)
_accounts = sa.Table(
    "webhook_accounts",
    _metadata,
    sa.Column("account", _Account, primary_key=True),
    sa.Column("alive_since_ms", sa.BigInteger),
    sa.Column("alive_ms", sa.BigInteger),
    sa.Column("unidentified", sa.BigInteger, nullable=False, default=0),
    sa.Column("unidentified_ms", sa.BigInteger),
    sa.Column("brought", sa.BigInteger, nullable=False, default=0),
    sa.Column("miss_rate", sa.Double),
    sa.Column("probed_ms", sa.BigInteger),
    sa.Column("probe_missed_ms", sa.BigInteger),
    sa.Column("notes", sa.Text, nullable=False, default="{}"),
)
MIGRATIONS = (partial(create_missing, _metadata),)


@dataclass(frozen=True)
class Arrival:
    """What is kept of one verified event. account: see `account_of`. prospect_id: None if none was
    found in it. event_type: empty if it names none."""

    account: str
    prospect_id: str | None
    event_type: str


@dataclass(frozen=True)
class ChangedPerson:
    """A person whom events name, not looked up since. deliveries: how many events."""

    prospect_id: str
    first_ms: int
    last_ms: int
    deliveries: int
    tries: int


@dataclass(frozen=True)
class EventFacts:
    """What is known of an account's events.

    last_ms, deliveries: by event type. alive_since_ms, alive_ms: since when a receiver has been
    running without a gap, and its last sign of life. unidentified, unidentified_ms: events in which
    no prospect was found. brought: changes that events have brought since the last full scan.
    miss_rate: the part of all changes that they hadn't, by that scan. probed_ms: when the poll feed
    was last compared; probe_missed_ms: when it had a person whom no event had named.
    waiting: how many people wait, the first one since oldest_ms. elsewhere: whether the account's
    receiver keeps events for another destination.
    """

    last_ms: Mapping[str, int] = field(default_factory=dict)
    deliveries: Mapping[str, int] = field(default_factory=dict)
    alive_since_ms: int | None = None
    alive_ms: int | None = None
    unidentified: int = 0
    unidentified_ms: int | None = None
    brought: int = 0
    miss_rate: float | None = None
    probed_ms: int | None = None
    probe_missed_ms: int | None = None
    waiting: int = 0
    oldest_ms: int | None = None
    elsewhere: bool = False

    @property
    def last_event_ms(self) -> int | None:
        return max(self.last_ms.values(), default=None)


def account_of(settings: Settings) -> str:
    """The key of an account in the inbox: its name, and where its rows go, since a person who has
    changed is to be looked up for each destination."""
    file = settings.duckdb_path.absolute() if settings.destination == "duckdb" else ""
    where = "\0".join((settings.destination, settings.dataset, str(file)))
    return f"{settings.account or 'default'}-{hashlib.sha256(where.encode()).hexdigest()[:16]}"


def _named(column: sa.Column[Any], account: str) -> sa.ColumnElement[bool]:
    """Whether it is the account's, for any destination."""
    return column.startswith(f"{account.rpartition('-')[0]}-", autoescape=True)


class Inbox:
    """Thread-safe. waiting_max: of an account. is_shared: `database` stays open after `close`.

    Raises:
        BudgetError: here and in every method: the database can't be used.
    """

    def __init__(
        self, database: Database, *, waiting_max: int = 1_000_000, is_shared: bool = False
    ) -> None:
        self._database, self._waiting_max, self._is_shared = database, waiting_max, is_shared
        self._counts: dict[str, tuple[int, float]] = {}  # at most so many wait, as of when
        database.migrate("webhooks", MIGRATIONS)
        self._file = self._identity()

    def is_in_place(self) -> bool:
        """False once its file was moved, removed or replaced: others don't see what is stored."""
        return self._file == self._identity()

    def _identity(self) -> tuple[int, int] | None:
        """Of the SQLite file at its path; None if there is none, or on PostgreSQL."""
        try:
            found = self._database.path and self._database.path.stat()
        except OSError:
            return None
        return (found.st_dev, found.st_ino) if found else None

    def close(self) -> None:
        if not self._is_shared:
            self._database.close()

    # --- receiving ------------------------------------------------------------------------------

    def store(self, arrivals: Sequence[Arrival], *, now_ms: int) -> None:
        """Keep what arrived, all or none; once this returns, it is on disk.

        Raises:
            InboxFull: too many people wait for their look-up.
        """
        people = _waiting_rows(arrivals, now_ms)
        with self._database.write() as connection:
            self._check_room(connection, people)
            if people:
                insert = insert_into(connection, _waiting)
                again = {
                    "last_ms": insert.excluded.last_ms, "tries": 0, "again_ms": 0,
                    "deliveries": _waiting.c.deliveries + insert.excluded.deliveries,
                }  # fmt: skip
                keys = ["account", "prospect_id"]
                connection.execute(
                    insert.on_conflict_do_update(index_elements=keys, set_=again), people
                )
            for account, event_type, count in _counted((a.account, a.event_type) for a in arrivals):
                self._count_type(connection, account, event_type, count, now_ms)
            for account, count in _counted((a.account,) for a in arrivals if not a.prospect_id):
                self._change(
                    connection, account, unidentified_ms=now_ms,
                    unidentified=_accounts.c.unidentified + count,
                )  # fmt: skip

    def _check_room(self, connection: sa.Connection, people: Sequence[Mapping[str, Any]]) -> None:
        for account, more in _counted((row["account"],) for row in people):
            known, at_s = self._counts.get(account, (self._waiting_max, 0.0))
            is_old = time.monotonic() - at_s > _COUNT_AGAIN_S
            if is_old or known + more > self._waiting_max:
                query = sa.select(sa.func.count()).where(_waiting.c.account == account)
                known, at_s = connection.scalar(query) or 0, time.monotonic()
            if known + more > self._waiting_max:
                raise InboxFull(waiting=known)
            self._counts[account] = known + more, at_s

    @staticmethod
    def _count_type(
        connection: sa.Connection, account: str, event_type: str, count: int, now_ms: int
    ) -> None:
        row = {"account": account, "event_type": event_type, "last_ms": now_ms}
        insert = insert_into(connection, _types).values(**row, deliveries=count)
        again = {"last_ms": now_ms, "deliveries": _types.c.deliveries + count}
        keys = ["account", "event_type"]
        connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=again))

    def beat(self, accounts: Iterable[str], *, now_ms: int) -> None:
        """A receiver of these accounts is running."""
        with self._database.write(to_disk=False) as connection:
            for account in sorted(accounts):
                query = sa.select(_accounts.c.alive_ms).where(_accounts.c.account == account)
                alive_ms = connection.scalar(query)
                is_gap = alive_ms is None or abs(now_ms - alive_ms) > GAP_S * 1000
                since = {"alive_since_ms": now_ms} if is_gap else {}
                self._change(connection, account, alive_ms=now_ms, **since)

    # --- looking up -----------------------------------------------------------------------------

    def waiting(self, account: str, most: int, *, now_ms: int) -> list[ChangedPerson]:
        """People to look up now, those who have waited longest first."""
        query = (
            sa.select(_waiting)
            .where(_waiting.c.account == account, _waiting.c.again_ms <= now_ms)
            .order_by(_waiting.c.first_ms, _waiting.c.prospect_id)
            .limit(most)
        )
        names = ("prospect_id", "first_ms", "last_ms", "deliveries", "tries")
        with self._database.read() as connection:
            return [
                ChangedPerson(**{name: row._mapping[name] for name in names})
                for row in connection.execute(query)
            ]

    def settle(self, account: str, people: Sequence[ChangedPerson], *, brought: int = 0) -> None:
        """What they look like now has landed; a person who was named again meanwhile stays.

        brought: how many of them had changed.
        """
        with self._database.write() as connection:
            for each in people:
                connection.execute(sa.delete(_waiting).where(*_same(account, each)))
            if brought:
                self._change(connection, account, brought=_accounts.c.brought + brought)

    def postpone(self, account: str, people: Sequence[ChangedPerson], *, now_ms: int) -> None:
        """Their look-ups decided nothing, and will be tried again, later each time."""
        with self._database.write() as connection:
            for each in people:
                wait_ms = _AGAIN_MS[min(each.tries, len(_AGAIN_MS) - 1)]
                again = {"tries": each.tries + 1, "again_ms": now_ms + wait_ms}
                change = sa.update(_waiting).where(*_same(account, each)).values(**again)
                connection.execute(change)

    def note_full_scan(
        self, account: str, *, scanned_ms: int, is_complete: bool, miss_rate: float | None = None
    ) -> int:
        """A full scan that began at `scanned_ms` has ended. If it is proven complete, people
        named before that need no look-up. Returns how many.

        miss_rate: by that scan; None: unknown, so the one before stays.
        """
        rate = {} if miss_rate is None else {"miss_rate": miss_rate}
        before = (_waiting.c.account == account, _waiting.c.last_ms < scanned_ms - SKEW_MS)
        with self._database.write() as connection:
            self._change(connection, account, brought=0, **rate)
            if not is_complete:
                return 0
            return int(connection.execute(sa.delete(_waiting).where(*before)).rowcount)

    def note_polled(self, account: str, ids: Sequence[str], *, now_ms: int) -> None:
        """The poll feed has these people, who are new."""
        people = _waiting_rows([Arrival(account, each, "") for each in ids], now_ms)
        with self._database.write() as connection:
            if people:
                insert = insert_into(connection, _waiting)
                connection.execute(insert.on_conflict_do_nothing(), people)

    def waiting_among(self, account: str, ids: Sequence[str]) -> set[str]:
        """Which of `ids` wait."""
        found: set[str] = set()
        with self._database.read() as connection:
            for first in range(0, len(ids), 500):
                some = list(ids[first : first + 500])
                named = (_waiting.c.account == account, _waiting.c.prospect_id.in_(some))
                found.update(connection.scalars(sa.select(_waiting.c.prospect_id).where(*named)))
        return found

    def forget(self, account: str, ids: Sequence[str], *, dry_run: bool = False) -> int:
        """Remove people, from what is kept for other destinations of the account too; how many
        entries. dry_run: only count."""
        removed = 0
        mine = _named(_accounts.c.account, account)
        with self._database.write(keeps=not dry_run) as connection:
            own = (_named(_waiting.c.account, account), _waiting.c.prospect_id.in_(ids))
            removed += connection.execute(sa.delete(_waiting).where(*own)).rowcount
            every = sa.select(_accounts.c.account, _accounts.c.notes).where(mine)
            for each, text in connection.execute(every).fetchall():
                notes = orjson.loads(text or "{}")
                polled = [id_ for id_ in notes.get("polled", ()) if id_ not in ids]
                if removing := len(notes.get("polled", ())) - len(polled):
                    removed += removing
                    changed = orjson.dumps({**notes, "polled": polled}).decode()
                    self._change(connection, each, notes=changed)
        return removed

    def scrub(self) -> bool:
        """See `Database.scrub`."""
        return self._database.scrub()

    # --- what is known --------------------------------------------------------------------------

    def facts(self, account: str) -> EventFacts:
        mine = _waiting.c.account == account
        named = _named(_accounts.c.account, account)
        others = sa.select(_accounts.c.account).where(
            named, _accounts.c.account != account, _accounts.c.alive_ms.is_not(None)
        )
        with self._database.read() as connection:
            elsewhere = connection.scalar(others.limit(1)) is not None
            types = connection.execute(sa.select(_types).where(_types.c.account == account)).all()
            row = connection.execute(
                sa.select(_accounts).where(_accounts.c.account == account)
            ).one_or_none()
            waiting, oldest_ms = connection.execute(
                sa.select(sa.func.count(), sa.func.min(_waiting.c.first_ms)).where(mine)
            ).one()
        own = {} if row is None else {name: row._mapping[name] for name in _OWN_FACTS}
        return EventFacts(
            last_ms={each.event_type: each.last_ms for each in types},
            deliveries={each.event_type: each.deliveries for each in types},
            waiting=waiting, oldest_ms=oldest_ms, elsewhere=elsewhere, **own,
        )  # fmt: skip

    def note_probe(self, account: str, *, now_ms: int, has_missed: bool) -> None:
        """The poll feed was compared with what is known."""
        missed = {"probe_missed_ms": now_ms} if has_missed else {}
        with self._database.write() as connection:
            self._change(connection, account, probed_ms=now_ms, **missed)

    def note_unidentified(self, account: str, count: int, *, now_ms: int) -> None:
        """Events named people whom neither the API nor the destination knows."""
        more = _accounts.c.unidentified + count
        with self._database.write() as connection:
            self._change(connection, account, unidentified=more, unidentified_ms=now_ms)

    def notes(self, account: str) -> dict[str, Any]:
        """What commands remember: subscriptions, requests of `watch`, the last poll."""
        with self._database.read() as connection:
            return _notes_of(connection, account)

    def change_notes(self, account: str, **changes: Any) -> None:
        with self._database.write() as connection:
            merged = orjson.dumps({**_notes_of(connection, account), **changes}).decode()
            self._change(connection, account, notes=merged)

    @staticmethod
    def _change(connection: sa.Connection, account: str, **changes: Any) -> None:
        insert = insert_into(connection, _accounts).values(account=account)
        connection.execute(insert.on_conflict_do_nothing())
        mine = _accounts.c.account == account
        connection.execute(sa.update(_accounts).where(mine).values(**changes))


def _notes_of(connection: sa.Connection, account: str) -> dict[str, Any]:
    text = connection.scalar(sa.select(_accounts.c.notes).where(_accounts.c.account == account))
    return dict(orjson.loads(text or "{}"))


_OWN_FACTS = {each.name for each in _accounts.c} - {"account", "notes"}


def open_inbox(settings: Settings, ledger: Database | None = None) -> Inbox:
    """The inbox that belongs to the settings' ledger. Close it after use.

    A damaged SQLite file is set aside, and a new one begun: who waited in it is found by the next
    full scan, and until then events don't count as followed.

    Raises:
        BudgetError: it can't be opened.
    """
    most = settings.webhooks.waiting_max
    url = settings.ledger_url or f"sqlite:///{open_state_dir(settings.state_dir) / LEDGER}"
    if ledger is not None and not ledger.is_sqlite:
        return Inbox(ledger, waiting_max=most, is_shared=True)
    try:
        return _opened(url, most)
    except LedgerDamaged as error:
        path = half_path(url, SUFFIX)
        if path is None:
            raise
        kept = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
        path.rename(kept)
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        _log.warning("webhooks.inbox_damaged", why=str(error), kept=str(kept))
        return _opened(url, most)


def find_inbox(settings: Settings, ledger: Database) -> Inbox | None:
    """The inbox, if anything has ever been received or polled; see `open_inbox`."""
    path = half_path(ledger.url, SUFFIX)
    is_there = ledger.version("webhooks") > 0 if path is None else path.exists()
    return open_inbox(settings, ledger) if is_there else None


def _opened(url: str, waiting_max: int) -> Inbox:
    database = Database(url, durable=True, suffix=SUFFIX)
    try:
        return Inbox(database, waiting_max=waiting_max)
    except BaseException:
        with closing(database):
            raise


def _waiting_rows(arrivals: Iterable[Arrival], now_ms: int) -> list[dict[str, Any]]:
    """A row per person, in an order that two receivers share, so that they don't lock each other
    out on PostgreSQL."""
    named = ((each.account, each.prospect_id) for each in arrivals if each.prospect_id)
    times = {"first_ms": now_ms, "last_ms": now_ms, "tries": 0, "again_ms": 0}
    return [
        {"account": account, "prospect_id": prospect_id, "deliveries": count, **times}
        for account, prospect_id, count in _counted(named)
    ]


def _counted(keys: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Each key once, in order, with how often it came."""
    return [(*key, count) for key, count in sorted(Counter(keys).items())]


def _same(account: str, each: ChangedPerson) -> tuple[Any, ...]:
    """The person's row, unless another event has come."""
    return (
        _waiting.c.account == account,
        _waiting.c.prospect_id == each.prospect_id,
        _waiting.c.deliveries == each.deliveries,
        _waiting.c.last_ms == each.last_ms,
    )


# --- writing ------------------------------------------------------------------------------------


class InboxWriter:
    """Stores what several requests have brought in one transaction, in a thread of its own."""

    def __init__(self, open_inbox: Callable[[], Inbox], accounts: set[str]) -> None:
        self._open_inbox, self._accounts = open_inbox, accounts
        self._changed = threading.Condition()
        self._pending: list[tuple[Sequence[Arrival], Future[None]]] = []
        self._inbox: Inbox | None = None
        self._beat_s = -BEAT_S
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def start(self) -> None:
        """A second call does nothing."""
        with self._changed:
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)
                self._thread.start()

    def put(self, arrivals: Sequence[Arrival]) -> Future[None]:
        """Done once they are on disk; fails with a ConnectorError."""
        stored: Future[None] = Future()
        with self._changed:
            self._pending.append((arrivals, stored))
            self._changed.notify()
        return stored

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not (self._pending or self._is_closed):
                    left_s = self._beat_s + BEAT_S - time.monotonic()
                    self._changed.wait(max(0.0, left_s))
                taken, self._pending = self._pending, []
                is_last = self._is_closed and not taken
            if is_last:
                if self._inbox is not None:
                    self._inbox.close()
                return
            try:
                self._write([each for arrivals, _ in taken for each in arrivals])
            except Exception as error:  # noqa: BLE001 - the thread must survive whatever it is
                self._failed(error, [stored for _, stored in taken])
            else:
                for _, stored in taken:
                    if stored.set_running_or_notify_cancel():
                        stored.set_result(None)

    def _write(self, arrivals: Sequence[Arrival]) -> None:
        self._inbox = self._inbox or self._open_inbox()
        now_ms, now_s = wall_ms(), time.monotonic()
        if now_s - self._beat_s >= BEAT_S:
            self._inbox.beat(self._accounts, now_ms=now_ms)
            self._beat_s = now_s
        if arrivals:
            self._inbox.store(arrivals, now_ms=now_ms)
        if not self._inbox.is_in_place():  # looked at last: what went into the old file is lost
            _log.warning("webhooks.inbox_replaced")
            self._inbox.close()
            self._inbox, self._beat_s = self._open_inbox(), now_s
            self._inbox.beat(self._accounts, now_ms=now_ms)
            self._inbox.store(arrivals, now_ms=now_ms)

    def _failed(self, error: Exception, waiting: Sequence[Future[None]]) -> None:
        if not isinstance(error, ConnectorError):
            _log.debug("webhooks.unexpected", exc_info=error)
            error = Unexpected(error, doing="storing events")
        _log.warning("webhooks.inbox_failed", why=str(error))
        for stored in waiting:
            if stored.set_running_or_notify_cancel():
                stored.set_exception(error)
        inbox, self._inbox = self._inbox, None  # opened again for the next
        if inbox is not None:
            with suppress(Exception):
                inbox.close()
        self._beat_s = time.monotonic() - BEAT_S + 1.0
