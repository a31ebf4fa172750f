"""A push over the pure functions of the merge, with a ledger in memory: each dictionary that is
changed between two requests is one transaction, and a kill leaves it as it is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from connector.upsert.outbox.matching import conflict_with, normal_value, same_value
from connector.upsert.outbox.merge import (
    Body,
    FieldAction,
    MergeRules,
    NotSendable,
    OwnWrite,
    Person,
    PersonMerge,
    Remembered,
    Row,
    body_of_creation,
    body_of_update,
    has_changed,
    merge,
    new_base,
    new_shown,
    still_holds,
)
from connector.upsert.outbox.outbox import Verdict, fate_of_creation, fate_of_prospect
from tests.merging.people import (
    FIELDS,
    Changed,
    FileRow,
    HiringCenter,
    Lost,
    NotAccepted,
    PulledCopy,
)

TRUSTED_MS = 600_000
Contact = tuple[str, str]


def printed(name: str, value: Any) -> Any:
    value = normal_value(name, value)
    return (name, tuple(value) if isinstance(value, list) else value)


@dataclass(eq=False)
class Entry:
    """What one source has settled for one row, or for several with the same contact."""

    base: dict[str, frozenset[Any]] = field(default_factory=dict)
    shown: dict[str, Any] = field(default_factory=dict)
    person: str | None = None
    initial: str = ""
    names: tuple[Any, Any] | None = None
    on: set[tuple[str, Any]] = field(default_factory=set)
    rows: int = 0


@dataclass(eq=False)
class OpenWrite:
    source: str
    rows: list[FileRow]
    settles: frozenset[str]
    body: Body
    key: str
    sent_ms: int
    person: str | None
    sent: dict[str, Any]
    changed: Changed
    says: list[dict[str, Any]]
    created_before: bool = False


@dataclass
class ModelLedger:
    entries: dict[tuple[str, Contact], list[Entry]] = field(default_factory=dict)
    who: dict[Contact, str] = field(default_factory=dict)
    own: dict[str, OwnWrite] = field(default_factory=dict)
    open: list[OpenWrite] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    names: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)

    def of_row(self, source: str, says: dict[str, Any], person: str | None = None) -> list[Entry]:
        """An entry is a row's own where a contact leads to it and it is about the same person, or
        the first name begins alike; or where both contacts do."""
        found = [self.entries.get((source, contact), []) for contact in contacts(says)]
        return [
            entry
            for entry in dict.fromkeys(entry for entries in found for entry in entries)
            if entry.initial == says["firstName"][:1]
            or (person is not None and entry.person == person)
            or sum(entry in entries for entries in found) == 2
        ]

    def sources(self) -> set[str]:
        return {source for source, _ in self.entries}

    def elsewhere(self, source: str, says: dict[str, Any]) -> list[Entry]:
        return [
            entry
            for other in sorted(self.sources() - {source})
            for entry in self.of_row(other, says)
        ]


def contacts(says: dict[str, Any]) -> list[Contact]:
    return [(name, printed(name, says[name])[1]) for name in ("email", "phone") if says.get(name)]


@dataclass
class Result:
    """status: row number → status. kept, reported: (row number, field) reported as kept,
    and reported at all."""

    status: dict[int, str] = field(default_factory=dict)
    reported: set[tuple[int, str]] = field(default_factory=set)
    kept: set[tuple[int, str]] = field(default_factory=set)


@dataclass
class ModelPush:
    """looks, settles, tells_apart: rules that a test can leave out."""

    center: HiringCenter
    copy: PulledCopy
    ledger: ModelLedger
    source: str
    fresh_ms: int = 0
    rules: MergeRules = field(default_factory=MergeRules)
    looks: bool = True
    settles: bool = True
    tells_apart: bool = True
    keys: Any = None

    def __post_init__(self) -> None:
        self.keys = self.keys or itertools.count(1)
        self.result = Result()
        self.seen: list[Entry] = []
        self.orphans: set[Any] = set()

    # --- the whole push ---

    def run(self, rows: list[FileRow]) -> Result:
        for write in list(self.ledger.open):
            self._recover(write)
        self.seen = [entry for row in rows for entry in self._own(row)]
        self.orphans = {
            entry.names
            for (source, _), entries in self.ledger.entries.items()
            for entry in entries
            if source == self.source and self.seen.count(entry) < entry.rows
        }
        own = {contact for row in rows for contact in contacts(row.says())}
        self.orphans |= {
            (said.get("firstName"), said.get("lastName"))
            for write in self.ledger.open
            if write.source == self.source
            for said in write.says
            if own.isdisjoint(contacts(said))
        }
        for group in self._groups(rows):
            self._push_group(group)
        for row in rows:
            status = self.result.status.get(row.number)
            kept = {name for number, name in self.result.kept if number == row.number}
            row.dirty -= set(FIELDS) if status == "kept whole" else kept
        return self.result

    def _groups(self, rows: list[FileRow]) -> list[list[FileRow]]:
        groups: list[tuple[set[Any], list[FileRow]]] = []
        for row in rows:
            says = row.says()
            if not contacts(says):
                self._reject([row], "no contact")
                continue
            keys: set[Any] = {*contacts(says), *map(id, self.ledger.of_row(self.source, says))}
            keys |= {("person", id_) for id_ in self._people_of(says)}
            together = [group for group in groups if group[0] & keys]
            joined = [each for group in together for each in group[1]]
            groups = [group for group in groups if group not in together]
            groups.append((keys.union(*(group[0] for group in together)), [*joined, row]))
        return [sorted(group, key=lambda row: row.number) for _, group in groups]

    def _is_alive(self, id_: str) -> bool:
        copied, own = self.copy.people.get(id_), self.ledger.own.get(id_)
        if copied is None:
            seen_ms = max(own.answered_ms if own else 0, self.ledger.seen.get(id_, 0))
            is_missed = seen_ms and self.copy.complete_ms > seen_ms
            return id_ not in self.ledger.gone and not is_missed
        return id_ not in self.ledger.gone and not copied.deleted

    def _people_of(self, says: dict[str, Any]) -> list[str]:
        """Whom a row is about, its email's person first: as settled; else as the copy has it."""
        found = [self.ledger.who.get(contact) for contact in contacts(says)]
        alive = [id_ for id_ in found if id_ and self._is_alive(id_)]
        if not alive:
            entries = self.ledger.of_row(self.source, says)
            alive = [each.person for each in entries if each.person and self._is_alive(each.person)]
        if not alive:
            for name, value in contacts(says):
                alive += sorted(self.copy.having(name, value) - self.ledger.gone)
        return list(dict.fromkeys(alive))

    def _row(self, row: FileRow, person: str | None = None) -> Row:
        says = row.says()
        entries = self.ledger.of_row(self.source, says, person)
        others = self.ledger.elsewhere(self.source, says)
        return Row(
            says,
            Remembered(
                base=_united([entry.base for entry in entries]),
                shown=entries[0].shown if entries else {},
                others=_united(
                    [
                        *(entry.base for entry in others),
                        *(
                            {name: {shown[1]} for name, shown in each.shown.items()}
                            for each in others
                        ),
                    ]
                ),
            ),
        )

    def _read_of(self, id_: str) -> Person | None:
        copied = self.copy.people.get(id_)
        if copied is None or copied.deleted:
            return None
        waits = any(write.person == id_ for write in self.ledger.open)
        own = self.ledger.own.get(id_)
        if waits or not still_holds(copied.read_ms, copied.updated_ms, own):
            return None
        fresh = self.center.now_ms - copied.read_ms < self.fresh_ms
        return Person(id_, copied.fields, fresh)

    def _push_group(self, group: list[FileRow]) -> None:
        waits = {
            contact for write in self.ledger.open for row in write.says for contact in contacts(row)
        }
        own = {contact for row in group for contact in contacts(row.says())}
        people = list(dict.fromkeys(id_ for row in group for id_ in self._people_of(row.says())))
        if own & waits or any(write.person in people for write in self.ledger.open if write.person):
            return self._reject(group, "waits")
        if len(people) > 1:
            return self._reject(group, "two people")
        if self._is_refused(group, people):
            return self._reject(group, "refused before")
        if people:
            read = self._read_of(people[0])
            item = {"id": read.id, **read.fields} if read else self.ledger.names.get(people[0])
            group = self._of_one_person(group, item, people[0])
            return self._update(group, people[0], read) if group else None
        new = self._of_one_person([row for row in group if self._is_new(row)], None, "")
        if new and has_changed([self._row(row) for row in new], printed):
            return self._create(new)
        for row in new:
            self.result.status[row.number] = "kept whole"
        return None

    def _is_new(self, row: FileRow) -> bool:
        """Whether a row about an unknown person is about a new one; else it has its outcome."""
        said = row.says()
        if not self._own(row):
            is_lost = (said.get("firstName"), said.get("lastName")) in self.orphans
            if is_lost:
                self._reject([row], "contact changed?")
            return not is_lost
        return True

    def _own(self, row: FileRow) -> list[Entry]:
        return self.ledger.of_row(self.source, row.says())

    def _of_one_person(
        self, group: list[FileRow], item: dict[str, Any] | None, id_: str
    ) -> list[FileRow]:
        """The rows without those that seem to be about another person."""
        stays: list[FileRow] = []
        for row in group:
            says = row.says()
            is_settled = any((id_, says.get("firstName")) in entry.on for entry in self._own(row))
            conflict = item and self._conflict(says, item)
            twins = [each for each in stays if self._conflict(says, each.says())]
            if (conflict or twins) and not is_settled:
                self._reject([row], "two behind one contact")
            else:
                stays.append(row)
        return stays

    def _conflict(self, says: dict[str, Any], other: dict[str, Any]) -> Any:
        return self.tells_apart and conflict_with(says, other)

    # --- updates ---

    def _update(self, group: list[FileRow], id_: str, read: Person | None) -> None:
        rows = [self._row(row, id_) for row in group]
        merged = merge(rows, read, self.rules, printed)
        if merged.to_send and not (read and read.fresh) and self.looks:
            looked = self._look(group, id_, read)
            if looked is None:
                return None
            group, read = looked
            if not group:
                return None
            rows = [self._row(row, id_) for row in group]
            merged = merge(rows, read, self.rules, printed)
        if not merged.to_send:
            self._settle(group, self._settled(merged), id_, {}, None)
            self._report(group, merged)
            return None
        if read is None:
            return self._reject(group, "not known")
        try:
            body = body_of_update(merged, read)
        except NotSendable as error:
            return self._reject(group, str(error), refused=id_)
        for name, value in body.new_contacts:
            if any(item["id"] != id_ for item in self.center.by(name, value)):
                return self._reject(group, "another person's contact", refused=id_)
        self._send(group, body, merged, id_)
        return None

    def _look(
        self, group: list[FileRow], id_: str, read: Person | None
    ) -> tuple[list[FileRow], Person] | None:
        """The person as they are now, and found by the contact that will be sent alone."""
        says = {}
        for row in group:
            says |= row.says()
        known = dict(read.fields) if read else says
        for _ in range(3):
            contact = next(((n, known[n]) for n in ("email", "phone") if known.get(n)), None)
            found = self.center.by(*contact) if contact else []
            if [item["id"] for item in found] == [id_]:
                item = found[0]
                if contact and self._contact_sent(group, item) == contact[0]:
                    return self._of_one_person(group, item, id_), _person(item)
            else:
                item = self.center.by_id(id_)
                if item is None:
                    self.ledger.gone.add(id_)
                    self._push_group(group)
                    return None
            name = self._contact_sent(group, item)
            if name is None:
                return self._of_one_person(group, item, id_), _person(item)
            if [each["id"] for each in self.center.by(name, item[name])] != [id_]:
                self._reject(group, "a contact that two people have")
                return None
            return self._of_one_person(group, item, id_), _person(item)
        return None

    def _contact_sent(self, group: list[FileRow], item: dict[str, Any]) -> str | None:
        merged = merge(
            [self._row(row, item["id"]) for row in group], _person(item), self.rules, printed
        )
        try:
            body = body_of_update(merged, _person(item))
        except NotSendable:
            return None
        return body.contact[0] if body.contact else None

    # --- creations ---

    def _create(self, group: list[FileRow]) -> None:
        rows = [self._row(row) for row in group]
        said: dict[str, Any] = {}
        for row in rows:
            said |= {name: value for name, value in row.says.items() if value is not None}
        body = Body(body_of_creation(said, self.rules), ("", ""))
        merged = merge(rows, None, self.rules, printed)
        self._send(group, body, merged, None)

    # --- sending and settling ---

    def _send(
        self, group: list[FileRow], body: Body, merged: PersonMerge, id_: str | None,
        *, key: str | None = None,
    ) -> None:  # fmt: skip
        write = OpenWrite(
            self.source,
            group,
            self._settled(merged),
            body,
            key or f"k{next(self.keys)}",
            self.center.now_ms,
            id_,
            {each.name: each.ours for each in merged.to_send},
            {(row.number, name): row.cells[name] for row in group for name in row.dirty},
            [row.says() for row in group],
        )
        self.ledger.open.append(write)
        self._deliver(write, merged)

    def _deliver(self, write: OpenWrite, merged: PersonMerge | None) -> None:
        is_again = write.sent_ms < self.center.now_ms
        since_ms = self.center.now_ms - max(self.fresh_ms, TRUSTED_MS if is_again else 0)
        if write.person is None:
            since_ms = min(since_ms, write.sent_ms)
        try:
            status, item = self.center.post(
                write.key, write.body.payload, write.rows, write.changed, since_ms
            )
        except Lost:
            for row in write.rows:
                self.result.status[row.number] = "open"
            return
        except NotAccepted:
            self.ledger.open.remove(write)
            self._reject(write.rows, "refused", refused=write.person or "")
            return
        if write.person is None and status != 201:
            self._met(write, item, merged)
        elif write.person is not None and item["id"] != write.person:
            self.ledger.open.remove(write)
            self._reject(write.rows, "another answered")
        else:
            self._accepted(write, item, merged)

    def _met(self, write: OpenWrite, item: dict[str, Any], merged: PersonMerge | None) -> None:
        """A write that only creates has met a person: ours, if created not before we sent it."""
        if fate_of_creation(item, write.sent_ms) is Verdict.APPLIED:
            self._accepted(write, item, None, is_answer=False)
            return
        self.ledger.open.remove(write)
        if merged is None:  # of an earlier push: its source's next one finds the person
            return
        group = self._of_one_person(write.rows, item, item["id"])
        if group:
            self._update(group, item["id"], _person(item))

    def _accepted(
        self,
        write: OpenWrite,
        item: dict[str, Any],
        merged: PersonMerge | None,
        *,
        is_answer: bool = True,
    ) -> None:
        """is_answer: else the person was read later, and may show a recruiter's edit."""
        copied = self.copy.people.get(item["id"])
        own = OwnWrite(self.center.now_ms, item["updatedAt"], copied.updated_ms if copied else None)
        shown = new_shown(write.sent, item, printed) if is_answer else {}
        self.ledger.names[item["id"]] = item
        self.ledger.own[item["id"]] = own  # from here on one transaction
        self._settle(write.rows, write.settles, item["id"], shown, write)
        self.ledger.open.remove(write)
        status = "created" if write.person is None else "updated"
        for row in write.rows:
            self.result.status[row.number] = status
        if merged:
            self._report(write.rows, merged, status)

    def _settled(self, merged: PersonMerge) -> frozenset[str]:
        return merged.settled if self.settles else frozenset()

    def _settle(
        self,
        rows: Sequence[FileRow],
        settled: frozenset[str],
        id_: str | None,
        shown: dict[str, Any],
        write: OpenWrite | None,
    ) -> None:
        says = write.says if write else [row.says() for row in rows]
        source = write.source if write else self.source
        for row, said in zip(rows, says, strict=True):
            if id_:
                row.is_at(id_, (said.get("firstName"), said.get("lastName")))
        by_entry: dict[int, tuple[Entry, list[Row]]] = {}
        for said in says:
            entries = self.ledger.of_row(source, said, id_)
            entry = entries[0] if entries else next(
                (each for each, own in by_entry.values()
                 if any(set(contacts(dict(r.says))) & set(contacts(said)) for r in own)), Entry()
            )  # fmt: skip
            by_entry.setdefault(id(entry), (entry, []))[1].append(Row(said))
        for entry, own in by_entry.values():
            base = new_base(own, settled, printed)
            changed = {name for name in base if not base[name] <= set(entry.base.get(name, ()))}
            sent = write.sent if write else {}
            entry.shown = {
                name: value
                for name, value in entry.shown.items()
                if name not in changed and name not in sent
            } | {name: shown[name] for name in shown if name in base}
            entry.base |= {name: base[name] for name in changed}
            entry.person = id_ or entry.person
            if id_:
                self.ledger.seen[id_] = self.center.now_ms
            for row in own:
                entry.initial = row.says["firstName"][:1]
                entry.rows = max(entry.rows, len(own))
                entry.names = (row.says.get("firstName"), row.says.get("lastName"))
                if id_:
                    entry.on.add((id_, row.says.get("firstName")))
                for contact in contacts(dict(row.says)):
                    if id_:
                        self.ledger.who[contact] = id_
                    known = self.ledger.entries.setdefault((source, contact), [])
                    if entry not in known:
                        known.append(entry)

    def _recover(self, write: OpenWrite) -> None:
        """A write without an answer: sent again while its key is surely known, or looked at."""
        if self.center.now_ms - write.sent_ms < TRUSTED_MS or write.person is None:
            self._deliver(write, None)
            return
        item = self.center.by_id(write.person)
        own = self.ledger.own.get(write.person)
        fate = fate_of_prospect(
            {name: write.body.payload[name] for name in FIELDS if name in write.body.payload},
            item,
            known_before=True,
            accepted_updated_at_ms=own.updated_at_ms if own else None,
            sent_server_ms=write.sent_ms,
        )
        if fate is Verdict.NOT_APPLIED:
            self._deliver(write, None)
        elif fate is Verdict.APPLIED and item:
            self._accepted(write, item, None, is_answer=False)
        else:
            self.ledger.own[write.person] = OwnWrite(self.center.now_ms)
            self._settle(write.rows, write.settles, write.person, {}, write)
            self.ledger.open.remove(write)
            for row in write.rows:  # reported once, as uncertain
                for name, value in (*row.cells.items(),):
                    if any(same_value(name, said.get(name), value) for said in write.says):
                        row.dirty.discard(name)

    # --- results ---

    def _is_refused(self, group: list[FileRow], people: list[str]) -> bool:
        entry = self._refusals().get(tuple(row.number for row in group))
        return entry is not None and entry == self._facts(group, people[0] if people else "")

    def _refusals(self) -> dict[Any, Any]:
        return self.ledger.__dict__.setdefault("refusals", {})

    def _facts(self, group: list[FileRow], id_: str) -> Any:
        copied = self.copy.people.get(id_)
        return ([row.says() for row in group], id_, copied.updated_ms if copied else None)

    def _reject(self, group: list[FileRow], why: str, *, refused: str | None = None) -> None:
        for row in group:
            self.result.status[row.number] = f"rejected: {why}"
            self.result.reported |= {(row.number, name) for name in FIELDS}
        if refused is not None:
            key = tuple(row.number for row in group)
            self._refusals()[key] = self._facts(group, refused)

    def _report(self, group: list[FileRow], merged: PersonMerge, status: str | None = None) -> None:
        for row in group:
            self.result.status.setdefault(row.number, status or "unchanged")
            left_out = (each for each in merged.fields if each.action is FieldAction.LEAVE_OUT)
            disagree = [each for each in merged.fields if each.disagree]
            for each in (*merged.kept, *left_out, *disagree):
                if each.name in row.cells:
                    self.result.reported.add((row.number, each.name))
            self.result.kept |= {(row.number, each.name) for each in merged.kept}


def _person(item: dict[str, Any]) -> Person:
    return Person(item["id"], {name: item[name] for name in FIELDS if name in item}, fresh=True)


def _united(sets: Sequence[dict[str, Any]]) -> dict[str, frozenset[Any]]:
    names = {name for each in sets for name in each}
    return {
        name: frozenset().union(*(each[name] for each in sets if name in each)) for name in names
    }
