"""A file that is pushed every hour, beside recruiters who work in HiringCenter."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.pushes.fake_api import FakeApi
from tests.pushes.rig import Pushed, Rig
from tests.unit.upsert_outbox.test_merging_pushes import CopiedPeople

PEOPLE, HOURS, EDITS, HOUR_S = 30, 24, 50, 3600.0
EDITED = ("lastName", "title", "company", "labels", "phone")
Rows = list[dict[str, Any]]


def person(number: int) -> dict[str, Any]:
    return {
        "firstName": f"Ada{number}", "lastName": "King", "email": f"ada{number}@x.org",
        "phone": f"+1415555{1000 + number}", "title": "Agent", "company": "Acme", "labels": ["A"],
    }  # fmt: skip


def hired(api: FakeApi) -> None:
    """Everybody, as HiringCenter has them before the first push."""
    for number in range(PEOPLE):
        times = {"createdAt": api.now_ms(), "updatedAt": api.now_ms()}
        api.prospects[f"p{number}"] = {"id": f"p{number}", **person(number), **times}


def equal(row: dict[str, Any]) -> dict[str, Any]:
    return row


def partly_equal(row: dict[str, Any]) -> dict[str, Any]:
    number = int(row["firstName"].removeprefix("Ada"))
    return {**row, **({"title": "Broker"} if number % 3 == 0 else {})}


def different(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "title": "Broker", "company": "Lloyd's", "labels": ["B", "C"]}


def push(rig: Rig, rows: Rows, **options: Any) -> Pushed:
    rig.clock.advance(1)  # type: ignore[attr-defined]
    return rig.push([dict(row) for row in rows], **options)


def pull(rig: Rig, api: FakeApi) -> None:
    api.clock.advance(1)
    rig.pulled = CopiedPeople(api)
    api.clock.advance(1)


def edit(api: FakeApi, chance: random.Random, number: int) -> dict[tuple[str, str], Any]:
    """One recruiter's edit: (id, field) → the new value."""
    id_, name = f"p{chance.randrange(PEOPLE)}", chance.choice(EDITED)
    value: Any = f"Edit {number}"
    if name == "labels":
        value = [*api.prospects[id_]["labels"], f"Edit {number}"]
    elif name == "phone":
        value = f"+1212555{1000 + number}"
    api.edit(id_, **{name: value})
    return {(id_, name): value}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("make", [equal, partly_equal, different])
def test_every_edit_stands_and_a_changed_cell_is_sent_once(
    rig: Rig, api: FakeApi, make: Callable[[dict[str, Any]], dict[str, Any]], seed: int
):
    """Whatever the file was like at its first push: from the second on nothing is sent, whether a
    pull came in between or not, until a cell of the file changes, which touches nothing else."""
    chance, edits = random.Random(seed), dict[tuple[str, str], Any]()
    hired(api)
    pull(rig, api)
    rows = [make(person(number)) for number in range(PEOPLE)]
    push(rig, rows)
    settled, applied = api.posts, len(api.applied)
    assert settled == applied == sum(row != person(at) for at, row in enumerate(rows))
    hours = sorted(chance.randrange(HOURS) for _ in range(EDITS))
    for hour in range(HOURS):
        api.clock.advance(HOUR_S)
        for number, when in enumerate(hours):
            edits |= edit(api, chance, number) if when == hour else {}
        if chance.random() < 0.7:
            pull(rig, api)
        pushed = push(rig, rows)
        assert set(pushed.statuses.values()) == {"unchanged"}
    assert api.posts == settled
    assert all(api.prospects[id_][name] == value for (id_, name), value in edits.items())

    before = {id_: dict(fields) for id_, fields in api.prospects.items()}
    rows[7] = {**rows[7], "title": "Director"}
    assert push(rig, rows).statuses[9] == "updated"
    after = {**before["p7"], "title": "Director", "updatedAt": api.prospects["p7"]["updatedAt"]}
    assert api.prospects == {**before, "p7": after}
    assert api.posts == settled + 1
    assert set(push(rig, rows).statuses.values()) == {"unchanged"}
    assert api.posts == settled + 1


@pytest.mark.parametrize("pulls", [True, False], ids=["pulls", "no pulls"])
def test_two_jobs_on_one_person_come_to_rest(rig: Rig, api: FakeApi, pulls: bool):
    """Each has said its own once; from then on neither sends, and one that changes a cell sends
    that one."""
    hired(api)
    pull(rig, api)
    one = [{**person(0), "title": "Broker", "company": "Lloyd's"}]
    other = [{**person(0), "title": "Teller", "phone": "+12125550123"}]
    for _ in range(3):
        for source, rows in (("job one", one), ("job other", other)):
            push(rig, rows, source=source)
            if pulls:
                pull(rig, api)
    settled = api.posts
    assert settled <= 3
    for _ in range(6):
        api.clock.advance(HOUR_S)
        for source, rows in (("job one", one), ("job other", other)):
            assert push(rig, rows, source=source).statuses == {2: "unchanged"}
            if pulls:
                pull(rig, api)
    assert api.posts == settled
    one[0]["title"] = "Director"
    for source, rows in (("job one", one), ("job other", other), ("job one", one)):
        push(rig, rows, source=source)
    assert (api.posts, api.prospects["p0"]["title"]) == (settled + 1, "Director")
