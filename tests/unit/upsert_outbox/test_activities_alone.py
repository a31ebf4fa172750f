"""Notes on their own, killed at every point: each is created once, or reported as possibly
created."""

from __future__ import annotations

from typing import Any

import pytest

from connector.errors import Unreachable
from tests.pushes.fake_api import Crash, FakeApi
from tests.pushes.rig import Rig
from tests.unit.upsert_outbox.test_crash_points import CRASHES, KEYS, MEMORY_S

EMAIL = "ada@example.org"


@pytest.fixture(params=["by id", "by receipt", "by look-up"])
def row(request: pytest.FixtureRequest, api: FakeApi, rig: Rig) -> dict[str, Any]:
    """One note, of a prospect who is known in one of three ways."""
    rig.key_memory_s = MEMORY_S
    if request.param == "by receipt":
        rig.push([{"email": EMAIL}])
    else:
        api.post("prospects", b'{"email": "ada@example.org"}', idempotency_key="theirs")
    (id_,) = api.prospects
    api.clock.advance(60)
    who = {"prospectId": id_} if request.param == "by id" else {"email": EMAIL}
    return {**who, "body": "hello"}


@pytest.mark.parametrize("has_key", [True, False])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("crash", CRASHES)
def test_a_crash_loses_and_doubles_no_activity(
    rig: Rig, api: FakeApi, row: dict[str, Any], crash: str, key: str, has_key: bool
):
    """The next push settles what the crash left; the one after it has nothing more to do."""
    waits_s, api.keys_ttl_s = KEYS[key]
    rows = [{**row, "key": "k1"} if has_key else row]
    first, people = api.posts, dict(api.prospects)
    api.fate = lambda n: crash if n == first else "ok"
    with pytest.raises(CRASHES[crash]):
        rig.push(rows, to="notes")
    api.clock.advance(waits_s)
    pushed = rig.push(rows, to="notes")
    assert pushed.statuses[2] in ("created", "unchanged")
    assert [note["body"] for note in api.notes.values()] == ["hello"]
    posts = api.posts
    assert rig.push(rows, to="notes").statuses == {2: "unchanged"}
    assert (api.posts, api.prospects) == (posts, people)


@pytest.mark.parametrize("has_key", [True, False])
def test_only_force_sends_an_uncertain_activity(
    rig: Rig, api: FakeApi, row: dict[str, Any], has_key: bool
):
    """Its answer was lost, its key is forgotten, and a recruiter has rewritten the note since: it
    may be there. The row is `failed`, at 0 requests from then on."""
    rows = [{**row, "key": "k1"} if has_key else row]
    api.keys_ttl_s = MEMORY_S
    first = api.posts
    api.fate = lambda n: "crash after" if n == first else "ok"
    with pytest.raises(Crash):
        rig.push(rows, to="notes")
    (note,) = api.notes.values()
    note["body"] = "rewritten"
    api.clock.advance(2 * MEMORY_S)
    for _ in range(2):
        pushed = rig.push(rows, to="notes")
        assert pushed.statuses == {2: "failed"}
        assert (pushed.messages[2] or "").startswith("uncertain")
        assert len(api.notes) == 1
        assert [reject.values for reject in pushed.rejects] == rows
    assert rig.push(rows, to="notes", force=True).statuses == {2: "created"}
    assert len(api.notes) == 2
    assert rig.push(rows, to="notes").statuses == {2: "unchanged"}


def test_rows_of_one_person_are_sent_one_after_another_and_looked_up_once(rig: Rig, api: FakeApi):
    """Whether they name them by email or by id: equal rows make one note."""
    api.post("prospects", b'{"email": "ada@example.org"}', idempotency_key="theirs")
    (id_,) = api.prospects
    rows: list[dict[str, Any]] = [{"email": EMAIL, "body": text} for text in ("a", "b", "a")]
    pushed = rig.push([*rows, {"prospectId": id_, "body": "c"}], to="notes")
    assert pushed.statuses == {2: "created", 3: "created", 4: "unchanged", 5: "created"}
    assert sorted(note["body"] for note in api.notes.values()) == ["a", "b", "c"]


def test_equal_rows_that_name_one_person_in_two_ways_make_one_note(rig: Rig, api: FakeApi):
    """While the one is sent the other is looked up, and waits for that one's answer."""
    api.post("prospects", b'{"email": "ada@example.org"}', idempotency_key="theirs")
    (id_,) = api.prospects
    rows = [{"prospectId": id_, "body": "a"}, {"email": EMAIL, "body": "a"}]
    pushed = rig.push(rows, to="notes")
    assert sorted(pushed.statuses.values()) == ["created", "unchanged"]
    assert len(api.notes) == 1
    assert rig.push(rows, to="notes").statuses == {2: "unchanged", 3: "unchanged"}


def test_nothing_overtakes_a_person_whose_creation_has_no_answer(rig: Rig, api: FakeApi):
    """Their note waits for the push that settles it."""
    first = api.posts
    api.fate = lambda n: "lost" if n >= first else "ok"
    with pytest.raises(Unreachable):
        rig.push([{"email": EMAIL}])
    with pytest.raises(Unreachable):
        rig.push([{"email": EMAIL, "body": "hello"}], to="notes")
    assert api.notes == {}
    api.fate = lambda _: "ok"
    assert rig.push([{"email": EMAIL, "body": "hello"}], to="notes").statuses == {2: "created"}
    assert len(api.prospects) == len(api.notes) == 1


def test_what_rows_repeat_is_known_beyond_its_retention(rig: Rig, api: FakeApi):
    """A file that is pushed each week never creates a note again."""
    api.post("prospects", b'{"email": "ada@example.org"}', idempotency_key="theirs")
    rows = [{"email": EMAIL, "body": "hello", "key": "k1"}, {"email": EMAIL, "body": "other"}]
    rig.push(rows, to="notes")
    for _ in range(8):
        api.clock.advance(30 * 86_400)
        assert rig.push(rows, to="notes").statuses == {2: "unchanged", 3: "unchanged"}
        rig.forget(days=90)
    assert len(api.notes) == 2


def test_a_note_that_came_with_its_person_is_known_beyond_its_retention(rig: Rig, api: FakeApi):
    """Also where, from then on, only a file of notes says it."""
    rig.push([{"email": EMAIL, "note": {"body": "hello"}}])
    rows = [{"email": EMAIL, "body": "hello"}]
    for _ in range(8):
        api.clock.advance(31 * 86_400)
        assert rig.push(rows, to="notes").statuses == {2: "unchanged"}
        rig.forget(days=90)
    assert len(api.notes) == 1
