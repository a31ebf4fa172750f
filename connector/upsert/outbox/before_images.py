"""Before-images: what people looked like before a push changed them, so that it can be undone.

They hold names and contacts in clear, so they are sealed (AES-256-GCM) under a key that is only in
the state directory: a copy of the ledger alone, or a server that several machines share, can't be
read. Run and prospect are authenticated with each image, so that none passes for another's.

An image is kept in the transaction that marks its write as sending, made of the bytes that go out
and of what was last read; what the answer shows is added when it comes.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from connector.errors import UsageError
from connector.upsert.outbox.matching import same_value
from connector.upsert.outbox.merge import CONTACTS, UNKNOWN, Person
from connector.upsert.outbox.outbox_schema import before_images, insert_or_replace
from connector.upsert.rows.write_schema import MANNERS

KEY_FILE = "undo-key"
Cell = Callable[[str, Any], bytes]  # `Hasher.cell`
_KEY_BYTES, _NONCE_BYTES, _ID_BYTES, _HOST_BYTES = 32, 12, 4, 64
_ELSEWHERE = (
    "What run {run_id} changed is sealed with the key of another state directory, on {host}. Run "
    "`hiringcenter undo {run_id}` there; if that directory was deleted, it can't be undone."
)


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
    left there: of what it sent, until an answer has shown what became of it. unread: fields that
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
        left = {name: cell.hex() for name, cell in self.left.items()}
        return orjson.dumps([self.before, left, self.unread, self.contact, self.read_ms])

    @classmethod
    def from_bytes(cls, stored: bytes) -> BeforeImage:
        before, left, unread, contact, read_ms = orjson.loads(stored)
        cells = {name: bytes.fromhex(cell) for name, cell in left.items()}
        return cls(before, cells, tuple(unread), contact and tuple(contact), read_ms)


def image_before(
    payload: Mapping[str, Any], theirs: Person, cell: Cell, *, read_ms: int | None
) -> BeforeImage:
    """The image for a write that is about to change `theirs`. payload: what goes out. read_ms: when
    they were read, unless that was for this write."""
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
