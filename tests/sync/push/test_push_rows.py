"""Pushes against the sandbox over HTTP: every row has its outcome, and the API has every row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connector.sandbox import Sandbox, SandboxOptions
from tests.pushes.rig import Rig, client_of


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SandboxOptions(prospects=0, notes=0, tasks=0, meetings=0)) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgres"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def rig(sandbox: Sandbox, ledger_url: str) -> Iterator[Rig]:
    with client_of(sandbox.url, sandbox.api_key) as client:
        rig = Rig(ledger_url, client)
        yield rig
        rig.close()


def person(n: int, **fields: Any) -> dict[str, Any]:
    return {"firstName": f"N{n}", "lastName": "X", "email": f"n{n}@example.org", **fields}


def posts(sandbox: Sandbox) -> int:
    return sum(request.method == "POST" for request in sandbox.requests)


def test_new_rows_are_created_and_the_same_rows_again_cost_nothing(rig: Rig, sandbox: Sandbox):
    """n new rows are n requests; the second push is none."""
    rows = [person(n) for n in range(30)]
    assert set(rig.push(rows).statuses.values()) == {"created"}
    assert {p["email"] for p in sandbox.store.all("prospects")} == {r["email"] for r in rows}
    sandbox.clear_log()
    assert set(rig.push(rows).statuses.values()) == {"unchanged"}
    assert sandbox.requests == []


def test_a_changed_row_is_sent_alone(rig: Rig, sandbox: Sandbox):
    """Of many rows, exactly the one that changed costs a request."""
    rig.push([person(n) for n in range(10)])
    sandbox.clear_log()
    rows = [person(n, title="Boss" if n == 3 else None) if n == 3 else person(n) for n in range(10)]
    pushed = rig.push(rows)
    assert pushed.statuses[5] == "updated"
    assert [change.payload["title"] for change in sandbox.applied] == ["Boss"]


def test_a_b_a_ends_at_a(rig: Rig, sandbox: Sandbox):
    """Three pushes are three changes with three keys, though the third equals the first."""
    for title in ("a", "b", "a"):
        rig.push([person(1, title=title)])
    (prospect,) = sandbox.store.all("prospects")
    assert prospect["title"] == "a"
    assert len({change.idempotency_key for change in sandbox.applied}) == 3


def test_a_b_a_through_different_aliases_ends_at_a(rig: Rig, sandbox: Sandbox):
    """A by email, B by phone, A by email: the last is a change, whatever the email's last was."""
    both = {"email": "a@example.org", "phone": "+15555550123"}
    rig.push([{**both, "title": "first"}])
    by_email = {"email": both["email"], "title": "a"}
    by_phone = {"phone": both["phone"], "title": "b"}
    for row in (by_email, by_phone, by_email):
        assert rig.push([row]).statuses == {2: "updated"}
    (prospect,) = sandbox.store.all("prospects")
    assert prospect["title"] == "a"


def test_rows_of_one_person_go_out_in_file_order(rig: Rig, sandbox: Sandbox):
    """Rows joined by email, phone, or both through a third row are never sent at once."""
    rows: list[dict[str, Any]] = []
    for n in range(20):
        email, phone = f"g{n}@example.org", f"+1555555{1000 + n}"
        rows += [
            {"email": email, "phone": phone, "title": "0"},
            {"email": email, "title": "1"},
            {"phone": phone, "title": "2"},
        ]
    order = sorted(range(60), key=lambda i: (i % 3, i))
    sandbox.options.latency_s = (0.0, 0.01)
    rig.push([rows[i] for i in order])
    assert {p["title"] for p in sandbox.store.all("prospects")} == {"2"}
    assert len(sandbox.store.all("prospects")) == 20
    sandbox.clear_log()
    assert set(rig.push([rows[i] for i in order]).statuses.values()) == {"unchanged"}
    assert sandbox.requests == []


def test_two_people_in_one_row_are_rejected(rig: Rig, sandbox: Sandbox):
    """The email of one known prospect with the phone of another is not sent."""
    rig.push([person(1), {"phone": "+15555550123"}])
    pushed = rig.push([person(1, phone="+15555550123")])
    assert pushed.statuses == {2: "rejected"}
    assert "two different prospects" in (pushed.messages[2] or "")
    assert [reject.values["phone"] for reject in pushed.rejects] == ["+15555550123"]


def test_two_people_who_only_meet_in_one_file_are_rejected_too(rig: Rig, sandbox: Sandbox):
    """Rows one and two create two people; row three would merge them."""
    pushed = rig.push([person(1), {"phone": "+15555550123"}, person(1, phone="+15555550123")])
    assert pushed.statuses == {2: "created", 3: "created", 4: "rejected"}
    assert pushed.rejects[0].row_number == 4


def test_a_dropped_phone_is_reported_and_doesnt_come_back(rig: Rig, sandbox: Sandbox):
    """The API's warning is in the row's message; the same row again is unchanged."""
    row = person(1, phone="+1")
    assert "says: Phone" in (rig.push([row]).messages[2] or "")
    assert rig.push([row]).statuses == {2: "unchanged"}


def test_what_the_api_refuses_is_rejected_alone(rig: Rig, sandbox: Sandbox):
    """A 400 is one row's: it is in the rejects with the API's words, the others are applied."""
    pushed = rig.push([person(1), person(2, stageId="nonsense"), person(3)])
    assert pushed.statuses == {2: "created", 3: "rejected", 4: "created"}
    assert "refused it (400)" in pushed.rejects[0].reason
    assert pushed.rejects[0].values["stageId"] == "nonsense"


def test_rejects_count_and_cost_nothing(rig: Rig, sandbox: Sandbox):
    """A row that fails its checks is an outcome without a request."""
    pushed = rig.push([person(1), {"bad": "x"}])
    assert pushed.statuses == {2: "created", 3: "rejected"}
    assert pushed.messages[3] == "is bad; make it good"
    assert posts(sandbox) == 1


def test_people_without_contact_are_created_once(rig: Rig, sandbox: Sandbox):
    """Two equal rows without email and phone are two people; the file again creates no more."""
    rows = [{"firstName": "Jo", "lastName": "X"}] * 2 + [{"firstName": "Al", "lastName": "X"}]
    assert set(rig.push(rows, mode="create-only").statuses.values()) == {"created"}
    assert len(sandbox.store.all("prospects")) == 3
    again = rig.push(rows, mode="create-only")
    assert set(again.statuses.values()) == {"unchanged"}
    assert "--force" in (again.messages[2] or "")
    assert rig.push(rows, mode="create-only", force=True).statuses[2] == "created"


def test_activities_are_created_once_with_their_prospect(rig: Rig, sandbox: Sandbox):
    """Note, task and meeting get the returned id, each with its own key, and only once."""
    row = person(
        1,
        note={"body": "<p>hi</p>"},
        task={"task": "call", "assignedTo": "u1", "dueAt": 1_800_000_000_000},
        meeting={
            "meetingDate": 1_800_000_000_000,
            "timeZone": "UTC",
            "meetingType": "phone",
            "ownerId": "u1",
        },
    )
    assert rig.push([row]).statuses == {2: "created"}
    (prospect,) = sandbox.store.all("prospects")
    for resource in ("notes", "tasks", "meetings"):
        (made,) = sandbox.store.all(resource)
        assert made["prospectId"] == prospect["id"]
    assert len({change.idempotency_key for change in sandbox.applied}) == 4
    sandbox.clear_log()
    assert rig.push([row]).statuses == {2: "unchanged"}
    row["note"] = {"body": "more"}
    assert rig.push([row]).statuses == {2: "updated"}
    assert [change.resource for change in sandbox.applied] == ["notes"]


def test_a_refused_activity_fails_its_row(rig: Rig, sandbox: Sandbox):
    """The prospect is there, its note isn't: the row failed, and the next push adds the note."""
    row = person(1, task={"task": ""})
    pushed = rig.push([row])
    assert pushed.statuses == {2: "failed"}
    assert "tasks: HiringCenter refused it" in (pushed.messages[2] or "")
    row["task"] = {"task": "call", "assignedTo": "u1"}
    assert rig.push([row]).statuses == {2: "updated"}


@pytest.mark.parametrize("answer", ["conflict", "existing"])
def test_create_only_leaves_people_as_they_are(rig: Rig, sandbox: Sandbox, answer: Any):
    """Existing people are unchanged, in both revisions of the answer; new people are created."""
    sandbox.options.on_match_without_update = answer
    sandbox.store.create("prospects", {**person(1), "title": "old"})
    rows = [person(1, title="new", update=False), person(2, update=False)]
    pushed = rig.push(rows, mode="create-only")
    assert pushed.statuses == {2: "unchanged", 3: "created"}
    titles = {p["email"]: p["title"] for p in sandbox.store.all("prospects")}
    assert titles["n1@example.org"] == "old"
    assert "exists already" in (pushed.messages[2] or "")


def test_update_only_never_creates(rig: Rig, sandbox: Sandbox):
    """People unknown to the API are rejected, even if this connector created them once."""
    known = sandbox.store.create("prospects", person(1))
    rig.push([person(2)])
    (created,) = [p for p in sandbox.store.all("prospects") if p["id"] != known["id"]]
    sandbox.store.delete("prospects", created["id"])
    sandbox.clear_log()
    rows = [person(1, title="t"), person(2, title="t"), person(3, title="t")]
    pushed = rig.push(rows, mode="update-only")
    assert pushed.statuses == {2: "updated", 3: "rejected", 4: "rejected"}
    assert len(sandbox.applied) == 1
    assert len(sandbox.store.all("prospects")) == 1


def test_force_sends_what_is_unchanged(rig: Rig, sandbox: Sandbox):
    """--force costs a request per row, each with a new key."""
    rig.push([person(1)])
    assert rig.push([person(1)], force=True).statuses == {2: "updated"}
    assert len({change.idempotency_key for change in sandbox.applied}) == 2


def test_a_dry_run_sends_and_stores_nothing(rig: Rig, sandbox: Sandbox):
    """It counts what would be sent; the push after it finds everything as it was."""
    rig.push([person(1)])
    sandbox.clear_log()
    pushed = rig.push([person(1), person(1, title="x"), person(2), {"bad": 1}], dry_run=True)
    assert sandbox.requests == []
    assert (pushed.plan.to_send, pushed.plan.would_update) == (2, 1)
    assert pushed.plan.outcomes["rejected"] == 1
    assert rig.push([person(2)]).statuses == {2: "created"}


def test_rows_of_one_known_prospect_go_out_in_file_order(rig: Rig, sandbox: Sandbox):
    """Nothing in the file joins email and phone, but an earlier push did: still one person."""
    people = [(f"g{n}@example.org", f"+1415555{1000 + n}") for n in range(20)]
    rig.push([{"email": email, "phone": phone} for email, phone in people])
    sandbox.options.latency_s = (0.0, 0.02)
    rows = [
        row
        for email, phone in people
        for row in ({"email": email, "title": "a"}, {"phone": phone, "title": "b"})
    ]
    rig.push(rows)
    assert {p["title"] for p in sandbox.store.all("prospects")} == {"b"}
    sandbox.clear_log()
    assert set(rig.push(rows).statuses.values()) == {"unchanged"}
    assert sandbox.requests == []
