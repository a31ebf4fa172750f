"""Rows out of Arrow record batches (Parquet files, DuckDB's tables) and servers' cursors."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from connector.upsert.inputs.headers import check_header
from connector.upsert.inputs.rows import Input, InputRow
from connector.upsert.rows.cells import Unreadable

BATCH_ROWS = 5_000
_EXACT_BELOW = 2**53  # a double holds each whole number below it

OpenBatches = Callable[[], AbstractContextManager[Iterable[pa.RecordBatch]]]
OpenRecords = Callable[[], AbstractContextManager[Iterable[Sequence[Any]]]]


class BatchesInput(Input):
    """Rows of record batches. `row_number` is the position, from 1.

    open_batches: starts reading from the first row on. Columns must keep their order.
    utc_times: columns of times of day that are in UTC, which Arrow's type can't say.

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
        utc_times: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(name=name, columns=columns, description=description)
        check_header(columns, place=name)
        self._open_batches, self.from_table = open_batches, from_table
        self._utc_times = utc_times

    def _rows(self) -> Iterator[InputRow]:
        number = 0
        with self._open_batches() as batches:
            for batch in batches:
                columns = map(self._column_cells, self.columns, batch.columns)
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield InputRow(number, dict(zip(self.columns, cells, strict=True)))

    def _column_cells(self, name: str, column: pa.Array) -> list[Any]:
        cells = _cells(column)
        if name in self._utc_times:
            cells = [cell and cell.replace(tzinfo=UTC) for cell in cells]
        return cells


class RecordsInput(Input):
    """Rows of a server's cursor, as its driver hands them out: in Python's own types, which hold
    its decimals and times as they are. `row_number` is the position, from 1.

    open_records: starts reading from the first row on.
    """

    from_table = True

    def __init__(
        self, open_records: OpenRecords, *, name: str, columns: list[str], description: str
    ) -> None:
        super().__init__(name=name, columns=columns, description=description)
        check_header(columns, place=name)
        self._open_records = open_records

    def _rows(self) -> Iterator[InputRow]:
        with self._open_records() as records:
            for number, record in enumerate(records, start=1):
                yield InputRow(number, dict(zip(self.columns, record, strict=True)))


def _cells(column: pa.Array) -> list[Any]:
    """The values of `column` as Python has them; what it can't hold, as Unreadable."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    elif pa.types.is_time64(kind) and kind.unit == "ns":
        column = column.cast(pa.time64("us"), safe=False)
    try:
        cells: list[Any] = column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):
        cells = [_cell(value) for value in column]
    if pa.types.is_float64(kind):
        return _exact(column, cells)
    return [_shortest(cell, kind) for cell in cells] if _holds_floats(kind) else cells


def _cell(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (pa.ArrowException, ValueError, OverflowError):
        return Unreadable(f"a {value.type} that is out of range")


def _exact(column: pa.Array, cells: list[Any]) -> list[Any]:
    """`cells` of doubles, without those whose digits the writer's rounding has made up."""
    largest = pc.max(pc.abs(column)).as_py()
    if largest is None or not largest >= _EXACT_BELOW:
        return cells
    return [
        Unreadable(
            "a floating-point number of more than 15 digits, the last of which are rounded",
            text=repr(cell),
            advice="Write it as text or as a decimal",
        )
        if cell is not None and _EXACT_BELOW <= abs(cell) < float("inf")
        else cell
        for cell in cells
    ]


def _holds_floats(kind: pa.DataType) -> bool:
    """Whether values of fewer bits than Python's floats are in it, at any depth."""
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        return True
    return any(_holds_floats(kind.field(number).type) for number in range(kind.num_fields))


def _shortest(value: Any, kind: pa.DataType) -> Any:
    """`value` with its short floats as people wrote them: 1.1, not 1.100000023841858."""
    if isinstance(value, float):
        if pa.types.is_float16(kind):
            return _as_short_as("e", value)
        return _as_short_as("f", value) if pa.types.is_float32(kind) else value
    if isinstance(value, dict):
        return {name: _shortest(item, kind.field(name).type) for name, item in value.items()}
    if isinstance(value, list) and pa.types.is_map(kind):
        return [(_shortest(k, kind.key_type), _shortest(v, kind.item_type)) for k, v in value]
    if isinstance(value, list):
        return [_shortest(item, kind.value_type) for item in value]
    return value


def _as_short_as(code: str, value: float) -> float:
    """The float of fewest digits that is `value` in the C type `code`."""
    for digits in range(1, 9):
        shorter = float(f"{value:.{digits}g}")
        try:
            if struct.unpack(code, struct.pack(code, shorter))[0] == value:
                return shorter
        except OverflowError:
            continue
    return value
