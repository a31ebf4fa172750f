"""A look at a person before they are changed: are they who they should be, and what is left to do?

The look is one request, by the contact that the write will be sent with: the API finds people by
email or phone alone, so the write must find exactly this person. What the look shows is merged with
the row again, or, where a plan is applied or a push is undone, held against the write's guard.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self

import orjson

from connector.api.client import ApiClient
from connector.errors import ConnectorError
from connector.upsert.delivery import (
    SAME_CONTACT,
    Delivered,
    Item,
    Unclear,
    people_having,
    person_by_contact,
    person_by_id,
    usable_item,
)
from connector.upsert.outbox.bases import PersonRead, RowMemory, fields_of_item
from connector.upsert.outbox.matching import normal_value, same_value
from connector.upsert.outbox.merge import (
    CONTACTS,
    SEVERAL_HAVE,
    UNKNOWN,
    Body,
    FieldAction,
    FieldMerge,
    Fingerprints,
    MergeRules,
    NotSendable,
    Person,
    PersonMerge,
    Why,
    body_of_update,
    merge,
)
from connector.upsert.outbox.outbox import Verdict, Write, time_ms
from connector.upsert.rows.write_schema import LABEL_EDITS

_PHONE_END = 7  # digits
_SHARED = (
    "prospect {id} isn't alone with their {contact}, so HiringCenter might change somebody else. "
    "Look at both in HiringCenter"
)
_TAKEN = (
    "the new {contact} belongs to prospect {other}, while the row is about prospect {id}. Correct "
    "the row, or look at both in HiringCenter"
)
_NAMELESS = (
    "somebody has this email or phone, but HiringCenter didn't say who, so they weren't changed"
)
CONFLICT = "conflict"
"""The outcome of a write whose person isn't as its guard requires."""
CHANGED_ANOTHER = "changed another"
"""The outcome of a write by which HiringCenter changed another prospect than the one it was for."""

CHANGED_SINCE_PLAN = (
    "conflict: {fields} of prospect {id} changed in HiringCenter since the plan was made, so "
    "nothing of the row was sent. Pull, then plan again to see what it would do now"
)
APPEARED = (
    "conflict: the plan was to create this person, but prospect {id} has their email or "
    "phone now, so nothing was sent. Pull, then plan again to see what it would change"
)
DELETED_SINCE_PLAN = (
    "conflict: prospect {id} was deleted in HiringCenter since the plan was made, so nothing was "
    "sent. Pull, then plan again to see what it would do now"
)
CHANGED_SINCE_PUSH = (
    "conflict: {fields} of prospect {id} changed in HiringCenter since run {run_id}, so it was "
    "left as it is"
)
DELETED_SINCE_PUSH = (
    "conflict: prospect {id} was deleted in HiringCenter since run {run_id}; nothing was put back"
)


@dataclass(frozen=True)
class Guard:
    """What a person must still look like for a write to go out; the two kinds differ in what a
    mismatch refuses.

    A plan that is applied: `fields` names what the plan sends, each with the fingerprint of the
    value that it replaces (`Hasher.cell`; of labels to add or remove, that of `labels`), or None
    where that wasn't known. Any mismatch refuses the whole row. A creation (no `prospect_id`) names
    all that it sends, with None; whoever has its contacts by then is a mismatch.

    A push that is undone (`undoes` is its run): `fields` names what is put back, each with the
    fingerprint of what the run left there. Fields that don't match are left alone. The write's
    body is what is put back, beside the contact and the names that find the person. conflicts: once
    it is sent, the fields that were left alone: whoever settles it later has to name them.
    """

    fields: Mapping[str, bytes | None]
    undoes: str | None = None
    conflicts: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """`Write.guard`: JSON, with fingerprints as hexadecimal digits."""
        fields = {name: value and value.hex() for name, value in self.fields.items()}
        return orjson.dumps(
            {
                "fields": fields,
                "person": self.undoes is None,
                "undoes": self.undoes,
                "conflicts": self.conflicts,
            }
        )

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        found = orjson.loads(stored)
        fields = {name: value and bytes.fromhex(value) for name, value in found["fields"].items()}
        return cls(fields, found["undoes"], tuple(found.get("conflicts", ())))

    def mismatches(self, theirs: Person, cell: Fingerprints) -> tuple[str, ...]:
        """The fields of a plan that `theirs`, a copy, shows otherwise; what a copy doesn't have
        isn't among them."""
        return tuple(
            name
            for name, before in self.fields.items()
            if _read_as(name) in theirs.fields and not _matches(name, before, theirs, cell)
        )

    def changed_reason(self, conflicts: Collection[str], prospect_id: str | None) -> str:
        """Why fields that don't match aren't sent."""
        reason = CHANGED_SINCE_PLAN if self.undoes is None else CHANGED_SINCE_PUSH
        return reason.format(fields=", ".join(conflicts), id=prospect_id, run_id=self.undoes)

    @property
    def deleted_reason(self) -> str:
        """Why nothing is sent, if the person isn't there any more; `{id}` is left to fill in."""
        if self.undoes is None:
            return DELETED_SINCE_PLAN
        return DELETED_SINCE_PUSH.replace("{run_id}", self.undoes)


class GuardConflict(ConnectorError):
    """A person isn't as a plan, or an undo, requires; nothing was sent."""


def guarded(
    guard: Guard, says: Mapping[str, Any], merged: PersonMerge, theirs: Person, cell: Fingerprints
) -> tuple[PersonMerge, tuple[str, ...]]:
    """What a guard leaves of a merge, and the fields that don't match it. says: what the row says.
    Pure."""
    if guard.undoes is not None:
        return _undone(guard, says, theirs, cell)
    found = {each.name: each for each in merged.fields}
    conflicts = tuple(
        name
        for name, before in guard.fields.items()
        if (each := found.get(name)) is not None
        and each.action is not FieldAction.EQUAL
        and each.why is not Why.MERGES
        and (each.action is not FieldAction.SEND or not _matches(name, before, theirs, cell))
    )
    left = tuple(
        each
        for each in merged.fields
        if each.action is not FieldAction.SEND or each.name in guard.fields
    )
    return PersonMerge(left), conflicts


def _read_as(name: str) -> str:
    return "labels" if name in LABEL_EDITS else name


def _matches(name: str, before: bytes | None, theirs: Person, cell: Fingerprints) -> bool:
    read_as = _read_as(name)
    if before is None:
        return True
    return read_as in theirs.fields and cell(read_as, theirs.fields[read_as]) == before


def _undone(
    guard: Guard, before: Mapping[str, Any], theirs: Person, cell: Fingerprints
) -> tuple[PersonMerge, tuple[str, ...]]:
    fields, conflicts = [], []
    for name, left in guard.fields.items():
        value, is_now = before.get(name), theirs.fields.get(name, UNKNOWN)
        action = FieldAction.SEND
        if is_now is not UNKNOWN and same_value(name, value, is_now):
            action = FieldAction.EQUAL
        elif is_now is UNKNOWN or cell(name, is_now) != left:
            action = FieldAction.KEEP
            conflicts.append(name)
        fields.append(FieldMerge(name, action, Why.UNDONE, value, is_now, settles=False))
    return PersonMerge(tuple(fields)), tuple(conflicts)


@dataclass(frozen=True)
class Looking:
    """Looks at people; thread-safe. rechecks: see `PushOptions`. Every method raises what the API
    client raises."""

    api: ApiClient
    rules: MergeRules
    cell: Fingerprints
    rechecks: bool = True

    def look(self, write: Write, memory: RowMemory, guard: Guard | None) -> Delivered:
        """Merge a row with its person as they are now; nothing is sent.

        Raises:
            NotSendable: the API can't be asked to change this, or would change somebody else.
            GuardConflict: the person isn't as `guard` requires.
            Unclear: the API didn't filter its list.
        """
        says, id_ = memory.row.says, write.prospect_id
        seen: dict[tuple[str, str], list[str]] = {}  # contact → whom a list by it shows
        restored = guard.fields if guard and guard.undoes is not None else {}
        contacts = {name: says.get(name) for name in SAME_CONTACT if name not in restored}
        is_found, needs_one = id_ is None, not (says.get("firstName") or restored or write.exported)
        if id_ is None:
            found = self._find(says, seen) if needs_one else person_by_contact(self.api, says)
            id_ = None if found is None else str(found.get("id"))
        if id_ is None:
            return Delivered(write, Verdict.ABSENT)
        write = write._replace(prospect_id=id_)
        item = found if is_found and needs_one else self._listed_alone(id_, contacts, seen)
        item = item or person_by_id(self.api, id_)
        if item is None:
            return Delivered(write, Verdict.ABSENT)
        if needs_one:
            self._check_alone(item, id_, says, seen, is_found=is_found)
        person = Person(id_, fields_of_item(item), fresh=True)
        merged, conflicts = self._merged(memory, person, guard)
        if not merged.to_send:
            return Delivered(write, Verdict.EQUAL, item, merged=merged)
        alone = [name for (name, _), ids in seen.items() if ids == [id_]]
        body = self._body(merged, person, alone)
        self._check_contacts(body, id_, seen)
        write = write._replace(body=orjson.dumps(body.payload))
        return Delivered(write, Verdict.PRESENT, item, merged=merged, conflicts=conflicts)

    def meet(self, met: Delivered, memory: RowMemory) -> Delivered:
        """Merge a row with the person whom its creation has met, and left as they are; nothing is
        sent. That the API can't be asked to change them is the result's `refusal`.

        Raises:
            Unclear: the API didn't filter its list.
        """
        item = met.item or {}
        if item.get("id") is None:
            return replace(met, refusal=NotSendable(_NAMELESS))
        id_ = str(item["id"])
        person = Person(id_, fields_of_item(item), fresh=True)
        merged, _ = self._merged(memory, person, None)
        met = replace(met, merged=merged)
        if not merged.to_send:
            return met
        says = memory.row.says
        given = [name for name in SAME_CONTACT if says.get(name)]
        found_by = [name for name in given if SAME_CONTACT[name](says[name], item.get(name))]
        try:
            body = self._body(merged, person, found_by)
            self._check_contacts(body, id_, {})
        except NotSendable as error:
            return replace(met, refusal=error)
        return replace(met, write=met.write._replace(body=orjson.dumps(body.payload)))

    def _find(self, says: Item, seen: dict[tuple[str, str], list[str]]) -> Item | None:
        """Who has the row's email, else its phone.

        Raises:
            NotSendable: somebody has it whom the API doesn't name.
            Unclear: the API didn't filter its list.
        """
        for name in SAME_CONTACT:
            if says.get(name):
                value = str(says[name])
                own = people_having(self.api, name, value)
                seen[name, value] = [str(item.get("id")) for item in own]
                if own and own[0].get("id") is None:
                    raise NotSendable(_NAMELESS)
                if own:
                    return own[0]
        return None

    def _check_alone(
        self,
        item: Item,
        id_: str,
        says: Item,
        seen: dict[tuple[str, str], list[str]],
        *,
        is_found: bool,
    ) -> None:
        """The contacts of a row without a first name lead to one person. is_found: it is by them
        alone that the person is known."""
        for name, same in SAME_CONTACT.items():
            if is_found and says.get(name) and not same(says[name], item.get(name)):
                self._having(name, str(says[name]), seen)
        ids = {id_, *(other for each in seen.values() for other in each)}
        if len(ids) > 1:
            raise NotSendable(SEVERAL_HAVE.format(ids=", ".join(sorted(ids)[:3])), ids)

    def _check_contacts(self, body: Body, id_: str, seen: dict[tuple[str, str], list[str]]) -> None:
        """The contact that goes out finds this person alone, and new ones are nobody else's."""
        assert body.contact is not None
        if (found := self._having(*body.contact, seen)) != [id_]:
            raise NotSendable(_SHARED.format(contact=body.contact[0], id=id_), found)
        for name, value in body.new_contacts:
            if others := [other for other in self._having(name, value, seen) if other != id_]:
                raise NotSendable(_TAKEN.format(contact=name, other=others[0], id=id_), others)

    def judge(
        self,
        write: Write,
        memory: RowMemory,
        guard: Guard | None,
        read: PersonRead,
        *,
        is_fresh: bool,
    ) -> Delivered | None:
        """Merge a row with its person as they were read before; None where they have to be looked
        at, since the write might find somebody else. Raises as `look` does; nothing is asked."""
        person = Person(read.id, read.fields, fresh=is_fresh)
        merged, conflicts = self._merged(memory, person, guard)
        found = Delivered(
            write,
            Verdict.EQUAL,
            read.item,
            merged=merged,
            conflicts=conflicts,
            asked=False,
            read_ms=None if is_fresh else read.read_ms,
        )
        if not merged.to_send:
            return found
        if any(each.name in LABEL_EDITS for each in merged.to_send):
            # all labels are sent: one that was set by hand since the read would be lost
            is_enough = self.rules.labels_merge or ("labels" in read.fields and not self.rechecks)
            if not is_enough:
                return None
        body = self._body(merged, person, read.alone)
        if body.new_contacts or body.contact is None or body.contact[0] not in read.alone:
            return None
        write = write._replace(body=orjson.dumps(body.payload))
        return replace(found, write=write, verdict=Verdict.PRESENT)

    def _body(self, merged: PersonMerge, person: Person, alone: Sequence[str]) -> Body:
        """alone: contacts that are known to lead to nobody else."""
        labels_merge = self.rules.labels_merge
        return body_of_update(merged, person, labels_merge=labels_merge, contacts=alone)

    def _merged(
        self, memory: RowMemory, person: Person, guard: Guard | None
    ) -> tuple[PersonMerge, tuple[str, ...]]:
        merged = merge([memory.row], person, self.rules, self.cell)
        if guard is None:
            return merged, ()
        merged, conflicts = guarded(guard, memory.row.says, merged, person, self.cell)
        if conflicts and (guard.undoes is None or not merged.to_send):
            raise GuardConflict(guard.changed_reason(conflicts, person.id))
        return merged, conflicts

    def _listed_alone(
        self, id_: str, contacts: Item, seen: dict[tuple[str, str], list[str]]
    ) -> Item | None:
        """The person, if a list by the first contact shows exactly them."""
        for name in SAME_CONTACT:
            if contacts.get(name):
                value = str(contacts[name])
                try:
                    own = people_having(self.api, name, value)
                except Unclear:  # the list isn't filtered, and shows nothing
                    return None
                ids = seen[name, value] = [str(item.get("id")) for item in own]
                return own[0] if ids == [id_] else None
        return None

    def _having(self, name: str, value: str, seen: dict[tuple[str, str], list[str]]) -> list[str]:
        """The ids of those who have a contact; asked once."""
        if (name, value) not in seen:
            own = people_having(self.api, name, value)
            seen[name, value] = [str(item.get("id")) for item in own]
        return seen[name, value]


# --- a scan instead of many looks --------------------------------------------------------------


@dataclass(frozen=True)
class PageOfPeople:
    """A page of a scan of all prospects. asked_ms: when its request began. pages: how many the
    whole list has, as far as that is known. ends: it is the last one, and the list is proven
    complete."""

    items: Sequence[Any]
    asked_ms: int
    pages: int | None = None
    ends: bool = False


@dataclass(frozen=True)
class ProspectScan:
    """A scan that may stand for many looks. count_pages: about how many it has; None: no one knows.
    read: makes one."""

    count_pages: Callable[[], int | None]
    read: Callable[[], Iterable[PageOfPeople]]


class ScannedPeople:
    """What a scan has shown of people who wait to be changed; each is used once."""

    def __init__(self, waiting: Collection[str]) -> None:
        self._waiting = waiting
        self._read: dict[str, PersonRead] = {}
        # of everybody, since a contact may be anybody's: eight bytes each
        self._contacts = {name: array("q") for name in CONTACTS}
        self._shared: dict[str, set[int]] = {}

    def __len__(self) -> int:
        return len(self._read)

    def add(self, page: PageOfPeople) -> None:
        for item in page.items:
            if not isinstance(item, dict) or item.get("id") is None:
                continue
            person = usable_item(item)
            for name, hashed in self._hashes(person):
                self._contacts[name].append(hashed)
            id_ = str(person.get("id"))
            if id_ in self._waiting:
                updated_ms = time_ms(person, "updatedAt")
                self._read[id_] = PersonRead(
                    id_,
                    fields_of_item(person),
                    page.asked_ms,
                    None if updated_ms is None else int(updated_ms),
                    (),
                )

    def end(self) -> None:
        """The list is complete: whose contacts nobody else has is known now."""
        for name, hashes in self._contacts.items():
            ordered = sorted(hashes)
            self._shared[name] = {one for one, other in pairwise(ordered) if one == other}
        self._contacts = {}

    def take(self, id_: str) -> PersonRead | None:
        """One person as they were read, with the contacts that nobody else has."""
        read = self._read.pop(id_, None)
        if read is None:
            return None
        alone = tuple(
            name for name, hashed in self._hashes(read.fields) if hashed not in self._shared[name]
        )
        return replace(read, alone=alone)

    @staticmethod
    def _hashes(fields: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
        """Contact → a number for it, the same for all its spellings; of a phone, for its end, since
        the country code may be left out."""
        for name in CONTACTS:
            value = normal_value(name, fields.get(name))
            if isinstance(value, str) and value:
                yield name, hash(value[-_PHONE_END:] if name == "phone" else value)
