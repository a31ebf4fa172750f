"""`POST` on the four resources: its checks, whom it matches, and what it changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from connector.sandbox import request_checks as check
from connector.sandbox.generated_records import PIPELINES, STAGES, Record
from connector.sandbox.request_checks import Refused, bad_request, email_key, phone_key
from connector.sandbox.sandbox_options import SandboxOptions
from connector.sandbox.store import Store

API_KEY_ID = "key_sandbox"
PHONE_MESSAGE = "Phone number is invalid and was not saved."
LICENSE_STATUSES = ("not_started", "in_progress", "licensed")
_STAGE_NAMES = dict(STAGES)
_TEXTS = (
    "title", "company", "userId", "streetAddress", "city", "state", "postalCode", "office",
    "source", "newSourceName", "jobId", "notes",
)  # fmt: skip
PROSPECT_CHECKS: dict[str, check.Check] = {
    "firstName": check.required_text,
    "lastName": check.required_text,
    "email": check.text,
    "phone": check.text,
    "stageId": check.one_of(*_STAGE_NAMES),
    "pipelineId": check.one_of(*PIPELINES),
    "licenseStatus": check.one_of(*LICENSE_STATUSES),
    "labels": check.labels,
    "resume": check.plain_object,
    "muteWebhook": check.flag,
    "update": check.flag,
    **dict.fromkeys(_TEXTS, check.text),
}


@dataclass(frozen=True)
class Written:
    """What a write did. action: "created", "updated", or None if nothing changed."""

    status: int
    action: str | None
    record: Record
    message: str | None = None


def write_prospect(store: Store, options: SandboxOptions, payload: Mapping[str, Any]) -> Written:
    """Create a prospect, or update the one with the same email (ignoring case) or phone.

    If the email belongs to one prospect and the phone to another, the first is updated and gets
    that phone too; if several share a contact, the oldest is updated. An invalid phone is dropped:
    `phone` becomes null, also on a match, and the message says so. With `update: false` (or the
    option `update_default`), a match is left alone: 409, or 200 with the untouched record, by the
    option `on_match_without_update`. Labels replace those of a match, or are added, by the option
    `labels_written`.

    Raises:
        Refused: 400 for a field of the wrong type or value, 409 as above.
    """
    fields = check.checked(payload, PROSPECT_CHECKS, required=("firstName", "lastName"))
    message = _normalize_contacts(fields)
    update = fields.pop("update", None)
    changes, mute = _changes(fields), bool(fields.get("muteWebhook"))
    with store.lock:
        match = _match(store, fields)
        if match is None:
            created = store.create("prospects", {**_BLANK, **changes}, mute=mute)
            return Written(201, "created", created, message)
        if options.update_default if update is None else update:
            if options.labels_written == "merge" and "labels" in changes:
                both = (match.get("labels") or []) + (changes["labels"] or [])
                changes["labels"] = list(dict.fromkeys(both))
            updated = store.update("prospects", match["id"], changes, mute=mute)
            return Written(200, "updated", updated, message)
    exists = "A prospect with this email or phone already exists."
    if options.on_match_without_update == "conflict":
        raise Refused(409, "Conflict", exists)
    return Written(200, None, match, exists)


_BLANK: Record = {
    **dict.fromkeys(("firstName", "lastName", "email", "phone", "title", "company")),
    "currentStage": _STAGE_NAMES["stg_new"],
    "currentStageId": "stg_new",
    "labels": [],
}


def _normalize_contacts(fields: dict[str, Any]) -> str | None:
    """Refuse a bad email, drop a bad phone; returns the warning about the latter."""
    email, phone = fields.get("email"), fields.get("phone")
    if email is not None and email_key(email) is None:
        raise bad_request("email: is not a valid email address")
    if phone is None:
        return None
    fields["phone"] = phone_key(phone)
    return PHONE_MESSAGE if fields["phone"] is None else None


def _changes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The record's fields that a payload sets: a stage by id and name, a new source as `source`."""
    written_elsewhere = {"stageId", "pipelineId", "newSourceName", "muteWebhook"}
    changes = {name: value for name, value in fields.items() if name not in written_elsewhere}
    if fields.get("newSourceName") is not None:
        changes["source"] = fields["newSourceName"]
    stage_id = fields.get("stageId") or PIPELINES.get(fields.get("pipelineId") or "")
    if stage_id or "stageId" in fields:
        changes |= {"currentStageId": stage_id, "currentStage": _STAGE_NAMES.get(stage_id or "")}
    return changes


def _match(store: Store, fields: Mapping[str, Any]) -> Record | None:
    for contact in ("email", "phone"):
        found = store.prospects_by(contact, fields.get(contact))
        if found:
            record: Record = store.table("prospects").record(found[0])
            return record
    return None


# --- notes, tasks and meetings: always a new record of a prospect that exists --------------------


@dataclass(frozen=True)
class _Form:
    """required, optional: field → check. older: older name → name."""

    required: Mapping[str, check.Check]
    optional: Mapping[str, check.Check]
    older: Mapping[str, str]


_FORMS = {
    "notes": _Form(
        dict.fromkeys(("prospectId", "body"), check.required_text),
        {
            "userId": check.text, "date": check.milliseconds_or_iso, "pin": check.flag,
            "mentions": check.list_of_objects, "fileUrl": check.text,
        },
        {"note": "body"},
    ),
    "tasks": _Form(
        dict.fromkeys(("prospectId", "assignedTo", "task"), check.required_text),
        {"dueAt": check.milliseconds, "userId": check.text},
        {"assignTo": "assignedTo", "due": "dueAt"},
    ),
    "meetings": _Form(
        {
            **dict.fromkeys(("prospectId", "meetingType", "ownerId"), check.required_text),
            "meetingDate": check.milliseconds, "timeZone": check.time_zone,
        },
        dict.fromkeys(("location", "notes", "userId"), check.text),
        {},
    ),
}  # fmt: skip


def fields_by_name(resource: str, options: SandboxOptions) -> dict[str, str]:
    """The names that a payload may use in the configured revision, and the field of each."""
    if resource == "prospects":
        return {name: name for name in PROSPECT_CHECKS}
    form = _FORMS[resource]
    current = {name: name for name in (*form.required, *form.optional)}
    renamed = set(form.older.values())
    older = {**form.older, **{name: name for name in current if name not in renamed}}
    return {"current": current, "older": older, "both": older | current}[options.write_names]


def write_activity(
    store: Store, options: SandboxOptions, resource: str, payload: Mapping[str, Any], now_ms: int
) -> Written:
    """Create a note, task or meeting.

    Raises:
        Refused: 400 for a missing or wrong field, 404 if the prospect doesn't exist.
    """
    form, names = _FORMS[resource], fields_by_name(resource, options)
    given = {names[name]: value for name, value in payload.items() if name in names}
    if missing := [name for name in form.required if given.get(name) in (None, "")]:
        shown = {field: name for name, field in names.items()}
        raise bad_request(f"{shown[missing[0]]}: is required")
    fields = check.checked(given, {**form.required, **form.optional}, required=())
    if store.get("prospects", fields["prospectId"]) is None:
        raise Refused(404, "Not found", f"prospectId: no prospect {fields['prospectId']!r}")
    return Written(201, "created", store.create(resource, _record(resource, fields, now_ms)))


def _record(resource: str, fields: dict[str, Any], now_ms: int) -> Record:
    user = fields.pop("userId", None)
    if resource == "notes":
        times = {"createdAt": fields.pop("date", now_ms)}
        by_key = {
            "createdByApi": True,
            "createdByApiKeyId": API_KEY_ID,
            "createdByApiKeyName": "Sandbox",
        }
        return {"userId": user, "pin": False, "mentions": [], **fields, **times, **by_key}
    by_user = {"createdBy": user, "createdByApi": True}
    if resource == "tasks":
        return {"dueAt": now_ms, **fields, "completedAt": None, **by_user}
    return {"location": None, "notes": None, **fields, **by_user}
