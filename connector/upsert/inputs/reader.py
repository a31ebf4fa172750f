"""What every kind of input hands out: rows with the number a person would look for."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from connector.errors import DoubledColumn, InputError
from connector.upsert.inputs.text_decoding import Guess
from connector.upsert.rows.cells import InputRow
from connector.upsert.rows.field_names import field_called, field_meant, is_field_word

MAX_RAW_CHARS = 32_000  # what a cell of a spreadsheet holds


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


LOOKED_AT_ROWS = 50
_EMAIL = re.compile(r"\s*[^@\s]+@[^@\s]+\.[^@\s]+\s*")
_PHONE = re.compile(r"\s*\+?[\d\s().-]{7,20}\s*")
_FEWEST_COLUMNS = 3  # of a table below a title; two are also a name with a comma in it


def check_first_row(rows: Iterable[tuple[int, Sequence[str]]], *, place: str) -> None:
    """Raises InputError where the first of `rows` is a title above the header, or a row of data.

    rows: (line, cells), the first with something in it first.
    """
    remaining = iter(rows)
    first_line, first = next(remaining)
    known = _known(first)
    if known >= 2:
        return
    below = [(line, cells) for line, cells in remaining if any(cells)]
    header = next((line for line, cells in below if _known(cells) >= 2), None)
    if header is None and known:
        return
    if header is None and len(_filled(first)) < 2:
        header = _first_full_row(below)
    if header is not None:
        raise InputError(
            place=place,
            line=header,
            reason="looks like the header, and isn't the first line. Pass --skip-rows "
            f"{header - 1}, or remove what stands above it.",
        )
    for position, cell in enumerate(first, start=1):
        kind = "an email address" if _EMAIL.fullmatch(cell) else "a phone number"
        if _EMAIL.fullmatch(cell) or _is_phone(cell):
            raise InputError(
                place=place,
                line=first_line,
                reason=f"cell {position} is {kind}, so this is a row and no header. Put a row "
                "above it that names the columns.",
            )


def _is_phone(cell: str) -> bool:
    digits = sum(character.isdigit() for character in cell)
    return _PHONE.fullmatch(cell) is not None and (digits >= 10 or "+" in cell)


def _known(cells: Sequence[str]) -> int:
    return sum((field_called(cell) or field_meant(cell)) is not None for cell in cells)


def _filled(cells: Sequence[str]) -> list[str]:
    return [cell for cell in cells if cell.strip()]


def _first_full_row(rows: Sequence[tuple[int, Sequence[str]]]) -> int | None:
    """The line of the first row that is as wide as most rows, where that is a table."""
    widths = Counter(len(_filled(cells)) for _, cells in rows)
    table = {width: count for width, count in widths.items() if width >= _FEWEST_COLUMNS}
    if not table or 2 * sum(table.values()) < len(rows):
        return None
    widest = max(table, key=lambda width: (table[width], width))
    return next(line for line, cells in rows if len(_filled(cells)) >= widest)


def clean_header(cells: Sequence[str]) -> list[str]:
    """`cells` without outer white space and byte order marks, and without empty ones at the end.

    Spreadsheets leave empty columns at the right; a cell below such a column is a ragged row.
    """
    names = [cell.strip().strip("\ufeff").strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return names


def check_header(names: Sequence[str], *, place: str, line: int | None = None) -> None:
    """Raises InputError for a header without a name, DoubledColumn for a name used twice.

    line: of a file's first row, which may be a person's: only words for fields are quoted of it.
    """
    if not names:
        raise InputError(
            place=place, line=line, reason="no header. The first row must name the columns."
        )
    seen: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        if not name:
            raise InputError(
                place=place,
                line=line,
                reason=f"column {position} has no name. Name it in the header, or remove it.",
            )
        if name in seen:
            positions = (seen[name], position)
            quotes = line is None or is_field_word(name)
            raise DoubledColumn(
                place=place, columns=(name, name), field=name, line=line,
                positions=None if quotes else positions,
            )  # fmt: skip
        seen[name] = position
