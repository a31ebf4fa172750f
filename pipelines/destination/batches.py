"""What goes to the destination in one load: rows per table, and where the scans are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.destination.arrow import to_table


@dataclass(frozen=True)
class Batch:
    """Rows for one table, each key at most once, as dicts or as the Arrow table of `to_table`.

    columns: dlt column schemas by name. mark: what dlt's state is to say about `table` from these
    rows on; None leaves it as it is.
    """

    table: str
    rows: Sequence[Mapping[str, Any]] | pa.Table
    columns: Mapping[str, Mapping[str, Any]]
    key: str | Sequence[str] = "id"
    mark: Mapping[str, Any] | None = field(default=None)


def as_table(batch: Batch) -> pa.Table:
    """The batch's rows with exactly the types of its columns."""
    if isinstance(batch.rows, pa.Table):
        return batch.rows
    return to_table(batch.rows, batch.columns)
