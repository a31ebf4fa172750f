"""The DAG in the real Airflow, which lives in an environment of its own (`make test-airflow`)."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connector.sandbox import Sandbox, SandboxOptions

ROOT = Path(__file__).parents[2]
AIRFLOW = Path(os.environ.get("AIRFLOW_BIN", ROOT / ".venv-airflow/bin/airflow"))
HIRINGCENTER = Path(sys.executable).with_name("hiringcenter")
HOLD = """
import sys, time
from pathlib import Path
from connector.budget.database import Database
from connector.budget.locks import take_lock
from connector.settings import load
from pipelines.destination.identity import pull_lock_name
settings = load()
ledger = Database(settings.resolved_ledger_url)
with take_lock(ledger, pull_lock_name(settings), run_id="held-by-test"):
    print("held", flush=True)
    time.sleep(3600)
"""


@pytest.fixture(scope="module")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not AIRFLOW.exists():
        pytest.fail(f"{AIRFLOW} is missing: `make test-airflow` installs Airflow first")
    home = tmp_path_factory.mktemp("airflow")
    subprocess.run([AIRFLOW, "db", "migrate"], env=_airflow(home), check=True, capture_output=True)
    return home


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    options = SandboxOptions(prospects=60, notes=30, tasks=20, meetings=10)
    with Sandbox(options) as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> Path:
    """A folder as a user keeps it: settings, a mapping-free CSV, a push job."""
    (tmp_path / "config").mkdir()
    (tmp_path / "people.csv").write_text(
        "First Name,Last Name,Email\nAda,Byron,ada@example.com\nNo,Contact,\n"
    )
    (tmp_path / "config/hiringcenter.toml").write_text(
        f'base_url = "{sandbox.url}"\n[push.people]\nfile = "people.csv"\n'
    )
    return tmp_path


def _airflow(home: Path, **variables: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if "VIRTUAL_ENV" not in name}
    return {
        **clean,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "pipelines/dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW_VAR_HIRINGCENTER_BIN": str(HIRINGCENTER),
        **variables,
    }


def run_dag(
    home: Path, project: Path, key: str, *, params: dict[str, Any] | None = None, **variables: str
) -> list[dict[str, Any]]:
    """One `airflow dags test`; each mapped run's state and XCom, in map order."""
    connection = json.dumps({"conn_type": "generic", "password": key})
    environment = _airflow(
        home,
        AIRFLOW_VAR_HIRINGCENTER_HOME=str(project),
        AIRFLOW_CONN_HIRINGCENTER_DEFAULT=connection,
        **variables,
    )
    log = _dags_test(environment, *(["--conf", json.dumps(params)] if params else []))
    assert key not in log, "the key stands in Airflow's log"
    return _instances(home, log)


def _dags_test(environment: dict[str, str], *options: str) -> str:
    """What it printed. A run that would be retried waits for minutes: that is a failure here."""
    command = [AIRFLOW, "dags", "test", "hiringcenter_sync", *options]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "up_for_retry" in line:
                process.kill()
                pytest.fail("the run would be retried:\n" + "".join(lines))
    return "".join(lines)


def _instances(home: Path, log: str) -> list[dict[str, Any]]:
    database = sqlite3.connect(home / "airflow.db")
    (run_id,) = database.execute("select run_id from dag_run order by id desc limit 1").fetchone()
    rows = database.execute(
        "select map_index, state, rendered_map_index from task_instance"
        " where run_id = ? and task_id = 'run' order by map_index",
        [run_id],
    ).fetchall()
    values = dict(
        database.execute(
            "select map_index, value from xcom"
            " where run_id = ? and task_id = 'run' and key = 'return_value'",
            [run_id],
        ).fetchall()
    )
    database.close()
    return [
        {"state": state, "name": name, "summary": _decoded(values.get(index)), "log": log}
        for index, state, name in rows
    ]


def asset_events(home: Path) -> dict[str, Any]:
    """What each asset's newest event has to say."""
    database = sqlite3.connect(home / "airflow.db")
    rows = database.execute(
        "select asset.name, asset_event.extra from asset_event"
        " join asset on asset.id = asset_event.asset_id order by asset_event.id"
    ).fetchall()
    database.close()
    return {name: _decoded(extra) for name, extra in rows}


def _decoded(value: Any) -> Any:
    while isinstance(value, str):  # Airflow stores JSON inside JSON
        value = json.loads(value)
    return value


def test_a_dag_run_pulls_and_pushes_and_carries_its_summary(
    airflow_home: Path, project: Path, sandbox: Sandbox
):
    """Exit 3 (one row has no contact) is a success with a warning; the summary is the XCom, and
    each list an event of its asset."""
    (run,) = run_dag(airflow_home, project, sandbox.api_key)
    assert run["state"] == "success", run["log"]
    assert run["summary"]["exit_code"] == 3
    assert run["summary"]["pull"]["resources"]["prospects"]["rows_read"] == 60
    assert run["summary"]["push"]["people"]["created"] == 1
    assert run["summary"]["push"]["people"]["rejected"] == 1
    assert "Some rows were rejected" in run["log"]
    assert [change.payload["firstName"] for change in sandbox.applied] == ["Ada"]
    events = asset_events(airflow_home)
    assert events["hiringcenter_prospects"] == {"rows_written": 60, "rows_deleted": 0, "rows": 60}
    assert events["hiringcenter_meetings"]["rows"] == 10


def test_a_dag_run_that_meets_a_lock_is_skipped(
    airflow_home: Path, project: Path, sandbox: Sandbox
):
    """Overlapping schedules are ordinary: skipped, with the holder's name, not failed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=project, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            (run,) = run_dag(
                airflow_home,
                project,
                sandbox.api_key,
                AIRFLOW_VAR_HIRINGCENTER_COMMAND='["pull", "notes"]',
            )
        finally:
            holder.kill()
    assert run["state"] == "skipped", run["log"]
    assert "held-by-test" in run["summary"]["error"]["message"]


def test_a_dag_run_whose_key_is_wrong_fails_at_once(
    airflow_home: Path, project: Path, sandbox: Sandbox
):
    """A refused key isn't a reason to retry; the error says what to check. By hand, `full` and
    `resources` make the run a complete pull of those lists."""
    params = {"full": True, "resources": ["notes", "tasks"]}
    (run,) = run_dag(airflow_home, project, "hc-wrong-key", params=params)
    assert run["state"] == "failed", run["log"]
    assert "HIRINGCENTER_API_KEY" in json.dumps(run["summary"])
    scans = {name: scan["scan"] for name, scan in run["summary"]["resources"].items()}
    assert scans == {"notes": "full", "tasks": "full"}
    assert not sandbox.applied


def test_accounts_are_mapped_and_fail_alone(airflow_home: Path, project: Path, sandbox: Sandbox):
    """Three accounts, one with a wrong key: two pull and push, one fails, each under its name."""
    names = ("east", "west", "north")
    config = project / "config/hiringcenter.toml"
    accounts = "".join(
        f'[accounts.{name}]\napi_key_env = "HIRINGCENTER_API_KEY_{name.upper()}"\n'
        for name in names
    )
    options = SandboxOptions(prospects=40, notes=20, tasks=10, meetings=5, api_key="k-north-7731")
    with Sandbox(options) as other:
        keys = {"east": sandbox.api_key, "west": "k-west-wrong", "north": other.api_key}
        other_url = f'base_url = "{other.url}"\n'
        config.write_text(config.read_text() + accounts + other_url)
        connections = {
            f"AIRFLOW_CONN_HIRINGCENTER_{name.upper()}": json.dumps(
                {"conn_type": "generic", "password": key}
            )
            for name, key in keys.items()
        }
        runs = run_dag(
            airflow_home,
            project,
            "hc-unused-default",
            AIRFLOW_VAR_HIRINGCENTER_ACCOUNTS=json.dumps(names),
            **connections,
        )
        for applied in (sandbox.applied, other.applied):
            assert [change.payload["firstName"] for change in applied] == ["Ada"]
    log = runs[0]["log"]
    assert {run["name"]: run["state"] for run in runs} == {
        "east": "success", "west": "failed", "north": "success",
    }, log  # fmt: skip
    east, west, north = runs
    assert east["summary"]["pull"]["resources"]["prospects"]["rows_read"] == 60
    assert north["summary"]["pull"]["resources"]["prospects"]["rows_read"] == 40
    assert east["summary"]["push"]["people"]["created"] == 1
    assert west["summary"]["pull"]["error"]["type"] == "Unauthorized"
    assert not any(key in log for key in keys.values()), "a key stands in Airflow's log"


def test_an_account_without_a_key_names_its_variable(
    airflow_home: Path, project: Path, sandbox: Sandbox
):
    """Settings aren't a reason to retry: failed at once, and the variable to set is in the XCom."""
    config = project / "config/hiringcenter.toml"
    account = '[accounts.west]\napi_key_env = "HIRINGCENTER_API_KEY_WEST"\n'
    config.write_text(config.read_text() + account)
    (west,) = run_dag(
        airflow_home, project, "hc-unused-default", AIRFLOW_VAR_HIRINGCENTER_ACCOUNTS='["west"]'
    )
    assert (west["name"], west["state"]) == ("west", "failed"), west["log"]
    assert "HIRINGCENTER_API_KEY_WEST" in json.dumps(west["summary"])
