"""One script for every destination: what lands, what pushes see of it, and what a kill leaves.

What has landed is read through dlt's own client, and compared with the mock API's records without
any code of the connector.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import dlt
from pydantic import SecretStr

from connector.sandbox import RESOURCES, Sandbox, SandboxOptions
from connector.sandbox.state import LoggedRequest
from connector.settings import PullSettings, RateLimit, Settings
from pipelines.commands.status_commands import one_run, recent_runs, status
from pipelines.destination.dlt_options import own_configuration
from pipelines.pull.pull_run import PullReport, Wanted, pull
from pipelines.push.push_input import PushRequest
from pipelines.push.push_report import PushReport
from pipelines.push.push_run import push
from pipelines.report.report_page import write_report
from pipelines.running.checks import run_checks
from tests.destinations.servers import Running
from tests.sync.pull.truth import Rows, differences, expected

DATASET = "hiringcenter"
SIZES = {"prospects": 24, "notes": 10, "tasks": 6, "meetings": 4}
Step = Callable[["Script"], None]
STEPS: dict[str, Step] = {}


def step(work: Step) -> Step:
    """Make `work` a step of the script; its docstring is what it proves."""
    STEPS[work.__name__] = work
    return work


@dataclass
class Script:
    """The script at one destination, which is empty at first. Its steps build on one another."""

    sandbox: Sandbox
    settings: Settings
    gone: dict[str, Any] = field(default_factory=dict)

    def pull(self, settings: Settings | None = None, **wanted: bool) -> PullReport:
        report = pull(settings or self.settings, Wanted(RESOURCES, **wanted))
        assert report.error is None, report.error
        return report

    def push(self, **asked: Any) -> PushReport:
        report = push(self.settings, PushRequest(**asked))
        assert report.error is None, report.error
        return report

    def assert_true(self) -> None:
        """Every field of every record has landed, and no row more."""
        for resource, found in self.landed(*RESOURCES).items():
            truth = expected(self.sandbox, resource)
            assert found.keys() == truth.keys(), resource
            for record_id, row in truth.items():
                wrong = differences(typed_as(row, found[record_id]), row)
                assert not wrong, f"{resource} {record_id}: {wrong}"

    def landed(self, *lists: str) -> dict[str, Rows]:
        """The live rows of lists by id, as the destination's client gives them."""
        landed: dict[str, Rows] = {}
        for name, rows in self.tables(*lists).items():
            live = [row for row in rows if row["_hc_deleted_at"] is None]
            landed[name] = {
                row["id"]: {
                    column: value
                    for column, value in row.items()
                    if value is not None and not column.startswith(("_hc_", "_dlt_"))
                }
                for row in live
            }
            assert len(landed[name]) == len(live), f"{name}: a row landed twice"
        return landed

    def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of a table."""
        return self.tables(table)[table]

    def tables(self, *names: str) -> dict[str, list[dict[str, Any]]]:
        """All rows of tables, read without any code of ours but dlt's options."""
        with self.reader() as client:
            found = {}
            for name in names:
                sql = f"SELECT * FROM {client.make_qualified_table_name(name)}"
                with client.execute_query(sql) as cursor:
                    columns = [column.lower() for column in cursor.columns_schema]
                    found[name] = [
                        dict(zip(columns, row, strict=True)) for row in cursor.fetchall()
                    ]
            return found

    @contextmanager
    def reader(self) -> Iterator[Any]:
        """dlt's client of the destination."""
        destination: Any = self.settings.destination
        if destination == "duckdb":
            destination = dlt.destinations.duckdb(str(self.settings.duckdb_path))
        with own_configuration(), tempfile.TemporaryDirectory() as folder:
            pipeline = dlt.pipeline(
                "hiringcenter",
                destination=destination,
                dataset_name=DATASET,
                pipelines_dir=folder,
            )
            if destination == "filesystem":  # its tables are those of its schema
                pipeline.sync_destination()
            with cast(Any, pipeline.sql_client()) as client:
                yield client

    def name(self, table: str) -> str:
        """A table's name in a query of `push --sql`."""
        with self.reader() as client:
            return str(client.make_qualified_table_name(table))


def typed_as(truth: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """`row` with what a database stores as another type: times as text or without a zone, truth
    values as numbers, numbers as decimals, JSON as text, written once."""
    found = dict(row)
    for name, value in found.items():
        true = truth.get(name)
        if isinstance(true, datetime):
            found[name] = _time(value)
        elif isinstance(true, bool) and value in (0, 1):
            found[name] = bool(value)
        elif isinstance(true, list | dict) and isinstance(value, str):
            found[name] = json.loads(value)
        elif isinstance(value, int | Decimal) and not isinstance(value, bool) and value == true:
            found[name] = true
    return found


def _time(value: Any) -> Any:
    value = datetime.fromisoformat(value) if isinstance(value, str) else value
    if isinstance(value, datetime):
        value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return value


def settings_for(sandbox: Sandbox, folder: Path, **changes: Any) -> Settings:
    return Settings(
        **{
            "api_key": SecretStr(sandbox.api_key),
            "base_url": sandbox.url,
            "state_dir": folder / "state",
            "duckdb_path": folder / "hc.duckdb",
            "rate_limits": (RateLimit(1_000_000, 60.0),),
            "pull": PullSettings(),
            **changes,
        }
    )


# --- the steps ------------------------------------------------------------------------------------


@step
def every_field_of_every_record_lands(script: Script) -> None:
    """A first pull equals the API, in values and in types."""
    script.pull()
    script.assert_true()


@step
def a_second_pull_writes_nothing(script: Script) -> None:
    """Unchanged rows are read, and left alone."""
    resources = script.pull().summary["resources"]
    assert {facts["rows_written"] for facts in resources.values()} == {0}
    assert {facts["rows_deleted"] for facts in resources.values()} == {0}


@step
def check_writes_merges_and_deletes(script: Script) -> None:
    """`check` tries what loads do, and leaves nothing."""
    failed = [check for check in run_checks(script.settings) if not check.ok]
    assert not failed, failed


@step
def edits_additions_and_deletions_land(script: Script) -> None:
    """A new field and one whose type changes, empty and long texts; by a full scan also an edit
    without a newer `updatedAt`, and deleted records."""
    store, gone = script.sandbox.store, {}
    for resource in RESOURCES:
        first, second, *_, third, fourth = store.all(resource)
        store.update(resource, first["id"], {"title": "Changed", "company": "", "score": 7})
        store.update(resource, second["id"], {"title": "x" * 70_000, "tags": ["a", {"b": None}]})
        store.create(resource, {"firstName": "Neu", "lastName": "Größe 🙂", "shoeSize": 43})
        store.update(resource, third["id"], {"title": "Silently changed"}, touch=False)
        gone[resource] = fourth
        store.delete(resource, fourth["id"])
    script.pull(full=True)
    script.assert_true()
    for resource, rows in script.tables(*RESOURCES).items():
        (row,) = (each for each in rows if each["id"] == gone[resource]["id"])
        created_ms = gone[resource]["createdAt"]
        assert row["_hc_deleted_at"] is not None
        assert _time(row["created_at"]) == datetime.fromtimestamp(created_ms / 1000, UTC)
    script.gone = gone


@step
def returns_and_other_types_land(script: Script) -> None:
    """A person who is back is no longer flagged; a value of another type lands in a variant
    column."""
    store = script.sandbox.store
    for resource, record in script.gone.items():
        store.put(resource, record)
    retyped, left = store.all("prospects")[0], store.all("prospects")[-2]
    store.update("prospects", retyped["id"], {"score": "seven"})
    store.delete("prospects", left["id"])
    script.pull(full=True)
    row = script.landed("prospects")["prospects"][retyped["id"]]
    assert row["score__v_text"] == "seven"
    assert "score" not in row
    store.update("prospects", retyped["id"], {"score": 8})
    script.pull()
    script.assert_true()


@step
def status_runs_and_report_know_it(script: Script) -> None:
    """What the ledger and the destination say of it."""
    result = status(script.settings, None)
    assert result.exit_code == 0
    assert recent_runs(script.settings, 5).summary["runs"]
    run_id = recent_runs(script.settings, 1).summary["runs"][0]["run_id"]
    assert one_run(script.settings, run_id).summary
    assert write_report(script.settings, script.settings.state_dir / "report.html")
    assert {row["kind"] for row in script.rows("_hc_runs")} == {"pull"}
    fresh = {row["resource"]: row for row in script.rows("_hc_freshness")}
    assert fresh.keys() == set(RESOURCES)
    assert fresh["prospects"]["rows"] == len(script.sandbox.store.all("prospects"))


@step
def a_pulled_table_pushed_back_changes_nothing(script: Script) -> None:
    """Every row is as it was pulled; people deleted in HiringCenter stay deleted."""
    before = {each["id"]: each for each in script.sandbox.store.all("prospects")}
    counts = script.push(table="prospects").summary
    assert counts["rows"] == counts["unchanged"] == len(script.rows("prospects"))
    assert {each["id"]: each for each in script.sandbox.store.all("prospects")} == before


@step
def a_query_sends_what_it_changes(script: Script) -> None:
    """One cell of one row, and nothing else of that person."""
    person = next(each for each in script.sandbox.store.all("prospects") if each.get("email"))
    columns = "id, updated_at, _hc_deleted_at, email, first_name, last_name, labels"
    query = (
        f"SELECT {columns}, 'Pushed' AS company FROM {script.name('prospects')} "
        f"WHERE id = '{person['id']}'"
    )
    counts = script.push(sql=query).summary
    assert counts["updated"] == 1, counts
    after = script.sandbox.store.get("prospects", person["id"])
    assert after is not None
    assert after["company"] == "Pushed"
    ignored = {"company", "updatedAt"}
    assert {name: value for name, value in after.items() if name not in ignored} == {
        name: value for name, value in person.items() if name not in ignored
    }


@step
def people_are_matched_by_email_and_by_phone(script: Script) -> None:
    """However the file writes them; no one is created twice or taken for another person."""
    people = [
        each
        for each in script.sandbox.store.all("prospects")
        if each.get("email") and each.get("phone")
    ]
    first, second, third, *_ = people
    digits = "".join(filter(str.isdigit, second["phone"]))
    lines = [
        "email,phone,first_name,last_name,company",
        f"{first['email'].upper()},,{first['firstName']},{first['lastName']},By email",
        f",+{digits},{second['firstName']},{second['lastName']},By phone",
        f",{third['phone']},Another,Person,Not them",
        "new.person@example.com,,New,Person,Theirs",
    ]
    path = script.settings.state_dir.parent / "people.csv"
    path.write_text("\n".join(lines) + "\n")
    counts = script.push(file=str(path)).summary
    found = {name: counts[name] for name in ("updated", "created", "rejected", "failed")}
    assert found == {"updated": 2, "created": 1, "rejected": 1, "failed": 0}
    store = script.sandbox.store
    companies = [(store.get("prospects", each["id"]) or {}).get("company") for each in people[:3]]
    assert companies == ["By email", "By phone", third.get("company")]


@step
def results_land(script: Script) -> None:
    """A row of `_hc_push_results` for each pushed row."""
    rows = script.rows("_hc_push_results")
    statuses = [row["status"] for row in rows]
    assert statuses.count("created") == 1
    assert statuses.count("updated") == 3
    assert statuses.count("rejected") == 1
    assert len({(row["run_id"], row["row_number"]) for row in rows}) == len(rows)
    script.pull()
    script.assert_true()


@step
def a_killed_pull_loses_and_doubles_nothing(script: Script) -> None:
    """Killed before its first answer, between its lists, and at its last request."""
    store = script.sandbox.store
    for at in (1, 3, 5):
        for resource in RESOURCES:
            store.update(resource, store.all(resource)[2]["id"], {"title": f"Killed at {at}"})
        kill_a_pull(script, at)
    script.pull(full=True)
    script.assert_true()


def kill_a_pull(script: Script, at: int) -> None:
    """Kill a process that pulls when it has sent its request `at`, which isn't answered."""
    settings, sandbox = script.settings, script.sandbox
    environment = {
        **os.environ,
        "HIRINGCENTER_API_KEY": sandbox.api_key,
        "HIRINGCENTER_BASE_URL": sandbox.url,
        "HIRINGCENTER_RATE_LIMITS": "1000000/60s",
        "HIRINGCENTER_STATE_DIR": str(settings.state_dir),
        "HIRINGCENTER_DUCKDB_PATH": str(settings.duckdb_path),
        "HIRINGCENTER_DESTINATION": settings.destination,
        "HIRINGCENTER_PULL__CHUNK_PAGES": "1",
        **({"HIRINGCENTER_TABLE_FORMAT": "delta"} if settings.table_format else {}),
    }
    last, arrived = len(sandbox.requests) + at, threading.Event()

    def stalled(request: LoggedRequest) -> str | None:
        if request.number < last:
            return None
        arrived.set()
        return "hang"

    sandbox.options.script = stalled
    try:
        command = [sys.executable, "-m", "pipelines.cli", "pull", "--full", "-q"]
        process = subprocess.Popen(command, env=environment)
        assert arrived.wait(120)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    finally:
        sandbox.options.script = None


@step
def a_new_machine_resumes_from_the_destination(script: Script) -> None:
    """Without the state directory, nothing is lost or doubled."""
    store = script.sandbox.store
    store.update("prospects", store.all("prospects")[4]["id"], {"title": "From elsewhere"})
    other = script.settings.model_copy(
        update={"state_dir": script.settings.state_dir.with_name("other")}
    )
    script.pull(other, take_over=True)
    script.assert_true()


def run_script(running: Running, folder: Path, *, left_out: Collection[str]) -> Iterator[str]:
    """Run all steps but those left out, in order; yields the name of each that has passed."""
    with Sandbox(SandboxOptions(**SIZES)) as sandbox:
        changes = {"destination": running.destination, **running.settings}
        script = Script(sandbox, settings_for(sandbox, folder, **changes))
        for name, work in STEPS.items():
            if name not in left_out:
                work(script)
                yield name
