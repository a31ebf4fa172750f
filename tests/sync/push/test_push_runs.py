"""Whole pushes: settings, files, guards, the last pull, results in the destination, run history."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa
from rich.console import Console

from connector.budget import locks
from connector.errors import AlreadyRunning, InputChanged, InputError, UnknownSetting, UsageError
from connector.sandbox import Faults, Sandbox, SandboxOptions
from connector.settings import PullSettings, PushJob, ResourceSettings, Settings
from connector.upsert.outbox.receipts import RowResult, Status
from pipelines.commands.status_commands import one_run, recent_runs
from pipelines.pull.pull_run import Wanted, pull
from pipelines.push import push_run
from pipelines.push.push_input import PushRequest, job_request
from pipelines.push.push_report import NOTEWORTHY_MAX, PushReport, push_lines
from pipelines.running.progress import Progress, ProgressState
from pipelines.running.session import outbox_database
from tests.sync.push.conftest import results_waiting

PEOPLE = "First Name,Last Name,E-mail,Phone,Title\n"


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return write(tmp_path, "Ada,L,ada@example.org,,Dr", "Bob,B,bob@example.org,,")


def write(folder: Path, *lines: str) -> Path:
    path = folder / "people.csv"
    path.write_text(PEOPLE + "".join(f"{line}\n" for line in lines))
    return path


def push(
    settings: Settings, request: PushRequest, *progress: Any, lands: bool = False
) -> PushReport:
    """lands: its results, which otherwise wait for the next pull."""
    with nullcontext() if lands else results_waiting(settings):
        return push_run.push(settings, request, *progress)


def push_file(settings: Settings, path: Path, *, lands: bool = False, **options: Any) -> PushReport:
    return push(settings, PushRequest(file=str(path), **options), lands=lands)


def landed(settings: Settings, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{settings.duckdb_path}' AS copy (READ_ONLY)")
        connection.execute(f"USE copy.{settings.dataset}")
        return connection.execute(sql).fetchall()


def shown(lines: Iterable[Any]) -> str:
    """As a terminal of 80 columns shows it."""
    console = Console(file=io.StringIO(), width=80, highlight=False, markup=False)
    for line in lines:
        console.print(line)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def adds_up(summary: dict[str, Any]) -> bool:
    names = ("created", "updated", "unchanged", "rejected", "failed", "not_sent")
    return bool(summary["rows"] == sum(summary[name] for name in names))


def prospect(sandbox: Sandbox, email: str) -> dict[str, Any]:
    (found,) = [p for p in sandbox.store.all("prospects") if p.get("email") == email]
    return found


def test_results_and_the_run_are_in_the_destination_when_the_push_ends(
    settings: Settings, people: Path
):
    """One row per input row in `_hc_push_results`, one per push in `_hc_runs`."""
    people.write_text(people.read_text() + "Cy,Y,not-an-address,,\n")
    report = push_file(settings, people, lands=True)
    assert (report.exit_code, report.summary["status"]) == (3, "ok")
    assert adds_up(report.summary)
    rows = landed(
        settings, "SELECT run_id, row_number, status, prospect_id IS NULL FROM _hc_push_results"
    )
    run_id = report.summary["run_id"]
    assert sorted(rows) == [
        (run_id, 2, "created", False),
        (run_id, 3, "created", False),
        (run_id, 4, "rejected", True),
    ]
    assert landed(settings, "SELECT run_id, kind, status, requests FROM _hc_runs") == [
        (run_id, "push", "ok", 2)
    ]
    assert any("row 4: rejected" in str(line) for line in push_lines(report))
    reported = one_run(settings, run_id)
    assert [row["row_number"] for row in reported.summary["noteworthy"]] == [4]
    assert any(str(line).startswith("row 4: rejected") for line in reported.lines)


def test_a_job_can_override_what_detection_gets_wrong(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """Encoding and delimiter of a file; with a table they are a misunderstanding."""
    path = tmp_path / "people.csv"
    path.write_bytes("First Name~Last Name~E-mail\nŽofie~Ř~z@example.org\n".encode("cp1250"))
    job = PushJob(file=path, encoding="cp1250", delimiter="~")
    settings = settings.model_copy(update={"push": {"may": job}})
    report = push(settings, job_request(settings, "may"))
    assert report.summary["created"] == 1, report.notes
    assert prospect(sandbox, "z@example.org")["firstName"] == "Žofie"
    with pytest.raises(UsageError, match="apply only to a FILE"):
        PushRequest(table="prospects", sheet="May")


def test_fixing_the_rejects_file_and_pushing_it_finishes_the_job(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """Its columns are the input's own, row number and reason; the last two aren't fields."""
    path = write(tmp_path, "Ada,L,ada@example.org,,", ",L,bob@example.org,,", "Cy,Y,cy@,,")
    rejects = Path(push_file(settings, path).summary["rejects_file"])
    assert rejects == tmp_path / "people.csv.rejects.csv"
    header = rejects.read_text("utf-8-sig").splitlines()[0]
    assert header == PEOPLE.strip() + ",_hc_row,_hc_reject_reason"
    fixed = (
        rejects.read_text("utf-8-sig").replace("\n,L", "\nBob,L").replace("cy@,", "cy@example.org,")
    )
    rejects.write_text(fixed)
    report = push_file(settings, rejects)
    assert report.exit_code == 0, report.noteworthy
    assert report.summary["created"] == 2
    # by now the row without a first name is about Bob, who keeps his
    assert push_file(settings, path).summary["unchanged"] == 2
    assert prospect(sandbox, "bob@example.org")["firstName"] == "Bob"
    assert prospect(sandbox, "cy@example.org")["firstName"] == "Cy"


def test_contacts_are_nowhere_in_the_state(settings: Settings, people: Path):
    """After a push, neither email nor phone nor the key is in any file of the state directory."""
    people.write_text(people.read_text() + "Cy,Y,,+14155550132,\nDi,D,di@example.org bad,,\n")
    push_file(settings, people)
    for path in settings.state_dir.rglob("*"):
        if path.is_file() and "work" not in path.parts:
            content = path.read_bytes()
            for secret in (b"ada@example.org", b"4155550132", b"di@example.org", b"sandbox-key"):
                assert secret not in content, path


def test_what_sqlite_leaves_in_its_pages_is_erased_too(settings: Settings, tmp_path: Path):
    """Some builds delete without overwriting, and all split and fill pages again: once bodies are
    dropped, nothing of them can be read in the file."""
    push_file(settings, write(tmp_path, "Ada,L,ada@example.org,,"))
    (outbox,) = settings.state_dir.glob("*outbox.db")
    with closing(sqlite3.connect(outbox, isolation_level=None)) as plain:
        plain.execute("PRAGMA secure_delete = OFF")
        plain.execute("CREATE TABLE bodies (body TEXT)")
        plain.executemany("INSERT INTO bodies VALUES (?)", [("left@example.org " * 200,)] * 50)
        plain.execute("DROP TABLE bodies")
    assert b"left@example.org" in outbox.read_bytes()
    push_file(settings, write(tmp_path, "Ada,L,ada@example.org,,Dr"))
    assert b"left@example.org" not in outbox.read_bytes()
    assert push_file(settings, tmp_path / "people.csv").summary["unchanged"] == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_at_once_and_the_rest_stays_planned(
    settings: Settings, sandbox: Sandbox, tmp_path: Path, status: int
):
    """Exit 1 after a handful of requests; with the permission back, the same file goes through."""
    path = write(tmp_path, *(f"N{n},X,n{n}@example.org,," for n in range(100)))
    if status == 401:
        sandbox.options.active = False
    else:
        sandbox.options.permissions = ("prospects:read",)
    report = push_file(settings, path)
    assert report.exit_code == 1
    assert report.summary["error"]["type"] == "Unauthorized"
    assert report.summary["not_sent"] == 100
    assert adds_up(report.summary)
    assert len(sandbox.requests) < 20
    sandbox.options.active, sandbox.options.permissions = True, SandboxOptions().permissions
    summary = push_file(settings, path).summary  # what was on its way is settled, and unchanged
    assert summary["created"] + summary["recovered"] == 100
    assert len(sandbox.store.all("prospects")) == 105


def test_a_server_that_is_down_stops_the_push(settings: Settings, sandbox: Sandbox, people: Path):
    """No request is answered any more: exit 1 within the retry budget, nothing lost."""
    sandbox.options.faults = Faults(error_503=1.0)
    report = push_file(settings, people)
    assert report.exit_code == 1
    assert report.summary["error"]["type"] == "Unreachable"
    sandbox.options.faults = Faults()
    summary = push_file(settings, people).summary
    assert (summary["recovered"], summary["unchanged"]) == (2, 2)
    assert [change.action for change in sandbox.applied] == ["created", "created"]


def test_one_row_that_never_gets_an_answer_fails_alone(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """The others go through; the row is named, and the next push settles it with the same key."""
    path = write(tmp_path, *(f"N{n},X,n{n}@example.org,," for n in range(60)))
    sandbox.options.latency_s = 0.05
    sandbox.options.script = lambda request: "error_500_after" if b"n7@" in request.body else None
    report = push_file(settings, path)
    if report.exit_code == 1:  # everything else had its answer before this row was given up
        assert report.summary["created"] == 59
    else:
        assert (report.exit_code, report.summary["failed"]) == (3, 1)
        assert report.noteworthy[0].row_number == 9
    sandbox.options.script = None
    again = push_file(settings, path)
    assert again.exit_code == 0
    assert again.summary["recovered"] == 1
    keys = [r.idempotency_key for r in sandbox.requests if b"n7@" in r.body]
    assert len(set(keys)) == 1
    assert sum(change.payload["email"] == "n7@example.org" for change in sandbox.applied) == 1


def test_a_dry_run_says_what_would_happen(settings: Settings, sandbox: Sandbox, people: Path):
    """Before any pull it doesn't know who is new; after one it does, and counts each new
    one once. Its table has a header of one line on a terminal of 80 columns, nothing cut."""
    report = push_file(settings, people, dry_run=True)
    summary = report.summary
    assert summary["run_id"] is None, "`runs` knows none of it"
    assert (summary["rows"], summary["would_send"], summary["requests"]) == (2, 2, 0)
    header, counts, *first, hint, end = shown(push_lines(report)[1:]).splitlines()
    assert " ".join(header.split()) == (
        "rows unchanged rejected would create would update would send"
    )
    assert counts.split() == ["2", "0", "0", "0", "0", "2"]
    assert [line.split()[:3] for line in first[1:]] == [["2", "send", "Ada"], ["3", "send", "Bob"]]
    assert hint == "Pull first to see which of these would be created and which updated."
    assert end.startswith("Nothing was sent. It would take 2 requests")
    pull(settings, Wanted(("prospects",)))
    sandbox.clear_log()
    known = next(p for p in sandbox.store.all("prospects") if p.get("email"))
    people.write_text(people.read_text() + f"{known['firstName']},K,{known['email']},,new title\n")
    summary = push_file(settings, people, dry_run=True).summary
    assert (summary["would_create"], summary["would_update"]) == (2, 1)
    assert summary["eta_s"] >= 0
    people.write_text(people.read_text() + "Cy,N,cy@example.org,,\nCy,N,cy@example.org,,Dr\n" * 2)
    report = push_file(settings, people, dry_run=True)
    facts = report.summary
    assert [facts[f"would_{each}"] for each in ("create", "update", "send")] == [3, 1, 3]
    assert facts["cannot_be_undone"]["created"] == 3
    assert "Until its person is known, a row under `would send`" in shown(push_lines(report))
    assert sandbox.requests == []


def test_rejects_of_one_reason_are_one_line(settings: Settings, sandbox: Sandbox, tmp_path: Path):
    """With their row numbers: of the push, of its dry run, and in `runs`, by the file's name."""
    path = write(tmp_path, *(f"N{n},X,,," for n in range(60)), "Ada,L,ada@example.org,,Dr")
    report = push_file(settings, path)
    assert (report.summary["rejected"], report.summary["created"]) == (60, 1)
    reported = [line for line in push_lines(report) if str(line).startswith("row")]
    assert len(reported) == 1
    assert reported[0].startswith("rows 2-61: rejected: E-mail and Phone: both empty")
    dry = push_file(settings, path, dry_run=True)
    assert [line for line in push_lines(dry) if str(line).startswith("row")] == reported
    shown = one_run(settings, report.summary["run_id"])
    assert [line for line in shown.lines if str(line).startswith("rows 2")] == reported
    assert any("people.csv" in line for line in shown.lines)


def test_rows_beyond_those_that_are_listed_are_counted():
    """Of very many, the first are listed, with a line that counts the others."""
    listed = [RowResult(n, Status.REJECTED, None, "bad") for n in range(2, NOTEWORTHY_MAX + 2)]
    counts = dict.fromkeys((status.value for status in Status), 0) | {"rejected": 1_500}
    summary = {"status": "ok", "rows": 1_500, "not_sent": 0, "requests": 0, "seconds": 0.1}
    report = PushReport({**summary, **counts, "waited_s": 0.0}, noteworthy=listed)
    assert [line for line in push_lines(report) if str(line).startswith(("row", "…"))] == [
        "rows 2-1001: rejected: bad", "… and 500 more rows rejected or failed.",
    ]  # fmt: skip


def test_too_many_changes_send_nothing(settings: Settings, sandbox: Sandbox, people: Path):
    """Exit 2 before the first request; with a higher limit the same file goes through."""
    report = push_file(settings, people, max_changes=1)
    assert (report.exit_code, report.summary["error"]["type"]) == (2, "TooManyChanges")
    dry = push_file(settings, people, max_changes=1, dry_run=True)
    assert dry.exit_code == 0
    assert "A push would send nothing: --max-changes allows 1 row." in dry.notes
    assert sandbox.requests == []
    assert push_file(settings, people, max_changes=2).summary["created"] == 2


def test_a_deleted_prospect_stays_deleted_while_their_row_is_unchanged(
    settings: Settings, sandbox: Sandbox, people: Path
):
    """Before and after a pull has seen the deletion, which is reported as kept; --restore creates
    them again."""
    push_file(settings, people)
    sandbox.store.delete("prospects", prospect(sandbox, "ada@example.org")["id"])
    assert push_file(settings, people).summary["unchanged"] == 2
    pull(settings, Wanted(("prospects",), full=True))
    report = push_file(settings, people)
    assert (report.summary["created"], report.summary["unchanged"]) == (0, 2)
    assert report.summary["kept"] == 1
    assert "stay deleted" in (report.noteworthy[0].message or "")
    assert "email" in report.noteworthy[0].kept_fields
    summary = push_file(settings, people, restore=True).summary
    assert (summary["created"], summary["unchanged"]) == (1, 1)
    assert push_file(settings, people).summary["unchanged"] == 2


def test_what_a_recruiter_changed_is_kept(settings: Settings, sandbox: Sandbox, people: Path):
    """And reported, once a pull has seen it; --restore puts the file's value back, and says that it
    can't before. An edit of another field isn't the row's business."""
    push_file(settings, people)
    sandbox.store.update("prospects", prospect(sandbox, "ada@example.org")["id"], {"title": "Ms"})
    sandbox.store.update("prospects", prospect(sandbox, "bob@example.org")["id"], {"company": "X"})
    unread = push_file(settings, people, restore=True)
    assert (unread.summary["unchanged"], unread.summary["requests"]) == (2, 0)
    assert any("2 rows: what HiringCenter has now isn't known" in each for each in unread.notes)
    pull(settings, Wanted(("prospects",), full=True))
    summary = push_file(settings, people).summary
    assert (summary["updated"], summary["unchanged"], summary["kept"]) == (0, 2, 1)
    assert prospect(sandbox, "ada@example.org")["title"] == "Ms"
    report = push_file(settings, people, restore=True)
    summary = report.summary
    assert (summary["updated"], summary["unchanged"], summary["kept"]) == (1, 1, 0)
    assert not any("isn't known" in each for each in report.notes)
    assert prospect(sandbox, "ada@example.org")["title"] == "Dr"
    pull(settings, Wanted(("prospects",), full=True))
    assert push_file(settings, people).summary["unchanged"] == 2


def test_two_people_known_from_a_pull_are_not_merged(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """The email of one pulled prospect with the phone of another is rejected."""
    one = {"firstName": "A", "lastName": "A", "email": "one@example.org", "phone": None}
    sandbox.store.create("prospects", one)
    sandbox.store.create("prospects", {**one, "email": None, "phone": "(415) 555-0132"})
    pull(settings, Wanted(("prospects",)))
    path = write(tmp_path, "A,A,one@example.org,+14155550132,", "A,A,one@example.org,,x")
    report = push_file(settings, path)
    assert (report.summary["rejected"], report.summary["updated"]) == (1, 1)
    assert "two different prospects" in (report.noteworthy[0].message or "")


def test_hidden_contacts_are_reported_as_unprotected(settings: Settings, people: Path):
    """A pull without emails doesn't show whose they are; a push says so."""
    hidden = ResourceSettings(exclude_columns=("email",))
    own = settings.model_copy(update={"pull": PullSettings(prospects=hidden)})
    assert any("pulls hide email," in each for each in push_file(own, people, dry_run=True).notes)
    report = push_file(settings, people, dry_run=True)
    assert not any("pulls hide" in each for each in report.notes)


def test_a_pulled_table_can_be_pushed_back(settings: Settings, sandbox: Sandbox, tmp_path: Path):
    """`--table` and `--sql` read the published copy; what only comes from the API is left out."""
    push_file(settings, write(tmp_path, "Ada,L,ada@example.org,,Dr"))
    pull(settings, Wanted(("prospects",)))
    query = (
        "SELECT first_name, last_name, email, 'Prof' AS title FROM prospects "
        "WHERE email = 'ada@example.org'"
    )
    assert push(settings, PushRequest(sql=query)).summary["updated"] == 1
    assert prospect(sandbox, "ada@example.org")["title"] == "Prof"
    report = push(settings, PushRequest(table="prospects", dry_run=True, ignore_unknown=True))
    assert (
        adds_up({**report.summary, "unchanged": report.summary["rows"]}) or report.summary["rows"]
    )


def test_a_job_of_the_configuration_is_pushed(settings: Settings, people: Path):
    """`--job NAME` has its source and guard in the settings; an unknown name is refused."""
    job = PushJob(file=people, max_changes=1)
    with_job = settings.model_copy(update={"push": {"daily": job}})
    assert push(with_job, job_request(with_job, "daily")).exit_code == 2
    with pytest.raises(UnknownSetting, match="daily"):
        job_request(with_job, "dayly")


def test_one_push_per_key(settings: Settings, people: Path):
    """A second push learns who holds the key; a dry run may look meanwhile."""
    push_file(settings, people)
    database = outbox_database(settings)
    with database.read() as connection:
        name = connection.exec_driver_sql("SELECT name FROM lock_holders").scalar()
    with locks.take_lock(database, str(name), run_id="other"):
        with pytest.raises(AlreadyRunning, match="run other"):
            push_file(settings, people)
        assert push_file(settings, people, dry_run=True).summary["unchanged"] == 2
    database.close()


def test_results_wait_for_a_pull_that_is_running(settings: Settings, people: Path):
    """The push doesn't wait: the next pull lands its rows."""
    from connector.budget.database import Database
    from pipelines.destination.identity import pull_lock_name

    ledger = Database(settings.resolved_ledger_url)
    with locks.take_lock(ledger, pull_lock_name(settings), run_id="pulling"):
        report = push_file(settings, people, lands=True)
        assert report.exit_code == 0
        assert any("A pull is running" in note for note in report.notes)
    ledger.close()
    pull(settings, Wanted(("prospects",)))
    assert landed(settings, "SELECT count(*) FROM _hc_push_results") == [(2,)]


def test_usage_errors_send_nothing(settings: Settings, sandbox: Sandbox, people: Path):
    """No source, two sources, no file, rejects over the input: reported before anything happens."""
    with pytest.raises(UsageError, match="exactly one"):
        PushRequest()
    with pytest.raises(UsageError, match="exactly one"):
        PushRequest(file="x", table="y")
    assert push_file(settings, people.with_name("none.csv")).exit_code == 2
    assert isinstance(push_file(settings, people.with_name("none.csv")).error, InputError)
    report = push_file(settings, people, rejects=people)
    assert (report.exit_code, report.summary["rows"]) == (2, 0)
    assert people.read_text().startswith(PEOPLE)
    assert sandbox.requests == []


def test_the_summary_is_json(settings: Settings, people: Path):
    """Every key that dashboards read, and nothing that JSON can't carry."""
    summary = json.loads(json.dumps(push_file(settings, people).summary))
    for name in ("run_id", "status", "rows", "requests", "seconds", "waited_s"):
        assert name in summary
    assert adds_up(summary)


INPUTS = Path(__file__).parents[2] / "inputs"


def reasons(report: PushReport) -> str:
    """The rejects file as a spreadsheet shows it."""
    return Path(report.summary["rejects_file"]).read_text("utf-8-sig")


@pytest.mark.parametrize("name", ["family-one-phone.csv", "shared-mailbox.csv"])
def test_two_people_behind_one_contact_stay_two(
    settings: Settings, sandbox: Sandbox, tmp_path: Path, name: str
):
    """The second row is rejected, naming the first by its number; who they are is in the rejects
    file alone. After a pull likewise; --allow-shared-contact sends it."""
    path = tmp_path / name
    path.write_bytes((INPUTS / name).read_bytes())
    before = {p["id"] for p in sandbox.store.all("prospects")}
    report = push_file(settings, path)
    assert (report.exit_code, report.summary["created"], report.summary["rejected"]) == (3, 1, 1)
    message = report.noteworthy[0].message or ""
    assert "a different first name from row 2" in message
    assert "Mara" not in message
    assert "the other: Mara" in reasons(report)
    pull(settings, Wanted(("prospects",)))
    report = push_file(settings, path)
    assert (report.summary["unchanged"], report.summary["rejected"]) == (1, 1)
    assert "from prospect" in (report.noteworthy[0].message or "")
    assert push_file(settings, path, dry_run=True).summary["rejected"] == 1
    (made,) = [p for p in sandbox.store.all("prospects") if p["id"] not in before]
    assert (made["firstName"], made["company"]) == ("Mara", "Globex")
    assert len(sandbox.applied) == 1
    assert push_file(settings, path, allow_shared_contact=True).summary["updated"] == 1
    assert len(sandbox.store.all("prospects")) == len(before) + 1


def test_a_new_last_name_is_an_ordinary_change(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """Two files of different names, a week apart."""
    for name, outcome in (("new-last-name.csv", "created"), ("new-last-name-2.csv", "updated")):
        path = tmp_path / name
        path.write_bytes((INPUTS / name).read_bytes())
        report = push_file(settings, path)
        assert (report.exit_code, report.summary[outcome]) == (0, 1)
    assert prospect(sandbox, "mara@example.com")["lastName"] == "Ortega-Lind"


def test_a_person_known_only_from_a_pull_isnt_overwritten(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """A prospect that HiringCenter has, and a row with its phone and another name: 0 requests."""
    theirs = {"firstName": "Ann", "lastName": "L", "email": None, "phone": "(415) 555-0132"}
    id_ = sandbox.store.create("prospects", theirs)["id"]
    pull(settings, Wanted(("prospects",)))
    path = write(tmp_path, "Bob,B,bob@example.org,415-555-0132,")
    report = push_file(settings, path)
    assert report.summary["rejected"] == 1
    assert f"prospect {id_}" in (report.noteworthy[0].message or "")
    assert "the other: Ann" in reasons(report)
    assert sandbox.applied == []


def test_a_job_keeps_what_it_has_settled(settings: Settings, sandbox: Sandbox, tmp_path: Path):
    """Its file may be another each day: a name that this job has settled on a person isn't another
    person's, whatever a recruiter calls them since."""
    path = write(tmp_path, "Robert,B,bob@example.org,,")
    settings = settings.model_copy(update={"push": {"daily": PushJob(file=path)}})
    assert push(settings, job_request(settings, "daily")).summary["created"] == 1
    sandbox.store.update(
        "prospects", prospect(sandbox, "bob@example.org")["id"], {"firstName": "Bob"}
    )
    pull(settings, Wanted(("prospects",)))
    path = path.rename(tmp_path / "tomorrow.csv")
    path.write_text(PEOPLE + "Robert,B,bob@example.org,,Dr\n")
    assert push_file(settings, path).summary["rejected"] == 1
    settings = settings.model_copy(update={"push": {"daily": PushJob(file=path)}})
    assert push(settings, job_request(settings, "daily")).summary["updated"] == 1


class Meddler(Progress):
    """Another program that writes to the file while its rows are read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def show(self, state: ProgressState) -> None:
        with self._path.open("a") as stream:
            stream.write("Eve,E,eve@example.org,,\n")


def test_a_file_that_changes_while_it_is_planned_sends_nothing(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """It ends in an error that says so, and the next push sends all of it."""
    path = write(tmp_path, *(f"N{n},X,n{n}@example.org,," for n in range(6_000)))
    changed = push(settings, PushRequest(file=str(path)), lambda _: Meddler(path))
    assert isinstance(changed.error, InputChanged)
    assert changed.exit_code == 1
    assert sandbox.applied == []
    write(tmp_path, "Ada,L,ada@example.org,,Dr")
    assert push_file(settings, path).summary["created"] == 1


class Thief(Progress):
    """Another process that takes the push lock once a row has its outcome."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def show(self, state: ProgressState) -> None:
        if state.requests_left is not None:
            with closing(outbox_database(self._settings)) as outbox, outbox.write() as connection:
                connection.execute(sa.update(locks.holders).values(fence=locks.holders.c.fence + 1))


def test_rows_in_flight_when_the_ledger_fails_have_failed(
    settings: Settings, sandbox: Sandbox, tmp_path: Path
):
    """What happened to them isn't known yet: they aren't counted as not sent. The next push settles
    them, and no one is created twice."""
    path = write(tmp_path, *(f"N{n},X,n{n}@example.org,," for n in range(150)))
    sandbox.options.latency_s = 0.05
    report = push(settings, PushRequest(file=str(path)), lambda _: Thief(settings))
    summary = report.summary
    assert (summary["status"], adds_up(summary)) == ("failed", True)
    assert any("in flight when the ledger failed" in note for note in report.notes)
    sent = summary["created"] + summary["failed"]
    assert summary["failed"] > 0
    assert sum(request.method == "POST" for request in sandbox.requests) <= sent < 150
    again = push_file(settings, path)
    assert again.exit_code == 0
    assert again.summary["recovered"] == summary["failed"]
    assert len(sandbox.applied) == 150


def test_the_list_of_runs_has_the_first_sentence_of_an_error(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With the file named once; one run shows everything, with nested facts indented."""
    monkeypatch.chdir(tmp_path)
    Path("people.csv").write_text("First Name,Last Name,Email,Zip\nAda,B,ada@example.org,1\n")
    failed = push(settings, PushRequest(file="people.csv")).summary["run_id"]
    listed = " ".join(shown(recent_runs(settings, 5).lines).split())
    assert listed.count("people.csv") == 1
    assert "people.csv: column 'Zip' matches no field of the API." in listed
    assert "--ignore-unknown" not in listed
    assert "--ignore-unknown" in " ".join(one_run(settings, failed).lines)
    pulled = pull(settings, Wanted(("notes",)))
    lines = "\n".join(one_run(settings, pulled.summary["run_id"]).lines).splitlines()
    notes = lines.index("  notes: ")
    assert lines[notes + 1] == "    scan: full"
