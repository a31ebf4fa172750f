"""The assets in the real Dagster, and the manifests of config/ against the schemas of their
platforms: tools that live in an environment of their own (`make test-dagster`)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import duckdb
import pytest

from connector.sandbox import Sandbox, SandboxOptions

ROOT = Path(__file__).parents[2]
DAGSTER = Path(os.environ.get("DAGSTER_BIN", ROOT / ".venv-dagster/bin/dagster"))
MODULE = "pipelines.dags.hiringcenter_dagster"
SCHEDULE = f"""
from dagster import DagsterInstance, DagsterRunStatus, build_schedule_context
from {MODULE} import hiringcenter_hourly, hiringcenter_job, defs

with DagsterInstance.get() as instance:
    def tick():
        return type(hiringcenter_hourly(build_schedule_context(instance))).__name__
    print(tick())
    instance.create_run_for_job(
        defs.resolve_job_def(hiringcenter_job.name), status=DagsterRunStatus.STARTED
    )
    print(tick())
"""


def tool(name: str, *arguments: str | Path, **kept: str | Path) -> str:
    """What a command of that environment printed; it must succeed."""
    clean = {
        key: value for key, value in os.environ.items()
        if not key.startswith(("HIRINGCENTER", "VIRTUAL_ENV", "DAGSTER"))
    }  # fmt: skip
    folder = kept.pop("folder", ROOT)
    done = subprocess.run(
        [DAGSTER.with_name(name), *arguments],
        cwd=folder, env=clean | {key: str(value) for key, value in kept.items()}, text=True,
        check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def dagster_home(folder: Path) -> Path:
    home = folder / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    return home


@pytest.fixture(autouse=True)
def installed() -> None:
    if not DAGSTER.exists():
        pytest.fail(f"{DAGSTER} is missing: `make test-dagster` installs Dagster first")


def test_assets_are_materialized_and_deletions_are_flagged(tmp_path: Path):
    """All four lists land; then a part of them, in full, flags who has been deleted since."""
    home = dagster_home(tmp_path)
    options = SandboxOptions(prospects=60, notes=30, tasks=20, meetings=10)
    with Sandbox(options) as sandbox:
        kept = {
            "folder": tmp_path, "HOME": tmp_path, "DAGSTER_HOME": home, "PYTHONPATH": ROOT,
            "DLT_DATA_DIR": tmp_path / "dlt", "HIRINGCENTER_API_KEY": sandbox.api_key,
            "HIRINGCENTER_BASE_URL": sandbox.url,
        }  # fmt: skip
        launch = ("asset", "materialize", "--module-name", MODULE, "--select")
        first = tool("dagster", *launch, "group:hiringcenter", **kept)
        assert first.count("ASSET_MATERIALIZATION - ") == 4
        sandbox.store.delete("notes", sandbox.store.all("notes")[0]["id"])
        full = '{"ops": {"hiringcenter": {"config": {"full": true}}}}'
        second = tool(
            "dagster", *launch, "key:hiringcenter/notes", "--config-json", full, **kept
        )  # fmt: skip
    assert second.count("ASSET_MATERIALIZATION - ") == 1
    assert sandbox.api_key not in first + second
    with duckdb.connect(str(tmp_path / "hiringcenter_assets.duckdb"), read_only=True) as database:
        rows = {
            name: database.execute(
                f"SELECT count(*), count(_hc_deleted_at) FROM hiringcenter_dagster.{name}"
            ).fetchone()
            for name in ("prospects", "notes", "tasks", "meetings")
        }
    assert rows == {"prospects": (60, 0), "notes": (30, 1), "tasks": (20, 0), "meetings": (10, 0)}


def test_the_schedule_starts_no_second_run_during_one(tmp_path: Path):
    """Nor does loading the definitions need a key."""
    home = dagster_home(tmp_path)
    kept = {
        "folder": tmp_path, "HOME": tmp_path, "DAGSTER_HOME": home, "PYTHONPATH": ROOT,
        "DLT_DATA_DIR": tmp_path / "dlt",
    }  # fmt: skip
    printed = tool("python", "-c", SCHEDULE, **kept)
    assert printed.split()[-2:] == ["RunRequest", "SkipReason"]


@pytest.mark.parametrize(
    ("command", "manifest"),
    [
        ("check-jsonschema --builtin-schema vendor.compose-spec", "config/compose.yaml"),
        ("check-jsonschema --builtin-schema vendor.github-workflows", "config/github-workflow.yml"),
        ("check-jsonschema --builtin-schema vendor.github-workflows", ".github/workflows/ci.yml"),
        ("kubernetes-validate --strict", "config/kubernetes.yaml"),
    ],
)
def test_manifests_fit_the_schemas_of_their_platforms(command: str, manifest: str):
    """Unknown keys and values of a wrong type are refused, also below what this project reads."""
    name, *options = command.split()
    tool(name, *options, manifest)
