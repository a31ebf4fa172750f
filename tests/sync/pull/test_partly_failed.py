"""A pull in which one resource fails: what the others brought is published, if it is whole."""

from __future__ import annotations

import json
import time
from typing import Any

import duckdb
import pytest
from pydantic import SecretStr

from connector.budget.database import Database
from connector.errors import Unauthorized
from connector.history import FreshnessLog
from connector.sandbox import RESOURCES
from connector.sandbox.options import ALL_PERMISSIONS
from connector.settings import HttpSettings, RateLimit
from pipelines.commands.status import status
from pipelines.pull.view import pull_lines
from tests.sync.pull.conftest import Puller
from tests.sync.pull.truth import expected, landed_duckdb


def _forbid(puller: Puller, resource: str) -> None:
    left = tuple(name for name in ALL_PERMISSIONS if name != f"{resource}:read")
    puller.sandbox.options.permissions = left


def _forbid_after_first_page(puller: Puller, resource: str) -> None:
    """The key loses its permission while the list is read, a page to a chunk."""
    puller.change_pull(chunk_pages=1)
    puller.sandbox.options.max_limits = dict.fromkeys(RESOURCES, 50)
    puller.change(http=HttpSettings(retry_total_s=1.0))

    def script(request: Any) -> None:
        if request.path.endswith(f"/{resource}") and "pageToken" in dict(request.params):
            _forbid(puller, resource)

    puller.sandbox.options.script = script


def _allow(puller: Puller) -> None:
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


def test_nothing_is_published_while_a_scan_has_landed_a_part(puller: Puller):
    """Notes fail in the middle: the copy stays the old one, and text, JSON and status say so."""
    puller.pull_ok()
    before = puller.settings.duckdb_path.stat().st_ino
    for resource in ("notes", "tasks"):
        for record in puller.sandbox.store.all(resource):
            puller.sandbox.store.update(resource, record["id"], {"createdByApi": None})
    _forbid_after_first_page(puller, "notes")
    report = puller.pull()
    assert isinstance(report.error, Unauthorized)
    assert not report.published
    assert puller.settings.duckdb_path.stat().st_ino == before
    assert report.summary["copy"]["unfinished"] == ["notes"]
    assert "is still that of" in str(pull_lines(report, puller.settings)[-1])
    told = status(puller.settings, None)
    tasks = told.summary["resources"]["tasks"]
    assert tasks["unpublished_pull"] > tasks["last_pull"]
    assert told.summary["copy"]["published_at"] == report.summary["copy"]["published_at"]
    assert any("tasks" in line and "not in it" in line for line in told.lines[1:])
    _allow(puller)
    assert puller.pull_ok().published
    puller.assert_true()
    assert json.dumps(status(puller.settings, None).summary).count('"unpublished_pull": null') == 4


def test_a_part_that_an_earlier_pull_left_counts_whoever_fails_now(puller: Puller):
    """Notes stopped in their middle; then they are forbidden from the start, and others end."""
    _forbid_after_first_page(puller, "notes")
    assert not puller.pull().published
    report = puller.pull("prospects", "tasks")
    assert report.error is None
    assert not report.published
    assert report.summary["copy"] == {
        "path": str(puller.settings.duckdb_path), "published_at": None, "unfinished": ["notes"],
    }  # fmt: skip
    assert not any(_ages(puller).values())
    assert not puller.pull().published
    _allow(puller)
    assert puller.pull_ok("notes").published  # with it, what the others had brought
    assert _ages(puller)["prospects"]
    puller.pull_ok()
    puller.assert_true()


def test_a_part_that_changed_nothing_is_no_part(puller: Puller):
    """The failed scan met only rows that are there already: its table is as it was."""
    puller.pull_ok()
    puller.sandbox.store.create("tasks", {"prospectId": "p", "assignedTo": "u", "task": "call"})
    _forbid_after_first_page(puller, "notes")
    report = puller.pull()
    assert isinstance(report.error, Unauthorized)
    assert report.published
    assert landed_duckdb(puller.settings.duckdb_path, "tasks").keys() == (
        expected(puller.sandbox, "tasks").keys()
    )


def test_looking_back_does_not_end_what_another_scan_began(puller: Puller):
    """`--since` over a list that was cut in its middle: the rest of it is still to come."""
    _forbid_after_first_page(puller, "notes")
    puller.pull("notes")
    _allow(puller)
    assert not puller.pull_ok("notes", since_ms=0).published
    assert puller.pull_ok("notes").published


def test_a_planned_stop_is_published(puller: Puller):
    """A full scan that is spread over several pulls: each of them is whole, as planned."""
    puller.change_pull(page_size=50)
    puller.pull_ok("prospects")
    puller.change_pull(page_size=50, full_share=0.0, full_every_s=0.0)
    puller.change(rate_limits=(RateLimit(6, 0.5),))
    puller.sandbox.store.create("prospects", {"firstName": "New", "lastName": "Person"})
    report = puller.pull_ok("prospects")
    assert not report.summary["resources"]["prospects"]["complete"]
    assert report.published


def test_a_deleted_copy_is_no_fresh_data(puller: Puller):
    """Readers see nothing, whatever the ledger knows; the next pull makes it again."""
    puller.pull_ok()
    assert all(_ages(puller).values())
    puller.settings.duckdb_path.unlink()
    assert not any(_ages(puller).values())
    puller.pull_ok()
    assert all(_ages(puller).values())


def test_a_ledger_from_before_takes_its_pulls_as_published(puller: Puller, tmp_path: Any):
    """No alarm after an upgrade."""
    puller.pull_ok()
    database = Database(puller.settings.resolved_ledger_url)
    with database.write() as connection:
        connection.exec_driver_sql("DROP TABLE freshness_published")
        connection.exec_driver_sql(
            "UPDATE schema_versions SET version = 1 WHERE component = 'freshness'"
        )
    label = f"duckdb:{puller.settings.duckdb_path}#hiringcenter"
    assert len(FreshnessLog(database).published(label)) == len(RESOURCES)
    database.close()


def test_a_pull_in_the_future_is_no_fresh_data(puller: Puller, monkeypatch: pytest.MonkeyPatch):
    """A clock was a day ahead while it ran: nobody knows how old its rows are."""
    puller.pull_ok()
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns - 86_400 * 10**9)
    assert not any(_ages(puller).values())


def test_a_refused_key_is_told_without_a_table_of_zeros(puller: Puller):
    puller.change(api_key=SecretStr("wrong"))
    report = puller.pull()
    assert isinstance(report.error, Unauthorized)
    assert all(isinstance(line, str) for line in pull_lines(report, puller.settings))
