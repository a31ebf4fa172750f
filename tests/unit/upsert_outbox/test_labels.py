"""Labels to add and to remove, on an API that replaces labels and on one that merges them."""

from __future__ import annotations

import random

import pytest

from connector.upsert.outbox.outbox import Outbox
from tests.pushes.fake_api import FakeApi
from tests.pushes.rig import SCOPE, Rig
from tests.unit.upsert_outbox.test_merging_pushes import ADA, hire, pull, push

_STALE_S = 1_000


@pytest.fixture(params=[False, True], ids=["replaces", "merges"])
def api(api: FakeApi, request: pytest.FixtureRequest) -> FakeApi:
    api.merges_labels = request.param
    return api


def labels(api: FakeApi) -> set[str]:
    return set(api.prospects["q1"]["labels"])


def learnt(rig: Rig) -> str | None:
    return Outbox(rig.database, SCOPE, rig.steady).learnt().get("labels sent")


def test_labels_that_are_added_leave_the_others_alone(rig: Rig, api: FakeApi):
    """Whether the API merges isn't known, and can't be learnt from it: all are sent."""
    hire(api, "q1", labels=["vip"])
    assert push(rig, {**ADA, "labels_add": ["new"]}).statuses == {2: "updated"}
    assert (labels(api), learnt(rig)) == ({"vip", "new"}, None)
    assert push(rig, {**ADA, "labels_add": ["new"]}).statuses == {2: "unchanged"}


def test_labels_that_are_shown_as_text_are_as_many_labels(rig: Rig, api: FakeApi):
    """The API takes them separated by commas, so it may answer so: what was set by hand stays."""
    hire(api, "q1", labels=["vip", "by hand"])
    api.shows_labels_as_text = True
    assert push(rig, {**ADA, "labels_add": ["new"]}).statuses == {2: "updated"}
    assert labels(api) == {"vip", "by hand", "new"}
    assert push(rig, {**ADA, "labels_add": ["new"]}).statuses == {2: "unchanged"}
    removed = push(rig, {**ADA, "labels_add": ["new"], "labels_remove": ["vip"]})
    assert labels(api) == {"by hand", "new"} | ({"vip"} if api.merges_labels else set())
    assert removed.statuses == {2: "failed" if api.merges_labels else "updated"}


def test_removing_a_label_shows_what_the_api_does(rig: Rig, api: FakeApi):
    """Where it merges, the label stays: the row has failed, and is rejected from then on, at no
    request that changes anything; nothing else of it gets lost."""
    hire(api, "q1", labels=["vip", "old"])
    row = {**ADA, "labels_remove": ["old"], "title": "Broker"}
    first = push(rig, row)
    again = push(rig, row)
    assert api.prospects["q1"]["title"] == "Broker"
    if api.merges_labels:
        assert (first.statuses, again.statuses) == ({2: "failed"}, {2: "rejected"})
        assert "only adds labels" in (first.messages[2] or "")
        assert (labels(api), learnt(rig)) == ({"vip", "old"}, "merged")
    else:
        assert (first.statuses, again.statuses) == ({2: "updated"}, {2: "unchanged"})
        assert (labels(api), learnt(rig)) == ({"vip"}, "replaced")
    assert api.posts == 2  # with the one that met them


def test_labels_mean_exactly_these(rig: Rig, api: FakeApi):
    """Where others would have to go and can't, the row says so."""
    hire(api, "q1", labels=["vip"])
    pushed = push(rig, {**ADA, "labels": ["a"]})
    if api.merges_labels:
        assert (pushed.statuses, labels(api)) == ({2: "failed"}, {"vip", "a"})
    else:
        assert (pushed.statuses, labels(api)) == ({2: "updated"}, {"a"})


def test_a_copy_without_labels_is_not_enough_to_edit_them(rig: Rig, api: FakeApi):
    """However fresh it is, the person is looked up."""
    hire(api, "q1")
    pull(rig, api)
    api.edit("q1", labels=["vip"])
    assert push(rig, {**ADA, "labels_add": ["new"]}).statuses == {2: "updated"}
    assert (labels(api), api.gets) == ({"vip", "new"}, 1)


def test_labels_set_by_hand_survive_many_pushes(rig: Rig, api: FakeApi):
    """Random labels are added and removed by a file while recruiters add and remove their own."""
    chance, hands = random.Random(16), {"h0"}
    hire(api, "q1", labels=["h0"])
    pull(rig, api)
    for number in range(20):
        api.clock.advance(_STALE_S)
        if chance.random() < 0.5:
            hands ^= {f"h{chance.randrange(4)}"}
            others = [label for label in api.prospects["q1"]["labels"] if label[0] != "h"]
            api.edit("q1", labels=[*others, *sorted(hands)])
        adds, removes = (chance.sample(["a", "b", "c", "d"], 2) for _ in range(2))
        row = {**ADA, "title": f"T{number}", "labels_add": adds}
        if chance.random() < 0.5:
            row["labels_remove"] = [each for each in removes if each not in adds]
        if chance.random() < 0.3:
            pull(rig, api)
        push(rig, row)
        assert {label for label in labels(api) if label[0] == "h"} == hands


def test_a_label_set_by_hand_a_moment_ago_survives(rig: Rig, api: FakeApi):
    """However fresh the copy is: where the API replaces labels, all of them are sent."""
    hire(api, "q1", labels=["vip"])
    pull(rig, api)
    api.edit("q1", labels=["vip", "by hand"])
    push(rig, {**ADA, "labels_add": ["new"]})
    assert labels(api) == {"vip", "by hand", "new"}
