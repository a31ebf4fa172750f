"""A hundred pulls killed at random instants, each series resumed until one ends; pushes killed
before each of their file operations."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.bench import Row
from tests.processes.pull_kills import kill_until_done, pulling_from, slow_sandbox
from tests.processes.push_kills import push_killed_before

SERIES = 10
KILLS = 10


def run() -> list[Row]:
    cut = 0
    for seed in range(SERIES):
        with (
            slow_sandbox() as sandbox,
            tempfile.TemporaryDirectory() as folder,
            pulling_from(sandbox, Path(folder)) as zygote,
        ):
            cut += kill_until_done(zygote, sandbox, kills=KILLS, seed=seed, within_s=5.0)
    return [
        _pushes(),
        Row(
            f"{SERIES * KILLS} SIGKILLs, pulls resumed until done",
            f"{cut} cut runs, {SERIES} of {SERIES} equal to the truth",
            "equal each time",
            True,
        ),
    ]


def _pushes() -> Row:
    """A push before every operation that it makes, and what two more runs come to."""
    with tempfile.TemporaryDirectory() as folder:
        found = push_killed_before(Path(folder), lambda count: range(1, count + 1))
    healed = found.tried - len(found.wrong)
    return Row(
        f"pushes killed before each of {found.operations} file operations",
        f"{found.killed} cut, {healed} of {found.tried} done and true within two runs",
        "all of them",
        not found.wrong,
    )
