"""The receiver: what it keeps, what it refuses, and that it is bounded."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from connector.budget.database import Database
from connector.errors import ConfigurationError
from connector.settings import Account, Settings
from connector.webhooks import asgi_app
from connector.webhooks.inbox import Inbox, account_of, open_inbox
from connector.webhooks.receiver import Bounds, WebhookApp, events_in
from tests.unit.webhooks.asgi import Hang, deliver, exchange, signed

BODY = b'{"eventType":"prospect.updated","data":{"id":"p1"}}'
Make = Callable[..., WebhookApp]


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    opened = Inbox(Database(f"sqlite:///{tmp_path}/ledger.db", durable=True, suffix="-inbox"))
    yield opened
    opened.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """An application for two accounts on `inbox`'s file; what it alerts about is in a queue."""
    made: list[WebhookApp] = []

    def make_app(
        alerts: queue.Queue[str] | None = None, *, waiting_max: int = 1000, **bounds: Any
    ) -> WebhookApp:
        url = f"sqlite:///{tmp_path}/ledger.db"
        app = WebhookApp(
            {b"secret-a": "a", b"secret-a-before": "a", b"secret-b": "b"},
            lambda: Inbox(Database(url, durable=True, suffix="-inbox"), waiting_max=waiting_max),
            None if alerts is None else lambda name, _text: alerts.put(name),
            Bounds(**bounds),
        )
        made.append(app)
        return app

    yield make_app
    for app in made:
        app.close()


def waiting(inbox: Inbox, account: str = "a") -> list[str]:
    return [each.prospect_id for each in inbox.waiting(account, 1000, now_ms=2**60)]


@pytest.mark.parametrize("path", ["/", "/hooks/hiringcenter", "//x"])
def test_a_delivery_is_on_disk_when_it_is_acknowledged(make: Make, inbox: Inbox, path: str):
    """Whatever its path is. Another process sees it."""
    answered = deliver(make(), BODY, path=path)
    assert answered.status == 200
    assert waiting(inbox) == ["p1"]


def test_the_matching_secret_shows_whose_event_it_is(make: Make, inbox: Inbox):
    """Also the one before, while it is being replaced; and the older name of the header counts."""
    app = make()
    for person, secret in (("p1", b"secret-a"), ("p2", b"secret-a-before"), ("p3", b"secret-b")):
        body = BODY.replace(b"p1", person.encode())
        (signature,) = signed(body, secret).values()
        answered = deliver(app, body, {"X-HiringCenter-Pro-Signature": signature})
        assert answered.status == 200
    assert (waiting(inbox), waiting(inbox, "b")) == (["p1", "p2"], ["p3"])


def test_what_isnt_signed_by_us_is_refused_and_leaves_nothing(make: Make, inbox: Inbox):
    """The body of an unsigned one isn't even read. The third in a row is an alert, once."""
    alerts: queue.Queue[str] = queue.Queue()
    app = make(alerts)
    unsigned = deliver(app, [BODY, BODY], {})
    assert (unsigned.status, unsigned.unread) == (401, 2)
    assert deliver(app, BODY, signed(BODY, b"forged")).status == 401
    assert deliver(app, BODY).status == 200
    assert alerts.empty(), "a good one in between"
    for _ in range(5):
        assert deliver(app, b'{"id":"p9"}', signed(BODY)).status == 401
    assert alerts.get(timeout=30) == "refused"
    assert waiting(inbox) == ["p1"]
    assert alerts.empty()


def test_a_clock_that_is_off_is_named(make: Make, inbox: Inbox):
    """To a sender who has the secret."""
    answered = deliver(make(), BODY, signed(BODY, off_s=-412))
    assert answered.status == 401
    assert "its time is 41" in answered.text
    assert waiting(inbox) == []


def test_an_event_that_names_no_one_is_acknowledged_counted_and_an_alert(make: Make, inbox: Inbox):
    """Sending it again wouldn't help."""
    alerts: queue.Queue[str] = queue.Queue()
    app = make(alerts)
    for body in (b"{}", b"not JSON", b"[]", b"[1]", b'{"data":{"name":"x"}}'):
        assert deliver(app, body).status == 200
    assert alerts.get(timeout=30) == "unidentified"
    assert inbox.facts("a").unidentified == 5


def test_a_full_inbox_asks_to_send_again_later(make: Make, inbox: Inbox):
    """503, with a time; it takes deliveries again as soon as there is room."""
    app = make(waiting_max=1)
    other = BODY.replace(b"p1", b"p2")
    assert deliver(app, BODY).status == 200
    answered = deliver(app, other)
    assert (answered.status, answered.headers["retry-after"]) == (503, "30")
    inbox.settle("a", inbox.waiting("a", 1, now_ms=2**60))
    assert deliver(app, other).status == 200
    assert waiting(inbox) == ["p2"]


def test_a_locked_inbox_asks_to_send_again_later(make: Make, tmp_path: Path, inbox: Inbox):
    """While another process holds it; what was taken meanwhile may land all the same."""
    app = make(stored_within_s=0.1)
    holder = Database(f"sqlite:///{tmp_path}/ledger.db", suffix="-inbox")
    with holder.write():
        answered = deliver(app, BODY)
    holder.close()
    assert (answered.status, answered.headers["retry-after"]) == (503, "30")
    app.close()
    assert waiting(inbox) == ["p1"]


def test_a_database_that_goes_away_loses_nothing_that_was_acknowledged(
    tmp_path: Path,
    postgres_url: str,
    postgres_outage: Callable[[], AbstractContextManager[None]],
):
    """The ledger's server is stopped under a receiver at work: deliveries are to be sent again
    later. Once the server is back, the next one is stored, without a restart of the receiver."""
    secrets = (SecretStr("secret-a"),)
    settings = Settings(state_dir=tmp_path, ledger_url=postgres_url, webhook_secrets=secrets)
    app = asgi_app(settings)
    acknowledged = []
    try:
        for person, is_up in (("p1", True), ("p2", False), ("p3", False), ("p4", True)):
            body = orjson.dumps({"eventType": "prospect.updated", "prospectId": person})
            with nullcontext() if is_up else postgres_outage():
                answer = deliver(app, body)
            assert answer.status == (200 if is_up else 503)
            assert ("retry-after" in answer.headers) is not is_up
            acknowledged += [person] if is_up else []
    finally:
        app.close()
    with closing(open_inbox(settings)) as inbox:
        assert waiting(inbox, account_of(settings)) == acknowledged


def test_a_delivery_goes_into_the_file_that_others_see(make: Make, tmp_path: Path):
    """Though the one that the receiver had open was moved away."""
    app = make()
    assert deliver(app, BODY).status == 200
    for path in tmp_path.glob("ledger-inbox.db*"):
        path.rename(path.with_name(f"moved-{path.name}"))
    assert deliver(app, BODY.replace(b"p1", b"p2")).status == 200
    found = Inbox(Database(f"sqlite:///{tmp_path}/ledger.db", durable=True, suffix="-inbox"))
    assert waiting(found) == ["p2"]
    assert found.facts("b").alive_since_ms is not None, "since now: there was a gap"
    found.close()


def test_more_deliveries_at_once_than_a_receiver_takes_are_asked_to_come_again(
    make: Make, inbox: Inbox
):
    app = make(at_once=1)

    async def two_at_once() -> tuple[int, int]:
        slow = asyncio.create_task(exchange(app, [BODY[:9], Hang], signed(BODY)))
        await asyncio.sleep(0)
        refused = await exchange(app, BODY)
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        return refused.status, (await exchange(app, BODY)).status

    assert asyncio.run(two_at_once()) == (503, 200)


def test_reading_stops_at_a_body_that_is_too_large(make: Make, inbox: Inbox):
    """Whether its length is announced or not."""
    app = make()
    announced = deliver(app, [b"x"], {**signed(b"x"), "Content-Length": "1048577"})
    assert (announced.status, announced.unread) == (413, 1)
    parts = [b"x" * 2**19] * 5
    chunked = deliver(app, parts, signed(b"".join(parts)))
    assert (chunked.status, chunked.unread) == (413, 2)
    assert chunked.headers["connection"] == "close"
    assert waiting(inbox) == []


def test_bodies_together_are_bounded(make: Make, inbox: Inbox):
    """Senders that keep theirs open take no memory beyond that from the others; and what they
    held is free again when they go."""
    app = make(held_bytes=2**20)

    async def two_at_once() -> int:
        slow = asyncio.create_task(exchange(app, [b"x" * 2**19, Hang], signed(b"x")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        big = BODY + b" " * 2**19
        refused = await exchange(app, big, signed(big))
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        taken = await exchange(app, big, signed(big))
        assert taken.status == 200
        return refused.status

    assert asyncio.run(two_at_once()) == 503
    assert waiting(inbox) == ["p1"]


def test_a_body_has_to_arrive_in_time(make: Make):
    answered = deliver(make(body_within_s=0.01), [BODY[:9], Hang], signed(BODY))
    assert (answered.status, answered.headers["connection"]) == (408, "close")


def test_a_sender_that_goes_away_gets_no_answer(make: Make, inbox: Inbox):
    assert deliver(make(), [], signed(BODY)).status == 0
    assert waiting(inbox) == []


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("PUT", 405), ("DELETE", 405)])
def test_only_posts_are_deliveries(make: Make, inbox: Inbox, method: str, status: int):
    """A GET shows a person, or a load balancer, that the receiver runs."""
    assert deliver(make(), BODY, method=method).status == status
    assert waiting(inbox) == []


def test_many_at_once_are_all_stored(make: Make, inbox: Inbox):
    """A hundred deliveries wait for their commits together."""
    app = make()
    bodies = [orjson.dumps({"prospectId": f"p{n:03}"}) for n in range(100)]

    async def all_of_them() -> list[int]:
        answers = await asyncio.gather(*(exchange(app, body) for body in bodies))
        return [each.status for each in answers]

    assert set(asyncio.run(all_of_them())) == {200}
    assert waiting(inbox) == [f"p{n:03}" for n in range(100)]


def test_the_receiver_says_that_it_is_running(make: Make, inbox: Inbox):
    """From the start of its server on, before anything comes."""
    app = make()
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def live() -> None:
        async def receive() -> Any:
            if len(messages) == 1:  # the thread's first act
                while inbox.facts("b").alive_ms is None:
                    await asyncio.sleep(0.01)
            return messages.pop(0)

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await app({"type": "lifespan"}, receive, send)

    asyncio.run(live())
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert inbox.facts("a").alive_since_ms is not None


# --- settings ------------------------------------------------------------------------------------


def settings(tmp_path: Path, **more: Any) -> Settings:
    return Settings(state_dir=tmp_path / "state", **more)


def test_without_a_secret_there_is_no_receiver(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="HIRINGCENTER_WEBHOOK_SECRETS"):
        asgi_app(settings(tmp_path))


def test_neither_a_key_nor_a_destination_is_needed(tmp_path: Path):
    """Its settings are the secrets, and where the ledger is."""
    own = settings(tmp_path, webhook_secrets=(SecretStr("secret-a"),), destination="nonsense")
    app = asgi_app(own)
    assert deliver(app, BODY).status == 200
    app.close()


def test_two_accounts_cant_share_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It isn't known whose event it is."""
    monkeypatch.setenv("EAST", "secret-e, secret-s")
    monkeypatch.setenv("WEST", "secret-s")
    accounts = {
        name: Account(api_key_env="K", webhook_secrets_env=name.upper())
        for name in ("east", "west")
    }
    with pytest.raises(ConfigurationError, match="same webhook secret"):
        asgi_app(settings(tmp_path, accounts=accounts))
    monkeypatch.setenv("WEST", "secret-w")
    asgi_app(settings(tmp_path, accounts=accounts)).close()


# --- what events say -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"eventType": "prospect.created", "prospectId": "p1"}, ("p1", "prospect.created")),
        ({"event": "prospect.updated", "prospect_id": 17}, ("17", "prospect.updated")),
        ({"id": "evt_1", "type": "x", "data": {"id": "p1"}}, ("p1", "x")),
        ({"id": "evt_1", "type": "x", "data": {"object": {"id": "p1"}}}, ("p1", "x")),
        ({"id": "evt_1", "payload": {"id": "e", "prospect": {"id": "p1"}}}, ("p1", "")),
        ({"id": "evt_1", "data": {"id": "n1", "prospectId": "p1"}}, ("p1", "")),
        ({"id": "p1", "firstName": "Ada", "data": {"id": "x"}}, ("p1", "")),
        ({"id": "p1", "event_type": "prospect.updated"}, ("p1", "prospect.updated")),
        ({"eventType": {"a": 1}, "data": {"id": ""}}, (None, "")),
        ({"data": {"id": True}}, (None, "")),
        ({"data": {"id": "a\nb"}}, (None, "")),
        ({"data": {"id": "x" * 256}}, (None, "")),
        ({"prospectId": None}, (None, "")),
        ([], (None, "")),
        (17, (None, "")),
    ],
)  # fmt: skip
def test_the_prospect_is_found_in_any_envelope(event: Any, expected: tuple[str | None, str]):
    """Named as such, or else inside of what the envelope contains."""
    assert events_in(orjson.dumps(event)) == [expected]


def test_several_events_may_come_in_one_delivery():
    body = orjson.dumps([{"prospectId": "p1"}, {"prospectId": "p2"}, 3])
    assert [each for each, _ in events_in(body)] == ["p1", "p2", None]


def test_deep_nesting_is_not_followed():
    """Ten thousand levels are bytes like others."""
    assert events_in(b'{"data":' * 900 + b"1" + b"}" * 900) == [(None, "")]
    assert events_in(b"[" * 10_000 + b"]" * 10_000) == [(None, "")]
