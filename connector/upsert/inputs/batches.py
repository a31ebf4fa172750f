"""Rows out of Arrow record batches: Parquet files, and tables and queries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pyarrow as pa

from connector.upsert.inputs.headers import check_header
from connector.upsert.inputs.rows import Input, InputRow
from connector.upsert.rows.cells import Unreadable

BATCH_ROWS = 5_000

OpenBatches = Callable[[], AbstractContextManager[Iterable[pa.RecordBatch]]]


class BatchesInput(Input):
    """Rows of record batches. `row_number` is the position, from 1.

    open_batches: starts reading from the first row on. Columns must keep their order.

    Raises:
        InputError: a doubled or unnamed column.
    """

    def __init__(
        self,
        open_batches: OpenBatches,
        *,
        name: str,
        columns: list[str],
        description: str,
        from_table: bool = False,
    ) -> None:
        super().__init__(name=name, columns=columns, description=description)
        check_header(columns, place=name)
        self._open_batches, self.from_table = open_batches, from_table

    def _rows(self) -> Iterator[InputRow]:
        number = 0
        with self._open_batches() as batches:
            for batch in batches:
                for cells in zip(*map(_cells, batch.columns), strict=True):
                    number += 1
                    yield InputRow(number, dict(zip(self.columns, cells, strict=True)))


def _cells(column: pa.Array) -> list[Any]:
    """The values of `column` as Python has them; what it can't hold, as Unreadable."""
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    try:
        cells: list[Any] = column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):
        cells = [_cell(value) for value in column]
    return cells


def _cell(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (pa.ArrowException, ValueError, OverflowError):
        return Unreadable(f"a {value.type} that is out of range")
