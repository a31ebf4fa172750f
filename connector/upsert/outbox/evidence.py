"""What is known of the people behind a chunk of rows: by the ledger, and by the last pull.

Everything is looked up set by set, a chunk of rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import orjson

from connector.upsert.outbox.matching import (
    READ_AS,
    Aliases,
    Name,
    OtherPerson,
    compare,
    first_name,
    same_email,
    same_phone,
    stored_first_name,
)
from connector.upsert.outbox.outbox import PROSPECTS, Outbox, UncertainWrite, names_of
from connector.upsert.outbox.receipts import Receipt, Receipts
from connector.upsert.outbox.staging import StagedRow, names_of_row

Disputed = Mapping[int, tuple[str, str]]


@dataclass(frozen=True)
class PulledProspect:
    """One prospect as the destination has it. fields: by API name. Times: UTC epoch ms."""

    id: str
    updated_at_ms: int | None
    deleted_at_ms: int | None
    fields: Mapping[str, Any] = field(default_factory=dict)


class Pulled:
    """A look into the destination; this one holds nothing, since nothing was pulled yet."""

    complete_ms: int | None = None
    """When the last complete scan began (UTC epoch ms): whoever isn't there, didn't exist then."""

    def by_id(
        self,
        ids: Collection[str],  # noqa: ARG002
        *,
        with_fields: bool = False,  # noqa: ARG002
    ) -> dict[str, PulledProspect]:
        """Those of `ids` that the destination has, deleted ones included."""
        return {}

    def by_email(self, emails: Collection[str]) -> dict[str, frozenset[str]]:  # noqa: ARG002
        """email (casefolded) → ids of the live prospects that have it."""
        return {}

    def by_phone(self, phones: Collection[str]) -> dict[str, frozenset[str]]:  # noqa: ARG002
        """phone (E.164) → ids of the live prospects that have it."""
        return {}


@dataclass(slots=True)
class Evidence:
    """What is known of one row's person.

    by_email, by_phone, by_row: where its aliases lead. pulled_by_email, pulled_by_phone: ids that
    the destination has for its contacts; looked up only for rows that look as if they'd be sent.
    receipt: what was accepted last, where nothing of the person is open. stale: why that no longer
    holds. uncertain: an earlier write of the same content has an unknown fate. disputed: the
    prospect that was expected behind a contact of the row, and the one that answered. others: known
    people of another first name whom the contacts lead to. fits: the first name agrees with that
    of a person whom they lead to. settled: of those people, on whom this source has settled the
    first name; created: by creating them. attached: (prospect id, kind, content) of activities
    that are there. contacts: how many the row has, of email and phone. payload: the row's own.
    """

    by_email: Receipt | None = None
    by_phone: Receipt | None = None
    by_row: Receipt | None = None
    receipt: Receipt | None = None
    contacts: int = 0
    uncertain: bool = False
    disputed: tuple[str, str] | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)
    attached: Collection[tuple[str, str, bytes]] = ()
    pulled_by_email: frozenset[str] = frozenset()
    pulled_by_phone: frozenset[str] = frozenset()
    stale: str | None = None
    others: Sequence[OtherPerson] = ()
    fits: bool = False
    settled: frozenset[str] = frozenset()
    created: bool = False

    @classmethod
    def of(
        cls,
        names: Aliases,
        content: bytes,
        found: Mapping[int, Receipt],
        uncertain: Collection[UncertainWrite],
        disputed: Disputed,
    ) -> Self:
        """What the ledger knows of one row. found: where aliases lead."""
        present = names.present()
        by_email, by_phone, by_row = (
            None if alias is None else found.get(alias) for alias in names
        )
        own = cls(
            by_email,
            by_phone,
            by_row,
            contacts=len(present) if names.row is None else 0,
            uncertain=any((name, PROSPECTS, content) in uncertain for name in present),
            disputed=next((disputed[name] for name in present if name in disputed), None),
        )
        own.receipt = own.best
        return own

    @property
    def best(self) -> Receipt | None:
        """Of where the aliases lead, what to believe: a confirmed one before others, in order."""
        known = [each for each in (self.by_email, self.by_phone, self.by_row) if each is not None]
        return min(known, key=lambda each: not each.confirmed, default=None)

    @property
    def contacts_dropped(self) -> bool:
        """Whether HiringCenter took over none of the row's contacts: it would find no
        one by them, and create the person once more."""
        found = [each for each in (self.by_email, self.by_phone) if each and not each.confirmed]
        return 0 < len(found) == self.contacts

    @property
    def people(self) -> frozenset[str]:
        """Every prospect that the row's contacts lead to."""
        found = {each.prospect_id for each in (self.by_email, self.by_phone) if each is not None}
        return self.pulled_by_email | self.pulled_by_phone | found

    def repeats(self, content: bytes) -> bool:
        """Whether `content` is among what was accepted last."""
        return self.receipt is not None and content in self.receipt.tail

    def drop(self, prospect_ids: Collection[str]) -> None:
        """The ledger's aliases don't lead to these prospects."""
        for name in ("by_email", "by_phone", "by_row", "receipt"):
            found = getattr(self, name)
            if found is not None and found.prospect_id in prospect_ids:
                setattr(self, name, None)


class EvidenceFinder:
    """Evidence for staged rows: the ledger's, and what the last pull saw since."""

    def __init__(self, outbox: Outbox, receipts: Receipts, pulled: Pulled, *, source: str) -> None:
        self._outbox, self._receipts, self.pulled = outbox, receipts, pulled
        self._source = outbox.hasher.alias("source", source)
        self._uncertain = outbox.uncertain()
        self._open = {name for write in outbox.open_sends() for name in names_of(write)}
        with outbox.database.read() as connection:
            self._disputed = receipts.disputed(connection)
        self._unsettled = self._open | {name for name, _, _ in self._uncertain}
        self._unsettled |= self._disputed.keys()
        self.gone: set[str] = set()
        """Prospects that the last pull shows to be deleted, of those that were looked up."""

    def plainly_unchanged(self, rows: Sequence[StagedRow]) -> dict[int, str]:
        """row id → prospect id of rows without anything to weigh: their person's only ones, they
        say what was accepted last, nothing of theirs is open, nothing newer was pulled."""
        rows = [
            row
            for row in rows
            if row.repeats is not None
            and row.person is None
            and row.activities is None
            and self._unsettled.isdisjoint((row.email, row.phone, row.repeats))
        ]
        repeated = {row.id: row.repeats for row in rows if row.repeats is not None}
        pulled, complete_ms = self.pulled.by_id(set(repeated.values())), self.pulled.complete_ms
        for row in rows:
            found = pulled.get(repeated[row.id])
            if is_suspect(row.accepted_ms or 0, row.updated_at_ms, found, complete_ms):
                del repeated[row.id]
        return repeated

    def gather(self, rows: Sequence[StagedRow]) -> dict[int, Evidence]:
        """row id → everything known of its person."""
        names = {row.id: names_of_row(row, self._outbox.hasher) for row in rows}
        aliases = {alias for own in names.values() for alias in own.present()}
        with self._outbox.database.read() as connection:
            found = self._receipts.find(connection, aliases)
            has_activities = any(row.activities for row in rows)
            ids = {each.prospect_id for each in found.values()} if has_activities else set()
            attached = self._receipts.attached(connection, ids)
        evidence = {}
        for row in rows:
            own = Evidence.of(names[row.id], row.content, found, self._uncertain, self._disputed)
            own.payload, own.attached = orjson.loads(row.payload), attached
            known = {own.receipt.prospect_id} if own.receipt else set()
            if self._open and not self._open.isdisjoint({*names[row.id].present(), *known}):
                own.receipt = None  # while an answer is missing, it isn't known
            evidence[row.id] = own
        self._add_edits(rows, evidence)
        self._add_contacts(
            [own for row in rows if not (own := evidence[row.id]).repeats(row.content)]
        )
        self._add_people(rows, evidence)
        self._add_settled(rows, evidence)
        return evidence

    def _add_edits(self, rows: Sequence[StagedRow], evidence: Mapping[int, Evidence]) -> None:
        """What was edited or deleted since it was accepted is stale."""
        repeats = [own for row in rows if (own := evidence[row.id]).repeats(row.content)]
        known = [(own, own.receipt) for own in repeats if own.receipt is not None]
        complete_ms = self.pulled.complete_ms
        pulled = self.pulled.by_id({receipt.prospect_id for _, receipt in known})
        suspects = [
            (own, receipt)
            for own, receipt in known
            if is_suspect(
                receipt.accepted_ms,
                receipt.updated_at_ms,
                pulled.get(receipt.prospect_id),
                complete_ms,
            )
        ]
        ids = {receipt.prospect_id for _, receipt in suspects}
        seen = self.pulled.by_id(ids, with_fields=True)
        for own, receipt in suspects:
            found = seen.get(receipt.prospect_id)
            own.stale = _why_stale(receipt, found, own.payload)
            if is_gone(receipt.accepted_ms, found, complete_ms):
                self._drop(own, {receipt.prospect_id})

    def _drop(self, own: Evidence, gone: set[str]) -> None:
        self.gone |= gone
        own.drop(gone)

    def _add_contacts(self, evidence: Sequence[Evidence]) -> None:
        """For rows that look as if they would be sent: who has their contacts by now."""
        contacts = [_contacts(own.payload) for own in evidence]
        by_email = self.pulled.by_email({email for email, _ in contacts if email})
        by_phone = self.pulled.by_phone({phone for _, phone in contacts if phone})
        for own, (email, phone) in zip(evidence, contacts, strict=True):
            own.pulled_by_email = by_email.get(email, frozenset())
            own.pulled_by_phone = by_phone.get(phone, frozenset())

    def _add_people(self, rows: Sequence[StagedRow], evidence: Mapping[int, Evidence]) -> None:
        """Who the people are whom a row's contacts lead to: whether its first name is theirs."""
        ids: set[str] = set()
        for row in rows:
            if not evidence[row.id].repeats(row.content):
                ids |= evidence[row.id].people
        seen, complete_ms = self.pulled.by_id(ids, with_fields=True), self.pulled.complete_ms
        for own in evidence.values():
            gone = {
                found.prospect_id
                for found in (own.by_email, own.by_phone)
                if found is not None
                and found.prospect_id in ids
                and is_gone(found.accepted_ms, seen.get(found.prospect_id), complete_ms)
            }
            self._drop(own, gone)
            self._compare_names(own, seen)

    def _compare_names(self, own: Evidence, seen: Mapping[str, PulledProspect]) -> None:
        people = own.people
        name = first_name(own.payload.get("firstName")) if people else None
        if name is None:
            return
        hashed = self._outbox.hasher.name(name)
        others, strangers = [], set()
        for id_ in sorted(people):
            pulled = seen.get(id_)
            found = (each for each in (own.by_email, own.by_phone) if each)
            receipt = next((each for each in found if each.prospect_id == id_), None)
            agrees = _agreement(name, hashed, receipt, pulled)
            by_email = id_ in own.pulled_by_email or _holds(
                own.by_email, id_, pulled, "email", same_email, own.payload
            )
            by_phone = id_ in own.pulled_by_phone or _holds(
                own.by_phone, id_, pulled, "phone", same_phone, own.payload
            )
            if agrees is False and (by_email or by_phone):
                in_clear = pulled.fields.get("firstName") if pulled else None
                others.append(OtherPerson(id_, by_email, by_phone, in_clear))
            elif agrees is False:
                strangers.add(id_)  # by a contact that isn't theirs any more, or never was
            elif agrees and (by_email or by_phone):
                own.fits = True
        own.others = others
        own.drop(strangers)

    def _add_settled(self, rows: Sequence[StagedRow], evidence: Mapping[int, Evidence]) -> None:
        """Which first names this source has settled on the very people that the rows lead to."""
        weighed = [
            own
            for row in rows
            if (own := evidence[row.id]).others or row.activities or row.person is not None
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


def is_gone(accepted_ms: int, pulled: PulledProspect | None, complete_ms: int | None) -> bool:
    """Whether the last pull shows that a prospect was deleted after `accepted_ms`; see below."""
    if pulled is None:
        return complete_ms is not None and complete_ms > accepted_ms
    return pulled.deleted_at_ms is not None and pulled.deleted_at_ms > accepted_ms


def is_suspect(
    accepted_ms: int,
    accepted_updated_at_ms: int | None,
    pulled: PulledProspect | None,
    complete_ms: int | None,
) -> bool:
    """Whether the last pull shows something newer than what was accepted last.

    accepted_ms, accepted_updated_at_ms: when it was accepted, by our clock and by `updatedAt`.
    pulled: None where the destination has no such prospect. complete_ms: see `Pulled`.
    """
    if pulled is None or is_gone(accepted_ms, pulled, complete_ms):
        return is_gone(accepted_ms, pulled, complete_ms)
    if pulled.updated_at_ms is None or accepted_updated_at_ms is None:
        return False
    return pulled.updated_at_ms > accepted_updated_at_ms


def _why_stale(
    receipt: Receipt, pulled: PulledProspect | None, payload: Mapping[str, Any]
) -> str | None:
    """Why a suspect's payload, though accepted last, is to be sent again; None if it holds."""
    if pulled is None or (pulled.deleted_at_ms or 0) > receipt.accepted_ms:
        return "the prospect was deleted since"
    readable = {
        name: value for name, value in payload.items() if READ_AS.get(name, name) in pulled.fields
    }
    differs = compare(readable, pulled.fields).differs
    return f"{', '.join(differs)} changed in HiringCenter since" if differs else None


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
    if receipt is None or _is_newer(pulled, receipt):
        return theirs
    if _is_newer(pulled, receipt) is None and ours is not None and theirs is not None:
        return ours or theirs
    return theirs if ours is None else ours


def _is_newer(pulled: PulledProspect, receipt: Receipt) -> bool | None:
    """Whether the pulled copy is newer than what was accepted last; None: unknown."""
    if pulled.updated_at_ms is None or receipt.updated_at_ms is None:
        return None
    return pulled.updated_at_ms > receipt.updated_at_ms


def _holds(
    receipt: Receipt | None,
    prospect_id: str,
    pulled: PulledProspect | None,
    contact: str,
    same: Callable[[Any, Any], bool],
    payload: Mapping[str, Any],
) -> bool:
    """Whether a prospect has a row's contact, as the ledger says and no newer copy denies."""
    if receipt is None or receipt.prospect_id != prospect_id or not receipt.confirmed:
        return False
    if pulled is None or contact not in pulled.fields or not _is_newer(pulled, receipt):
        return True
    return same(payload.get(contact), pulled.fields[contact])


def _contacts(payload: Mapping[str, Any]) -> tuple[str, str]:
    """Email and phone as the pulled copy is asked for them; "" where there is none."""
    email, phone = payload.get("email"), payload.get("phone")
    return (
        email.casefold() if isinstance(email, str) else "",
        phone if isinstance(phone, str) else "",
    )
