"""Which outbox and which receipts an API key works with.

The ledger and its outbox share a token and a number that rises with each push. An outbox that is
missing, emptied, replaced, or an older copy of itself doesn't know all that was sent, so every step
of a push checks the pair. A new ledger adopts an existing outbox.

Keys get rotated; what an account has accepted stays accepted. The account comes from the answer of
`GET /auth`; a key that has sent something under its own scope keeps that scope.
"""

from __future__ import annotations

import os
import secrets as randomness
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from connector.budget.database import Database, forget_version, half_path, table_names
from connector.budget.ledger_schema import MIGRATIONS as BUDGET_MIGRATIONS
from connector.budget.ledger_schema import OUTBOX_SUFFIX, SALT_COPY, salt_of, secrets
from connector.errors import LedgerDamaged, LedgerUnusable, OutboxLost
from connector.logs import get_logger
from connector.upsert.outbox.forgotten import share_list
from connector.upsert.outbox.outbox import WriteState
from connector.upsert.outbox.outbox_schema import (
    MIGRATIONS,
    aliases,
    attached,
    insert_new,
    insert_or_replace,
    receipts,
    results,
    salts,
    scopes,
    writes,
)

_TOKEN, _PUSHES, _LOOK_FIRST = "token", "pushes", "look-first"  # among the outbox's salts
_OUTBOX_TOKEN, _OUTBOX_PUSHES = "outbox-token", "outbox-pushes"  # among the budget's secrets
_PAIRING_LOCK = 7_466_104_402
_HEADER_BYTES = 100  # https://www.sqlite.org/fileformat.html#the_database_header
_VANISHED = "has vanished"
_EMPTIED = "is empty"
_REPLACED = "was replaced by another"
_DAMAGED = "is damaged"
_FIRST_TABLES = {table.name for table in (writes, aliases, receipts, attached, results)}
_log = get_logger("outbox")


@dataclass
class OpenOutbox:
    """An outbox that is proven to be the ledger's own. Close it after use.

    look_first_ms: until when (ledger's clock) people who aren't known here are looked up before
    a write, since an outbox was lost; 0: it never was. knows_nothing: no push has used it yet.
    started_now: because an outbox was lost.
    """

    database: Database
    look_first_ms: int = 0
    knows_nothing: bool = False
    started_now: bool = False

    def close(self) -> None:
        self.database.close()


class _TokenProof:
    """Proof for each write transaction, at the price of a stat and a row."""

    def __init__(self, database: Database, token: bytes) -> None:
        self._name, self._path, self._token = database.name, database.path, token
        if self._path is not None:
            found = self._path.stat()
            self._file, self._size = (found.st_dev, found.st_ino), found.st_size

    def of_file(self) -> None:
        """SQLite keeps using a file that has no name any more."""
        if self._path is None:
            return
        try:
            found = self._path.stat()
        except FileNotFoundError:
            raise self._lost(_VANISHED) from None
        except OSError as error:
            raise self._lost(f"can't be seen: {error.strerror}") from error
        if (found.st_dev, found.st_ino) != self._file:
            raise self._lost(_REPLACED)
        if found.st_size < self._size and _is_cut(self._path, found):
            raise self._lost("was emptied or cut")
        self._size = found.st_size

    def of_rows(self, connection: sa.Connection) -> None:
        try:
            token = _value(connection, salts, _TOKEN)
        except (sa.exc.ProgrammingError, sa.exc.OperationalError) as error:
            if isinstance(error, sa.exc.OperationalError) and "no such table" not in str(error):
                raise
            raise self._lost("has lost its tables") from error
        if token != self._token:
            raise self._lost(_REPLACED if token else _EMPTIED)

    def of_failure(self, error: LedgerUnusable) -> None:
        self.of_file()  # one that was emptied looks damaged first
        if isinstance(error, LedgerDamaged):
            raise self._lost(_DAMAGED) from error

    def _lost(self, reason: str) -> OutboxLost:
        return OutboxLost(outbox=self._name, reason=reason)


def _is_cut(path: Path, found: os.stat_result) -> bool:
    """Whether a SQLite file that has shrunk lacks some of its pages: a push of another account, for
    one, has made it smaller as a whole (`Database.scrub`)."""
    header, size = os.pread(_descriptor(path, found.st_ino), _HEADER_BYTES, 0), found.st_size
    if len(header) < _HEADER_BYTES:
        return True
    page_bytes = int.from_bytes(header[16:18], "big")
    pages = int.from_bytes(header[28:32], "big")
    return size < pages * (page_bytes if page_bytes > 1 else 65_536)


@cache
def _descriptor(path: Path, _inode: int) -> int:
    """Stays open: to close it would free the locks that SQLite has on this file."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def open_outbox(
    ledger: Database, *, look_first_until_ms: int, new_ledger: bool = False
) -> OpenOutbox:
    """The outbox of `ledger`: its own file next to a SQLite ledger, where a long write blocks no
    permit; on PostgreSQL the ledger's database.

    new_ledger: where it was lost or never was, start one that looks people up first, until
    `look_first_until_ms` of the ledger's clock. Whether it is damaged is then seen by reading all
    of it: else each push may find it when it is half done.

    Raises:
        OutboxLost: the ledger had another one.
    """
    ledger.migrate("budget", BUDGET_MIGRATIONS)
    with ledger.write() as connection:
        if not ledger.is_sqlite:  # one process at a time looks at the pair
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_PAIRING_LOCK)))
        token = _value(connection, secrets, _OUTBOX_TOKEN)
        pushes = _number(_value(connection, secrets, _OUTBOX_PUSHES))
        path = half_path(ledger.url, OUTBOX_SUFFIX)
        reason = None if path is None else _why_not_opened(path, is_known=token is not None)
        database: Database | None = None
        try:
            if reason is None:
                database = Database(ledger.url, durable=True, suffix=OUTBOX_SUFFIX)
                reason = _why_lost(database, token, pushes, reads_all=new_ledger)
            if reason is not None:
                name = ledger.name if path is None else str(path)
                if not new_ledger:
                    raise OutboxLost(outbox=name, reason=reason)
                _log.warning("outbox.started_new", outbox=name, former=reason)
                database = _started_new(ledger, database, path)
            assert database is not None
            opened = _paired(connection, database, None if reason else token)
            if new_ledger and (reason is not None or opened.knows_nothing):
                opened.look_first_ms, opened.started_now = look_first_until_ms, True
                with database.write() as outbox:
                    _put(outbox, salts, _LOOK_FIRST, _bytes(look_first_until_ms))
        except BaseException as error:
            if database is not None:
                database.close()
                if isinstance(error, LedgerDamaged) and error.ledger == database.name:
                    raise OutboxLost(outbox=database.name, reason=_DAMAGED) from error
            raise
    return opened


def count_push(ledger: Database, outbox: Database) -> None:
    """A push begins: outbox and ledger count it, the outbox first. Its lock is held."""
    with outbox.write() as connection:
        pushes = _number(_value(connection, salts, _PUSHES))
    with ledger.write() as connection:
        pushes = max(pushes, _number(_value(connection, secrets, _OUTBOX_PUSHES))) + 1
    with outbox.write() as connection:
        _put(connection, salts, _PUSHES, _bytes(pushes))
    with ledger.write() as connection:
        _put(connection, secrets, _OUTBOX_PUSHES, _bytes(pushes))


def _why_not_opened(path: Path, *, is_known: bool) -> str | None:
    """Why the file can't be the ledger's outbox; None: it may be. is_known: the ledger has one."""
    if path.is_dir():
        return "is a folder"
    if not is_known:
        return None
    if not path.exists():
        return _VANISHED
    return None if path.stat().st_size else _EMPTIED


def _why_lost(
    database: Database, token: bytes | None, pushes: int, *, reads_all: bool
) -> str | None:
    """Why this isn't the outbox that the ledger remembers; None: it is, or none is remembered."""
    try:
        with database.read() as connection:
            tables = table_names(connection)
            found = _value(connection, salts, _TOKEN) if salts.name in tables else None
            own_pushes = _number(_value(connection, salts, _PUSHES)) if found else 0
            if reads_all and database.is_sqlite:
                check = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
                if check != "ok":
                    return _DAMAGED
    except LedgerDamaged:
        return _DAMAGED
    if token is None:
        return None
    if found is None:
        return _EMPTIED
    if found != token:
        return _REPLACED
    if _FIRST_TABLES - tables:
        return "has lost tables"
    older = "is an older copy of itself: pushes have used a newer one since"
    return older if own_pushes < pushes else None


def _started_new(ledger: Database, lost: Database | None, path: Path | None) -> Database:
    """Another outbox; a file that isn't ours any more is renamed and kept."""
    if lost is not None:
        lost.close()
    if path is not None:
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
        for ending in ("", "-wal", "-shm"):
            file = path.with_name(path.name + ending)
            if file.exists():
                file.replace(path.with_name(f"{path.stem}.lost-{stamp}{path.suffix}{ending}"))
    database = Database(ledger.url, durable=True, suffix=OUTBOX_SUFFIX)
    if not database.is_sqlite:  # what is left of it stays, and counts
        with database.write() as connection:
            forget_version(connection, "outbox")
            if salts.name in table_names(connection):
                connection.execute(sa.delete(salts).where(salts.c.name.in_([_TOKEN, _PUSHES])))
    return database


def _paired(connection: sa.Connection, database: Database, token: bytes | None) -> OpenOutbox:
    """Both sides hold the same token; the outbox has it first, so that a kill between is healed."""
    database.migrate("outbox", MIGRATIONS)
    with database.write() as outbox:
        found = _value(outbox, salts, _TOKEN)
        if database.is_sqlite and (found is None or token is None):
            share_list(connection, outbox)
        if found is None:
            found = randomness.token_bytes(32)
            _put(outbox, salts, _TOKEN, found)
        elif token is None:
            _log.warning("outbox.adopted", why="the ledger's budget is new, its outbox isn't")
            # their ages are of a clock that is gone: they are looked up before they are repeated
            outbox.execute(
                sa.update(writes)
                .where(writes.c.state == WriteState.SENDING.value)
                .values(sent_ms=None)
            )
        if (salt := salt_of(connection)) is not None:
            _put(outbox, salts, SALT_COPY, salt)
        look_first_ms = _number(_value(outbox, salts, _LOOK_FIRST))
        is_used = _value(outbox, salts, _PUSHES) is not None or _is_used(outbox)
    if found != token:
        _put(connection, secrets, _OUTBOX_TOKEN, found)
        _put(connection, secrets, _OUTBOX_PUSHES, _bytes(0))
    database.require(_TokenProof(database, found))
    return OpenOutbox(database, look_first_ms, knows_nothing=not is_used)


def _value(connection: sa.Connection, table: sa.Table, name: str) -> bytes | None:
    found = connection.scalar(sa.select(table.c.value).where(table.c.name == name))
    return None if found is None else bytes(found)


def _put(connection: sa.Connection, table: sa.Table, name: str, value: bytes) -> None:
    insert_or_replace(connection, table, [{"name": name, "value": value}])


def _bytes(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _number(value: bytes | None) -> int:
    return int.from_bytes(value or b"", "big")


class Scopes:
    """Keys, accounts and scopes of one outbox, all as numbers that stand for them."""

    def __init__(self, database: Database) -> None:
        database.migrate("outbox", MIGRATIONS)
        self._database = database

    def of(self, key: int) -> int:
        """The scope of `key`: another key's where both are known to be of one account."""
        with self._database.read() as connection:
            return _scope(connection, key) or key

    def of_account(self, key: int) -> frozenset[int]:
        """Every scope of the account of `key`, those of its former keys too."""
        with self._database.read() as connection:
            account = sa.select(scopes.c.account).where(scopes.c.key == key).scalar_subquery()
            same = sa.select(scopes.c.scope).where(scopes.c.account == account)
            return frozenset({key, _scope(connection, key) or key, *connection.scalars(same)})

    def is_worth_asking(self, key: int) -> bool:
        """Whether the account of `key` isn't known, and there is one whose receipts it may have."""
        asked = sa.select(scopes.c.key).where(scopes.c.key == key, scopes.c.asked).limit(1)
        others = sa.select(scopes.c.key).where(scopes.c.account.is_not(None)).limit(1)
        with self._database.read() as connection:
            return (
                connection.scalar(asked) is None
                and connection.scalar(others) is not None
                and not _is_used(connection, key)
            )

    def is_known(self, key: int) -> bool:
        """Whether it is known with whose receipts `key` works: its account was asked for, or it has
        sent something."""
        row = sa.select(scopes.c.key).where(scopes.c.key == key).limit(1)
        with self._database.read() as connection:
            return connection.scalar(row) is not None or _is_used(connection, key)

    def note(self, key: int, account: int | None) -> None:
        """`GET /auth` was answered with `account`; None: it names none."""
        with self._database.write() as connection:
            scope = _scope(connection, key)
            if scope is None and account is not None and not _is_used(connection, key):
                scope = connection.scalar(
                    sa.select(scopes.c.scope)
                    .where(scopes.c.account == account)
                    .order_by(scopes.c.sent_ms.desc().nulls_last(), scopes.c.key)
                    .limit(1)
                )
            facts = {"scope": scope or key, "account": account, "asked": True}
            insert_or_replace(connection, scopes, [{"key": key, **facts}])

    def begin(self, key: int, at_ms: int) -> None:
        """A push with `key` begins; the scope's lock is held.

        The API may know an idempotency key only together with the API key it came with. So writes
        that another API key left unanswered lose theirs: their fate is looked up instead.
        """
        with self._database.write() as connection:
            scope = _scope(connection, key) or key
            before = connection.scalar(
                sa.select(scopes.c.key)
                .where(scopes.c.scope == scope, scopes.c.sent_ms.is_not(None))
                .order_by(scopes.c.sent_ms.desc())
                .limit(1)
            )
            if (before or scope) != key:
                connection.execute(
                    sa.update(writes)
                    .where(writes.c.scope == scope, writes.c.state == WriteState.SENDING.value)
                    .values(idempotency_key=None)
                )
            row = {"key": key, "scope": scope, "asked": False}
            insert_new(connection, scopes, [row])
            sent = sa.update(scopes).where(scopes.c.key == key).values(sent_ms=at_ms)
            connection.execute(sent)


def _scope(connection: sa.Connection, key: int) -> int | None:
    return connection.scalar(sa.select(scopes.c.scope).where(scopes.c.key == key))


def _is_used(connection: sa.Connection, scope: int | None = None) -> bool:
    """Whether something was sent or accepted, under the number of this very scope."""
    return any(
        connection.scalar(
            sa.select(sa.literal(1))
            .where(sa.true() if scope is None else table.c.scope == scope)
            .select_from(table)
            .limit(1)
        )
        for table in (receipts, writes)
    )
