"""API names → column names. Pure, and the same for every destination and every run.

dlt's own snake_case decides, so that dlt never renames what comes from here; on top of it, names
that would fall into one column (`firstName` and `first_name`, `ID` and `id`) or into columns that
are ours or dlt's get a column of their own, named by a tag of the API name.
"""

from __future__ import annotations

import hashlib

from dlt.common.normalizers.naming.snake_case import NamingConvention

MAX_LENGTH = 63  # PostgreSQL's; the same everywhere, so that columns are
_UNNAMED = "unnamed"
_RESERVED = ("_dlt", "_hc")
_naming = NamingConvention(MAX_LENGTH)


def column_name(api_name: str) -> str:
    """`api_name` in snake_case, at most MAX_LENGTH characters; several names may share one."""
    try:
        return _naming.normalize_identifier(api_name.encode("utf-8", "replace").decode("utf-8"))
    except ValueError:  # nothing but spaces
        return _UNNAMED


def is_reserved(column: str) -> bool:
    """Whether the API may not fill `column`, because dlt or the connector does."""
    return column.startswith(_RESERVED)


def own_column_name(api_name: str) -> str:
    """A column that no other API name gets: the usual name and a tag of the exact API name."""
    column = column_name(api_name)
    tag = hashlib.blake2b(api_name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    start = f"x{column}" if is_reserved(column) else column
    return f"{start[: MAX_LENGTH - 11].rstrip('_')}__f{tag}"


def variant_name(column: str, data_type: str) -> str:
    """The column beside `column` for values of another type, as dlt names it."""
    suffix = f"__v_{data_type}"
    start = _naming.shorten_identifier(column, column, MAX_LENGTH - len(suffix))
    return f"{start.rstrip('_')}{suffix}"
