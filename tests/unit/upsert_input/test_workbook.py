"""Workbooks: what the sheet shows is what is pushed, and what it can't show is reported."""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import openpyxl
import pytest
from python_calamine import CalamineWorkbook

from connector.errors import InputError
from connector.upsert.inputs import InputRow, open_input
from connector.upsert.rows.cells import NOT_COMPUTED
from connector.upsert.rows.column_mapping import ColumnMapping, match_columns
from connector.upsert.rows.row_checks import Reject, Validator
from tests.unit.upsert_input.conftest import INPUTS, WriteFile

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
    validator = Validator(match_columns(read.columns))
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
    assert read.notes == ["empty rows skipped: 2 (row 5, 6)"]


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
        match_columns(read.columns, location=read.name)


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
        "cell F3 is in a column without a header. Name the column, or empty the cell.",
    ]
    assert [row.raw for row in open_input(path)] == [None, "lost"]


@pytest.mark.parametrize("name", ["people.csv", "people.xlsx.gz"])
def test_a_workbook_is_recognized_by_its_bytes(write: WriteFile, name: str) -> None:
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
    with pytest.raises(InputError, match="line 2: columns 1 and 2 have the same name"):
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


MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
HEAD = "<row><c t='str'><v>a</v></c><c t='str'><v>b</v></c></row>"


def raw_workbook(
    rows: str,
    *,
    formats: tuple[str, ...] = (),
    strings: str = "",
    behind: str = "",
    workbook_tags: str = "",
    prefix: str = "",
) -> bytes:
    """A workbook as other programs write it, from its XML. formats: of the styles 1, 2, …"""
    codes = "".join(
        f"<numFmt numFmtId='{170 + at}' formatCode='{escape(code, QUOTE)}'/>"
        for at, code in enumerate(formats)
    )
    styles = "<xf numFmtId='0'/>" + "".join(
        f"<xf numFmtId='{170 + at}'/>" for at in range(len(formats))
    )
    kinds = {"rId1": ("worksheet", "worksheets/s.xml"), "rId2": ("styles", "styles.xml")}
    kinds["rId3"] = ("sharedStrings", "strings.xml")
    relations = "".join(
        f"<Relationship Id='{key}' Type='{RELATIONS}/{kind}' Target='{target}'/>"
        for key, (kind, target) in kinds.items()
    )
    sheet = f"<worksheet xmlns='{MAIN}'><sheetData>{rows}</sheetData>{behind}</worksheet>"
    if prefix:
        sheet = re.sub(r"<(/?)(?=\w)", rf"<\1{prefix}:", sheet).replace(
            "xmlns=", f"xmlns:{prefix}="
        )
    parts = {
        "_rels/.rels": f"<Relationships xmlns='{PACKAGE}'><Relationship Id='r' "
        f"Type='{RELATIONS}/officeDocument' Target='xl/workbook.xml'/></Relationships>",
        "xl/workbook.xml": f"<workbook xmlns='{MAIN}' xmlns:r='{RELATIONS}'>{workbook_tags}"
        "<sheets><sheet name='S' sheetId='1' r:id='rId1'/></sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f"<Relationships xmlns='{PACKAGE}'>{relations}"
        "</Relationships>",
        "xl/worksheets/s.xml": sheet,
        "xl/styles.xml": f"<styleSheet xmlns='{MAIN}'><numFmts>{codes}</numFmts>"
        f"<cellXfs>{styles}</cellXfs></styleSheet>",
        "xl/strings.xml": f"<sst xmlns='{MAIN}'>{strings}</sst>",
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return content.getvalue()


QUOTE = {"'": "&apos;"}


def cell_of(write: WriteFile, xml: str, **options: Any) -> Any:
    """What the cell in `xml` is read as."""
    rows = f"{HEAD}<row><c t='str'><v>x</v></c>{xml}</row>"
    (row,) = open_input(write(raw_workbook(rows, **options), name="x.xlsx"))
    return row.values["b"]


@pytest.mark.parametrize(
    ("number", "code", "value"),
    [
        ("1940", "00000", "01940"),
        ("19401234", "00000-0000", "01940-1234"),
        ("19401234", "00000\\-0000", "01940-1234"),
        ("0", "00000", "00000"),
        ("123456789", "000-00-0000", "123-45-6789"),
        ("4155550100", "[<=9999999]###-####;(###) ###-####", "(415) 555-0100"),
        ("5550100", "[<=9999999]###-####;(###) ###-####", "555-0100"),
        ("612345678", "00 00 00 00 00", "06 12 34 56 78"),
        ("17012345", '"+49 "0', "+49 17012345"),
        ("42", '"EMP-"0000', "EMP-0042"),
        ("7", "[$-409]00000;@", "00007"),
        ("-42", "0000", "-0042"),
        ("0.5", "0%", "50%"),
        ("0.125", "0.0%", "12.5%"),
        ("1", "0%", "100%"),
        ("1234.5", "#,##0.00", 1234.5),
        ("1234", "$#,##0_);[Red]($#,##0)", 1234),
        ("1234", '0 "€"', 1234),
        ("1234", "[$€-407] 0", 1234),
        ("4155550100", "0.00E+00", 4155550100),
        ("4155550100", "0", 4155550100),
        ("12.5", "0", 12.5),
        ("12.5", "00000", 12.5),
        ("0.30000000000000004", "General", 0.3),
        ("4.1555501E9", "General", 4155550100),
        ("45659", "yyyy-mm-dd", date(2025, 1, 2)),
        ("45659.5", "d/m/yy h:mm", datetime(2025, 1, 2, 12)),
        ("45659.000011574", "yyyy-mm-dd hh:mm:ss.000", datetime(2025, 1, 2, 0, 0, 1)),
        ("45659", 'dddd", "d. mmmm yyyy', date(2025, 1, 2)),
        ("0.75", "hh:mm", time(18)),
        ("1", "d mmm yyyy", date(1900, 1, 1)),
        ("59", "d mmm yyyy", date(1900, 2, 28)),
        ("61", "d mmm yyyy", date(1900, 3, 1)),
        ("1.5", "[h]:mm", timedelta(hours=36)),
        ("1", '"Yes";"Yes";"No"', "Yes"),
        ("0", '"Yes";"Yes";"No"', "No"),
        ("2", '[=1]"Male";[=2]"Female";General', "Female"),
        ("3", '[=1]"Male";[=2]"Female";General', 3),
        ("5", '0;-0;"none"', 5),
        ("0", '0;-0;"none"', "none"),
        ("5.5", '0.0;;"none"', 5.5),
        ("5", ";;;", 5),
        ("0", '_(* #,##0_);_(* "-"??_)', 0),
    ],
)
def test_a_number_is_read_as_its_format_means_it(
    write: WriteFile, number: str, code: str, value: object
) -> None:
    """Leading zeros, dashes and dates are in the format; money and thousands only decorate."""
    found = cell_of(write, f"<c s='1'><v>{number}</v></c>", formats=(code,))
    assert found == value
    assert type(found) is type(value)


def test_hidden_rows_count_and_are_reported(write: WriteFile) -> None:
    """A filter leaves them in the file: people who push what they see should know."""
    cell = "<c t='str'><v>x</v></c>"
    rows = f"{HEAD}<row>{cell}</row><row hidden='1'>{cell}</row><row hidden='true'/>"
    with open_input(write(raw_workbook(rows), name="x.xlsx")) as read:
        for _ in (1, 2):
            assert [row.row_number for row in read] == [2, 3]
            assert [note for note in read.notes if "hidden" in note and ": 1 (row 3);" in note]


def test_dates_of_old_macs_begin_in_1904(write: WriteFile) -> None:
    """Four years and a day would be lost."""
    tags = "<workbookPr date1904='1'/>"
    xml = "<c s='1'><v>44197</v></c>"
    assert cell_of(write, xml, formats=("yyyy-mm-dd",), workbook_tags=tags) == date(2025, 1, 2)


@pytest.mark.parametrize(
    ("xml", "value"),
    [
        ("<c t='inlineStr'><is><r><t>bo</t></r><r><t>th</t></r></is></c>", "both"),
        ("<c t='s'><v>0</v></c>", "東京"),
        ("<c t='s'><v>1</v></c>", "two\r\nlines"),
        ("<c t='str'><f>A1</f><v>text</v></c>", "text"),
        ("<c t='str'><f>A1</f><v></v></c>", ""),
        ("<c t='b'><v>1</v></c>", True),
        ("<c t='d'><v>2025-01-02T03:04:05</v></c>", datetime(2025, 1, 2, 3, 4, 5)),
        ("<c><f>1+1</f><v>2</v></c>", 2),
        ("<c><f>1-1</f><v>0</v></c>", 0),
        ("<c/>", ""),
        ("<c><v> </v></c>", ""),
    ],
)
def test_each_kind_of_cell_has_its_value(write: WriteFile, xml: str, value: object) -> None:
    """Whether it has a reference or follows the one before; how a word is pronounced isn't part of
    it."""
    strings = (
        "<si><t>東京</t><rPh sb='0' eb='2'><t>トウキョウ</t></rPh></si>"
        "<si><t>two_x000D_\nlines</t></si>"
    )
    for prefix in ("", "x"):
        assert cell_of(write, xml, strings=strings, prefix=prefix) == value
    referred = xml.replace("<c", "<c r='B2'", 1)
    assert cell_of(write, referred, strings=strings) == value


@pytest.mark.parametrize("reference", ["", " r='B2'"])
@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        ("<c{} t='e'><v>#REF!</v></c>", "error"),
        ("<c{} t='e'><v>#SOMETHING.NEW</v></c>", "error"),
        ("<c{} t='e'/>", "error"),
        ("<c{}><f>A1</f></c>", "formula without a stored value"),
        ("<c{}><f>A1</f><v/></c>", "formula without a stored value"),
        ("<c{}><f t='shared' si='0'/></c>", "formula without a stored value"),
        ("<c{}><v>9007199254740993</v></c>", "more than 15 digits"),
        ("<c{}><v>1.2345678901234568E+18</v></c>", "more than 15 digits"),
        ("<c{}><v>x</v></c>", "a number that can't be read"),
        ("<c{} s='1'><v>-5</v></c>", "a date that no spreadsheet can show"),
    ],
)
def test_a_cell_without_a_value_is_never_empty(
    write: WriteFile, xml: str, reason: str, reference: str
) -> None:
    """With references or without: the row is rejected, and nothing is cleared."""
    columns = {"a": "firstName", "b": "company"}
    rows = f"{HEAD}<row><c t='str'><v>x</v></c>{xml.format(reference)}</row>"
    path = write(raw_workbook(rows, formats=("d/m/y",)), name="x.xlsx")
    with open_input(path) as read:
        mapping = ColumnMapping(columns=columns, constants={"lastName": "Lee"})
        plan = match_columns(read.columns, mapping)
        (row,) = read
        checked = Validator(plan, clear_empty=True, mode="create-only").check(row)
    assert isinstance(checked, Reject)
    assert reason in checked.reason


@pytest.mark.parametrize(
    "tags",
    [
        "<calcPr fullCalcOnLoad='1'/>",
        "<calcPr fullCalcOnLoad='true'/>",
        "<calcPr calcCompleted='0'/>",
    ],
)
@pytest.mark.parametrize("value", ["<v>0</v>", "<v></v>"])
def test_a_formula_that_waits_for_its_first_calculation_has_no_value(
    write: WriteFile, tags: str, value: str
) -> None:
    """Libraries write a zero for all of them; what they were given stands."""
    xml = f"<c t='str'><f>UPPER(A2)</f>{value}</c>"
    assert cell_of(write, xml, workbook_tags=tags) == NOT_COMPUTED
    assert cell_of(write, "<c><f>A2</f><v>7</v></c>", workbook_tags=tags) == 7
    assert cell_of(write, "<c><v>0</v></c>", workbook_tags=tags) == 0


def test_a_merged_value_counts_for_each_of_its_rows(write: WriteFile) -> None:
    """In its first column; the other columns say nothing, and are left as they are."""
    rows = HEAD + "".join(
        f"<row r='{n}'><c r='A{n}' t='str'><v>n{n}</v></c>{own}<c r='C{n}' t='str'><v/></c></row>"
        for n, own in ((2, "<c r='B2' t='str'><v>Globex</v></c>"), (3, ""), (4, ""), (5, ""))
    )
    merges = "<mergeCells><mergeCell ref='B2:B3'/><mergeCell ref='A5:B5'/></mergeCells>"
    with open_input(write(raw_workbook(rows, behind=merges), name="x.xlsx")) as read:
        assert [row.values for row in read] == [
            {"a": "n2", "b": "Globex"},
            {"a": "n3", "b": "Globex"},
            {"a": "n4", "b": ""},
            {"a": "n5"},
        ]
        assert "merged cells (B2:B3, A5:B5)" in read.notes[0]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("cells-without-references.xlsx", [None]),
        ("formula-never-computed.xlsx", [None]),
        ("nineteen-digits.xlsx", [None]),
        ("stray-cell.xlsx", [{}, None]),
        ("zip-formats.xlsx", [{"postalCode": "01940-1234"}, {"postalCode": "01940"}]),
        ("merged-company.xlsx", [{"company": "Globex"}] * 3),
    ],
)
def test_the_fixtures_have_their_right_outcome(
    file: str, expected: list[dict[str, str] | None]
) -> None:
    """What is sent in addition to name and email; None: rejected, with --clear-empty too."""
    with open_input(INPUTS / file) as read:
        validator = Validator(match_columns(read.columns), clear_empty=True)
        checked = [validator.check(row) for row in read]
    sent = [None if isinstance(row, Reject) else row.payload for row in checked]
    names = ("firstName", "lastName", "email", "update")
    assert [
        payload and {name: value for name, value in payload.items() if name not in names}
        for payload in sent
    ] == expected


def test_a_title_above_the_header_of_a_sheet_is_named(write: WriteFile) -> None:
    """As in text; --skip-rows counts the sheet's rows."""

    def fill(sheet: Any) -> None:
        sheet["A1"] = "Export of contacts"
        sheet["A3"], sheet["B3"] = "First Name", "Email"
        sheet["A4"], sheet["B4"] = "Ann", "a@b.co"

    path = write(workbook(fill), name="people.xlsx")
    with pytest.raises(InputError, match="line 3: looks like the header.*--skip-rows 2,"):
        open_input(path)
    assert [row.row_number for row in open_input(path, skip_rows=2)] == [4]


def test_a_stray_cell_costs_its_own_row_alone() -> None:
    """In the last corner of the sheet: no grid is made up to it."""
    with open_input(INPUTS / "stray-cell.xlsx") as read:
        first, stray = read
        assert first.values["First Name"] == "Mara"
        assert "cell XFD1048576 is in a column without a header" in str(stray.problem)
        assert read.notes == ["empty rows skipped: 1048573 (row 3, 4, 5, 6, 7, …)"]


@pytest.mark.parametrize(
    ("rows", "behind", "message"),
    [
        ("<row>" + "<c/>" * 16_385 + "</row>", "", "more than 16,384 cells"),
        (f"<row r='2'>{'<c/>'}</row><row r='2'><c/></row>", "", "row 2 is out of order"),
        ("<row r='2000000'><c/></row>", "", "row 2000000 is out of order"),
        ("<row><c t='str'><v>" + "x" * 17_000_000 + "</v></c></row>", "", "16 million characters"),
        ("<row r='2'><c><x:v xmlns:x='x'>1</x:v></c></row>", "", "its tags mix prefixes"),
        ("<row><c r='ABCD1'><v>1</v></c></row>", "", "a reference that can't be read"),
        ("", "<mergeCells>" + "<mergeCell ref='A1:A2'/>" * 100_001 + "</mergeCells>", "100,000"),
    ],
)
def test_a_sheet_beyond_a_limit_is_refused(
    write: WriteFile, rows: str, behind: str, message: str
) -> None:
    """The error names it."""
    content = raw_workbook(HEAD.replace("<row>", "<row r='1'>") + rows, behind=behind)
    with pytest.raises(InputError, match=message):
        list(open_input(write(content, name="x.xlsx")))


def test_a_workbook_that_unpacks_to_far_more_is_refused(write: WriteFile) -> None:
    """Before any of it is unpacked; so is one whose sizes lie."""
    content = raw_workbook(HEAD, behind=" " * 140_000_000)
    with pytest.raises(InputError, match="'xl/worksheets/s.xml': unpacks to more than 200 times"):
        open_input(write(content, name="x.xlsx"))
    size = (140_000_000 + len(HEAD)).to_bytes(4, "little")[2:]
    lying = content.replace(
        content[content.rindex(size) - 2 : content.rindex(size) + 2], b"\0\1\0\0"
    )
    with pytest.raises(InputError, match="can't be read as a workbook"):
        open_input(write(lying, name="x.xlsx"))


def test_calamine_reads_the_same_values(write: WriteFile) -> None:
    """Of an ordinary sheet, the reader that many programs use says what ours says."""

    def fill(sheet: Any) -> None:
        sheet.append(["text", "number", "date", "moment", "flag", "none"])
        for n in range(50):
            moment = datetime(2025, 1, 1 + n % 28, n % 24, 30)
            sheet.append([f"name {n} ü", n * 1.25, moment.date(), moment, n % 2 == 0, None])

    content = workbook(fill)
    with open_input(write(content, name="x.xlsx")) as read:
        ours = [[*row.values.values()] for row in read]
    _, *theirs = (
        CalamineWorkbook.from_filelike(io.BytesIO(content)).get_sheet_by_index(0).to_python()
    )
    assert ours == theirs
