"""What is retried, with a permit for each try, and within which deadlines."""

from __future__ import annotations

import gzip
import socket

import pytest

from connector import errors
from tests.sync.client.conftest import Bench
from tests.sync.client.raw_server import (
    Handler,
    answer,
    dribble,
    drop,
    half,
    late,
    page,
    silence,
)
from tests.sync.client.recording_budget import RecordingBudget


@pytest.mark.parametrize(
    ("handler", "outcome"),
    [
        pytest.param(drop, "unanswered", id="dropped"),
        pytest.param(half(), 200, id="half a body"),
        pytest.param(answer(200, b"<title>Hi</title>"), 200, id="HTML that claims success"),
        pytest.param(answer(200, b""), 200, id="nothing"),
        pytest.param(answer(200, b'{"items": [1'), 200, id="half of the JSON"),
        pytest.param(answer(200, {"success": False}), 200, id="an error that claims success"),
        pytest.param(
            answer(200, gzip.compress(b'{"items": []}')[:-14], headers=["Content-Encoding: gzip"]),
            200,
            id="half of the gzip",
        ),
        pytest.param(
            answer(200, b"plain", headers=["Content-Encoding: gzip"]), 200, id="no gzip at all"
        ),
        pytest.param(answer(500, {"error": "x"}), 500, id="500"),
        pytest.param(answer(502, b"<html>"), 502, id="502 with HTML"),
        pytest.param(answer(503, b"", headers=["Retry-After: 1"]), 503, id="503"),
        pytest.param(answer(408), 408, id="408"),
        pytest.param(answer(425), 425, id="425"),
        pytest.param(answer(429), 429, id="a bare 429"),
        pytest.param(
            lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n"),
            "unanswered",
            id="a broken head",
        ),
    ],
)
def test_a_transient_failure_is_tried_again_with_a_permit_of_its_own(
    bench: Bench, handler: Handler, outcome: int | str
):
    """And the page arrives whole."""
    client = bench.serve(handler, page("1", "2"))
    found = client.page("notes", {"limit": "2"})
    assert [item["id"] for item in found.items] == ["1", "2"]
    assert bench.budget.outcomes == [outcome, 200]
    assert client.requests == 2
    assert bench.server.received[0] == bench.server.received[1]


def test_the_content_type_may_lie(bench: Bench):
    """The body decides."""
    client = bench.serve(answer(200, {"items": [{"id": "1"}]}, headers=["Content-Type: text/html"]))
    assert client.page("notes", {}).items == [{"id": "1"}]


def test_integers_over_64_bits_arrive_with_all_their_digits(bench: Bench):
    """Through the whole client."""
    client = bench.serve(answer(200, {"items": [{"id": 2**70}]}))
    assert client.page("notes", {}).items == [{"id": 2**70}]


def test_the_budget_sees_the_headers_of_every_answer(bench: Bench):
    """Names in lower case; 429s and failures included."""
    client = bench.serve(answer(429, headers=["RateLimit-Reset: 7", "Retry-After: 3"]), page())
    client.page("notes", {})
    assert bench.budget.headers[0]["ratelimit-reset"] == "7"
    assert bench.budget.headers[0]["retry-after"] == "3"


def test_after_a_429_only_the_budget_waits(bench: Bench):
    """The budget's hold already delays every process; a second wait would come on top."""
    client = bench.serve(*[answer(429, headers=["Retry-After: 3000"])] * 40, page("1"))
    assert client.page("notes", {}).items == [{"id": "1"}]
    assert bench.clock.slept_s == [0.0] * 40


def test_other_failures_are_waited_for_as_the_server_asks(bench: Bench):
    """Retry-After as it stands."""
    client = bench.serve(answer(503, headers=["Retry-After: 17"]), page())
    client.page("notes", {})
    assert bench.clock.slept_s == [17.0]


def test_a_dead_server_ends_the_call_within_the_retry_budget(bench: Bench):
    """The error says for how long it was tried; nothing was sent, and no permit was used."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = bench.connect(f"http://127.0.0.1:{port}/v2", retry_total_s=60)
    with pytest.raises(
        errors.Unreachable, match=r"tries in \d+ s; .*[Cc]onnection refused"
    ) as caught:
        client.page("notes", {})
    assert caught.value.sent == 0
    assert 30 <= caught.value.tried_s <= 60
    assert set(bench.budget.outcomes) == {"unsent"}
    assert client.requests == 0


def test_a_server_that_always_fails_ends_the_call_within_the_retry_budget(bench: Bench):
    """Sent tries are counted: a write among them may have been applied."""
    client = bench.serve(answer(500, {"error": "Oops", "message": "Later"}), retry_total_s=60)
    with pytest.raises(errors.Unreachable, match="500 Oops: Later") as caught:
        client.post("notes", b"{}", idempotency_key="k")
    assert caught.value.sent == caught.value.tries == client.requests > 5
    assert caught.value.transient


def test_an_unknown_shape_is_reported_after_a_few_tries(bench: Bench):
    """Not after five minutes: waiting won't help."""
    client = bench.serve(answer(200, {"success": True, "rows": {"a": 1}}))
    with pytest.raises(errors.UnexpectedAnswer, match="no list, only the keys success, rows"):
        client.page("notes", {})
    assert client.requests == 8


def test_a_silent_server_is_given_up_when_a_request_takes_too_long(bench: Bench):
    """60 seconds, by default."""
    client = bench.serve(late(bench.clock, silence), page("1"))
    assert client.page("notes", {}).items == [{"id": "1"}]
    assert bench.budget.outcomes == ["unanswered", 200]


@pytest.mark.parametrize(
    ("sent", "outcome"),
    [
        pytest.param(b"", "unanswered", id="no HTTP at all"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX-Head: ", "unanswered", id="a dribbled head"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 99000000\r\n\r\n" + bytes(16_000_000),
            200,
            id="a dribbled body",
        ),
    ],
)
def test_one_deadline_holds_for_all_of_an_exchange(bench: Bench, sent: bytes, outcome: int | str):
    """A byte now and then doesn't put it off; the next try has a permit of its own."""
    client = bench.serve(dribble(sent, lambda: bench.clock.advance(61)), page("1"))
    assert client.page("notes", {}).items == [{"id": "1"}]
    assert bench.budget.outcomes == [outcome, 200]
    assert bench.server.received[0] == bench.server.received[1]


def test_a_permit_that_came_too_late_is_given_back_unused(bench: Bench):
    """Sent too late, a request would count in a window where it isn't expected."""
    bench.budget = RecordingBudget(bench.clock, late=2)
    client = bench.serve(page())
    client.page("notes", {})
    assert bench.budget.outcomes == ["unsent", "unsent", 200]
    assert len(bench.server.received) == 1


def test_an_answer_without_end_is_refused(bench: Bench):
    """Memory is finite, and a retry would bring the same: here a few packed bytes, over and over,
    that unpacked are more than any page."""
    megabyte = gzip.compress(bytes(1 << 20))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
    client = bench.serve(dribble(head + megabyte * 257))
    with pytest.raises(errors.UnexpectedAnswer, match="more than 256 MB"):
        client.page("notes", {})
    assert client.requests == 1
