"""A sandbox with few prospects, and settings to push into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from connector.budget import locks
from connector.budget.database import Database
from connector.sandbox import Sandbox, SandboxOptions
from connector.settings import Settings
from pipelines.destination.identity import prepare_state_dir, pull_lock_name


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SandboxOptions(prospects=5, notes=0, tasks=0, meetings=0)) as running:
        yield running


@pytest.fixture
def settings(sandbox: Sandbox, tmp_path: Path) -> Settings:
    return Settings(
        api_key=sandbox.api_key,
        base_url=sandbox.url,
        rate_limits="60000/60s",
        state_dir=tmp_path / "state",
        duckdb_path=tmp_path / "data.duckdb",
        http={"retry_total_s": 2.0},
        marts={"enabled": False},  # which have tests of their own
    )


@contextmanager
def results_waiting(settings: Settings) -> Iterator[None]:
    """A pull is running, so pushes leave their results to it or to the next one: loading them takes
    three times as long as a small push."""
    prepare_state_dir(settings)
    with (
        closing(Database(settings.resolved_ledger_url)) as database,
        locks.take_lock(database, pull_lock_name(settings), run_id="test"),
    ):
        yield


@pytest.fixture
def results_wait(request: pytest.FixtureRequest, settings: Settings) -> Iterator[None]:
    """`results_waiting` all the time, but not where a test is marked `lands`."""
    if request.node.get_closest_marker("lands"):
        yield
    else:
        with results_waiting(settings):
            yield
