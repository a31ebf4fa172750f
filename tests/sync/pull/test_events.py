"""Events instead of scans: people whom they name are looked up, by pulls and by drains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import replace
from math import inf
from types import SimpleNamespace
from typing import Any

import duckdb
import orjson
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from connector.budget import locks
from connector.budget.database import Database
from connector.budget.ledger_schema import keys
from connector.clock import SystemClock
from connector.errors import AlreadyRunning, BudgetError, Interrupted
from connector.settings import RateLimit, WatchSettings
from connector.source.scans import Checkpoint, ScanKind, ScannedPage, ScanPlan
from connector.webhooks import asgi_app
from connector.webhooks.inbox import Inbox, open_inbox
from pipelines.destination.destination import Destination
from pipelines.destination.identity import pull_lock_name
from pipelines.pull.chunks import Landing
from pipelines.pull.drain import DrainReport, Drains, drain
from pipelines.pull.events import Follower, drain_lock_name, events_scan, pull_lock
from pipelines.running.session import Session, open_session
from tests.fake_clock import FakeClock
from tests.sync.pull.conftest import Puller
from tests.sync.pull.following import Followed, followed
from tests.unit.webhooks.asgi import deliver, signed


@pytest.fixture
def events(puller: Puller) -> Iterator[Followed]:
    """300 prospects on 15 pages."""
    puller.change_pull(page_size=20)
    with followed(puller) as found:
        yield found


@pytest.fixture
def any_events(any_puller: Puller) -> Iterator[Followed]:
    any_puller.change_pull(page_size=20)
    with followed(any_puller) as found:
        yield found


def table(events: Followed, sql: str) -> list[tuple[Any, ...]]:
    path = str(events.puller.settings.duckdb_path)
    with duckdb.connect(path, read_only=True) as connection:
        connection.execute("USE hiringcenter")
        return connection.execute(sql).fetchall()


# --- pulls ----------------------------------------------------------------------------------------


def test_a_pull_looks_up_the_people_named_by_events_and_reads_no_page(any_events: Followed):
    """Created, edited, edited twice, deleted: one request each. Without events it asks for nothing
    but the account, and the poll feed every quarter of an hour."""
    events = any_events
    people = events.trust()
    events.puller.pull_ok("prospects")
    assert events.asked("/v2/") == ["/v2/auth"]
    assert events.scan() == "events"
    store = events.puller.sandbox.store
    events.edit(people[5], title="Dr")
    events.edit(people[6], title="Sir")
    events.edit(people[6], title="Dame")
    events.name(store.create("prospects", {"firstName": "New"})["id"], kind="prospect.created")
    store.delete("prospects", people[7])
    events.name(people[7])
    events.puller.pull_ok("prospects")
    assert events.scan() == "events"
    assert len(events.asked()) == 4
    assert all(path.count("/") == 3 for path in events.asked())
    counts = events.puller.reports[-1].summary["resources"]["prospects"]
    assert (counts["rows_written"], counts["rows_deleted"]) == (3, 1)
    assert events.waiting() == []
    events.assert_true()


def test_a_late_event_doesnt_revive_a_deleted_person(events: Followed):
    """The look-up decides, not the event."""
    people = events.trust()
    events.puller.sandbox.store.delete("prospects", people[3])
    for _ in range(2):
        events.name(people[3])
        events.puller.pull_ok("prospects")
        events.assert_true()


def test_what_a_gap_of_the_receiver_hid_is_found_by_a_scan(events: Followed):
    """Events don't stand for a scan until a full one has begun after the gap, and both types have
    come again."""
    people = events.trust()
    events.edit(people[9], named=False, title="while the receiver was down")
    events.inbox.beat([events.account], now_ms=0)  # as a clock that was set, or a long silence
    events.beat()
    events.puller.pull_ok("prospects")
    assert events.scan() != "events"
    events.assert_true()
    events.puller.pull_ok("prospects")
    assert events.scan() != "events", "no event has come since"
    events.name(people[0], kind="prospect.created")
    events.name(people[1])
    events.puller.pull_ok("prospects")
    assert events.scan() == "events"


def test_people_named_well_before_a_complete_scan_cost_no_request(events: Followed):
    """It has read them. More of them than the list has pages are such a scan's reason."""
    people = events.trust()
    events.name(*people[:16], ago_s=120)
    for person in people[:16]:
        events.edit(person, named=False, title="edited")
    events.puller.pull_ok("prospects")
    assert events.scan() == "full"
    assert (
        "events name 16 people"
        in events.puller.reports[-1].summary["resources"]["prospects"]["reason"]
    )
    assert events.asked() == ["/v2/prospects"] * 15
    assert events.waiting() == []
    events.assert_true()


def test_people_named_while_a_scan_runs_are_looked_up_after_it(events: Followed):
    """Their page may have been read before they changed."""
    people = events.trust()
    sandbox = events.puller.sandbox

    def edit_behind_the_scan(request: Any) -> None:
        if len(events.asked()) == 15:
            events.edit(people[0], title="too late for its page")

    sandbox.on_request = edit_behind_the_scan
    events.puller.pull_ok("prospects", full=True)
    assert events.asked()[15:] == [f"/v2/prospects/{people[0]}"]
    events.assert_true()


def test_a_look_up_that_decides_nothing_is_reported_and_repeated(events: Followed):
    """The person stays marked, and the others aren't held up."""
    people = events.trust()
    sandbox = events.puller.sandbox
    sandbox.options.script = lambda request: "redirect" if people[4] in request.path else None
    events.edit(people[4], title="unreachable")
    events.edit(people[5], title="reachable")
    report = events.puller.pull_ok("prospects")
    assert any("can't be looked up now" in each for each in report.warnings["prospects"])
    assert events.waiting() == [people[4]]
    sandbox.options.script = None
    events.name(people[4])
    events.puller.pull_ok("prospects")
    events.assert_true()


def test_a_broken_inbox_stops_no_pull(events: Followed):
    """It is a folder: prospects are scanned as if there were no events."""
    events.trust()
    events.inbox.close()
    (file,) = events.puller.settings.state_path.glob("*-inbox.db")
    for path in events.puller.settings.state_path.glob("*-inbox.db*"):
        path.unlink()
    file.mkdir()
    events.puller.pull_ok("prospects")
    assert events.scan() == "full"
    file.rmdir()
    events.inbox = open_inbox(events.puller.settings)


# --- what events missed ---------------------------------------------------------------------------


def test_each_full_scan_counts_what_events_have_missed(events: Followed):
    """One of two changes, and events aren't trusted any more; none of one, and they are again."""
    people = events.trust()
    store = events.puller.sandbox.store
    long_ago = {"updatedAt": 1_767_000_000_000}
    store.update("prospects", people[3], {"title": "reported", **long_ago})
    events.name(people[3])
    events.puller.pull_ok("prospects")
    store.update("prospects", people[4], {"title": "not reported", **long_ago})
    events.beat()
    events.puller.pull_ok("prospects", full=True)
    events.assert_true()
    assert events.facts.miss_rate == 0.5
    events.puller.pull_ok("prospects")
    assert events.scan() != "events"
    events.edit(people[5], title="reported")
    events.drain()
    events.puller.pull_ok("prospects", full=True)
    assert events.facts.miss_rate == 0.0
    (row,) = table(
        events,
        "SELECT last_event_at, event_miss_rate FROM _hc_freshness WHERE resource = 'prospects'",
    )
    assert row[0] is not None
    assert row[1] == 0.0


def test_the_poll_feed_shows_people_without_an_event(events: Followed):
    """A person who was created more than a minute ago, and is looked up."""
    events.trust()
    events.inbox.note_probe(events.account, now_ms=1, has_missed=False)
    made = events.puller.sandbox.store.create(
        "prospects", {"firstName": "New", "createdAt": 1_790_000_000_000}
    )
    report = events.drain()
    assert events.facts.probe_missed_ms is not None
    assert report.why_not_covered == "the poll feed had a new person whom no event had named"
    assert events.waiting() == [made["id"]]
    events.drain()
    events.assert_true()


# --- drains ---------------------------------------------------------------------------------------


def test_a_drain_lands_and_publishes_the_people_named_by_events(any_events: Followed):
    """Without events it asks for nothing."""
    events = any_events
    people = events.trust()
    assert events.drain().requests == 0
    events.edit(people[5], title="Dr")
    events.puller.sandbox.store.delete("prospects", people[6])
    events.name(people[6])
    report = events.drain()
    assert (report.looked_up, report.written, report.deleted, report.waiting) == (2, 1, 1, 0)
    assert len(events.asked()) == 2
    events.assert_true()


def test_before_the_first_pull_a_drain_does_nothing(events: Followed):
    """The first full scan reads everyone anyway."""
    events.name("p1")
    report = events.drain()
    assert (report.looked_up, report.requests, report.waiting) == (0, 0, 1)
    assert "prospects haven't been pulled yet" in (report.why_not_covered or "")


def test_a_day_of_drains_is_one_run_and_no_pull_of_the_budget(events: Followed):
    """In the history, and in `_hc_runs`; the reserve for the next pull isn't learned from them."""
    people = events.trust()
    ledger = Database(events.puller.settings.resolved_ledger_url)
    with ledger.read() as connection:
        before = connection.execute(sa.select(keys.c.past_pulls)).all()
    for person in people[:3]:
        events.edit(person, title="edited")
        events.drain()
    with ledger.read() as connection:
        assert connection.execute(sa.select(keys.c.past_pulls)).all() == before
    ledger.close()
    rows = table(
        events,
        "SELECT status, requests, rows_read, rows_written FROM _hc_runs WHERE kind = 'drain'",
    )
    assert rows == [("ok", 3, 3, 3)]


def test_a_drain_leaves_what_scans_have_learned_as_it_is_and_a_restored_destination_is_scanned(
    events: Followed,
):
    """Watermarks, checkpoints and the plan of the next pull stay. Where the destination is restored
    from before, whom events had named since won't be named again."""
    people = events.trust()
    with Destination(events.puller.settings) as destination:
        before = destination.loader.state_of("prospects")
    events.edit(people[5], title="Dr")
    events.drain()
    with Destination(events.puller.settings) as destination:
        after = destination.loader.state_of("prospects")
    assert after["facts"].pop("followed_ms") > before["facts"].get("followed_ms", 0)
    apart = {"followed_ms": None}
    assert after | {"facts": after["facts"] | apart} == before | {"facts": before["facts"] | apart}
    with Destination(events.puller.settings) as destination:
        table = destination.name("prospects")
        destination.query(
            f"UPDATE {table} SET title = 'Ms', _hc_hash = 'before' WHERE title = 'Dr'"
        )
        destination.loader.save_states({"prospects": before})
    events.puller.pull_ok("prospects")
    assert events.scan() == "full"
    events.assert_true()
    events.puller.pull_ok("prospects")
    assert events.scan() == "events"


def test_more_people_than_pages_are_left_to_a_full_scan(events: Followed):
    people = events.trust()
    events.name(*people[:16])
    report = events.drain()
    assert (report.looked_up, report.requests, report.waiting) == (0, 0, 16)


def test_a_drain_leaves_its_work_to_the_pull_that_is_running(events: Followed):
    """It names that pull, and asks for nothing."""
    people = events.trust()
    events.edit(people[5], title="Dr")
    ledger = Database(events.puller.settings.resolved_ledger_url)
    with locks.take_lock(ledger, pull_lock_name(events.puller.settings), run_id="a-pull"):
        report = events.drain()
    ledger.close()
    assert report.left_to is not None
    assert "a-pull" in report.left_to
    assert (report.requests, report.waiting) == (0, 1)


@pytest.mark.parametrize("ends", [True, False])
def test_a_pull_waits_for_a_drain_up_to_a_minute(events: Followed, ends: bool):
    """And not for another pull."""
    settings = events.puller.settings
    events.inbox.facts("x")
    ledger = Database(settings.resolved_ledger_url)
    held, naps = ExitStack(), []
    for name in (drain_lock_name(settings), pull_lock_name(settings)):
        held.enter_context(locks.take_lock(ledger, name, run_id="a-drain"))

    class Napping(FakeClock):
        def sleep(self, wait_s: float, stop: threading.Event | None = None) -> bool:
            naps.append(wait_s)
            if ends and len(naps) == 3:
                held.close()
            return super().sleep(wait_s, stop)

    session: Any = SimpleNamespace(
        settings=settings, ledger=ledger, run_id="a-pull", clock=Napping(), stop=None
    )
    if ends:
        with pull_lock(session):
            assert len(naps) == 3
        with locks.take_lock(ledger, pull_lock_name(settings), run_id="another"):
            with pytest.raises(AlreadyRunning, match="another"), pull_lock(session):
                pass
        assert len(naps) == 3
    else:
        with pytest.raises(AlreadyRunning, match="a-drain"), pull_lock(session):
            pass
        assert sum(naps) == pytest.approx(60, abs=1)
    held.close()
    ledger.close()


def test_a_drain_doesnt_hold_the_lock_while_it_waits_for_the_budget(events: Followed):
    """Of ten people it looks up as many as there are permits for, and leaves the others."""
    events.puller.change(rate_limits=(RateLimit(24, 3600.0),))
    people = events.trust()
    events.name(*people[:10])
    report = events.drain()
    assert 0 < report.looked_up < 10
    assert report.waiting == 10 - report.looked_up


def test_a_probe_that_would_wait_for_the_budget_is_left_to_a_later_turn(events: Followed):
    """The pull lock isn't held meanwhile."""
    events.trust()
    events.inbox.note_probe(events.account, now_ms=1, has_missed=False)
    events.puller.change(rate_limits=(RateLimit(10, 3600.0),))
    report = events.drain()
    assert (report.requests, events.facts.probed_ms) == (0, 1)


def test_a_drain_that_is_asked_to_wait_doesnt_hold_the_lock_meanwhile(events: Followed):
    """Of several who wait, the look-up of one is answered 429: all of them wait for a later drain,
    and nothing has failed."""
    people = events.trust()
    events.name(*people[:6])
    events.puller.sandbox.options.script = lambda _request: "dated_429"
    settings = events.puller.settings
    with (
        open_session(settings, kind="drain") as session,
        Destination(settings) as destination,
    ):
        run = events_scan(destination, "test")
        landing = Landing(destination, {"prospects": run}, settings.pull)
        follower = Follower(session, events.inbox)
        assert follower.follow(landing, destination, run, within_s=0.3) == 0
    assert len(events.waiting()) == 6
    assert follower.postponed == 0


class TurnClock(FakeClock):
    """Of turns. It is ahead of the real clock, by which their requests wait for permits, so that no
    turn ends before its requests do."""

    def __init__(self) -> None:
        super().__init__(time.time())
        self._monotonic_s = self.began_s = SystemClock().monotonic_s() + 1e6

    def sleep(self, wait_s: float, stop: threading.Event | None = None) -> bool:
        assert len(self.slept_s) < 100, "turns do nothing"
        return super().sleep(wait_s, stop)


class NotingFollower(Follower):
    """within_s: how long each of its turns was allowed to look people up."""

    def __init__(self, session: Session, inbox: Inbox) -> None:
        super().__init__(session, inbox)
        self.within_s: list[float] = []

    def follow(self, *works: Any, within_s: float = inf, most: float = inf) -> int:
        self.within_s.append(within_s)
        return super().follow(*works, within_s=within_s, most=most)


@pytest.mark.parametrize(("first_s", "published_s"), [(4, [4, 31]), (40, [40, 56])])
def test_copies_are_published_in_a_rhythm_that_begins_with_the_turn(
    events: Followed, first_s: int, published_s: list[int]
):
    """The first look-up takes long, later ones a second: 30 s after that turn began, the next copy
    is due, but not before it has rested for half of that. While something that has landed waits
    for it, a turn is shorter, so that look-ups without permits don't hold it up."""
    left, clock = events.trust(), TurnClock()
    found: list[int] = []

    def edit() -> None:
        events.edit(left[-1], named=False, title="edited")
        events.name(left.pop(), ago_s=600)  # this clock and the inbox's differ

    def on_request(_request: Any) -> None:
        clock.advance(first_s if len(events.asked()) == 1 else 1)

    def on_turn(report: DrainReport) -> None:
        assert report.looked_up == 1
        if report.published:
            found.append(round(clock.monotonic_s() - clock.began_s))
        if len(found) == len(published_s):
            session.stop.set()
        edit()

    edit()
    events.puller.sandbox.on_request = on_request
    with open_session(events.puller.settings, kind="drain") as session:
        session = replace(session, clock=clock)
        follower = NotingFollower(session, events.inbox)
        turns = Drains(session, follower)
        total = turns.take_until_stopped(10.0, on_turn)
    assert found == published_s
    assert isinstance(total.error, Interrupted)
    assert follower.within_s[:3] == [40.0, 40.0, 10.0]
    assert total.waiting == 1, "named after the last turn"


def test_drains_that_meet_a_pull_ask_again_in_their_rhythm(events: Followed):
    """Also if something that has landed could be published by now."""
    events.edit(events.trust()[5], title="Dr")

    class Stopping(TurnClock):
        def sleep(self, wait_s: float, stop: threading.Event | None = None) -> bool:
            if len(self.slept_s) == 3:
                session.stop.set()
            return super().sleep(wait_s, stop)

    settings, clock = events.puller.settings, Stopping()
    with open_session(settings, kind="drain") as session:
        session = replace(session, clock=clock)
        turns = Drains(session, Follower(session, events.inbox))
        with locks.take_lock(session.ledger, pull_lock_name(settings), run_id="a-pull"):
            turns.take_until_stopped(10.0, lambda _: None)
    assert clock.slept_s == [pytest.approx(10)] * 3


def test_drains_outlast_a_database_that_goes_away(
    puller: Puller,
    postgres_url: str,
    postgres_outage: Callable[[], AbstractContextManager[None]],
):
    """The ledger's server: a turn fails, and a later one, once it is back, does its work."""
    puller.change(ledger_url=postgres_url)
    turns_failed, clock = list[bool](), TurnClock()
    with followed(puller) as events, ExitStack() as away:
        events.edit(events.trust()[5], title="Dr")

        def on_turn(report: DrainReport) -> None:
            turns_failed.append(isinstance(report.error, BudgetError))
            away.close()
            if report.looked_up:
                session.stop.set()

        with open_session(puller.settings, kind="drain") as session:
            session = replace(session, clock=clock)
            follower = Follower(session, open_inbox(puller.settings, session.ledger))
            turns = Drains(session, follower)
            away.enter_context(postgres_outage())
            turns.take_until_stopped(10.0, on_turn)
        assert (turns_failed[0], turns_failed[-1]) == (True, False)
        assert clock.slept_s[0] == pytest.approx(10), "a failed turn isn't repeated at once"
        events.assert_true()


# --- from a delivery on ---------------------------------------------------------------------------


def test_what_an_event_says_of_a_person_isnt_used(events: Followed):
    """A partial payload nulls nothing, and a wrong one changes nothing: the look-up decides. One in
    which no one is found is counted, and pulls scan prospects again."""
    people = events.trust()
    own = events.puller.settings.model_copy(update={"webhook_secrets": (SecretStr("secret-a"),)})
    app = asgi_app(own)
    try:
        for said in ({"title": "Dr"}, {"title": None, "email": "wrong@example.com"}):
            events.edit(people[5], named=False, title="Dame")
            event = {"eventType": "prospect.updated", "data": {"id": people[5], **said}}
            assert deliver(app, orjson.dumps(event)).status == 200
            assert events.drain().looked_up == 1
            events.assert_true()
        assert deliver(app, b'{"kind": "prospect.updated"}').status == 200
    finally:
        app.close()
    assert events.facts.unidentified == 1
    events.puller.pull_ok("prospects")
    assert events.scan() != "events"


_KILLED_BEFORE_IT_ANSWERS = """
import asyncio, os, signal, sys
from connector.settings import load
from connector.webhooks import asgi_app

async def receive():
    return {"type": "http.request", "body": sys.argv[1].encode()}

async def send(message):
    if message["status"] == 200:
        os.kill(os.getpid(), signal.SIGKILL)

headers = [(b"x-hiringcenter-signature", sys.argv[2].encode())]
asyncio.run(asgi_app(load())({"type": "http", "method": "POST", "headers": headers}, receive, send))
"""


@pytest.mark.parametrize("ledger", ["sqlite", "postgresql"])
def test_a_receiver_killed_between_commit_and_answer_loses_and_doubles_nothing(
    puller: Puller, ledger: str, request: pytest.FixtureRequest
):
    """What it has stored is looked up. The sender got no answer and delivers again: before the
    look-up the person still waits once, and after it a second one finds nothing new."""
    url = request.getfixturevalue("postgres_url") if ledger == "postgresql" else None
    puller.change_pull(page_size=20)
    puller.change(ledger_url=url)
    with followed(puller) as events, ExitStack() as receiving:
        person = events.trust()[5]
        puller.change(webhook_secrets=(SecretStr("secret-a"),))
        own = puller.settings
        app = receiving.enter_context(closing(asgi_app(own)))
        events.edit(person, named=False, title="Dr")
        body = orjson.dumps({"eventType": "prospect.updated", "prospectId": person})
        environment = {
            **os.environ,
            "HIRINGCENTER_STATE_DIR": str(own.state_dir),
            "HIRINGCENTER_DUCKDB_PATH": str(own.duckdb_path),
            "HIRINGCENTER_WEBHOOK_SECRETS": "secret-a",
            **({} if url is None else {"HIRINGCENTER_LEDGER_URL": url}),
        }
        command = [sys.executable, "-c", _KILLED_BEFORE_IT_ANSWERS, body, *signed(body).values()]
        killed = subprocess.run(command, env=environment, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert events.waiting() == [person]
        for written in (1, 0):
            assert deliver(app, body).status == 200
            assert events.waiting() == [person]
            report = events.drain()
            assert (report.looked_up, report.written, report.waiting) == (1, written, 0)
        events.assert_true()


# --- during a pull --------------------------------------------------------------------------------


def test_a_pull_and_a_drain_that_meet_are_both_done(events: Followed):
    """The drain leaves its work to the pull that has begun, and a pull waits for a drain."""
    people = events.trust()
    met: list[DrainReport] = []
    pulls: list[threading.Thread] = []
    sandbox = events.puller.sandbox

    def drain_beside_the_pull(request: Any) -> None:
        if not met and request.path.endswith("/prospects"):
            events.edit(people[5], title="Dr")
            met.append(events.drain())

    sandbox.on_request = drain_beside_the_pull
    events.puller.pull_ok("prospects", full=True)
    assert met[0].left_to is not None
    events.assert_true()

    def pull_beside_the_drain(request: Any) -> None:
        if not pulls and request.path.endswith(people[6]):
            pulls.append(threading.Thread(target=events.puller.pull_ok, args=["prospects"]))
            pulls[0].start()

    sandbox.on_request = pull_beside_the_drain
    events.edit(people[6], title="Dame")
    assert events.drain().written == 1
    pulls[0].join()
    assert len(events.puller.reports) == 3, "neither was refused"
    events.assert_true()


# --- during a full scan ---------------------------------------------------------------------------


def test_who_came_while_a_scan_was_cut_is_neither_missed_nor_taken_for_deleted(events: Followed):
    """A drain lands a new person between two parts of a full scan, whose first part would have
    listed them; and a person who is deleted is flagged by it all the same."""
    people = events.trust()
    sandbox, store = events.puller.sandbox, events.puller.sandbox.store

    def cut(request: Any) -> str | None:
        return "redirect" if len(events.asked()) == 8 else None

    sandbox.options.script = cut
    events.puller.change_pull(chunk_pages=1)
    assert events.puller.pull("prospects", full=True).error is not None
    sandbox.options.script = None
    made = store.create("prospects", {"firstName": "New"})
    events.name(made["id"], kind="prospect.created")
    store.delete("prospects", people[-1])
    events.drain()
    sandbox.clear_log()
    events.puller.pull_ok("prospects", full=True)
    events.assert_true()
    asked = [path for path in events.asked() if path.count("/") == 3]
    assert asked == [f"/v2/prospects/{people[-1]}"], "the living one isn't looked up"


def test_a_page_requested_before_a_look_up_doesnt_bring_back_an_older_row(events: Followed):
    """It waited behind others while the person was looked up; a later page is newer again."""
    people = events.trust()
    settings = events.puller.settings
    with Destination(settings) as destination:
        run = events_scan(destination, "test")
        run.checkpoint = Checkpoint(
            ScanPlan("prospects", ScanKind.FULL, ""), 2_000_000_000_000, ids=0
        )
        landing = Landing(destination, {"prospects": run}, settings.pull)
        record = events.puller.sandbox.store.get("prospects", people[0])
        assert record is not None

        def page(title: str, asked_s: float) -> dict[str, list[ScannedPage]]:
            records = [{**record, "title": title}]
            return {"prospects": [ScannedPage(records, [], run.checkpoint, 1, asked_s)]}

        landing.land_looked_up("prospects", [{**record, "title": "new"}], ["gone"], at_s=100.0)
        for title, asked_s, expected in (("old", 99.0, "new"), ("newer", 101.0, "newer")):
            landing.take(page(title, asked_s))
            landing.load()
            sql = f"SELECT title FROM {destination.name('prospects')} WHERE id = %s"
            assert destination.query(sql, [people[0]]) == [(expected,)]
        assert destination.seen.rows("prospects") >= 1


# --- watch ----------------------------------------------------------------------------------------


@pytest.fixture
def watched(puller: Puller) -> Iterator[Followed]:
    """An account without a webhook, from which prospects were pulled."""
    puller.pulled("prospects")
    puller.sandbox.clear_log()
    with followed(puller) as found:
        yield found


def test_watch_finds_new_people_in_the_poll_feed(watched: Followed):
    """Without a webhook. Whoever is known is not looked up."""
    events = watched
    made = events.puller.sandbox.store.create("prospects", {"firstName": "New"})
    report = drain(events.puller.settings, watches=True)
    assert report.error is None
    assert events.asked("/v2/") == ["/v2/webhooks/poll", f"/v2/prospects/{made['id']}"]
    events.assert_true()
    events.puller.sandbox.clear_log()
    assert drain(events.puller.settings, watches=True).looked_up == 0
    assert events.asked("/v2/") == ["/v2/webhooks/poll"]


def test_watch_keeps_to_its_share_of_the_hour_also_after_a_restart(watched: Followed):
    """A tenth of 60 requests: 6, polls and look-ups together."""
    events = watched
    events.puller.change(
        rate_limits=(RateLimit(1000, 60.0), RateLimit(60, 3600.0)), watch=WatchSettings(share=0.1)
    )
    people = events.puller.sandbox.store.all("prospects")
    events.name(*(each["id"] for each in people[:9]))
    events.puller.sandbox.clear_log()
    for _ in range(4):
        assert drain(events.puller.settings, watches=True).error is None
    assert len(events.asked("/v2/")) == 6
