"""Parquet files, a batch of rows at a time, bounded by what their footer says before any is read.

A few bytes of Parquet can stand for gigabytes: one long text that a million rows share, a page of
zeros, a list without an end. So columns of text that are stored in little room are read as
dictionaries, in which a shared text is held once; batches are as short as the longest text of the
others asks for; everything else has limits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connector.errors import InputError
from connector.upsert.inputs.files import LocalFile
from connector.upsert.inputs.table_reader import BATCH_ROWS, TableInput, records_of

MAX_ROWS, MAX_COLUMNS, MAX_LIST_ITEMS = 20_000_000, 5_000, 5_000_000
MAX_ROW_GROUP_BYTES = 512 * 1024**2
MAX_ROW_BYTES = 64 * 1024**2
_BATCH_BYTES, _SMALL_BYTES, _PROBED_ROWS = 32 * 1024**2, 4 * 1024**2, 65_536
_SHARED_PREFIXES = {"DELTA_BYTE_ARRAY"}  # an encoding in which a long text may take no room
_DICTIONARIES = {"PLAIN_DICTIONARY", "RLE_DICTIONARY"}


def parquet_input(file: LocalFile) -> TableInput:
    """The rows of a Parquet file.

    Raises:
        InputError: it can't be read, has two columns of one name, or is beyond a limit.
    """
    local = file.unpacked()
    with _opened(local) as opened:
        _check_limits(opened.metadata, file.name)
        columns = list(opened.schema_arrow.names)
        utc_times = _utc_times(opened.metadata)
        shared, large = _text_columns(opened.metadata)
        batch_rows = _batch_rows(opened.metadata)
    for column in large:
        batch_rows = min(batch_rows, _rows_that_fit(_longest(local, column)))
    pa.default_memory_pool().release_unused()

    @contextmanager
    def open_records() -> Iterator[Iterable[Sequence[Any]]]:
        with _opened(local, read_dictionary=shared) as read:
            batches = _short_batches(read.iter_batches(batch_size=batch_rows), file.name)
            yield records_of(batches, utc_times=utc_times)

    return TableInput(
        open_records, name=file.name, columns=columns, description="Parquet", file=file
    )


@contextmanager
def _opened(file: LocalFile, **options: Any) -> Iterator[pq.ParquetFile]:
    try:
        with file.open() as stream, pq.ParquetFile(stream, pre_buffer=False, **options) as opened:
            yield opened
    except (pa.ArrowException, OSError, ValueError) as error:
        lines = str(error).splitlines()
        reason = f"can't be read as Parquet ({(lines or [''])[0][:200]}). Write it again."
        raise InputError(location=file.name, reason=reason) from None


def _check_limits(metadata: pq.FileMetaData, location: str) -> None:
    limits = [
        (metadata.num_rows, MAX_ROWS, "rows"),
        (metadata.num_columns, MAX_COLUMNS, "columns"),
    ]
    for group in _row_groups(metadata):
        size = 0
        for number in range(group.num_columns):
            column = group.column(number)
            size += column.total_uncompressed_size
            if metadata.schema.column(number).max_repetition_level:
                limits.append((column.num_values, MAX_LIST_ITEMS, "items of lists in a row group"))
        limits.append((size >> 20, MAX_ROW_GROUP_BYTES >> 20, "MB in a row group"))
    for count, limit, what in limits:
        if count > limit:
            reason = f"has {count:,} {what}, and the limit is {limit:,}. Write it in smaller parts."
            raise InputError(location=location, reason=reason)


def _row_groups(metadata: pq.FileMetaData) -> Iterator[pq.RowGroupMetaData]:
    return map(metadata.row_group, range(metadata.num_row_groups))


def _leaves(metadata: pq.FileMetaData) -> Iterator[tuple[pq.ColumnSchema, set[str]]]:
    """Each column of values, with the encodings that it has anywhere."""
    for number in range(metadata.num_columns):
        chunks = (group.column(number) for group in _row_groups(metadata))
        encodings = {encoding for chunk in chunks for encoding in chunk.encodings}
        yield metadata.schema.column(number), encodings


def _text_columns(metadata: pq.FileMetaData) -> tuple[list[str], list[str]]:
    """Columns of text that rows may share: (those whose dictionaries are small, the others)."""
    shared: list[str] = []
    large: list[str] = []
    for number, (column, encodings) in enumerate(_leaves(metadata)):
        if column.physical_type == "BYTE_ARRAY" and encodings & _DICTIONARIES:
            chunks = (group.column(number) for group in _row_groups(metadata))
            size = max((chunk.total_uncompressed_size for chunk in chunks), default=0)
            (shared if size <= _SMALL_BYTES else large).append(column.path)
    return shared, large


def _longest(file: LocalFile, column: str) -> int:
    """The most bytes that a row of this one column of text takes."""
    with _opened(file, read_dictionary=[column]) as opened:
        batches = opened.iter_batches(batch_size=_PROBED_ROWS, columns=[column])
        return max((_shared_bytes(batch.column(0)) for batch in batches), default=0)


def _rows_that_fit(row_bytes: int) -> int:
    return max(1, min(BATCH_ROWS, _BATCH_BYTES // max(1, row_bytes)))


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """As many rows as take little memory: by their average size, and where texts share their
    prefixes as if each were as long as all that is stored of its column."""
    row_bytes = 1
    for group in _row_groups(metadata):
        for column in map(group.column, range(group.num_columns)):
            size = column.total_uncompressed_size
            shares = not _SHARED_PREFIXES.isdisjoint(column.encodings)
            row_bytes = max(row_bytes, size if shares else size // max(1, group.num_rows))
    return _rows_that_fit(row_bytes)


def _utc_times(metadata: pq.FileMetaData) -> frozenset[str]:
    """Columns of times of day that are marked as UTC. Arrow marks all it writes, also those of
    which it knows no zone, so that its files say nothing."""
    if b"ARROW:schema" in (metadata.metadata or {}):
        return frozenset()
    kinds = ((column.path, column.logical_type) for column, _ in _leaves(metadata))
    return frozenset(
        path
        for path, kind in kinds
        if kind.type == "TIME" and json.loads(kind.to_json()).get("isAdjustedToUTC")
    )


def _short_batches(batches: Iterable[pa.RecordBatch], location: str) -> Iterator[pa.RecordBatch]:
    """`batches` in slices whose texts, repeated where rows share them, take little memory."""
    for batch in batches:
        row_bytes = max(1, sum(map(_shared_bytes, batch.columns)))
        if row_bytes > MAX_ROW_BYTES:
            limit = f"{MAX_ROW_BYTES >> 20} MB"
            reason = f"has rows of more than {limit}, the limit. Is this a list of people?"
            raise InputError(location=location, reason=reason)
        rows = _rows_that_fit(row_bytes)
        yield from (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))


def _shared_bytes(column: pa.Array) -> int:
    """The most that one row's texts take once they aren't shared any more."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return pc.max(pc.binary_length(column.dictionary)).as_py() or 0
    if pa.types.is_struct(kind):
        return sum(_shared_bytes(column.field(number)) for number in range(kind.num_fields))
    if pa.types.is_map(kind):
        items = _shared_bytes(column.keys) + _shared_bytes(column.items)
        lengths = pc.subtract(column.offsets[1:], column.offsets[:-1])
        return items and items * (pc.max(lengths).as_py() or 0)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        items = _shared_bytes(column.values)
        return items and items * (pc.max(pc.list_value_length(column)).as_py() or 0)
    return 0
