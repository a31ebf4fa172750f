"""A hundred pulls killed at random instants, each series resumed until one ends."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.bench import Row
from tests.processes.pull_kills import kill_until_done, pulling_from, slow_sandbox

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
        Row(
            f"{SERIES * KILLS} SIGKILLs, pulls resumed until done",
            f"{cut} cut runs, {SERIES} of {SERIES} equal to the truth",
            "equal each time",
            True,
        )
    ]
