"""Forgetting a person: nothing of them is left here, and nothing brings them back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from connector.budget import locks
from connector.budget.database import Database
from connector.errors import AlreadyRunning
from connector.sandbox import RESOURCES, Sandbox, SandboxOptions
from connector.settings import Settings
from connector.webhooks.inbox import Arrival, account_of, open_inbox
from pipelines.commands.transfer_commands import pull_lines
from pipelines.destination.destination import Destination
from pipelines.destination.identity import pull_lock_name
from pipelines.destination.loader import Batch
from pipelines.pull.drain import drain
from pipelines.pull.forgetting import ForgetReport, ForgetRequest, forget
from pipelines.pull.verification import VerifyRequest, verify
from pipelines.push.apply_and_undo import ApplyRequest, UndoRequest, apply, undo
from pipelines.push.plan_view import PlanFiles
from pipelines.push.push_input import PushRequest
from pipelines.push.push_run import plan_push, push
from pipelines.running.session import forget_lock_name, key_number, lock_soon, push_lock_name
from tests.fake_clock import FakeClock
from tests.sync.pull.conftest import Puller, dlt_credentials, settings_for
from tests.sync.pull.traces import (
    EMAIL,
    ID,
    NOTE,
    PHONE,
    SOUGHT,
    add_person,
    found_in,
    found_in_postgres,
    people_file,
    push_person,
    scatter,
)
from tests.sync.pull.truth import Rows, landed_duckdb
from tests.sync.push.conftest import results_waiting


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SandboxOptions(prospects=8, notes=6, tasks=4, meetings=3)) as running:
        yield running


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """The folder of state and data; what users push lies elsewhere."""
    return tmp_path / "here"


@pytest.fixture
def puller(sandbox: Sandbox, installation: Path) -> Puller:
    return Puller(sandbox, settings_for(sandbox, installation))


def forgotten(settings: Settings, who: str, **how: bool) -> ForgetReport:
    report = forget(settings, ForgetRequest(who, **how))
    assert report.error is None, report.error
    return report


def test_nothing_is_left_and_nothing_brings_the_person_back(
    puller: Puller, installation: Path, tmp_path: Path
):
    """Of what was in fourteen places, the search that found it finds nothing; a full pull is proven
    complete without them, `verify` finds nothing wrong, and the same file pushed again rejects
    their row and sends the others."""
    add_person(puller.sandbox)
    puller.pull_ok()
    assert push_person(puller.settings, tmp_path).summary["updated"] == 1
    scatter(puller.settings)
    before = found_in(installation)
    nowhere: dict[str, set[str]] = {value: set() for value in before}
    for value in SOUGHT:  # the control
        files = {place.partition("#")[0].rpartition("/")[2] for place in before[value]}
        assert {"hc.duckdb", "_hc_working.duckdb", "ledger-outbox.db"} <= files, (value, files)
    assert before[NOTE]

    dry = forgotten(puller.settings, EMAIL.upper(), dry_run=True)
    assert found_in(installation) == before
    report = forgotten(puller.settings, EMAIL.upper())
    assert found_in(installation) == nowhere
    assert report.people == (ID,)
    assert report.exit_code == 0
    counted, removed = dry.summary["removed"], report.summary["removed"]
    # publishing has put one more copy aside, into which a user wrote
    assert removed["put_aside"] > counted["put_aside"] > 0
    assert {**counted, "put_aside": 0} == {**removed, "put_aside": 0}
    assert counted == {
        "prospects": 1, "history": 1, "notes": 1, "results": 2, "malformed": 2,
        "mentions": 1, "outbox": 2, "before_images": 1,
        "receipts": counted["receipts"], "inbox": 2, "packages": 1,
        "put_aside": counted["put_aside"],
    }  # fmt: skip

    puller.pull_ok(full=True)
    pulled = puller.reports[-1].summary["resources"]["prospects"]
    assert (pulled["complete"], pulled["rows"]) == (True, 8)
    verified = verify(puller.settings, VerifyRequest(RESOURCES, 100))  # skips who was forgotten
    assert [verified.summary[name] for name in ("compared", "wrong", "late")] == [
        8 + 6 + 4 + 3,
        0,
        0,
    ]
    assert (verified.summary["resources"]["prospects"]["total_count"], verified.exit_code) == (9, 0)
    again = push_person(puller.settings, tmp_path, "Anna,Lee,anna@example.org,,Doctor")
    assert (again.summary["rejected"], again.summary["created"]) == (1, 1)
    assert "--remember-again" in str(again.noteworthy[0].message)
    assert found_in(installation) == nowhere


def test_checkpoints_outlive_a_forgotten_person_in_dlts_state(puller: Puller):
    """What was saved without dlt, after its state, stays valid with it: no list is read again."""
    add_person(puller.sandbox)
    puller.pull_ok("prospects")
    with Destination(puller.settings) as destination:
        columns = {"id": {"name": "id", "data_type": "text"}}
        destination.load([Batch("t", [{"id": "1"}], columns, state={"undecided": [ID]})])
        destination.loader.save_states({"prospects": {"at": "page 7"}})
    forgotten(puller.settings, EMAIL)
    with Destination(puller.settings) as destination:
        assert destination.loader.state_of("t") != {"undecided": [ID]}
        assert destination.loader.state_of("prospects") == {"at": "page 7"}


def test_a_shared_phone_isnt_blocked_but_the_same_person_under_another_id_is(
    puller: Puller, tmp_path: Path
):
    """A family shares the phone: who was here before keeps landing. Whoever comes later with the
    forgotten email is the same person again, until that is lifted."""
    add_person(puller.sandbox)
    other = add_person(puller.sandbox, id="sister", email="sister@forget-me.example")
    puller.pull_ok("prospects")
    forgotten(puller.settings, ID)
    puller.sandbox.store.update("prospects", other, {"title": "Dr"})
    add_person(puller.sandbox, id="again", email=EMAIL.lower(), phone=None)
    add_person(puller.sandbox, id="brother", email="brother@forget-me.example")
    puller.pull_ok("prospects", full=True)
    assert titles(puller) == {"sister": "Dr", "brother": "Mr"}
    pushed = push_person(puller.settings, tmp_path, "Zacharias,Q,sister@forget-me.example,,Dr")
    assert (pushed.summary["rejected"], pushed.summary["failed"]) == (1, 0)

    assert forgotten(puller.settings, EMAIL, remember_again=True).lifted == 1
    puller.pull_ok("prospects", full=True)
    assert titles(puller) == {"sister": "Dr", "brother": "Mr", "again": "Mr", ID: "Mr"}
    assert forgotten(puller.settings, EMAIL, remember_again=True).lifted == 0


def test_a_persons_records_are_removed_also_where_ids_are_numbers_or_look_like_sql(
    any_puller: Puller,
):
    """An owner or a phone that the API sends as a number, whole or 4711.0, lands in a column of its
    own. The rows go as well, with their history, and stay out, as does a record that their id makes
    malformed; rows of others stay. Ids are compared exactly, an email in any spelling."""
    store, settings = any_puller.sandbox.store, any_puller.settings
    phone = int(PHONE)
    for id_ in (4711, 47, "o'%s{ids}", "O'%S{IDS}"):
        phones = {"phone": phone if id_ == 4711 else None}
        add_person(any_puller.sandbox, id=id_, email=" 'Ann.%_B@Example.org' ", **phones)
        store.put("tasks", {**store.all("tasks")[0], "id": f"task {id_}", "prospectId": id_})
    store.put("tasks", {**store.all("tasks")[0], "id": "task 4711.0", "prospectId": 4711.0})
    any_puller.pull_ok("prospects", "tasks")
    for who, tasks in (("4711", 2), ("o'%s{ids}", 1)):
        removed = forgotten(settings, who).summary["removed"]
        assert removed == {"prospects": 1, "tasks": tasks, "history": 1 + tasks}, who
    add_person(any_puller.sandbox, id="later", email=None, phone=f"{PHONE[:3]} (0) {PHONE[3:]}")
    add_person(any_puller.sandbox, id=4711.0, email=None, phone=None)
    any_puller.pull_ok("prospects", "tasks", full=True)
    assert any_puller.counts("rows_forgotten") == {"prospects": 4, "tasks": 3}
    left = forgotten(settings, "ANN.%_b@example.ORG", dry_run=True)
    assert sorted(left.people) == ["47", "O'%S{IDS}"]
    assert left.summary["removed"] == {"prospects": 2, "tasks": 2, "history": 4}


def prospects(puller: Puller) -> Rows:
    return landed_duckdb(puller.settings.duckdb_path, "prospects")


def titles(puller: Puller) -> dict[str, str]:
    """id → title, of those whom `add_person` has added."""
    rows = prospects(puller)
    return {id_: row["title"] for id_, row in rows.items() if "forget-me" in row.get("email", "")}


def test_hashed_contacts_are_found_and_blocked_and_unknown_people_are_kept_out(
    puller: Puller, installation: Path
):
    """`forget EMAIL` hashes as the settings do; by the id alone, hashes that landed are blocked.
    A person of whom nothing is here is blocked as well, and no file is rewritten for that."""
    pull = puller.settings.pull
    own = pull.prospects.model_copy(update={"hash_columns": ("email", "phone")})
    puller.change_pull(prospects=own, hash_key=SecretStr("a long secret of this test"))
    add_person(puller.sandbox)
    add_person(puller.sandbox, id="second", email="second@forget-me.example", phone=None)
    puller.pull_ok("prospects")
    copy = puller.settings.duckdb_path
    assert forgotten(puller.settings, EMAIL).people == (ID,)
    removed = {"history": 1, "prospects": 1}
    assert forgotten(puller.settings, "second").summary["removed"] == removed
    before = copy.stat().st_ino
    never = forgotten(puller.settings, "never@forget-me.example")
    assert (never.people, never.summary["removed"]) == ((), {})
    assert "landed as a hash; name them by id" in str(never.not_reached)
    assert copy.stat().st_ino == before
    for number, email in enumerate((EMAIL, "second@forget-me.example", "never@forget-me.example")):
        add_person(puller.sandbox, id=f"new-{number}", email=email, phone=None)
    puller.pull_ok("prospects", full=True)
    assert {id_ for id_ in prospects(puller) if id_.startswith(("new", "sec"))} == set()
    assert puller.counts("rows_read")["prospects"] == 8 + 5
    assert puller.counts("rows_forgotten") == {"prospects": 5}
    assert puller.reports[-1].warnings == {}
    note = "prospects: 5 rows about people who were forgotten here left out; they count as listed."
    assert note in pull_lines(puller.reports[-1], puller.settings)
    assert not any(place for value, place in found_in(installation).items() if value != NOTE)


def test_a_warehouse_and_a_shared_ledger_on_postgresql(
    sandbox: Sandbox,
    installation: Path,
    tmp_path: Path,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
):
    """Rows go from both; what PostgreSQL hasn't vacuumed yet is named."""
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", dlt_credentials(postgres_url))
    settings = settings_for(sandbox, installation, destination="postgres", ledger_url=postgres_url)
    puller = Puller(sandbox, settings, postgres_url)
    add_person(sandbox)
    puller.pull_ok()
    assert push_person(settings, tmp_path).summary["updated"] == 1
    scatter(settings)
    before = found_in_postgres(postgres_url)
    for value in SOUGHT:
        schemas = {place.partition(".")[0] for place in before[value]}
        assert schemas >= {"hiringcenter", "hiringcenter_ledger"}, (value, before)
    report = forgotten(settings, EMAIL)
    assert (report.people, report.exit_code) == ((ID,), 0)
    nowhere: dict[str, set[str]] = {value: set() for value in before}
    assert found_in_postgres(postgres_url) == found_in(installation) == nowhere
    assert sum("VACUUM" in each for each in report.not_reached) == 2
    puller.pull_ok("prospects", full=True)
    with results_waiting(settings):
        assert push_person(settings, tmp_path).summary["rejected"] == 1
    assert found_in_postgres(postgres_url) == found_in(installation) == nowhere


class Napping(FakeClock):
    """Lets go of the locks `held` in its third nap."""

    def __init__(self, held: ExitStack) -> None:
        super().__init__()
        self.naps, self._held = 0, held

    def sleep(self, wait_s: float, stop: threading.Event | None = None) -> bool:
        self.naps += 1
        if self.naps == 3:
            self._held.close()
        return super().sleep(wait_s, stop)


@pytest.mark.parametrize(
    ("held", "around", "waits"),
    [
        (["forget, work", "work"], ["forget, work"], True),  # a pull or a push finds a forget
        (["work"], ["forget, work"], False),  # … or another of its kind
        (["work"], None, True),  # a forget finds either
    ],
)
def test_a_forget_is_waited_for_and_waits_itself(
    tmp_path: Path, held: list[str], around: list[str] | None, waits: bool
):
    """Up to a minute; other work isn't waited for."""
    with closing(Database(f"sqlite:///{tmp_path}/ledger.db")) as ledger, ExitStack() as holding:
        for name in held:
            holding.enter_context(locks.take_lock(ledger, name, run_id="another"))
        clock = Napping(holding)
        session: Any = SimpleNamespace(run_id="own", clock=clock, stop=None)
        if not waits:
            with pytest.raises(AlreadyRunning), lock_soon(session, ledger, "work", around=around):
                pass
            assert clock.naps == 0
            return
        with lock_soon(session, ledger, "work", around=around) as own:
            assert (clock.naps, own.name) == (3, "work")
        holding.enter_context(locks.take_lock(ledger, "work", run_id="another"))
        holding.enter_context(locks.take_lock(ledger, "forget, work", run_id="another"))
        clock.naps = 3  # it doesn't let go this time
        with pytest.raises(AlreadyRunning), lock_soon(session, ledger, "work", around=around):
            pass
        assert (clock.naps - 3) * 0.25 == pytest.approx(60, abs=1)
    assert forget_lock_name("work") == "forget, work"


def test_forget_holds_the_pushes_while_it_waits_for_a_pull(puller: Puller):
    """In this order, always: pushes never wait for pulls, so the two can't wait for each other."""
    settings = puller.settings
    ledger = Database(settings.resolved_ledger_url)
    outbox = Database(settings.resolved_ledger_url, durable=True, suffix="-outbox")
    outbox.migrate("locks", locks.MIGRATIONS)
    name = push_lock_name(key_number(settings, ledger))
    pull_lock = ExitStack()
    pull_lock.enter_context(locks.take_lock(ledger, pull_lock_name(settings), run_id="a-pull"))
    seen: list[bool] = []

    def watch() -> None:
        """A pull that ends once the forget has the pushes' lock, and not before."""
        try:
            held = select(locks.holders.c.fence).where(locks.holders.c.name == name)
            until_s = time.monotonic() + 120  # so long that only what never happens fails
            while time.monotonic() < until_s:
                with outbox.read() as connection:
                    if connection.scalar(held) is not None:
                        break
                time.sleep(0.005)
            try:
                with locks.take_lock(outbox, name, run_id="a-push"):
                    seen.append(False)
            except AlreadyRunning:
                seen.append(True)
        finally:
            pull_lock.close()

    watching = threading.Thread(target=watch)
    watching.start()
    report = forgotten(settings, ID)
    watching.join()
    assert seen == [True]
    assert report.exit_code == 0
    ledger.close()
    outbox.close()


def test_plans_activities_and_undo_know_who_was_forgotten(puller: Puller, tmp_path: Path):
    """A plan made before rejects the row when it is applied; so does a note by email or id; an undo
    of a push before says so of the row; a person met only at the API is refused."""
    settings = puller.settings
    add_person(puller.sandbox)
    puller.pull_ok("prospects")
    with results_waiting(settings):
        pushed = push_person(settings, tmp_path)
        file = people_file(tmp_path, "Anna,Lee,anna@example.org,,Dr")
        file.write_text(file.read_text().replace("Doctor", "Prof"))
        plan_push(settings, PushRequest(file=str(file)), PlanFiles(out=tmp_path / "p.hcplan"))
    forgotten(settings, ID)
    notes = tmp_path / "notes.csv"
    notes.write_text(f"email,prospectId,body\n{EMAIL},,Called\n,{ID},Called\n")
    late = tmp_path / "late.csv"
    late.write_text("First Name,Last Name,E-mail\nZacharias,Quintessenz,late@forget-me.example\n")
    puller.sandbox.store.update("prospects", ID, {"email": "late@forget-me.example", "phone": None})
    sent = len(puller.sandbox.applied)
    with results_waiting(settings):
        applied = apply(settings, ApplyRequest(tmp_path / "p.hcplan"))
        noted = push(settings, PushRequest(file=str(notes), to="notes"))
        met = push(settings, PushRequest(file=str(late)))
        undone = undo(settings, UndoRequest(pushed.summary["run_id"]))
    assert (applied.summary["rejected"], applied.summary["created"]) == (1, 1)
    assert (noted.summary["rejected"], noted.summary["created"]) == (2, 0)
    assert met.summary["rejected"] == 1
    assert (undone.summary["rejected"], undone.summary["cannot_undo"]) == (1, 1)
    assert "forgotten here" in str(undone.noteworthy[0].message)
    assert len(puller.sandbox.applied) == sent + 1  # Anna
    assert not any(found_in(tmp_path / "here")[value] for value in SOUGHT)


def test_events_about_the_person_and_a_lost_ledger_or_outbox_dont_bring_them_back(puller: Puller):
    """Whom an event names isn't looked up. Of ledger and outbox, the one that is lost gets the list
    from the other."""
    settings = puller.settings
    add_person(puller.sandbox)
    puller.pull_ok("prospects")
    forgotten(settings, ID)
    with closing(Database(settings.resolved_ledger_url)) as ledger:
        with closing(open_inbox(settings, ledger)) as inbox:
            inbox.store([Arrival(account_of(settings), ID, "prospect.updated")], now_ms=1)
        report = drain(settings)
        assert (report.error, report.looked_up, report.waiting) == (None, 0, 0)
        assert not any(ID in request.path for request in puller.sandbox.requests)
    state = settings.state_path
    for lost in ("ledger-outbox.db", "ledger.db"):
        for each in state.glob(f"{lost}*"):
            each.unlink()
        if lost == "ledger.db":
            puller.pull_ok("prospects", full=True)
            assert ID not in prospects(puller)
            return
        with results_waiting(settings):
            request = PushRequest(file=str(people_file(state.parent)), new_ledger=True)
            assert push(settings, request).summary["rejected"] == 1
