"""What happens to cells: small inputs of the kinds that 0.1 sent wrongly, end to end."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest

from connector.sandbox import Sandbox
from connector.settings import Settings
from pipelines.push.push_input import PushRequest
from pipelines.push.push_report import PushReport, push_lines
from pipelines.push.push_run import push

pytestmark = pytest.mark.usefixtures("results_wait")

INPUTS = Path(__file__).parents[2] / "inputs"


@pytest.fixture
def push_input(settings: Settings, tmp_path: Path) -> Any:
    """push_input("floats.csv") pushes a copy of that file; options are those of `PushRequest`."""

    def push_copy(name: str, **options: Any) -> PushReport:
        path = tmp_path / name
        if not path.exists():
            shutil.copy(INPUTS / name, path)
        return push(settings, PushRequest(file=str(path), **options))

    return push_copy


def known(sandbox: Sandbox, email: str, *fields: str) -> list[Any]:
    (found,) = [one for one in sandbox.store.all("prospects") if one.get("email") == email]
    return [found.get(name) for name in fields]


def test_numbers_and_text_that_a_spreadsheet_has_altered(push_input: Any, sandbox: Sandbox) -> None:
    """212555143.0 isn't a phone; a postal code with a decimal and text formulas are undone."""
    report = push_input("floats.csv")
    assert (report.exit_code, report.summary["rejected"]) == (3, 1)
    assert [result.message.split(":")[0] for result in report.noteworthy] == ["Phone"]
    path = Path(report.summary["rejects_file"])
    path.write_text(path.read_text("utf-8-sig").replace("212555143.0", "212-555-0143"))
    assert push_input(path.name).summary["created"] == 1
    assert push_input("excel-text.csv").summary["updated"] == 1
    assert known(sandbox, "mara@example.com", "phone", "company", "postalCode") == [
        "+12125550143",
        "Globex",
        "01940",
    ]
    assert known(sandbox, "tom@example.com", "company", "postalCode") == ["Initech", "01941"]


@pytest.mark.parametrize(
    ("name", "rejected", "column"),
    [("error-words.csv", 9, "Company"), ("old-note.csv", 1, "note.date")],
)
def test_what_cannot_be_undone_is_rejected_with_its_cell(
    push_input: Any, sandbox: Sandbox, name: str, rejected: int, column: str
) -> None:
    """Every row by itself, before anything is sent."""
    report = push_input(name, clear_empty=True)
    assert (report.summary["rejected"], report.summary["rows"]) == (rejected, rejected)
    assert {result.message.split(":")[0] for result in report.noteworthy} == {column}
    assert sandbox.requests == []


def test_a_curly_quote_is_rejected_and_a_hyphen_of_word_is_undone(
    push_input: Any, sandbox: Sandbox
) -> None:
    """An email is never sent the way it merely looks."""
    summary = push_input("curly-quote.csv").summary
    assert (summary["rejected"], summary["created"]) == (1, 1)
    assert known(sandbox, "tom-b@example.com", "firstName") == ["Tom"]


def test_what_a_row_never_mentioned_is_not_cleared(push_input: Any, sandbox: Sandbox) -> None:
    """With --clear-empty either; Tom's company is new, Mara's stays."""
    push_input("not-mentioned-1.jsonl")
    push_input("not-mentioned-2.jsonl", clear_empty=True)
    assert known(sandbox, "mara@example.com", "company", "title") == ["Globex", "Manager"]
    assert known(sandbox, "tom@example.com", "company") == ["Initech"]


def test_constants_are_cells_or_refused_before_anything_is_sent(
    push_input: Any, sandbox: Sandbox
) -> None:
    """A year is text; a contact or an empty value for every row is a mistake, exit 2."""
    for name in ("constant-phone.toml", "constant-empty.toml"):
        report = push_input("new-last-name.csv", mapping=INPUTS / name)
        assert (report.exit_code, report.summary["error"]["type"]) == (2, "BadMapping")
    assert sandbox.requests == []
    report = push_input("address-book.csv", mapping=INPUTS / "constant-number.toml")
    assert report.summary["created"] == 1
    assert any("Google Contacts" in note for note in report.notes)
    (change,) = sandbox.applied
    assert change.payload == {
        "firstName": "Mara",
        "lastName": "Ortega",
        "email": "mara@example.com",
        "phone": "+12125550143",
        "company": "Globex",
        "source": "2027",
        "update": change.payload["update"],
    }


SECRETS = [
    "Wilhelmina",
    "Featherstone",
    "2125550177",
    "212-55",
    "wilma(at)",
    "sore throat",
    "Zürau",
]
HEADER = (
    "First Name,Last Name,Email,Phone,Postal Code,note.body,note.date,License Status,Labels,Resume"
)
GOOD = "Wilhelmina,Featherstone,w{}@example.com,,,,,,,"
BROKEN_CELLS = {  # column → what can't be in it
    "First Name": ["", "#NAME?"],
    "Last Name": ["", "Featherstone\x07 of Zürau" * 400],
    "Email": [
        "",
        "wilma(at)example.com",
        '"wilma(at),2125550177"',
        "wilma(at)’s@example.com",
        "@Zürau",
    ],
    "Phone": ["2125550177999", "212-55", "212555017.0", "2.125550177E+15", "212-55 or sore throat"],
    "Postal Code": ["6.1E+11", "########"],
    "note.body": ["#WERT!"],
    "note.date": ["yesterday Zürau", "2125550177", "1/2/25", "0000-00-00", "#REF!"],
    "License Status": ["sore throat"],
    "Labels": ['"[""Zürau"""'],
    "Resume": ["Featherstone", "[1]", '"{""Zürau"": "'],
}
RAGGED = [
    '"Wilhelmina" Featherstone,x',
    "Wilhelmina,Featherstone",
    "Wilhelmina,Featherstone,w@example.com,2125550177,1,sore throat,Zürau,too,many,cells,here",
]


def broken_rows() -> list[str]:
    """Each wrong in its own way, and each with personal data in it."""
    names, rows = HEADER.split(","), []
    for column, cells in BROKEN_CELLS.items():
        for cell in cells:
            row = GOOD.format(len(rows)).split(",")
            row[names.index(column)] = cell
            if column.startswith("note.") or len(rows) % 2:
                row[5] = row[5] or "sore throat"
            rows.append(",".join(row))
    return rows + RAGGED


@pytest.mark.lands
def test_rows_that_cannot_be_sent_are_in_the_rejects_file_alone(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither on the terminal nor in logs, ledger or results; there, row, column and length are.
    Thirty rows, each broken in another way."""
    path, rows = tmp_path / "people.csv", broken_rows()
    path.write_text("\n".join([HEADER, *rows, ""]))
    report = push(settings, PushRequest(file=str(path)))
    dry = push(settings, PushRequest(file=str(path), dry_run=True))
    assert report.summary["rejected"] == report.summary["rows"] == len(rows) == 30
    rejects = Path(report.summary["rejects_file"]).read_text("utf-8-sig")
    assert all(secret in rejects for secret in SECRETS)
    with duckdb.connect(str(settings.duckdb_path), read_only=True) as connection:
        connection.execute(f"USE {settings.duckdb_path.stem}.{settings.dataset}")
        messages = connection.execute("SELECT row_number, message FROM _hc_push_results").fetchall()
    assert "(20 characters)" in dict(messages)[7]
    elsewhere = [str(line) for each in (report, dry) for line in push_lines(each)]
    elsewhere += [str(messages), *capfd.readouterr()]
    for file in settings.state_dir.rglob("*"):
        if file.is_file():
            elsewhere.append(file.read_bytes().decode("utf-8", "replace"))
    for secret in SECRETS:
        assert not any(secret in text for text in elsewhere), secret


def test_a_first_row_of_data_is_quoted_nowhere(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file without a header: exit 2, and what to do."""
    path = tmp_path / "people.csv"
    path.write_text("Wilhelmina,Featherstone,w@example.com,Office\n")
    report = push(settings, PushRequest(file=str(path)))
    assert (report.exit_code, report.summary["rows"]) == (2, 0)
    assert "Add a header row above it" in str(report.error)
    reported = [str(report.error), str(report.summary), *capfd.readouterr()]
    assert not any("Wilhelmina" in text or "w@" in text for text in reported)


def test_a_rejects_file_that_was_edited_is_never_overwritten(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
) -> None:
    """The hourly push of the same file writes its own rejects file, and says so; pushed, the mended
    rows keep the numbers they had in the first file."""
    path = tmp_path / "people.csv"
    path.write_text("First Name,Last Name,Email\nA,L,a@example.com\nB,L,b@\nC,L,c@\n")

    def again(of: Path = path) -> PushReport:
        return push(settings, PushRequest(file=str(of)))

    rejects = Path(again().summary["rejects_file"])
    mended = rejects.read_text("utf-8-sig").replace("b@", "b@example.com", 1)
    rejects.write_text(mended)
    report = again()
    assert Path(report.summary["rejects_file"]).name == "people.csv.rejects-2.csv"
    assert any("was changed since it was written" in note for note in report.notes)
    assert rejects.read_text() == mended
    report = again(rejects)
    assert (report.summary["created"], report.summary["rejected"]) == (1, 1)
    third = Path(report.summary["rejects_file"])
    assert third.name == "people.csv.rejects-3.csv"
    assert third.read_text("utf-8-sig").splitlines()[1].startswith("C,L,c@,4,")


def test_a_rejects_file_that_cannot_be_written_stops_no_push(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Its folder was deleted while rows were sent: still counts, exit 3 and a warning."""
    path, folder = tmp_path / "people.csv", tmp_path / "out"
    path.write_text("First Name,Last Name,Email\nA,L,a@example.com\nB,L,b@\n")
    folder.mkdir()

    def remove(_: Any) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    sandbox.options.script = remove
    report = push(settings, PushRequest(file=str(path), rejects=folder / "bad.csv"))
    assert report.exit_code == 3
    assert (report.summary["created"], report.summary["rejected"]) == (1, 1)
    assert "rejects_file" not in report.summary
    assert report.summary["rejects_error"] == "No such file or directory"
    assert any("can't be written" in note for note in report.notes)
