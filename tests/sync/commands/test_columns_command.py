"""`hiringcenter columns`: the dictionary, with and without a destination."""

from __future__ import annotations

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
