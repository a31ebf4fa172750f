"""Workers whose disk doesn't last: each run has a state directory of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from connector.errors import OutboxLost
from connector.sandbox import Sandbox
from connector.settings import Settings
from pipelines.push.push_input import PushRequest
from pipelines.push.push_run import push
from tests.sync.pull.conftest import dlt_credentials

RUNS = int(os.environ.get("RUNS_WITHOUT_DISK", "2"))
ROWS = "First Name,Last Name,E-mail,note.body\n" + "".join(
    f"Ada,Number {number},ada{number}@example.org,Called {number}\n" for number in range(5)
)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    path.write_text(ROWS)
    return path


@pytest.fixture
def warehouse(settings: Settings, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Rows land in PostgreSQL."""
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", dlt_credentials(postgres_url))
    return settings.model_copy(update={"destination": "postgres"})


def test_a_ledger_in_the_warehouse_sends_every_row_and_every_note_once(
    warehouse: Settings, sandbox: Sandbox, people: Path, postgres_url: str
):
    """By one setting, however many machines have pushed the file before."""
    before = {name: len(sandbox.store.all(name)) for name in ("prospects", "notes")}
    for number in range(RUNS):
        settings = warehouse.model_copy(
            update={
                "ledger_url": postgres_url,
                "state_dir": warehouse.state_dir.with_name(f"state-{number}"),
            }
        )
        counts = push(settings, PushRequest(file=str(people))).summary
        assert counts["unchanged" if number else "created"] == 5, counts
    after = {name: len(sandbox.store.all(name)) for name in ("prospects", "notes")}
    assert after == {name: count + 5 for name, count in before.items()}


def test_a_ledger_on_a_disk_that_is_new_refuses_to_push(
    warehouse: Settings, sandbox: Sandbox, people: Path
):
    """Before the first request: the warehouse knows of pushes of which the ledger knows nothing."""
    assert push(warehouse, PushRequest(file=str(people))).summary["created"] == 5
    sandbox.clear_log()
    other = warehouse.model_copy(update={"state_dir": warehouse.state_dir.with_name("other")})
    with pytest.raises(OutboxLost, match="--new-ledger"):
        push(other, PushRequest(file=str(people)))
    assert sandbox.requests == []
