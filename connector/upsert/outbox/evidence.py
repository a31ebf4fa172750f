"""What to do with one row, given what is known of its person. Pure.

What the last pull knows of prospects: who exists, who was deleted, what was edited since.

What is known of the people behind a chunk of rows, looked up set by set.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import orjson
import sqlalchemy as sa

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
from connector.upsert.outbox.receipts import Found, Receipt, Receipts
from connector.upsert.outbox.staging import StagedRow, names_of_row


@dataclass(frozen=True)
class Evidence:
    """What is known of one row's person.

    by_email, by_phone, by_row: where its aliases lead. pulled_by_email, pulled_by_phone: ids that
    the destination has for its contacts; looked up only for rows that look as if they'd be sent.
    receipt: of the prospect that `prospect_id` names. stale: why what was accepted last no longer
    holds. uncertain: an earlier write of the same content has an unknown fate. disputed: the
    prospect that was expected behind a contact of the row, and the one that answered. others: known
    people of another first name whom the contacts lead to. fits: the first name agrees with that
    of a person whom they lead to. settled: of those people, on whom this source has settled the
    first name; created: by creating them. contacts: how many the row has, of email and phone.
    """

    by_email: Found | None = None
    by_phone: Found | None = None
    by_row: Found | None = None
    pulled_by_email: frozenset[str] = frozenset()
    pulled_by_phone: frozenset[str] = frozenset()
    receipt: Receipt | None = None
    stale: str | None = None
    uncertain: bool = False
    disputed: tuple[str, str] | None = None
    others: tuple[OtherPerson, ...] = ()
    fits: bool = False
    settled: frozenset[str] = frozenset()
    created: bool = False
    contacts: int = 0

    @property
    def contacts_dropped(self) -> bool:
        """Whether HiringCenter took over none of the row's contacts: it would find nobody by
        them, and create the person once more."""
        found = [each for each in (self.by_email, self.by_phone) if each and not each.confirmed]
        return 0 < len(found) == self.contacts


def best_of(*found: Found | None) -> Found | None:
    """Of where the aliases lead, the one to believe: a confirmed one before others, in order."""
    known = [each for each in found if each is not None]
    return min(known, key=lambda each: not each.confirmed, default=None)


@dataclass(frozen=True)
class PulledProspect:
    """One prospect as the destination has it. fields: by API name. Times: UTC epoch ms."""

    id: str
    updated_at_ms: int | None
    deleted_at_ms: int | None
    fields: Mapping[str, Any] = field(default_factory=dict)


class Pulled(Protocol):
    """A look into the destination. Where nothing was pulled yet, every answer is empty."""

    complete_ms: int | None
    """When the last complete scan began (UTC epoch ms): whoever isn't there, didn't exist then."""

    def by_id(self, ids: Collection[str]) -> dict[str, PulledProspect]:
        """Those of `ids` that the destination has, deleted ones included; without `fields`."""
        ...

    def with_fields(self, ids: Collection[str]) -> dict[str, PulledProspect]:
        """The same with `fields`."""
        ...

    def by_email(self, emails: Collection[str]) -> dict[str, frozenset[str]]:
        """email (casefolded) → ids of the living prospects that have it."""
        ...

    def by_phone(self, phones: Collection[str]) -> dict[str, frozenset[str]]:
        """phone (E.164) → ids of the living prospects that have it."""
        ...


class NothingPulled:
    """A destination that has no prospects."""

    complete_ms: int | None = None

    def by_id(self, ids: Collection[str]) -> dict[str, PulledProspect]:  # noqa: ARG002
        return {}

    def with_fields(self, ids: Collection[str]) -> dict[str, PulledProspect]:  # noqa: ARG002
        return {}

    def by_email(self, emails: Collection[str]) -> dict[str, frozenset[str]]:  # noqa: ARG002
        return {}

    def by_phone(self, phones: Collection[str]) -> dict[str, frozenset[str]]:  # noqa: ARG002
        return {}


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


def why_stale(
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


Uncertain = Collection[UncertainWrite]


@dataclass(frozen=True)
class Known:
    """What the ledger knows of some rows. attached: (prospect id, kind, content)."""

    found: Mapping[int, Found]
    attached: Collection[tuple[str, str, bytes]]
    uncertain: Uncertain

    def of(self, names: Aliases, content: bytes) -> Evidence:
        """The evidence for one row, as far as the ledger goes."""
        by_email, by_phone, by_row = (
            self.found.get(alias) if alias is not None else None
            for alias in (names.email, names.phone, names.row)
        )
        leads_to = best_of(by_email, by_phone, by_row)
        return Evidence(
            by_email=by_email,
            by_phone=by_phone,
            by_row=by_row,
            receipt=leads_to.receipt if leads_to is not None else None,
            uncertain=any((name, PROSPECTS, content) in self.uncertain for name in names.present()),
            contacts=sum(alias is not None for alias in (names.email, names.phone)),
        )


def known_of(
    connection: sa.Connection,
    receipts: Receipts,
    names: Collection[int],
    uncertain: Uncertain,
    *,
    attached: bool,
) -> Known:
    """Look up all of `names` at once. attached: also what was created beside their prospects."""
    found = receipts.find(connection, names)
    ids = {each.prospect_id for each in found.values()} if attached else set()
    return Known(found, receipts.attached(connection, ids), uncertain)


@dataclass(frozen=True)
class LookedUp:
    """What is known of some rows. plain: row id → prospect id of those that are unchanged without
    further thought; evidence: by row id, of the others."""

    known: Known
    plain: Mapping[int, str]
    evidence: Mapping[int, Evidence]


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

    def look_up(self, rows: Sequence[StagedRow], *, sift: bool) -> LookedUp:
        """Everything known of `rows`. sift: tell apart those that are plainly unchanged."""
        plain = self._plain(rows) if sift else {}
        rest = [row for row in rows if row.id not in plain]
        known = self._known(rest)
        names = {row.id: names_of_row(row, self._outbox.hasher) for row in rest}
        evidence = {
            row.id: self._without_open(names[row.id], known.of(names[row.id], row.content))
            for row in rest
        }
        self._add_edits(rest, evidence)
        self._add_contacts(rest, evidence)
        self._add_people(rest, evidence)
        self._add_settled(rest, evidence)
        return LookedUp(known, plain, evidence)

    def _known(self, rows: Sequence[StagedRow]) -> Known:
        names = {row.email for row in rows} | {row.phone for row in rows}
        names.discard(None)
        nameless = [row for row in rows if row.email is None and row.phone is None]
        names.update(names_of_row(row, self._outbox.hasher).row for row in nameless)
        with self._outbox.database.read() as connection:
            return known_of(
                connection,
                self._receipts,
                cast("set[int]", names),
                self._uncertain,
                attached=any(row.activities for row in rows),
            )

    def _plain(self, rows: Sequence[StagedRow]) -> dict[int, str]:
        """row id → prospect id of rows without anything to weigh: they say what was accepted
        last, nothing of theirs is open, nothing newer was pulled."""
        plain = {
            row.id: row
            for row in rows
            if row.repeats is not None
            and row.activities is None
            and self._unsettled.isdisjoint((row.email, row.phone, row.repeats))
        }
        pulled = self.pulled.by_id({row.repeats for row in plain.values() if row.repeats})
        complete_ms = self.pulled.complete_ms
        return {
            id_: row.repeats or ""
            for id_, row in plain.items()
            if not is_suspect(
                row.accepted_ms or 0, row.updated_at_ms, pulled.get(row.repeats or ""), complete_ms
            )
        }

    def _without_open(self, names: Aliases, evidence: Evidence) -> Evidence:
        """While the answer to an earlier write is missing, what was accepted last isn't known."""
        receipt = evidence.receipt
        ids = {receipt.prospect_id} if receipt else set()
        if self._open and self._open.intersection({*names.present(), *ids}):
            return replace(evidence, receipt=None)
        return evidence

    def _add_edits(self, rows: Sequence[StagedRow], evidence: dict[int, Evidence]) -> None:
        """What was edited or deleted since it was accepted is stale."""
        candidates = {
            row.id: (row, receipt)
            for row in rows
            if (receipt := evidence[row.id].receipt) and row.content in receipt.tail
        }
        pulled = self.pulled.by_id({receipt.prospect_id for _, receipt in candidates.values()})
        suspects = {
            id_: (row, receipt)
            for id_, (row, receipt) in candidates.items()
            if is_suspect(
                receipt.accepted_ms,
                receipt.updated_at_ms,
                pulled.get(receipt.prospect_id),
                self.pulled.complete_ms,
            )
        }
        seen = self.pulled.with_fields({receipt.prospect_id for _, receipt in suspects.values()})
        for id_, (row, receipt) in suspects.items():
            found = seen.get(receipt.prospect_id)
            stale = why_stale(receipt, found, orjson.loads(row.payload))
            evidence[id_] = replace(evidence[id_], stale=stale)
            if is_gone(receipt.accepted_ms, found, self.pulled.complete_ms):
                self.gone.add(receipt.prospect_id)
                evidence[id_] = _without(evidence[id_], {receipt.prospect_id})

    def _add_contacts(self, rows: Sequence[StagedRow], evidence: dict[int, Evidence]) -> None:
        """For rows that look as if they would be sent: who has their contacts by now."""
        contacts: dict[int, tuple[str | None, str | None]] = {
            row.id: _contacts(orjson.loads(row.payload))
            for row in rows
            if not (evidence[row.id].receipt and row.content in _tail(evidence[row.id]))
        }
        by_email = self.pulled.by_email({email for email, _ in contacts.values() if email})
        by_phone = self.pulled.by_phone({phone for _, phone in contacts.values() if phone})
        for id_, (email, phone) in contacts.items():
            evidence[id_] = replace(
                evidence[id_],
                pulled_by_email=by_email.get(email or "", frozenset()),
                pulled_by_phone=by_phone.get(phone or "", frozenset()),
            )

    def _add_people(self, rows: Sequence[StagedRow], evidence: dict[int, Evidence]) -> None:
        """Who the people are whom a row's contacts lead to: whether its first name is theirs."""
        weighed = [row for row in rows if _leads(evidence[row.id])]
        ids = {
            id_
            for row in weighed
            if row.content not in _tail(evidence[row.id])
            for id_ in _leads(evidence[row.id])
        }
        seen = self.pulled.with_fields(ids)
        for row in weighed:
            own = evidence[row.id]
            gone = {
                found.prospect_id
                for found in (own.by_email, own.by_phone)
                if found is not None
                and found.prospect_id in ids
                and is_gone(found.accepted_ms, seen.get(found.prospect_id), self.pulled.complete_ms)
            }
            self.gone |= gone
            evidence[row.id] = self._with_people(row, _without(own, gone), seen)
        for row in rows:
            for alias in (row.email, row.phone):
                if alias is not None and alias in self._disputed:
                    disputed = self._disputed[alias]
                    evidence[row.id] = replace(evidence[row.id], disputed=disputed)

    def _with_people(
        self, row: StagedRow, own: Evidence, seen: Mapping[str, PulledProspect]
    ) -> Evidence:
        payload = orjson.loads(row.payload)
        name = first_name(payload.get("firstName"))
        if name is None:
            return own
        hashed = self._outbox.hasher.name(name)
        others, strangers, fits = [], set(), False
        for id_ in sorted(_leads(own)):
            ledger = [each for each in (own.by_email, own.by_phone) if each and each[0] == id_]
            agrees = _agreement(name, hashed, ledger[0] if ledger else None, seen.get(id_))
            by_email = id_ in own.pulled_by_email or _holds(
                own.by_email, id_, seen.get(id_), "email", same_email, payload
            )
            by_phone = id_ in own.pulled_by_phone or _holds(
                own.by_phone, id_, seen.get(id_), "phone", same_phone, payload
            )
            if agrees is False and (by_email or by_phone):
                in_clear = seen[id_].fields.get("firstName") if id_ in seen else None
                others.append(OtherPerson(id_, by_email, by_phone, in_clear))
            elif agrees is False:
                strangers.add(id_)  # by a contact that isn't theirs any more, or never was
            elif agrees and (by_email or by_phone):
                fits = True
        return replace(_without(own, strangers), others=tuple(others), fits=fits)

    def _add_settled(self, rows: Sequence[StagedRow], evidence: dict[int, Evidence]) -> None:
        """Which first names this source has settled on the very people that the rows lead to."""
        weighed = [
            row
            for row in rows
            if evidence[row.id].others or row.activities or row.person is not None
        ]
        ids = {id_ for row in weighed for id_ in _leads(evidence[row.id])}
        if not ids:
            return
        with self._outbox.database.read() as connection:
            settled = self._receipts.settled(connection, self._source, ids)
        for row in weighed:
            name = first_name(orjson.loads(row.payload).get("firstName"))
            if name is None:
                continue
            alias = self._outbox.hasher.alias("name", str(name.whole))
            own = evidence[row.id]
            found = {id_ for id_ in _leads(own) if (id_, alias) in settled}
            evidence[row.id] = replace(
                own,
                others=tuple(each for each in own.others if each.prospect_id not in found),
                settled=frozenset(found),
                created=any(settled[id_, alias] for id_ in found),
            )


def _leads(evidence: Evidence) -> frozenset[str]:
    """Everybody whom a row's contacts lead to."""
    found = (evidence.by_email, evidence.by_phone)
    ledger = {each.prospect_id for each in found if each is not None}
    return evidence.pulled_by_email | evidence.pulled_by_phone | ledger


def _without(evidence: Evidence, ids: Collection[str]) -> Evidence:
    """`evidence` as if its contacts didn't lead to `ids`."""
    if not ids:
        return evidence

    def kept(found: Found | None) -> Found | None:
        return None if found is None or found.prospect_id in ids else found

    receipt = evidence.receipt
    return replace(
        evidence,
        by_email=kept(evidence.by_email),
        by_phone=kept(evidence.by_phone),
        by_row=kept(evidence.by_row),
        receipt=None if receipt is None or receipt.prospect_id in ids else receipt,
    )


def _agreement(
    name: Name, hashed: Name, found: Found | None, pulled: PulledProspect | None
) -> bool | None:
    """Whether a row's first name agrees with a person's, the newer of what is known; None where
    that isn't known."""
    accepted = stored_first_name(found.names) if found else None
    ours = None if accepted is None else accepted.agrees(hashed)
    if pulled is None or "firstName" not in pulled.fields:
        return ours
    read = first_name(pulled.fields["firstName"])
    theirs = None if read is None else read.agrees(name)
    if found is None or _is_newer(pulled, found):
        return theirs
    if _is_newer(pulled, found) is None and ours is not None and theirs is not None:
        return ours or theirs
    return theirs if ours is None else ours


def _is_newer(pulled: PulledProspect, found: Found) -> bool | None:
    """Whether the pulled copy is newer than what was accepted last; None: that can't be told."""
    if pulled.updated_at_ms is None or found.updated_at_ms is None:
        return None
    return pulled.updated_at_ms > found.updated_at_ms


def _holds(
    found: Found | None,
    prospect_id: str,
    pulled: PulledProspect | None,
    contact: str,
    same: Callable[[Any, Any], bool],
    payload: Mapping[str, Any],
) -> bool:
    """Whether a prospect has a row's contact, as the ledger says and no newer copy denies."""
    if found is None or found.prospect_id != prospect_id or not found.confirmed:
        return False
    if pulled is None or contact not in pulled.fields or not _is_newer(pulled, found):
        return True
    return same(payload.get(contact), pulled.fields[contact])


def _tail(evidence: Evidence) -> tuple[bytes, ...]:
    return evidence.receipt.tail if evidence.receipt else ()


def _contacts(payload: Mapping[str, Any]) -> tuple[str | None, str | None]:
    email, phone = payload.get("email"), payload.get("phone")
    return (
        email.casefold() if isinstance(email, str) else None,
        phone if isinstance(phone, str) else None,
    )
