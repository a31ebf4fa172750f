"""Writes: matching, clearing, validation, idempotency."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.sandbox.conftest import Serve

JANE = {"firstName": "Jane", "lastName": "Doe"}


def test_a_new_person_is_created(serve: Serve):
    """201, with id and times; the store has it, and one change is counted."""
    sandbox, client = serve(prospects=0)
    payload = {**JANE, "email": "jane@example.com", "phone": "+15551234567", "labels": ["A", "B"]}
    answer = client.post("/prospects", json=payload, headers={"X-Idempotency-Key": "k1"})
    assert answer.status_code == 201
    record = answer.json()["item"]
    assert sandbox.store.get("prospects", record["id"]) == record
    assert {name: record[name] for name in payload} == payload
    (change,) = sandbox.applied
    assert (change.resource, change.id, change.action) == ("prospects", record["id"], "created")
    assert (change.idempotency_key, change.payload) == ("k1", payload)


def test_without_contact_every_post_is_a_new_person(serve: Serve):
    """Nothing to match by."""
    sandbox, client = serve(prospects=0)
    for _ in range(2):
        assert client.post("/prospects", json=JANE).status_code == 201
    assert sandbox.store.count("prospects") == 2


@pytest.mark.parametrize("contact", [{"email": "JANE@Example.com"}, {"phone": "(555) 123-4567"}])
def test_a_match_by_email_or_phone_is_updated(serve: Serve, contact: dict[str, str]):
    """200; omitted fields stay, null clears, each address field on its own, `updatedAt` moves."""
    sandbox, client = serve(prospects=30)
    fields = {"email": "jane@example.com", "phone": "+15551234567", "city": "Rome", "state": "RM",
              "title": "Agent"}  # fmt: skip
    before = client.post("/prospects", json={**JANE, **fields}).json()["item"]
    answer = client.post("/prospects", json={**JANE, **contact, "city": None, "title": "Boss"})
    assert answer.status_code == 200
    after = answer.json()["item"]
    assert after["id"] == before["id"]
    assert (after["city"], after["state"], after["title"]) == (None, "RM", "Boss")
    assert after["updatedAt"] > before["updatedAt"]
    assert after["createdAt"] == before["createdAt"]
    assert [change.action for change in sandbox.applied] == ["created", "updated"]


def test_generated_people_match_too(serve: Serve):
    """Also after their email moved to another person."""
    sandbox, client = serve(prospects=30)
    person = next(row for row in sandbox.store.all("prospects") if row["email"])
    answer = client.post("/prospects", json={**JANE, "email": person["email"].upper()})
    assert answer.json()["item"]["id"] == person["id"]
    sandbox.store.update("prospects", person["id"], {"email": "other@example.com"})
    assert client.post("/prospects", json={**JANE, "email": person["email"]}).status_code == 201


def test_where_email_and_phone_are_two_people_the_email_wins(serve: Serve):
    """And takes the other's phone: what a connector must not let happen."""
    sandbox, client = serve(prospects=0)
    by_email = sandbox.store.create("prospects", {"email": "a@example.com"})
    by_phone = sandbox.store.create("prospects", {"phone": "+15551234567"})
    both = {**JANE, "email": "a@example.com", "phone": "+15551234567"}
    assert client.post("/prospects", json=both).json()["item"]["id"] == by_email["id"]
    assert sandbox.store.get("prospects", by_phone["id"]) == by_phone


def test_an_invalid_phone_is_dropped_with_a_warning(serve: Serve):
    """The request succeeds, `phone` comes back null, `message` says so."""
    _, client = serve(prospects=0)
    answer = client.post("/prospects", json={**JANE, "phone": "call me"})
    assert answer.status_code == 201
    assert answer.json()["item"]["phone"] is None
    assert "Phone" in answer.json()["message"]
    assert "message" not in client.post("/prospects", json=JANE).json()


@pytest.mark.parametrize(("policy", "status"), [("conflict", 409), ("existing", 200)])
def test_update_false_leaves_a_match_alone(serve: Serve, policy: str, status: int):
    """409, or the record as it was; nothing is applied. The older default is the same as false."""
    sandbox, client = serve(prospects=0, on_match_without_update=policy)
    before = sandbox.store.create("prospects", {"firstName": "J", "email": "jane@example.com"})
    payload = {**JANE, "email": "jane@example.com"}
    assert client.post("/prospects", json={**payload, "update": False}).status_code == status
    sandbox.options.update_default = False
    assert client.post("/prospects", json=payload).status_code == status
    assert sandbox.applied == []
    assert sandbox.store.all("prospects") == [before]
    assert client.post("/prospects", json={**payload, "update": True}).status_code == 200


@pytest.mark.parametrize(
    ("written", "after"), [("replace", ["c", "a"]), ("merge", ["a", "b", "c"])]
)
def test_labels_of_a_match_are_replaced_or_merged(serve: Serve, written: str, after: list[str]):
    """The contract doesn't say which; merged, null and no labels take none away."""
    sandbox, client = serve(prospects=0, labels_written=written)
    payload = {**JANE, "email": "jane@example.com"}
    client.post("/prospects", json={**payload, "labels": ["a", "b"]})
    answer = client.post("/prospects", json={**payload, "labels": ["c", "a"]})
    assert answer.json()["item"]["labels"] == after
    client.post("/prospects", json={**payload, "labels": None})
    assert (sandbox.store.all("prospects")[0]["labels"] or []) == (
        after if written == "merge" else []
    )


def test_stages_sources_and_labels(serve: Serve):
    """`stageId` wins over `pipelineId`, a new source is the source, labels may be one string."""
    _, client = serve(prospects=0)
    fields = {"stageId": "stg_offer", "pipelineId": "pipe_licensing", "newSourceName": "Fair",
              "labels": " a , b,"}  # fmt: skip
    record = client.post("/prospects", json={**JANE, **fields}).json()["item"]
    assert (record["currentStageId"], record["currentStage"]) == ("stg_offer", "Offer")
    assert (record["source"], record["labels"]) == ("Fair", ["a", "b"])
    by_pipeline = client.post("/prospects", json={**JANE, "pipelineId": "pipe_licensing"})
    assert by_pipeline.json()["item"]["currentStageId"] == "stg_licensing"


@pytest.mark.parametrize(
    "bad",
    [
        {"firstName": None},
        {"firstName": " "},
        {"lastName": 7},
        {"email": "nobody"},
        {"email": 5},
        {"phone": 5551234567},
        {"stageId": "nowhere"},
        {"licenseStatus": "maybe"},
        {"labels": [1]},
        {"resume": "text"},
        {"update": "yes"},
    ],
)
def test_a_bad_field_is_refused_by_name(serve: Serve, bad: dict[str, Any]):
    """400 with the `Error` schema; nothing is applied."""
    sandbox, client = serve(prospects=0)
    answer = client.post("/prospects", json={**JANE, **bad})
    assert answer.status_code == 400
    assert next(iter(bad)) in answer.json()["message"]
    assert sandbox.store.count("prospects") == 0
    assert sandbox.applied == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff"])
def test_a_body_that_isnt_an_object_is_refused(serve: Serve, body: bytes):
    """400."""
    _, client = serve()
    assert client.post("/prospects", content=body).status_code == 400


def test_fields_the_api_does_not_know_are_noted(serve: Serve):
    """Ignored, as a tolerant server does, and visible to tests."""
    sandbox, client = serve(prospects=0)
    record = client.post("/prospects", json={**JANE, "first_name": "x"}).json()["item"]
    assert "first_name" not in record
    assert sandbox.unknown_fields == ["first_name"]


ACTIVITIES: dict[str, dict[str, Any]] = {
    "notes": {"body": "<p>Hi</p>", "pin": True},
    "tasks": {"assignedTo": "u1", "task": "Call", "dueAt": 1_760_000_000_000},
    "meetings": {"meetingDate": 1_760_100_000_000, "timeZone": "America/New_York",
                 "meetingType": "virtual", "ownerId": "u1", "location": "Zoom"},
}  # fmt: skip


@pytest.mark.parametrize("resource", ACTIVITIES)
def test_activities_belong_to_a_prospect(serve: Serve, resource: str):
    """201 each time; 404 for an unknown person; 400 for each required field that is missing."""
    sandbox, client = serve()
    prospect = sandbox.store.all("prospects")[0]["id"]
    payload = {"prospectId": prospect, **ACTIVITIES[resource]}
    answer = client.post(f"/{resource}", json=payload)
    assert answer.status_code == 201
    record = answer.json()["item"]
    assert {name: record[name] for name in payload} == payload
    assert record["createdByApi"] is True
    assert sandbox.store.get(resource, record["id"]) == record
    unknown = client.post(f"/{resource}", json={**payload, "prospectId": "0" * 32})
    assert unknown.status_code == 404
    required = {"prospectId", *payload} - {"pin", "dueAt", "location"}
    for name in required:
        rest = {key: value for key, value in payload.items() if key != name}
        assert client.post(f"/{resource}", json=rest).status_code == 400
    assert len(sandbox.applied) == 1


def test_bad_values_of_activities(serve: Serve):
    """Times are milliseconds, zones are IANA; a note's date may be ISO."""
    sandbox, client = serve()
    person = {"prospectId": sandbox.store.all("prospects")[0]["id"]}
    meeting = {**person, **ACTIVITIES["meetings"]}
    assert client.post("/meetings", json={**meeting, "timeZone": "Mars/Base"}).status_code == 400
    assert client.post("/meetings", json={**meeting, "meetingDate": "soon"}).status_code == 400
    dated = {**person, "body": "x", "date": "2026-01-02T03:04:05Z"}
    created = client.post("/notes", json=dated).json()["item"]
    assert created["createdAt"] == 1_767_323_045_000
    assert client.post("/notes", json={**dated, "date": "soon"}).status_code == 400


def test_older_names_of_fields(serve: Serve):
    """`note`, `assignTo` and `due` where that revision is served; the new ones are not."""
    sandbox, client = serve(write_names="older")
    person = {"prospectId": sandbox.store.all("prospects")[0]["id"]}
    note = client.post("/notes", json={**person, "note": "old"}).json()["item"]
    assert note["body"] == "old"
    task = {**person, "assignTo": "u", "task": "t", "due": 5}
    assert client.post("/tasks", json=task).json()["item"]["dueAt"] == 5
    assert client.post("/notes", json={**person, "body": "new"}).status_code == 400
    sandbox.options.write_names = "both"
    for name in ("note", "body"):
        assert client.post("/notes", json={**person, name: "x"}).status_code == 201


def test_a_deleted_record_is_gone(serve: Serve):
    """200 once, 404 after; the same key answers 200 again."""
    sandbox, client = serve()
    path = f"/notes/{sandbox.store.all('notes')[0]['id']}"
    key = {"X-Idempotency-Key": "k"}
    assert client.delete(path, headers=key).status_code == 200
    assert client.delete(path).status_code == 404
    assert client.delete(path, headers=key).status_code == 200
    assert [change.action for change in sandbox.applied] == ["deleted"]


def test_the_same_key_and_bytes_replay_the_answer(serve: Serve):
    """Byte for byte, also after the record changed; nothing is applied again."""
    sandbox, client = serve(prospects=0)
    key = {"X-Idempotency-Key": "k"}
    first = client.post("/prospects", json=JANE, headers=key)
    sandbox.store.update("prospects", first.json()["item"]["id"], {"title": "changed since"})
    again = client.post("/prospects", json=JANE, headers=key)
    assert (again.status_code, again.content) == (201, first.content)
    assert len(sandbox.applied) == 1
    assert [request.replayed for request in sandbox.requests] == [False, True]


def test_the_same_key_with_another_payload_conflicts(serve: Serve):
    """409, on another path too."""
    _, client = serve(prospects=0)
    key = {"X-Idempotency-Key": "k"}
    client.post("/prospects", json=JANE, headers=key)
    other = client.post("/prospects", json={**JANE, "title": "x"}, headers=key)
    assert other.status_code == 409
    assert client.post("/notes", json=JANE, headers=key).status_code == 409


def test_the_same_key_while_the_first_runs_conflicts(serve: Serve):
    """409 until the first is done, then its answer."""
    sandbox, client = serve(prospects=0)
    for latency_s in (0.2, 2.0, 20.0):  # the first is still under way when we come, in the end
        sandbox.options.latency_s = latency_s
        key = {"X-Idempotency-Key": f"k{latency_s}"}
        arrived = threading.Event()
        sandbox.on_request = lambda _request, arrived=arrived: arrived.set()
        sandbox.clear_log()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(client.post, "/prospects", json=JANE, headers=key)
            assert arrived.wait(500)
            early = client.post("/prospects", json=JANE, headers=key)
        assert client.post("/prospects", json=JANE, headers=key).status_code == 201
        assert len(sandbox.applied) == 1
        if early.status_code == 409:
            break
    assert early.status_code == 409
    assert "in progress" in early.json()["message"]


def test_keys_are_forgotten(serve: Serve):
    """After their time a key is a new one: the change is made twice."""
    sandbox, client = serve(prospects=0, keys_ttl_s=0.0)
    key = {"X-Idempotency-Key": "k"}
    for _ in range(2):
        client.post("/prospects", json=JANE, headers=key)
    assert len(sandbox.applied) == 2


def test_a_lost_answer_is_found_by_its_key(serve: Serve):
    """Applied, dropped, asked again: one change, and the answer."""
    sandbox, client = serve(prospects=0, script={1: "drop_after", 2: "error_500_after"})
    key = {"X-Idempotency-Key": "k"}
    with pytest.raises(httpx.TransportError):
        client.post("/prospects", json=JANE, headers=key)
    assert client.post("/prospects", json=JANE, headers=key).status_code == 500
    assert client.post("/prospects", json=JANE, headers=key).status_code == 201
    assert len(sandbox.applied) == 1


def test_a_key_is_free_again_after_a_refusal(serve: Serve):
    """What was never applied can be put right under the same key."""
    _, client = serve(prospects=0)
    key = {"X-Idempotency-Key": "k"}
    assert client.post("/prospects", json={}, headers=key).status_code == 400
    assert client.post("/prospects", json=JANE, headers=key).status_code == 201


def test_keys_have_a_maximum_length(serve: Serve):
    """512 characters, not one more."""
    _, client = serve(prospects=0)
    for length, status in ((512, 201), (513, 400)):
        headers = {"X-Idempotency-Key": "k" * length}
        assert client.post("/prospects", json=JANE, headers=headers).status_code == status
