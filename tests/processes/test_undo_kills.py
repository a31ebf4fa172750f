"""SIGKILL at any instant of a push, an apply and an undo: nothing twice, and the way back holds."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from connector.sandbox import Sandbox, SandboxOptions
from tests.processes.push_kills import FAULTS, environment, kill_again_and_again
from tests.processes.zygote import Zygote

PEOPLE, CREATED, EDITED = 40, 5, 4
READABLE = ("firstName", "lastName", "email", "phone", "title", "company", "labels")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """People whom a file is about to change, at an API with faults and late answers."""
    options = SandboxOptions(prospects=0, notes=0, tasks=0, meetings=0, seed=3)
    with Sandbox(options) as running:
        for number in range(PEOPLE):
            running.store.create("prospects", person(number))
        yield running


def person(number: int) -> dict[str, Any]:
    blank = {"phone": None, "labels": [], "currentStageId": "stg_new"}
    who = {"firstName": f"N{number}", "lastName": "X", "email": f"n{number}@example.org"}
    return {**blank, **who, "title": "Dr", "company": f"Old {number}"}


def write_file(folder: Path) -> None:
    """Changes the title of all, the company of every other one, and names some who aren't there."""
    with (folder / "people.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["firstName", "lastName", "email", "title", "company"])
        for number in range(PEOPLE + CREATED):
            company = "New" if number % 2 else ""
            writer.writerow([f"N{number}", "X", f"n{number}@example.org", "Prof", company])


def people(sandbox: Sandbox) -> dict[str, dict[str, Any]]:
    found = sandbox.store.all("prospects")
    return {each["id"]: {name: each.get(name) for name in READABLE} for each in found}


def run(zygote: Zygote, *command: str) -> tuple[int, dict[str, Any]]:
    """Exit code and summary."""
    zygote.start(*command, "--json", "-q")
    code = zygote.wait()
    return code, json.loads((zygote.folder / "out").read_text().splitlines()[-1])


def under_fire(zygote: Zygote, sandbox: Sandbox, chance: random.Random, *command: str) -> int:
    """Kill it three times, with faults of the API; then run it to its end: its exit code."""
    sandbox.options.faults, sandbox.options.latency_s = FAULTS, (0.01, 0.04)
    killed = (*command, "--json", "-q")
    kill_again_and_again(zygote, sandbox, killed, 3, chance, requests=8)
    code, summary = run(zygote, *command)
    assert "error" not in summary, summary
    return code


def calm(sandbox: Sandbox) -> None:
    sandbox.options.faults, sandbox.options.latency_s = type(FAULTS)(), 0.0


def would_update(zygote: Zygote, run_id: str) -> int:
    """To how many people an undo of this run would put something back."""
    return int(run(zygote, "undo", run_id, "--dry-run")[1]["would_update"])


def runs_of(zygote: Zygote, kind: str) -> list[str]:
    """Newest first."""
    _, summary = run(zygote, "runs", "--last", "100")
    return [each["run_id"] for each in summary["runs"] if each["kind"] == kind]


def listed(folder: Path, runs: list[str]) -> Counter[tuple[str, str]]:
    """(prospect id, status) of rows that these runs have refused, as they have landed."""
    with duckdb.connect(str(folder / "data" / "hiringcenter.duckdb"), read_only=True) as copy:
        found = copy.execute(
            "SELECT DISTINCT prospect_id, status FROM hiringcenter.hiringcenter._hc_push_results "
            "WHERE list_contains(?, run_id) AND status IN ('failed', 'rejected')",
            [runs],
        ).fetchall()
    return Counter(found)


@pytest.mark.slow
def test_what_a_killed_push_changed_is_taken_back_by_a_killed_undo(
    sandbox: Sandbox, tmp_path: Path
):
    """Every readable field is as before, but those of people who were created, or edited since:
    exactly these are listed. The same file pushed again sends nothing."""
    chance, before = random.Random(11), people(sandbox)
    write_file(tmp_path)
    with Zygote(tmp_path, environment(sandbox, None)) as zygote:
        assert run(zygote, "pull")[0] == 0
        assert under_fire(zygote, sandbox, chance, "push", "people.csv") == 0
        ids = list(before)
        edited, created = ids[:EDITED], [id_ for id_ in people(sandbox) if id_ not in before]
        assert len(created) == CREATED
        for id_ in edited:
            sandbox.store.update("prospects", id_, {"title": "Edited"})
        pushes = runs_of(zygote, "push")
        assert len(pushes) > 1
        changed = {each: would_update(zygote, each) for each in pushes}
        assert sum(changed.values()) == PEOPLE
        for run_id in pushes:
            if changed[run_id] == max(changed.values()):
                assert under_fire(zygote, sandbox, chance, "undo", run_id) in (0, 3)
            else:
                assert run(zygote, "undo", run_id)[0] in (0, 3)
        calm(sandbox)
        now, posts = people(sandbox), len(sandbox.applied)
        assert {id_: now[id_] for id_ in before if id_ not in edited} == {
            id_: fields for id_, fields in before.items() if id_ not in edited
        }
        for id_ in edited:
            assert now[id_] == {**before[id_], "title": "Edited"}
        assert run(zygote, "pull")[0] == 0
        undos = runs_of(zygote, "undo")
        assert listed(tmp_path, undos) == Counter(
            {(id_, "failed"): 1 for id_ in edited} | {(id_, "rejected"): 1 for id_ in created}
        )
        assert run(zygote, "push", "people.csv")[0] == 0
        assert len(sandbox.applied) == posts


@pytest.mark.slow
def test_a_killed_apply_resumes(sandbox: Sandbox, tmp_path: Path):
    """Each planned change is made once, field by field; people edited meanwhile are conflicts, and
    nothing of theirs is sent. Applied again, it costs no request."""
    chance, before = random.Random(12), people(sandbox)
    write_file(tmp_path)
    with Zygote(tmp_path, environment(sandbox, None)) as zygote:
        assert run(zygote, "pull")[0] == 0
        assert run(zygote, "plan", "people.csv", "--out", "people.hcplan")[0] == 0
        edited = list(before)[:EDITED]
        for id_ in edited:
            sandbox.store.update("prospects", id_, {"title": "Edited"})
        applied = len(sandbox.applied)
        assert under_fire(zygote, sandbox, chance, "apply", "people.hcplan") == 3
        calm(sandbox)
        changed = Counter(each.id for each in sandbox.applied[applied:])
        now = people(sandbox)
        for id_ in before:
            is_odd = int(before[id_]["firstName"].removeprefix("N")) % 2
            planned = {"title": "Prof"} | ({"company": "New"} if is_odd else {})
            planned = {"title": "Edited"} if id_ in edited else planned
            assert now[id_] == {**before[id_], **planned}
        assert len(now) == PEOPLE + CREATED
        assert changed == Counter(dict.fromkeys(now.keys() - set(edited), 1))
        runs = runs_of(zygote, "apply")
        assert len(runs) > 1
        assert listed(tmp_path, runs) == Counter(
            dict.fromkeys(((id_, "failed") for id_ in edited), 1)
        )
        asked = len(sandbox.requests)
        assert run(zygote, "apply", "people.hcplan")[0] == 0
        assert len(sandbox.requests) == asked
