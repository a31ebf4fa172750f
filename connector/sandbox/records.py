"""Generated records: each a pure function of seed, resource and serial number, made when asked for.

So a million records cost no memory, and the nth is the same on every machine: what is its own (id,
contacts, relations, times) comes from its number, what it says is one of a few thousand variants.
Times rise with the serial number: `createdAt` of prospects and notes, `dueAt` of tasks,
`meetingDate` of meetings. Several neighbours share a millisecond, as imports make them do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from connector.sandbox.identity import id_of, noise, serial_of
from connector.sandbox.variants import COUNT, variant

DAY_MS = 86_400_000
SORT_FIELDS = {
    "prospects": "createdAt",
    "notes": "createdAt",
    "tasks": "dueAt",
    "meetings": "meetingDate",
}
_SPANS_MS = {
    "prospects": (-700 * DAY_MS, -60_000),
    "notes": (-600 * DAY_MS, -30_000),
    "tasks": (-200 * DAY_MS, 60 * DAY_MS),
    "meetings": (-180 * DAY_MS, 90 * DAY_MS),
}
_SALTS = {"prospects": 1, "notes": 2, "tasks": 3, "meetings": 4}

Record = dict[str, Any]


@dataclass(frozen=True)
class Generated:
    """The records that a resource starts with.

    count, prospects: how many there are of this resource, and of prospects (notes, tasks and
    meetings belong to them). base_time_ms: the latest time that prospects and notes know of.
    """

    resource: str
    seed: int
    count: int
    prospects: int
    base_time_ms: int

    def record(self, serial: int) -> Record:
        """The record of `serial` (0 ≤ serial < count); lists and objects in it are shared."""
        own, (said, _) = self._parts(serial)
        return {**own, **said}

    def encoded(self, serial: int) -> bytes:
        """The same as JSON, from parts that are JSON already where they can be."""
        own, (_, said) = self._parts(serial)
        return b"%b,%b" % (orjson.dumps(own)[:-1], said[1:])

    def _parts(self, serial: int) -> tuple[Record, tuple[Record, bytes]]:
        mixed = noise(self.seed, _SALTS[self.resource], serial)
        own = _OWN_PARTS[self.resource](self, serial, mixed >> 34)  # 30 bits: the fast ints
        return own, variant(self.resource, self.seed, mixed % COUNT)

    def id_of(self, serial: int) -> str:
        """32 hexadecimal digits."""
        return id_of(self.seed, _SALTS[self.resource], serial)

    def serial_of(self, record_id: str) -> int | None:
        """The serial number behind an id; None where it was never generated."""
        serial = serial_of(self.seed, _SALTS[self.resource], record_id)
        return serial if serial is not None and serial < self.count else None

    def time_ms(self, serial: int) -> int | None:
        """The value of the resource's sort field; None for the tasks that have no `dueAt`."""
        first_ms, last_ms = _SPANS_MS[self.resource]
        if self.resource == "tasks" and serial >= self.count - self.count // 100:
            return None
        shared = serial - serial % 4 if serial % 16 < 4 else serial
        return self.base_time_ms + first_ms + shared * (last_ms - first_ms) // max(self.count, 1)

    def prospect_id(self, mixed: int) -> str | None:
        """Some prospect's id; None where there are none."""
        if not self.prospects:
            return None
        return id_of(self.seed, _SALTS["prospects"], mixed % self.prospects)


def _prospect(made: Generated, serial: int, mixed: int) -> Record:
    created_ms = made.time_ms(serial) or 0
    return {
        "id": made.id_of(serial),
        "email": _email(serial, mixed) if mixed % 19 else None,
        "phone": f"+1{2_010_000_000 + serial * 7919 % 7_000_000_000}" if mixed % 7 else None,
        "createdAt": created_ms,
        "updatedAt": _prospect_updated_ms(made, serial, mixed, created_ms),
    }


def _email(serial: int, mixed: int) -> str:
    if mixed % 53 == 0:
        return f"J.O'Neil+tag{serial}@Example.COM"
    return f"person{serial}@{'mail.' if mixed & 64 else ''}example.com"


def _prospect_updated_ms(made: Generated, serial: int, mixed: int, created_ms: int) -> int | None:
    if mixed % 23 == 0:
        return None
    if serial % 50 < 3:  # touched by one import: these share a millisecond
        return max(created_ms, made.base_time_ms - 3 * DAY_MS)
    return min(created_ms + 4 * mixed, made.base_time_ms - mixed % 60_000)


def _note(made: Generated, serial: int, mixed: int) -> Record:
    created_ms = made.time_ms(serial) or 0
    record: Record = {
        "id": made.id_of(serial),
        "prospectId": made.prospect_id(mixed),
        "createdAt": created_ms,
    }
    if mixed % 10 == 0:
        record["updatedAt"] = created_ms + mixed % DAY_MS
    return record


def _task(made: Generated, serial: int, mixed: int) -> Record:
    due_ms = made.time_ms(serial)
    known_ms = made.base_time_ms if due_ms is None else min(due_ms, made.base_time_ms)
    created_ms = known_ms - mixed % (9 * DAY_MS) - 1
    done_ms = created_ms + mixed * 7 % (6 * DAY_MS)
    completed_ms = done_ms if mixed % 3 and done_ms < made.base_time_ms else None
    return {
        "id": made.id_of(serial),
        "prospectId": made.prospect_id(mixed),
        "createdAt": created_ms,
        "updatedAt": completed_ms or created_ms,
        "dueAt": due_ms,
        "completedAt": completed_ms,
    }


def _meeting(made: Generated, serial: int, mixed: int) -> Record:
    meeting_ms = made.time_ms(serial) or 0
    created_ms = min(meeting_ms, made.base_time_ms) - mixed % (20 * DAY_MS) - 1
    return {
        "id": made.id_of(serial),
        "prospectId": made.prospect_id(mixed),
        "meetingDate": meeting_ms,
        "createdAt": created_ms,
        "updatedAt": created_ms + mixed % DAY_MS if mixed % 15 else None,
    }


_OWN_PARTS: dict[str, Callable[[Generated, int, int], Record]] = {
    "prospects": _prospect,
    "notes": _note,
    "tasks": _task,
    "meetings": _meeting,
}
