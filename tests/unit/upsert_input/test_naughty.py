"""Collections of nasty text, made here: each string arrives whole, or its row is rejected."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from connector.upsert.inputs import open_input
from connector.upsert.rows.column_mapping import match_columns
from connector.upsert.rows.row_checks import Reject, Validator, ValidRow
from connector.upsert.rows.row_files import RejectsFile
from tests.unit.upsert_input.conftest import WriteFile

NAUGHTY = [
    *("undefined", "null", "NULL", "None", "NaN", "true", "0", "-0", "1/0", "1e309", "0x0", "१२३"),
    *(",./;'[]\\-=", '<>?:"{}|_+', "!@#$%^&*()`~", '"', '""', '"x', "'", "`", "\\", "\\n", "%s"),
    *("Ω≈ç√∫", "表ポあA鷗", "社會科學院", "❤️ 💔 👩‍👩‍👧", "الكل", "בְּרֵאשִׁית", "Z̮̞̠̙͔ͅ", "ﬀ", "İi̇", "ß"),
    *("\u200b", "\ufeff", "a\u202eb", "a\u2028b", "\U000e0001", "\ufffe", "\U0010ffff", "\u00ad"),
    *("=1+1", "@SUM(A1)", "+1", "-1", "=cmd|' /C calc'!A0", "<script>alert(1)</script>"),
    *("'; DROP TABLE prospects; --", "../../etc/passwd", "${HOME}", "{{7*7}}", "$(id)"),
    *("a\nb", "a\r\nb", "a\rb", "a\tb", "a,b", "a;b|c", "line\n\n\nline", "sep=;", "#", "#1"),
    *("a\x00b", "a\x07b", "a\x1bb", "a\x7fb", "#REF!", "#N/A", " ", "\t", "x" * 100_000),
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_each_nasty_string_is_sent_as_it_is_or_rejected(
    write: WriteFile, tmp_path: Path, encoding: str
) -> None:
    """In a company's name; and the rejects, pushed again, are the same rejects."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["first name", "last name", "email", "company"])
    writer.writerows(["Ann", "Lee", f"a{n}@b.co", nasty] for n, nasty in enumerate(NAUGHTY))
    read = open_input(write(text.getvalue(), encoding))
    validator = Validator(match_columns(read.columns))
    checked = [validator.check(row) for row in read]
    assert len(checked) == len(NAUGHTY)
    for nasty, row in zip(NAUGHTY, checked, strict=True):
        if isinstance(row, ValidRow):
            assert row.payload.get("company", "") == nasty.strip()
        else:
            assert row.reason.startswith("company: ")
            assert row.values["company"] == nasty
    rejects = [row for row in checked if isinstance(row, Reject)]
    assert len(rejects) == 7
    with RejectsFile(tmp_path / "rejects.csv", read.columns) as rejects_file:
        for row in rejects:
            rejects_file.add(row)
    again = open_input(tmp_path / "rejects.csv")
    second = Validator(match_columns(again.columns))
    reasons = [row.reason for row in map(second.check, again) if isinstance(row, Reject)]
    assert reasons == [row.reason for row in rejects]
