"""`plan`, `apply` and `undo` on the command line: what people read, before and after."""

from __future__ import annotations

from pathlib import Path

import pytest

from connector.sandbox import Sandbox
from connector.settings import load
from tests.sync.commands.conftest import Run
from tests.sync.push.conftest import results_waiting


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("apply",), "Name the plan"),
        (("apply", "none.hcplan"), "none.hcplan can't be read"),
        (("apply", "none.hcplan", "--max-age", "soon"), "isn't a valid duration"),
        (("undo",), "Name the run to undo"),
        (("undo", "20200101"), "There is no run '20200101'. `hiringcenter runs` lists them."),
    ],
)
def test_what_cant_be_done_says_why(run: Run, arguments: tuple[str, ...], advice: str):
    """Exit 2, and what to do."""
    ended = run(*arguments)
    assert ended.code == 2
    assert advice in ended.err


def test_an_import_is_planned_applied_and_taken_back(
    run: Run, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each step says what it is about to do or has done; an undo counts its requests before the
    first one, and lists what stays with row and prospect."""
    monkeypatch.chdir(tmp_path)
    old = sandbox.store.all("prospects")[0]
    new = {"firstName": "Ada", "lastName": "Byron", "email": "ada@example.com"}
    lines = [f"{each['firstName']},{each['lastName']},{each['email']},Boss" for each in (old, new)]
    Path("people.csv").write_text("\n".join(["firstName,lastName,email,title", *lines]) + "\n")
    assert run("pull", "prospects", "-q").code == 0
    assert run("plan", "people.csv", "--out", "people.hcplan").code == 0
    with results_waiting(load()):
        done = run("apply", "people.hcplan")
        assert done.code == 0
        again = run("apply", "people.hcplan", "--json")
        assert (again.code, again.summary["requests"], again.summary["unchanged"]) == (0, 0, 2)
        runs = run("runs", "--json").summary["runs"]
        (run_id,) = [each["run_id"] for each in runs if each["kind"] == "apply" and each["updated"]]
        asked = len(sandbox.requests)
        dry = run("undo", run_id, "--dry-run")
        ada = next(each for each in sandbox.store.all("prospects") if each["firstName"] == "Ada")
        assert (dry.code, len(sandbox.requests)) == (3, asked)
        stays = f"row 3: rejected: prospect {ada['id']} was created"
        assert stays in dry.out
        assert "Nothing was sent. It would take 2 requests" in dry.out
        undone = run("undo", run_id)
        assert undone.code == 3
        before, _, after = undone.out.partition(stays)
        assert f"Undoing run {run_id}: 1 prospect to look up and put back, 2 requests: " in before
        assert after
        assert sandbox.store.get("prospects", old["id"])["title"] == old["title"]
        second = run("undo", run_id[:-2], "--json")
        assert (second.code, second.summary["requests"], second.summary["unchanged"]) == (0, 0, 2)
        assert "already undone, by run" in second.err
