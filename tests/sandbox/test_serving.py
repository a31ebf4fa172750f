"""Start, stop, other processes, and the commands that serve."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from typing import Any

import httpx
import pytest

from connector.sandbox import RESOURCES, Sandbox, SandboxOptions
from tests.sandbox.conftest import Serve


def test_two_sandboxes_at_once_share_nothing(serve: Serve):
    """Each has its port, data and log."""
    (one, first), (two, _) = serve(notes=3), serve(notes=4)
    assert one.url != two.url
    first.get("/notes")
    assert (len(one.requests), len(two.requests)) == (1, 0)


def test_a_connection_stays_open(serve: Serve):
    """HTTP/1.1 keep-alive: many requests, one connection."""
    sandbox, client = serve()
    for _ in range(3):
        client.get("/auth")
    connections = {request.headers["connection"] for request in sandbox.requests}
    assert connections == {"keep-alive"}
    with client.stream("GET", "/auth") as answer:
        stream = answer.extensions["network_stream"]
        answer.read()
    with client.stream("GET", "/auth") as again:
        assert again.extensions["network_stream"].get_extra_info(
            "client_addr"
        ) == stream.get_extra_info("client_addr")


def test_a_taken_port_is_an_error():
    """At once, not somewhere in a thread."""
    with Sandbox() as sandbox, pytest.raises(OSError, match="in use"):
        Sandbox(port=sandbox.port).start()


def test_stopping_twice_and_stopping_with_requests_under_way():
    """Neither waits nor warns."""
    sandbox = Sandbox(SandboxOptions(latency_s=3600.0)).start()
    arrived = threading.Event()
    sandbox.on_request = lambda _request: arrived.set()
    failures: list[Exception] = []

    def ask() -> None:
        try:
            httpx.get(f"{sandbox.url}/auth", headers={"Authorization": "Bearer sandbox-key"})
        except httpx.TransportError as error:
            failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert arrived.wait(500)
    sandbox.stop()
    sandbox.stop()
    asking.join(60)
    assert len(failures) == 1


def test_control_from_another_process(serve: Serve):
    """Everything a test can do in its own process works over HTTP, uncounted and without a key."""
    sandbox, client = serve(notes=4, windows=((1, 60),))
    with httpx.Client(base_url=sandbox.control_url, verify=False) as control:
        assert control.get("/store/notes").json() == sandbox.store.all("notes")
        made = control.post("/store/notes", json={"op": "create", "record": {"body": "x"}}).json()
        assert control.get(f"/store/notes/{made['id']}").json() == made
        edit = {"op": "update", "id": made["id"], "record": {"body": "y"}}
        assert control.post("/store/notes", json=edit).json()["body"] == "y"
        control.post("/store/notes", json={"op": "delete", "id": made["id"]})
        control.post("/store/notes", json={"op": "put", "record": None})
        assert None in sandbox.store.all("notes")
        order: dict[str, Any] = {"faults": {"html_502": 1.0}, "latency_s": 0, "windows": [[5, 60]]}
        assert control.post("/options", json=order).status_code == 200
        assert client.get("/notes", params={"x": 1}).status_code == 502
        assert control.get("/requests").json()[0]["fault"] == "html_502"
        assert control.get("/requests", params={"after": 1}).json() == []
        assert control.post("/spend", json={"count": 9}).json() == {"spent": 4}
        stats = control.get("/stats").json()
        assert (stats["requests"], stats["statuses"], stats["faults"]) == (
            1,
            {"502": 1},
            {"html_502": 1},
        )
        assert stats["rows"]["notes"] == 5
        control.post("/clear")
        assert control.get("/requests").json() == control.get("/applied").json() == []
        assert control.get("/unknown").json() == {"parameters": [], "fields": []}


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:80", "origin": "http://evil.example:80"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
    ],
)
def test_control_is_not_for_pages_in_a_browser(serve: Serve, headers: dict[str, str]):
    """Neither across origins nor through a rebound name: logged bodies hold what tests sent."""
    sandbox, _ = serve(notes=1)
    assert httpx.get(f"{sandbox.control_url}/requests", headers=headers).status_code == 403
    answer = httpx.post(f"{sandbox.control_url}/clear", headers=headers)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("path", "order"),
    [
        ("/options", {"colour": "red"}),
        ("/options", {"faults": {"explode": 1}}),
        ("/store/notes", {"op": "explode"}),
        ("/store/notes", {"op": "delete", "id": "nobody"}),
        ("/store/people", {"op": "create", "record": {}}),
    ],
)
def test_control_refuses_what_it_does_not_know(serve: Serve, path: str, order: dict[str, Any]):
    """400, instead of a test that believes it changed something."""
    sandbox, _ = serve()
    assert httpx.post(sandbox.control_url + path, json=order).status_code == 400


def test_served_by_a_process_of_its_own():
    """One JSON line when it answers; SIGTERM ends it with 143."""
    command = [sys.executable, "-m", "pipelines.cli", "sandbox", "--json", "--port=0", "--notes=7"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        stats = httpx.get(f"{facts['control_url']}/stats").json()
        process.send_signal(signal.SIGTERM)
        assert process.wait(500) == 143
        assert process.stdout.read() == b""
    assert stats["rows"]["notes"] == 7
    assert set(stats["rows"]) == set(RESOURCES)
