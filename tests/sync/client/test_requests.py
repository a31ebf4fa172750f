"""What a request carries, and what is measured along the way."""

from __future__ import annotations

import gzip
import logging
import socket
import threading
import zlib

import pytest

from connector.api import transport
from connector.budget import Lane
from tests.sync.client.conftest import KEY, Bench
from tests.sync.client.raw_server import (
    answer,
    page,
)


def test_requests_are_sent_by_httpx(bench: Bench, caplog: pytest.LogCaptureFixture):
    """The HTTP library that users named: it logs each request that passes through it."""
    client = bench.serve(page("1"))
    with caplog.at_level(logging.INFO, logger="httpx"):
        client.page("prospects", {})
    assert len([record for record in caplog.records if record.name == "httpx"]) == 1


def test_a_request_carries_the_key_its_parameters_and_the_user_agent(bench: Bench):
    """Repeated parameters are repeated; nothing is sent that wasn't asked for."""
    client = bench.serve(page("1"))
    client.page("prospects", {"label": ["a b", "ü"], "limit": "5"})
    sent = bench.server.received[0]
    assert sent.target == "/v2/prospects?label=a+b&label=%C3%BC&limit=5"
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.headers["user-agent"].startswith("hiringcenter-connector/")
    assert sent.headers["accept-encoding"] == "gzip, deflate"  # all that it can unpack
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
    with pytest.raises(ValueError, match=resource):
        client.page(resource, params)
    assert bench.server.received == []


def test_an_id_cannot_leave_its_place_in_the_path(bench: Bench):
    """Ids come from answers and files."""
    client = bench.serve(answer(200, {"item": {"id": "x"}}))
    client.record("prospects", "../auth?x=#1")
    assert bench.server.received[0].target == "/v2/prospects/..%2Fauth%3Fx%3D%231"
    for record_id in ("", ".", ".."):
        with pytest.raises(ValueError, match="record's id"):
            client.record("prospects", record_id)


@pytest.mark.parametrize("key", ["", "a\nb", "x" * 513, "clé"])
def test_an_idempotency_key_that_no_header_holds_is_refused(bench: Bench, key: str):
    """Before anything is sent."""
    client = bench.serve(answer(201, {"item": {"id": "1"}}))
    with pytest.raises(ValueError, match="idempotency key"):
        client.post("notes", b"{}", idempotency_key=key)
    assert bench.budget.lanes == []


def test_reading_and_writing_ask_in_their_own_lanes(bench: Bench):
    """Unless the caller chooses another lane, as a push does for its look-ups."""
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
    assert client.server_clock_skew_s == pytest.approx(60, abs=20)


LIST = b'{"success": true, "items": [{"id": "1"}, {"id": "2"}]}'


def _raw_deflate(text: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(text) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(LIST[:20]) + gzip.compress(LIST[20:])),
        ("gzip", gzip.compress(LIST) + b"\0" * 512),
        ("x-gzip", gzip.compress(LIST)),
        ("deflate", zlib.compress(LIST)),
        ("deflate", _raw_deflate(LIST)),
        ("identity", LIST),
    ],
    ids=["gzip of two members", "padded gzip", "x-gzip", "deflate", "raw deflate", "as it is"],
)
def test_every_packing_is_read_whole(bench: Bench, coding: str, body: bytes):
    """All members of gzip; deflate with and without its head."""
    client = bench.serve(answer(200, body, headers=[f"Content-Encoding: {coding}"]))
    assert [item["id"] for item in client.page("notes", {}).items] == ["1", "2"]


def test_a_packed_answer_that_ends_in_its_middle_is_asked_for_again(bench: Bench):
    """Also where what arrived is a whole JSON value."""
    whole = gzip.compress(LIST)
    client = bench.serve(
        answer(200, whole[:-4], headers=["Content-Encoding: gzip"]),
        answer(200, whole, headers=["Content-Encoding: gzip"]),
    )
    assert len(client.page("notes", {}).items) == 2
    assert client.requests == 2


def test_a_bomb_of_gzip_is_unpacked_in_bounded_parts():
    """A gigabyte of zeros arrives as parts of a megabyte, of which the reader may have enough."""
    bomb = gzip.compress(bytes(50_000_000))
    parts = transport.Unpacker("gzip").unpack(bomb)
    assert max(len(next(parts)) for _ in range(10)) <= 1 << 20


def test_cookies_are_never_sent_back(bench: Bench):
    """Whatever a proxy or a login page sets."""
    client = bench.serve(
        answer(200, LIST, headers=["Set-Cookie: session=abc; Path=/"]), answer(200, LIST)
    )
    for _ in range(2):
        client.page("notes", {})
    assert "cookie" not in bench.server.received[1].headers
