"""XLSX workbooks: one sheet, as it shows its values, and what it can't show.

Formulas count as the value that was stored when the workbook was saved. Cells that show an error
(`#N/A`), formulas that no program has computed, and numbers of more digits than a spreadsheet
keeps become values that are rejected; they are never taken for empty. A merged cell's value counts
for every row that it covers.
"""

from __future__ import annotations

import itertools
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from connector.errors import InputError, did_you_mean
from connector.upsert.inputs.files import LocalFile
from connector.upsert.inputs.reader import (
    HEADER_SEARCH_ROWS,
    MAX_RAW_CHARS,
    Input,
    RowNumbers,
    check_first_row,
    check_header,
    clean_header,
)
from connector.upsert.inputs.sheet_xml import Merge, Sheet, SheetRow, SheetXmlError, Workbook
from connector.upsert.rows.cells import InputRow, shown

_SHOWN_SHEETS, _SHOWN_MERGES = 10, 5
# zipfile's exceptions for malformed archives: RuntimeError for encrypted parts, NotImplementedError
# for compression it doesn't know, ValueError and OSError for offsets that point nowhere
_DAMAGE = (
    *(SheetXmlError, zipfile.BadZipFile, zlib.error, LookupError),
    *(EOFError, NotImplementedError, RuntimeError, ValueError, OSError, OverflowError),
)


class WorkbookInput(Input):
    """One sheet of an XLSX file. `row_number` is the sheet's.

    sheet: its name; the first visible one if None. skip_rows: rows above the header.

    Raises:
        InputError: no workbook, no such sheet, no header, a doubled or unnamed column.
    """

    def __init__(self, file: LocalFile, *, sheet: str | None = None, skip_rows: int = 0) -> None:
        self._file_name, self._skip_rows, self._hidden = file.name, skip_rows, RowNumbers()
        stream = file.unpacked().open()
        with self._readable():
            self._workbook = Workbook(stream, location=file.name)
            sheets = self._workbook.sheets
            self._sheet = _choose(sheets, sheet, location=file.name)
            merges = self._workbook.merges(self._sheet)
            looked_at = list(itertools.islice(self._sheet_rows(), HEADER_SEARCH_ROWS))
        name, title = file.name, self._sheet.name
        if len(sheets) > 1:
            name += f" (sheet {title!r}{'' if sheet else '; --sheet takes another'})"
        if not looked_at:
            below = f" below row {skip_rows}" if skip_rows else ""
            reason = f"sheet {title!r} is empty{below}. Name another with --sheet."
            raise InputError(location=name, reason=reason)
        header = looked_at[0]
        check_first_row(((row.number, row.texts()) for row in looked_at), location=name)
        columns = clean_header(header.texts())
        check_header(columns, location=name, line=header.number)
        position = f"{sheets.index(self._sheet) + 1} of {len(sheets)}"
        description = f"XLSX, sheet {title!r} ({position})"
        super().__init__(name=name, columns=columns, description=description, file=file)
        self._header_row, self._first_column = header.number, min(header.cells)
        self._merges = [
            merge
            for merge in merges
            if merge.first_row > header.number
            and self._first_column <= merge.last_column
            and merge.first_column < self._first_column + len(columns)
        ]
        self.omits_cells = bool(self._merges)

    def _sheet_rows(self) -> Iterator[SheetRow]:
        rows = self._workbook.rows(self._sheet)
        return itertools.dropwhile(lambda row: row.number <= self._skip_rows, rows)

    def _rows(self) -> Iterator[InputRow]:
        merged = _MergedCells(self._merges, self.columns, self._first_column)
        expected = self._header_row + 1
        self._hidden = RowNumbers()
        with self._readable():
            for number, cells, is_hidden in self._sheet_rows():
                if number <= self._header_row:
                    continue
                if number > expected:
                    self.empty_rows.add(expected, number - expected)
                expected = number + 1
                if is_hidden:
                    self._hidden.add(number)
                values = {
                    name: cells.pop(column, "")
                    for column, name in enumerate(self.columns, start=self._first_column)
                }
                merged.fill_in(number, values)
                yield _row_without_stray(number, values, cells)

    @property
    def notes(self) -> list[str]:
        found = super().notes
        if self._hidden.count:
            found.append(
                f"rows that are hidden, by a filter or by hand: {self._hidden}; they are pushed "
                "like the others. To leave them out, copy the visible rows to another sheet"
            )
        if self._merges:
            named = ", ".join(merge.reference for merge in self._merges[:_SHOWN_MERGES])
            more = ", …" if len(self._merges) > _SHOWN_MERGES else ""
            found.append(
                f"merged cells ({named}{more}): their value applies to each row that they cover, "
                "in their first column; their other columns are left as they are in HiringCenter"
            )
        return found

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            reason = f"can't be read as a workbook ({error}). Save it again as .xlsx, or as CSV."
            raise InputError(location=self._file_name, reason=reason) from None


def _choose(sheets: list[Sheet], wanted: str | None, *, location: str) -> Sheet:
    for sheet in sheets:
        if sheet.name == wanted or (wanted is None and sheet.is_visible):
            return sheet
    if wanted is None and sheets:
        return sheets[0]
    names = [sheet.name for sheet in sheets]
    hint = did_you_mean(wanted or "", names)
    there = ", ".join(map(repr, names[:_SHOWN_SHEETS]))
    reason = f"has no sheet {wanted!r}.{hint} --sheet takes one of {there}."
    raise InputError(location=location, reason=reason)


def _row_without_stray(number: int, values: dict[str, Any], stray: dict[int, Any]) -> InputRow:
    """The row, with its problem where cells are left that no column has."""
    if not stray:
        return InputRow(number, values)
    column, value = next(iter(stray.items()))
    letters, left = "", column + 1
    while left:
        left, letter = divmod(left - 1, 26)
        letters = chr(ord("A") + letter) + letters
    problem = (
        f"cell {letters}{number} is in a column without a header. Name the column, or empty "
        "the cell."
    )
    return InputRow(number, values, problem, shown(value)[:MAX_RAW_CHARS])


class _MergedCells:
    """What merged ranges say about the rows that they cover, as these come by in order."""

    def __init__(self, merges: list[Merge], columns: list[str], first_column: int) -> None:
        self._columns, self._first_column = columns, first_column
        self._coming = merges[::-1]
        self._open: list[tuple[Merge, Any]] = []

    def fill_in(self, number: int, values: dict[str, Any]) -> None:
        """Give the empty cells of row `number` that are covered their range's value in its first
        column; take the others out, since the source says nothing of them."""
        columns, first = self._columns, self._first_column
        self._open = [each for each in self._open if each[0].last_row >= number]
        while self._coming and self._coming[-1].first_row <= number:
            merge = self._coming.pop()
            at = merge.first_column - first
            starts_here = merge.first_row == number and 0 <= at < len(columns)
            if merge.last_row >= number:
                self._open.append((merge, values.get(columns[at]) if starts_here else None))
        if len(self._open) > len(columns):
            raise SheetXmlError("its merged cells overlap")
        for merge, value in self._open:
            for column in range(max(first, merge.first_column), merge.last_column + 1):
                name = columns[column - first] if column - first < len(columns) else None
                if name is None or values.get(name) != "":
                    continue
                if column == merge.first_column and value is not None:
                    values[name] = value
                else:
                    del values[name]
