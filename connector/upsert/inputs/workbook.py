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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from connector.errors import InputError, nearest
from connector.upsert.inputs.files import LocalFile
from connector.upsert.inputs.headers import (
    LOOKED_AT_ROWS,
    check_first_row,
    check_header,
    clean_header,
)
from connector.upsert.inputs.rows import MAX_RAW_CHARS, Input, InputRow, RowNumbers
from connector.upsert.inputs.sheet_xml import (
    Merge,
    SheetName,
    SheetRow,
    SheetXmlError,
    Workbook,
    column_letters,
)
from connector.upsert.rows.cells import shown

_SHOWN_SHEETS, _SHOWN_MERGES = 10, 5
# zipfile's words for odd archives: RuntimeError for encrypted parts, NotImplementedError for
# compression it doesn't know, ValueError and OSError for offsets that point nowhere
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
        self._file_name, self._skip_rows = file.name, skip_rows
        self._hidden = RowNumbers()
        self._stream = file.unzipped().open()
        with self._readable():
            self._workbook = Workbook(self._stream, place=file.name)
            self._sheet = _choose(self._workbook.sheets, sheet, place=file.name)
            self._merges = self._workbook.merges(self._sheet)
        count = len(self._workbook.sheets)
        hint = "" if sheet else "; --sheet takes another"
        another = f" (sheet {self._sheet.name!r}{hint})" if count > 1 else ""
        position = self._workbook.sheets.index(self._sheet) + 1
        super().__init__(
            name=file.name + another,
            columns=[],
            description=f"XLSX, sheet {self._sheet.name!r} ({position} of {count})",
        )
        self._header_row, self._first_column, self.columns = self._header()
        check_header(self.columns, place=self.name, line=self._header_row)
        last_column = self._first_column + len(self.columns) - 1
        self._merges = [
            merge
            for merge in self._merges
            if merge.first_row > self._header_row
            and self._first_column <= merge.last_column
            and merge.first_column <= last_column
        ]
        self.omits_cells = bool(self._merges)

    def _sheet_rows(self) -> Iterator[SheetRow]:
        rows = self._workbook.rows(self._sheet)
        return itertools.dropwhile(lambda row: row.number <= self._skip_rows, rows)

    def _header(self) -> tuple[int, int, list[str]]:
        """(the header's row, its first column, the names)."""
        with self._readable():
            looked_at = list(itertools.islice(self._sheet_rows(), LOOKED_AT_ROWS))
        if not looked_at:
            below = f" below row {self._skip_rows}" if self._skip_rows else ""
            reason = f"sheet {self._sheet.name!r} is empty{below}. Name another with --sheet."
            raise InputError(place=self.name, reason=reason)
        check_first_row(((row.number, _texts(row)) for row in looked_at), place=self.name)
        header = looked_at[0]
        return header.number, min(header.cells), clean_header(_texts(header))

    def _rows(self) -> Iterator[InputRow]:
        with self._readable():
            yield from self._filled_rows()

    def _filled_rows(self) -> Iterator[InputRow]:
        merged = _Merged(self._merges)
        expected = self._header_row + 1
        self._hidden = RowNumbers()
        for number, cells, hidden in self._sheet_rows():
            if number <= self._header_row:
                continue
            if number > expected:
                self.empty_rows.add(expected, number - expected)
            expected = number + 1
            if hidden:
                self._hidden.add(number)
            values: dict[str, Any] = {}
            for column, name in enumerate(self.columns, start=self._first_column):
                values[name] = cells.pop(column, "")
            for name, value in merged.covered(number, values, self._first_column, self.columns):
                if value is None:
                    del values[name]
                else:
                    values[name] = value
            yield self._row(number, values, cells)

    def _row(self, number: int, values: dict[str, Any], rest: dict[int, Any]) -> InputRow:
        if not rest:
            return InputRow(number, values)
        column, value = next(iter(rest.items()))
        problem = (
            f"cell {column_letters(column)}{number} stands in a column without a header. Name the "
            "column, or empty the cell."
        )
        return InputRow(number, values, problem, shown(value)[:MAX_RAW_CHARS])

    @property
    def notes(self) -> list[str]:
        found = super().notes
        if self._hidden.count:
            found.append(
                f"rows that the sheet hides, by a filter or by hand: {self._hidden}; they count as "
                "the others do. To leave them out, copy what is visible into a sheet of its own"
            )
        if not self._merges:
            return found
        named = ", ".join(merge.reference for merge in self._merges[:_SHOWN_MERGES])
        more = ", …" if len(self._merges) > _SHOWN_MERGES else ""
        merged = (
            f"merged cells ({named}{more}): their value counts for each row that they cover, in "
            "their first column; their other columns are left as they are in HiringCenter"
        )
        return [*found, merged]

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            reason = f"can't be read as a workbook ({error}). Save it again as .xlsx, or as CSV."
            raise InputError(place=self._file_name, reason=reason) from None


class _Merged:
    """What merged ranges say about the rows that they cover, as these come by in order."""

    def __init__(self, merges: Iterable[Merge]) -> None:
        self._coming = list(reversed(list(merges)))
        self._open: list[tuple[Merge, Any]] = []

    def covered(
        self, number: int, values: dict[str, Any], first_column: int, columns: list[str]
    ) -> list[tuple[str, Any]]:
        """(column, value) of each covered cell in row `number`; None: the source doesn't say."""
        self._open = [each for each in self._open if each[0].last_row >= number]
        while self._coming and self._coming[-1].first_row <= number:
            merge = self._coming.pop()
            if merge.last_row < number:
                continue
            at = merge.first_column - first_column
            starts_here = merge.first_row == number and 0 <= at < len(columns)
            self._open.append((merge, values[columns[at]] if starts_here else None))
        if len(self._open) > len(columns):
            raise SheetXmlError("its merged cells overlap")
        return [
            (columns[at], value if at == merge.first_column - first_column else None)
            for merge, value in self._open
            for at in range(
                max(0, merge.first_column - first_column),
                min(len(columns), merge.last_column - first_column + 1),
            )
            if values.get(columns[at]) == ""
        ]


def _texts(row: SheetRow) -> list[str]:
    """The row's cells as text, from the first that has something in it on."""
    first, last = min(row.cells), max(row.cells)
    return [shown(row.cells.get(column, "")) for column in range(first, last + 1)]


def _choose(sheets: list[SheetName], wanted: str | None, *, place: str) -> SheetName:
    for sheet in sheets:
        if sheet.name == wanted or (wanted is None and sheet.visible):
            return sheet
    if wanted is None and sheets:
        return sheets[0]
    names = [sheet.name for sheet in sheets]
    like = nearest(wanted or "", names)
    hint = f" Did you mean {like!r}?" if like else ""
    there = ", ".join(map(repr, names[:_SHOWN_SHEETS]))
    raise InputError(
        place=place, reason=f"has no sheet {wanted!r}.{hint} --sheet takes one of {there}."
    )
