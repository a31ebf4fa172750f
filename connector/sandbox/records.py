"""Generated records: each a pure function of seed, resource and serial number, made when asked for.

So a million records cost no memory until they are read, and the nth is the same on every machine.
Times rise with the serial number: `createdAt` of prospects and notes, `dueAt` of tasks,
`meetingDate` of meetings. Several neighbours share a millisecond, as imports make them do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from connector.sandbox import vocabulary as words
from connector.sandbox.identity import id_of, noise, serial_of

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
        """The record of `serial` (0 ≤ serial < count), a new dict each time."""
        mixed = noise(self.seed, _SALTS[self.resource], serial)
        return _MAKERS[self.resource](self, serial, mixed)

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


def _pick(options: tuple[Any, ...], mixed: int) -> Any:
    return options[mixed % len(options)]


def _prospect(made: Generated, serial: int, mixed: int) -> Record:
    created_ms = made.time_ms(serial) or 0
    stage_id, stage = _pick(words.STAGES, mixed >> 8)
    record: Record = {
        "id": made.id_of(serial),
        "firstName": _pick(words.FIRST_NAMES, mixed),
        "lastName": _pick(words.LAST_NAMES, mixed >> 16) if mixed % 41 else None,
        "email": _email(serial, mixed) if mixed % 19 else None,
        "phone": f"+1{2_010_000_000 + serial * 7919 % 7_000_000_000}" if mixed % 7 else None,
        "currentStage": stage,
        "currentStageId": stage_id,
        "labels": [words.LABELS[(mixed >> 24) % 8 - i] for i in range(mixed % 4)],
        "title": _pick(words.TITLES, mixed >> 32),
        "createdAt": created_ms,
        "updatedAt": _prospect_updated_ms(made, serial, mixed, created_ms),
    }
    if mixed % 5:
        record["company"] = _pick(words.COMPANIES, mixed >> 40) if mixed % 3 else None
    if mixed % 11 == 0:
        record["customFields"] = {
            "tier": mixed % 3,
            "scores": [1, 2.5, None],
            "more": {"ok": True, "名": "値"},
        }
    if mixed % 13 == 0:
        record["referralSource"] = "2025-01-01" if mixed % 2 else "Société «X»"
    return record


def _email(serial: int, mixed: int) -> str:
    if mixed % 53 == 0:
        return f"J.O'Neil+tag{serial}@Example.COM"
    return f"person{serial}@{'mail.' if mixed & 64 else ''}example.com"


def _prospect_updated_ms(made: Generated, serial: int, mixed: int, created_ms: int) -> int | None:
    if mixed % 23 == 0:
        return None
    if serial % 50 < 3:  # touched by one import: these share a millisecond
        return max(created_ms, made.base_time_ms - 3 * DAY_MS)
    return min(created_ms + mixed % (40 * DAY_MS), made.base_time_ms - mixed % 60_000)


def _note(made: Generated, serial: int, mixed: int) -> Record:
    by_api = mixed % 6 == 0
    record: Record = {
        "id": made.id_of(serial),
        "prospectId": made.prospect_id(mixed >> 4),
        "userId": _pick(words.USERS, mixed >> 8),
        "body": _pick(words.NOTE_BODIES, mixed >> 12),
        "createdAt": made.time_ms(serial),
        "createdByApi": by_api,
        "createdByApiKeyId": f"key_{mixed % 4}" if by_api else None,
        "pin": mixed % 17 == 0,
    }
    if by_api:
        record["createdByApiKeyName"] = "Zapier – “prod”"
    if mixed % 4 == 0:
        record["mentions"] = (
            [{"userId": _pick(words.USERS, mixed >> 20), "name": "Zoë 🌟"}] if mixed % 8 else []
        )
    if mixed % 9 == 0:
        record["fileUrl"] = f"https://files.example.com/{serial}.pdf" if mixed % 2 else None
    if mixed % 10 == 0:
        record["updatedAt"] = (record["createdAt"] or 0) + mixed % DAY_MS
    return record


def _task(made: Generated, serial: int, mixed: int) -> Record:
    due_ms = made.time_ms(serial)
    created_ms = (
        min(made.base_time_ms if due_ms is None else due_ms, made.base_time_ms)
        - mixed % (9 * DAY_MS)
        - 1
    )
    done_ms = created_ms + (mixed >> 8) % (6 * DAY_MS)
    completed_ms = done_ms if mixed % 3 and done_ms < made.base_time_ms else None
    record: Record = {
        "id": made.id_of(serial),
        "prospectId": made.prospect_id(mixed >> 4),
        "task": _pick(words.TASKS, mixed >> 16),
        "assignedTo": _pick(words.USERS, mixed >> 20),
        "assignedBy": _pick(words.USERS, mixed >> 24) if mixed % 8 else None,
        "createdAt": created_ms,
        "updatedAt": completed_ms or created_ms,
        "dueAt": due_ms,
        "completedAt": completed_ms,
        "createdByApi": mixed % 5 == 0,
    }
    if mixed % 6:
        record["createdBy"] = _pick(words.USERS, mixed >> 28)
    if mixed % 14 == 0:
        record["recurrence"] = {"every": mixed % 4 + 1, "unit": "week", "days": ["mon", "fri"]}
    return record


def _meeting(made: Generated, serial: int, mixed: int) -> Record:
    meeting_ms = made.time_ms(serial) or 0
    created_ms = min(meeting_ms, made.base_time_ms) - mixed % (20 * DAY_MS) - 1
    record: Record = {
        "id": made.id_of(serial),
        "prospectId": made.prospect_id(mixed >> 4),
        "meetingDate": meeting_ms,
        "timeZone": _pick(words.TIME_ZONES, mixed >> 16),
        "meetingType": _pick(words.MEETING_TYPES, mixed >> 20),
        "ownerId": _pick(words.USERS, mixed >> 24),
        "location": _pick(words.LOCATIONS, mixed >> 28),
        "createdByApi": mixed % 7 == 0,
        "createdAt": created_ms,
        "updatedAt": created_ms + mixed % DAY_MS if mixed % 15 else None,
    }
    if mixed % 3:
        record["notes"] = "Intro call and role overview\n— bring <ID> & résumé" if mixed % 2 else ""
    if mixed % 4:
        record["createdBy"] = _pick(words.USERS, mixed >> 32)
    if mixed % 12 == 0:
        record["attendees"] = [{"email": f"guest{serial}@example.com", "optional": mixed % 2 == 0}]
    return record


_MAKERS: dict[str, Callable[[Generated, int, int], Record]] = {
    "prospects": _prospect,
    "notes": _note,
    "tasks": _task,
    "meetings": _meeting,
}
