"""XLSX workbooks: one sheet, as it shows its values, and what it can't show.

Formulas count as the value that was stored when the workbook was saved. Cells that show an error
(`#N/A`), formulas that no program has computed, and numbers of more digits than a spreadsheet
keeps become values that are rejected; they are never taken for empty. A merged cell's value counts
for every row that it covers.
"""

from __future__ import annotations

import itertools
import posixpath
import re
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import IO, Any, BinaryIO, NamedTuple
from xml.parsers import expat

from connector.errors import InputError, nearest
from connector.upsert.inputs.files import LocalFile, check_unpacked
from connector.upsert.inputs.number_formats import NumberFormat, plain_number
from connector.upsert.inputs.reader import (
    LOOKED_AT_ROWS,
    MAX_RAW_CHARS,
    Input,
    RowNumbers,
    check_first_row,
    check_header,
    clean_header,
)
from connector.upsert.rows.cells import NOT_COMPUTED, InputRow, Unreadable, is_error_word, shown

MAX_ROWS, MAX_COLUMNS, MAX_MERGES = 1_048_576, 16_384, 100_000
MAX_WORKBOOK_BYTES = 2 * 1024**3
MAX_STRING_BYTES, MAX_ROW_CHARS = 256 * 1024**2, 16 * 1024**2
_CHUNK_BYTES = 64 * 1024
_MAX_TOKEN_BYTES = 16 * 1024**2
_REFERENCE = re.compile(r"\$?([A-Za-z]{1,3})\$?(\d{1,7})")
_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")
_SHOWN_ERROR_CHARS = 40

StartElement = Callable[[str, dict[str, str]], None]


class SheetXmlError(Exception):
    """The workbook's XML isn't what it should be."""


class Merge(NamedTuple):
    """A merged range; rows from 1, columns from 0, both ends in it."""

    first_row: int
    first_column: int
    last_row: int
    last_column: int
    reference: str


class SheetRow(NamedTuple):
    """number: from 1. cells: column (from 0) → value, of those with something in them. hidden: by a
    filter, or by hand."""

    number: int
    cells: dict[int, Any]
    hidden: bool = False


@dataclass(frozen=True)
class SheetName:
    """A worksheet of the workbook. part: its path inside the archive."""

    name: str
    part: str
    visible: bool


class Workbook:
    """An XLSX file. sheets: its worksheets, in order.

    Raises:
        SheetXmlError: XML that isn't well-formed, or has a document type.
        LookupError, zipfile.BadZipFile, zlib.error: parts are missing or damaged.
        InputError: it is beyond a limit.
    """

    def __init__(self, stream: BinaryIO, *, place: str) -> None:
        self._place = place
        self._archive = zipfile.ZipFile(stream)
        self._parts = {name.lower(): name for name in self._archive.namelist()}
        self._check_parts()
        self._from_1904 = self._computes_on_load = False
        self.sheets: list[SheetName] = []
        self._strings = _Strings(place)
        self._read_workbook(self._workbook_part())

    def _check_parts(self) -> None:
        total = sum(part.file_size for part in self._archive.infolist())
        if total > MAX_WORKBOOK_BYTES:
            limit = f"{MAX_WORKBOOK_BYTES >> 30} GB"
            reason = f"unpacks to more than {limit}, the limit. Save the sheet as CSV."
            raise InputError(place=self._place, reason=reason)
        for part in self._archive.infolist():
            check_unpacked(
                part.file_size, part.compress_size, place=f"{self._place}: {part.filename!r}"
            )
            if part.flag_bits & 1:
                reason = "is encrypted with a password. Remove the password, or save it as CSV."
                raise InputError(place=self._place, reason=reason)
            if part.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise SheetXmlError("its parts are packed in a way that spreadsheets don't use")

    def _open(self, part: str) -> IO[bytes]:
        return self._archive.open(self._parts[part.lower()])

    def _workbook_part(self) -> str:
        root: dict[str, str] = {}
        _parse(self._open("_rels/.rels"), start=_collect(root, "Relationship", "Type", "Target"))
        books = [to.lstrip("/") for kind, to in root.items() if kind.endswith("/officeDocument")]
        if not books:
            raise SheetXmlError("it names no workbook part")
        return books[0]

    def _read_workbook(self, part: str) -> None:
        found: list[tuple[str, str, str]] = []

        def start(name: str, attributes: dict[str, str]) -> None:
            local = _local(name)
            if local == "sheet":
                ids = [value for key, value in attributes.items() if _local(key) == "id"]
                found.append((attributes["name"], ids[-1], attributes.get("state", "visible")))
            elif local == "workbookPr":
                self._from_1904 = _is_true(attributes.get("date1904"))
            elif local == "calcPr":
                self._computes_on_load = _is_true(attributes.get("fullCalcOnLoad")) or (
                    attributes.get("calcCompleted") in ("0", "false")
                )

        _parse(self._open(part), start=start)
        folder, base = posixpath.split(part)
        relations: dict[str, str] = {}
        kinds: dict[str, str] = {}
        path = f"{folder}/_rels/{base}.rels".lstrip("/")
        _parse(self._open(path), start=_collect(relations, "Relationship", "Id", "Target"))
        _parse(self._open(path), start=_collect(kinds, "Relationship", "Id", "Type"))

        def full(target: str) -> str:
            return posixpath.normpath(posixpath.join("/", folder, target)).lstrip("/")

        self.sheets = [
            SheetName(name, full(relations[key]), state == "visible")
            for name, key, state in found
            if kinds[key].endswith("/worksheet")
        ]
        by_kind = {kind.rpartition("/")[2]: full(relations[key]) for key, kind in kinds.items()}
        if by_kind.get("sharedStrings", "").lower() in self._parts:
            self._strings.read(self._open(by_kind["sharedStrings"]))
        styles = by_kind.get("styles", "").lower() in self._parts
        self._formats = _formats(self._open(by_kind["styles"])) if styles else []

    def merges(self, sheet: SheetName) -> list[Merge]:
        """The merged ranges, in order of their first row. (They stand behind the rows.)"""
        found: list[Merge] = []
        with self._open(sheet.part) as stream:
            if not _mentions(stream, "mergeCell"):
                return []

        def start(name: str, attributes: dict[str, str]) -> None:
            if _local(name) != "mergeCell":
                return
            reference = attributes.get("ref", "")
            ends = [_position(end) for end in reference.split(":")]
            if len(ends) == 2:
                (row, column), (last_row, last_column) = ends
                found.append(Merge(row, column, last_row, last_column, reference))
            if len(found) > MAX_MERGES:
                reason = f"has more than {MAX_MERGES:,} merged ranges, the limit. Save it as CSV."
                raise InputError(place=self._place, reason=reason)

        _parse(self._open(sheet.part), start=start)
        return sorted(found)

    def rows(self, sheet: SheetName) -> Iterator[SheetRow]:
        """The rows that have a cell with something in it."""
        reader = _Rows(self._strings, self._formats, self._from_1904, self._computes_on_load)
        yield from reader.read(self._open(sheet.part))


class _Strings:
    """The strings that cells share, in two buffers: a million objects would take five times it."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._text, self._ends = bytearray(), array("Q", [0])

    def read(self, stream: IO[bytes]) -> None:
        parts: list[str] = []
        state = {"skipped": 0, "in": 0, "chars": 0}

        def start(name: str, _: dict[str, str]) -> None:
            local = _local(name)
            if local == "rPh":
                state["skipped"] += 1
            state["in"] = local == "t" and not state["skipped"]

        def end(name: str) -> None:
            local = _local(name)
            state["in"] = 0
            if local == "rPh":
                state["skipped"] -= 1
            elif local == "si":
                self._text += "".join(parts).encode("utf-8", "surrogatepass")
                self._ends.append(len(self._text))
                parts.clear()
                state["chars"] = 0

        def text(chunk: str) -> None:
            if state["in"]:
                parts.append(chunk)
                state["chars"] += len(chunk)
                if state["chars"] > MAX_ROW_CHARS:
                    raise SheetXmlError("one of its strings has no end")
                if len(self._text) > MAX_STRING_BYTES:
                    limit = f"{MAX_STRING_BYTES >> 20} MB"
                    reason = f"has more than {limit} of shared strings, the limit. Save it as CSV."
                    raise InputError(place=self._place, reason=reason)

        _parse(stream, start=start, end=end, text=text)

    def __getitem__(self, position: int) -> str:
        if not 0 <= position < len(self._ends) - 1:
            raise SheetXmlError("a cell refers to a string that isn't there")
        encoded = self._text[self._ends[position] : self._ends[position + 1]]
        return encoded.decode("utf-8", "surrogatepass")


class _Rows:
    """Reads `<row r="4"><c r="B4" s="1" t="e"><f>…</f><v>#N/A</v></c>…</row>` as it streams by.

    Rows and cells without a reference follow the one before.
    """

    def __init__(
        self,
        strings: _Strings,
        formats: list[NumberFormat],
        from_1904: bool,
        computes_on_load: bool,
    ) -> None:
        self._strings, self._formats = strings, formats
        self._from_1904, self._computes_on_load = from_1904, computes_on_load
        self._done: list[SheetRow] = []
        self._number, self._last_number, self._column = 0, 0, -1
        self._row_known = self._hidden = False
        self._cells: dict[int, Any] | None = None
        self._in_cell = self._in_value = self._has_formula = self._has_value = False
        self._phonetic = 0
        self._type, self._style, self._text, self._row_chars = "n", 0, "", 0
        self._locals: dict[str, str] = {}
        self._columns: dict[str, int] = {}

    def read(self, stream: IO[bytes]) -> Iterator[SheetRow]:
        for _ in _steps(stream, start=self._start, end=self._end, text=self._characters):
            yield from self._done
            self._done.clear()

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = self._locals.get(name) or self._locals.setdefault(name, _local(name))
        if self._in_cell:
            if local == "v" or (local == "t" and not self._phonetic):
                self._in_value = self._has_value = True
            elif local == "f":
                self._has_formula = True
            elif local == "rPh":
                self._phonetic += 1
        elif local == "c" and self._cells is not None:
            self._in_cell, self._has_formula, self._has_value = True, False, False
            self._text, self._phonetic = "", 0
            self._type, self._style = attributes.get("t", "n"), int(attributes.get("s", 0))
            self._place_cell(attributes.get("r"))
        elif local == "row":
            self._row_known = "r" in attributes
            self._number = int(attributes.get("r", self._last_number + 1))
            self._hidden = _is_true(attributes.get("hidden"))
            self._column, self._cells, self._row_chars = -1, {}, 0

    def _place_cell(self, reference: str | None) -> None:
        if reference is None:
            self._column += 1
        else:
            letters = reference.rstrip("0123456789")
            column = self._columns.get(letters)
            if column is None or not self._row_known:
                row, column = _position(reference)
                self._columns[letters] = column
                if not self._row_known:
                    self._number, self._row_known = row, True
            self._column = column
        if self._column >= MAX_COLUMNS:
            raise SheetXmlError(f"a row has more than {MAX_COLUMNS:,} cells")

    def _characters(self, text: str) -> None:
        if self._in_value:
            self._text += text
            self._row_chars += len(text)
            if self._row_chars > MAX_ROW_CHARS:
                raise SheetXmlError(
                    f"row {self._number} has more than {MAX_ROW_CHARS >> 20} million characters"
                )

    def _end(self, name: str) -> None:
        local = self._locals.get(name) or _local(name)
        if local in ("v", "t"):
            self._in_value = False
        elif local == "rPh":
            self._phonetic -= 1
        elif local == "c" and self._in_cell:
            self._in_cell = self._in_value = False
            value = self._value()
            if value != "" and self._cells is not None:
                self._cells[self._column] = value
        elif local == "row" and self._cells is not None:
            if not self._last_number < self._number <= MAX_ROWS:
                raise SheetXmlError(f"row {self._number} is out of order")
            self._last_number = self._number
            if self._cells:
                self._done.append(SheetRow(self._number, self._cells, self._hidden))
            self._cells = None

    def _value(self) -> Any:
        kind, text = self._type, self._text
        if kind == "e":
            return _error(text)
        if self._has_formula and (
            (not text and not (kind == "str" and self._has_value))
            or (self._computes_on_load and text in ("", "0"))
        ):
            return NOT_COMPUTED
        if kind == "s":
            return _unescaped(self._strings[int(text)]) if text else ""
        if kind in ("inlineStr", "str"):
            return _unescaped(text)
        if not text.strip():
            return ""
        if kind == "b":
            return text.strip() not in ("0", "false")
        if kind == "d":
            return _iso(text.strip())
        return self._number_value(text.strip())

    def _number_value(self, text: str) -> Any:
        try:
            number = plain_number(text)
        except ValueError:
            return Unreadable("a number that can't be read", text=text[:_SHOWN_ERROR_CHARS])
        if isinstance(number, Unreadable) or not 0 <= self._style < len(self._formats):
            return number
        style = self._formats[self._style]
        return number if style.decorates else style.value(number, from_1904=self._from_1904)


def _error(text: str) -> Any:
    word = text.strip() or "#VALUE!"
    if is_error_word(word):
        return word
    word = word[:_SHOWN_ERROR_CHARS]
    return Unreadable("an error", text=word, advice="Correct it, or empty the cell")


def _iso(text: str) -> date | datetime | time | str:
    for kind in (date, datetime, time):
        try:
            found: date | datetime | time = kind.fromisoformat(text)
        except ValueError:
            continue
        return found
    return text


def _unescaped(text: str) -> str:
    """`text` with the characters that XML can't hold, which stand as `_x000D_`."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text) if "_x" in text else text


def _formats(stream: IO[bytes]) -> list[NumberFormat]:
    """The number format of each cell style."""
    codes: dict[int, str] = {}
    numbers: list[int] = []
    inside: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        local = _local(name)
        if local == "numFmt" and len(inside) < 3:
            codes[int(attributes["numFmtId"])] = attributes.get("formatCode", "")
        elif local == "xf" and inside[-1:] == ["cellXfs"]:
            numbers.append(int(attributes.get("numFmtId", 0)))
        inside.append(local)

    def end(_: str) -> None:
        inside.pop()

    _parse(stream, start=start, end=end)
    made = {number: NumberFormat(codes.get(number), number) for number in set(numbers)}
    return [made[number] for number in numbers]


def _position(reference: str) -> tuple[int, int]:
    """(row from 1, column from 0) of `B4`."""
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise SheetXmlError("a cell has a reference that can't be read")
    column = 0
    for letter in match[1].upper():
        column = column * 26 + ord(letter) - ord("A") + 1
    return int(match[2]), column - 1


def column_letters(column: int) -> str:
    """`A` for 0, `XFD` for 16383."""
    letters = ""
    column += 1
    while column:
        column, rest = divmod(column - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def _is_true(value: str | None) -> bool:
    return value in ("1", "true")


def _local(name: str) -> str:
    return name.rpartition(" ")[2]


def _collect(into: dict[str, str], element: str, key: str, value: str) -> StartElement:
    def start(name: str, attributes: dict[str, str]) -> None:
        if _local(name) == element:
            into[attributes[key]] = attributes[value]

    return start


def _mentions(stream: IO[bytes], word: str) -> bool:
    """Whether `word` is in the XML, in any encoding that XML has."""
    wanted = [word.encode(codec) for codec in ("utf-8", "utf-16-le", "utf-16-be")]
    tail = b""
    while chunk := stream.read(1024 * 1024):
        if any(each in tail + chunk for each in wanted):
            return True
        tail = chunk[-64:]
    return False


def _refuse_document_type(*_: object) -> None:
    raise SheetXmlError("it has a document type")


def _parse(
    stream: IO[bytes],
    *,
    start: StartElement,
    end: Callable[[str], None] | None = None,
    text: Callable[[str], None] | None = None,
) -> None:
    for _ in _steps(stream, start=start, end=end, text=text):
        pass


def _steps(
    stream: IO[bytes],
    *,
    start: StartElement,
    end: Callable[[str], None] | None = None,
    text: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Parses `stream`, and pauses behind each chunk of it."""
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_document_type
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    fed = 0
    try:
        with stream:
            while chunk := stream.read(_CHUNK_BYTES):
                parser.Parse(chunk, False)
                fed += len(chunk)
                if fed - parser.CurrentByteIndex > _MAX_TOKEN_BYTES:
                    raise SheetXmlError("a part of its XML has no end")
                yield
            parser.Parse(b"", True)
            yield
    except expat.ExpatError as error:
        raise SheetXmlError(str(error)) from None


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
