"""Records → rows: the traps of schemas, types and names, each with its cure."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from connector.api.envelopes import read_json
from connector.errors import ConfigurationError
from connector.source.fields import CONTRACT, FIELD_HINT, HASH_COLUMN, record_id, split_malformed
from connector.source.row_maker import Privacy, RowMaker, malformed_rows


def rows(maker: RowMaker, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a maker's table, without nulls and with JSON parsed."""
    found = maker.table(maker.unique(records)).to_pylist()
    is_json = {name for name, data_type in types(maker).items() if data_type == "json"}
    return [
        {
            name: orjson.loads(value) if name in is_json else value
            for name, value in made.items()
            if value is not None
        }
        for made in found
    ]


def row(record: dict[str, Any], maker: RowMaker | None = None) -> dict[str, Any]:
    """The row of one record, without its hash."""
    return _without_hash(rows(maker or RowMaker("prospects", {}), [{"id": "1", **record}])[0])


def dlts_row(record: dict[str, Any]) -> dict[str, Any]:
    """The same as it is given to dlt as a dict."""
    maker = RowMaker("prospects", {})
    return _without_hash(maker.rows(maker.unique([{"id": "1", **record}]))[0])


def _without_hash(made: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in made.items() if name not in (HASH_COLUMN, "id")}


def types(maker: RowMaker) -> dict[str, Any]:
    return {name: column["data_type"] for name, column in maker.columns.items()}


@pytest.mark.parametrize("resource", sorted(CONTRACT))
def test_every_column_of_the_contract_is_there_before_any_row(resource: str):
    """Also where all values are null for ever."""
    maker = RowMaker(resource, {})
    assert len(maker.columns) == len(CONTRACT[resource]) + 3
    assert maker.columns["id"]["primary_key"]
    assert types(maker)["_hc_deleted_at"] == "timestamp"


def test_strings_stay_strings():
    """What looks like a date, a number or a boolean is text, in known and unknown fields."""
    texts = {"title": "2025-01-01", "phone": "5", "madeUp": "2025-01-01T00:00:00Z", "other": "true"}
    maker = RowMaker("prospects", {})
    assert row(texts, maker) == {
        "title": "2025-01-01", "phone": "5", "made_up": "2025-01-01T00:00:00Z", "other": "true",
    }  # fmt: skip
    assert types(maker)["made_up"] == types(maker)["other"] == "text"


def test_milliseconds_are_points_in_time_and_other_integers_are_not():
    """By the field's name, not by the size of the number."""
    assert row({"createdAt": 1_767_225_600_123, "score": 1_767_225_600_123}) == {
        "created_at": datetime(2026, 1, 1, 0, 0, 0, 123_000, tzinfo=UTC),
        "score": 1_767_225_600_123,
    }


@pytest.mark.parametrize(
    ("value", "column", "kept"),
    [
        (10**17, "created_at__v_bigint", 10**17),
        (1.5, "created_at__v_double", 1.5),
        ("2026-01-01", "created_at__v_text", "2026-01-01"),
        (True, "created_at__v_bool", True),
        ([1], "created_at__v_json", [1]),
        (2**70, "created_at__v_text", str(2**70)),
    ],
)
def test_an_invalid_time_lands_in_a_variant_column(value: Any, column: str, kept: Any):
    """And the time column itself is null."""
    assert row({"createdAt": value}) == {column: kept}


@pytest.mark.parametrize(
    ("known", "value", "column"),
    [
        ("text", 5, "x__v_bigint"), ("text", ["a"], "x__v_json"), ("bigint", "5", "x__v_text"),
        ("bigint", 1.5, "x__v_double"), ("bigint", True, "x__v_bool"), ("bool", 1, "x__v_bigint"),
        ("double", "1.5", "x__v_text"), ("json", "a", "x__v_text"), ("timestamp", 5, "x__v_bigint"),
    ],
)  # fmt: skip
def test_a_type_that_the_table_has_holds_in_later_runs(known: Any, value: Any, column: str):
    """The destination's columns say what a field is, not this run's first value."""
    maker = RowMaker("prospects", {"x": known})
    assert row({"x": value}, maker) == {column: value}
    assert column in maker.columns


def test_an_unknown_field_is_typed_by_its_first_value_that_is_not_null():
    """Nulls before it say nothing."""
    maker = RowMaker("notes", {})
    made = rows(maker, [{"id": "1", "x": None}, {"id": "2", "x": 7}, {"id": "3", "x": "seven"}])
    assert [each.get("x") for each in made] == [None, 7, None]
    assert made[2]["x__v_text"] == "seven"


def test_a_field_in_milliseconds_that_a_resource_is_not_known_to_have_is_a_time():
    """Notes with an `updatedAt`, also where its first value is text."""
    maker = RowMaker("notes", {})
    assert row({"updatedAt": "soon"}, maker) == {"updated_at__v_text": "soon"}
    assert row({"updatedAt": 0}, maker) == {"updated_at": datetime(1970, 1, 1, tzinfo=UTC)}


def test_lists_and_objects_are_json_and_never_other_tables():
    """Empty ones too."""
    value = {"labels": ["a"], "custom": {"a": [1, {"b": None}]}, "empty": {}, "none": []}
    assert row(value) == value


def test_colliding_names_keep_all_values():
    """`firstName` and `first_name`, `ID` and `id`, names without letters, empty, reserved ones."""
    fields = {
        "firstName": "a", "first_name": "b", "FirstName": "c", "ID": "d", "名前": "e", "名": "f",
        "": "g", " ": "h", "_dlt_id": "i", "_hc_hash": "j", "_hcDeletedAt": "k",
    }  # fmt: skip
    maker = RowMaker("prospects", {})
    made = row(fields, maker)
    assert sorted(made.values()) == sorted(fields.values())
    assert made["first_name"] == "a"
    assert all(name in maker.columns for name in made)


def test_collisions_are_decided_alike_in_every_run():
    """Whichever of the two comes first later, each goes where it went the first time."""
    first = RowMaker("prospects", {})
    before = row({"fooBar": "one", "foo_bar": "two"}, first)
    for known in (first.columns, types(first)):
        later = RowMaker("prospects", known)
        assert row({"foo_bar": "two"}, later) | row({"fooBar": "one"}, later) == before


def test_the_field_that_filled_a_column_first_owns_it():
    """A run that meets the other field first doesn't mix the two, as dlt's schema remembers."""
    first = RowMaker("prospects", {})
    assert row({"fooBar": 1}, first) == {"foo_bar": 1}
    assert first.columns["foo_bar"][FIELD_HINT] == "fooBar"  # type: ignore[typeddict-item]
    later = RowMaker("prospects", first.columns)
    assert "foo_bar" not in row({"foo_bar": 2}, later)


def test_the_contracts_names_own_their_columns():
    """Even where the other spelling came first, or is all there is."""
    made = row({"first_name": "mine"})
    assert "first_name" not in made
    assert list(made.values()) == ["mine"]


def test_warnings_name_columns_and_never_values():
    """Counted: the second pull of the same oddity says so again, once."""
    maker = RowMaker("prospects", {})
    rows(
        maker,
        [{"id": str(i), "email": 5, "title": "secret\0", "first_name": "x"} for i in range(3)],
    )
    assert "secret" not in str(maker.warnings)
    assert maker.warnings['"title": NUL replaced by U+FFFD'] == 3
    assert maker.warnings["email: bigint value kept in email__v_bigint"] == 3
    assert sum("first_name" in what for what in maker.warnings) == 1


def test_one_id_twice_is_one_row_with_the_last_content():
    """dlt's upsert would make two rows of it, and fail at the next load."""
    records = [{"id": "a", "body": "1"}, {"id": "b"}, {"id": "a", "body": "2"}]
    made = rows(RowMaker("notes", {}), records)
    assert [(each["id"], each.get("body")) for each in made] == [("a", "2"), ("b", None)]


def test_an_integer_id_is_kept_as_text():
    """An id is a name; 7 and "7" are one row."""
    made = rows(RowMaker("notes", {}), [{"id": 7, "body": "x"}, {"id": "7", "body": "y"}])
    assert [(each["id"], each["body"]) for each in made] == [("7", "y")]


@pytest.mark.parametrize("hidden", [{}, {"hashed": ["prospectId"], "hash_key": b"k"}])
def test_an_integer_that_names_another_record_is_kept_as_text(hidden: Any):
    """It joins with the row that it names, whose id is text, and means the same in either form: to
    the content's hash too."""
    maker = RowMaker("tasks", {}, Privacy("tasks", **hidden))
    record = {"id": "a", "prospectId": 7, "assignedTo": 5, "createdBy": True, "dueAt": 7}
    both = rows(maker, [record, {**record, "id": "b", "prospectId": "7", "assignedTo": "5"}])
    assert [each["assigned_to"] for each in both] == ["5", "5"]
    assert both[0]["prospect_id"] == both[1]["prospect_id"]
    assert (both[0]["prospect_id"] == "7") is not bool(hidden)
    assert (both[0]["created_by__v_bool"], both[0]["due_at"].microsecond) == (True, 7000)
    same = [{**record, "assignedTo": form} for form in (5, "5")]
    assert len({maker.unique([each]).hashes[0] for each in same}) == 1


@pytest.mark.parametrize("item", [None, "text", 5, [], {}, {"ID": "1"}, {"id": None}, {"id": ""},
                                  {"id": 1.5}, {"id": True}, {"id": ["1"]}])  # fmt: skip
def test_a_malformed_item_in_the_middle_costs_no_other_row(item: Any):
    """It is sorted out, kept by its content, and the rest of the page lands."""
    records, odd = split_malformed([{"id": "1"}, item, {"id": "2"}])
    assert [record["id"] for record in records] == ["1", "2"]
    assert odd == [item]
    assert record_id(item) is None
    assert len(malformed_rows("notes", [item, item])) == 1
    with pytest.raises(ValueError, match="usable id"):
        RowMaker("notes", {}).unique([item if isinstance(item, dict) else {}])


def test_odd_items_can_hold_anything():
    """NUL, surrogates, numbers without end: as escaped text."""
    made = malformed_rows("notes", [{"a": "\0\ud800", "b": 2**70}])
    assert made[0]["content"] == '{"a": "\\u0000\\ud800", "b": 1180591620717411303424}'


# --- the content hash -------------------------------------------------------------------------


def private_maker(**options: Any) -> RowMaker:
    return RowMaker("prospects", {}, Privacy("prospects", **options))


def digest(record: dict[str, Any], **options: Any) -> str:
    return private_maker(**options).unique([{"id": "1", **record}]).hashes[0]


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5)


@given(st.dictionaries(st.text(max_size=5), scalars, max_size=6), st.randoms())
def test_the_hash_depends_on_content_and_not_on_the_order_of_keys(
    fields: dict[str, Any], shuffler: random.Random
):
    """Servers are free to reorder; an unchanged row must not be written again for it."""
    fields.pop("id", None)
    names = list(fields)
    shuffler.shuffle(names)
    assert digest(fields) == digest({name: fields[name] for name in names})


anything = st.recursive(
    scalars | st.integers() | st.text(st.characters(codec=None, exclude_categories=()), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
records = st.dictionaries(
    st.sampled_from(["title", "labels", "createdAt", "x", "X", "first_name"]), anything
)


@given(records, records)
def test_a_record_makes_the_same_row_whatever_comes_with_it(one: dict[str, Any], other: Any):
    """What a destination can't hold is replaced in its own record alone, and types are known."""
    known = dict.fromkeys(("x", "x__f1", "first_name"), "text")
    alone, together = RowMaker("prospects", known), RowMaker("prospects", known)
    first, second = {"id": "1", **one}, {"id": "2", **other}
    assert alone.unique([first]).hashes == together.unique([first, second]).hashes[:1]
    assert rows(alone, [first]) == rows(together, [first, second])[:1]


@given(records)
def test_rows_are_the_same_as_a_table_and_as_dicts(record: dict[str, Any]):
    """Pipelines of others get dicts, `hiringcenter pull` Arrow; marks of dlt's apart."""
    assume("\\uf0" not in json.dumps(record))
    made = RowMaker("prospects", {})
    assert made.rows(made.unique([{"id": "1", **record}])) == rows(made, [{"id": "1", **record}])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"title": "a"}, {"title": "b"}),
        ({"title": "1"}, {"title": 1}),
        ({"title": None}, {"title": ""}),
        ({"labels": ["a", "b"]}, {"labels": ["b", "a"]}),
        ({"x": {"y": 1}}, {"x": {"y": 2}}),
        ({"x": 2**70}, {"x": 2**70 + 1}),
    ],
)
def test_the_hash_changes_with_any_content(one: dict[str, Any], other: dict[str, Any]):
    """An edit that leaves `updatedAt` alone is found by it."""
    assert digest(one) != digest(other)


def test_the_hash_is_the_same_in_every_run_and_release():
    """It is compared with what earlier runs stored; changing it writes every row again."""
    assert digest({"firstName": "Ann", "labels": ["x"]}) == "47228799a1434cd97e1a89df3648aaa7"


# --- fields that are not shown ------------------------------------------------------------------


def test_excluded_fields_leave_no_column_and_no_trace():
    """By API name or by column; an edit of theirs writes nothing."""
    maker = private_maker(exclude=("phone", "first_name"))
    assert row({"phone": "1", "firstName": "Ann", "title": "t"}, maker) == {"title": "t"}
    assert "phone" not in maker.columns
    options: Any = {"exclude": ("phone",)}
    assert digest({"phone": "1"}, **options) == digest({"phone": "2"}, **options)


def test_hashed_fields_can_be_joined_but_not_read():
    """Equal values, equal hashes, under a secret key; null stays null."""
    maker = private_maker(hashed=("email", "createdAt"), hash_key=b"secret")
    made = [row({"email": mail, "createdAt": 5}, maker) for mail in ("a@b.c", "a@b.c", "d@e.f")]
    assert made[0] == made[1] != made[2]
    assert "a@b.c" not in str(made)
    assert types(maker)["created_at"] == "text"
    assert row({"email": None}, maker) == {}
    other = private_maker(hashed=("email",), hash_key=b"another")
    assert row({"email": "a@b.c"}, other)["email"] != made[0]["email"]


def test_the_content_hash_does_not_give_hashed_values_away():
    """Whoever guesses a value must not be able to confirm it by `_hc_hash` without the key."""
    guess = digest({"email": "a@b.c"})
    assert digest({"email": "a@b.c"}, hashed=("email",), hash_key=b"k1") != guess
    first, second = (
        digest({"email": "a@b.c"}, hashed=("email",), hash_key=k) for k in (b"k1", b"k2")
    )
    assert first != second


def test_a_new_choice_of_fields_writes_rows_again():
    """Otherwise what is excluded from today on would stay in rows that don't change."""
    assert digest({"title": "x"}) != digest({"title": "x"}, exclude=("phone",))


@pytest.mark.parametrize(
    "options", [{"hashed": ("email",)}, {"exclude": ("id",)}, {"hashed": ("id",), "hash_key": b"k"}]
)
def test_impossible_choices_are_refused(options: Any):
    """Hashes without a key could be guessed; rows without ids can't be distinguished."""
    with pytest.raises(ConfigurationError):
        private_maker(**options)


# --- what dlt itself would misread ----------------------------------------------------------------


def test_text_that_looks_like_dlts_own_type_marks_stays_text():
    """Icon fonts live where dlt marks types: U+F026 and a number would become that number."""
    assert dlts_row({"title": "\uf0261.5"}) == {"title": "\ufffd1.5"}
    assert dlts_row({"title": "\uf02b VIP!"}) == {"title": "\uf02b VIP!"}
    assert row({"title": "\uf0261.5"}) == {"title": "\uf0261.5"}


def test_markers_inside_json_are_passed_on_as_text():
    """dlt strips them from parsed JSON, and leaves JSON text alone."""
    assert dlts_row({"labels": ["\uf02bVIP"]}) == {"labels": '["\uf02bVIP"]'}
    assert row({"labels": ["\uf02bVIP"]}) == {"labels": ["\uf02bVIP"]}


def test_a_number_that_no_double_holds_and_what_is_too_deep_are_warned_about():
    """They land as text in variant columns; the names are in the warnings, the values aren't."""
    body = b'[{"id": "1", "score": 1.5}, {"id": "2", "score": 12345678901234567.89, "x": %b}]'
    maker = RowMaker("notes", {})
    first, second = rows(maker, read_json(body % (b"[" * 900 + b"]" * 900)))
    assert first["score"] == 1.5
    assert second["score__v_text"] == "12345678901234567.89"
    assert {name for name in maker.warnings if "kept as text" in name} == {
        '"score": number too precise for a double, kept as text',
        '"x": nested too deep, kept as text',
    }
