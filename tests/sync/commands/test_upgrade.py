"""A folder that version 0.1 has used: what it sent is known, and nothing is lost."""

from __future__ import annotations

import hashlib
import sqlite3
import tarfile
from pathlib import Path

import duckdb
import pytest

from connector.sandbox import Sandbox, SandboxOptions
from connector.settings.folders import default_state_dir
from tests.sync.commands.conftest import Run

FIXTURE = Path(__file__).parents[2] / "fixtures/state-0.1.tar.xz"
_MADE_AT = "duckdb:/tmp/p01/data/hiringcenter.duckdb"  # where the fixture's destination was


@pytest.fixture
def old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A real `.hiringcenter` and copy of version 0.1, as if it had always been in `tmp_path`."""
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    state = tmp_path / ".hiringcenter"
    here = f"duckdb:{tmp_path / 'data/hiringcenter.duckdb'}"
    with sqlite3.connect(state / "ledger.db") as ledger:
        for table, column in (
            ("runs", "label"), ("runs", "lock_name"),
            ("freshness", "label"), ("freshness_published", "label"),
        ):  # fmt: skip
            ledger.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (_MADE_AT, here)
            )
    (work,) = (state / "work").iterdir()
    digest = hashlib.sha256(here.encode()).hexdigest()[:10]
    work.rename(work.with_name(f"hiringcenter-{digest}"))
    monkeypatch.setenv("HIRINGCENTER_API_KEY", "k-9f2b7c31")
    monkeypatch.setenv("HIRINGCENTER_RATE_LIMITS", "1000000/60s")
    return tmp_path


def test_an_upgrade_sends_nothing_again_and_keeps_its_history(
    run: Run, old_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """Receipts, run history, freshness and working file of 0.1 are this version's own."""
    with Sandbox(
        SandboxOptions(prospects=60, notes=40, tasks=30, meetings=20, api_key="k-9f2b7c31")
    ) as sandbox:
        monkeypatch.setenv("HIRINGCENTER_BASE_URL", sandbox.url)
        pushed = run("push", "people.csv", "--json")
        assert (pushed.code, pushed.summary["unchanged"]) == (0, 3)
        assert not [each for each in sandbox.requests if each.method == "POST"]
        history = run("runs", "--json").summary["runs"]
        assert sorted(each["kind"] for each in history) == ["pull", "pull", "push", "push", "push"]
        fresh = run("status", "--json").summary["resources"]
        assert {name: facts["rows"] for name, facts in fresh.items()} == {
            "prospects": 63, "notes": 40, "tasks": 30, "meetings": 20,
        }  # fmt: skip
        assert not (old_folder / ".hiringcenter").exists()
        assert (default_state_dir() / "ledger.db").exists()
        assert run("pull").code in (0, 3)  # three people of the fixture aren't in this account
    with duckdb.connect("data/hiringcenter.duckdb", read_only=True) as copy:
        runs = copy.execute("SELECT count(*) FROM hiringcenter.hiringcenter._hc_runs").fetchone()
        results = copy.execute(
            "SELECT count(*) FROM hiringcenter.hiringcenter._hc_push_results"
        ).fetchone()
    assert (runs, results) == ((6,), (9,)), "each push has an outcome for each row"
