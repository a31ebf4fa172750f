"""The rejects file: fixed and pushed again, it holds what the input held."""

from __future__ import annotations

import csv
import os
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connector.errors import InputError
from connector.upsert.inputs import open_input
from connector.upsert.rows.column_mapping import match_columns
from connector.upsert.rows.row_checks import Reject, Validator, ValidRow
from connector.upsert.rows.row_files import RejectsFile, WrittenFiles, next_rejects_name
from tests.unit.upsert_input.conftest import WriteFile

COLUMNS = ["First Name", 'note; or, "note"']


def rejects_file(path: Path, columns: list[str] = COLUMNS, source: str = "a.csv") -> RejectsFile:
    """As a push of `source` opens it; what was written is remembered next to the files."""
    written = WrittenFiles(path.parent / ".written")
    return RejectsFile(path, columns, source=source, written=written)


def rejected(
    path: Path, *rows: dict[str, object], columns: list[str] = COLUMNS, source: str = "a.csv"
) -> Path:
    with rejects_file(path, columns, source) as rejects:
        for row in rows:
            rejects.add(Reject(2, row, None, 'why; and, "what" to do'))
    return rejects.path


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.name != ".written")


def test_it_has_the_inputs_columns_and_the_reason(tmp_path: Path) -> None:
    """In order, in UTF-8 with a mark, readable by no other user."""
    path = tmp_path / "new" / "rejects.csv"
    rejected(path, {"First Name": "Zoë", COLUMNS[1]: "=1+1"})
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open(newline="", encoding="utf-8-sig") as stream:
        assert list(csv.reader(stream)) == [
            [*COLUMNS, "_hc_row", "_hc_reject_reason"],
            ["Zoë", "=1+1", "2", 'why; and, "what" to do'],
        ]


def test_the_rejects_of_a_rejects_file_have_one_reason(tmp_path: Path) -> None:
    """The new one; and the row number that they had in the first input."""
    path = tmp_path / "rejects.csv"
    rejected(
        path,
        {"First Name": "x", "_hc_row": "17", "_hc_reject_reason": "old"},
        columns=["First Name", "_hc_row", "_hc_reject_reason"],
    )
    assert open_input(path).columns == ["First Name", "_hc_row", "_hc_reject_reason"]
    assert "old" not in path.read_text("utf-8")
    assert [row.values["_hc_row"] for row in open_input(path)] == ["17"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.lists(st.text(max_size=6), min_size=2, max_size=2), min_size=1, max_size=5),
    st.sampled_from([(",", "comma"), (";", "semicolon"), ("\t", "comma"), ("|", "comma")]),
)
def test_every_text_reads_back_as_it_was(
    tmp_path: Path, rows: list[list[str]], delimiters: tuple[str, str]
) -> None:
    """Quotes, line ends, NULs, formulas, white space: our own reader finds them again. Semicolons
    of the input stay semicolons, as the spreadsheet that wrote them expects."""
    path, (delimiter, written) = tmp_path / "rejects.csv", delimiters
    path.unlink(missing_ok=True)
    with RejectsFile(path, COLUMNS, delimiter=delimiter) as rejects:
        for row in rows:
            values = dict(zip(COLUMNS, row, strict=True))
            rejects.add(Reject(2, values, None, 'why; and, "what" to do'))
    read = open_input(path)
    assert read.description == f"CSV, UTF-8 with BOM, {written} delimiter"
    assert [[row.values[column] for column in COLUMNS] for row in read] == rows


def test_an_undecodable_cell_goes_back_as_the_bytes_it_was(
    tmp_path: Path, write: WriteFile
) -> None:
    """Pushed again unfixed, it is rejected again, not sent as something else."""
    source = "First Name,b\nJosé,1\nRen".encode() + b"\xe9,2\n" + b'"\xed\xa0\x80",3\n'
    bad = [row for row in open_input(write(source)) if row.problem]
    path = tmp_path / "rejects.csv"
    with RejectsFile(path, ["First Name", "b"]) as rejects:
        for row in bad:
            rejects.add(Reject(row.row_number, row.values, None, str(row.problem)))
    assert b"Ren\xe9,2," in path.read_bytes()
    assert [bool(row.problem) for row in open_input(path)] == [True, True]


def test_values_of_other_types_become_text_that_can_be_pushed(tmp_path: Path) -> None:
    """Lists and objects are JSON, null is empty, numbers have no spurious `.0`."""
    path = tmp_path / "rejects.csv"
    columns = ["a", "b", "c", "d", "e", "f"]
    cells = [["x;y", date(2025, 1, 2)], None, 4155550100.0, True, {"k": "é"}, b"\x00\xff"]
    rejected(path, dict(zip(columns, cells, strict=True)), columns=columns)
    (row,) = open_input(path)
    assert list(row.values.values())[:6] == [
        '["x;y", "2025-01-02"]',
        "",
        "4155550100",
        "true",
        '{"k": "é"}',
        "0x00ff",
    ]


def test_nothing_rejected_leaves_no_file(tmp_path: Path) -> None:
    """An old one would be taken for this push's."""
    path = tmp_path / "rejects.csv"
    rejected(path, {"First Name": "x"})
    with rejects_file(path) as rejects:
        assert rejects.count == 0
    assert files(tmp_path) == []


def test_a_rejects_file_that_is_pushed_itself_is_never_removed(tmp_path: Path) -> None:
    """It may be the input; what was fixed by hand stays."""
    path = tmp_path / "rejects.csv"
    rejected(path, {"First Name": "x"})
    rejects_file(path, open_input(path).columns, "rejects.csv").save()
    assert path.exists()


@pytest.mark.parametrize("content", ["First Name,note\nAnn,x\n", '"', "x" * 200_000])
def test_no_other_file_is_written_over(tmp_path: Path, content: str) -> None:
    """The input itself, say, named by mistake."""
    path = tmp_path / "people.csv"
    path.write_text(content)
    with pytest.raises(InputError, match="isn't a rejects file"):
        RejectsFile(path, COLUMNS)
    with pytest.raises(InputError, match="isn't a rejects file"):
        RejectsFile("/dev/null", COLUMNS)
    assert path.read_text() == content


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("delimiter", [";", "\t", ","])
def test_a_rejects_file_that_a_spreadsheet_has_saved_is_one_still(
    tmp_path: Path, encoding: str, delimiter: str
) -> None:
    """In the encoding and with the delimiter of that program; it is never written over."""
    path = tmp_path / "fixed.csv"
    fixed = delimiter.join(["Name", "_hc_row", "_hc_reject_reason"]) + "\r\n"
    path.write_text(fixed + delimiter.join(["Zoë", "2", "why"]), encoding=encoding)
    was = path.read_bytes()
    assert rejected(path, {"First Name": "x"}) == tmp_path / "fixed-2.csv"
    assert path.read_bytes() == was


def test_rejects_without_their_reasons_block_no_push(tmp_path: Path) -> None:
    """Whoever fixes cells may remove the reasons; the next rejects get another name."""
    path = tmp_path / "people.csv.rejects.csv"
    path.write_text("First Name\nAnn\n")
    assert rejected(path, {"First Name": "x"}) == tmp_path / "people.csv.rejects-2.csv"
    assert path.read_text() == "First Name\nAnn\n"
    folder = tmp_path / "b.csv.rejects.csv"
    folder.mkdir()
    with pytest.raises(InputError, match="isn't a rejects file"):
        RejectsFile(folder, COLUMNS)


def test_the_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """Until it is closed, what lay there stays; discarded, it stays for good."""
    path = tmp_path / "rejects.csv"
    rejected(path, {"First Name": "old"})
    old = path.read_bytes()
    rejects = rejects_file(path)
    rejects.add(Reject(2, {}, None, "why"))
    assert path.read_bytes() == old
    assert files(tmp_path) == ["rejects.csv"], "a killed push leaves no copy of the rows"
    rejects.discard()
    assert files(tmp_path) == ["rejects.csv"]


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """With the path and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Choose another --rejects"):
        rejected(tmp_path / "file" / "rejects.csv", {"First Name": "x"})


def test_a_file_that_was_changed_by_hand_is_never_written_over(tmp_path: Path) -> None:
    """The next rejects get another name; those are replaced as long as they are unchanged."""
    path = tmp_path / "people.csv.rejects.csv"
    rejected(path, {"First Name": "x"})
    fixed = path.read_bytes().replace(b"x", b"Xaver")
    path.write_bytes(fixed)
    for name in ("y", "z"):
        beside = rejected(path, {"First Name": name})
        assert beside == tmp_path / "people.csv.rejects-2.csv"
    assert path.read_bytes() == fixed
    assert b"z," in beside.read_bytes()
    beside.write_bytes(b"")
    assert rejected(path, {"First Name": "q"}) == tmp_path / "people.csv.rejects-3.csv"


def test_what_was_changed_by_hand_stays_where_nothing_is_rejected(tmp_path: Path) -> None:
    """Only what is unchanged is removed."""
    path = tmp_path / "people.csv.rejects.csv"
    rejected(path, {"First Name": "x"})
    path.write_bytes(path.read_bytes().replace(b"x", b"Xaver"))
    rejected(path, {"First Name": "y"})
    rejected(path)
    assert files(tmp_path) == ["people.csv.rejects.csv"]


def test_the_rejects_of_another_input_are_kept_too(tmp_path: Path) -> None:
    """Two jobs with one --rejects don't revert each other."""
    path = tmp_path / "bad.csv"
    rejected(path, {"First Name": "x"})
    for _ in range(2):
        assert rejected(path, {"First Name": "y"}, source="b.csv") == tmp_path / "bad-2.csv"
    rejected(path, source="b.csv")
    assert files(tmp_path) == ["bad.csv"]


def test_an_unknown_rejects_file_counts_as_changed(tmp_path: Path) -> None:
    """The state directory was lost, or another machine wrote it."""
    path = tmp_path / "rejects.csv"
    rejected(path, {"First Name": "x"})
    with RejectsFile(path, COLUMNS, written=WrittenFiles(tmp_path / "lost")) as rejects:
        rejects.add(Reject(2, {}, None, "why"))
    assert rejects.path == tmp_path / "rejects-2.csv"


@pytest.mark.parametrize(
    ("name", "account", "expected"),
    [
        ("people.csv", None, "people.csv.rejects.csv"),
        ("people.csv", "east", "people.csv.east.rejects.csv"),
        ("people.csv.rejects.csv", None, "people.csv.rejects-2.csv"),
        ("people.csv.rejects-2.csv", None, "people.csv.rejects-3.csv"),
        ("people.rejects.csv.gz", None, "people.rejects-2.csv"),
        ("people.csv.east.rejects.csv", "east", "people.csv.east.rejects-2.csv"),
        ("people.csv.rejects.csv", "east", "people.csv.east.rejects-2.csv"),
    ],
)
def test_the_rejects_of_a_rejects_file_are_numbered(
    name: str, account: str | None, expected: str
) -> None:
    """`.rejects.csv.rejects.csv` adds nothing."""
    assert next_rejects_name(name, account) == expected


def test_what_a_row_did_not_mention_is_noted(tmp_path: Path) -> None:
    """Pushed again with --clear-empty, it still says nothing, unless it was filled in."""
    path = tmp_path / "rejects.csv"
    columns = ["firstName", "lastName", "email", "company", "title"]
    with RejectsFile(path, columns, omits_cells=True) as rejects:
        rejects.add(Reject(1, {"firstName": "A", "lastName": "L", "title": ""}, None, "why"))
    path.write_bytes(path.read_bytes().replace(b"A,L,,", b"A,L,a@example.com,"))
    read = open_input(path)
    (row,) = map(Validator(match_columns(read.columns), clear_empty=True).check, read)
    assert isinstance(row, ValidRow)
    assert row.payload == {
        "firstName": "A",
        "lastName": "L",
        "email": "a@example.com",
        "title": None,
        "update": True,
    }


def test_rows_that_cannot_be_written_are_still_counted(tmp_path: Path) -> None:
    """The folder went, or the disk is full: the push ends with its counts and says so."""
    folder = tmp_path / "gone"
    with RejectsFile(folder / "rejects.csv", COLUMNS) as rejects:
        folder.rmdir()
        rejects.add(Reject(2, {}, None, "why"))
        rejects.add(Reject(3, {}, None, "why"))
    assert rejects.count == 2
    assert isinstance(rejects.failure, FileNotFoundError)


def test_a_path_that_is_lost_at_the_end_is_reported_too(tmp_path: Path) -> None:
    """Nothing half-written is left."""
    folder = tmp_path / "gone"
    with RejectsFile(folder / "rejects.csv", COLUMNS) as rejects:
        rejects.add(Reject(2, {}, None, "why"))
        folder.rmdir()
    assert rejects.failure is not None
    assert files(tmp_path) == []


def test_what_a_killed_push_left_half_copied_is_removed(tmp_path: Path) -> None:
    """Of this file alone, and not while it may still be written."""
    old, fresh, other = (
        tmp_path / name for name in (".r.csv.1.part", ".r.csv.2.part", ".other.csv.1.part")
    )
    for path in (old, fresh, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (1, 1))
    RejectsFile(tmp_path / "r.csv", COLUMNS).save()
    assert files(tmp_path) == [".other.csv.1.part", ".r.csv.2.part"]
