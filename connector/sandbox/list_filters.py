"""The filters of each list: query parameters → a test of one record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from connector.sandbox.generated_records import Record
from connector.sandbox.request_checks import CONTACT_KEYS, bad_request

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
    """A test that accepts the records that all filters in `params` accept; None without filters.
    Refused: a value that the filter can't read, or more than `MAX_LABELS` labels."""
    simple = FILTERS[resource] - {"label"}
    tests = [_test(resource, name, value) for name, value in params if name in simple]
    repeated = [value for name, value in params if name == "label"]
    labels = {part.strip() for value in repeated for part in value.split(",") if part.strip()}
    if len(labels) > MAX_LABELS:
        raise bad_request(f"label: at most {MAX_LABELS} labels, got {len(labels)}")
    if labels:
        tests.append(lambda record: not labels.isdisjoint(record.get("labels") or ()))
    return (lambda record: all(test(record) for test in tests)) if tests else None


def _test(resource: str, name: str, value: str) -> Test:
    match name:
        case "email" | "phone":
            contact_key = CONTACT_KEYS[name]
            key = contact_key(value)
            return lambda record: key is not None and contact_key(record.get(name)) == key
        case "name":
            part = value.casefold()
            return lambda record: part in _full_name(record).casefold()
        case "title" | "company":
            text = value.casefold()
            return lambda record: str(record.get(name) or "").casefold() == text
        case "stage":
            return lambda record: (
                value in (record.get("currentStage"), record.get("currentStageId"))
            )
        case "userId" if resource == "tasks":
            return lambda record: value in map(record.get, ("assignedTo", "createdBy"))
        case "incompleteOnly":
            if value.lower() not in {"true", "false", "1", "0"}:
                raise bad_request(f"incompleteOnly: expected true or false, got {value!r}")
            return _is_open if value.lower() in {"true", "1"} else lambda _record: True
        case "dueBefore" | "dueAfter":
            within = _bound("dueAt", value, upper=name == "dueBefore")
            return lambda record: _is_open(record) and within(record)
        case "meetingDateBefore" | "meetingDateAfter":
            return _bound("meetingDate", value, upper=name == "meetingDateBefore")
    return lambda record: record.get(name) == value


def _full_name(record: Record) -> str:
    return f"{record.get('firstName') or ''} {record.get('lastName') or ''}"


def _is_open(record: Record) -> bool:
    return record.get("completedAt") is None


def _bound(field: str, value: str, *, upper: bool) -> Test:
    """Inclusive; a record without the field is outside."""
    try:
        bound_ms = int(value)
    except ValueError:
        raise bad_request(f"expected Unix milliseconds, got {value!r}") from None

    def test(record: Record) -> bool:
        at_ms: Any = record.get(field)
        if not isinstance(at_ms, int | float) or isinstance(at_ms, bool):
            return False
        return bool(at_ms <= bound_ms if upper else at_ms >= bound_ms)

    return test
