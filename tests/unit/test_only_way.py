"""There is one way to the network: the API client, and it takes a permit for every try."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf

import pytest

from connector.api.client import ApiClient
from connector.budget import Lane, Permit
from tests.unit.test_layers import ROOT, imports, modules

NETWORK = {
    "aiohttp", "ftplib", "http.client", "httpcore", "httpx", "requests", "smtplib", "socket",
    "socketserver", "ssl", "telnetlib", "urllib.request", "urllib3", "websockets", "xmlrpc",
}  # fmt: skip
TRANSPORT = "connector/api/transport.py"
ELSEWHERE = {
    "pipelines/destination/identity.py": "gethostname, and spellings of an address: names alone",
    "pipelines/destination/postgres.py": "time-outs on the sockets that libpq has opened",
    "connector/webhooks/receiver.py": "listens for deliveries: it answers, and never sends first",
    "pipelines/running/monitoring.py": "reports failures to an address of the user's own",
}
"""What may import them outside of the client, and why. The sandbox is a server: it sends nothing
by itself."""


def importers(names: set[str]) -> set[str]:
    """Modules, as paths, that import one of `names` or anything in it; the sandbox apart."""
    return {
        path.relative_to(ROOT).as_posix()
        for module, path in modules().items()
        if not module.startswith("connector.sandbox")
        and any(
            each == name or each.startswith(f"{name}.")
            for each in imports(module)
            for name in names
        )
    }


def test_only_the_api_client_reaches_the_network():
    """Every other module that imports something that could send is named above."""
    assert importers(NETWORK) == {TRANSPORT, *ELSEWHERE}


def test_only_the_client_uses_the_transport():
    """What sends is reached through the client, which takes a permit for every try."""
    users = importers({"connector.api.transport"})
    assert users - {"connector/api/retry.py"} == {"connector/api/client.py"}  # it reads failures


class CountingBudget:
    """Grants at once, and remembers."""

    waited_s = 0.0

    def __init__(self) -> None:
        self.granted, self.settled = 0, 0

    def permit(self, lane: Lane, *, until_s: float = inf) -> Permit:
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
