"""`hiringcenter columns`: the dictionary, with and without a destination."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from connector.sandbox import Sandbox
from tests.sync.commands.conftest import Run


def test_it_needs_no_key_and_no_destination(run: Run):
    """Every table, in 80 columns; that nothing has landed is a note."""
    ended = run("columns")
    assert ended.code == 0
    assert max(map(len, ended.out.splitlines()[:-1])) <= 80
    for name in ("prospects", "notes", "tasks", "meetings", "_hc_runs", "_hc_freshness"):
        assert f"\n{name}: " in f"\n{ended.out}"
    assert "  completed_at             time     when it was completed; null: open\n" in ended.out
    assert "  days_overdue             integer  whole days between that and `as_of`\n" in ended.out
    assert "\nlive_tasks: mart. Which tasks" in ended.out
    assert ended.out.count("  completed_at             time     when it was completed") == 3
    assert "There is no copy" in ended.out


@pytest.mark.parametrize(("table", "hint"), [("prospect", "'prospects'"), ("x", "Known: ")])
def test_a_table_that_is_not_there_is_named(run: Run, table: str, hint: str):
    """With the nearest one."""
    ended = run("columns", table, "--json")
    assert ended.code == 2
    assert hint in ended.summary["error"]["message"]


def test_columns_that_have_landed_are_listed_too(run: Run, sandbox: Sandbox):
    """Of a field that the API's reference doesn't name, and of values of another type."""
    first = sandbox.store.all("prospects")[0]["id"]
    sandbox.store.update("prospects", first, {"shoeSize": 47, "title": 7})
    run("pull", "prospects", "-q")
    (table,) = run("columns", "prospects", "--json").summary["tables"]
    columns = {each.pop("name"): each for each in table["columns"]}
    assert columns["shoe_size"]["type"] == "integer"
    assert columns["shoe_size"]["holds"].startswith("not in the contract")
    assert columns["title__v_bigint"]["holds"] == "values of title that are of another type: bigint"
    undocumented = {name for name, each in columns.items() if not each["is_documented"]}
    assert undocumented >= {"shoe_size"}
    assert not undocumented & {"id", "title__v_bigint", "_hc_deleted_at", "email"}


def test_marts_of_the_user_are_listed_with_their_types(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What each file says of its columns, and which it doesn't describe; nothing of them is run.
    One that can't be made says why, one that isn't a mart is named as by a pull."""
    monkeypatch.setenv("HIRINGCENTER_MARTS__DIRECTORY", str(tmp_path))
    (tmp_path / "movers.sql").write_text(
        "-- Who moved?\n-- One row per prospect.\n--\n-- moves: how often\n"
        "SELECT prospect_id, count(*) AS moves, list(stage) AS stages,\n"
        "error('it was run')::VARCHAR AS never FROM stage_history GROUP BY ALL;"
    )
    (tmp_path / "of_movers.sql").write_text("-- moves: how often\nSELECT max(moves) FROM movers")
    (tmp_path / "wrong.sql").write_text("-- Why?\n--\n-- x: a text\nSELECT x FROM nowhere")
    (tmp_path / "other.sql").write_text("DROP TABLE prospects")
    ended = run("columns", "--json")
    tables = {each["name"]: each for each in ended.summary["tables"]}
    assert tables["movers"]["holds"] == "mart of your own. Who moved?"
    moves = {each["name"]: each for each in tables["movers"]["columns"]}
    assert {name: each["type"] for name, each in moves.items()} == {
        "prospect_id": "text", "moves": "integer", "stages": "list", "never": "text",
    }  # fmt: skip
    assert (moves["moves"]["holds"], moves["moves"]["is_documented"]) == ("how often", True)
    assert moves["stages"]["holds"].startswith("not described")
    assert [each["type"] for each in tables["of_movers"]["columns"]] == ["integer"]
    assert "It can't be made: CatalogException" in tables["wrong"]["holds"]
    assert [each["name"] for each in tables["wrong"]["columns"]] == ["x"]
    assert "other" not in tables
    assert "other.sql" in ended.err


def test_without_a_key_it_reads_the_copy_that_make_sync_made(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As `make sync` does, and `status` names it. Where a key is configured, it isn't meant."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    with duckdb.connect("data/sandbox.duckdb") as copy:
        copy.execute("CREATE SCHEMA hiringcenter")
        copy.execute("CREATE TABLE sandbox.hiringcenter.notes (id VARCHAR, mood BIGINT)")
    summary = run("columns", "notes", "--json").summary
    assert "mood" in str(summary["tables"])
    assert "sandbox.duckdb" in summary["note"]
    assert "sandbox.duckdb" in run("status").out
    monkeypatch.setenv("HIRINGCENTER_API_KEY", "k-1234567890")
    summary = run("columns", "notes", "--json").summary
    assert "mood" not in str(summary["tables"])
    assert "sandbox.duckdb" not in run("status").out
    assert "There is no copy" in summary["note"]
