"""The API's write schema as pydantic models: POST /prospects, /notes, /tasks, /meetings; and what
people, and the programs they export from, call its fields.

TypedDicts, so that a validated row is the payload itself: a field that is left out stays out,
and an explicit None stays None. Lengths are this connector's own limits, well above what people
type and below what a broken file holds. Source: the HiringCenter REST API v2 reference.

A field that isn't plain text has a check here, which takes a cell as any source holds it, and
raises ValueError with what to do about it. Names are matched loosely; everything else is suggested,
never assumed.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationInfo
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from connector.errors import nearest
from connector.upsert.rows import MANNERS as MANNERS
from connector.upsert.rows.cells import BadCell, check_readable, json_ready, text_of
from connector.upsert.rows.contact import e164, email_identity, plain_contact, plain_email

SHORT_CHARS, LONG_CHARS = 1_000, 100_000
_NO_CONTROLS = r"^[^\x00-\x08\x0B\x0C\x0E-\x1F\x7F]*$"
_YES_NO = dict.fromkeys(("true", "t", "yes", "y", "1", "on"), True)
_YES_NO |= dict.fromkeys(("false", "f", "no", "n", "0", "off"), False)
_LICENSES = ("not_started", "in_progress", "licensed")
# from 2001-09-09 on ms have 13 digits, and seconds 10
_FIRST_MS = 10**12
# years that something can have happened in, or be due in; zero dates (1899-12-30, 1970-01-01),
# years of two digits (0025) and `never` (9999-12-31) lie outside
_FIRST_YEAR, _LAST_YEAR = 1980, 2100
_LAST_MS = 1000 * int(datetime(_LAST_YEAR + 1, 1, 1, tzinfo=UTC).timestamp())


@dataclass(slots=True)
class RowContext:
    """What the checks of one row know and leave: `info.context` of every check.

    region: ISO 3166, of phones without a country code and of postal codes. zone: of times without
    an offset. email: the identity of the row's email, once it is checked.
    """

    region: str
    zone: tzinfo = UTC
    warnings: list[str] = field(default_factory=list)
    email: str | None = None


def _context(info: ValidationInfo) -> RowContext:
    return cast(RowContext, info.context)


# --- checks of fields -----------------------------------------------------------------------


def _check_email(address: str, info: ValidationInfo) -> str:
    """The address stays as it was typed; its identity is noted in the context."""
    try:
        address = plain_email(address)
    except ValueError as error:
        raise ValueError(
            f"isn't an email address ({error}). Correct it, or empty the cell"
        ) from None
    try:
        _context(info).email = email_identity(address)
    except ValueError as error:  # which may quote signs of it
        raise BadCell("isn't an email address", str(error)) from None
    return address


def _as_phone(text: str, info: ValidationInfo) -> str:
    context = _context(info)
    try:
        number, left_out = e164(text, context.region)
    except ValueError as error:
        raise ValueError(f"isn't a phone number ({error}). Correct it, or empty the cell") from None
    if left_out:
        context.warnings.append(f"phone: {left_out}")
    return number


def _as_boolean(value: Any) -> bool:
    """True or False from a yes/no word, 0 or 1."""
    if isinstance(value, bool):
        return value
    word = text_of(value).strip().lower()
    if word not in _YES_NO:
        raise ValueError("is neither yes nor no. Write true or false")
    return _YES_NO[word]


def _as_license_status(value: Any) -> str:
    """`Not Started` as `not_started`."""
    word = re.sub(r"[\s_-]+", "_", text_of(value).strip().lower())
    if word not in _LICENSES:
        raise ValueError(f"isn't a license status. Write one of {', '.join(_LICENSES)}")
    return word


def _as_labels(value: Any, info: ValidationInfo) -> list[str]:
    """Labels from a list, a JSON list, or text split at `;` and `|`; each once, in order."""
    if isinstance(value, str):
        parts = _json_list(value) or re.split(r"[;|]", value)
        if len(parts) == 1 and "," in value:
            _context(info).warnings.append("labels: taken as one label; `;` separates several")
    else:
        parts = list(value) if isinstance(value, list | tuple) else [value]
    labels = [text_of(part).strip() for part in parts if part is not None]
    for label in labels:
        check_readable(label)
    return list(dict.fromkeys(label for label in labels if label))


def _json_list(text: str) -> list[Any] | None:
    """The list that `text` is in JSON; None where it isn't meant to be JSON."""
    if not text.startswith("["):
        return None
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        if '"' not in text:
            return None
        raise ValueError(
            'starts like a JSON list and isn\'t one. Write ["A", "B"], or A;B'
        ) from None
    return (parsed or [None]) if isinstance(parsed, list) else None


def _as_object(value: Any) -> Any:
    """An object, or the text of one in JSON."""
    parsed = _parsed(value)
    if not isinstance(parsed, dict):
        raise ValueError('isn\'t a JSON object. Write it as in {"name": "value"}')
    return parsed


def _as_objects(value: Any) -> Any:
    """A list of objects, or the text of one in JSON."""
    parsed = _parsed(value)
    if not isinstance(parsed, list) or not all(isinstance(one, dict) for one in parsed):
        raise ValueError('isn\'t a JSON list of objects. Write it as in [{"name": "value"}]')
    return parsed


def _parsed(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise ValueError("isn't valid JSON. Correct it, or leave the cell empty") from None
    if not isinstance(value, dict | list | tuple):
        return value
    try:
        return json_ready(value)
    except RecursionError:
        raise ValueError("is nested too deep. Leave out what isn't needed") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} isn't JSON")


def _as_ms(value: Any, info: ValidationInfo) -> int:
    """Unix milliseconds from ms, a date, or ISO 8601.

    A time without an offset is in the context's zone.
    """
    moment = value
    if not isinstance(value, datetime | date):
        text = text_of(value).strip()
        if re.fullmatch(r"-?\d+", text):
            if _FIRST_MS <= int(text) < _LAST_MS:
                return int(text)
            raise ValueError(
                "isn't a time in Unix milliseconds, which have 13 digits. Write it as 2025-03-31"
            )
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(
                "isn't a time. Write it as 2025-03-31T14:00:00+02:00, or in Unix milliseconds"
            ) from None
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        raise ValueError(
            f"is in the year {moment.year}, which isn't between {_FIRST_YEAR} and {_LAST_YEAR}. "
            "Correct it"
        )
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=_context(info).zone)
    return math.floor(Decimal(str(moment.timestamp())) * 1000)


def time_zone(name: Any) -> tzinfo:
    """The IANA time zone called `name`; UTC for an empty one.

    Raises:
        ValueError: there is none of that name.
    """
    text = text_of(name).strip() if name is not None else ""
    if not text:
        return UTC
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("isn't an IANA time zone. Write it as in America/New_York") from None


# --- the models -----------------------------------------------------------------------------

Short = Annotated[str, Field(max_length=SHORT_CHARS, pattern=_NO_CONTROLS)]
Long = Annotated[str, Field(max_length=LONG_CHARS, pattern=_NO_CONTROLS)]
Email = Annotated[str, Field(max_length=254), AfterValidator(_check_email)]
Phone = Annotated[str, Field(max_length=64), AfterValidator(_as_phone)]
Label = Annotated[str, Field(max_length=200, pattern=_NO_CONTROLS)]
Labels = Annotated[list[Label], Field(max_length=100), BeforeValidator(_as_labels)]
License = Annotated[
    Literal["not_started", "in_progress", "licensed"], BeforeValidator(_as_license_status)
]
Boolean = Annotated[bool, BeforeValidator(_as_boolean)]
Object = Annotated[dict[str, Any], BeforeValidator(_as_object)]
Objects = Annotated[list[dict[str, Any]], BeforeValidator(_as_objects)]
Milliseconds = Annotated[int, BeforeValidator(_as_ms)]


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


class ProspectRow(ProspectWrite):
    """What a row may say of a prospect. Labels to add and to remove become `labels` when it is
    known which ones the prospect has."""

    labels_add: NotRequired[Labels]
    labels_remove: NotRequired[Labels]


class NoteWrite(TypedDict):
    """What POST /notes takes in addition to `prospectId`."""

    body: Long
    userId: NotRequired[Short]
    date: NotRequired[Milliseconds]
    mentions: NotRequired[Objects]
    pin: NotRequired[Boolean]
    fileUrl: NotRequired[Short]


class TaskWrite(TypedDict):
    """What POST /tasks takes in addition to `prospectId`."""

    assignedTo: Short
    task: Long
    dueAt: NotRequired[Milliseconds]
    userId: NotRequired[Short]


class MeetingWrite(TypedDict):
    """What POST /meetings takes in addition to `prospectId`."""

    meetingDate: Milliseconds
    timeZone: Short
    meetingType: Short
    ownerId: Short
    location: NotRequired[Short]
    notes: NotRequired[Long]
    userId: NotRequired[Short]


class PersonReference(TypedDict):
    """Whom a row of activities is about: a prospect by id, or by a contact."""

    prospectId: NotRequired[Short]
    email: NotRequired[Email]
    phone: NotRequired[Phone]


_MODELS: dict[str, Any] = {"notes": NoteWrite, "tasks": TaskWrite, "meetings": MeetingWrite}
PROSPECT: TypeAdapter[ProspectRow] = TypeAdapter(ProspectRow)
REFERENCE: TypeAdapter[PersonReference] = TypeAdapter(PersonReference)
REFERENCE_FIELDS = tuple(PersonReference.__annotations__)
ACTIVITIES: dict[str, TypeAdapter[Any]] = {
    kind: TypeAdapter(model) for kind, model in _MODELS.items()
}
ACTIVITY_PREFIXES = {"note": "notes", "task": "tasks", "meeting": "meetings"}
REQUIRED: dict[str, frozenset[str]] = {
    kind: model.__required_keys__ for kind, model in {"prospects": ProspectWrite, **_MODELS}.items()
}
PROSPECT_FIELDS = tuple(ProspectWrite.__annotations__)
LABELS_ADD, LABELS_REMOVE = LABEL_EDITS = ("labels_add", "labels_remove")
ACTIVITY_FIELDS = tuple(
    f"{prefix}.{name}"
    for prefix, kind in ACTIVITY_PREFIXES.items()
    for name in _MODELS[kind].__annotations__
)
# what a row may say where each is one activity
ACTIVITY_ROW_FIELDS = {
    kind: (*REFERENCE_FIELDS, *model.__annotations__) for kind, model in _MODELS.items()
}
FIELDS = PROSPECT_FIELDS + LABEL_EDITS + ACTIVITY_FIELDS
# fields that hold neither words nor fractions: 10014.0 is 10014 there, other hyphens are plain ones
PLAIN_CODES = frozenset({
    "stageId", "pipelineId", "userId", "jobId", "prospectId", "postalCode", "assignedTo", "ownerId",
    "muteWebhook", "update", "pin", "date", "dueAt", "meetingDate",
})  # fmt: skip
# fields whose digits are a name, which may hold words too
CODES = PLAIN_CODES | {"office", "source", "newSourceName"}
LONG_TEXT = frozenset({"notes", "body", "task"})
NOT_TEXT = frozenset({
    "licenseStatus", "labels", *LABEL_EDITS, "resume", "mentions", "muteWebhook", "update", "pin",
    "date", "dueAt", "meetingDate",
})  # fmt: skip
NOT_CLEARED = frozenset({"firstName", "lastName", *MANNERS, *LABEL_EDITS})


# --- names of the API's older revision ---------------------------------------------------------

_OLDER_NAMES = {"notes": {"body": "note"}, "tasks": {"assignedTo": "assignTo", "dueAt": "due"}}
_NEWER_NAMES = {
    kind: {older: name for name, older in names.items()} for kind, names in _OLDER_NAMES.items()
}


def older_fields(kind: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """An activity's payload under the names that the API's older revision has."""
    names = _OLDER_NAMES.get(kind, {})
    return {names.get(name, name): value for name, value in payload.items()}


def current_fields(kind: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """An activity's payload under the names that it is read under."""
    names = _NEWER_NAMES.get(kind, {})
    return {names.get(name, name): value for name, value in payload.items()}


def has_older_names(kind: str, payload: Mapping[str, Any]) -> bool:
    """Whether a payload is one for the API's older revision."""
    return not payload.keys().isdisjoint(_NEWER_NAMES.get(kind, {}))


# --- what people call them ---------------------------------------------------------------------

_OTHER_WORDS = {
    "firstName": "forename givenname vorname first fname",
    "lastName": "surname familyname nachname last lname",
    "email": "emailaddress mail",
    "phone": "mobile cell cellphone phonenumber telephone tel mobilephone",
    "postalCode": "zip zipcode postcode plz",
    "streetAddress": "street address addressline1 address1",
    "state": "province region",
    "city": "town",
    "company": "employer organization organisation companyname",
    "title": "jobtitle position role",
    "labels": "label tags tag",
    "notes": "comment comments remarks",
    "stageId": "stage",
    "licenseStatus": "license licensed licence",
}
# names that mean one field in whatever file they stand
_SYNONYMS = {
    "givenname": "firstName",
    "familyname": "lastName",
    "emailaddress": "email",
    "email1value": "email",
    "phonenumber": "phone",
    "phone1value": "phone",
    "mobilephone": "phone",
    "mobilephonenumber": "phone",
    "companyname": "company",
    "organizationname": "company",
    "organization1name": "company",
    "jobtitle": "title",
    "organizationtitle": "title",
    "organization1title": "title",
    "state/region": "state",
}
_FULL_NAMES = frozenset({"name", "fullname"})
_SPACING = re.compile(r"[\s_-]+")
LONGEST_NAME = 64


def normalized(name: str) -> str:
    """`name` as it is compared: `E-mail`, `e_mail` and `EMAIL` are one, also where a program has
    slipped in signs that can't be seen."""
    return _SPACING.sub("", plain_contact(name)).casefold()


PROSPECTS = "prospects"
_BY_NAME = {normalized(name): name for name in FIELDS}
# where each row is an activity: `body`, and `note.body` as in a file of prospects
_BY_NAME_OF: dict[str, dict[str, str]] = {PROSPECTS: _BY_NAME} | {
    kind: {
        normalized(f"{start}{name}"): name
        for name in ACTIVITY_ROW_FIELDS[kind]
        for start in ("", *([] if name in REFERENCE_FIELDS else [f"{prefix}."]))
    }
    for prefix, kind in ACTIVITY_PREFIXES.items()
}
_SUGGESTED_OF_ACTIVITY = {
    **{"note": "body", "text": "body", "comment": "body", "due": "dueAt", "duedate": "dueAt"},
    **{"assignto": "assignedTo", "assignee": "assignedTo", "type": "meetingType"},
    **{"owner": "ownerId", "start": "meetingDate", "timezone": "timeZone"},
    **{"prospect": "prospectId", "mail": "email", "mobile": "phone", "tel": "phone"},
}
_SUGGESTED = {word: name for name, words in _OTHER_WORDS.items() for word in words.split()}


def field_called(name: str, kind: str = PROSPECTS) -> str | None:
    """The API field that `name` stands for; None if none does. kind: of the records that rows
    become."""
    return _BY_NAME_OF[kind].get(normalized(name))


def field_meant(name: str, kind: str = PROSPECTS) -> str | None:
    """The API field that `name` means where no other column has that field's own name."""
    meant = _SYNONYMS.get(normalized(name))
    return meant if kind == PROSPECTS or meant in REFERENCE_FIELDS else None


def is_field_word(name: str) -> bool:
    """Whether `name` is a word for a field, so that a message may quote it: no person's data."""
    return field_called(name) is not None or normalized(name) in {*_SYNONYMS, *_SUGGESTED}


def is_full_name(name: str) -> bool:
    """Whether a column called `name` holds first and last name together."""
    return normalized(name) in _FULL_NAMES


def field_like(name: str, kind: str = PROSPECTS) -> str | None:
    """The API field that `name` was probably meant to be, for error messages."""
    plain = normalized(name[: LONGEST_NAME + 1])
    if kind != PROSPECTS:
        suggested = _SUGGESTED_OF_ACTIVITY.get(plain)
        if suggested in ACTIVITY_ROW_FIELDS[kind]:
            return suggested
        close = None if len(plain) > LONGEST_NAME else nearest(plain, _BY_NAME_OF[kind])
        return _BY_NAME_OF[kind][close] if close else None
    if plain in _SUGGESTED:
        return _SUGGESTED[plain]
    if plain in _SYNONYMS or len(plain) > LONGEST_NAME:
        return _SYNONYMS.get(plain)
    near = nearest(plain, _BY_NAME)
    return _BY_NAME[near] if near else None
