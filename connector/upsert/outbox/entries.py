"""Entries: what each source has settled, row by row, as keyed hashes.

An entry stands for one row of a source, or for several with the same contact. It is found by every
contact that it ever had, and says whom it is about. One row of the table holds all its cells, seven
bytes each: a million rows of ten fields are about 200 MB, and a push that changes nothing writes
nothing. A row that was refused is remembered here too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from connector.budget.database import Prepared
from connector.logs import redact
from connector.upsert.outbox.matching import CELL_BYTES, Hasher
from connector.upsert.outbox.outbox_schema import (
    entries,
    entry_contacts,
    insert_or_replace,
    insert_tuples,
    refusals,
    rows_of,
    sources,
)

# The position of a field is its code in the ledger: names are only ever added, at the end.
_CODED = (
    "firstName", "lastName", "email", "phone", "stageId", "pipelineId", "licenseStatus", "labels",
    "notes", "title", "company", "userId", "streetAddress", "city", "state", "postalCode", "office",
    "source", "newSourceName", "resume", "jobId", "labels_add", "labels_remove", "updatedAt",
)  # fmt: skip
VERSION = "updatedAt"  # of a row of a pulled table: not a field, but which version was exported
_CODES = {name: code for code, name in enumerate(_CODED)}
_CODE_BYTES = {name: bytes((code,)) for name, code in _CODES.items()}
INITIAL = slice(8, 12)  # of an entry's names
_IN_ONE_QUERY, _REASON_LENGTH = 500, 2_000
_SHOWN = 0x80  # the code of a field whose value is followed by how it is shown
_COLUMNS = ("alias", "source", "prospect_id", "rows", "names", "content", "cells", "seen_ms")
_FIND = f"SELECT {', '.join(_COLUMNS)} FROM outbox_entries WHERE alias IN ({{numbers}})"  # noqa: S608
_FIND_LED = "SELECT contact, alias, source FROM outbox_entry_contacts WHERE contact IN ({numbers})"
# built once: building a statement takes ten times as long as executing it
_NAMED = Prepared(
    sa.select(*(entries.c[name] for name in _COLUMNS)).where(
        entries.c.source == sa.bindparam("of"), entries.c.names == sa.bindparam("called")
    )
)
_LEADING = Prepared(
    sa.select(entry_contacts.c.contact).where(
        entry_contacts.c.source == sa.bindparam("of"), entry_contacts.c.alias == sa.bindparam("to")
    )
)

Base = Mapping[str, frozenset[bytes]]
ShownCells = Mapping[str, tuple[bytes, bytes]]


class Entry(NamedTuple):
    """alias: of the contact it had first. source: its number. rows: how many rows speak for it, at
    most. names: see `Hasher.entry_names`. content: of its one row, where all of it is settled.
    cells: see `unpacked`."""

    alias: int
    source: int
    prospect_id: str | None
    rows: int
    names: bytes
    content: bytes | None
    cells: bytes
    seen_ms: int


def packed(base: Base, shown: ShownCells) -> bytes:
    """Base and shown values as bytes, those of one field side by side."""
    parts: list[bytes] = []
    for name, cells in base.items():
        code = bytes((_CODES[name],))
        pair = shown.get(name)
        for cell in sorted(cells):
            if pair is not None and pair[0] == cell:
                parts += (bytes((_CODES[name] | _SHOWN,)), cell, pair[1])
            else:
                parts += (code, cell)
    return b"".join(parts)


def cells_of_row(says: Mapping[str, Any], hasher: Hasher) -> bytes:
    """All cells of one row, as `packed`."""
    codes, cell = _CODE_BYTES, hasher.cell
    return b"".join(
        [codes[name] + cell(name, value) for name, value in says.items() if name in codes]
    )


def unpacked(cells: bytes) -> tuple[dict[str, frozenset[bytes]], dict[str, tuple[bytes, bytes]]]:
    """Field → what was settled; field → what was written, and how it is shown."""
    base: dict[str, frozenset[bytes]] = {}
    shown: dict[str, tuple[bytes, bytes]] = {}
    at, end = 0, len(cells)
    while at < end:
        code, at = cells[at], at + 1
        name, cell = _CODED[code & ~_SHOWN], cells[at : at + CELL_BYTES]
        at += CELL_BYTES
        base[name] = base[name] | {cell} if name in base else frozenset((cell,))
        if code & _SHOWN:
            shown[name] = (cell, cells[at : at + CELL_BYTES])
            at += CELL_BYTES
    return base, shown


class Entries:
    """The entries of one scope. Every method works inside the caller's transaction."""

    def __init__(self, scope: int) -> None:
        self._scope = scope

    def find_source(self, connection: sa.Connection, source: int) -> int:
        """The number of a source; 0 where it has none."""
        own = (sources.c.scope == self._scope) & (sources.c.source == source)
        return connection.scalar(sa.select(sources.c.id).where(own)) or 0

    def make_source(self, connection: sa.Connection, source: int) -> int:
        """The number of a source, which gets one."""
        if not (number := self.find_source(connection, source)):
            row = {"scope": self._scope, "source": source}
            connection.execute(sa.insert(sources).values(**row))
            number = self.find_source(connection, source)
        return number

    def was_pushed(self, connection: sa.Connection, number: int) -> bool:
        """Whether a push of this source has ended."""
        pushed = sa.select(sources.c.pushed_ms).where(sources.c.id == number)
        return connection.scalar(pushed) is not None

    def numbers(self, connection: sa.Connection) -> frozenset[int]:
        """The numbers of all sources of the scope: an alias leads to those of other accounts."""
        query = sa.select(sources.c.id).where(sources.c.scope == self._scope)
        return frozenset(connection.scalars(query))

    def end_push(self, connection: sa.Connection, number: int, at_ms: int) -> None:
        """A push of this source has ended."""
        connection.execute(sa.update(sources).where(sources.c.id == number).values(pushed_ms=at_ms))

    def find(self, connection: sa.Connection, aliases: Collection[int]) -> dict[int, list[Entry]]:
        """alias → the entries, of any source, that ever had this contact."""
        if not aliases:
            return {}
        led = rows_of(connection, _FIND_LED, aliases)
        found: dict[tuple[int, int], Entry] = {}
        by_alias: dict[int, list[Entry]] = {}
        for row in rows_of(connection, _FIND, {*aliases, *(alias for _, alias, _ in led)}):
            entry = found[row[0], row[1]] = Entry._make(row)
            by_alias.setdefault(entry.alias, []).append(entry)
        for contact, *key in led:
            if (one := found.get((key[0], key[1]))) is not None:
                by_alias.setdefault(contact, []).append(one)
        return by_alias

    def named(
        self, connection: sa.Connection, source: int, names: bytes
    ) -> list[tuple[Entry, frozenset[int]]]:
        """The entries of a source under these names, each with all contacts that lead to it."""
        found = [
            Entry._make(row)
            for row in _NAMED.execute(connection, {"of": source, "called": names}).fetchall()
        ]
        contacts = []
        for entry in found:
            more = _LEADING.execute(connection, {"of": source, "to": entry.alias}).fetchall()
            contacts.append(frozenset({entry.alias, *(contact for (contact,) in more)}))
        return list(zip(found, contacts, strict=True))

    def put(
        self,
        connection: sa.Connection,
        source: int,
        settled: Iterable[tuple[Entry, Collection[int]]],
    ) -> None:
        """Store entries of a source as they are settled now, each with what leads to it."""
        rows, contacts = list[tuple[Any, ...]](), set[tuple[int, int, int]]()
        for (alias, _, *rest), leading in settled:
            rows.append((alias, source, *rest))
            contacts.update([(each, source, alias) for each in leading if each != alias])
        # in the order of their pages, and the last one of an entry is the one that stays
        rows.sort(key=itemgetter(0))
        insert_tuples(connection, entries, rows, replaces=True)
        insert_tuples(connection, entry_contacts, sorted(contacts), replaces=False)


class Refusal(NamedTuple):
    """A row that was refused. asked: `PushOptions.asked` of its content. people: ids of everybody
    whom it concerned. reason: empty where nothing was refused, but a look at the person didn't show
    all that it was for. server_ms: no later than the server's clock was at that moment."""

    asked: bytes
    people: frozenset[str]
    reason: str
    server_ms: int


class Refusals:
    """The rows of one source that were refused, so that they aren't tried again while neither the
    row nor one of the people has changed. Every method works inside the caller's transaction."""

    def __init__(self, scope: int, source: int) -> None:
        self._own = {"scope": scope, "source": source}

    def find(self, connection: sa.Connection, aliases: Collection[int]) -> dict[int, Refusal]:
        """alias → the refusal of the row whose first contact it is."""
        own = refusals.c
        which = [refusals.c[name] == value for name, value in self._own.items()]
        query = sa.select(own.alias, own.content, own.people, own.reason, own.server_ms)
        found: dict[int, Refusal] = {}
        wanted = sorted(aliases)
        for start in range(0, len(wanted), _IN_ONE_QUERY):
            some = own.alias.in_(wanted[start : start + _IN_ONE_QUERY])
            for alias, asked, people, *rest in connection.execute(query.where(*which, some)):
                found[alias] = Refusal(bytes(asked), frozenset(orjson.loads(people)), *rest)
        return found

    def put(self, connection: sa.Connection, alias: int, refused: Refusal, at_ms: int) -> None:
        """Remember a row that was refused."""
        row = {
            **self._own,
            "alias": alias,
            "content": refused.asked,
            "people": orjson.dumps(sorted(refused.people)).decode(),
            "reason": redact(refused.reason)[:_REASON_LENGTH],
            "server_ms": refused.server_ms,
            "at_ms": at_ms,
        }
        insert_or_replace(connection, refusals, [row])
