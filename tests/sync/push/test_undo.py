"""Undoing a push over HTTP: people are as they were, and what can't be put back is listed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from connector.errors import UsageError
from connector.sandbox import Sandbox
from connector.settings import Settings
from connector.upsert.undoing import KEY_FILE
from pipelines.commands.status_commands import one_run
from pipelines.push.apply_and_undo import UndoRequest, undo
from pipelines.push.push_input import PushRequest
from pipelines.push.push_report import PushReport, push_lines
from pipelines.push.push_run import push
from tests.sync.push.conftest import Team, results_waiting

HEADER = "First Name,Last Name,E-mail,Phone,Title,Company,Labels"
READABLE = (
    "firstName",
    "lastName",
    "email",
    "phone",
    "title",
    "company",
    "labels",
    "currentStageId",
)


@pytest.fixture
def sandbox(team: Team) -> Sandbox:
    return team.sandbox


@pytest.fixture
def settings(team: Team) -> Settings:
    return team.settings


def people(sandbox: Sandbox) -> dict[str, dict[str, Any]]:
    """id → all that can be read of a prospect and be written."""
    found = sandbox.store.all("prospects")
    return {each["id"]: {name: each.get(name) for name in READABLE} for each in found}


def posts(sandbox: Sandbox) -> int:
    return sum(request.method == "POST" for request in sandbox.requests)


def push_rows(settings: Settings, folder: Path, *lines: str, header: str = HEADER) -> PushReport:
    path = folder / "people.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    with results_waiting(settings):
        return push(settings, PushRequest(file=str(path)))


def undone(settings: Settings, run_id: str, **options: Any) -> PushReport:
    with results_waiting(settings):
        return undo(settings, UndoRequest(run_id, **options))


def counts(report: PushReport) -> dict[str, int]:
    names = ("created", "updated", "unchanged", "rejected", "failed")
    return {name: report.summary[name] for name in names if report.summary[name]}


def test_people_are_as_they_were_before_the_push(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """Changed, filled and relabelled people get back what they had, with at most two requests each.
    The same file pushed again is kept as HiringCenter has it."""
    before = people(sandbox)
    pushed = push_rows(
        settings, tmp_path, "Ann,X,ann@example.org,,Prof,,a;b", "Dan,X,dan@example.org,,Mr,New,"
    )
    assert counts(pushed) == {"updated": 2}
    assert people(sandbox) != before
    asked, announced = len(sandbox.requests), list[str]()
    report = undo(settings, UndoRequest(pushed.summary["run_id"]), None, announced.append)
    assert (counts(report), report.exit_code) == ({"updated": 2}, 0)
    assert people(sandbox) == before
    assert len(sandbox.requests) - asked == report.summary["requests"] <= 4
    assert "2 prospects to look up and put back, 4 requests: " in announced[0]
    sent = posts(sandbox)
    with results_waiting(settings):
        again = push(settings, PushRequest(file=str(tmp_path / "people.csv")))
    assert (posts(sandbox) - sent, counts(again)) == (0, {"unchanged": 2})


def test_a_contact_that_is_put_back_is_counted_too(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """It may be another person's by now, so it takes a look of its own."""
    before = people(sandbox)
    pushed = push_rows(settings, tmp_path, "Ann,X,ann@example.org,212-555-0199,,,")
    assert counts(pushed) == {"updated": 1}
    renewed = push_rows(settings, tmp_path, "Ann,X,ann2@example.org,212-555-0199,,,")
    assert counts(renewed) == {"updated": 1}
    asked, announced = len(sandbox.requests), list[str]()
    report = undo(settings, UndoRequest(renewed.summary["run_id"]), None, announced.append)
    assert counts(report) == {"updated": 1}
    assert "1 prospect to look up and put back, 3 requests: " in announced[0]
    assert len(sandbox.requests) - asked == 3
    assert undo(settings, UndoRequest(pushed.summary["run_id"])).exit_code == 0
    assert people(sandbox) == before


def test_what_was_edited_since_is_left_alone_and_named(
    settings: Settings, sandbox: Sandbox, team: Team, tmp_path: Path
):
    """The other fields of that person are put back; one whose only change was edited isn't sent."""
    ada, bob = team.ids["Ada"], team.ids["Bob"]
    run_id = push_rows(
        settings, tmp_path, "Ada,X,ada@example.org,,Prof,New,", "Bob,X,bob@example.org,,Mr,,"
    ).summary["run_id"]
    sandbox.store.update("prospects", ada, {"title": "Edited"})
    sandbox.store.update("prospects", bob, {"title": "Edited"})
    sent = posts(sandbox)
    report = undone(settings, run_id)
    assert (counts(report), report.exit_code) == ({"failed": 2}, 3)
    assert posts(sandbox) - sent == 1
    now = people(sandbox)
    assert (now[ada]["title"], now[ada]["company"]) == ("Edited", "Old")
    assert now[bob]["title"] == "Edited"
    for id_, result in zip((ada, bob), report.noteworthy, strict=True):
        assert result.prospect_id == id_
        assert (result.message or "").startswith(f"conflict: title of prospect {id_} changed")


def test_what_cant_be_undone_is_listed_with_row_and_prospect(
    settings: Settings, sandbox: Sandbox, team: Team, tmp_path: Path
):
    """Whom the push created, what it added, and fields that can't be read; before and after."""
    ada = team.ids["Ada"]
    header = "firstName,lastName,email,title,licenseStatus,note.body"
    pushed = push_rows(
        settings,
        tmp_path,
        "Ada,X,ada@example.org,Prof,licensed,Called",
        "Cy,Y,cy@example.org,,,",
        header=header,
    )
    run_id = pushed.summary["run_id"]
    asked, before = len(sandbox.requests), people(sandbox)
    (cy,) = [id_ for id_, each in before.items() if each["firstName"] == "Cy"]
    dry = undone(settings, run_id, dry_run=True)
    assert len(sandbox.requests) == asked
    assert (dry.summary["would_update"], dry.summary["cannot_undo"]) == (1, 2)
    assert [(each["row_number"], each["prospect_id"]) for each in dry.summary["stays"]] == [
        (2, ada),
        (3, cy),
    ]
    assert any(f"prospect {cy} was created" in str(line) for line in push_lines(dry))
    report = undone(settings, run_id)
    assert (counts(report), report.exit_code) == ({"updated": 1, "rejected": 1}, 3)
    assert people(sandbox)[ada]["title"] == "Dr"
    messages = {each.row_number: each.message or "" for each in report.noteworthy}
    assert "licenseStatus" in messages[2]
    assert "keeps the note" in messages[2]
    assert "keeps licenseStatus:" in messages[2], "a note's own fields are none of the person's"
    assert f"prospect {cy} was created" in messages[3]
    reported = one_run(settings, report.summary["run_id"])
    assert [row["row_number"] for row in reported.summary["noteworthy"]] == [2, 3]


def test_another_person_changed_by_a_push_is_listed_by_undo(
    settings: Settings, sandbox: Sandbox, team: Team, tmp_path: Path
):
    """A contact has gone to another prospect just before the push, which therefore changed them,
    and reported it: what they were isn't known, and the undo doesn't say that all is well."""
    ada, bob = team.ids["Ada"], team.ids["Bob"]
    sandbox.store.update("prospects", ada, {"email": "new@example.org"})
    sandbox.store.update("prospects", bob, {"email": "ada@example.org"})
    pushed = push_rows(settings, tmp_path, "Ada,X,ada@example.org,,Prof,,")
    assert counts(pushed) == {"failed": 1}
    assert people(sandbox)[bob]["title"] == "Prof"
    report = undone(settings, pushed.summary["run_id"])
    assert (counts(report), report.exit_code) == ({"rejected": 1}, 3)
    (result,) = report.noteworthy
    assert (result.row_number, result.prospect_id) == (2, bob)
    assert f"prospect {bob} stays as they are" in (result.message or "")


def test_a_second_undo_is_already_undone(
    settings: Settings, sandbox: Sandbox, team: Team, tmp_path: Path
):
    """It says by which run, and sends nothing; --force looks at whom that left alone again."""
    ada = team.ids["Ada"]
    run_id = push_rows(
        settings, tmp_path, "Ada,X,ada@example.org,,Prof,,", "Bob,X,bob@example.org,,Mr,,"
    ).summary["run_id"]
    sandbox.store.update("prospects", ada, {"title": "Edited"})
    first = undone(settings, run_id).summary["run_id"]
    asked = len(sandbox.requests)
    second = undone(settings, run_id)
    assert (counts(second), second.exit_code) == ({"unchanged": 2}, 0)
    assert len(sandbox.requests) == asked
    assert any(f"already undone, by run {first}" in note for note in second.notes)
    sandbox.store.update("prospects", ada, {"title": "Prof"})
    assert counts(undone(settings, run_id, force=True)) == {"updated": 1, "unchanged": 1}
    assert people(sandbox)[ada]["title"] == "Dr"


def test_the_next_undo_reports_what_a_killed_one_has_sent(
    settings: Settings, sandbox: Sandbox, team: Team, tmp_path: Path
):
    """Whom it has left alone, which it hasn't reported. Nothing is sent for that, and the one after
    it is at rest."""
    ada = team.ids["Ada"]
    run_id = push_rows(settings, tmp_path, "Ada,X,ada@example.org,,Prof,,").summary["run_id"]
    sandbox.store.update("prospects", ada, {"title": "Edited"})
    killed = undone(settings, run_id).summary["run_id"]
    with closing(sqlite3.connect(settings.state_path / "ledger.db")) as ledger, ledger:
        ledger.execute("UPDATE runs SET status='failed', summary='{}' WHERE run_id=?", (killed,))
    asked = len(sandbox.requests)
    for code, outcome in ((3, "failed"), (0, "unchanged")):
        report = undone(settings, run_id)
        assert (counts(report), report.exit_code) == ({outcome: 1}, code)
    assert len(sandbox.requests) == asked


def test_an_undo_can_be_undone(settings: Settings, sandbox: Sandbox, team: Team, tmp_path: Path):
    """Then people are as the push left them, and the push can be undone once more."""
    ada = team.ids["Ada"]
    run_id = push_rows(settings, tmp_path, "Ada,X,ada@example.org,,Prof,,").summary["run_id"]
    first = undone(settings, run_id).summary["run_id"]
    assert people(sandbox)[ada]["title"] == "Dr"
    assert counts(undone(settings, first)) == {"updated": 1}
    assert people(sandbox)[ada]["title"] == "Prof"
    assert counts(undone(settings, run_id)) == {"updated": 1}
    assert people(sandbox)[ada]["title"] == "Dr"


def test_a_contact_is_put_back(settings: Settings, sandbox: Sandbox, team: Team, tmp_path: Path):
    """A changed email is, since the phone finds the person; an added one is cleared."""
    ann, fay = team.ids["Ann"], team.ids["Fay"]
    before = people(sandbox)
    run_id = push_rows(
        settings,
        tmp_path,
        "Ann,X,new@example.org,+12125550101,,,",
        "Fay,X,fay@example.org,+12125550102,,,",
    ).summary["run_id"]
    assert people(sandbox)[ann]["email"] == "new@example.org"
    assert people(sandbox)[fay]["email"] == "fay@example.org"
    assert counts(undone(settings, run_id)) == {"updated": 2}
    assert people(sandbox) == before


def test_an_only_contact_stays(settings: Settings, sandbox: Sandbox, team: Team, tmp_path: Path):
    """Without the email that the push added, no request could find the person: their phone is
    deleted."""
    fay = team.ids["Fay"]
    run_id = push_rows(settings, tmp_path, "Fay,X,fay@example.org,+12125550102,,,").summary[
        "run_id"
    ]
    sandbox.store.update("prospects", fay, {"phone": None})
    report = undone(settings, run_id)
    assert (counts(report), report.exit_code) == ({"rejected": 1}, 3)
    assert people(sandbox)[fay]["email"] == "fay@example.org"


def test_what_is_known_from_an_older_copy_only_is_put_back_if_forced(
    settings: Settings, sandbox: Sandbox, team: Team, tmp_path: Path
):
    """A push that looked no one up knows only what the last pull had, whatever was there by then;
    the message says as of when."""
    ada = team.ids["Ada"]
    writes = settings.writes.model_copy(update={"fresh_s": 0.0})
    settings = settings.model_copy(update={"writes": writes})
    path = tmp_path / "people.csv"
    path.write_text(f"{HEADER}\nAda,X,ada@example.org,,Prof,,\n")
    with results_waiting(settings):
        pushed = push(settings, PushRequest(file=str(path), recheck=False))
    report = undone(settings, pushed.summary["run_id"])
    assert (counts(report), report.exit_code) == ({"rejected": 1}, 3)
    assert "only from a copy, as of 20" in (report.noteworthy[0].message or "")
    forced = undone(settings, pushed.summary["run_id"], force=True)
    assert (counts(forced), people(sandbox)[ada]["title"]) == ({"updated": 1}, "Dr")
    assert (forced.noteworthy[0].message or "").startswith("as of 20")


def test_a_run_that_changed_nothing_leaves_nothing_to_undo(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """It says so, and sends nothing."""
    run_id = push_rows(settings, tmp_path, "Ada,X,ada@example.org,,Dr,,").summary["run_id"]
    asked = len(sandbox.requests)
    report = undone(settings, run_id)
    assert (report.summary["rows"], report.exit_code) == (0, 0)
    assert any("nothing to undo" in note for note in report.notes)
    assert len(sandbox.requests) == asked


def test_runs_that_cant_be_undone(settings: Settings, sandbox: Sandbox, team: Team, tmp_path: Path):
    """Unknown, a pull's, or older than writes.undo_days: nothing is sent, and the message says
    where to look."""
    pushed = push_rows(settings, tmp_path, "Ada,X,ada@example.org,,Prof,,").summary["run_id"]
    never = settings.model_copy(
        update={"writes": settings.writes.model_copy(update={"undo_days": 0})}
    )
    for run_id, used, reason in (
        ("20200101", settings, "There is no run"),
        (team.run_id, settings, "is a pull"),
        (pushed, never, "undo_days"),
    ):
        asked = len(sandbox.requests)
        with pytest.raises(UsageError, match=reason) as raised:
            undone(used, run_id)
        assert "hiringcenter runs" in str(raised.value)
        assert len(sandbox.requests) == asked


def test_an_undo_on_another_machine_says_where_to_run_it(
    settings: Settings, sandbox: Sandbox, team: Team, tmp_path: Path
):
    """Its state directory has another key; nothing is sent, and nothing is kept."""
    ada = team.ids["Ada"]
    run_id = push_rows(settings, tmp_path, "Ada,X,ada@example.org,,Prof,,").summary["run_id"]
    (settings.state_path / KEY_FILE).unlink()
    asked = len(sandbox.requests)
    report = undone(settings, run_id)
    assert report.exit_code == 2
    assert f"hiringcenter undo {run_id}` there" in str(report.error)
    assert (len(sandbox.requests), people(sandbox)[ada]["title"]) == (asked, "Prof")
