"""`push --to notes|tasks|meetings`: activities of people who exist, each created once."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from connector.errors import BadMapping, InputError, OutboxLost, UsageError
from connector.sandbox import Sandbox
from connector.settings import PushJob, Settings
from pipelines.pull.pull_run import Wanted, pull
from pipelines.push.plan_view import PlanFiles
from pipelines.push.push_input import PushRequest, job_request
from pipelines.push.push_report import PushReport, push_lines
from pipelines.push.push_run import plan_push, push
from tests.sync.push.test_push_runs import landed

pytestmark = pytest.mark.usefixtures("results_wait")


def write(folder: Path, *lines: str, name: str = "notes.csv") -> Path:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def push_to(settings: Settings, path: Path, to: str = "notes", **options: Any) -> PushReport:
    return push(settings, PushRequest(file=str(path), to=to, **options))


def people(sandbox: Sandbox) -> list[dict[str, Any]]:
    """Those with a usable email that no one else has."""
    found = [each for each in sandbox.store.all("prospects") if each.get("email")]
    return sorted(found, key=lambda each: str(each["id"]))


def asked(sandbox: Sandbox) -> list[str]:
    """What was asked since the last time, without what every push asks."""
    found = [f"{each.method} {each.path.rpartition('/v2')[2]}" for each in sandbox.requests]
    sandbox.requests.clear()
    return [each for each in found if "/auth" not in each]


def notes(sandbox: Sandbox) -> list[tuple[str, str]]:
    return sorted((each["prospectId"], each["body"]) for each in sandbox.store.all("notes"))


@pytest.fixture(autouse=True)
def _nothing_asked_yet(sandbox: Sandbox) -> None:
    sandbox.requests.clear()


def test_by_id_one_request_each_and_no_person_is_touched(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """`prospectId` alone is enough; the same file again is 0 requests."""
    before = people(sandbox)
    ids = [each["id"] for each in before[:3]]
    path = write(tmp_path, "Prospect ID,Body", *(f"{id_},called {id_}" for id_ in ids))
    report = push_to(settings, path)
    assert (report.exit_code, report.summary["created"]) == (0, 3)
    assert asked(sandbox) == ["POST /notes"] * 3
    assert notes(sandbox) == sorted((id_, f"called {id_}") for id_ in ids)
    assert people(sandbox) == before
    again = push_to(settings, path)
    assert (again.summary["unchanged"], asked(sandbox)) == (3, [])


@pytest.mark.pulled
def test_an_email_in_the_copy_needs_no_look_up(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """Case doesn't count; neither names nor anything else of the person are needed."""
    person = people(sandbox)[0]
    asked(sandbox)
    path = write(tmp_path, "E-mail,body", f"{person['email'].upper()},hello")
    assert push_to(settings, path).summary["created"] == 1
    assert asked(sandbox) == ["POST /notes"]
    assert notes(sandbox) == [(person["id"], "hello")]


def test_the_email_of_a_pushed_person_needs_no_look_up(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """Receipts know whose contact it is, before any pull."""
    prospects = write(tmp_path, "firstName,lastName,email", "Ada,L,ada@example.org", name="p.csv")
    assert push(settings, PushRequest(file=str(prospects))).summary["created"] == 1
    asked(sandbox)
    path = write(tmp_path, "email,body", "ada@example.org,hello")
    assert push_to(settings, path).summary["created"] == 1
    assert asked(sandbox) == ["POST /notes"]


def test_an_unknown_person_is_looked_up_once(settings: Settings, sandbox: Sandbox, tmp_path: Path):
    """One GET for all rows of a person; pushed again, 0 requests."""
    person = people(sandbox)[0]
    rows = [f"{person['email']},{text}" for text in ("one", "two", "three")]
    path = write(tmp_path, "email,body", *rows)
    assert push_to(settings, path).summary["created"] == 3
    assert sorted(asked(sandbox)) == ["GET /prospects", *["POST /notes"] * 3]
    assert push_to(settings, path).summary["unchanged"] == 3
    assert asked(sandbox) == []


def test_no_match_or_several_are_rejected_and_no_one_is_created(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """With the reason, and what to do; the other rows are sent."""
    one, other, third = people(sandbox)[:3]
    sandbox.store.update("prospects", other["id"], {"email": one["email"]})
    count = len(sandbox.store.all("prospects"))
    path = write(
        tmp_path, "email,phone,body",
        f"{one['email']},,several", "nobody@example.org,,nobody", f"{third['email']},,fine",
    )  # fmt: skip
    report = push_to(settings, path)
    assert (report.exit_code, report.summary["rejected"], report.summary["created"]) == (3, 2, 1)
    several, unknown = (each.message or "" for each in report.noteworthy)
    assert all(part in several for part in ("several prospects", one["id"], other["id"]))
    assert "no prospect in HiringCenter has this email" in unknown
    assert len(sandbox.store.all("prospects")) == count
    with (tmp_path / "notes.csv.rejects.csv").open(newline="", encoding="utf-8-sig") as stream:
        assert [row["body"] for row in csv.DictReader(stream)] == ["several", "nobody"]
    assert any("push that file with --to notes." in str(line) for line in push_lines(report))


@pytest.mark.pulled
def test_contacts_of_two_people_are_rejected_without_a_request(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """Naming both by id."""
    one = next(each for each in people(sandbox) if each.get("phone"))
    other = next(each for each in people(sandbox) if each["id"] != one["id"])
    asked(sandbox)
    path = write(tmp_path, "email,phone,body", f"{other['email']},{one['phone']},whose?")
    report = push_to(settings, path)
    assert (report.summary["rejected"], asked(sandbox)) == (1, [])
    (message,) = (each.message or "" for each in report.noteworthy)
    assert one["id"] in message
    assert other["id"] in message


@pytest.mark.pulled
def test_a_family_phone_gives_no_note_to_another(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """An email that the copy doesn't know is asked for before its row's phone decides."""
    parent = next(each for each in people(sandbox) if each.get("phone"))
    child = sandbox.store.create(
        "prospects", {"firstName": "Kim", "lastName": "X", "email": "kim@example.org"}
    )
    asked(sandbox)
    path = write(tmp_path, "email,phone,body", f"kim@example.org,{parent['phone']},for Kim")
    assert push_to(settings, path).summary["created"] == 1
    assert asked(sandbox) == ["GET /prospects", "POST /notes"]
    assert notes(sandbox) == [(child["id"], "for Kim")]


@pytest.mark.lands
def test_the_deleted_get_no_activities(settings: Settings, sandbox: Sandbox, tmp_path: Path):
    """A tombstone of the copy is rejected at 0 requests; who went since, by the API's answer."""
    gone, going = people(sandbox)[:2]
    sandbox.store.delete("prospects", gone["id"])
    for _ in range(2):
        report = pull(settings, Wanted(("prospects",), full=True))
        assert report.error is None
    sandbox.store.delete("prospects", going["id"])
    asked(sandbox)
    path = write(tmp_path, "prospectId,body", f"{gone['id']},a", f"{going['id']},b")
    report = push_to(settings, path)
    assert report.summary["rejected"] == 2
    assert len(asked(sandbox)) <= 2
    assert notes(sandbox) == []


@pytest.mark.pulled
def test_without_a_key_equal_rows_are_one_note_and_a_changed_one_is_another(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """Its content is a row's identity, whichever way it names the person."""
    person = people(sandbox)[0]
    first = write(tmp_path, "email,body", *[f"{person['email']},same"] * 2)
    report = push_to(settings, first)
    assert (report.summary["created"], report.summary["unchanged"]) == (1, 1)
    by_id = write(tmp_path, "prospectId,body", f"{person['id']},same", name="by-id.csv")
    assert push_to(settings, by_id).summary["unchanged"] == 1
    write(tmp_path, "email,body", f"{person['email']},changed")
    assert push_to(settings, first).summary["created"] == 1
    assert [body for _, body in notes(sandbox)] == ["changed", "same"]


def test_a_key_is_a_rows_identity(settings: Settings, sandbox: Sandbox, tmp_path: Path):
    """Equal rows with two keys are two notes; a row whose text was changed isn't created again,
    and says so; with --force it is. The key itself is nowhere in the ledger."""
    id_ = people(sandbox)[0]["id"]
    path = write(tmp_path, "Ref,prospectId,body", f"secret-1,{id_},same", f"secret-2,{id_},same")
    assert push_to(settings, path, key="ref").summary["created"] == 2
    write(tmp_path, "Ref,prospectId,body", f"secret-1,{id_},other", f"secret-2,{id_},same")
    asked(sandbox)
    report = push_to(settings, path, key="Ref")
    assert (report.exit_code, report.summary["unchanged"], asked(sandbox)) == (0, 2, [])
    (note,) = report.noteworthy
    assert "created before, with other content" in (note.message or "")
    assert push_to(settings, path, key="Ref", force=True).summary["created"] == 2
    assert [body for _, body in notes(sandbox)] == ["other", "same", "same", "same"]
    held = b"".join(each.read_bytes() for each in (tmp_path / "state").rglob("*") if each.is_file())
    assert b"secret-1" not in held


def test_a_renamed_file_creates_nothing_twice_and_equal_keys_of_two_files_are_two_rows(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """A key is its source's own; key and content together are known whatever the file's name."""
    id_ = people(sandbox)[0]["id"]
    may = write(tmp_path, "id,prospectId,body", f"1,{id_},hello", name="may.csv")
    june = write(tmp_path, "id,prospectId,body", f"1,{id_},hello", name="june.csv")
    calls = write(tmp_path, "id,prospectId,body", f"1,{id_},called", name="calls.csv")
    assert push_to(settings, may, key="id").summary["created"] == 1
    assert push_to(settings, june, key="id").summary["unchanged"] == 1
    assert push_to(settings, calls, key="id").summary["created"] == 1


def test_rows_are_checked_before_anything_is_sent(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """Required fields, times and time zones, the person, the key; each bad row alone."""
    id_ = people(sandbox)[0]["id"]
    path = write(
        tmp_path, "Ref,prospectId,email,meeting_date,Time Zone,meetingType,ownerId",
        f"a,{id_},,2026-05-04T10:00,Europe/Berlin,call,u1",
        f"b,{id_},,2026-05-04T10:00,Berlin,call,u1",
        f"c,{id_},,soon,Europe/Berlin,call,u1",
        f"d,{id_},,2026-05-04T10:00,Europe/Berlin,,u1",
        "e,,,2026-05-04T10:00,Europe/Berlin,call,u1",
        "f,,nothing,2026-05-04T10:00,Europe/Berlin,call,u1",
        f",{id_},,2026-05-04T10:00,Europe/Berlin,call,u1",
        name="meetings.csv",
    )  # fmt: skip
    report = push_to(settings, path, "meetings", key="Ref")
    assert (report.summary["created"], report.summary["rejected"]) == (1, 6)
    messages = [each.message or "" for each in report.noteworthy]
    parts = ["IANA time zone", "isn't a time", "meetingType: is empty", "are all empty",
             "isn't an email address", "is empty, and --key"]  # fmt: skip
    assert [part in message for part, message in zip(parts, messages, strict=True)] == [True] * 6
    (meeting,) = sandbox.store.all("meetings")
    assert meeting["meetingDate"] == 1777881600000  # 10:00 in Berlin
    assert asked(sandbox) == ["POST /meetings"]


@pytest.mark.parametrize(
    ("header", "options", "error", "match"),
    [
        ("prospectId,text", {}, InputError, "Did you mean 'body'"),
        ("prospectId", {}, InputError, "no column for body"),
        ("body", {}, InputError, "no column for prospectId, email or phone"),
        ("prospectId,body", {"key": "Ref"}, InputError, "no column 'Ref'"),
        ("prospectId,body,firstName", {}, InputError, "firstName"),
    ],
)
def test_columns_are_matched_before_anything_is_sent(
    settings: Settings, sandbox: Sandbox, tmp_path: Path, header: str, options: Any, error: Any,
    match: str,
):  # fmt: skip
    """By the API's names of that kind alone; what is missing or unknown is named."""
    path = write(tmp_path, header, ",".join("x" for _ in header.split(",")))
    report = push_to(settings, path, **options)
    assert isinstance(report.error, error)
    assert match in str(report.error)
    assert sandbox.applied == []


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "create-only"}, {"clear_empty": True}, {"fill_empty": True}, {"restore": True},
        {"recheck": False}, {"lookups": 5}, {"allow_shared_contact": True},
    ],
)  # fmt: skip
def test_options_of_prospects_are_refused(options: dict[str, Any]):
    """Instead of being ignored."""
    with pytest.raises(UsageError, match="only for prospects"):
        PushRequest(file="a.csv", to="notes", **options)
    with pytest.raises(UsageError, match="--key is for"):
        PushRequest(file="a.csv", key="Ref")


def test_a_mapping_names_columns_and_constants(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """By the field's own name, or as in a mapping for prospects; a policy is an error."""
    id_ = people(sandbox)[0]["id"]
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(
        'ignore = ["Remarks"]\n[columns]\n"Who" = "prospectId"\n"What" = "task.task"\n'
        '[constants]\nassignedTo = "u7"\n[constants.task]\ndueAt = "2026-05-04"\n'
    )
    path = write(tmp_path, "Who,What,Remarks", f"{id_},call back,x", name="tasks.csv")
    assert push_to(settings, path, "tasks", mapping=mapping).summary["created"] == 1
    (task,) = sandbox.store.all("tasks")
    assert (task["task"], task["assignedTo"], task["dueAt"]) == ("call back", "u7", 1777852800000)
    for text, why in (("[policy]\nbody = 'never'", "policy"), ("[columns]\nx='title'", "title")):
        mapping.write_text(text)
        report = push_to(settings, path, "notes", mapping=mapping)
        assert isinstance(report.error, BadMapping)
        assert why in str(report.error)


@pytest.mark.lands
def test_a_job_a_dry_run_and_results(settings: Settings, sandbox: Sandbox, tmp_path: Path):
    """`to` and `key` in a job; requests are counted before; results name the record."""
    known, unknown = people(sandbox)[:2]
    path = write(
        tmp_path, "Ref,prospectId,email,body", f"a,{known['id']},,one", f"b,,{unknown['email']},two"
    )
    job = PushJob(file=path, to="notes", key="Ref", results=tmp_path / "out.csv")
    settings = settings.model_copy(update={"push": {"calls": job}})
    dry = push(settings, replace(job_request(settings, "calls"), dry_run=True))
    assert (dry.summary["would_create"], dry.summary["would_request"]) == (2, 3)
    assert asked(sandbox) == []
    report = push(settings, job_request(settings, "calls"))
    assert (report.summary["created"], len(asked(sandbox))) == (2, 3)
    rows = landed(
        settings,
        "SELECT status, prospect_id, record_kind, record_id, changed_fields "
        "FROM _hc_push_results ORDER BY row_number",
    )
    ids = {each["prospectId"]: each["id"] for each in sandbox.store.all("notes")}
    assert rows == [
        ("created", each["id"], "notes", ids[each["id"]], '["body"]') for each in (known, unknown)
    ]
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8-sig") as stream:
        found = [row["_hc_prospect_id"] for row in csv.DictReader(stream)]
    assert found == [known["id"], unknown["id"]]


def test_a_push_of_prospects_and_one_of_notes_from_one_file_are_two_sources(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """Neither drops what the other has planned; old-style `note.body` columns still work, and the
    same note isn't created by both."""
    person = people(sandbox)[0]
    both = write(
        tmp_path, "firstName,lastName,email,note.body",
        f"{person['firstName']},{person['lastName']},{person['email']},hello",
    )  # fmt: skip
    assert push(settings, PushRequest(file=str(both))).exit_code == 0
    assert notes(sandbox) == [(person["id"], "hello")]
    report = push_to(settings, both, ignore_unknown=True)
    assert (report.summary["unchanged"], notes(sandbox)) == (1, [(person["id"], "hello")])


@pytest.mark.pulled
def test_a_plan_shows_activities_and_keeps_no_plan_file_of_them(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """What would be created, whom it takes to find, that it can't be undone; 0 requests."""
    known, unknown = people(sandbox)[:2]
    sandbox.store.update("prospects", unknown["id"], {"email": "new@example.org"})
    asked(sandbox)
    path = write(tmp_path, "email,body", f"{known['email']},one", "new@example.org,two", "x,bad")
    request = PushRequest(file=str(path), to="notes")
    changes = tmp_path / "changes.jsonl"
    report = plan_push(settings, request, PlanFiles(changes=changes))
    assert report.error is None
    facts = report.summary
    assert (facts["would_create"], facts["rejected"], facts["would_request"]) == (2, 1, 3)
    assert facts["cannot_be_undone"] == {"activities": 2}
    shown = [json.loads(line) for line in changes.read_text().splitlines()]
    assert [each.get("activities", [{}])[0].get("body") for each in shown] == [None, "one", "two"]
    with pytest.raises(UsageError, match="keeps plans of prospects only"):
        plan_push(settings, request, PlanFiles(out=tmp_path / "a.hcplan"))
    assert asked(sandbox) == []


@pytest.mark.lands
def test_after_the_outbox_was_lost_notes_that_are_there_are_found(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """With --new-ledger each is looked up among its person's before it is created."""
    one, other = people(sandbox)[:2]
    path = write(tmp_path, "prospectId,body", f"{one['id']},hello", f"{other['id']},hello")
    assert push_to(settings, path).summary["created"] == 2
    settings = settings.model_copy(update={"state_dir": tmp_path / "new"})
    with pytest.raises(OutboxLost):
        push_to(settings, path)
    report = push_to(settings, path, new_ledger=True)
    assert (report.summary["unchanged"], len(notes(sandbox))) == (2, 2)
