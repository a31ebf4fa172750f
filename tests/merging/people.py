"""HiringCenter in memory, with the recruiters who work there and the pulls that copy it.

Everything that a push does here is judged at once: an edit that an unchanged cell overwrites, a
other person created or overwritten.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from connector.upsert.outbox.matching import same_value

FIELDS = ("firstName", "lastName", "email", "phone", "title")
Changed = dict[tuple[int, str], Any]  # row number and field → the cell's value
DROPPED = "+1999"  # a phone that HiringCenter doesn't take


def as_kept(name: str, value: Any) -> Any:
    """What HiringCenter makes of a value: it drops a bad phone, and cuts off a title's `~`."""
    if name == "phone" and value == DROPPED:
        return None
    return value.rstrip("~") if name == "title" and isinstance(value, str) else value


@dataclass
class Prospect:
    """humans: who it is about; several after a merge. edited: field → when a
    recruiter set its value."""

    id: str
    fields: dict[str, Any]
    humans: set[int]
    created_ms: int
    updated_ms: int
    edited: dict[str, int] = field(default_factory=dict)

    def item(self) -> dict[str, Any]:
        times = {"createdAt": self.created_ms, "updatedAt": self.updated_ms}
        return {"id": self.id, **self.fields, **times}


@dataclass
class FileRow:
    """One row of a file. dirty: fields that changed, and whose value HiringCenter never had since,
    nor was it reported as kept. home: the prospect that the row was about, under
    the names `named`. has_siblings: other rows of the file are about the same human."""

    number: int
    human: int
    cells: dict[str, Any]
    dirty: set[str] = field(default_factory=set)
    home: str | None = None
    named: tuple[Any, Any] | None = None
    has_siblings: bool = False

    def is_at(self, home: str, names: tuple[Any, Any]) -> None:
        self.home, self.named = home, names

    def set(self, name: str, value: Any) -> None:
        if self.cells.get(name) != value:
            self.cells[name] = value
            self.dirty.add(name)

    def says(self) -> dict[str, Any]:
        return {name: value for name, value in self.cells.items() if value is not None}


class Lost(Exception):
    """No answer came."""


class Killed(Exception):
    """The process that pushes died."""


class NotAccepted(Exception):
    """400."""


@dataclass
class HiringCenter:
    """phone_first: whom a write matches where email and phone are two people's. conflicts: a match
    of a write that only creates is answered with 409. keys_ms: how long idempotency keys live."""

    phone_first: bool = False
    conflicts: bool = False
    keys_ms: int = 3_600_000
    now_ms: int = 1_000_000
    people: dict[str, Prospect] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    posts: int = 0
    gets: int = 0
    fates: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ids = itertools.count(1)
        self._keys: dict[str, tuple[int, tuple[int, dict[str, Any]]]] = {}

    # --- what recruiters do ---

    def recruit(self, human: int, **fields: Any) -> Prospect:
        self.now_ms += 1000
        kept = {name: fields.get(name) for name in FIELDS}
        person = Prospect(f"x{next(self._ids)}", kept, {human}, self.now_ms, self.now_ms)
        self.people[person.id] = person
        return person

    def edit(self, person: Prospect, name: str, value: Any) -> None:
        self.now_ms += 1000
        if person.fields[name] != value:
            person.fields[name] = value
            person.edited[name] = self.now_ms
            person.updated_ms = self.now_ms

    def delete(self, person: Prospect) -> None:
        self.now_ms += 1000
        self.people.pop(person.id, None)

    def merge_people(self, stays: Prospect, goes: Prospect) -> None:
        """One takes the contacts that it lacks from the other, who is deleted."""
        if stays is goes:
            return
        self.delete(goes)
        stays.humans |= goes.humans
        for name in ("email", "phone"):
            if stays.fields[name] is None:
                self.edit(stays, name, goes.fields[name])
        stays.updated_ms = self.now_ms

    # --- the API ---

    def by(self, name: str, value: Any) -> list[dict[str, Any]]:
        self.now_ms += 10
        self.gets += 1
        return [
            each.item()
            for each in self.people.values()
            if value and same_value(name, value, each.fields[name])
        ]

    def by_id(self, id_: str) -> dict[str, Any] | None:
        self.now_ms += 10
        self.gets += 1
        found = self.people.get(id_)
        return found.item() if found else None

    def post(
        self,
        key: str,
        body: Mapping[str, Any],
        rows: Sequence[FileRow],
        changed: Changed,
        since_ms: int,
    ) -> tuple[int, dict[str, Any]]:
        """since_ms: what recruiters did since then couldn't be known. rows, changed: whom the write
        is about, and what had changed when it was made; for the judgement alone."""
        fate = self.fates.pop(0) if self.fates else "ok"
        self.now_ms += 10
        self.posts += 1
        if fate == "killed before":
            raise Killed
        if fate == "unsent":
            raise Lost
        kept = self._keys.get(key)
        if fate == "refused" and kept is None:
            raise NotAccepted
        if kept and self.now_ms - kept[0] <= self.keys_ms:
            answer = kept[1]
        else:
            answer = self._apply(body, rows, changed, since_ms)
            self._keys[key] = (self.now_ms, answer)
        self.now_ms += 10
        if fate == "lost":
            raise Lost
        if fate == "killed after":
            raise Killed
        return answer

    def _apply(
        self, body: Mapping[str, Any], rows: Sequence[FileRow], changed: Changed, since_ms: int
    ) -> tuple[int, dict[str, Any]]:
        said = {name: as_kept(name, body[name]) for name in FIELDS if name in body}
        person = self._match(body)
        if person is None:
            is_wanted = body.get("update") is False
            return 201, self._create(said, rows, since_ms, is_wanted=is_wanted).item()
        if body.get("update") is False:
            return (409 if self.conflicts else 200), person.item()
        self._judge(person, said, rows, changed, since_ms)
        person.fields |= said
        person.updated_ms = self.now_ms
        self._note_applied(person, rows, said)
        return 200, person.item()

    def _match(self, body: Mapping[str, Any]) -> Prospect | None:
        order = ("phone", "email") if self.phone_first else ("email", "phone")
        for name in order:
            for person in self.people.values():
                if body.get(name) and same_value(name, body[name], person.fields[name]):
                    return person
        return None

    def _create(
        self, said: Mapping[str, Any], rows: Sequence[FileRow], since_ms: int, *, is_wanted: bool
    ) -> Prospect:
        humans = {row.human for row in rows}
        for person in self.people.values():
            names = (said.get("firstName"), said.get("lastName"))
            lost = {row.home for row in rows if row.named == names and not row.has_siblings}
            moved_ms = max(person.edited.get(name, 0) for name in ("email", "phone"))
            if person.humans & humans and person.id in lost and moved_ms < since_ms:
                self.faults.append(f"stranger: {said} beside {person}")
        person = self.recruit(min(humans), **said)
        person.humans = humans
        if is_wanted:
            self._note_applied(person, rows, said)
        return person

    def _judge(
        self,
        person: Prospect,
        said: Mapping[str, Any],
        rows: Sequence[FileRow],
        changed: Changed,
        since_ms: int,
    ) -> None:
        if not any(row.human in person.humans for row in rows):
            moved_ms = max(person.edited.get(name, 0) for name in ("email", "phone"))
            has_both = any(
                all(row.cells.get(name) == person.fields[name] for name in ("email", "phone"))
                for row in rows
            )  # nothing says that they aren't the row's
            if moved_ms < since_ms and not has_both:
                self.faults.append(f"another person: {said} on {person}")
            person.humans |= {row.human for row in rows}  # they can't be distinguished any more
        for name, value in said.items():
            if not 0 < person.edited.get(name, 0) < since_ms or same_value(
                name, value, person.fields[name]
            ):
                continue
            wanted = [changed[row.number, name] for row in rows if (row.number, name) in changed]
            wanted += [row.cells.get(name) for row in rows if row.home != person.id]
            if not any(same_value(name, as_kept(name, each), value) for each in wanted):
                self.faults.append(f"overwritten: {name}={value!r} on {person}")
            del person.edited[name]

    def _note_applied(
        self, person: Prospect, rows: Sequence[FileRow], said: Mapping[str, Any]
    ) -> None:
        for row in rows:
            row.is_at(person.id, (said.get("firstName"), said.get("lastName")))
            row.dirty -= {
                name
                for name, value in row.cells.items()
                if same_value(name, as_kept(name, value), person.fields[name])
            }


@dataclass
class CopiedPerson:
    fields: dict[str, Any]
    updated_ms: int
    read_ms: int
    deleted: bool = False


@dataclass
class PulledCopy:
    """What pulls have brought."""

    people: dict[str, CopiedPerson] = field(default_factory=dict)
    watermark_ms: int = 0
    complete_ms: int = 0

    def pull(self, center: HiringCenter, *, full: bool) -> None:
        center.now_ms += 1000
        read_ms = center.now_ms
        for person in center.people.values():
            if full or person.updated_ms >= self.watermark_ms:
                self.people[person.id] = CopiedPerson(
                    dict(person.fields), person.updated_ms, read_ms
                )
        if full:
            self.complete_ms = read_ms
            for id_, copied in self.people.items():
                copied.deleted = id_ not in center.people
        self.watermark_ms = read_ms - 1000
        center.now_ms += 1000

    def having(self, name: str, value: Any) -> set[str]:
        return {
            id_
            for id_, each in self.people.items()
            if value and not each.deleted and same_value(name, value, each.fields[name])
        }
