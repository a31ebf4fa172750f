"""The filters of each list: query parameters → a test of one record."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from connector.sandbox.contacts import email_key, phone_key
from connector.sandbox.errors import bad_request
from connector.sandbox.records import Record

Params = list[tuple[str, str]]
Test = Callable[[Record], bool]
MAX_LABELS = 10

FILTERS: dict[str, frozenset[str]] = {
    "prospects": frozenset({"email", "phone", "name", "title", "company", "stage", "label"}),
    "notes": frozenset({"prospectId", "userId"}),
    "tasks": frozenset(
        {"prospectId", "assignedTo", "userId", "incompleteOnly", "dueBefore", "dueAfter"}
    ),
    "meetings": frozenset(
        {"prospectId", "ownerId", "meetingType", "meetingDateAfter", "meetingDateBefore"}
    ),
}
OLDER_FILTERS = {"tasks": {"assignTo": "assignedTo"}}


def wanted_by(resource: str, params: Params) -> Test | None:
    """A test that takes the records all filters of `params` take; None where there is no filter.

    Raises:
        Refused: a value that the filter can't read, or more than `MAX_LABELS` labels.
    """
    tests = [
        _test(resource, name, value)
        for name, value in params
        if name in FILTERS[resource] - {"label"}
    ]
    labels = list(_labels(params)) if resource == "prospects" else []
    if len(labels) > MAX_LABELS:
        raise bad_request(f"label: at most {MAX_LABELS} labels, got {len(labels)}")
    if labels:
        tests.append(lambda record: not set(labels).isdisjoint(record.get("labels") or ()))
    return (lambda record: all(test(record) for test in tests)) if tests else None


def _labels(params: Params) -> Iterable[str]:
    """Repeated and comma-separated ones alike."""
    values = [value for name, value in params if name == "label"]
    return (label.strip() for value in values for label in value.split(",") if label.strip())


def _test(resource: str, name: str, value: str) -> Test:
    special = _SPECIAL.get(name)
    if special is not None:
        return special(value)
    if resource == "tasks" and name == "userId":
        return lambda record: value in (record.get("assignedTo"), record.get("createdBy"))
    return lambda record: record.get(name) == value


def _email(value: str) -> Test:
    return lambda record: email_key(record.get("email")) == email_key(value) is not None


def _phone(value: str) -> Test:
    return lambda record: phone_key(record.get("phone")) == phone_key(value) is not None


def _name(value: str) -> Test:
    part = value.casefold()
    return lambda record: (
        part in f"{record.get('firstName') or ''} {record.get('lastName') or ''}".casefold()
    )


def _same_text(field: str) -> Callable[[str], Test]:
    return lambda value: lambda record: str(record.get(field) or "").casefold() == value.casefold()


def _stage(value: str) -> Test:
    return lambda record: value in (record.get("currentStage"), record.get("currentStageId"))


def _incomplete(value: str) -> Test:
    if value.lower() not in {"true", "false", "1", "0"}:
        raise bad_request(f"incompleteOnly: expected true or false, got {value!r}")
    return _is_open if value.lower() in {"true", "1"} else lambda _record: True


def _is_open(record: Record) -> bool:
    return record.get("completedAt") is None


def _bound(field: str, *, upper: bool, open_only: bool = False) -> Callable[[str], Test]:
    """Inclusive; a record without the field is outside."""

    def made(value: str) -> Test:
        bound_ms = _milliseconds(value)

        def test(record: Record) -> bool:
            at_ms: Any = record.get(field)
            if not _is_number(at_ms) or (open_only and not _is_open(record)):
                return False
            return bool(at_ms <= bound_ms if upper else at_ms >= bound_ms)

        return test

    return made


def _milliseconds(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise bad_request(f"expected Unix milliseconds, got {value!r}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_SPECIAL: dict[str, Callable[[str], Test]] = {
    "email": _email,
    "phone": _phone,
    "name": _name,
    "title": _same_text("title"),
    "company": _same_text("company"),
    "stage": _stage,
    "incompleteOnly": _incomplete,
    "dueBefore": _bound("dueAt", upper=True, open_only=True),
    "dueAfter": _bound("dueAt", upper=False, open_only=True),
    "meetingDateBefore": _bound("meetingDate", upper=True),
    "meetingDateAfter": _bound("meetingDate", upper=False),
}
