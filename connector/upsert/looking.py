"""A look at a person before they are changed: are they who they should be, and what is left to do?

The look is one request, by the contact that the write will be sent with: the API finds people by
email or phone alone, so the write must find exactly this person. What the look shows is merged with
the row again, or, where a plan is applied or a push is undone, held against the write's guard.
Where many people wait, one scan of all prospects stands for their looks.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import orjson
import sqlalchemy as sa

from connector.api.client import ApiClient
from connector.clock import SteadyClock
from connector.errors import ConnectorError
from connector.logs import get_logger, redact
from connector.upsert.delivery import (
    Finding,
    Item,
    Unclear,
    people_having,
    person_by_contact,
    person_by_id,
    usable_item,
)
from connector.upsert.outbox.entries import RowMemory
from connector.upsert.outbox.evidence import fields_of_item
from connector.upsert.outbox.matching import normal_value, same_value
from connector.upsert.outbox.merge import (
    CONTACTS,
    NAMES,
    SEVERAL_HAVE,
    Body,
    Fingerprints,
    MergeRules,
    NotSendable,
    Person,
    PersonMerge,
    body_of_update,
    lacks_names,
    merge,
)
from connector.upsert.outbox.outbox import LOOK_FIRST, Outbox, Verdict, Write, time_ms
from connector.upsert.outbox.person_plan import PushOptions
from connector.upsert.outbox.receipts import Receipts
from connector.upsert.row_in_flight import Guard, GuardConflict, RowInFlight, guarded
from connector.upsert.rows.write_schema import LABEL_EDITS

_log = get_logger("push")
_PHONE_END = 7  # digits
_INCOMPLETE = "the list isn't complete"
_TOO_SLOW = "it takes longer than half of what counts as fresh (writes.fresh_s)"
_SCAN_CHECK_MS = 60_000
_MOST_SCANNED = 50_000  # people who are kept in memory; the rest waits for the next scan
_PAGES_TO_JUDGE = 20  # so many show how long a scan takes
_SCAN_LASTS_MS = 60_000  # for so long at least, what a scan reads must count as fresh
_SHARED = (
    "prospect {id} isn't alone with their {contact}, so HiringCenter might change someone else. "
    "Look at both in HiringCenter"
)
_TAKEN = (
    "the new {contact} belongs to prospect {other}, while the row is about prospect {id}. Correct "
    "the row, or look at both in HiringCenter"
)
_NAMELESS = (
    "someone has this email or phone, but HiringCenter didn't say who, so they weren't changed"
)


class _ContactLists:
    """Whom lists by contacts show; each is asked for once. shown: contact → people."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api
        self.shown: dict[tuple[str, str], list[Item]] = {}

    def people(self, name: str, value: Any) -> list[Item]:
        contact = (name, str(value))
        if contact not in self.shown:
            self.shown[contact] = people_having(self._api, *contact)
        return self.shown[contact]

    def ids(self, name: str, value: Any) -> list[str]:
        return [str(item.get("id")) for item in self.people(name, value)]

    def find(self, says: Item) -> Item | None:
        """Who has the row's email, else its phone.

        Raises:
            NotSendable: a person has it whom the API doesn't name.
            Unclear: the API didn't filter its list.
        """
        for name in CONTACTS:
            if says.get(name) and (own := self.people(name, says[name])):
                if own[0].get("id") is None:
                    raise NotSendable(_NAMELESS)
                return own[0]
        return None

    def find_alone(self, id_: str, contacts: Item) -> Item | None:
        """The person, if a list by a contact shows exactly them. The next one is tried where no one
        has the first: it is new, say, and the next finds the person for the write as well."""
        given = [name for name in CONTACTS if contacts.get(name)]
        with suppress(Unclear):  # the list isn't filtered, and shows nothing
            for name in given:
                if self.ids(name, contacts[name]) == [id_]:
                    return self.people(name, contacts[name])[0]
                if self.people(name, contacts[name]):
                    break
        return None


@dataclass
class Looking:
    """Looks at people; thread-safe. rules: may be replaced meanwhile. rechecks: see `PushOptions`.
    Every method raises what the API client raises."""

    api: ApiClient
    rules: MergeRules
    cell: Fingerprints
    rechecks: bool = True

    def look(self, write: Write, memory: RowMemory, guard: Guard | None) -> Finding:
        """Merge a row with its person as they are now; nothing is sent.

        Raises:
            NotSendable: the API can't be asked to change this, or would change another person.
            GuardConflict: the person isn't as `guard` requires.
            Unclear: the API didn't filter its list.
        """
        says, id_ = memory.says, write.prospect_id
        lists, found = _ContactLists(self.api), None
        restored = guard.fields if guard and guard.undoes is not None else {}
        contacts = {name: says.get(name) for name in CONTACTS if name not in restored}
        is_found, needs_one = id_ is None, not (says.get("firstName") or restored or write.exported)
        if id_ is None:
            found = lists.find(says) if needs_one else person_by_contact(self.api, says)
            id_ = None if found is None else str(found.get("id"))
        if id_ is None:
            return Finding(Verdict.ABSENT)
        item = found if is_found and needs_one else lists.find_alone(id_, contacts)
        item = item or person_by_id(self.api, id_)
        if item is None:
            return Finding(Verdict.ABSENT, prospect_id=id_)
        if needs_one:
            self._check_alone(item, id_, says, lists, is_found=is_found)
        person = _looked_at(id_, item)
        merged, conflicts = self._merged(memory, person, guard)
        if not merged.to_send:
            return Finding(Verdict.EQUAL, item, id_, merged=merged, person=person)
        alone = [name for name, value in lists.shown if lists.ids(name, value) == [id_]]
        body = self._body(merged, person, alone)
        self._check_contacts(body, id_, lists)
        return Finding(
            Verdict.PRESENT, item, id_, orjson.dumps(body.payload),
            merged=merged, conflicts=conflicts, person=person,
        )  # fmt: skip

    def meet(self, met: Finding, memory: RowMemory) -> Finding:
        """Merge a row with the person whom its creation has met, and left as they are; nothing is
        sent. That the API can't be asked to change them is the result's `refusal`.

        Raises:
            Unclear: the API didn't filter its list.
        """
        item = met.item or {}
        if item.get("id") is None:
            return replace(met, refusal=NotSendable(_NAMELESS))
        id_ = str(item["id"])
        person = _looked_at(id_, item)
        merged, _ = self._merged(memory, person, None)
        met = replace(met, merged=merged, person=person)
        if not merged.to_send:
            return met
        says = memory.says
        given = [name for name in CONTACTS if says.get(name)]
        found_by = [name for name in given if same_value(name, says[name], item.get(name))]
        try:
            body = self._body(merged, person, found_by)
            self._check_contacts(body, id_, _ContactLists(self.api))
        except NotSendable as error:
            return replace(met, refusal=error)
        return replace(met, body=orjson.dumps(body.payload))

    def _check_alone(
        self,
        item: Item,
        id_: str,
        says: Item,
        lists: _ContactLists,
        *,
        is_found: bool,
    ) -> None:
        """The contacts of a row without a first name lead to one person. is_found: it is by them
        alone that the person is known."""
        for name in CONTACTS:
            if is_found and says.get(name) and not same_value(name, says[name], item.get(name)):
                lists.people(name, says[name])
        ids = {id_, *(other for contact in lists.shown for other in lists.ids(*contact))}
        if len(ids) > 1:
            raise NotSendable(SEVERAL_HAVE.format(ids=", ".join(sorted(ids)[:3])), ids)

    def _check_contacts(self, body: Body, id_: str, lists: _ContactLists) -> None:
        """The contact that goes out finds this person alone, and new ones are no one else's."""
        if (found := lists.ids(*body.contact)) != [id_]:
            raise NotSendable(_SHARED.format(contact=body.contact[0], id=id_), found)
        for name, value in body.new_contacts:
            if others := [other for other in lists.ids(name, value) if other != id_]:
                raise NotSendable(_TAKEN.format(contact=name, other=others[0], id=id_), others)

    def judge(self, memory: RowMemory, guard: Guard | None, person: Person) -> Finding | None:
        """Merge a row with its person as they were read before; None where they have to be looked
        at, since the write might find another person. Raises as `look` does; nothing is asked."""
        merged, conflicts = self._merged(memory, person, guard)
        found = Finding(
            Verdict.EQUAL,
            person.item,
            merged=merged,
            conflicts=conflicts,
            asked=False,
            person=person if person.read_ms else None,
        )
        if not merged.to_send:
            return found
        if any(each.name in LABEL_EDITS for each in merged.to_send):
            # all labels are sent: one that was set by hand since the read would be lost
            is_enough = self.rules.labels_merge or ("labels" in person.fields and not self.rechecks)
            if not is_enough:
                return None
        body = self._body(merged, person, person.alone)
        if body.new_contacts or body.contact[0] not in person.alone:
            return None
        return replace(found, verdict=Verdict.PRESENT, body=orjson.dumps(body.payload))

    def _body(self, merged: PersonMerge, person: Person, alone: Sequence[str]) -> Body:
        """alone: contacts that are known to lead to no one else."""
        labels_merge = self.rules.labels_merge
        return body_of_update(merged, person, labels_merge=labels_merge, contacts=alone)

    def _merged(
        self, memory: RowMemory, person: Person, guard: Guard | None
    ) -> tuple[PersonMerge, tuple[str, ...]]:
        merged = merge([memory], person, self.rules, self.cell)
        if guard is None:
            return merged, ()
        merged, conflicts = guarded(guard, memory.says, merged, person, self.cell)
        if conflicts and (guard.undoes is None or not merged.to_send):
            raise GuardConflict(guard.changed_reason(conflicts, person.id))
        return merged, conflicts


def _looked_at(id_: str, item: Item) -> Person:
    fields, updated_at_ms = fields_of_item(item), time_ms(item, "updatedAt")
    return Person(id_, fields, fresh=True, updated_at_ms=updated_at_ms)


# --- looks that are spared ---------------------------------------------------------------------


class SparedLooks:
    """How people were read before, where that still holds, so that no look at them is needed.

    They were shown by the answer about the row before, by a scan of this run, or by the pull that
    the plan has seen. Every method works inside the caller's transaction; nothing is asked.
    """

    def __init__(
        self,
        options: PushOptions,
        looking: Looking,
        receipts: Receipts,
        scans: PeopleScans | None,
        clock: SteadyClock,
    ) -> None:
        self._options, self._looking, self._receipts = options, looking, receipts
        self._scans, self._clock = scans, clock
        self._looks_to_fill = 0

    def judge(self, connection: sa.Connection, row: RowInFlight) -> Finding | BaseException | None:
        """What a look would bring; None where it is needed, and for a row that isn't merged."""
        options, looking, memory = self._options, self._looking, row.memory
        if memory is None:
            return None
        read = self._just_read(connection, row)
        if read is None and row.write.seen_ms == LOOK_FIRST:
            self._looks_to_fill += 1
            if self._looks_to_fill <= options.lookups:
                return None
            merged = merge([memory], None, options.rules, looking.cell)
            if row.guard is None and not (merged.to_send or row.write.seen):
                return Finding(Verdict.EQUAL, merged=merged, asked=False)
        read = read or self._read_by_pull(connection, row)
        if read is None and not options.rechecks and row.guard is None:
            read = _unread(row)
        if read is None:
            return None
        # after a step of the clock that pulls are timed by, a read may seem to lie ahead
        is_fresh = 0 <= self._clock.now_ms() - read.read_ms < options.fresh_ms
        if not is_fresh and options.rechecks:
            return None
        try:
            return looking.judge(memory, row.guard, replace(read, fresh=is_fresh))
        except (NotSendable, GuardConflict) as error:
            return error

    def _just_read(self, connection: sa.Connection, row: RowInFlight) -> Person | None:
        """The person as the row before this one has left them, unless another one was sent since
        that leads to them as well; else as a scan has shown them."""
        shown, id_ = row.shown, row.prospect_id or ""
        if shown is not None and shown.id == id_:
            accepted_ms = self._accepted_ms(connection, id_)
            if accepted_ms is not None and accepted_ms <= shown.read_ms:
                return shown
        scanned = self._scans.people.take(id_) if self._scans is not None else None
        row.was_scanned = scanned is not None
        return self._if_it_holds(connection, scanned)

    def _read_by_pull(self, connection: sa.Connection, row: RowInFlight) -> Person | None:
        """The person as the pull has read them that the plan has seen."""
        read = Person.from_bytes(row.write.seen) if row.write.seen else None
        is_theirs = read is not None and read.id == row.prospect_id
        return self._if_it_holds(connection, read) if is_theirs else None

    def _if_it_holds(self, connection: sa.Connection, read: Person | None) -> Person | None:
        """The same, unless something of ours was written to the person since."""
        accepted_ms = None if read is None else self._accepted_ms(connection, read.id)
        is_over = read is not None and accepted_ms is not None and accepted_ms >= read.read_ms
        return None if is_over else read

    def _accepted_ms(self, connection: sa.Connection, id_: str) -> int | None:
        receipt = self._receipts.of(connection, [id_]).get(id_)
        return None if receipt is None else receipt.accepted_ms


def _unread(row: RowInFlight) -> Person | None:
    """What is known of a person who wasn't read: how the row calls them, and the contacts that
    lead to them."""
    says, id_ = orjson.loads(row.write.body), row.prospect_id or ""
    if lacks_names(says):
        return None
    led = (("email", row.facts.by_email), ("phone", row.facts.by_phone))
    alone = tuple(name for name, each in led if each and each.confirmed and each.prospect_id == id_)
    fields = {name: says[name] for name in (*NAMES, *alone) if says.get(name)}
    return Person(id_, fields, alone=alone)


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
        self._read: dict[str, Person] = {}
        # of all people, since a contact may be anyone's: eight bytes each
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
                self._read[id_] = replace(_looked_at(id_, person), read_ms=page.asked_ms)

    def end(self) -> None:
        """The list is complete: now it is known which contacts only one person has."""
        for name, hashes in self._contacts.items():
            ordered = sorted(hashes)
            self._shared[name] = {one for one, other in pairwise(ordered) if one == other}
        self._contacts = {}

    def take(self, id_: str) -> Person | None:
        """One person as they were read, with the contacts that no one else has."""
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


class PeopleScans:
    """The scans of one push: each is made where more people wait to be looked up than it has pages.

    is_running: one is being made. people: whom the last one has shown.
    """

    def __init__(self, outbox: Outbox, options: PushOptions, scan: ProspectScan) -> None:
        self._outbox, self._clock, self._run_id = outbox, outbox.clock, options.run_id
        self._fresh_ms = options.fresh_ms
        # what a scan has read wouldn't be fresh
        self._scan = None if self._fresh_ms < _SCAN_LASTS_MS else scan
        self.people = ScannedPeople(())
        self._pages: int | None = None
        self.is_running, self._next_ms = False, 0
        self._why_useless = _INCOMPLETE

    def begin(self) -> bool:
        """Whether a scan is due, which is running from now on; found out now and then."""
        now_ms = self._clock.now_ms()
        if self._scan is None or self.is_running or now_ms < self._next_ms:
            return False
        self._next_ms = now_ms + _SCAN_CHECK_MS
        with self._outbox.database.read() as connection:
            old_ms = now_ms - self._fresh_ms
            waiting = self._outbox.count_waiting(connection, self._run_id, old_ms)
        if waiting > 1 and self._pages is None:  # a scan has a page, too
            self._pages = self._scan.count_pages()
        self.is_running = self._pages is not None and waiting > max(1, self._pages)
        return self.is_running

    def run(self, is_over: Callable[[], bool]) -> ScannedPeople:
        """The people who wait, as a scan shows them; none where it isn't complete. is_over: the
        run ends, so that it isn't needed any more."""
        assert self._scan is not None
        waiting = self._outbox.waiting_people(self._run_id, _MOST_SCANNED)
        people, began_ms = ScannedPeople(waiting), self._clock.now_ms()
        self._next_ms, self._why_useless = began_ms + self._fresh_ms, _INCOMPLETE
        for number, page in enumerate(self._scan.read(), start=1):
            people.add(page)
            if page.ends:
                people.end()
                return people
            if self._takes_too_long(number, self._clock.now_ms() - began_ms):
                self._why_useless = _TOO_SLOW
                break
            if is_over() or (page.pages or 0) > len(waiting):
                break
        return ScannedPeople(())

    def _takes_too_long(self, pages: int, spent_ms: int) -> bool:
        """Whether a scan leaves less time to use what it shows than it takes: nothing is sent
        meanwhile, so that a push of many scans would come to no end. pages: that it has read."""
        in_all = max(self._pages or 0, pages)
        expected_ms = spent_ms * in_all / pages if pages >= _PAGES_TO_JUDGE else spent_ms
        return expected_ms > self._fresh_ms / 2

    def end(self, found: object) -> None:
        """A scan that failed, or isn't proven complete, isn't repeated: people are looked up. So
        they are for a while after one that took too long."""
        self.is_running = False
        if isinstance(found, ScannedPeople) and len(found):
            self.people = found
            _log.info("push.scanned", people=len(found))
            return
        self.people = ScannedPeople(())
        if self._why_useless is not _TOO_SLOW:
            self._scan = None
        why = str(found) if isinstance(found, ConnectorError) else self._why_useless
        _log.info("push.not_scanned", reason=redact(why))
