"""One process of the push bench: a million rows that were accepted before, one in a hundred
changed since. Run as `python -m tests.bench._push_million FOLDER ROWS`; prints JSON."""

from __future__ import annotations

import csv
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from connector.budget.database import Database
from connector.sandbox import Sandbox, SandboxOptions
from connector.settings import Settings
from connector.upsert.inputs import open_input
from connector.upsert.outbox.outbox import Outbox
from connector.upsert.outbox.outbox_schema import aliases, receipts
from connector.upsert.rows.column_mapping import match_columns
from connector.upsert.rows.row_checks import Validator, ValidRow
from pipelines.push.push_input import PushRequest
from pipelines.push.push_run import push
from pipelines.running.account_outbox import key_number, outbox_database

_CHANGED_EVERY = 100
_NAMES = ("Ada", "José", "Zoë", "李", "Olu", "Anna-Lena", "Søren", "Mehmet")


def write_csv(path: Path, rows: int, *, changed: bool) -> None:
    """`rows` people; with `changed`, one in a hundred has another title."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["First Name", "Last Name", "E-mail", "Phone", "Title", "Company", "City"])
        for n in range(rows):
            title = "Changed" if changed and n % _CHANGED_EVERY == 0 else "Agent"
            writer.writerow(
                [
                    _NAMES[n % len(_NAMES)], f"Last{n}", f"person{n}@example.org",
                    f"+1415{2000000 + n % 8000000:07}", title, f"Company {n % 997}", "Oakland",
                ]
            )  # fmt: skip


def accept_all(settings: Settings, path: Path) -> None:
    """Put every row of `path` into the outbox as accepted, without sending it."""
    ledger = Database(settings.resolved_ledger_url)
    database = outbox_database(settings)
    outbox = Outbox(database, key_number(settings, ledger))
    rows = open_input(path)
    validator = Validator(match_columns(rows.columns))
    names: list[dict[str, Any]] = []
    accepted: list[dict[str, Any]] = []
    now_ms = int(time.time() * 1000)

    def flush() -> None:
        with database.write() as connection:
            connection.execute(sa.insert(aliases), names)
            connection.execute(sa.insert(receipts), accepted)
        names.clear()
        accepted.clear()

    for row in rows:
        valid = validator.check(row)
        assert isinstance(valid, ValidRow)
        assert valid.email is not None
        assert valid.phone is not None
        prospect = {"scope": outbox.scope, "prospect_id": f"p{row.row_number}"}
        for kind, value in (("email", valid.email), ("phone", valid.phone)):
            alias = outbox.hasher.alias(kind, value)  # type: ignore[arg-type]
            names.append({**prospect, "alias": alias, "kind": kind, "confirmed": True})
        accepted.append(
            {
                **prospect,
                "tail": outbox.hasher.content(valid.payload),
                "accepted_ms": now_ms,
                "updated_at_ms": now_ms,
                "seen_ms": now_ms,
            }
        )
        if len(accepted) >= 10_000:
            flush()
    if accepted:
        flush()
    database.close()
    ledger.close()


def main(folder: Path, rows: int) -> dict[str, Any]:
    before, after = folder / "before.csv", folder / "after.csv"
    options = SandboxOptions(prospects=0, notes=0, tasks=0, meetings=0)
    with Sandbox(options) as sandbox:
        settings = Settings(
            api_key=sandbox.api_key,
            base_url=sandbox.url,
            rate_limits="10000000/60s",
            state_dir=folder / "state",
            duckdb_path=folder / "data.duckdb",
        )
        settings.state_dir.mkdir()
        write_csv(before, rows, changed=False)
        accept_all(settings, before)
        write_csv(after, rows, changed=True)
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        dry = push(settings, PushRequest(file=str(after), dry_run=True)).summary
        planned_s = time.monotonic() - began_s
        planned_cpu_s = time.process_time() - began_cpu_s
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        began_s = time.monotonic()
        real = push(settings, PushRequest(file=str(after))).summary
        sent = [change.payload["title"] for change in sandbox.applied]
    return {
        "planned_s": planned_s,
        "planned_cpu_s": planned_cpu_s,
        "planned_mb": peak_mb,
        "pushed_s": time.monotonic() - began_s,
        "pushed_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "would_update": dry["would_update"],
        "unchanged": real["unchanged"],
        "sent": len(sent),
        "sent_unchanged": sum(title != "Changed" for title in sent),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
