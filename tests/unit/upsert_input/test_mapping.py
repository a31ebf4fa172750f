"""Columns and fields: matched as people write them, refused before anything is sent."""

from __future__ import annotations

import pytest

from connector.errors import BadMapping, DoubledColumn, InputError, NoHeader, UnknownColumn
from connector.upsert.rows.column_mapping import ColumnMapping, ColumnPlan, match_columns
from connector.upsert.rows.write_schema import FIELDS
from tests.unit.upsert_input.conftest import WriteFile

NAMES = ["firstName", "lastName"]


def plan(*columns: str, **options: object) -> ColumnPlan:
    return match_columns([*NAMES, *columns], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "header", ["First Name", "first_name", "FIRSTNAME", "First-Name", "first  name"]
)
def test_headers_match_without_case_spaces_underscores_and_hyphens(header: str) -> None:
    """However it is written."""
    assert match_columns([header, "last name", "E-mail"]).fields == {
        header: "firstName",
        "last name": "lastName",
        "E-mail": "email",
    }


def test_every_field_of_the_write_schema_can_be_a_column() -> None:
    """Prospect fields by name, activity fields with their prefix."""
    assert set(match_columns(list(FIELDS)).fields.values()) == set(FIELDS)
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
        plan(column, location="people.csv")
    assert (caught.value.column, caught.value.nearest, caught.value.location) == (
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
    """A delimiter that no one would guess: the error names the option."""
    with pytest.raises(UnknownColumn, match="only column; .* --delimiter"):
        match_columns(["firstName^lastName^email"])


def test_two_columns_for_one_field_are_refused() -> None:
    """Which of them should win is not ours to guess."""
    with pytest.raises(DoubledColumn, match="'E-mail' and 'email' both stand for 'email'"):
        plan("E-mail", "email")


@pytest.mark.parametrize("column", ["_hc_reject_reason", "_hc_deleted_at", "_dlt_id"])
def test_the_connectors_own_columns_are_passed_over(column: str) -> None:
    """A rejects file, and a table with its bookkeeping, can be pushed as they are."""
    assert plan(column).ignored == (column,)


def test_read_only_columns_are_ignored_only_in_tables() -> None:
    """A pulled table has them by nature; in a file, a user may expect them to work."""
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
    found = match_columns(["Given", "LastName", "title", "Free text"], ColumnMapping.load(path))
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
        ("policy = 1\n", r"\[policy\]: expected a table"),
        ("[polices]\n", "unknown name 'polices'. Did you mean 'policy'"),
        (
            '[policy]\ncompany = "fil_empty"\n',
            "company: expected one of .* Did you mean 'fill_empty'",
        ),
        ("[policy]\ncompany = true\n", "company: expected one of overwrite, fill_empty, never"),
        ('[policy]\ncompnay = "never"\n', r"\[policy\]: the API has no field 'compnay'.*'company'"),
        ('[policy]\nlabels_add = "never"\n', "labels_add: write it for labels"),
        ('[policy]\nupdate = "never"\n', "update: isn't a field of a person"),
        ('[policy]\n"note.body" = "never"\n', "note.body: .* are only created"),
        (
            '[policy]\ncompany = "never"\nCOMPANY = "overwrite"\n',
            "COMPANY: is there twice, as company",
        ),
    ],
)
def test_a_mapping_file_that_is_wrong_is_refused(write: WriteFile, text: str, message: str) -> None:
    """The file, the section and the name are in the error."""
    with pytest.raises(BadMapping, match=message) as caught:
        ColumnMapping.load(write(text, name="m.toml"))
    assert caught.value.location.endswith("m.toml")


def test_a_mapping_file_says_how_fields_may_be_written(write: WriteFile) -> None:
    """By any spelling of the field, whether or not the input has a column for it."""
    path = write(
        '[policy]\nCompany = "fill_empty"\njob_id = "never"\nlabels = "overwrite"\n', name="m.toml"
    )
    found = plan("company", mapping=ColumnMapping.load(path))
    assert found.policy == {"company": "fill_empty", "jobId": "never", "labels": "overwrite"}
    assert plan("company").policy == {}


@pytest.mark.parametrize("header", ["labels_add", "Labels add", "LabelsAdd", "labels-add"])
def test_labels_to_add_are_a_column_and_a_target(header: str) -> None:
    """Under any spelling, and mapped from any other column; so are those to remove."""
    assert plan(header).fields[header] == "labels_add"
    mapping = ColumnMapping(columns={"Tags": "labels_remove"})
    assert plan("Tags", mapping=mapping).fields["Tags"] == "labels_remove"


def test_a_missing_mapping_file_is_refused() -> None:
    """With its path."""
    with pytest.raises(BadMapping, match="none.toml: can't be read"):
        ColumnMapping.load("none.toml")


def test_a_mapping_that_does_not_fit_the_input_is_refused() -> None:
    """A column that isn't there; a constant for what is a column already."""
    with pytest.raises(BadMapping, match="has no column 'Emial'. Did you mean 'Email'"):
        plan("Email", mapping=ColumnMapping(columns={"Emial": "email"}))
    with pytest.raises(BadMapping, match="'email' is also column 'Email'"):
        plan("Email", mapping=ColumnMapping(constants={"email": "a@b.co"}))


def test_required_fields_need_a_column_or_a_constant() -> None:
    """What an activity needs, once one of its fields is there. Only who is created needs a name."""
    assert match_columns(["email", "title"]).fields == {"email": "email", "title": "title"}
    with pytest.raises(InputError, match=r"no column for task\.assignedTo, which"):
        plan("task.task")


def test_all_unknown_columns_are_named_at_once() -> None:
    """One round of fixing is enough; those that look like a field come first."""
    with pytest.raises(UnknownColumn) as caught:
        plan("Shoe size", "Compnay", "Hat", location="people.csv")
    assert (
        "3 columns match no field of the API: 'Compnay' (did you mean 'company'?), 'Shoe size', "
        "'Hat'. Rename them" in str(caught.value)
    )
    assert len(caught.value.others) == 2


def test_what_ignore_unknown_leaves_out_is_listed() -> None:
    """A mistyped field is seen before the rest; nothing is left out in silence."""
    found = plan("Shoe size", "Compnay", ignore_unknown=True)
    assert found.notes == ["columns left out: 'Compnay' (did you mean 'company'?), 'Shoe size'"]
    assert plan("email").notes == []


def test_names_of_columns_are_cut_before_they_are_compared_or_shown() -> None:
    """A header cell of 200 kB, 10,000 of them: an answer at once, of a size that can be read."""
    with pytest.raises(UnknownColumn) as caught:
        plan("Company" * 30_000, *(f"c{n}" for n in range(10_000)))
    assert len(str(caught.value)) < 2_000
    assert "and 9981 more" in str(caught.value)


@pytest.mark.parametrize(
    "cells",
    [
        ["Mara", "Ortega", "mara@example.com"],
        ["Mara", "Ortega", "x", "(212) 555-0143"],
        ["Mara", "Ortega", "Office", "mara@example.com"],
        ["Mara", "Ortega", "Globex"],
        ["Mara^Ortega^mara@example.com"],
        ["Mara", "Tate", "Globex"],  # like `state`
        ["Mara", "Ortega", "Globex", "Source"],  # a company's name that is a field's
        ["Mara", "Nate", "Tate", "Citi", "Notes"],
    ],
)
def test_a_file_without_a_header_is_not_quoted(cells: list[str]) -> None:
    """Its first row is a person's: numbers and lengths are shown, and what to do."""
    with pytest.raises(UnknownColumn, match="Add a header row above it") as caught:
        match_columns(cells, location="people.csv")
    for cell in ("Mara", "Ortega", "example", "Tate", "Globex", "Citi"):
        assert cell not in str(caught.value)


def test_a_header_that_looks_like_data_is_described_by_positions() -> None:
    """Which column looks like which field; in other languages one field alone may be named."""
    with pytest.raises(NoHeader, match=r"1 of its 4 columns .* column 2 resembles 'company'"):
        match_columns(["Vorname", "Compnay", "Stadt", "email"])


def test_a_single_column_that_matches_no_field_may_need_a_delimiter() -> None:
    """Nothing is counted in words that fit only several columns."""
    reason = r"its first row names no field of the API\. It is the only column"
    with pytest.raises(NoHeader, match=reason):
        match_columns(["x"])


def test_a_mapping_that_names_no_column_quotes_no_cell() -> None:
    """Where the first row is a person's, whose name looks like what the mapping says."""
    mapping = ColumnMapping(columns={"Marla": "firstName"})
    with pytest.raises(BadMapping, match=r"has no column 'Marla'\. Correct"):
        match_columns(["Marta", "Lee"], mapping)


GOOGLE_NEW = (
    "First Name,Middle Name,Last Name,Phonetic First Name,Phonetic Middle Name,Phonetic Last Name,"
    "Name Prefix,Name Suffix,Nickname,File As,Organization Name,Organization Title,"
    "Organization Department,Birthday,Notes,Photo,Labels,E-mail 1 - Label,E-mail 1 - Value,"
    "E-mail 2 - Label,E-mail 2 - Value,Phone 1 - Label,Phone 1 - Value,Address 1 - Label,"
    "Address 1 - Formatted,Address 1 - Street,Address 1 - City,Address 1 - PO Box,"
    "Address 1 - Region,Address 1 - Postal Code,Address 1 - Country,Address 1 - Extended Address,"
    "Website 1 - Label,Website 1 - Value"
)
GOOGLE_OLD = (
    "Name,Given Name,Additional Name,Family Name,Yomi Name,Given Name Yomi,Additional Name Yomi,"
    "Family Name Yomi,Name Prefix,Name Suffix,Initials,Nickname,Short Name,Maiden Name,Birthday,"
    "Gender,Location,Billing Information,Directory Server,Mileage,Occupation,Hobby,Sensitivity,"
    "Priority,Subject,Notes,Language,Photo,Group Membership,E-mail 1 - Type,E-mail 1 - Value,"
    "Phone 1 - Type,Phone 1 - Value,Organization 1 - Type,Organization 1 - Name,"
    "Organization 1 - Yomi Name,Organization 1 - Title"
)
OUTLOOK = (
    "First Name,Middle Name,Last Name,Title,Suffix,Nickname,Given Yomi,Surname Yomi,E-mail Address,"
    "E-mail 2 Address,E-mail 3 Address,Home Phone,Home Phone 2,Business Phone,Business Phone 2,"
    "Mobile Phone,Car Phone,Other Phone,Primary Phone,Pager,Business Fax,Home Fax,Other Fax,"
    "Company Main Phone,Callback,Radio Phone,Telex,TTY/TDD Phone,IMAddress,Job Title,Department,"
    "Company,Office Location,Manager's Name,Assistant's Name,Assistant's Phone,Company Yomi,"
    "Business Street,Business City,Business State,Business Postal Code,Business Country/Region,"
    "Home Street,Home City,Home State,Home Postal Code,Home Country/Region,Other Street,Other City,"
    "Other State,Other Postal Code,Other Country/Region,Personal Web Page,Spouse,Schools,Hobby,"
    "Location,Web Page,Birthday,Anniversary,Notes"
)
LINKEDIN = "First Name,Last Name,URL,Email Address,Company,Position,Connected On"
HUBSPOT = (
    "Record ID,First Name,Last Name,Email,Phone Number,Contact owner,Lead Status,"
    "Marketing contact status,Create Date,Last Activity Date,Job Title,Company Name,City,"
    "State/Region,Postal Code,Street Address,Country/Region,Associated Company IDs"
)


@pytest.mark.parametrize(
    ("export", "header", "fields"),
    [
        (
            "Google Contacts",
            GOOGLE_NEW,
            {
                "First Name": "firstName",
                "Last Name": "lastName",
                "E-mail 1 - Value": "email",
                "Phone 1 - Value": "phone",
                "Organization Name": "company",
                "Organization Title": "title",
                "Notes": "notes",
                "Address 1 - Street": "streetAddress",
                "Address 1 - City": "city",
                "Address 1 - Region": "state",
                "Address 1 - Postal Code": "postalCode",
            },
        ),
        (
            "Google Contacts",
            GOOGLE_OLD,
            {
                "Given Name": "firstName",
                "Family Name": "lastName",
                "E-mail 1 - Value": "email",
                "Phone 1 - Value": "phone",
                "Organization 1 - Name": "company",
                "Organization 1 - Title": "title",
                "Notes": "notes",
            },
        ),
        (
            "Outlook",
            OUTLOOK,
            {
                "First Name": "firstName",
                "Last Name": "lastName",
                "E-mail Address": "email",
                "Mobile Phone": "phone",
                "Company": "company",
                "Job Title": "title",
                "Notes": "notes",
                "Home Street": "streetAddress",
                "Home City": "city",
                "Home State": "state",
                "Home Postal Code": "postalCode",
            },
        ),
        (
            "LinkedIn",
            LINKEDIN,
            {
                "First Name": "firstName",
                "Last Name": "lastName",
                "Email Address": "email",
                "Company": "company",
                "Position": "title",
            },
        ),
        (
            "HubSpot",
            HUBSPOT,
            {
                "First Name": "firstName",
                "Last Name": "lastName",
                "Email": "email",
                "Phone Number": "phone",
                "Company Name": "company",
                "Job Title": "title",
                "City": "city",
                "State/Region": "state",
                "Postal Code": "postalCode",
                "Street Address": "streetAddress",
            },
        ),
    ],
)
def test_the_exports_of_address_books_are_recognized(
    export: str, header: str, fields: dict[str, str]
) -> None:
    """No mapping file is needed; what has no field is left out, and listed."""
    columns = header.split(",")
    found = match_columns(columns)
    assert found.fields == fields
    assert found.export == export
    assert {column for column, _ in found.left_out} == {*columns} - {*fields}
    assert found.notes[0] == f"columns as {export} exports them"


def test_a_mapping_overrides_the_columns_of_a_known_export() -> None:
    """Whoever maps the business phone means it, and may take the title for one."""
    mapping = ColumnMapping(
        columns={"Business Phone": "phone", "Title": "title"}, ignore=("Job Title",)
    )
    fields = match_columns(OUTLOOK.split(","), mapping).fields
    assert (fields["Business Phone"], fields["Title"]) == ("phone", "title")
    assert "Mobile Phone" not in fields


@pytest.mark.parametrize(
    ("column", "field"),
    [
        *(("Given Name", "firstName"), ("Family Name", "lastName"), ("Email Address", "email")),
        *(("E-mail Address", "email"), ("Phone Number", "phone"), ("Mobile Phone", "phone")),
        *(("Company Name", "company"), ("Job Title", "title"), ("Organization Name", "company")),
    ],
)
def test_a_name_with_one_meaning_needs_no_mapping(column: str, field: str) -> None:
    """In whatever file it stands, unless another column has the field's own name."""
    others = [name for name in NAMES if name != field]
    assert match_columns([*others, column]).fields[column] == field
    with pytest.raises(UnknownColumn, match=f"Did you mean '{field}'"):
        match_columns([*NAMES, *({field} - {*NAMES}), column])


def test_a_full_name_stands_for_both_names() -> None:
    """Where neither has a column of its own; otherwise it is a column like any other."""
    found = match_columns(["Full Name", "email"])
    assert (found.full_name, found.fields, found.ignored) == ("Full Name", {"email": "email"}, ())
    with pytest.raises(UnknownColumn):
        plan("Name")
    with pytest.raises(UnknownColumn):
        match_columns(["Name", "lastName", "email"])
