"""How fast records become rows, and what a scan costs besides its requests; one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from connector.sandbox.generated_records import Generated
from connector.sandbox.sandbox_options import BASE_TIME_MS, RESOURCES
from connector.source.fields import split_malformed
from connector.source.list_pages import Sightings
from connector.source.row_maker import RowMaker
from tests.bench import Row

RECORDS = 20_000
PAGE = 200
ROWS_PER_S = 60_000


def run() -> list[Row]:
    """Records per second and resource: typed, named, hashed; and counted by a scan."""
    made = []
    for resource in RESOURCES:
        source = Generated(resource, 1, RECORDS, RECORDS, BASE_TIME_MS)
        records = [source.record(number) for number in range(RECORDS)]
        maker, seen = RowMaker(resource, {}), Sightings(BASE_TIME_MS)
        per_s = _per_s(records, lambda page, maker=maker: maker.table(maker.unique(page)))
        seen_per_s = _per_s(
            records, lambda page, seen=seen: seen.see(*split_malformed(page), in_order=True)
        )
        made += [
            Row(f"{resource}: records → rows", f"{per_s:,.0f}/s", f"≥ {ROWS_PER_S:,}/s",
                per_s >= ROWS_PER_S),
            Row(f"{resource}: a scan's own bookkeeping", f"{seen_per_s:,.0f}/s", "–"),
        ]  # fmt: skip
    return made


def _per_s(records: list[Any], work: Callable[[list[Any]], Any]) -> float:
    """By CPU time, the best of three: everything slower than that is the machine's."""
    best_s = float("inf")
    for _ in range(3):
        began_s = time.process_time()
        for first in range(0, len(records), PAGE):
            work(records[first : first + PAGE])
        best_s = min(best_s, time.process_time() - began_s)
    return len(records) / best_s
