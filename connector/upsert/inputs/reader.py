"""The base of all readers: rows in order, and a checked header."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from connector.errors import DoubledColumn, InputError
from connector.upsert.inputs.files import LocalFile
from connector.upsert.inputs.text_decoding import Guess
from connector.upsert.rows.cells import InputRow
from connector.upsert.rows.write_schema import field_called, field_meant, is_field_word

MAX_RAW_CHARS = 32_000  # what a cell of a spreadsheet holds
HEADER_SEARCH_ROWS = 50
_EMAIL = re.compile(r"\s*[^@\s]+@[^@\s]+\.[^@\s]+\s*")
_PHONE = re.compile(r"\s*\+?[\d\s().-]{7,20}\s*")
_FEWEST_COLUMNS = 3  # of a table below a title; two are also a name with a comma in it


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
    file: what the rows are read from; None for tables. from_table: the rows come from a database,
    where read-only columns are expected. omits_cells: a row may leave out columns (see
    `InputRow.values`). delimiter: of a CSV file's cells. guess: how the encoding was guessed; None
    where it is certain.
    """

    from_table = False
    omits_cells = False
    delimiter = ","
    guess: Guess | None = None

    def __init__(
        self, *, name: str, columns: list[str], description: str, file: LocalFile | None = None
    ) -> None:
        self.name, self.columns, self.description = name, columns, description
        self.file = file
        self.empty_rows = RowNumbers()

    def __iter__(self) -> Iterator[InputRow]:
        """Each row. Raises InputChanged, behind the last row too, where the file was changed
        meanwhile: that also explains what can't be read."""
        self.empty_rows = RowNumbers()
        if self.file is None:
            yield from self._rows()
            return
        try:
            with self.file.reading():
                yield from self._rows()
        except InputError:
            self.file.check_unchanged()
            raise
        self.file.check_unchanged()

    @abstractmethod
    def _rows(self) -> Iterator[InputRow]: ...

    @property
    def notes(self) -> list[str]:
        """What people should know about the rows read so far, other than the rows themselves."""
        notes = self.guess.notes if self.guess else []
        if self.empty_rows.count:
            notes = [*notes, f"empty rows skipped: {self.empty_rows}"]
        return notes

    def close(self) -> None:
        """Close the file; the input can't be read afterwards."""
        if self.file is not None:
            self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


# --- the header -----------------------------------------------------------------------------


def check_first_row(rows: Iterable[tuple[int, Sequence[str]]], *, location: str) -> None:
    """Raises InputError where the first of `rows` is a title above the header, or a row of data.

    rows: (line, cells), the first with something in it first.
    """
    remaining = iter(rows)
    first_line, first = next(remaining)
    known = _fields_named(first)
    if known >= 2:
        return
    below = [(line, cells) for line, cells in remaining if any(cells)]
    header = next((line for line, cells in below if _fields_named(cells) >= 2), None)
    if header is None and known:
        return
    if header is None and _filled(first) < 2:
        header = _first_full_row(below)
    if header is not None:
        raise InputError(
            location=location,
            line=header,
            reason="looks like the header, but isn't the first line. Pass --skip-rows "
            f"{header - 1}, or remove what stands above it.",
        )
    for position, cell in enumerate(first, start=1):
        is_email = _EMAIL.fullmatch(cell) is not None
        digits = sum(map(str.isdigit, cell))
        if is_email or (_PHONE.fullmatch(cell) and (digits >= 10 or "+" in cell)):
            kind = "an email address" if is_email else "a phone number"
            raise InputError(
                location=location,
                line=first_line,
                reason=f"cell {position} is {kind}, so this is a row, not a header. Put a row "
                "above it that names the columns.",
            )


def _fields_named(cells: Sequence[str]) -> int:
    return sum((field_called(cell) or field_meant(cell)) is not None for cell in cells)


def _filled(cells: Sequence[str]) -> int:
    return sum(not cell.isspace() for cell in cells if cell)


def _first_full_row(rows: Sequence[tuple[int, Sequence[str]]]) -> int | None:
    """The line of the first row that is as wide as most rows, where that is a table."""
    widths = Counter(_filled(cells) for _, cells in rows)
    table = {width: count for width, count in widths.items() if width >= _FEWEST_COLUMNS}
    if not table or 2 * sum(table.values()) < len(rows):
        return None
    widest = max(table, key=lambda width: (table[width], width))
    return next(line for line, cells in rows if _filled(cells) >= widest)


def clean_header(cells: Sequence[str]) -> list[str]:
    """`cells` without outer white space and byte order marks, and without empty ones at the end.

    Spreadsheets leave empty columns at the right; a cell below such a column is a ragged row.
    """
    # the second one was read as CP1252, and saved so
    names = [cell.strip().strip("\ufeff").removeprefix("ï»¿").strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return names


def check_header(names: Sequence[str], *, location: str, line: int | None = None) -> None:
    """Raises InputError for a header without a name, DoubledColumn for a name used twice.

    line: of a file's first row, which may be a person's: only words for fields are quoted of it.
    """
    if not names:
        reason = "no header. The first row must name the columns."
        raise InputError(location=location, line=line, reason=reason)
    seen: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        if not name:
            reason = f"column {position} has no name. Name it in the header, or remove it."
            raise InputError(location=location, line=line, reason=reason)
        if name in seen:
            is_quotable = line is None or is_field_word(name)
            positions = None if is_quotable else (seen[name], position)
            raise DoubledColumn(
                location=location, columns=(name, name), field=name, line=line, positions=positions
            )
        seen[name] = position
