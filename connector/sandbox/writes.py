"""`POST` on the four resources: what is checked, whom it matches, what it changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from connector.sandbox import validation as check
from connector.sandbox.contacts import email_key, phone_key
from connector.sandbox.errors import Refused, bad_request
from connector.sandbox.options import SandboxOptions
from connector.sandbox.records import Record
from connector.sandbox.store import Store
from connector.sandbox.vocabulary import PIPELINES, STAGES

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
    """What a write did. action: "created", "updated", or None where nothing changed."""

    status: int
    action: str | None
    record: Record
    message: str | None = None


def write_prospect(store: Store, options: SandboxOptions, payload: Mapping[str, Any]) -> Written:
    """Create a prospect, or update the one with the same email (case doesn't count) or phone.

    Where the email is one prospect's and the phone another's, the email's is updated and gets that
    phone too; where several share a contact, the oldest is. An invalid phone is dropped: `phone`
    becomes null, also on a match, and the message says so. With `update: false` (or the option
    `update_default`), a match is left alone: 409, or 200 with the untouched record, as the option
    `on_match_without_update` says.

    Raises:
        Refused: 400 for a field of the wrong type or value, 409 as above.
    """
    fields = check.checked(payload, PROSPECT_CHECKS, required=("firstName", "lastName"))
    message = _normalise_contacts(fields)
    update = fields.pop("update", None)
    changes = _changes(fields)
    with store.lock:
        match = _match(store, fields)
        if match is None:
            return Written(
                201, "created", store.create("prospects", {**_BLANK, **changes}), message
            )
        if options.update_default if update is None else update:
            return Written(200, "updated", store.update("prospects", match["id"], changes), message)
    if options.on_match_without_update == "conflict":
        raise Refused(409, "Conflict", "A prospect with this email or phone already exists.")
    return Written(200, None, match, "A prospect with this email or phone already exists.")


_BLANK: Record = {
    "firstName": None,
    "lastName": None,
    "email": None,
    "phone": None,
    "currentStage": _STAGE_NAMES["stg_new"],
    "currentStageId": "stg_new",
    "labels": [],
    "title": None,
    "company": None,
}


def _normalise_contacts(fields: dict[str, Any]) -> str | None:
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
