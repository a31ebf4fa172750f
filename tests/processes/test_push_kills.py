"""SIGKILL at any instant of a push: every row is applied exactly once, or reported as uncertain."""

from __future__ import annotations

import csv
import json
import signal
from collections import Counter
from pathlib import Path

import pytest

from connector.sandbox import Sandbox, SandboxOptions
from connector.settings import Settings
from tests.processes.push_kills import environment, push_killed_before, push_under_fire
from tests.processes.zygote import Zygote, signalled
from tests.sync.push.conftest import results_waiting

ROWS = 120


@pytest.mark.slow
def test_each_row_is_applied_once_at_an_api_that_keeps_keys(tmp_path: Path):
    """Killed at random instants, with lost answers, drops and 5xx: each change is made once."""
    killed = push_under_fire(tmp_path, rows=120, kills=3, seed=1)
    assert killed.kills > 0
    assert killed.exit_code == 0, killed.messages
    assert killed.summary["rows"] == 120
    assert set(killed.applied.values()) == {1}
    assert len(killed.applied) == 120


@pytest.mark.slow
def test_nothing_is_doubled_at_an_api_that_forgets_keys(tmp_path: Path):
    """Keys are forgotten after a second: what isn't applied once is reported, and not repeated."""
    killed = push_under_fire(tmp_path, rows=120, kills=3, seed=2, keys_ttl_s=1.0)
    assert killed.kills > 0
    assert killed.doubled == []
    uncertain = killed.summary["failed"]
    assert killed.summary["rows"] == 120
    assert 120 - len(killed.applied) <= uncertain
    assert killed.exit_code == (3 if uncertain else 0), killed.messages


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_at_a_safe_point(tmp_path: Path, number: int, code: int):
    """Requests in flight are recorded, nothing is doubled, and the next push resumes."""
    options = SandboxOptions(prospects=0, notes=0, tasks=0, meetings=0, latency_s=0.05)
    path = tmp_path / "people.csv"
    rows = "".join(f"N{n},X,n{n}@example.org\n" for n in range(ROWS))
    path.write_text("firstName,lastName,email\n" + rows)
    with Sandbox(options) as sandbox, Zygote(tmp_path, environment(sandbox, None)) as zygote:
        ended = signalled(
            zygote, sandbox, number, "push", "people.csv", "--json", "-q",
            when=lambda: len(sandbox.applied) > 20,
        )  # fmt: skip
        assert ended == code
        summary = json.loads((tmp_path / "out").read_text().splitlines()[-1])
        assert (summary["status"], summary["rows"]) == ("stopped", ROWS)
        assert 0 < summary["created"] == ROWS - summary["not_sent"] < ROWS
        reported = f"stopped · {summary['created']} created, {summary['not_sent']} to go"
        zygote.start("runs")
        assert zygote.wait() == 0
        (line,) = [line for line in (tmp_path / "out").read_text().splitlines() if "push" in line]
        assert " stopped " in line
        assert reported.removeprefix("stopped · ") in line
        zygote.start("push", "people.csv", "--json", "-q")
        assert zygote.wait() == 0
        emails = [change.payload["email"] for change in sandbox.applied]
    assert len(emails) == len(set(emails)) == ROWS


@pytest.mark.slow
def test_changes_killed_in_flight_are_made_once_and_edits_stand(tmp_path: Path):
    """A push of changed rows after a pull dies with a request in flight; a recruiter edits other
    fields. The same file again makes each change once, and once more costs nothing."""
    options = SandboxOptions(prospects=0, notes=0, tasks=0, meetings=0)
    with Sandbox(options) as sandbox, Zygote(tmp_path, environment(sandbox, None)) as zygote:
        for n in range(12):
            email = f"n{n}@example.org"
            person = {"firstName": "N", "lastName": "X", "email": email, "title": "Agent"}
            sandbox.store.create("prospects", person)
        zygote.start("pull", "prospects")
        assert zygote.wait() == 0
        rows = "".join(f"N,X,n{n}@example.org,{'Agent' if n < 4 else 'Dr'}\n" for n in range(12))
        (tmp_path / "people.csv").write_text("firstName,lastName,email,title\n" + rows)
        ended = signalled(
            zygote, sandbox, signal.SIGKILL, "push", "people.csv", "-q",
            when=lambda: len(sandbox.applied) > 2,
        )  # fmt: skip
        assert ended == -signal.SIGKILL
        for person in sandbox.store.all("prospects"):
            sandbox.store.update("prospects", person["id"], {"company": "Edited"})
        settings = Settings(state_dir=tmp_path / "state")
        with results_waiting(settings):
            for _ in range(2):
                zygote.start("push", "people.csv", "-q")
                assert zygote.wait() == 0
        changed = Counter(change.id for change in sandbox.applied)
        assert (len(changed), set(changed.values())) == (8, {1})
        people = sandbox.store.all("prospects")
        assert Counter(person["title"] for person in people) == {"Agent": 4, "Dr": 8}
        assert {person["company"] for person in people} == {"Edited"}
        sandbox.clear_log()
        zygote.start("push", "people.csv", "-q")
        assert zygote.wait() == 0
        assert sandbox.requests == []


@pytest.mark.slow
def test_a_push_killed_before_any_file_operation_recovers(tmp_path: Path):
    """A sample of the points, spread over the whole push; `make bench` tries every second one:
    in at most two runs each change and each note is made once, and the results have landed."""
    found = push_killed_before(tmp_path, lambda count: [count // 5, count // 2, count * 4 // 5])
    assert (found.tried, found.wrong) == (3, [])
    assert found.killed >= 2


@pytest.mark.slow
def test_notes_of_a_killed_push_are_created_once_and_its_results_are_those_of_the_next(
    tmp_path: Path,
):
    """Killed between two requests, it leaves no file of results; the next push's has every row
    once, in order: what had been sent by then is unchanged."""
    options = SandboxOptions(prospects=40, notes=0, tasks=0, meetings=0, latency_s=0.02)
    push = ("push", "notes.csv", "--to", "notes", "--results", "results.csv", "--json", "-q")
    with Sandbox(options) as sandbox, Zygote(tmp_path, environment(sandbox, None)) as zygote:
        ids = sorted(str(each["id"]) for each in sandbox.store.all("prospects"))
        rows = "".join(f"{id_},called {id_}\n" for id_ in ids)
        (tmp_path / "notes.csv").write_text("prospectId,body\n" + rows)
        ended = signalled(
            zygote, sandbox, signal.SIGKILL, *push, when=lambda: len(sandbox.applied) > 10
        )
        assert ended == -signal.SIGKILL
        assert not list(tmp_path.glob("*results*"))
        zygote.start(*push)
        assert zygote.wait() == 0
        made = sorted(str(each["prospectId"]) for each in sandbox.store.all("notes"))
        assert made == ids
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8-sig") as stream:
        found = list(csv.DictReader(stream))
    assert [row["prospectId"] for row in found] == ids == [row["_hc_prospect_id"] for row in found]
    assert {row["_hc_outcome"] for row in found} == {"created", "unchanged"}
