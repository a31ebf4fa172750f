"""What a request carries, and what is measured by the way."""

from __future__ import annotations

import socket
import threading

import pytest

from connector.budget import Lane
from tests.sync.client.conftest import KEY, Bench
from tests.sync.client.raw_server import (
    answer,
    page,
)


def test_a_request_carries_the_key_its_parameters_and_who_asks(bench: Bench):
    """Repeated parameters are repeated; nothing is sent that wasn't asked for."""
    client = bench.serve(page("1"))
    client.page("prospects", {"label": ["a b", "ü"], "limit": "5"})
    sent = bench.server.received[0]
    assert sent.target == "/v2/prospects?label=a+b&label=%C3%BC&limit=5"
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.headers["user-agent"].startswith("hiringcenter-connector/")
    assert "x-idempotency-key" not in sent.headers


@pytest.mark.parametrize(
    ("resource", "params"),
    [("prospects", {"updatedAfter": "1"}), ("jobs", {}), ("notes", {"x": ""})],
)
def test_a_parameter_that_the_api_does_not_know_is_never_sent(
    bench: Bench, resource: str, params: dict[str, str]
):
    """A server ignores it, and would return everything."""
    client = bench.serve(page())
    with pytest.raises(ValueError):
        client.page(resource, params)
    assert bench.server.received == []


def test_an_id_cannot_leave_its_place_in_the_path(bench: Bench):
    """Ids come from answers and files."""
    client = bench.serve(answer(200, {"item": {"id": "x"}}))
    client.record("prospects", "../auth?x=#1")
    assert bench.server.received[0].target == "/v2/prospects/..%2Fauth%3Fx%3D%231"
    for record_id in ("", ".", ".."):
        with pytest.raises(ValueError):
            client.record("prospects", record_id)


@pytest.mark.parametrize("key", ["", "a\nb", "x" * 513, "clé"])
def test_an_idempotency_key_that_no_header_holds_is_refused(bench: Bench, key: str):
    """Before anything is sent."""
    client = bench.serve(answer(201, {"item": {"id": "1"}}))
    with pytest.raises(ValueError):
        client.post("notes", b"{}", idempotency_key=key)
    assert bench.budget.lanes == []


def test_reading_and_writing_ask_in_their_own_lanes(bench: Bench):
    """Unless told otherwise, as by a push that looks something up."""
    client = bench.serve(answer(200, {"success": True, "items": [], "item": {"id": "1"}}))
    client.page("notes", {})
    client.post("notes", b"{}", idempotency_key="k")
    client.page("notes", {}, lane=Lane.PUSH)
    assert bench.budget.lanes == [Lane.PULL, Lane.PUSH, Lane.PUSH]


def test_64_threads_share_one_client(bench: Bench):
    """Each gets its own answer; every permit is accounted for."""

    def echo(connection: socket.socket) -> None:
        answer(200, {"item": {"id": "x"}})(connection)

    client = bench.serve(echo)
    threads = [
        threading.Thread(target=lambda n=n: [client.record("notes", f"{n}-{i}") for i in range(5)])
        for n in range(64)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.requests == len(bench.server.received) == 320
    assert bench.budget.outcomes == [200] * 320
    assert len({sent.target for sent in bench.server.received}) == 320


def test_the_servers_clock_and_the_latency_are_learnt_by_the_way(bench: Bench):
    """Unknown before the first answer; `Date` has whole seconds."""
    client = bench.serve(
        answer(200, {"items": []}, headers=["Date: Thu, 09 Oct 2025 08:54:20 GMT"]),
        answer(200, {"items": []}, headers=["Date: yesterday"]),
    )
    assert (client.latency_s, client.server_clock_skew_s) == (None, None)
    client.page("notes", {})
    client.page("notes", {})
    assert client.latency_s is not None
    assert client.latency_s > 0
    assert client.server_clock_skew_s == pytest.approx(60, abs=2)
