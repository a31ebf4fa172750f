"""Worlds put together, run, and measured against the optimum."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from connector.budget import Lane
from connector.budget.policy.feedback import FeedbackState
from connector.budget.policy.windows import Window, windows_of
from connector.sandbox import rate_limits
from tests.simulator.memory_ledger import MemoryLedger
from tests.simulator.servers import Server, SmallBucket
from tests.simulator.world import Latency, Process, SimulatedLedger, World, spend

REAL = ((300, 60.0), (6000, 3600.0))
SCALED = ((30, 3.0), (120, 30.0))
Limits = Sequence[tuple[int, float]]
LATENCY = Latency(0.3)


def optimum_s(limits: Limits, requests: int) -> float:
    """When the last of `requests` can arrive at the earliest at an exact sliding log."""
    starts_s: list[float] = []
    for number in range(requests):
        starts_s.append(max([0.0, *(starts_s[number - n] + s for n, s in limits if number >= n)]))
    return starts_s[-1]


def left_by_others_s(outcome: Outcome, limits: Limits) -> float:
    """The optimum in what the others of this run left: the limits less their mean share."""
    per_s = outcome.world.server.foreign_accepted / outcome.makespan_s
    return optimum_s([(int(n - per_s * s), s) for n, s in limits], outcome.done)


def pull_after_others_s(spent: int, *, pages: int = 36) -> float:
    """How long a pull takes after others have spent `spent` of the hour, the last just now; the
    headers speak of the hour."""
    scenario = Scenario(pages, shows="longest")
    world = _world(scenario, memory_ledger(scenario))
    pull = Process(world, "pull", Lane.PULL, pages, LATENCY, 4)
    for number in range(spent):
        world.at(
            3000 * (number + 1) / spent, lambda: world.server.arrive(world.now_s, foreign=True)
        )
    world.at(3000.0, pull.start)
    world.run(lambda: pull.finished_s is not None)
    assert pull.finished_s is not None
    return pull.finished_s - 3000


_COUNTERS: dict[str, type[rate_limits.Window]] = {
    "sliding": rate_limits.SlidingWindow,
    "fixed": rate_limits.FixedWindow,
    "weighted": rate_limits.WeightedWindow,
    "bucket": rate_limits.Bucket,
    "small bucket": SmallBucket,
}


def counters(kind: str, limits: Limits, random: Random) -> list[rate_limits.Window]:
    """How a server counts each limit; the boundaries of fixed windows lie anywhere."""
    aligned = kind in ("fixed", "weighted")
    return [
        _COUNTERS[kind](limit, length_s, random.random() * length_s if aligned else 0.0)
        for limit, length_s in limits
    ]


@dataclass(frozen=True)
class Outcome:
    """makespan_s: until the last answer. ratio: makespan over the optimum. refused: our 429s."""

    done: int
    sent: int
    refused: int
    makespan_s: float
    ratio: float
    grants: tuple[float, ...]
    world: World
    processes: tuple[Process, ...]

    @property
    def refused_share(self) -> float:
        return self.refused / max(1, self.sent)


@dataclass(frozen=True)
class Scenario:
    """processes: how many; requests: of all of them together; starts_s: when each begins.

    kill_s: when the last process is killed (its work is lost, the others continue).
    foreign: others' requests per second at a time. lanes: of the processes, in turn.
    shows: the window that the headers speak of, see `Server`.
    """

    requests: int
    latency: Latency = LATENCY
    limits: Limits = REAL
    configured: Limits | None = None
    kind: str = "sliding"
    processes: int = 1
    concurrency: int | Callable[[float], int] = 64
    starts_s: Sequence[float] = ()
    kill_s: float | None = None
    foreign: Callable[[float], float] | None = None
    headers: str = "delta"
    retry_after: str = "delta"
    shows: str = "fullest"
    clock_rate: float = 1.0
    wall_offset_s: float = 0.0
    request_timeout_s: float = 60.0
    listens: bool = True
    holding: bool = True
    grace: bool = True
    lanes: Sequence[Lane] = (Lane.PUSH,)
    seed: int = 0


def run(scenario: Scenario, *, state: FeedbackState | None = None) -> Outcome:
    """Play the scenario to its end. state: what the ledger has learnt before."""
    ledger = memory_ledger(scenario)
    ledger.state = state or ledger.state
    return play(scenario, ledger)


def play(scenario: Scenario, ledger: SimulatedLedger) -> Outcome:
    """Play the scenario to its end on this ledger."""
    world = _world(scenario, ledger)
    share = scenario.requests // scenario.processes
    processes = tuple(
        Process(
            world, f"p{number}", scenario.lanes[number % len(scenario.lanes)],
            share + (scenario.requests % scenario.processes if number == 0 else 0),
            scenario.latency, scenario.concurrency,
        )
        for number in range(scenario.processes)
    )  # fmt: skip
    for number, process in enumerate(processes):
        starts_s = scenario.starts_s[number] if number < len(scenario.starts_s) else 0.0
        world.at(starts_s, process.start)
    if scenario.kill_s is not None:
        world.at(scenario.kill_s, processes[-1].kill)

    def over() -> bool:
        return all(process.dead or process.finished_s is not None for process in processes)

    if scenario.foreign:
        spend(world, scenario.foreign, until=over)
    world.run(over)
    return _outcome(scenario, world, processes)


def _world(scenario: Scenario, ledger: SimulatedLedger) -> World:
    random = Random(scenario.seed)
    server = Server(
        counters(scenario.kind, scenario.limits, random),
        headers=scenario.headers,
        retry_after=scenario.retry_after,
        shows=scenario.shows,
        clock_rate=scenario.clock_rate,
        wall_offset_s=scenario.wall_offset_s,
    )
    return World(server, ledger, random)


def memory_ledger(scenario: Scenario) -> MemoryLedger:
    return MemoryLedger(
        configured_windows(scenario),
        request_timeout_s=scenario.request_timeout_s,
        listens=scenario.listens,
        holding=scenario.holding,
        grace=scenario.grace,
    )


def configured_windows(scenario: Scenario) -> tuple[Window, ...]:
    return windows_of(Window(n, s) for n, s in scenario.configured or scenario.limits)


def _outcome(scenario: Scenario, world: World, processes: tuple[Process, ...]) -> Outcome:
    makespan_s = max(process.finished_s or 0.0 for process in processes)
    return Outcome(
        done=sum(process.done for process in processes),
        sent=sum(process.sent for process in processes),
        refused=world.server.refused,
        makespan_s=makespan_s,
        ratio=makespan_s / (optimum_s(scenario.limits, scenario.requests) or math.nan),
        grants=tuple(world.ledger.granted_s),
        world=world,
        processes=processes,
    )


def any_exact(seed: int) -> Scenario:
    """A scenario drawn at random in which a server that counts exactly must never refuse."""
    draw = Random(seed)
    limit, length_s = draw.randint(2, 40), draw.uniform(1, 20)
    longer = (draw.randint(limit, 4 * limit), length_s * draw.uniform(2, 12))
    limits = [(limit, length_s), longer][: draw.choice((1, 2, 2, 2))]
    processes = draw.randint(1, 4)
    requests = draw.randint(processes, 4 * limits[-1][0])
    about_s = optimum_s(limits, requests)
    return Scenario(
        requests,
        Latency(
            draw.choice((0.02, 0.05, 0.3, 2.0)),
            sigma=draw.choice((0.0, 0.4, 1.2)),
            late=draw.choice((0.0, 0.0, 0.01, 0.05)),
            unsent=draw.choice((0.0, 0.02)),
        ),
        limits=limits,
        configured=[(max(1, n - draw.choice((0, 0, 1))), s) for n, s in limits],
        kind=draw.choice(("sliding", "fixed", "bucket")),
        processes=processes,
        concurrency=draw.choice((1, 2, 8, 64)),
        starts_s=[draw.choice((0.0, draw.random() * about_s)) for _ in range(processes)],
        kill_s=draw.random() * about_s if processes > 1 and draw.random() < 0.3 else None,
        headers=draw.choice(("delta", "epoch", "none")),
        clock_rate=1 + draw.uniform(-0.0005, 0.0005),
        wall_offset_s=draw.choice((0.0, -3600.0, 3600.0, 0.5)),
        request_timeout_s=draw.choice((5.0, 60.0)),
        lanes=draw.choice(((Lane.PUSH,), (Lane.PULL,), (Lane.PUSH, Lane.PULL))),
        seed=seed,
    )


def any_roomy(seed: int) -> Scenario:
    """The same with limits so wide that permits are taken ahead, until they are nearly spent."""
    scenario, draw = any_exact(seed), Random(seed)
    limit, length_s = draw.randint(50, 300), scenario.limits[0][1]
    limits = [(limit, length_s), (draw.randint(limit, 4 * limit), length_s * draw.uniform(2, 12))]
    requests = draw.randint(limit // 2, 2 * limit)
    return replace(
        scenario,
        requests=requests,
        limits=limits,
        configured=None,
        concurrency=draw.choice((1, 2, 8)),
        starts_s=[draw.uniform(0, length_s) for _ in range(scenario.processes)],
        kill_s=draw.uniform(0, length_s) if scenario.processes > 1 else None,
    )


@dataclass(frozen=True)
class Beside:
    """A push, with pulls that come at an interval. pull_times_s: how long each took.

    hourly: requests accepted in each full hour of the push.
    """

    pull_times_s: tuple[float, ...]
    push_s: float
    refused: int
    hourly: tuple[int, ...]


@dataclass
class HourlyPulls:
    """Pulls of `pages` one after another, starting every `every_s` until the push is done."""

    world: World
    ledger: MemoryLedger
    pages: int
    latency: Latency
    every_s: float
    chains: int = 1
    times_s: list[float] = field(default_factory=list)
    over: bool = False

    def start(self) -> None:
        if self.over:
            return
        began_s = self.world.now_s
        self.ledger.pull_started(began_s)

        def ended() -> None:
            self.ledger.pull_ended()
            self.times_s.append(self.world.now_s - began_s)

        name = f"pull{len(self.times_s)}"
        Process(
            self.world, name, Lane.PULL, self.pages, self.latency, self.chains, on_done=ended
        ).start()
        self.world.at(began_s + self.every_s, self.start)


def push_beside_pulls(
    requests: int,
    pages: int,
    *,
    every_s: float = 3600.0,
    chains: int = 1,
    earlier: int = 2,
    first_push_s: float = 600.0,
    seed: int = 0,
) -> Beside:
    """`earlier` pulls run alone; then a push begins `first_push_s` after the last of them."""
    scenario = Scenario(requests, seed=seed)
    ledger = memory_ledger(scenario)
    world = _world(scenario, ledger)
    pulls = HourlyPulls(world, ledger, pages, scenario.latency, every_s, chains)
    push = Process(world, "push", Lane.PUSH, requests, scenario.latency)
    begin_s = (earlier - 1) * every_s + first_push_s
    world.at(0.0, pulls.start)
    world.at(begin_s, push.start)
    world.run(lambda: push.finished_s is not None)
    assert push.finished_s is not None
    return Beside(
        pull_times_s=tuple(pulls.times_s),
        push_s=push.finished_s - begin_s,
        refused=world.server.refused,
        hourly=_per_hour(world.server.arrivals_s, begin_s, push.finished_s),
    )


def _per_hour(arrivals_s: Sequence[float], begin_s: float, end_s: float) -> tuple[int, ...]:
    hours = int((end_s - begin_s) // 3600)
    counts = [0] * hours
    for arrived_s in arrivals_s:
        hour = int((arrived_s - begin_s) // 3600)
        if 0 <= hour < hours:
            counts[hour] += 1
    return tuple(counts)
