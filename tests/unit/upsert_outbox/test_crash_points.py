"""Every crash point × what a recruiter does meanwhile × what the API still remembers.

None is applied twice, none is lost in silence, no later edit is overwritten: what isn't known
is `failed` with the reason `uncertain`, and is never sent again by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from connector.errors import Unreachable
from connector.settings.tree import WriteSettings
from connector.upsert.delivery import KeyMemory
from connector.upsert.outbox.outbox import LearntMemory, was_remembered
from tests.fake_clock import FakeClock
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
CRASHES: dict[str, type[BaseException]] = {  # and how the push ends
    "crash before": Crash,
    "crash after": Crash,
    "unsent": Unreachable,
    "lost": Unreachable,
}
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
    with pytest.raises(CRASHES[crash]):
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
        # no one is there, as if the row had never been sent; a person that was deleted is
        # created again by the next push of their row in any case
        assert pushed.statuses[2] in ("created", "unchanged")
        return
    assert case.applied() <= 1, "applied twice"
    if pushed.statuses[2] == "failed":
        assert (pushed.messages[2] or "").startswith("uncertain")
        assert api.prospects == left, "what isn't known is left alone"
    else:
        if applied_before:
            assert api.prospects == left, "a later edit was overwritten"
        else:
            (prospect,) = api.prospects.values()
            assert prospect["title"] == "New", "lost in silence"
    posts = api.posts
    assert rig.push([ROW]).statuses[2] in ("unchanged", "failed")
    assert api.posts == posts, "sent again by itself"


@pytest.mark.parametrize("case", ["update"], indirect=True)
def test_only_force_sends_an_uncertain_row(case: Case):
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


@pytest.mark.parametrize("case", ["update"], indirect=True)
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
    """A (accepted), B (answer missing), A again: the last isn't a repetition, B is settled
    first."""
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
    with pytest.raises(CRASHES[crash]):
        rig.push([row])
    clock.advance(waits_s)
    pushed = rig.push([row])
    assert pushed.statuses[2] in ("unchanged", "updated")
    assert len(api.notes) == 1
    assert rig.push([row]).statuses == {2: "unchanged"}
    rig.close()


@pytest.mark.parametrize("died", ["crash before", "crash after"])
@pytest.mark.parametrize("at", range(8))
def test_rows_that_one_commit_marked_as_sent_are_each_applied_once(
    tmp_path: Path, at: int, died: str
):
    """Eight rows are marked and go out together, and the process dies in the request of one of
    them: whichever of the others were answered, the next push applies what is missing, once."""
    clock = FakeClock()
    api = FakeApi(clock)
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=clock, in_flight=8)
    rows = [{"email": f"n{n}@example.org", "title": "New"} for n in range(8)]
    api.fate = lambda n: died if n == at else "ok"
    with pytest.raises(Crash):
        rig.push(rows)
    pushed = rig.push(rows)
    assert set(pushed.statuses.values()) <= {"created", "unchanged"}
    assert sorted(change.payload["email"] for change in api.applied) == [
        row["email"] for row in rows
    ]
    rig.close()


@pytest.mark.parametrize("step_s", [-2 * HOUR_S, 2 * HOUR_S, -30 * 24 * HOUR_S])
def test_a_step_of_the_wall_makes_no_key_younger(tmp_path: Path, step_s: float):
    """Six answers are missing, the API forgets keys after 20 minutes, and the wall is set: each
    change is made once."""
    clock = FakeClock()
    api = FakeApi(clock, keys_ttl_s=1200)
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=clock, key_memory_s=600)
    rows = [{"email": f"n{n}@example.org", "title": "New"} for n in range(6)]
    api.fate = lambda n: "lost" if n < 6 else "ok"
    with pytest.raises(Unreachable):
        rig.push(rows)
    clock.advance(2 * HOUR_S)
    clock.step(step_s)
    pushed = rig.push(rows)
    assert set(pushed.statuses.values()) == {"unchanged"}
    assert len(api.applied) == len(api.prospects) == 6
    rig.close()


def test_a_key_is_trusted_for_ten_minutes():
    """Less the time that a repeated request may take to arrive; then its write is looked up."""
    memory_s = WriteSettings().key_memory_s
    assert memory_s == 600
    assert KeyMemory(memory_s, 60).is_sure(539)
    assert not KeyMemory(memory_s, 60).is_sure(541)


NOTE = {**ROW, "note": {"body": "hello"}}


def test_an_api_without_idempotency_is_found_out_and_looked_at_from_then_on(tmp_path: Path):
    """The repeated creation is answered 200, not 201: the API has forgotten its key within
    seconds. The next lost answer, a note's, is looked up instead of being sent twice."""
    clock = FakeClock()
    api = FakeApi(clock, keys_ttl_s=-1)
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=clock, key_memory_s=600)
    api.fate = lambda n: "lost" if n == 0 else "ok"
    with pytest.raises(Unreachable):
        rig.push([ROW])
    clock.advance(30)
    rig.push([ROW])
    first = api.posts
    api.fate = lambda n: "lost" if n == first else "ok"
    rig.push([NOTE])
    clock.advance(30)
    assert rig.push([NOTE]).statuses[2] == "unchanged"
    assert len(api.notes) == 1
    rig.close()


def test_an_api_that_marks_replays_is_trusted_again(tmp_path: Path):
    """What was learnt of a forgetful API is forgotten once it is seen to remember."""
    learnt = LearntMemory().after(5.0, remembered=False)
    assert learnt.forgets
    assert not KeyMemory(600, 60, learnt).is_sure(0.0)
    learnt = learnt.after(40.0, remembered=True)
    assert KeyMemory(600, 60, learnt).is_sure(500.0)
    assert KeyMemory(30, 1, learnt).memory_s == 40.0


@pytest.mark.parametrize(
    ("status", "created_ms", "updated_ms", "replayed", "remembered"),
    [
        (201, 1_000, 1_000, False, True),  # made by the first request
        (201, 9_500, 9_500, False, None),  # the first may never have arrived
        (200, 500, 1_500, False, True),  # last changed before the repeat
        (200, 9_000, 9_500, False, False),  # whom the first request made was matched
        (200, 500, 9_500, False, None),
        (200, 9_000, 9_500, True, True),
    ],
)
def test_what_the_answer_to_a_repeated_write_shows(
    status: int, created_ms: int, updated_ms: int, replayed: bool, remembered: bool | None
):
    """First sent at 8,000 or 900, repeated at 9,400 by the server's clock."""
    item = {"createdAt": created_ms, "updatedAt": updated_ms}
    first_ms = 900 if created_ms == 1_000 else 8_000
    assert remembered is was_remembered(
        status=status,
        item=item,
        replayed=replayed,
        created_before=False,
        first_server_ms=first_ms,
        again_server_ms=9_400,
    )


@pytest.mark.parametrize("on_match", ["existing", "conflict"])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("crash", CRASHES)
@pytest.mark.parametrize("post", [0, 1])
def test_a_creation_that_meets_a_person_changes_them_once(
    tmp_path: Path, post: int, crash: str, key: str, on_match: str
):
    """The crash hits the creation, which leaves the person alone, or the update that follows it:
    it is applied once, or reported as uncertain where only the update's key is forgotten."""
    clock = FakeClock()
    api = FakeApi(clock, on_match=on_match)
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=clock, key_memory_s=MEMORY_S)
    api.post("prospects", orjson.dumps({**ROW, "title": "Old"}), idempotency_key="theirs")
    clock.advance(60)
    waits_s, api.keys_ttl_s = KEYS[key]
    api.posts, api.applied = 0, []
    api.fate = lambda n: crash if n == post else "ok"
    with pytest.raises(CRASHES[crash]):
        rig.push([ROW])
    clock.advance(waits_s)
    pushed = rig.push([ROW])
    assert pushed.statuses[2] in ("unchanged", "updated")
    assert [change.payload["title"] for change in api.applied] == ["New"]
    assert len(api.prospects) == 1
    assert rig.push([ROW]).statuses == {2: "unchanged"}
    rig.close()


@pytest.mark.parametrize("on_match", ["existing", "conflict"])
def test_a_creation_is_never_uncertain(tmp_path: Path, on_match: str):
    """The answer was lost, the key forgotten, the person edited since: whom it meets was created
    by itself. The edit stands, and no one is created twice."""
    clock = FakeClock()
    api = FakeApi(clock, keys_ttl_s=MEMORY_S, on_match=on_match)
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=clock, key_memory_s=MEMORY_S)
    rig.push([{"email": "other@example.org"}], source="other.csv")
    api.fate = lambda n: "crash after" if n == 1 else "ok"
    with pytest.raises(Crash):
        rig.push([ROW])
    api.edit("p2", title="Recruiter's")
    clock.advance(13 * HOUR_S)
    assert rig.push([ROW]).statuses == {2: "unchanged"}
    assert api.prospects["p2"]["title"] == "Recruiter's"
    assert len(api.prospects) == 2
    rig.close()
