"""There is one way to the network: the API client, and it takes a permit for every try."""

from __future__ import annotations

import ast
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from connector.api.client import ApiClient
from connector.budget import Lane, Permit

ROOT = Path(__file__).parents[2]
NETWORK = {
    "aiohttp", "ftplib", "http.client", "httpcore", "httpx", "requests", "smtplib", "socket",
    "socketserver", "ssl", "telnetlib", "urllib.request", "urllib3", "websockets", "xmlrpc",
}  # fmt: skip
API = "connector/api/"
ELSEWHERE = {
    "pipelines/destination/identity.py": "gethostname, to tell installations apart",
    "pipelines/destination/postgres.py": "time-outs on the sockets that libpq has opened",
    "pipelines/destination/labels.py": "spellings of an address, to name a server once",
    "pipelines/running/alerts.py": "reports failures to an address of the user's own",
}
"""What may import them outside of the client, and why. The sandbox is a server: it sends nothing
by itself."""


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def modules() -> list[Path]:
    found = [*ROOT.glob("connector/**/*.py"), *ROOT.glob("pipelines/**/*.py")]
    return [path for path in found if not path.is_relative_to(ROOT / "connector/sandbox")]


def test_only_the_api_client_reaches_the_network():
    """Every other module that imports something that could send is named above."""
    found = {
        str(path.relative_to(ROOT))
        for path in modules()
        if NETWORK & {name for each in imports(path) for name in (each, each.split(".")[0])}
    }
    assert {name for name in found if not name.startswith(API)} == set(ELSEWHERE)


def test_nobody_outside_of_the_client_uses_its_transport():
    """What sends is reached through the client, which takes the permits."""
    inner = {"connector.api.transport"}
    outside = [path for path in modules() if not path.is_relative_to(ROOT / API)]
    assert [path for path in outside if inner & set(imports(path))] == []


class CountingBudget:
    """Grants at once, and remembers."""

    waited_s = 0.0

    def __init__(self) -> None:
        self.granted, self.settled = 0, 0

    def permit(self, lane: Lane) -> Permit:
        self.granted += 1
        return Permit(self.granted, lane, float("inf"))

    def answered(self, permit: Permit, status: int, headers: Mapping[str, str]) -> None:
        self.settled += 1

    def unanswered(self, permit: Permit) -> None:
        self.settled += 1

    def unsent(self, permit: Permit) -> None:
        self.settled += 1


class Flaky(BaseHTTPRequestHandler):
    """Refuses, fails, answers; counts what arrives."""

    arrived = 0
    answers = iter(())
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        type(self).arrived += 1
        body = json.dumps({"success": True, "item": {"id": "1"}}).encode()
        self.send_response(next(type(self).answers))
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def flaky() -> Iterator[str]:
    Flaky.arrived, Flaky.answers = 0, iter([429, 500, 503, 200])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v2"
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_try_takes_a_permit_and_settles_it(flaky: str):
    """Refused, failed twice, answered: four requests arrived, four permits were taken."""
    budget = CountingBudget()
    with ApiClient(base_url=flaky, api_key="k", budget=budget) as client:
        client.record("notes", "1")
    assert (Flaky.arrived, budget.granted, budget.settled) == (4, 4, 4)
