"""How long a permit takes where the windows have room: several processes on one ledger.

Run it as a process: reads `{"ledger", "pause_s", "seconds"}` from stdin, writes milliseconds.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from connector.budget import Lane
from connector.budget.database import Database
from connector.budget.scheduler import RateBudget
from connector.settings import RateLimit

_ROOM = [RateLimit(1_000_000, 60.0), RateLimit(10_000_000, 3600.0)]
_SETTLE_S = 1.0
"""Interpreters start one after another; none is timed meanwhile."""


@dataclass(frozen=True)
class Latencies:
    """Milliseconds, ascending."""

    ms: Sequence[float]

    def at(self, share: float) -> float:
        return self.ms[min(len(self.ms) - 1, int(len(self.ms) * share))]

    def __str__(self) -> str:
        return f"p50 {self.at(0.5):.2f}, p99 {self.at(0.99):.1f}, max {self.ms[-1]:.0f} ms"


def measure(ledger: str, *, processes: int, pause_s: float, seconds: float) -> Latencies:
    """Permits of `processes` processes, each asking again `pause_s` (on average) later."""
    command = [sys.executable, "-m", "tests.pacing.latency"]
    asked = json.dumps({"ledger": ledger, "pause_s": pause_s, "seconds": seconds})
    started = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(processes)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write(asked)
        process.stdin.close()
    found: list[float] = []
    for process in started:
        assert process.stdout is not None
        found += json.loads(process.stdout.read())
        process.wait()
        process.stdout.close()
    return Latencies(sorted(found))


def _one(ledger: str, pause_s: float, seconds: float) -> list[float]:
    found_ms: list[float] = []
    with (
        closing(Database(ledger)) as database,
        RateBudget(database, api_key="key", limits=_ROOM, request_timeout_s=10) as budget,
    ):
        budget.answered(budget.permit(Lane.PULL), 200, {})
        time.sleep(_SETTLE_S)
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            time.sleep(random.expovariate(1 / pause_s) if pause_s else 0)
            began_s = time.perf_counter()
            permit = budget.permit(Lane.PULL)
            found_ms.append((time.perf_counter() - began_s) * 1000)
            budget.answered(permit, 200, {})
    return found_ms


if __name__ == "__main__":
    print(json.dumps(_one(**json.load(sys.stdin))))
