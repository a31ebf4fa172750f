"""Two pulls on one key at once, of 200 pages each, in windows scaled to 30/3 s + 120/30 s.

dlt's rest_api paces itself by the server's 429s; pyrate-limiter's bucket for several processes
paces plain requests; ours share a ledger. All three at the same time, each with its own server.
"""

from __future__ import annotations

import json
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.bench import Row
from tests.bench._costs import RUNS, cost_of, hiringcenter
from tests.bench._serving import serving
from tests.pacing import pyrate
from tests.pacing.runs import Outcome, optimum_s, served
from tests.pacing.worker import Work

WINDOWS = [(30, 3.0), (120, 30.0)]
LIMITS = ",".join(f"{limit}/{length_s:g}s" for limit, length_s in WINDOWS)
SIZES = {"prospects": 20_000, "notes": 12_000, "tasks": 5_000, "meetings": 3_000}
PAGES = sum(SIZES.values()) // 200
MAKESPAN_MAX = 1.02


def run() -> list[Row]:
    found: dict[str, list[Outcome]] = {}
    for _ in range(RUNS):
        with ThreadPoolExecutor() as pool:
            started = {name: pool.submit(two) for name, two in _CONTESTANTS.items()}
            for name, future in started.items():
                found.setdefault(name, []).append(future.result())
    return [_row(name, outcomes) for name, outcomes in found.items()]


def _row(name: str, outcomes: list[Outcome]) -> Row:
    ratio = median(each.makespan_s / optimum_s(len(each.accepted_s), WINDOWS) for each in outcomes)
    refused = sorted(each.refused for each in outcomes)
    measured = f"{ratio:.3f} × optimum, {refused[len(refused) // 2]} × 429"
    if name != "this":
        return Row(f"two pulls: {name}", measured, "")
    ok = ratio <= MAKESPAN_MAX and refused[-1] == 0
    return Row(f"two pulls: {name}", measured, f"≤ {MAKESPAN_MAX}, 0 × 429 in each run", ok)


def _rest_apis() -> Outcome:
    def pull(folder: Path, url: str) -> object:
        patient = {"RUNTIME__REQUEST_MAX_ATTEMPTS": "50"}
        command = ("-m", "tests.bench._dlt_rest", url, "rest.duckdb")
        return cost_of(folder, *command, environment=patient)

    return _twice(pull)


def _ours() -> Outcome:
    def pull(folder: Path, url: str) -> object:
        shared = {
            "HIRINGCENTER_RATE_LIMITS": LIMITS,
            "HIRINGCENTER_LEDGER_URL": f"sqlite:///{folder.parent}/ledger.db",
        }
        return hiringcenter(folder, url, "pull", **shared)

    return _twice(pull)


def _pyrate() -> Outcome:
    with served() as port:
        works = [Work(port, "", WINDOWS, PAGES, threads=4) for _ in range(2)]
        return pyrate.run(works, port)


_CONTESTANTS: dict[str, Callable[[], Outcome]] = {
    "dlt": _rest_apis, "pyrate-limiter": _pyrate, "this": _ours,
}  # fmt: skip


def _twice(pull: Callable[[Path, str], object]) -> Outcome:
    with _folders() as folders, serving(**SIZES, windows=WINDOWS, latency_s=0.05) as url:
        with ThreadPoolExecutor() as pool:
            list(pool.map(pull, folders, [url, url]))
        return _counted(url)


@contextmanager
def _folders() -> Iterator[list[Path]]:
    with tempfile.TemporaryDirectory(prefix="two-") as folder:
        both = [Path(folder, name) for name in ("a", "b")]
        for each in both:
            each.mkdir()
        yield both


def _counted(url: str) -> Outcome:
    with urllib.request.urlopen(url.replace("/v2", "/__sandbox__/requests")) as response:
        requests = json.load(response)
    accepted_s = [each["received_s"] for each in requests if each["status"] == 200]
    return Outcome([], sorted(accepted_s), sum(each["status"] == 429 for each in requests))
