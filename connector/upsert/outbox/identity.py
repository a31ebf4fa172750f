"""Who a row is, and what it says, as keyed hashes: the outbox stores no email and no phone."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import orjson
import sqlalchemy as sa

from connector.budget.database import Database
from connector.upsert.outbox.comparing import MANNERS
from connector.upsert.outbox.schema import salts
from connector.upsert.outbox.shared_contacts import Name, first_name, folded
from connector.upsert.outbox.statements import insert_new

AliasKind = Literal["email", "phone", "row", "prospect", "source", "name"]
_ALIAS_KINDS: tuple[AliasKind, ...] = get_args(AliasKind)
CONTENT_BYTES = 16
_NAME_BYTES = 4


class Aliases(NamedTuple):
    """The names one row goes by, each a 64-bit keyed hash; None where the row has no such name.

    row: for a row with neither email nor phone, its content and how many equal rows stand above
    it in the input: two equal rows are two people, and the same file again is the same two.
    """

    email: int | None = None
    phone: int | None = None
    row: int | None = None

    def present(self) -> tuple[int, ...]:
        """Those that are known, email first."""
        return tuple(alias for alias in self if alias is not None)


class Hasher:
    """Keyed hashes of contacts and payloads; without `salt` (32 bytes) they can't be guessed at."""

    def __init__(self, salt: bytes) -> None:
        # copies of a keyed state: keying costs as much as hashing
        self._aliases = {kind: _keyed(salt, 8, f"{kind}:".encode()) for kind in _ALIAS_KINDS}
        self._content = _keyed(salt, CONTENT_BYTES)
        self._name = _keyed(salt, _NAME_BYTES, b"name:")

    def alias(self, kind: AliasKind, value: str) -> int:
        """A signed 64-bit number for one contact. value: normalised already."""
        state = self._aliases[kind].copy()
        state.update(value.casefold().encode("utf-8", "surrogatepass"))
        return int.from_bytes(state.digest(), "big", signed=True)

    def content(self, payload: Mapping[str, Any]) -> bytes:
        """16 bytes for what `payload` says, whatever the order of its fields.

        Raises:
            TypeError: a value that JSON can't carry.
        """
        said = dict(payload)
        for name in MANNERS:
            said.pop(name, None)
        state = self._content.copy()
        state.update(orjson.dumps(said, option=orjson.OPT_SORT_KEYS))
        return state.digest()

    def names(self, first: Any, last: Any) -> bytes:
        """Keyed hashes of a person's names: the last one's, then the whole first name's and those
        of its other forms, none where there is no first name. Four bytes each."""
        name = first_name(first)
        forms = (name.whole, *sorted(map(str, name.forms - {name.whole}))) if name else ()
        last = folded(last) if isinstance(last, str) else ""
        return b"".join(self._hashed(text) for text in (f"last:{last}", *forms))

    def name(self, name: Name) -> Name:
        """`name` as keyed hashes, to be compared with stored ones."""
        return Name(self._hashed(name.whole), frozenset(map(self._hashed, name.forms)))

    def _hashed(self, text: str | bytes) -> bytes:
        state = self._name.copy()
        state.update(str(text).encode("utf-8", "surrogatepass"))
        return state.digest()

    def aliases(
        self, *, email: str | None, phone: str | None, content: bytes = b"", ordinal: int = 0
    ) -> Aliases:
        """All aliases of one row. ordinal: equal rows above it, where it has no contact."""
        if email is None and phone is None:
            return Aliases(row=self.alias("row", f"{content.hex()}:{ordinal}"))
        return Aliases(
            email=None if email is None else self.alias("email", email),
            phone=None if phone is None else self.alias("phone", phone),
        )


def stored_first_name(names: bytes | None) -> Name | None:
    """The first name within what `Hasher.names` made; None where it isn't known."""
    if names is None or len(names) <= _NAME_BYTES:
        return None
    starts = range(_NAME_BYTES, len(names), _NAME_BYTES)
    forms = [names[start : start + _NAME_BYTES] for start in starts]
    return Name(forms[0], frozenset(forms))


def _keyed(salt: bytes, size: int, begin: bytes = b"") -> hashlib.blake2b:
    return hashlib.blake2b(begin, digest_size=size, key=salt)


def stored_salt(database: Database) -> bytes:
    """The salt of this outbox, made on first use. The tables exist."""
    with database.write() as connection:
        insert_new(connection, salts, [{"name": "outbox", "value": secrets.token_bytes(32)}])
        salt = connection.scalar(sa.select(salts.c.value).where(salts.c.name == "outbox"))
    assert salt is not None
    return bytes(salt)
