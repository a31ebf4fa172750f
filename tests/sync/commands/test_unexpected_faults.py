"""A bug in the connector, wherever it strikes: reported, recorded and alerted without data.

No input leads to one, so each is patched in."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

import pipelines.commands.transfer_commands
import pipelines.pull.pull_run
import pipelines.push.push_run
from connector.api.client import ApiClient
from connector.sandbox import Sandbox
from pipelines.commands.invocation import Output
from tests.sync.commands.conftest import Ended, Run
from tests.unit.operations.listener import listening

NAME, BODY = "Ada Byron-Lovelace", "<p>asked for 4711-EUR a month</p>"
Strike = Callable[[pytest.MonkeyPatch], None]


def _fail(*_: Any, **__: Any) -> NoReturn:
    """As a library does that quotes what it couldn't take, key and all."""
    key = os.environ["HIRINGCENTER_API_KEY"]
    try:
        raise KeyError(f"{NAME} {BODY} {key}")
    except KeyError as error:
        raise ValueError(f"can't take {NAME}: {BODY} with {key}") from error


def _while_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ApiClient, "page", _fail)


def _while_landing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines.pull.pull_run.Landing, "load", _fail)


def _before_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines.commands.transfer_commands, "run_pull", _fail)


def _assert_silent(ended: Ended, *others: str) -> None:
    for text in (ended.out, ended.err, *others):
        for secret in (NAME, "Byron", BODY, "4711-EUR", os.environ["HIRINGCENTER_API_KEY"]):
            assert secret not in text


@pytest.mark.parametrize("verbosity", ["-q", "-vv"])
@pytest.mark.parametrize("strike", [_while_reading, _while_landing, _before_anything])
def test_a_fault_in_a_pull_is_silent_about_data(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, strike: Strike, verbosity: str
):
    """Screen, log, JSON, alert and history name the type and the line; -v adds the traceback."""
    strike(monkeypatch)
    with listening() as listener:
        monkeypatch.setenv("HIRINGCENTER_ALERTS__WEBHOOK_URL", listener.url)
        ended = run("pull", "notes", "--json", verbosity)
    alerts = [body.decode() for _, body in listener.received]
    assert ended.code == 1
    assert ended.summary["error"]["type"] == "Unexpected"
    assert "Unexpected ValueError at " in ended.summary["error"]["message"]
    assert alerts, "a failure is reported"
    assert ("in _fail" in ended.err) == (verbosity == "-vv")
    history = run("runs", "--json")
    _assert_silent(ended, history.out, *alerts)
    for run_facts in history.summary["runs"]:
        assert run_facts["error"].startswith("Unexpected ValueError")
    for folder, _, files in os.walk("."):
        for file in files:
            assert NAME.encode() not in (Path(folder) / file).read_bytes(), file


def test_a_fault_in_a_push_is_silent_about_data(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    """The next pull lands the run with what it may say of its error."""
    monkeypatch.setattr(pipelines.push.push_run, "open_pulled", _fail)
    Path("people.csv").write_text("First Name,Last Name,Email\nAda,Byron,a@example.com\n")
    ended = run("push", "people.csv", "--json", "-vv")
    assert (ended.code, ended.summary["error"]["type"]) == (1, "Unexpected")
    assert (ended.summary["rows"], ended.summary["requests"]) == (0, 0), "what was done is reported"
    _assert_silent(ended, run("runs", "--json").out)


def test_a_fault_in_a_part_of_a_sync_is_silent_about_data(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    """Its part of the summary, and the whole."""
    _before_anything(monkeypatch)
    ended = run("sync", "--json", "-v")
    assert ended.code == 1
    assert ended.summary["pull"]["error"]["type"] == "Unexpected"
    _assert_silent(ended)


def test_a_fault_after_the_work_is_silent_too(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    """Outside of the commands' own handling: no Python traceback, exit 1."""
    monkeypatch.setattr(Output, "text", _fail)
    ended = run("status")
    assert ended.code == 1
    assert ended.err.startswith("Error: Unexpected ValueError at ")
    _assert_silent(ended)
