"""The plan of one person's rows: the merge with what is known, and what it leaves each row to do.

Each row keeps a write of its own, so that rows of one person follow one another: a write sends the
fields that its row speaks for. What needs no request is settled at once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from connector.upsert.outbox.entries import VERSION, Entries, RowMemory, Settlement, packed
from connector.upsert.outbox.evidence import (
    ContactFacts,
    Evidence,
    Pulled,
    PulledProspect,
    fields_of_item,
)
from connector.upsert.outbox.exported_rows import Exported, as_exported, is_version_lost
from connector.upsert.outbox.forgotten import NONE_FORGOTTEN, Forgotten
from connector.upsert.outbox.matching import Hasher, same_value
from connector.upsert.outbox.merge import (
    CONTACTS,
    LABELS_SENT,
    LABELS_STAY,
    MERGED,
    NAMES,
    NAMES_UNKNOWN,
    NO_SUCH_PERSON,
    NOT_AGAIN_WITHOUT_NAMES,
    NOT_LOOKED_FOR,
    TOO_MANY_TO_FIND,
    Base,
    FieldAction,
    FieldMerge,
    Fingerprints,
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
from connector.upsert.outbox.outbox import LOOK_BY_ITSELF, LOOK_FIRST, Write
from connector.upsert.outbox.receipts import Receipt
from connector.upsert.rows.write_schema import LABEL_EDITS, MANNERS

Mode = Literal["upsert", "create-only", "update-only"]
Outcome = Literal["create", "update", "send", "unchanged", "rejected", "failed"]


@dataclass(frozen=True)
class PushOptions:
    """How one push is to be done.

    source: the input's name, the same each time it is pushed. source_path: where its rows lie, if
    that isn't its name. looks_first: people the outbox doesn't know are looked up before a write.
    allow_shared_contact: send rows that seem to be about another person than the one who has their
    contact. retry_total_s: for how long one write is tried. retention_days: how long outcomes, and
    receipts that nothing uses, are kept. destination: a number that stands for where results land.
    rules: how fields are merged. fresh_ms: for how long what was read of a person counts as fresh.
    rechecks: people who aren't fresh are looked up before they are changed. lookups: how many more
    people may be looked up, to find out whether a field that is only filled is empty. to_apply: the
    plan is kept, and people it changes will be looked up, however fresh the copy is. forgotten:
    people about whom nothing is sent.
    """

    run_id: str
    source: str
    mode: Mode = "upsert"
    looks_first: bool = False
    allow_shared_contact: bool = False
    source_path: str | None = None
    retry_total_s: float = 300.0
    retention_days: int = 90
    destination: int = 0
    rules: MergeRules = field(default_factory=MergeRules)
    fresh_ms: int = 900_000
    rechecks: bool = True
    lookups: int = 500
    to_apply: bool = False
    forgotten: Forgotten = NONE_FORGOTTEN

    @property
    def force(self) -> bool:
        return self.rules.force

    def asked(self, content: bytes, hasher: Hasher) -> bytes:
        """What a row asks for: its content, and how the push is to go about it."""
        policy = sorted(self.rules.policy.items())
        how = [self.mode, self.allow_shared_contact, self.rules.default_policy, policy]
        return hasher.content({"says": content.hex(), "how": how})

    def knowing(self, learnt: Mapping[str, str]) -> PushOptions:
        """With what was learnt of the API, see `Outbox.learnt`."""
        merges = learnt.get(LABELS_SENT) == MERGED
        return replace(self, rules=replace(self.rules, labels_merge=merges))


@dataclass(slots=True)
class RowPlan:
    """What a push is to do with one input row that passed its checks.

    write: the person's (or the activity's that the row is): `body` is what the row says, in
    `row_values` as the input holds it. activities: those that it asks for, and once it is planned
    those that are to be created. outcome: `send` where it needs a request and whether that creates
    or updates isn't known. prospect_id: whom the row is about, where that is known; of a
    row that is sent, whom the API is expected to find. reason: for people, or None; names: of the
    people that the reason is about, for the rejects file alone. settlement: what is settled without
    a request. facts: what is known of the row's person; None where the row is planned without.

    merged: what happens to each field that the row names, where a merge decided; a field that
    another row of the person speaks for isn't among those to be sent. kept_fields: those
    reported as kept, of a row that sends nothing. looks: the person is looked up before
    the write. follows: an earlier row creates the person. is_known: the person is known as they are
    now. name: of whom it is about, where the row lacks a name.
    """

    write: Write
    activities: Sequence[Write] = ()
    outcome: Outcome = "send"
    prospect_id: str | None = None
    merged: PersonMerge | None = None
    looks: bool = False
    reason: str | None = None
    settlement: Settlement | None = None
    name: str | None = None
    names: str | None = None
    kept_fields: tuple[str, ...] = ()
    follows: bool = False
    is_known: bool = False
    facts: Evidence | None = None

    @property
    def row_number(self) -> int:
        return self.write.row_number

    @property
    def known(self) -> Evidence:
        """`facts`, of a row that is compared with what is known."""
        assert self.facts is not None
        return self.facts

    @property
    def memory(self) -> RowMemory:
        """What was settled for the row, of one that is merged."""
        assert self.known.memory is not None
        return self.known.memory

    def decide_on(
        self,
        outcome: Outcome,
        reason: str | None,
        prospect_id: str | None = None,
        kept: tuple[str, ...] = (),
    ) -> None:
        """What becomes of the row is decided, most often without a request for its person."""
        self.outcome, self.reason = outcome, reason
        self.prospect_id, self.kept_fields = prospect_id, kept

    def add_note(self, note: str) -> None:
        """Something to report of the row, whatever becomes of it."""
        self.write = self.write._replace(note="; ".join(filter(None, (self.write.note, note))))

    @property
    def sends_person(self) -> bool:
        return self.outcome in ("create", "update", "send")

    @property
    def sends(self) -> bool:
        """Whether the row needs a request, for its person or for an activity of theirs."""
        return bool(self.activities) or self.sends_person

    @property
    def is_bad(self) -> bool:
        return self.outcome in ("rejected", "failed")

    @property
    def message(self) -> str | None:
        """All that is reported of a row that needs no request."""
        return "; ".join(filter(None, (self.write.note, self.reason))) or None

    @property
    def kept(self) -> tuple[FieldMerge, ...]:
        """Fields that are reported as kept."""
        return self.merged.kept if self.merged is not None else ()

    @property
    def outcome_shown(self) -> Outcome:
        """A row that only creates activities counts as an update, as it does in a push."""
        return "update" if self.sends and not self.sends_person else self.outcome


def kept_note(fields: Collection[str], merged: PersonMerge | None) -> str | None:
    """The report of fields that were kept: one that another source has pushed isn't put
    back with `--restore`, either."""
    if not fields:
        return None
    note = f"kept as HiringCenter has it: {', '.join(fields)}"
    found = () if merged is None else merged.kept
    pushed = [each.name for each in found if each.why is Why.DISAGREES and each.name in fields]
    return f"{note}; {Why.DISAGREES}: {', '.join(pushed)}" if pushed else note


def unread_note(merged: PersonMerge | None) -> str | None:
    """The report of fields that are only filled, and whose values aren't known."""
    left = [each.name for each in merged.fields if each.why is Why.NOT_READ] if merged else []
    return (
        f"left out, since whether they are empty isn't known: {', '.join(left)}" if left else None
    )


_VERSION_LOST = (
    "updated_at isn't that of a version known here, so edits of the export can't be told from "
    "those in HiringCenter: export again, or send the row with --force"
)
DELETED = "deleted in HiringCenter; the row is unchanged, so they stay deleted"


class PersonPlanner:
    """Plans the rows of one person at a time. now_ms: by the clock of the pull's scans."""

    def __init__(
        self, entries: Entries, pulled: Pulled, options: PushOptions, *, now_ms: int
    ) -> None:
        self._entries, self._pulled, self._now_ms = entries, pulled, now_ms
        self._rules, self._rechecks = options.rules, options.rechecks
        self._finds_all = options.mode == "update-only"  # people who aren't known are looked up
        self._lookups_left: float = options.lookups
        self._lookups = self._finds_left = options.lookups
        read_ms = pulled.complete_ms
        self.is_copy_fresh = read_ms is not None and 0 <= now_ms - read_ms < options.fresh_ms

    def plan(
        self,
        rows: Sequence[RowPlan],
        prospect_id: str | None,
        *,
        is_open: bool,
        looked_at: Collection[int] = (),
    ) -> None:
        """Decide what to do with each row; they are in file order. prospect_id: see `whom`.
        is_open: a write to them has no answer yet. looked_at: numbers of rows whose person was
        looked at before, for fields that weren't shown."""
        if is_open:  # its answer changes what is settled: the merge is done when it is there
            for row in rows:
                self._send(row, rows, prospect_id)
            return
        adopts = any(row.known.adopts for row in rows)
        rules = replace(self._rules, adopts=True) if adopts else self._rules
        if prospect_id is None:
            self._plan_unknown(rows, rules)
            return
        theirs = self._person(rows, prospect_id)
        lost = [is_version_lost(self._entries, row.write, row.memory) for row in rows]
        for row in rows:
            row.known.memory = as_exported(self._entries, row.write, row.memory)
        merged = merge([row.memory for row in rows], theirs, rules, self._cell)
        alone = self._looks_alone(merged, theirs)
        for row, is_lost in zip(rows, lost, strict=True):
            own = row.merged = _of_row(merged, row)
            row.is_known = theirs is not None
            self._settle(row, rows, merged, prospect_id)
            seen = None
            if own.to_send:
                self._send(row, rows, prospect_id)
                seen = None if alone else self._seen(row.known, theirs)
                if seen is not None:
                    row.write = row.write._replace(seen=seen.to_bytes(), seen_ms=seen.read_ms)
                elif alone:
                    row.write = row.write._replace(seen_ms=LOOK_BY_ITSELF)
            fills = bool(own.unread) and row.row_number not in looked_at
            if fills and (not row.sends_person or seen) and self._may_look_to_fill():
                if not row.sends_person:
                    self._send(row, rows, prospect_id)
                row.write = row.write._replace(seen_ms=LOOK_FIRST)
            if any(each.why is Why.MERGES for each in own.fields):
                row.settlement = None
                row.decide_on("rejected", LABELS_STAY)
            if lacks_names(row.memory.says):
                self._add_name(row, theirs)
            _note_disagreement(row, merged)
            if is_lost and own.kept:
                row.add_note(_VERSION_LOST)

    def _plan_unknown(self, rows: Sequence[RowPlan], rules: MergeRules) -> None:
        """The rows are about a person who isn't known: the first with names creates them."""
        repeats = not (rules.restore or rules.force)
        memories = [row.memory for row in rows]
        is_settled = all(each.entry for each in memories) and not has_changed(memories, self._cell)
        if repeats and (rules.adopts or is_settled):
            for row in rows:
                if rules.adopts:  # deleted in HiringCenter, and pushed before bases were kept
                    says = row.memory.says
                    row.settlement = self._entries.settlement(
                        row.write, row.memory, says, {}, prospect_id=None, rows=1,
                        at_ms=self._now_ms,
                    )  # fmt: skip
                kept = tuple(name for name in row.memory.says if name not in MANNERS)
                row.decide_on("unchanged", DELETED, kept=kept)
            return
        merged, creates = merge(memories, None, self._rules, self._cell), False
        for row in rows:
            row.merged = _of_row(merged, row)
            self._send(row, rows, None)
            if not lacks_names(row.memory.says):
                row.follows = creates
                creates = True
            elif creates or self._finds_all or (why := self._why_not_found(row.known)) is None:
                row.looks = True
            else:
                row.decide_on("rejected", why)
            _note_disagreement(row, merged)

    def _why_not_found(self, own: Evidence) -> str | None:
        """Why the person of a row that can't create one isn't looked for; None where they are."""
        if own.dropped or (own.memory is not None and own.memory.people):
            return NOT_AGAIN_WITHOUT_NAMES
        contacts = set(self._pulled.contacts)
        given = {name for name in CONTACTS if own.payload.get(name)}
        if self.is_copy_fresh and given <= contacts and own.disputed is None:
            return NO_SUCH_PERSON
        if not self._rechecks:
            return NOT_LOOKED_FOR
        self._finds_left -= 1
        self._lookups_left -= 1
        return TOO_MANY_TO_FIND if min(self._finds_left, self._lookups_left) < 0 else None

    def _add_name(self, row: RowPlan, theirs: Person | None) -> None:
        """A row without both names is about a person who is known: theirs go out with it, as they
        were read."""
        fields, says = theirs.fields if theirs else {}, row.memory.says
        if row.sends_person and row.write.seen is None and row.write.seen_ms != LOOK_FIRST:
            are_known = all(says.get(name) or name in fields for name in NAMES)
            sent = row.merged.to_send if row.merged else ()
            changes_contact = any(each.name in CONTACTS for each in sent)
            if not (self._rechecks or (are_known and changes_contact)):
                row.settlement = None
                row.decide_on("rejected", NAMES_UNKNOWN.format(id=row.prospect_id))
                return
        row.name = full_name({name: says.get(name) or fields.get(name) for name in NAMES})

    def _may_look_to_fill(self) -> bool:
        """Whether one more person may be looked up for fields that are only filled: as many as the
        push allows, or all where a scan of all people takes no more requests than that."""
        if self._lookups_left <= 0 and self._lookups:
            pages = self._pulled.scan_pages
            self._lookups_left = math.inf if pages is not None and pages <= self._lookups else 0
            self._lookups = 0  # it is asked once
        self._lookups_left -= 1
        return self._lookups_left >= 0

    def settle_alike(
        self, write: Write, says: Mapping[str, Any], copied: PulledProspect, facts: ContactFacts
    ) -> RowPlan | None:
        """The plan of a person's only row that says what HiringCenter has, and either is new here
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
        alike = RowPlan(write, (), "unchanged", id_)
        if own is not None and write.exported is None:
            return alike
        if write.exported is not None:
            says = {**says, VERSION: Exported.from_bytes(write.exported).updated_at_ms}
        settlement = self._entries.whole(write, says, id_, contacts, self._now_ms)
        if own is None:
            alike.settlement = settlement
        elif settlement.entry.cells != own.cells:  # it was exported as another version
            return None
        return alike

    def whom(self, rows: Sequence[RowPlan]) -> str | None:
        """Whom rows are about: as their contacts were accepted; else as was settled without a
        request; else who has their contacts in the copy; else whose contact HiringCenter dropped.
        """
        facts = [row.known for row in rows]
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

    def _person(self, rows: Sequence[RowPlan], prospect_id: str) -> Person | None:
        """The person as the copy has them, where that still holds."""
        copied, receipt = None, None
        for own in (row.known for row in rows):
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
            # a look shows only by `updatedAt` that a person has changed since they were read
            is_dated = receipt.updated_at_ms is not None
            answered_ms = receipt.accepted_ms if is_dated else receipt.written_ms
            if answered_ms is not None:
                written = OwnWrite(answered_ms, receipt.updated_at_ms, receipt.before_ms)
        read_ms = self._pulled.complete_ms  # no row knows when it was read itself, so far
        if not still_holds(read_ms, copied.updated_at_ms, written):
            return None
        return self.is_copy_fresh

    def _looks_alone(self, merged: PersonMerge, theirs: Person | None) -> bool:
        """Whether the person is looked up right before the change, however fresh the copy:
        where a contact is known to be new; and, where the API replaces labels, when one is added,
        since labels that others have added meanwhile would go."""
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

    def _send(self, row: RowPlan, all_rows: Sequence[RowPlan], prospect_id: str | None) -> None:
        """The row needs a request. all_rows: those of its person."""
        row.decide_on("send", None, prospect_id)
        if len(all_rows) > 1:
            row.write = row.write._replace(settles=packed(self._siblings(row, all_rows)[0], {}))

    def _siblings(self, row: RowPlan, all_rows: Sequence[RowPlan]) -> tuple[Base, int]:
        """What all rows of an entry say, and how many there are."""
        own = row.memory.entry and row.memory.entry.alias
        same = [
            each.memory
            for each in all_rows
            if (each.memory.entry and each.memory.entry.alias) == own
        ]
        names = {name for each in same for name in each.says}
        return new_base(same, names, self._cell), len(same)

    def _settle(
        self, row: RowPlan, all_rows: Sequence[RowPlan], merged: PersonMerge, prospect_id: str
    ) -> None:
        """What of a row needs no request is settled, with all rows of its entry, and
        reported. Of a field that one row sends, the other rows' cells are settled: they would be
        sent by the next push, and the row's again by the one after it."""
        sent = {each.name: each.ours for each in merged.to_send}
        waiting = new_base([Row(sent)], sent, self._cell)
        settled = {each.name for each in merged.fields if each.settles} - waiting.keys()
        siblings, rows = self._siblings(row, all_rows)
        row.settlement = self._entries.settlement(
            row.write,
            row.memory,
            settled,
            siblings,
            prospect_id=prospect_id,
            rows=rows,
            at_ms=self._now_ms,
            waiting=waiting,
        )
        kept = tuple(each.name for each in row.kept)
        notes = filter(None, (kept_note(kept, row.merged), unread_note(row.merged)))
        row.decide_on("unchanged", "; ".join(notes) or None, prospect_id, kept)
        if row.settlement is not None and row.memory.stored is not None:
            entry = row.settlement.entry
            if row.memory.stored._replace(seen_ms=self._now_ms, rows=entry.rows) == entry:
                row.settlement = None  # nothing new: a push that changes nothing writes nothing

    @property
    def _cell(self) -> Fingerprints:
        return self._entries.hasher.cell


def _of_row(merged: PersonMerge, row: RowPlan) -> PersonMerge:
    """What happens to the fields that one row names. Of several rows, each sends its own labels,
    and each that has the value which is to be sent sends it: the others may be refused."""
    says = row.memory.says

    def is_own(each: FieldMerge) -> bool:
        if each.name not in says:
            return False
        is_sent = each.action is FieldAction.SEND and each.name not in LABEL_EDITS
        return not is_sent or same_value(each.name, says[each.name], each.ours)

    return PersonMerge(tuple(filter(is_own, merged.fields)))


def _note_disagreement(row: RowPlan, merged: PersonMerge) -> None:
    """Report the fields about which rows of one person disagree."""
    says = row.memory.says
    if names := [each.name for each in merged.fields if each.disagree and each.name in says]:
        row.add_note(f"rows of this person disagree: {', '.join(names)}")
