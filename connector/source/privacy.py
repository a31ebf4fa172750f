"""Fields that are left out of the destination, or replaced by a keyed hash."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import orjson

from connector.errors import ConfigurationError
from connector.source.naming import column_name
from connector.source.values import holdable


class Privacy:
    """What one resource's rows don't show. Immutable.

    exclude, hashed: fields, by API name or by column. hash_key: secret bytes; with the same key,
    equal values have equal hashes, so that hashed columns can still be joined and counted.
    digest: 16 bytes that change with any of these, so that rows are written again.

    Raises:
        ConfigurationError: `hashed` without `hash_key`, or `id` among the fields.
    """

    def __init__(
        self, resource: str, exclude: Iterable[str], hashed: Iterable[str], hash_key: bytes
    ) -> None:
        self._exclude, self._hashed = frozenset(exclude), frozenset(hashed)
        if "id" in self._exclude | self._hashed:
            raise ConfigurationError(
                f"pull.{resource}: id can't be excluded or hashed: it identifies the row."
            )
        if self._hashed and not hash_key:
            raise ConfigurationError(
                f"pull.{resource}.hash_columns needs a secret: set HIRINGCENTER_PULL__HASH_KEY."
            )
        self._key = hashlib.blake2b(hash_key, digest_size=32).digest()
        self.digest = self._digest()

    def _digest(self) -> bytes:
        if not self._exclude and not self._hashed:
            return bytes(16)
        facts = [sorted(self._exclude), sorted(self._hashed), self._key.hex()]
        return hashlib.blake2b(orjson.dumps(facts), digest_size=16).digest()

    def excludes(self, api_name: str) -> bool:
        return bool(self._exclude) and not self._exclude.isdisjoint(_names(api_name))

    def hashes(self, api_name: str) -> bool:
        return bool(self._hashed) and not self._hashed.isdisjoint(_names(api_name))

    def applied(self, record: dict[str, Any]) -> dict[str, Any]:
        """`record` without what is excluded, and with hashes in place of what is hashed.

        The content hash is taken from this, so that it can't be used to guess what isn't there.
        """
        if not self._exclude and not self._hashed:
            return record
        return {
            name: self.keyed_hash(value) if value is not None and self.hashes(name) else value
            for name, value in record.items()
            if not self.excludes(name)
        }

    def keyed_hash(self, value: Any) -> str:
        """32 hexadecimal digits. Text is hashed as its UTF-8 bytes, everything else as JSON."""
        if isinstance(value, str):
            content = value.encode("utf-8", "surrogatepass")
        else:
            content = orjson.dumps(holdable(value, Counter()), option=orjson.OPT_SORT_KEYS)
        return hashlib.blake2b(content, digest_size=16, key=self._key).hexdigest()


def _names(api_name: str) -> tuple[str, str]:
    return api_name, column_name(api_name)
