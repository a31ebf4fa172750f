"""What a person must still look like for a write to go out, where a plan is applied, or a push is
undone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

import orjson

from connector.errors import ConnectorError
from connector.upsert.outbox.matching import same_value
from connector.upsert.outbox.merge import (
    UNKNOWN,
    FieldAction,
    FieldMerge,
    Fingerprints,
    Person,
    PersonMerge,
    Why,
)
from connector.upsert.rows.write_schema import LABEL_EDITS

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
    def of_plan(cls, planned: PersonMerge, cell: Callable[[str, Any], bytes]) -> Self:
        """The guard of what a plan sends to a person."""
        return cls(
            {
                each.name: None
                if each.theirs is UNKNOWN
                else cell(_read_as(each.name), each.theirs)
                for each in planned.to_send
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
