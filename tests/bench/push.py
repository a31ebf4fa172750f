"""Pushes: a million rows planned and diffed, kills at random instants, the pace at 300 ms."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench import Row
from tests.processes.push_kills import Killed, push_under_fire

_ROWS = 1_000_000
_PLAN_S = 90.0
_MEMORY_MB = 500
_KILLS = 100
_ROOT = Path(__file__).parents[2]


def run() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="push-") as folder:
        return [*_million(Path(folder)), *_kills(Path(folder))]


def _million(folder: Path) -> list[Row]:
    """Two pushes of one file against the copy of a pull: nothing is settled yet, then all is."""
    return [
        row
        for number, which in enumerate(("first push", "second push"))
        for row in _rows_of(which, _pushed(folder, number))
    ]


def _pushed(folder: Path, number: int) -> dict[str, Any]:
    arguments, out = [str(folder), str(_ROWS), str(number)], subprocess.PIPE
    for step in ("prepare", "measure"):
        command = [sys.executable, "-m", "tests.bench._push_million", step, *arguments]
        done = subprocess.run(command, cwd=_ROOT, check=True, stdout=out, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _rows_of(which: str, found: dict[str, Any]) -> list[Row]:
    changed, summary = _ROWS // 100, found["summary"]
    exact = (found["sent"], found["sent_unchanged"], summary["unchanged"])
    return [
        Row(
            f"{_ROWS:,}-row CSV, 1 % changed, {which}: planned against the copy",
            f"{found['planned_s']:.0f} s ({found['planned_cpu_s']:.0f} s of CPU)",
            f"<= {_PLAN_S:.0f} s",
            found["planned_s"] <= _PLAN_S,
        ),
        Row(
            "its peak memory, sending and results included",
            f"{found['pushed_mb']} MB ({found['planned_mb']} MB planning)",
            f"<= {_MEMORY_MB} MB",
            found["pushed_mb"] <= _MEMORY_MB,
        ),
        Row(
            "rows sent",
            f"{found['sent']:,}, of them unchanged: {found['sent_unchanged']}",
            f"{changed:,}, 0",
            exact == (changed, 0, _ROWS - changed),
        ),
    ]


def _kills(folder: Path) -> list[Row]:
    keeps, forgets = folder / "keeps", folder / "forgets"
    keeps.mkdir()
    forgets.mkdir()
    kept = push_under_fire(keeps, rows=4_000, kills=_KILLS, seed=3)
    forgot = push_under_fire(forgets, rows=4_000, kills=_KILLS, seed=4, keys_ttl_s=1.0)
    once = len(kept.applied) == 4_000 and set(kept.applied.values()) == {1}
    return [
        Row(f"{kept.kills} SIGKILLs, keys kept", _told(kept), "4,000 rows, each once", once),
        Row(
            f"{forgot.kills} SIGKILLs, keys forgotten after 1 s",
            _told(forgot),
            "none doubled, the rest uncertain",
            not forgot.doubled and 4_000 - len(forgot.applied) <= forgot.summary["failed"],
        ),
    ]


def _told(killed: Killed) -> str:
    uncertain = killed.summary["failed"]
    return f"{len(killed.applied):,} applied, {len(killed.doubled)} doubled, {uncertain} uncertain"
