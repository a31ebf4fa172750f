"""How the ledger names an API key: a keyed hash, so that the ledger never holds the key."""

from __future__ import annotations

import hashlib
import hmac
import secrets as randomness

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from connector.budget.database import Database
from connector.budget.schema import MIGRATIONS, secrets

_SALT = "key-salt"
_SALT_BYTES = 32


def key_id(api_key: str, database: Database) -> str:
    """32 hex digits that stand for `api_key` in this ledger; without the ledger's secret salt
    they can't be tried against guessed keys.

    Raises:
        BudgetError: the ledger can't be read or written.
    """
    database.migrate("budget", MIGRATIONS)
    with database.write() as connection:
        salt = connection.scalar(sa.select(secrets.c.value).where(secrets.c.name == _SALT))
        if salt is None:
            _add_salt(connection, database)
            salt = connection.scalar(sa.select(secrets.c.value).where(secrets.c.name == _SALT))
    assert salt is not None
    return hmac.new(bytes(salt), api_key.encode(), hashlib.sha256).hexdigest()[:32]


def _add_salt(connection: sa.Connection, database: Database) -> None:
    """Two processes may start at once on PostgreSQL: the first salt stays."""
    values = {"name": _SALT, "value": randomness.token_bytes(_SALT_BYTES)}
    if database.is_sqlite:
        connection.execute(sa.insert(secrets).values(values))
    else:
        insert = postgresql.insert(secrets).values(values)
        connection.execute(insert.on_conflict_do_nothing())
