"""Rows, checked: good ones become exact payloads, bad ones say what to do, cell by cell."""

from __future__ import annotations

import re
from contextlib import suppress
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
from connector.upsert.rows.column_mapping import ColumnMapping, match_columns
from connector.upsert.rows.row_checks import Activity, Reject, Validator, ValidRow

ANN = {"firstName": "Ann", "lastName": "Lee", "email": "ann@example.com"}


def check(values: dict[str, Any], mapping: ColumnMapping | None = None, **options: Any) -> Any:
    columns = match_columns(list(values), mapping, from_table=True)
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
    """Trimmed text, E.164, an explicit `update`; the email as typed, compared without case."""
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
    assert check({**ANN, "firstName": empty}, clear_empty=True).payload == {
        "lastName": "Lee", "email": "ann@example.com", "update": True,
    }  # fmt: skip


@pytest.mark.parametrize("none", [[], (), "[]", ";", " | ", [None, " "]])
def test_labels_without_a_label_are_an_empty_cell(none: Any) -> None:
    """A table says `[]` of people without labels; taking others' away is what --clear-empty is
    for."""
    assert payload({"labels": none}) == {}
    assert payload({"labels": none}, clear_empty=True) == {"labels": []}


@pytest.mark.parametrize("name", ["labels_add", "labels_remove"])
def test_labels_to_add_and_to_remove_are_split_as_labels(name: str) -> None:
    """An empty cell says nothing, also with --clear-empty: there is nothing that it could clear."""
    assert payload({name: " Hot; Referral|Hot "}) == {name: ["Hot", "Referral"]}
    assert payload({name: '["a; b"]'}) == {name: ["a; b"]}
    for none in ("", " ", "[]", ";", None):
        assert payload({name: none}) == {}
        assert payload({name: none}, clear_empty=True) == {}
    assert "more than 200 characters" in reason({name: "x" * 201})


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"labels": "A", "labels_add": "B"}, "labels_add: is filled, and so is labels"),
        ({"labels": "A", "labels_remove": "B"}, "labels_remove: is filled, and so is labels"),
        ({"labels_add": "A;B", "labels_remove": "B"}, "hold the same label"),
    ],
)
def test_a_row_writes_its_labels_in_one_way(cells: dict[str, Any], message: str) -> None:
    """`labels` means exactly these, so nothing can be added to them, or removed; nor can a label be
    both added and removed. A row that fills one of the columns alone is fine."""
    assert message in reason(cells)
    for name, value in cells.items():
        assert payload(dict.fromkeys(cells) | {name: value}) == {name: value.split(";")}


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
    """02134 is 2134 there; the warning, which is kept, doesn't hold it."""
    row = check({**ANN, "postalCode": 2134.0})
    assert row.payload["postalCode"] == "2134"
    assert row.warnings == ["postalCode: its 4 digits may lack leading zeros"]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"email": "x"}, r"email: 'x' isn't an email address \(.+\)\. Correct it"),
        ({"phone": "12"}, r"phone: '12' isn't a phone number \(.+\)\. Correct it"),
        ({"licenseStatus": "maybe"}, "Write one of not_started, in_progress, licensed"),
        ({"muteWebhook": "perhaps"}, "muteWebhook: 'perhaps' is neither yes nor no"),
        ({"labels": '["a", '}, "starts like a JSON list and isn't one"),
        ({"labels": "x" * 201}, "has more than 200 characters"),
        ({"labels": [{"a": 1}]}, "holds an object"),
        ({"labels": [str(n) for n in range(101)]}, "more than 100 items"),
        ({"resume": "[1]"}, "isn't a JSON object"),
        ({"resume": "{'a': 1}"}, "isn't valid JSON"),
        ({"resume": '{"a": NaN}'}, "isn't valid JSON"),
        ({"resume": "[" * 100_000}, "isn't valid JSON"),
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
        ({"company": float("nan")}, "company: holds nan, which isn't a number"),
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


def test_all_problems_of_a_row_are_reported_at_once() -> None:
    """One round of fixing is enough; `column` is the first."""
    row = check(
        {
            **ANN,
            "lastName": "a\x1bb",
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
        {"First": "Ann", "Surname": b"1", "Mail": "x"},
        ColumnMapping(columns={"First": "firstName", "Surname": "lastName", "Mail": "email"}),
    )
    assert row.column == "Surname"
    assert "Mail: 'x' isn't an email address" in row.reason


def test_no_person_is_created_again_with_each_push() -> None:
    """Neither email nor phone: rejected, unless creating is what was asked for."""
    contactless = {**ANN, "email": "", "phone": ""}
    assert "email and phone: both empty" in check(contactless).reason
    created = check(contactless, mode="create-only")
    assert (created.email, created.phone, created.payload["update"]) == (None, None, False)


def test_columns_for_neither_email_nor_phone_are_refused_at_once() -> None:
    """Every row would be rejected; the file is."""
    columns = match_columns(["firstName", "lastName"])
    with pytest.raises(InputError, match="no column for email or phone"):
        Validator(columns)
    assert Validator(columns, mode="create-only")


def test_update_follows_the_mode_and_the_row_may_only_ask_for_less() -> None:
    """false in a row of an upsert creates alone; create-only never updates."""
    assert check({**ANN, "update": "no"}).payload["update"] is False
    assert check({**ANN, "update": "yes"}, mode="create-only").payload["update"] is False
    assert check(ANN, mode="update-only").payload["update"] is True
    assert "update: is false" in check({**ANN, "update": "no"}, mode="update-only").reason


def test_a_deleted_prospect_is_not_created_again() -> None:
    """A pulled table shows deletions; pushing it back must not undo them."""
    assert "was deleted in HiringCenter" in reason(
        {"_hc_deleted_at": datetime(2025, 1, 1, tzinfo=UTC)}
    )
    assert isinstance(check({**ANN, "_hc_deleted_at": None}), ValidRow)


def test_a_row_that_could_not_be_read_is_rejected_with_its_problem() -> None:
    """The reader's words reach the person."""
    validator = Validator(match_columns(list(ANN)))
    assert validator.check(InputRow(3, ANN, "2 cells where the header has 3.")) == Reject(
        3, ANN, None, "2 cells where the header has 3."
    )


def test_constants_go_into_every_row_and_are_checked_once() -> None:
    """A bad one is the mapping's fault, before any row."""
    constants = ColumnMapping(constants={"source": "Import", "labels": ["x"]}, location="m.toml")
    assert check(ANN, constants).payload["labels"] == ["x"]
    with pytest.raises(BadMapping, match=r"m\.toml: \[constants\] licenseStatus: 'maybe' isn't a"):
        check(ANN, ColumnMapping(constants={"licenseStatus": "maybe"}, location="m.toml"))


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
    mapping = ColumnMapping(constants={"task.assignedTo": "u1"})
    assert check({**ANN, "task.task": ""}, mapping).activities == []
    assert check({**ANN, "task.task": "call"}, mapping).activities == [
        Activity("tasks", {"assignedTo": "u1", "task": "call"})
    ]
    every = ColumnMapping(constants={"note.body": "Imported"})
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
def test_an_invalid_time_is_named(value: Any) -> None:
    """Seconds, which aren't milliseconds, too."""
    assert "note.date: " in reason({"note.body": "x", "note.date": value})


def test_a_zone_that_does_not_exist_is_named() -> None:
    """A meeting in no zone is at no time."""
    assert "meeting.timeZone: 'Mars/Base' isn't an IANA time zone" in reason(
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
_VALIDATOR = Validator(match_columns(_COLUMNS))


@given(st.fixed_dictionaries(dict.fromkeys(_COLUMNS, _anything)))
def test_no_row_of_any_values_ends_the_run(values: dict[str, Any]) -> None:
    """Each is a payload that JSON can carry, or a reject with a reason."""
    checked = _VALIDATOR.check(InputRow(1, values))
    if isinstance(checked, ValidRow):
        assert orjson.loads(orjson.dumps(checked.payload)) == checked.payload
    else:
        assert checked.reason


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ('="Globex"', "Globex"),
        ('="He said ""hi"""', 'He said "hi"'),
        ("=“01940”", "01940"),
        ("=”01940”", "01940"),
        ("'01941", "01941"),
        ("'+1 (415) 555", "+1 (415) 555"),
        ("'=mc2", "=mc2"),
        ("'@home", "@home"),
        ("'90s Records", "'90s Records"),
        ("'t Hoen", "'t Hoen"),
        ("Web 2.0", "Web 2.0"),
        ("5.0", "5.0"),
        ("1e309", "1e309"),
        ("#1", "#1"),
        ("=1+1", "=1+1"),
    ],
)
def test_text_that_a_program_has_wrapped_is_unwrapped(text: str, sent: str) -> None:
    """Where there is one thing it can have been; text that only looks like it stays."""
    assert payload({"company": text}) == {"company": sent}


def test_an_empty_text_formula_is_an_empty_cell() -> None:
    """`=""` says what an empty cell says."""
    assert payload({"company": '=""'}) == {}
    assert payload({"company": '=""'}, clear_empty=True) == {"company": None}


@pytest.mark.parametrize(
    ("column", "text", "sent"),
    [
        ("postalCode", "10014.0", "10014"),
        ("postalCode", "10014,00", "10014"),
        ("postalCode", "１２３－４５６７", "123-4567"),
        ("postalCode", "01.310-100", "01.310-100"),
        ("postalCode", "110 001", "110 001"),
        ("phone", "888-888-8888", "+18888888888"),
        ("company", "10.014", "10.014"),
        ("postalCode", "1234\u00a0AB", "1234 AB"),
        ("stageId", "17.0", "17"),
        ("userId", '="007"', "007"),
        ("muteWebhook", "1.0", True),
        ("phone", "4155550100.0", "+14155550100"),
        ("phone", "4155550100,0", "+14155550100"),
        ("phone", "14155550100.00", "+14155550100"),
        ("phone", '="4155550100"', "+14155550100"),
        ("phone", "'+14155550100", "+14155550100"),
        ("phone", "\u202a+1 415‑555‑0100\u202c", "+14155550100"),
        ("phone", "415\u00ad555\u200b0100", "+14155550100"),
        ("phone", "＋１４１５５５５０１００", "+14155550100"),
        ("phone", "415.555.0100", "+14155550100"),
        ("phone", "tel:+1-415-555-0100", "+14155550100"),
        ("firstName", "Ann\u00a0Marie\u200b", "Ann Marie"),
        ("lastName", "O\x92Neil", "O’Neil"),
        ("company", "\x93Acme\x94 \x96 \x805", "“Acme” – €5"),
        ("notes", "it\x92s", "it’s"),
        ("lastName", "\ufeffLee\u00ad", "Lee"),
        ("lastName", "می\u200cخواهم", "می\u200cخواهم"),
        ("phone", "415555.0100", "+14155550100"),
        ("userId", '="123456789012345000"', "123456789012345000"),
    ],
)
def test_what_is_certain_is_undone(column: str, text: str, sent: Any) -> None:
    """A number kept as a float, text kept as a formula, signs that can't be seen."""
    assert payload({column: text}) == {column: sent}


@pytest.mark.parametrize(
    "name",
    [
        "José",
        "Müller & Söhne – Köln",
        "Dvořák",
        "Łukasz",
        "Álvaro",
        "It’s",
        "Nº 5",
        "Åsa",
        "Żaneta",
    ],
)
@pytest.mark.parametrize("read_as", ["cp1252", "latin-1", "mac_roman"])
def test_utf8_that_was_read_as_something_else_is_read_again(name: str, read_as: str) -> None:
    """Once or twice over: the letters are those that were typed."""
    try:
        once = name.encode().decode(read_as)
    except UnicodeDecodeError:  # a byte that CP1252 doesn't have
        return
    assert payload({"company": once}) == {"company": name}
    assert payload({"lastName": once}) == {"lastName": name}
    with suppress(UnicodeDecodeError):
        assert payload({"company": once.encode().decode(read_as)}) == {"company": name}


@pytest.mark.parametrize(
    "text",
    ["NESCAFÉ®", "BLÅ®", "“MAÇÃ”", "IRMÃ”", "PÄŠ", "Ã", "√", "Straße", "«À»", "İĞ", "ƒé", "Ð˜Ð²"],
)
def test_text_that_may_have_been_typed_so_stays(text: str) -> None:
    """Signs behind capitals, letters of their own, another alphabet."""
    assert payload({"company": text}) == {"company": text}


@pytest.mark.parametrize("text", ["IRMÃ\xa0DULCE", "BLÅ\xa0KORS", "KEMPELÄ\xa0OY"])
def test_a_space_that_does_not_break_stays_one_behind_capitals(text: str) -> None:
    """The two characters are the UTF-8 of a letter, too; in Là-bas, they are read as that."""
    assert payload({"company": text}) == {"company": text}
    assert payload({"company": "LÃ\xa0-bas"}) == {"company": "Là-bas"}


@pytest.mark.parametrize(
    ("text", "is_short"), [("2134", True), ("501", True), ("02134", False), ("K1A", False)]
)
def test_a_postal_code_of_few_digits_is_doubted(text: str, is_short: bool) -> None:
    """A CSV file holds what the spreadsheet has left of 02134."""
    row = check({**ANN, "postalCode": text})
    assert row.payload["postalCode"] == text
    assert [each for each in row.warnings if "leading zeros" in each] == (
        [f"postalCode: its {len(text)} digits may lack leading zeros"] if is_short else []
    )


@pytest.mark.parametrize(("text", "is_short"), [("8001", False), ("150", True)])
def test_a_postal_code_of_four_digits_is_whole_where_all_are(text: str, is_short: bool) -> None:
    """In Switzerland and Norway, say; 0150 is in Oslo."""
    for region in ("CH", "NO"):
        row = check({**ANN, "postalCode": text}, default_region=region)
        assert bool(row.warnings) is is_short


@pytest.mark.parametrize("text", ["01.05.2025", "1.5.25", "2025.5"])
def test_a_date_in_another_form_isnt_a_code(text: str) -> None:
    """The reason says how to write a time."""
    found = reason({"note.body": "x", "note.date": text})
    assert "isn't a time. Write it as 2025-03-31T" in found


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("tom‑b@example.com", "tom-b@example.com"),
        ("tom\u00adb\u200b@example.com", "tomb@example.com"),
        ("ｔｏｍ＠example．com", "tom@example.com"),
        ("\ufefftom@example.com", "tom@example.com"),
        ("\u00a0tom@example.com\u00a0", "tom@example.com"),
        ("'tom@example.com'", "tom@example.com"),
        ("mailto:tom@example.com", "tom@example.com"),
        ("josé@example.com", "josé@example.com"),
        ("名前@example.com", "名前@example.com"),
    ],
)
def test_an_email_is_sent_as_it_was_typed(text: str, sent: str) -> None:
    """What Word and browsers slip in goes; letters of every script stay."""
    row = check({**ANN, "email": text})
    assert (row.payload["email"], row.email) == (sent, sent)


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("email", "“mara@example.com"),
        ("email", "mara@example.com”"),
        ("email", "‘mara@example.com’"),
        ("email", "'mara@example.com"),
        ("email", "tom–b@example.com"),
        ("email", "tom\u00a0b@example.com"),
        ("email", "tom…@example.com"),
        ("phone", "612345678.0"),
        ("phone", "212555143.0"),
        ("phone", "212555014.3"),
        ("phone", "415555.01"),
        ("phone", "447911123456.0"),
        ("phone", "6.12346E+11"),
        ("phone", "6,12346E+11"),
        ("phone", "6.12346e11"),
        ("phone", "“4155550100"),
        ("company", "6.12346E+11"),
        ("stageId", "1.23457E+15"),
        ("userId", "123456789012345000"),
        ("jobId", "1234567890123450000"),
        ("stageId", "12345678901234567.0"),
        ("postalCode", 12345678901234567890.0),
        ("company", float(2**53)),
        ("company", "1.23457E+9"),
        ("postalCode", "2.134E+3"),
        ("postalCode", "10,014"),
        ("postalCode", "10.014"),
        ("postalCode", "1.234.567,00"),
        ("postalCode", 10014.5),
        ("postalCode", "=02134"),
        ("stageId", "=VLOOKUP(A1;B:C;2)"),
        ("phone", "000-000-0000"),
        ("phone", "(123) 456-7890"),
        ("phone", "+1 999 999 9999"),
        ("phone", "+49 0000000000"),
        ("firstName", "Zo\ufffd"),
        ("company", "Ac\x85me"),
        ("company", "Acme\x81 \x92"),
        ("company", "Caf\ufffd Ole"),
        ("notes", "a caf\ufffd"),
        ("labels", "A;Caf\ufffd"),
    ],
)
def test_what_is_lost_is_rejected_with_its_cell(column: str, text: Any) -> None:
    """A digit more or less is another person's phone."""
    row = check({**ANN, column: text})
    assert isinstance(row, Reject)
    assert row.column == column
    assert str(text) not in row.public_reason


def test_a_float_may_be_a_phone_with_or_without_country_code() -> None:
    """491711234567.0 in Germany is two people's; 1711234567.0 is one's."""
    for phone in ("491711234567.0", "491711234567", 491711234567.0):
        assert "phone" in check({**ANN, "phone": phone}, default_region="DE").reason
    found = check({**ANN, "phone": "1711234567.0"}, default_region="DE")
    assert found.phone == "+491711234567"


ERRORS = [
    *("#N/A", "#NAME?", "#NV", "#WERT!", "#BEZUG!", "#VALEUR!", "#N/D", "#ERROR!", "#REF!", "#n/a"),
    *("#DIV/0!", "#NULL!", "#NUM!", "#¡VALOR!", "#¿NOMBRE?", "#¡DIV/0!", "#ЗНАЧ!", "#N/B", "#I/T"),
    *("#SPILL!", "#GETTING_DATA", "#KALK!", "#ÜBERLAUF!", "Err:502", "Err:504", "########", "###"),
]


@pytest.mark.parametrize("word", [*ERRORS, "#N/A N/A", " #REF! ", '="#N/A"'])
@pytest.mark.parametrize("column", ["company", "phone", "labels", "notes", "firstName"])
def test_an_error_word_is_never_sent(column: str, word: str) -> None:
    """In whatever language, whatever field; and never taken for an empty cell."""
    row = check({**ANN, column: word}, clear_empty=True)
    assert isinstance(row, Reject)
    assert row.column == column
    assert "shows the error" in row.reason


def test_an_error_word_among_labels_is_found() -> None:
    """One of several parts."""
    assert "shows the error" in reason({"labels": "Hot; #N/A"})


@pytest.mark.parametrize(
    "value",
    [
        *("0024-03-01", "0025-03-01T10:00", "1899-12-30", "1900-01-01", "1904-01-01", "1970-01-01"),
        *("9999-12-31", "2101-01-01", date(1899, 12, 30), datetime(25, 3, 1, tzinfo=UTC)),
        *(9999999999999, "03/04/2025", "3.4.2025", "45717", "45717.5", "25-03-01", "20250301"),
    ],
)
@pytest.mark.parametrize("field", ["note.date", "task.dueAt", "meeting.meetingDate"])
def test_a_date_that_cannot_be_meant_is_rejected(field: str, value: Any) -> None:
    """Years of two digits, zero dates, `never`, and what may be another day."""
    cells = {"note.body": "x", "task.task": "x", "task.assignedTo": "u", **MEETING}
    row = check({**ANN, **cells, field: value})
    assert isinstance(row, Reject)
    assert row.column == field


def test_a_time_kept_as_a_float_or_as_text_is_the_time() -> None:
    """13 digits and `.0`; `="2025-07-01"`."""
    for text in ("1751374800123.0", '="1751374800123"'):
        row = check({**ANN, "note.body": "x", "note.date": text})
        assert row.activities[0].payload["date"] == 1751374800123


def test_a_column_that_the_row_does_not_mention_says_nothing() -> None:
    """With clear_empty an empty cell clears; one that isn't there doesn't."""
    validator = Validator(match_columns([*ANN, "company", "title", "labels"]), clear_empty=True)
    row = validator.check(InputRow(2, {**ANN, "title": None}))
    assert isinstance(row, ValidRow)
    assert row.payload == {**ANN, "title": None, "update": True}


@pytest.mark.parametrize(
    ("constants", "sent"),
    [
        ({"source": 2026}, "2026"),
        ({"source": 2026.0}, "2026"),
        ({"source": " Fair "}, "Fair"),
        ({"source": '="Fair"'}, "Fair"),
        ({"source": date(2026, 3, 1)}, "2026-03-01"),
    ],
)
def test_a_constant_takes_the_path_of_cells(constants: dict[str, Any], sent: str) -> None:
    """A year without quotes is the text a cell would be."""
    assert check(ANN, ColumnMapping(constants=constants)).payload["source"] == sent


@pytest.mark.parametrize(
    ("constants", "name"),
    [
        ({"company": ""}, "company"),
        ({"company": "  "}, "company"),
        ({"company": '=""'}, "company"),
        ({"labels": []}, "labels"),
        ({"labels": " ; "}, "labels"),
        ({"resume": {}}, "resume"),
        ({"firstName": ""}, "firstName"),
        ({"company": "#N/A"}, "company"),
        ({"company": True}, "company"),
        ({"stageId": float("nan")}, "stageId"),
        ({"source": 6e30}, "source"),
        ({"note.body": " "}, "note.body"),
        ({"note.body": "x", "note.date": "0025-01-01"}, "note.date"),
        ({"note.body": "x", "note.date": "01/02/2025"}, "note.date"),
        ({**MEETING, "meeting.timeZone": "Mars/Base"}, "meeting.timeZone"),
        ({"muteWebhook": "perhaps"}, "muteWebhook"),
    ],
)
@pytest.mark.parametrize("clear_empty", [True, False])
def test_a_constant_that_cannot_be_right_is_refused_at_once(
    constants: dict[str, Any], name: str, clear_empty: bool
) -> None:
    """No rejects file could mend it, so the mapping is named, and the constant."""
    values = {column: value for column, value in ANN.items() if column not in constants}
    columns = match_columns(list(values), ColumnMapping(constants=constants, location="m.toml"))
    with pytest.raises(BadMapping, match=rf"m\.toml: \[constants\] {re.escape(name)}: "):
        Validator(columns, clear_empty=clear_empty)


@pytest.mark.parametrize("column", ["postalCode", "stageId", "firstName", "phone"])
def test_a_date_made_by_a_spreadsheet_is_neither_a_code_nor_a_name(column: str) -> None:
    """1-2 typed into a sheet is the first or second of some month."""
    assert "holds a date" in reason({column: datetime(2026, 1, 2)})
    assert "holds a date" in reason({column: date(2026, 1, 2)})
    assert "holds a date" in reason({column: "2026-01-02 00:00:00"})
    assert "holds a date" in reason({column: "2026-01-02T00:00"})


def test_one_name_for_all_people_is_refused() -> None:
    """Unless no person is changed; one of the two may be a constant."""
    constants = ColumnMapping(constants={"firstName": "Dear", "lastName": "Friend"})
    columns = match_columns(["email"], constants)
    with pytest.raises(BadMapping, match="every person that a row matches would get this one name"):
        Validator(columns)
    assert Validator(columns, mode="create-only")


@pytest.mark.parametrize("name", ["email", "phone"])
@pytest.mark.parametrize("mode", ["upsert", "create-only", "update-only"])
def test_a_constant_contact_is_refused(name: str, mode: str) -> None:
    """Every row would be the same person."""
    columns = match_columns(["firstName", "lastName"], ColumnMapping(constants={name: "x"}))
    with pytest.raises(BadMapping, match=f"{name}: every row would be the same person"):
        Validator(columns, mode=mode)


def test_a_constant_that_the_mode_contradicts_is_refused() -> None:
    """`update = false` while only updating."""
    columns = match_columns(list(ANN), ColumnMapping(constants={"update": False}))
    with pytest.raises(BadMapping, match="update: --mode update-only"):
        Validator(columns, mode="update-only")


@pytest.mark.parametrize(
    ("column", "secret"),
    [
        *(("phone", "41555501"), ("email", "mara.ortega"), ("email", "名(前@example.com")),
        *(("company", "Globex" * 200), ("note.date", "Tuesday"), ("licenseStatus", "revoked")),
        *(("resume", "[secret]"), ("meeting.timeZone", "Home"), ("note.mentions", "Bob")),
        *(("labels", "hush" * 60), ("muteWebhook", "psst"), ("firstName", "Ann\x07")),
    ],
)
def test_what_a_row_holds_is_in_its_reason_for_the_rejects_file_alone(
    column: str, secret: str
) -> None:
    """Elsewhere the column and the length do."""
    row = check({**ANN, **MEETING, "note.body": "x", column: secret})
    assert isinstance(row, Reject)
    assert secret[:60].encode("unicode_escape").decode() in row.reason or secret[:60] in row.reason
    assert secret not in row.public_reason
    assert column in row.public_reason
    assert f"({len(secret)} characters)" in row.public_reason


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("Ann Lee", "Ann", "Lee"),
        ("Lee, Ann", "Ann", "Lee"),
        ("Lee, Ann Marie", "Ann Marie", "Lee"),
        ("Anna-Lena O'Neil", "Anna-Lena", "O'Neil"),
        ("Łukasz Wiśniewski", "Łukasz", "Wiśniewski"),
    ],
)
def test_a_full_name_is_split_where_that_is_certain(name: str, first: str, last: str) -> None:
    """Two words, or a comma between last and first name."""
    row = check({"Name": name, "email": "ann@example.com"})
    assert (row.payload["firstName"], row.payload["lastName"]) == (first, last)


@pytest.mark.parametrize(
    "name",
    [
        *("Ann", "Ann Marie Lee", "Ludwig van Beethoven", "Dr Lee", "Mr. Lee", "Lee Jr", "Lee, Jr"),
        *(
            "Globex Inc",
            "Ann & Bob",
            "Ann Lee, PhD",
            "李小龙",
            "Ann B. Lee",
            "Ann  9",
            "de Vries",
        ),
        *("ann@example.com", "Lee; Ann", "#N/A"),
    ],
)
def test_a_full_name_is_never_split_by_guessing(name: str) -> None:
    """The cell is named, and two ways out."""
    row = check({"Name": name, "email": "ann@example.com"})
    assert isinstance(row, Reject)
    assert row.column == "Name"
    assert "lastName" not in row.reason


@pytest.mark.parametrize("names", [{}, {"firstName": "", "lastName": None}, {"Name": " "}])
def test_a_row_without_names_is_fine_unless_it_only_creates(names: dict[str, Any]) -> None:
    """Its person may be there; no empty name is ever sent."""
    values = {"email": "ann@example.com", "title": "Agent", **names}
    assert check(values).payload == {"email": "ann@example.com", "title": "Agent", "update": True}
    assert check(values, mode="update-only").payload["title"] == "Agent"
    reported = "no column for firstName, lastName, which" if not names else None
    if reported is not None:
        with pytest.raises(InputError, match=reported):
            check(values, mode="create-only")
    else:
        assert "is empty, and the API requires it" in check(values, mode="create-only").reason
    rejected = check({**values, "update": "no"})
    assert isinstance(rejected, Reject)
    assert "is empty, and the API requires it" in rejected.reason
