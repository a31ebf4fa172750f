"""What a run costs before it does anything: an empty account, and `--help`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.bench import Row
from tests.bench._costs import Cost, Yardstick, compare, cost_of, each_run, hiringcenter
from tests.bench._serving import serving

_EMPTY = {"prospects": 0, "notes": 0, "tasks": 0, "meetings": 0}
_LIBRARIES = "import duckdb, httpx, orjson, pyarrow, sqlalchemy"
_HELP_S = 0.5


def run() -> list[Row]:
    with serving(**_EMPTY) as url, tempfile.TemporaryDirectory(prefix="start-") as folder:
        costs = each_run(lambda place: _measure(place, url), Path(folder))
    helped = costs["help"]
    return [
        *compare("empty account", costs["pull"], Yardstick("libraries", costs["bare"]),
                 Yardstick("dlt", costs["rest_api"], 0.8)),
        *compare("again", costs["again"], Yardstick("dlt", costs["rest_api again"], 0.8)),
        Row("hiringcenter --help", str(helped), f"≤ {_HELP_S} s", helped.wall_s <= _HELP_S),
    ]  # fmt: skip


def _measure(folder: Path, url: str) -> dict[str, Cost]:
    rest = ("-m", "tests.bench._dlt_rest", url, "rest.duckdb")
    return {
        "bare": cost_of(folder, "-c", _LIBRARIES),
        "rest_api": cost_of(folder, *rest),
        "pull": hiringcenter(folder, url, "pull"),
        "rest_api again": cost_of(folder, *rest),
        "again": hiringcenter(folder, url, "pull"),
        "help": cost_of(folder, "-m", "pipelines.cli", "--help"),
    }
