"""Columns and fields: matched as people write them, refused before anything is sent."""

from __future__ import annotations

import pytest

from connector.errors import BadMapping, DoubledColumn, InputError, UnknownColumn
from connector.upsert.rows.columns import ColumnPlan
from connector.upsert.rows.mapping import Mapping
from connector.upsert.rows.models import FIELDS
from tests.unit.upsert_input.conftest import WriteFile

NAMES = ["firstName", "lastName"]


def plan(*columns: str, **options: object) -> ColumnPlan:
    return Mapping.match([*NAMES, *columns], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "header", ["First Name", "first_name", "FIRSTNAME", "First-Name", "first  name"]
)
def test_headers_match_without_case_spaces_underscores_and_hyphens(header: str) -> None:
    """However somebody writes it."""
    assert Mapping.match([header, "last name", "E-mail"]).fields == {
        header: "firstName",
        "last name": "lastName",
        "E-mail": "email",
    }


def test_every_field_of_the_write_schema_can_be_a_column() -> None:
    """Prospect fields by name, activity fields with their prefix."""
    assert set(Mapping.match(list(FIELDS)).fields.values()) == set(FIELDS)
    assert plan(
        "Meeting.Time Zone", "meeting.meetingdate", "meeting.owner_id", "Meeting.MeetingType"
    )


@pytest.mark.parametrize(
    ("column", "field"),
    [("Compnay", "company"), ("Mobile", "phone"), ("Zip Code", "postalCode"), ("Tags", "labels")],
)
def test_an_unknown_column_is_refused_with_the_nearest_field(column: str, field: str) -> None:
    """By spelling, or by what other systems call it."""
    with pytest.raises(UnknownColumn, match=f"Did you mean '{field}'") as caught:
        plan(column, place="people.csv")
    assert (caught.value.column, caught.value.nearest, caught.value.place) == (
        column,
        field,
        "people.csv",
    )


def test_unknown_columns_are_ignored_on_request() -> None:
    """--ignore-unknown; the plan says which."""
    found = plan("Shoe size", ignore_unknown=True)
    assert found.ignored == ("Shoe size",)
    assert "Shoe size" not in found.fields


def test_an_only_column_may_be_several() -> None:
    """A delimiter that nobody would guess: the error names the option."""
    with pytest.raises(UnknownColumn, match="only column; .* --delimiter"):
        Mapping.match(["firstName^lastName^email"])


def test_two_columns_for_one_field_are_refused() -> None:
    """Which of them would win is nobody's guess to make."""
    with pytest.raises(DoubledColumn, match="'E-mail' and 'email' both stand for 'email'"):
        plan("E-mail", "email")


@pytest.mark.parametrize("column", ["_hc_reject_reason", "_hc_deleted_at", "_dlt_id"])
def test_the_connectors_own_columns_are_passed_over(column: str) -> None:
    """A rejects file, and a table with its bookkeeping, can be pushed as they are."""
    assert plan(column).ignored == (column,)


def test_read_only_columns_are_passed_over_in_tables_alone() -> None:
    """A pulled table has them by nature; in a file, somebody may expect them to work."""
    columns = ("id", "created_at", "updated_at", "current_stage", "current_stage_id")
    assert plan(*columns, from_table=True).ignored == columns
    with pytest.raises(UnknownColumn):
        plan("created_at")


def test_a_mapping_file_says_otherwise(write: WriteFile) -> None:
    """Columns renamed, constants, columns left out; a mapped column wins over its own name."""
    path = write(
        'ignore = ["Title"]\n'
        "[columns]\n"
        '"Given" = "first_name"\nlastname = "lastName"\n"Title" = "company"\n'
        '"Free text" = "note.body"\n'
        '[constants]\nsource = "Import"\nnote.pin = true\n"note.userId" = "u1"\n',
        name="mapping.toml",
    )
    found = Mapping.match(["Given", "LastName", "title", "Free text"], Mapping.load(path))
    assert found.fields == {
        "Given": "firstName",
        "LastName": "lastName",
        "title": "company",
        "Free text": "note.body",
    }
    assert found.constants == {"source": "Import", "note.pin": True, "note.userId": "u1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[colums]\n", "unknown name 'colums'. Did you mean 'columns'"),
        (
            '[columns]\na = "frist_name"\n',
            r"\[columns\]: the API has no field 'frist_name'. Did you mean 'firstName'",
        ),
        ("[columns]\na = 1\n", "expected the name of an API field"),
        ('[columns]\na.b = "email"\n', "Quote a column"),
        ("columns = 1\n", r"\[columns\]: expected a table"),
        ('ignore = "x"\n', "ignore: expected a list"),
        ("[constants]\nshoeSize = 1\n", r"\[constants\]: the API has no field 'shoeSize'"),
        ("[columns\n", "can't be read as TOML"),
    ],
)
def test_a_mapping_file_that_is_wrong_is_refused(write: WriteFile, text: str, message: str) -> None:
    """The file, the section and the name are in the error."""
    with pytest.raises(BadMapping, match=message) as caught:
        Mapping.load(write(text, name="m.toml"))
    assert caught.value.place.endswith("m.toml")


def test_a_missing_mapping_file_is_refused() -> None:
    """With its path."""
    with pytest.raises(BadMapping, match="none.toml: can't be read"):
        Mapping.load("none.toml")


def test_a_mapping_that_does_not_fit_the_input_is_refused() -> None:
    """A column that isn't there; a constant for what is a column already."""
    with pytest.raises(BadMapping, match="has no column 'Emial'. Did you mean 'Email'"):
        plan("Email", mapping=Mapping(columns={"Emial": "email"}))
    with pytest.raises(BadMapping, match="'email' is also column 'Email'"):
        plan("Email", mapping=Mapping(constants={"email": "a@b.co"}))


def test_required_fields_need_a_column_or_a_constant() -> None:
    """Names for prospects; what an activity needs, once one of its fields is there."""
    with pytest.raises(InputError, match="no column for lastName"):
        Mapping.match(["firstName", "email"])
    assert Mapping.match(["firstName"], Mapping(constants={"lastName": "Unknown"}))
    with pytest.raises(InputError, match=r"no column for task\.assignedTo, which"):
        plan("task.task")
