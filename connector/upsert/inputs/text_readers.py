"""CSV, TSV and the like: the standard library's reader in strict mode, with line numbers.

A row that can't be read is returned with its problem, and reading resumes at the next line; where
the next line can't be recognized (a quote that spans lines and isn't closed as it should be), the
file as a whole is refused, since every row below would be a guess.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from connector.errors import InputError
from connector.upsert.inputs.reader import (
    HEADER_SEARCH_ROWS,
    MAX_RAW_CHARS,
    Input,
    check_first_row,
    check_header,
    clean_header,
)
from connector.upsert.inputs.text_decoding import DecodedFile, undecodable_byte
from connector.upsert.rows.cells import InputRow, amount
from connector.upsert.rows.column_mapping import REASON_COLUMN

MAX_CELL_CHARS, MAX_RECORD_CHARS = 16 * 1024 * 1024, 32 * 1024 * 1024
MAX_CELLS = 20_000
_SAMPLE_CHARS = 64 * 1024
_STRAY_CR = (
    "a carriage return that isn't in quotes cuts this row in two. Quote its cell, or remove it."
)
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
_BY_NAME = {name: delimiter for delimiter, name in _DELIMITERS.items()} | {"\\t": "\t"}
# Excel's `sep=;`, also where it was saved as a row of its own
_SEP_LINE = re.compile(r'^\ufeff?"?sep=([^\w\s"]|\t)"?\1*\r?\n?$', re.IGNORECASE)


class _Record(NamedTuple):
    """What the reader takes for one row; problem: why it is none, raw: its line then."""

    line: int
    last_line: int
    cells: list[str]
    problem: str | None = None
    raw: str | None = None


class _BoundedLines:
    """The file's lines as the reader takes them, bounded before it builds cells of them.

    last: the one it took last. record_chars: of the lines since this was set to 0.
    """

    def __init__(self, lines: Iterable[str], *, delimiter: str, location: str) -> None:
        self._lines, self._delimiter, self._location = lines, delimiter, location
        self.last, self.record_chars = "", 0

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.last = line
            self.record_chars += len(line)
            if self.record_chars > MAX_CELLS:
                self._check()
            yield line

    def _check(self) -> None:
        if self.record_chars > MAX_RECORD_CHARS:
            reason = f"a row of more than {MAX_RECORD_CHARS >> 20} million characters. Is a quote "
            raise InputError(location=self._location, reason=reason + "missing?")
        if self.last.count(self._delimiter) > MAX_CELLS:
            reason = f"a row of more than {MAX_CELLS:,} cells. Is this a list of people?"
            raise InputError(location=self._location, reason=reason)


class CsvInput(Input):
    """A CSV file. `row_number` is the line its row starts on.

    delimiter: itself or its name; detected if None. skip_rows: lines above the header.

    Raises:
        InputError: no header, a doubled or unnamed column, a quote that never ends.
    """

    def __init__(
        self, text: DecodedFile, *, delimiter: str | None = None, skip_rows: int = 0
    ) -> None:
        self._text, name = text, text.file.name
        named = _named_delimiter(delimiter, location=name) if delimiter else None
        csv.field_size_limit(MAX_CELL_CHARS)
        with text.open() as stream:
            lines = [stream.readline(), *itertools.islice(stream, max(0, skip_rows - 1))]
            declared = _SEP_LINE.match(lines[0])
            self._skipped_lines = max(skip_rows, 1 if declared else 0)
            sample = lines[self._skipped_lines :] + stream.readlines(_SAMPLE_CHARS)
        self.delimiter = named or (declared[1] if declared else _detected_delimiter(sample))
        description = f"CSV, {text.label}, {_DELIMITERS.get(self.delimiter, 'own')} delimiter"
        super().__init__(name=name, columns=[], description=description, file=text.file)
        self.guess = text.guess
        self._header_line, header = self._header()
        self._header_width, self.columns = len(header), clean_header(header)
        check_header(self.columns, location=name, line=self._header_line)

    def _header(self) -> tuple[int, list[str]]:
        """(the line the header starts on, its cells)."""
        records = self._records()
        for line, _, cells, problem, _ in records:
            if problem:
                raise InputError(location=self.name, line=line, reason=f"the header: {problem}")
            if cells:
                rows = itertools.chain([(line, cells)], self._rows_below(records))
                check_first_row(rows, location=self.name)
                return line, cells
        below = f" below its first {self._skipped_lines} lines" if self._skipped_lines else ""
        reason = f"is empty{below}. The first row must name the columns."
        raise InputError(location=self.name, reason=reason)

    @staticmethod
    def _rows_below(records: Iterator[_Record]) -> Iterator[tuple[int, list[str]]]:
        """The first `records`, up to one that can't be read, which is reported in its turn."""
        with suppress(InputError):
            for record in itertools.islice(records, HEADER_SEARCH_ROWS):
                yield record.line, record.cells

    def _rows(self) -> Iterator[InputRow]:
        columns, width = self.columns, len(self.columns)
        records = self._records()
        for record in records:
            if record.line == self._header_line:
                break
        for line, last_line, cells, problem, raw in records:
            if len(cells) == self._header_width > width and not any(cells[width:]):
                del cells[width:]
            if problem is None and not any(map(str.strip, cells)):
                self.empty_rows.add(line)
            elif problem is None and len(cells) == width:
                yield InputRow(line, dict(zip(columns, cells, strict=True)))
            else:
                values = dict(zip(columns, cells, strict=False))
                if raw is None and len(cells) != width:
                    raw = self._raw(cells)
                    problem = problem or _ragged(len(cells), width, line, last_line, len(raw))
                yield InputRow(line, values, problem, raw)

    def _raw(self, cells: list[str]) -> str:
        """The row in one cell; of one that is a reject again, what it held the first time."""
        if len(cells) == len(self.columns) + 1 and self.columns[-1] == REASON_COLUMN:
            return cells[-1]
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=self.delimiter, lineterminator="").writerow(cells)
        return text.getvalue()[:MAX_RAW_CHARS]

    def _records(self) -> Iterator[_Record]:
        """Each record, empty ones too. The reader takes a stray carriage return in a cell for the
        end of its row, which then seems whole: the next record shows whether it is."""
        with self._text.open() as text:
            for _ in range(self._skipped_lines):
                next(text, None)
            lines = _BoundedLines(text, delimiter=self.delimiter, location=self.name)
            reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
            are_cr_usual: bool | None = None  # line ends of old Macs; the first line decides
            held: _Record | None = None
            while True:
                start, problem, raw = reader.line_num + 1 + self._skipped_lines, None, None
                lines.record_chars = 0
                try:
                    cells = next(reader)
                except StopIteration:
                    break
                except csv.Error as error:
                    at = reader.line_num + self._skipped_lines
                    problem = self._broken_quote(error, start, at, lines.last)
                    cells, raw = [], lines.last.rstrip("\r\n")[:MAX_RAW_CHARS]
                else:
                    problem = self._undecodable(cells) if self._text.damaged else None
                last = reader.line_num + self._skipped_lines
                record = _Record(start, last, cells, problem, raw)
                if held is not None:
                    is_cut = len(held.cells) != len(record.cells)
                    yield held._replace(problem=held.problem or _STRAY_CR) if is_cut else held
                ends_in_cr = lines.last.endswith("\r")
                are_cr_usual = ends_in_cr if are_cr_usual is None else are_cr_usual
                held = record if ends_in_cr and not are_cr_usual else None
                if held is None:
                    yield record
            if held is not None:
                yield held

    def _broken_quote(self, error: csv.Error, start: int, last: int, line: str) -> str:
        """The problem of the row at `start`; raises InputError where the rest can't be read."""
        if "field larger" in str(error):
            reason = f"a cell of more than {MAX_CELL_CHARS >> 20} million characters, up to line "
            reason += f"{last}. Is a quote missing?"
        elif "unexpected end" in str(error):
            reason = "a quote is opened in this row and never closed. Close it, or double it."
        elif last > start or line.count('"') % 2:
            reason = f"a quote opened in this row isn't closed as it should be (by line {last}), "
            reason += "so where the next row begins isn't known. Double each quote in a cell."
        else:
            return (
                f"text after a closing quote (the line has {len(line)} characters). Double each "
                "quote inside a quoted cell."
            )
        raise InputError(location=self.name, line=start, reason=reason)

    def _undecodable(self, cells: list[str]) -> str | None:
        for position, cell in enumerate(cells):
            if not cell.isascii() and (byte := undecodable_byte(cell)) is not None:
                named = self.columns[position : position + 1]
                where = f"column {named[0]!r}" if named else f"cell {position + 1}"
                return (
                    f"{where}: byte 0x{byte:02X} can't be decoded as "
                    f"{self._text.codec.removesuffix('-sig')}. "
                    "Name the file's encoding with --encoding, or retype the cell and save the "
                    "file as UTF-8."
                )
        return None


def _ragged(count: int, width: int, line: int, last_line: int, length: int) -> str:
    spans = f"; the row spans lines {line} to {last_line}" if last_line > line else ""
    return (
        f"{amount(count, 'cell')} where the header has {width} ({amount(length, 'character')}"
        f"{spans}). Is a delimiter "
        "or a quote missing, or a cell with a delimiter not quoted?"
    )


def _named_delimiter(named: str, *, location: str) -> str:
    """The delimiter that was asked for: itself, or its name (`tab`, `semicolon`)."""
    delimiter = _BY_NAME.get(named.lower(), named)
    if len(delimiter) != 1 or delimiter in '" \r\n\0':
        raise InputError(
            location=location,
            reason=f"{named!r} can't be a delimiter. --delimiter takes one character that isn't a "
            f"quote, a space or a line end, or one of {', '.join(_DELIMITERS.values())}.",
        )
    return delimiter


def _detected_delimiter(lines: Sequence[str]) -> str:
    """The delimiter under which most rows are as wide as the header; a comma for one column.

    lines: the first lines of the file with their ends.
    """
    below = list(itertools.dropwhile(lambda line: not line.strip(), lines))
    return max(_DELIMITERS, key=lambda delimiter: _fitness(below, delimiter))


def _fitness(lines: Sequence[str], delimiter: str) -> tuple[float, int]:
    """(share of rows as wide as the header, header's width); one column fits nothing. Where the
    first row is a title of one cell, the width is that of most rows below."""
    try:
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
    except csv.Error:
        return (0.0, 0)
    width = widths[0] if widths else 0
    if width < 2 and len(widths) > 1:
        width = Counter(widths[1:]).most_common(1)[0][0]
    return (widths.count(width) / len(widths), width) if width > 1 else (0.0, 0)


# --- JSON Lines -----------------------------------------------------------------------------------
#
# One object per line, read twice, since any line may bring a new name. A name that a line doesn't
# mention isn't in its row's `values`: it is absent, which says nothing, where a null or "" says
# empty. A comma at the end of a line, left from a list, is ignored.

MAX_NAMES, MAX_LINE_CHARS, MAX_DEPTH = 20_000, 8 * 1024 * 1024, 64


class JsonLinesInput(Input):
    """A JSON Lines file. `row_number` is the line. `columns`: every name, as first met.

    Raises:
        InputError: no line holds an object.
    """

    omits_cells = True

    def __init__(self, text: DecodedFile) -> None:
        self._text, self._commas = text, 0
        name, description = text.file.name, f"JSON Lines, {text.label}"
        super().__init__(name=name, columns=[], description=description, file=text.file)
        self.guess = text.guess
        found: dict[str, None] = {}
        first_problem: tuple[int, str] | None = None
        for row in self._rows():
            found.update(dict.fromkeys(row.values))
            if row.problem and first_problem is None:
                first_problem = row.row_number, row.problem
            if len(found) > MAX_NAMES:
                reason = f"more than {MAX_NAMES:,} different names by line {row.row_number}. Write "
                raise InputError(location=name, reason=reason + "the same names on each line.")
        if not found:
            line, why = first_problem or (None, None)
            reason = f"{why} No line of this file holds a JSON object with a name in it."
            nothing = "no line holds a JSON object with a name in it."
            raise InputError(location=name, line=line, reason=reason if why else nothing)
        self.columns = list(found)

    def _rows(self) -> Iterator[InputRow]:
        self._commas = 0
        with self._text.open() as text:
            for number, line in enumerate(text, start=1):
                if not line.strip():
                    self.empty_rows.add(number)
                    continue
                try:
                    yield InputRow(number, self._values(line))
                except _NotARow as problem:
                    yield InputRow(number, {}, f"{problem}.", line.strip()[:MAX_RAW_CHARS])

    def _values(self, line: str) -> dict[str, Any]:
        try:
            return _object(line)
        except _NotARow:
            trimmed = line.rstrip()
            if not trimmed.endswith("},"):
                raise
        values = _object(trimmed[:-1])
        self._commas += 1
        return values

    @property
    def notes(self) -> list[str]:
        commas = f"lines whose comma at the end was ignored: {self._commas}"
        return super().notes + ([commas] if self._commas else [])


class _NotARow(Exception):
    """Why a line isn't a row; without its content."""


def _object(line: str) -> dict[str, Any]:
    if len(line) > MAX_LINE_CHARS:
        limit = f"{MAX_LINE_CHARS >> 20} million"
        raise _NotARow(f"a line of more than {limit} characters. Write one object per line")
    try:
        value = json.loads(line, object_pairs_hook=_pairs, parse_constant=_constant)
    except RecursionError:
        reason = "nested too deep). Write one object per line"
    except json.JSONDecodeError as error:
        where = f"at column {error.colno} of {len(line.rstrip())} characters"
        reason = f"{error.msg} {where}). Write one object per line"
    except ValueError:  # an integer of more digits than Python converts
        reason = "a number that is too long). Write it as text"
    else:
        if not isinstance(value, dict):
            raise _NotARow("isn't a JSON object. Write one object per line")
        if line.count("[") + line.count("{") > MAX_DEPTH and _is_deep(value):
            raise _NotARow(f"nested more than {MAX_DEPTH} deep. Leave out what isn't needed")
        return value
    raise _NotARow(f"isn't valid JSON ({reason}")


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [item for each in inner for item in each if isinstance(item, dict | list)]
    return bool(level)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _NotARow("a name appears twice in one object. Remove one")
    return values


def _constant(name: str) -> Any:
    raise _NotARow(f"{name} isn't JSON. Write null, or a number")
