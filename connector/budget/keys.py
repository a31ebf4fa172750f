"""How the ledger names an API key: a keyed hash, so that the ledger never holds the key."""

from __future__ import annotations

import hashlib
import hmac
import secrets as randomness
import sqlite3
from contextlib import closing

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from connector.budget.database import Database, half_path
from connector.budget.schema import MIGRATIONS, secrets

OUTBOX_SUFFIX = "-outbox"
SALT_COPY = "key-salt"  # its name among the outbox's own salts
_COPY = "SELECT value FROM outbox_salts WHERE name = :name"
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
        salt = salt_of(connection)
        if salt is None:
            _add_salt(connection, database)
            salt = salt_of(connection)
    assert salt is not None
    return hmac.new(bytes(salt), api_key.encode(), hashlib.sha256).hexdigest()[:32]


def _add_salt(connection: sa.Connection, database: Database) -> None:
    """Two processes may start at once on PostgreSQL: the first salt stays.

    A budget that was lost beside its outbox takes the outbox's copy: with another salt, what the
    key has sent would be found under no number.
    """
    known = _salt_of_outbox(connection, database)
    values = {"name": _SALT, "value": known or randomness.token_bytes(_SALT_BYTES)}
    if database.is_sqlite:
        connection.execute(sa.insert(secrets).values(values))
    else:
        insert = postgresql.insert(secrets).values(values)
        connection.execute(insert.on_conflict_do_nothing())


def _salt_of_outbox(connection: sa.Connection, database: Database) -> bytes | None:
    path = half_path(database.url, OUTBOX_SUFFIX)
    if path is None:
        there = sa.inspect(connection).has_table("outbox_salts")
        return connection.scalar(sa.text(_COPY), {"name": SALT_COPY}) if there else None
    if not path.exists() or not path.stat().st_size:
        return None
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as outbox:
            found = outbox.execute(_COPY, {"name": SALT_COPY}).fetchone()
    except sqlite3.Error:  # damaged, or without the table: whoever opens it will say so
        return None
    return found[0] if found else None


def salt_of(connection: sa.Connection) -> bytes | None:
    """The salt of a ledger's keys, for its outbox to keep a copy of."""
    return connection.scalar(sa.select(secrets.c.value).where(secrets.c.name == _SALT))
