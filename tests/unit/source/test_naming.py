"""Names: dlt's snake_case, and a column of one's own where several names would share one."""

from __future__ import annotations

import pytest
from dlt.common.normalizers.naming.snake_case import NamingConvention
from hypothesis import given
from hypothesis import strategies as st

from connector.source.row_maker import (
    MAX_LENGTH,
    column_name,
    is_reserved,
    own_column_name,
    variant_name,
)

names = st.text(st.characters(codec=None, exclude_categories=()), max_size=90)


@pytest.mark.parametrize(
    ("api_name", "column"),
    [
        ("firstName", "first_name"), ("createdByApiKeyId", "created_by_api_key_id"),
        ("id", "id"), ("ID", "id"), ("E-mail", "e_mail"), ("名前", "x"), ("__x", "_x"),
        ("1st", "_1st"), ("a b", "a_b"), ("", "unnamed"), ("  ", "unnamed"), ("a__b", "a_b"),
    ],
)  # fmt: skip
def test_columns_are_the_apis_names_in_snake_case(api_name: str, column: str):
    """Also where nothing of a name is left."""
    assert column_name(api_name) == column


@given(names, st.sampled_from(["text", "bigint", "timestamp"]))
def test_dlt_never_renames_what_comes_from_here(api_name: str, data_type: str):
    """Every name is already as dlt would make it, in any destination with 63 characters or more."""
    dlts = NamingConvention(MAX_LENGTH)
    for column in (column_name(api_name), own_column_name(api_name)):
        for name in (column, variant_name(column, data_type)):
            assert len(name) <= MAX_LENGTH
            assert dlts.normalize_path(name) == name


@given(names, names)
def test_own_columns_differ_where_names_do(one: str, other: str):
    """By a tag of the exact name; and none is ours or dlt's."""
    assert not is_reserved(own_column_name(one))
    assert (own_column_name(one) == own_column_name(other)) == (one == other)


@given(names, names)
def test_variant_columns_differ_where_columns_do(one: str, other: str):
    """Also for names so long that they are shortened."""
    first, second = column_name(one), column_name(other)
    assert (variant_name(first, "text") == variant_name(second, "text")) == (first == second)


@pytest.mark.parametrize("api_name", ["_dlt_id", "_dltLoadId", "_hc_hash", "_hcDeletedAt"])
def test_columns_of_ours_and_dlts_are_reserved(api_name: str):
    """A field of that name gets a column of its own."""
    assert is_reserved(column_name(api_name))
