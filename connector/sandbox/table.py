"""The records of one resource in the order of its list: generated when read, kept if changed."""

from __future__ import annotations

import json
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import orjson

from connector.sandbox.generated_records import SORT_FIELDS, Generated, Record

ENCODED_KEPT = 200_000  # rows; about 100 MB
_DESCENDING = {"newest", "recently_updated", "furthest"}
DEFAULT_ORDERS = {
    "prospects": "newest", "notes": "newest", "tasks": "soonest", "meetings": "furthest"
}  # fmt: skip
_AFTER_ALL = float("inf")

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
        self._name_order(order_name)
        if order_name in {"id", "shuffled", "recently_updated"}:  # in others, serials rise already
            self.sort_by(order_name)

    def __len__(self) -> int:
        return len(self._rising)

    def sort_by(self, order_name: str) -> None:
        """Put all rows into another order."""
        self._name_order(order_name)
        self._kept_keys = {}  # `_middle_key` reads it
        self._kept_keys = {row: self._key_of_record(record) for row, record in self._kept.items()}
        self._rising.sort(key=self._order_of)
        self.version += 1

    def _name_order(self, order_name: str) -> None:
        self.order_name = order_name
        self._descending = order_name in _DESCENDING
        self._generated_key = self._key_of_generated(order_name)

    def serials(self) -> Iterator[int]:
        """All rows, in list order."""
        return reversed(self._rising) if self._descending else iter(self._rising)

    def serials_between(self, start: int, stop: int) -> list[int]:
        """Rows `start` to `stop` (exclusive) of the list."""
        if not self._descending:
            return self._rising[start:stop]
        size = len(self._rising)
        return self._rising[max(size - stop, 0) : max(size - start, 0)][::-1]

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
        self._kept_keys[serial] = self._key_of_record(record)
        self._encoded.pop(serial, None)
        insort(self._rising, serial, key=self._order_of)
        self.version += 1

    def _take_out(self, serial: int) -> None:
        self._encoded.pop(serial, None)
        del self._rising[bisect_left(self._rising, self._order_of(serial), key=self._order_of)]

    def _order_of(self, serial: int) -> tuple[SortKey, int]:
        return self.key(serial), serial

    def _key_of_generated(self, order_name: str) -> Callable[[int], SortKey]:
        made = self.generated
        if order_name == "id":
            return made.id_of
        if order_name == "shuffled":
            return lambda serial: made.id_of(serial)[::-1]
        if order_name == "recently_updated":
            return lambda serial: self._time_key(made.record(serial).get("updatedAt"))
        return lambda serial: self._time_key(made.time_ms(serial))

    def _key_of_record(self, record: Any) -> SortKey:
        """Rows without the sort field come last; those without an id, in the middle."""
        if not isinstance(record, dict) or not isinstance(record.get("id"), str):
            return self._middle_key()
        if self.order_name in {"id", "shuffled"}:
            return record["id"] if self.order_name == "id" else record["id"][::-1]
        by_update = self.order_name == "recently_updated"
        field = "updatedAt" if by_update else SORT_FIELDS[self.generated.resource]
        return self._time_key(record.get(field))

    def _time_key(self, value: Any) -> float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
        return -_AFTER_ALL if self._descending else _AFTER_ALL

    def _middle_key(self) -> SortKey:
        if self._rising:
            return self.key(self._rising[len(self._rising) // 2])
        return "" if self.order_name in {"id", "shuffled"} else 0


def matching(table: Table, wanted: Callable[[Record], bool]) -> list[int]:
    """Serial numbers of the rows that `wanted` accepts, in list order; never malformed ones."""
    return [
        s for s in table.serials() if isinstance(record := table.record(s), dict) and wanted(record)
    ]


def encode(value: Any) -> bytes:
    """JSON. Lone surrogates are escaped, and integers may have any size."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()
