"""An API of the older revision, which calls some fields of notes and tasks by other names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from connector.sandbox import Sandbox
from connector.settings import Settings
from connector.upsert.rows.write_schema import current_fields, has_older_names, older_fields
from pipelines.push.push_input import PushRequest
from pipelines.push.push_report import PushReport
from pipelines.push.push_run import push

pytestmark = pytest.mark.usefixtures("results_wait")

_NOTE = "prospectId,body\n"
_TASK = "prospectId,task,assignedTo,dueAt\n"


def push_rows(settings: Settings, folder: Path, to: str, text: str, **options: Any) -> PushReport:
    path = folder / f"{to}.csv"
    path.write_text(text)
    return push(settings, PushRequest(file=str(path), to=to, **options))


def posts(sandbox: Sandbox) -> list[tuple[dict[str, Any], str]]:
    """(body, idempotency key) of each POST since the last time."""
    found = [
        (orjson.loads(each.body), str(each.idempotency_key))
        for each in sandbox.requests
        if each.method == "POST"
    ]
    sandbox.requests.clear()
    return found


def ids(sandbox: Sandbox) -> list[str]:
    return sorted(str(each["id"]) for each in sandbox.store.all("prospects"))


@pytest.mark.parametrize("revision", ["older", "current", "both"])
def test_notes_and_tasks_arrive_whole_in_every_revision(
    settings: Settings, sandbox: Sandbox, tmp_path: Path, revision: Any
):
    """Text, owner and due time; each once, and no request where the same file comes again."""
    sandbox.options.write_names = revision
    id_ = ids(sandbox)[0]
    note, task = _NOTE + f"{id_},hello\n", _TASK + f"{id_},call,u7,2026-05-04\n"
    assert push_rows(settings, tmp_path, "notes", note).summary["created"] == 1
    assert push_rows(settings, tmp_path, "tasks", task).summary["created"] == 1
    assert len(posts(sandbox)) == (4 if revision == "older" else 2)
    assert [each["body"] for each in sandbox.store.all("notes")] == ["hello"]
    (made,) = sandbox.store.all("tasks")
    assert (made["assignedTo"], made["dueAt"]) == ("u7", 1777852800000)
    assert push_rows(settings, tmp_path, "notes", note).summary["unchanged"] == 1
    assert push_rows(settings, tmp_path, "tasks", task).summary["unchanged"] == 1
    assert posts(sandbox) == []


def test_the_second_try_has_the_other_names_and_a_key_of_its_own(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """All names of that kind, and once only; then they are remembered, also by later pushes."""
    sandbox.options.write_names = "older"
    one, other = ids(sandbox)[:2]
    push_rows(settings, tmp_path, "tasks", _TASK + f"{one},a,u7,2026-05-04\n")
    (first, first_key), (second, second_key) = posts(sandbox)
    assert second == older_fields("tasks", first)
    assert first_key != second_key
    push_rows(settings, tmp_path, "tasks", _TASK + f"{other},b,u7,2026-05-04\n")
    (only,) = (body for body, _ in posts(sandbox))
    assert {"assignTo", "due"} <= only.keys()


def test_an_api_that_was_renewed_is_noticed(settings: Settings, sandbox: Sandbox, tmp_path: Path):
    """The current names are tried where the older ones are refused, and remembered instead."""
    sandbox.options.write_names = "older"
    one, other, third = ids(sandbox)[:3]
    push_rows(settings, tmp_path, "notes", _NOTE + f"{one},a\n")
    sandbox.options.write_names = "current"
    posts(sandbox)
    assert push_rows(settings, tmp_path, "notes", _NOTE + f"{other},b\n").summary["created"] == 1
    assert [("note" in body, "body" in body) for body, _ in posts(sandbox)] == [
        (True, False),
        (False, True),
    ]
    push_rows(settings, tmp_path, "notes", _NOTE + f"{third},c\n")
    assert len(posts(sandbox)) == 1


def test_a_refusal_that_names_no_such_field_costs_no_second_try(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """A prospect who doesn't exist, say."""
    report = push_rows(settings, tmp_path, "notes", _NOTE + "nobody,hello\n")
    assert (report.summary["rejected"], len(posts(sandbox))) == (1, 1)


def test_note_columns_of_prospects_arrive_too(settings: Settings, sandbox: Sandbox, tmp_path: Path):
    """A row that creates a person with a note and a task, in the older revision."""
    sandbox.options.write_names = "older"
    path = tmp_path / "people.csv"
    path.write_text(
        "firstName,lastName,email,note.body,task.task,task.assignedTo,task.dueAt\n"
        "Ada,L,ada@example.org,hello,call,u7,2026-05-04\n"
    )
    report = push(settings, PushRequest(file=str(path)))
    assert (report.exit_code, report.summary["created"]) == (0, 1)
    assert [each["body"] for each in sandbox.store.all("notes")] == ["hello"]
    assert [each["dueAt"] for each in sandbox.store.all("tasks")] == [1777852800000]
    posts(sandbox)
    assert push(settings, PushRequest(file=str(path))).summary["unchanged"] == 1
    assert posts(sandbox) == []


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("fault", ["drop_before", "drop_after"])
def test_a_lost_answer_of_either_try_creates_nothing_twice(
    settings: Settings, sandbox: Sandbox, tmp_path: Path, nth: int, fault: str
):
    """The first try or the second has no answer, and no more requests arrive; the next push asks
    again with that try's own key."""
    sandbox.options.write_names = "older"
    id_ = ids(sandbox)[0]
    text = _NOTE + f"{id_},hello\n"
    tried: list[int] = []

    def fail_from(request: Any) -> str | None:
        if request.method != "POST":
            return None
        tried.append(1)
        if len(tried) < nth:
            return None
        return fault if len(tried) == nth else "drop_before"

    sandbox.options.script = fail_from
    report = push_rows(settings, tmp_path, "notes", text)
    assert report.summary["created"] == 0
    sandbox.options.script = None
    report = push_rows(settings, tmp_path, "notes", text)
    assert report.summary["failed"] == report.summary["rejected"] == 0
    assert [each["body"] for each in sandbox.store.all("notes")] == ["hello"]
    assert len([each for each in sandbox.applied if each.resource == "notes"]) == 1


def test_names_go_there_and_back():
    """The names of one revision are those of the other; kinds without older names stay."""
    task = {"prospectId": "p1", "assignedTo": "u", "dueAt": 1, "task": "x"}
    older = older_fields("tasks", task)
    assert older == {"prospectId": "p1", "assignTo": "u", "due": 1, "task": "x"}
    assert (has_older_names("tasks", older), has_older_names("tasks", task)) == (True, False)
    assert current_fields("tasks", older) == task
    assert older_fields("meetings", task) == task
