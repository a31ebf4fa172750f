"""The budget's policy in virtual time, at the real limits: 300 per minute, 6000 per hour.

The simulator (tests/simulator) runs the code that grants permits in production against servers
that count exactly; hours of it take seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from connector.budget.policy.feedback import FeedbackState
from connector.upsert.sending import in_flight_for
from tests.bench import Row
from tests.simulator import scenarios
from tests.simulator.scenarios import REAL, SCALED, Outcome, Scenario, any_exact, optimum_s
from tests.simulator.scenarios import run as simulate
from tests.simulator.world import Latency

EXACT_RUNS = 250
SETTLED = FeedbackState(probing=0)


def run() -> list[Row]:
    return list(_rows())


def _rows() -> Iterator[Row]:
    yield from makespans()
    yield exact_servers()
    yield alone()
    yield from others()
    yield from too_high()
    yield from beside_pulls()
    yield push_makespan()


def makespans() -> Iterator[Row]:
    """Makespan over optimum: the table that the permit's rule was measured with."""
    for latency_s, worst in ((0.05, 1.01), (0.3, 1.01), (2.0, None)):
        ratios = [
            simulate(Scenario(10_000, Latency(latency_s), concurrency=width)).ratio
            for width in (4, 8, 16, 64)
        ]
        whole = simulate(Scenario(6000, Latency(latency_s))).ratio
        yield Row(
            f"10,000 requests at {latency_s * 1000:.0f} ms: makespan / optimum "
            "(4, 8, 16, 64 in flight; 6,000 requests at 64)",
            " ".join(f"{ratio:.3f}" for ratio in [*ratios, whole]),
            f"≤ {worst} with enough in flight" if worst else "bound by latency below 16",
            None if worst is None else ratios[-1] <= worst,
        )


def exact_servers() -> Row:
    """Random latencies, alignments, processes, crashes, late arrivals, clocks: no violation."""
    outcomes = [simulate(any_exact(seed)) for seed in range(EXACT_RUNS)]
    refused, sent = _sum(outcomes)
    return Row(
        f"{EXACT_RUNS} randomized runs, servers that count exactly: refused of sent",
        f"{refused} of {sent:,}",
        "0 in ≥ 200 runs",
        refused == 0,
    )


def alone() -> Row:
    """Every grant at the same time as without feedback."""
    scenario = Scenario(10_000, Latency(0.3, sigma=1.0))
    heard = simulate(scenario, state=SETTLED).grants
    deaf = simulate(replace(scenario, listens=False), state=SETTLED).grants
    differ = sum(one != other for one, other in zip(heard, deaf, strict=True))
    return Row("alone, 10,000 grants: differ from no feedback", f"{differ}", "0", differ == 0)


MINUTE, BOTH = REAL[:1], REAL
OTHERS: dict[str, tuple[scenarios.Limits, int, Callable[[float], float]]] = {
    "evenly": (MINUTE, 3000, lambda _now_s: 2.5),
    "in bursts": (MINUTE, 3000, lambda now_s: 20.0 if now_s % 60 < 7.5 else 0.0),
    "half of the hour": (BOTH, 6000, lambda _now_s: 50 / 60),
}


def others() -> Iterator[Row]:
    """Others take half of the minute, or of the hour; three alignments each."""
    for kind in ("sliding", "fixed"):
        for name, (limits, requests, rate) in OTHERS.items():
            scenario = Scenario(requests, limits=limits, kind=kind, foreign=rate)
            seeded = [replace(scenario, seed=seed) for seed in range(3)]
            heard = [simulate(each) for each in seeded]
            refused, sent = _sum(heard)
            deaf, deaf_sent = _sum([simulate(replace(each, listens=False)) for each in seeded])
            took_s = sum(each.makespan_s for each in heard)
            ratio = took_s / sum(scenarios.left_by_others_s(each, limits) for each in heard)
            yield Row(
                f"others take half ({name}, {kind} windows): own 429s; makespan / what they leave",
                f"{refused} of {sent:,} ({refused / sent:.2%}; without feedback "
                f"{deaf / deaf_sent:.1%}); {ratio:.2f}",
                "≤ 1 %; ≤ 1.1",
                refused / sent <= 0.01 and ratio <= 1.1,
            )
    alone_s = scenarios.pull_after_others_s(0)
    for spent in (1, 500, 3000):
        took_s = scenarios.pull_after_others_s(spent)
        yield Row(
            f"a pull of 36 requests after others have spent {spent:,} of the hour",
            f"{took_s:.2f} s; alone {alone_s:.2f} s",
            "≤ 1.1 ×",
            took_s <= 1.1 * alone_s,
        )


def too_high() -> Iterator[Row]:
    """Limits configured two and three times too high, with others in the windows."""
    for kind in ("sliding", "fixed", "bucket", "weighted", "small bucket"):
        outcomes = [simulate(_too_high(kind, factor, headers)) for factor in (2, 3)
                    for headers in ("delta", "epoch")]  # fmt: skip
        refused, sent = _sum(outcomes)
        worst = max(outcome.refused_share for outcome in outcomes)
        yield Row(
            f"limits 2-3 × too high, {kind}, another program there: own 429s",
            f"{refused} of {sent:,}, worst run {worst:.1%}",
            "≤ 5 %",
            worst <= 0.05,
        )


def _too_high(kind: str, factor: int, headers: str) -> Scenario:
    return Scenario(
        1000,
        Latency(0.05),
        SCALED,
        configured=[(limit * factor, length_s) for limit, length_s in SCALED],
        kind=kind,
        headers=headers,
        foreign=lambda _now_s: 1.0,
    )


def beside_pulls() -> Iterator[Row]:
    """A 50,000-request push, with an hourly pull of 600 pages, one after another."""
    beside = scenarios.push_beside_pulls(50_000, 600)
    alone_s, times_s = beside.pull_times_s[0], beside.pull_times_s[2:]
    slowest = max(times_s) / alone_s
    yield Row(
        f"50,000-request push beside an hourly 600-page pull ({len(times_s)} of them)",
        f"slowest pull {max(times_s):.0f} s, {slowest:.2f} × alone; {beside.refused} refused",
        "≤ 1.2 ×",
        slowest <= 1.2 and beside.refused == 0,
    )
    yield Row(
        "the same: slots of each full hour used, of 6,000",
        f"{min(beside.hourly):,} to {max(beside.hourly):,}",
        "all",
        min(beside.hourly) >= 5_990,
    )


def push_makespan() -> Row:
    """A push opens as many requests at once as its latency asks for."""
    rate_per_s = max(limit / length_s for limit, length_s in REAL)
    opened = Scenario(20_000, concurrency=lambda latency_s: in_flight_for(latency_s, rate_per_s))
    outcome = simulate(opened)
    return Row(
        f"push of 20,000 at 300 ms, {in_flight_for(0.3, rate_per_s)} in flight: makespan / "
        f"optimum ({optimum_s(REAL, 20_000) / 60:.0f} min)",
        f"{outcome.ratio:.3f}",
        "≤ 1.03",
        outcome.ratio <= 1.03 and outcome.refused == 0,
    )


def _sum(outcomes: list[Outcome]) -> tuple[int, int]:
    """(refused, sent) of all of them."""
    return sum(each.refused for each in outcomes), sum(each.sent for each in outcomes)
