"""Scans against the sandbox, over HTTP: every record of every list, for few requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from connector.api.client import ApiClient
from connector.sandbox import RESOURCES, Faults, Sandbox, SandboxOptions
from connector.source.scan import Scan
from connector.source.scans import Checkpoint, ScanKind, ScannedPage, ScanPlan
from tests.fake_clock import FakeClock
from tests.sync.client.recording_budget import RecordingBudget

COUNTS = {"prospects": 3000, "notes": 2000, "tasks": 1200, "meetings": 700}
PAGES = 15 + 10 + 6 + 4
ENVELOPES = ("pagination", "next_token", "legacy", "bare")


@dataclass
class Reader:
    """One sandbox and a client of it."""

    sandbox: Sandbox
    client: ApiClient

    def scan(self, resource: str, **options: Any) -> Scan:
        plan = options.pop("plan", None) or ScanPlan(resource, ScanKind.FULL, "test")
        checkpoint = Checkpoint(plan, started_ms=2_000_000_000_000)
        return Scan(self.client, checkpoint, **{"page_size": 200, **options})

    def read(self, resource: str, **options: Any) -> dict[str, Any]:
        """The records found, by id; of one that came twice, the last."""
        return by_id(list(self.scan(resource, **options)))

    def truth(self, resource: str) -> dict[str, Any]:
        return {record["id"]: record for record in self.sandbox.store.all(resource)}

    def requests(self) -> int:
        return len(self.sandbox.requests)


Serve = Callable[..., Reader]


def by_id(pages: list[ScannedPage]) -> dict[str, Any]:
    return {record["id"]: record for page in pages for record in page.records}


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(**options: Any) -> Reader:
            sandbox = stack.enter_context(Sandbox(SandboxOptions(**{**COUNTS, **options})))
            clock = FakeClock()
            client = ApiClient(
                base_url=sandbox.url,
                api_key=sandbox.api_key,
                budget=RecordingBudget(clock),
                request_timeout_s=60,
                clock=clock,
            )
            return Reader(sandbox, stack.enter_context(client))

        yield start


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_every_record_in_every_revision_for_one_request_a_page(serve: Serve, envelope: str):
    """Field by field, and no parameter is sent that the revision doesn't know. Where no one
    counts, a list that ends in a full page is asked once whether that is the last."""
    reader = serve(envelope=envelope)
    for resource in RESOURCES:
        assert reader.read(resource) == reader.truth(resource)
    assert reader.requests() <= PAGES + 3
    assert reader.sandbox.unknown_parameters == []


@pytest.mark.parametrize("envelope", ["pagination", "bare"])
@pytest.mark.parametrize(
    "limits",
    [
        {"over_limit": "unbounded"},
        {"over_limit": "refuse", "max_limits": {"prospects": 1000}},
        {"over_limit": "clamp", "max_limits": {"prospects": 1000}},
    ],
    ids=["unbounded", "refused", "clamped"],
)
def test_prospects_without_page_tokens_are_complete_where_they_are_counted(
    serve: Serve, envelope: str, limits: Any
):
    """All at once, else by stage and label; never more than pages would have cost."""
    reader = serve(envelope=envelope, prospects_paged=False, **limits)
    made = reader.scan("prospects")
    assert by_id(list(made)) == reader.truth("prospects")
    assert reader.requests() <= 15
    assert made.outcome is not None
    assert made.outcome.complete
    assert reader.sandbox.unknown_parameters == []


def test_prospects_without_page_tokens_and_count_are_complete_or_in_doubt(serve: Serve):
    """Without a count, only a list that isn't full is known to be complete."""
    envelope = "legacy"
    reader = serve(envelope=envelope, prospects_paged=False, over_limit="unbounded")
    assert reader.read("prospects") == reader.truth("prospects")
    clamped = serve(envelope=envelope, prospects_paged=False, max_limits={"prospects": 1000})
    made = clamped.scan("prospects")
    list(made)
    assert made.outcome is not None
    assert not made.outcome.complete
    assert "totalCount" in made.outcome.why


@pytest.mark.parametrize("token_kind", ["offset", "keyset"])
def test_tokens_that_expire_halfway_cost_requests_and_no_row(serve: Serve, token_kind: str):
    """The scan restarts; rows that were read stay."""
    reader = serve(token_kind=token_kind)

    def expire(_: Any) -> None:
        expired = reader.requests() in (4, 12)
        reader.sandbox.options.token_ttl_s = -1.0 if expired else None

    reader.sandbox.on_request = expire
    made = reader.scan("prospects")
    assert by_id(list(made)) == reader.truth("prospects")
    assert reader.requests() <= 3 * 15 + 2
    assert made.outcome is not None
    assert made.outcome.complete


def test_the_same_records_from_a_server_in_trouble(serve: Serve):
    """A third of the answers lost, late or damaged, and bare 429s."""
    faults = Faults.evenly(0.4, without=("stall", "hang", "slow_body"))
    reader = serve(prospects=600, notes=400, faults=faults)
    assert reader.read("prospects", page_size=50) == reader.truth("prospects")
    assert reader.read("notes", page_size=50) == reader.truth("notes")


@pytest.mark.parametrize("token_kind", ["offset", "keyset"])
@pytest.mark.parametrize("order", ["newest", "oldest", "shuffled"])
def test_changes_while_the_scan_runs(serve: Serve, token_kind: str, order: str):
    """Added, edited, deleted between pages: what was there all the time is there, as it is."""
    reader = serve(prospects=600, token_kind=token_kind, prospects_order=order)
    store = reader.sandbox.store
    untouched = set(reader.truth("prospects"))

    def change(_: Any) -> None:
        number = reader.requests()
        ids = [record["id"] for record in store.all("prospects")]
        if number % 3 == 0:
            store.create("prospects", {"firstName": f"new {number}"})
        elif number % 3 == 1:
            store.delete("prospects", ids[number])
            untouched.discard(ids[number])
        else:
            store.update("prospects", ids[-number], {"title": f"edited {number}"})
            untouched.discard(ids[-number])

    reader.sandbox.on_request = change
    made = reader.scan("prospects", page_size=40)
    found = by_id(list(made))
    reader.sandbox.on_request = None
    truth = reader.truth("prospects")
    assert {key: found.get(key) for key in untouched} == {key: truth[key] for key in untouched}
    assert made.outcome is not None
    assert made.outcome.complete


def test_malformed_rows_in_the_middle_of_a_list_cost_no_other(serve: Serve):
    """Null, text and objects without an id, in every revision's pages."""
    reader = serve(prospects=0, notes=500)
    for odd in (None, "text", {"body": "no id"}, {"id": None}):
        reader.sandbox.store.put("notes", odd)
    truth = {row["id"] for row in reader.sandbox.store.all("notes") if _has_id(row)}
    pages = list(reader.scan("notes"))
    assert set(by_id(pages)) == truth
    assert sum(len(page.malformed) for page in pages) == 4


def _has_id(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("id"), str)


def test_a_head_scan_finds_what_came_since(serve: Serve):
    """For one request, at any size of the list."""
    reader = serve()
    made = reader.scan("notes")
    list(made)
    assert made.outcome is not None
    new = reader.sandbox.store.create("notes", {"body": "fresh"})
    reader.sandbox.clear_log()
    since_ms = made.outcome.newest_ms["createdAt"] - 300_000
    head = ScanPlan("notes", ScanKind.HEAD, "test", since_ms=since_ms, order="createdAt")
    assert new["id"] in reader.read("notes", plan=head)
    assert reader.requests() == 1


def test_an_open_scan_finds_completions_and_deletions_of_open_tasks(serve: Serve):
    """By looking up each that left the list of open ones."""
    reader = serve()
    store = reader.sandbox.store
    open_ids = [task["id"] for task in store.all("tasks") if task["completedAt"] is None]
    store.update("tasks", open_ids[0], {"completedAt": 1_767_225_600_000})
    store.delete("tasks", open_ids[1])
    params = {"incompleteOnly": "true"}
    plan = ScanPlan("tasks", ScanKind.OPEN, "test", params=params, look_max=6)
    made = reader.scan("tasks", plan=plan, expected_ids=open_ids)
    found = by_id(list(made))
    assert found[open_ids[0]]["completedAt"] == 1_767_225_600_000
    assert set(open_ids[2:]) <= set(found)
    assert made.outcome is not None
    assert made.outcome.gone == (open_ids[1],)


def test_a_window_scan_reads_the_meetings_between_two_times(serve: Serve):
    """And looks up one that was moved out of them."""
    reader = serve()
    store = reader.sandbox.store
    dates = sorted(meeting["meetingDate"] for meeting in store.all("meetings"))
    first_ms, last_ms = dates[300], dates[400]
    inside = [m["id"] for m in store.all("meetings") if first_ms <= m["meetingDate"] <= last_ms]
    store.update("meetings", inside[0], {"meetingDate": last_ms + 10**10})
    params = {"meetingDateAfter": str(first_ms), "meetingDateBefore": str(last_ms)}
    plan = ScanPlan("meetings", ScanKind.WINDOW, "test", params=params, look_max=5)
    found = reader.read("meetings", plan=plan, expected_ids=inside)
    assert set(found) == set(inside)
    assert found[inside[0]]["meetingDate"] == last_ms + 10**10
    assert reader.sandbox.unknown_parameters == []
