"""The ledger of production, on SQLite, through the same scenarios as its twin in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from connector.budget import Lane
from tests.simulator.scenarios import (
    SCALED,
    Outcome,
    Scenario,
    any_exact,
    any_roomy,
    configured_windows,
    play,
    run,
)
from tests.simulator.sql_ledger import SqlLedger
from tests.simulator.world import Latency


def on_sql(scenario: Scenario, folder: Path) -> Outcome:
    ledger = SqlLedger(
        folder / "ledger.db",
        configured_windows(scenario),
        request_timeout_s=scenario.request_timeout_s,
    )
    try:
        return play(scenario, ledger)
    finally:
        ledger.close()


@pytest.mark.parametrize("seed", range(100, 112))
def test_an_exact_server_never_refuses_the_real_ledger(seed: int, tmp_path: Path):
    """Several processes, crashes, late arrivals, permits given back: no 429, and all is done."""
    scenario = any_exact(seed)
    outcome = on_sql(scenario, tmp_path)
    assert outcome.refused == 0
    survivors = outcome.processes[:-1] if scenario.kill_s is not None else outcome.processes
    assert all(process.done == process.jobs for process in survivors)


@pytest.mark.parametrize("seed", range(300, 304))
def test_permits_the_real_ledger_grants_ahead_exceed_no_window(seed: int, tmp_path: Path):
    """Wide limits, several processes that take permits ahead, one killed: no 429."""
    assert on_sql(any_roomy(seed), tmp_path).refused == 0


@pytest.mark.parametrize("seed", range(200, 208))
def test_grants_at_the_same_moments_as_its_twin(seed: int, tmp_path: Path):
    """One process: what the simulator proves of the twin holds for the real one."""
    scenario = replace(any_exact(seed), processes=1, kill_s=None, lanes=(Lane.PUSH,))
    grants = on_sql(scenario, tmp_path).grants
    assert grants == pytest.approx(run(scenario).grants, abs=1e-6)


@pytest.mark.parametrize("kind", ["sliding", "fixed", "weighted", "small bucket"])
def test_learns_the_same_as_its_twin(kind: str, tmp_path: Path):
    """Limits three times too high and others in the windows: the same holds, paces, ceilings."""
    scenario = Scenario(
        200,
        Latency(0.05),
        SCALED,
        configured=[(3 * limit, length_s) for limit, length_s in SCALED],
        kind=kind,
        headers="epoch",
        foreign=lambda _now_s: 1.0,
    )
    grants = on_sql(scenario, tmp_path).grants
    assert grants == pytest.approx(run(scenario).grants, abs=1e-6)
