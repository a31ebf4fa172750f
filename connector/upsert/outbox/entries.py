"""Entries: what each source has settled, row by row, as keyed hashes.

An entry stands for one row of a source, or for several with the same contact. It is found by every
contact that it ever had, and says whom it is about. It is a row's own where one of the row's
contacts leads there, and it is about the same person, or the first names begin alike, or both
contacts lead there: families share a phone.

One row of the table holds all its cells, seven bytes each: a million rows of ten fields are about
200 MB, and a push that changes nothing writes nothing. A row that was refused is remembered here
too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple, Self

import orjson
import sqlalchemy as sa

from connector.budget.database import Prepared
from connector.logs import redact
from connector.upsert.outbox.matching import CELL_BYTES, Hasher
from connector.upsert.outbox.merge import Base, Remembered, Row, Shown, lacks_names, new_base
from connector.upsert.outbox.outbox import Write
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
_REASON_LENGTH = 2_000
_SHOWN = 0x80  # the code of a field whose value is followed by how it is shown
_COLUMNS = ("alias", "source", "prospect_id", "rows", "names", "content", "cells", "seen_ms")
_FIND = f"SELECT {', '.join(_COLUMNS)} FROM outbox_entries WHERE alias IN ({{numbers}})"  # noqa: S608
_FIND_LED = "SELECT contact, alias, source FROM outbox_entry_contacts WHERE contact IN ({numbers})"
_FIND_REFUSED = (
    "SELECT alias, content, people, reason, server_ms FROM outbox_refusals "
    "WHERE scope = {scope} AND source = {source} AND alias IN ({numbers})"
)
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


def packed(base: Base, shown: Shown) -> bytes:
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


@dataclass(frozen=True, slots=True)
class RowMemory(Row):
    """A row with what is remembered for it. entry: its own, if it has one. people: whom entries of
    any source lead to, its own first. stored: the entry as the ledger has it, where that is another
    one (see `as_exported`)."""

    entry: Entry | None = None
    people: tuple[str, ...] = ()
    stored: Entry | None = None


class FoundEntries(NamedTuple):
    """Entries by the contacts that lead to them. source: the number of the source that asks."""

    by_alias: Mapping[int, Sequence[Entry]]
    source: int


class Settlement(NamedTuple):
    """An entry as it is once a write is accepted, and the contacts that lead to it."""

    entry: Entry
    contacts: tuple[int, ...]

    def to_bytes(self) -> bytes:
        return orjson.dumps([[*self.entry], self.contacts], default=bytes.hex)

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        entry, contacts = orjson.loads(stored)
        plain = Entry._make(entry)
        names, cells = bytes.fromhex(plain.names), bytes.fromhex(plain.cells)  # type: ignore[arg-type]
        content = None if plain.content is None else bytes.fromhex(plain.content)  # type: ignore[arg-type]
        return cls(plain._replace(names=names, cells=cells, content=content), tuple(contacts))

    def without(self, fields: Collection[str], before: Base) -> Self:
        """With these fields as they were settled before: what was sent didn't come about."""
        base, shown = unpacked(self.entry.cells)
        kept = {name: cells for name, cells in base.items() if name not in fields}
        cells = packed(kept | {name: before[name] for name in fields if name in before}, shown)
        return self._replace(entry=self.entry._replace(cells=cells, content=None))

    def accepted(self, prospect_id: str | None, shown: Shown, at_ms: int) -> Self:
        """With whom the API has named, and how it shows what was sent."""
        base, before = unpacked(self.entry.cells)
        cells = packed(base, {**before, **shown})
        id_ = prospect_id or self.entry.prospect_id
        return self._replace(entry=self.entry._replace(cells=cells, prospect_id=id_, seen_ms=at_ms))


class Refusal(NamedTuple):
    """A row that was refused. asked: `PushOptions.asked` of its content. people: ids of all
    whom it concerned. reason: empty where nothing was refused, but a look at the person didn't show
    all that it was for. server_ms: no later than the server's clock was at that moment."""

    asked: bytes
    people: frozenset[str]
    reason: str
    server_ms: int


class Entries:
    """The entries of one scope. Sources go by the name of their input; what is read or stored is so
    inside the caller's transaction."""

    def __init__(self, scope: int, hasher: Hasher) -> None:
        self._scope, self.hasher = scope, hasher
        self._no_initial = hasher.entry_names(None, None)[INITIAL]
        self._numbers: dict[str, int] = {}

    # --- sources ----------------------------------------------------------------------------------

    def number(self, connection: sa.Connection, source: str) -> int:
        """The number of a source; 0 while nothing of it is settled."""
        if not self._numbers.get(source):
            own = sources.c.scope == self._scope
            own &= sources.c.source == self.hasher.alias("source", source)
            self._numbers[source] = connection.scalar(sa.select(sources.c.id).where(own)) or 0
        return self._numbers[source]

    def make_number(self, connection: sa.Connection, source: str) -> int:
        """The number of a source, which gets one where it has none."""
        if not self.number(connection, source):
            row = {"scope": self._scope, "source": self.hasher.alias("source", source)}
            connection.execute(sa.insert(sources).values(**row))
        return self.number(connection, source)

    def numbers(self, connection: sa.Connection) -> frozenset[int]:
        """The numbers of all sources of the scope: an alias leads to those of other accounts."""
        query = sa.select(sources.c.id).where(sources.c.scope == self._scope)
        return frozenset(connection.scalars(query))

    def is_new(self, connection: sa.Connection, source: str) -> bool:
        """Whether no push of this source has ended yet."""
        own = sources.c.id == self.number(connection, source)
        return connection.scalar(sa.select(sources.c.pushed_ms).where(own)) is None

    def end_push(self, connection: sa.Connection, source: str, at_ms: int) -> None:
        """A push of this source has ended: it isn't new any more."""
        own = sources.c.id == self.make_number(connection, source)
        connection.execute(sa.update(sources).where(own).values(pushed_ms=at_ms))

    # --- what is stored ---------------------------------------------------------------------------

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

    def find_for(
        self, connection: sa.Connection, source: str, writes: Iterable[Write]
    ) -> FoundEntries:
        """The entries, of any source of the scope, that ever had a contact of these rows."""
        own = self.numbers(connection)
        found = self.find(connection, {each for write in writes for each in self.contacts(write)})
        by_alias = {
            alias: [entry for entry in each if entry.source in own] for alias, each in found.items()
        }
        return FoundEntries(by_alias, self.number(connection, source))

    def namesakes(
        self, connection: sa.Connection, number: int, says: Mapping[str, Any]
    ) -> list[tuple[Entry, frozenset[int]]]:
        """The entries of a source under the names that a row has, each with all contacts that lead
        to it."""
        called = {"of": number, "called": self._names(says)}
        found = [Entry._make(row) for row in _NAMED.execute(connection, called).fetchall()]
        contacts = []
        for entry in found:
            more = _LEADING.execute(connection, {"of": number, "to": entry.alias}).fetchall()
            contacts.append(frozenset({entry.alias, *(contact for (contact,) in more)}))
        return list(zip(found, contacts, strict=True))

    def put(
        self,
        connection: sa.Connection,
        source: str,
        settled: Sequence[tuple[Entry, Collection[int]]],
    ) -> None:
        """Store entries of a source as they are settled now, each with what leads to it."""
        if not settled:
            return
        number = self.make_number(connection, source)
        rows, contacts = list[tuple[Any, ...]](), set[tuple[int, int, int]]()
        for (alias, _, *rest), leading in settled:
            rows.append((alias, number, *rest))
            contacts.update([(each, number, alias) for each in leading if each != alias])
        # in the order of their pages, and the last one of an entry is the one that stays
        rows.sort(key=itemgetter(0))
        insert_tuples(connection, entries, rows, replaces=True)
        insert_tuples(connection, entry_contacts, sorted(contacts), replaces=False)

    def find_refused(
        self, connection: sa.Connection, source: str, contacts: Collection[int]
    ) -> dict[int, Refusal]:
        """contact → the refusal of the row of a source whose first contact it is."""
        if not contacts:
            return {}
        number = self.hasher.alias("source", source)
        sql = _FIND_REFUSED.replace("{scope}", str(self._scope)).replace("{source}", str(number))
        return {
            contact: Refusal(bytes(asked), frozenset(orjson.loads(people)), reason, server_ms)
            for contact, asked, people, reason, server_ms in rows_of(connection, sql, contacts)
        }

    def put_refused(
        self, connection: sa.Connection, write: Write, refused: Refusal, at_ms: int
    ) -> None:
        """Remember that a row was refused: it isn't tried again while neither it nor one of the
        people has changed."""
        row = {
            "scope": self._scope,
            "source": self.hasher.alias("source", write.source),
            "alias": self.contacts(write)[0],
            "content": refused.asked,
            "people": orjson.dumps(sorted(refused.people)).decode(),
            "reason": redact(refused.reason)[:_REASON_LENGTH],
            "server_ms": refused.server_ms,
            "at_ms": at_ms,
        }
        insert_or_replace(connection, refusals, [row])

    # --- what it means for a row ------------------------------------------------------------------

    def memory(
        self,
        write: Write,
        says: Mapping[str, Any],
        prospect_id: str | None,
        found: FoundEntries,
    ) -> RowMemory:
        """What is remembered for a row. write: its first; says: what it says of the person, who is
        `prospect_id` where that is known."""
        lists = [found.by_alias.get(alias, []) for alias in self.contacts(write)]
        names = self._names(says)
        own, others = list[Entry](), list[Entry]()
        for entry in dict.fromkeys(chain.from_iterable(lists)):
            is_about = prospect_id is not None and entry.prospect_id == prospect_id
            # who has no first name contradicts no one
            is_alike = entry.names[INITIAL] in (names[INITIAL], self._no_initial)
            is_alike |= not says.get("firstName")
            is_alike |= len(lists) > 1 and all(entry in each for each in lists)
            if is_about or (is_alike and write.exported is None):  # else its id alone decides
                (own if entry.source == found.source else others).append(entry)
        bases = [unpacked(entry.cells) for entry in own]
        remembered = Remembered(
            base=_united([base for base, _ in bases]),
            shown={name: pair for _, shown in bases for name, pair in shown.items()},
            others=_united([_shown_base(entry) for entry in others]),
        )
        people = dict.fromkeys(
            entry.prospect_id for entry in (*own, *others) if entry.prospect_id is not None
        )
        first = own[0] if own else None
        return RowMemory(says, remembered, first, tuple(people), first)

    def settlement(
        self,
        write: Write,
        memory: RowMemory,
        settled: Collection[str],
        siblings: Base,
        *,
        prospect_id: str | None,
        rows: int,
        at_ms: int,
        waiting: Base | None = None,
    ) -> Settlement | None:
        """The row's entry as it is once the row is settled; None where that changes nothing.

        siblings: what all rows of the entry say now. waiting: field → what is about to be sent, if
        no request is made for the row itself: then the cells of all rows are settled but these.
        Else another row's new cell isn't settled with this one. An old one, which no row says any
        more, goes.
        """
        contacts = self.contacts(write)
        if not contacts:
            return None
        entry = memory.entry
        base, shown = unpacked(entry.cells) if entry else ({}, {})
        own = new_base([memory], settled, self.hasher.cell)
        after, nothing = dict(base), frozenset[bytes]()
        for name, cells in own.items():
            before, others = base.get(name, nothing), siblings.get(name, nothing)
            after[name] = cells | (before & others if waiting is None else others)
        for name, sent in (waiting or {}).items():
            before, others = base.get(name, nothing), siblings.get(name, nothing)
            if settled_now := (others - sent) | (before & others):
                after[name] = settled_now
        shown = {name: pair for name, pair in shown.items() if after[name] == base.get(name)}
        is_whole = rows == 1 and after.keys() - {VERSION} <= own.keys()
        says = memory.says
        names = self._names(says)
        new = Entry(
            entry.alias if entry else contacts[0],
            entry.source if entry else 0,  # it gets its source's number when it is put
            prospect_id or (entry.prospect_id if entry else None),
            max(rows, entry.rows if entry else 0),
            entry.names if entry and lacks_names(says) else names,
            write.content if is_whole else None,
            packed(after, shown),
            at_ms,
        )
        return Settlement(new, contacts)

    def whole(
        self,
        write: Write,
        says: Mapping[str, Any],
        prospect_id: str,
        contacts: tuple[int, ...],
        at_ms: int,
    ) -> Settlement:
        """The new entry of a row that is settled as a whole. contacts: those of `contacts`."""
        names, cells = self._names(says), cells_of_row(says, self.hasher)
        entry = Entry(contacts[0], 0, prospect_id, 1, names, write.content, cells, at_ms)
        return Settlement(entry, contacts)

    def contacts(self, write: Write) -> tuple[int, ...]:
        """The aliases that an entry is found by, email first; of a row without contact, its own; of
        one of a pulled table, its prospect's id before all others."""
        if write.exported is None or write.prospect_id is None:
            return write.aliases
        return (self.hasher.alias("prospect", write.prospect_id), *write.aliases)

    def _names(self, says: Mapping[str, Any]) -> bytes:
        return self.hasher.entry_names(says.get("firstName"), says.get("lastName"))


def _united(bases: Sequence[Base]) -> dict[str, frozenset[bytes]]:
    if len(bases) == 1:
        return dict(bases[0])
    names = {name for base in bases for name in base}
    return {
        name: frozenset[bytes]().union(*(base[name] for base in bases if name in base))
        for name in names
    }


def _shown_base(entry: Entry) -> Base:
    """The last values of another source's entry, and how they were shown."""
    base, shown = unpacked(entry.cells)
    return {
        name: cells | {shown[name][1]} if name in shown else cells for name, cells in base.items()
    }
