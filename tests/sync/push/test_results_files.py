"""`--results`: every row of the input with its outcome, once, in order, in a file for people."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from connector.errors import InputError, UsageError
from connector.sandbox import Sandbox
from connector.settings import PushJob, Settings
from connector.upsert.inputs import open_input
from pipelines.commands.status_commands import one_run
from pipelines.push.push_input import PushRequest, job_request
from pipelines.push.push_report import PushReport, push_lines
from pipelines.push.push_run import push
from pipelines.report.report_page import gather, render

pytestmark = pytest.mark.usefixtures("results_wait")

OWN = ["_hc_outcome", "_hc_prospect_id", "_hc_message"]


@pytest.fixture
def people(tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    path.write_text(
        "First Name;Last Name;E-mail;Phone\nAda;L;ada@example.org;\n"
        "Bob;=B;not-an-address;\n"
        "Cy;C;cy@example.org;\nCy;C;cy@example.org;\n",
        encoding="utf-8",
    )
    return path


def push_file(settings: Settings, path: Path, results: Path, **options: Any) -> PushReport:
    return push(settings, PushRequest(file=str(path), results=results, **options))


def rows_of(path: Path, delimiter: str = ";") -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        return list(csv.DictReader(stream, delimiter=delimiter))


def outcomes(path: Path) -> list[str]:
    return [row["_hc_outcome"] for row in rows_of(path)]


def test_every_row_is_there_once_in_order_with_its_outcome(
    settings: Settings, sandbox: Sandbox, people: Path, tmp_path: Path
):
    """The input's own columns and cells, then outcome, id and message; semicolons as in the input;
    readable by no other user."""
    results = tmp_path / "results.csv"
    report = push_file(settings, people, results)
    assert results.read_bytes().startswith(b"\xef\xbb\xbf")
    assert results.stat().st_mode & 0o777 == 0o600
    found = rows_of(results)
    assert list(found[0]) == ["First Name", "Last Name", "E-mail", "Phone", *OWN]
    assert [row["First Name"] for row in found] == ["Ada", "Bob", "Cy", "Cy"]
    assert found[1]["Last Name"] == "=B"
    assert outcomes(results) == ["created", "rejected", "created", "unchanged"]
    ids = {p["email"]: p["id"] for p in sandbox.store.all("prospects") if p.get("email")}
    assert found[0]["_hc_prospect_id"] == ids["ada@example.org"]
    assert found[2]["_hc_prospect_id"] == found[3]["_hc_prospect_id"] == ids["cy@example.org"]
    assert found[1]["_hc_prospect_id"] == ""
    assert "'not-an-address' isn't an email address" in found[1]["_hc_message"]
    assert report.summary["results_file"] == str(results)
    assert f"Every row with its outcome: {results}" in push_lines(report)


def test_a_row_without_a_request_has_all_its_notes_in_the_results(
    settings: Settings, people: Path, tmp_path: Path
):
    """Notes of its own, as those about other rows of its person, are in the file too."""
    results = tmp_path / "results.csv"
    push_file(settings, people, results)
    lines = people.read_text(encoding="utf-8").splitlines()
    title = ["Title", "", "", "Broker", "Agent"]
    rows = [f"{line};{cell}" for line, cell in zip(lines, title, strict=True)]
    people.write_text("\n".join(rows), encoding="utf-8")
    push_file(settings, people, results)
    first, second = rows_of(results)[2:]
    assert (first["_hc_outcome"], second["_hc_outcome"]) == ("unchanged", "updated")
    for row in (first, second):
        assert row["_hc_message"] == "rows of this person disagree: title"


def test_the_file_can_be_pushed_itself(settings: Settings, sandbox: Sandbox, people: Path):
    """Its own columns are left out, and replaced by those of the next push."""
    results = people.with_name("results.csv")
    push_file(settings, people, results)
    sent = len(sandbox.applied)
    again = people.with_name("again.csv")
    report = push_file(settings, results, again)
    assert (report.summary["unchanged"], report.summary["rejected"]) == (3, 1)
    assert len(sandbox.applied) == sent
    assert list(rows_of(again)[0])[-3:] == OWN
    assert open_input(again).columns.count("_hc_outcome") == 1


def test_a_dry_run_says_what_would_become_of_each_row(
    settings: Settings, sandbox: Sandbox, people: Path, tmp_path: Path
):
    """Nothing is sent, and no run is kept."""
    results = tmp_path / "results.csv"
    report = push_file(settings, people, results, dry_run=True)
    assert outcomes(results) == ["would_send", "rejected", "would_send", "would_send"]
    assert report.summary["results_file"] == str(results)
    assert sandbox.applied == []


def test_a_note_that_is_left_to_add_counts_as_not_sent(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """Its person needs no change; in a dry run, the row would update them."""
    path, results = tmp_path / "people.csv", tmp_path / "results.csv"
    path.write_text("firstName,lastName,email\nAda,L,ada@example.org\n")
    push_file(settings, path, tmp_path / "first.csv")
    path.write_text("firstName,lastName,email,note.body\nAda,L,ada@example.org,hello\n")
    push_file(settings, path, results, dry_run=True)
    assert [row["_hc_outcome"] for row in rows_of(results, ",")] == ["would_update"]
    sandbox.options.script = lambda _: "error_503"
    push_file(settings, path, results)
    (row,) = rows_of(results, ",")
    assert row["_hc_outcome"] in ("not_sent", "failed")
    assert len(sandbox.store.all("notes")) == 0


def test_it_is_never_written_over_another_file(
    settings: Settings, sandbox: Sandbox, people: Path, tmp_path: Path
):
    """Not over the input, under any name; not over a file of another kind, the rejects included;
    nothing is sent."""
    link = tmp_path / "link.csv"
    link.symlink_to(people)
    before = people.read_bytes()
    for path in (people, link):
        with pytest.raises(UsageError, match="would overwrite the input"):
            raise_of(push_file(settings, people, path))
    rejects = tmp_path / "people.csv.rejects.csv"
    with pytest.raises(UsageError, match="is the rejects file as well"):
        raise_of(push_file(settings, people, rejects))
    other = tmp_path / "other.csv"
    other.write_text("First Name\nAnn\n")
    with pytest.raises(InputError, match="isn't a results file"):
        raise_of(push_file(settings, people, other))
    with pytest.raises(UsageError, match="isn't writable"):
        raise_of(push_file(settings, people, tmp_path / "none" / "results.csv"))
    assert (people.read_bytes(), other.read_text()) == (before, "First Name\nAnn\n")
    assert not rejects.exists()
    assert sandbox.applied == []


def raise_of(report: PushReport) -> None:
    assert report.error is not None
    raise report.error


def test_results_that_a_person_has_changed_stay(settings: Settings, people: Path, tmp_path: Path):
    """The next ones go next to them, and are replaced as long as they are unchanged."""
    results, beside = tmp_path / "results.csv", tmp_path / "results-2.csv"
    push_file(settings, people, results)
    push_file(settings, people, results)
    assert not beside.exists()
    assert outcomes(results) == ["unchanged", "rejected", "unchanged", "unchanged"]
    results.write_text(results.read_text() + "a note of mine\n")
    changed = results.read_bytes()
    for _ in range(2):
        report = push_file(settings, people, results)
        assert report.summary["results_file"] == str(beside)
        assert any("left alone" in note for note in report.notes)
    assert results.read_bytes() == changed
    assert not (tmp_path / "results-3.csv").exists()


def test_a_push_that_ends_early_says_what_was_not_sent(
    settings: Settings, sandbox: Sandbox, people: Path, tmp_path: Path
):
    """Each row is there, sent or not."""
    sandbox.options.active = False
    results = tmp_path / "results.csv"
    report = push_file(settings, people, results)
    assert report.error is not None
    assert outcomes(results) == ["not_sent", "rejected", "not_sent", "not_sent"]


def test_a_push_that_is_refused_before_it_sends_leaves_the_file_before(
    settings: Settings, people: Path, tmp_path: Path
):
    """Too many changes, or an input that breaks in the middle: not all outcomes are known."""
    results = tmp_path / "results.csv"
    push_file(settings, people, results)
    before = results.read_bytes()
    people.write_text(people.read_text() + "Di;D;di@example.org;\n")
    assert push_file(settings, people, results, max_changes=0).error is not None
    people.write_bytes(people.read_bytes() + b'Ed;"D;ed@example.org;\n')
    push_file(settings, people, results, max_changes=0)
    assert results.read_bytes() == before


def test_a_row_that_cannot_be_read_is_there_too(settings: Settings, tmp_path: Path):
    """With what it holds, so that pushed again it is rejected again."""
    path, results = tmp_path / "people.csv", tmp_path / "results.csv"
    path.write_text(
        "First Name,Last Name,Email\nAnn,Lee,ann@example.org,extra\nBo,X,bo@example.org\n"
    )
    push_file(settings, path, results)
    found = rows_of(results, ",")
    assert [row["_hc_outcome"] for row in found] == ["rejected", "created"]
    assert "extra" in results.read_text()
    again = push_file(settings, results, tmp_path / "again.csv")
    assert (again.summary["rejected"], again.summary["unchanged"]) == (1, 1)


def test_headers_and_answers_become_no_formulas_in_our_columns(settings: Settings, tmp_path: Path):
    """A message may begin with a header's text; a spreadsheet shows it instead of running it."""
    path, results = tmp_path / "people.csv", tmp_path / "results.csv"
    mapping = tmp_path / "mapping.toml"
    mapping.write_text('[columns]\n"=cmd" = "email"\n')
    path.write_text("First Name,Last Name,=cmd\nAnn,Lee,nothing\n")
    push_file(settings, path, results, mapping=mapping)
    (row,) = rows_of(results, ",")
    assert row["_hc_message"].startswith("'=cmd: 'nothing' isn't an email address")


def test_a_job_has_results_too_and_the_run_names_them(
    settings: Settings, people: Path, tmp_path: Path
):
    """`hiringcenter runs RUN_ID` and the report, which links them."""
    results = tmp_path / "a & b.csv"
    job = PushJob(file=people, results=results)
    settings = settings.model_copy(update={"push": {"spring": job}})
    report = push(settings, job_request(settings, "spring"))
    run_id = report.summary["run_id"]
    assert f"results_file: {results}" in one_run(settings, run_id).lines
    page = render(gather(settings))
    assert f'href="{results.as_uri().replace("&", "&amp;")}"' in page


def test_results_that_cannot_be_written_end_no_push(
    settings: Settings, sandbox: Sandbox, people: Path, tmp_path: Path
):
    """The folder went away while rows were sent: all are sent, and the push says so."""
    folder = tmp_path / "gone"
    folder.mkdir()
    sandbox.options.script = lambda _: (folder.exists() and folder.rmdir()) or None  # type: ignore[func-returns-value]
    report = push_file(settings, people, folder / "results.csv")
    assert (report.summary["created"], report.error) == (2, None)
    assert report.summary["results_error"] == "No such file or directory"
    assert any("_hc_push_results" in note for note in report.notes)


def test_keys_that_a_line_leaves_out_are_noted(settings: Settings, tmp_path: Path):
    """As in a rejects file: pushed again with --clear-empty, they still say nothing."""
    path, results = tmp_path / "people.jsonl", tmp_path / "results.csv"
    path.write_text(
        json.dumps({"firstName": "A", "lastName": "L", "email": "a@example.org", "title": "Dr"})
        + "\n"
        + json.dumps({"firstName": "B", "lastName": "L", "email": "b@example.org"})
    )
    push_file(settings, path, results)
    assert [row["_hc_absent"] for row in rows_of(results, ",")] == ["", '["title"]']
