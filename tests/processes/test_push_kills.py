"""SIGKILL at any instant of a push: every row is applied exactly once, or said to be uncertain."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes.push_kills import push_under_fire


@pytest.mark.slow
def test_each_row_is_applied_once_at_an_api_that_keeps_keys(tmp_path: Path):
    """Killed at random instants, with lost answers, drops and 5xx: each change is made once."""
    killed = push_under_fire(tmp_path, rows=120, kills=5, seed=1)
    assert killed.kills > 0
    assert killed.exit_code == 0, killed.messages
    assert killed.summary["rows"] == 120
    assert set(killed.applied.values()) == {1}
    assert len(killed.applied) == 120


@pytest.mark.slow
def test_nothing_is_doubled_at_an_api_that_forgets_keys(tmp_path: Path):
    """Keys are forgotten after a second: what isn't applied once is reported, and not repeated."""
    killed = push_under_fire(tmp_path, rows=120, kills=5, seed=2, keys_ttl_s=1.0)
    assert killed.kills > 0
    assert killed.doubled == []
    uncertain = killed.summary["failed"]
    assert killed.summary["rows"] == 120
    assert 120 - len(killed.applied) <= uncertain
    assert killed.exit_code == (3 if uncertain else 0), killed.messages
