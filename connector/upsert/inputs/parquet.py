"""Parquet files, a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from connector.errors import InputError
from connector.upsert.inputs.batches import BATCH_ROWS, BatchesInput
from connector.upsert.inputs.files import LocalFile


def parquet_input(file: LocalFile) -> BatchesInput:
    """The rows of a Parquet file.

    Raises:
        InputError: it can't be read, or has two columns of one name.
    """
    local = file.unzipped()

    @contextmanager
    def open_batches() -> Iterator[Iterable[pa.RecordBatch]]:
        with _readable(local), pq.ParquetFile(local.path) as opened:
            yield opened.iter_batches(batch_size=BATCH_ROWS)

    with _readable(local), pq.ParquetFile(local.path) as opened:
        columns = list(opened.schema_arrow.names)
    return BatchesInput(open_batches, name=file.name, columns=columns, description="Parquet")


@contextmanager
def _readable(file: LocalFile) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = f"can't be read as Parquet ({str(error).splitlines()[0]}). Write it again."
        raise InputError(place=file.name, reason=reason) from None
