"""The ledger on both databases: what a window admits, who waits, what holds, what dies."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connector.budget import Lane
from connector.budget.database import Database
from connector.budget.ledger import Answered, Grants, Ledger, Request
from connector.budget.ledger_schema import BootClock, key_id, keys, outstanding, owners, spent
from connector.budget.ledger_view import HOST, BudgetReport
from connector.budget.policy import windows
from connector.budget.policy.feedback import Reading
from connector.budget.policy.permits import TICK_S
from connector.budget.policy.windows import Window, windows_of
from connector.settings import RateLimit
from tests.fake_clock import FakeClock

TIMEOUT_S = 10.0
LIFE_S = 5.0 + TIMEOUT_S + 60.0
OK = Reading(200)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    if request.param == "postgres":
        url = str(request.getfixturevalue("postgres_url"))
    database = Database(url)
    yield database
    database.close()


class Process:
    """One process' ledger on a clock that the test moves; its first answer ends the probe."""

    def __init__(
        self,
        database: Database,
        clock: FakeClock,
        *limits: tuple[int, float],
        owner: str = "one",
        key: str = "key",
        probed: bool = True,
    ) -> None:
        self.clock = clock
        self.windows = windows_of(RateLimit(*limit) for limit in limits or [(3, 8.0)])
        name = key_id(key, database)
        time_source = BootClock(clock)
        self.ledger = Ledger(
            database, key=name, owner=owner, clock=time_source, windows=self.windows,
            request_timeout_s=TIMEOUT_S, jitter=lambda: 0.0,
        )  # fmt: skip
        self.reporter = BudgetReport(
            database, key=name, time_source=time_source, windows=self.windows
        )
        if probed:
            self.answer(*self.ask(1).granted[Lane.PULL])
            clock.advance(2 * self.windows[-1].held_s)

    def ask(self, pull: int = 0, push: int = 0, *, ahead: int = 0) -> Grants:
        wants = {Lane.PULL: pull, Lane.PUSH: push}
        return self.ledger.exchange(Request(wants, ahead=dict.fromkeys(Lane, ahead)))

    def answer(self, *permits: int, age_s: float = 0.0, reading: Reading = OK) -> Grants:
        answers = [Answered(permit, -age_s, reading) for permit in permits]
        return self.ledger.exchange(Request({}, answers=answers))

    def pulls(self, count: int, *, ahead: int = 0) -> list[int]:
        return list(self.ask(pull=count, ahead=ahead).granted[Lane.PULL])

    def pushes(self, count: int, *, ahead: int = 0) -> list[int]:
        return list(self.ask(push=count, ahead=ahead).granted[Lane.PUSH])


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_a_window_admits_its_limit_and_reports_when_the_next_is_free(
    database: Database, clock: FakeClock
):
    """Three of three answered after 1 s: the fourth may go one held window later, not before."""
    process = Process(database, clock)
    first = process.pulls(3)
    assert len(first) == 3
    clock.advance(1)
    process.answer(*first)
    refused = process.ask(pull=1)
    assert refused.granted[Lane.PULL] == []
    wait_s = Window(3, 8).held_s + TICK_S
    assert refused.wait_s[Lane.PULL] == pytest.approx(wait_s, abs=1e-6)
    clock.advance(refused.wait_s[Lane.PULL] - 0.001)
    assert process.pulls(1) == []
    clock.advance(0.001)
    assert len(process.pulls(4)) == 3


def test_a_permit_counts_until_its_answer_however_late(database: Database, clock: FakeClock):
    """A request that takes 9 s frees its slot one window after its answer, not after its grant."""
    process = Process(database, clock, (1, 10.0))
    (slow,) = process.pulls(1)
    clock.advance(9)
    process.answer(slow)
    clock.advance(9)
    assert process.pulls(1) == []
    clock.advance(2)
    assert len(process.pulls(1)) == 1


def test_an_answer_counts_from_when_it_arrived_not_from_when_it_was_booked(
    database: Database, clock: FakeClock
):
    """An answer that waited 4 s for a ride frees its slot as if it had been booked at once."""
    process = Process(database, clock, (1, 10.0))
    (permit,) = process.pulls(1)
    clock.advance(5)
    process.answer(permit, age_s=4.0)
    assert process.ask(pull=1).wait_s[Lane.PULL] == pytest.approx(6 + 0.025 + TICK_S, abs=1e-6)


def test_a_permit_given_back_unsent_leaves_no_trace(database: Database, clock: FakeClock):
    """Three granted, three returned: three are free again at once."""
    process = Process(database, clock)
    process.ledger.exchange(Request({}, unsent=process.pulls(3)))
    assert len(process.pulls(3)) == 3


def test_an_unanswered_permit_counts_until_its_deadline_and_a_window_more(
    database: Database, clock: FakeClock
):
    """A request without an answer may reach the server as late as its deadline."""
    process = Process(database, clock, (1, 10.0))
    process.ledger.exchange(Request({}, unanswered=process.pulls(1)))
    clock.advance(LIFE_S + 9)
    assert process.pulls(1) == []
    clock.advance(2)
    assert len(process.pulls(1)) == 1


def test_an_answer_after_the_deadline_harms_nothing(database: Database, clock: FakeClock):
    """What had ceased to count, and was pruned, is not counted again."""
    process = Process(database, clock, (1, 10.0))
    process.answer(987_654)
    assert len(process.pulls(1)) == 1


def test_every_window_is_kept(database: Database, clock: FakeClock):
    """2/10s and 3/100s: the third waits for the short window, the fourth for the long one."""
    process = Process(database, clock, (2, 10.0), (3, 100.0))
    process.answer(*process.pulls(2))
    assert process.pulls(1) == []
    clock.advance(10.1)
    process.answer(*process.pulls(1))
    clock.advance(10.1)
    assert process.ask(pull=1).wait_s[Lane.PULL] == pytest.approx(10.0)  # looked at again by then
    clock.advance(79.9)
    assert len(process.pulls(9)) == 2


def test_processes_share_one_budget_and_keys_do_not(database: Database, clock: FakeClock):
    """Two processes with one key get three of three together; another key has three of its own."""
    one = Process(database, clock)
    two = Process(database, clock, owner="two", probed=False)
    other = Process(database, clock, owner="three", key="other")
    assert len(one.pulls(2)) + len(two.pulls(2)) == 3
    assert len(other.pulls(3)) == 3


def test_processes_with_other_limits_share_what_counts(database: Database, clock: FakeClock):
    """A process configured for 5/10s sees the three that a stricter one has sent."""
    strict = Process(database, clock, (3, 10.0))
    wide = Process(database, clock, (5, 10.0), owner="wide", probed=False)
    assert len(strict.pulls(9)) == 3
    assert len(wide.pulls(9)) == 2
    assert strict.pulls(1) == []


def test_a_dead_process_that_waited_holds_up_no_other(database: Database, clock: FakeClock):
    """Its pid has ended: the callers it had waiting don't count."""
    process = Process(database, clock)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead = Process(database, clock, owner="dead", probed=False)
    process.answer(*process.pulls(3))
    dead.ask(pull=3)
    with database.write() as connection:
        connection.execute(owners.update().where(owners.c.owner == "dead").values(pid=gone.pid))
    clock.advance(10.1)
    assert len(process.pulls(3)) == 3
    assert [each.owner for each in process.reporter.state().connected] == ["one"]


def test_the_probe_of_a_killed_process_is_not_waited_for(database: Database, clock: FakeClock):
    """The first request of a new key died with its process: the next process sends its own probe
    at once, and the lost one still counts."""
    dead = Process(database, clock, owner="dead", probed=False)
    other = Process(database, clock, probed=False)
    assert len(dead.pulls(1)) == 1
    assert other.pulls(1) == []
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with database.write() as connection:
        connection.execute(owners.update().where(owners.c.owner == "dead").values(pid=gone.pid))
    (probe,) = other.pulls(1)
    other.answer(probe)
    assert len(other.pulls(3)) == 1


def test_permits_of_a_killed_process_return_at_their_deadline(database: Database, clock: FakeClock):
    """Two of three died with their holder: one is free for others all along, three in the end."""
    holder = Process(database, clock)
    other = Process(database, clock, owner="two", probed=False)
    assert len(holder.pulls(2)) == 2
    (only,) = other.pulls(3)
    other.answer(only)
    clock.advance(LIFE_S)
    (only,) = other.pulls(3)
    clock.advance(8.1)
    other.answer(only)
    assert len(other.pulls(3)) == 2


def test_a_push_leaves_room_for_pulls_that_wait_elsewhere(database: Database, clock: FakeClock):
    """Another process' waiting pull finds its slot, though the push asks first."""
    pull, push = Process(database, clock), Process(database, clock, owner="two", probed=False)
    push.answer(*push.pushes(3))
    pull.ask(pull=1)
    clock.advance(8.1)
    assert len(push.pushes(3)) == 2
    assert len(pull.pulls(1)) == 1


def test_a_running_pull_keeps_room_among_pushes(database: Database, clock: FakeClock):
    """A declared pull of 10 requests in a window of 30: pushes hold no more than 20."""
    pull = Process(database, clock, (30, 10.0))
    push = Process(database, clock, (30, 10.0), owner="two", probed=False)
    pull.ledger.pull_started(10)
    assert len(push.pushes(30)) == 20
    assert len(pull.pulls(10)) == 10
    pull.ledger.pull_ended(10)


def test_a_pull_that_shows_no_life_keeps_nothing(database: Database, clock: FakeClock):
    """Three seconds after its last request a pull's share is free for all."""
    pull = Process(database, clock, (30, 10.0))
    push = Process(database, clock, (30, 10.0), owner="two", probed=False)
    pull.ledger.pull_started(10)
    clock.advance(3.1)
    assert len(push.pushes(30)) == 30


def test_the_next_pull_finds_its_room_when_it_is_due(database: Database, clock: FakeClock):
    """Two pulls of 10 requests, 100 s apart: just before the third, pushes stop short of
    its 10 and a little to spare."""
    process = Process(database, clock, (30, 10.0))
    for wait_s in (100, 95):
        process.ledger.pull_started(10)
        process.ledger.pull_ended(10)
        clock.advance(wait_s)
    assert len(process.pushes(30)) == 30 - 10 - math.ceil(windows.SPARE * 30)


def test_a_429_holds_every_process_until_the_servers_time(database: Database, clock: FakeClock):
    """The server asks one process to wait 7 s: another gets nothing before, and one probe after."""
    one = Process(database, clock, (30, 10.0))
    two = Process(database, clock, (30, 10.0), owner="two", probed=False)
    (permit,) = one.pulls(1)
    held = one.answer(permit, reading=Reading(429, retry_after_s=7.0))
    assert held.hold_s == pytest.approx(7.0)
    refused = two.ask(pull=5)
    assert refused.granted[Lane.PULL] == []
    assert refused.wait_s[Lane.PULL] >= 6.9
    state = two.reporter.state()
    assert state.hold_in_s == pytest.approx(7.0)
    assert "429" in state.hold_reason
    clock.advance(7.1)
    assert len(two.pulls(5)) == 1


def test_the_first_request_of_a_new_key_is_a_probe(database: Database, clock: FakeClock):
    """The limits may be lower than configured: one request goes out before the first answer."""
    process = Process(database, clock, (30, 10.0), probed=False)
    (probe,) = process.pulls(30)
    process.answer(probe)
    assert len(process.pulls(30)) == 29


def test_another_program_on_the_key_lowers_the_window(database: Database, clock: FakeClock):
    """The server counts 20 where we sent one: 30 become what is left, less a margin."""
    process = Process(database, clock, (30, 10.0))
    (permit,) = process.pulls(1)
    process.answer(permit, reading=Reading(200, limit=30, remaining=10, reset_s=9.0))
    window = process.reporter.state().windows[0]
    assert window.foreign_in_s > 0
    assert window.limit < 12


def test_alone_headers_change_nothing(database: Database, clock: FakeClock):
    """Answers that report exactly our own requests leave the window as configured."""
    process = Process(database, clock, (30, 10.0))
    for used, permit in enumerate(process.pulls(20), start=1):
        process.answer(permit, reading=Reading(200, limit=30, remaining=30 - used, reset_s=9.0))
    window = process.reporter.state().windows[0]
    assert (window.limit, window.used, window.foreign_in_s) == (30, 20, 0.0)


def test_the_forecast_is_what_happens(database: Database, clock: FakeClock):
    """6 more requests at 3/10s, with one answered a moment ago: 2 now, 3 later, 1 at the end."""
    process = Process(database, clock, (3, 10.0))
    process.answer(*process.pulls(1))
    eta = process.reporter.forecast(6, Lane.PULL, in_flight=64)
    began_s, done = clock.monotonic_s(), 0
    while done < 6:
        exchange = process.ask(pull=6 - done)
        process.answer(*exchange.granted[Lane.PULL])
        done += len(exchange.granted[Lane.PULL])
        if done < 6:
            clock.advance(exchange.wait_s[Lane.PULL])
    assert eta.first_in_s == pytest.approx(0.0)
    assert clock.monotonic_s() - began_s == pytest.approx(eta.done_in_s, abs=0.1)


def test_the_state_keeps_lanes_apart(database: Database, clock: FakeClock):
    """Two pulls and one push of three: nothing free, and the next in one held window."""
    process = Process(database, clock)
    process.answer(*process.pulls(2))
    process.answer(*process.pushes(1))
    state = process.reporter.state()
    (window,) = state.windows
    assert (window.pull, window.push, window.free) == (2, 1, 0)
    assert window.next_free_in_s == pytest.approx(Window(3, 8).held_s)
    assert state.next_in_s[Lane.PUSH] == pytest.approx(window.next_free_in_s)
    assert state.connected[0].host == HOST


def test_old_rows_are_pruned_and_counts_stay_right(database: Database, clock: FakeClock):
    """2,000 requests later the tables hold a fraction, and a full window still counts as full."""
    process = Process(database, clock, (100, 1.0))
    for _ in range(20):
        process.answer(*process.pulls(100))
        clock.advance(60)
    process.answer(*process.pulls(100))
    with database.read() as connection:
        left = len(connection.execute(spent.select()).all())
    assert left < 1600
    assert process.pulls(1) == []


def test_a_key_is_stored_as_a_keyed_hash_only(database: Database, clock: FakeClock):
    """Neither the key nor a plain hash of it is anywhere in the ledger."""
    process = Process(database, clock, key="hc_live_secret")
    process.pulls(1)
    with database.read() as connection:
        rows = [
            str(row) for table in (keys, outstanding, owners) for row in
            connection.execute(table.select())
        ]  # fmt: skip
    assert not any("hc_live_secret" in row for row in rows)
    assert key_id("hc_live_secret", database) == key_id("hc_live_secret", database)


def test_permits_are_taken_ahead_far_from_every_limit_only(database: Database, clock: FakeClock):
    """Nine more of 320 free; none while a reserve or a waiting pull limits pushes; fewer of a
    smaller window; none once half of it is spent, nor after a 429."""
    process = Process(database, clock, (320, 10.0))
    assert len(process.pulls(1, ahead=9)) == 10
    assert len(process.pushes(1, ahead=9)) == 1, "a running pull has a reserve"
    clock.advance(60)
    assert len(process.pushes(1, ahead=9)) == 10
    assert len(process.pulls(120, ahead=9)) == 129
    assert len(process.pulls(20, ahead=9)) == 20, "half is spent"
    clock.advance(200)
    (permit,) = process.pulls(1)
    process.answer(permit, reading=Reading(429, retry_after_s=1.0))
    clock.advance(2)
    assert len(process.pulls(1, ahead=9)) == 1, "a probe"


def test_an_answer_that_is_recorded_late_ends_no_earlier_than_those_before(
    database: Database, clock: FakeClock
):
    """Two processes: the answer that arrived first is recorded last, and counts as long as the
    other; a permit taken ahead never frees its slot too early."""
    one = Process(database, clock, (2, 10.0))
    two = Process(database, clock, owner="two", probed=False)
    (first,), (second,) = one.pulls(1), two.pulls(1)
    clock.advance(1)  # the first is answered
    clock.advance(0.5)
    two.answer(second)
    one.answer(first, age_s=0.5)
    clock.advance(10)
    assert one.pulls(1) == []
    clock.advance(0.03)
    assert len(one.pulls(2)) == 2


def test_permits_given_back_cost_a_pull_nothing(database: Database, clock: FakeClock):
    """A declared pull of 100 requests asks for one, takes 9 ahead and gives them back: pushes
    leave room for 100, neither more nor less."""
    pull = Process(database, clock, (320, 10.0))
    push = Process(database, clock, (320, 10.0), owner="two", probed=False)
    pull.ledger.pull_started(100)
    used, *ahead = pull.pulls(1, ahead=9)
    pull.ledger.exchange(Request({}, [Answered(used, 0.0, OK)], unsent=ahead))
    assert len(push.pushes(320)) == 220


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10**9), is_wide=st.booleans())
def test_no_window_is_ever_exceeded(
    tmp_path_factory: pytest.TempPathFactory, seed: int, is_wide: bool
):
    """Random asking, also ahead of need, answering, losing and giving back in two lanes by two
    processes that report late: a server that stamps each request at any instant between the time
    its permit was handed out and its answer never counts too many."""
    dice = random.Random(seed)
    clock = FakeClock()
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('l') / 'ledger.db'}")
    limits = [(dice.randint(2, 6), 5.0), (dice.randint(6, 12), 20.0)]
    if is_wide:
        limits = [(dice.randint(40, 80), 5.0), (dice.randint(80, 160), 20.0)]
    processes = [Process(database, clock, *limits, owner=name, probed=False) for name in "ab"]
    most = 20 if is_wide else 3
    out: list[tuple[Process, int, float]] = []
    stamped_s: list[float] = []
    for _ in range(60 if is_wide else 150):
        process, now_s = dice.choice(processes), clock.monotonic_s()
        got = process.ask(dice.randint(0, most), dice.randint(0, most), ahead=dice.randint(0, 9))
        out += [(process, permit, now_s) for lane in got.granted for permit in got.granted[lane]]
        reports = {process: Request() for process in processes}
        for each in [each for each in out if dice.random() < 0.5]:
            out.remove(each)
            holder, permit, granted_s = each
            issued_s = min(now_s, granted_s + dice.choice([0.0, dice.random()]))
            fate = dice.random()
            if fate < 0.1:
                reports[holder].unsent.append(permit)
            elif fate < 0.2:
                reports[holder].unanswered.append(permit)
                stamped_s.append(dice.uniform(issued_s, granted_s + LIFE_S))
            else:
                arrived_s = dice.choice([issued_s, now_s, dice.uniform(issued_s, now_s)])
                answer = Answered(permit, arrived_s - now_s, OK, issued_s - granted_s)
                reports[holder].answers.append(answer)
                stamped_s.append(
                    dice.choice([issued_s, arrived_s, dice.uniform(issued_s, arrived_s)])
                )
        for holder, report in reports.items():
            holder.ledger.exchange(report)
        clock.advance(dice.choice([0.0, 0.1, 1.0, 3.0]))
    database.close()
    stamped_s.sort()
    for limit, length_s in limits:
        for first_s, last_s in zip(stamped_s, stamped_s[limit:], strict=False):
            assert last_s - first_s >= length_s
