"""The dispatcher: many threads, two lanes, signals, a clock that jumps, all on real threads."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from freezegun import freeze_time

from connector.budget import Lane, Permit
from connector.budget.database import Database
from connector.budget.scheduler import RateBudget
from connector.clock import Clock, StopSignal, SystemClock
from connector.errors import BudgetClosed, Interrupted
from connector.settings import RateLimit
from tests.fake_clock import FakeClock


@contextmanager
def opened(
    folder: Path,
    *limits: tuple[int, float],
    clock: Clock | None = None,
    stop: threading.Event | None = None,
) -> Iterator[RateBudget]:
    database = Database(f"sqlite:///{folder / 'ledger.db'}")
    rate_limits = [RateLimit(*limit) for limit in limits]
    with RateBudget(
        database, api_key="k", limits=rate_limits, request_timeout_s=5, clock=clock, stop=stop
    ) as budget:
        yield budget
    database.close()


class StandingClock(FakeClock):
    """A clock that only the test moves; a thread that sleeps on it waits until it has."""

    def sleep(self, wait_s: float, stop: threading.Event | None = None) -> bool:
        until_s = self.monotonic_s() + wait_s
        stop = stop or threading.Event()
        while self.monotonic_s() < until_s:
            if stop.wait(0.001):
                return True
        return False


class CountingDatabase(Database):
    """written: how many write transactions there were."""

    written = 0

    def write(self, *, to_disk: bool = True) -> AbstractContextManager[sa.Connection]:
        self.written += 1
        return super().write(to_disk=to_disk)


@contextmanager
def in_plenty(
    folder: Path, stop: threading.Event | None = None
) -> Iterator[tuple[RateBudget, CountingDatabase, StandingClock]]:
    """A budget of 400 a minute of which a chain has just had 100 one by one."""
    database, clock = CountingDatabase(f"sqlite:///{folder / 'ledger.db'}"), StandingClock()
    limits = [RateLimit(400, 60.0)]
    with RateBudget(
        database, api_key="k", limits=limits, request_timeout_s=5, clock=clock, stop=stop
    ) as budget:
        spend(budget, 100)
        yield budget, database, clock
    database.close()


def settled(budget: RateBudget) -> tuple[int, int]:
    """(permits that count, permits unanswered) once the ledger knows all outcomes."""
    wait_until(lambda: not budget.state().in_flight)
    state = budget.state()
    return state.windows[0].used, state.in_flight


def wait_until(holds: Callable[[], object]) -> None:
    """Wait until `holds()`; so long that only what never happens fails."""
    until_s = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.001)


def test_far_from_every_limit_the_ledger_is_asked_once_for_ten_requests(tmp_path: Path):
    """100 requests one after another: a fifth as many transactions, with those at the start."""
    with in_plenty(tmp_path) as (_budget, database, _clock):
        assert database.written <= 25


def test_permits_taken_ahead_are_given_back_after_a_second(tmp_path: Path):
    """The chain ends with some in stock: a second later the ledger has them again, and knows
    every answer."""
    with in_plenty(tmp_path) as (budget, _database, clock):
        clock.advance(1.0)
        assert settled(budget) == (100, 0)


def test_permits_taken_ahead_are_not_used_after_a_second(tmp_path: Path):
    """A caller that comes later gets one that the ledger grants then."""
    with in_plenty(tmp_path) as (budget, _database, clock):
        clock.advance(1.5)
        assert budget.permit(Lane.PULL).send_by_s == pytest.approx(6.5)


def test_a_429_gives_up_permits_taken_ahead(tmp_path: Path):
    """The next caller waits for the end of the hold, though permits were in stock."""
    with ThreadPoolExecutor(1) as pool, in_plenty(tmp_path) as (budget, _database, clock):
        budget.answered(budget.permit(Lane.PULL), 429, {"retry-after": "30"})
        waits = pool.submit(budget.permit, Lane.PULL)
        assert settled(budget) == (101, 0)
        assert not waits.done()
        clock.advance(31)
        assert waits.result().send_by_s >= 36


def test_a_429_during_an_exchange_leaves_nothing_ahead(tmp_path: Path):
    """The ledger is being asked when another caller's answer is a 429: it learns of that at once,
    and what the exchange brought beyond its caller's need is given back."""
    blocker = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    with ThreadPoolExecutor(12) as pool, in_plenty(tmp_path) as (budget, _database, _clock):
        waits = [pool.submit(budget.permit, Lane.PULL)]
        used = waits[0].result()
        with blocker.write():
            while not budget.waiting(Lane.PULL):
                if waits[-1].done():
                    waits.append(pool.submit(budget.permit, Lane.PULL))
            budget.answered(used, 429, {"retry-after": "30"})
        wait_until(lambda: budget.state().hold_in_s)
        assert budget.state().in_flight < len(waits)
    blocker.close()


def test_a_fork_gets_none_of_the_permits_taken_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its copy of them would be used twice; the process that took them continues."""
    with in_plenty(tmp_path) as (budget, _database, _clock):
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: 1)
            with pytest.raises(BudgetClosed):
                budget.permit(Lane.PULL)
        spend(budget, 1)


def test_after_a_signal_permits_taken_ahead_are_not_used(tmp_path: Path):
    """They are given back at the end, and the next run finds only what was sent."""
    stop = StopSignal()
    with in_plenty(tmp_path, stop) as (budget, _database, _clock):
        stop.set()
        with pytest.raises(Interrupted):
            budget.permit(Lane.PULL)
    with opened(tmp_path, (400, 60.0), clock=FakeClock()) as budget:
        assert settled(budget) == (100, 0)


def spend(budget: RateBudget, count: int, lane: Lane = Lane.PULL) -> list[Permit]:
    permits = []
    for _ in range(count):
        permits.append(budget.permit(lane))
        budget.answered(permits[-1], 200, {})
    return permits


def test_many_threads_get_one_permit_each(tmp_path: Path):
    """64 threads that ask at once are served, each with a permit of its own."""
    with opened(tmp_path, (1000, 60.0)) as budget, ThreadPoolExecutor(64) as pool:
        permits = [
            permit
            for each in pool.map(lambda _: spend(budget, 5), range(64))
            for permit in each
        ]  # fmt: skip
    assert len({permit.id for permit in permits}) == 320


def test_makespan_is_the_optimum_plus_guards(tmp_path: Path):
    """31 requests at 10/10s and instant answers: three held windows, on a clock that only
    sleeping moves."""
    clock = FakeClock()
    with opened(tmp_path, (10, 10.0), clock=clock) as budget:
        spend(budget, 31)
        waited_s = budget.waited_s
    assert 30.0 < clock.monotonic_s() < 31.0
    assert waited_s == pytest.approx(clock.monotonic_s(), abs=0.5)


def test_callers_that_wait_at_once_are_not_added_up(tmp_path: Path):
    """Four threads wait for the same window: the wait is no longer than the run."""
    clock = FakeClock()
    with opened(tmp_path, (10, 10.0), clock=clock) as budget, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: spend(budget, 5), range(4)))
        waited_s = budget.waited_s
    assert 5.0 < waited_s <= clock.monotonic_s()


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
def test_a_step_of_the_wall_neither_stalls_nor_violates(tmp_path: Path, step_s: float):
    """An hour's step in a full window: the next permit comes one held window later, as ever."""
    clock = FakeClock()
    with opened(tmp_path, (10, 10.0), clock=clock) as budget:
        spend(budget, 10)
        clock.step(step_s)
        spend(budget, 1)
    assert 10.0 < clock.monotonic_s() < 10.5


def test_a_frozen_and_stepped_system_clock_changes_nothing(tmp_path: Path):
    """With the real clock and freezegun's steps, a free window grants at once, a full one waits
    for the real time."""
    with opened(tmp_path, (3, 0.3)) as budget:
        real = SystemClock()
        with freeze_time("2030-01-01") as frozen:
            spend(budget, 3)
            began_s = real.monotonic_s()
            frozen.tick(-3600)
            spend(budget, 3)
            frozen.tick(7200)
            spend(budget, 1)
        assert real.monotonic_s() - began_s >= 2 * 0.3


def test_a_signal_ends_waiting_with_its_number(tmp_path: Path):
    """Callers in a full window get Interrupted, with the exit code of the signal."""
    stop = StopSignal()
    with opened(tmp_path, (1, 600.0), stop=stop) as budget, ThreadPoolExecutor(4) as pool:
        spend(budget, 1)
        waits = [pool.submit(budget.permit, lane) for lane in Lane for _ in range(2)]
        stop.signal_number = signal.SIGINT
        stop.set()
        errors = [wait.exception() for wait in waits]
    assert [error.exit_code for error in errors if isinstance(error, Interrupted)] == [130] * 4


def test_a_signal_during_an_exchange_loses_no_permit(tmp_path: Path):
    """The ledger is asked for two callers when they are sent away: both get Interrupted, and what
    the ledger granted meanwhile is given back. A later caller doesn't wait for the ledger."""
    stop = StopSignal()
    blocker = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    with opened(tmp_path, (10, 600.0), stop=stop) as budget, ThreadPoolExecutor(2) as pool:
        with blocker.write():  # the exchange that has begun can't finish
            waits = [pool.submit(budget.permit, Lane.PULL) for _ in range(2)]
            while budget.waiting(Lane.PULL) < 2:
                time.sleep(0.001)
            stop.set()
            with pytest.raises(Interrupted):
                budget.permit(Lane.PULL)
        assert all(isinstance(wait.exception(), Interrupted) for wait in waits)
    with opened(tmp_path, (10, 600.0)) as budget:
        assert (budget.state().in_flight, budget.state().windows[0].used) == (0, 0)
    blocker.close()


def test_an_interrupted_caller_waits_no_more(tmp_path: Path):
    """Ctrl-C in a program that doesn't handle signals: the next permit isn't kept for the dead."""
    noticed = threading.Event()

    def interrupt_once(*_: object) -> None:
        if not noticed.is_set():
            noticed.set()
            raise KeyboardInterrupt

    def is_waiting(thread: int) -> bool:
        frames = traceback.walk_stack(sys._current_frames()[thread])
        return any(frame.f_code is Future.result.__code__ for frame, _ in frames)

    def interrupt(thread: int) -> None:
        while not is_waiting(thread):
            time.sleep(0.001)
        while not noticed.is_set():  # Python misses a signal just before it waits for a lock
            signal.pthread_kill(thread, signal.SIGINT)
            noticed.wait(0.01)

    with opened(tmp_path, (1, 600.0)) as budget, ThreadPoolExecutor(1) as pool:
        spend(budget, 1)
        before = signal.signal(signal.SIGINT, interrupt_once)
        try:
            interrupted = pool.submit(interrupt, threading.get_ident())
            with pytest.raises(KeyboardInterrupt):
                budget.permit(Lane.PULL)
            interrupted.result()
        finally:
            signal.signal(signal.SIGINT, before)
        assert budget.waiting(Lane.PULL) == 0


def test_after_a_signal_no_permit_is_given(tmp_path: Path):
    """A window with room gives nothing more once the run was asked to stop."""
    stop = StopSignal()
    with opened(tmp_path, (100, 60.0), stop=stop) as budget:
        spend(budget, 1)
        stop.set()
        with pytest.raises(Interrupted):
            budget.permit(Lane.PULL)


def test_what_was_answered_is_booked_at_the_end(tmp_path: Path):
    """Answers that found no ride are in the ledger when the budget has closed."""
    clock = FakeClock()
    with opened(tmp_path, (3, 10.0), clock=clock) as budget:
        spend(budget, 3)
    with opened(tmp_path, (3, 10.0), clock=clock) as budget:
        window = budget.state().windows[0]
        assert (window.used, budget.state().in_flight) == (3, 0)


class _ClearedLate(threading.Event):
    """An event whose `clear` takes so long that it undoes the next `set`."""

    def __init__(self) -> None:
        super().__init__()
        self.clearing = threading.Event()

    def clear(self) -> None:
        self.clearing.set()
        self.wait(500)
        super().clear()


def test_closing_is_noticed_while_the_thread_goes_to_sleep(tmp_path: Path):
    """Else the process would hang at its end, about once in a very long while."""
    with opened(tmp_path, (3, 10.0)) as budget:
        late = _ClearedLate()
        before, budget._wake_up = budget._wake_up, late
        before.set()
        assert late.clearing.wait(500)
        closing = threading.Thread(target=budget.close)
        closing.start()
        closing.join(60)
        is_closed = not closing.is_alive()
        late.set()
    assert is_closed


def test_a_permit_carries_the_time_until_when_it_may_be_used(tmp_path: Path):
    """Five seconds from the grant, by the clock that the sender reads."""
    clock = FakeClock()
    with opened(tmp_path, (3, 10.0), clock=clock) as budget:
        clock.advance(100)
        assert budget.permit(Lane.PULL).send_by_s == pytest.approx(105)


def test_unsent_permits_are_free_for_others_at_once(tmp_path: Path):
    """One slot, given back by a thread that couldn't connect, serves the next without a wait."""
    clock = FakeClock()
    with opened(tmp_path, (1, 600.0), clock=clock) as budget:
        budget.unsent(budget.permit(Lane.PULL))
        budget.permit(Lane.PULL)
    assert clock.monotonic_s() < 1


def test_a_caller_may_wait_only_for_a_while(tmp_path: Path):
    """Whoever gives up takes no permit from those who still wait."""
    clock = StandingClock()
    with opened(tmp_path, (1, 600.0), clock=clock) as budget:
        permit = budget.permit(Lane.PULL)
        with pytest.raises(TimeoutError):
            budget.permit(Lane.PULL, until_s=clock.monotonic_s())
        assert budget.waiting(Lane.PULL) == 0
        budget.unsent(permit)
        budget.permit(Lane.PULL)


def test_a_429_is_waited_out_by_every_caller(tmp_path: Path):
    """Asked to wait 30 s: the next permit comes after that, whichever lane asks."""
    clock = FakeClock()
    with opened(tmp_path, (100, 60.0), clock=clock) as budget:
        spend(budget, 1)
        budget.answered(budget.permit(Lane.PULL), 429, {"retry-after": "30"})
        budget.permit(Lane.PUSH)
    assert 30 <= clock.monotonic_s() < 33
