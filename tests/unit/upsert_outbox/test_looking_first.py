"""Pushes whose outbox was lost: what is in HiringCenter already isn't sent once more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from connector.api.envelopes import Page
from connector.upsert.delivery import attached_to
from tests.fake_clock import FakeClock
from tests.pushes.fake_api import FakeApi
from tests.pushes.rig import Rig

ADA = {"firstName": "Ada", "lastName": "L", "email": "ada@example.org", "phone": "+14155550100"}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Its API has been pushed to by an outbox that was lost."""
    clock = FakeClock()
    api = FakeApi(clock)
    with_other = Rig(f"sqlite:///{tmp_path / 'lost.db'}", api, clock=clock)
    with_other.push([ADA | {"note": {"body": "Called & wrote"}}])
    with_other.close()
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=clock)
    yield rig
    rig.close()


def api_of(rig: Rig) -> FakeApi:
    assert isinstance(rig.api, FakeApi)
    return rig.api


def test_what_is_there_as_it_should_be_is_not_sent(rig: Rig):
    """Neither the person nor their note, which the API keeps as HTML; then no lookup is needed."""
    api = api_of(rig)
    (note,) = api.notes.values()
    note["body"] = "<p>Called &amp; wrote</p>"
    posts, row = api.posts, ADA | {"note": {"body": "Called & wrote"}}
    pushed = rig.push([row], looks_first=True)
    assert (pushed.plan.look_ups, pushed.statuses) == (2, {2: "unchanged"})
    again = rig.push([row], looks_first=True)
    assert (again.plan.look_ups, again.statuses) == (0, {2: "unchanged"})
    assert api.posts == posts


class _Answer:
    """An API that answers every list with these items, filtered or not."""

    def __init__(self, *items: dict[str, object]) -> None:
        self._items = items

    def page(self, resource: str, params: object, *, lane: object) -> Page:
        return Page([dict(item) for item in self._items], None, None)


@pytest.mark.parametrize(
    ("items", "bodies", "complete"),
    [
        ([{"body": "mine"}, {"prospectId": 7, "body": "too"}], ["too", "mine"], True),
        ([{"prospectId": "7", "body": "mine"}, {"prospectId": "8"}], ["mine"], True),
        ([{"prospectId": "7", "body": "mine"}, {"prospectId": "8"}, {}], ["mine"], False),
    ],
    ids=["nameless in a filtered list", "unfiltered", "nameless in an unfiltered list"],
)
def test_a_note_need_not_name_its_person(
    items: list[dict[str, object]], bodies: list[str], complete: bool
):
    """Every field but `id` may be missing: in a filtered list it is this person's, else it isn't
    known, and the list proves nothing."""
    found, is_all = attached_to(_Answer(*items), "notes", "7")  # type: ignore[arg-type]
    assert ([item["body"] for item in found], is_all) == (bodies, complete)


def test_what_differs_or_is_missing_is_sent(rig: Rig):
    """Another title, another note, another person."""
    rows = [ADA | {"title": "Dr", "note": {"body": "Met"}}, {"email": "bob@example.org"}]
    pushed = rig.push(rows, looks_first=True)
    assert pushed.statuses == {2: "updated", 3: "created"}
    assert [note["body"] for note in api_of(rig).notes.values()] == ["Called & wrote", "Met"]


def test_another_person_with_the_contact_is_not_overwritten(rig: Rig):
    """The lookup by phone finds Ada; the row is about Bob. Also where no one may be created."""
    row = {"firstName": "Bob", "lastName": "L", "phone": ADA["phone"]}
    for options in ({"looks_first": True}, {"mode": "update-only"}):
        pushed = rig.push([row], **options)  # type: ignore[arg-type]
        assert pushed.statuses == {2: "rejected"}
        assert "two people behind one contact" in (pushed.messages[2] or "")
    assert api_of(rig).prospects["p1"]["firstName"] == "Ada"
    shared = rig.push([row], looks_first=True, allow_shared_contact=True)
    assert shared.statuses == {2: "updated"}


def test_force_sends_without_looking(rig: Rig):
    """Whoever says so has looked."""
    api_of(rig).clock.advance(10)  # else they seem to be created by this very push
    pushed = rig.push([ADA], looks_first=True, force=True)
    assert (pushed.plan.look_ups, pushed.statuses) == (0, {2: "updated"})
