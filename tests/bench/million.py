"""A first pull of a million rows: memory must stay flat."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.bench import Row
from tests.bench._costs import each_run, hiringcenter
from tests.bench._serving import serving

SIZES = {"prospects": 600_000, "notes": 300_000, "tasks": 70_000, "meetings": 30_000}
_MEMORY_MB = 500


def run() -> list[Row]:
    rows = []
    for what, share in (("100,000 rows", 10), ("1,000,000 rows", 1)):
        sizes = {name: count // share for name, count in SIZES.items()}
        with serving(**sizes) as url, tempfile.TemporaryDirectory(prefix="million-") as folder:
            cost = each_run(
                lambda place, url=url: {"pull": hiringcenter(place, url, "pull")}, Path(folder)
            )["pull"]
        rows.append(Row(what, str(cost), f"≤ {_MEMORY_MB} MB", cost.mb <= _MEMORY_MB))
    return rows
