"""XLSX workbooks: one sheet, its stored values, and what the reader of values leaves out.

Formulas count as the value that was stored when the workbook was saved. Cells that show an error
(`#N/A`) and formulas without a stored value read as empty, which would leave a field alone in
silence; so the sheet's XML is searched for them, and they become text that is rejected.
"""

from __future__ import annotations

import itertools
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from python_calamine import (
    CalamineError,
    CalamineSheet,
    CalamineWorkbook,
    SheetTypeEnum,
    SheetVisibleEnum,
)

from connector.errors import InputError, nearest
from connector.upsert.inputs.files import LocalFile
from connector.upsert.inputs.headers import check_header, clean_header
from connector.upsert.inputs.rows import Input, InputRow
from connector.upsert.inputs.sheet_xml import SheetXmlError, valueless_cells
from connector.upsert.rows.cells import shown

MAX_WORKBOOK_BYTES = 2 * 1024**3
_SHOWN_SHEETS = 10
# zipfile's words for odd archives: RuntimeError for encrypted parts, NotImplementedError for
# compression it doesn't know, ValueError and OSError for offsets that point nowhere
_DAMAGE = (
    *(CalamineError, SheetXmlError, zipfile.BadZipFile, zlib.error, LookupError),
    *(EOFError, NotImplementedError, RuntimeError, ValueError, OSError),
)


class WorkbookInput(Input):
    """One sheet of an XLSX file. `row_number` is the sheet's. The sheet is held in memory.

    sheet: its name; the first visible one if None.

    Raises:
        InputError: no workbook, no such sheet, no header, a doubled or unnamed column.
    """

    def __init__(self, file: LocalFile, *, sheet: str | None = None) -> None:
        local = file.unzipped()
        self._sheet, position, count = _open(local, sheet)
        another = f" (sheet {self._sheet.name!r}; --sheet takes another)" if count > 1 else ""
        super().__init__(
            name=file.name + another,
            columns=[],
            description=f"XLSX, sheet {self._sheet.name!r} ({position + 1} of {count})",
        )
        self._valueless = _find_valueless(local, position)
        local.close()
        self._header_row, self.columns = self._header()
        check_header(self.columns, place=self.name, line=self._header_row)

    def _sheet_rows(self) -> Iterator[tuple[int, list[Any]]]:
        """(row number, cells from the sheet's first used column on)."""
        first_column = self._sheet.start[1] if self._sheet.start else 0
        for number, cells in enumerate(self._sheet.iter_rows(), start=1):
            for column, word in self._valueless.get(number, {}).items():
                if 0 <= column - first_column < len(cells):
                    cells[column - first_column] = word
            yield number, cells

    def _header(self) -> tuple[int, list[str]]:
        for number, cells in self._sheet_rows():
            if any(cell != "" for cell in cells):
                return number, clean_header([shown(cell) for cell in cells])
        raise InputError(
            place=self.name,
            reason=f"sheet {self._sheet.name!r} is empty. Name another with --sheet.",
        )

    def _rows(self) -> Iterator[InputRow]:
        width = len(self.columns)
        for number, cells in itertools.islice(self._sheet_rows(), self._header_row, None):
            beyond = next((cell for cell in cells[width:] if cell != ""), None)
            if all(cell == "" for cell in cells):
                self.empty_rows.add(number)
                continue
            values = dict(zip(self.columns, cells[:width], strict=True))
            if beyond is None:
                yield InputRow(number, values)
                continue
            problem = "a cell stands in a column without a header. Name the column, or empty it."
            yield InputRow(number, values, problem, shown(beyond)[:80])


def _open(file: LocalFile, wanted: str | None) -> tuple[CalamineSheet, int, int]:
    """(the sheet, its position among all, how many there are)."""
    with _readable(file.name):
        with zipfile.ZipFile(file.path) as archive:
            if sum(part.file_size for part in archive.infolist()) > MAX_WORKBOOK_BYTES:
                raise InputError(place=file.name, reason="is too large. Save the sheet as CSV.")
        workbook = CalamineWorkbook.from_path(str(file.path))
        sheets = workbook.sheets_metadata
        names = [sheet.name for sheet in sheets if sheet.typ == SheetTypeEnum.WorkSheet]
        chosen = wanted or _first_visible(workbook)
        if chosen not in names:
            like = nearest(chosen or "", names)
            hint = f" Did you mean {like!r}?" if like else ""
            there = ", ".join(map(repr, names[:_SHOWN_SHEETS]))
            raise InputError(
                place=file.name,
                reason=f"has no sheet {chosen!r}.{hint} --sheet takes one of {there}.",
            )
        position = [sheet.name for sheet in sheets].index(chosen)
        return workbook.get_sheet_by_name(chosen), position, len(sheets)


def _find_valueless(file: LocalFile, position: int) -> dict[int, dict[int, str]]:
    with _readable(file.name):
        return valueless_cells(file.path, position)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        reason = f"can't be read as a workbook ({error}). Save it again as .xlsx, or as CSV."
        raise InputError(place=name, reason=reason) from None


def _first_visible(workbook: CalamineWorkbook) -> str | None:
    sheets = [one for one in workbook.sheets_metadata if one.typ == SheetTypeEnum.WorkSheet]
    visible = [one for one in sheets if one.visible == SheetVisibleEnum.Visible] or sheets
    return visible[0].name if visible else None
