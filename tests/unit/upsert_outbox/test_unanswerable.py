"""One write that never gets a usable answer, among others that do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from connector.api.client import WriteAnswer
from connector.api.envelopes import Page
from connector.errors import UnexpectedAnswer, Unreachable
from tests.fake_clock import FakeClock
from tests.pushes.fake_api import FakeApi, unreachable
from tests.pushes.rig import Rig

ODD = {"email": "odd@example.org", "title": "Odd"}
OTHERS = [{"email": f"n{n}@example.org", "title": "Dr"} for n in range(3)]


class PickyApi(FakeApi):
    """Never answers a POST that holds one of `words`."""

    words: tuple[bytes, ...] = (b"Odd",)

    def post(self, resource: str, body: bytes, **options: Any) -> WriteAnswer:
        if any(word in body for word in self.words):
            self.clock.advance(1)
            raise unreachable()
        return super().post(resource, body, **options)


@pytest.fixture
def api() -> PickyApi:
    return PickyApi(FakeClock())


@pytest.fixture
def rig(api: PickyApi, tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=api.clock)
    rig.push(OTHERS, source="other.csv")
    with pytest.raises(Unreachable):  # alone, it looks like an outage
        rig.push([ODD])
    yield rig
    rig.close()


def test_an_uncertain_write_holds_back_no_other_person(rig: Rig):
    """Later pushes of other people are sent, and those of its person wait for its answer."""
    changed = [{**row, "title": "New"} for row in OTHERS]
    assert set(rig.push(changed, source="other.csv").statuses.values()) == {"updated"}
    pushed = rig.push([{**ODD, "title": "Fixed"}, {**OTHERS[0], "title": "Newer"}])
    assert (pushed.recovered, pushed.statuses) == (0, {2: "failed", 3: "updated"})
    assert "nothing may overtake it" in (pushed.messages[2] or "")


def test_an_uncertain_write_doesnt_fail_a_push_with_nothing_to_send(rig: Rig):
    """All of that file is as it should be."""
    assert set(rig.push(OTHERS, source="other.csv").statuses.values()) == {"unchanged"}


def test_an_api_that_answers_nothing_ends_the_run(rig: Rig, api: PickyApi):
    """Neither the open write nor a new row gets an answer: what is planned waits."""
    api.words = (b"",)
    with pytest.raises(Unreachable):
        rig.push([{**OTHERS[0], "title": "Newer"}])
    with pytest.raises(Unreachable):
        rig.push([{**ODD, "title": "Fixed"}])


def test_it_is_settled_once_it_is_answered(rig: Rig, api: PickyApi):
    """With its own key, before anything newer of its person."""
    api.words = ()
    pushed = rig.push([{**ODD, "title": "Fixed"}])
    assert (pushed.recovered, pushed.statuses) == (1, {2: "updated"})
    (odd,) = [one for one in api.prospects.values() if one["email"] == ODD["email"]]
    assert odd["title"] == "Fixed"


@pytest.mark.parametrize("updated_at", [10**20, -1e300, "2024-05-01", None])
def test_an_answer_with_a_time_that_is_none_is_an_answer(tmp_path: Path, updated_at: object):
    """Else the push ended there, and so did each later one, which gets the same answer."""

    class OddTimes(FakeApi):
        def post(self, resource: str, body: bytes, **options: Any) -> WriteAnswer:
            answer = super().post(resource, body, **options)
            return replace(answer, item={**answer.item, "updatedAt": updated_at})

    api = OddTimes(FakeClock())
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=api.clock)
    assert rig.push([ODD]).statuses == {2: "created"}
    assert rig.push([{**ODD, "title": "New"}]).statuses == {2: "updated"}
    rig.close()


@pytest.mark.parametrize(
    "odd",
    [
        {"id": "\ud800"},
        {"id": "a\0b"},
        {"id": "x" * 1000},
        {"id": ""},
        {"firstName": ["A"], "lastName": {"of": "B"}},
        {"email": {"main": "odd@example.org"}, "phone": ["1"]},
    ],
    ids=["surrogate", "NUL", "long", "empty", "names", "contacts"],
)
def test_an_answer_with_unusual_values_is_an_answer(tmp_path: Path, odd: dict[str, Any]):
    """An id that the ledger can't hold names no one; names that aren't text say nothing. The row
    is done, and so are those whose answers are recorded with it."""

    class OddValues(FakeApi):
        def post(self, resource: str, body: bytes, **options: Any) -> WriteAnswer:
            answer = super().post(resource, body, **options)
            return replace(answer, item={**answer.item, **odd}) if b"Odd" in body else answer

    api = OddValues(FakeClock())
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=api.clock)
    assert set(rig.push([ODD, *OTHERS]).statuses.values()) == {"created"}
    assert set(rig.push(OTHERS).statuses.values()) == {"unchanged"}
    rig.close()


@pytest.mark.parametrize(
    "labels",
    [[{"name": "hand"}], 5, {"a": 1}, [["hand"]], [None], True],
    ids=["objects", "number", "object", "lists", "nulls", "boolean"],
)
def test_labels_in_a_form_that_isnt_known_are_unknown(tmp_path: Path, labels: object):
    """All else of the row is sent; labels can't be added to them, since those that were there would
    be lost; no other row is lost."""

    class OddLabels(FakeApi):
        def page(self, *args: Any, **options: Any) -> Page:
            found = super().page(*args, **options)
            return replace(found, items=[{**item, "labels": labels} for item in found.items])

        def post(self, *args: Any, **options: Any) -> WriteAnswer:
            answer = super().post(*args, **options)
            return replace(answer, item={**answer.item, "labels": labels})

    api = OddLabels(FakeClock())
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=api.clock)
    there = {**OTHERS[0], "firstName": "Ada", "lastName": "L", "labels": ["hand"]}
    api.prospects["q1"] = {"id": "q1", "createdAt": 1, "updatedAt": 1, **there}
    rows = [{**OTHERS[0], "labels_add": ["new"]}, OTHERS[1]]
    assert rig.push(rows).statuses == {2: "rejected", 3: "created"}
    rows = [{**OTHERS[0], "title": "Mr"}, {**OTHERS[1], "labels": ["x"], "title": "Mr"}]
    assert rig.push(rows, source="other.csv").statuses == {2: "updated", 3: "updated"}
    assert api.prospects["q1"]["labels"] == ["hand"]
    rig.close()


@pytest.mark.parametrize("more", ["token", "count"])
def test_a_list_that_isnt_filtered_doesnt_show_that_a_contact_is_one_persons(
    tmp_path: Path, more: str
):
    """Its first page shows one of two who share a mailbox; the API might change the other one.
    A list that is complete shows everyone."""

    class Unfiltered(FakeApi):
        shown = 2

        def page(self, *args: Any, **options: Any) -> Page:
            super().page(*args, **options)
            items = [dict(each) for each in self.prospects.values()]
            if more == "token":
                token = {"pageToken": "2"} if len(items) > self.shown else None
                return Page(items[: self.shown], token, None)
            return Page(items[: self.shown], None, len(items))

    api = Unfiltered(FakeClock())
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=api.clock)
    ada = {"firstName": "Ada", "lastName": "L", "email": "ada@x.org", "createdAt": 1}
    for number in range(3):
        other = {"email": f"n{number}@x.org"} if number == 1 else {}
        api.prospects[f"q{number}"] = {"id": f"q{number}", "updatedAt": 1, **ada, **other}
    row = {"email": "ada@x.org", "title": "Dr"}
    pushed = rig.push([row])
    assert (pushed.statuses, api.applied) == ({2: "failed"}, [])
    del api.prospects["q2"]
    api.shown = 3
    assert rig.push([row]).statuses == {2: "updated"}
    assert [change.id for change in api.applied] == ["q0"]
    rig.close()


def test_an_activity_whose_answer_doesnt_show_it_is_looked_up(tmp_path: Path):
    """An API that only reports success: the note is found among those of its person, and isn't
    created again."""

    class Silent(FakeApi):
        def post(self, resource: str, *args: Any, **options: Any) -> WriteAnswer:
            answer = super().post(resource, *args, **options)
            if resource == "notes":
                raise UnexpectedAnswer(status=answer.status, url_path="/notes", reason="no item")
            return answer

    api = Silent(FakeClock())
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=api.clock)
    rows = [{"firstName": "Ada", "lastName": "L", "email": "ada@x.org", "note": {"body": "Called"}}]
    assert rig.push(rows).statuses == {2: "created"}
    assert [note["body"] for note in api.notes.values()] == ["Called"]
    posts = api.posts
    assert rig.push(rows).statuses == {2: "unchanged"}
    assert api.posts == posts
    rig.close()


@pytest.mark.parametrize("warns", [1, 2])
def test_a_warning_reaches_the_user_though_a_creation_looks_like_a_match(
    tmp_path: Path, warns: int
):
    """The API alters a value, says so, and answers 200 to a creation: the person it shows is taken
    for a match, and gets the value once more; the warning is reported, once."""

    class Shortens(FakeApi):
        warns = 1

        def post(self, *args: Any, **options: Any) -> WriteAnswer:
            answer = super().post(*args, **options)
            item = self.prospects[answer.item["id"]]
            item["title"] = item["title"][:3]
            said = "title was shortened" if self.posts <= self.warns else None
            return replace(answer, status=200, item=dict(item), message=said)

    api = Shortens(FakeClock())
    api.warns = warns
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=api.clock)
    pushed = rig.push([{"email": "ada@x.org", "title": "Professor"}])
    assert pushed.statuses == {2: "updated"}
    assert (pushed.messages[2] or "").count("HiringCenter says: title was shortened") == 1
    assert [item["title"] for item in api.prospects.values()] == ["Pro"]
    rig.close()


@pytest.mark.parametrize(
    ("shows", "accepted"),
    [(False, None), (True, None), (False, 202), (False, 204)],
    ids=["never", "who is created", "accepted", "no content"],
)
def test_an_answer_without_a_person_blocks_no_other_row(
    tmp_path: Path, shows: bool, accepted: int | None
):
    """An API that only reports success: whom it has created, left alone or changed is seen by a
    look. Nothing is made twice, and it comes to rest."""

    class Silent(FakeApi):
        def post(self, *args: Any, **options: Any) -> WriteAnswer:
            answer = super().post(*args, **options)
            if shows and answer.status == 201:
                return answer
            status = accepted or answer.status
            raise UnexpectedAnswer(status=status, url_path="/prospects", reason="no item")

    api = Silent(FakeClock())
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=api.clock)
    ada = {"firstName": "Ada", "lastName": "L", "email": "ada@x.org", "company": "Acme"}
    api.prospects["q1"] = {"id": "q1", "createdAt": 1, "updatedAt": 1, **ada}
    rows = [{"email": "ada@x.org", "title": "Dr"}, {"email": "new@x.org", "title": "Dr"}]
    rig.push([{"email": "first@x.org"}], source="other.csv")  # the server's time is known now
    assert rig.push(rows).statuses == {2: "updated", 3: "created"}
    rows[0]["title"] = rows[1]["title"] = "Prof"
    assert rig.push(rows).statuses == {2: "updated", 3: "updated"}
    api.edit("q1", title="Boss")
    posts = api.posts
    assert rig.push(rows).statuses == {2: "unchanged", 3: "unchanged"}
    assert (api.posts, len(api.prospects)) == (posts, 3)
    assert api.prospects["q1"] | {"updatedAt": 0} == {
        **ada, "id": "q1", "createdAt": 1, "title": "Boss", "updatedAt": 0,
    }  # fmt: skip
    rig.close()
