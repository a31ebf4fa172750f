"""`hiringcenter pull`, `check`, `status`, `runs`, `sync`: exit codes, JSON, and one clear line."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from connector.budget.database import Database
from connector.budget.locks import take_lock
from connector.sandbox import Sandbox
from connector.settings import load
from connector.upsert.outbox.forgotten import ForgottenList
from pipelines.commands.status_commands import recent_runs
from pipelines.destination.identity import prepare_state_dir, pull_lock_name
from tests.sync.commands.conftest import Run


def test_pull_says_what_it_did_in_one_object(run: Run, sandbox: Sandbox):
    """The fields that dashboards are written against, and nothing else on stdout."""
    ended = run("pull", "--json")
    assert ended.code == 0
    summary = ended.summary
    assert set(summary) == {"run_id", "status", "requests", "seconds", "waited_s", "resources"}
    assert summary["status"] == "ok"
    notes = summary["resources"]["notes"]
    assert set(notes) == {
        "scan", "reason", "complete", "rows", "rows_read", "rows_written", "rows_deleted",
    }  # fmt: skip
    assert (notes["rows_read"], notes["rows_written"], notes["rows_deleted"]) == (40, 40, 0)


def test_pull_as_text_has_a_table_and_the_place(run: Run, sandbox: Sandbox):
    """Facts on stdout, logs on stderr."""
    ended = run("pull", "notes")
    assert ended.code == 0
    assert "notes" in ended.out
    assert "data/hiringcenter.duckdb" in ended.out
    assert "pull.scan" in ended.err
    assert "pull.scan" not in ended.out


@pytest.mark.parametrize("command", ["pull", "sync", "check"])
def test_a_missing_key_is_exit_2_and_names_the_variable(run: Run, command: str):
    """Nothing was sent, and it says where to create a key."""
    ended = run(command, "--json")
    assert ended.code == 2
    assert ended.summary["error"]["type"] == "MissingKey"
    assert "HIRINGCENTER_API_KEY" in ended.err
    assert "Settings" in ended.err
    assert not Path("data").exists()


def test_a_wrong_key_is_one_clear_line(run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    """Not one per resource; and the key isn't in it."""
    monkeypatch.setenv("HIRINGCENTER_API_KEY", "wrong-key-4711")
    ended = run("pull", "-q")
    assert ended.code == 2
    assert ended.err.count("The API key was refused") == 1
    assert "HIRINGCENTER_API_KEY" in ended.err
    assert "wrong-key-4711" not in ended.err + ended.out


def test_an_inactive_key_is_configuration(run: Run, sandbox: Sandbox):
    """`GET /auth` says so, and the lists would only refuse: exit 2 after one request."""
    sandbox.options.active = False
    ended = run("pull", "--json")
    assert (ended.code, ended.summary["error"]["type"]) == (2, "InactiveKey")
    assert len(sandbox.requests) == 1


def test_a_server_that_is_down_is_reported_with_how_long_it_was_tried(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    """Exit 1 within the retry budget; the run is in the history."""
    monkeypatch.setenv("HIRINGCENTER_BASE_URL", "http://127.0.0.1:9/v2")
    monkeypatch.setenv("HIRINGCENTER_HTTP__RETRY_TOTAL_S", "1")
    ended = run("pull", "--json")
    assert ended.code == 1
    assert ended.summary["error"]["type"] == "Unreachable"
    assert "tries in" in ended.err
    assert run("runs", "--json").summary["runs"][0]["status"] == "failed"


def test_plain_http_to_a_foreign_host_is_refused(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    """Exit 2: the key would be readable on the way."""
    monkeypatch.setenv("HIRINGCENTER_BASE_URL", "http://api.example.com/v2")
    ended = run("pull")
    assert ended.code == 2
    assert "https" in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("pull", "prospect"),
        ("pull", "--since", "yesterday"),
        ("pull", "--since", "1" * 17),
        ("status", "--max-age", "2 weeks"),
    ],
)
def test_bad_arguments_are_exit_2_and_say_what_is_right(
    run: Run, sandbox: Sandbox, arguments: tuple[str, ...]
):
    """No request is sent."""
    ended = run(*arguments)
    assert ended.code == 2
    assert ended.err.startswith("Error: ")
    assert sandbox.requests == []


def test_an_unknown_option_is_exit_2_with_json_too(run: Run, sandbox: Sandbox):
    """Machines that read the last line get an object for every end."""
    ended = run("pull", "--fulll", "--json")
    assert ended.code == 2
    assert ended.summary["status"] == "failed"


def test_a_second_pull_and_a_forget_meet_the_lock(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    """Exit 75, naming the holder; no request is sent, and no one is forgotten. A forget has waited
    before, a minute elsewhere."""
    monkeypatch.setattr("pipelines.running.session.LOCK_WAIT_S", 0.0)
    settings = load()
    prepare_state_dir(settings)
    database = Database(settings.resolved_ledger_url)
    with take_lock(database, pull_lock_name(settings), run_id="the-other"):
        both = [run("pull", "--json"), run("forget", "ann@example.org", "--json")]
    for ended in both:
        assert ended.code == 75
        assert ended.summary["error"]["type"] == "AlreadyRunning"
        assert "the-other" in ended.err
    assert sandbox.requests == []
    assert ForgottenList(database, None).aliases() == frozenset()
    database.close()


def test_check_looks_at_everything(run: Run, sandbox: Sandbox):
    """Key, destination, budget, outbox, clock; one request."""
    ended = run("check", "--json")
    assert ended.code == 0
    checks = {check["name"]: check for check in ended.summary["checks"]}
    assert list(checks) == ["key", "destination", "budget", "outbox", "clock"]
    assert isinstance(checks["clock"]["skew_s"], float), "facts are typed, not only words"
    assert checks["budget"]["windows"][0]["limit"] == 1_000_000
    assert checks["key"]["active"] is True
    assert checks["outbox"]["state_dir"] in checks["outbox"]["detail"]
    assert Path(checks["outbox"]["state_dir"], "ledger.db").exists()
    assert "acct_sandbox" in checks["key"]["detail"]
    assert len(sandbox.requests) == 1


def test_check_says_what_to_do(run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    """A key that isn't active, a destination that can't be written: each its own line."""
    sandbox.options.active = False
    Path("data").write_text("in the way")
    ended = run("check")
    assert ended.code == 2
    lines = {line.split(":")[0]: line for line in ended.out.splitlines()}
    assert "Settings" in lines["FAIL  key"]
    assert "FAIL  destination" in lines


def test_status_shows_age_and_exits_1_where_it_is_too_high(run: Run, sandbox: Sandbox):
    """Before any pull everything is too old; after one nothing is; it needs no key."""
    assert run("status").code == 0
    assert run("status", "--max-age", "2h").code == 1
    assert run("pull", "-q").code == 0
    ended = run("status", "--max-age", "2h", "--json")
    assert ended.code == 0
    notes = ended.summary["resources"]["notes"]
    assert notes["rows"] == 40
    assert notes["last_pull"] == notes["last_complete_scan"]
    assert run("status", "--max-age", "0s").code == 1


def test_runs_lists_and_shows_one(run: Run, sandbox: Sandbox):
    """Newest first, ids whole at 80 columns; one run with its reasons, by as much of its id as
    is enough; an unknown id, or one of several runs, is exit 2."""
    run_ids = [run("pull", "notes", "--json").summary["run_id"] for _ in range(2)]
    listed = run("runs", "--json").summary["runs"]
    assert [record["run_id"] for record in listed] == run_ids[::-1]
    shown = run("runs", run_ids[0])
    assert "no complete scan yet" in shown.out
    assert run("runs", run_ids[0][:-2]).out == shown.out
    assert run("runs", "nope").code == 2
    several = run("runs", "20")
    assert several.code == 2
    assert all(run_id in several.err for run_id in run_ids)
    narrow = Console(width=80, file=io.StringIO(), record=True)
    narrow.print(*recent_runs(load(), 20).lines)
    lines = narrow.export_text().splitlines()
    assert all(any(line.startswith(run_id) for line in lines) for run_id in run_ids)
    assert max(map(len, lines)) <= 80


def test_a_base_url_that_is_not_the_vendors_is_reported_once_a_run(run: Run, sandbox: Sandbox):
    """A settings file may have redirected the key."""
    ended = run("pull", "notes")
    assert ended.err.count("session.base_url") == 1
    assert sandbox.url in ended.err


def test_logs_are_json_where_the_settings_say_so(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    """One object a line, with time and run id; on a quiet run that fails, the failure too."""
    monkeypatch.setenv("HIRINGCENTER_LOGS__FORMAT", "json")
    lines = run("pull", "notes").err.splitlines()
    lines += run("push", "nothing.csv", "-q").err.splitlines()
    events = [json.loads(line) for line in lines]
    assert {"pull.scan", "command.failed"} <= {event["event"] for event in events}
    assert all(event["timestamp"] and event["run_id"] for event in events)


def test_sync_pulls_and_reports_its_parts(run: Run, sandbox: Sandbox):
    """With no push jobs, the pull alone."""
    ended = run("sync", "--json")
    assert ended.code == 0
    assert ended.summary["push"] == {}
    assert ended.summary["pull"]["resources"]["tasks"]["rows_read"] == 30


def test_state_is_for_this_user_alone(run: Run, sandbox: Sandbox):
    """Directory 0700, files 0600, whatever the umask was."""
    assert run("pull", "notes", "-q").code == 0
    state = load().state_dir
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    for folder, _, files in os.walk(state):
        for file in files:
            mode = stat.S_IMODE((Path(folder) / file).stat().st_mode)
            assert mode & 0o077 == 0, (folder, file, oct(mode))


@pytest.mark.parametrize("verbosity", ["-q", "-vv"])
def test_the_key_is_nowhere(run: Run, sandbox: Sandbox, verbosity: str):
    """No output at any verbosity, no file, no state, no error holds it."""
    sandbox.options.permissions = ()
    failed = run("pull", "notes", verbosity)
    sandbox.options.permissions = ("prospects:read", "notes:read", "tasks:read", "meetings:read")
    ended = run("pull", "notes", "--json", verbosity)
    assert ended.code == 0
    for text in (failed.out, failed.err, ended.out, ended.err):
        assert sandbox.api_key not in text
    for folder, _, files in os.walk("."):
        for file in files:
            assert sandbox.api_key.encode() not in (Path(folder) / file).read_bytes(), file


def test_personal_data_is_not_logged(run: Run, sandbox: Sandbox):
    """Emails, phones and note bodies reach tables, not log lines."""
    ended = run("pull", "-vv")
    for record in sandbox.store.all("prospects"):
        for name in ("email", "phone"):
            if record.get(name):
                assert record[name] not in ended.err + ended.out
    for record in sandbox.store.all("notes"):
        if record.get("body"):
            assert record["body"] not in ended.err + ended.out


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_terminal_that_can_not_write_a_name_fails_no_run(sandbox: Sandbox, encoding: str):
    """The work is done by then: names are spelled in escapes; JSON is UTF-8 everywhere."""
    header = "First Name,Last Name,Email"
    Path("people.csv").write_text(f"{header}\nŁukasz,Ó,x@example.com\nŻ,Ż,no-address-Ż\n")
    binary = Path(sys.executable).with_name("hiringcenter")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    for flags in ([], ["--json"]) if encoding == "ascii" else ([],):
        done = subprocess.run(
            [binary, "push", "people.csv", "--dry-run", "-q", *flags],
            env=environment, capture_output=True, check=False, timeout=500,
        )  # fmt: skip
        assert done.returncode == 3, done.stderr
        reported = done.stdout.decode("utf-8" if flags else encoding)
        assert "rejected" in reported
        if flags:
            assert json.loads(reported)["rejected"] == 1
