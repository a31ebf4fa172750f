"""The rejects file: fixed and pushed again, it holds what the input held."""

from __future__ import annotations

import csv
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connector.errors import InputError
from connector.upsert.inputs import open_input
from connector.upsert.rows.rejects import RejectsFile
from connector.upsert.rows.validation import Reject
from tests.unit.upsert_input.conftest import WriteFile

COLUMNS = ["First Name", 'note; or, "note"']


def rejected(path: Path, *rows: dict[str, object], columns: list[str] = COLUMNS) -> None:
    with RejectsFile(path, columns) as rejects:
        for row in rows:
            rejects.add(Reject(2, row, None, 'why; and, "what" to do'))


def test_it_has_the_inputs_columns_and_the_reason(tmp_path: Path) -> None:
    """In order, in UTF-8 with a mark, readable by nobody else."""
    path = tmp_path / "new" / "rejects.csv"
    rejected(path, {"First Name": "Zoë", COLUMNS[1]: "=1+1"})
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open(newline="", encoding="utf-8-sig") as stream:
        assert list(csv.reader(stream)) == [
            [*COLUMNS, "_hc_reject_reason"],
            ["Zoë", "=1+1", 'why; and, "what" to do'],
        ]


def test_the_rejects_of_a_rejects_file_have_one_reason(tmp_path: Path) -> None:
    """The new one."""
    path = tmp_path / "rejects.csv"
    rejected(
        path,
        {"First Name": "x", "_hc_reject_reason": "old"},
        columns=["First Name", "_hc_reject_reason"],
    )
    assert open_input(path).columns == ["First Name", "_hc_reject_reason"]
    assert "old" not in path.read_text("utf-8")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.lists(st.text(max_size=6), min_size=2, max_size=2), min_size=1, max_size=5))
def test_every_text_reads_back_as_it_was(tmp_path: Path, rows: list[list[str]]) -> None:
    """Quotes, line ends, NULs, formulas, white space: our own reader finds them again."""
    path = tmp_path / "rejects.csv"
    rejected(path, *[dict(zip(COLUMNS, row, strict=True)) for row in rows])
    read = open_input(path)
    assert read.description == "CSV, UTF-8 with BOM, comma delimiter"
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
    with RejectsFile(path, COLUMNS) as rejects:
        assert rejects.count == 0
    assert list(tmp_path.iterdir()) == []


def test_a_rejects_file_that_is_pushed_itself_is_never_removed(tmp_path: Path) -> None:
    """It may be the input; what somebody has fixed by hand stays theirs."""
    path = tmp_path / "rejects.csv"
    rejected(path, {"First Name": "x"})
    RejectsFile(path, open_input(path).columns).close()
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


def test_the_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """Until it is closed, what lay there stays; discarded, it stays for good."""
    path = tmp_path / "rejects.csv"
    rejected(path, {"First Name": "old"})
    old = path.read_bytes()
    rejects = RejectsFile(path, COLUMNS)
    rejects.add(Reject(2, {}, None, "why"))
    assert path.read_bytes() == old
    rejects.discard()
    assert [file.name for file in tmp_path.iterdir()] == ["rejects.csv"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """With the path and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Choose another --rejects"):
        rejected(tmp_path / "file" / "rejects.csv", {"First Name": "x"})
