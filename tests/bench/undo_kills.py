"""5,000 updates and 500 creations by a push, or by an apply of a plan, and the undo of it all: 100
SIGKILLs, lost answers, 500s and delays, and every field compared at the server.

`HC_SEEDS=7,8 python -m tests.bench undo_kills` tries other seeds than 1.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.bench import Row
from tests.processes.undo_kills import APPLY, PUSH, Size, Trial

_SIZE = Size(updated=5_000, created=500, edited=200, kills=100)


def run() -> list[Row]:
    seeds = [int(seed) for seed in os.environ.get("HC_SEEDS", "1").split(",")]
    return [_row(command, seed) for seed in seeds for command in (PUSH, APPLY)]


def _row(command: tuple[str, ...], seed: int) -> Row:
    with tempfile.TemporaryDirectory(prefix="undo-kills-") as folder:
        trial = Trial(Path(folder), _SIZE, seed)
        trial.run(command)
    for each in trial.wrong:
        print(f"{command[0]}, seed {seed}: {each}")
    name, kills = command[0], trial.killed.total()
    asked = " and ".join(f"{count:,} {method}s" for method, count in trial.requests.items())
    return Row(
        f"{name} of 5,500 rows and its undo, seed {seed}: {trial.killed[name]} and "
        f"{trial.killed['undo']} SIGKILLs",
        f"{trial.runs} runs undone with {asked}; {len(trial.wrong)} differences",
        "100 kills; none",
        not trial.wrong and kills >= _SIZE.kills,
    )
