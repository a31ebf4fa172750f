"""Several accounts through the command line: each on its own, with one exit code for all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import duckdb
import pytest

from connector.budget.database import Database
from connector.budget.locks import take_lock
from connector.sandbox import Sandbox, SandboxOptions
from connector.settings import account_settings, load
from pipelines import demo
from pipelines.destination.identity import prepare_state_dir, pull_lock_name
from tests.sync.commands.conftest import Run
from tests.sync.push.conftest import results_waiting

JOB = '[push.people]\nfile = "people.csv"\n'
SOUTH = '[accounts.south]\napi_key_env="X"\n'
PEOPLE = "First Name,Last Name,Email\nAda,Byron,ada@example.com\n"
BAD_ROW = "No,Contact,\n"
Configure = Callable[..., None]


@pytest.fixture
def east() -> Iterator[Sandbox]:
    with Sandbox(SandboxOptions(prospects=50, notes=0, tasks=0, meetings=0)) as running:
        yield running


@pytest.fixture
def north() -> Iterator[Sandbox]:
    options = SandboxOptions(prospects=30, notes=0, tasks=0, meetings=0, api_key="k-north-77")
    with Sandbox(options) as running:
        yield running


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch, east: Sandbox, north: Sandbox) -> Configure:
    """Three accounts, of which `west` has a key that the API refuses, unless stated otherwise."""

    def write(
        more: str = "", *, west_key: str | None = "k-west-wrong", has_west: bool = True
    ) -> None:
        keys = {"EAST": east.api_key, "WEST": west_key, "NORTH": north.api_key}
        if not has_west:
            del keys["WEST"]
        for name, key in keys.items():
            if key is not None:
                monkeypatch.setenv(f"HIRINGCENTER_API_KEY_{name}", key)
        accounts = "".join(
            f'[accounts.{name.lower()}]\napi_key_env = "HIRINGCENTER_API_KEY_{name}"\n'
            for name in keys
        )
        north_url = f'base_url = "{north.url}"\n'
        top = f'base_url = "{east.url}"\nrate_limits = "1000000/60s"\nmarts.enabled = false\n'
        text = f"{top}{accounts}{north_url}{more}"
        Path("config").mkdir(exist_ok=True)
        Path("config/hiringcenter.toml").write_text(text)

    write()
    return write


def rows(account: str) -> int:
    path = f"data/hiringcenter_{account}.duckdb"
    with duckdb.connect(path, read_only=True) as connection:
        table = f"hiringcenter_{account}.hiringcenter_{account}.prospects"
        found = connection.execute(f"SELECT count(*) FROM {table}")
        return int(found.fetchall()[0][0])


def test_a_broken_account_does_not_stop_the_others(run: Run, configure: Configure):
    """Exit 2 for the refused key; the accounts before and after it are pulled; one object. Log
    lines name their account, and the run that they belong to, not the one before."""
    ended = run("pull", "prospects", "--all-accounts", "--json")
    assert ended.code == 2
    assert ended.summary["status"] == "failed"
    parts = ended.summary["accounts"]
    assert list(parts) == ["east", "west", "north"]
    assert [part["status"] for part in parts.values()] == ["ok", "failed", "ok"]
    assert parts["west"]["error"]["type"] == "Unauthorized"
    assert (rows("east"), rows("north")) == (50, 30)
    assert not Path("data/hiringcenter_west.duckdb").exists()
    (line,) = [line for line in ended.err.splitlines() if line.startswith("Error")]
    assert line.startswith("Error (account west): The API key was refused")
    assert "k-west-wrong" not in ended.err + ended.out
    reported = [line for line in ended.err.splitlines() if "event=" in line]
    assert reported
    for name, part in parts.items():
        own = [line for line in reported if f"account={name}" in line]
        assert all(f"run_id={part['run_id']}" in line for line in own if "run_id=" in line)
    assert all("account=" in line for line in reported)


def test_a_signal_stops_the_accounts_to_come_as_well(configure: Configure, east: Sandbox):
    """Exit 143 at a safe point of the first; the others aren't begun; one object all the same."""
    # it never comes to its end
    east.options.script = lambda asked: None if asked.path.endswith("/auth") else "hang"
    east.options.stall_s = 3600.0
    binary = Path(sys.executable).with_name("hiringcenter")
    with subprocess.Popen(
        [binary, "pull", "--all-accounts", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert any("event=pull.scan" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=500)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert list(json.loads(out)["accounts"]) == ["east"]


def test_sync_pulls_and_pushes_what_it_can(
    run: Run, configure: Configure, east: Sandbox, north: Sandbox
):
    """Pushes included; rejects (3) don't hide the refused key (2). Alone they aren't a failure, as
    for one account."""
    Path("people.csv").write_text(PEOPLE + BAD_ROW)
    configure(JOB)
    ended = run("sync", "--all-accounts", "--json")
    assert ended.code == 2
    parts = ended.summary["accounts"]
    assert [part["status"] for part in parts.values()] == ["ok", "failed", "ok"]
    for name, sandbox in (("east", east), ("north", north)):
        pushed = parts[name]["push"]["people"]
        assert (pushed["created"], pushed["rejected"]) == (1, 1)
        assert pushed["rejects_file"] == f"people.csv.{name}.rejects.csv"
        assert "No,Contact" in Path(pushed["rejects_file"]).read_text()
        assert len(sandbox.applied) == 1
    configure(JOB, has_west=False)
    ended = run("sync", "--all-accounts", "--json")
    assert (ended.code, ended.summary["status"]) == (3, "ok")


def test_a_missing_key_is_worse_than_a_refused_one(
    run: Run, configure: Configure, monkeypatch: pytest.MonkeyPatch
):
    """2 before 1: it needs a person; and the variable of that account is named."""
    monkeypatch.delenv("HIRINGCENTER_API_KEY_EAST")
    ended = run("pull", "notes", "--all-accounts", "--json")
    assert ended.code == 2
    assert "HIRINGCENTER_API_KEY_EAST" in ended.summary["accounts"]["east"]["error"]["message"]
    assert ended.summary["accounts"]["north"]["status"] == "ok"


@pytest.mark.parametrize(("west_key", "code"), [(None, 75), ("k-west-wrong", 2)])
def test_a_held_lock_is_between_a_failure_and_success(
    run: Run, configure: Configure, west_key: str | None, code: int
):
    """75 is worse than 0 and 3, and better than 2."""
    configure(west_key=west_key, has_west=west_key is not None)
    own = account_settings(load(), "east")
    prepare_state_dir(own)
    database = Database(own.resolved_ledger_url)
    with take_lock(database, pull_lock_name(own), run_id="the-other"):
        ended = run("pull", "notes", "--all-accounts", "--json")
    database.close()
    assert ended.code == code
    assert ended.summary["accounts"]["east"]["error"]["type"] == "AlreadyRunning"
    assert ended.summary["accounts"]["north"]["status"] == "ok"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("check",), 2),
        (("status",), 0),
        (("status", "--max-age", "2h"), 1),
        (("budget", "--plan", "10"), 0),
        (("runs",), 0),
        (("report",), 0),
        (("push", "people.csv", "--dry-run"), 0),
    ],
)
def test_every_command_takes_one_account_or_all(
    run: Run, configure: Configure, arguments: tuple[str, ...], code: int
):
    """An object per account, and the same object for that account alone."""
    Path("people.csv").write_text(PEOPLE)
    ended = run(*arguments, "--all-accounts", "--json")
    assert ended.code == code
    assert list(ended.summary["accounts"]) == ["east", "west", "north"]
    alone = run(*arguments, "--account", "north", "--json").summary
    assert set(alone) == set(ended.summary["accounts"]["north"])


def test_runs_and_reports_are_the_accounts_own(run: Run, configure: Configure):
    """Three accounts in one ledger: each sees its runs, and its report is a file of its own."""
    pulled = run("pull", "notes", "--all-accounts", "--json").summary["accounts"]
    listed = run("runs", "--all-accounts", "--json").summary["accounts"]
    for name in ("east", "west", "north"):
        assert [each["run_id"] for each in listed[name]["runs"]] == [pulled[name]["run_id"]]
    assert len(run("runs", "--json").summary["runs"]) == 3
    reports = run("report", "--all-accounts", "--json").summary["accounts"]
    for name in ("east", "west", "north"):
        assert f"account {name}" in Path(reports[name]["file"]).read_text()
    asked = run("report", "--account", "east", "--output", "mine.html", "--json").summary
    assert asked["file"] == "mine.html"


def test_a_push_to_all_has_a_rejects_file_each(run: Run, configure: Configure, east: Sandbox):
    """Also if a file was named; stdin, which can be read only once, is refused first."""
    Path("people.csv").write_text(PEOPLE + BAD_ROW)
    configure(west_key=east.api_key)
    with ExitStack() as waiting:
        for name in ("east", "west", "north"):
            waiting.enter_context(results_waiting(account_settings(load(), name)))
        ended = run("push", "people.csv", "--rejects", "bad.csv", "--all-accounts", "--json")
    assert ended.code == 3
    files = [part["rejects_file"] for part in ended.summary["accounts"].values()]
    assert files == ["bad-east.csv", "bad-west.csv", "bad-north.csv"]
    east.requests.clear()
    refused = run("push", "-", "--all-accounts", "--json")
    assert refused.code == 2
    assert east.requests == []


def test_a_job_of_one_account_is_pushed_there_alone(
    run: Run, configure: Configure, east: Sandbox, north: Sandbox
):
    """`sync` leaves it out elsewhere, `push --job` says whose it is."""
    Path("people.csv").write_text(PEOPLE)
    configure(f'{JOB}account = "north"\n', has_west=False)
    ended = run("sync", "--all-accounts", "--json")
    assert ended.code == 0
    assert ended.summary["accounts"]["east"]["push"] == {}
    assert (len(east.applied), len(north.applied)) == (0, 1)
    refused = run("push", "--job", "people", "--account", "east")
    assert refused.code == 2
    assert "--account north" in refused.err


@pytest.mark.parametrize(
    ("more", "reported"),
    [
        (SOUTH + 'dataset="hiringcenter_east"\nduckdb_path="data/hiringcenter_east.duckdb"\n',
         "it shares its tables with 'east'"),
        (SOUTH + 'dataset="Hiringcenter_East_marts"\nduckdb_path="data/hiringcenter_east.duckdb"\n',
         "the marts of 'east' would be among its tables"),
        ('[accounts."a/b"]\napi_key_env="X"\n', "accounts.a/b"),
        (SOUTH + 'dataset="a b"\n', "accounts.south.dataset"),
        (JOB + 'account = "noth"\n', "there is no [accounts.noth]"),
    ],
)  # fmt: skip
def test_accounts_that_can_not_work_are_refused(
    run: Run, configure: Configure, more: str, reported: str
):
    """Before any request: one account's full scan would delete another's rows."""
    configure(more)
    ended = run("pull", "--all-accounts")
    assert ended.code == 2
    assert reported in ended.err


def test_a_warehouse_needs_a_dataset_for_each_account(run: Run, configure: Configure):
    """A separate DuckDB file means nothing to a server: the tables would be the same."""
    more = "".join(
        f'[accounts.{name}]\napi_key_env="X"\nduckdb_path="data/{name}.duckdb"\n'
        for name in ("a1", "a2")
    )
    configure(more)
    assert run("status", "--account", "a1").code == 0
    config = Path("config/hiringcenter.toml")
    config.write_text('destination = "postgres"\n' + config.read_text())
    ended = run("status", "--account", "a1")
    assert ended.code == 2
    assert "it shares its tables with 'a1'" in ended.err


@pytest.mark.parametrize(
    "arguments", [("--account", "eats"), ("--account", "east", "--all-accounts")]
)
def test_accounts_that_are_not_there_are_usage_errors(
    run: Run, configure: Configure, arguments: tuple[str, ...]
):
    """Exit 2, with the nearest known one."""
    ended = run("pull", *arguments)
    assert ended.code == 2
    assert "east" in ended.err or "--all-accounts" in ended.err


def test_without_an_account_the_configured_ones_are_offered(run: Run, configure: Configure):
    """`hiringcenter pull` has no key here, and its error says what to type instead."""
    ended = run("pull")
    assert ended.code == 2
    assert "Accounts: east, west, north. Add --account east or --all-accounts." in ended.err


def test_make_sync_syncs_all_configured_accounts(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """Never the sandbox if keys are configured."""
    monkeypatch.setattr(sys, "argv", ["make"])
    with pytest.raises(SystemExit) as end:
        demo.main(["--json"])
    summary = json.loads(capfd.readouterr().out)
    assert end.value.code == 2
    assert list(summary["accounts"]) == ["east", "west", "north"]


def test_make_sync_with_settings_that_can_not_be_read_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """Exit 2 and what is wrong, no traceback."""
    Path("config").mkdir()
    Path("config/hiringcenter.toml").write_text("datset = 'x'\n")
    monkeypatch.setattr(sys, "argv", ["make"])
    with pytest.raises(SystemExit) as end:
        demo.main([])
    assert end.value.code == 2
    assert "Did you mean 'dataset'" in capfd.readouterr().err


@pytest.mark.parametrize("command", ["status", "report"])
def test_what_shows_one_account_wants_to_know_which(run: Run, configure: Configure, command: str):
    """Without one, it would show a destination that no account has: never pulled."""
    ended = run(command)
    assert ended.code == 2
    assert "east, west, north. Add --account east or --all-accounts" in ended.err
    assert run(command, "--account", "west").code == 0
    assert run(command, "--all-accounts").code == 0
