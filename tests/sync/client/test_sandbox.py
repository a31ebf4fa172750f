"""The client against the whole API: every revision, every fault, nothing lost, nothing doubled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from connector import errors
from connector.api.client import ApiClient
from connector.sandbox import RESOURCES, Faults, Sandbox, SandboxOptions
from connector.sandbox.sandbox_options import Envelope
from tests.fake_clock import FakeClock
from tests.sync.client.recording_budget import RecordingBudget


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    options = SandboxOptions(prospects=120, notes=90, tasks=80, meetings=70, stall_s=0.05)
    with Sandbox(options) as running:
        yield running


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[ApiClient]:
    clock = FakeClock()  # back-offs pass at once
    with ApiClient(
        base_url=sandbox.url,
        api_key=sandbox.api_key,
        budget=RecordingBudget(clock),
        clock=clock,
    ) as connected:
        yield connected


def _pull(client: ApiClient, resource: str, limit: int) -> dict[str, Any]:
    """All records by id; a row that two pages share is one."""
    params: dict[str, str] | None = {"limit": str(limit)}
    found = {}
    while params:
        page = client.page(resource, params)
        found.update({item["id"]: item for item in page.items})
        params = {"limit": str(limit), **page.next_params} if page.next_params else None
    return found


def _truth(sandbox: Sandbox, resource: str) -> dict[str, Any]:
    return {record["id"]: record for record in sandbox.store.all(resource)}


@pytest.mark.parametrize("envelope", get_args(Envelope))
@pytest.mark.parametrize("resource", RESOURCES)
def test_every_list_of_every_revision_is_read_whole(
    sandbox: Sandbox, client: ApiClient, envelope: Envelope, resource: str
):
    """Page by page where the revision has pages, every field as it was."""
    sandbox.options.envelope = envelope
    limit = 200 if envelope == "bare" else 31  # a bare list has no next page
    assert _pull(client, resource, limit) == _truth(sandbox, resource)
    assert not sandbox.unknown_parameters


def test_a_third_of_all_answers_may_be_faulty(sandbox: Sandbox, client: ApiClient):
    """In every way that the sandbox knows; each list still arrives whole, field by field."""
    sandbox.options.faults = Faults.evenly(0.35, seed=7)
    for resource in RESOURCES:
        assert _pull(client, resource, 10) == _truth(sandbox, resource)
    assert {request.fault for request in sandbox.requests} >= {None, "truncate", "html_502"}


def test_every_write_is_applied_exactly_once(sandbox: Sandbox, client: ApiClient):
    """Though answers get lost after the change was made: the key makes the second try a replay."""
    sandbox.options.faults = Faults.evenly(0.5, seed=3, without=["stall", "hang"])
    for number in range(40):
        body = json.dumps({"firstName": "N", "lastName": str(number)}).encode()
        assert client.post("prospects", body, idempotency_key=f"k{number}").item["id"]
    applied = [change.idempotency_key for change in sandbox.applied]
    assert sorted(applied) == sorted(f"k{number}" for number in range(40))
    assert len(sandbox.requests) > 40


def test_the_budget_counts_every_request_that_arrives(sandbox: Sandbox):
    """What the server counted and what we count is the same number."""
    budget = RecordingBudget()
    sandbox.options.faults = Faults.evenly(0.3, seed=5, without=["stall", "hang"])
    with ApiClient(
        base_url=sandbox.url, api_key=sandbox.api_key, budget=budget, clock=FakeClock()
    ) as client:
        _pull(client, "notes", 5)
        assert client.requests == len(sandbox.requests) == len(budget.outcomes)
    assert "unsent" not in budget.outcomes


def test_an_expired_page_token_is_refused_with_its_status(sandbox: Sandbox, client: ApiClient):
    """The source falls back; the client can't know where to."""
    sandbox.options.token_ttl_s = 0.0
    first = client.page("tasks", {"limit": "10"})
    assert first.next_params is not None
    with pytest.raises(errors.Refused) as caught:
        client.page("tasks", {"limit": "10", **first.next_params})
    assert caught.value.status == 400


def test_the_client_reports_a_wrong_key_in_one_line(sandbox: Sandbox):
    """It names the setting, not the key."""
    with (
        ApiClient(base_url=sandbox.url, api_key="wrong-key-1", budget=RecordingBudget()) as client,
        pytest.raises(errors.Unauthorized, match="HIRINGCENTER_API_KEY") as caught,
    ):
        client.account()
    assert "\n" not in str(caught.value)
    assert "wrong-key-1" not in str(caught.value)
