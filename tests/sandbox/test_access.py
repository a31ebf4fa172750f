"""Keys, permissions, single records, filters, webhooks."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from connector.sandbox import RESOURCES, Sandbox
from tests.sandbox.conftest import Serve, items


@pytest.mark.parametrize("header", [None, "", "Bearer wrong", "sandbox-key", "Basic sandbox-key"])
def test_nothing_is_shown_without_the_key(serve: Serve, header: str | None):
    """401 with the `Error` schema on every path, and no rate headers: no account is identified."""
    sandbox, _ = serve(windows=((1, 60),))
    headers = {} if header is None else {"Authorization": header}
    with httpx.Client(base_url=sandbox.url, headers=headers, verify=False) as stranger:
        for path in ("/auth", "/prospects", "/nowhere"):
            answer = stranger.get(path)
            assert answer.status_code == 401
            assert set(answer.json()) == {"error", "message"}
            assert "ratelimit-limit" not in answer.headers


def test_auth_describes_the_key(serve: Serve):
    """Bare, or under `item` in another revision."""
    sandbox, client = serve()
    facts = client.get("/auth").json()
    assert facts["accountId"] == "acct_sandbox"
    assert facts["active"] is True
    assert "notes:read" in facts["permissions"]
    sandbox.options.auth_under_item = True
    assert client.get("/auth").json() == {"success": True, "item": facts}


def test_an_inactive_key_may_only_ask_about_itself(serve: Serve):
    """403 everywhere else."""
    _, client = serve(active=False)
    assert client.get("/auth").json()["active"] is False
    assert client.get("/prospects").status_code == 403


def test_permissions_are_per_resource_and_direction(serve: Serve):
    """The answer names the one that is missing."""
    _, client = serve(permissions=("notes:read",))
    assert client.get("/notes").status_code == 200
    for answer in (client.get("/tasks"), client.post("/notes", json={})):
        assert answer.status_code == 403
    assert "notes:write" in answer.json()["message"]


@pytest.mark.parametrize("resource", RESOURCES)
def test_one_record_by_id(serve: Serve, resource: str):
    """Equal to what the list gives, under `item`; 404 once it is deleted, and never for others."""
    sandbox, client = serve()
    record = sandbox.store.all(resource)[3]
    path = f"/{resource}/{record['id']}"
    assert client.get(path).json() == {"success": True, "item": record}
    sandbox.store.delete(resource, record["id"])
    assert client.get(path).status_code == 404
    assert client.get(f"/{resource}/{'f' * 32}").status_code == 404
    assert client.get(f"/{resource}/nonsense").status_code == 404


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD"])
def test_other_methods_are_not_allowed(serve: Serve, method: str):
    """405; records are written by POST alone."""
    sandbox, client = serve()
    path = f"/prospects/{sandbox.store.all('prospects')[0]['id']}"
    assert client.request(method, path).status_code == 405


@pytest.mark.parametrize("path", ["/", "/nowhere", "/prospects/1/2", "/webhooks"])
def test_other_paths_do_not_exist(serve: Serve, path: str):
    """404 with the `Error` schema."""
    _, client = serve()
    assert client.get(path).json()["error"] == "Not found"


@pytest.mark.parametrize(
    ("resource", "name"),
    [
        ("prospects", "title"),
        ("prospects", "email"),
        ("prospects", "phone"),
        ("notes", "prospectId"),
        ("notes", "userId"),
        ("tasks", "prospectId"),
        ("tasks", "assignedTo"),
        ("meetings", "ownerId"),
        ("meetings", "meetingType"),
        ("meetings", "prospectId"),
    ],
)
def test_a_filter_leaves_the_rows_with_its_value(serve: Serve, resource: str, name: str):
    """The rows with that value, in list order, page by page."""
    sandbox, client = serve()
    rows = sandbox.store.all(resource)
    value = next(row[name] for row in rows[5:] if row.get(name))
    found = items(client, resource, **{name: value}, limit=2)
    assert found == [row for row in rows if row.get(name) == value] != []


def test_filters_add_up_and_see_changes(serve: Serve):
    """Two filters are an and; a change between two requests is seen."""
    sandbox, client = serve(prospects=200)
    rows = [row for row in sandbox.store.all("prospects") if row["currentStage"] == "Offer"]
    wanted = [row for row in rows if "Inbound" in row["labels"]]
    query = {"stage": "Offer", "label": "Inbound"}
    assert items(client, "prospects", **query, limit=3) == wanted != []
    sandbox.store.update("prospects", wanted[0]["id"], {"labels": []})
    assert items(client, "prospects", **query) == wanted[1:]


def test_labels_may_be_repeated_or_listed(serve: Serve):
    """Any of up to ten; an eleventh is refused."""
    sandbox, client = serve(prospects=100)
    both = [row for row in sandbox.store.all("prospects") if {"true", "2025"} & set(row["labels"])]
    assert items(client, "prospects", label=["true", "2025"]) == both
    assert items(client, "prospects", label="true, 2025") == both
    too_many = ",".join(str(number) for number in range(11))
    assert client.get("/prospects", params={"label": too_many}).status_code == 400


def test_stage_by_name_or_id_name_by_part(serve: Serve):
    """`stage` takes either; `name` looks into both names, whatever the case."""
    sandbox, client = serve(prospects=100)
    assert items(client, "prospects", stage="Hired") == items(
        client, "prospects", stage="stg_hired"
    )
    sandbox.store.create("prospects", {"firstName": "Unique", "lastName": "Person"})
    assert len(items(client, "prospects", name="uniQUE pers")) == 1


def test_contacts_are_compared_as_people_mean_them(serve: Serve):
    """Case of emails and punctuation of phones don't count."""
    sandbox, client = serve(prospects=0)
    made = sandbox.store.create("prospects", {"email": "A.B@Example.com", "phone": "+15551234567"})
    assert items(client, "prospects", email="a.b@EXAMPLE.com") == [made]
    assert items(client, "prospects", phone="(555) 123-4567") == [made]
    assert items(client, "prospects", email="nobody@example.com") == []
    assert items(client, "prospects", email="not an email") == []


def test_open_tasks_and_due_dates(serve: Serve):
    """`incompleteOnly`; due dates are inclusive and only of tasks not completed."""
    sandbox, client = serve(tasks=100)
    tasks = sandbox.store.all("tasks")
    still_open = [task for task in tasks if task["completedAt"] is None]
    assert items(client, "tasks", incompleteOnly="true") == still_open
    assert items(client, "tasks", incompleteOnly="false") == tasks
    assert client.get("/tasks", params={"incompleteOnly": "perhaps"}).status_code == 400
    low, high = still_open[3]["dueAt"], still_open[9]["dueAt"]
    wanted = [task for task in still_open if task["dueAt"] and low <= task["dueAt"] <= high]
    assert items(client, "tasks", dueAfter=low, dueBefore=high) == wanted
    assert client.get("/tasks", params={"dueAfter": "today"}).status_code == 400


def test_meetings_between_two_dates(serve: Serve):
    """Both ends included."""
    sandbox, client = serve(meetings=50)
    meetings = sandbox.store.all("meetings")
    high, low = meetings[4]["meetingDate"], meetings[9]["meetingDate"]
    wanted = [each for each in meetings if low <= each["meetingDate"] <= high]
    assert items(client, "meetings", meetingDateAfter=low, meetingDateBefore=high) == wanted


def test_the_older_name_of_a_filter_needs_the_older_revision(serve: Serve):
    """`assignTo` filters there, and is unknown elsewhere."""
    sandbox, client = serve(tasks=40)
    user = sandbox.store.all("tasks")[0]["assignedTo"]
    assert len(client.get("/tasks", params={"assignTo": user}).json()["items"]) == 40
    assert sandbox.unknown_parameters == ["assignTo"]
    sandbox.options.envelope = "legacy"
    rows = client.get("/tasks", params={"assignTo": user}).json()["tasks"]
    assert {row["assignedTo"] for row in rows} == {user}


def test_webhooks_are_subscribed_to_and_polled(serve: Serve):
    """Subscribing gives ids and a secret; polling gives flat snake_case rows with ISO times."""
    _, client = serve()
    order = {"hookUrl": "https://example.com/hook", "eventType": "prospect.created"}
    made = client.post("/webhooks/subscribe", json=order)
    assert made.status_code == 201
    assert set(made.json()) == {
        "subscriptionId", "hookId", "hookUrl", "eventType", "subscribed", "createdAt", "updatedAt",
        "endpointSecret",
    }  # fmt: skip
    again = client.post("/webhooks/subscribe", json=order).json()
    assert set(made.json()) - set(again) == {"endpointSecret"}
    order["eventType"] = "prospect.exploded"
    assert client.post("/webhooks/subscribe", json=order).status_code == 400
    rows = client.get("/webhooks/poll", params={"eventType": "prospect.created"}).json()
    assert rows[0]["created_at"] == "2025-12-29T15:59:00.200+00:00"
    assert not any(isinstance(value, (dict, list)) for row in rows for value in row.values())
    assert client.get("/webhooks/poll").json() == rows
    assert client.get("/webhooks/poll", params={"accountId": "a"}).json() == rows
    assert {"stage_name", "pipeline_id", "owner_name", "office_id"} <= set(rows[0])
    updated = client.get("/webhooks/poll", params={"eventType": "prospect.updated"})
    assert updated.status_code == 400


def test_what_went_wrong_inside_is_raised_in_the_end():
    """A failing callback answers 500, and no test can overlook it."""

    def fail(_request: object) -> None:
        raise LookupError("in the callback")

    sandbox = Sandbox()
    sandbox.on_request = fail
    with pytest.raises(LookupError, match="in the callback"):
        _ask_once(sandbox)


def _ask_once(sandbox: Sandbox) -> None:
    with sandbox:
        assert httpx.get(f"{sandbox.url}/auth").status_code == 500


def test_a_callback_can_change_data_between_pages(serve: Serve):
    """It runs before the request is answered, and sees what was asked."""
    sandbox, client = serve(notes=3)
    seen = []

    def add(request: Any) -> None:
        seen.append((request.method, request.path, request.params))
        sandbox.store.create("notes", {"body": "between"})

    sandbox.on_request = add
    assert len(client.get("/notes", params={"limit": 9}).json()["items"]) == 4
    assert seen == [("GET", "/v2/notes", [("limit", "9")])]


def test_the_request_log_has_everything_but_the_key(serve: Serve):
    """Method, path, parameters, status, times in order, body and headers."""
    sandbox, client = serve()
    client.post("/notes", content=b"{}", params={"x": "1"}, headers={"X-Idempotency-Key": "k"})
    (request,) = sandbox.requests
    assert (request.method, request.path, request.status) == ("POST", "/v2/notes", 400)
    assert request.params == [("x", "1")]
    assert (request.body, request.idempotency_key) == (b"{}", "k")
    assert request.answered_s is not None
    assert request.answered_s >= request.received_s
    assert sandbox.api_key not in repr(request)
    sandbox.clear_log()
    assert sandbox.requests == []
