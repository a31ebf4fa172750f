"""Rows without a first or a last name: they change people who exist, and never create one."""

from __future__ import annotations

from typing import Any

import pytest

from connector.upsert.outbox.evidence import PulledProspect
from connector.upsert.outbox.merge import MergeRules
from tests.pushes.fake_api import FakeApi
from tests.pushes.rig import Rig
from tests.unit.upsert_outbox.test_merging_pushes import ADA, CopiedPeople, hire, pull, push

NAMELESS = {"firstName": "", "lastName": "", "email": ADA["email"]}
HOUR_S = 3_600
NEEDED = "a first and last name are needed to create a person"


def bodies(api: FakeApi) -> list[dict[str, Any]]:
    return [each.payload for each in api.applied]


def requests(api: FakeApi) -> tuple[int, int]:
    return api.gets, api.posts


@pytest.mark.parametrize("names", [{}, {"firstName": "Ada"}, {"lastName": "King"}])
def test_a_person_in_a_fresh_copy_is_changed_under_their_own_names(
    rig: Rig, api: FakeApi, names: dict[str, str]
):
    """One POST, no GET; the names go out as the copy shows them; then nothing is left to send."""
    hire(api, "p1")
    pull(rig, api)
    row = {**NAMELESS, **names, "title": "Broker"}
    assert push(rig, row).statuses == {2: "updated"}
    (body,) = bodies(api)
    assert (body["firstName"], body["lastName"], body["title"]) == ("Ada", "King", "Broker")
    assert push(rig, row).statuses == {2: "unchanged"}
    assert requests(api) == (0, 1)


def test_a_person_whose_copy_is_old_is_changed_under_the_names_that_a_look_shows(
    rig: Rig, api: FakeApi
):
    """One GET and one POST; a recruiter's new name goes out, not the copy's."""
    hire(api, "p1")
    pull(rig, api)
    api.clock.advance(HOUR_S)
    api.edit("p1", lastName="Lovelace")
    assert push(rig, {**NAMELESS, "title": "Broker"}).statuses == {2: "updated"}
    assert (bodies(api)[0]["lastName"], requests(api)) == ("Lovelace", (1, 1))


def test_names_that_the_copy_does_not_have_are_looked_up(rig: Rig, api: FakeApi):
    """They are excluded, or hashed: however fresh the copy is, it can't say them."""
    hire(api, "p1")
    pull(rig, api)
    copy = rig.pulled
    assert isinstance(copy, CopiedPeople)
    for name in ("firstName", "lastName"):
        del copy._people["p1"].fields[name]  # type: ignore[attr-defined]
    assert push(rig, {**NAMELESS, "title": "Broker"}).statuses == {2: "updated"}
    assert (bodies(api)[0]["firstName"], requests(api)) == ("Ada", (1, 1))


def test_a_person_created_by_an_earlier_push_is_known_without_a_copy(rig: Rig, api: FakeApi):
    """The input lost its name columns: the receipt leads to the person, and what was settled under
    their names still holds next to a recruiter's edit."""
    push(rig, ADA)
    api.edit("p1", company="Corrected")
    row = {**NAMELESS, "company": "Acme", "title": "Broker"}
    assert push(rig, row).statuses == {2: "updated"}
    assert (api.prospects["p1"]["company"], api.prospects["p1"]["title"]) == ("Corrected", "Broker")
    assert requests(api) == (1, 2)


def test_who_is_in_no_copy_and_no_ledger_is_looked_for(rig: Rig, api: FakeApi):
    """One GET finds the person, who is changed by one POST; another finds no one, and nothing is
    sent. The plan counts both as looks."""
    hire(api, "p1")
    rows = [{**NAMELESS, "title": "Broker"}, {**NAMELESS, "email": "nobody@x.org"}]
    assert push(rig, *rows, dry_run=True).plan.looks == 2
    assert requests(api) == (0, 0)
    pushed = push(rig, *rows)
    assert pushed.statuses == {2: "updated", 3: "rejected"}
    assert NEEDED in (pushed.messages[3] or "")
    assert [reject.row_number for reject in pushed.rejects] == [3]
    assert requests(api) == (2, 1)
    assert list(api.prospects) == ["p1"]


def test_who_is_not_in_a_fresh_copy_is_rejected_at_no_request(rig: Rig, api: FakeApi):
    """The plan knows; in an old copy it doesn't, and looks."""
    hire(api, "p1")
    pull(rig, api)
    row = {**NAMELESS, "email": "nobody@x.org"}
    pushed = push(rig, row)
    assert (pushed.statuses, requests(api)) == ({2: "rejected"}, (0, 0))
    assert NEEDED in (pushed.messages[2] or "")
    assert (pushed.plan.looks, pushed.plan.would_create) == (0, 0)
    api.clock.advance(HOUR_S)
    looked = push(rig, row)
    assert (looked.statuses, requests(api)) == ({2: "rejected"}, (1, 0))
    assert (looked.plan.looks, looked.plan.would_create) == (1, 0)


def test_a_fresh_copy_without_emails_can_not_tell(rig: Rig, api: FakeApi):
    """They are hashed: the person is looked for."""
    pull(rig, api)
    hire(api, "p1")
    rig.pulled.contacts = ("phone",)
    assert push(rig, {**NAMELESS, "title": "Broker"}).statuses == {2: "updated"}


def test_no_more_people_are_looked_for_than_lookups_allows(rig: Rig, api: FakeApi):
    """The rest is rejected, and says so."""
    hire(api, "p1")
    rows = [{**NAMELESS, "email": "one@x.org"}, {**NAMELESS, "title": "Broker"}]
    pushed = push(rig, *rows, lookups=1)
    assert (pushed.statuses, requests(api)) == ({2: "rejected", 3: "rejected"}, (1, 0))
    assert "raise --lookups" in (pushed.messages[3] or "")


def test_without_recheck_names_must_be_known(rig: Rig, api: FakeApi):
    """Neither an unknown person nor a known one whose names no one has read is sent."""
    push(rig, ADA)
    rows = [{**NAMELESS, "title": "Broker"}, {**NAMELESS, "email": "nobody@x.org"}]
    pushed = push(rig, *rows, rechecks=False)
    assert (pushed.statuses, requests(api)) == ({2: "rejected", 3: "rejected"}, (0, 1))
    assert all("--no-recheck" in (message or "") for message in pushed.messages.values())
    pull(rig, api)
    api.clock.advance(HOUR_S)
    assert push(rig, rows[0], rechecks=False).statuses == {2: "updated"}
    assert requests(api) == (0, 2)


def test_a_deleted_person_is_not_created_again_without_names(rig: Rig, api: FakeApi):
    """Neither where the copy shows it, at no request, nor where the look does."""
    push(rig, ADA)
    row = {**NAMELESS, "title": "Broker"}
    gone = api.prospects.pop("p1")
    looked = push(rig, row)
    assert (looked.statuses, api.posts) == ({2: "rejected"}, 1)
    assert f"deleted in HiringCenter, and {NEEDED}" in (looked.messages[2] or "")
    api.prospects["p1"] = gone
    push(rig, ADA)
    del api.prospects["p1"]
    pull(rig, api)
    before = requests(api)
    planned = push(rig, row)
    assert (planned.statuses, requests(api)) == ({2: "rejected"}, before)
    assert NEEDED in (planned.messages[2] or "")
    restored = push(rig, row, rules=MergeRules(restore=True))
    assert (restored.statuses, requests(api)) == ({2: "rejected"}, before)


@pytest.mark.parametrize("is_pulled", [True, False])
def test_contacts_that_lead_to_two_people_are_rejected(rig: Rig, api: FakeApi, *, is_pulled: bool):
    """One contact of both, or one of each: no first name says who is meant. Copy or look."""
    hire(api, "p1")
    hire(api, "p2", firstName="Bob", email="bob@x.org", phone=None)
    hire(api, "p3", firstName="Cyd", email="bob@x.org", phone="+14155550103")
    if is_pulled:
        pull(rig, api)
    rows = [
        {**NAMELESS, "email": "bob@x.org", "title": "Broker"},
        {**NAMELESS, "phone": "+14155550103", "title": "Broker"},
    ]
    reasons = ["no first name to tell apart", "two different" if is_pulled else "no first name"]
    for row, reason in zip(rows, reasons, strict=True):
        pushed = push(rig, row)
        assert pushed.statuses == {2: "rejected"}
        assert reason in (pushed.messages[2] or "")
    assert api.posts == 0
    assert (api.gets == 0) is is_pulled


def test_both_contacts_of_one_person_are_theirs_alone(rig: Rig, api: FakeApi):
    """Found by either, and changed."""
    hire(api, "p1")
    row = {**NAMELESS, "phone": ADA["phone"], "title": "Broker"}
    assert push(rig, row).statuses == {2: "updated"}
    assert requests(api) == (1, 1)


def test_a_row_that_follows_the_creation_of_its_person_changes_them(rig: Rig, api: FakeApi):
    """Rows of one person go out in file order; another row's names create them."""
    rows = [{**ADA, "email": "new@x.org"}, {**NAMELESS, "email": "new@x.org", "title": "Broker"}]
    assert push(rig, *rows).statuses == {2: "created", 3: "updated"}
    (person,) = api.prospects.values()
    assert (person["title"], person["firstName"]) == ("Broker", "Ada")


def test_the_name_of_an_entry_outlives_rows_without_one(rig: Rig, api: FakeApi):
    """Its row comes back with names and another contact: it would create another person."""
    push(rig, ADA)
    push(rig, {**NAMELESS, "title": "Broker"})
    moved = {**ADA, "email": "other@x.org", "phone": "+14155550199"}
    pushed = push(rig, moved)
    assert pushed.statuses == {2: "rejected"}
    assert "contact changed?" in (pushed.messages[2] or "")


def test_rows_without_names_are_no_ones_namesakes(rig: Rig, api: FakeApi):
    """One that left the input doesn't stand in the way of another."""
    hire(api, "p1")
    hire(api, "p2", email="bob@x.org", phone=None)
    push(rig, NAMELESS)
    assert push(rig, {**NAMELESS, "email": "bob@x.org", "title": "Broker"}).statuses == {
        2: "updated"
    }


def test_a_person_without_a_last_name_is_as_the_row_says(rig: Rig, api: FakeApi):
    """HiringCenter has none either: unchanged, and changed elsewhere without one."""
    hire(api, "p1", lastName=None)
    pull(rig, api)
    row = {**NAMELESS, "firstName": "Ada", "title": "Agent"}
    assert push(rig, row).statuses == {2: "unchanged"}
    assert push(rig, {**row, "title": "Broker"}).statuses == {2: "updated"}
    assert "lastName" not in bodies(api)[0]


def test_update_only_looks_up_every_person(rig: Rig, api: FakeApi):
    """As it does for rows with names."""
    hire(api, "p1")
    rows = [{**NAMELESS, "title": "Broker"}, {**NAMELESS, "email": "nobody@x.org"}]
    pushed = push(rig, *rows, mode="update-only", lookups=0)
    assert pushed.statuses == {2: "updated", 3: "rejected"}


def test_a_tombstone_is_not_matched_by_a_nameless_row(rig: Rig, api: FakeApi):
    """A tombstone in the copy has the contact: the row is rejected, not sent to it."""
    hire(api, "p1")
    pull(rig, api)
    copy = rig.pulled
    assert isinstance(copy, CopiedPeople)
    push(rig, NAMELESS)
    copy._people["p1"] = PulledProspect("p1", None, api.now_ms(), {})
    del api.prospects["p1"]
    pushed = push(rig, {**NAMELESS, "title": "Broker"})
    assert (pushed.statuses, api.posts) == ({2: "rejected"}, 0)
