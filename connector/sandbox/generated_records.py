"""Generated records: each a pure function of seed, resource and serial number, made when needed.

So a million records cost no memory, and the nth is the same on every machine: its own fields (id,
contacts, relations, times) come from its number, its texts are one of a few thousand variants.
Times rise with the serial number: `createdAt` of prospects and notes, `dueAt` of tasks,
`meetingDate` of meetings. Several neighbors share a millisecond, as imports make them do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

DAY_MS = 86_400_000
SORT_FIELDS = {
    "prospects": "createdAt", "notes": "createdAt", "tasks": "dueAt", "meetings": "meetingDate"
}  # fmt: skip
_SPANS_MS = {
    "prospects": (-700 * DAY_MS, -60_000),
    "notes": (-600 * DAY_MS, -30_000),
    "tasks": (-200 * DAY_MS, 60 * DAY_MS),
    "meetings": (-180 * DAY_MS, 90 * DAY_MS),
}
_VARIANT_SALT = 100
VARIANTS = 4096
_ID_SPACE = 1 << 128
_ID_FACTOR = 0x9E3779B97F4A7C15F39CC0605CEDC835  # odd, so multiplication permutes the ids
_ID_INVERSE = pow(_ID_FACTOR, -1, _ID_SPACE)
_MASK = (1 << 64) - 1
_SALTS = {"prospects": 1, "notes": 2, "tasks": 3, "meetings": 4}

Record = dict[str, Any]


@dataclass(frozen=True)
class Generated:
    """The records that a resource starts with.

    count, prospects: how many there are of this resource, and of prospects (notes, tasks and
    meetings belong to them). base_time_ms: the latest time in prospects and notes.
    """

    resource: str
    seed: int
    count: int
    prospects: int
    base_time_ms: int

    def record(self, serial: int) -> Record:
        """The record of `serial` (0 ≤ serial < count); lists and objects in it are shared."""
        own, (texts, _) = self._parts(serial)
        return {**own, **texts}

    def encoded(self, serial: int) -> bytes:
        """The same as JSON, made of a variant that is already encoded."""
        own, (_, texts) = self._parts(serial)
        return b"%b,%b" % (orjson.dumps(own)[:-1], texts[1:])

    def _parts(self, serial: int) -> tuple[Record, tuple[Record, bytes]]:
        mixed = noise(self.seed, _SALTS[self.resource], serial)
        own = _MAKERS[self.resource][0](self, serial, mixed >> 34)  # 30 bits: the fast ints
        return own, _variant(self.resource, self.seed, mixed % VARIANTS)

    def id_of(self, serial: int) -> str:
        """32 hexadecimal digits."""
        return _id_of(self.seed, self.resource, serial)

    def serial_of(self, record_id: str) -> int | None:
        """The serial number behind an id; None where it was never generated."""
        try:
            number = int(record_id, 16)
        except ValueError:
            return None
        serial = (number - _offset(self.seed, self.resource)) * _ID_INVERSE % _ID_SPACE
        return serial if serial < self.count and self.id_of(serial) == record_id else None

    def value(self, field: str, serial: int) -> Any:
        """One field of the record of `serial`; cheap for its id and its sort field."""
        if field == "id":
            return self.id_of(serial)
        if field == SORT_FIELDS[self.resource]:
            return self.time_ms(serial)
        return self.record(serial).get(field)

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
        return _id_of(self.seed, "prospects", mixed % self.prospects)


def _prospect(made: Generated, serial: int, mixed: int) -> Record:
    created_ms = made.time_ms(serial) or 0
    email = f"person{serial}@{'mail.' if mixed & 64 else ''}example.com"
    if mixed % 53 == 0:
        email = f"J.O'Neil+tag{serial}@Example.COM"
    updated_ms = min(created_ms + 4 * mixed, made.base_time_ms - mixed % 60_000)
    if serial % 50 < 3:  # touched by one import: these share a millisecond
        updated_ms = max(created_ms, made.base_time_ms - 3 * DAY_MS)
    return {
        "id": made.id_of(serial),
        "email": email if mixed % 19 else None,
        "phone": f"+1{2_010_000_000 + serial * 7919 % 7_000_000_000}" if mixed % 7 else None,
        "createdAt": created_ms,
        "updatedAt": updated_ms if mixed % 23 else None,
    }


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


# --- words: what recruiters really type, in many scripts -------------------------------------

FIRST_NAMES = (
    "Avery", "José", "Zoë", "Nguyễn", "李", "さくら", "محمد", "Σοφία", "Дмитро", "O'Brien",
    "Anne-Marie", "Łukasz", "अनिका", "한별", "שרה", "Jo\u0308rg", "Renée", "Mary  Jane", "D’Arcy",
    "👩‍💻 Ada",
)  # fmt: skip
LAST_NAMES = (
    "Coleman", "García Márquez", "Müller", "Trần", "小明", "田中", "العربي", "Παπαδοπούλου",
    "Шевченко", "McDonald", "van der Berg", "Żółć", "शर्मा", "김", "כהן", "N\u0303andu\u0301",
    'Smith "Smitty"', "Null", "Ortiz, Jr.", "🦄",
)  # fmt: skip
STAGES = (
    ("stg_new", "New"), ("stg_contacted", "Contacted"), ("stg_interview", "Interview"),
    ("stg_offer", "Offer"), ("stg_licensing", "Licensing – Exam"),
    ("stg_hired", "Hired"), ("stg_lost", "Not a fit"),
)  # fmt: skip
PIPELINES = {"pipe_agents": "stg_new", "pipe_licensing": "stg_licensing"}
LABELS = ("Inbound", "Referral", "Ünïcode", "hot;lead", "a,b", "VIP 🌟", "2025", "true")
TITLES = ("Agent", "Senior Agent", "Broker / Owner", "Chef d’équipe", "", "=SUM(A1)", "営業")
COMPANIES = ("Acme & Sons", "Δέλτα Α.Ε.", "北京 GmbH", "O\\Reilly", "<none>", "1/2 Realty")
USERS = tuple(f"{number:032x}" for number in range(0xA7C1E9D34B2F4D8A, 0xA7C1E9D34B2F4D8A + 9))
NOTE_BODIES = (
    "<p>Spoke with prospect and confirmed interest in next steps.</p>",
    "<p>Left a <b>voicemail</b> &amp; sent an e-mail.<br/>Try again at 5&nbsp;pm</p>",
    '<ul><li>License: in progress</li><li><a href="https://example.com/?a=1&amp;b=2">CV</a></li></ul>',
    "<p>次の面接は来週です。🎉</p>",
    '<p dir="rtl">تم الاتصال</p>',
    "plain text\nwith two lines\tand a tab",
    "",
    "<p>He said: “I’ll think about it” — <i>maybe</i> \\ 100%</p>",
)
TASKS = (
    "Send follow-up email with calendar options", "Call back ☎", "Schicke Vertrag", "確認する",
    "Check references; ask about 'notice'", "",
)  # fmt: skip
MEETING_TYPES = ("virtual", "in_person", "phone")
TIME_ZONES = (
    "America/New_York", "Europe/Berlin", "Asia/Tokyo", "America/Argentina/Buenos_Aires", "UTC",
    "Asia/Kolkata",
)  # fmt: skip
LOCATIONS = (
    "Zoom", "Café Zürich", "", None, "1 Main St, Suite #5", "https://meet.example.com/abc?x=1",
)  # fmt: skip


# --- texts: shared between records, so that a page costs little more than copying -----------


@lru_cache(maxsize=8 * VARIANTS)
def _variant(resource: str, seed: int, number: int) -> tuple[dict[str, Any], bytes]:
    """Variant `number`, and the same as JSON. Both are shared: don't change them."""
    made = _MAKERS[resource][1](noise(seed, _VARIANT_SALT, number))
    return made, orjson.dumps(made)


def _pick(options: tuple[Any, ...], mixed: int) -> Any:
    return options[mixed % len(options)]


def _prospect_words(mixed: int) -> Record:
    stage_id, stage = _pick(STAGES, mixed >> 8)
    texts = {
        "firstName": _pick(FIRST_NAMES, mixed),
        "lastName": _pick(LAST_NAMES, mixed >> 16) if mixed % 41 else None,
        "currentStage": stage,
        "currentStageId": stage_id,
        "labels": [LABELS[(mixed >> 24) % 8 - i] for i in range(mixed % 4)],
        "title": _pick(TITLES, mixed >> 32),
    }
    if mixed % 5:
        texts["company"] = _pick(COMPANIES, mixed >> 40) if mixed % 3 else None
    if mixed % 11 == 0:
        nested = {"ok": True, "名": "値"}
        texts["customFields"] = {"tier": mixed % 3, "scores": [1, 2.5, None], "more": nested}
    if mixed % 13 == 0:
        texts["referralSource"] = "2025-01-01" if mixed % 2 else "Société «X»"
    return texts


def _note_words(mixed: int) -> Record:
    by_api = mixed % 6 == 0
    texts = {
        "userId": _pick(USERS, mixed >> 8),
        "body": _pick(NOTE_BODIES, mixed >> 12),
        "createdByApi": by_api,
        "createdByApiKeyId": f"key_{mixed % 4}" if by_api else None,
        "pin": mixed % 17 == 0,
    }
    if by_api:
        texts["createdByApiKeyName"] = "Zapier – “prod”"
    if mixed % 4 == 0:
        mention = {"userId": _pick(USERS, mixed >> 20), "name": "Zoë 🌟"}
        texts["mentions"] = [mention] if mixed % 8 else []
    if mixed % 9 == 0:
        texts["fileUrl"] = f"https://files.example.com/{mixed % 977}.pdf" if mixed % 2 else None
    return texts


def _task_words(mixed: int) -> Record:
    texts = {
        "task": _pick(TASKS, mixed >> 16),
        "assignedTo": _pick(USERS, mixed >> 20),
        "assignedBy": _pick(USERS, mixed >> 24) if mixed % 8 else None,
        "createdByApi": mixed % 5 == 0,
    }
    if mixed % 6:
        texts["createdBy"] = _pick(USERS, mixed >> 28)
    if mixed % 14 == 0:
        texts["recurrence"] = {"every": mixed % 4 + 1, "unit": "week", "days": ["mon", "fri"]}
    return texts


def _meeting_words(mixed: int) -> Record:
    texts = {
        "timeZone": _pick(TIME_ZONES, mixed >> 16),
        "meetingType": _pick(MEETING_TYPES, mixed >> 20),
        "ownerId": _pick(USERS, mixed >> 24),
        "location": _pick(LOCATIONS, mixed >> 28),
        "createdByApi": mixed % 7 == 0,
    }
    if mixed % 3:
        texts["notes"] = "Intro call and role overview\n— bring <ID> & résumé" if mixed % 2 else ""
    if mixed % 4:
        texts["createdBy"] = _pick(USERS, mixed >> 32)
    if mixed % 12 == 0:
        guest = {"email": f"guest{mixed % 89}@example.com", "optional": mixed % 2 == 0}
        texts["attendees"] = [guest]
    return texts


_MAKERS: dict[str, tuple[Callable[[Generated, int, int], Record], Callable[[int], Record]]] = {
    "prospects": (_prospect, _prospect_words),
    "notes": (_note, _note_words),
    "tasks": (_task, _task_words),
    "meetings": (_meeting, _meeting_words),
}


# --- noise and ids from serial numbers -------------------------------------------------------


def noise(seed: int, salt: int, serial: int) -> int:
    """64 well mixed bits (splitmix64)."""
    x = serial * 0x9E3779B97F4A7C15 + seed * 0xD1B54A32D192ED03 + salt * 0x8CB92BA72F3D8DD7
    x &= _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def _id_of(seed: int, resource: str, serial: int) -> str:
    """Different for every serial number."""
    return f"{(serial * _ID_FACTOR + _offset(seed, resource)) % _ID_SPACE:032x}"


@lru_cache(maxsize=64)
def _offset(seed: int, resource: str) -> int:
    salt = _SALTS[resource]
    return noise(seed, salt, 1 << 40) << 64 | noise(seed, salt, 1 << 41)
