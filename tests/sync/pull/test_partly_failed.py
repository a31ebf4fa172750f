"""A pull in which one resource fails, or isn't read to its end: what came is published."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import duckdb
import pytest
from pydantic import SecretStr

from connector.budget.database import Database
from connector.errors import Interrupted, Unauthorized
from connector.runs import FreshnessLog
from connector.sandbox import RESOURCES
from connector.sandbox.sandbox_options import ALL_PERMISSIONS
from connector.settings import HttpSettings, RateLimit
from pipelines.commands.status_commands import status
from pipelines.commands.transfer_commands import pull_lines
from tests.sync.pull.conftest import Puller
from tests.sync.pull.truth import expected, landed_duckdb


def _forbid(puller: Puller, resource: str) -> None:
    left = tuple(name for name in ALL_PERMISSIONS if name != f"{resource}:read")
    puller.sandbox.options.permissions = left


def _forbid_after_first_page(puller: Puller, resource: str) -> None:
    """The key loses its permission while the list is read, a page to a chunk."""
    puller.change_pull(chunk_pages=1)
    puller.sandbox.options.max_limits = {resource: 50}
    puller.change(http=HttpSettings(retry_total_s=1.0))

    def script(request: Any) -> None:
        if request.path.endswith(f"/{resource}") and "pageToken" in dict(request.params):
            _forbid(puller, resource)

    puller.sandbox.options.script = script


def _allow(puller: Puller) -> None:
    puller.change_pull(chunk_pages=100)
    puller.sandbox.options.permissions = ALL_PERMISSIONS
    puller.sandbox.options.script = None


def _ages(puller: Puller) -> dict[str, bool]:
    """By resource: whether `status --max-age` calls it fresh."""
    facts = status(puller.settings, 3600.0).summary["resources"]
    return {name: not fact["stale"] for name, fact in facts.items()}


def test_what_the_others_brought_is_published(puller: Puller):
    """A key that may not read meetings: three tables, and an empty one with its columns."""
    _forbid(puller, "meetings")
    report = puller.pull()
    assert isinstance(report.error, Unauthorized)
    assert report.published
    assert "copy" not in report.summary
    landed = puller.landed()
    assert landed["meetings"] == {}
    for resource in ("prospects", "notes", "tasks"):
        assert landed[resource].keys() == expected(puller.sandbox, resource).keys()
    assert _ages(puller) == {name: name != "meetings" for name in RESOURCES}
    with duckdb.connect(str(puller.settings.duckdb_path), read_only=True) as connection:
        columns = connection.execute(
            "SELECT column_name FROM duckdb_columns() WHERE table_name = 'meetings'"
        ).fetchall()
        runs = connection.execute("SELECT status, error FROM hiringcenter._hc_runs").fetchall()
    assert {"meeting_date", "time_zone"} <= {name for (name,) in columns}
    ((run_status, error),) = runs
    assert run_status == "failed"
    assert "/meetings" in error


def test_half_of_a_scan_is_published_and_reported_as_incomplete(puller: Puller):
    """Notes fail in the middle: the edited half is in the copy, nothing is flagged deleted, and
    the summary, `_hc_freshness` and `status` say that the notes aren't proven complete."""
    puller.lists = ("notes", "tasks")
    puller.pulled()
    puller.sandbox.store.delete("notes", puller.sandbox.store.all("notes")[0]["id"])
    for resource in ("notes", "tasks"):
        for record in puller.sandbox.store.all(resource):
            puller.sandbox.store.update(resource, record["id"], {"createdByApi": None})
    _forbid_after_first_page(puller, "notes")
    report = puller.pull()
    assert isinstance(report.error, Unauthorized)
    assert report.published
    assert report.summary["resources"]["notes"]["complete"] is False
    assert "hasn't reached the end" in report.summary["resources"]["notes"]["why_incomplete"]
    assert report.summary["resources"]["tasks"]["complete"] is True
    landed = puller.landed()
    assert len(landed["notes"]) == 200
    edited = sum(row.get("created_by_api") is None for row in landed["notes"].values())
    assert 50 <= edited < 200
    with duckdb.connect(str(puller.settings.duckdb_path), read_only=True) as connection:
        fresh = connection.execute(
            "SELECT complete, why_incomplete IS NULL, last_pull_at IS NULL "
            "FROM hiringcenter._hc_freshness WHERE resource IN ('notes', 'tasks') ORDER BY resource"
        ).fetchall()
    assert fresh == [(False, False, False), (True, True, False)]
    reported = status(puller.settings, None)
    assert reported.summary["resources"]["notes"]["complete"] is False
    assert any("notes" in line and "proven complete" in line for line in reported.lines[1:])
    _allow(puller)
    assert puller.pull_ok().published
    puller.assert_true()


def test_half_of_a_first_scan_is_there_and_isnt_fresh(puller: Puller):
    """Notes stopped in their middle, then are forbidden from the start: the others don't wait."""
    _forbid_after_first_page(puller, "notes")
    assert puller.pull().published
    assert 50 <= len(puller.landed()["notes"]) < 200
    reported = status(puller.settings, 3600.0).summary["resources"]["notes"]
    assert (reported["complete"], reported["last_pull"], reported["stale"]) == (False, None, True)
    report = puller.pull("prospects", "tasks")
    assert report.exit_code == 0
    assert _ages(puller) == {name: name != "notes" for name in RESOURCES}
    _allow(puller)
    puller.pull_ok()
    puller.assert_true()


def test_a_stopped_pull_publishes_what_it_brought(puller: Puller):
    """A signal midway: loaded rows are there, and the next pull resumes."""
    puller.lists = ("prospects", "notes")
    puller.change_pull(chunk_pages=1)
    puller.sandbox.options.max_limits = dict.fromkeys(RESOURCES, 50)

    has_stopped = False

    def stop(request: Any) -> str | None:
        """Nothing more is answered: however late the signal is seen, no list comes to its end."""
        nonlocal has_stopped
        if not has_stopped and "pageToken" in dict(request.params):
            os.kill(os.getpid(), signal.SIGTERM)
            has_stopped = True
        return "hang" if has_stopped else None

    puller.sandbox.options.script = stop
    report = puller.pull()
    puller.sandbox.options.script = None
    assert isinstance(report.error, Interrupted)
    assert report.published
    assert report.summary["status"] == "stopped"
    assert report.summary["resources"]["prospects"]["complete"] is False
    with duckdb.connect(str(puller.settings.duckdb_path), read_only=True) as connection:
        runs = connection.execute("SELECT status FROM hiringcenter._hc_runs").fetchall()
    assert runs == [("stopped",)]
    assert 0 < sum(map(len, puller.landed().values())) < 500
    puller.change_pull(chunk_pages=100)
    puller.pull_ok()
    puller.assert_true()


def test_a_part_that_changed_nothing_is_published_too(puller: Puller):
    """The failed scan read only rows that are there already: its table is unchanged."""
    puller.lists = ("notes", "tasks")
    puller.pulled()
    puller.sandbox.store.create("tasks", {"prospectId": "p", "assignedTo": "u", "task": "call"})
    _forbid_after_first_page(puller, "notes")
    report = puller.pull()
    assert isinstance(report.error, Unauthorized)
    assert report.published
    assert landed_duckdb(puller.settings.duckdb_path, "tasks").keys() == (
        expected(puller.sandbox, "tasks").keys()
    )


def test_a_planned_stop_is_published(puller: Puller):
    """A full scan that is spread over several pulls: each of them is whole, as planned."""
    puller.change_pull(page_size=50)
    puller.pulled("prospects")
    puller.change_pull(page_size=50, full_share=0.0, full_every_s=0.0)
    puller.change(rate_limits=(RateLimit(6, 0.5),))
    puller.sandbox.store.create("prospects", {"firstName": "New", "lastName": "Person"})
    report = puller.pull_ok("prospects")
    facts = report.summary["resources"]["prospects"]
    assert facts["complete"] is False
    assert "as planned" in facts["why_incomplete"]
    assert (report.exit_code, report.published) == (0, True)


def test_a_deleted_copy_isnt_fresh(puller: Puller):
    """Readers see nothing, whatever the ledger knows; the next pull makes it again."""
    puller.pulled()
    assert all(_ages(puller).values())
    puller.settings.duckdb_path.unlink()
    assert not any(_ages(puller).values())
    puller.pull_ok()
    assert all(_ages(puller).values())


def test_a_ledger_from_before_takes_its_pulls_as_published(puller: Puller, tmp_path: Any):
    """No alarm after an upgrade."""
    puller.pulled()
    database = Database(puller.settings.resolved_ledger_url)
    with database.write() as connection:
        connection.exec_driver_sql("DROP TABLE freshness_published")
        for column in ("complete", "why_incomplete", "last_event_ms", "event_miss_rate"):
            connection.exec_driver_sql(f"ALTER TABLE freshness DROP COLUMN {column}")
        connection.exec_driver_sql(
            "UPDATE schema_versions SET version = 1 WHERE component = 'freshness'"
        )
    label = f"duckdb:{puller.settings.duckdb_path}#hiringcenter"
    assert len(FreshnessLog(database).published(label)) == len(RESOURCES)
    database.close()


def test_a_pull_in_the_future_isnt_fresh(puller: Puller, monkeypatch: pytest.MonkeyPatch):
    """A clock was a day ahead while it ran: the age of its rows is unknown."""
    puller.pulled()
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns - 86_400 * 10**9)
    assert not any(_ages(puller).values())


def test_a_refused_key_is_reported_without_a_table_of_zeros(puller: Puller):
    puller.change(api_key=SecretStr("wrong"))
    report = puller.pull()
    assert isinstance(report.error, Unauthorized)
    assert all(isinstance(line, str) for line in pull_lines(report, puller.settings))
