"""The account's data: the API serves and writes it, and tests inspect and change it."""

from __future__ import annotations

import json
import threading
import uuid
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from connector.sandbox.generated_records import SORT_FIELDS, Generated, Record
from connector.sandbox.request_checks import CONTACT_KEYS
from connector.sandbox.sandbox_options import RESOURCES, SandboxOptions

if TYPE_CHECKING:
    from connector.sandbox.state import ServerClock

ENCODED_KEPT = 200_000  # rows; about 100 MB
DEFAULT_ORDERS = {
    "prospects": "newest", "notes": "newest", "tasks": "soonest", "meetings": "furthest"
}  # fmt: skip
# the field that a list is ordered by, and whether it descends; shuffled: by the id backwards
_ORDERS = {
    "newest": ("createdAt", True), "oldest": ("createdAt", False),
    "soonest": ("dueAt", False), "furthest": ("meetingDate", True),
    "recently_updated": ("updatedAt", True), "id": ("id", False), "shuffled": ("id", False),
}  # fmt: skip

Row = TypeVar("Row")  # any JSON value
SortKey = Any  # numbers within one order, or strings: always comparable within one table


class Table:
    """Rows of one resource, sorted by the list's order. Not thread-safe: `Store` holds the lock.

    A row is identified by its serial number. Those below `generated.count` are generated when read;
    changed and added rows are kept. `version` rises with every change. Orders: the contract's own
    (`DEFAULT_ORDERS`), and those of `SandboxOptions.prospects_order`.
    """

    def __init__(self, generated: Generated, order_name: str) -> None:
        self.generated = generated
        self.version = 0
        self._kept: dict[int, Any] = {}
        self._kept_keys: dict[int, SortKey] = {}
        self._added_ids: dict[str, int] = {}
        self._deleted: set[int] = set()
        self._encoded: dict[int, bytes] = {}
        self._next_serial = generated.count
        self._rising: list[int] = list(range(generated.count))
        self.sort_by(order_name)

    def __len__(self) -> int:
        return len(self._rising)

    def sort_by(self, order_name: str) -> None:
        """Put all rows into another order."""
        self.order_name = order_name
        self._field, self._descending = _ORDERS[order_name]
        self._kept_keys = {}  # `_record_key` reads it
        self._kept_keys = {row: self._record_key(record) for row, record in self._kept.items()}
        rises = not self._kept and self._field == SORT_FIELDS[self.generated.resource]
        self._rising.sort(key=None if rises else self._order_of)
        self.version += 1

    def serials(self) -> Iterator[int]:
        """All rows, in list order."""
        return reversed(self._rising) if self._descending else iter(self._rising)

    def __getitem__(self, part: slice) -> list[int]:
        """Rows of the list, from `part.start` to `part.stop` (exclusive)."""
        if not self._descending:
            return self._rising[part]
        size = len(self._rising)
        return self._rising[max(size - part.stop, 0) : max(size - part.start, 0)][::-1]

    def in_list_order(self, serials: list[int]) -> list[int]:
        return sorted(serials, key=self._order_of, reverse=self._descending)

    def index_after(self, key: SortKey, serial: int) -> int:
        """How many rows of the list come before (key, serial) or are there."""
        if self._descending:
            return len(self._rising) - bisect_left(self._rising, (key, serial), key=self._order_of)
        return bisect_left(self._rising, (key, serial + 1), key=self._order_of)

    def end_of(self, key: SortKey) -> tuple[SortKey, int]:
        """The (key, serial) behind all rows that share a sort key, for `index_after`."""
        return key, -1 if self._descending else self._next_serial

    def key(self, serial: int) -> SortKey:
        return self._kept_keys[serial] if serial in self._kept_keys else self._generated_key(serial)

    def time_ms(self, serial: int) -> int | None:
        """The value of the resource's own sort field; None if it isn't a whole number."""
        record, field = self.record(serial), SORT_FIELDS[self.generated.resource]
        value = record.get(field) if isinstance(record, dict) else self.key(serial)
        return value if isinstance(value, int) else None

    def record(self, serial: int) -> Any:
        """The row itself, parts of which are shared: don't modify it."""
        return self._kept[serial] if serial in self._kept else self.generated.record(serial)

    def encoded(self, serial: int) -> bytes:
        """The row as JSON, cached for the next scan."""
        found = self._encoded.get(serial)
        if found is None:
            kept = serial in self._kept
            found = encode(self._kept[serial]) if kept else self.generated.encoded(serial)
            if len(self._encoded) < ENCODED_KEPT:
                self._encoded[serial] = found
        return found

    def serial_of(self, record_id: str) -> int | None:
        """None if no row has this id (any more)."""
        serial = self._added_ids.get(record_id)
        if serial is None:
            serial = self.generated.serial_of(record_id)
        return None if serial is None or serial in self._deleted else serial

    def add(self, record: Any) -> int:
        """Append any JSON value as a row, and return its serial number."""
        serial = self._next_serial
        self._next_serial += 1
        if isinstance(record, dict) and isinstance(record.get("id"), str):
            self._added_ids[record["id"]] = serial
        self._keep(serial, record)
        return serial

    def replace(self, serial: int, record: Any) -> None:
        self._take_out(serial)
        self._keep(serial, record)

    def remove(self, serial: int) -> None:
        self._take_out(serial)
        self._kept.pop(serial, None)
        self._kept_keys.pop(serial, None)
        self._deleted.add(serial)
        self.version += 1

    def _keep(self, serial: int, record: Any) -> None:
        self._kept[serial] = deepcopy(record)
        self._kept_keys[serial] = self._record_key(record)
        self._encoded.pop(serial, None)
        insort(self._rising, serial, key=self._order_of)
        self.version += 1

    def _take_out(self, serial: int) -> None:
        self._encoded.pop(serial, None)
        del self._rising[bisect_left(self._rising, self._order_of(serial), key=self._order_of)]

    def _order_of(self, serial: int) -> tuple[SortKey, int]:
        return self.key(serial), serial

    def _generated_key(self, serial: int) -> SortKey:
        return self._key_of(self.generated.value(self._field, serial))

    def _record_key(self, record: Any) -> SortKey:
        """Rows without the sort field come last; those without an id, in the middle."""
        if isinstance(record, dict) and isinstance(record.get("id"), str):
            return self._key_of(record.get(self._field))
        if self._rising:
            return self.key(self._rising[len(self._rising) // 2])
        return "" if self._field == "id" else 0

    def _key_of(self, value: Any) -> SortKey:
        if self._field == "id":
            return value[::-1] if self.order_name == "shuffled" else value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
        return float("-inf" if self._descending else "inf")


class Store:
    """All four resources, thread-safe. Records are returned as copies.

    on_change: called with `created` or `updated`, the prospect, and the fields that were set.
    """

    def __init__(self, options: SandboxOptions, clock: ServerClock) -> None:
        self.lock = threading.RLock()
        self._options = options
        self._clock = clock
        self._tables: dict[str, Table] = {}
        for name in RESOURCES:
            shape = (options.seed, getattr(options, name), options.prospects, options.base_time_ms)
            self._tables[name] = Table(Generated(name, *shape), self._order_of(name))
        self._contacts: dict[tuple[str, str], list[int]] | None = None  # once they are needed
        self.on_change: Callable[[str, Record, Mapping[str, Any]], None] = lambda *_: None

    def table(self, resource: str) -> Table:
        """The rows in list order. Hold `lock` while using it.

        Raises:
            KeyError: no such resource.
        """
        table = self._tables[resource]
        wanted = self._order_of(resource)
        if table.order_name != wanted:
            table.sort_by(wanted)
        return table

    def _order_of(self, resource: str) -> str:
        if resource == "prospects":
            return self._options.prospects_order
        return DEFAULT_ORDERS[resource]

    def all(self, resource: str) -> list[Any]:
        """Every row in list order, malformed ones too."""
        with self.lock:
            table = self.table(resource)
            return [deepcopy(table.record(serial)) for serial in table.serials()]

    def count(self, resource: str) -> int:
        return len(self._tables[resource])

    def get(self, resource: str, record_id: str) -> Record | None:
        with self.lock:
            table = self._tables[resource]
            serial = table.serial_of(record_id)
            return None if serial is None else deepcopy(table.record(serial))

    def create(self, resource: str, fields: Mapping[str, Any], *, mute: bool = False) -> Record:
        """Add a record; fills in a missing `id`, `createdAt` and (except in notes) `updatedAt`.

        mute: no webhook.
        """
        now_ms = self._clock.now_ms()
        record: Record = {"id": uuid.uuid4().hex, **fields}
        record.setdefault("createdAt", now_ms)
        if resource != "notes":
            record.setdefault("updatedAt", now_ms)
        with self.lock:
            created = self.put(resource, record)
            if resource == "prospects" and not mute:
                self.on_change("created", created, fields)
            return created

    def update(
        self,
        resource: str,
        record_id: str,
        changes: Mapping[str, Any],
        *,
        touch: bool = True,
        mute: bool = False,
    ) -> Record:
        """Change some fields. touch: set `updatedAt` too (notes: only if the note has one).
        mute: no webhook.

        Raises:
            KeyError: no record has this id.
        """
        with self.lock:
            before = self.get(resource, record_id)
            if before is None:
                raise KeyError(f"{resource} has no record {record_id!r}")
            after = {**before, **deepcopy(dict(changes))}
            has_time = resource != "notes" or "updatedAt" in before
            if touch and has_time and "updatedAt" not in changes:
                before_ms = before.get("updatedAt")  # later than that, even within a millisecond
                later_ms = before_ms + 1 if isinstance(before_ms, int) else 0
                after["updatedAt"] = max(self._clock.now_ms(), later_ms)
            updated = self.put(resource, {**after, "id": record_id})
            if resource == "prospects" and not mute:
                self.on_change("updated", updated, changes)
            return updated

    def delete(self, resource: str, record_id: str) -> None:
        """Remove a record without a trace, as the API does.

        Raises:
            KeyError: no record has this id.
        """
        with self.lock:
            table = self._tables[resource]
            serial = table.serial_of(record_id)
            if serial is None:
                raise KeyError(f"{resource} has no record {record_id!r}")
            self._forget_contacts(resource, table.record(serial), serial)
            table.remove(serial)

    def put(self, resource: str, record: Row) -> Row:
        """Store any JSON value verbatim; a record whose id is known replaces that one.

        Rows without an id (or that aren't objects) are listed in the middle of the list.
        """
        with self.lock:
            table = self.table(resource)
            record_id = record.get("id") if isinstance(record, dict) else None
            serial = table.serial_of(record_id) if isinstance(record_id, str) else None
            if serial is None:
                serial = table.add(record)
            else:
                self._forget_contacts(resource, table.record(serial), serial)
                table.replace(serial, record)
            self._learn_contacts(resource, record, serial)
            return deepcopy(record)

    def prospects_by(self, contact: str, value: Any) -> list[int]:
        """Serial numbers of the prospects with the "email" or "phone" `value`, oldest first."""
        if self._contacts is None:
            self._contacts = {}
            for serial in self._tables["prospects"].serials():
                self._learn_contacts("prospects", self._tables["prospects"].record(serial), serial)
        key = CONTACT_KEYS[contact](value)
        return sorted(self._contacts.get((contact, key), ())) if key else []

    def _learn_contacts(self, resource: str, record: Any, serial: int) -> None:
        if resource == "prospects" and self._contacts is not None:
            for contact in _contacts_of(record):
                self._contacts.setdefault(contact, []).append(serial)

    def _forget_contacts(self, resource: str, record: Any, serial: int) -> None:
        if resource == "prospects" and self._contacts is not None:
            for contact in _contacts_of(record):
                self._contacts[contact].remove(serial)


def _contacts_of(record: Any) -> Iterator[tuple[str, str]]:
    if isinstance(record, dict) and isinstance(record.get("id"), str):
        for name, normalized in CONTACT_KEYS.items():
            if key := normalized(record.get(name)):
                yield name, key


def encode(value: Any) -> bytes:
    """JSON. Lone surrogates are escaped, and integers may have any size."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()
