"""What a process costs: seconds of wall time and of CPU, and its peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench import Row

ROOT = Path(__file__).parents[2]
RUNS = int(os.environ.get("HC_BENCH_RUNS", "3"))
UNLIMITED = "100000000/60s"
# a small parent: until a forked process execs, its parent's memory counts as its own
_MEASURED = (
    "import os, sys, time\n"
    "begun = time.monotonic()\n"
    "child = os.fork()\n"
    "if child == 0: os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
    "_, status, usage = os.wait4(child, 0)\n"
    "sys.stderr.write(f'MEASURED {time.monotonic() - begun} {usage.ru_utime + usage.ru_stime} "
    "{usage.ru_maxrss / 1024} {os.waitstatus_to_exitcode(status)}\\n')\n"
)


@dataclass(frozen=True)
class Cost:
    """mb: peak resident memory. out: what the process printed."""

    wall_s: float
    cpu_s: float
    mb: float
    out: str = ""

    def __str__(self) -> str:
        return f"{self.wall_s:6.2f} s {self.cpu_s:6.2f} CPU {self.mb:4.0f} MB"


def cost_of(
    folder: Path, *arguments: str, url: str = "", environment: Mapping[str, str] | None = None
) -> Cost:
    """Run Python with these arguments in `folder`, where everything it writes stays.

    Raises:
        RuntimeError: it failed; the message is what it wrote to stderr.
    """
    own = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "HIRINGCENTER_API_KEY": "sandbox-key",
        "HIRINGCENTER_BASE_URL": url or "http://127.0.0.1:9/v2",
        "HIRINGCENTER_RATE_LIMITS": UNLIMITED,
        "HIRINGCENTER_STATE_DIR": str(folder / "state"),
        **(environment or {}),
    }
    own.pop("PYTHONDONTWRITEBYTECODE", None)  # users have compiled modules
    command = [sys.executable, "-c", _MEASURED, *arguments]
    ended = subprocess.run(
        command, cwd=folder, env=own, capture_output=True, text=True, check=False
    )
    *messages, measured = ended.stderr.splitlines()
    _, wall_s, cpu_s, mb, code = measured.split()
    if code != "0":
        raise RuntimeError("\n".join([f"{' '.join(arguments)}: exit code {code}", *messages]))
    return Cost(float(wall_s), float(cpu_s), float(mb), ended.stdout)


def hiringcenter(folder: Path, url: str, *arguments: str, **environment: str) -> Cost:
    """One of our commands, with its JSON summary as `out`."""
    command = ("-m", "pipelines.cli", *arguments, "--json", "-q")
    return cost_of(folder, *command, url=url, environment=environment)


def middle(costs: Sequence[Cost]) -> Cost:
    """The median of each figure by itself."""
    return Cost(
        median(each.wall_s for each in costs),
        median(each.cpu_s for each in costs),
        median(each.mb for each in costs),
        costs[-1].out,
    )


@dataclass(frozen=True)
class Yardstick:
    """What a cost is compared with. at_most: times its wall time; None = for information."""

    name: str
    cost: Cost
    at_most: float | None = None


def compare(what: str, cost: Cost, *yardsticks: Yardstick) -> list[Row]:
    """A line for each yardstick, then ours with its ratios of wall time and of CPU time."""
    rows = [Row(f"{what}: {each.name}", str(each.cost), "") for each in yardsticks]
    ratios, ok = [], True
    for each in yardsticks:
        wall, cpu = cost.wall_s / each.cost.wall_s, cost.cpu_s / each.cost.cpu_s
        limit = "" if each.at_most is None else f" (≤ {each.at_most:g})"
        ratios += [f"{wall:.2f} × {each.name}{limit}", f"{cpu:.2f} × its CPU"]
        ok = ok and (each.at_most is None or wall <= each.at_most)
    bound = any(each.at_most is not None for each in yardsticks)
    return [*rows, Row(f"{what}: this", str(cost), "\n".join(ratios), ok if bound else None)]


def each_run(measure: Callable[[Path], dict[str, Cost]], folder: Path) -> dict[str, Cost]:
    """The medians of `measure` in `RUNS` new folders: what is compared takes turns."""
    found: list[dict[str, Cost]] = []
    for number in range(RUNS):
        place = folder / str(number)
        place.mkdir(parents=True)
        found.append(measure(place))
    return {name: middle([run[name] for run in found]) for name in found[0]}
