"""What generated records say, apart from whose and when: a few thousand variants per resource.

They are shared between records, so that serving a page costs little more than copying bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import orjson

from connector.sandbox import vocabulary as words
from connector.sandbox.identity import noise

COUNT = 4096
_SALT = 100


@lru_cache(maxsize=8 * COUNT)
def variant(resource: str, seed: int, number: int) -> tuple[dict[str, Any], bytes]:
    """Variant `number` (below `COUNT`), and the same as JSON. Both are shared: leave them alone."""
    made = _MAKERS[resource](noise(seed, _SALT, number))
    return made, orjson.dumps(made)


def _pick(options: tuple[Any, ...], mixed: int) -> Any:
    return options[mixed % len(options)]


def _prospect(mixed: int) -> dict[str, Any]:
    stage_id, stage = _pick(words.STAGES, mixed >> 8)
    said = {
        "firstName": _pick(words.FIRST_NAMES, mixed),
        "lastName": _pick(words.LAST_NAMES, mixed >> 16) if mixed % 41 else None,
        "currentStage": stage,
        "currentStageId": stage_id,
        "labels": [words.LABELS[(mixed >> 24) % 8 - i] for i in range(mixed % 4)],
        "title": _pick(words.TITLES, mixed >> 32),
    }
    if mixed % 5:
        said["company"] = _pick(words.COMPANIES, mixed >> 40) if mixed % 3 else None
    if mixed % 11 == 0:
        nested = {"ok": True, "名": "値"}
        said["customFields"] = {"tier": mixed % 3, "scores": [1, 2.5, None], "more": nested}
    if mixed % 13 == 0:
        said["referralSource"] = "2025-01-01" if mixed % 2 else "Société «X»"
    return said


def _note(mixed: int) -> dict[str, Any]:
    by_api = mixed % 6 == 0
    said = {
        "userId": _pick(words.USERS, mixed >> 8),
        "body": _pick(words.NOTE_BODIES, mixed >> 12),
        "createdByApi": by_api,
        "createdByApiKeyId": f"key_{mixed % 4}" if by_api else None,
        "pin": mixed % 17 == 0,
    }
    if by_api:
        said["createdByApiKeyName"] = "Zapier – “prod”"
    if mixed % 4 == 0:
        mention = {"userId": _pick(words.USERS, mixed >> 20), "name": "Zoë 🌟"}
        said["mentions"] = [mention] if mixed % 8 else []
    if mixed % 9 == 0:
        said["fileUrl"] = f"https://files.example.com/{mixed % 977}.pdf" if mixed % 2 else None
    return said


def _task(mixed: int) -> dict[str, Any]:
    said = {
        "task": _pick(words.TASKS, mixed >> 16),
        "assignedTo": _pick(words.USERS, mixed >> 20),
        "assignedBy": _pick(words.USERS, mixed >> 24) if mixed % 8 else None,
        "createdByApi": mixed % 5 == 0,
    }
    if mixed % 6:
        said["createdBy"] = _pick(words.USERS, mixed >> 28)
    if mixed % 14 == 0:
        said["recurrence"] = {"every": mixed % 4 + 1, "unit": "week", "days": ["mon", "fri"]}
    return said


def _meeting(mixed: int) -> dict[str, Any]:
    said = {
        "timeZone": _pick(words.TIME_ZONES, mixed >> 16),
        "meetingType": _pick(words.MEETING_TYPES, mixed >> 20),
        "ownerId": _pick(words.USERS, mixed >> 24),
        "location": _pick(words.LOCATIONS, mixed >> 28),
        "createdByApi": mixed % 7 == 0,
    }
    if mixed % 3:
        said["notes"] = "Intro call and role overview\n— bring <ID> & résumé" if mixed % 2 else ""
    if mixed % 4:
        said["createdBy"] = _pick(words.USERS, mixed >> 32)
    if mixed % 12 == 0:
        guest = {"email": f"guest{mixed % 89}@example.com", "optional": mixed % 2 == 0}
        said["attendees"] = [guest]
    return said


_MAKERS: dict[str, Callable[[int], dict[str, Any]]] = {
    "prospects": _prospect,
    "notes": _note,
    "tasks": _task,
    "meetings": _meeting,
}
