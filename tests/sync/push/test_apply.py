"""Applying a plan over HTTP: exactly what was planned, and nothing of what changed since."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from connector.errors import PlanRefused
from connector.sandbox import Sandbox
from connector.settings import Settings
from pipelines.pull.pull_run import Wanted, pull
from pipelines.push.apply_and_undo import ApplyRequest, UndoRequest, apply, undo
from pipelines.push.plan_view import PlanFiles
from pipelines.push.push_input import PushRequest
from pipelines.push.push_report import PushReport
from pipelines.push.push_run import plan_push, push
from tests.sync.push.conftest import Team, person, results_waiting
from tests.sync.push.test_undo import HEADER, counts, people, posts


@pytest.fixture
def sandbox(team: Team) -> Sandbox:
    return team.sandbox


@pytest.fixture
def settings(team: Team) -> Settings:
    return team.settings


def add(sandbox: Sandbox, name: str, **fields: Any) -> str:
    """A prospect of HiringCenter whom no pull has read yet; their id."""
    return str(sandbox.store.create("prospects", person(name, **fields))["id"])


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """Where a plan goes."""
    return tmp_path / "people.hcplan"


def make_plan(settings: Settings, plan: Path, *lines: str, header: str = HEADER) -> PushReport:
    path = plan.with_name("people.csv")
    path.write_text("\n".join([header, *lines]) + "\n")
    report = plan_push(settings, PushRequest(file=str(path)), PlanFiles(out=plan))
    assert report.error is None
    return report


def applied(settings: Settings, plan: Path, **options: Any) -> PushReport:
    with results_waiting(settings):
        return apply(settings, ApplyRequest(plan, **options))


def test_planned_changes_are_what_is_applied_and_edited_people_are_conflicts(
    settings: Settings, sandbox: Sandbox, plan: Path
):
    """200 rows, of which ten people were edited since: exactly those are named, nothing of them is
    sent, and all others are at the server as planned, field by field."""
    ids = [add(sandbox, f"N{n}", title="Dr", company="Old") for n in range(180)]
    pull(settings, Wanted(("prospects",)))
    lines = [f"N{n},X,n{n}@example.org,,Prof,New," for n in range(170)]
    lines += [f"N{n},X,n{n}@example.org,,Dr,Old," for n in range(170, 180)]  # as they are
    lines += [f"New{n},X,new{n}@example.org,,Mr,," for n in range(20)]
    asked = len(sandbox.requests)
    make_plan(settings, plan, *lines)
    assert len(sandbox.requests) == asked
    edited = ids[5:15]
    for id_ in edited:
        sandbox.store.update("prospects", id_, {"title": "Edited"})
    report = applied(settings, plan)
    assert counts(report) == {"created": 20, "updated": 160, "unchanged": 10, "failed": 10}
    assert (report.summary["rows"], report.exit_code) == (200, 3)
    now = people(sandbox)
    for number, id_ in enumerate(ids):
        is_planned = number < 170
        planned = ("Prof", "New") if is_planned else ("Dr", "Old")
        wanted = ("Edited", "Old") if id_ in edited else planned
        assert (now[id_]["title"], now[id_]["company"]) == wanted
    conflicts = [each for each in report.noteworthy if each.status == "failed"]
    assert [each.prospect_id for each in conflicts] == edited
    for each in conflicts:
        assert (each.message or "").startswith(f"conflict: title of prospect {each.prospect_id}")
    rejects_file = Path(report.summary["rejects_file"])
    written = rejects_file.read_bytes()
    rejects = written.decode("utf-8-sig").splitlines()
    assert len(rejects) == 1 + 10
    assert rejects[0].startswith(HEADER)
    rejects_file.unlink()
    asked = len(sandbox.requests)
    again = applied(settings, plan)
    assert (counts(again), again.exit_code) == ({"unchanged": 190, "failed": 10}, 3)
    assert Path(again.summary["rejects_file"]).read_bytes() == written
    assert len(sandbox.requests) == asked


def test_a_plan_is_applied_once(settings: Settings, sandbox: Sandbox, plan: Path):
    """The second time it says by which run, and costs no request."""
    make_plan(settings, plan, "Ada,X,ada@example.org,,Prof,,")
    first = applied(settings, plan)
    assert (counts(first), first.exit_code) == ({"updated": 1}, 0)
    asked = len(sandbox.requests)
    second = applied(settings, plan)
    assert (counts(second), second.exit_code) == ({"unchanged": 1}, 0)
    assert len(sandbox.requests) == asked
    assert any(
        f"already applied, by run {first.summary['run_id']}" in each for each in second.notes
    )


def test_a_plan_that_is_kept_counts_the_look_ups_of_its_application(
    settings: Settings, sandbox: Sandbox, plan: Path
):
    """Whoever it changes is looked up, however fresh the copy is: here by one page of a scan. The
    same plan without a file is that of a push, which needs no look-up."""
    lines = [f"{name},X,{name.lower()}@example.org,,Prof,," for name in ("Ada", "Bob", "New")]
    planned = make_plan(settings, plan, *lines)
    asked = len(sandbox.requests)
    assert counts(applied(settings, plan)) == {"created": 1, "updated": 2}
    assert planned.summary["would_request"] == len(sandbox.requests) - asked == 4
    lines = [line.replace("Prof", "Sir") for line in lines[:2]]
    pull(settings, Wanted(("prospects",), full=True))
    assert make_plan(settings, plan.with_name("b.hcplan"), *lines).summary["would_request"] == 3
    shown = plan_push(settings, PushRequest(file=str(plan.with_name("people.csv"))), PlanFiles())
    assert shown.summary["would_request"] == 2


def test_who_was_edited_since_is_a_conflict_where_no_pull_has_read_them(
    settings: Settings, sandbox: Sandbox, plan: Path
):
    """Pushed, planned, and edited before the plan is applied: the plan shows `?` for what is there,
    but `updatedAt` shows who changed since. The others aren't conflicts: one who was edited before,
    and one with two rows, the second of which follows our own write."""
    path = plan.with_name("people.csv")
    lines = [f"{name},X,{name.lower()}@example.net,,Dr,Old," for name in ("Eva", "Fay", "Gus")]
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    with results_waiting(settings):
        assert counts(push(settings, PushRequest(file=str(path)))) == {"created": 3}
    eva, fay, gus = (
        next(id_ for id_, each in people(sandbox).items() if each["firstName"] == name)
        for name in ("Eva", "Fay", "Gus")
    )
    sandbox.store.update("prospects", fay, {"company": "Edited before"})
    new = [line.replace("Old", "New") for line in lines]
    make_plan(settings, plan, *new, new[2].replace("Dr", "Prof"))
    sandbox.store.update("prospects", eva, {"company": "Edited since"})
    report = applied(settings, plan)
    assert counts(report) == {"failed": 1, "updated": 3}
    now = people(sandbox)
    assert [now[each]["company"] for each in (eva, fay, gus)] == ["Edited since", "New", "New"]
    assert now[gus]["title"] == "Prof"
    (conflict,) = [each for each in report.noteworthy if each.status == "failed"]
    assert (conflict.message or "").startswith(f"conflict: company of prospect {eva} changed")


def test_who_appeared_since_is_a_conflict(settings: Settings, sandbox: Sandbox, plan: Path):
    """A creation that meets a person changes nothing."""
    make_plan(settings, plan, "Gil,X,gil@example.org,,Prof,,")
    gil = add(sandbox, "Gil", title="Dr")
    before = people(sandbox)
    report = applied(settings, plan)
    assert (counts(report), report.exit_code) == ({"failed": 1}, 3)
    assert people(sandbox) == before
    assert report.noteworthy[0].prospect_id == gil
    assert f"prospect {gil} has their email or phone now" in (report.noteworthy[0].message or "")


def test_what_another_push_has_written_since_is_a_conflict(
    settings: Settings, sandbox: Sandbox, plan: Path
):
    """Known without a request: of the same input, and of another one."""
    make_plan(settings, plan, "Ada,X,ada@example.org,,Prof,,", "Bob,X,bob@example.org,,Prof,,")
    own, other = plan.with_name("people.csv"), plan.with_name("other.csv")
    own.write_text(f"{HEADER}\nAda,X,ada@example.org,,Mr,,\n")
    other.write_text(f"{HEADER}\nBob,X,bob@example.org,,Mr,,\n")
    for path in (own, other):
        assert counts(push(settings, PushRequest(file=str(path)))) == {"updated": 1}
    asked = len(sandbox.requests)
    report = applied(settings, plan)
    assert (counts(report), len(sandbox.requests)) == ({"failed": 2}, asked)
    assert all("another push has written" in (each.message or "") for each in report.noteworthy)


def test_what_a_pull_has_read_since_is_a_conflict_without_a_request(
    settings: Settings, sandbox: Sandbox, team: Team, plan: Path
):
    """Who was edited, and who was deleted; a person whom it has read as planned is updated."""
    ids = [team.ids[name] for name in ("Ada", "Bob", "Cyd")]
    rows = [f"{name},X,{name.lower()}@example.org,,Prof,," for name in ("Ada", "Bob", "Cyd")]
    make_plan(settings, plan, *rows)
    sandbox.store.update("prospects", ids[0], {"title": "Edited"})
    sandbox.store.delete("prospects", ids[1])
    pull(settings, Wanted(("prospects",), full=True))
    asked = len(sandbox.requests)
    report = applied(settings, plan)
    assert counts(report) == {"updated": 1, "failed": 2}
    assert len(sandbox.requests) - asked == 2
    first, second = (each.message or "" for each in report.noteworthy)
    assert first.startswith(f"conflict: title of prospect {ids[0]} changed")
    assert second.startswith(f"conflict: prospect {ids[1]} was deleted")


def test_equal_and_kept_cells_are_settled(
    settings: Settings, sandbox: Sandbox, team: Team, plan: Path
):
    """After the apply, what a recruiter edits in a field that was equal stands against the file."""
    ada = team.ids["Ada"]
    make_plan(settings, plan, "Ada,X,ada@example.org,,Dr,Old,")
    applied(settings, plan)
    sandbox.store.update("prospects", ada, {"company": "Edited"})
    pull(settings, Wanted(("prospects",)))
    sent = posts(sandbox)
    report = push(settings, PushRequest(file=str(plan.with_name("people.csv"))))
    assert (posts(sandbox) - sent, report.summary["kept"]) == (0, 1)


def test_activities_are_created_once(settings: Settings, sandbox: Sandbox, plan: Path):
    """With their person, and for one of whom nothing else changes."""
    header = "firstName,lastName,email,title,note.body"
    rows = ("Ada,X,ada@example.org,Dr,Called", "Cy,Y,cy@example.org,Mr,Met")
    make_plan(settings, plan, *rows, header=header)
    assert counts(applied(settings, plan)) == {"created": 1, "updated": 1}
    assert {each["body"] for each in sandbox.store.all("notes")} == {"Called", "Met"}
    applied(settings, plan)
    assert len(sandbox.store.all("notes")) == 2


def test_plans_that_arent_applied(settings: Settings, sandbox: Sandbox, plan: Path):
    """Altered, too old, or of another API: exit 2, nothing sent, and the plan is as it was."""
    make_plan(settings, plan, "Ada,X,ada@example.org,,Prof,,")
    altered = plan.with_name("altered.hcplan")
    altered.write_bytes(plan.read_bytes().replace(b"Prof", b"Boss"))
    other = settings.model_copy(update={"base_url": settings.base_url.replace("/v2", "/v3")})
    asked = len(sandbox.requests)
    for report in (
        applied(settings, altered),
        applied(settings, plan, max_age_s=0.0),
        applied(other, plan),
        applied(settings, plan.with_name("none.hcplan")),
    ):
        assert isinstance(report.error, PlanRefused)
        assert (report.exit_code, report.summary["not_sent"]) == (2, 0)
    assert len(sandbox.requests) == asked
    assert counts(applied(settings, plan)) == {"updated": 1}


def test_results_and_history_are_those_of_a_push(settings: Settings, sandbox: Sandbox, plan: Path):
    """One row of `_hc_push_results` per row that was applied, one of `_hc_runs`."""
    make_plan(settings, plan, "Ada,X,ada@example.org,,Prof,,")
    report = apply(settings, ApplyRequest(plan))
    with duckdb.connect(str(settings.duckdb_path), read_only=True) as copy:
        copy.execute(f"USE {settings.dataset}")
        run_id = report.summary["run_id"]
        results = copy.execute("SELECT run_id, row_number, status FROM _hc_push_results").fetchall()
        assert results == [(run_id, 2, "updated")]
        kinds = copy.execute("SELECT kind FROM _hc_runs WHERE run_id = ?", [run_id]).fetchall()
        assert kinds == [("apply",)]


def test_rows_of_one_person_are_applied_one_after_the_other(
    settings: Settings, sandbox: Sandbox, team: Team, plan: Path
):
    """Of one who is there, and of one whom the first row creates; an undo puts both fields back."""
    ada = team.ids["Ada"]
    before = people(sandbox)[ada]
    make_plan(
        settings,
        plan,
        "Ada,X,ada@example.org,,Prof,,",
        "Ada,X,ada@example.org,,,New,",
        "Cy,Y,cy@example.org,,Mr,,",
        "Cy,Y,cy@example.org,,,Acme,",
    )
    report = applied(settings, plan)
    assert counts(report) == {"created": 1, "updated": 3}
    now = {each["email"]: (each["title"], each["company"]) for each in people(sandbox).values()}
    assert (now["ada@example.org"], now["cy@example.org"]) == (("Prof", "New"), ("Mr", "Acme"))
    assert len(now) == len(team.ids) + 1
    back = undo(settings, UndoRequest(report.summary["run_id"]))
    assert counts(back) == {"updated": 1, "rejected": 1}
    assert people(sandbox)[ada] == before


def test_a_plan_is_applied_on_another_machine_with_the_same_ledger(
    settings: Settings, sandbox: Sandbox, team: Team, plan: Path, tmp_path: Path, postgres_url: str
):
    """That machine can undo it; the one that made the plan says where."""
    ada = team.ids["Ada"]
    shared = settings.model_copy(update={"ledger_url": postgres_url})
    one, other = (
        shared.model_copy(
            update={"state_dir": tmp_path / name, "duckdb_path": tmp_path / f"{name}.db"}
        )
        for name in ("one", "other")
    )
    assert pull(one, Wanted(("prospects",))).error is None
    make_plan(one, plan, "Ada,X,ada@example.org,,Prof,,")
    report = applied(other, plan)
    assert (counts(report), people(sandbox)[ada]["title"]) == ({"updated": 1}, "Prof")
    asked, request = len(sandbox.requests), UndoRequest(report.summary["run_id"])
    refused = undo(one, request)
    assert (refused.exit_code, len(sandbox.requests)) == (2, asked)
    assert f"`hiringcenter undo {request.run_id}` there" in str(refused.error)
    assert counts(undo(other, request)) == {"updated": 1}
    assert people(sandbox)[ada]["title"] == "Dr"
