"""A sandbox with few prospects, and settings to push into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from connector.sandbox import Sandbox, SandboxOptions
from connector.settings import Settings


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
    )
