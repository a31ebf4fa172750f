"""Single values: exact types, and what no destination holds."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.source.fields import (
    FIRST_MS,
    LAST_MS,
    fitted,
    holdable,
    is_ms,
    is_plain,
    natural_type,
    to_datetime,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, exclude_categories=()), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.integers(FIRST_MS, LAST_MS))
def test_milliseconds_become_exactly_that_point_in_time(ms: int):
    """No rounding anywhere in the calendar, where floats would lose the millisecond."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert (to_datetime(ms) - epoch) / timedelta(milliseconds=1) == ms
    assert (to_datetime(ms) - epoch) % timedelta(milliseconds=1) == timedelta(0)


@pytest.mark.parametrize("ms", [FIRST_MS - 1, LAST_MS + 1, 1.0, True, "1700000000000", None])
def test_a_number_outside_the_calendar_isnt_a_time(ms: Any):
    """Floats, text, booleans and other geological ages land in a variant of a time column."""
    assert not is_ms(ms)
    assert fitted(ms, "timestamp", is_time=True) is None if ms is not None else True


@pytest.mark.parametrize(
    ("value", "data_type"),
    [
        (5, "text"), ("5", "bigint"), (1.5, "bigint"), (2.0, "bigint"), (True, "bigint"),
        (1, "bool"), ("true", "bool"), (["a"], "text"), ("[]", "json"), (5, "json"),
        (True, "double"), (2**53 + 1, "double"), (1767225600000, "bool"), ("x", "decimal"),
    ],
)  # fmt: skip
def test_nothing_is_coerced_into_another_type(value: Any, data_type: str):
    """What a loader would quietly convert doesn't fit."""
    assert fitted(value, data_type, is_time=False) is None


@pytest.mark.parametrize(
    ("value", "data_type"),
    [("5", "text"), ("", "text"), (5, "bigint"), (False, "bool"), ([], "json"), (2.5, "double")],
)
def test_a_value_of_its_columns_type_is_kept_as_it_is(value: Any, data_type: str):
    """Empty text, false and empty lists are values."""
    assert fitted(value, data_type, is_time=False) == value
    assert natural_type(value) == data_type


def test_an_integer_fits_a_double_that_is_that_integer():
    """JSON writes 2.0 as 2; beyond 2**53 the double would be another number."""
    assert fitted(2, "double", is_time=False) == 2.0
    assert fitted(2**53 + 1, "double", is_time=False) is None


@given(json_values)
def test_whatever_json_says_can_be_held_afterwards(value: Any):
    """orjson writes it, no NUL is left, every number fits 64 bits; plain values are untouched."""
    warnings: Counter[str] = Counter()
    held = holdable(value, warnings)
    written = orjson.dumps(held)
    assert b"\\u0000" not in written
    assert is_plain(held)
    if not warnings:
        assert held == value or _has_nan(value)


def _has_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def test_replacements_are_counted_by_kind():
    """NUL, surrogates, big numbers and infinities, also deep inside."""
    warnings: Counter[str] = Counter()
    held = holdable(
        {"a": ["x\0y", "\ud800"], "b": {"c": 2**64, "d": math.inf, "e": -(2**63)}}, warnings
    )
    assert held == {
        "a": ["x\ufffdy", "\ufffd"],
        "b": {"c": str(2**64), "d": "Infinity", "e": -(2**63)},
    }
    assert warnings == {
        "NUL replaced by U+FFFD": 1,
        "lone surrogate replaced by U+FFFD": 1,
        "number over 64 bits kept as text": 2,
    }


def test_names_that_become_equal_stay_apart():
    """Two keys that differ in what is replaced only: neither value overwrites the other."""
    held = holdable({"a\0": 1, "a\ufffd": 2}, Counter())
    assert sorted(held.values()) == [1, 2]


@pytest.mark.parametrize("depth", [90, 300, 900])
def test_deep_nesting_is_kept_as_text_below_a_depth(depth: int):
    """dlt writes at most 254 levels; deeper values would fail the whole load."""
    value: Any = "core"
    for _ in range(depth):
        value = [value]
    orjson.dumps(holdable(value, Counter()))


def test_a_pair_of_surrogates_is_a_character():
    """Only lone ones are replaced."""
    assert holdable("\ud83d\ude00 \U0001f600", Counter()) == "\U0001f600 \U0001f600"
