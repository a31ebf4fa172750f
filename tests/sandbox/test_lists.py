"""Lists: orders, pages, limits, tokens, envelopes."""

from __future__ import annotations

from typing import Any

import pytest

from connector.sandbox import RESOURCES
from tests.sandbox.conftest import Serve, items

ORDERS = {
    "prospects": ("createdAt", True),
    "notes": ("createdAt", True),
    "tasks": ("dueAt", False),
    "meetings": ("meetingDate", True),
}


@pytest.mark.parametrize("resource", RESOURCES)
def test_a_list_gives_every_row_once_in_the_contracts_order(serve: Serve, resource: str):
    """Pages of 7 add up to the store; times run as the contract says, missing ones come last."""
    sandbox, client = serve(prospects=150, notes=150, tasks=150, meetings=150)
    rows = items(client, resource, limit=7)
    assert rows == sandbox.store.all(resource)
    assert len({row["id"] for row in rows}) == 150
    field, descending = ORDERS[resource]
    times = [row[field] for row in rows if row[field] is not None]
    assert times == sorted(times, reverse=descending)
    assert [row[field] for row in rows[: len(times)]] == times


@pytest.mark.parametrize(
    ("order", "key", "descending"),
    [
        ("newest", "createdAt", True),
        ("oldest", "createdAt", False),
        ("id", "id", False),
        ("recently_updated", "updatedAt", True),
    ],
)
def test_prospects_can_be_sorted_otherwise(serve: Serve, order: str, key: str, descending: bool):
    """The contract doesn't say their order, so each must be met; created rows find their place."""
    sandbox, client = serve(prospects=60, prospects_order=order)
    sandbox.store.create("prospects", {"firstName": "New"})
    values = [row[key] for row in items(client, "prospects", limit=10) if row[key] is not None]
    assert values == sorted(values, reverse=descending)


def test_the_order_can_change_while_serving(serve: Serve):
    """Shuffled is neither of the two it was before, and still complete."""
    sandbox, client = serve(prospects=60)
    before = items(client, "prospects")
    sandbox.options.prospects_order = "shuffled"
    shuffled = items(client, "prospects")
    sandbox.options.prospects_order = "oldest"
    assert items(client, "prospects") == before[::-1] != shuffled
    assert sorted(row["id"] for row in shuffled) == sorted(row["id"] for row in before)


def test_default_limits_are_the_contracts(serve: Serve):
    """25 prospects, 50 of everything else."""
    _, client = serve(prospects=60, notes=60, tasks=60, meetings=60)
    sizes = [len(client.get(f"/{name}").json()["items"]) for name in RESOURCES]
    assert sizes == [25, 50, 50, 50]


@pytest.mark.parametrize(
    ("policy", "status", "rows"),
    [("clamp", 200, 40), ("refuse", 400, None), ("unbounded", 200, 90)],
)
def test_a_limit_above_the_maximum(serve: Serve, policy: str, status: int, rows: int | None):
    """Clamped, refused with the `Error` schema, or not a maximum at all."""
    _, client = serve(notes=90, max_limits={"notes": 40}, over_limit=policy)
    answer = client.get("/notes", params={"limit": 100})
    assert answer.status_code == status
    if rows is None:
        assert set(answer.json()) >= {"error", "message"}
    else:
        assert len(answer.json()["items"]) == rows


@pytest.mark.parametrize("limit", ["0", "-1", "many", "1.5", ""])
def test_a_limit_that_isnt_a_number_is_refused(serve: Serve, limit: str):
    """400, as a strict server does."""
    _, client = serve()
    assert client.get("/tasks", params={"limit": limit}).status_code == 400


def test_prospects_without_tokens_say_only_how_many_there_are(serve: Serve):
    """One page, `totalCount`, and a `pageToken` is a parameter that the API doesn't know."""
    sandbox, client = serve(prospects=60, prospects_paged=False)
    page = client.get("/prospects", params={"limit": 20, "pageToken": "x"}).json()
    assert page["pagination"] == {"totalCount": 60}
    assert len(page["items"]) == 20
    assert sandbox.unknown_parameters == ["pageToken"]


def test_total_count_can_be_missing(serve: Serve):
    """Some accounts don't say it."""
    _, client = serve(prospects=10, total_count=False)
    assert client.get("/prospects").json()["pagination"] == {}


def test_the_newest_envelope_has_items_and_pagination(serve: Serve):
    """The newest: `items` and `pagination`, whose fields appear where they say something."""
    _, client = serve(prospects=30, notes=60)
    assert set(client.get("/notes").json()["pagination"]) == {"nextPageToken"}
    assert set(client.get("/prospects").json()["pagination"]) == {"nextPageToken", "totalCount"}
    assert client.get("/notes", params={"limit": 60}).json()["pagination"] == {}


def test_the_token_envelope_ends_with_null(serve: Serve):
    """`nextPageToken` at the top, null at the end."""
    _, client = serve(notes=60, envelope="next_token")
    first = client.get("/notes", params={"limit": 40}).json()
    assert set(first) == {"success", "items", "nextPageToken"}
    params = {"limit": 40, "pageToken": first["nextPageToken"]}
    second = client.get("/notes", params=params).json()
    assert second["nextPageToken"] is None
    assert len(first["items"] + second["items"]) == 60


def _legacy_rows(client: Any, resource: str, last: str, field: str, limit: int) -> list[Any]:
    """What a client reads that re-reads the boundary's millisecond, descending lists."""
    rows: dict[str, Any] = {}
    params: dict[str, Any] = {"limit": limit}
    while True:
        page = client.get(f"/{resource}", params=params).json()
        rows |= {row["id"]: row for row in page[resource]}
        if page[last] is None:
            return list(rows.values())
        assert page[last] == page[resource][-1][field]
        params["startAfter"] = page[last] + 1


def test_the_legacy_envelope_resumes_by_time(serve: Serve):
    """`notes`, `lastNote`, `startAfter`; who steps back one millisecond misses nothing."""
    sandbox, client = serve(notes=64, envelope="legacy")
    rows = _legacy_rows(client, "notes", "lastNote", "createdAt", 10)
    assert rows == sandbox.store.all("notes")


def test_legacy_loses_rows_that_share_the_boundarys_millisecond(serve: Serve):
    """Strictly after `startAfter`: the trap that a client has to step around."""
    sandbox, client = serve(notes=0, envelope="legacy")
    for _ in range(3):
        sandbox.store.create("notes", {"createdAt": 1000, "body": "x"})
    first = client.get("/notes", params={"limit": 2}).json()
    assert first["lastNote"] == 1000
    second = client.get("/notes", params={"limit": 2, "startAfter": 1000}).json()
    assert second == {"success": True, "notes": [], "lastNote": None}


def test_legacy_tasks_without_a_date_come_with_the_page_that_meets_them(serve: Serve):
    """They can't be a boundary, so nothing may follow them."""
    sandbox, client = serve(tasks=0, envelope="legacy")
    for due_ms in (10, 20, None, None, None):
        sandbox.store.create("tasks", {"dueAt": due_ms})
    page = client.get("/tasks", params={"limit": 3}).json()
    assert [row["dueAt"] for row in page["tasks"]] == [10, 20, None, None, None]
    assert page["lastTask"] is None


def test_the_bare_envelope_has_a_list_and_its_count(serve: Serve):
    """The list by its name, and `totalCount`."""
    _, client = serve(prospects=10, envelope="bare")
    page = client.get("/prospects").json()
    assert set(page) == {"prospects", "totalCount"}
    assert page["totalCount"] == len(page["prospects"]) == 10


def test_each_list_may_have_its_own_envelope(serve: Serve):
    """As an account in the middle of a migration has."""
    _, client = serve(envelope={"notes": "legacy", "prospects": "bare"})
    assert "lastNote" in client.get("/notes").json()
    assert "prospects" in client.get("/prospects").json()
    assert "pagination" in client.get("/tasks").json()


def test_a_token_that_has_expired_is_refused(serve: Serve):
    """400 with the `Error` schema; the first page still works."""
    sandbox, client = serve(notes=60, token_ttl_s=3600)
    token = client.get("/notes").json()["pagination"]["nextPageToken"]
    assert client.get("/notes", params={"pageToken": token}).status_code == 200
    sandbox.options.token_ttl_s = 0.0
    answer = client.get("/notes", params={"pageToken": token})
    assert answer.status_code == 400
    assert "expired" in answer.json()["message"]


@pytest.mark.parametrize("token", ["", "x", "bm90IGpzb24", "W10", "\u00e9"])
def test_an_invalid_token_is_refused(serve: Serve, token: str):
    """400 rather than the first page again, which would never end."""
    _, client = serve()
    assert client.get("/notes", params={"pageToken": token}).status_code == 400


def test_a_token_of_another_list_is_refused(serve: Serve):
    """Tokens are places in one listing."""
    _, client = serve(notes=60, tasks=60)
    token = client.get("/notes").json()["pagination"]["nextPageToken"]
    assert client.get("/tasks", params={"pageToken": token}).status_code == 400


@pytest.mark.parametrize(("kind", "seen_twice"), [("offset", 1), ("keyset", 0)])
def test_pages_drift_where_tokens_are_offsets(serve: Serve, kind: str, seen_twice: int):
    """A row that appears in front pushes the last one of page one onto page two; keysets don't."""
    sandbox, client = serve(notes=40, token_kind=kind)
    first = client.get("/notes", params={"limit": 20}).json()
    sandbox.store.create("notes", {"body": "new"})
    params = {"limit": 20, "pageToken": first["pagination"]["nextPageToken"]}
    second = client.get("/notes", params=params).json()
    ids = [row["id"] for row in first["items"] + second["items"]]
    assert len(ids) - len(set(ids)) == seen_twice


@pytest.mark.parametrize(("kind", "missed"), [("offset", 1), ("keyset", 0)])
def test_a_deletion_hides_a_row_where_tokens_are_offsets(serve: Serve, kind: str, missed: int):
    """A row deleted from page one pulls the first of page two out of sight."""
    sandbox, client = serve(notes=40, token_kind=kind)
    first = client.get("/notes", params={"limit": 20}).json()
    sandbox.store.delete("notes", first["items"][3]["id"])
    params = {"limit": 20, "pageToken": first["pagination"]["nextPageToken"]}
    second = client.get("/notes", params=params).json()
    seen = {row["id"] for row in first["items"] + second["items"]}
    assert len({row["id"] for row in sandbox.store.all("notes")} - seen) == missed


@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("order", ["newest", "id"])
def test_keyset_tokens_survive_rows_without_a_time(serve: Serve, resource: str, order: str):
    """Their place is behind all others, and a token can stand among them."""
    sandbox, client = serve(prospects=9, notes=9, tasks=9, meetings=9, token_kind="keyset",
                            prospects_order=order)  # fmt: skip
    times = {"createdAt": None, "dueAt": None, "meetingDate": None}
    for _ in range(5):
        sandbox.store.create(resource, times)
    assert items(client, resource, limit=2) == sandbox.store.all(resource)
    assert len(items(client, resource, limit=3)) == 14


def test_unknown_parameters_are_ignored_and_noted(serve: Serve):
    """A filter that the server doesn't know returns everything."""
    sandbox, client = serve(notes=5)
    rows = client.get("/notes", params={"updatedAfter": 1, "limit": 9}).json()["items"]
    assert len(rows) == 5
    assert sandbox.unknown_parameters == ["updatedAfter"]


def test_malformed_rows_are_served_as_they_are(serve: Serve):
    """Null, numbers, no id, lone surrogates, huge integers: in the middle, between sane ones."""
    sandbox, client = serve(notes=40)
    odd = [None, 7, {"body": "no id"}, {"id": "s", "body": "\ud800", "n": 2**70, "createdAt": 1}]
    for row in odd:
        sandbox.store.put("notes", row)
    text = client.get("/notes").text
    assert str(2**70) in text
    assert "\\ud800" in text
    rows = sandbox.store.all("notes")
    assert len(rows) == 44
    assert all(row in rows[1:-2] for row in odd[:3])
    assert rows[-1] == odd[3]
