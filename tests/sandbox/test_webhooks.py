"""Deliveries of the mock API: signed, for every create and update, and as unreliable as asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from stripe import WebhookSignature

from tests.sandbox.conftest import Serve

Received = list[tuple[Any, bytes]]


class Hook:
    """A receiver on loopback. statuses: of the next answers; then 200."""

    def __init__(self, url: str, received: Received, statuses: list[int]) -> None:
        self.url, self.received, self.statuses = url, received, statuses

    @property
    def ids(self) -> list[str]:
        return [json.loads(body)["data"]["id"] for _, body in self.received]


@pytest.fixture
def hook() -> Iterator[Hook]:
    received: Received = []
    statuses: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.headers, body))
            self.send_response(statuses.pop(0) if statuses else 200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield Hook(f"http://127.0.0.1:{server.server_port}/hook", received, statuses)
    server.shutdown()
    thread.join()
    server.server_close()


def subscribed(client: Any, hook: Hook, *events: str) -> list[str]:
    """The secrets."""
    orders = [
        {"hookUrl": hook.url, "eventType": event}
        for event in events or ("prospect.created", "prospect.updated")
    ]
    return [
        client.post("/webhooks/subscribe", json=order).raise_for_status().json()["endpointSecret"]
        for order in orders
    ]


def test_each_create_and_update_is_delivered_signed_with_its_secret(serve: Serve, hook: Hook):
    """Of people, by the API or behind it; as another implementation verifies."""
    sandbox, client = serve()
    created, updated = subscribed(client, hook)
    person = {"firstName": "Ada", "lastName": "B", "email": "ada@example.com"}
    made = client.post("/prospects", json=person).json()["item"]
    client.post("/prospects", json={**person, "title": "Dr"})
    sandbox.store.update("prospects", made["id"], {"title": "Sir"})
    sandbox.store.create("notes", {"prospectId": made["id"]})
    sandbox.webhooks.flush()
    events = [json.loads(body) for _, body in hook.received]
    assert [each["eventType"] for each in events] == [
        "prospect.created", "prospect.updated", "prospect.updated"
    ]  # fmt: skip
    assert [each["data"].get("title") for each in events] == [None, "Dr", "Sir"]
    for (headers, body), secret in zip(hook.received, (created, updated, updated), strict=True):
        signature = headers["X-HiringCenter-Signature"]
        assert WebhookSignature.verify_header(body.decode(), signature, secret, tolerance=300)


def test_muted_writes_deliver_nothing(serve: Serve, hook: Hook):
    sandbox, client = serve()
    subscribed(client, hook)
    person = {"firstName": "Ada", "lastName": "B", "email": "a@example.com", "muteWebhook": True}
    client.post("/prospects", json=person)
    client.post("/prospects", json={**person, "title": "Dr"})
    sandbox.webhooks.flush()
    assert hook.received == []


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("thin", {"eventType": "prospect.updated", "accountId": "acct_sandbox", "prospectId": "p"}),
        ("partial", {"eventType": "prospect.updated", "accountId": "acct_sandbox",
                     "data": {"title": "Dr", "id": "p"}}),
        ("unknown", {"kind": "prospect.updated", "what": {"reference": "p"}}),
    ],
)  # fmt: skip
def test_events_hold_as_much_as_asked(
    serve: Serve, hook: Hook, payload: str, expected: dict[str, Any]
):
    sandbox, client = serve(webhook_payload=payload)
    sandbox.store.create("prospects", {"id": "p"})
    subscribed(client, hook)
    sandbox.store.update("prospects", "p", {"title": "Dr"})
    sandbox.webhooks.flush()
    assert [json.loads(body) for _, body in hook.received] == [expected]


def test_both_names_of_the_header_and_both_secrets_can_be_sent(serve: Serve, hook: Hook):
    """While a secret is replaced, each of the two verifies."""
    sandbox, client = serve(webhook_header="both")
    (old,) = subscribed(client, hook, "prospect.created")
    new = "whsec_the_next"
    for each in sandbox.webhooks.subscriptions.values():
        each.secrets.insert(0, new)
    sandbox.store.create("prospects", {"id": "p"})
    sandbox.webhooks.flush()
    ((headers, body),) = hook.received
    for name in ("X-HiringCenter-Signature", "X-HiringCenter-Pro-Signature"):
        for secret in (old, new):
            assert WebhookSignature.verify_header(body.decode(), headers[name], secret)


def test_deliveries_are_tried_again_until_they_are_taken(serve: Serve, hook: Hook):
    """And given up after that."""
    sandbox, client = serve(webhook_retries=2, webhook_retry_s=0.0)
    subscribed(client, hook)
    hook.statuses += [503, 500, 200, 500, 500, 500]
    for person in ("p1", "p2"):
        sandbox.store.create("prospects", {"id": person})
        sandbox.webhooks.flush()
    statuses = [each.statuses for each in sandbox.webhooks.sent]
    assert statuses == [[503, 500, 200], [500, 500, 500]]


def test_deliveries_are_dropped_doubled_and_reordered(serve: Serve, hook: Hook):
    """In the shares that were asked for, and none is lost but by dropping."""
    sandbox, client = serve(webhook_duplicates=0.3, webhook_reordered=0.3, webhook_drops=0.2)
    subscribed(client, hook, "prospect.created")
    people = [f"p{n:02}" for n in range(60)]
    for person in people:
        sandbox.store.create("prospects", {"id": person})
    sandbox.webhooks.flush()
    got = dict.fromkeys(hook.ids)
    assert sandbox.webhooks.dropped > 3
    assert len(got) == 60 - sandbox.webhooks.dropped
    assert len(hook.ids) > len(got) + 3
    assert list(got) != sorted(got)


def test_nothing_is_sent_to_other_machines(serve: Serve, hook: Hook):
    """A mock that is subscribed to a real address stays silent."""
    sandbox, client = serve(webhook_retries=0)
    hook.url = "http://192.0.2.1/hook"
    subscribed(client, hook)
    sandbox.store.create("prospects", {"id": "p"})
    sandbox.webhooks.flush()
    assert [each.statuses for each in sandbox.webhooks.sent] == [[0]]
