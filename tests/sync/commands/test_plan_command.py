"""`hiringcenter plan`: what a push would change, found out without a request."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from orjson import dumps
from rich.console import Console

from connector.budget import locks
from connector.sandbox import Sandbox, SandboxOptions
from connector.settings import load
from connector.upsert.outbox.merge import UNKNOWN, FieldAction, FieldMerge, PersonMerge, Why
from connector.upsert.outbox.outbox import PROSPECTS, Write
from connector.upsert.outbox.person_plan import RowPlan
from pipelines.push.plan_view import PlanView, plan_lines
from pipelines.running.session import outbox_database
from tests.sync.commands.conftest import Ended, Run
from tests.sync.push.conftest import results_waiting
from tests.sync.push.pulled_once import PulledOnce

INPUTS = Path(__file__).parents[2] / "inputs"


KNOWN = [
    {"firstName": name, "lastName": "Lovelace", "email": f"{name.lower()}@example.com",
     "title": "Agent", "labels": ["a", "b"]}
    for name in ("Ada", "Bea", "Cleo")
]  # fmt: skip


def people_file(folder: Path) -> Path:
    """Three people whom HiringCenter has as the file says, one whom it doesn't know, and a row that
    can't be sent."""
    path = folder / "people.csv"
    rows = [f"{each['firstName']},Lovelace,{each['email']},Agent,a;b" for each in KNOWN]
    rows += ["Dora,New,dora@example.com,Broker,", "Eve,Bad,nope,Broker,"]
    path.write_text("\n".join(["first name,last name,email,title,labels", *rows, ""]))
    return path


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PulledOnce]:
    options = SandboxOptions(prospects=60, notes=0, tasks=0, meetings=0)
    with closing(PulledOnce(tmp_path_factory.mktemp("pulled"), options, KNOWN)) as made:
        yield made


@pytest.fixture
def server(pulled: PulledOnce, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """The API and the environment of a user who has just pulled."""
    settings = pulled.settings
    for name, value in (
        ("API_KEY", pulled.sandbox.api_key),
        ("BASE_URL", pulled.sandbox.url),
        ("RATE_LIMITS", "1000000/60s"),
        ("STATE_DIR", str(settings.state_dir)),
        ("DUCKDB_PATH", str(settings.duckdb_path)),
        ("MARTS__ENABLED", "false"),
        ("WRITES__FRESH_S", str(settings.writes.fresh_s)),
    ):
        monkeypatch.setenv(f"HIRINGCENTER_{name}", value)
    yield pulled.begin()
    pulled.end()


@pytest.fixture
def people(server: Sandbox, tmp_path: Path) -> Path:
    """The file, after a pull."""
    return people_file(tmp_path)


def changes_of(path: Path) -> dict[int, dict[str, Any]]:
    """By row."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {each["row"]: each for each in lines}


def planned(run: Run, people: Path, *options: str) -> tuple[Ended, dict[int, dict[str, Any]]]:
    changes = people.with_suffix(".jsonl")
    ended = run("plan", str(people), "--changes", str(changes), "--json", *options)
    return ended, changes_of(changes)


def test_a_plan_sends_no_request_and_changes_nothing(run: Run, server: Sandbox, people: Path):
    """Not even the first one of a key; the exit code says that a row would be rejected."""
    before = len(server.requests)
    ended, changes = planned(run, people)
    assert (ended.code, ended.summary["status"]) == (3, "ok")
    assert (len(server.requests), ended.summary["requests"]) == (before, 0)
    assert (ended.summary["rows"], ended.summary["rejected"]) == (5, 1)
    assert (ended.summary["would_create"], ended.summary["cannot_be_undone"]) == (1, {"created": 1})
    assert changes[5]["outcome"] == "create"
    assert (changes[5]["name"], changes[5]["contact"]) == ("Dora New", "dora@example.com")
    assert "'nope' isn't an email address" in changes[6]["reason"]
    assert run("runs", "--json").summary["runs"][0]["kind"] == "pull"


def test_each_row_shows_what_it_would_change(
    run: Run, server: Sandbox, people: Path, monkeypatch: pytest.MonkeyPatch
):
    """Old and new value of each field, the labels removed, what stays as a recruiter has changed
    it, and the note; what isn't known is found out first, once the copy isn't fresh."""
    with results_waiting(load()):
        assert run("push", str(people), "-q").code == 3
    ids = {each["firstName"]: each["id"] for each in server.store.all("prospects")}
    server.store.update("prospects", ids["Bea"], {"title": "Boss"})
    assert run("pull", "prospects", "-q").code == 0
    header, ada_row, *others = people.read_text().splitlines()
    ada_row = ada_row.replace("Agent,a;b", "Broker,b,Oslo,Called")
    lines = [f"{header},city,note.body", ada_row, *(f"{line},," for line in others), ""]
    people.write_text("\n".join(lines))
    monkeypatch.setenv("HIRINGCENTER_WRITES__FRESH_S", "0")
    ended, changes = planned(run, people)
    ada, bea, cleo = changes[2], changes[3], changes[4]
    about = (ada["outcome"], ada["prospect_id"], ada["name"])
    assert about == ("update", ids["Ada"], "Ada Lovelace")
    assert ada["changes"] == [
        {"field": "labels", "new": ["b"], "old": ["a", "b"]},
        {"field": "title", "new": "Broker", "old": "Agent"},
        {"field": "city", "new": "Oslo", "waits_for_look_up": True},
    ]
    assert (ada["labels_removed"], ada["looked_up_first"]) == (["a"], True)
    assert ada["activities"] == [{"kind": "notes", "body": "Called"}]
    why = "unchanged in the input since the last push"
    assert bea["kept"] == [{"field": "title", "input": "Agent", "why": why, "hiringcenter": "Boss"}]
    assert (bea["outcome"], cleo["outcome"]) == ("unchanged", "unchanged")
    summary = ended.summary
    assert (summary["would_update"], summary["unchanged"], summary["kept"]) == (1, 3, 1)
    assert (summary["look_ups"], summary["would_request"]) == (1, 3)
    assert summary["fields"] == {"title": 1, "labels": 1, "city": 1}
    assert summary["labels_removed"] == [{"label": "a", "prospects": 1}]
    assert summary["cannot_be_undone"] == {"activities": 1, "write_only": 1}
    assert summary["first_changes"] == [ada]


def test_applied_changes_equal_planned_ones(run: Run, server: Sandbox, people: Path):
    """At the server, field by field, and nothing else."""
    people.write_text(people.read_text().replace("Agent,a;b", "Broker,a;c"))
    out = people.with_suffix(".hcplan")
    before = {each["id"]: each for each in server.store.all("prospects")}
    ended, changes = planned(run, people, "--out", str(out))
    with results_waiting(load()):
        assert run("apply", str(out), "-q").code == 3
    for change in changes.values():
        if change["outcome"] == "update":
            expected = before[change["prospect_id"]] | {
                each["field"]: each["new"] for each in change["changes"]
            }
            found = server.store.get("prospects", change["prospect_id"])
            assert {**found, "updatedAt": None} == {**expected, "updatedAt": None}
    assert ended.summary["would_update"] == 3
    assert run("pull", "prospects", "-q").code == 0
    assert run("plan", str(people), "--json").summary["would_request"] == 0


def test_every_kind_of_input_is_planned_without_a_request(
    run: Run, server: Sandbox, people: Path, monkeypatch: pytest.MonkeyPatch
):
    """A pulled table changes nothing; the others, SQL, a job and stdin, are the file's rows."""
    monkeypatch.setenv("HIRINGCENTER_PUSH__SPRING__FILE", str(people))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(people.read_bytes())))
    before = len(server.requests)
    for arguments in (
        ("--table", "prospects"),
        ("--sql", "SELECT first_name, last_name, email, 'x' AS title FROM prospects"),
        ("--job", "spring"),
        ("-",),
    ):
        ended = run("plan", *arguments, "--json")
        assert ended.code in (0, 3), ended.err
        assert len(server.requests) == before
        assert ended.summary["rows"] > 2
        if arguments[0] == "--table":
            assert ended.summary["would_request"] == 0


def test_no_file_makes_a_plan_send_a_request(run: Run, server: Sandbox):
    """Whatever is in it, and whatever becomes of it."""
    before = len(server.requests)
    for path in sorted(INPUTS.iterdir())[::3]:
        ended = run("plan", str(path), "--ignore-unknown", "--json")
        assert ended.code in (0, 2, 3), ended.err
    assert len(server.requests) == before


def test_activities_on_their_own_are_shown(run: Run, people: Path, tmp_path: Path):
    """What would be attached to whom. They aren't kept as a plan: a push of the same file never
    creates them twice, an older plan might."""
    notes = tmp_path / "notes.csv"
    notes.write_text("email,body\nada@example.com,Called back\n")
    ended, changes = planned(run, notes, "--to", "notes")
    assert (ended.code, ended.summary["cannot_be_undone"]) == (0, {"activities": 1})
    assert changes[2]["activities"] == [{"kind": "notes", "body": "Called back"}]
    assert changes[2]["name"] == "Ada Lovelace"
    refused = run(
        "plan", str(notes), "--to", "notes", "--out", str(tmp_path / "n.hcplan"), "--json"
    )
    assert refused.code == 2
    assert "push with --to notes" in refused.summary["error"]["message"]


def test_a_note_that_was_pushed_since_is_not_applied_again(
    run: Run, server: Sandbox, people: Path, tmp_path: Path
):
    """Also where nothing else of its row would change."""
    notes = tmp_path / "notes.csv"
    notes.write_text(
        "first name,last name,email,note.body\nAda,Lovelace,ada@example.com,Called back\n"
    )
    out = str(tmp_path / "notes.hcplan")
    assert run("plan", str(notes), "--out", out, "-q").code == 0
    with results_waiting(load()):
        assert run("push", str(notes), "-q").code == 0
        run("apply", out, "-q")
    bodies = [each["body"] for each in server.store.all("notes")]
    assert bodies.count("Called back") == 1


def test_an_unknown_account_of_a_key_names_what_to_run(run: Run, sandbox: Sandbox):
    """A request would show it; a plan makes none."""
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


def test_a_plan_needs_no_lock(run: Run, server: Sandbox, people: Path):
    """It may run during a push."""
    with results_waiting(load()):
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


def test_a_guessed_encoding_is_never_kept_to_be_sent(run: Run, server: Sandbox, tmp_path: Path):
    """A plan that is only looked at may guess, as a dry run may; one that `apply` sends may not."""
    path = str(INPUTS / "mac-roman.csv")
    assert run("plan", path, "--json").code == 0
    ended = run("plan", path, "--out", str(tmp_path / "p.hcplan"), "--json")
    assert (ended.code, ended.summary["error"]["type"]) == (2, "EncodingGuessed")


@pytest.mark.parametrize("looks", [True, False])
def test_a_value_that_isnt_known_is_explained(looks: bool):
    """Below the table, and whether it is found out before it is changed."""
    view, says = PlanView(), dumps({"firstName": "N", "lastName": "x", "email": "n@example.com"})
    write = Write("run", "source", 2, 0, PROSPECTS, 2, 2, None, None, b"", says)
    sent = (FieldMerge("title", FieldAction.SEND, Why.CHANGED, "new", UNKNOWN),)
    view.add(RowPlan(write, (), "update", "p", PersonMerge(sent), looks, None))
    lines = [line for line in plan_lines(view, {"would_update": 1}) if isinstance(line, str)]
    found_out = "; it is looked up before it is changed" if looks else ""
    assert lines[0] == f"?: what HiringCenter has there isn't known{found_out}."


def test_the_first_changes_fit_a_terminal_of_80_columns():
    """Long names and values are cut, at the end of their column; totals follow."""
    view = PlanView()
    for number in range(2, 30):
        says = {"firstName": "N" * 60, "lastName": "x", "email": f"n{number}@example.com"}
        write = Write(
            "run", "source", number, 0, PROSPECTS, number, number, None, None, b"", dumps(says)
        )
        sent = [
            FieldMerge(name, FieldAction.SEND, Why.CHANGED, "new " * 40, "old " * 40)
            for name in ("title", "streetAddressThatIsLong")
        ]
        merged = PersonMerge(tuple(sent))
        view.add(RowPlan(write, (), "update", "p", merged, True, None))
    summary = {"would_update": 28, "copy_age_s": 7200}
    screen = io.StringIO()
    for line in plan_lines(view, summary):
        Console(file=screen, width=80, highlight=False).print(line, soft_wrap=isinstance(line, str))
    table, totals = screen.getvalue().split("… and 18 more rows to send")
    assert len(table.splitlines()) == 1 + 2 * 10
    assert max(map(len, table.splitlines())) <= 80
    assert table.split()[:4] == ["row", "what", "who", "field"]
    assert all(f"{number}  update  " in table for number in range(2, 12))
    assert "old old old" in table
    assert "Fields that change: title 28, streetAddressThatIsLong 28." in totals
    assert "the copy pulled 2 h ago; 28 people are looked up before the change." in totals
    *_, scanned = plan_lines(view, summary | {"look_ups": 3})
    assert scanned.endswith("28 people are looked up before the change, by a scan of 3 pages.")
