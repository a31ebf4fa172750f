"""The facts about the people of a chunk of rows, from the ledger and the last pull.

Everything is looked up set by set, a chunk of rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import orjson

from connector.upsert.outbox.entries import Entries, FoundEntries, Refusal, RowMemory
from connector.upsert.outbox.matching import (
    ALWAYS_READ,
    READ_AS,
    Candidate,
    Name,
    OtherPerson,
    first_name,
    same_value,
    stored_first_name,
)
from connector.upsert.outbox.merge import SEVERAL_HAVE
from connector.upsert.outbox.outbox import PROSPECTS, Outbox, UncertainWrite, Write
from connector.upsert.outbox.receipts import Receipt, Receipts
from connector.upsert.rows import MANNERS
from connector.upsert.rows.write_schema import PROSPECT_FIELDS

Disputed = Mapping[int, tuple[str, str]]
_TWO_PEOPLE = (
    "email and phone belong to two different prospects ({email_id} and {phone_id}); merging two "
    "people can't be undone. Correct one of them, or split the row in two."
)


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


class PulledProspect(NamedTuple):
    """One prospect as the destination has it. fields: by API name. Times: UTC epoch ms."""

    id: str
    updated_at_ms: int | None
    deleted_at_ms: int | None
    fields: Mapping[str, Any] = {}

    def is_newer(self, updated_at_ms: int | None) -> bool | None:
        """Whether it is newer than what was accepted with this `updatedAt`; None: unknown."""
        if self.updated_at_ms is None or updated_at_ms is None:
            return None
        return self.updated_at_ms > updated_at_ms


class Near(NamedTuple):
    """Live prospects that have one of some contacts. by_email, by_phone: contact → their ids."""

    by_email: Mapping[str, frozenset[str]]
    by_phone: Mapping[str, frozenset[str]]
    people: Mapping[str, PulledProspect]

    def alike(self, says: Mapping[str, Any]) -> PulledProspect | None:
        """Who alone has every contact that a row says, and is all that it says."""
        email, phone = says.get("email"), says.get("phone")
        having = [self.by_email.get(email.casefold())] if email else []
        having += [self.by_phone.get(phone)] if phone else []
        if not having or having[0] is None or len(having[0]) != 1 or having[-1] != having[0]:
            return None
        (id_,) = having[0]
        found = self.people.get(id_)
        is_alike = found is not None and _is_all(says, fields_of_item(found.fields, of_copy=True))
        return found if is_alike else None


class Pulled:
    """The destination's prospects; this one is empty, since nothing was pulled yet."""

    complete_ms: int | None = None
    """When the last complete scan began (UTC epoch ms): who isn't in the copy didn't exist then."""

    contacts: Collection[str] = ("email", "phone")
    """Those that people can be found by: neither hashed nor left out."""

    page_size = 200
    """Rows per page of a scan."""

    @property
    def scan_pages(self) -> int | None:
        """About how many pages a complete scan of prospects has; None: no one knows."""
        people = self.count()
        return None if people is None else math.ceil(people / self.page_size)

    def count(self) -> int | None:
        """How many live prospects the destination has; None: it has none at all."""
        return None

    def by_id(
        self,
        ids: Collection[str],  # noqa: ARG002
        *,
        with_fields: bool = False,  # noqa: ARG002
    ) -> dict[str, PulledProspect]:
        """Those of `ids` that the destination has, deleted ones included."""
        return {}

    def near(self, emails: Collection[str], phones: Collection[str]) -> Near:  # noqa: ARG002
        """Who has one of these emails (casefolded) or phones (E.164), with their fields."""
        return Near({}, {}, {})

    def alike(self, rows: Sequence[Mapping[str, Any]]) -> dict[int, PulledProspect]:
        """position → who alone has every contact that this row says, and is all that it says, as
        far as that is seen at a glance. Their fields may be left out."""
        near = self.near(*contacts_of(rows))
        found = ((position, near.alike(says)) for position, says in enumerate(rows))
        return {position: each for position, each in found if each is not None}

    def ask_alike(
        self, rows: Sequence[Mapping[str, Any]]
    ) -> Callable[[], Mapping[int, PulledProspect]]:
        """Start `alike`, in parallel where possible; the returned function waits for it."""
        return lambda: self.alike(rows)

    def pushed_before(self, ids: Collection[str]) -> frozenset[str]:  # noqa: ARG002
        """Those of `ids` that pushes have created or changed, as their landed results say."""
        return frozenset()

    def is_deleted(self, found: PulledProspect | None, accepted_ms: int) -> bool:
        """Whether `found`, of `by_id`, shows that the prospect was deleted after `accepted_ms`."""
        if found is None:
            return self.complete_ms is not None and self.complete_ms > accepted_ms
        return found.deleted_at_ms is not None and found.deleted_at_ms > accepted_ms


def contacts_of(rows: Iterable[Mapping[str, Any]]) -> tuple[set[str], set[str]]:
    """The emails (casefolded) and phones that rows say."""
    emails, phones = set[str](), set[str]()
    for says in rows:
        if email := says.get("email"):
            emails.add(email.casefold())
        if phone := says.get("phone"):
            phones.add(phone)
    return emails, phones


def _is_all(says: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether each field that a row names is known to be what a prospect has."""
    return all(
        name in theirs and (value == theirs[name] or same_value(name, value, theirs[name]))
        for name, value in says.items()
        if name not in MANNERS
    )


class ContactFacts(NamedTuple):
    """What the ledger knows about the contacts of some rows, by alias."""

    receipts: Mapping[int, Receipt]
    entries: FoundEntries


@dataclass(slots=True)
class Evidence:
    """The facts about one row's person.

    by_email, by_phone, by_row: where its aliases lead. is_deleted: whom `by_row` leads to is
    deleted. named: whom the row itself names; by_id: that prospect's receipt. pulled_by_email,
    pulled_by_phone: ids that the destination has for its contacts. uncertain: an earlier write of
    the same content has an unknown fate. disputed: the prospect that was expected behind a contact
    of the row, and the one that answered. others: known people of another first name whom the
    contacts lead to. fits: the first name agrees with that of a person whom they lead to. settled:
    of those people, on whom this source has settled the first name; created: by creating them.
    attached: (prospect id, kind, content) of activities that are there. payload: the row's own.
    pulled: whom the contacts lead to, as the destination has them. memory: what was settled for the
    row. dropped: where its contacts led, to people who are deleted. adopts: it was pushed before,
    and what was settled then isn't known.
    """

    by_email: Receipt | None = None
    by_phone: Receipt | None = None
    by_row: Receipt | None = None
    uncertain: bool = False
    disputed: tuple[str, str] | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)
    attached: Collection[tuple[str, str, bytes]] = ()
    pulled_by_email: frozenset[str] = frozenset()
    pulled_by_phone: frozenset[str] = frozenset()
    is_deleted: bool = False
    named: str | None = None
    by_id: Receipt | None = None
    others: Sequence[OtherPerson] = ()
    fits: bool = False
    settled: frozenset[str] = frozenset()
    created: bool = False
    pulled: Mapping[str, PulledProspect] = field(default_factory=dict)
    memory: RowMemory | None = None
    dropped: Sequence[Receipt] = ()
    adopts: bool = False

    @classmethod
    def of(
        cls,
        write: Write,
        found: Mapping[int, Receipt],
        uncertain: Collection[UncertainWrite],
        disputed: Disputed,
    ) -> Self:
        """The ledger's facts about the row of a prospect's write. found: where aliases lead."""
        email, phone, row = write.email_alias, write.phone_alias, write.row_alias
        present = write.aliases
        by_email, by_phone, by_row = (
            None if alias is None else found.get(alias) for alias in (email, phone, row)
        )
        return cls(
            by_email,
            by_phone,
            by_row,
            uncertain=any((name, PROSPECTS, write.content) in uncertain for name in present),
            disputed=next((disputed[name] for name in present if name in disputed), None),
        )

    @property
    def best(self) -> Receipt | None:
        """The receipt to trust among those the aliases lead to: a confirmed one first, in order."""
        known = [each for each in (self.by_email, self.by_phone, self.by_row) if each is not None]
        return min(known, key=lambda each: not each.confirmed, default=None)

    @property
    def receipts(self) -> list[Receipt]:
        """Where the row's contacts lead."""
        every = (self.by_email, self.by_phone, self.by_id)
        return [each for each in every if each is not None]

    @property
    def people(self) -> frozenset[str]:
        """Every prospect that the row's contacts lead to."""
        if self.named is not None:
            return frozenset((self.named,))
        found = {each.prospect_id for each in self.receipts}
        return self.pulled_by_email | self.pulled_by_phone | found

    @property
    def why_ambiguous(self) -> str | None:
        """Why the row is rejected, where its contacts lead to several people, and nothing in it
        shows which of them it is about."""
        if self.named is not None:
            return None
        email, phone = (
            {each.prospect_id} if each is not None and each.confirmed else set()
            for each in (self.by_email, self.by_phone)
        )
        by_email, by_phone = self.pulled_by_email | email, self.pulled_by_phone | phone
        if by_email and by_phone and not by_email & by_phone:
            return _TWO_PEOPLE.format(email_id=min(by_email), phone_id=min(by_phone))
        ids = sorted(by_email | by_phone)
        if len(ids) > 1 and self.payload and not self.payload.get("firstName"):
            return SEVERAL_HAVE.format(ids=", ".join(ids[:3]))
        return None

    def candidate(self, write: Write) -> Candidate:
        """The row as it is judged: its names, its contacts, and what is known of whom they lead
        to."""
        text, memory = self.payload.get("firstName"), self.memory
        contacts = [
            (("email", write.email_alias), self.by_email),
            (("phone", write.phone_alias), self.by_phone),
        ]
        own = [contact for contact, _ in contacts if contact[1] is not None]
        found = [(contact, each) for contact, each in contacts if each is not None]
        people = {each.prospect_id for _, each in found if each.confirmed}
        repeats = memory is not None and any(id_ in people for id_ in memory.people[:1])
        return Candidate(
            write.row_number,
            first_name(text),
            str(text or ""),
            (*own, *(("prospect", id_) for id_ in people)),
            (write.email_alias, write.phone_alias) if len(own) == 2 else None,
            tuple(self.others),
            rank=0 if repeats else 1 if self.fits else 2,
            settled=frozenset(
                key
                for contact, each in found
                if each.prospect_id in self.settled
                for key in (contact, ("prospect", each.prospect_id))
            ),
        )

    def name(self, prospect_id: str, receipt: Receipt | None) -> None:
        """The row itself names its prospect: no one else counts, whatever contacts lead to."""
        others = {each.prospect_id for each in self.receipts} - {prospect_id}
        self.drop(others)
        self.by_id, self.named, self.disputed = receipt, prospect_id, None

    def drop(self, prospect_ids: Collection[str]) -> None:
        """The ledger's aliases don't lead to these prospects."""
        for name in ("by_email", "by_phone"):
            found = getattr(self, name)
            if found is not None and found.prospect_id in prospect_ids:
                setattr(self, name, None)


class EvidenceFinder:
    """Evidence for checked rows: the ledger's, and what the last pull saw since."""

    def __init__(
        self,
        outbox: Outbox,
        receipts: Receipts,
        pulled: Pulled,
        *,
        source: str,
        entries: Entries,
    ) -> None:
        self._outbox, self._receipts, self.pulled = outbox, receipts, pulled
        self._entries, self._source_name = entries, source
        self._source = outbox.hasher.alias("source", source)
        self._uncertain = outbox.uncertain()
        self._open = {name for write in outbox.open_sends() for name in write.person_names}
        with outbox.database.read() as connection:
            self._disputed = receipts.disputed(connection)
            self._is_first_push = entries.is_new(connection, source)
            self._is_anything_settled = bool(entries.numbers(connection))
        self._unsettled = self._open | {name for name, _, _ in self._uncertain}
        self._unsettled |= self._disputed.keys()
        self.deleted: set[str] = set()
        """Prospects that the last pull shows to be deleted, of those that were looked up."""

    def changed_since(self, refused: Refusal, own: Evidence) -> bool:
        """Whether a person whom a refusal is about was changed since, as far as is known."""
        written = (each.updated_at_ms for each in own.receipts)
        people = self.pulled.by_id(refused.people)
        if any(each.deleted_at_ms is not None for each in people.values()):
            return True
        read = (each.updated_at_ms for each in people.values())
        return any(at_ms is not None and at_ms > refused.server_ms for at_ms in (*read, *written))

    def is_settled(self, write: Write, prospect_id: str | None) -> bool:
        """Whether nothing about the person of `write` is open, uncertain or disputed."""
        return not self._unsettled or self._unsettled.isdisjoint({*write.aliases, prospect_id})

    def look_up(self, writes: Sequence[Write]) -> ContactFacts:
        """What the ledger knows about the contacts of these rows."""
        aliases = {alias for write in writes for alias in write.aliases}
        with self._outbox.database.read() as connection:
            receipts = self._receipts.find(connection, aliases)
            if self._is_anything_settled:
                entries = self._entries.find_for(connection, self._source_name, writes)
            else:
                entries = FoundEntries({}, 0)
        return ContactFacts(receipts, entries)

    def gather(
        self, people: Sequence[Sequence[Sequence[Write]]], facts: ContactFacts
    ) -> dict[int, Evidence]:
        """row number → all facts about its person, and what was settled for the row. people: the
        rows of each, as their writes. facts: of `look_up`."""
        rows = [row for person in people for row in person]
        says = {write.row_number: orjson.loads(write.body) for write, *_ in rows}
        near = self.pulled.near(*contacts_of(says.values()))
        evidence = self._from_ledger(rows, says, facts, near)
        ids = {id_ for own in evidence.values() for id_ in own.people}
        ids |= {own.by_row.prospect_id for own in evidence.values() if own.by_row}
        others = self.pulled.by_id(ids - near.people.keys(), with_fields=True)
        seen = {**near.people, **others}
        for own in evidence.values():
            self._drop_deleted(own, seen)
            self._compare_names(own, seen)
        self._add_memories(rows, evidence, facts)
        remembered = {id_ for own in evidence.values() if own.memory for id_ in own.memory.people}
        if unseen := remembered - seen.keys() - ids:
            seen |= self.pulled.by_id(unseen, with_fields=True)
        for own in evidence.values():
            about = {*own.people, *(own.memory.people if own.memory else ())}
            own.pulled = {id_: seen[id_] for id_ in about if id_ in seen}
        self._add_settled(people, evidence)
        if self._is_first_push:
            self._add_adoptions(list(evidence.values()))
        return evidence

    def _add_adoptions(self, evidence: Sequence[Evidence]) -> None:
        """Which rows were pushed by a version that kept no bases, or whose bases are lost."""
        unknown = dict[str, list[Evidence]]()
        for own in evidence:
            memory = own.memory
            if memory is None or memory.remembered.base:
                continue
            receipts = [*own.receipts, *own.dropped]
            own.adopts = any(
                each.names is None or each.prospect_id not in memory.people for each in receipts
            )
            if not receipts and not memory.people:
                for id_ in own.people:
                    unknown.setdefault(id_, []).append(own)
        for id_ in self.pulled.pushed_before(unknown):
            for own in unknown[id_]:
                own.adopts = True

    def _drop_deleted(self, own: Evidence, seen: Mapping[str, PulledProspect]) -> None:
        """Contacts don't lead to whom the copy shows to be deleted."""
        if (created := own.by_row) is not None:
            found = seen.get(created.prospect_id)
            own.is_deleted = self.pulled.is_deleted(found, created.accepted_ms)
        deleted = {
            each.prospect_id
            for each in own.receipts
            if self.pulled.is_deleted(seen.get(each.prospect_id), each.accepted_ms)
        }
        self.deleted |= deleted
        own.dropped = [each for each in own.receipts if each.prospect_id in deleted]
        own.drop(deleted)

    def _add_memories(
        self, rows: Sequence[Sequence[Write]], evidence: Mapping[int, Evidence], facts: ContactFacts
    ) -> None:
        for write, *_ in rows:
            if write.row_alias is None:
                own = evidence[write.row_number]
                id_ = write.prospect_id or (own.best.prospect_id if own.best else None)
                own.memory = self._entries.memory(write, own.payload, id_, facts.entries)

    def waits(self, write: Write, prospect_id: str | None) -> bool:
        """Whether a write to this person has no answer yet."""
        return not self._open.isdisjoint({*write.aliases, prospect_id})

    def _from_ledger(
        self,
        rows: Sequence[Sequence[Write]],
        says: Mapping[int, dict[str, Any]],
        facts: ContactFacts,
        near: Near,
    ) -> dict[int, Evidence]:
        found, no_ids = facts.receipts, frozenset[str]()
        has_activities = any(len(row) > 1 for row in rows)
        named = {write.prospect_id or "" for write, *_ in rows if write.exported is not None}
        ids = {each.prospect_id for each in found.values()} | named if has_activities else set()
        with self._outbox.database.read() as connection:
            attached = self._receipts.attached(connection, ids)
            of_named = self._receipts.of(connection, named)
        evidence = {}
        for write, *_ in rows:
            own = Evidence.of(write, found, self._uncertain, self._disputed)
            own.payload, own.attached = says[write.row_number], attached
            email, phone = own.payload.get("email"), own.payload.get("phone")
            own.pulled_by_email = near.by_email.get((email or "").casefold(), no_ids)
            own.pulled_by_phone = near.by_phone.get(phone or "", no_ids)
            if write.exported is not None and write.prospect_id is not None:
                own.name(write.prospect_id, of_named.get(write.prospect_id))
            evidence[write.row_number] = own
        return evidence

    def _compare_names(self, own: Evidence, seen: Mapping[str, PulledProspect]) -> None:
        people = own.people
        is_compared = people and own.named is None
        name = first_name(own.payload.get("firstName")) if is_compared else None
        if name is None:
            return
        hashed = self._outbox.hasher.name(name)
        others, unrelated = [], set()
        for id_ in sorted(people):
            pulled = seen.get(id_)
            receipt = next((each for each in own.receipts if each.prospect_id == id_), None)
            agrees = _agreement(name, hashed, receipt, pulled)
            by_email = id_ in own.pulled_by_email or _holds(own, "email", id_, pulled)
            by_phone = id_ in own.pulled_by_phone or _holds(own, "phone", id_, pulled)
            if agrees is False and (by_email or by_phone):
                in_clear = pulled.fields.get("firstName") if pulled else None
                others.append(OtherPerson(id_, by_email, by_phone, in_clear))
            elif agrees is False:
                unrelated.add(id_)  # by a contact that isn't theirs any more, or never was
            elif agrees and (by_email or by_phone):
                own.fits = True
        own.others = others
        own.drop(unrelated)

    def _add_settled(
        self, people: Sequence[Sequence[Sequence[Write]]], evidence: Mapping[int, Evidence]
    ) -> None:
        """Which first names this source has settled on the very people that the rows lead to."""
        weighed = [
            own
            for person in people
            for row in person
            if (own := evidence[row[0].row_number]).others or len(row) > 1 or len(person) > 1
        ]
        ids = {id_ for own in weighed for id_ in own.people}
        if not ids:
            return
        with self._outbox.database.read() as connection:
            settled = self._receipts.settled(connection, self._source, ids)
        for own in weighed:
            name = first_name(own.payload.get("firstName"))
            if name is not None:
                alias = self._outbox.hasher.alias("name", str(name.whole))
                own.settled = frozenset(id_ for id_ in own.people if (id_, alias) in settled)
                own.others = [each for each in own.others if each.prospect_id not in own.settled]
                own.created = any(settled[id_, alias] for id_ in own.settled)


def _agreement(
    name: Name, hashed: Name, receipt: Receipt | None, pulled: PulledProspect | None
) -> bool | None:
    """Whether a row's first name agrees with a person's, the newer of what is known; None where
    that isn't known."""
    accepted = stored_first_name(receipt.names) if receipt else None
    ours = None if accepted is None else accepted.agrees(hashed)
    if pulled is None or "firstName" not in pulled.fields:
        return ours
    read = first_name(pulled.fields["firstName"])
    theirs = None if read is None else read.agrees(name)
    is_newer = True if receipt is None else pulled.is_newer(receipt.updated_at_ms)
    if is_newer:
        return theirs
    if is_newer is None and ours is not None and theirs is not None:
        return ours or theirs
    return theirs if ours is None else ours


def _holds(own: Evidence, contact: str, prospect_id: str, pulled: PulledProspect | None) -> bool:
    """Whether a prospect has a row's contact, as the ledger says and no newer copy denies."""
    receipt = own.by_email if contact == "email" else own.by_phone
    if receipt is None or receipt.prospect_id != prospect_id or not receipt.confirmed:
        return False
    if pulled is None or contact not in pulled.fields or not pulled.is_newer(receipt.updated_at_ms):
        return True
    return same_value(contact, own.payload.get(contact), pulled.fields[contact])
