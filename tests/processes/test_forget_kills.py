"""SIGKILL at any instant of a forget: the next one does what is left of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes.file_operations import FileFault
from tests.processes.forget_kills import KilledForgets, environment, made_folder
from tests.processes.pull_kills import small_sandbox
from tests.processes.zygote import Zygote
from tests.sync.pull.traces import add_person

AT = (
    "chmod state/work",  # rows are gone, the working file is rewritten, not in its place yet
    "rename data/hiringcenter.duckdb",  # the published copy is made, and not in its place yet
)


@pytest.mark.slow
def test_a_killed_forget_is_done_to_the_end_by_the_next_one(tmp_path: Path):
    """By email, which finds no row any more once the rows are gone: nothing of them is left, in no
    file. `make bench ARGS=forget_kills` tries every tenth file operation."""
    with (
        small_sandbox() as sandbox,
        Zygote(made_folder(tmp_path / "run"), environment(sandbox), watches_files=True) as zygote,
    ):
        add_person(sandbox)
        forgets = KilledForgets(zygote, sandbox)
        forgets.try_all(FileFault(kill_at=part) for part in AT)
        assert forgets.wrong == []
        assert len(forgets.killed) == len(AT)
