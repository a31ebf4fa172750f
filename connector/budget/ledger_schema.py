"""The tables of the rate budget, and the id of an API key in them.

`spent` numbers the ended requests of a key (`seq`, and `push_seq` for those of the push lane).
`end_s` is set under the ledger's lock, so it rises with `seq`: the number of requests that still
count is the difference of two sequence numbers, and the `end_s` of one row tells when the next
leaves. Rows are never counted one by one. All times are seconds of the ledger's own clock.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets as randomness
import sqlite3
from contextlib import closing

import sqlalchemy as sa

from connector.budget.database import Database, half_path, insert_into

metadata = sa.MetaData()
_Number = sa.BigInteger
_Key = sa.String(32)
_Seconds = sa.Double

secrets = sa.Table(
    "budget_secrets",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)

clocks = sa.Table(
    "budget_clocks",
    metadata,
    sa.Column("boot", sa.String(64), primary_key=True),
    sa.Column("offset_s", _Seconds, nullable=False),
    sa.Column("reading_s", _Seconds, nullable=False),
    sa.Column("ledger_s", _Seconds, nullable=False),
    sa.Column("wall_s", _Seconds, nullable=False),
)

keys = sa.Table(
    "budget_keys",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    sa.Column("next_permit", _Number, nullable=False),
    sa.Column("seq", _Number, nullable=False),
    sa.Column("push_seq", _Number, nullable=False),
    sa.Column("pruned_seq", _Number, nullable=False),
    sa.Column("pruned_push_seq", _Number, nullable=False),
    sa.Column("last_end_s", _Seconds, nullable=False),
    sa.Column("last_grant_s", _Seconds),
    sa.Column("latency_s", _Seconds),
    sa.Column("keep_s", _Seconds, nullable=False),
    sa.Column("learnt", sa.Text, nullable=False),
    sa.Column("past_pulls", sa.Text, nullable=False),
)

outstanding = sa.Table(
    "budget_outstanding",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    sa.Column("id", _Number, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.String(32), nullable=False),
    sa.Column("push", sa.Integer, nullable=False),
    sa.Column("granted_s", _Seconds, nullable=False),
    sa.Column("awaited_until_s", _Seconds, nullable=False),
    sa.Column("deadline_s", _Seconds, nullable=False),
)

spent = sa.Table(
    "budget_spent",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    sa.Column("seq", _Number, primary_key=True, autoincrement=False),
    sa.Column("push_seq", _Number, nullable=False),
    sa.Column("granted_s", _Seconds, nullable=False),
    sa.Column("end_s", _Seconds, nullable=False),
    sa.Index("budget_spent_by_end", "key", "end_s", "seq", "push_seq"),
    sa.Index("budget_spent_by_push", "key", "push_seq", "end_s"),
)

owners = sa.Table(
    "budget_owners",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    sa.Column("owner", sa.String(32), primary_key=True),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("command", sa.String(255), nullable=False),
    sa.Column("since_s", _Seconds, nullable=False),
    sa.Column("seen_s", _Seconds, nullable=False),
    # callers that wait for a permit, and until when that counts
    sa.Column("waiting_pull", sa.Integer, nullable=False),
    sa.Column("waiting_push", sa.Integer, nullable=False),
    sa.Column("pull_since_s", _Seconds, nullable=False),  # not used any more
    sa.Column("push_since_s", _Seconds, nullable=False),  # not used any more
    sa.Column("valid_until_s", _Seconds, nullable=False),
    # what this process reads; see `lanes.RunningPull`
    sa.Column("pull_declared", sa.Integer, nullable=False),
    sa.Column("pull_seen_s", _Seconds, nullable=False),
    sa.Column("pull_requests", sa.Integer, nullable=False),
    sa.Column("pull_expected", sa.Integer),
    sa.Column("pull_chains", sa.Integer, nullable=False),
    sa.Column("pull_latency_s", _Seconds),
)

MIGRATIONS = (metadata.create_all,)

OUTBOX_SUFFIX = "-outbox"
SALT_COPY = "key-salt"  # name of the copy among the outbox's salts
_SALT = "key-salt"
_COPY = "SELECT value FROM outbox_salts WHERE name = :name"


def key_id(api_key: str, database: Database) -> str:
    """32 hex digits that identify `api_key` in this ledger, which never contains the key. Without
    the ledger's secret salt they can't be used to test guessed keys.

    Raises:
        BudgetError: the ledger can't be read or written.
    """
    database.migrate("budget", MIGRATIONS)
    with database.read() as connection:
        salt = salt_of(connection)
    if salt is None:
        with database.write() as connection:
            salt = _new_salt(connection, database)
    return hmac.new(bytes(salt), api_key.encode(), hashlib.sha256).hexdigest()[:32]


def salt_of(connection: sa.Connection) -> bytes | None:
    """The salt of a ledger's key ids, of which its outbox keeps a copy."""
    return connection.scalar(sa.select(secrets.c.value).where(secrets.c.name == _SALT))


def _new_salt(connection: sa.Connection, database: Database) -> bytes:
    """A new budget takes the copy of an existing outbox: with another salt, the key's earlier
    writes would not be found. Of two processes that start at once, the first one's salt stays."""
    salt = _salt_of_outbox(connection, database) or randomness.token_bytes(32)
    insert = insert_into(connection, secrets).values(name=_SALT, value=salt)
    connection.execute(insert.on_conflict_do_nothing())
    return salt_of(connection) or salt


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
    except sqlite3.Error:  # damaged, or without the table: opening the outbox reports that
        return None
    return found[0] if found else None
