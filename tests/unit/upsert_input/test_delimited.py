"""CSV as people have it: every dialect read, every malformed line named, none left out."""

from __future__ import annotations

import csv
import gzip
import io
import os
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connector.errors import DoubledColumn, InputChanged, InputError
from connector.upsert.inputs import InputRow, open_input
from connector.upsert.rows.column_mapping import match_columns
from connector.upsert.rows.row_checks import Reject
from connector.upsert.rows.row_files import RejectsFile
from tests.unit.upsert_input.conftest import INPUTS, WriteFile


def values(path: Path, **options: Any) -> list[list[Any]]:
    return [list(row.values.values()) for row in open_input(path, **options)]


def numbers(rows: list[InputRow]) -> list[int]:
    return [row.row_number for row in rows]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_ends_are_detected(
    write: WriteFile, delimiter: str, line_end: str
) -> None:
    """Each pairing reads as the same table, cells with the other delimiters included."""
    rows = [
        ["first", "last", "title"],
        ["Ann", "a,b;c", 'x "y"'],
        ["Bob", "d\te|f", f"two{line_end}lines"],
    ]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=line_end).writerows(rows)
    path = write(text.getvalue())
    with open_input(path) as read:
        assert read.columns == rows[0]
    assert values(path) == rows[1:]


def test_mixed_line_ends_count_as_lines(write: WriteFile) -> None:
    """A file put together from three systems keeps its line numbers."""
    rows = list(open_input(write("a,b\r\n1,2\n3,4\r5,6")))
    assert numbers(rows) == [2, 3, 4]


def test_a_stray_carriage_return_cuts_no_cell_in_silence(write: WriteFile) -> None:
    """The first half seems whole, with its last cell cut; both halves are rejected."""
    rows = list(open_input(write("first,last,company\nAnn,Lee,Ac\rme\nBob,Ray,Initech\n")))
    assert [(row.row_number, row.problem is None) for row in rows] == [
        (2, False), (3, False), (4, True),
    ]  # fmt: skip


def test_a_row_is_numbered_by_the_line_it_starts_on(write: WriteFile) -> None:
    """Cells with line ends in them move the numbers of the rows below."""
    rows = list(open_input(write('\n\na,b\n"x\ny\nz",1\n\nlast,2\n')))
    assert numbers(rows) == [4, 8]
    assert rows[0].values == {"a": "x\ny\nz", "b": "1"}


def test_excel_says_its_delimiter_in_a_first_line(write: WriteFile) -> None:
    """`sep=;` is obeyed, isn't a header, and counts as a line; a program that knows nothing of it
    saves it as a row."""
    read = open_input(write("sep=;\r\na;b,c\r\n1;2\r\n", "utf-8-sig"))
    assert read.columns == ["a", "b,c"]
    assert numbers(list(read)) == [3]
    assert open_input(write("sep=^\na^b,c\n1^2\n")).columns == ["a", "b,c"]
    assert open_input(write('"sep=,",,\na,b,c\n1,2,3\n')).columns == ["a", "b", "c"]
    assert open_input(write("sep=x\na\n")).columns == ["sep=x"]


def test_what_a_program_has_slipped_into_a_header_is_no_part_of_its_names(write: WriteFile) -> None:
    """A byte order mark that was read as CP1252, hyphens of Word, signs that can't be seen."""
    read = open_input(
        write("ï»¿First Name,Last\u200b\u00a0Name,E\u2011mail,Ｐｈｏｎｅ\nA,B,a@b.co,\n")
    )
    fields = match_columns(read.columns).fields
    assert read.columns[0] == "First Name"
    assert list(fields.values()) == ["firstName", "lastName", "email", "phone"]


def test_one_column_needs_no_delimiter(write: WriteFile) -> None:
    """A list of emails is a table of one column."""
    assert values(write("email\na@b.co\nc@d.co\n")) == [["a@b.co"], ["c@d.co"]]


@pytest.mark.parametrize("line", ["1", "1,2,3", "1,2,"])
def test_a_ragged_row_is_returned_with_its_problem(write: WriteFile, line: str) -> None:
    """Too few or too many cells, empty ones too: named, and the rows around it are read."""
    rows = list(open_input(write(f"a,b\nx,y\n{line}\nz,w\n")))
    assert numbers(rows) == [2, 3, 4]
    assert [row.problem is None for row in rows] == [True, False, True]
    count = line.count(",") + 1
    cells = f"{count} cells" if count > 1 else "1 cell"
    assert str(rows[1].problem).startswith(f"{cells} where the header has 2")


def test_a_ragged_row_that_spans_lines_says_so(write: WriteFile) -> None:
    """The usual cause is a quote that was never closed."""
    rows = list(open_input(write('a,b\n"x\ny,1,2\nz",w,v\nok,ok\n')))
    assert "spans lines 2 to 4" in str(rows[0].problem)
    assert rows[1].values == {"a": "ok", "b": "ok"}


@pytest.mark.parametrize(
    "line", ["Ann,Lee,ann@example.com,+14155550100", "ann@example.com", '"Ann" Lee,ann@example.com']
)
def test_an_unreadable_row_of_a_csv_is_not_quoted_in_its_reason(
    write: WriteFile, tmp_path: Path, line: str
) -> None:
    """Its problem, which goes into logs and the ledger, has the length; the rejects file has the
    row, right of the reason, so that the row is rejected again until it is fixed."""
    (row,) = open_input(write(f"First Name,Email\n{line}\n"))
    assert row.raw == line
    assert "characters" in str(row.problem)
    assert not any(word in str(row.problem) for word in ("Ann", "ann", "4155550100"))
    path = tmp_path / "rejects.csv"
    for _ in range(2):
        with RejectsFile(path, ["First Name", "Email"]) as rejects:
            rejects.add(Reject(row.row_number, row.values, None, str(row.problem), row.raw))
        (row,) = open_input(rejects.path)
        assert "5 cells where the header has 4" in str(row.problem)
        assert row.raw == line


def test_empty_rows_are_no_rows_but_are_counted(write: WriteFile) -> None:
    """Blank lines and lines of delimiters, as spreadsheets leave them, with white space or not."""
    read = open_input(write("a,b\n1,2\n\n,\n3,4\n,\n   \n \u00a0,\t\n"))
    assert numbers(list(read)) == [2, 5]
    assert read.notes == ["empty rows skipped: 5 (row 3, 4, 6, 7, 8)"]


def test_text_after_a_closing_quote_rejects_that_row_alone(write: WriteFile) -> None:
    """Where the next line begins is clear, so only it is lost."""
    rows = list(open_input(write('a,b\n"5" screen,1\nok,2\n')))
    assert numbers(rows) == [2, 3]
    assert rows[0].raw == '"5" screen,1'
    assert rows[1].problem is None


@pytest.mark.parametrize(
    "text",
    [
        'a,b\nx,y\n"never closed,1\nz,2\n',
        'a,b\nx,y\n"say "hi, you",1\nz,2\n',
        'a,b\nx,y\n"opened,1\nBob,"Lee",2\n',
    ],
)
def test_a_quote_that_hides_the_rows_below_refuses_the_file(write: WriteFile, text: str) -> None:
    """Every row below would be a guess; the line where it begins is named."""
    with pytest.raises(InputError, match=r"people\.csv: line 3: .*quote"):
        list(open_input(write(text)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,,b\n1,2,3\n", "line 1: column 2 has no name"),
        ("a,b,a\n1,2,3\n", "line 1: columns 1 and 3 have the same name"),
        ("\n a ,b,a\n1,2,3\n", "line 2: columns 1 and 3 have the same name"),
        ("Email,b,Email\n1,2,3\n", "line 1: two columns are called 'Email'"),
    ],
)
def test_a_header_that_cannot_name_columns_is_refused(
    write: WriteFile, text: str, message: str
) -> None:
    """Empty, doubled or missing names: an error with the line, before any row."""
    with pytest.raises(InputError, match=message):
        open_input(write(text))


def test_a_doubled_header_carries_its_facts(write: WriteFile) -> None:
    """The error's data are attributes."""
    with pytest.raises(DoubledColumn) as caught:
        open_input(write("x,x\n"))
    assert (caught.value.field, caught.value.line, caught.value.positions) == ("x", 1, (1, 2))


def test_a_doubled_cell_of_a_first_row_that_is_data_is_not_quoted(write: WriteFile) -> None:
    """Whose first name is also the last name, say: positions and a length are enough."""
    with pytest.raises(DoubledColumn, match="columns 1 and 2 .*7 characters.* is data") as caught:
        open_input(write("Ekwueme,Ekwueme,Globex\nAnn,Lee,Globex\n"))
    assert "Ekwueme" not in str(caught.value)


def test_unnamed_columns_at_the_right_are_left_out_while_empty(write: WriteFile) -> None:
    """Spreadsheets leave them; a value below one makes its row ragged."""
    rows = list(open_input(write("a,b,,\n1,2,,\n3,4,x,\n5,6\n")))
    assert [row.problem is None for row in rows] == [True, False, True]
    assert rows[0].values == {"a": "1", "b": "2"}


def test_nul_and_a_ten_megabyte_cell_are_read_as_they_are(write: WriteFile) -> None:
    """Neither ends the file; what may be in a cell is decided when it is checked."""
    rows = list(open_input(write(f"a,b\nx\x00y,1\n{'z' * 10_000_000},2\nok,3\n")))
    assert rows[0].values["a"] == "x\x00y"
    assert len(rows[1].values["a"]) == 10_000_000
    assert rows[2].values == {"a": "ok", "b": "3"}


def test_a_far_too_large_cell_refuses_the_file(write: WriteFile) -> None:
    """Most likely a quote that was never closed, long ago."""
    with pytest.raises(InputError, match=r"line 2: a cell of more than 16 million characters"):
        list(open_input(write('a,b\n"' + "x,1\n" * 4_200_000)))


def test_gzip_is_opened_whatever_the_name(write: WriteFile) -> None:
    """Recognised by its first bytes."""
    path = write(gzip.compress(b"a,b\n1,2\n") + gzip.compress(b"3,4\n"), name="export")
    assert values(path) == [["1", "2"], ["3", "4"]]


def test_a_damaged_gzip_is_refused(write: WriteFile) -> None:
    """Half a download isn't a file; none of its rows is returned."""
    with pytest.raises(InputError, match="damaged or incomplete"):
        open_input(write(gzip.compress(b"a,b\n" + b"1,2\n" * 99_999)[:-20], name="x.csv.gz"))


def test_stdin_is_spooled_without_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It can be read twice, and no kill at any instant leaves a copy; those that version 0.1 left
    are swept, a young one stays: its push may still run."""
    old, young = tmp_path / "hiringcenter-input-old", tmp_path / "hiringcenter-input-young"
    for path in (old, young):
        path.write_text("Ann;ann@example.com")
    os.utime(old, (1, 1))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a;b\n1;2\n")))
    with open_input("-") as read:
        assert list(tmp_path.iterdir()) == [young]
        assert read.name == "stdin"
        assert (
            [row.values for row in read] == [row.values for row in read] == [{"a": "1", "b": "2"}]
        )


def test_a_missing_file_a_folder_and_an_old_workbook_are_refused(
    write: WriteFile, tmp_path: Path
) -> None:
    """Each with what to do."""
    for path, message in (
        (tmp_path / "none.csv", "No such file"),
        (tmp_path, "is a folder"),
        (write(b"\xd0\xcf\x11\xe0rest", name="old.xls"), r"Save it as \.xlsx or CSV"),
        (write(b'[{"a": 1}]', name="list.json"), "one JSON object per line"),
    ):
        with pytest.raises(InputError, match=message):
            open_input(path)


def test_a_file_that_changes_before_it_is_read_is_noticed(write: WriteFile) -> None:
    """Rows of two versions never mix."""
    read = open_input(write("a,b\n1,2\n"))
    write("a,b\n1,2\n3,4\n")
    with pytest.raises(InputChanged, match="changed while it was being read"):
        list(read)


def replaced(path: Path) -> None:
    other = path.with_name("new.csv")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def appended(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"3,4\n")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 3)


def edited_in_place(path: Path) -> None:
    """Same size, same time: only the bytes differ."""
    status = path.stat()
    with path.open("r+b") as stream:
        stream.seek(-2, os.SEEK_END)
        stream.write(b"9")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "zipped"),
    [
        *((change, False) for change in (replaced, appended, cut, edited_in_place)),
        *((change, True) for change in (replaced, appended, cut)),
    ],
)
def test_a_file_that_changes_while_its_rows_are_read_ends_in_an_error(
    write: WriteFile, change: Callable[[Path], None], zipped: bool
) -> None:
    """Behind its last row, before anything is sent; the rows until then are of one version."""
    text = "a,b\n" + "".join(f"{n},{n * 7919 % 10007}\n" for n in range(60_000))
    path = write(gzip.compress(text.encode()) if zipped else text)
    with open_input(path) as read:
        rows = iter(read)
        next(rows)
        change(path)
        with pytest.raises(InputChanged):
            for _ in rows:
                pass


def test_a_file_that_is_removed_while_it_is_read_is_read_to_its_end(write: WriteFile) -> None:
    """It is held open, so its name isn't needed any more."""
    path = write("a,b\n1,2\n")
    with open_input(path) as read:
        path.unlink()
        assert len(list(read)) == 1


def zipped(*parts: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for part in parts:
            archive.writestr(part, "x")
    return content.getvalue()


OLE = b"\xd0\xcf\x11\xe0" + bytes(3000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (OLE + "EncryptedPackage".encode("utf-16-le"), "encrypted with a password. Remove the"),
        (
            OLE + "Workbook".encode("utf-16-le"),
            r"is an old Excel workbook. Save it as \.xlsx or CSV",
        ),
        (zipped("mimetype", "content.xml"), r"an OpenDocument sheet \(.ods\)"),
        (zipped("Index/Document.iwa"), "an Apple Numbers document"),
        (zipped("[Content_Types].xml", "_rels/.rels", "xl/workbook.bin"), r"binary .*\(.xlsb\)"),
        (zipped("people.csv"), r"a ZIP archive \(of 'people.csv'\). Unpack it"),
        (b"%PDF-1.7", "a PDF document"),
        (b"SQLite format 3\0", "an SQLite database"),
        (bytes(8) + b"DUCK", "a DuckDB database. .*--database FILE"),
        (b'[{"firstName": "A"}]', "is a JSON list. Write one JSON object per line"),
        (b"<html><table><tr><td>First Name", "a web page or XML"),
        (b"\x28\xb5\x2f\xfd", "packed with zstd"),
    ],
)
def test_what_is_not_read_is_called_by_its_name(
    write: WriteFile, content: bytes, message: str
) -> None:
    """Whatever it is called, and what to save it as."""
    with pytest.raises(InputError, match=message):
        open_input(write(content, name="people.xlsx"))


def test_lines_above_the_header_are_named_with_the_way_out() -> None:
    """A title, a date, an empty line: the error names the header's line; --skip-rows reads it."""
    path = INPUTS / "lines-above-the-header.csv"
    with pytest.raises(InputError, match=r"line 4: looks like the header.* --skip-rows 3,"):
        open_input(path)
    with open_input(path, skip_rows=3) as read:
        assert [(row.row_number, row.values["First Name"]) for row in read] == [(5, "Mara")]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("People\n\nVorname;Nachname;Mail\nAnn;Lee;a@b.co\nBob;Lee;b@b.co\n", 3),
        ("Report,,\nby Ann,,\nFirst Name,Last Name,Email\n", 3),
        ("sep=;\nTitle\nFirst Name;Email\nAnn;a@b.co\n", 3),
        ('"two\nlines"\nfirst_name|email\nAnn|a@b.co\n', 3),
    ],
)
def test_a_title_is_distinguished_from_a_header(write: WriteFile, text: str, line: int) -> None:
    """By the fields below it, or by the table below it where a mapping names its columns."""
    with pytest.raises(InputError, match=f"line {line}: .*--skip-rows {line - 1},"):
        open_input(write(text))
    with open_input(write(text), skip_rows=line - 1) as read:
        assert len(read.columns) > 1


@pytest.mark.parametrize("text", ["email\na@b.co\n", "name\n'Lee, Ann'\n'Low, Bob'\n", "a\nb,c\n"])
def test_a_header_of_one_column_isnt_a_title(write: WriteFile, text: str) -> None:
    """A list of one column may have commas in its cells."""
    assert len(open_input(write(text)).columns) == 1


def test_a_csv_without_a_header_is_not_quoted(write: WriteFile) -> None:
    """Its first row is a person; the message has the cell's number alone."""
    with pytest.raises(InputError, match="line 1: cell 3 is an email address") as caught:
        open_input(write("Ann,Lee,ann@example.com\nBob,Lee,bob@example.com\n"))
    assert "Ann" not in str(caught.value)
    assert "@" not in str(caught.value)
    with pytest.raises(InputError, match="line 1: cell 2 is a phone number"):
        open_input(write("Ann,(415) 555-0100\nBob,\n"))
    assert open_input(write("Name,2024-2025\nAnn,1\n")).columns == ["Name", "2024-2025"]


def test_more_lines_skipped_than_there_are_is_an_error(write: WriteFile) -> None:
    """Not a crash."""
    with pytest.raises(InputError, match="is empty below its first 9 lines"):
        open_input(write("a,b\n"), skip_rows=9)


def test_a_gzip_file_that_unpacks_to_far_more_is_refused(write: WriteFile) -> None:
    """Before it is read to its end; the error names the limit."""
    packer = zlib.compressobj(9, wbits=31)
    lines = b"a,b\n" * 250_000
    content = b"".join(packer.compress(lines) for _ in range(200)) + packer.flush()
    with pytest.raises(InputError, match="more than 200 times its size .*128 MB"):
        open_input(write(content, name="x.csv.gz"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n" + "," * 1_000_000 + "\n", "a row of more than 20,000 cells"),
        (
            "a,b\n" + ('"' + ("x" * 999 + "\n") * 9_000 + '",') * 4,
            "a row of more than 32 million characters",
        ),
    ],
)
def test_a_far_too_large_row_refuses_the_file(write: WriteFile, text: str, message: str) -> None:
    """Before it fills the memory with cells."""
    with pytest.raises(InputError, match=message):
        list(open_input(write(text)))


_cell = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
_table = st.integers(2, 4).flatmap(
    lambda width: st.lists(st.lists(_cell, min_size=width, max_size=width), max_size=6)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=_table,
    delimiter=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    line_end=st.sampled_from(["\n", "\r\n"]),
)
def test_whatever_the_standard_writer_writes_is_read_back(
    write: WriteFile, rows: list[list[str]], delimiter: str, encoding: str, line_end: str
) -> None:
    """Every cell of every table, in every dialect; rows of white space alone are counted."""
    text = io.StringIO(newline="")
    quoting = csv.QUOTE_MINIMAL if line_end == "\r\n" else csv.QUOTE_ALL  # a bare \r needs quotes
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    # fields, so that no row below can be taken for the header
    writer.writerow(["firstName", "lastName", "title", "city"][: len(rows[0]) if rows else 2])
    writer.writerows(rows)
    read = open_input(write(text.getvalue(), encoding))
    filled = [row for row in rows if any(cell.strip() for cell in row)]
    assert [list(row.values.values()) for row in read] == filled
    assert read.empty_rows.count == len(rows) - len(filled)
