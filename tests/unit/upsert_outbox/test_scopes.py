"""Writes that one API key left unanswered, found by the next key of the same account."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from connector.upsert.outbox.pairing import Scopes
from tests.fake_clock import FakeClock
from tests.pushes.fake_api import Crash, FakeApi
from tests.pushes.rig import SCOPE, Rig

OTHER_KEY, ACCOUNT = SCOPE + 1, 77
ROW = {"email": "ada@example.org", "title": "Dr", "note": {"body": "Called"}}


@pytest.fixture(params=["sqlite", "postgres"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    if request.param == "postgres":
        url = str(request.getfixturevalue("postgres_url"))
    clock = FakeClock()
    rig = Rig(url, FakeApi(clock), clock=clock)
    yield rig
    rig.close()


def api_of(rig: Rig) -> FakeApi:
    assert isinstance(rig.api, FakeApi)
    return rig.api


@pytest.mark.parametrize("fate", ["crash before", "crash after"])
@pytest.mark.parametrize("nth", [0, 1])
def test_a_write_left_by_the_former_key_is_looked_up_and_applied_once(
    rig: Rig, fate: str, nth: int
):
    """The API may know an idempotency key only together with the API key it came with."""
    api = api_of(rig)
    api.fate = lambda n: fate if n == nth else "ok"
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


def test_the_same_key_keeps_its_idempotency_keys(rig: Rig):
    """Nothing is looked up where the API answers with a replay."""
    api = api_of(rig)
    api.fate = lambda n: "crash after" if n == 0 else "ok"
    scopes = Scopes(rig.database)
    for at_ms in (1, 2):
        scopes.begin(SCOPE, at_ms)
        if at_ms == 1:
            with pytest.raises(Crash):
                rig.push([ROW])
    rig.push([ROW])
    assert (api.posts, len(api.applied)) == (3, 2)


def test_of_several_former_keys_the_one_that_sent_last_is_followed(rig: Rig):
    """Keys that never learnt of each other have receipts of their own; the newest are fuller."""
    scopes = Scopes(rig.database)
    for at_ms, key in enumerate((1, 2, 3)):
        scopes.begin(key, -at_ms)
        scopes.note(key, ACCOUNT if key < 3 else None)
    scopes.note(OTHER_KEY, ACCOUNT)
    assert scopes.of(OTHER_KEY) == 1


def test_an_outbox_of_an_earlier_version_keeps_working(rig: Rig):
    """Its receipts stay, under the number of the key that is used."""
    rig.push([ROW])
    with rig.database.write() as connection:
        connection.execute(sa.text("DROP TABLE outbox_scopes"))
        connection.execute(
            sa.text("UPDATE schema_versions SET version = 1 WHERE component = 'outbox'")
        )
    scopes = Scopes(rig.database)
    assert not scopes.is_worth_asking(SCOPE)
    assert scopes.of(SCOPE) == SCOPE
    assert rig.push([ROW]).statuses == {2: "unchanged"}
