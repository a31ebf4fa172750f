"""Workbooks: what the sheet shows is what is pushed, and what it can't show is said."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from connector.errors import InputError
from connector.upsert.inputs import InputRow, open_input
from connector.upsert.rows.mapping import Mapping
from connector.upsert.rows.validation import Reject, Validator
from tests.unit.upsert_input.conftest import WriteFile

Fill = Callable[[Any], None]


def workbook(*fills: Fill) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for position, fill in enumerate(fills):
        fill(book.create_sheet(f"Sheet {position + 1}"))
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def people(sheet: Any) -> None:
    sheet.append(["First Name", "Last Name", "Phone", "Company"])
    sheet.append(["Ann", "Lee", 4155550100, "Acme"])


def rejects(read: Any) -> list[str | None]:
    validator = Validator(Mapping.match(read.columns))
    checked = [validator.check(row) for row in read]
    return [row.reason if isinstance(row, Reject) else None for row in checked]


def test_a_sheet_is_read_with_its_own_row_numbers(write: WriteFile) -> None:
    """Also where it starts further down and to the right, with empty rows between."""

    def fill(sheet: Any) -> None:
        sheet["B3"], sheet["C3"] = "a", "b"
        sheet["B4"], sheet["C4"] = "x", 1.5
        sheet["B7"], sheet["C7"] = True, datetime(2025, 1, 2, 3, 4)

    read = open_input(write(workbook(fill), name="people.xlsx"))
    assert list(read) == [
        InputRow(4, {"a": "x", "b": 1.5}),
        InputRow(7, {"a": True, "b": datetime(2025, 1, 2, 3, 4)}),
    ]
    assert read.notes == ["empty rows passed over: 2 (row 5, 6)"]


def test_the_first_visible_sheet_is_taken_or_the_one_named(write: WriteFile) -> None:
    """The description says which, of how many."""

    def hidden(sheet: Any) -> None:
        sheet.append(["hidden"])
        sheet.sheet_state = "hidden"

    path = write(workbook(hidden, people, people), name="people.xlsx")
    assert open_input(path).description == "XLSX, sheet 'Sheet 2' (2 of 3)"
    assert open_input(path, sheet="Sheet 1").columns == ["hidden"]
    with pytest.raises(InputError, match="no sheet 'Sheet 9'. Did you mean.* --sheet takes one of"):
        open_input(path, sheet="Sheet 9")


def test_errors_about_one_of_several_sheets_name_it_and_the_option(write: WriteFile) -> None:
    """A cover sheet is often the first; whose header it is must not be guessed."""

    def cover(sheet: Any) -> None:
        sheet.append(["Spring campaign"])

    read = open_input(write(workbook(cover, people), name="people.xlsx"))
    with pytest.raises(InputError, match=r"\(sheet 'Sheet 1'; --sheet takes another\)"):
        Mapping.match(read.columns, place=read.name)


def test_errors_and_formulas_without_a_value_are_rejected_by_cell(write: WriteFile) -> None:
    """They would read as empty cells, and leave the field alone in silence."""

    def fill(sheet: Any) -> None:
        people(sheet)
        sheet.append(["Bob", "Lee", 4155550101, "#N/A"])
        sheet.append(["Cat", "Lee", 4155550102, '=CONCAT("a","b")'])
        sheet["D3"].data_type = "e"

    read = open_input(write(workbook(people, fill), name="people.xlsx"), sheet="Sheet 2")
    assert rejects(read) == [
        None,
        "Company: shows the error #N/A. Correct it, or empty the cell.",
        "Company: holds a formula without a stored value. Open and save the workbook.",
    ]


def test_a_value_below_no_header_rejects_its_row(write: WriteFile) -> None:
    """It would be left out in silence."""

    def fill(sheet: Any) -> None:
        people(sheet)
        sheet["F3"] = "lost"

    path = write(workbook(fill), name="people.xlsx")
    assert rejects(open_input(path)) == [
        None,
        "cell F3 stands in a column without a header. Name the column, or empty the cell.",
    ]
    assert [row.raw for row in open_input(path)] == [None, "lost"]


@pytest.mark.parametrize("name", ["people.csv", "people.xlsx.gz"])
def test_a_workbook_is_told_by_its_bytes(write: WriteFile, name: str) -> None:
    """`people.csv` is often one; gzip is opened, and no copy of it stays."""
    content = workbook(people)
    path = write(gzip.compress(content) if name.endswith("gz") else content, name=name)
    assert [row.values["Phone"] for row in open_input(path)] == [4155550100]


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04 and no more", workbook(people)[:-200], workbook(lambda sheet: None)]
)
def test_a_workbook_that_cannot_be_read_is_refused(write: WriteFile, content: bytes) -> None:
    """Cut short, or without a row: one error, no traceback."""
    with pytest.raises(InputError, match=r"Save it again|is empty"):
        open_input(write(content, name="people.xlsx"))


def test_a_doubled_header_names_its_row(write: WriteFile) -> None:
    """As in any other format."""
    with pytest.raises(InputError, match="line 2: two columns are called 'a'"):
        open_input(
            write(workbook(lambda sheet: [sheet.append(row) for row in ([], ["a", "a"])] and None))
        )


def test_a_large_sheet_is_read_once_and_again(write: WriteFile, tmp_path: Path) -> None:
    """Iterating starts over."""

    def fill(sheet: Any) -> None:
        for number in range(2_000):
            sheet.append([f"name {number}", number])

    read = open_input(write(workbook(fill), name="people.xlsx"))
    assert len(list(read)) == len(list(read)) == 1_999
