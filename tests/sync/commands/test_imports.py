"""What a command imports: each module that isn't needed delays every run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from connector.sandbox import Sandbox, SandboxOptions
from tests.processes.zygote import ROOT

_RUN = """
import sys
from pipelines import cli
try:
    cli.main()
finally:
    print(*sys.modules)
"""
FOR_PUSHES = {
    "connector.upsert.inputs", "connector.upsert.rows.row_checks",
    "connector.upsert.sending", "email_validator", "phonenumbers", "pipelines.push",
    "python_calamine",
}  # fmt: skip
FOR_OTHER_COMMANDS = {
    "connector.sandbox", "jinja2", "opentelemetry", "pipelines.report", "starlette", "uvicorn",
    "webbrowser",
}  # fmt: skip
FOR_OTHER_DESTINATIONS = {"ibis", "pandas", "psycopg", "psycopg2", "sqlalchemy.dialects.postgresql"}
FOR_HELP_IN_COLOR = {"typer.rich_utils"}
HEAVY = {"dlt", "duckdb", "httpx", "pyarrow", "rich", "sqlalchemy", "sqlglot", "structlog"}


def imported(arguments: list[str], sandbox: Sandbox, folder: Path) -> set[str]:
    """The modules that a process has imported when its command has ended well."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "HIRINGCENTER_API_KEY": sandbox.api_key,
        "HIRINGCENTER_BASE_URL": sandbox.url,
        "HIRINGCENTER_STATE_DIR": str(folder / "state"),
        "HIRINGCENTER_DUCKDB_PATH": str(folder / "copy.duckdb"),
    }
    ended = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(ended.stdout.splitlines()[-1].split())


def test_a_pull_into_duckdb_imports_nothing_that_it_does_not_need(sandbox: Sandbox, tmp_path: Path):
    """No parts of pushes, reports and other destinations. dlt loads the rows, and imports sqlglot;
    where nothing is new, none of it is imported."""
    for expected in ({"dlt", "sqlglot"}, set()):
        found = imported(["pull", "-q"], sandbox, tmp_path)
        assert found & {"dlt", "sqlglot"} == expected
        assert found & (FOR_PUSHES | FOR_OTHER_COMMANDS | FOR_OTHER_DESTINATIONS) == set()
        assert found & FOR_HELP_IN_COLOR == set()


def test_a_pull_of_an_empty_account_imports_nothing_that_loads_rows(tmp_path: Path):
    """Its tables are created without dlt, nothing is counted, and nothing drawn."""
    unused = {"dlt", "pyarrow.compute", "click", "pygments", "rich"}
    with Sandbox(SandboxOptions(prospects=0, notes=0, tasks=0, meetings=0)) as empty:
        assert imported(["pull", "-q"], empty, tmp_path) & unused == set()


@pytest.mark.parametrize("arguments", [["--help"], ["pull", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(sandbox: Sandbox, tmp_path: Path, arguments: list[str]):
    """A text to be read at once."""
    assert imported(arguments, sandbox, tmp_path) & HEAVY == set()
