"""The tables of the outbox, one SQL schema for SQLite and PostgreSQL, and inserts for both.

`scope` stands for one account, by the API key first used for it: what is proven with one key says
nothing about another's account (see `pairing.Scopes`). Emails and phones are in no column: an alias
is a keyed hash of one. What a person's write holds (`body`, `row_values`) is dropped as soon as its
fate is known. Times are UTC epoch milliseconds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import orjson
import sqlalchemy as sa

from connector.budget.database import Prepared, create_missing, insert_into, run_as_it_is

metadata = sa.MetaData()

_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_Hash = sa.LargeBinary(16)


def _number_key(name: str) -> sa.Column[int]:
    """A column of the primary key whose numbers are given, not counted."""
    return sa.Column(name, sa.BigInteger, primary_key=True, autoincrement=False)


def _table_of_scope(name: str, *more: sa.Column[Any] | sa.Index) -> sa.Table:
    """A table whose rows are found by their scope, then by the rest of the key; SQLite keeps them
    in that order."""
    return sa.Table(name, metadata, _number_key("scope"), *more, sqlite_with_rowid=False)


salts = sa.Table(
    "outbox_salts",
    metadata,
    sa.Column("name", sa.String(16), primary_key=True),
    sa.Column("value", sa.LargeBinary(32), nullable=False),
)

writes = sa.Table(
    "outbox_writes",
    metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    sa.Column("scope", sa.BigInteger, nullable=False),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("source", sa.String(512), nullable=False),
    sa.Column("row_number", sa.BigInteger, nullable=False),
    sa.Column("position", sa.SmallInteger, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("person", sa.BigInteger, nullable=False),
    sa.Column("email_alias", sa.BigInteger),
    sa.Column("phone_alias", sa.BigInteger),
    sa.Column("row_alias", sa.BigInteger),
    sa.Column("content", _Hash, nullable=False),
    sa.Column("prospect_id", sa.String(256)),
    sa.Column("stale", sa.Boolean, nullable=False),
    sa.Column("creates", sa.Boolean),
    sa.Column("body", sa.LargeBinary),
    sa.Column("settles", sa.LargeBinary),
    sa.Column("guard", sa.LargeBinary),
    sa.Column("exported", sa.LargeBinary),
    sa.Column("seen", sa.LargeBinary),
    sa.Column("seen_ms", sa.BigInteger),
    sa.Column("row_values", sa.LargeBinary),
    sa.Column("note", sa.Text),
    sa.Column("idempotency_key", sa.String(64)),
    sa.Column("planned_ms", sa.BigInteger, nullable=False),
    sa.Column("sent_ms", sa.BigInteger),
    sa.Column("sent_server_ms", sa.BigInteger),
    sa.Column("closed_ms", sa.BigInteger),
    sa.Column("outcome", sa.String(16)),
    sa.Index("outbox_writes_by_row", "scope", "state", "run_id", "row_number", "position"),
    sa.Index("outbox_writes_by_age", "scope", "planned_ms"),
)

aliases = _table_of_scope(
    "outbox_aliases",
    _number_key("alias"),
    sa.Column("kind", sa.String(5), nullable=False),
    sa.Column("prospect_id", sa.String(256), nullable=False),
    sa.Column("confirmed", sa.Boolean, nullable=False),
    sa.Index("outbox_aliases_by_prospect", "prospect_id"),
)

receipts = _table_of_scope(
    "outbox_receipts",
    sa.Column("prospect_id", sa.String(256), primary_key=True),
    sa.Column("tail", sa.LargeBinary, nullable=False),
    sa.Column("accepted_ms", sa.BigInteger, nullable=False),
    sa.Column("updated_at_ms", sa.BigInteger),
    sa.Column("seen_ms", sa.BigInteger, nullable=False),
    sa.Column("names", sa.LargeBinary),
    sa.Column("before_ms", sa.BigInteger),
    sa.Column("written_ms", sa.BigInteger),
)

# which first names each source has settled on which person (see `matching`)
settled_names = _table_of_scope(
    "outbox_settled_names",
    sa.Column("prospect_id", sa.String(256), primary_key=True),
    _number_key("source"),
    _number_key("name"),
    sa.Column("created", sa.Boolean, nullable=False),
)

disputed = _table_of_scope(
    "outbox_disputed",
    _number_key("alias"),
    sa.Column("expected_id", sa.String(256), nullable=False),
    sa.Column("answered_id", sa.String(256), nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
)

attached = _table_of_scope(
    "outbox_attached",
    sa.Column("prospect_id", sa.String(256), primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("content", _Hash, primary_key=True),
    sa.Column("seen_ms", sa.BigInteger, nullable=False),
)

# rows that were notes, tasks or meetings on their own: by what identifies the row
activity_rows = _table_of_scope(
    "outbox_activity_rows",
    _number_key("alias"),
    sa.Column("prospect_id", sa.String(256), nullable=False),
    sa.Column("record_id", sa.String(256)),
    sa.Column("content", _Hash, nullable=False),
    sa.Column("seen_ms", sa.BigInteger, nullable=False),
)

results = sa.Table(
    "push_results",
    metadata,
    sa.Column("run_id", sa.String(64), primary_key=True),
    _number_key("row_number"),
    sa.Column("scope", sa.BigInteger, nullable=False),
    sa.Column("status", sa.String(10), nullable=False),
    sa.Column("prospect_id", sa.String(256)),
    sa.Column("message", sa.Text),
    sa.Column("pushed_ms", sa.BigInteger, nullable=False),
    sa.Column("destination", sa.BigInteger, nullable=False),
    sa.Column("landed", sa.Boolean, nullable=False),
    sa.Column("record_kind", sa.String(16)),
    sa.Column("record_id", sa.String(256)),
    sa.Column("changed_fields", sa.Text),
    sa.Column("kept_fields", sa.Text),
    sa.Index("push_results_by_landed", "destination", "landed", "run_id", "row_number"),
    sqlite_with_rowid=False,
)

scopes = sa.Table(
    "outbox_scopes",
    metadata,
    _number_key("key"),
    sa.Column("scope", sa.BigInteger, nullable=False),
    sa.Column("account", sa.BigInteger),
    sa.Column("told", sa.Boolean, key="asked", nullable=False),
    sa.Column("sent_ms", sa.BigInteger),
)

# who pushes: a file, a table, a query or a job; `pushed_ms` is null until a push of it has ended
sources = sa.Table(
    "outbox_sources",
    metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    sa.Column("scope", sa.BigInteger, nullable=False),
    sa.Column("source", sa.BigInteger, nullable=False),
    sa.Column("pushed_ms", sa.BigInteger),
    sa.UniqueConstraint("scope", "source"),
)

# what each source has settled for each row (see `entries`): found by the contact that the row had
# first, and by each that it ever had besides
entries = sa.Table(
    "outbox_entries",
    metadata,
    _number_key("alias"),
    sa.Column("source", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("prospect_id", sa.String(256)),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("names", sa.LargeBinary, nullable=False),
    sa.Column("content", sa.LargeBinary),
    sa.Column("cells", sa.LargeBinary, nullable=False),
    sa.Column("seen_ms", sa.BigInteger, nullable=False),
    sa.Index("outbox_entries_by_names", "source", "names"),
    sqlite_with_rowid=False,
)

entry_contacts = sa.Table(
    "outbox_entry_contacts",
    metadata,
    _number_key("contact"),
    sa.Column("source", sa.Integer, primary_key=True, autoincrement=False),
    _number_key("alias"),
    sa.Index("outbox_entry_contacts_by_entry", "alias", "source"),
    sqlite_with_rowid=False,
)

# rows that were refused, and whom it concerned: by source and contact (see `entries.Refusal`)
refusals = _table_of_scope(
    "outbox_refusals",
    _number_key("source"),
    _number_key("alias"),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("people", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("server_ms", sa.BigInteger, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
)

# what people looked like before a push changed them, sealed (see `undoing`)
before_images = _table_of_scope(
    "outbox_before_images",
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("prospect_id", sa.String(256), primary_key=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("kept_ms", sa.BigInteger, nullable=False),
    sa.Column("undone_by", sa.String(64)),
)

# which runs have applied which plan (see `applying`)
applied_plans = _table_of_scope(
    "outbox_applied_plans",
    sa.Column("plan_id", sa.String(64), primary_key=True),
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("is_done", sa.Boolean, nullable=False),
)

key_memory = sa.Table(
    "outbox_key_memory",
    metadata,
    _number_key("scope"),
    sa.Column("remembered_s", sa.Double, nullable=False),
    sa.Column("forgets", sa.Boolean, nullable=False),
    sa.Column("noted_ms", sa.BigInteger, nullable=False),
)

# what else was learnt of how the API of an account behaves: name → value
learnt = _table_of_scope(
    "outbox_learnt",
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.String(256), nullable=False),
    sa.Column("noted_ms", sa.BigInteger, nullable=False),
)


_add_tables = partial(create_missing, metadata)


def _adding(*columns: sa.Column[Any]) -> Callable[[sa.Connection], None]:
    """A migration that makes the tables that are missing, and adds these columns to older ones."""

    def add(connection: sa.Connection) -> None:
        _add_tables(connection)
        for column in columns:
            _add_column(connection, column)

    return add


def _add_written(connection: sa.Connection) -> None:
    """Of a receipt, when its person was written to last; so far a look counted as a write."""
    _add_column(connection, receipts.c.written_ms)
    is_unknown = receipts.c.written_ms.is_(None)
    stamp = sa.update(receipts).where(is_unknown).values(written_ms=receipts.c.accepted_ms)
    connection.execute(stamp)


def _add_column(connection: sa.Connection, column: sa.Column[Any]) -> None:
    """Add a column that may hold null, where the table lacks it."""
    table = column.table.name
    columns = run_as_it_is(connection, f"SELECT * FROM {table} LIMIT 0").description  # noqa: S608
    if column.name not in {name for name, *_ in columns}:
        kind = column.type.compile(connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {column.name} {kind}")


MIGRATIONS = (
    _add_tables,
    _add_tables,  # for ledgers older than `outbox_scopes`
    _add_tables,  # for those older than `outbox_key_memory`
    # what distinguishes two people behind one contact; of a write, whether it only creates
    _adding(receipts.c.names, writes.c.creates),
    # what the merge needs; of a receipt, the person's `updatedAt` before our last write
    _adding(receipts.c.before_ms, writes.c.settles),
    # of a write, what its person must still look like
    _adding(writes.c.guard),
    # of an outcome: the record it is about, and which of its fields were changed and kept
    _adding(
        results.c.record_kind,
        results.c.record_id,
        results.c.changed_fields,
        results.c.kept_fields,
    ),
    # of a row of a pulled table, what it was exported as; what was learnt of an API
    _adding(writes.c.exported),
    # of a write, what its person looked like when it was planned, and when that was read
    _adding(writes.c.seen, writes.c.seen_ms),
    _add_tables,
    _add_tables,
    _add_written,
)
_Rows = Sequence[Mapping[str, Any]]
_insertions: dict[tuple[str, sa.Table, tuple[str, ...], bool], Prepared] = {}


def insert_new(connection: sa.Connection, table: sa.Table, rows: _Rows) -> None:
    """Insert `rows`; one whose primary key is taken changes nothing. All name the same columns."""
    if rows:
        _insertion(connection, table, tuple(rows[0]), replaces=False).execute_many(connection, rows)


def insert_or_replace(connection: sa.Connection, table: sa.Table, rows: _Rows) -> None:
    """Insert `rows`; one whose primary key is taken replaces the columns it names. All name the
    same columns."""
    if rows:
        _insertion(connection, table, tuple(rows[0]), replaces=True).execute_many(connection, rows)


def insert_tuples(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Sequence[Any]], *, replaces: bool
) -> None:
    """As `insert_or_replace` or `insert_new`, for many rows: all columns, in the table's order."""
    if rows:
        columns = tuple(column.name for column in table.columns)
        _insertion(connection, table, columns, replaces=replaces).execute_tuples(connection, rows)


def copy_rows(
    connection: sa.Connection,
    table: sa.Table,
    query: str,
    values: Mapping[str, Any],
    *,
    source: sqlite3.Connection,
    replaces: bool,
) -> None:
    """As `insert_tuples`, for the rows of a query of `source`: its columns are the table's, in the
    table's order. Where `source` is the connection itself, no row passes through Python."""
    if connection.dialect.name == "sqlite":
        names = [column.name for column in table.columns]
        insert = insert_into(connection, table).from_select(names, sa.text(query).columns())
        text = str(_on_conflict(insert, table, names, replaces=replaces).compile(connection))
        source.execute(text, values)
        return
    flags = {at for at, column in enumerate(table.columns) if isinstance(column.type, sa.Boolean)}
    rows = [
        [bool(cell) if at in flags else cell for at, cell in enumerate(row)]
        for row in source.execute(query, values)
    ]
    insert_tuples(connection, table, rows, replaces=replaces)


def _insertion(
    connection: sa.Connection, table: sa.Table, columns: tuple[str, ...], *, replaces: bool
) -> Prepared:
    key = (connection.dialect.name, table, columns, replaces)
    if key not in _insertions:
        statement = _on_conflict(insert_into(connection, table), table, columns, replaces=replaces)
        _insertions[key] = Prepared(statement, columns)
    return _insertions[key]


def _on_conflict(insert: Any, table: sa.Table, columns: Sequence[str], *, replaces: bool) -> Any:
    keys = [column.name for column in table.primary_key]
    new = {name: insert.excluded[name] for name in columns if name not in keys and replaces}
    if not new:
        return insert.on_conflict_do_nothing()
    return insert.on_conflict_do_update(index_elements=keys, set_=new)


def rows_of(connection: sa.Connection, sql: str, numbers: Collection[int]) -> Sequence[Any]:
    """The driver's rows of a query in which `{numbers}` stands for these.

    SQLite gets them as one parameter: else its driver keeps each of the last hundred statements,
    with its thousands of numbers. SQLAlchemy's own rows would cost as much as the look-up.
    """
    ordered = sorted(numbers)
    cursor = connection.connection.cursor()
    if connection.dialect.name == "sqlite":
        text = sql.format(numbers="SELECT value FROM json_each(:numbers)")
        cursor.execute(text, {"numbers": orjson.dumps(ordered).decode()})
    else:
        cursor.execute(sql.format(numbers=",".join(map(str, ordered))))
    return cursor.fetchall()
