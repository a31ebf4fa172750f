"""The rows of one input, checked, on disk in a private temporary file: found again by person.

A million rows don't fit into memory, and which rows are about one person is known only after the
last row. The file has no name: SQLite removes it when it is closed, and the system when the
process dies.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import groupby, islice
from typing import Any, NamedTuple

import orjson

from connector.upsert.outbox.matching import Aliases, Hasher
from connector.upsert.outbox.receipts import Receipt
from connector.upsert.rows.cells import InputRow
from connector.upsert.rows.row_checks import Reject, ValidRow

Check = Callable[[InputRow], ValidRow | Reject]
Find = Callable[[Collection[int]], dict[int, Receipt]]
_BATCH_ROWS = 5_000
_NO_JSON = "a value of this row can't be written as JSON; change it to text or a plain number"
_SCHEMA = """
CREATE TABLE staged (
    row_number INTEGER, email INTEGER, phone INTEGER, content BLOB, payload BLOB, activities BLOB,
    row_values BLOB, note TEXT, prospect INTEGER, repeats TEXT, accepted_ms INTEGER,
    updated_at_ms INTEGER, ordinal INTEGER, person INTEGER, id INTEGER PRIMARY KEY
)
"""
_INSERT = "INSERT INTO staged VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, nullif(?, 0))"
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


class StagedRow(NamedTuple):
    """One checked row. email, phone: aliases. payload, activities, row_values: JSON.

    prospect: a number that stands for the prospect that its contacts are known to belong to.
    repeats: that prospect's id, where the row says what was accepted last; accepted_ms and
    updated_at_ms are its receipt's. Set by `Staging`: ordinal, for a row without contact, how many
    equal ones stand above it; person, the id of the first row of the same person, None where no
    other row is theirs; id.
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
    ordinal: int = 0
    person: int | None = None
    id: int = 0


class Staging:
    """Fill it with `add`, complete it with `join`, then read `people`. Close it after use."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("", isolation_level=None)
        self._file.execute("PRAGMA journal_mode=OFF")
        self._file.execute("PRAGMA cache_size=-32000")
        self._file.execute(_SCHEMA)
        self._file.execute("BEGIN")

    def add(self, rows: Iterable[StagedRow]) -> None:
        """Store rows, in file order."""
        self._file.executemany(_INSERT, rows)

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

    def people(self) -> Iterator[list[StagedRow]]:
        """The rows of each person; first those who have one row, each in file order."""
        for row in self._file.execute("SELECT * FROM staged WHERE person IS NULL ORDER BY id"):
            yield [StagedRow._make(row)]
        several = "SELECT * FROM staged WHERE person IS NOT NULL ORDER BY person, id"
        rows = map(StagedRow._make, self._file.execute(several))
        for _, person in groupby(rows, lambda row: row.person):
            yield list(person)

    def close(self) -> None:
        self._file.close()


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


def stage(
    rows: Iterable[InputRow],
    check: Check,
    staging: Staging,
    *,
    hasher: Hasher,
    find: Find,
    on_reject: Callable[[Reject], None],
    on_progress: Callable[[int], None],
) -> int:
    """Check every row of the input, and store or reject it; returns the number of rows.

    find: where aliases lead, as the ledger knows. on_progress: gets the number of rows read so
    far, now and then.
    """
    remaining, read = iter(rows), 0
    while batch := list(islice(remaining, _BATCH_ROWS)):
        new = [staged for row in batch if (staged := _checked(row, check, hasher, on_reject))]
        found = _found(new, find)
        staging.add(_with_prospect(row, found) for row in new)
        read += len(batch)
        on_progress(read)
    staging.join()
    return read


def _checked(
    row: InputRow, check: Check, hasher: Hasher, on_reject: Callable[[Reject], None]
) -> StagedRow | None:
    valid = check(row)
    if isinstance(valid, Reject):
        on_reject(valid)
        return None
    activities = [[activity.kind, activity.payload] for activity in valid.activities]
    try:
        return StagedRow(
            valid.row_number,
            None if valid.email is None else hasher.alias("email", valid.email),
            None if valid.phone is None else hasher.alias("phone", valid.phone),
            hasher.content(valid.payload),
            orjson.dumps(valid.payload),
            orjson.dumps(activities) if activities else None,
            orjson.dumps(row.values, default=str),  # what JSON doesn't know is kept as its text
            "; ".join(valid.warnings) or None,
        )
    except TypeError:
        on_reject(Reject(row.row_number, row.values, None, _NO_JSON))
        return None


def _found(rows: list[StagedRow], find: Find) -> dict[int, Receipt]:
    """Where the rows' aliases lead. One is enough for a row that says what was accepted last: it
    is sent nowhere; of the others, both are looked up."""
    first = {row.email if row.email is not None else row.phone for row in rows}
    found = find({alias for alias in first if alias is not None})
    second = {
        row.phone
        for row in rows
        if not ((receipt := found.get(row.email or 0)) and receipt.tail.endswith(row.content))
    }
    return found | find({alias for alias in second if alias is not None})


def _with_prospect(row: StagedRow, found: Mapping[int, Receipt]) -> StagedRow:
    """`row` with the prospect that its contacts lead to."""
    one, other = found.get(row.email or 0), found.get(row.phone or 0)
    receipt = one or other
    if receipt is None:
        return row
    prospect = hash(receipt.prospect_id)  # for this process alone
    agree = one is None or other is None or one.prospect_id == other.prospect_id
    if not (agree and receipt.tail.endswith(row.content)):
        return row._replace(prospect=prospect)
    repeated = (receipt.prospect_id, receipt.accepted_ms, receipt.updated_at_ms)
    return StagedRow(*row[:8], prospect, *repeated)  # half the time of `_replace`


def names_of_row(row: StagedRow, hasher: Hasher) -> Aliases:
    """The aliases of a staged row."""
    if row.email is None and row.phone is None:
        return Aliases(row=hasher.alias("row", f"{row.content.hex()}:{row.ordinal}"))
    return Aliases(row.email, row.phone)


def reject_of(row_number: int, row_values: bytes | None, reason: str, names: str | None) -> Reject:
    """The reject of a row that passed its checks. names: for the rejects file alone."""
    values: dict[str, Any] = orjson.loads(row_values or b"{}")
    in_full = f"{reason} ({names})" if names else reason
    return Reject(row_number, values, None, in_full, without_values=reason)
