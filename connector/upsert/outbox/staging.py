"""The rows of one input, checked, on disk in a private temporary file: found again by person.

A million rows don't fit into memory, and who is one person with whom is only known after the
last row. The file has no name: SQLite removes it when it is closed, and the system when the
process dies.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import NamedTuple, Self

from connector.upsert.outbox.matching import Aliases, Hasher

_SCHEMA = """
CREATE TABLE staged (
    id INTEGER PRIMARY KEY, row_number INTEGER, email INTEGER, phone INTEGER, content BLOB,
    payload BLOB, activities BLOB, row_values BLOB, note TEXT, prospect INTEGER, repeats TEXT,
    accepted_ms INTEGER, updated_at_ms INTEGER, ordinal INTEGER, person INTEGER
)
"""
_INSERT = (
    "INSERT INTO staged (row_number, email, phone, content, payload, activities, row_values, note,"
    " prospect, repeats, accepted_ms, updated_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SELECT = (
    "SELECT id, row_number, email, phone, content, payload, activities, row_values, note, repeats,"
    " accepted_ms, updated_at_ms, coalesce(ordinal, 0), person FROM staged"
)
_NAMES = """
SELECT alias, id FROM (
    SELECT email AS alias, id FROM staged WHERE email IS NOT NULL
    UNION ALL SELECT phone, id FROM staged WHERE phone IS NOT NULL
    UNION ALL SELECT prospect, id FROM staged WHERE prospect IS NOT NULL
) ORDER BY alias, id
"""
_EQUALS = """
SELECT id, row_number() OVER (PARTITION BY content ORDER BY id) - 1
FROM staged WHERE email IS NULL AND phone IS NULL
"""


class NewRow(NamedTuple):
    """One checked row. payload, activities, row_values: JSON.

    prospect: a number that stands for the prospect that its contacts are known to belong to.
    repeats: that prospect's id, where the row says what was accepted last; accepted_ms and
    updated_at_ms are its receipt's.
    """

    row_number: int
    email: int | None
    phone: int | None
    content: bytes
    payload: bytes
    activities: bytes | None
    row_values: bytes
    note: str | None
    prospect: int | None = None
    repeats: str | None = None
    accepted_ms: int | None = None
    updated_at_ms: int | None = None


class StagedRow(NamedTuple):
    """One row as it was staged; see `NewRow`. person: the id of the first row of the same person,
    None where no other row is theirs. ordinal: for a row without contact, how many equal ones
    stand above it."""

    id: int
    row_number: int
    email: int | None
    phone: int | None
    content: bytes
    payload: bytes
    activities: bytes | None
    row_values: bytes
    note: str | None
    repeats: str | None
    accepted_ms: int | None
    updated_at_ms: int | None
    ordinal: int
    person: int | None


class Staging:
    """Fill it with `add`, close it off with `join`, then read `alone` and `together`."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("", isolation_level=None)
        self._file.execute("PRAGMA journal_mode=OFF")
        self._file.execute("PRAGMA cache_size=-32000")
        self._file.execute(_SCHEMA)
        self._file.execute("BEGIN")

    def add(self, rows: Iterable[NewRow]) -> None:
        """Put rows aside, in file order."""
        self._file.executemany(_INSERT, rows)

    def join(self) -> None:
        """Tell which rows are about one person: those that share an email, a phone or a known
        prospect, directly or through other rows; and count equal rows without contact."""
        self._file.execute("COMMIT")
        self._file.execute("BEGIN")
        self._count_equals()
        self._unite()
        self._file.execute("COMMIT")
        self._file.execute("CREATE INDEX by_person ON staged (person, id) WHERE person IS NOT NULL")

    def _count_equals(self) -> None:
        found = self._file.execute(_EQUALS)
        while batch := found.fetchmany(10_000):
            self._file.executemany(
                "UPDATE staged SET ordinal = ? WHERE id = ?", [(n, id_) for id_, n in batch]
            )

    def _unite(self) -> None:
        last = self._file.execute("SELECT coalesce(max(id), 0) FROM staged").fetchone()[0]
        people = Forest(last)
        before: tuple[int, int] | None = None
        for alias, id_ in self._file.execute(_NAMES):
            if before is not None and before[0] == alias:
                people.unite(before[1], id_)
            before = (alias, id_)
        self._file.executemany(
            "UPDATE staged SET person = ? WHERE id = ?",
            ((root, id_) for id_, root in people.shared()),
        )

    def alone(self) -> Iterator[StagedRow]:
        """Rows that are the only one of their person, in file order."""
        return self._rows("WHERE person IS NULL ORDER BY id")

    def together(self) -> Iterator[list[StagedRow]]:
        """The rows of each person that has several, in file order."""
        person: list[StagedRow] = []
        for row in self._rows("WHERE person IS NOT NULL ORDER BY person, id"):
            if person and person[0].person != row.person:
                yield person
                person = []
            person.append(row)
        if person:
            yield person

    def _rows(self, which: str) -> Iterator[StagedRow]:
        for row in self._file.execute(f"{_SELECT} {which}"):
            yield StagedRow._make(row)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def names_of_row(row: StagedRow, hasher: Hasher) -> Aliases:
    """The aliases of a staged row."""
    if row.email is None and row.phone is None:
        return hasher.aliases(email=None, phone=None, content=row.content, ordinal=row.ordinal)
    return Aliases(row.email, row.phone)


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
        """(member, who stands for it) for every set of more than one, in order."""
        several = bytearray(len(self._parent))
        for member in range(1, len(self._parent)):
            root = self.find(member)
            if root != member:
                several[root] = several[member] = 1
        for member in range(1, len(self._parent)):
            if several[member]:
                yield member, self.find(member)
