"""The account's data: the API serves and writes it, and tests inspect and change it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeVar

from connector.sandbox.generated_records import Generated, Record
from connector.sandbox.request_checks import CONTACT_KEYS
from connector.sandbox.sandbox_options import RESOURCES, SandboxOptions
from connector.sandbox.table import DEFAULT_ORDERS, Table

if TYPE_CHECKING:
    from connector.sandbox.state import ServerClock

Row = TypeVar("Row")  # any JSON value


class Store:
    """All four resources, thread-safe. Records are returned as copies.

    on_change: called with `created` or `updated`, the prospect, and the fields that were set.
    """

    def __init__(self, options: SandboxOptions, clock: ServerClock) -> None:
        self.lock = threading.RLock()
        self._options = options
        self._clock = clock
        self._tables = {
            name: Table(_generated(name, options), self._order_of(name)) for name in RESOURCES
        }
        self._contacts: dict[str, dict[str, list[int]]] | None = None
        self.on_change: Callable[[str, Record, Mapping[str, Any]], None] | None = None

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
        with self.lock:
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
            self._tell("created", resource, created, fields, mute)
            return created

    def _tell(
        self, action: str, resource: str, record: Record, fields: Mapping[str, Any], mute: bool
    ) -> None:
        if self.on_change is not None and resource == "prospects" and not mute:
            self.on_change(action, record, fields)

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
                after["updatedAt"] = _later(self._clock.now_ms(), before.get("updatedAt"))
            updated = self.put(resource, {**after, "id": record_id})
            self._tell("updated", resource, updated, changes, mute)
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
            self._contacts = {name: {} for name in CONTACT_KEYS}
            for serial in self._tables["prospects"].serials():
                self._learn_contacts("prospects", self._tables["prospects"].record(serial), serial)
        key = CONTACT_KEYS[contact](value)
        return sorted(self._contacts[contact].get(key, [])) if key else []

    def _learn_contacts(self, resource: str, record: Any, serial: int) -> None:
        for name, key in self._contact_keys(resource, record):
            assert self._contacts is not None
            self._contacts[name].setdefault(key, []).append(serial)

    def _forget_contacts(self, resource: str, record: Any, serial: int) -> None:
        for name, key in self._contact_keys(resource, record):
            assert self._contacts is not None
            self._contacts[name][key].remove(serial)

    def _contact_keys(self, resource: str, record: Any) -> list[tuple[str, str]]:
        is_record = isinstance(record, dict) and isinstance(record.get("id"), str)
        if self._contacts is None or resource != "prospects" or not is_record:
            return []
        keys = [(name, normalize(record.get(name))) for name, normalize in CONTACT_KEYS.items()]
        return [(name, key) for name, key in keys if key]


def _generated(resource: str, options: SandboxOptions) -> Generated:
    count = options.count_of(resource)
    return Generated(resource, options.seed, count, options.prospects, options.base_time_ms)


def _later(now_ms: int, before_ms: Any) -> int:
    """A later `updatedAt` than the one before, even within the same millisecond."""
    return max(now_ms, before_ms + 1) if isinstance(before_ms, int) else now_ms
