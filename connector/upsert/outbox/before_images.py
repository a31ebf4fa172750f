"""Before-images: what people looked like before a push changed them, so that it can be undone.

They hold names and contacts in clear, so they are sealed (AES-256-GCM) under a key that is only in
the state directory: a copy of the ledger alone, or a server that several machines share, can't be
read. Run and prospect are authenticated with each image, so that none passes for another's.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from connector.errors import UsageError
from connector.upsert.outbox.outbox_schema import before_images, insert_or_replace

KEY_FILE = "undo-key"
_KEY_BYTES, _NONCE_BYTES, _ID_BYTES = 32, 12, 4
_ELSEWHERE = (
    "what run {run_id} changed is sealed with the key of another machine, or of a state directory "
    "that was deleted. Undo it where it was pushed"
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
        image: Mapping[str, Any],
        at_ms: int,
    ) -> None:
        """Keep what a prospect looked like before `run_id` changed it: the first image of a run
        stays, since later writes of the run only change what it has changed itself."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        about = self._about(run_id, prospect_id)
        sealed = self._key_id + nonce + self._cipher.encrypt(nonce, orjson.dumps(image), about)
        row = {"scope": self._scope, "run_id": run_id, "prospect_id": prospect_id}
        if self._sealed(connection, run_id, prospect_id) is None:
            new = {**row, "sealed": sealed, "kept_ms": at_ms, "undone_by": None}
            insert_or_replace(connection, before_images, [new])

    def of_run(
        self, connection: sa.Connection, run_id: str
    ) -> Iterator[tuple[str, dict[str, Any], str | None]]:
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
        """`undone_by` has put the image back."""
        columns = before_images.c
        own = (columns.scope == self._scope) & (columns.run_id == run_id)
        connection.execute(
            sa.update(before_images)
            .where(own, columns.prospect_id == prospect_id)
            .values(undone_by=undone_by)
        )

    def forget(self, connection: sa.Connection, before_ms: int) -> None:
        """Drop the images that were kept before then."""
        old = (before_images.c.scope == self._scope) & (before_images.c.kept_ms < before_ms)
        connection.execute(sa.delete(before_images).where(old))

    def _sealed(self, connection: sa.Connection, run_id: str, prospect_id: str) -> bytes | None:
        columns = before_images.c
        own = (columns.scope == self._scope) & (columns.run_id == run_id)
        return connection.scalar(
            sa.select(columns.sealed).where(own, columns.prospect_id == prospect_id)
        )

    def _opened(self, run_id: str, prospect_id: str, sealed: bytes) -> dict[str, Any]:
        key_id, rest = sealed[:_ID_BYTES], sealed[_ID_BYTES:]
        if key_id != self._key_id:
            raise UsageError(_ELSEWHERE.format(run_id=run_id))
        try:
            image = self._cipher.decrypt(
                rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], self._about(run_id, prospect_id)
            )
        except InvalidTag:
            raise UsageError(
                f"what prospect {prospect_id} looked like before run {run_id} was altered in the "
                "ledger, and isn't put back"
            ) from None
        opened: dict[str, Any] = orjson.loads(image)
        return opened

    def _about(self, run_id: str, prospect_id: str) -> bytes:
        return orjson.dumps([self._scope, run_id, prospect_id])
