"""One push of the push bench: a million people as a pull has copied them, one in a hundred changed
in the file. Run as `python -m tests.bench._push_million prepare|measure FOLDER ROWS NUMBER`; to
measure prints JSON.

Number 0 is the first push of the file: nothing of it is settled yet. Later ones change other rows.
"""

from __future__ import annotations

import csv
import gc
import hashlib
import json
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb

from connector.sandbox import Sandbox, SandboxOptions
from connector.settings import Settings
from pipelines.push.push_input import PushRequest
from pipelines.push.push_run import push
from pipelines.running.progress import Progress, ProgressState

_CHANGED_EVERY = 100
_NAMES = ("Ada", "José", "Zoë", "李", "Olu", "Anna-Lena", "Søren", "Mehmet")
_COLUMNS = ("First Name", "Last Name", "E-mail", "Phone", "Title", "Company")
_NAMES_SQL = ", ".join(f"'{name}'" for name in _NAMES)
# as a pull makes it; the copy was read just now, so that no one is looked up again
_COPY = f"""
CREATE SCHEMA hiringcenter;
CREATE TABLE hiringcenter.prospects AS
SELECT md5(n::VARCHAR) AS id, [{_NAMES_SQL}][n % 8 + 1] AS first_name,
    'Last' || n AS last_name, 'person' || n || '@example.org' AS email,
    '+1415' || lpad((2000000 + n % 8000000)::VARCHAR, 7, '0') AS phone,
    'Lead' AS current_stage, 'stg_lead' AS current_stage_id, '["Inbound"]'::JSON AS labels,
    'Agent' AS title, 'Company ' || n % 997 AS company,
    now() - INTERVAL 1 YEAR AS created_at, now() - INTERVAL 1 DAY AS updated_at,
    repeat('x', 32) AS _hc_hash, NULL::TIMESTAMPTZ AS _hc_deleted_at,
    NULL::TIMESTAMPTZ AS _hc_unlisted_at
FROM range(ROWS) AS each(n) ORDER BY hash(n);
"""
_FRESHNESS = """
CREATE OR REPLACE TABLE hiringcenter._hc_freshness AS
SELECT 'prospects' AS resource, now() AS last_complete_at;
"""


def _person(n: int) -> list[str]:
    return [
        _NAMES[n % len(_NAMES)], f"Last{n}", f"person{n}@example.org",
        f"+1415{2000000 + n % 8000000:07}", "Agent", f"Company {n % 997}",
    ]  # fmt: skip


def write_csv(path: Path, rows: int, number: int) -> None:
    """`rows` people, as push `number` has them: it and each one before it have changed the titles
    of one person in a hundred."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(_COLUMNS)
        for n in range(rows):
            person = _person(n)
            if n % _CHANGED_EVERY <= number:
                person[4] = "Changed"
            writer.writerow(person)


def copy_people(path: Path, rows: int) -> None:
    """The copy that a pull has published, but for tables that pushes don't read."""
    with duckdb.connect(str(path)) as connection:
        if not connection.execute("FROM duckdb_tables()").fetchall():
            connection.execute(_COPY.replace("ROWS", str(rows)))
        connection.execute(_FRESHNESS)


class _Planned(Progress):
    """Notes when planning was done: the first that is shown of a row that was sent."""

    def __init__(self) -> None:
        self.began_s, self.began_cpu_s = time.monotonic(), time.process_time()
        self.facts: dict[str, float] = {}

    def show(self, state: ProgressState) -> None:
        if state.total is not None and not self.facts:
            self.facts = {
                "planned_s": time.monotonic() - self.began_s,
                "planned_cpu_s": time.process_time() - self.began_cpu_s,
                "planned_mb": _peak_mb(),
            }


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def prepare(folder: Path, rows: int, number: int) -> None:
    """Write the file and the copy, in a process of its own: their memory isn't the push's."""
    write_csv(folder / "people.csv", rows, number)
    copy_people(folder / "data.duckdb", rows)


def measure(folder: Path, rows: int, number: int) -> dict[str, Any]:
    gc.set_threshold(50_000, 20, 20)  # as the command line does
    with Sandbox(SandboxOptions(prospects=0, notes=0, tasks=0, meetings=0)) as sandbox:
        settings = Settings(
            api_key=sandbox.api_key,
            base_url=sandbox.url,
            rate_limits="10000000/60s",
            state_dir=folder / "state",
            duckdb_path=folder / "data.duckdb",
        )
        settings.state_dir.mkdir(exist_ok=True)
        keys = ("id", "firstName", "lastName", "email", "phone", "title", "company")
        for n in range(number, rows, _CHANGED_EVERY):  # those alone are ever asked for
            id_ = hashlib.md5(str(n).encode(), usedforsecurity=False).hexdigest()
            person = dict(zip(keys, (id_, *_person(n)), strict=True))
            sandbox.store.create("prospects", person)
        planned = _Planned()
        began_s = time.monotonic()
        request = PushRequest(file=str(folder / "people.csv"))
        summary = push(settings, request, lambda _: planned).summary
        titles = Counter(change.payload.get("title") for change in sandbox.applied)
        return {
            **planned.facts,
            "pushed_s": time.monotonic() - began_s,
            "pushed_mb": _peak_mb(),
            "summary": summary,
            "sent": len({change.id for change in sandbox.applied}),
            "sent_unchanged": titles.total() - titles["Changed"],
        }


if __name__ == "__main__":
    step, place, count, nth = sys.argv[1:]
    if step == "prepare":
        prepare(Path(place), int(count), int(nth))
    else:
        print(json.dumps(measure(Path(place), int(count), int(nth))))
