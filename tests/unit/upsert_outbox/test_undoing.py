"""Undoing over the real planner, outbox and sender: what comes back, and what can't."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from connector.upsert.outbox.outbox import Outbox
from connector.upsert.outbox.receipts import RowResult
from connector.upsert.undoing import BeforeImages, UndoPlan, plan_undo
from tests.pushes.fake_api import Crash, FakeApi
from tests.pushes.rig import SCOPE, UNDO_KEY, Pushed, Rig
from tests.unit.upsert_outbox.test_merging_pushes import ADA, hire, push

NOBODY = Pushed(None)  # type: ignore[arg-type]
FIELDS = ("title", "company", "phone")


def plan(rig: Rig, run: int, *, force: bool = False) -> UndoPlan:
    """How the next run would undo the nth."""
    outbox = Outbox(rig.database, SCOPE, rig.steady)
    merges = outbox.learnt().get("labels sent") == "merged"
    with rig.database.read() as connection:
        return plan_undo(
            connection, outbox, BeforeImages(SCOPE, UNDO_KEY), undoes=f"run-{run:04}",
            run_id=f"run-{rig.pushes + 1:04}", force=force, labels_merge=merges,
        )  # fmt: skip


def undo(rig: Rig, run: int) -> tuple[Pushed, list[RowResult]]:
    """What an undo sends, and what it lists."""
    rig.api.clock.advance(1)
    planned = plan(rig, run)
    sent = rig.send(*planned.writes, aliases=False) if planned.writes else NOBODY
    return sent, planned.listed


def until_done(work: Callable[[], object]) -> None:
    """Killed, it is run again."""
    for _ in range(9):
        try:
            work()
        except Crash:
            continue
        return
    raise AssertionError("killed every time")


@pytest.mark.parametrize("seed", range(6))
def test_undoing_all_pushes_leaves_the_edits_of_recruiters(rig: Rig, api: FakeApi, seed: int):
    """Whatever was pushed, edited and killed, in whatever order: undone from the last push to the
    first, each field has what a recruiter gave it last."""
    chance = random.Random(seed)
    ids, value = [f"p{n}" for n in range(3)], iter(range(1_000))
    for id_ in ids:
        hire(api, id_, email=f"{id_}@x.org", phone=f"+1415555{next(value):04}")
    wanted = {id_: {name: api.prospects[id_].get(name) for name in FIELDS} for id_ in ids}

    def new(name: str) -> str:
        return f"+1212555{next(value):04}" if name == "phone" else f"{name} {next(value)}"

    rows = {id_: {**ADA, "email": f"{id_}@x.org", "phone": None} for id_ in ids}
    for row in rows.values():
        del row["phone"]
    for number in range(chance.randrange(2, 7)):
        if number and chance.random() < 0.5:
            id_, name = chance.choice(ids), chance.choice(FIELDS)
            wanted[id_][name] = new(name)
            api.edit(id_, **{name: wanted[id_][name]})
            continue
        for id_ in chance.sample(ids, 2):
            name = chance.choice(FIELDS)
            rows[id_][name] = new(name)
        _kill_some(api, chance)
        until_done(lambda: push(rig, *rows.values()))
    _kill_some(api, chance)
    for run in range(rig.pushes, 0, -1):
        until_done(lambda run=run: undo(rig, run))
    found = {id_: {name: api.prospects[id_].get(name) for name in FIELDS} for id_ in ids}
    assert found == wanted
    api.fate = lambda _: "ok"
    posts = api.posts
    push(rig, *rows.values())
    assert api.posts == posts


def _kill_some(api: FakeApi, chance: random.Random) -> None:
    fates = {api.posts + n: chance.choice(["ok", "crash before", "crash after"]) for n in range(4)}
    api.fate = lambda n: fates.get(n, "ok")


@pytest.mark.parametrize("merges", [False, True])
def test_labels_are_taken_off_where_the_api_replaces_them(rig: Rig, api: FakeApi, merges: bool):
    """Where it merges, that is found out by the first undo, and listed by the next."""
    api.merges_labels = merges
    for id_ in ("p1", "p2"):
        hire(api, id_, email=f"{id_}@x.org", phone=None, labels=["old"])
    says: dict[str, Any] = {**ADA, "labels": ["new", "old"]}
    del says["phone"]
    for id_ in ("p1", "p2"):
        push(rig, {**says, "email": f"{id_}@x.org"}, source=id_)
    first, _ = undo(rig, 1)
    second, listed = undo(rig, 2)
    if merges:
        assert first.statuses == {2: "failed"}
        assert "only adds labels" in (first.messages[2] or "")
        assert second is NOBODY
        assert [(each.row_number, each.prospect_id) for each in listed] == [(2, "p2")]
    else:
        assert first.statuses == second.statuses == {2: "updated"}
        assert [api.prospects[id_]["labels"] for id_ in ("p1", "p2")] == [["old"], ["old"]]


def test_what_the_api_makes_of_what_is_put_back_is_compared(rig: Rig, api: FakeApi):
    """It has dropped the phone that was put back: the row says so, and counts as failed."""
    hire(api, "p1")
    push(rig, {**ADA, "phone": "+14155550109"})
    api.drops_phones = True
    sent, _ = undo(rig, 1)
    assert sent.statuses == {2: "failed"}
    assert "phone of prospect p1 can't be put back" in (sent.messages[2] or "")


def test_a_write_that_was_settled_later_counts_for_its_own_run(rig: Rig, api: FakeApi):
    """Killed before its request: the next run of any kind sends it, and it counts for its own."""
    hire(api, "q1")
    api.fate = lambda n: "crash before" if n == 1 else "ok"
    with pytest.raises(Crash):
        push(rig, {**ADA, "title": "Broker"})
    api.fate = lambda _: "ok"
    push(rig, {"email": "new@x.org"}, source="other.csv")
    assert api.prospects["q1"]["title"] == "Broker"
    sent, _ = undo(rig, 1)
    assert (sent.statuses, api.prospects["q1"]["title"]) == ({2: "updated"}, "Agent")


def test_a_known_person_was_updated_whatever_the_answer_calls_it(rig: Rig, api: FakeApi):
    """It says 201 of the very prospect that was to be changed: they can be put back."""
    api.says_created = True
    hire(api, "q1")
    push(rig, ADA)
    assert push(rig, {**ADA, "title": "Broker"}).statuses == {2: "updated"}
    sent, listed = undo(rig, 2)
    assert (sent.statuses, listed) == ({2: "updated"}, [])
    assert api.prospects["q1"]["title"] == "Agent"


def test_an_undo_names_what_was_uncertain_though_something_newer_was_accepted(
    rig: Rig, api: FakeApi
):
    """Whether the run had changed the person never became known."""
    rig.key_memory_s = api.keys_ttl_s = 60
    hire(api, "q1")
    push(rig, ADA)
    first = api.posts
    api.fate = lambda n: "crash after" if n == first else "ok"
    with pytest.raises(Crash):
        push(rig, {**ADA, "title": "Broker"})
    api.edit("q1", title="Edited")
    api.clock.advance(3_600)
    assert push(rig, {**ADA, "title": "Broker"}).statuses == {2: "failed"}
    assert push(rig, {**ADA, "title": "Newer"}).statuses == {2: "updated"}
    sent, _ = undo(rig, 2)
    assert sent.statuses == {2: "failed"}
    assert (sent.messages[2] or "").startswith("conflict: title of prospect q1 changed")
    assert api.prospects["q1"]["title"] == "Newer"


@pytest.mark.parametrize("died", ["crash before", "crash after"])
def test_a_killed_undo_still_names_what_it_has_left_alone(rig: Rig, api: FakeApi, died: str):
    """Part of a person was sent when it was killed; the run that resumes settles that part, and
    the row has failed all the same."""
    hire(api, "q1")
    push(rig, {**ADA, "title": "Broker", "company": "New"})
    api.edit("q1", title="Edited")
    api.fate = lambda n: died if n == 2 else "ok"
    with pytest.raises(Crash):
        undo(rig, 1)
    api.fate = lambda _: "ok"
    push(rig, {"email": "new@x.org"}, source="other.csv")
    assert (api.prospects["q1"]["title"], api.prospects["q1"]["company"]) == ("Edited", "Acme")
    (again,) = plan(rig, 1).results
    assert again.status == "failed"
    assert (again.message or "").startswith("conflict: title of prospect q1 changed")
