"""`hiringcenter plan`: what a push would change, found out without a request."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from connector.budget import locks
from connector.sandbox import Sandbox
from connector.settings import load
from pipelines.running.account_outbox import outbox_database
from tests.sync.commands.conftest import Ended, Run

INPUTS = Path(__file__).parents[2] / "inputs"


@pytest.fixture
def people(sandbox: Sandbox, run: Run, tmp_path: Path) -> Path:
    """Three people whom HiringCenter has as the file says, one whom it doesn't know, and a row that
    can't be sent; after a pull."""
    known = [
        {"firstName": name, "lastName": "Lovelace", "email": f"{name.lower()}@example.com",
         "title": "Agent", "labels": ["a", "b"]}
        for name in ("Ada", "Bea", "Cleo")
    ]  # fmt: skip
    for record in known:
        sandbox.store.create("prospects", record)
    assert run("pull", "prospects", "-q").code == 0
    path = tmp_path / "people.csv"
    rows = [f"{each['firstName']},Lovelace,{each['email']},Agent,a;b" for each in known]
    rows += ["Dora,New,dora@example.com,Broker,", "Eve,Bad,nope,Broker,"]
    path.write_text("\n".join(["first name,last name,email,title,labels", *rows, ""]))
    return path


def changes_of(path: Path) -> dict[int, dict[str, Any]]:
    """By row."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {each["row"]: each for each in lines}


def planned(run: Run, people: Path, *options: str) -> tuple[Ended, dict[int, dict[str, Any]]]:
    changes = people.with_suffix(".jsonl")
    ended = run("plan", str(people), "--changes", str(changes), "--json", *options)
    return ended, changes_of(changes)


def test_a_plan_sends_no_request_and_changes_nothing(run: Run, sandbox: Sandbox, people: Path):
    """Not even the first one of a key; the exit code says that a row would be rejected."""
    before = len(sandbox.requests)
    ended, changes = planned(run, people)
    assert (ended.code, ended.summary["status"]) == (3, "ok")
    assert (len(sandbox.requests), ended.summary["requests"]) == (before, 0)
    assert (ended.summary["rows"], ended.summary["rejected"]) == (5, 1)
    assert (ended.summary["would_create"], ended.summary["cannot_be_undone"]) == (1, {"created": 1})
    assert changes[5]["outcome"] == "create"
    assert (changes[5]["name"], changes[5]["contact"]) == ("Dora New", "dora@example.com")
    assert "'nope' isn't an email address" in changes[6]["reason"]
    assert run("runs", "--json").summary["runs"][0]["kind"] == "pull"


def test_a_key_whose_account_is_unknown_is_told_what_to_run(run: Run, sandbox: Sandbox):
    """A request would tell; a plan makes none."""
    ended = run("plan", str(INPUTS / "floats.csv"), "--json")
    assert (ended.code, len(sandbox.requests)) == (2, 0)
    assert "Run `hiringcenter check`" in ended.summary["error"]["message"]
    assert run("check", "-q").code == 0
    before = len(sandbox.requests)
    run("plan", str(INPUTS / "floats.csv"), "--json")
    assert len(sandbox.requests) == before


def test_a_dry_run_shows_the_same(run: Run, people: Path):
    """Totals and first changes; a plan only makes no request."""
    shown = run("plan", str(people), "--json").summary
    dry = run("push", str(people), "--dry-run", "--json").summary
    for summary in (shown, dry):
        for name in ("seconds", "copy_age_s", "eta_s"):
            del summary[name]
    assert shown == dry


def test_a_plan_needs_no_lock(run: Run, sandbox: Sandbox, people: Path):
    """It may run beside a push."""
    assert run("push", str(people), "-q").code == 3
    database = outbox_database(load())
    with database.read() as connection:
        found = connection.exec_driver_sql("SELECT scope FROM outbox_scopes").scalar_one()
    with locks.take_lock(database, f"push with the API key {found:015x}", run_id="r"):
        assert run("push", str(people), "-q").code == 75
        assert run("plan", str(people), "-q").code == 3
    database.close()


def test_files_of_a_plan_are_private_and_complete(run: Run, people: Path, tmp_path: Path):
    """They hold names and contacts. Where the plan fails, there are none."""
    out, changes = tmp_path / "people.hcplan", tmp_path / "people.jsonl"
    options = ("--out", str(out), "--changes", str(changes), "--json")
    summary = run("plan", str(people), *options).summary
    assert (summary["plan_file"], summary["changes_file"]) == (str(out), str(changes))
    assert [stat.S_IMODE(path.stat().st_mode) for path in (out, changes)] == [0o600] * 2
    out.unlink()
    changes.unlink()
    people.write_bytes(people.read_bytes().replace(b"email", b"colour"))
    assert run("plan", str(people), *options).code == 2
    assert list(tmp_path.glob("*people.*")) == [people]


def test_another_file_is_never_overwritten(run: Run, people: Path):
    """A mistyped option names it."""
    content = people.read_bytes()
    for option in ("--out", "--changes"):
        ended = run("plan", str(people), option, str(people), "--json")
        assert ended.code == 2
        assert f"Name another file: {option} F" in ended.summary["error"]["message"]
    assert people.read_bytes() == content


def test_a_guessed_encoding_is_never_kept_to_be_sent(run: Run, people: Path, tmp_path: Path):
    """A plan that is only looked at may guess, as a dry run may; one that `apply` sends may not."""
    path = str(INPUTS / "mac-roman.csv")
    assert run("plan", path, "--json").code == 0
    ended = run("plan", path, "--out", str(tmp_path / "p.hcplan"), "--json")
    assert (ended.code, ended.summary["error"]["type"]) == (2, "EncodingGuessed")
