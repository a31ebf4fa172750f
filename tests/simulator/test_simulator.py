"""The policy in virtual time, against servers that count exactly and servers that don't.

The whole set of runs is `make bench`; these are fast enough for every test run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from connector.budget import Lane
from connector.budget.policy import permits
from connector.budget.policy.feedback import FeedbackState
from connector.budget.policy.permits import Facts, constraints, forecast
from connector.budget.policy.windows import Live, Pulls, Window, windows_of
from tests.simulator.scenarios import (
    REAL,
    SCALED,
    Scenario,
    any_exact,
    any_roomy,
    left_by_others_s,
    optimum_s,
    pull_after_others_s,
    push_beside_pulls,
    run,
)
from tests.simulator.world import Latency

SMALL = ((30, 6.0), (120, 60.0))
SATURATED = Scenario(600, Latency(0.3, sigma=1.2), ((30, 6.0),), listens=False)


@pytest.mark.parametrize("seed", range(60))
def test_an_exact_server_never_refuses(seed: int):
    """Sliding log, fixed window, bucket; any latency, concurrency, number of processes; one of
    them killed, requests that arrive late, clocks that run apart: no 429, and all is done."""
    scenario = any_exact(seed)
    outcome = run(scenario)
    assert outcome.refused == 0
    survivors = outcome.processes[:-1] if scenario.kill_s is not None else outcome.processes
    assert all(process.done == process.jobs for process in survivors)


@pytest.mark.parametrize("seed", range(300, 340))
def test_permits_taken_ahead_exceed_no_window(seed: int):
    """Wide limits, spent to the end by several processes that take permits ahead and report
    answers together; one of them is killed holding some: no 429, and all is done."""
    outcome = run(any_roomy(seed))
    assert outcome.refused == 0
    assert all(process.done == process.jobs for process in outcome.processes if not process.dead)


def test_far_from_the_limits_the_ledger_is_asked_once_per_ten_requests():
    """A chain of 140 requests of 300 asks for the first few one by one, then for ten at once."""
    (process,) = run(Scenario(140, Latency(0.03), concurrency=1, lanes=(Lane.PULL,))).processes
    assert (process.done, process.refused) == (140, 0)
    assert process.asked <= 20


def test_near_a_limit_every_request_asks_the_ledger():
    """Once half of the minute is spent, a chain asks for each request."""
    (process,) = run(Scenario(300, Latency(0.03), concurrency=1, lanes=(Lane.PULL,))).processes
    assert 150 <= process.asked <= 170


def test_a_slow_chain_takes_no_more_ahead_than_it_uses():
    """One request a second: nothing is taken ahead, nothing is given back."""
    (process,) = run(Scenario(60, Latency(1.1, sigma=0.0), concurrency=1)).processes
    assert process.asked == 60


def test_counting_from_the_grant_alone_is_caught_by_the_simulator():
    """What the permit's rule is for: the server may have counted as late as the answer."""
    assert run(replace(SATURATED, holding=False)).refused > 0
    assert run(SATURATED).refused == 0


def test_requests_that_arrive_after_we_gave_up_need_the_grace():
    late = replace(
        SATURATED, requests=1200, latency=Latency(0.3, late=0.05), request_timeout_s=10.0
    )
    assert run(replace(late, grace=False)).refused > 0
    assert run(late).refused == 0


@pytest.mark.parametrize(("latency_s", "worst"), [(0.05, 1.005), (0.3, 1.012)])
def test_as_early_as_the_windows_allow(latency_s: float, worst: float):
    """Three thousand requests at the real limits, one process, enough in flight. Each minute
    costs one latency and the guard; over 10,000 requests the hour's end makes up for most."""
    outcome = run(Scenario(3000, Latency(latency_s)))
    assert outcome.refused == 0
    assert outcome.ratio <= worst


def test_three_processes_one_of_them_late_are_as_early_as_one():
    outcome = run(Scenario(2400, processes=3, starts_s=(0.0, 0.0, 40.0)))
    assert (outcome.refused, outcome.done) == (0, 2400)
    assert outcome.ratio <= 1.012


def test_the_optimum_of_ten_thousand_is_73_minutes():
    assert optimum_s(REAL, 10_000) == 73 * 60


def test_alone_feedback_changes_not_one_grant():
    """The same grants at the same times as when no client listens (once the first has answered)."""
    assert _grants(listens=True) == _grants(listens=False)


def _grants(*, listens: bool) -> tuple[float, ...]:
    scenario = Scenario(1500, Latency(0.3, sigma=1.0), listens=listens)
    return run(scenario, state=FeedbackState(probing=0)).grants


def evenly(_now_s: float) -> float:
    """Another program's 150 requests a minute, in requests per second."""
    return 2.5


def in_bursts(now_s: float) -> float:
    """The same 150, all within the first seconds of each minute."""
    return 20.0 if now_s % 60 < 7.5 else 0.0


@pytest.mark.parametrize("kind", ["sliding", "fixed"])
@pytest.mark.parametrize(
    "others",
    [evenly, in_bursts],
)
def test_with_others_taking_half_of_the_key_ours_use_the_rest_and_few_are_refused(
    kind: str, others: Callable[[float], float]
):
    """At most 1 % of our own; a scheduler that doesn't listen has ten times as many. And what the
    others leave is used: at most 1.1 times as long as that takes at best."""
    scenario = Scenario(3000, limits=REAL[:1], kind=kind, foreign=others)
    outcome = run(scenario)
    assert outcome.done == 3000
    assert outcome.refused_share <= 0.01
    assert outcome.makespan_s <= 1.1 * left_by_others_s(outcome, scenario.limits)


@pytest.mark.parametrize("spent", [1, 500, 3000])
def test_a_pull_after_others_is_as_fast_as_alone_while_the_hour_has_room(spent: int):
    """36 requests, with 5,999 to 3,000 of the hour free."""
    assert pull_after_others_s(spent) <= 1.1 * pull_after_others_s(0)


def test_a_client_that_ignores_headers_is_refused_often():
    scenario = Scenario(1500, limits=REAL[:1], foreign=in_bursts, listens=False)
    assert run(scenario).refused_share > 0.05


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("kind", ["sliding", "fixed", "bucket", "weighted", "small bucket"])
@pytest.mark.parametrize("headers", ["delta", "epoch"])
def test_limits_configured_too_high_are_corrected(factor: int, kind: str, headers: str):
    """Two and three times too high, with others in the windows: everything gets done, with at
    most 5 % refused."""
    outcome = run(
        Scenario(
            600,
            Latency(0.05),
            SCALED,
            configured=[(limit * factor, length_s) for limit, length_s in SCALED],
            kind=kind,
            headers=headers,
            foreign=lambda _now_s: 1.0,
        )
    )
    assert outcome.done == 600
    assert outcome.refused_share <= 0.05


@pytest.mark.parametrize("retry_after", ["delta", "date", "none"])
def test_a_server_without_rate_headers_is_found_out_by_its_429s(retry_after: str):
    configured = [(2 * limit, length_s) for limit, length_s in REAL]
    outcome = run(Scenario(1500, configured=configured, headers="none", retry_after=retry_after))
    assert outcome.done == 1500
    assert outcome.refused_share <= 0.05


@pytest.mark.parametrize("offset_s", [-3600.0, 3600.0])
def test_a_wall_clock_an_hour_off_changes_nothing(offset_s: float):
    """Resets and Retry-After dates are measured against the server's own Date."""
    scenario = Scenario(900, headers="epoch", retry_after="date", foreign=evenly)
    assert run(replace(scenario, wall_offset_s=offset_s)).grants == run(scenario).grants


def test_simulated_permits_of_a_killed_process_return_at_their_deadline():
    """64 in flight of 60 a minute die; the other continues at once with what is left, and is as
    fast as ever once the dead ones have run out."""
    outcome = run(
        Scenario(
            1200,
            Latency(2.0),
            ((60, 6.0),),
            processes=2,
            kill_s=20.0,
            request_timeout_s=10.0,
        )
    )
    alive, _dead = outcome.processes
    assert alive.done == 600
    assert outcome.refused == 0
    deadline_s = permits.deadline_s(20.0, 10.0) + 6.1
    assert alive.finished_s is not None
    assert alive.finished_s <= deadline_s + 600 / 60 * 6.1 + 10


def test_a_pull_during_a_long_push_is_hardly_slower_than_alone():
    """Pulls of 100 pages every ten minutes during a push that takes every slot it may."""
    beside = push_beside_pulls(4000, 100, every_s=600.0)
    alone_s, *rest = beside.pull_times_s
    assert beside.refused == 0
    assert max(rest) <= 1.2 * alone_s


@pytest.mark.parametrize("requests", [250, 301, 1500])
def test_the_forecast_is_when_it_is_done(requests: int):
    """With a latency that never varies, to a quarter of a percent."""
    outcome = run(Scenario(requests, Latency(0.3, sigma=0.0)), state=FeedbackState(probing=0))
    windows = windows_of(Window(limit, length_s) for limit, length_s in REAL)
    nothing = Facts(now_s=0.0, live=[Live(0, 0), Live(0, 0)])
    allowed = permits.allowance(windows, FeedbackState(probing=0), Pulls(), nothing)
    bounds = constraints(windows, allowed, Lane.PUSH, [[], []], [[], []])
    eta = forecast(bounds, requests, now_s=0.0, latency_s=0.3, in_flight=64)
    assert outcome.makespan_s == pytest.approx(eta.done_s, rel=0.0025)
