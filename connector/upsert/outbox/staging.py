"""The rows of one input, checked, on disk in temporary tables: found again by person.

A million rows don't fit into memory, and which rows are about one person is known only after the
last row. The tables are in a private file without a name: SQLite removes it when it is closed, and
the system when the process dies.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import Any

import orjson
import sqlalchemy as sa

from connector.budget.database import Database
from connector.logs import redact
from connector.upsert.outbox.entries import Entries, Entry, Settlement
from connector.upsert.outbox.matching import Hasher
from connector.upsert.outbox.outbox import PROSPECTS, Write
from connector.upsert.outbox.outbox_schema import copy_rows, entries, entry_contacts, results
from connector.upsert.outbox.person_plan import RowPlan
from connector.upsert.outbox.receipts import MESSAGE_LENGTH
from connector.upsert.rows.cells import InputRow
from connector.upsert.rows.row_checks import NO_JSON, Activity, Check, Reject, ValidRow

Glance = tuple[str | None, RowPlan | None]
"""To whom a row's contacts lead, as the ledger knows when it is read; and the row's plan, if it is
as HiringCenter has its person and no other row is about them."""

Look = Callable[[Sequence[tuple[ValidRow, Write]]], Callable[[], Iterable[Glance]]]
_Record = tuple[Any, ...]  # the columns of `staged`
_BATCH_ROWS = 5_000
_IN_ONE_WRITE = 100_000  # rows: a few tenths of a second, in which no other process can write
# named, exported: of a row of a pulled table, its prospect's id, and what it was exported as.
# prospect: stands for the prospect that the contacts are known to belong to. alike: the prospect
# that is as the row says; entry, names, cells: what that settles. Then, once all rows are there:
# ordinal, for a row without contact, how many equal ones stand above it; person, the first row of
# the same person.
_SCHEMA = """
CREATE TEMP TABLE staged (
    row_number INTEGER, email INTEGER, phone INTEGER, content BLOB, payload BLOB, row_values BLOB,
    note TEXT, activities BLOB, named TEXT, exported BLOB, prospect INTEGER, alike TEXT,
    entry INTEGER, names BLOB, cells BLOB, ordinal INTEGER DEFAULT 0, person INTEGER,
    id INTEGER PRIMARY KEY
)
"""
_INSERT = f"INSERT INTO staged VALUES ({'?, ' * 15} 0, NULL, NULL)"  # noqa: S608 - placeholders
_NAMES = """
SELECT alias, id FROM (
    SELECT email AS alias, id FROM staged WHERE email IS NOT NULL
    UNION ALL SELECT phone, id FROM staged WHERE phone IS NOT NULL
    UNION ALL SELECT prospect, id FROM staged WHERE prospect IS NOT NULL
) ORDER BY alias, id
"""
_EQUALS = """
SELECT row_number() OVER (PARTITION BY content ORDER BY id) - 1, id
FROM staged WHERE email IS NULL AND phone IS NULL
"""
# In the order of the ledger's pages, which lie by alias: each is written once.
_SETTLED = (
    """
    CREATE TEMP TABLE settled AS SELECT entry, alike, names, content, cells, email, phone
    FROM staged WHERE cells IS NOT NULL AND person IS NULL ORDER BY entry
    """,
    """
    CREATE TEMP TABLE leading AS SELECT contact, entry FROM (
        SELECT email AS contact, entry FROM settled UNION ALL SELECT phone, entry FROM settled
    ) WHERE contact <> entry ORDER BY contact
    """,
)
_ENTRIES = """
SELECT entry, :source, alike, 1, names, content, cells, :settled_ms FROM settled
WHERE rowid BETWEEN :first AND :last
"""
_CONTACTS = "SELECT contact, :source, entry FROM leading WHERE rowid BETWEEN :first AND :last"
_RESULTS = """
SELECT :run_id, row_number, :scope, 'unchanged', alike, message_of(note), :at_ms, :destination,
    0, 'prospects', alike, NULL, NULL
FROM staged WHERE alike IS NOT NULL AND person IS NULL AND rowid BETWEEN :first AND :last
"""


class Staging:
    """Fill it with `stage`, then read `people`. Close it after use.

    database: the outbox. hasher: makes the aliases. run_id, source: of the writes that rows become.
    """

    def __init__(self, database: Database, hasher: Hasher, *, run_id: str, source: str) -> None:
        self._hasher, self._run_id, self._source = hasher, run_id, source
        self._database = database
        # in the ledger's own database, rows needn't pass through Python to be stored
        self._connection = database.connect() if database.is_sqlite else None
        self._file: sqlite3.Connection = (
            sqlite3.connect("", isolation_level=None)
            if self._connection is None
            else self._connection.connection.dbapi_connection  # type: ignore[assignment]
        )
        self._file.create_function("message_of", 1, _message_of, deterministic=True)
        self._file.execute("PRAGMA temp_store=FILE")
        self._file.execute("PRAGMA temp.journal_mode=OFF")
        self._file.execute("PRAGMA temp.cache_size=-16000")
        self._file.execute(_SCHEMA)

    def stage(
        self,
        rows: Iterable[InputRow],
        check: Check,
        *,
        look: Look,
        on_reject: Callable[[Reject], None],
        on_read: Callable[[int], None],
    ) -> int:
        """Check every row of the input, and store or reject it; returns the number of rows.

        look: begins to look for what is known of rows, each with its prospect's write; called when
        the next ones are read. on_read: gets the number of rows read so far, now and then.
        """
        remaining, read = iter(rows), 0
        before: list[tuple[ValidRow, Write]] = []
        glances: Callable[[], Iterable[Glance]] = list
        while batch := list(islice(remaining, _BATCH_ROWS)):
            new = [each for row in batch if (each := self._checked(row, check, on_reject))]
            looking = look(new)
            self.add(before, list(glances()))
            before, glances = new, looking
            read += len(batch)
            on_read(read)
        self.add(before, list(glances()))
        self.join()
        return read

    def _checked(
        self, row: InputRow, check: Check, on_reject: Callable[[Reject], None]
    ) -> tuple[ValidRow, Write] | None:
        """A row, and its prospect's write; None where it was rejected."""
        valid = check(row)
        if isinstance(valid, Reject):
            on_reject(valid)
            return None
        number, payload, email, phone, activities, warnings, named, exported, *_ = valid
        hasher = self._hasher
        try:
            write = Write(
                self._run_id, self._source, number, 0, PROSPECTS, 0,
                None if email is None else hasher.alias("email", email),
                None if phone is None else hasher.alias("phone", phone),
                None,
                hasher.content(payload),
                _json(payload),
                _json(row.values, default=str),
                "; ".join(warnings) or None,
                named,
                exported=exported,
            )  # fmt: skip
            if activities:
                _activities_json(activities)
            return valid, write
        except TypeError:
            on_reject(Reject(row.row_number, row.values, None, NO_JSON))
            return None

    def add(self, rows: Sequence[tuple[ValidRow, Write]], glances: Sequence[Glance]) -> None:
        """Store rows, in file order."""
        self._file.execute("BEGIN")
        records = (_record(*row, *seen) for row, seen in zip(rows, glances, strict=True))
        self._file.executemany(_INSERT, records)
        self._file.execute("COMMIT")

    def join(self) -> None:
        """Find which rows are about one person: those that share an email, a phone or a known
        prospect, directly or through other rows; and count equal rows without contact."""
        self._file.execute("BEGIN")
        equals = self._file.execute(_EQUALS)
        while batch := equals.fetchmany(10_000):
            self._file.executemany("UPDATE staged SET ordinal = ? WHERE id = ?", batch)
        last = self._file.execute("SELECT coalesce(max(id), 0) FROM staged").fetchone()[0]
        people, before = Forest(last), (0, 0)
        for alias, id_ in self._file.execute(_NAMES):
            if before[0] == alias and before[1]:
                people.unite(before[1], id_)
            before = (alias, id_)
        self._file.executemany("UPDATE staged SET person = ? WHERE id = ?", people.shared())
        self._file.execute("COMMIT")
        self._file.execute("CREATE INDEX by_person ON staged (person, id) WHERE person IS NOT NULL")

    def people(self, *, with_alike: bool = False) -> Iterator[list[RowPlan]]:
        """The rows of each person, still to be planned; first those who have one row, then the
        others, each in file order. with_alike: those who are as their only row says, too, as they
        are planned; else they are left out (`store_alike`)."""
        alone = "SELECT * FROM staged WHERE person IS NULL AND (alike IS NULL OR ?) ORDER BY id"
        for record in self._file.execute(alone, (with_alike,)):
            yield [self._row(record, alike=record[11])]
        several = "SELECT * FROM staged WHERE person IS NOT NULL ORDER BY person, id"
        for _, records in groupby(self._file.execute(several), lambda record: record[-2]):
            yield [self._row(record) for record in records]

    def store_alike(self, sources: Entries, common: Mapping[str, Any]) -> None:
        """Store the outcome of rows that are as HiringCenter has their person, and what they
        settle. common: what the queries say of all of them."""
        for query in _SETTLED:
            self._file.execute(query)

        def settled(connection: sa.Connection) -> dict[str, Any]:
            return {**common, "source": sources.make_number(connection, self._source)}

        self._copy("settled", _ENTRIES, entries, settled, replaces=True)
        self._copy("leading", _CONTACTS, entry_contacts, settled, replaces=False)
        outcome = {**common, "run_id": self._run_id}
        self._copy("staged", _RESULTS, results, lambda _: outcome, replaces=True)

    def _copy(
        self,
        name: str,
        query: str,
        into: sa.Table,
        values: Callable[[sa.Connection], Mapping[str, Any]],
        *,
        replaces: bool,
    ) -> None:
        """Copy the rows of a temporary table into one of the ledger, some at a time."""
        (last,) = self._file.execute(f"SELECT coalesce(max(rowid), 0) FROM {name}").fetchone()  # noqa: S608
        for first in range(1, last + 1, _IN_ONE_WRITE):
            with self._database.write(on=self._connection) as connection:
                places = {"first": first, "last": first + _IN_ONE_WRITE - 1}
                given = {**values(connection), **places}
                copy_rows(connection, into, query, given, source=self._file, replaces=replaces)

    def count_alike(self) -> int:
        """How many rows are as HiringCenter has their person, whom no other row is about."""
        query = "SELECT count(*) FROM staged WHERE alike IS NOT NULL AND person IS NULL"
        return int(self._file.execute(query).fetchone()[0])

    def rows_with(self, contacts: Collection[int]) -> int:
        """How many rows have one of these contacts."""
        numbers = ",".join(map(str, contacts))
        query = f"SELECT count(*) FROM staged WHERE email IN ({numbers}) OR phone IN ({numbers})"  # noqa: S608
        for name in ("email", "phone"):
            self._file.execute(f"CREATE INDEX IF NOT EXISTS by_{name} ON staged ({name})")
        (found,) = self._file.execute(query).fetchone()
        return int(found)

    def _row(self, record: _Record, alike: str | None = None) -> RowPlan:
        number, email, phone, content, payload, values, note, activities, *found = record
        named, exported, _, _, alias, names, cells, ordinal, person, id_ = found
        row = None
        if email is None and phone is None and named is None:
            row = self._hasher.alias("row", f"{content.hex()}:{ordinal}")
        first = Write(
            self._run_id, self._source, number, 0, PROSPECTS, person or id_, email, phone, row,
            content, payload, values, note, named, exported=exported,
        )  # fmt: skip
        if alike is not None:
            planned = RowPlan(first, (), "unchanged", alike)
            if cells is not None:
                entry = Entry(alias, 0, alike, 1, names, content, cells, 0)
                contacts = dict.fromkeys(each for each in (alias, email, phone) if each is not None)
                planned.settlement = Settlement(entry, tuple(contacts))
            return planned
        others = []
        for position, (kind, made) in enumerate(orjson.loads(activities or b"[]"), start=1):
            content, body = self._hasher.content(made), orjson.dumps(made)
            others.append(first._replace(position=position, kind=kind, content=content, body=body))
        return RowPlan(first, others)

    def close(self) -> None:
        (self._connection or self._file).close()


def _json(value: Any, default: Callable[[Any], Any] | None = None) -> bytes:
    """A copy of its own size: orjson's holds 4 KB, however short it is. default: of what JSON
    doesn't know.

    Raises:
        TypeError: it can't be written as JSON.
    """
    return memoryview(orjson.dumps(value, default=default)).tobytes()


def _activities_json(activities: Sequence[Activity]) -> bytes:
    return _json([[each.kind, each.payload] for each in activities])


def _record(valid: ValidRow, write: Write, known: str | None, alike: RowPlan | None) -> _Record:
    found = write.prospect_id or known
    entry = alike.settlement.entry if alike and alike.settlement else None
    return (
        write.row_number, write.email_alias, write.phone_alias, write.content, write.body,
        write.row_values, write.note,
        _activities_json(valid.activities) if valid.activities else None,
        write.prospect_id, write.exported,
        None if found is None else hash(found),  # for this process alone
        alike.prospect_id if alike else None,
        *((entry.alias, entry.names, entry.cells) if entry else (None, None, None)),
    )  # fmt: skip


def _message_of(note: str | None) -> str | None:
    return None if note is None else redact(note)[:MESSAGE_LENGTH]


class Forest:
    """Union-find over 1..size, eight bytes each. The smallest of a set stands for it."""

    def __init__(self, size: int) -> None:
        self._parent = array("q", range(size + 1))

    def find(self, member: int) -> int:
        """Who stands for the set of `member`."""
        parent = self._parent
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    def unite(self, one: int, other: int) -> None:
        first, second = sorted((self.find(one), self.find(other)))
        self._parent[second] = first

    def shared(self) -> Iterator[tuple[int, int]]:
        """(who stands for it, member) for every set of more than one."""
        several = bytearray(len(self._parent))
        for member in range(1, len(self._parent)):
            root = self.find(member)
            if root != member:
                several[root] = several[member] = 1
        for member in range(1, len(self._parent)):
            if several[member]:
                yield self.find(member), member
