"""What every kind of input hands out: rows with the number a person would look for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

from connector.errors import InputError
from connector.upsert.inputs.guessing import Guess

MAX_RAW_CHARS = 32_000  # what a cell of a spreadsheet holds


class InputRow(NamedTuple):
    """One row, not yet checked. (A tuple, since a million are made; so is ValidRow.)

    row_number: the line a row of text starts on, the sheet's row number, or the position in a
    Parquet file, table or query; from 1, the header counted where there is one.
    values: by column, as the source holds them; text formats hold text. A column that the row
    doesn't mention (a key that a line of JSON leaves out) is missing here; one that it shows as
    empty is there, as None or "". Only the latter may ever clear a field.
    problem: why this row can't be read as a row of this input; None where it can. It never quotes
    the row: it goes into logs and the ledger.
    raw: the row as it stands in the input, where `values` can't hold all of it; for the rejects
    file alone.
    """

    row_number: int
    values: dict[str, Any]
    problem: str | None = None
    raw: str | None = None


@dataclass
class RowNumbers:
    """Rows that people should know of: how many, and the first of them."""

    count: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, row_number: int, count: int = 1) -> None:
        """Note `count` rows from `row_number` on."""
        self.count += count
        self.first += range(row_number, row_number + min(count, 5 - len(self.first)))

    def __str__(self) -> str:
        numbers = ", ".join(map(str, self.first)) + (", …" if self.count > len(self.first) else "")
        return f"{self.count} (row {numbers})"


class Input(ABC):
    """Rows to push, in order. Iterating again starts over.

    name: the file or table, for people. columns: as the source names them, in order.
    description: what was detected (format, encoding, delimiter, sheet).
    from_table: the rows come from a database, where read-only columns are expected.
    omits_cells: a row may leave out columns (see `InputRow.values`).
    delimiter: of a CSV file's cells. guess: how the encoding was guessed; None where it is
    certain. on_end: called behind the last row, before anything is sent; raises InputChanged.
    reading: what turns a failing read into an InputError.
    """

    from_table = False
    omits_cells = False
    delimiter = ","
    guess: Guess | None = None

    def __init__(self, *, name: str, columns: list[str], description: str) -> None:
        self.name, self.columns, self.description = name, columns, description
        self.empty_rows = RowNumbers()
        self.on_close: Callable[[], None] | None = None
        self.on_end: Callable[[], None] | None = None
        self.reading: Callable[[], AbstractContextManager[None]] = nullcontext

    def __iter__(self) -> Iterator[InputRow]:
        self.empty_rows = RowNumbers()
        try:
            with self.reading():
                yield from self._rows()
        except InputError:
            self._check_end()  # what changed meanwhile explains what can't be read
            raise
        self._check_end()

    def _check_end(self) -> None:
        if self.on_end is not None:
            self.on_end()

    @abstractmethod
    def _rows(self) -> Iterator[InputRow]: ...

    @property
    def notes(self) -> list[str]:
        """What people should know about the rows read so far, beside the rows themselves."""
        empty = self.empty_rows  # they are no rows, but are said to be there
        passed_over = [f"empty rows passed over: {empty}"] if empty.count else []
        return [*self._guess_notes(), *passed_over]

    def _guess_notes(self) -> list[str]:
        if self.guess is None:
            return []
        if not self.guess.decides_words:
            return ["the encoding is guessed; only signs between words depend on it (--encoding)"]
        return [
            "the encoding is guessed, and words depend on it. A push needs --encoding NAME:",
            *self.guess.lines(),
        ]

    def close(self) -> None:
        """Give back what is held; the input can't be read afterwards."""
        if self.on_close is not None:
            self.on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
