"""New people per second, where neither latency (1 ms) nor limits slow a push down.

Beside it, the same POSTs by hand: httpx and four threads, nothing on disk.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.bench import Row
from tests.bench._costs import Cost, Yardstick, compare, cost_of, each_run, hiringcenter
from tests.bench._serving import serving

_ROWS = 3_000
_EMPTY = {"prospects": 0, "notes": 0, "tasks": 0, "meetings": 0}


def run() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="push-") as folder:
        costs = each_run(_measure, Path(folder))
    ours, floor = costs["push"], costs["floor"]
    rate, floor_rate = (_ROWS / each.wall_s for each in (ours, floor))
    return [
        *compare(f"{_ROWS:,} new people", ours, Yardstick("by hand", floor)),
        Row("rows per second", f"{rate:.0f}", f"by hand {floor_rate:.0f}"),
    ]


def _measure(folder: Path) -> dict[str, Cost]:
    write_people(folder / "people.csv", _ROWS)
    with serving(**_EMPTY, latency_s=0.001) as url:
        floor = cost_of(folder, "-m", "tests.bench._floor", url, "people.csv")
    with serving(**_EMPTY, latency_s=0.001) as url:
        pushed = hiringcenter(folder, url, "push", "people.csv")
    assert json.loads(pushed.out)["created"] == _ROWS, pushed.out
    return {"floor": floor, "push": pushed}


def write_people(path: Path, count: int) -> None:
    """A CSV of `count` people whom HiringCenter doesn't have."""
    lines = [f"Person,Number {_letters(n)},person{n}@example.org" for n in range(count)]
    path.write_text("\n".join(["firstName,lastName,email", *lines, ""]), encoding="utf-8")


def _letters(number: int) -> str:
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))
