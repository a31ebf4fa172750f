"""Forgetting a person: nothing of them is left here, and nothing brings them back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from connector.sandbox import Sandbox, SandboxOptions
from connector.settings import Settings
from pipelines.pull.forgetting import ForgetReport, ForgetRequest, forget
from tests.sync.pull.conftest import Puller, settings_for
from tests.sync.pull.traces import (
    EMAIL,
    ID,
    NOTE,
    SOUGHT,
    add_person,
    found_in,
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
        "prospects": 1, "notes": 1, "results": 2, "malformed": 1, "mentions": 1, "outbox": 2,
        "before_images": 1, "receipts": counted["receipts"], "inbox": 2, "packages": 1,
        "put_aside": counted["put_aside"],
    }  # fmt: skip

    puller.pull_ok(full=True)
    pulled = puller.reports[-1].summary["resources"]["prospects"]
    assert (pulled["complete"], pulled["rows"]) == (True, 8)
    again = push_person(puller.settings, tmp_path, "Anna,Lee,anna@example.org,,Doctor")
    assert (again.summary["rejected"], again.summary["created"]) == (1, 1)
    assert "--remember-again" in str(again.noteworthy[0].message)
    assert found_in(installation) == nowhere
