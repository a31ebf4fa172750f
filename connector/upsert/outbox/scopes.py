"""Which receipts an API key works with: its own, or those of its account's key before it.

Keys get rotated; what an account has accepted stays accepted. The account is learnt from answers
of `GET /auth`, and a key that has sent something under its own number keeps that number.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from connector.budget.database import Database
from connector.upsert.outbox.schema import MIGRATIONS, receipts, scopes, writes
from connector.upsert.outbox.statements import insert_or_replace
from connector.upsert.outbox.states import State


class Scopes:
    """Keys, accounts and scopes of one outbox, all as numbers that stand for them."""

    def __init__(self, database: Database) -> None:
        database.migrate("outbox", MIGRATIONS)
        self._database = database

    def of(self, key: int) -> int:
        """The scope of `key`: another key's where both are known to be of one account."""
        with self._database.read() as connection:
            return _scope(connection, key) or key

    def is_worth_asking(self, key: int) -> bool:
        """Whether the account of `key` isn't known, and there is one whose receipts it may have."""
        with self._database.read() as connection:
            told = sa.select(scopes.c.key).where(scopes.c.key == key, scopes.c.told)
            others = sa.select(scopes.c.key).where(scopes.c.account.is_not(None))
            return (
                connection.scalar(told.limit(1)) is None
                and connection.scalar(others.limit(1)) is not None
                and not _has_own(connection, key)
            )

    def note(self, key: int, account: int | None) -> None:
        """`GET /auth` was answered with `account`; None: it names none."""
        with self._database.write() as connection:
            scope = _scope(connection, key)
            if scope is None and account is not None and not _has_own(connection, key):
                scope = connection.scalar(
                    sa.select(scopes.c.scope)
                    .where(scopes.c.account == account)
                    .order_by(scopes.c.sent_ms.desc().nulls_last(), scopes.c.key)
                    .limit(1)
                )
            facts = {"scope": scope or key, "account": account, "told": True}
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
                    .where(writes.c.scope == scope, writes.c.state == State.SENDING.value)
                    .values(idempotency_key=None)
                )
            row: dict[str, Any] = {"key": key, "scope": scope, "told": False, "sent_ms": at_ms}
            if _scope(connection, key) is None:
                connection.execute(sa.insert(scopes).values(row))
            else:
                connection.execute(
                    sa.update(scopes).where(scopes.c.key == key).values(sent_ms=at_ms)
                )


def _scope(connection: sa.Connection, key: int) -> int | None:
    return connection.scalar(sa.select(scopes.c.scope).where(scopes.c.key == key))


def _has_own(connection: sa.Connection, key: int) -> bool:
    """Whether something was sent or accepted under the number of `key` itself."""
    return any(
        connection.scalar(sa.select(sa.literal(1)).where(table.c.scope == key).limit(1))
        for table in (receipts, writes)
    )
