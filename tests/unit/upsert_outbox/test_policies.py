"""How fields may be written: filled where they are empty, never, labels next to others' labels."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from connector.upsert.outbox.merge import MergeRules
from tests.pushes.fake_api import FakeApi
from tests.pushes.rig import Rig
from tests.unit.upsert_outbox.test_merging_pushes import ADA, CopiedPeople, hire, pull, push

FILL = MergeRules(default_policy="fill_empty")
HOUR_S = 3600.0


class PartlyCopied(CopiedPeople):
    """A pull that leaves out columns, and people."""

    def __init__(
        self, api: FakeApi, hidden: Collection[str], missing: Collection[str] = ()
    ) -> None:
        super().__init__(api)
        self._people = {
            id_: each._replace(fields=_without(each.fields, hidden))
            for id_, each in self._people.items()
            if id_ not in missing
        }


def _without(fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def pull_partly(rig: Rig, api: FakeApi, *hidden: str, missing: Collection[str] = ()) -> None:
    api.clock.advance(1)
    rig.pulled = PartlyCopied(api, hidden, missing)
    api.clock.advance(1)


def test_fill_empty_fills_what_is_empty_and_keeps_what_is_there(rig: Rig, api: FakeApi):
    """What the copy shows to be there costs no request, and is reported once; what it shows to be
    empty is looked at, and filled."""
    hire(api, "p1", title=None, company="Lloyd's")
    pull(rig, api)
    api.clock.advance(HOUR_S)
    pushed = push(rig, ADA, rules=FILL)
    assert pushed.statuses == {2: "updated"}
    assert api.applied[-1].payload.keys() == {"firstName", "lastName", "email", "title", "update"}
    assert "company" in (pushed.messages[2] or "")
    assert (api.prospects["p1"]["title"], api.prospects["p1"]["company"]) == ("Agent", "Lloyd's")
    assert push(rig, ADA, rules=FILL).statuses == {2: "unchanged"}
    assert api.posts == 1


@pytest.mark.parametrize("value", ["Broker", None, ""])
def test_a_hidden_field_is_looked_at_before_it_is_filled(rig: Rig, api: FakeApi, value: Any):
    """The pull has never read it: one look-up shows it, also for a copy that is fresh."""
    hire(api, "p1", title=value)
    pull_partly(rig, api, "title")
    pushed = push(rig, ADA, rules=FILL)
    assert api.prospects["p1"]["title"] == (value or "Agent")
    assert (pushed.statuses[2], api.posts) == (("unchanged", 0) if value else ("updated", 1))
    posts = api.posts
    assert push(rig, ADA, rules=FILL).statuses == {2: "unchanged"}
    assert api.posts == posts


def test_look_ups_for_empty_fields_are_limited(rig: Rig, api: FakeApi):
    """The rest is left out and reported; its other fields are sent."""
    rows = []
    for number in range(6):
        own = {"email": f"a{number}@x.org", "phone": f"+1415555{2000 + number}"}
        hire(api, f"p{number}", **own, title=None)
        rows.append({**ADA, **own})
    pull_partly(rig, api, "title")
    rows[5]["company"] = "Lloyd's"
    rules = replace(FILL, policy={"company": "overwrite"})
    pushed = push(rig, *rows, rules=rules, lookups=2)
    assert [pushed.statuses[number] for number in range(2, 8)] == [
        *["updated"] * 2, *["unchanged"] * 3, "updated",
    ]  # fmt: skip
    assert [api.prospects[f"p{number}"]["title"] for number in range(6)] == [
        *["Agent"] * 2, *[None] * 4,
    ]  # fmt: skip
    assert api.prospects["p5"]["company"] == "Lloyd's"
    for number in (4, 5, 6, 7):
        assert "isn't known: title" in (pushed.messages[number] or "")


def test_fields_that_cannot_be_read_are_left_out_without_a_look(rig: Rig, api: FakeApi):
    """`notes` adds a note each time, so no one is looked up for it."""
    hire(api, "p1")
    pull(rig, api)
    pushed = push(rig, {**ADA, "notes": "Met in May"}, rules=FILL)
    assert (pushed.statuses, api.posts) == ({2: "unchanged"}, 0)
    assert "isn't known: notes" in (pushed.messages[2] or "")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_fill_empty_changes_no_value_that_was_there(rig: Rig, api: FakeApi, seed: int):
    """People with a copy an hour old, of which columns and people are missing, and whom recruiters
    have edited since."""
    chance = random.Random(seed)
    names = ("title", "company", "phone", "labels", "city")
    rows = []
    for number in range(60):
        row = {**ADA, "firstName": f"Ada{number}", "email": f"a{number}@x.org"}
        row |= {"phone": f"+1415555{2000 + number}", "labels": ["New"], "city": "Rome"}
        rows.append(row)
        theirs = {name: chance.choice([None, "", row[name], f"own {number}"]) for name in names}
        theirs["labels"] = chance.choice([[], ["Hand"], ["New"]])
        theirs["phone"] = chance.choice([None, f"+1212555{2000 + number}", row["phone"]])
        hire(api, f"p{number}", **{**row, **theirs})
    missing = {f"p{number}" for number in range(0, 60, 7)}
    pull_partly(rig, api, "title", "city", missing=missing)
    for number in range(60):
        if chance.random() < 0.3:
            api.edit(f"p{number}", **{chance.choice(["title", "company"]): f"edit {number}"})
    api.clock.advance(HOUR_S)
    before = {id_: dict(fields) for id_, fields in api.prospects.items()}
    for lookups in (10, 500):
        push(rig, *rows, rules=FILL, lookups=lookups)
        for id_, fields in before.items():
            there = {name: value for name, value in fields.items() if value not in (None, "", [])}
            del there["updatedAt"]
            now = api.prospects[id_]
            assert {name: now[name] for name in there} == there
    assert len(api.prospects) == 60
    filled = [api.prospects[id_] for id_, fields in before.items() if not fields["company"]]
    assert all(each["company"] for each in filled)


def test_a_field_with_the_policy_never_is_not_sent(rig: Rig, api: FakeApi):
    """Neither changed nor given to a person who is created."""
    hire(api, "h1", title="Broker")
    pull(rig, api)
    rules = MergeRules(policy={"title": "never"})
    new = {**ADA, "firstName": "Bo", "email": "bo@x.org", "phone": "+12125550123"}
    pushed = push(rig, ADA, new, rules=rules)
    assert pushed.statuses == {2: "unchanged", 3: "created"}
    assert "title" not in api.applied[-1].payload
    assert api.prospects["h1"]["title"] == "Broker"


@pytest.mark.parametrize(("merges", "seed"), [(False, 1), (True, 2)], ids=["replaces", "merges"])
def test_labels_set_by_hand_survive_pushes_of_labels_to_add(
    rig: Rig, api: FakeApi, merges: bool, seed: int
):
    """Twenty pushes of a file whose labels change, between recruiters who add and take off labels
    of their own: those stay as they leave them, on an API that replaces labels and on one that
    merges them."""
    api.merges_labels = merges
    chance, by_hand = random.Random(seed), {f"p{number}": set[str]() for number in range(4)}
    rows: list[dict[str, Any]] = []
    for number in range(4):
        own = {"firstName": f"Ada{number}", "email": f"a{number}@x.org"}
        own["phone"] = f"+1415555{2000 + number}"
        hire(api, f"p{number}", **own, labels=[])
        rows.append({**ADA, **own, "labels_add": ["Fair"]})
    pull(rig, api)
    for turn in range(20):
        id_ = chance.choice(sorted(by_hand))
        if by_hand[id_] and chance.random() < 0.3:
            by_hand[id_].remove(chance.choice(sorted(by_hand[id_])))
        else:
            by_hand[id_].add(f"Hand {turn}")
        theirs = [each for each in api.prospects[id_]["labels"] if not each.startswith("Hand")]
        api.edit(id_, labels=[*theirs, *sorted(by_hand[id_])])
        if chance.random() < 0.4:
            rows[chance.randrange(4)]["labels_add"] = [f"File {chance.randrange(5)}", "Fair"]
        if chance.random() < 0.3:
            pull(rig, api)
        api.clock.advance(chance.choice([1, 1200]))
        push(rig, *rows)
        for each, labels in by_hand.items():
            shown = {label for label in api.prospects[each]["labels"] if label.startswith("Hand")}
            assert shown == labels, turn
    for number, row in enumerate(rows):
        assert set(row["labels_add"]) <= set(api.prospects[f"p{number}"]["labels"])


def test_a_label_that_was_taken_off_by_hand_stays_off(rig: Rig, api: FakeApi):
    """Until the file names another one, which alone is added."""
    hire(api, "p1", labels=["A"])
    pull(rig, api)
    row = {**ADA, "labels_add": ["B"]}
    push(rig, row)
    api.edit("p1", labels=["A"])
    assert push(rig, row).statuses == {2: "unchanged"}
    push(rig, {**ADA, "labels_add": ["B", "C"]})
    assert api.prospects["p1"]["labels"] == ["A", "C"]
