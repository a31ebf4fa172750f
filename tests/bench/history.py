"""What histories add to a load of 150,000 rows, and thirty days with a scan every few hours."""

from __future__ import annotations

import tempfile
import time
from datetime import timedelta
from pathlib import Path

from tests.bench import Row
from tests.bench._costs import Cost, Yardstick, compare, each_run, hiringcenter
from tests.bench._serving import serving
from tests.bench.load import SIZES, change_some
from tests.sync.pull.thirty_days import thirty_days

_WITHOUT = {"HIRINGCENTER_PULL__HISTORY": "[]"}
_AT_MOST = 1.15
_SEEDS = 3


def run() -> list[Row]:
    with serving(**SIZES) as url, tempfile.TemporaryDirectory(prefix="history-") as folder:
        hiringcenter(Path(folder), url, "pull")  # the server makes its records when first read
        costs = each_run(lambda place: _measure(place, url), Path(folder, "runs"))
    rows = []
    for what in ("150,000 rows", "nothing new", "1 % changed"):
        limit = _AT_MOST if what == "150,000 rows" else None
        without = Yardstick("without", costs[f"{what}, without"], limit)
        rows += compare(what, costs[what], without)
    rows += compare("histories filled", costs["filled"])
    return [*rows, *map(_month, range(_SEEDS))]


def _measure(folder: Path, url: str) -> dict[str, Cost]:
    """With and without take turns."""
    own, other = folder / "with", folder / "without"
    own.mkdir(parents=True)
    other.mkdir()
    costs = {}
    for what in ("150,000 rows", "nothing new", "1 % changed"):
        if what == "1 % changed":
            change_some(url, SIZES["prospects"] // 50)
        costs[f"{what}, without"] = hiringcenter(other, url, "pull", **_WITHOUT)
        costs[what] = hiringcenter(own, url, "pull")
    return {**costs, "filled": hiringcenter(other, url, "pull")}


def _month(seed: int) -> Row:
    with tempfile.TemporaryDirectory(prefix="history-") as folder:
        began_s = time.process_time()
        month = thirty_days(Path(folder), every=timedelta(hours=4), moves=4, seed=seed)
        changes = month.check()
        killed = sum(not is_whole for _, is_whole in month.pulls)
    return Row(
        f"thirty days, seed {seed}",
        f"{len(month.pulls)} pulls, {killed} of them killed or resumed, {changes} changes, "
        f"{time.process_time() - began_s:.0f} s CPU",
        "each change once, in its bounds",
        True,
    )
