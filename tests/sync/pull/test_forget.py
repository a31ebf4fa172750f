"""Forgetting a person: nothing of them is left here, and nothing brings them back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from connector.sandbox import Sandbox, SandboxOptions
from connector.settings import Settings
from pipelines.pull.forgetting import ForgetReport, ForgetRequest, forget
from tests.sync.pull.conftest import Puller, dlt_credentials, settings_for
from tests.sync.pull.traces import (
    EMAIL,
    ID,
    NOTE,
    SOUGHT,
    add_person,
    found_in,
    found_in_postgres,
    push_person,
    scatter,
)


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
    complete without them, and the same file pushed again rejects their row and sends the others."""
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
    # publishing has put one more copy aside, into which somebody wrote
    assert removed["put_aside"] > counted["put_aside"] > 0
    assert {**counted, "put_aside": 0} == {**removed, "put_aside": 0}
    assert counted == {
        "prospects": 1, "history": 1, "notes": 1, "results": 2, "malformed": 1,
        "mentions": 1, "outbox": 2, "before_images": 1,
        "receipts": counted["receipts"], "inbox": 2, "packages": 1,
        "put_aside": counted["put_aside"],
    }  # fmt: skip

    puller.pull_ok(full=True)
    pulled = puller.reports[-1].summary["resources"]["prospects"]
    assert (pulled["complete"], pulled["rows"]) == (True, 8)
    again = push_person(puller.settings, tmp_path, "Anna,Lee,anna@example.org,,Doctor")
    assert (again.summary["rejected"], again.summary["created"]) == (1, 1)
    assert "--remember-again" in str(again.noteworthy[0].message)
    assert found_in(installation) == nowhere


def test_somebody_elses_phone_isnt_blocked_but_the_same_person_under_another_id_is(
    puller: Puller, tmp_path: Path
):
    """A family shares the phone: who was here before keeps landing. Whoever comes later with the
    forgotten email is the same person again, until that is lifted."""
    add_person(puller.sandbox)
    other = add_person(puller.sandbox, id="sister", email="sister@forget-me.example")
    puller.pull_ok()
    forgotten(puller.settings, ID)
    puller.sandbox.store.update("prospects", other, {"title": "Dr"})
    add_person(puller.sandbox, id="again", email=EMAIL.lower(), phone=None)
    add_person(puller.sandbox, id="brother", email="brother@forget-me.example")
    puller.pull_ok(full=True)
    assert titles(puller) == {"sister": "Dr", "brother": "Mr"}
    pushed = push_person(puller.settings, tmp_path, "Zacharias,Q,sister@forget-me.example,,Dr")
    assert (pushed.summary["rejected"], pushed.summary["failed"]) == (1, 0)

    assert forgotten(puller.settings, EMAIL, remember_again=True).lifted == 1
    puller.pull_ok(full=True)
    assert titles(puller) == {"sister": "Dr", "brother": "Mr", "again": "Mr", ID: "Mr"}
    assert forgotten(puller.settings, EMAIL, remember_again=True).lifted == 0


def titles(puller: Puller) -> dict[str, str]:
    """id → title, of those whom `add_person` has added."""
    rows = puller.landed()["prospects"]
    return {id_: row["title"] for id_, row in rows.items() if "forget-me" in row.get("email", "")}


def test_hashed_contacts_are_found_and_blocked_and_whoever_never_came_is_kept_out(
    puller: Puller, installation: Path
):
    """`forget EMAIL` hashes as the settings do; by the id alone, hashes that landed are blocked.
    Somebody of whom nothing is here is blocked as well, and no file is rewritten for that."""
    pull = puller.settings.pull
    own = pull.prospects.model_copy(update={"hash_columns": ("email", "phone")})
    puller.change_pull(prospects=own, hash_key=SecretStr("a long secret of this test"))
    add_person(puller.sandbox)
    add_person(puller.sandbox, id="second", email="second@forget-me.example", phone=None)
    puller.pull_ok()
    copy = puller.settings.duckdb_path
    assert forgotten(puller.settings, EMAIL).people == (ID,)
    removed = {"history": 1, "prospects": 1}
    assert forgotten(puller.settings, "second").summary["removed"] == removed
    before = copy.stat().st_ino
    never = forgotten(puller.settings, "never@forget-me.example")
    assert (never.people, never.summary["removed"]) == ((), {})
    assert copy.stat().st_ino == before
    for number, email in enumerate((EMAIL, "second@forget-me.example", "never@forget-me.example")):
        add_person(puller.sandbox, id=f"new-{number}", email=email, phone=None)
    puller.pull_ok(full=True)
    assert {id_ for id_ in puller.landed()["prospects"] if id_.startswith(("new", "sec"))} == set()
    assert puller.counts("rows_read")["prospects"] == 8 + 5
    assert sum(puller.reports[-1].warnings["prospects"].values()) == 5
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
    puller.pull_ok("prospects", "notes", full=True)
    assert push_person(settings, tmp_path).summary["rejected"] == 1
    assert found_in_postgres(postgres_url) == found_in(installation) == nowhere
