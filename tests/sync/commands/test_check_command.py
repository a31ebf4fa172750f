"""`hiringcenter check` where the server is dead, slow or silent, and signals before any run."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from connector.errors import Unreachable
from connector.sandbox import Sandbox
from connector.settings import load
from pipelines.running.checks import PATIENCE_S, run_checks
from pipelines.running.session import open_session
from tests.sync.commands.conftest import Run


@pytest.fixture
def dead_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """It accepts, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("HIRINGCENTER_API_KEY", "k-9f2b7c31")
        monkeypatch.setenv(
            "HIRINGCENTER_BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}/v2"
        )
        yield listener


def test_a_dead_host_costs_a_check_less_than_ten_seconds(dead_host: socket.socket):
    """Its one request has a time-out of its own, whatever the settings say."""
    assert PATIENCE_S < 10
    with (
        open_session(load(), kind="check", patience_s=0.4) as session,
        pytest.raises(Unreachable) as failure,
    ):
        session.client.account()
    assert failure.value.tried_s < load().http.retry_total_s  # which other runs try for


def test_what_a_dead_host_leaves_unknown_is_not_ok(
    dead_host: socket.socket, monkeypatch: pytest.MonkeyPatch
):
    """The key and the clock; destination and budget are checked anyway."""
    monkeypatch.setenv("HIRINGCENTER_HTTP__REQUEST_TIMEOUT_S", "0.3")
    monkeypatch.setenv("HIRINGCENTER_HTTP__RETRY_TOTAL_S", "0.4")
    checks = {check.name: check for check in run_checks(load())}
    assert {name: check.ok for name, check in checks.items()} == {
        "key": False, "destination": True, "budget": True, "outbox": True, "clock": False,
    }  # fmt: skip
    assert "didn't answer" in checks["clock"].detail


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:99999/v2",
        "http://127.0.0.1:8080x/v2",
        "https://api.example.com/v 2",
        "https://api example.com/v2",
    ],
)
def test_a_url_with_a_bad_port_or_a_space_is_configuration(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, url: str
):
    monkeypatch.setenv("HIRINGCENTER_BASE_URL", url)
    ended = run("check", "--json")
    assert ended.code == 2
    assert "bug in the connector" not in ended.summary["error"]["message"]
    assert "base_url" in ended.summary["error"]["message"].lower()


SIGNALLED = """
import os, sys

class Signal:
    def find_spec(self, name, path, target=None):
        if name == MODULE:
            os.kill(os.getpid(), int(NUMBER))

sys.meta_path.insert(0, Signal())
from pipelines import cli
sys.argv = ["hiringcenter", "pull", "--json"]
cli.run()
"""


@pytest.mark.parametrize("module", ["typer", "connector.settings", "pipelines.pull.pull_run"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_start_up_ends_with_its_object(
    tmp_path: Path, module: str, number: signal.Signals
):
    """While modules are imported, before any run listens."""
    code = SIGNALLED.replace("MODULE", repr(module)).replace("NUMBER", str(int(number)))
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"HIRINGCENTER_API_KEY": "k", "HIRINGCENTER_BASE_URL": "http://127.0.0.1:9/v2",
             "HIRINGCENTER_STATE_DIR": str(tmp_path / "state"),
             "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert ended.returncode == 128 + number
    assert json.loads(ended.stdout)["status"] == "stopped"
    assert "Traceback" not in ended.stderr
