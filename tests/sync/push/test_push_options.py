"""Options and settings of pushes: what an input is called, and what is done with its rows."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import duckdb
import pytest
from rich.console import Console

from connector.errors import UsageError
from connector.sandbox import Sandbox
from connector.settings import Settings
from connector.settings.tree import PushJob
from pipelines.pull.pull_run import Wanted, pull
from pipelines.push.push_input import PushRequest, job_request
from pipelines.push.push_report import PushReport, push_lines
from pipelines.push.push_run import push
from tests.sync.push.conftest import results_waiting

pytestmark = pytest.mark.usefixtures("results_wait")


def test_an_input_is_its_job_its_name_or_its_path(tmp_path: Path):
    """The same at each push; a path counts as it resolves, with its sheet."""
    path = tmp_path / "people.xlsx"
    (tmp_path / "link.xlsx").symlink_to(path)
    plain = PushRequest(file=str(tmp_path / "link.xlsx"))
    assert plain.source == PushRequest(file=str(path)).source == plain.origin
    assert PushRequest(file=str(path), sheet="May").source != plain.source
    named = [PushRequest(file=each, source_name="people") for each in ("a.csv", "b.csv")]
    assert named[0].source == named[1].source == "source people"
    assert PushRequest(file=str(path), job="spring").source == "job spring"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"source_name": " "}, "--source is empty"),
        ({"source_name": "x", "job": "spring"}, r"\[push.spring\] is a source itself"),
    ],
)
def test_names_that_name_nothing_are_refused(given: dict[str, Any], message: str):
    """With the way out."""
    with pytest.raises(UsageError, match=message):
        PushRequest(file="people.csv", **given)


def test_stdin_without_a_name_is_warned_about():
    """All of stdin is one input then."""
    (note,) = PushRequest(file="-").notes
    assert "--source NAME" in note
    assert PushRequest(file="-", source_name="feed").notes == []
    assert PushRequest(file="people.csv").notes == []


def test_a_job_has_the_options_of_its_settings(settings: Settings):
    """Looking people up is what a push does unless a job says otherwise."""
    job = PushJob(file=Path("x.csv"), restore=True, fill_empty=True, recheck=False, lookups=7)
    with_job = settings.model_copy(
        update={"push": {"spring": job, "plain": PushJob(sql="SELECT 1")}}
    )
    request = job_request(with_job, "spring")
    assert (request.restore, request.fill_empty, request.recheck, request.lookups) == (
        True, True, False, 7,
    )  # fmt: skip
    plain = job_request(with_job, "plain")
    assert (plain.restore, plain.fill_empty, plain.recheck, plain.lookups) == (
        False, False, True, None,
    )  # fmt: skip


def shown(report: PushReport) -> str:
    console = Console(file=StringIO(), width=120)
    for line in push_lines(report):
        console.print(line)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def push_unlanded(settings: Settings, path: Path, **options: Any) -> PushReport:
    """Between pulls."""
    with results_waiting(settings):
        return push(settings, PushRequest(file=str(path), **options))


@pytest.mark.pulled
@pytest.mark.lands
def test_kept_rows_are_counted_wherever_people_look(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """The summary, the table and the row's message; the exit code is 0. --restore sends them;
    --no-recheck says how old the copy is."""
    with duckdb.connect(str(settings.duckdb_path), read_only=True) as connection:
        found = connection.execute(
            "SELECT id, first_name, last_name, email FROM hiringcenter.prospects "
            "WHERE email IS NOT NULL AND first_name IS NOT NULL AND last_name IS NOT NULL LIMIT 1"
        ).fetchone()
    assert found is not None
    id_, first, last, email = found
    path = tmp_path / "people.csv"
    path.write_text(f"first_name,last_name,email,title\n{first},{last},{email},Agent\n")
    push_unlanded(settings, path)
    sandbox.store.update("prospects", id_, {"title": "Broker"})
    assert pull(settings, Wanted(("prospects",), full=True)).exit_code == 0
    report = push_unlanded(settings, path)
    assert (report.exit_code, report.summary["unchanged"], report.summary["kept"]) == (0, 1, 1)
    assert "copy_age_s" not in report.summary
    assert "title" in (report.noteworthy[0].message or "")
    assert report.noteworthy[0].kept_fields == ("title",)
    assert "kept" in shown(report)
    report = push_unlanded(settings, path, restore=True, recheck=False)
    assert (report.exit_code, report.summary["updated"], report.summary["kept"]) == (0, 1, 0)
    assert report.summary["requests"] == 1
    assert 0 <= report.summary["copy_age_s"] < 3600
    assert any("--no-recheck" in each for each in report.notes)
    assert (sandbox.store.get("prospects", id_) or {})["title"] == "Agent"
