"""Marts after real pulls and pushes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
import pytest

from connector.sandbox import RESOURCES, Sandbox, SandboxOptions
from connector.settings import MartSettings
from pipelines.pull.pull_run import Wanted, pull
from pipelines.push.push_input import PushRequest
from pipelines.push.push_run import push
from tests.sync.pull.conftest import dlt_credentials, settings_for

SCHEMA = "hiringcenter_marts"
EDITS = {"currentStage": "Hired", "currentStageId": "stage-hired", "labels": ["new", "new"]}


def _in_utc(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) else value


@dataclass
class Reader:
    """Reads marts of one destination."""

    cursor: Any

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        self.cursor.execute(sql)
        return [tuple(map(_in_utc, row)) for row in self.cursor.fetchall()]

    def names(self) -> set[str]:
        return {name for (name,) in self.rows(
            f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{SCHEMA}'"
        )}  # fmt: skip


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SandboxOptions(prospects=30, notes=20, tasks=20, meetings=10)) as running:
        yield running


@pytest.fixture
def readers(
    sandbox: Sandbox, tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Reader]]:
    """A DuckDB copy and a PostgreSQL database, both pulled, pushed to, and pulled again after some
    edits."""
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", dlt_credentials(postgres_url))
    (tmp_path / "people.csv").write_text(
        "email,first_name,last_name\nnew@example.com,New,Person\nbad,Bad,Person\n"
    )
    both = {}
    for kind in ("duckdb", "postgres"):
        both[kind] = settings_for(
            sandbox, tmp_path / kind, destination=kind, marts=MartSettings(),
            dataset="hiringcenter", duckdb_path=tmp_path / "hiringcenter.duckdb",
        )  # fmt: skip
        assert pull(both[kind], Wanted(RESOURCES)).error is None
    for settings in both.values():
        pushed = push(settings, PushRequest(file=str(tmp_path / "people.csv")))
        assert pushed.summary["rejected"] == 1
    *_, second, first = sandbox.store.all("prospects")  # the pushed person is before them
    sandbox.store.update("prospects", first["id"], EDITS)
    sandbox.store.delete("prospects", second["id"])
    for settings in both.values():
        assert pull(settings, Wanted(RESOURCES, full=True)).error is None
    copy = duckdb.connect(str(tmp_path / "hiringcenter.duckdb"), read_only=True)
    copy.execute("USE hiringcenter.hiringcenter")
    server = psycopg2.connect(postgres_url)
    yield {"duckdb": Reader(copy), "postgres": Reader(server.cursor())}
    copy.close()
    server.close()


def test_pulls_bring_the_same_marts_to_both_destinations(
    readers: dict[str, Reader], sandbox: Sandbox
):
    """Those of what is there now, whatever was edited, deleted and pushed."""
    one, other = readers.values()
    assert one.names() == other.names()
    columns = {
        "live_prospects": "id, labels, current_stage, created_at, updated_at, first_name",
        "live_notes": "id, prospect_id, user_id, body, created_at, created_by_api, pin",
        "live_tasks": "id, prospect_id, task, due_at, completed_at",
        "live_meetings": "id, prospect_id, meeting_date, owner_id",
        "activity_by_user": "*",
        "source_quality": "*",
        "stage_history": "prospect_id, stay, stage, former_stage, next_stage, is_start_known, "
        "outcome, left_at IS NULL, hours_at_most >= hours_at_least",
        "time_in_stage": "stage, people_now, moved_on, deleted",
        "funnel_weekly": "week, stage, entered, moved_on, deleted, people_at_end",
        "overdue_tasks": "task_id, task, first_name, current_stage, due_at",
        "freshness": "resource, live_rows, is_complete, why_incomplete",
        "push_outcomes": "kind, record_kind, status, input_rows, rejected, failed, percent_settled",
    }
    for mart, listed in columns.items():
        sql = f"SELECT {listed} FROM {SCHEMA}.{mart}"
        assert sorted(map(repr, one.rows(sql))) == sorted(map(repr, other.rows(sql))), mart
    for reader in readers.values():
        (moved,) = reader.rows(
            f"SELECT first.stage = second.former_stage, second.stage, second.is_start_known "
            f"FROM {SCHEMA}.stage_history AS first JOIN {SCHEMA}.stage_history AS second "
            "ON second.prospect_id = first.prospect_id WHERE first.stay = 1 AND second.stay = 2"
        )
        assert moved == (True, EDITS["currentStage"], True)
        deleted = f"SELECT hours_at_least <= hours_at_most FROM {SCHEMA}.stage_history "
        assert reader.rows(f"{deleted} WHERE outcome = 'deleted'") == [(True,)]
        live = reader.rows(f"SELECT id FROM {SCHEMA}.live_prospects")
        assert {id_ for (id_,) in live} == {each["id"] for each in sandbox.store.all("prospects")}
        (people,) = reader.rows(
            f"SELECT people FROM {SCHEMA}.source_quality WHERE label = '{EDITS['labels'][0]}'"
        )
        assert people == (1,)
        outcomes = reader.rows(f"SELECT input_rows, rejected FROM {SCHEMA}.push_outcomes")
        assert outcomes == [(2, 1)]
