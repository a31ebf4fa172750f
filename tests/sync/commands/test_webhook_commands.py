"""`hiringcenter webhooks` and `watch`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest

from connector.sandbox import Sandbox, SandboxOptions
from connector.settings import load
from connector.webhooks.inbox import Arrival, account_of, open_inbox
from connector.webhooks.receiver import sign
from pipelines.pull.drain import drain
from tests.sync.commands.conftest import Run

URL = "https://hooks.example.com/in"


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Sandbox]:
    """Configured for every account, and pulled by none."""
    with Sandbox(SandboxOptions(prospects=30, notes=0, tasks=0, meetings=0)) as running:
        monkeypatch.setenv("HIRINGCENTER_API_KEY", running.api_key)
        monkeypatch.setenv("HIRINGCENTER_BASE_URL", running.url)
        (tmp_path / ".env").write_text("# mine\nHIRINGCENTER_WEBHOOK_SECRETS=whsec_before\n")
        yield running


def test_subscribing_shows_the_secret_once_and_where_it_belongs(sandbox: Sandbox, run: Run):
    """To both events, unless one is named. It is on stdout alone, not in a log."""
    ended = run("webhooks", "subscribe", URL)
    secrets = [each.secrets[0] for each in sandbox.webhooks.subscriptions.values()]
    assert ended.code == 0
    assert f"HIRINGCENTER_WEBHOOK_SECRETS={','.join(secrets)}" in ended.out
    assert not any(secret in ended.err for secret in secrets)
    again = run("webhooks", "subscribe", URL, "--event", "prospect.updated", "--json")
    assert again.code == 0
    assert "secrets" not in again.summary
    assert "doesn't show the secret" in again.err


def test_the_secret_can_be_saved_with_those_that_are_there(
    sandbox: Sandbox, run: Run, tmp_path: Path
):
    """Into a file that no other user can read, whose other lines stay."""
    ended = run("webhooks", "subscribe", URL, "--save", "--json")
    (created, updated) = (each.secrets[0] for each in sandbox.webhooks.subscriptions.values())
    assert "secrets" not in ended.summary
    assert created not in ended.out + ended.err
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / ".env").read_text().startswith("# mine\n")
    found = [each.get_secret_value() for each in load().webhook_secrets]
    assert found == [created, updated, "whsec_before"]


def test_the_account_is_named_where_the_key_doesnt_imply_it(sandbox: Sandbox, run: Run):
    """To subscribe, and to ask the poll feed: after a refusal, with its id."""
    sandbox.options.webhook_account_needed = True
    assert run("webhooks", "subscribe", URL, "--event", "prospect.created", "--json").code == 0
    assert len(run("webhooks", "poll", "--json").summary["prospects"]) == 25
    paths = [each.path.rpartition("/")[2] for each in sandbox.requests]
    assert paths == ["subscribe", "auth", "subscribe", "poll", "auth", "poll"]


def test_an_api_without_that_call_says_where_it_is_done(
    sandbox: Sandbox, run: Run, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HIRINGCENTER_BASE_URL", f"{sandbox.url}/elsewhere")
    ended = run("webhooks", "subscribe", URL, "--json")
    assert ended.code == 2
    assert "Settings -> API / Webhooks" in ended.summary["error"]["message"]


def test_a_secret_that_was_shown_isnt_lost_with_what_follows(
    sandbox: Sandbox, run: Run, tmp_path: Path
):
    """The second event is refused, and `.env` can't be written: the first one's secret is shown."""
    sandbox.options.script = lambda request: "redirect" if len(sandbox.requests) == 2 else None
    (tmp_path / ".env").unlink()
    (tmp_path / ".env").mkdir()
    ended = run("webhooks", "subscribe", URL, "--save", "--json")
    (one,) = sandbox.webhooks.subscriptions.values()
    assert ended.code == 1
    assert ended.summary["secrets"] == one.secrets
    assert ended.summary["status"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["webhooks"], "needs one of serve, drain, subscribe, list, poll"),
        (["webhooks", "drian"], "Did you mean 'drain'?"),
        (["webhooks", "list", URL], "takes no URL"),
        (["webhooks", "subscribe"], "needs the URL"),
        (["webhooks", "subscribe", "http://hooks.example.com/"], "plain http"),
        (["webhooks", "drain", "--every", "soon"], "isn't a valid duration"),
        (["watch", "--every", "0s"], "an interval of at least one second"),
    ],
)
def test_unusable_webhook_arguments_are_named(
    sandbox: Sandbox, run: Run, arguments: list[str], phrase: str
):
    ended = run(*arguments, "--json")
    assert ended.code == 2
    assert phrase in ended.summary["error"]["message"]
    assert sandbox.requests == []


def test_serving_needs_a_secret_and_a_free_port(sandbox: Sandbox, run: Run, tmp_path: Path):
    """No key. The message says what to set."""
    taken = run("webhooks", "serve", "--port", str(sandbox.port), "--json")
    assert taken.code == 2
    assert f"port {sandbox.port}" in taken.summary["error"]["message"]
    (tmp_path / ".env").unlink()
    ended = run("webhooks", "serve", "--json")
    assert ended.code == 2
    assert "HIRINGCENTER_WEBHOOK_SECRETS" in ended.summary["error"]["message"]


def test_drain_and_list_show_what_was_received(sandbox: Sandbox, run: Run):
    """Before anything has: that too."""
    empty = run("webhooks", "list", "--json").summary
    assert empty["received"] == {}
    assert empty["why_not_covered"] == "there was no full scan yet"
    assert run("pull", "prospects").code == 0
    people = [each["id"] for each in sandbox.store.all("prospects")]
    settings = load()
    inbox = open_inbox(settings)
    inbox.beat([account_of(settings)], now_ms=1)
    inbox.store([Arrival(account_of(settings), people[0], "prospect.updated")], now_ms=1)
    inbox.close()
    sandbox.store.update("prospects", people[0], {"title": "Dr"})
    drained = run("webhooks", "drain", "--json")
    assert drained.code == 0
    assert {name: drained.summary[name] for name in ("looked_up", "written", "waiting")} == {
        "looked_up": 1, "written": 1, "waiting": 0
    }  # fmt: skip
    listed = run("webhooks", "list", "--json").summary
    assert listed["received"]["prospect.updated"]["deliveries"] == 1
    assert listed["why_not_covered"] is not None


def test_poll_shows_the_feed(sandbox: Sandbox, run: Run):
    """Its rows are in the summary; for people, ids and times alone."""
    ended = run("webhooks", "poll", "--json")
    assert len(ended.summary["prospects"]) == 25
    assert {"stage_name", "owner_name"} <= set(ended.summary["prospects"][0])
    shown = run("webhooks", "poll").out
    assert "25 people in the poll feed" in shown
    assert json.dumps(ended.summary["prospects"][0]["first_name"]) not in shown


# --- until a signal comes -------------------------------------------------------------------------


def name(people: list[str]) -> None:
    settings = load()
    inbox = open_inbox(settings)
    arrivals = [Arrival(account_of(settings), each, "prospect.updated") for each in people]
    inbox.store(arrivals, now_ms=1)
    inbox.close()


def waiting() -> list[str]:
    inbox = open_inbox(load())
    found = inbox.waiting(account_of(load()), 100, now_ms=2**60)
    inbox.close()
    return [each.prospect_id for each in found]


def test_a_receiver_that_is_stopped_has_stored_what_it_acknowledged(sandbox: Sandbox):
    """SIGTERM ends it with 143, though a connection is open."""
    command = [sys.executable, "-m", "pipelines.cli", "webhooks", "serve", "--port", "0", "--json"]
    body = b'{"eventType": "prospect.updated", "prospectId": "p1"}'
    signature = sign(body, b"whsec_before", at_s=int(time.time()))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        with httpx.Client(trust_env=False) as client:
            headers = {"X-HiringCenter-Signature": signature}
            assert client.post(url, content=body, headers=headers).status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(500) == 128 + signal.SIGTERM
    assert waiting() == ["p1"]


def test_drains_that_are_stopped_keep_what_they_found(sandbox: Sandbox, run: Run):
    """In the second turn SIGTERM comes: exit code 143. What was found can be read, and a person who
    is left waits for the next drain."""
    assert run("pull", "prospects").code == 0
    first, second = (each["id"] for each in sandbox.store.all("prospects")[:2])
    name([first])

    def on_request(request: Any) -> None:
        if request.path.endswith(first):
            name([second])
        elif request.path.endswith(second):
            os.kill(os.getpid(), signal.SIGTERM)

    sandbox.store.update("prospects", first, {"title": "Dr"})
    sandbox.on_request = on_request
    ended = run("webhooks", "drain", "--every", "1s", "--json")
    assert ended.code == 128 + signal.SIGTERM
    assert ended.summary["published"]
    assert first not in waiting()
    sandbox.on_request = None
    assert drain(load()).waiting == 0


def test_watching_that_is_stopped_misses_no_one(sandbox: Sandbox, run: Run):
    """SIGTERM comes while the poll feed is asked: new people are found by the next one."""
    assert run("pull", "prospects").code == 0
    made = sandbox.store.create("prospects", {"firstName": "New"})["id"]

    def on_request(request: Any) -> None:
        if request.path.endswith("/webhooks/poll"):
            os.kill(os.getpid(), signal.SIGTERM)

    sandbox.on_request = on_request
    assert run("watch", "--every", "1h", "--json").code == 128 + signal.SIGTERM
    sandbox.on_request = None
    drain(load(), watches=True)
    assert waiting() == []
    with duckdb.connect(str(load().duckdb_path), read_only=True) as connection:
        sql = "SELECT count(*) FROM hiringcenter.hiringcenter.prospects WHERE id = ?"
        assert connection.execute(sql, [made]).fetchall() == [(1,)]


def test_without_a_poll_feed_watching_ends(
    sandbox: Sandbox, run: Run, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HIRINGCENTER_BASE_URL", f"{sandbox.url}/elsewhere")
    ended = run("watch", "--every", "1h", "--json")
    assert ended.code == 2
    assert "no feed of new prospects (404)" in ended.summary["error"]["message"]
