"""A file that is pushed every hour, while recruiters work in HiringCenter."""

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
    """Everyone, as HiringCenter has them before the first push."""
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


@pytest.mark.parametrize(("make", "seed"), [(equal, 1), (partly_equal, 2), (different, 3)])
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
    """Each has settled its own once; from then on neither sends, and one that changes a cell sends
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


COLUMNS = ("id", *person(0), "updatedAt", "_hc_deleted_at")


def export(rig: Rig, api: FakeApi) -> Rows:
    """The pulled table as it is now, in a file."""
    people = rig.pulled.by_id(api.prospects, with_fields=True).values()
    return [
        {**{name: each.fields.get(name) for name in COLUMNS}, "id": each.id, "_hc_deleted_at": ""}
        for each in people
    ]


@pytest.mark.parametrize(
    ("edits_at_first", "seed"), [(False, 1), (True, 2)], ids=["equal", "edited"]
)
def test_an_export_that_is_pushed_hourly_sends_what_is_edited_in_it(
    rig: Rig, api: FakeApi, edits_at_first: bool, seed: int
):
    """Beside recruiters, with pulls in between that read newer versions than it was exported from;
    a cell is sent once, when it is edited, before the first push or hours later. So is one of a
    newer export that takes the file's place."""
    chance, edits = random.Random(seed), dict[tuple[str, str], Any]()
    hired(api)
    pull(rig, api)
    for _ in range(2):
        rows, sent = export(rig, api), api.posts
        if edits_at_first:
            for at in chance.sample(range(PEOPLE), 5):
                rows[at]["company"] = f"File {api.posts}"
                edits |= {(rows[at]["id"], "company"): rows[at]["company"]}
        expected = sent + 5 * edits_at_first
        for hour in range(HOURS // 2):
            if hour % 5 == 3:
                number = chance.randrange(PEOPLE)
                rows[number]["title"] = f"File {hour} {api.posts}"
                edits |= {(f"p{number}", "title"): rows[number]["title"]}
                expected += 1
            pushed = push(rig, rows, is_export=True)
            assert (pushed.rejects, api.posts) == ([], expected), hour
            for number in range(2):
                edits |= edit(api, chance, 1000 * len(api.applied) + 2 * hour + number)
            api.clock.advance(HOUR_S)
            if chance.random() < 0.6:
                pull(rig, api)
        pull(rig, api)
    assert all(api.prospects[id_][name] == value for (id_, name), value in edits.items())
