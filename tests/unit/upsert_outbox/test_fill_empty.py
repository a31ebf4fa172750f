"""Fields that are only filled where they are empty: no value that was there is ever replaced."""

from __future__ import annotations

from typing import Any

import pytest

from connector.upsert.looking import ProspectScan
from connector.upsert.outbox.merge import MergeRules
from tests.pushes.fake_api import FakeApi
from tests.pushes.rig import Rig
from tests.unit.upsert_outbox.test_merging_pushes import ADA, CopiedPeople, hire, pull, push
from tests.unit.upsert_outbox.test_reads import person

FILL = MergeRules(default_policy="fill_empty")
FILL_CITY = MergeRules(policy={"city": "fill_empty"})
_STALE_S = 1_000


def hire_some(api: FakeApi, count: int, **fields: Any) -> list[dict[str, str]]:
    rows = [person(number) for number in range(count)]
    for number, row in enumerate(rows):
        hire(api, f"q{number}", **row, **fields)
    return rows


def fill(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**row, "city": "Rome"} for row in rows]


def cities(api: FakeApi) -> list[Any]:
    return [each.get("city") for each in api.prospects.values()]


def without(copy: CopiedPeople, *hidden: str) -> CopiedPeople:
    """A copy whose columns are hashed, excluded, or were never pulled."""
    for id_, each in copy._people.items():
        fields = {name: value for name, value in each.fields.items() if name not in hidden}
        copy._people[id_] = each._replace(fields=fields)
    return copy


def test_what_a_fresh_copy_shows_to_be_empty_is_filled_without_a_look(rig: Rig, api: FakeApi):
    """And what it shows to be there is kept, reported, and settled."""
    rows = hire_some(api, 2)
    api.prospects["q0"]["title"] = api.prospects["q1"]["title"] = ""
    api.edit("q1", title="Boss")
    pull(rig, api)
    pushed = push(rig, *[{**row, "title": "Agent"} for row in rows], rules=FILL)
    assert (pushed.statuses, api.gets) == ({2: "updated", 3: "unchanged"}, 0)
    assert "title" in (pushed.messages[3] or "")
    assert [each["title"] for each in api.prospects.values()] == ["Agent", "Boss"]


def test_an_old_copy_is_not_enough(rig: Rig, api: FakeApi):
    """A recruiter has filled the field since: the look-up shows it."""
    rows = hire_some(api, 2, city="")
    pull(rig, api)
    push(rig, *rows)
    api.clock.advance(_STALE_S)
    api.edit("q1", city="Bern")
    push(rig, *fill(rows), rules=FILL_CITY)
    assert (cities(api), api.posts, api.gets) == (["Rome", "Bern"], 1, 2)


def test_what_was_never_read_counts_as_unknown_not_as_empty(rig: Rig, api: FakeApi):
    """Excluded, hashed and never pulled: the person is looked up, however fresh the copy; what was
    there stays."""
    rows = hire_some(api, 4)
    for id_, city in (("q0", "Bern"), ("q1", None), ("q2", "")):
        api.prospects[id_]["city"] = city
    pull(rig, api)
    rig.pulled = without(rig.pulled, "city")  # type: ignore[arg-type]
    pushed = push(rig, *fill(rows), rules=FILL_CITY)
    assert cities(api) == ["Bern", "Rome", "Rome", None]
    assert pushed.statuses == {2: "unchanged", 3: "updated", 4: "updated", 5: "unchanged"}
    assert "left out, since whether they are empty isn't known: city" in (pushed.messages[5] or "")
    assert api.gets == 4


def test_only_so_many_are_looked_up_and_the_rest_is_reported(rig: Rig, api: FakeApi):
    """The other changes of a row go out all the same; those look-ups aren't counted."""
    rows = hire_some(api, 6, city="")
    pull(rig, api)
    push(rig, *rows)
    api.clock.advance(_STALE_S)
    asked = fill(rows)
    asked[5] = {**asked[5], "title": "Broker"}
    pushed = push(rig, *asked, rules=FILL_CITY, lookups=2)
    assert (cities(api).count("Rome"), api.gets, api.posts) == (3, 3, 3)
    assert api.prospects["q5"]["title"] == "Broker"
    left = [number for number, each in pushed.messages.items() if "left out" in (each or "")]
    assert left == [4, 5, 6]
    assert {pushed.statuses[number] for number in left} == {"unchanged"}
    push(rig, *asked, rules=FILL_CITY)
    assert cities(api) == ["Rome"] * 6


def test_a_fresh_row_is_sent_without_unknown_fields(rig: Rig, api: FakeApi):
    """No look-up is left: the field is left out, and the rest is sent by the copy."""
    rows = hire_some(api, 2, city="")
    pull(rig, api)
    rig.pulled = without(rig.pulled, "city")  # type: ignore[arg-type]
    asked = [{**row, "title": "Broker"} for row in fill(rows)]
    pushed = push(rig, *asked, rules=FILL_CITY, lookups=1)
    assert (api.gets, api.posts, cities(api)) == (1, 2, ["Rome", ""])
    assert {each["title"] for each in api.prospects.values()} == {"Broker"}
    assert "left out" in (pushed.messages[3] or "")


@pytest.mark.parametrize("whole", [True, False])
def test_one_scan_finds_the_empty_fields_of_all_people(rig: Rig, api: FakeApi, whole: bool):
    """It takes no more requests than look-ups are allowed; one that fails leaves these."""
    rows = hire_some(api, 12, city="")
    api.prospects["q3"]["city"] = "Bern"
    pull(rig, api)
    rig.pulled.page_size = 5
    rig.pulled.count = lambda: 12  # type: ignore[method-assign]
    push(rig, *rows)
    api.clock.advance(_STALE_S)
    rig.scan = ProspectScan(lambda: 3, lambda: api.scan(5, is_whole=whole))
    pushed = push(rig, *fill(rows), rules=FILL_CITY, lookups=4)
    assert cities(api)[3] == "Bern"
    assert (api.pages, api.gets) == ((3, 0) if whole else (3, 4))
    assert cities(api).count("Rome") == (11 if whole else 4)
    assert set(pushed.statuses.values()) == {"updated", "unchanged"}


def test_a_person_created_or_met_is_filled_as_they_are(rig: Rig, api: FakeApi):
    """A new person gets all that the row says; of a person met, what is empty."""
    hire(api, "q1", title="Boss", company="")
    pushed = push(rig, {**ADA, "title": "Agent", "company": "Acme"}, person(7), rules=FILL)
    assert pushed.statuses == {2: "updated", 3: "created"}
    assert (api.prospects["q1"]["title"], api.prospects["q1"]["company"]) == ("Boss", "Acme")


def test_no_one_is_looked_up_for_what_cannot_be_read(rig: Rig, api: FakeApi):
    """Each write of `notes` adds one, so none shows whether there are any."""
    (row,) = hire_some(api, 1)
    pull(rig, api)
    pushed = push(rig, {**row, "notes": "met"}, rules=FILL)
    assert (pushed.statuses, api.gets, api.posts) == ({2: "unchanged"}, 0, 0)
    assert "left out" in (pushed.messages[2] or "")


@pytest.mark.parametrize("scans", [False, True])
def test_who_was_looked_at_in_vain_isnt_looked_at_again(rig: Rig, api: FakeApi, scans: bool):
    """A field that HiringCenter doesn't show can't be filled: that is found out once, also with a
    field that is filled. Whoever changes since, in the file or in HiringCenter, is looked at once
    more; so are those for whom no look-up was left."""
    rows = fill(hire_some(api, 6))
    api.prospects["q0"]["title"] = ""
    pull(rig, api)
    if scans:
        rig.scan = ProspectScan(lambda: 2, lambda: api.scan(5, is_whole=True))
    pushed = push(rig, *rows, rules=FILL, lookups=6 if scans else 4)
    assert api.prospects["q0"]["title"] == rows[0]["title"]
    assert all("left out" in (each or "") for each in pushed.messages.values())
    push(rig, *rows, rules=FILL)
    assert api.gets + api.pages == (2 if scans else 6)
    pull(rig, api)
    again = push(rig, *rows, rules=FILL)
    assert (api.gets + api.pages, api.posts) == (2 if scans else 6, 1)
    assert set(again.statuses.values()) == {"unchanged"}
    assert all("left out" in (each or "") for each in again.messages.values())
    rig.scan = None
    api.clock.advance(1)
    api.edit("q1", company="Lloyd's", city="")
    pull(rig, api)
    push(rig, *rows, rules=FILL)
    assert cities(api)[1] == "Rome"
    asked = api.gets
    push(rig, *rows[:2], {**rows[2], "city": "Oslo"}, rules=FILL)
    assert api.gets == asked + 1
