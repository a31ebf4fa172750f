"""A project is used from any folder below it, with dlt's own files, as cron and people do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from connector.sandbox import Sandbox
from connector.settings import load
from tests.sync.commands.conftest import Run
from tests.sync.pull.conftest import dlt_credentials
from tests.sync.push.conftest import results_waiting

BINARY = Path(sys.executable).with_name("hiringcenter")


def test_dlts_credentials_are_those_of_the_project(
    sandbox: Sandbox, tmp_path: Path, postgres_url: str
):
    """`.dlt/secrets.toml` next to the settings counts, wherever the command is typed; one in the
    working folder is another project's."""
    project = tmp_path / "project"
    for folder in (project / ".dlt", project / "reports/.dlt"):
        folder.mkdir(parents=True)
    (project / ".env").write_text("HIRINGCENTER_DESTINATION=postgres\n")
    credentials = '[destination.postgres]\ncredentials = "{}"\n'
    (project / ".dlt/secrets.toml").write_text(credentials.format(dlt_credentials(postgres_url)))
    elsewhere = credentials.format("postgresql://nobody:pw@127.0.0.1:1/nowhere")
    (project / "reports/.dlt/secrets.toml").write_text(elsewhere)
    done = subprocess.run(
        [BINARY, "pull", "notes"], cwd=project / "reports", env=os.environ.copy(),
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    engine = sa.create_engine(sa.make_url(postgres_url).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM hiringcenter.notes")) == 40
    engine.dispose()
    assert sorted(path.name for path in (project / "reports").iterdir()) == [".dlt"]


def test_the_state_is_the_users_from_every_folder(
    run: Run, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """From a second folder, pushed rows aren't sent again, and the history is there."""
    people = "First Name,Last Name,Email\nAda,Byron,ada@example.com\n"
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "people.csv").write_text(people)
    file = str(tmp_path / "people.csv")
    monkeypatch.chdir(tmp_path / "one")
    with results_waiting(load()):
        assert run("push", file, "--json").summary["created"] == 1
    monkeypatch.chdir(tmp_path / "two")
    with results_waiting(load()):
        assert run("push", file, "--json").summary["unchanged"] == 1
    assert len(run("runs", "--json").summary["runs"]) == 2
