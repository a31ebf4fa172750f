"""Whatever people, pulls and pushes do to each other: nobody's edit is overwritten by an unchanged
cell, every changed cell is sent or reported, nothing is sent at rest, no stranger is created, and
no other person is overwritten."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from connector.upsert.outbox import merge as rules
from tests.merging import model_push
from tests.merging.histories import judged, random_steps

FIRST, LENGTH = 40_000, 30


def test_no_history_breaks_a_promise():
    """Two sources, three people, lost answers, kills, old copies, renamed files. Every person is
    read before they are changed: what happens within `push.fresh_s` of a read can't be known."""
    for number in range(FIRST, FIRST + 80):
        steps = random_steps(random.Random(number), LENGTH)
        assert judged(number, steps) == [], number


def _settles_nothing_equal(*args: object, **kwargs: object) -> frozenset[str]:
    return frozenset()


SABOTAGES = {
    "what is found equal becomes no base": (
        rules.PersonMerge, "settled", property(_settles_nothing_equal), "overwritten",
    ),
    "two behind one contact are one": (
        model_push, "conflict_with", lambda *_: None, "another person",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SABOTAGES)
def test_the_histories_notice_a_missing_rule(name: str, monkeypatch: pytest.MonkeyPatch):
    """Each rule is there for a history that breaks without it."""
    where, what, instead, kind = SABOTAGES[name]
    monkeypatch.setattr(where, what, instead)
    for number in range(FIRST, FIRST + 300):
        steps = random_steps(random.Random(number), LENGTH)
        if any(fault.startswith(kind) for fault in judged(number, steps)):
            return
    pytest.fail("no history shows it")


def test_the_histories_notice_that_nobody_is_looked_at():
    """What an old copy shows of names and contacts is written over what it is now."""
    for number in range(FIRST, FIRST + 300):
        steps = random_steps(random.Random(number), LENGTH)
        faults = judged(number, steps, settings={"looks": False})
        if any(fault.startswith("overwritten") for fault in faults):
            return
    pytest.fail("no history shows it")


def test_no_history_of_real_pushes_breaks_a_promise(tmp_path: Path):
    """The same over the planner, the outbox and the sender, with answers lost and kills; among
    them those that showed rows of one person that wait for each other."""
    for number in (9, 71, 134, *range(20, 27)):
        steps = random_steps(random.Random(number), 20)
        url = f"sqlite:///{tmp_path / f'{number}.db'}"
        assert judged(number, steps, ledger_url=url) == [], number
