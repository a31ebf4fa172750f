"""Undo: what people looked like before a push changed them, and what of it is put back.

Before-images hold names and contacts in clear, so they are sealed (AES-256-GCM) under a key that is
only in the state directory: a copy of the ledger alone, or a server that several machines share,
can't be read. Run and prospect are authenticated with each one, so that none passes for another's.
An image is kept in the transaction that marks its write as sending, made of the bytes that go out
and of what was last read; what the answer shows is added when it comes.

People whom a run has updated get back what they were, except in fields edited since: each
is one guarded write (see `row_in_flight.Guard`). All else is listed, row by row: whom it created,
what it added, and what was never read.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from connector.errors import UsageError
from connector.upsert.outbox.matching import same_value
from connector.upsert.outbox.merge import CONTACTS, UNKNOWN, Fingerprints, Person
from connector.upsert.outbox.outbox import (
    CHANGED_ANOTHER,
    FORGOTTEN,
    PROSPECTS,
    Outbox,
    SentWrite,
    Write,
)
from connector.upsert.outbox.outbox_schema import before_images, insert_or_replace
from connector.upsert.outbox.receipts import RowResult, Status, bad_rows
from connector.upsert.row_in_flight import Guard
from connector.upsert.rows.write_schema import MANNERS

KEY_FILE = "undo-key"
_KEY_BYTES, _NONCE_BYTES, _ID_BYTES, _HOST_BYTES = 32, 12, 4, 64
_ELSEWHERE = (
    "What run {run_id} changed is sealed with the key of another state directory, on {host}. Run "
    "`hiringcenter undo {run_id}` there; if that directory was deleted, it can't be undone."
)
_CREATED = (
    "prospect {id} was created, and the API can't delete prospects: delete it in HiringCenter if "
    "it should go"
)
_ADDED = "prospect {id} keeps the {kind} that was added: delete it in HiringCenter if it should go"
_LABELS = "prospect {id} keeps the labels that were added: HiringCenter only adds labels"
_MAYBE_CREATED = (
    "a prospect may have been created: whether it was can't be known any more. Look in HiringCenter"
)
_MAYBE_ADDED = "prospect {id} may have got a {kind}: whether they did can't be known any more"
_UNREAD = "prospect {id} keeps {fields}: what was there before can't be read through the API"
_NOT_READ = "prospect {id} stays as they are: they weren't read before they were changed"
_OLDER = (
    "prospect {id} stays as they are: what they were is known only from a copy, as of {when}; "
    "--force puts that back"
)
_AS_OF = "as of {when}"
_FORGOTTEN = (
    "the person of this row was forgotten here (`hiringcenter forget`), and with them what they "
    "were before: they stay as they are"
)
_ALREADY = "prospect {id}: already undone by run {by}"
_CHANGED = (Status.CREATED, Status.UPDATED, CHANGED_ANOTHER)


def undo_key(state_dir: Path) -> bytes:
    """The key of this state directory; made at its first use, complete or not at all."""
    path = state_dir / KEY_FILE
    with suppress(FileNotFoundError):
        return path.read_bytes()
    new = path.with_name(f"{KEY_FILE}.{secrets.token_hex(8)}")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(file, secrets.token_bytes(_KEY_BYTES))
        os.fsync(file)
    finally:
        os.close(file)
    with suppress(FileExistsError):  # of two processes that start at once, the first one's stays
        os.link(new, path)
    new.unlink()
    return path.read_bytes()


@dataclass(frozen=True)
class BeforeImage:
    """What a run has changed of one prospect.

    before: field → what it was. left: field → the fingerprint (`Hasher.cell`) of what the run has
    left there: of what it sent, until an answer has shown its outcome. unread: fields that
    were sent and can't be read back, so that what they were isn't known. contact: a contact that
    the run didn't change. read_ms: when that was read, where it wasn't read for the write.
    """

    before: Mapping[str, Any] = field(default_factory=dict)
    left: Mapping[str, bytes] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    contact: tuple[str, str] | None = None
    read_ms: int | None = None

    def followed_by(self, later: BeforeImage) -> BeforeImage:
        """With another write of the same run: what it changed for the first time is added, and what
        it has left counts."""
        before = {**later.before, **self.before}
        contacts = [
            each for each in (self.contact, later.contact) if each and each[0] not in before
        ]
        reads = [each for each in (self.read_ms, later.read_ms) if each is not None]
        return BeforeImage(
            before,
            {**self.left, **later.left},
            tuple(dict.fromkeys((*self.unread, *later.unread))),
            next(iter(contacts), None),
            min(reads, default=None),
        )

    def to_bytes(self) -> bytes:
        stored = [self.before, self.left, self.unread, self.contact, self.read_ms]
        return orjson.dumps(stored, default=bytes.hex)

    @classmethod
    def from_bytes(cls, stored: bytes) -> BeforeImage:
        before, left, unread, contact, read_ms = orjson.loads(stored)
        cells = {name: bytes.fromhex(cell) for name, cell in left.items()}
        return cls(before, cells, tuple(unread), contact and tuple(contact), read_ms)


def image_before(payload: Mapping[str, Any], theirs: Person, cell: Fingerprints) -> BeforeImage:
    """The image for a write that is about to change `theirs`. payload: what goes out."""
    before, left, unread, contacts = {}, {}, [], []
    for name, value in payload.items():
        if name in MANNERS:
            continue
        was = theirs.fields.get(name, UNKNOWN)
        if was is UNKNOWN:
            unread.append(name)
        elif not same_value(name, value, was):
            before[name], left[name] = was, cell(name, value)
        elif name in CONTACTS and value:
            contacts.append((name, str(was)))
    read_ms = None if theirs.fresh else theirs.read_ms
    return BeforeImage(before, left, tuple(unread), next(iter(contacts), None), read_ms)


class BeforeImages:
    """The before-images of one scope. Every method works inside the caller's transaction."""

    def __init__(self, scope: int, key: bytes) -> None:
        self._scope, self._cipher = scope, AESGCM(key)
        self._key_id = hashlib.blake2b(key, digest_size=_ID_BYTES, person=b"undo-key").digest()

    def keep(
        self,
        connection: sa.Connection,
        run_id: str,
        prospect_id: str,
        image: BeforeImage,
        at_ms: int,
    ) -> None:
        """Keep what a prospect looked like before `run_id` changed it."""
        earlier = self._sealed(connection, run_id, prospect_id)
        if earlier is not None:
            image = self._opened(run_id, prospect_id, earlier).followed_by(image)
        self._store(connection, run_id, prospect_id, image, kept_ms=at_ms, undone_by=None)

    def keep_before(
        self, connection: sa.Connection, write: Write, theirs: Person, cell: Fingerprints
    ) -> None:
        """What `theirs` look like is on disk with the bytes that are about to change them."""
        image = image_before(orjson.loads(write.body), theirs, cell)
        if write.prospect_id == theirs.id and (image.before or image.unread):
            self.keep(connection, write.run_id, theirs.id, image, write.sent_ms or 0)

    def note_answer(
        self, connection: sa.Connection, run_id: str, prospect_id: str, left: Mapping[str, bytes]
    ) -> None:
        """The API has answered, and shows these fingerprints for what the run has changed. An image
        of another machine, whose write is settled here, stays as it is."""
        sealed = self._sealed(connection, run_id, prospect_id)
        if sealed is None or not self._is_own(sealed):
            return
        image = self._opened(run_id, prospect_id, sealed)
        shown = {name: cell for name, cell in left.items() if name in image.left}
        if shown != {name: image.left[name] for name in shown}:
            image = replace(image, left={**image.left, **shown})
            self._store(connection, run_id, prospect_id, image)

    def of_run(
        self, connection: sa.Connection, run_id: str
    ) -> Iterator[tuple[str, BeforeImage, str | None]]:
        """(prospect id, image, the run that has undone it) of each prospect that a run changed.

        Raises:
            UsageError: they were sealed on another machine.
        """
        columns = before_images.c
        query = (
            sa.select(columns.prospect_id, columns.sealed, columns.undone_by)
            .where(columns.scope == self._scope, columns.run_id == run_id)
            .order_by(columns.prospect_id)
        )
        for prospect_id, sealed, undone_by in connection.execute(query).fetchall():
            yield prospect_id, self._opened(run_id, prospect_id, bytes(sealed)), undone_by

    def mark_undone(
        self, connection: sa.Connection, run_id: str, prospect_id: str, undone_by: str
    ) -> None:
        """`undone_by` has put the image back; what `run_id` itself had undone isn't any more."""
        columns = before_images.c
        own = (columns.scope == self._scope) & (columns.prospect_id == prospect_id)
        for which, now in ((columns.run_id, undone_by), (columns.undone_by, None)):
            connection.execute(
                sa.update(before_images).where(own, which == run_id).values(undone_by=now)
            )

    def forget(self, connection: sa.Connection, before_ms: int) -> None:
        """Drop the images that were kept before then."""
        old = (before_images.c.scope == self._scope) & (before_images.c.kept_ms < before_ms)
        connection.execute(sa.delete(before_images).where(old))

    def _sealed(self, connection: sa.Connection, run_id: str, prospect_id: str) -> bytes | None:
        columns = before_images.c
        own = (columns.scope == self._scope) & (columns.run_id == run_id)
        found = connection.scalar(
            sa.select(columns.sealed).where(own, columns.prospect_id == prospect_id)
        )
        return None if found is None else bytes(found)

    def _store(
        self,
        connection: sa.Connection,
        run_id: str,
        prospect_id: str,
        image: BeforeImage,
        **more: Any,
    ) -> None:
        own = {"scope": self._scope, "run_id": run_id, "prospect_id": prospect_id}
        nonce, about = secrets.token_bytes(_NONCE_BYTES), self._about(run_id, prospect_id)
        closed = self._cipher.encrypt(nonce, image.to_bytes(), about)
        host = platform.node().encode()[:_HOST_BYTES]
        sealed = self._key_id + bytes((len(host),)) + host + nonce + closed
        row = {**own, "sealed": sealed, **more}
        if more:
            insert_or_replace(connection, before_images, [row])
        else:
            columns = before_images.c
            mine = [columns[name] == value for name, value in own.items()]
            connection.execute(sa.update(before_images).where(*mine).values(sealed=sealed))

    def _is_own(self, sealed: bytes) -> bool:
        return sealed[:_ID_BYTES] == self._key_id

    def _opened(self, run_id: str, prospect_id: str, sealed: bytes) -> BeforeImage:
        at = _ID_BYTES + 1 + sealed[_ID_BYTES]
        host, rest = sealed[_ID_BYTES + 1 : at].decode(errors="replace"), sealed[at:]
        if not self._is_own(sealed):
            raise UsageError(_ELSEWHERE.format(run_id=run_id, host=host or "another machine"))
        try:
            image = self._cipher.decrypt(
                rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], self._about(run_id, prospect_id)
            )
        except InvalidTag:
            raise UsageError(
                f"What prospect {prospect_id} looked like before run {run_id} was altered in the "
                "ledger, so the run can't be undone."
            ) from None
        return BeforeImage.from_bytes(image)

    def _about(self, run_id: str, prospect_id: str) -> bytes:
        return orjson.dumps([self._scope, run_id, prospect_id])


# --- what is put back ----------------------------------------------------------------------------


@dataclass
class UndoPlan:
    """writes: one for each person to whom something is put back. results: the outcome of the other
    rows. listed: what stays as it is, of all rows. already: runs that have undone some of it.
    contacts: emails and phones that are put back, each of which must be no one else's by now."""

    writes: list[Write] = field(default_factory=list)
    results: list[RowResult] = field(default_factory=list)
    listed: list[RowResult] = field(default_factory=list)
    already: set[str] = field(default_factory=set)
    contacts: int = 0


def plan_undo(
    connection: sa.Connection,
    outbox: Outbox,
    images: BeforeImages,
    *,
    undoes: str,
    run_id: str,
    force: bool,
    labels_merge: bool = False,
) -> UndoPlan:
    """How `run_id` is to undo the run `undoes`. force: people who are known only from an older
    copy, and those whom an earlier undo has left alone, too. labels_merge: HiringCenter is known to
    add labels only.

    Raises:
        UsageError: what it changed was sealed on another machine.
    """
    changes = [
        each
        for each in outbox.sent_by(connection, [undoes])
        if each.outcome is None or each.outcome in (*_CHANGED, FORGOTTEN)
    ]
    kept = {id_: (image, by) for id_, image, by in images.of_run(connection, undoes)}
    planner = _UndoPlanner(outbox, undoes, run_id, force=force, labels_merge=labels_merge)
    # a run that was killed hasn't reported whom it left alone
    undone_by = {by for _, by in kept.values() if by}
    planner.left_alone = {
        each.prospect_id: each for each in bad_rows(connection, undone_by) if each.prospect_id
    }
    for row, group in _by_row(changes).items():
        planner.add(row, group, kept)
    return planner.plan


def _by_row(changes: Sequence[SentWrite]) -> dict[int, list[SentWrite]]:
    """The changes that each row answers for: a person's are all their first row's."""
    first: dict[str, int] = {}
    rows: dict[int, list[SentWrite]] = {}
    for each in changes:
        own = each.row_number
        if each.kind == PROSPECTS and each.prospect_id is not None:
            own = first.setdefault(each.prospect_id, own)
        rows.setdefault(own, []).append(each)
    return rows


class _UndoPlanner:
    def __init__(
        self, outbox: Outbox, undoes: str, run_id: str, *, force: bool, labels_merge: bool
    ) -> None:
        self._hasher, self._undoes, self._run_id = outbox.hasher, undoes, run_id
        self._force, self._labels_merge = force, labels_merge
        self.left_alone: dict[str, RowResult] = {}
        self.plan = UndoPlan()

    def add(
        self,
        row: int,
        changes: Iterable[SentWrite],
        kept: Mapping[str, tuple[BeforeImage, str | None]],
    ) -> None:
        """Plan one row."""
        if any(each.outcome == FORGOTTEN for each in changes):
            self._list(row, changes, [_FORGOTTEN])
            return
        people = [each for each in changes if each.kind == PROSPECTS]
        is_created = any(each.outcome == Status.CREATED for each in people)
        stays = [
            (_ADDED if each.outcome else _MAYBE_ADDED).format(
                id=each.prospect_id, kind=each.kind.removesuffix("s")
            )
            for each in changes
            if each.kind != PROSPECTS
        ]
        id_ = people[0].prospect_id if people else None
        if is_created:
            stays.insert(0, _CREATED.format(id=id_ or "that wasn't named"))
        elif people and id_ is None:
            stays.insert(0, _MAYBE_CREATED)
        elif id_ is not None:
            image, by = kept.get(id_, (None, None))
            if by is not None and not self._force:
                self.plan.already.add(by)
                done = RowResult(row, Status.UNCHANGED, id_, _ALREADY.format(id=id_, by=by))
                self.plan.results.append(self.left_alone.get(id_, done))
                return
            if self._put_back(row, id_, image, stays):
                return
        self._list(row, changes, stays)

    def _put_back(self, row: int, id_: str, image: BeforeImage | None, stays: list[str]) -> bool:
        """Plan the write that puts a person back; False where nothing can be, which `stays` says
        then."""
        if image is None:
            stays.insert(0, _NOT_READ.format(id=id_))
            return False
        if image.unread:
            stays.insert(0, _UNREAD.format(id=id_, fields=", ".join(image.unread)))
        before: dict[str, Any] = dict(image.before)
        if self._labels_merge and before.pop("labels", None) is not None:
            stays.insert(0, _LABELS.format(id=id_))
        if not before:
            return False
        when = None if image.read_ms is None else _utc(image.read_ms)
        if when is not None and not self._force:
            stays.insert(0, _OLDER.format(id=id_, when=when))
            return False
        if stays:
            self.plan.listed.append(RowResult(row, Status.UPDATED, id_, "; ".join(stays)))
        notes = [*stays, *([_AS_OF.format(when=when)] if when else [])]
        body = dict(before)
        if image.contact is not None:
            body.setdefault(*image.contact)
        guard = Guard({name: image.left.get(name) for name in before}, self._undoes)
        person, content = self._hasher.alias("prospect", id_), self._hasher.content(body)
        write = Write(
            self._run_id, f"undo {self._undoes}", row, 0, PROSPECTS, person, None, None, None,
            content, orjson.dumps(body), note="; ".join(notes) or None, prospect_id=id_,
            guard=guard.to_bytes(),
        )  # fmt: skip
        self.plan.writes.append(write)
        self.plan.contacts += sum(bool(before.get(name)) for name in CONTACTS)
        return True

    def _list(self, row: int, changes: Iterable[SentWrite], stays: Sequence[str]) -> None:
        id_ = next(iter(changes)).prospect_id
        result = RowResult(row, Status.REJECTED, id_, "; ".join(stays))
        self.plan.results.append(result)
        self.plan.listed.append(result)


def _utc(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
