"""Loading: beside a hand-written floor, flat in memory, quick to start, cheap with nothing new."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench import Row
from tests.bench._serving import serving

ROOT = Path(__file__).parents[2]
LOADED = {"prospects": 60_000, "notes": 30_000, "tasks": 20_000, "meetings": 10_000}
GROWN = {"prospects": 100_000, "notes": 50_000, "tasks": 20_000, "meetings": 10_000}
MILLION = {"prospects": 600_000, "notes": 300_000, "tasks": 70_000, "meetings": 30_000}
_MEASURED = (
    "import os, sys, time\n"
    "begun = time.monotonic()\n"
    "child = os.fork()\n"
    "if child == 0: os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
    "_, status, usage = os.wait4(child, 0)\n"
    "sys.stderr.write(f'MEASURED {time.monotonic() - begun} {usage.ru_maxrss / 1024} "
    "{os.waitstatus_to_exitcode(status)}\\n')\n"
)


def run() -> list[Row]:
    return [*_against_the_floor(), *_nothing_new(), *_million(), _cold_start()]


def _against_the_floor() -> list[Row]:
    with serving(**LOADED) as url, tempfile.TemporaryDirectory() as folder:
        floor_s, _, out = _measured(Path(folder), url, "tests.bench._floor", url, "floor.duckdb")
        took_s, peak_mb, _ = _measured(Path(folder), url, "pipelines.cli", "pull", "--json", "-q")
        inside_s = float(out)
        ratio = took_s / floor_s
        return [
            Row(
                "120,000 rows, unlimited server, from nothing to the published file",
                f"{took_s:.1f} s, {peak_mb:.0f} MB",
                f"floor {floor_s:.1f} s ({inside_s:.1f} s without imports)",
            ),
            Row("the same, against the floor", f"{ratio:.2f} x", "<= 3.5 x, aim 2 x", ratio <= 3.5),
        ]


def _nothing_new() -> list[Row]:
    """A re-read of 900 pages at the real limits: 300 at once, then 300 a minute later, twice."""
    real = {"HIRINGCENTER_RATE_LIMITS": "300/60s,6000/3600s"}
    small = {**real, "HIRINGCENTER_PULL__FULL_SHARE": "0.01"}
    with serving(**GROWN) as url, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _measured(folder, url, "pipelines.cli", "pull", "--json", "-q")
        time.sleep(61)  # what that one has spent would count against the next
        took_s, peak_mb, out = _measured(
            folder, url, "pipelines.cli", "pull", "--json", "-q", environment=real
        )
        requests = json.loads(out)["requests"]
        beside_s = took_s - (requests - 1) // 300 * 60.05
        _, _, narrow = _measured(
            folder, url, "pipelines.cli", "pull", "--json", "-q", environment=small
        )
        few = json.loads(narrow)["requests"]
        return [
            Row(
                "180,000 rows, nothing new, at 300/60 s + 6000/3600 s",
                f"{requests} requests, {took_s:.1f} s, {peak_mb:.0f} MB",
                "900 pages and GET /auth",
            ),
            Row("beside what its requests must wait", f"{beside_s:.1f} s", "<= 2 s", beside_s <= 2),
            Row("with 1 % of the hour as share", f"{few} requests", "<= 120", few <= 120),
        ]


def _million() -> list[Row]:
    peaks: dict[str, tuple[float, float]] = {}
    for name, sizes in (("100,000", _tenth(MILLION)), ("1,000,000", MILLION)):
        with serving(**sizes) as url, tempfile.TemporaryDirectory() as folder:
            took_s, peak_mb, _ = _measured(
                Path(folder), url, "pipelines.cli", "pull", "--json", "-q"
            )
            peaks[name] = (took_s, peak_mb)
    return [
        Row(f"peak memory, {name} rows", f"{peak_mb:.0f} MB ({took_s:.0f} s)", "<= 500 MB",
            peak_mb <= 500)
        for name, (took_s, peak_mb) in peaks.items()
    ]  # fmt: skip


def _tenth(sizes: dict[str, int]) -> dict[str, int]:
    return {name: count // 10 for name, count in sizes.items()}


def _cold_start() -> Row:
    with tempfile.TemporaryDirectory() as folder:
        best_s = min(_measured(Path(folder), "", "pipelines.cli", "--help")[0] for _ in range(5))
    return Row("hiringcenter --help, best of 5", f"{best_s:.2f} s", "<= 0.5 s", best_s <= 0.5)


def _measured(
    folder: Path, url: str, module: str, *arguments: str, environment: dict[str, str] | None = None
) -> tuple[float, float, str]:
    """Seconds, peak resident MB and stdout of one module run as a process of its own."""
    own: dict[str, Any] = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HIRINGCENTER_API_KEY": "sandbox-key",
        "HIRINGCENTER_BASE_URL": url or "http://127.0.0.1:9/v2",
        "HIRINGCENTER_RATE_LIMITS": "100000000/60s",
        **(environment or {}),
    }
    ended = subprocess.run(
        [sys.executable, "-c", _MEASURED, "-m", module, *arguments],
        cwd=folder, env=own, capture_output=True, text=True, check=True,
    )  # fmt: skip
    _, took_s, peak_mb, code = ended.stderr.splitlines()[-1].split()
    assert code == "0", ended.stderr
    return float(took_s), float(peak_mb), ended.stdout
