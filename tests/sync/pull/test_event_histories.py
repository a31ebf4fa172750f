"""Whatever happens in whatever order: in the end, what has landed is what the server has.

People are created, edited and deleted while a full scan reads pages, while events come twice, late
and out of order, while drains look people up, and while any of these is killed between two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from connector.settings import Settings
from connector.source.deletions import settle_absent_rows
from connector.source.scans import (
    ListScan,
    ScanKind,
    ScannedPage,
    ScanOutcome,
    ScanPlan,
    begin,
    list_state,
)
from connector.webhooks.inbox import SKEW_MS, Arrival, Inbox, account_of, open_inbox
from pipelines.destination.destination import Destination
from pipelines.pull.chunks import Landing
from pipelines.pull.events import Follower, events_scan
from tests.fake_clock import FakeClock

PAGE = 3
KINDS = (
    "edit", "named edit", "named edit", "create", "delete", "deliver", "redeliver", "drain",
    "drain", "edited drain", "page", "page", "land", "settle and die", "die",
)  # fmt: skip
# a page waits while a person on it is looked up; a person is edited while being looked up
STALE_PAGE = [("page", 0), ("named edit", 6), ("drain", 0), ("land", 0)]
EDITED_MEANWHILE = [("named edit", 2), ("edited drain", 2)]
NEW_IN_A_PART = [("page", 0), ("page", 0), ("land", 1), ("die", 0), ("create", 0), ("deliver", 0),
                 ("drain", 0)]  # fmt: skip
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 9)), min_size=6, max_size=22)


class Killed(BaseException):
    """The process has ended."""


class MortalInbox(Inbox):
    """dies: instead of noting that people were looked up."""

    dies = False

    def settle(self, account: str, people: Any, *, brought: int = 0) -> None:
        if self.dies:
            raise Killed
        super().settle(account, people, brought=brought)


class Server:
    """The API as its client's calls. Each is answered a second after it was asked."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock, self.requests = clock, 0
        self.people: dict[str, dict[str, Any]] = {}
        self._version = 0
        self.meanwhile: Callable[[str], None] | None = None

    def put(self, person: str) -> None:
        self._version += 1
        self.people[person] = {"id": person, "title": f"v{self._version}"}

    def record(self, _resource: str, person: str, **_: Any) -> dict[str, Any] | None:
        self.requests += 1
        found = self.people.get(person)
        answer = None if found is None else dict(found)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile(person)
        return answer


class World:
    """One account, one destination. events: that were not delivered yet."""

    def __init__(self, destination: Destination, inbox: MortalInbox, own: Settings) -> None:
        self.clock = FakeClock()
        self.server = Server(self.clock)
        self.destination, self.inbox, self.settings = destination, inbox, own
        self.account = account_of(own)
        self.session: Any = SimpleNamespace(
            settings=own, clock=self.clock, client=self.server, stop=None, ledger=inbox._database,
            now_ms=lambda: self.now_ms,
        )  # fmt: skip
        self.events: list[str] = []
        self.delivered: list[str] = []
        self.deleted: set[str] = set()
        self._made = 0
        self._boot()

    def _boot(self) -> None:
        """A process begins: it knows what is on disk."""
        self.run: ListScan | None = None
        self.landing: Landing | None = None
        self.queue: list[ScannedPage] = []
        self.follower = Follower(self.session, self.inbox)
        self.inbox.dies = False

    @property
    def now_ms(self) -> int:
        return int(self.clock.now_s() * 1000)

    def step(self, what: str, number: int) -> None:
        self.clock.advance(1)
        people = sorted(self.server.people)
        chosen = people[number % len(people)] if people else None
        if what == "create":
            self._made += 1
            chosen = f"p{self._made:03}"
            self.server.put(chosen)
            self.events.append(chosen)
        elif what == "edit" and chosen:
            self.server.put(chosen)
            self.events.append(chosen)
        elif what == "named edit" and chosen:
            self._edit_and_tell(chosen)
        elif what == "edited drain":
            self.server.meanwhile = self._edit_and_tell
            self._drain()
            self.server.meanwhile = None
        elif what == "delete" and chosen:
            del self.server.people[chosen]  # no event: a scan has to find it
            self.deleted.add(chosen)
        elif what == "deliver" and self.events:
            self._deliver(self.events.pop(number % len(self.events)))
        elif what == "redeliver" and self.delivered:
            self._deliver(self.delivered[number % len(self.delivered)])
        elif what == "drain":
            self._drain()
        elif what == "page":
            self._read_page()
        elif what == "land":
            self._land(number)
        elif what == "die":
            self._boot()
        elif what == "settle and die":
            self.inbox.dies = True
            try:
                self._drain()
            except Killed:
                self._boot()
            self.inbox.dies = False

    def _edit_and_tell(self, person: str) -> None:
        if person in self.server.people:
            self.server.put(person)
            self._deliver(person)

    def _deliver(self, person: str) -> None:
        self.delivered.append(person)
        self.inbox.store([Arrival(self.account, person, "x")], now_ms=self.now_ms)

    def _drain(self) -> None:
        """By the pull, while its scan runs; else by a process of its own."""
        run, landing = self.run, self.landing
        if run is None or landing is None:
            run = events_scan(self.destination, "test")
            landing = Landing(self.destination, {"prospects": run}, self.settings.pull)
        self.follower.follow(landing, self.destination, run)

    # --- a full scan ------------------------------------------------------------------------------

    def _state(self) -> Any:
        return list_state(
            "prospects", self.destination.loader.state_of("prospects"), now_ms=self.now_ms,
            keeps_ids=True,
            has_ids=lambda left: self.destination.seen.rows("prospects") >= (left.ids or 0),
        )  # fmt: skip

    def _scan(self) -> ListScan:
        if self.run is None:
            plan = ScanPlan("prospects", ScanKind.FULL, "test")
            self.run = begin(self._state(), plan, now_ms=self.now_ms, keeps_ids=True)
            if not self.run.resumed:
                self.destination.seen.begin("prospects")
            self._place = int((self.run.checkpoint.resume or {}).get("place", 0))
            runs = {"prospects": self.run}
            self.landing = Landing(self.destination, runs, self.settings.pull)
            self.landing.create_tables()
        return self.run

    def _read_page(self) -> bool:
        """By places in the list, newest first, as servers do that let pages drift."""
        run, asked_s = self._scan(), self.clock.monotonic_s()
        listed = sorted(self.server.people, reverse=True)[self._place : self._place + PAGE]
        self._place += PAGE
        records = [dict(self.server.people[each]) for each in listed]
        checkpoint = type(run.checkpoint)(
            run.plan, run.checkpoint.started_ms, {"place": self._place, "seen": {"pages": 1}}
        )
        self.queue.append(ScannedPage(records, [], checkpoint, 1, asked_s))
        self.clock.advance(1)
        return bool(listed)

    def _land(self, number: int) -> None:
        """Some of the pages that were read."""
        if self.queue and self.landing is not None:
            some, self.queue = self.queue[: 1 + number % 2], self.queue[1 + number % 2 :]
            self.landing.take({"prospects": some})
            self.landing.load()

    def finish_scan(self) -> None:
        """Read on to the end, and settle what is missing."""
        while self._read_page():
            pass
        while self.queue:
            self._land(1)
        run = self._scan()
        assert self.landing is not None
        run.end(ScanOutcome(True, "", rows=len(self.server.people), pages=1))
        client: Any = self.server
        settle_absent_rows(
            self.destination, run, client, now_ms=self.now_ms,
            land=lambda records: self.landing.land_records("prospects", records),  # type: ignore[union-attr]
        )  # fmt: skip
        self.follower.end_full_scan(run, self.landing.found)
        self.destination.loader.save_states({"prospects": run.booked()})
        self.run = self.landing = None

    def landed(self) -> dict[str, str]:
        name = self.destination.name("prospects")
        return dict(
            self.destination.query(f"SELECT id, title FROM {name} WHERE _hc_deleted_at IS NULL")
        )

    def assert_equal(self, but_for: Collection[str] = ()) -> None:
        landed = {each: title for each, title in self.landed().items() if each not in but_for}
        assert landed == {each["id"]: each["title"] for each in self.server.people.values()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Destination, Settings]]:
    folder: Path = tmp_path_factory.mktemp("histories")
    own = Settings(
        api_key=SecretStr("k"), state_dir=folder / "state", duckdb_path=folder / "hc.duckdb"
    )
    with Destination(own) as destination:
        yield destination, own


@pytest.mark.slow
@given(steps=STEPS)
@example(steps=STALE_PAGE)
@example(steps=EDITED_MEANWHILE)
@example(steps=NEW_IN_A_PART)
@settings(max_examples=7)
@pytest.mark.timeout(900)
def test_in_the_end_what_has_landed_is_what_the_server_has(
    place: tuple[Destination, Settings], steps: list[tuple[str, int]]
):
    """0 living rows flagged deleted, none missing, none of an older version."""
    destination, own = place
    if destination.columns("prospects"):  # of the example before
        destination.query(f"DELETE FROM {destination.name('prospects')}")
    destination.loader.save_states({"prospects": {}})
    destination.seen.begin("prospects")
    opened = open_inbox(own)
    inbox = MortalInbox(opened._database, is_shared=True)
    try:
        world = World(destination, inbox, own)
        left = inbox.waiting(world.account, 1000, now_ms=2**60)
        Inbox.settle(inbox, world.account, left)
        for _ in range(7):
            world.step("create", 0)
        world.finish_scan()
        world.events.clear()  # or these would mend what is wrong in the end
        world.assert_equal()
        for what, number in steps:
            world.step(what, number)
            _assert_no_living_person_is_flagged(world)
        world.clock.advance(2 * SKEW_MS / 1000)
        if world.run is not None or "delete" in [what for what, _ in steps]:
            world.finish_scan()  # it would mend what is wrong elsewhere
        for person in world.events:
            world._deliver(person)
        world.clock.advance(3600)
        world._drain()
        assert inbox.waiting(world.account, 1000, now_ms=2**60) == []
        if world.deleted:  # behind a page that the scan had read: only the next one finds that
            assert world.landed().keys() - world.server.people.keys() <= world.deleted
            world.assert_equal(world.deleted)
            world.finish_scan()
        world.assert_equal()
    finally:
        opened.close()


def _assert_no_living_person_is_flagged(world: World) -> None:
    sql = f"SELECT id FROM {world.destination.name('prospects')} WHERE _hc_deleted_at IS NOT NULL"
    flagged = {row[0] for row in world.destination.query(sql)}
    assert not flagged & set(world.server.people)
