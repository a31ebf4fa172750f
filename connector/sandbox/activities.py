"""`POST` of notes, tasks and meetings: always a new record of a prospect that exists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from connector.sandbox import validation as check
from connector.sandbox.errors import Refused
from connector.sandbox.options import SandboxOptions
from connector.sandbox.records import Record
from connector.sandbox.store import Store
from connector.sandbox.writes import Written

API_KEY_ID = "key_sandbox"


@dataclass(frozen=True)
class _Form:
    """required, optional: field → check. older: older name → name."""

    required: Mapping[str, check.Check]
    optional: Mapping[str, check.Check]
    older: Mapping[str, str]


_FORMS = {
    "notes": _Form(
        {"prospectId": check.required_text, "body": check.required_text},
        {
            "userId": check.text,
            "date": check.milliseconds_or_iso,
            "mentions": check.list_of_objects,
            "pin": check.flag,
            "fileUrl": check.text,
        },
        {"note": "body"},
    ),
    "tasks": _Form(
        {
            "prospectId": check.required_text,
            "assignedTo": check.required_text,
            "task": check.required_text,
        },
        {"dueAt": check.milliseconds, "userId": check.text},
        {"assignTo": "assignedTo", "due": "dueAt"},
    ),
    "meetings": _Form(
        {
            "prospectId": check.required_text,
            "meetingDate": check.milliseconds,
            "timeZone": check.time_zone,
            "meetingType": check.required_text,
            "ownerId": check.required_text,
        },
        {"location": check.text, "notes": check.text, "userId": check.text},
        {},
    ),
}


def known_fields(resource: str, options: SandboxOptions) -> set[str]:
    """Names that a payload may use in the configured revision."""
    form = _FORMS[resource]
    current = {*form.required, *form.optional}
    if options.write_names == "current":
        return current
    older = (current - set(form.older.values())) | set(form.older)
    return older if options.write_names == "older" else older | current


def write_activity(
    store: Store, options: SandboxOptions, resource: str, payload: Mapping[str, Any], now_ms: int
) -> Written:
    """Create a note, task or meeting.

    Raises:
        Refused: 400 for a missing or wrong field, 404 where the prospect doesn't exist.
    """
    form, known = _FORMS[resource], known_fields(resource, options)
    renamed = {
        form.older.get(name, name): value for name, value in payload.items() if name in known
    }
    fields = check.checked(renamed, {**form.required, **form.optional}, required=form.required)
    if store.get("prospects", fields["prospectId"]) is None:
        raise Refused(404, "Not found", f"prospectId: no prospect {fields['prospectId']!r}")
    return Written(201, "created", store.create(resource, _RECORDS[resource](fields, now_ms)))


def _note(fields: dict[str, Any], now_ms: int) -> Record:
    created_ms = fields.pop("date", now_ms)
    by_key = {
        "createdByApi": True,
        "createdByApiKeyId": API_KEY_ID,
        "createdByApiKeyName": "Sandbox",
    }
    return {
        "userId": None,
        "pin": False,
        "mentions": [],
        **fields,
        "createdAt": created_ms,
        **by_key,
    }


def _task(fields: dict[str, Any], now_ms: int) -> Record:
    user = fields.pop("userId", None)
    return {"dueAt": now_ms, **fields, "completedAt": None, "createdBy": user, "createdByApi": True}


def _meeting(fields: dict[str, Any], _now_ms: int) -> Record:
    user = fields.pop("userId", None)
    return {"location": None, "notes": None, **fields, "createdBy": user, "createdByApi": True}


_RECORDS = {"notes": _note, "tasks": _task, "meetings": _meeting}
