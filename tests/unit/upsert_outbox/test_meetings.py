"""Creations that meet a person: an unknown one is created, or read before they are changed."""

from __future__ import annotations

import pytest

from connector.upsert.outbox.merge import MergeRules
from tests.pushes.fake_api import Crash, FakeApi
from tests.pushes.rig import Rig
from tests.unit.upsert_outbox.test_merging_pushes import ADA, hire, pull, push


@pytest.fixture(params=["existing", "conflict"])
def api(api: FakeApi, request: pytest.FixtureRequest) -> FakeApi:
    """A match answers 200 with the person, or 409."""
    api.on_match = request.param
    return api


def test_a_person_met_is_changed_as_hiringcenter_shows_them(rig: Rig, api: FakeApi):
    """Their names and the contact that found them go out as they are shown; what is equal isn't
    sent, and what a recruiter put where the row says nothing stays."""
    hire(api, "q1", lastName="KING ", email="Ada@x.org", title="Boss", city="Rome")
    assert push(rig, {**ADA, "lastName": "KING"}).statuses == {2: "updated"}
    assert api.applied[-1].payload == {
        "firstName": "Ada", "lastName": "KING ", "email": "Ada@x.org", "title": "Agent",
        "update": True,
    }  # fmt: skip
    assert push(rig, {**ADA, "lastName": "KING"}).statuses == {2: "unchanged"}
    assert api.posts == 2


def test_a_person_met_who_equals_the_row_costs_one_request(rig: Rig, api: FakeApi):
    """Nothing is left to change."""
    hire(api, "q1")
    api.clock.advance(60)
    assert push(rig, ADA).statuses == {2: "unchanged"}
    assert (api.posts, api.applied) == (1, [])


def test_a_person_met_isnt_changed_through_a_contact_that_two_people_have(rig: Rig, api: FakeApi):
    """The API might change the other one."""
    hire(api, "q1", title="Boss")
    hire(api, "q2", title="Boss")
    pushed = push(rig, ADA)
    assert (pushed.statuses, api.applied) == ({2: "rejected"}, [])
    assert "isn't alone" in (pushed.messages[2] or "")


def test_a_row_that_cant_change_the_person_it_met_isnt_retried_every_hour(rig: Rig, api: FakeApi):
    """Refused at no request, until one of the people changes."""
    hire(api, "q1", title="Boss")
    hire(api, "q2", title="Boss")
    push(rig, ADA)
    requests = api.posts + api.gets
    assert push(rig, ADA).statuses == {2: "rejected"}
    assert api.posts + api.gets == requests
    del api.prospects["q2"]
    pull(rig, api)
    api.edit("q1", company="Acme")
    pull(rig, api)
    assert push(rig, ADA).statuses == {2: "updated"}


def test_a_row_whose_contact_now_belongs_to_another_person_isnt_retried_every_hour(
    rig: Rig, api: FakeApi
):
    """Its person was deleted, and another person has the email now; also once a pull has read
    it."""
    hire(api, "q1", title="Boss")
    assert push(rig, ADA).statuses == {2: "updated"}
    del api.prospects["q1"]
    hire(api, "q2", firstName="Dan", phone=None)
    row = {**ADA, "title": "Broker"}
    assert push(rig, row).statuses == {2: "rejected"}
    requests = api.posts + api.gets
    assert push(rig, row).statuses == {2: "rejected"}
    assert api.posts + api.gets == requests
    pull(rig, api)
    push(rig, row)
    requests = api.posts + api.gets
    assert push(rig, row).statuses == {2: "rejected"}
    assert api.posts + api.gets == requests
    assert api.prospects["q2"]["title"] == "Agent"


def test_a_new_contact_of_a_person_met_must_not_be_another_persons(rig: Rig, api: FakeApi):
    """Found by email, and the row's phone is another person's."""
    hire(api, "q1", phone=None)
    hire(api, "q2", firstName="Adam", email="adam@x.org")
    pushed = push(rig, ADA)
    assert (pushed.statuses, api.applied) == ({2: "rejected"}, [])
    assert "q2" in (pushed.messages[2] or "")


def test_a_person_found_by_one_contact_can_get_the_other(rig: Rig, api: FakeApi):
    """Found by phone, their only contact: the email is added, since no one has it."""
    hire(api, "q1", email=None)
    assert push(rig, ADA).statuses == {2: "updated"}
    assert api.prospects["q1"]["email"] == "ada@x.org"
    assert "phone" in api.applied[-1].payload


def test_a_person_of_another_name_behind_the_contact_is_left_alone(rig: Rig, api: FakeApi):
    """Unless the user says that they are one person; they are read first then, too."""
    hire(api, "q1", firstName="Bob", email=None, title="Boss")
    pushed = push(rig, ADA)
    assert (pushed.statuses, api.applied) == ({2: "rejected"}, [])
    assert "two people behind one contact" in (pushed.messages[2] or "")
    assert push(rig, ADA, allow_shared_contact=True).statuses == {2: "updated"}
    assert rig.images(2)["q1"].before["title"] == "Boss"


@pytest.mark.parametrize("died", ["crash before", "crash after"])
@pytest.mark.parametrize("at", [0, 1])
def test_a_kill_between_meeting_and_changing_changes_once(
    rig: Rig, api: FakeApi, died: str, at: int
):
    """In the creation, which does nothing, or in the update; a recruiter's later edit stands."""
    hire(api, "q1", title="Boss")
    api.clock.advance(60)  # before our first try, beyond doubt
    api.fate = lambda n: died if n == at else "ok"
    with pytest.raises(Crash):
        push(rig, ADA)
    push(rig, ADA)
    assert [each.payload["title"] for each in api.applied] == ["Agent"]
    api.edit("q1", title="Recruiter's")
    push(rig, ADA)
    assert (api.prospects["q1"]["title"], len(api.prospects)) == ("Recruiter's", 1)


def test_labels_to_add_are_the_labels_of_a_person_created(rig: Rig, api: FakeApi):
    """There are none to remove; what is never written isn't written at first either."""
    row = {**ADA, "labels_add": ["a"], "labels_remove": ["b"]}
    push(rig, row, rules=MergeRules(policy={"company": "never"}))
    (person,) = api.prospects.values()
    assert person["labels"] == ["a"]
    assert not {"labels_add", "labels_remove", "company"} & person.keys()
