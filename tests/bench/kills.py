"""Pulls killed at random instants and before their file operations, and files damaged at random.

`HC_KILL_POINTS=100:1000:7 python -m tests.bench kills` tries every seventh point from 100 to 1000.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.bench import Row
from tests.processes.file_operations import FileFault, library
from tests.processes.pull_kills import (
    KillPoints,
    kill_until_done,
    pulling_from,
    slow_sandbox,
    small_sandbox,
)
from tests.processes.push_kills import push_killed_before

SERIES = 10
KILLS = 10
DAMAGED = 100
SERIES_BEFORE_OPERATIONS = 30
KILLS_IN_SERIES = 4  # requests of more would fill the lane until their deadline, a minute


def run() -> list[Row]:
    return [_random_instants(), *_file_operations(), *_file_operations_of_pushes()]


def _random_instants() -> Row:
    cut = 0
    for seed in range(SERIES):
        with (
            slow_sandbox() as sandbox,
            tempfile.TemporaryDirectory() as folder,
            pulling_from(sandbox, Path(folder)) as zygote,
        ):
            cut += kill_until_done(zygote, sandbox, kills=KILLS, seed=seed, within_s=5.0)
    return Row(
        f"{SERIES * KILLS} SIGKILLs, pulls resumed until done",
        f"{cut} cut runs, {SERIES} of {SERIES} equal to the truth",
        "equal each time",
        True,
    )


def _file_operations() -> list[Row]:
    if library() is None:
        return [Row("kills before file operations", "no C compiler here", "none stuck")]
    with (
        small_sandbox() as sandbox,
        tempfile.TemporaryDirectory() as folder,
        pulling_from(sandbox, Path(folder), watches_files=True) as zygote,
    ):
        points = KillPoints(zygote, sandbox)
        chance = random.Random(1)
        return [
            _row(points, "first pulls", _numbers(points.first), points.try_first),
            _row(points, "later pulls", _numbers(points.later), points.try_later),
            _row(
                points,
                "series of killed pulls",
                range(SERIES_BEFORE_OPERATIONS),
                lambda number: points.try_series(_somewhere(points, chance), fresh=number % 4 == 0),
            ),
            _row(points, "damaged files", range(DAMAGED), lambda _: points.try_damage(chance)),
        ]


def _file_operations_of_pushes() -> list[Row]:
    if library() is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        found = push_killed_before(Path(folder), _numbers)
    for each in found.wrong:
        print(f"pushes: {each}")
    return [
        Row(
            f"pushes: {found.tried} points",
            f"{found.killed} killed, {len(found.wrong)} wrong after at most two runs",
            "each change and note made once",
            not found.wrong and found.killed > 0,
        )
    ]


def _somewhere(points: KillPoints, chance: random.Random) -> list[FileFault]:
    """A pull that resumes another one makes fewer operations, or more."""
    numbers = (chance.randrange(1, points.later + 100) for _ in range(KILLS_IN_SERIES))
    return [FileFault(kill_before=number) for number in numbers]


def _numbers(many: int) -> range:
    """Every second operation: with those that threads shift, all kinds of them."""
    start, stop, step = os.environ.get("HC_KILL_POINTS", f"1:{many}:2").split(":")
    return range(int(start), min(int(stop), many), int(step))


def _row(
    points: KillPoints, what: str, numbers: Iterable[int], attempt: Callable[[int], str | None]
) -> Row:
    cut = points.cut
    wrong = [attempt(number) for number in numbers]
    found = [each for each in wrong if each is not None]
    for each in found:
        print(f"{what}: {each}")
    return Row(
        f"{what}: {len(wrong)} tried, {points.cut - cut} pulls cut",
        f"{len(wrong) - len(found)} equal to the truth in at most two runs",
        "all, and no file left behind",
        not found,
    )
