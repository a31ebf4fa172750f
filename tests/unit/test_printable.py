"""Words of servers and files: what steers a terminal is stripped before any sink, and a text of any
length is dealt with in a time that grows no faster than it does."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import structlog
from rich.table import Table

from connector import logs
from connector.api.envelopes import error_text
from connector.budget.database import Database
from connector.errors import ConnectorError, InputError, UnknownColumn, nearest, printable
from connector.logs import error_facts
from connector.runs import RunHistory, RunRecord
from connector.upsert.rows import contact
from connector.upsert.rows.cells import unaltered
from connector.upsert.rows.row_checks import Reject
from connector.upsert.rows.row_files import RejectsFile
from pipelines.commands.invocation import Output
from pipelines.report.report_page import ReportFacts, render

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\x00"
BIDI = "\u202e\u2066\u2069\u2028"
HOSTILE = f"start{ESCAPES}{BIDI}end"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
MILLION = 1_000_000


def check(text: str) -> None:
    assert re.search("(?s)start.*end", text), "the words themselves stay"
    assert not RAW.search(text)


def test_only_what_steers_is_left_out():
    """Letters of any script, tabs and line ends stay; other line ends become spaces."""
    assert printable("Zoë 名前 \t\n שלום") == "Zoë 名前 \t\n שלום"
    assert printable("a\rb\u2028c") == "a b c"
    assert printable("caf\udce9") == "caf\\udce9"


@pytest.fixture
def log_stream() -> Iterator[io.StringIO]:
    buffer, root = io.StringIO(), logging.getLogger()
    before = root.handlers[:], root.level
    logs.configure(0, buffer)
    yield buffer
    structlog.reset_defaults()
    root.handlers[:], root.level = before[0], before[1]


def test_logs_hold_no_escapes(log_stream: io.StringIO):
    """Ours, nested or not, names and values, and those of other libraries."""
    logs.get_logger("api").warning("api.answer", said=HOSTILE, nested={HOSTILE: [HOSTILE]})
    logging.getLogger("somelibrary").warning("%s", HOSTILE)
    for line in log_stream.getvalue().splitlines():
        check(line)


def test_the_terminal_gets_no_escapes(capsys: pytest.CaptureFixture[str]):
    """A message, a file name, a header cell, a table name: as a line, in a table, as an error."""
    output, table = Output(), Table("name")
    table.add_row(HOSTILE)
    output.text([f"{HOSTILE}.csv: read", table])
    output.error(UnknownColumn(location=f"{HOSTILE}.csv", column=HOSTILE, nearest=None))
    shown = capsys.readouterr()
    check(shown.out)
    check(shown.err)


def test_json_keeps_a_name_but_escapes_it(capfdbinary: pytest.CaptureFixture[bytes]):
    """The one line of --json is read by programs, and shown in terminals."""
    Output(json=True).object({"file": HOSTILE, "odd": "caf\udce9"})
    line = capfdbinary.readouterr().out
    assert not RAW.search(line.decode())
    assert orjson.loads(line.replace(b"\\udce9", b""))["file"] == HOSTILE


def test_errors_reports_rejects_and_the_ledger_hold_no_escapes(tmp_path: Path):
    """Whatever an error quotes; and what the report reads from a ledger that another wrote."""
    check(error_text(orjson.dumps({"message": HOSTILE})))
    check(error_facts(InputError(location=HOSTILE, reason=HOSTILE))["message"])
    run = RunRecord("r", "push", HOSTILE, "failed", 0, 1, {"rows": 1}, HOSTILE)
    check(render(ReportFacts(1_760_000_000.0, HOSTILE, runs=[run], windows=[])))
    with RejectsFile(tmp_path / "rejects.csv", ["name"]) as rejects:
        rejects.add(Reject(2, {"name": "x"}, None, HOSTILE))
    check((tmp_path / "rejects.csv").read_text("utf-8-sig"))
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    runs = RunHistory(database)
    runs.start("r", "push", "duckdb")
    runs.finish("r", "failed", {}, HOSTILE)
    (kept,) = runs.find("r")
    database.close()
    assert kept is not None
    check(str(kept.error))


def test_rejected_cells_stay_as_they_were(tmp_path: Path):
    """The rejects file is pushed again: only its reasons are ours."""
    with RejectsFile(tmp_path / "rejects.csv", ["name"]) as rejects:
        rejects.add(Reject(2, {"name": "Zo\x1bë"}, None, "why"))
    assert "Zo\x1bë" in (tmp_path / "rejects.csv").read_text("utf-8-sig")


@pytest.mark.parametrize(
    "text",
    ["a" * MILLION, "a." * MILLION, "a@" * MILLION, "://a:" * MILLION, "bearer " * MILLION,
     "+1" * MILLION, "bearer" + " " * MILLION, "x@" + "a-" * MILLION],
    ids=["a word", "dots", "ats", "URLs", "bearers", "phones", "spaces", "a domain"],
)  # fmt: skip
def test_a_text_of_a_million_characters_is_redacted(text: str):
    """It just ends; with the square of the length it would take hours."""
    assert len(logs.redact(text)) <= len(text) + 2


def test_a_secret_behind_a_long_text_is_not_cut_in_two():
    """It is masked before the text is cut, wherever the cut falls."""
    logs.hide("hc_live_0123456789abcdef")
    for length in range(99_980, 100_001):
        assert "hc_l" not in logs.redact("x" * length + "hc_live_0123456789abcdef")
        assert "hc_l" not in error_text(
            orjson.dumps({"message": "x" * (length - 80_000) + "hc_live_0123456789abcdef"})
        )


def test_a_header_cell_of_a_million_characters_is_an_error_that_says_what_to_do():
    """The name is bounded, and compared with nothing."""
    assert nearest("x" * MILLION, ["x" * (MILLION - 1)]) is None
    error = UnknownColumn(location="people.csv", column="email" * MILLION, nearest=None)
    assert len(str(error)) < 400
    assert "--ignore-unknown" in str(error)


def test_any_message_is_bounded_and_keeps_its_end():
    error = ConnectorError("name " * MILLION + "Do this next.")
    assert len(str(error)) < 10_000
    assert str(error).endswith("Do this next.")


@pytest.mark.parametrize("cell", ["'" + "1" * MILLION + "!", " " * MILLION + "!", "+" * MILLION])
def test_a_cell_of_a_million_characters_isnt_a_phone(cell: str):
    """Found out at once."""
    unaltered(cell)
    with pytest.raises(ValueError):
        contact.e164(cell, "US")
