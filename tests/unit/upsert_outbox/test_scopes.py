"""Writes that one API key left unanswered, found by the next key of the same account."""

from __future__ import annotations

from pathlib import Path

import pytest

from connector.clock import FakeClock
from connector.upsert.outbox.scopes import Scopes
from tests.pushes.fake_api import Crash, FakeApi
from tests.pushes.rig import SCOPE, Rig

OTHER_KEY, ACCOUNT = SCOPE + 1, 77
ROW = {"email": "ada@example.org", "title": "Dr", "note": {"body": "Called"}}


@pytest.mark.parametrize("fate", ["crash before", "crash after"])
@pytest.mark.parametrize("nth", [0, 1])
def test_a_write_left_by_the_former_key_is_looked_up_and_applied_once(
    tmp_path: Path, fate: str, nth: int
):
    """The API may know an idempotency key only together with the API key it came with."""
    clock = FakeClock()
    api = FakeApi(clock, fate=lambda n: fate if n == nth else "ok")
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=clock)
    scopes = Scopes(rig.database)
    scopes.note(SCOPE, ACCOUNT)
    scopes.begin(SCOPE, 1)
    with pytest.raises(Crash):
        rig.push([ROW])
    api._keys.clear()
    scopes.note(OTHER_KEY, ACCOUNT)
    assert scopes.of(OTHER_KEY) == SCOPE
    scopes.begin(OTHER_KEY, 2)
    rig.push([ROW])
    assert [change.resource for change in api.applied] == ["prospects", "notes"]
    rig.close()


def test_the_same_key_keeps_its_idempotency_keys(tmp_path: Path):
    """Nothing is looked up where the API answers with a replay."""
    clock = FakeClock()
    api = FakeApi(clock, fate=lambda n: "crash after" if n == 0 else "ok")
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=clock)
    scopes = Scopes(rig.database)
    for at_ms in (1, 2):
        scopes.begin(SCOPE, at_ms)
        if at_ms == 1:
            with pytest.raises(Crash):
                rig.push([ROW])
    rig.push([ROW])
    assert (api.posts, len(api.applied)) == (3, 2)
    rig.close()
