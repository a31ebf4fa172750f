"""A user's own pipeline with the source in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dlt
import pytest
from dlt.common.pipeline import LoadInfo

from connector.sandbox import Sandbox, SandboxOptions
from connector.source import hiringcenter
from tests.sync.pull.conftest import dlt_credentials

JUST_A_FEW = {"prospects": 30, "notes": 20, "tasks": 10, "meetings": 5}
Run = Callable[..., LoadInfo]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SandboxOptions(**JUST_A_FEW)) as served:
        yield served


@pytest.fixture(params=["duckdb", "postgres"])
def pipeline(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dlt.Pipeline:
    """A user's own pipeline, into each tested destination."""
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    if request.param == "duckdb":
        destination: Any = dlt.destinations.duckdb(str(tmp_path / "file.duckdb"))
    else:
        destination = dlt.destinations.postgres(
            dlt_credentials(request.getfixturevalue("postgres_url"))
        )
    return dlt.pipeline(
        "own", destination=destination, dataset_name="own", pipelines_dir=str(tmp_path / "dlt")
    )


@pytest.fixture
def run(pipeline: dlt.Pipeline, sandbox: Sandbox, tmp_path: Path) -> Run:
    def run(*resources: str, **options: Any) -> LoadInfo:
        ledger_url = f"sqlite:///{tmp_path / 'ledger.db'}"
        options = {"api_key": sandbox.api_key, "base_url": sandbox.url, **options}
        limit = options.pop("limit", None)
        source = hiringcenter(ledger_url=ledger_url, **options)
        chosen = source.with_resources(*resources) if resources else source
        if limit is not None:
            chosen.add_limit(**limit)
        return pipeline.run(chosen, loader_file_format="parquet")

    return run


def rows(pipeline: dlt.Pipeline, table: str) -> dict[str, dict[str, Any]]:
    """A table's rows by id, without nulls and without dlt's and our own columns."""
    with pipeline.sql_client() as client, client.execute_query(f"SELECT * FROM {table}") as cursor:
        names = [column[0] for column in cursor.description]
        found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    assert len({row["id"] for row in found}) == len(found)
    return {
        row["id"]: {
            name: value
            for name, value in row.items()
            if value is not None and not name.startswith(("_dlt", "_hc"))
        }
        for row in found
    }


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
