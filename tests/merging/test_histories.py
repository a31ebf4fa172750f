"""Whatever people, pulls and pushes do to each other: no edit is overwritten by an unchanged
cell, every changed cell is sent or reported, nothing is sent at rest, no other person is created,
and no other person is overwritten."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.merging.histories import judged, random_steps

FIRST, LENGTH = 40_000, 30


def test_no_history_breaks_a_promise():
    """Two sources, three people, lost answers, kills, old copies, renamed files. Every person is
    read before they are changed: what happens within `push.fresh_s` of a read can't be known."""
    for number in range(FIRST, FIRST + 80):
        steps = random_steps(random.Random(number), LENGTH)
        assert judged(number, steps) == [], number


@pytest.mark.parametrize(
    ("rule", "fault"),
    [("settles", "overwritten"), ("tells_apart", "another person"), ("looks", "overwritten")],
)
def test_the_histories_notice_a_missing_rule(rule: str, fault: str):
    """Each rule is there for a history that breaks without it: settled cells become the base; two
    people behind one contact are kept apart; an old copy isn't trusted for names and contacts."""
    for number in range(FIRST, FIRST + 300):
        steps = random_steps(random.Random(number), LENGTH)
        if any(each.startswith(fault) for each in judged(number, steps, settings={rule: False})):
            return
    pytest.fail("no history shows it")


def test_no_history_of_real_pushes_breaks_a_promise(tmp_path: Path):
    """The same over the planner, the outbox and the sender, with answers lost and kills; among
    them those that showed rows of one person that wait for each other."""
    for number in (9, 71, 134, *range(20, 27)):
        steps = random_steps(random.Random(number), 20)
        url = f"sqlite:///{tmp_path / f'{number}.db'}"
        assert judged(number, steps, ledger_url=url) == [], number
