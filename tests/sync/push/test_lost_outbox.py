"""A lost outbox is noticed, named, and replaced only on request."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from connector.budget.database import LEDGER_SCHEMA
from connector.errors import OutboxLost, UsageError
from connector.sandbox import Sandbox
from connector.settings import Settings
from pipelines.pull.pull_run import Wanted, pull
from pipelines.push.plan_view import PlanFiles
from pipelines.push.push_input import PushRequest
from pipelines.push.push_report import PushReport
from pipelines.push.push_run import plan_push, push
from pipelines.running.checks import run_checks
from tests.sync.push.conftest import results_waiting

HEADER = "First Name,Last Name,E-mail,Title,note.body\n"
ROWS = ["Ada,L,ada@example.org,Dr,Called", "Bob,B,bob@example.org,,", "Cy,Y,cy@example.org,Ms,"]


@pytest.fixture
def people(tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    path.write_text(HEADER + "".join(f"{row}\n" for row in ROWS))
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def either(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """Settings with a ledger of either kind."""
    if request.param == "sqlite":
        return settings
    url = str(request.getfixturevalue("postgres_url"))
    return settings.model_copy(update={"ledger_url": url})


def push_file(settings: Settings, path: Path, **options: Any) -> PushReport:
    with results_waiting(settings):
        return push(settings, PushRequest(file=str(path), **options))


def outbox_file(settings: Settings) -> Path:
    return settings.state_dir / "ledger-outbox.db"


def posts(sandbox: Sandbox) -> int:
    return sum(request.method == "POST" for request in sandbox.requests)


def vanish(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def test_a_push_without_its_outbox_stops_and_a_new_one_looks_first(
    settings: Settings, sandbox: Sandbox, people: Path
):
    """Exit 2 and not one request; with --new-ledger what is there already isn't sent."""
    push_file(settings, people)
    vanish(outbox_file(settings))
    sandbox.clear_log()
    for dry_run in (False, True):
        with pytest.raises(OutboxLost, match="has vanished") as caught:
            push_file(settings, people, dry_run=dry_run)
        assert caught.value.exit_code == 2
    assert sandbox.requests == []

    reported = push_file(settings, people, dry_run=True, new_ledger=True)
    assert reported.summary["would_request"] == 4 + 4
    asked = PushRequest(file=str(people), new_ledger=True)
    assert plan_push(settings, asked, PlanFiles()).summary["would_request"] == 4 + 4
    with pytest.raises(UsageError, match="this one was lost"):
        plan_push(settings, asked, PlanFiles(out=people.with_suffix(".hcplan")))
    assert sandbox.requests == []
    report = push_file(settings, people, new_ledger=True)
    assert (report.exit_code, report.summary["unchanged"]) == (0, 3), report.noteworthy
    assert report.summary["look_ups"] == 4
    assert any("look-ups" in note for note in report.notes)
    assert posts(sandbox) == 0
    again = push_file(settings, people, new_ledger=True)
    assert (again.summary["unchanged"], again.summary["requests"]) == (3, 0)
    assert any("--new-ledger has no effect" in note for note in again.notes)


def test_tables_that_were_dropped_are_an_outbox_that_was_lost(
    settings: Settings, sandbox: Sandbox, people: Path, postgres_url: str
):
    """One database holds both halves; the budget remembers the other one."""
    settings = settings.model_copy(update={"ledger_url": postgres_url})
    push_file(settings, people)
    engine = engine_of_ledger(postgres_url)
    with engine.begin() as connection:
        found = sa.inspect(connection).get_table_names(schema=LEDGER_SCHEMA)
        names = [f"{LEDGER_SCHEMA}.{name}" for name in found if name.startswith("outbox_")]
        connection.execute(sa.text(f"DROP TABLE {', '.join(names)}"))
    engine.dispose()
    sandbox.clear_log()
    with pytest.raises(OutboxLost, match="--new-ledger"):
        push_file(settings, people)
    pull(settings, Wanted(("prospects",)))
    report = push_file(settings, people, new_ledger=True)
    assert report.summary["unchanged"] == 3, report.noteworthy
    assert posts(sandbox) == 0


@pytest.mark.parametrize("loss", ["vanished", "emptied in place"])
def test_an_outbox_that_is_lost_while_a_push_runs_stops_it(
    settings: Settings, sandbox: Sandbox, tmp_path: Path, loss: str
):
    """SQLite would keep using a file that no later run finds. What was sent by then is found by
    look-ups."""
    path = tmp_path / "people.csv"
    rows = "".join(f"N{n},X,n{n}@example.org,,\n" for n in range(120))
    path.write_text(HEADER + rows)
    file = outbox_file(settings)

    def lose(request: Any) -> None:
        if request.method == "POST" and file.exists() and posts(sandbox) == 40:
            if loss == "vanished":
                vanish(file)
            else:
                os.truncate(file, 0)

    sandbox.options.script = lose
    report = push_file(settings, path)
    sandbox.options.script = None
    assert (report.exit_code, report.summary["error"]["type"]) == (2, "OutboxLost")
    assert report.summary["not_sent"] > 0
    sent = posts(sandbox)
    assert sent < 120
    report = push_file(settings, path, new_ledger=True)
    assert report.exit_code == 0, report.noteworthy
    assert report.summary["unchanged"] + report.summary["created"] == 120
    emails = [change.payload["email"] for change in sandbox.applied]
    assert len(emails) == len(set(emails)) == 120


def test_a_new_outbox_sends_what_differs_and_creates_missing_people(
    either: Settings, sandbox: Sandbox, people: Path
):
    """On either ledger: one is as the file says, one was changed, one deleted, one note is
    missing."""
    push_file(either, people)
    store = sandbox.store
    ids = {p.get("email"): p["id"] for p in store.all("prospects")}
    store.update("prospects", ids["cy@example.org"], {"title": "Mr"})
    store.delete("prospects", ids["bob@example.org"])
    for note in store.all("notes"):
        store.delete("notes", note["id"])
    lose_all(either)
    report = push_file(either, people, new_ledger=True)
    assert report.exit_code == 0, report.noteworthy
    counts = {name: report.summary[name] for name in ("created", "updated", "unchanged")}
    assert counts == {"created": 1, "updated": 2, "unchanged": 0}
    assert [note["body"] for note in store.all("notes")] == ["Called"]
    titles = {p.get("email"): p.get("title") for p in store.all("prospects")}
    assert titles["cy@example.org"] == "Ms"
    # another file, later, without the flag: no one it names was known to the new outbox
    other = people.with_name("other.csv")
    known = store.all("prospects")[0]
    other.write_text(
        f"First Name,Last Name,E-mail\n{known['firstName']},{known['lastName']},{known['email']}\n"
    )
    assert push_file(either, other).summary["unchanged"] == 1


def engine_of_ledger(url: str) -> sa.Engine:
    """A connection of another program, which finds the ledger's tables under their plain names."""
    arguments = {"options": f"-c search_path={LEDGER_SCHEMA}"}
    return sa.create_engine(
        url.replace("postgresql:", "postgresql+psycopg:"), connect_args=arguments
    )


def lose_all(settings: Settings) -> None:
    if settings.ledger_url is None:
        vanish(outbox_file(settings))
        return
    engine = engine_of_ledger(settings.ledger_url)
    with engine.begin() as connection:
        for name in ("receipts", "aliases", "attached", "entries", "entry_contacts", "sources"):
            connection.execute(sa.text(f"DELETE FROM {LEDGER_SCHEMA}.outbox_{name}"))
        token = f"DELETE FROM {LEDGER_SCHEMA}.outbox_salts WHERE name = 'token'"
        connection.execute(sa.text(token))
    engine.dispose()


def test_a_budget_that_is_lost_takes_its_outbox_back(
    settings: Settings, sandbox: Sandbox, people: Path
):
    """What was sent is found under the same numbers: nothing is sent again, nothing is stuck."""
    push_file(settings, people)
    vanish(settings.state_dir / "ledger.db")
    sandbox.clear_log()
    report = push(settings, PushRequest(file=str(people)))
    assert (report.exit_code, report.summary["unchanged"]) == (0, 3)
    assert sandbox.requests == []


def test_a_pull_works_without_the_outbox(settings: Settings, people: Path):
    """It has no part in what was lost, and makes no new outbox either; `check` says so."""
    push(settings, PushRequest(file=str(people)))
    assert [check.ok for check in run_checks(settings)] == [True] * 5
    vanish(outbox_file(settings))
    (check,) = [check for check in run_checks(settings) if not check.ok]
    assert check.name == "outbox"
    assert "--new-ledger" in check.detail
    assert pull(settings, Wanted(("prospects",))).summary["status"] == "ok"
    with pytest.raises(OutboxLost):
        push_file(settings, people)
