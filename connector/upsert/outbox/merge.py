"""The three-way merge: what a push does to each field of one person.

    ours     what the input's rows say now
    base     what the same source had when a push last settled the field: accepted, equal or kept
    theirs   what HiringCenter was last seen to have, where that is known

What changed in the input is sent; what changed in HiringCenter is kept. Unknown isn't empty: where
`theirs` isn't known, only ours and base decide. All of it is pure: values are compared in clear
with what HiringCenter has, and as fingerprints with what is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from typing import Any, Final, Self

import orjson

from connector.upsert.outbox.matching import READ_AS, is_nothing, same_value
from connector.upsert.rows.column_mapping import Policy
from connector.upsert.rows.write_schema import LABEL_EDITS, LABELS_ADD, LABELS_REMOVE, MANNERS

Fingerprints = Callable[[str, Any], bytes]
"""field, value → what is remembered of the value: `Hasher.cell`."""
Base = Mapping[str, frozenset[bytes]]  # field → what was settled
Shown = Mapping[str, tuple[bytes, bytes]]  # field → what was written, and how it is shown

CONTACTS = ("email", "phone")
NAMES = ("firstName", "lastName")
# Neither can be read back under its own name: each write of `notes` adds a note.
WRITE_ONLY = frozenset({"notes"})


class Unknown(Enum):
    """A value that wasn't read."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is remembered for one row: of its entry in its source, and of other sources' entries.

    base: field → what the source had when it was settled; several values where several rows speak
    for one person. shown: field → the value that was written, and how HiringCenter's answer showed
    it, where that is another one. others: field → what other sources have settled, and how their
    last writes were shown.
    """

    base: Base = field(default_factory=dict)
    shown: Shown = field(default_factory=dict)
    others: Base = field(default_factory=dict)


NOTHING_REMEMBERED = Remembered()


@dataclass(frozen=True, slots=True)
class Row:
    """One row about the person. says: field → value; None clears, an absent field says nothing."""

    says: Mapping[str, Any]
    remembered: Remembered = NOTHING_REMEMBERED


@dataclass(frozen=True, slots=True)
class Person:
    """A prospect as last read, where that still holds. fields: by the names they are written under,
    those alone whose key was there. fresh: read within `push.fresh_s` before the write.

    read_ms: when the request began that read them, unless that was for this very write; 0 also
    where no one was read, and `fields` is what is known without that. alone: their contacts, of
    email and phone, that no one else has.
    """

    id: str
    fields: Mapping[str, Any]
    fresh: bool = False
    read_ms: int = 0
    updated_at_ms: int | None = None
    alone: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """`Write.seen`."""
        stored = [self.id, self.fields, self.read_ms, self.updated_at_ms, self.alone]
        return orjson.dumps(stored, default=str)

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        id_, fields, read_ms, updated_at_ms, alone = orjson.loads(stored)
        return cls(id_, fields, False, read_ms, updated_at_ms, tuple(alone))

    @property
    def item(self) -> dict[str, Any]:
        """As the API shows it."""
        shown = {READ_AS.get(name, name): value for name, value in self.fields.items()}
        return {**shown, "id": self.id, "updatedAt": self.updated_at_ms}


@dataclass(frozen=True, slots=True)
class MergeRules:
    """How one push merges.

    policy: field → how it may be written; `overwrite` where it isn't named, else `default_policy`.
    adopts: the source is new, though an earlier version pushed this person and left no base: what
    the rows say is taken for settled. labels_merge: the API is known to merge labels.
    """

    restore: bool = False
    force: bool = False
    policy: Mapping[str, Policy] = field(default_factory=dict)
    default_policy: Policy = "overwrite"
    adopts: bool = False
    labels_merge: bool = False

    def policy_of(self, name: str) -> Policy:
        return self.policy.get("labels" if name in LABEL_EDITS else name, self.default_policy)


class FieldAction(StrEnum):
    """What happens to one field."""

    EQUAL = "equal"  # HiringCenter has it already
    SEND = "send"
    KEEP = "keep"  # HiringCenter's value stands
    LEAVE_OUT = "leave out"  # changed in the input, and not sent this time


class Why(StrEnum):
    """Why, in words for people."""

    EQUAL = "HiringCenter has it already"
    SHOWN = "HiringCenter shows it in its own way"
    CHANGED = "changed in the input"
    FORCED = "sent with --force"
    RESTORED = "put back with --restore"
    UNCHANGED = "unchanged in the input since the last push"
    TAKEN_OVER = "another source has settled the same value"
    ADOPTED = "pushed by an earlier version, which didn't keep what it sent"
    DISAGREES = "another source has pushed what HiringCenter has"
    NEVER = "the mapping says never"
    FILLED = "the mapping only fills empty fields, and this one isn't"
    NOT_READ = "the mapping only fills empty fields, and whether this one is empty isn't known"
    MERGES = "HiringCenter only adds labels, so none can be removed"
    UNDONE = "put back as it was"


@dataclass(frozen=True, slots=True)
class FieldMerge:
    """What happens to one field of a person.

    ours: what is sent, or would be. theirs: what HiringCenter has, or UNKNOWN. settles: what the
    rows say is settled without a request, or with the row's. reported: people are to see it.
    replaces_edit: what is sent replaces a later edit in HiringCenter. disagree: the rows say
    different things, of which this is one.
    """

    name: str
    action: FieldAction
    why: Why
    ours: Any
    theirs: Any
    settles: bool = True
    reported: bool = False
    replaces_edit: bool = False
    disagree: bool = False


@dataclass(frozen=True, slots=True)
class PersonMerge:
    """All fields that a person's rows name."""

    fields: tuple[FieldMerge, ...]

    def _with(self, action: FieldAction) -> tuple[FieldMerge, ...]:
        return tuple(each for each in self.fields if each.action is action)

    @property
    def to_send(self) -> tuple[FieldMerge, ...]:
        return self._with(FieldAction.SEND)

    @property
    def kept(self) -> tuple[FieldMerge, ...]:
        """Fields that are reported as kept."""
        return tuple(each for each in self._with(FieldAction.KEEP) if each.reported)

    @property
    def unread(self) -> frozenset[str]:
        """Fields that are only filled, and of which a look at the person may show whether they are
        empty."""
        return frozenset(each.name for each in self.fields if each.why is Why.NOT_READ) - WRITE_ONLY

    @property
    def settled(self) -> frozenset[str]:
        """Fields whose cells are base once the person's write is accepted; where there is nothing
        to send, at once."""
        return frozenset(each.name for each in self.fields if each.settles)


def merge(
    rows: Sequence[Row],
    theirs: Person | None,
    rules: MergeRules,
    fingerprint: Fingerprints,
) -> PersonMerge:
    """What happens to each field of one person. rows: all of one source, in file order.

    theirs: None where the person isn't known as they are now.
    """
    names = dict.fromkeys(name for row in rows for name in row.says if name not in MANNERS)
    merger = _Merger(rows, theirs, rules, fingerprint)
    return PersonMerge(tuple(map(merger.field, names)))


@dataclass(frozen=True, slots=True)
class _Merger:
    rows: Sequence[Row]
    theirs: Person | None
    rules: MergeRules
    fingerprint: Fingerprints

    def field(self, name: str) -> FieldMerge:
        if name in LABEL_EDITS:
            found = self._label_edit(name)
        else:
            found = self._plain_field(name)
            if len(self.rows) > 1:
                found = replace(found, disagree=self._rows_disagree(name))
        return self._narrowed(found) if found.action is FieldAction.SEND else found

    def _plain_field(self, name: str) -> FieldMerge:
        speaking, has_changed = self._speaking(name)
        ours, remembered = speaking.says[name], speaking.remembered
        theirs = self._theirs(name)
        base = remembered.base.get(name, ())
        is_equal = theirs is not UNKNOWN and same_value(name, ours, theirs)
        if self.rules.force and not (is_equal and name in CONTACTS):
            return self._sent(name, Why.FORCED, ours, theirs, remembered)
        if is_equal:
            is_sure = not (base and has_changed) or self._is_fresh
            return FieldMerge(name, FieldAction.EQUAL, Why.EQUAL, ours, theirs, settles=is_sure)
        if not has_changed:
            if self._is_shown(name, ours, theirs):
                return FieldMerge(name, FieldAction.EQUAL, Why.SHOWN, ours, theirs)
            return self._kept(name, Why.UNCHANGED, ours, theirs)
        if not base and self._is_known_elsewhere(name, ours, remembered):
            return self._kept(name, Why.TAKEN_OVER, ours, theirs)
        if self.rules.adopts and not any(row.remembered.base for row in self.rows):
            return replace(self._kept(name, Why.ADOPTED, ours, theirs), reported=True)
        return self._sent(name, Why.CHANGED, ours, theirs, remembered)

    def _speaking(self, name: str) -> tuple[Row, bool]:
        """The row that speaks for a field, and whether it changed there: the last that did, else
        the last that names it."""
        naming = [row for row in self.rows if name in row.says]
        for row in reversed(naming):
            if self.fingerprint(name, row.says[name]) not in row.remembered.base.get(name, ()):
                return row, True
        return naming[-1], False

    def _rows_disagree(self, name: str) -> bool:
        values = {self.fingerprint(name, row.says[name]) for row in self.rows if name in row.says}
        return len(values) > 1

    def _theirs(self, name: str) -> Any:
        if self.theirs is None or name in WRITE_ONLY:
            return UNKNOWN
        return self.theirs.fields.get(name, UNKNOWN)

    @property
    def _is_fresh(self) -> bool:
        return self.theirs is not None and self.theirs.fresh

    def _is_shown(self, name: str, ours: Any, theirs: Any) -> bool:
        """Whether HiringCenter shows what it made of this very value."""
        if theirs is UNKNOWN:
            return False
        pair = (self.fingerprint(name, ours), self.fingerprint(name, theirs))
        return any(row.remembered.shown.get(name) == pair for row in self.rows)

    def _is_known_elsewhere(self, name: str, value: Any, remembered: Remembered) -> bool:
        others = remembered.others.get(name, ())
        return bool(others) and self.fingerprint(name, value) in others

    def _kept(self, name: str, why: Why, ours: Any, theirs: Any) -> FieldMerge:
        """HiringCenter's value stands, or is put back with `--restore` where it is known to differ
        and no other source has put it there."""
        if theirs is UNKNOWN:
            return FieldMerge(name, FieldAction.KEEP, why, ours, theirs)
        if any(self._is_known_elsewhere(name, theirs, row.remembered) for row in self.rows):
            return FieldMerge(name, FieldAction.KEEP, Why.DISAGREES, ours, theirs, reported=True)
        if not self.rules.restore:
            return FieldMerge(name, FieldAction.KEEP, why, ours, theirs, reported=True)
        return FieldMerge(name, FieldAction.SEND, Why.RESTORED, ours, theirs, replaces_edit=True)

    def _sent(
        self, name: str, why: Why, ours: Any, theirs: Any, remembered: Remembered
    ) -> FieldMerge:
        base, shown = remembered.base.get(name, ()), remembered.shown.get(name)
        edited = False
        if theirs is not UNKNOWN and (base or shown is not None):
            print_ = self.fingerprint(name, theirs)
            edited = (shown is None or print_ != shown[1]) and print_ not in base
        return FieldMerge(name, FieldAction.SEND, why, ours, theirs, replaces_edit=edited)

    def _label_edit(self, name: str) -> FieldMerge:
        """Labels to add, or to remove: each label is a cell of its own, so that one that was
        taken off in HiringCenter stays off when another one is added to the cell."""
        asked: dict[str, bool] = {}  # label → whether it is new in the input
        for row in self.rows:
            base = row.remembered.base.get(name, ())
            for label in row.says.get(name) or ():
                is_new = self.rules.force or self.fingerprint(name, label) not in base
                asked[label] = asked.get(label, False) or is_new
        theirs = self._theirs("labels")
        has = None if theirs is UNKNOWN else {str(label).strip() for label in theirs or ()}
        is_done = {
            label: has is not None and (label in has) is (name == LABELS_ADD) for label in asked
        }
        undone = [label for label in asked if not is_done[label]]
        new = [label for label in undone if asked[label]]
        if not undone:
            is_sure = self._is_fresh or not any(asked.values())
            return FieldMerge(
                name, FieldAction.EQUAL, Why.EQUAL, list(asked), theirs, settles=is_sure
            )
        if not new and not (self.rules.restore and has is not None):
            reported = has is not None
            return FieldMerge(
                name, FieldAction.KEEP, Why.UNCHANGED, undone, theirs, reported=reported
            )
        why = Why.CHANGED if new else Why.RESTORED
        return FieldMerge(name, FieldAction.SEND, why, new or undone, theirs)

    def _narrowed(self, found: FieldMerge) -> FieldMerge:
        """What the mapping's policy leaves of a field that would be sent."""
        if self.rules.labels_merge and self._takes_labels_off(found):
            return self._withheld(found, Why.MERGES, settles=False)
        policy = self.rules.policy_of(found.name)
        if policy == "overwrite":
            return found
        is_known, is_empty = found.theirs is not UNKNOWN, is_nothing(found.theirs)
        if policy == "never":
            return self._withheld(found, Why.NEVER, settles=is_known and not is_empty)
        if is_known and not is_empty:
            return self._withheld(found, Why.FILLED, settles=True)
        is_sure = is_known and self._is_fresh
        return found if is_sure else self._withheld(found, Why.NOT_READ, settles=False)

    @staticmethod
    def _takes_labels_off(found: FieldMerge) -> bool:
        if found.name == "labels" and found.theirs is not UNKNOWN:
            return not set(found.theirs or ()) <= set(found.ours or ())
        return found.name == LABELS_REMOVE

    @staticmethod
    def _withheld(found: FieldMerge, why: Why, *, settles: bool) -> FieldMerge:
        """Kept where a value is there; else left out, and looked at again by the next push."""
        action = FieldAction.KEEP if settles else FieldAction.LEAVE_OUT
        return replace(
            found, action=action, why=why, settles=settles, reported=True, replaces_edit=False
        )


# --- what goes out -------------------------------------------------------------------------------


def lacks_names(says: Mapping[str, Any]) -> bool:
    """Whether a row doesn't have both names, so that it can't create its person."""
    return any(not says.get(name) for name in NAMES)


def full_name(fields: Mapping[str, Any]) -> str | None:
    return " ".join(filter(None, (fields.get(name) for name in NAMES))) or None


_TO_CREATE = "a first and last name are needed to create a person. Fill them in"
NO_SUCH_PERSON = (
    f"no prospect in HiringCenter has this email or phone, and {_TO_CREATE}, or correct the contact"
)
NOT_AGAIN_WITHOUT_NAMES = f"deleted in HiringCenter, and {_TO_CREATE} to create this person again"
NOT_LOOKED_FOR = (
    f"who has this email or phone isn't known, and --no-recheck looks no one up; {_TO_CREATE}, "
    "pull first, or push without --no-recheck"
)
TOO_MANY_TO_FIND = (
    "who has this email or phone isn't known, and as many people as --lookups allows are looked up "
    f"already; {_TO_CREATE}, pull first, or raise --lookups"
)
NAMES_UNKNOWN = (
    "the row lacks a first or last name, HiringCenter wants both with each change, and with "
    "--no-recheck those of prospect {id} aren't looked up. Fill them in, pull first, or push "
    "without --no-recheck"
)
SEVERAL_HAVE = (
    "the row has no first name to tell apart the prospects that its email or phone leads to "
    "({ids}). Fill in the first name, or look at them in HiringCenter"
)


@dataclass(frozen=True, slots=True)
class Body:
    """What is posted to change a person. contact: the one that the API is to find them by.
    new_contacts: contacts that they don't have yet: no one else may have them."""

    payload: Mapping[str, Any]
    contact: tuple[str, str]
    new_contacts: tuple[tuple[str, str], ...] = ()


ONLY_CONTACT = (
    "the {contact} of this person is to change, and HiringCenter finds people by email or phone "
    "alone: sent with the new one, the row would create another person. Change it in HiringCenter"
)
NO_CONTACT = (
    "prospect {id} has neither email nor phone, so HiringCenter can't find them. Give "
    "them one in HiringCenter"
)


LABELS_STAY = f"labels: {Why.MERGES} through the API. Remove them in HiringCenter"
LABELS_UNKNOWN = (
    "which labels prospect {id} has isn't known, and HiringCenter replaces them all: labels "
    "can't be added or removed. Write them all in a column `labels`"
)


class NotSendable(ValueError):
    """What this API can't be asked to do; the text says why, for people. people: ids of others whom
    that is about."""

    def __init__(self, reason: str, people: Collection[str] = ()) -> None:
        super().__init__(reason)
        self.people = people


def body_of_update(
    merged: PersonMerge,
    theirs: Person,
    *,
    labels_merge: bool = False,
    contacts: Sequence[str] = CONTACTS,
) -> Body:
    """What is posted to change `theirs`: what is to be sent and, as HiringCenter shows
    them, the names that the API asks for and one contact to find the person by. contacts: which of
    them first.

    Raises:
        NotSendable: this API offers no way to make the change.
    """
    if any(each.why is Why.MERGES for each in merged.fields):
        raise NotSendable(LABELS_STAY)
    sent = {each.name: each.ours for each in merged.to_send}
    edits_labels = not sent.keys().isdisjoint(LABEL_EDITS)
    if edits_labels and "labels" not in theirs.fields and not labels_merge:
        raise NotSendable(LABELS_UNKNOWN.format(id=theirs.id))
    contact = next(
        (
            (name, theirs.fields[name])
            for name in dict.fromkeys((*contacts, *CONTACTS))
            if name not in sent and not is_nothing(theirs.fields.get(name))
        ),
        None,
    )
    if contact is None:
        changed = [name for name in CONTACTS if name in sent and theirs.fields.get(name)]
        if changed:
            raise NotSendable(ONLY_CONTACT.format(contact=" and ".join(changed)))
        raise NotSendable(NO_CONTACT.format(id=theirs.id))
    names = {name: theirs.fields[name] for name in NAMES if theirs.fields.get(name)}
    own = {each.name: each.ours for each in merged.fields if each.name in NAMES}
    payload: dict[str, Any] = {**own, **names, contact[0]: contact[1]}
    payload |= _with_labels(sent, theirs, labels_merge=labels_merge)
    new = tuple((name, sent[name]) for name in CONTACTS if sent.get(name))
    return Body({**payload, "update": True}, contact, new)


def _with_labels(
    sent: Mapping[str, Any], theirs: Person, *, labels_merge: bool
) -> Iterator[tuple[str, Any]]:
    for name, value in sent.items():
        if name not in LABEL_EDITS:
            yield name, value
    added, removed = sent.get(LABELS_ADD, []), set(sent.get(LABELS_REMOVE, []))
    if added or removed:
        before = [] if labels_merge else theirs.fields.get("labels") or []
        together = dict.fromkeys([*before, *added])
        yield "labels", [label for label in together if label not in removed]


def body_of_creation(says: Mapping[str, Any], rules: MergeRules) -> dict[str, Any]:
    """What is posted for a person whom HiringCenter doesn't have: all that a row says; a match is
    left as it is."""
    values = {name: value for name, value in says.items() if value is not None}
    values.pop(LABELS_REMOVE, None)
    if (added := values.pop(LABELS_ADD, None)) and "labels" not in values:
        values["labels"] = added
    needed = {*NAMES, *CONTACTS}
    kept = {
        name: value
        for name, value in values.items()
        if name in needed or rules.policy_of(name) != "never"
    }
    return {**kept, "update": False}


def has_changed(rows: Sequence[Row], fingerprint: Fingerprints) -> bool:
    """Whether rows say anything that isn't settled: only then, or with `--restore`, is a person
    who was deleted in HiringCenter created again."""
    for row in rows:
        for name, value in row.says.items():
            if name in MANNERS:
                continue
            settled = row.remembered.base.get(name) or row.remembered.others.get(name) or ()
            cells = (value or ()) if name in LABEL_EDITS else (value,)
            if any(fingerprint(name, cell) not in settled for cell in cells):
                return True
    return False


LABELS_SENT, MERGED, REPLACED = "labels sent", "merged", "replaced"
"""What is learnt of an API, and its two values: see `labels_were`."""


def labels_were(before: Any, sent: Any, shown: Any) -> str | None:
    """What became of the labels that a prospect had when others were sent; None where the answer
    doesn't show. before: as a fresh look-up showed them. shown: by the answer."""
    missing = set(before or ()) - set(sent or ())
    if missing and missing <= set(shown or ()):
        return MERGED
    return REPLACED if missing and missing.isdisjoint(shown or ()) else None


# --- what is settled -----------------------------------------------------------------------------


def new_base(
    rows: Sequence[Row], settled: Collection[str], fingerprint: Fingerprints
) -> dict[str, frozenset[bytes]]:
    """field → what is base from now on, for rows of one entry."""
    base: dict[str, set[bytes]] = {}
    for row in rows:
        for name, value in row.says.items():
            if name in settled and name not in MANNERS:
                cells = (value or ()) if name in LABEL_EDITS else (value,)
                base.setdefault(name, set()).update(fingerprint(name, cell) for cell in cells)
    return {name: frozenset(prints) for name, prints in base.items()}


def new_shown(
    sent: Mapping[str, Any], answer: Mapping[str, Any], fingerprint: Fingerprints
) -> dict[str, tuple[bytes, bytes]]:
    """field → how the answer to a write shows what was sent, where that is another value. A field
    that wasn't sent is left out: what the answer shows may be a user's edit."""
    return {
        name: (fingerprint(name, value), fingerprint(name, answer[name]))
        for name, value in sent.items()
        if name in answer and not same_value(name, value, answer[name])
    }


# --- what is known of a person -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OwnWrite:
    """Our last write to a person. answered_ms: by the clock that reads are timed with.
    updated_at_ms: as in the answer; before_ms: as in the copy until then."""

    answered_ms: int
    updated_at_ms: int | None = None
    before_ms: int | None = None


def still_holds(read_ms: int | None, updated_at_ms: int | None, own: OwnWrite | None) -> bool:
    """Whether what was read of a person is newer than our own last write to them, which has its
    answer.

    read_ms: when the request was begun. `updatedAt` stands for the moment of reading only where our
    write has moved it forward.
    """
    if own is None:
        return True
    if read_ms is not None and read_ms > own.answered_ms:
        return True
    if None in (updated_at_ms, own.updated_at_ms, own.before_ms):
        return False
    moved = own.updated_at_ms > own.before_ms  # type: ignore[operator]
    return moved and updated_at_ms >= own.updated_at_ms  # type: ignore[operator]
