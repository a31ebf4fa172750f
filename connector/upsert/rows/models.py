"""The API's write schema as pydantic models: POST /prospects, /notes, /tasks, /meetings.

TypedDicts, so that a validated row is the payload itself: a field that is left out stays out,
and an explicit None stays None. Lengths are this connector's own limits, well above what people
type and below what a broken file holds. Source: the HiringCenter REST API v2 reference.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationInfo
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from connector.upsert.rows.cells import BadCell
from connector.upsert.rows.contact import e164, email_identity, plain_email
from connector.upsert.rows.values import (
    as_boolean,
    as_labels,
    as_license_status,
    as_ms,
    as_object,
    as_objects,
    row_context,
)

SHORT_CHARS, LONG_CHARS = 1_000, 100_000
_NO_CONTROLS = r"^[^\x00-\x08\x0B\x0C\x0E-\x1F\x7F]*$"


def _check_email(address: str, info: ValidationInfo) -> str:
    """The address stays as it was typed; its identity is noted in the context."""
    try:
        address = plain_email(address)
    except ValueError as error:
        raise ValueError(
            f"isn't an email address ({error}). Correct it, or empty the cell"
        ) from None
    try:
        row_context(info).email = email_identity(address)
    except ValueError as error:  # which may quote signs of it
        raise BadCell("isn't an email address", str(error)) from None
    return address


def _to_e164(text: str, info: ValidationInfo) -> str:
    context = row_context(info)
    try:
        number, lost = e164(text, context.region)
    except ValueError as error:
        raise ValueError(f"isn't a phone number ({error}). Correct it, or empty the cell") from None
    if lost:
        context.warnings.append(f"phone: {lost}")
    return number


Short = Annotated[str, Field(max_length=SHORT_CHARS, pattern=_NO_CONTROLS)]
Long = Annotated[str, Field(max_length=LONG_CHARS, pattern=_NO_CONTROLS)]
Email = Annotated[str, Field(max_length=254), AfterValidator(_check_email)]
Phone = Annotated[str, Field(max_length=64), AfterValidator(_to_e164)]
Label = Annotated[str, Field(max_length=200, pattern=_NO_CONTROLS)]
Labels = Annotated[list[Label], Field(max_length=100), BeforeValidator(as_labels)]
License = Annotated[
    Literal["not_started", "in_progress", "licensed"], BeforeValidator(as_license_status)
]
Boolean = Annotated[bool, BeforeValidator(as_boolean)]
Object = Annotated[dict[str, Any], BeforeValidator(as_object)]
Objects = Annotated[list[dict[str, Any]], BeforeValidator(as_objects)]
Milliseconds = Annotated[int, BeforeValidator(as_ms)]


class ProspectWrite(TypedDict):
    """What POST /prospects takes."""

    firstName: Short
    lastName: Short
    email: NotRequired[Email | None]
    phone: NotRequired[Phone | None]
    stageId: NotRequired[Short | None]
    pipelineId: NotRequired[Short | None]
    licenseStatus: NotRequired[License | None]
    labels: NotRequired[Labels | None]
    notes: NotRequired[Long | None]
    title: NotRequired[Short | None]
    company: NotRequired[Short | None]
    userId: NotRequired[Short | None]
    streetAddress: NotRequired[Short | None]
    city: NotRequired[Short | None]
    state: NotRequired[Short | None]
    postalCode: NotRequired[Short | None]
    office: NotRequired[Short | None]
    source: NotRequired[Short | None]
    newSourceName: NotRequired[Short | None]
    resume: NotRequired[Object | None]
    muteWebhook: NotRequired[Boolean]
    jobId: NotRequired[Short | None]
    update: NotRequired[Boolean]


class NoteWrite(TypedDict):
    """What POST /notes takes beside `prospectId`."""

    body: Long
    userId: NotRequired[Short]
    date: NotRequired[Milliseconds]
    mentions: NotRequired[Objects]
    pin: NotRequired[Boolean]
    fileUrl: NotRequired[Short]


class TaskWrite(TypedDict):
    """What POST /tasks takes beside `prospectId`."""

    assignedTo: Short
    task: Long
    dueAt: NotRequired[Milliseconds]
    userId: NotRequired[Short]


class MeetingWrite(TypedDict):
    """What POST /meetings takes beside `prospectId`."""

    meetingDate: Milliseconds
    timeZone: Short
    meetingType: Short
    ownerId: Short
    location: NotRequired[Short]
    notes: NotRequired[Long]
    userId: NotRequired[Short]


PROSPECT: TypeAdapter[ProspectWrite] = TypeAdapter(ProspectWrite)
ACTIVITIES: dict[str, TypeAdapter[Any]] = {
    "notes": TypeAdapter(NoteWrite),
    "tasks": TypeAdapter(TaskWrite),
    "meetings": TypeAdapter(MeetingWrite),
}
ACTIVITY_PREFIXES = {"note": "notes", "task": "tasks", "meeting": "meetings"}
REQUIRED = {
    "prospects": ProspectWrite.__required_keys__,
    "notes": NoteWrite.__required_keys__,
    "tasks": TaskWrite.__required_keys__,
    "meetings": MeetingWrite.__required_keys__,
}
PROSPECT_FIELDS = tuple(ProspectWrite.__annotations__)
ACTIVITY_FIELDS = tuple(
    f"{prefix}.{name}"
    for prefix, model in (("note", NoteWrite), ("task", TaskWrite), ("meeting", MeetingWrite))
    for name in model.__annotations__
)
FIELDS = PROSPECT_FIELDS + ACTIVITY_FIELDS
# fields whose digits are a name, or that hold no fraction: 10014.0 is 10014 there
CODES = frozenset({"stageId", "pipelineId", "userId", "jobId", "postalCode", "office"}) | frozenset(
    {"source", "newSourceName", "assignedTo", "ownerId", "muteWebhook", "update", "pin", "date"}
    | {"dueAt", "meetingDate"}
)
# of those, the ones that hold no words, so that odd hyphens and spaces in them are undone
PLAIN_CODES = CODES - {"office", "source", "newSourceName"}
LONG_TEXT = frozenset({"notes", "body", "task"})
NOT_TEXT = frozenset({"licenseStatus", "labels", "resume", "mentions"}) | frozenset(
    {"muteWebhook", "update", "pin", "date", "dueAt", "meetingDate"}
)
NOT_CLEARED = frozenset({"firstName", "lastName", "muteWebhook", "update"})
