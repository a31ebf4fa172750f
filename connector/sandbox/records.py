"""Generated records: each a pure function of seed, resource and serial number, made when asked for.

So a million records cost no memory until they are read, and the nth is the same on every machine.
Times rise with the serial number: `createdAt` of prospects and notes, `dueAt` of tasks,
`meetingDate` of meetings. Several neighbours share a millisecond, as imports make them do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from connector.sandbox import vocabulary as words

DAY_MS = 86_400_000
SORT_FIELDS = {
    "prospects": "createdAt",
    "notes": "createdAt",
    "tasks": "dueAt",
    "meetings": "meetingDate",
}
_SALTS = {"prospects": 1, "notes": 2, "tasks": 3, "meetings": 4}
_ID_SPACE = 1 << 128
_ID_FACTOR = 0x9E3779B97F4A7C15F39CC0605CEDC835  # odd, so multiplication permutes the ids
_ID_INVERSE = pow(_ID_FACTOR, -1, _ID_SPACE)
_MASK = (1 << 64) - 1

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
        return _MAKERS[self.resource](
            self, serial, _noise(self.seed, _SALTS[self.resource], serial)
        )

    def id_of(self, serial: int) -> str:
        """32 hexadecimal digits."""
        return _id(self.seed, _SALTS[self.resource], serial)

    def serial_of(self, record_id: str) -> int | None:
        """The serial number behind an id; None where it was never generated."""
        try:
            number = int(record_id, 16)
        except ValueError:
            return None
        offset = _id_offset(self.seed, _SALTS[self.resource])
        serial = (number - offset) * _ID_INVERSE % _ID_SPACE
        return serial if serial < self.count and self.id_of(serial) == record_id else None

    def time_ms(self, serial: int) -> int | None:
        """The value of the resource's sort field; None for the tasks that have no `dueAt`."""
        first_ms, last_ms = _SPANS_MS[self.resource]
        if self.resource == "tasks" and serial >= self.count - self.count // 100:
            return None
        shared = serial - serial % 4 if serial % 16 < 4 else serial
        return self.base_time_ms + first_ms + shared * (last_ms - first_ms) // self.count

    def prospect_id(self, noise: int) -> str | None:
        return (
            _id(self.seed, _SALTS["prospects"], noise % self.prospects) if self.prospects else None
        )


_SPANS_MS = {
    "prospects": (-700 * DAY_MS, -60_000),
    "notes": (-600 * DAY_MS, -30_000),
    "tasks": (-200 * DAY_MS, 60 * DAY_MS),
    "meetings": (-180 * DAY_MS, 90 * DAY_MS),
}


def _noise(seed: int, salt: int, serial: int) -> int:
    """64 well mixed bits (splitmix64)."""
    x = (
        serial * 0x9E3779B97F4A7C15 + seed * 0xD1B54A32D192ED03 + salt * 0x8CB92BA72F3D8DD7
    ) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


@lru_cache(maxsize=64)
def _id_offset(seed: int, salt: int) -> int:
    return _noise(seed, salt, 1 << 40) << 64 | _noise(seed, salt, 1 << 41)


def _id(seed: int, salt: int, serial: int) -> str:
    return "%032x" % ((serial * _ID_FACTOR + _id_offset(seed, salt)) % _ID_SPACE)


def _pick(options: tuple[Any, ...], noise: int) -> Any:
    return options[noise % len(options)]


def _prospect(made: Generated, serial: int, noise: int) -> Record:
    created_ms = made.time_ms(serial) or 0
    stage_id, stage = _pick(words.STAGES, noise >> 8)
    record: Record = {
        "id": made.id_of(serial),
        "firstName": _pick(words.FIRST_NAMES, noise),
        "lastName": _pick(words.LAST_NAMES, noise >> 16) if noise % 41 else None,
        "email": _email(serial, noise) if noise % 19 else None,
        "phone": f"+1{2_010_000_000 + serial * 7919 % 7_000_000_000}" if noise % 7 else None,
        "currentStage": stage,
        "currentStageId": stage_id,
        "labels": [words.LABELS[(noise >> 24) % 8 - i] for i in range(noise % 4)],
        "title": _pick(words.TITLES, noise >> 32),
        "createdAt": created_ms,
        "updatedAt": _prospect_updated_ms(made, serial, noise, created_ms),
    }
    if noise % 5:
        record["company"] = _pick(words.COMPANIES, noise >> 40) if noise % 3 else None
    if noise % 11 == 0:
        record["customFields"] = {
            "tier": noise % 3,
            "scores": [1, 2.5, None],
            "more": {"ok": True, "名": "値"},
        }
    if noise % 13 == 0:
        record["referralSource"] = "2025-01-01" if noise % 2 else "Société «X»"
    return record


def _email(serial: int, noise: int) -> str:
    if noise % 53 == 0:
        return f"J.O'Neil+tag{serial}@Example.COM"
    return f"person{serial}@{'mail.' if noise & 64 else ''}example.com"


def _prospect_updated_ms(made: Generated, serial: int, noise: int, created_ms: int) -> int | None:
    if noise % 23 == 0:
        return None
    if serial % 50 < 3:  # touched by one import: these share a millisecond
        return max(created_ms, made.base_time_ms - 3 * DAY_MS)
    return min(created_ms + noise % (40 * DAY_MS), made.base_time_ms - noise % 60_000)


def _note(made: Generated, serial: int, noise: int) -> Record:
    by_api = noise % 6 == 0
    record: Record = {
        "id": made.id_of(serial),
        "prospectId": made.prospect_id(noise >> 4),
        "userId": _pick(words.USERS, noise >> 8),
        "body": _pick(words.NOTE_BODIES, noise >> 12),
        "createdAt": made.time_ms(serial),
        "createdByApi": by_api,
        "createdByApiKeyId": f"key_{noise % 4}" if by_api else None,
        "pin": noise % 17 == 0,
    }
    if by_api:
        record["createdByApiKeyName"] = "Zapier – “prod”"
    if noise % 4 == 0:
        record["mentions"] = (
            [{"userId": _pick(words.USERS, noise >> 20), "name": "Zoë 🌟"}] if noise % 8 else []
        )
    if noise % 9 == 0:
        record["fileUrl"] = f"https://files.example.com/{serial}.pdf" if noise % 2 else None
    if noise % 10 == 0:
        record["updatedAt"] = (record["createdAt"] or 0) + noise % DAY_MS
    return record


def _task(made: Generated, serial: int, noise: int) -> Record:
    due_ms = made.time_ms(serial)
    created_ms = (
        min(made.base_time_ms if due_ms is None else due_ms, made.base_time_ms)
        - noise % (9 * DAY_MS)
        - 1
    )
    done_ms = created_ms + (noise >> 8) % (6 * DAY_MS)
    completed_ms = done_ms if noise % 3 and done_ms < made.base_time_ms else None
    record: Record = {
        "id": made.id_of(serial),
        "prospectId": made.prospect_id(noise >> 4),
        "task": _pick(words.TASKS, noise >> 16),
        "assignedTo": _pick(words.USERS, noise >> 20),
        "assignedBy": _pick(words.USERS, noise >> 24) if noise % 8 else None,
        "createdAt": created_ms,
        "updatedAt": completed_ms or created_ms,
        "dueAt": due_ms,
        "completedAt": completed_ms,
        "createdByApi": noise % 5 == 0,
    }
    if noise % 6:
        record["createdBy"] = _pick(words.USERS, noise >> 28)
    if noise % 14 == 0:
        record["recurrence"] = {"every": noise % 4 + 1, "unit": "week", "days": ["mon", "fri"]}
    return record


def _meeting(made: Generated, serial: int, noise: int) -> Record:
    meeting_ms = made.time_ms(serial) or 0
    created_ms = min(meeting_ms, made.base_time_ms) - noise % (20 * DAY_MS) - 1
    record: Record = {
        "id": made.id_of(serial),
        "prospectId": made.prospect_id(noise >> 4),
        "meetingDate": meeting_ms,
        "timeZone": _pick(words.TIME_ZONES, noise >> 16),
        "meetingType": _pick(words.MEETING_TYPES, noise >> 20),
        "ownerId": _pick(words.USERS, noise >> 24),
        "location": _pick(words.LOCATIONS, noise >> 28),
        "createdByApi": noise % 7 == 0,
        "createdAt": created_ms,
        "updatedAt": created_ms + noise % DAY_MS if noise % 15 else None,
    }
    if noise % 3:
        record["notes"] = "Intro call and role overview\n— bring <ID> & résumé" if noise % 2 else ""
    if noise % 4:
        record["createdBy"] = _pick(words.USERS, noise >> 32)
    if noise % 12 == 0:
        record["attendees"] = [{"email": f"guest{serial}@example.com", "optional": noise % 2 == 0}]
    return record


_MAKERS: dict[str, Callable[[Generated, int, int], Record]] = {
    "prospects": _prospect,
    "notes": _note,
    "tasks": _task,
    "meetings": _meeting,
}
