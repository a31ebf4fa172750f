"""Worlds put together, run, and measured against the optimum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from connector.budget import Lane
from connector.budget.windows import Window, windows_of
from tests.simulator.memory_ledger import MemoryLedger
from tests.simulator.servers import (
    Counter, FixedWindow, Server, SlidingLog, TokenBucket, Weighted,
)
from tests.simulator.world import Latency, Process, World, spend

REAL = ((300, 60.0), (6000, 3600.0))
SCALED = ((30, 3.0), (120, 30.0))
Limits = Sequence[tuple[int, float]]


def optimum_s(limits: Limits, requests: int) -> float:
    """When the last of `requests` can arrive at the earliest at an exact sliding log."""
    starts_s: list[float] = []
    for number in range(requests):
        starts_s.append(
            max([0.0, *(starts_s[number - n] + s for n, s in limits if number >= n)])
        )
    return starts_s[-1]


def counters(kind: str, limits: Limits, random: Random) -> list[Counter]:
    """Counters of one kind: sliding, fixed (at any alignment), bucket, small bucket, weighted."""
    made: list[Counter] = []
    for limit, length_s in limits:
        if kind == "sliding":
            made.append(SlidingLog(limit, length_s))
        elif kind == "bucket":
            made.append(TokenBucket(limit, length_s))
        elif kind == "small bucket":
            made.append(TokenBucket(limit, length_s, capacity=max(1, limit // 4)))
        else:
            fixed = FixedWindow if kind == "fixed" else Weighted
            made.append(fixed(limit, length_s, random.random() * length_s))
    return made


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

    kill_s: when the last process is killed (its work is lost, the others go on).
    foreign: somebody else's requests per second at a time.
    """

    requests: int
    latency: Latency = Latency(0.3)
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
    clock_rate: float = 1.0
    wall_offset_s: float = 0.0
    request_timeout_s: float = 60.0
    listens: bool = True
    holding: bool = True
    grace: bool = True
    lane: Lane = Lane.PUSH
    seed: int = 0


def run(scenario: Scenario) -> Outcome:
    """Play the scenario to its end."""
    world = _world(scenario)
    share = scenario.requests // scenario.processes
    processes = tuple(
        Process(
            world, f"p{number}", scenario.lane,
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


def _world(scenario: Scenario) -> World:
    random = Random(scenario.seed)
    server = Server(
        counters(scenario.kind, scenario.limits, random),
        headers=scenario.headers,
        retry_after=scenario.retry_after,
        clock_rate=scenario.clock_rate,
        wall_offset_s=scenario.wall_offset_s,
    )
    ledger = MemoryLedger(
        windows_of(Window(n, s) for n, s in scenario.configured or scenario.limits),
        request_timeout_s=scenario.request_timeout_s,
        listens=scenario.listens,
        holding=scenario.holding,
        grace=scenario.grace,
    )
    return World(server, ledger, random)


def _outcome(scenario: Scenario, world: World, processes: tuple[Process, ...]) -> Outcome:
    makespan_s = max(process.finished_s or 0.0 for process in processes)
    return Outcome(
        done=sum(process.done for process in processes),
        sent=sum(process.sent for process in processes),
        refused=world.server.refused,
        makespan_s=makespan_s,
        ratio=makespan_s / optimum_s(scenario.limits, scenario.requests),
        grants=tuple(sorted(granted_s for granted_s, _ in world.ledger.spent)),
        world=world,
        processes=processes,
    )
