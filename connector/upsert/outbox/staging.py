"""The rows of one input, checked, on disk in a private temporary file: found again by person.

A million rows don't fit into memory, and which rows are about one person is known only after the
last row. The file has no name: SQLite removes it when it is closed, and the system when the
process dies.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import groupby, islice
from typing import Any

import orjson

from connector.upsert.outbox.matching import Hasher
from connector.upsert.outbox.outbox import PROSPECTS, Write
from connector.upsert.outbox.receipts import Receipt
from connector.upsert.rows.cells import InputRow
from connector.upsert.rows.row_checks import Reject, ValidRow

Check = Callable[[InputRow], ValidRow | Reject]
Find = Callable[[Collection[int]], dict[int, Receipt]]
Row = list[Write]
_Record = tuple[Any, ...]  # the columns of the file, up to `prospect`
_ID = 8  # of a record, the prospect that the row itself names
_BATCH_ROWS = 1_000  # each piece of JSON holds 4 KB until it is stored, however short it is
_NO_JSON = "a value of this row can't be written as JSON; change it to text or a plain number"
# named, exported: of a row of a pulled table, its prospect's id, and what it was exported as.
# prospect: stands for the prospect that the contacts are known to belong to. Then, once all rows
# are there: ordinal, for a row without contact, how many equal ones stand above it; person, the
# first row of the same person.
_SCHEMA = """
CREATE TABLE staged (
    row_number INTEGER, email INTEGER, phone INTEGER, content BLOB, payload BLOB, row_values BLOB,
    note TEXT, activities BLOB, named TEXT, exported BLOB, prospect INTEGER,
    ordinal INTEGER DEFAULT 0, person INTEGER, id INTEGER PRIMARY KEY
)
"""
_INSERT = """
INSERT INTO staged (
    row_number, email, phone, content, payload, row_values, note, activities, named, exported,
    prospect
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
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


class Staging:
    """Fill it with `stage`, then read `people`. Close it after use.

    hasher: makes the aliases. run_id, source: of the writes that rows become.
    """

    def __init__(self, hasher: Hasher, *, run_id: str, source: str) -> None:
        self._hasher, self._run_id, self._source = hasher, run_id, source
        self._file = sqlite3.connect("", isolation_level=None)
        self._file.execute("PRAGMA journal_mode=OFF")
        self._file.execute("PRAGMA cache_size=-32000")
        self._file.execute(_SCHEMA)
        self._file.execute("BEGIN")

    def stage(
        self,
        rows: Iterable[InputRow],
        check: Check,
        *,
        find: Find,
        on_reject: Callable[[Reject], None],
        on_read: Callable[[int], None],
    ) -> int:
        """Check every row of the input, and store or reject it; returns the number of rows.

        find: where aliases lead, as the ledger knows. on_read: gets the number of rows read so far,
        now and then.
        """
        remaining, read = iter(rows), 0
        while batch := list(islice(remaining, _BATCH_ROWS)):
            new = [record for row in batch if (record := self._checked(row, check, on_reject))]
            self.add(_with_prospects(new, find))
            read += len(batch)
            on_read(read)
        self.join()
        return read

    def _checked(
        self, row: InputRow, check: Check, on_reject: Callable[[Reject], None]
    ) -> _Record | None:
        """The columns of a row, up to its activities; None where it was rejected."""
        valid = check(row)
        if isinstance(valid, Reject):
            on_reject(valid)
            return None
        number, payload, email, phone, activities, warnings, named, exported = valid
        try:
            return (
                number,
                None if email is None else self._hasher.alias("email", email),
                None if phone is None else self._hasher.alias("phone", phone),
                self._hasher.content(payload),
                orjson.dumps(payload),
                orjson.dumps(row.values, default=str),  # what JSON doesn't know is kept as its text
                "; ".join(warnings) or None,
                orjson.dumps([[each.kind, each.payload] for each in activities])
                if activities
                else None,
                named,
                exported,
            )
        except TypeError:
            on_reject(Reject(row.row_number, row.values, None, _NO_JSON))
            return None

    def add(self, records: Iterable[_Record]) -> None:
        """Store rows, in file order."""
        self._file.executemany(_INSERT, records)

    def join(self) -> None:
        """Find which rows are about one person: those that share an email, a phone or a known
        prospect, directly or through other rows; and count equal rows without contact."""
        self._file.execute("COMMIT")
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

    def people(self) -> Iterator[list[Row]]:
        """The rows of each person, each as its writes; first those who have one row, then the
        others, each in file order."""
        for record in self._file.execute("SELECT * FROM staged WHERE person IS NULL ORDER BY id"):
            yield [self._writes(record)]
        several = "SELECT * FROM staged WHERE person IS NOT NULL ORDER BY person, id"
        for _, records in groupby(self._file.execute(several), lambda record: record[-2]):
            yield list(map(self._writes, records))

    def rows_with(self, contacts: Collection[int]) -> int:
        """How many rows have one of these contacts."""
        numbers = ",".join(map(str, contacts))
        query = f"SELECT count(*) FROM staged WHERE email IN ({numbers}) OR phone IN ({numbers})"  # noqa: S608
        (found,) = self._file.execute(query).fetchone()
        return int(found)

    def _writes(self, record: _Record) -> Row:
        number, email, phone, content, payload, values, note, activities, *found = record
        named, exported, _, ordinal, person, id_ = found
        row = None
        if email is None and phone is None and named is None:
            row = self._hasher.alias("row", f"{content.hex()}:{ordinal}")
        first = Write(
            self._run_id, self._source, number, 0, PROSPECTS, person or id_, email, phone, row,
            content, payload, values, note, named, exported=exported,
        )  # fmt: skip
        writes = [first]
        for position, (kind, made) in enumerate(orjson.loads(activities or b"[]"), start=1):
            content, body = self._hasher.content(made), orjson.dumps(made)
            writes.append(first._replace(position=position, kind=kind, content=content, body=body))
        return writes

    def close(self) -> None:
        self._file.close()


def _with_prospects(rows: list[_Record], find: Find) -> Iterator[_Record]:
    """Rows with what the ledger knows of their contacts: the phone's, where it doesn't know the
    email."""
    first = {row[1] if row[1] is not None else row[2] for row in rows}
    found = find(first - {None})
    found |= find({row[2] for row in rows if row[1] is not None and row[1] not in found} - {None})
    for row in rows:
        receipt = found.get(row[1]) or found.get(row[2])
        id_ = row[_ID] or (receipt and receipt.prospect_id)
        # the hash of an id is for this process alone
        yield (*row, None if id_ is None else hash(id_))


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
