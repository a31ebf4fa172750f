"""180,000 rows with nothing new, at the real limits: requests, and the time beyond their waits."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from tests.bench import Row
from tests.bench._costs import hiringcenter
from tests.bench._serving import serving

SIZES = {"prospects": 100_000, "notes": 50_000, "tasks": 20_000, "meetings": 10_000}
_REAL = {"HIRINGCENTER_RATE_LIMITS": "300/60s,6000/3600s"}
_SMALL = {**_REAL, "HIRINGCENTER_PULL__FULL_SHARE": "0.01"}


def run() -> list[Row]:
    """300 requests at once, then 300 a minute later, and so on."""
    with serving(**SIZES) as url, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hiringcenter(folder, url, "pull")
        time.sleep(61)  # what that one has spent would count against the next
        cost = hiringcenter(folder, url, "pull", **_REAL)
        requests = json.loads(cost.out)["requests"]
        beyond_s = cost.wall_s - (requests - 1) // 300 * 60.05
        few = json.loads(hiringcenter(folder, url, "pull", **_SMALL).out)["requests"]
    return [
        Row("180,000 rows, nothing new, at 300/60 s + 6000/3600 s",
            f"{requests} requests\n{cost}", "≤ 620 requests", requests <= 620),
        Row("beyond what its requests must wait", f"{beyond_s:.1f} s", "≤ 2 s", beyond_s <= 2),
        Row("with 1 % of the hour as share", f"{few} requests", "≤ 120", few <= 120),
    ]  # fmt: skip
