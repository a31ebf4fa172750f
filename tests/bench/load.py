"""Loading 150,000 rows from a server without limits, and loading again: what our own code costs.

Beside it, a floor that was written by hand (`_floor.py`), and dlt's own rest_api source
(`_dlt_rest.py`), which reads the same pages.
"""

from __future__ import annotations

import json
import tempfile
import urllib.request
from pathlib import Path

from tests.bench import Row
from tests.bench._costs import Cost, Yardstick, compare, cost_of, each_run, hiringcenter
from tests.bench._serving import server_cpu_s, serving

_ROWS_ALONE = {"HIRINGCENTER_PULL__HISTORY": "[]", "HIRINGCENTER_MARTS__ENABLED": "false"}
SIZES = {"prospects": 75_000, "notes": 45_000, "tasks": 20_000, "meetings": 10_000}


def run() -> list[Row]:
    with serving(**SIZES) as url, tempfile.TemporaryDirectory(prefix="load-") as folder:
        warm = Path(folder, "warm")
        warm.mkdir()
        _floor(warm, url)  # the server makes its records when they are first read
        before_s = server_cpu_s(url)
        _floor(warm, url, "again.duckdb")
        served_s = server_cpu_s(url) - before_s
        costs = each_run(lambda place: _measure(place, url), Path(folder))
    floor, rest, rest_again = costs["floor"], costs["rest_api"], costs["rest_api again"]
    alone = costs["rows alone"]
    return [
        *compare("150,000 rows", costs["pull"], Yardstick("floor", floor, 2.0),
                 Yardstick("dlt", rest, 0.4)),
        Row("without histories and marts", str(alone),
            f"{alone.wall_s / floor.wall_s:.2f} × floor\n{alone.wall_s / rest.wall_s:.2f} × dlt"),
        *compare("nothing new", costs["again"], Yardstick("dlt", rest_again, 0.6)),
        *compare("1 % changed", costs["changed"]),
        Row("the server, 150,000 rows", f"{served_s:.2f} CPU", "far below the floor"),
    ]  # fmt: skip


def _measure(folder: Path, url: str) -> dict[str, Cost]:
    alone = folder / "alone"
    alone.mkdir()
    costs = {
        "rows alone": hiringcenter(alone, url, "pull", **_ROWS_ALONE),
        "floor": _floor(folder, url),
        "rest_api": _rest_api(folder, url),
        "pull": hiringcenter(folder, url, "pull"),
        "rest_api again": _rest_api(folder, url),
        "again": hiringcenter(folder, url, "pull"),
    }
    change_some(url, SIZES["prospects"] // 50)
    return {**costs, "changed": hiringcenter(folder, url, "pull")}


def _floor(folder: Path, url: str, file: str = "floor.duckdb") -> Cost:
    return cost_of(folder, "-m", "tests.bench._floor", url, file)


def _rest_api(folder: Path, url: str) -> Cost:
    return cost_of(folder, "-m", "tests.bench._dlt_rest", url, "rest.duckdb")


def change_some(url: str, count: int) -> None:
    """Another title for `count` prospects, in the middle of the server's list."""
    store = url.replace("/v2", "/__sandbox__/store/prospects")
    with urllib.request.urlopen(store) as response:
        records = json.load(response)
    for record in records[count : 2 * count]:
        order = {"op": "update", "id": record["id"], "record": {"title": f"{record['updatedAt']}"}}
        urllib.request.urlopen(store, json.dumps(order).encode()).close()
