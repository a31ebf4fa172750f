"""Generated data and the store: repeatable, realistic, cheap, and true under any change."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.sandbox import RESOURCES, SandboxOptions, Store
from connector.sandbox.generated_records import SORT_FIELDS, Generated
from connector.sandbox.state import ServerClock

CONTRACT = {
    "prospects": "id firstName lastName email phone currentStage currentStageId labels title "
    "company createdAt updatedAt",
    "notes": "id prospectId userId body createdAt createdByApi createdByApiKeyId "
    "createdByApiKeyName mentions pin fileUrl",
    "tasks": "id prospectId task assignedTo assignedBy createdBy createdAt updatedAt dueAt "
    "completedAt createdByApi",
    "meetings": "id prospectId meetingDate timeZone meetingType ownerId location notes createdBy "
    "createdByApi createdAt updatedAt",
}


def _store(**options: Any) -> Store:
    return Store(SandboxOptions(**options), ServerClock())


@pytest.mark.parametrize("resource", RESOURCES)
def test_the_same_seed_gives_the_same_rows(resource: str):
    """And another seed gives others, ids too."""
    one, same, other = (_store(seed=seed).all(resource) for seed in (1, 1, 2))
    assert one == same
    assert not {row["id"] for row in one} & {row["id"] for row in other}


@pytest.mark.parametrize("resource", RESOURCES)
def test_every_field_of_the_contract_appears_and_some_beyond(resource: str):
    """Also null or missing somewhere, as the contract allows for all but `id`."""
    rows = _store(**dict.fromkeys(RESOURCES, 500)).all(resource)
    names = {name for row in rows for name in row}
    assert names >= set(CONTRACT[resource].split())
    assert names > set(CONTRACT[resource].split())
    assert any(value is None for row in rows for value in row.values())
    assert any(set(row) < names for row in rows)


def test_the_data_is_as_irregular_as_reality():
    """Scripts, emoji, combining marks, HTML, empty strings, lists, objects, shared milliseconds."""
    store = _store(**dict.fromkeys(RESOURCES, 500))
    prospects, notes = store.all("prospects"), store.all("notes")
    text = "".join(f"{row['firstName']}{row['lastName']}" for row in prospects)
    scripts = {unicodedata.name(each, "?").split()[0] for each in text}
    assert scripts >= {"CJK", "ARABIC", "CYRILLIC", "HEBREW", "COMBINING", "HIRAGANA"}
    assert any(ord(each) > 0xFFFF for each in text)
    assert any("&nbsp;" in note["body"] for note in notes)
    assert any(note["body"] == "" for note in notes)
    assert len({note["createdAt"] for note in notes}) < 450
    assert sum("updatedAt" in note for note in notes) < 100
    assert any(isinstance(row.get("customFields"), dict) for row in prospects)


def test_contacts_of_generated_people_are_unique():
    """Or a push would update a person by accident."""
    rows = _store(prospects=3000).all("prospects")
    for contact in ("email", "phone"):
        values = [row[contact].lower() for row in rows if row[contact]]
        assert len(values) == len(set(values))


@given(st.sampled_from(RESOURCES), st.integers(0, 9), st.integers(1, 10**6), st.data())
def test_ids_lead_back_to_their_rows(resource: str, seed: int, count: int, data: st.DataObject):
    """No index is kept, and no foreign id is mistaken for one of ours."""
    made = Generated(resource, seed, count, count, 10**12)
    serial = data.draw(st.integers(0, count - 1))
    assert made.serial_of(made.id_of(serial)) == serial
    assert made.serial_of(made.id_of(count)) is None
    assert made.serial_of(made.id_of(serial).upper() + " ") is None


@given(st.sampled_from(RESOURCES), st.integers(1, 400))
def test_times_rise_with_the_serial_number(resource: str, count: int):
    """Which is why a listing needs no sorting; rows without a time are the last."""
    made = Generated(resource, 1, count, count, 10**12)
    times = [made.time_ms(serial) for serial in range(count)]
    known = [each for each in times if each is not None]
    assert known == sorted(known) == times[: len(known)]
    assert [made.record(serial)[SORT_FIELDS[resource]] for serial in range(count)] == times


changes = st.lists(
    st.tuples(
        st.sampled_from(["create", "update", "delete", "return"]),
        st.integers(0, 10**6),
        st.one_of(st.none(), st.integers(10**12, 2 * 10**12)),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(st.sampled_from(RESOURCES), changes)
def test_the_list_stays_sorted_and_complete_under_any_change(resource: str, orders: list[Any]):
    """Against a plain dictionary of the truth."""
    store = _store(**dict.fromkeys(RESOURCES, 12))
    truth = {row["id"]: row for row in store.all(resource)}
    gone: list[dict[str, Any]] = []
    for action, number, time_ms in orders:
        ids = sorted(truth)
        if action == "create" or not ids:
            row = store.create(resource, {SORT_FIELDS[resource]: time_ms})
        elif action == "return" and gone:
            row = store.put(resource, gone.pop())
        elif action == "delete":
            store.delete(resource, ids[number % len(ids)])
            gone.append(truth.pop(ids[number % len(ids)]))
            continue
        else:
            row = store.update(resource, ids[number % len(ids)], {SORT_FIELDS[resource]: time_ms})
        truth[row["id"]] = row
    rows = store.all(resource)
    assert {row["id"]: row for row in rows} == truth
    assert len(rows) == len(truth) == store.count(resource)
    assert all(store.get(resource, row_id) == row for row_id, row in truth.items())
    times = [row[SORT_FIELDS[resource]] for row in rows]
    known = [each for each in times if each is not None]
    assert times[: len(known)] == known == sorted(known, reverse=resource != "tasks")


def test_touching_moves_updated_at_and_not_touching_does_not():
    """Always later than before, within one millisecond too; notes only where they have one."""
    store = _store()
    row = store.all("prospects")[0]
    silent = store.update("prospects", row["id"], {"title": "x"}, touch=False)
    assert silent == {**row, "title": "x"}
    first = store.update("prospects", row["id"], {})["updatedAt"]
    assert store.update("prospects", row["id"], {})["updatedAt"] > first > row["updatedAt"]
    plain = next(note for note in store.all("notes") if "updatedAt" not in note)
    assert "updatedAt" not in store.update("notes", plain["id"], {"body": "edited"})


def test_what_the_store_returns_is_a_copy():
    """Changing it changes nothing."""
    store = _store()
    made = store.create("prospects", {"labels": ["a"]})
    made["labels"].append("b")
    store.get("prospects", made["id"])["labels"].append("c")  # type: ignore[index]
    assert store.get("prospects", made["id"])["labels"] == ["a"]  # type: ignore[index]


def test_unknown_ids_are_errors():
    """A test that edits a record which isn't there has a mistake of its own."""
    store = _store()
    with pytest.raises(KeyError):
        store.update("notes", "nobody", {})
    with pytest.raises(KeyError):
        store.delete("notes", "nobody")
