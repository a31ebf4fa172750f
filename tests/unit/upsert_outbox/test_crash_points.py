"""Every crash point × what a recruiter does meanwhile × what the API still remembers.

None is applied twice, none is lost in silence, no later edit is overwritten: what can't be told
is `failed` with the reason `uncertain`, and is never sent again by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from connector.clock import FakeClock
from tests.pushes.fake_api import Crash, FakeApi
from tests.pushes.rig import Rig

HOUR_S = 3600.0
MEMORY_S = 12 * HOUR_S
EMAIL = "ada@example.org"
Edit = Callable[[FakeApi, str], None]

EDITS: dict[str, Edit] = {
    "none": lambda api, id_: None,
    "other field": lambda api, id_: api.edit(id_, company="Elsewhere"),
    "same field": lambda api, id_: api.edit(id_, title="Recruiter's"),
    "same field and back": lambda api, id_: (
        api.edit(id_, title="Recruiter's"),
        api.edit(id_, title="New"),
    )[0],
    "unseen edit": lambda api, id_: api.edit(id_, touch=False, company="Elsewhere"),
    "deleted": lambda api, id_: api.prospects.pop(id_, None) and None,
}
CRASHES = ("crash before", "crash after", "unsent", "lost")
KEYS = {
    "young": (HOUR_S, None),
    "old, remembered": (13 * HOUR_S, None),
    "old, forgotten": (13 * HOUR_S, MEMORY_S),
}


@dataclass
class Case:
    """A prospect that is created or updated while the process dies."""

    api: FakeApi
    rig: Rig
    exists: bool

    def applied(self) -> int:
        return sum(change.payload.get("title") == "New" for change in self.api.applied)


@pytest.fixture(params=["create", "update"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    clock = FakeClock()
    api = FakeApi(clock)
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=clock, key_memory_s=MEMORY_S)
    if request.param == "update":
        rig.push([{"email": EMAIL, "title": "Old"}])
        clock.advance(60)
    yield Case(api, rig, request.param == "update")
    rig.close()


ROW = {"email": EMAIL, "title": "New"}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("crash", CRASHES)
def test_a_crash_doubles_nothing_and_loses_nothing(case: Case, crash: str, edit: str, key: str):
    """The next push settles what the crash left; the one after it has nothing more to do."""
    api, rig = case.api, case.rig
    waits_s, api.keys_ttl_s = KEYS[key]
    first = api.posts
    api.fate = lambda n: crash if n == first else "ok"
    with pytest.raises((Crash, Exception)):
        rig.push([ROW])
    applied_before = case.applied()
    assert applied_before == (crash in ("crash after", "lost"))
    (id_,) = api.prospects or (None,)
    if id_ is not None:
        EDITS[edit](api, id_)
    api.clock.advance(waits_s)
    left = {name: dict(row) for name, row in api.prospects.items()}

    pushed = rig.push([ROW])

    if not case.exists and edit == "deleted" and key == "old, forgotten":
        # nobody is there, as if the row had never been sent; a person that was deleted is
        # created anew by the next push of their row in any case
        assert pushed.statuses[2] in ("created", "unchanged")
        return
    assert case.applied() <= 1, "applied twice"
    if pushed.statuses[2] == "failed":
        assert (pushed.messages[2] or "").startswith("uncertain")
        assert api.prospects == left, "what can't be told is left alone"
    else:
        if applied_before:
            assert api.prospects == left, "a later edit was overwritten"
        else:
            (prospect,) = api.prospects.values()
            assert prospect["title"] == "New", "lost in silence"
    posts = api.posts
    assert rig.push([ROW]).statuses[2] in ("unchanged", "failed")
    assert api.posts == posts, "sent again by itself"


def test_what_is_uncertain_is_sent_by_force_alone(case: Case):
    """Neither the same file nor time sends it; --force does, or a newer change of that person."""
    api, rig = case.api, case.rig
    api.keys_ttl_s = MEMORY_S
    first = api.posts
    api.fate = lambda n: "crash after" if n == first else "ok"
    with pytest.raises(Crash):
        rig.push([ROW])
    (id_,) = api.prospects
    api.edit(id_, title="Recruiter's")
    api.clock.advance(13 * HOUR_S)
    for _ in range(2):
        pushed = rig.push([ROW])
        assert pushed.statuses == {2: "failed"}
        assert pushed.rejects[-1].values == ROW
        api.clock.advance(100 * HOUR_S)
    assert rig.push([ROW], force=True).statuses == {2: "updated"}
    assert rig.push([ROW]).statuses == {2: "unchanged"}


def test_a_newer_change_settles_what_was_uncertain(case: Case):
    """After another change was accepted, the uncertain content is a new change like any other."""
    api, rig = case.api, case.rig
    api.keys_ttl_s = MEMORY_S
    first = api.posts
    api.fate = lambda n: "crash after" if n == first else "ok"
    with pytest.raises(Crash):
        rig.push([ROW])
    (id_,) = api.prospects
    api.edit(id_, title="Recruiter's")
    api.clock.advance(13 * HOUR_S)
    assert rig.push([ROW]).statuses == {2: "failed"}
    assert rig.push([{**ROW, "title": "Newer"}]).statuses == {2: "updated"}
    assert rig.push([ROW]).statuses == {2: "updated"}
    assert api.prospects[id_]["title"] == "New"


def test_another_row_waits_for_the_answer_that_is_missing(case: Case):
    """A (accepted), B (answer missing), A again: the last is no repetition, B is settled first."""
    api, rig = case.api, case.rig
    rig.push([{**ROW, "title": "A"}])
    first = api.posts
    api.fate = lambda n: "crash after" if n == first else "ok"
    with pytest.raises(Crash):
        rig.push([{**ROW, "title": "B"}])
    assert rig.push([{**ROW, "title": "A"}]).statuses == {2: "updated"}
    (prospect,) = api.prospects.values()
    assert prospect["title"] == "A"


def test_a_clock_that_is_off_doubles_nothing(tmp_path: Path):
    """The server's clock is an hour behind or ahead of ours: `updatedAt` is read in its time."""
    for skew_s in (-HOUR_S, HOUR_S):
        clock = FakeClock()
        api = FakeApi(clock, keys_ttl_s=MEMORY_S, skew_s=skew_s)
        rig = Rig(f"sqlite:///{tmp_path / f'{skew_s}.db'}", api, clock=clock)
        rig.push([{**ROW, "title": "Old"}])
        clock.advance(60)
        api.fate = lambda n: "crash after" if n == 1 else "ok"
        with pytest.raises(Crash):
            rig.push([ROW])
        clock.advance(13 * HOUR_S)
        assert rig.push([ROW]).statuses == {2: "unchanged"}
        assert len(api.applied) == 2
        rig.close()


@pytest.mark.parametrize("crash", CRASHES)
@pytest.mark.parametrize("key", KEYS)
def test_a_note_is_created_once_whatever_happens(tmp_path: Path, crash: str, key: str):
    """The prospect is there, the crash hits its note: afterwards there is one note, or none and
    the row says `uncertain`."""
    clock = FakeClock()
    api = FakeApi(clock)
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=clock, key_memory_s=MEMORY_S)
    waits_s, api.keys_ttl_s = KEYS[key]
    api.fate = lambda n: crash if n == 1 else "ok"
    row = {**ROW, "note": {"body": "hello"}}
    with pytest.raises((Crash, Exception)):
        rig.push([row])
    clock.advance(waits_s)
    pushed = rig.push([row])
    assert pushed.statuses[2] in ("unchanged", "updated")
    assert len(api.notes) == 1
    assert rig.push([row]).statuses == {2: "unchanged"}
    rig.close()
