"""SIGKILL at any instant of a push, an apply and an undo: nothing twice, and the way back holds.

`make bench ARGS=undo_kills` does the same with thousands of people and a hundred kills.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes.undo_kills import APPLY, PUSH, Size, Trial


@pytest.mark.slow
def test_what_a_killed_push_changed_is_taken_back_by_a_killed_undo(tmp_path: Path):
    """Every readable field is as before, but those of people who were created, or edited since:
    exactly these are listed. The same file pushed again sends nothing."""
    size = Size(updated=20, created=3, edited=3, kills=4)
    trial = Trial(tmp_path, size, seed=11)
    trial.run(PUSH)
    assert trial.wrong == []
    assert trial.killed["push"] > 0
    assert trial.killed["undo"] > 0


@pytest.mark.slow
def test_a_killed_apply_resumes(tmp_path: Path):
    """Each planned change is made once, field by field; people edited meanwhile are conflicts, and
    nothing of theirs is sent. Applied again, it costs no request."""
    size = Size(updated=20, created=3, edited=0, kills=4, conflicts=3)
    trial = Trial(tmp_path, size, seed=12)
    trial.run(APPLY, takes_back=False)
    assert trial.wrong == []
    assert trial.killed["apply"] > 0
