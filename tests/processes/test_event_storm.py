"""Events while receivers and drains are killed: after the next pull, nothing is missing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.processes.event_storm import storm


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_after_the_next_pull_what_has_landed_is_what_the_server_has(
    tmp_path: Path, chance: random.Random
):
    """Doubled, reordered and forged events, an outage of the receiver, SIGKILLs of it and of
    drains: nothing forged lands, no one living is flagged deleted. The outage was noticed: events
    didn't stand for a scan."""
    done = storm(tmp_path, people=700, edits=120, kills=2, chance=chance)
    assert done.receivers_killed == 2
    assert set(done.forged) == {401}
    assert (done.wrong, done.strangers, done.living_flagged) == (0, 0, 0)
    assert done.last_scan != "events"
