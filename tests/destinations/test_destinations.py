"""The levels that are claimed are those that runs of the script have shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.destination.destination_kinds import REFUSED, TESTED
from tests.destinations import levels
from tests.destinations.script import run_script
from tests.destinations.servers import PLACES

_SLOW = (
    "a_second_pull_writes_nothing",
    "returns_and_other_types_land",
    "status_runs_and_report_know_it",
    "a_killed_pull_loses_and_doubles_nothing",
    "a_new_machine_resumes_from_the_destination",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, place in PLACES.items() if place.in_suite])
def test_the_script_passes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steps that show how rows are written and what pushes read, at what needs no server.
    DuckDB and PostgreSQL have tests of their own for each step (tests/sync). All steps, at all
    destinations: make test-destinations."""
    with PLACES[name].start(tmp_path) as running:
        for variable, value in running.variables.items():
            monkeypatch.setenv(variable, value)
        assert list(run_script(running, tmp_path, left_out=_SLOW))


def test_every_kind_called_tested_has_passed_the_script():
    """And every one that has is called so."""
    assert {PLACES[name].kind for name in levels.passed()} == TESTED
    assert not TESTED & REFUSED.keys()


def test_the_page_has_the_table_of_the_last_runs():
    """`make test-destinations` writes it."""
    text = levels.PAGE.read_text()
    assert levels.page_with(text, levels.table()) == text
