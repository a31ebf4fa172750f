"""Rows, checked: good ones become exact payloads, bad ones say what to do, cell by cell."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.errors import BadMapping, InputError
from connector.upsert.inputs import InputRow
from connector.upsert.rows.cells import Unreadable
from connector.upsert.rows.mapping import Mapping
from connector.upsert.rows.validation import Activity, Reject, Validator, ValidRow

ANN = {"firstName": "Ann", "lastName": "Lee", "email": "ann@example.com"}


def check(values: dict[str, Any], mapping: Mapping | None = None, **options: Any) -> Any:
    columns = Mapping.match(list(values), mapping, from_table=True)
    return Validator(columns, **options).check(InputRow(7, values))


def payload(values: dict[str, Any], **options: Any) -> dict[str, Any]:
    checked = check({**ANN, **values}, **options)
    assert isinstance(checked, ValidRow), checked
    return {
        name: value
        for name, value in checked.payload.items()
        if name not in (*ANN, "update") or name in values
    }


def reason(values: dict[str, Any], **options: Any) -> str:
    checked = check({**ANN, **values}, **options)
    assert isinstance(checked, Reject), checked
    assert checked.row_number == 7
    assert checked.values == {**ANN, **values}
    return checked.reason


def test_a_good_row_becomes_the_payload_and_its_identities() -> None:
    """Trimmed text, E.164, `update` said aloud; the email as typed, compared without case."""
    row = check(
        {
            "First Name": " Ann ",
            "last_name": "Lee",
            "E-mail": "Ann@Example.com",
            "phone": "(415) 555-0100",
            "company": "",
            "labels": "Hot; Referral |Hot",
            "notes": " kept as it is\n",
        }
    )
    assert row == ValidRow(
        row_number=7,
        payload={
            "firstName": "Ann",
            "lastName": "Lee",
            "email": "Ann@Example.com",
            "phone": "+14155550100",
            "labels": ["Hot", "Referral"],
            "notes": " kept as it is\n",
            "update": True,
        },
        email="ann@example.com",
        phone="+14155550100",
        activities=[],
        warnings=[],
    )


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_an_empty_cell_is_left_out_or_cleared_on_request(empty: str | None) -> None:
    """Left out by default; null with clear_empty, but never for names, nor yes/no fields."""
    cells = {"company": empty, "labels": empty, "muteWebhook": empty}
    assert payload(cells) == {}
    assert payload(cells, clear_empty=True) == {"company": None, "labels": None}
    assert "firstName: is empty" in reason({"firstName": empty}, clear_empty=True)


@pytest.mark.parametrize("none", [[], (), "[]", ";", " | ", [None, " "]])
def test_labels_without_a_label_are_an_empty_cell(none: Any) -> None:
    """A table says `[]` of people without labels; taking others' away is what --clear-empty is
    for."""
    assert payload({"labels": none}) == {}
    assert payload({"labels": none}, clear_empty=True) == {"labels": []}


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        ("a;b", ["a", "b"]),
        ("a|b; ;c", ["a", "b", "c"]),
        ('["a;b", "c"]', ["a;b", "c"]),
        ('["a", 1, null]', ["a", "1"]),
        (["x", "y", "x"], ["x", "y"]),
        ("[VIP]", ["[VIP]"]),
        (7, ["7"]),
    ],
)
def test_labels_are_split_or_read_as_json(value: Any, labels: list[str]) -> None:
    """At `;` and `|`, or a list as it is; each label once."""
    assert payload({"labels": value}) == {"labels": labels}


def test_a_comma_in_a_single_label_is_pointed_out() -> None:
    """It may be one label; more likely it was meant to be two."""
    assert "`;` separates several" in check({**ANN, "labels": "Hot, Referral"}).warnings[0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("yes", True),
        ("TRUE", True),
        (1, True),
        (False, False),
        ("0", False),
        ("No", False),
        (1.0, True),
    ],
)
def test_yes_and_no_are_read_in_many_ways(value: Any, expected: bool) -> None:
    """As words, digits, and a sheet's own."""
    assert payload({"muteWebhook": value}) == {"muteWebhook": expected}


@pytest.mark.parametrize("value", ["Licensed", "LICENSED ", "licensed"])
def test_license_status_is_one_of_three(value: str) -> None:
    """Whatever the case; spaces and hyphens are underscores."""
    assert payload({"licenseStatus": value}) == {"licenseStatus": "licensed"}
    assert payload({"licenseStatus": "Not Started"}) == {"licenseStatus": "not_started"}


def test_a_resume_is_an_object() -> None:
    """As JSON text or as a struct, with dates inside as text."""
    assert payload({"resume": '{"a": [1, "é"]}'}) == {"resume": {"a": [1, "é"]}}
    assert payload({"resume": {"a": date(2025, 1, 2)}}) == {"resume": {"a": "2025-01-02"}}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5551234567.0, "5551234567"),
        (7, "7"),
        (1.5, "1.5"),
        (Decimal("1.50"), "1.50"),
        (Decimal("100"), "100"),
        (datetime(2025, 1, 2, 3, 4, tzinfo=UTC), "2025-01-02T03:04:00+00:00"),
        (date(2025, 1, 2), "2025-01-02"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_a_typed_cell_becomes_the_text_a_person_would_read(value: Any, text: str) -> None:
    """Numbers without a spurious `.0`, times in ISO 8601."""
    assert payload({"company": value}) == {"company": text}


def test_a_phone_that_a_sheet_holds_as_a_number_is_a_phone() -> None:
    """4155550100.0 is what a sheet makes of it."""
    assert payload({"phone": 4155550100.0}) == {"phone": "+14155550100"}


def test_a_postal_code_that_a_sheet_holds_as_a_number_is_doubted() -> None:
    """02134 is 2134 there."""
    row = check({**ANN, "postalCode": 2134.0})
    assert row.payload["postalCode"] == "2134"
    assert row.warnings == ["postalCode: 2134 may have lost leading zeros"]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"firstName": "  "}, "firstName: is empty, and the API requires it"),
        ({"email": "x"}, r"email: 'x' is no email address \(.+\)\. Correct it"),
        ({"phone": "12"}, r"phone: '12' is no phone number \(.+\)\. Correct it"),
        ({"licenseStatus": "maybe"}, "Write one of not_started, in_progress, licensed"),
        ({"muteWebhook": "perhaps"}, "muteWebhook: 'perhaps' is neither yes nor no"),
        ({"labels": '["a", '}, "starts like a JSON list and isn't one"),
        ({"labels": "x" * 201}, "has more than 200 characters"),
        ({"labels": [{"a": 1}]}, "holds an object"),
        ({"labels": [str(n) for n in range(101)]}, "more than 100 items"),
        ({"resume": "[1]"}, "is no JSON object"),
        ({"resume": "{'a': 1}"}, "is no valid JSON"),
        ({"resume": '{"a": NaN}'}, "is no valid JSON"),
        ({"resume": "[" * 100_000}, "is no valid JSON"),
        ({"resume": {"a": 2**70}}, "more than 64 bits"),
        ({"resume": {"a": "\ud800"}}, "half a character"),
        ({"company": "x" * 1001}, r"company: 'x{60}…' has more than 1000 characters"),
        ({"notes": "x" * 10_000_000}, "more than 100000 characters"),
        ({"company": "a\x00b"}, "control character"),
        ({"lastName": "a\x1bb"}, "control character"),
        ({"company": "a\ud800b"}, "half a character"),
        ({"email": "a\ud800@b.co"}, "email: "),
        ({"labels": "a\ud800"}, "half a character"),
        ({"company": b"x"}, "company: holds binary data"),
        ({"company": [1]}, "company: holds a list"),
        ({"company": {"a": 1}}, "company: holds an object"),
        ({"company": True}, "company: holds a true/false value"),
        ({"company": timedelta(1)}, "company: holds a value of type timedelta"),
        ({"company": float("nan")}, "company: holds nan, which is no number"),
        ({"company": Decimal("Infinity")}, "company: holds Infinity"),
        ({"company": "#N/A"}, "company: shows the error #N/A"),
        ({"company": Unreadable("a date out of range")}, "company: holds a date out of range"),
        ({"labels": Unreadable("a date out of range")}, "labels: holds a date out of range"),
    ],
)
def test_a_bad_cell_is_named_with_what_to_do(cells: dict[str, Any], message: str) -> None:
    """Column, value and next step, for every type that a file or table can hold."""
    (column,) = cells
    text = reason(cells)
    assert text.startswith(f"{column}: ")
    assert re.search(message, text)


def test_all_that_is_wrong_in_a_row_is_said_at_once() -> None:
    """One round of fixing is enough; `column` is the first."""
    row = check(
        {
            **ANN,
            "lastName": "",
            "email": "x",
            "company": b"1",
            "task.task": "call",
            "task.assignedTo": "",
        }
    )
    assert row.column == "company"
    for column in ("lastName: ", "email: ", "company: ", "task.assignedTo: "):
        assert column in row.reason


def test_columns_are_named_as_the_input_names_them() -> None:
    """The person fixes their file, not our fields."""
    row = check(
        {"First": "Ann", "Surname": "", "Mail": "x"},
        Mapping(columns={"First": "firstName", "Surname": "lastName", "Mail": "email"}),
    )
    assert row.column == "Surname"
    assert "Mail: 'x' is no email address" in row.reason


def test_nobody_is_created_anew_with_each_push() -> None:
    """Neither email nor phone: rejected, unless creating is what was asked for."""
    nobody = {**ANN, "email": "", "phone": ""}
    assert "email and phone: both empty" in check(nobody).reason
    created = check(nobody, mode="create-only")
    assert (created.email, created.phone, created.payload["update"]) == (None, None, False)


def test_columns_for_neither_email_nor_phone_are_refused_at_once() -> None:
    """Every row would be rejected; the file is."""
    columns = Mapping.match(["firstName", "lastName"])
    with pytest.raises(InputError, match="no column for email or phone"):
        Validator(columns)
    assert Validator(columns, mode="create-only")


def test_update_follows_the_mode_and_the_row_may_only_ask_for_less() -> None:
    """false in a row of an upsert creates alone; create-only never updates."""
    assert check({**ANN, "update": "no"}).payload["update"] is False
    assert check({**ANN, "update": "yes"}, mode="create-only").payload["update"] is False
    assert check(ANN, mode="update-only").payload["update"] is True
    assert "update: is false" in check({**ANN, "update": "no"}, mode="update-only").reason


def test_a_deleted_prospect_is_not_created_anew() -> None:
    """A pulled table tells of deletions; pushing it back must not undo them."""
    assert "was deleted in HiringCenter" in reason(
        {"_hc_deleted_at": datetime(2025, 1, 1, tzinfo=UTC)}
    )
    assert isinstance(check({**ANN, "_hc_deleted_at": None}), ValidRow)


def test_a_row_that_could_not_be_read_is_rejected_with_its_problem() -> None:
    """The reader's words reach the person."""
    validator = Validator(Mapping.match(list(ANN)))
    assert validator.check(InputRow(3, ANN, "2 cells where the header has 3.")) == Reject(
        3, ANN, None, "2 cells where the header has 3."
    )


def test_constants_go_into_every_row_and_are_checked_once() -> None:
    """A bad one is the mapping's fault, before any row."""
    constants = Mapping(constants={"source": "Import", "labels": ["x"]}, place="m.toml")
    assert check(ANN, constants).payload["labels"] == ["x"]
    with pytest.raises(BadMapping, match=r"m\.toml: \[constants\] licenseStatus: 'maybe' is no"):
        check(ANN, Mapping(constants={"licenseStatus": "maybe"}, place="m.toml"))


MEETING = {
    "meeting.meetingDate": "2025-07-01T09:00",
    "meeting.timeZone": "America/New_York",
    "meeting.meetingType": "call",
    "meeting.ownerId": "u1",
}


def test_activities_are_made_where_their_cells_are_filled() -> None:
    """A note without a body column filled is none; a meeting's time is in its own zone."""
    row = check(
        {**ANN, "note.body": "<b>hi</b>", "task.task": "", "task.assignedTo": "", **MEETING}
    )
    assert row.activities == [
        Activity("notes", {"body": "<b>hi</b>"}),
        Activity(
            "meetings",
            {
                "meetingDate": 1751374800000,
                "timeZone": "America/New_York",
                "meetingType": "call",
                "ownerId": "u1",
            },
        ),
    ]


def test_constants_alone_do_not_make_an_activity_of_an_empty_row() -> None:
    """Where the activity has columns, one must be filled; where it has none, every row gets it."""
    mapping = Mapping(constants={"task.assignedTo": "u1"})
    assert check({**ANN, "task.task": ""}, mapping).activities == []
    assert check({**ANN, "task.task": "call"}, mapping).activities == [
        Activity("tasks", {"assignedTo": "u1", "task": "call"})
    ]
    every = Mapping(constants={"note.body": "Imported"})
    assert check(ANN, every).activities == [Activity("notes", {"body": "Imported"})]


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        ("1751374800123", 1751374800123),
        (1751374800123, 1751374800123),
        (1751374800123.0, 1751374800123),
        ("2025-07-01T15:00:00+02:00", 1751374800000),
        ("2025-07-01T13:00:00.123Z", 1751374800123),
        ("2025-07-01", 1751328000000),
        (date(2025, 7, 1), 1751328000000),
        (datetime(2025, 7, 1, 13, tzinfo=UTC), 1751374800000),
    ],
)
def test_times_become_unix_milliseconds(value: Any, ms: int) -> None:
    """From ms, dates and ISO 8601; without an offset they are in UTC."""
    row = check({**ANN, "note.body": "x", "note.date": value})
    assert row.activities[0].payload["date"] == ms


@pytest.mark.parametrize("value", ["tomorrow", "1751374800", 1e300, "07/01/2025", True, [1]])
def test_what_is_no_time_is_named(value: Any) -> None:
    """Seconds, which are no milliseconds, too."""
    assert "note.date: " in reason({"note.body": "x", "note.date": value})


def test_a_zone_that_does_not_exist_is_named() -> None:
    """A meeting in no zone is at no time."""
    assert "meeting.timeZone: 'Mars/Base' is no IANA time zone" in reason(
        {**MEETING, "meeting.timeZone": "Mars/Base"}
    )


_anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.dates()
    | st.datetimes()
    | st.decimals()
    | st.uuids()
    | st.timedeltas()
    | st.times(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_COLUMNS = [
    *ANN,
    "phone",
    "labels",
    "resume",
    "licenseStatus",
    "muteWebhook",
    "notes",
    "postalCode",
    "note.body",
    "note.date",
    "note.mentions",
    *MEETING,
]
_VALIDATOR = Validator(Mapping.match(_COLUMNS))


@given(st.fixed_dictionaries(dict.fromkeys(_COLUMNS, _anything)))
def test_no_row_of_any_values_ends_the_run(values: dict[str, Any]) -> None:
    """Each is a payload that JSON can carry, or a reject with a reason."""
    checked = _VALIDATOR.check(InputRow(1, values))
    if isinstance(checked, ValidRow):
        assert orjson.loads(orjson.dumps(checked.payload)) == checked.payload
    else:
        assert checked.reason
