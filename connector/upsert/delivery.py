"""Delivery of one write: looked up, posted, or, if its idempotency key is too old, investigated.

Any number of threads may deliver at once. What they have found out is a `Finding`; nothing here
touches the outbox. Every request is in the push lane.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from connector.api.client import ApiClient, WriteAnswer
from connector.budget import Lane
from connector.clock import SteadyClock
from connector.errors import ConnectorError, Refused, UnexpectedAnswer, Unreachable
from connector.upsert.outbox.matching import (
    compare,
    conflict_with,
    labels_read,
    same_value,
)
from connector.upsert.outbox.merge import (
    CONTACTS,
    NAMES,
    NotSendable,
    Person,
    PersonMerge,
    full_name,
)
from connector.upsert.outbox.outbox import (
    PROSPECTS,
    LearntMemory,
    Verdict,
    Write,
    fate_of_activity,
    fate_of_creation,
    fate_of_prospect,
    says_the_same,
    was_remembered,
)
from connector.upsert.rows.write_schema import current_fields

Item = Mapping[str, Any]
_SKEW_ERROR_MS = 2_000  # `Date` has whole seconds, and the answer took its time
_MAX_PAGES = 20
_LONGEST_ID = 256  # of the ledger's columns
_RESUMED_PATIENCE_S = 60.0
"""An earlier run already waited for such a write, and other rows wait until it is settled."""

UNFILTERED = (
    "the API didn't filter its list by email, phone or name, so whether this person exists isn't "
    "known; nothing was sent"
)
_NO_MATCH = (
    "no prospect in HiringCenter has this {contacts}. Correct it, or push the person first: "
    "--to creates and changes no prospects"
)
_SEVERAL = (
    "several prospects have this {contact} ({ids}), so whose this is isn't known. Name one by its "
    "id in a column prospectId"
)
_LONG_LIST = (
    "this person has more than {seen} {kind}, so whether it is among them isn't known; it was not "
    "sent. Look at the person in HiringCenter, and push the row with --force if it is missing"
)


def server_ms(api: ApiClient) -> int | None:
    """The earliest time that the server's clock can show now; None if unknown."""
    now_s = api.server_now_s()
    return None if now_s is None else int(now_s * 1000) - _SKEW_ERROR_MS


class Unclear(ConnectorError):
    """Whether a record already exists in HiringCenter can't be determined; it was not sent."""

    transient = True


@dataclass
class KeyMemory:
    """How long the API remembers an idempotency key, as far as known.

    trusted_s: how long a key is trusted without evidence. request_timeout_s: how long a request
    that repeats a key may take to arrive. learnt: evidence from answers to repeated writes.
    """

    trusted_s: float
    request_timeout_s: float
    learnt: LearntMemory = field(default_factory=LearntMemory)

    @property
    def memory_s(self) -> float:
        if self.learnt.forgets:
            return 0.0
        return max(self.trusted_s, self.learnt.remembered_s)

    @property
    def usable_s(self) -> float:
        """The age up to which a key is certainly known, however long the request takes."""
        return self.memory_s - min(self.request_timeout_s, self.memory_s / 2)

    def is_sure(self, age_s: float) -> bool:
        """Whether the API certainly still knows a key that was first sent `age_s` ago."""
        return age_s < self.usable_s

    def learn(self, age_s: float, remembered: bool | None) -> bool:
        """Learn from an answer, see `LearntMemory.after`; returns whether it changed anything."""
        before, self.learnt = self.learnt, self.learnt.after(age_s, remembered)
        return self.learnt != before


@dataclass(frozen=True)
class Finding:
    """What requests have shown about one write. item: the record as it is now, if one was seen.

    prospect_id: whom a look-up has found. body: what is to be sent after it, where that isn't what
    was planned. answer: to the write, if there was one. expected_is_deleted: the prospect to be
    changed no longer exists, and a new one was created. was_refused: the API refused to create
    (409), so it changed nothing. key_age_s, remembered: evidence of the API's memory from a
    repeated write, see `was_remembered`.

    merged: what is left to change of a person who was looked at. refusal: why a person who was met
    can't be changed. conflicts: fields of an undo that were changed since, and stay. asked:
    something was requested; else the person was read before. person: who was looked at; None where
    no one has been read.
    """

    verdict: Verdict
    item: Item | None = None
    prospect_id: str | None = None
    body: bytes | None = None
    answer: WriteAnswer | None = None
    expected_is_deleted: bool = False
    was_refused: bool = False
    key_age_s: float = 0.0
    remembered: bool | None = None
    merged: PersonMerge | None = None
    conflicts: tuple[str, ...] = ()
    refusal: NotSendable | None = None
    asked: bool = True
    person: Person | None = None

    @property
    def is_current(self) -> bool:
        """Whether `item` is as the record is now."""
        return self.asked or (self.person is not None and self.person.fresh)


class Delivery:
    """Looks up and sends writes; thread-safe. Every method raises what the API client raises."""

    def __init__(self, api: ApiClient, *, keys: KeyMemory, clock: SteadyClock) -> None:
        self._api, self.keys, self._clock = api, keys, clock

    def look_up(self, write: Write) -> Finding:
        """Whether an activity, or the prospect of a row without contact, is there already; nothing
        is sent.

        Raises:
            Unclear: that can't be determined.
        """
        payload = orjson.loads(write.body)
        if write.kind != PROSPECTS:
            payload = current_fields(write.kind, payload)
            is_there = self._is_attached(write.kind, str(write.prospect_id), payload)
            return Finding(Verdict.EQUAL if is_there else Verdict.ABSENT)
        people = self._by_name(payload)
        item = next((each for each in people if not compare(payload, each).differs), None)
        if item is None:
            return Finding(Verdict.ABSENT)
        id_ = str(item.get("id"))
        if payload.get("notes") and self._is_attached("notes", id_, {"body": payload["notes"]}):
            del payload["notes"]  # it became a note of the person, and another each time
        verdict = Verdict.EQUAL if compare(payload, item).equal else Verdict.PRESENT
        return Finding(verdict, item, id_, orjson.dumps(payload))

    def find_person(self, write: Write) -> Finding:
        """The one prospect who has the email, else the phone, of an activity; nothing is sent.

        Raises:
            NotSendable: no person has it, or several do.
            Unclear: the API didn't filter its list.
        """
        payload = orjson.loads(write.body)
        contacts = [name for name in CONTACTS if payload.get(name)]
        for name in contacts:
            own = people_having(self._api, name, str(payload[name]))
            ids = sorted({str(item["id"]) for item in own if item.get("id") is not None})
            if len(ids) > 1:
                raise NotSendable(_SEVERAL.format(contact=name, ids=" and ".join(ids[:3])))
            if ids:
                return Finding(Verdict.FOUND, own[0], ids[0])
        raise NotSendable(_NO_MATCH.format(contacts=" or ".join(contacts)))

    def send(self, write: Write, *, resumed: bool, accepted_updated_at_ms: int | None) -> Finding:
        """Post `write`, or investigate its fate if its key may have expired.

        resumed: it may have been sent before. accepted_updated_at_ms: see `fate_of_prospect`.
        """
        if not resumed or self._is_young(write):
            try:
                return self._answered(write, self._post(write, resumed), resumed)
            except Refused as error:
                if error.status != 409 or not write.creates:
                    raise
                item = person_by_contact(self._api, orjson.loads(write.body))
                if item is None:
                    raise
                return replace(self._met(write, item, repeated=resumed), was_refused=True)
            except UnexpectedAnswer as error:
                found = self._unshown(write, error, accepted_updated_at_ms)
                if found is None:
                    raise
                return found
            except Unreachable:
                if self._is_young(write):
                    raise
        return self._investigate(write, accepted_updated_at_ms)

    def _post(self, write: Write, resumed: bool) -> WriteAnswer:
        assert write.idempotency_key is not None
        answer = self._api.post(
            write.kind,
            write.body,
            idempotency_key=write.idempotency_key,
            lane=Lane.PUSH,
            first_sent_s=self._clock.monotonic_s() - self._age_s(write) if resumed else None,
            remembered_s=self.keys.usable_s,
            patience_s=_RESUMED_PATIENCE_S if resumed else math.inf,
        )
        return replace(answer, item=usable_item(answer.item))

    def _answered(self, write: Write, answer: WriteAnswer, resumed: bool) -> Finding:
        """The answer and, for a repeated write, its evidence of the API's memory."""
        age_s = answer.first_sent_before_s
        if write.creates and answer.item.get("id") is None:
            answer = replace(answer, item=self._named(write, answer.item))
        if write.creates and answer.status != 201:
            is_repeated = resumed or age_s is not None
            if is_repeated or not self._has_created(write, answer.item):
                met = self._met(write, answer.item, repeated=is_repeated)
                return replace(met, answer=answer)
            answer = replace(answer, status=201)
        is_deleted = self._expected_is_deleted(write, answer)
        delivered = Finding(
            Verdict.ANSWERED, answer.item, answer=answer, expected_is_deleted=is_deleted
        )
        if age_s is None:
            return delivered
        now_ms = server_ms(self._api)
        remembered = was_remembered(
            status=answer.status,
            item=answer.item,
            replayed=answer.replayed,
            created_before=write.kind != PROSPECTS or write.prospect_id is not None,
            first_server_ms=self._sent_server_ms(write),
            again_server_ms=None if now_ms is None else now_ms - int(answer.took_s * 1000),
        )
        return replace(delivered, key_age_s=age_s, remembered=remembered)

    def _unshown(
        self, write: Write, error: UnexpectedAnswer, accepted_ms: int | None
    ) -> Finding | None:
        """What has become of a write whose answer reports success without showing its record: each
        try would be answered so. None where that can't be seen, and it is asked again."""
        if not 200 <= error.status < 300:
            return None
        try:
            found = self._investigate(write, accepted_ms)
        except (Refused, Unreachable, UnexpectedAnswer, Unclear):
            return None
        return found if found.verdict in (Verdict.APPLIED, Verdict.MET) else None

    def _expected_is_deleted(self, write: Write, answer: WriteAnswer) -> bool:
        """Whether the prospect to be changed was deleted, if another one was created instead."""
        if write.kind != PROSPECTS or write.prospect_id is None or answer.status != 201:
            return False
        if answer.item.get("id") is None or str(answer.item["id"]) == write.prospect_id:
            return False
        try:
            return person_by_id(self._api, write.prospect_id) is None
        except ConnectorError:  # not known: reported as if they were still there
            return False

    def _named(self, write: Write, item: dict[str, Any]) -> dict[str, Any]:
        """Who has the contact of a creation whose answer doesn't say whom it is about."""
        try:
            found = person_by_contact(self._api, orjson.loads(write.body))
        except ConnectorError:  # not known: reported as it was answered
            found = None
        return item if found is None else dict(found)

    def _has_created(self, write: Write, item: Item) -> bool:
        """Whether the person is new and as the creation says, whatever the answer's status."""
        is_new = self._fate_of_creation(write, item) is Verdict.APPLIED
        return is_new and compare(orjson.loads(write.body), item).equal

    def _met(self, write: Write, item: Item, *, repeated: bool) -> Finding:
        """A creation has met a prospect; if it was sent before, perhaps the one it created."""
        if repeated and self._fate_of_creation(write, item) is Verdict.APPLIED:
            # an API that remembers the key would have answered as it did then
            return Finding(Verdict.APPLIED, item, remembered=False)
        return Finding(Verdict.MET, item)

    def _fate_of_creation(self, write: Write, item: Item | None) -> Verdict:
        """See `fate_of_creation`; a person of another first name wasn't created by this write."""
        if item and conflict_with(orjson.loads(write.body), item):
            return Verdict.MET
        return fate_of_creation(item, self._sent_server_ms(write))

    def _investigate(self, write: Write, accepted_ms: int | None) -> Finding:
        """The fate of a write whose key may have expired, by what exists now."""
        payload = orjson.loads(write.body)
        if write.kind != PROSPECTS:
            items, complete = attached_to(self._api, write.kind, str(write.prospect_id))
            sent_ms = self._sent_server_ms(write)
            payload = current_fields(write.kind, payload)
            fate = fate_of_activity(payload, items, complete=complete, sent_server_ms=sent_ms)
            return Finding(fate)
        if write.prospect_id is not None:
            item = person_by_id(self._api, write.prospect_id)
        elif write.row_alias is not None:
            return Finding(Verdict.UNKNOWN)
        else:
            try:
                item = person_by_contact(self._api, payload)
            except Unclear:
                return Finding(Verdict.UNKNOWN)
            if write.creates:
                return Finding(self._fate_of_creation(write, item), item)
        fate = fate_of_prospect(
            payload,
            item,
            known_before=write.prospect_id is not None,
            accepted_updated_at_ms=accepted_ms,
            sent_server_ms=self._sent_server_ms(write),
        )
        return Finding(fate, item)

    def _age_s(self, write: Write) -> float:
        """By the ledger's clock; infinite if that isn't certain."""
        return self._clock.age_s(None if write.sent_ms is None else write.sent_ms / 1000)

    def _is_young(self, write: Write) -> bool:
        return write.idempotency_key is not None and self.keys.is_sure(self._age_s(write))

    def _sent_server_ms(self, write: Write) -> int | None:
        """The latest time that the server's clock can have shown when `write` was sent first; None:
        not known."""
        now_s, age_s = self._api.server_now_s(), self._age_s(write)
        guesses = [] if write.sent_server_ms is None else [write.sent_server_ms]
        if now_s is not None and age_s < math.inf:
            guesses.append(int((now_s - age_s) * 1000) - _SKEW_ERROR_MS)
        return min(guesses, default=None)

    def _by_name(self, payload: Item) -> list[Item]:
        """All prospects of the payload's first and last name, for a row without any contact.

        Raises:
            Unclear: the API lists others too.
        """
        name = full_name(payload) or ""
        items = listed_people(self._api, {"name": name})
        own = [each for each in items if _folded(full_name(each) or "") == _folded(name)]
        if items and not own:
            raise Unclear(UNFILTERED)
        return own

    def _is_attached(self, kind: str, prospect_id: str, payload: Item) -> bool:
        items, complete = attached_to(self._api, kind, prospect_id)
        if any(says_the_same(payload, item) for item in items):
            return True
        if not complete:
            raise Unclear(_LONG_LIST.format(kind=kind, seen=len(items)))
        return False


def listed_people(api: ApiClient, params: Mapping[str, str]) -> list[Item]:
    """The prospects of a list that is filtered by one parameter."""
    page = api.page(PROSPECTS, params, lane=Lane.PUSH)
    return [usable_item(item) for item in page.items if isinstance(item, dict)]


def people_having(api: ApiClient, name: str, value: str) -> list[Item]:
    """All prospects who have a contact.

    Raises:
        Unclear: others are listed too, and not all of them, so that another person may have it.
    """
    page = api.page(PROSPECTS, {name: value}, lane=Lane.PUSH)
    items: list[Item] = [usable_item(item) for item in page.items if isinstance(item, dict)]
    own = [item for item in items if same_value(name, value, item.get(name))]
    is_cut = bool(page.next_params or page.cut) or (page.total_count or 0) > len(page.items)
    if len(own) < len(items) and (is_cut or not own):
        raise Unclear(UNFILTERED)
    return own


def person_by_contact(api: ApiClient, payload: Item) -> Item | None:
    """The person with the payload's email, or else with its phone.

    Raises:
        Unclear: other people are listed, so that their absence proves nothing.
    """
    others = False
    for name in CONTACTS:
        if payload.get(name):
            items = listed_people(api, {name: str(payload[name])})
            for item in items:
                if same_value(name, payload[name], item.get(name)):
                    return item
            others = others or bool(items)
    if others:
        raise Unclear(UNFILTERED)
    return None


def person_by_id(api: ApiClient, prospect_id: str) -> Item | None:
    """The prospect; None if they were deleted."""
    found = api.record(PROSPECTS, prospect_id, lane=Lane.PUSH)
    return None if found is None else usable_item(found)


def attached_to(api: ApiClient, kind: str, prospect_id: str) -> tuple[list[Item], bool]:
    """The notes (tasks, meetings) of one person, and whether these surely are all.

    An item needn't name its person: in a list that was filtered it is this person's, in one that
    wasn't its person is unknown.
    """
    items: list[Item] = []
    params, complete = {"prospectId": prospect_id}, False
    for _ in range(_MAX_PAGES):
        page = api.page(kind, params, lane=Lane.PUSH)
        items += [current_fields(kind, item) for item in page.items if isinstance(item, dict)]
        if page.next_params is None:
            complete = page.cut is None
            break
        params = {"prospectId": prospect_id, **page.next_params}
    nameless = [item for item in items if item.get("prospectId") is None]
    named = [item for item in items if item.get("prospectId") is not None]
    own = [item for item in named if str(item["prospectId"]) == prospect_id]  # some have numbers
    if len(own) == len(named):
        return own + nameless, complete
    return own, complete and not nameless


def usable_item(item: Item) -> dict[str, Any]:
    """`item` without an id that the ledger can't hold, and without names, contacts and labels in a
    form that isn't known: one such answer must not end a run, and every later one. Contacts that
    are numbers become text, and labels a list, so that each is compared, and sent back, as what it
    is.
    """
    usable = dict(item)
    for name in CONTACTS:
        if type(usable.get(name)) is int:
            usable[name] = str(usable[name])
    unusable = {
        name for name in (*NAMES, *CONTACTS) if not isinstance(usable.get(name), str | None)
    }
    id_ = str(item.get("id"))
    if not id_.isprintable() or not 0 < len(id_) <= _LONGEST_ID:
        unusable.add("id")
    if usable.get("labels") is not None:
        usable["labels"] = labels_read(usable["labels"])
        unusable |= {"labels"} if usable["labels"] is None else set()
    return {name: value for name, value in usable.items() if name not in unusable}


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())
