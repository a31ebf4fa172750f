"""The rows of a run that sends: the next ones, in file order, and each until its outcome; and what
its person must still look like, where a plan is applied or a push is undone."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

import orjson
import sqlalchemy as sa

from connector.errors import ConnectorError
from connector.upsert.delivery import Finding, Item
from connector.upsert.outbox.entries import RowMemory
from connector.upsert.outbox.evidence import Evidence, fields_of_item
from connector.upsert.outbox.matching import same_value
from connector.upsert.outbox.merge import (
    LABELS_STAY,
    UNKNOWN,
    Base,
    FieldAction,
    FieldMerge,
    Fingerprints,
    Person,
    PersonMerge,
    Why,
)
from connector.upsert.outbox.outbox import PROSPECTS, Outbox, Write, WriteState
from connector.upsert.outbox.receipts import RowResult, Status
from connector.upsert.rows.write_schema import LABEL_EDITS, MANNERS, current_fields

_READ_AHEAD = 200
_MOST_PARKED = 2_000
_CHANGED_SINCE_PLAN = (
    "conflict: {fields} of prospect {id} changed in HiringCenter since the plan was made, so "
    "nothing of the row was sent. Pull, then plan again to see what it would do now"
)
APPEARED = (
    "conflict: the plan was to create this person, but prospect {id} has their email or "
    "phone now, so nothing was sent. Pull, then plan again to see what it would change"
)
_DELETED_SINCE_PLAN = (
    "conflict: prospect {id} was deleted in HiringCenter since the plan was made, so nothing was "
    "sent. Pull, then plan again to see what it would do now"
)
_CHANGED_SINCE_PUSH = (
    "conflict: {fields} of prospect {id} changed in HiringCenter since run {run_id}, so it was "
    "left as it is"
)
_DELETED_SINCE_PUSH = (
    "conflict: prospect {id} was deleted in HiringCenter since run {run_id}; nothing was put back"
)
_NOT_PUT_BACK = (
    "{fields} of prospect {id} can't be put back: HiringCenter answered with another value than it "
    "was sent"
)


@dataclass(eq=False)
class RowInFlight:
    """One row from its claim to its outcome, and its one write that is in flight.

    own: planned by this run, not left open by an earlier one. waiting: its writes after this one.
    looks: the write is only looked up, and still `planned`. resumed: it may have been sent before.
    must_exist: why the row is rejected if no person is found.
    accepted_updated_at_ms: see `fate_of_prospect`. began_s, tried_s: when the write was first
    claimed, and when it last went out; monotonic.

    facts: what the ledger knows of the row's person when the row is claimed. memory: what was
    settled for the row, where it is merged; siblings: what all rows of its entry
    say, where there are several; merged: what came of the merge. guard: what the person must still
    look like, where a plan is applied or a push is undone. theirs: the person as they were last
    read; was_looked_up: it was for this write; was_scanned: by a scan, for this run's writes.
    shown: the person as the last answer about this row, or about the one before it, has shown them.
    status: the prospect's, once it is known; `added` activities were created, `failures` weren't.
    changed: fields that were sent of it and accepted. stays_deleted: the person was deleted in
    HiringCenter, and the row asks for nothing new. left_alone: the prospect exists, and a push
    that only creates doesn't change it. names: of the people that `failures` are about, for the
    rejects file only. record_id: of an activity that was created. refused_names: why its fields go
    out under other names than before.
    """

    write: Write
    waiting: deque[Write]
    own: bool
    looks: bool = False
    resumed: bool = False
    must_exist: str | None = None
    accepted_updated_at_ms: int | None = None
    began_s: float = 0.0
    tried_s: float = 0.0
    prospect_id: str | None = None
    status: Status | None = None
    facts: Evidence = field(default_factory=Evidence)
    memory: RowMemory | None = None
    siblings: Base | None = None
    merged: PersonMerge | None = None
    shown: Person | None = None
    guard: Guard | None = None
    theirs: Person | None = None
    was_looked_up: bool = False
    was_scanned: bool = False
    changed: tuple[str, ...] = ()
    stays_deleted: bool = False
    left_alone: bool = False
    names: str | None = None
    record_id: str | None = None
    refused_names: str | None = None
    notes: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, writes: list[Write], *, own: bool) -> RowInFlight:
        first = writes[0]
        notes = [first.note] if first.note else []
        guard = Guard.from_bytes(first.guard) if first.guard else None
        known = first.prospect_id
        row = cls(first, deque(writes), own, prospect_id=known, guard=guard, notes=notes)
        if guard is not None and guard.conflicts:
            row.failures.append(guard.changed_reason(guard.conflicts, known))
        return row

    @property
    def says(self) -> Item:
        """What the row says of the person; of an earlier run's, what its write does."""
        if self.memory is not None:
            return self.memory.says
        return orjson.loads(self.write.body)  # type: ignore[no-any-return]

    @property
    def state(self) -> WriteState:
        """Where the write in flight stands."""
        return WriteState.PLANNED if self.looks else WriteState.SENDING

    @property
    def undoes(self) -> str | None:
        """The run that is undone, where the row puts back what it has changed."""
        return self.guard.undoes if self.guard is not None else None

    @property
    def is_merged(self) -> bool:
        """Whether the write in flight is a person's who is merged with what is settled for them."""
        return self.memory is not None and self.write.kind == PROSPECTS

    @property
    def is_activity(self) -> bool:
        """Whether the row is a note, task or meeting on its own."""
        return self.write.kind != PROSPECTS and self.write.position == 0

    def fail(self, why: str, status: Status = Status.FAILED, *, write: Write | None = None) -> None:
        """A write, the one in flight unless another is named, wasn't applied, as far as known; the
        prospect's decides the row, or that of the activity that it is."""
        kind = (write or self.write).kind
        if kind == PROSPECTS or self.is_activity:
            self.status = status
        else:
            why = f"{kind}: {why}"
        self.failures.append(why)

    def note_found(self, arrived: Finding) -> None:
        """Who was found, and what is left to send them."""
        id_, body = arrived.prospect_id or self.write.prospect_id, arrived.body or self.write.body
        self.write = self.write._replace(prospect_id=id_, body=body)

    def note_read(self, arrived: Finding) -> None:
        """The person was read, and the row merged with how they are."""
        self.merged, self.was_looked_up = arrived.merged, arrived.asked
        id_ = str(self.write.prospect_id)
        self.theirs = None if arrived.person is None else replace(arrived.person, id=id_)

    @property
    def fields_sent(self) -> tuple[str, ...]:
        """What the write has sent that was accepted; not what was sent along to find the
        person. Of an update that an earlier run left open, that isn't known any more."""
        if self.status is Status.CREATED:
            return tuple(name for name in orjson.loads(self.write.body) if name not in MANNERS)
        if self.status is not Status.UPDATED or self.merged is None:
            return ()
        return tuple(dict.fromkeys(_read_as(each.name) for each in self.merged.to_send))

    def check_put_back(self, item: Item) -> None:
        """Of an undo, name what HiringCenter's answer shows otherwise than it was sent: it only
        adds labels, say."""
        if self.guard is None or not self.undoes or LABELS_STAY in self.failures:
            return
        sent, shown = orjson.loads(self.write.body), fields_of_item(item)
        names = (name for name in self.guard.fields if name in sent and name in shown)
        other = [name for name in names if not same_value(name, sent[name], shown[name])]
        if other:
            fields = ", ".join(other)
            self.failures.append(_NOT_PUT_BACK.format(id=self.prospect_id, fields=fields))

    @property
    def has_failed(self) -> bool:
        return self.status in (Status.REJECTED, Status.FAILED)

    @property
    def kept(self) -> tuple[str, ...]:
        """Fields of the person that were kept as HiringCenter has them; of one who stays deleted,
        all that the row says."""
        if self.has_failed:
            return ()
        if self.stays_deleted:
            return tuple(name for name in self.says if name not in MANNERS)
        return tuple(each.name for each in self.merged.kept) if self.merged else ()

    @property
    def result(self) -> RowResult:
        """The row's one outcome. A prospect that was accepted without all its activities has
        failed: not everything that the row asks for is there."""
        if self.is_activity:
            return self._result_of_activity()
        status = self.status or Status.UNCHANGED
        added = [f"{kind.removesuffix('s')} added" for kind in self.added]
        if status is Status.UNCHANGED and added:
            status = Status.UPDATED
        notes = self.notes
        if self.failures and not self.has_failed:
            notes = [f"the prospect was {status.value}, but not all that goes with it", *notes]
            status = Status.FAILED
        message = "; ".join([*self.failures, *notes, *added]) or None
        return RowResult(
            self.write.row_number,
            status,
            self.prospect_id,
            message,
            changed_fields=self.changed,
            kept_fields=self.kept,
        )

    def _result_of_activity(self) -> RowResult:
        write = self.write
        done = Status.CREATED if self.added else Status.UNCHANGED
        status = self.status or (Status.FAILED if self.failures else done)
        says = current_fields(write.kind, orjson.loads(write.body)) if self.added else {}
        fields = tuple(name for name in says if name != "prospectId")
        message = "; ".join([*self.failures, *self.notes]) or None
        number, id_ = write.row_number, self.prospect_id
        return RowResult(number, status, id_, message, write.kind, self.record_id, fields)


class Next(StrEnum):
    """A row's next step after one of its writes has arrived."""

    SETTLED = "settled"
    SEND = "send"  # it was only looked up so far
    UPDATE = "update"  # the same with other bytes, since it was surely not applied
    AGAIN = "again"  # surely not applied: once more, same key and bytes
    STOP = "stop"  # the run must end; the write stays as it is


class RowQueue:
    """The planned rows of one run in file order, read in small portions; never two rows of one
    person at once."""

    def __init__(self, outbox: Outbox, run_id: str) -> None:
        self._outbox, self._run_id = outbox, run_id
        self._after, self._exhausted = -1, False
        self._ahead: deque[list[Write]] = deque()
        self._busy: set[int] = set()
        self._parked: dict[int, deque[list[Write]]] = {}
        self._freed: deque[RowInFlight] = deque()

    @property
    def empty(self) -> bool:
        """Whether no row is left, parked ones included."""
        return self._exhausted and not (self._ahead or self._parked or self._freed)

    def take(self, connection: sa.Connection, most: int) -> list[RowInFlight]:
        """The next rows whose person is free, who is busy from now on."""
        rows: list[RowInFlight] = []
        while len(rows) < most and (row := self._next_free(connection)) is not None:
            rows.append(row)
        return rows

    def done(self, row: RowInFlight) -> None:
        """A row that was taken has its outcome; the next of its person may follow, who is known to
        be as this one has left them."""
        person = row.write.person
        waiting = self._parked.get(person)
        if not waiting:
            self._busy.discard(person)
            return
        after = RowInFlight.of(waiting.popleft(), own=True)
        after.shown = row.shown
        self._freed.append(after)
        if not waiting:
            del self._parked[person]

    def _next_free(self, connection: sa.Connection) -> RowInFlight | None:
        if self._freed:
            return self._freed.popleft()
        while sum(map(len, self._parked.values())) < _MOST_PARKED:
            if not self._ahead and not self._exhausted:
                self._ahead.extend(
                    self._outbox.rows_after(connection, self._run_id, self._after, _READ_AHEAD)
                )
            if not self._ahead:
                self._exhausted = True
                return None
            writes = self._ahead.popleft()
            self._after = writes[0].row_number
            person = writes[0].person
            if person not in self._busy:
                self._busy.add(person)
                return RowInFlight.of(writes, own=True)
            self._parked.setdefault(person, deque()).append(writes)
        return None


# --- what a person must still look like --------------------------------------------------------


@dataclass(frozen=True)
class Guard:
    """What a person must still look like for a write to go out; the two kinds differ in what a
    mismatch refuses.

    A plan that is applied: `fields` names what the plan sends, each with the fingerprint of the
    value that it replaces (`Hasher.cell`; of labels to add or remove, that of `labels`), or None
    where that wasn't known. Any mismatch refuses the whole row. A creation (no `prospect_id`) names
    all that it sends, with None; a person who has its contacts by then is a mismatch. known_ms:
    where the plan knew the person, until when it, or our own writes since, account for `updatedAt`:
    of one who changed later, a value that wasn't known is a mismatch too.

    A push that is undone (`undoes` is its run): `fields` names what is put back, each with the
    fingerprint of what the run left there. Fields that don't match are left alone. The write's
    body is what is put back, with the contact and names that find the person. conflicts: once
    it is sent, the fields that were left alone, to be named when it is settled.
    """

    fields: Mapping[str, bytes | None]
    undoes: str | None = None
    conflicts: tuple[str, ...] = ()
    known_ms: int | None = None

    def to_bytes(self) -> bytes:
        """`Write.guard`: JSON, with fingerprints as hexadecimal digits."""
        return orjson.dumps(self, default=bytes.hex)

    @classmethod
    def of_plan(cls, planned: PersonMerge, cell: Fingerprints, known_ms: int | None) -> Self:
        """The guard of what a plan sends to a person."""
        return cls(
            {
                each.name: None
                if each.theirs is UNKNOWN
                else cell(_read_as(each.name), each.theirs)
                for each in planned.to_send
            },
            known_ms=known_ms,
        )

    def accounting_for(self, updated_at_ms: int | None) -> Self:
        """The same, where the last answer to a write of ours showed `updatedAt` like this."""
        if self.known_ms is None or updated_at_ms is None:
            return self
        return replace(self, known_ms=max(self.known_ms, updated_at_ms))

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        found = orjson.loads(stored)
        fields = {name: value and bytes.fromhex(value) for name, value in found["fields"].items()}
        conflicts = tuple(found.get("conflicts", ()))
        return cls(fields, found["undoes"], conflicts, found.get("known_ms"))

    def mismatches(self, theirs: Person, cell: Fingerprints) -> tuple[str, ...]:
        """The fields of a plan that `theirs`, a copy, shows otherwise; what a copy doesn't have
        isn't among them."""
        return tuple(
            name
            for name, before in self.fields.items()
            if _read_as(name) in theirs.fields and not self.is_met(name, before, theirs, cell)
        )

    def is_met(self, name: str, before: bytes | None, theirs: Person, cell: Fingerprints) -> bool:
        """Whether a field of a plan is as it was when the plan was made, as far as is known."""
        read_as = _read_as(name)
        if before is not None:
            return read_as in theirs.fields and cell(read_as, theirs.fields[read_as]) == before
        if self.known_ms is None or theirs.updated_at_ms is None:
            return True
        return read_as not in theirs.fields or theirs.updated_at_ms <= self.known_ms

    def changed_reason(self, conflicts: Collection[str], prospect_id: str | None) -> str:
        """Why fields that don't match aren't sent."""
        reason = _CHANGED_SINCE_PLAN if self.undoes is None else _CHANGED_SINCE_PUSH
        return reason.format(fields=", ".join(conflicts), id=prospect_id, run_id=self.undoes)

    def deleted_reason(self, prospect_id: str | None) -> str:
        """Why nothing is sent, if the person isn't there any more."""
        reason = _DELETED_SINCE_PLAN if self.undoes is None else _DELETED_SINCE_PUSH
        return reason.format(id=prospect_id, run_id=self.undoes)


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
        and (each.action is not FieldAction.SEND or not guard.is_met(name, before, theirs, cell))
    )
    left = tuple(
        each
        for each in merged.fields
        if each.action is not FieldAction.SEND or each.name in guard.fields
    )
    return PersonMerge(left), conflicts


def _read_as(name: str) -> str:
    return "labels" if name in LABEL_EDITS else name


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
