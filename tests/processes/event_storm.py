"""Thousands of deliveries to a receiver that is killed, while drains are killed too.

Some come twice, some out of order, some are forged, and for a while no receiver runs. What is
checked holds whenever the kills happen; when they do is left to chance.
"""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from connector.sandbox import Sandbox, SandboxOptions
from connector.settings import MartSettings, PullSettings, RateLimit, Settings
from pipelines.pull.pull_run import Wanted, pull
from tests.processes.zygote import Child, Zygote

OUTAGE_MS = 600_000
PAGE_SIZE = 5  # so that drains look up many, and leave fewer to a full scan


@dataclass
class Storm:
    """What was done. forged: answers to forged deliveries. looked_up: people, by drains."""

    edits: int = 0
    forged: list[int] = field(default_factory=list)
    receivers_killed: int = 0
    drains_killed: int = 0
    looked_up: int = 0
    living_flagged: int = 0
    wrong: int = 0
    strangers: int = 0
    last_scan: str = ""


def storm(
    folder: Path, *, people: int, edits: int, kills: int, chance: random.Random, outage: bool = True
) -> Storm:
    """Deliver `edits` events in `kills` + 1 waves, then pull once, and compare.

    outage: of the receiver, noticed and longer than deliveries are tried again; and people are
    deleted, which no event says. Without, events are all that brings changes.
    """
    done = Storm()
    options = SandboxOptions(
        prospects=people, notes=0, tasks=0, meetings=0, webhook_duplicates=0.05,
        webhook_reordered=0.05, webhook_retries=3 if outage else 1000,
        webhook_retry_s=0.05 if outage else 0.2,
    )  # fmt: skip
    with Sandbox(options) as sandbox:
        receiver = Receiver(folder, sandbox)
        try:
            receiver.start()
            settings = receiver.settings
            assert pull(settings, Wanted(("prospects",))).error is None
            for wave in range(kills + 1):
                drain = receiver.command("webhooks", "drain", "--every", "1s")
                asked = len(sandbox.requests)
                _change(sandbox, edits // (kills + 1), chance, done, receiver, deletes=outage)
                if wave < kills:
                    _wait_for_look_ups(sandbox, asked, chance.randint(1, 20))
                    done.drains_killed += drain.kill()
                    receiver.kill()
                    done.receivers_killed += 1
                    if wave == 0 and outage:
                        _change(sandbox, edits // 20, chance, done, None, deletes=True)
                        sandbox.webhooks.flush()
                        receiver.let_time_pass(OUTAGE_MS)
                    receiver.start()
                else:
                    sandbox.webhooks.flush(500)
                    _wait_for_look_ups(sandbox, asked, 1)
                    drain.terminate()
                    assert drain.wait() == 128 + signal.SIGTERM
            report = pull(settings, Wanted(("prospects",)))
            assert report.error is None, report.error
            done.last_scan = str(report.summary["resources"]["prospects"]["scan"])
        finally:
            receiver.kill()
        _compare(sandbox, settings, done)
    return done


def _change(
    sandbox: Sandbox,
    count: int,
    chance: random.Random,
    done: Storm,
    receiver: Receiver | None,
    *,
    deletes: bool,
) -> None:
    """Edits mostly, some new people, and some who are deleted; one in a hundred is forged."""
    ids = [each["id"] for each in sandbox.store.all("prospects")]
    for _ in range(count):
        done.edits += 1
        what = chance.random()
        if what < 0.9:
            title = f"edit {done.edits}"
            sandbox.store.update("prospects", chance.choice(ids), {"title": title})
        elif what < 0.97 or not deletes:
            ids.append(sandbox.store.create("prospects", {"firstName": "New"})["id"])
        else:
            place = chance.randrange(len(ids))
            sandbox.store.update("prospects", ids[place], {"title": "going"})
            sandbox.store.delete("prospects", ids.pop(place))
        if receiver is not None and chance.random() < 0.01:
            done.forged.append(receiver.forge(f"forged-{done.edits}"))


def _wait_for_look_ups(sandbox: Sandbox, asked: int, count: int) -> None:
    """Until a drain is at work: `count` look-ups after the first `asked` requests."""
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        paths = [each.path for each in sandbox.requests[asked:]]
        if sum(path.startswith("/v2/prospects/") for path in paths) >= count:
            return
        time.sleep(0.01)


def _compare(sandbox: Sandbox, settings: Settings, done: Storm) -> None:
    import duckdb

    truth = {each["id"]: each.get("title") for each in sandbox.store.all("prospects")}
    with duckdb.connect(str(settings.duckdb_path), read_only=True) as connection:
        rows = connection.execute(
            "SELECT id, title, _hc_deleted_at IS NOT NULL FROM hiringcenter.prospects"
        ).fetchall()
        looked_up = "SELECT sum(rows_read) FROM hiringcenter._hc_runs WHERE kind = 'drain'"
        done.looked_up = (connection.execute(looked_up).fetchall()[0][0]) or 0
    landed = {person: title for person, title, is_deleted in rows if not is_deleted}
    done.living_flagged = sum(is_deleted and person in truth for person, _, is_deleted in rows)
    done.wrong = len(landed.items() ^ truth.items())
    done.strangers = sum(person.startswith("forged") for person, _, _ in rows)


class Receiver:
    """`hiringcenter webhooks serve` in a process of its own, on the same port each time.

    limits: the rate limits of its commands.
    """

    def __init__(self, folder: Path, sandbox: Sandbox, *, page_size: int = PAGE_SIZE) -> None:
        self._folder, self._port = folder, 0
        self._process: Child | None = None
        self._commands = 0
        self._sandbox = sandbox
        self._secrets: list[str] = []
        self.limits = "1000000/60s"
        folder.mkdir(exist_ok=True)
        self.settings = Settings(
            api_key=SecretStr(sandbox.api_key), base_url=sandbox.url,
            state_dir=folder / "state", duckdb_path=folder / "hc.duckdb",
            rate_limits=(RateLimit(1_000_000, 60.0),),
            pull=PullSettings(page_size=page_size), marts=MartSettings(enabled=False),
        )  # fmt: skip

    def start(self) -> None:
        if not self._secrets:  # the port is known once it was served
            self._secrets = ["whsec_to_begin_with"]
            self._serve()
            for event in ("prospect.created", "prospect.updated"):
                url = f"http://127.0.0.1:{self._port}/hooks"
                order = {"hookUrl": url, "eventType": event}
                self._secrets.append(self._sandbox.webhooks.subscribe(order)["endpointSecret"])
            self.kill()
        self._serve()

    def _serve(self) -> None:
        self._process = self.command("webhooks", "serve", "--port", str(self._port))
        self._port = json.loads(self._process.first_line())["port"]

    def command(self, *words: str) -> Child:
        """Start one, in a folder of its own."""
        self._commands += 1
        folder = self._folder / f"command-{self._commands}"
        folder.mkdir()
        environment = {
            "HIRINGCENTER_API_KEY": self._sandbox.api_key,
            "HIRINGCENTER_BASE_URL": self._sandbox.url,
            "HIRINGCENTER_STATE_DIR": str(self.settings.state_dir),
            "HIRINGCENTER_DUCKDB_PATH": str(self.settings.duckdb_path),
            "HIRINGCENTER_RATE_LIMITS": self.limits,
            "HIRINGCENTER_PULL__PAGE_SIZE": str(self.settings.pull.page_size),
            "HIRINGCENTER_WEBHOOK_SECRETS": ",".join(self._secrets),
        }
        return Zygote(folder, environment).child(*words, "--json", "-q")

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def let_time_pass(self, ms: int) -> None:
        """As if its last sign of life were older."""
        (path,) = self.settings.state_path.glob("*-inbox.db")
        with closing(sqlite3.connect(path)) as inbox, inbox:
            inbox.execute("UPDATE webhook_accounts SET alive_ms = alive_ms - ?", [ms])

    def forge(self, person: str) -> int:
        body = json.dumps({"eventType": "prospect.updated", "prospectId": person}).encode()
        signature = f"t={int(time.time())},v1={'0' * 64}"
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/hooks", body, {"X-HiringCenter-Signature": signature}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return int(error.code)


@contextmanager
def receiving(folder: Path, sandbox: Sandbox) -> Iterator[tuple[str, list[str]]]:
    """The URL of a running receiver, and its secrets."""
    receiver = Receiver(folder, sandbox)
    receiver.start()
    try:
        yield f"http://127.0.0.1:{receiver._port}/hooks", receiver._secrets
    finally:
        receiver.kill()
