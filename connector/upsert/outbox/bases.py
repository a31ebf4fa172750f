"""What one row of a source has settled, and what settling it again makes of its entry.

An entry is a row's own where one of its contacts leads there, and it is about the same person, or
the first names begin alike, or both contacts lead there: families share a phone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, Self

import orjson
import sqlalchemy as sa

from connector.upsert.outbox.entries import (
    INITIAL,
    VERSION,
    Base,
    Entries,
    Entry,
    cells_of_row,
    packed,
    unpacked,
)
from connector.upsert.outbox.matching import ALWAYS_READ, READ_AS, Hasher
from connector.upsert.outbox.merge import Remembered, Row, lacks_names, new_base
from connector.upsert.outbox.outbox import Write
from connector.upsert.rows.write_schema import MANNERS, PROSPECT_FIELDS


class Exported(NamedTuple):
    """What a row of a pulled table was exported as.

    updated_at_ms: its version; None if it doesn't say. is_known: the copy still has that version.
    was: field → fingerprint of what the version has, for fields that the row says otherwise.
    added: fields that the version doesn't have, so that somebody has added them to the export.
    reason: why nothing of the row is sent, whatever it says.
    """

    updated_at_ms: int | None
    is_known: bool = True
    was: Mapping[str, bytes] = {}
    added: tuple[str, ...] = ()
    reason: str | None = None

    def to_bytes(self) -> bytes:
        was = {name: cell.hex() for name, cell in self.was.items()}
        return orjson.dumps([self.updated_at_ms, self.is_known, was, self.added, self.reason])

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        updated_at_ms, is_known, was, added, reason = orjson.loads(stored)
        cells = {name: bytes.fromhex(cell) for name, cell in was.items()}
        return cls(updated_at_ms, is_known, cells, tuple(added), reason)


class RowMemory(NamedTuple):
    """What is remembered for one row. entry: its own, if it has one; others: those of its source
    that also are about its person. people: whom entries of any source lead to, its own first.
    stored: the entry as the ledger has it, where that is another one (see `as_exported`)."""

    row: Row
    entry: Entry | None
    people: tuple[str, ...]
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
        entry = [value.hex() if isinstance(value, bytes) else value for value in self.entry]
        return orjson.dumps([entry, self.contacts])

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

    def accepted(
        self, prospect_id: str | None, shown: Mapping[str, tuple[Any, Any]], at_ms: int
    ) -> Self:
        """With whom the API has named, and how it shows what was sent."""
        base, before = unpacked(self.entry.cells)
        cells = packed(base, {**before, **shown})
        id_ = prospect_id or self.entry.prospect_id
        return self._replace(entry=self.entry._replace(cells=cells, prospect_id=id_, seen_ms=at_ms))


@dataclass(frozen=True, slots=True)
class PersonRead:
    """A prospect as the copy, or a scan, has shown them.

    fields: by the names they are written under. read_ms: when the request began that read them; 0
    if they weren't read, and `fields` is what is known without that.
    alone: their contacts, of email and phone, that nobody else has.
    """

    id: str
    fields: Mapping[str, Any]
    read_ms: int
    updated_at_ms: int | None
    alone: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """`Write.seen`."""
        stored = [self.id, self.fields, self.read_ms, self.updated_at_ms, self.alone]
        return orjson.dumps(stored, default=str)

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        id_, fields, read_ms, updated_at_ms, alone = orjson.loads(stored)
        return cls(id_, fields, read_ms, updated_at_ms, tuple(alone))

    @property
    def item(self) -> dict[str, Any]:
        """As the API shows it."""
        shown = {READ_AS.get(name, name): value for name, value in self.fields.items()}
        return {**shown, "id": self.id, "updatedAt": self.updated_at_ms}


class Bases:
    """What one source has settled, and what others have. source: the input's name."""

    def __init__(self, entries: Entries, hasher: Hasher) -> None:
        self._entries, self.hasher = entries, hasher
        self._no_initial = hasher.entry_names(None, None)[INITIAL]
        self._sources: dict[str, int] = {}

    def find(self, connection: sa.Connection, source: str, writes: Iterable[Write]) -> FoundEntries:
        """The entries, of any source of the scope, that ever had a contact of these rows."""
        own = self._entries.numbers(connection)
        aliases = {alias for write in writes for alias in self.contacts(write)}
        found = self._entries.find(connection, aliases)
        by_alias = {
            alias: [entry for entry in each if entry.source in own] for alias, each in found.items()
        }
        return FoundEntries(by_alias, self.number(connection, source))

    def memories(
        self, rows: Sequence[tuple[Write, Mapping[str, Any], str | None]], found: FoundEntries
    ) -> list[RowMemory]:
        """What is remembered for each row. rows: its first write, what it says, and whom it is
        about, where that is known."""
        return [self._memory(write, says, id_, found) for write, says, id_ in rows]

    def namesakes(
        self, connection: sa.Connection, number: int, says: Mapping[str, Any]
    ) -> list[tuple[Entry, frozenset[int]]]:
        """Entries of a source under the names that a row has, each with its contacts."""
        names = self.hasher.entry_names(says.get("firstName"), says.get("lastName"))
        return self._entries.named(connection, number, names)

    def number(self, connection: sa.Connection, source: str) -> int:
        """The number of a source; 0 while nothing of it is settled."""
        if not self._sources.get(source):
            alias = self.hasher.alias("source", source)
            self._sources[source] = self._entries.find_source(connection, alias)
        return self._sources[source]

    def is_new(self, connection: sa.Connection, source: str) -> bool:
        """Whether no push of this source has ended yet."""
        return not self._entries.was_pushed(connection, self.number(connection, source))

    def has_sources(self, connection: sa.Connection) -> bool:
        """Whether anything was ever settled, by any source."""
        return bool(self._entries.numbers(connection))

    def end_push(self, connection: sa.Connection, source: str, at_ms: int) -> None:
        """A push of this source has ended: it isn't new any more."""
        self._entries.end_push(connection, self.make_number(connection, source), at_ms)

    def make_number(self, connection: sa.Connection, source: str) -> int:
        """The number of a source, which gets one where it has none."""
        if not self.number(connection, source):
            alias = self.hasher.alias("source", source)
            self._sources[source] = self._entries.make_source(connection, alias)
        return self._sources[source]

    def _memory(
        self,
        write: Write,
        says: Mapping[str, Any],
        prospect_id: str | None,
        found: FoundEntries,
    ) -> RowMemory:
        lists = [found.by_alias.get(alias, []) for alias in self.contacts(write)]
        names = self.hasher.entry_names(says.get("firstName"), says.get("lastName"))
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
        return RowMemory(Row(says, remembered), first, tuple(people), first)

    def as_exported(self, write: Write, memory: RowMemory) -> RowMemory:
        """What is remembered for a row of a pulled table: its entry, while that is of the same
        version; else what it was exported as, as if this source had settled that.

        Where the copy no longer has the version, what the row says now stands for it: nothing that
        differs is sent, and all of it is reported.
        """
        if write.exported is None:
            return memory
        exported, says, cell = (
            Exported.from_bytes(write.exported),
            memory.row.says,
            self.hasher.cell,
        )
        before, shown = unpacked(memory.entry.cells) if memory.entry else ({}, {})
        mark = frozenset((cell(VERSION, exported.updated_at_ms),))
        is_same = before.get(VERSION) == mark
        base: dict[str, frozenset[bytes]] = {VERSION: mark}
        for name, value in says.items():
            if name in before and (is_same or name in exported.added):
                base[name] = before[name]
            elif name not in exported.added and name not in MANNERS:
                base[name] = frozenset((exported.was.get(name) or cell(name, value),))
        contacts = self.contacts(write)
        names = self.hasher.entry_names(says.get("firstName"), says.get("lastName"))
        new = Entry(contacts[0], 0, write.prospect_id, 1, names, None, b"", 0)
        entry = (memory.entry or new)._replace(cells=packed(base, shown))
        remembered = memory.row.remembered
        row = Row(says, Remembered(base, shown, remembered.others))
        return memory._replace(row=row, entry=entry)

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
        own: dict[str, frozenset[bytes]] = new_base([memory.row], settled, self.hasher.cell)  # type: ignore[assignment]
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
        says = memory.row.says
        names = self.hasher.entry_names(says.get("firstName"), says.get("lastName"))
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
        names = self.hasher.entry_names(says.get("firstName"), says.get("lastName"))
        cells = cells_of_row(says, self.hasher)
        if write.exported is not None:
            version_ms = Exported.from_bytes(write.exported).updated_at_ms
            cells += cells_of_row({VERSION: version_ms}, self.hasher)
        entry = Entry(contacts[0], 0, prospect_id, 1, names, write.content, cells, at_ms)
        return Settlement(entry, contacts)

    def contacts(self, write: Write) -> tuple[int, ...]:
        """The aliases that an entry is found by, email first; of a row without contact, its own; of
        one of a pulled table, its prospect's id before all others."""
        if write.exported is None or write.prospect_id is None:
            return write.aliases
        return (self.hasher.alias("prospect", write.prospect_id), *write.aliases)

    def put(self, connection: sa.Connection, source: str, settled: Sequence[Settlement]) -> None:
        """Store what is settled for rows of `source`."""
        if settled:
            self._entries.put(connection, self.make_number(connection, source), settled)


def fields_of_item(item: Mapping[str, Any], *, of_copy: bool = False) -> dict[str, Any]:
    """A prospect that was read, by the names that its fields are written under. An absent field is
    unknown; so is a null of the copy, which may stand for an absent one, in a field that the
    contract doesn't name."""
    fields = {}
    for name in PROSPECT_FIELDS:
        read_as = READ_AS.get(name, name)
        if read_as in item:
            is_told = not of_copy or item[read_as] is not None or read_as in ALWAYS_READ
            if is_told:
                fields[name] = item[read_as]
    return fields


def _united(bases: Sequence[Base]) -> dict[str, frozenset[bytes]]:
    if len(bases) == 1:
        return dict(bases[0])
    names = {name for base in bases for name in base}
    return {
        name: frozenset[bytes]().union(*(base[name] for base in bases if name in base))
        for name in names
    }


def _shown_base(entry: Entry) -> Base:
    """What another source's entry said last, and how that was shown."""
    base, shown = unpacked(entry.cells)
    return {
        name: cells | {shown[name][1]} if name in shown else cells for name, cells in base.items()
    }
