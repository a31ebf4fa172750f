"""A write is sent with one key and the same bytes, until its fate is known."""

from __future__ import annotations

import socket

import pytest

from connector import errors
from tests.sync.client.conftest import Bench
from tests.sync.client.raw_server import (
    answer,
    drop,
    half,
)


def test_a_write_is_sent_again_with_the_same_key_and_the_same_bytes(bench: Bench):
    """Lost answers, failures and "still in progress" alike, until its answer is there."""
    body = '{"firstName": "Zoë"}'.encode()
    client = bench.serve(
        drop,
        answer(502, b"<html>"),
        answer(409, {"error": "Conflict", "message": "still in progress"}),
        answer(429),
        half(),
        answer(201, {"success": True, "item": {"id": "p1"}, "message": "Phone dropped"}),
    )
    done = client.post("prospects", body, idempotency_key="key-1")
    assert (done.status, done.item, done.message) == (201, {"id": "p1"}, "Phone dropped")
    assert len(bench.server.received) == 6
    for sent in bench.server.received:
        assert (sent.method, sent.target, sent.body) == ("POST", "/v2/prospects", body)
        assert sent.headers["x-idempotency-key"] == "key-1"
        assert sent.headers["content-type"] == "application/json"


def test_a_conflict_with_another_payload_is_final(bench: Bench):
    """The same bytes would meet it again."""
    client = bench.serve(answer(409, {"message": "This key was used with another payload."}))
    with pytest.raises(errors.Refused, match="another payload") as caught:
        client.post("prospects", b"{}", idempotency_key="k")
    assert caught.value.status == 409
    assert client.requests == 1


def test_patience_ends_the_tries_before_the_client_would(bench: Bench):
    """For what others wait for; the clock is moved by back-offs alone."""
    client = bench.serve(answer(503))
    with pytest.raises(errors.Unreachable) as caught:
        client.post("prospects", b"{}", idempotency_key="k", patience_s=5.0)
    assert 1 < caught.value.tries < 8
    assert caught.value.tried_s <= 5.0


def test_success_without_a_record_is_accepted_the_second_time(bench: Bench):
    """A proxy may have lost the record once; the same key gets the same answer, so that more tries
    would only cost requests. What it came to is looked up by the caller."""
    done = answer(200, {"success": True, "item": {"id": "p1"}})
    client = bench.serve(answer(201, {"success": True}), done)
    assert client.post("prospects", b"{}", idempotency_key="k").item == {"id": "p1"}
    client = bench.serve(answer(201, {"success": True, "message": "Created"}))
    with pytest.raises(errors.UnexpectedAnswer, match="no `item`") as caught:
        client.post("prospects", b"{}", idempotency_key="k")
    assert (client.requests, caught.value.status) == (2, 201)


def test_success_false_is_a_refusal_whatever_the_status(bench: Bench):
    """The API reports that it did nothing; the same key would get the same answer."""
    client = bench.serve(answer(200, {"success": False, "message": "company is invalid"}))
    with pytest.raises(errors.Refused, match="company is invalid") as caught:
        client.post("prospects", b"{}", idempotency_key="k")
    assert caught.value.status == 200
    assert client.requests == 1


def test_a_write_is_not_sent_again_once_its_key_may_be_forgotten(bench: Bench):
    """The wait for a permit may take hours; after it the change could be applied twice."""

    def slow(connection: socket.socket) -> None:
        bench.clock.advance(100)
        answer(429)(connection)

    client = bench.serve(slow, answer(201, {"item": {"id": "1"}}), request_timeout_s=200)
    with pytest.raises(errors.Unreachable, match="may have expired") as caught:
        client.post("notes", b"{}", idempotency_key="k", remembered_s=50)
    assert caught.value.sent == 1
    assert bench.budget.outcomes == [429, "unsent"]


def test_an_answer_to_a_repeated_write_says_so_and_whether_it_is_a_replay(bench: Bench):
    """The marking header's name isn't documented: any with "replay" in it counts."""
    client = bench.serve(
        drop,
        answer(201, {"item": {"id": "p1"}}, headers=["X-Idempotent-Replayed: true"]),
        answer(201, {"item": {"id": "p2"}}, headers=["Replayed: false"]),
    )
    repeated = client.post("prospects", b"{}", idempotency_key="k1")
    assert repeated.replayed
    assert (repeated.first_sent_before_s or 0) > 0
    once = client.post("prospects", b"{}", idempotency_key="k2")
    assert (once.replayed, once.first_sent_before_s) == (False, None)


def test_the_servers_time_ignores_steps_of_our_wall(bench: Bench):
    """The clock going back two hours here doesn't matter there: the server's time shows what was
    changed before a write."""
    dated = answer(200, {"items": []}, headers=["Date: Thu, 09 Oct 2025 08:53:20 GMT"])
    client = bench.serve(dated)
    client.page("notes", {})
    bench.clock.step(-7200)
    assert client.server_now_s() == pytest.approx(1_760_000_000, abs=20)
    bench.clock.advance(60)
    assert client.server_now_s() == pytest.approx(1_760_000_060, abs=20)
