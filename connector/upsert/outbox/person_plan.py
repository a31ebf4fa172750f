"""The plan of one person's rows: the merge with what is known, and what it leaves each row to do.

Each row keeps a write of its own, so that rows of one person follow one another: a write sends the
fields that its row speaks for. What needs no request is settled at once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from connector.upsert.outbox.entries import (
    VERSION,
    Base,
    Entries,
    RowMemory,
    Settlement,
    packed,
)
from connector.upsert.outbox.evidence import (
    ContactFacts,
    Evidence,
    Pulled,
    PulledProspect,
    fields_of_item,
)
from connector.upsert.outbox.exported_rows import Exported, as_exported
from connector.upsert.outbox.matching import same_value
from connector.upsert.outbox.merge import (
    CONTACTS,
    LABELS_STAY,
    NAMES,
    NAMES_UNKNOWN,
    NOBODY,
    NOT_AGAIN_WITHOUT_NAMES,
    NOT_LOOKED_FOR,
    TOO_MANY_TO_FIND,
    FieldAction,
    FieldMerge,
    MergeRules,
    OwnWrite,
    Person,
    PersonMerge,
    Row,
    Why,
    full_name,
    has_changed,
    lacks_names,
    merge,
    new_base,
    still_holds,
)
from connector.upsert.outbox.outbox import Write
from connector.upsert.outbox.receipts import Receipt, Status
from connector.upsert.rows.write_schema import LABEL_EDITS, MANNERS

Outcome = Literal["create", "update", "send", "unchanged", "rejected", "failed"]


@dataclass(frozen=True)
class PlannedRow:
    """What a push is about to do with one input row that passed its checks.

    write: the person's write: `body` is what the row says, in `row_values` as the input holds it.
    activities: those of its notes, tasks and meetings that are to be created. outcome: `send`
    where it needs a request and whether it creates or updates isn't known. merged: what happens to
    each field that the row names, where a merge decided; a field that another row of the person
    speaks for isn't among those to be sent. looks: the person is looked up before the write.
    reason: for people, or None. settlement: what is settled without a request. name: of whom it is
    about, where the row lacks a name.
    """

    write: Write
    activities: tuple[Write, ...]
    outcome: Outcome
    prospect_id: str | None
    merged: PersonMerge | None = None
    looks: bool = False
    reason: str | None = None
    settlement: Settlement | None = None
    name: str | None = None

    @property
    def row_number(self) -> int:
        return self.write.row_number

    @property
    def sends_person(self) -> bool:
        return self.outcome in ("create", "update", "send")

    @property
    def sends(self) -> bool:
        """Whether the row needs a request, for its person or for an activity of theirs."""
        return bool(self.activities) or self.sends_person

    @property
    def message(self) -> str | None:
        """All that people are told of a row that needs no request."""
        return "; ".join(filter(None, (self.write.note, self.reason))) or None

    @property
    def kept(self) -> tuple[FieldMerge, ...]:
        """Fields that people are told were kept."""
        return self.merged.kept if self.merged is not None else ()

    @property
    def outcome_shown(self) -> Outcome:
        """A row that only creates activities counts as an update, as it does in a push."""
        return "update" if self.sends and not self.sends_person else self.outcome


class RowPlan(NamedTuple):
    """What to do with one row. outcome: None where it is sent.

    prospect_id: whom the row is about, where that is known; of a row that is sent, whom the API is
    expected to find. reason: for people, or None; names: of the people that the reason is about,
    for the rejects file alone. siblings: `Write.settles` of a planned write. settlement: what is
    settled without a request. kept: fields that people are told were kept; disagree: that another
    row of the person has another value for.

    merged: what happens to each field that the row names; None where it says what HiringCenter
    has. is_known: the person is known as they are now. seen: the person as the copy has them, for a
    row that is sent without a look. looks_alone: no scan spares it the look, as of new contacts and
    added labels. looks_to_fill: it takes one all the same, to find out whether fields are empty.
    looks_to_find: the row can't create a person, so one who may be there is looked for. follows: an
    earlier row creates the person. name: see `PlannedRow`.
    """

    outcome: Status | None
    prospect_id: str | None = None
    reason: str | None = None
    names: str | None = None
    siblings: bytes | None = None
    settlement: Settlement | None = None
    kept: tuple[str, ...] = ()
    disagree: tuple[str, ...] = ()
    merged: PersonMerge | None = None
    is_known: bool = False
    seen: Person | None = None
    looks_alone: bool = False
    looks_to_fill: bool = False
    looks_to_find: bool = False
    follows: bool = False
    name: str | None = None

    @property
    def sends(self) -> bool:
        return self.outcome is None

    @property
    def is_bad(self) -> bool:
        return self.outcome in (Status.REJECTED, Status.FAILED)


class Alike(NamedTuple):
    """A row that is as HiringCenter has its person. settlement: None where it is settled."""

    prospect_id: str
    settlement: Settlement | None


def kept_note(fields: Collection[str], merged: PersonMerge | None) -> str | None:
    """What people are told of fields that were kept: one that another source has pushed isn't put
    back with `--restore`, either."""
    if not fields:
        return None
    note = f"kept as HiringCenter has it: {', '.join(fields)}"
    found = () if merged is None else merged.kept
    pushed = [each.name for each in found if each.why is Why.DISAGREES and each.name in fields]
    return f"{note}; {Why.DISAGREES}: {', '.join(pushed)}" if pushed else note


def unread_note(merged: PersonMerge | None) -> str | None:
    """What people are told of fields that are only filled, and that no one has read."""
    left = [each.name for each in merged.fields if each.why is Why.NOT_READ] if merged else []
    return (
        f"left out, since whether they are empty isn't known: {', '.join(left)}" if left else None
    )


def disagreement_note(fields: Collection[str]) -> str | None:
    """What people are told of fields about which rows of one person disagree."""
    return f"rows of this person disagree: {', '.join(fields)}" if fields else None


DELETED = "deleted in HiringCenter; the row is unchanged, so they stay deleted"


class PersonPlanner:
    """Plans the rows of one person at a time. now_ms: by the clock of the pull's scans. finds_all:
    whoever isn't known is looked up before a write."""

    def __init__(
        self,
        entries: Entries,
        pulled: Pulled,
        rules: MergeRules,
        *,
        now_ms: int,
        fresh_ms: int,
        rechecks: bool = True,
        lookups: int = 0,
        finds_all: bool = False,
    ) -> None:
        self._lookups_left: float = lookups
        self._lookups = self._finds_left = lookups
        self._finds_all = finds_all
        self._entries, self._pulled, self._rules = entries, pulled, rules
        self._now_ms, self._rechecks = now_ms, rechecks
        read_ms = pulled.complete_ms
        self.is_copy_fresh = read_ms is not None and 0 <= now_ms - read_ms < fresh_ms

    def plan(
        self,
        rows: Sequence[tuple[Write, Evidence]],
        prospect_id: str | None,
        *,
        is_open: bool,
        looked_at: Collection[int] = (),
    ) -> list[RowPlan]:
        """What to do with each row, in file order. prospect_id: see `whom`. is_open: a write to
        them has no answer yet. looked_at: numbers of rows whose person was looked at before, for
        fields that weren't shown."""
        memories = [own.memory for _, own in rows]
        assert all(memories)
        known = [memory for memory in memories if memory is not None]
        said = [memory.row for memory in known]
        if is_open:  # its answer changes what is settled: the merge is done when it is there
            return [self._sent(memory, known, prospect_id) for memory in known]
        adopts = any(own.adopts for _, own in rows)
        rules = replace(self._rules, adopts=True) if adopts else self._rules
        if prospect_id is None:
            if adopts and not (rules.restore or rules.force):
                return [
                    self._adopted(write, memory)
                    for (write, _), memory in zip(rows, known, strict=True)
                ]
            is_new = not all(memory.entry for memory in known) or has_changed(said, self._cell)
            if not (is_new or self._rules.restore or self._rules.force):
                return [self._stays_deleted(memory) for memory in known]
            created = merge(said, None, self._rules, self._cell)
            return [
                plan._replace(merged=_of_row(created, memory), disagree=_disagree(created, memory))
                for plan, memory in zip(self._unknown(rows, known), known, strict=True)
            ]
        theirs = self._person(rows, prospect_id)
        known = [
            as_exported(self._entries, write, memory)
            for (write, _), memory in zip(rows, known, strict=True)
        ]
        merged = merge([memory.row for memory in known], theirs, rules, self._cell)
        plans = []
        for position, ((write, _), memory) in enumerate(zip(rows, known, strict=True)):
            own = _of_row(merged, memory)
            plan = self._settled(write, memory, known, merged, own, prospect_id)
            if own.to_send:
                sent = self._sent(memory, known, prospect_id)
                alone = self._looks_alone(merged, theirs)
                seen = None if alone else self._seen(rows[position][1], theirs)
                plan = sent._replace(settlement=plan.settlement, seen=seen, looks_alone=alone)
            fills = bool(own.unread) and write.row_number not in looked_at
            if fills and (not plan.sends or plan.seen) and self._may_look_to_fill():
                if not plan.sends:
                    sent = self._sent(memory, known, prospect_id)
                    plan = sent._replace(settlement=plan.settlement)
                plan = plan._replace(looks_to_fill=True)
            if any(each.why is Why.MERGES for each in own.fields):
                plan = RowPlan(Status.REJECTED, reason=LABELS_STAY)
            if lacks_names(memory.row.says):
                plan = self._nameless(plan, memory, theirs, own)
            disagree = _disagree(merged, memory)
            plans.append(plan._replace(merged=own, is_known=theirs is not None, disagree=disagree))
        return plans

    def _unknown(
        self, rows: Sequence[tuple[Write, Evidence]], known: Sequence[RowMemory]
    ) -> Iterator[RowPlan]:
        """The plans of rows about somebody who isn't known: the first with names creates them."""
        creates = False
        for (_, own), memory in zip(rows, known, strict=True):
            plan = self._sent(memory, known, None)
            if not lacks_names(memory.row.says):
                plan = plan._replace(follows=creates)
                creates = True
            else:
                reason = None if creates or self._finds_all else self._why_not_found(own)
                if reason is None:
                    plan = plan._replace(looks_to_find=True)
                else:
                    plan = RowPlan(Status.REJECTED, reason=reason)
            yield plan

    def _why_not_found(self, own: Evidence) -> str | None:
        """Why the person of a row that can't create one isn't looked for; None where they are."""
        if own.dropped or (own.memory is not None and own.memory.people):
            return NOT_AGAIN_WITHOUT_NAMES
        contacts = set(self._pulled.contacts)
        given = {name for name in CONTACTS if own.payload.get(name)}
        if self.is_copy_fresh and given <= contacts and own.disputed is None:
            return NOBODY
        if not self._rechecks:
            return NOT_LOOKED_FOR
        self._finds_left -= 1
        self._lookups_left -= 1
        return TOO_MANY_TO_FIND if min(self._finds_left, self._lookups_left) < 0 else None

    def _nameless(
        self, plan: RowPlan, memory: RowMemory, theirs: Person | None, own: PersonMerge
    ) -> RowPlan:
        """The plan of a row without both names about a person who is known: theirs go out with it,
        as they were read."""
        fields, says = theirs.fields if theirs else {}, memory.row.says
        are_known = all(says.get(name) or name in fields for name in NAMES)
        is_looked_up = self._rechecks or (
            are_known and any(each.name in CONTACTS for each in own.to_send)
        )
        if plan.sends and plan.seen is None and not (is_looked_up or plan.looks_to_fill):
            return RowPlan(Status.REJECTED, reason=NAMES_UNKNOWN.format(id=plan.prospect_id))
        return plan._replace(name=_name(says, fields))

    def _adopted(self, write: Write, memory: RowMemory) -> RowPlan:
        """The row of somebody who was deleted in HiringCenter, pushed before bases were kept."""
        settlement = self._entries.settlement(
            write, memory, memory.row.says, {}, prospect_id=None, rows=1, at_ms=self._now_ms
        )
        return self._stays_deleted(memory)._replace(settlement=settlement)

    @staticmethod
    def _stays_deleted(memory: RowMemory) -> RowPlan:
        """All that the row says of somebody who was deleted in HiringCenter is kept out."""
        kept = tuple(name for name in memory.row.says if name not in MANNERS)
        return RowPlan(Status.UNCHANGED, reason=DELETED, kept=kept)

    def _may_look_to_fill(self) -> bool:
        """Whether one more person may be looked up for fields that are only filled: as many as the
        push allows, or all where a scan of everybody takes no more requests than that."""
        if self._lookups_left <= 0 and self._lookups:
            pages = self._pulled.scan_pages
            self._lookups_left = math.inf if pages is not None and pages <= self._lookups else 0
            self._lookups = 0  # it is asked once
        self._lookups_left -= 1
        return self._lookups_left >= 0

    def settle_alike(
        self, write: Write, says: Mapping[str, Any], copied: PulledProspect, facts: ContactFacts
    ) -> Alike | None:
        """What a person's only row settles that says what HiringCenter has, and either is new here
        or is settled as a whole: of a million rows, nearly all are, and need neither evidence nor
        merge. None where that isn't so, or isn't certain.

        copied: who is all that the row says (`Pulled.alike`). Nothing about them may be open,
        uncertain or disputed (`EvidenceFinder.is_settled`).
        """
        id_, source = copied.id, facts.entries.source
        if (write.prospect_id or id_) != id_ or lacks_names(says):
            return None
        contacts, own = self._entries.contacts(write), None
        for contact in contacts:
            receipt = facts.receipts.get(contact)
            if receipt is not None and (
                receipt.prospect_id != id_ or self._freshness(copied, receipt) is None
            ):
                return None
            for entry in facts.entries.by_alias.get(contact, ()):
                is_other = entry.source == source and own is not None and own != entry
                if entry.prospect_id != id_ or is_other:
                    return None
                own = entry if entry.source == source else own
        if own is not None and own.content != write.content:
            return None
        if own is not None and write.exported is None:
            return Alike(id_, None)
        version = {}
        if write.exported is not None:
            version[VERSION] = Exported.from_bytes(write.exported).updated_at_ms
        settlement = self._entries.whole(write, says, id_, contacts, self._now_ms, version)
        if own is None:
            return Alike(id_, settlement)
        is_same = settlement.entry.cells == own.cells  # else it was exported as another version
        return Alike(id_, None) if is_same else None

    def whom(self, facts: Sequence[Evidence]) -> str | None:
        """Whom rows are about: as their contacts were accepted; else as was settled without a
        request; else who has their contacts in the copy; else whose contact HiringCenter dropped.
        """
        receipts = [receipt for own in facts for receipt in own.receipts]
        confirmed = [each.prospect_id for each in receipts if each.confirmed]
        remembered = [
            id_
            for own in facts
            if (memory := own.memory) is not None
            for id_ in memory.people
            if not self._pulled.is_deleted(
                own.pulled.get(id_), memory.entry.seen_ms if memory.entry else 0
            )
        ]
        by_contact = [
            id_ for own in facts for id_ in sorted(own.pulled_by_email | own.pulled_by_phone)
        ]
        dropped = [each.prospect_id for each in receipts if not each.confirmed]
        return next(iter((*confirmed, *remembered, *by_contact, *dropped)), None)

    def _person(self, rows: Sequence[tuple[Write, Evidence]], prospect_id: str) -> Person | None:
        """The person as the copy has them, where that still holds."""
        copied, receipt = None, None
        for _, own in rows:
            copied = copied or own.pulled.get(prospect_id)
            receipt = receipt or next(
                (each for each in own.receipts if each.prospect_id == prospect_id), None
            )
        if copied is None or copied.deleted_at_ms is not None:
            return None
        is_fresh = self._freshness(copied, receipt)
        if is_fresh is None:
            return None
        return Person(prospect_id, fields_of_item(copied.fields, of_copy=True), is_fresh)

    def _freshness(self, copied: PulledProspect, receipt: Receipt | None) -> bool | None:
        """Whether a person was read a moment ago; None where what was read no longer holds."""
        written = None
        if receipt is not None:
            # a look shows only by `updatedAt` that somebody has changed since they were read
            is_dated = receipt.updated_at_ms is not None
            answered_ms = receipt.accepted_ms if is_dated else receipt.written_ms
            if answered_ms is not None:
                written = OwnWrite(answered_ms, receipt.updated_at_ms, receipt.before_ms)
        read_ms = self._pulled.complete_ms  # no row knows when it was read itself, so far
        if not still_holds(read_ms, copied.updated_at_ms, written, is_open=False):
            return None
        return self.is_copy_fresh

    def _looks_alone(self, merged: PersonMerge, theirs: Person | None) -> bool:
        """Whether the person is looked up right before the change, however fresh the copy: whoever
        has a contact that is known to be new; and, where the API replaces labels, whoever gets one
        more, since all that somebody else has added meanwhile would go."""
        names = {each.name for each in merged.to_send}
        has_new_contact = theirs is not None and not names.isdisjoint(CONTACTS)
        replaces_labels = self._rechecks and not self._rules.labels_merge
        return has_new_contact or (replaces_labels and not names.isdisjoint(LABEL_EDITS))

    def _seen(self, own: Evidence, theirs: Person | None) -> Person | None:
        """What a row is sent by without a look: the copy, while it is fresh, or where no one is to
        be looked up."""
        if theirs is None or not (theirs.fresh or not self._rechecks):
            return None
        copied, fields = own.pulled.get(theirs.id), theirs.fields
        if any(not own.payload.get(name) and name not in fields for name in NAMES):
            return None
        read_ms = self._pulled.complete_ms
        if copied is None or read_ms is None:
            return None
        named = {name for name in own.payload if name in fields} | {"labels", *NAMES, *CONTACTS}
        found = (("email", own.pulled_by_email), ("phone", own.pulled_by_phone))
        alone = tuple(
            name
            for name, ids in found
            if ids == {theirs.id} and same_value(name, own.payload.get(name), fields.get(name))
        )
        if not alone:
            return None
        shown = {name: fields[name] for name in named if name in fields}
        updated_at_ms = copied.updated_at_ms
        return replace(
            theirs, fields=shown, read_ms=read_ms, updated_at_ms=updated_at_ms, alone=alone
        )

    def _sent(
        self,
        memory: RowMemory,
        all_rows: Sequence[RowMemory],
        prospect_id: str | None,
    ) -> RowPlan:
        siblings = packed(self._siblings(memory, all_rows)[0], {}) if len(all_rows) > 1 else None
        return RowPlan(None, prospect_id, siblings=siblings)

    def _siblings(self, memory: RowMemory, all_rows: Sequence[RowMemory]) -> tuple[Base, int]:
        """What all rows of an entry say, and how many there are."""
        alias = memory.entry.alias if memory.entry else None
        same = [
            each.row for each in all_rows if (each.entry.alias if each.entry else None) == alias
        ]
        names = {name for row in same for name in row.says}
        return new_base(same, names, self._cell), len(same)  # type: ignore[return-value]

    def _settled(
        self,
        write: Write,
        memory: RowMemory,
        all_rows: Sequence[RowMemory],
        merged: PersonMerge,
        own: PersonMerge,
        prospect_id: str,
    ) -> RowPlan:
        """What of a row needs no request and is settled, with all rows of its entry, and what
        people are told. Of a field that one row sends, the other rows' cells are settled: they
        would be sent by the next push, and the row's again by the one after it. own: what `merged`
        does to the fields that the row names."""
        sent = {each.name: each.ours for each in merged.to_send}
        waiting: Base = new_base([Row(sent)], sent, self._cell)  # type: ignore[assignment]
        settled = {each.name for each in merged.fields if each.settles} - waiting.keys()
        siblings, rows = self._siblings(memory, all_rows)
        settlement = self._entries.settlement(
            write,
            memory,
            settled,
            siblings,
            prospect_id=prospect_id,
            rows=rows,
            at_ms=self._now_ms,
            waiting=waiting,
        )
        kept = tuple(each.name for each in own.kept)
        notes = "; ".join(filter(None, (kept_note(kept, own), unread_note(own)))) or None
        if settlement is not None and memory.stored is not None:
            before = memory.stored._replace(seen_ms=self._now_ms, rows=settlement.entry.rows)
            if before == settlement.entry:
                settlement = None  # nothing new: a push that changes nothing writes nothing
        return RowPlan(Status.UNCHANGED, prospect_id, notes, settlement=settlement, kept=kept)

    @property
    def _cell(self):  # type: ignore[no-untyped-def]
        return self._entries.hasher.cell


def _name(says: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """The name of a person, as the row has it, else as HiringCenter does."""
    return full_name({name: says.get(name) or theirs.get(name) for name in NAMES})


def _of_row(merged: PersonMerge, memory: RowMemory) -> PersonMerge:
    """What happens to the fields that one row names. Of several rows, each sends its own labels,
    and each that has the value which is to be sent sends it: the others may be refused."""
    says = memory.row.says

    def is_own(each: FieldMerge) -> bool:
        if each.name not in says:
            return False
        is_sent = each.action is FieldAction.SEND and each.name not in LABEL_EDITS
        return not is_sent or same_value(each.name, says[each.name], each.ours)

    return PersonMerge(tuple(filter(is_own, merged.fields)))


def _disagree(merged: PersonMerge, memory: RowMemory) -> tuple[str, ...]:
    says = memory.row.says
    return tuple(each.name for each in merged.fields if each.disagree and each.name in says)
