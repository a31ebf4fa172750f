"""CSV, TSV and their kin: the standard library's reader in strict mode, with line numbers.

A row that can't be read is handed out with its problem, and reading goes on at the next line;
where the next line can't be told (a quote that spans lines and isn't closed as it should be),
the file as a whole is refused, since every row below would be a guess.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TextIO

from connector.errors import InputError
from connector.upsert.inputs.reader import (
    LOOKED_AT_ROWS,
    MAX_RAW_CHARS,
    Input,
    check_first_row,
    check_header,
    clean_header,
)
from connector.upsert.inputs.text_decoding import Encoding, OpenBytes
from connector.upsert.rows.cells import InputRow
from connector.upsert.rows.column_mapping import REASON_COLUMN

MAX_CELL_CHARS, MAX_RECORD_CHARS = 16 * 1024 * 1024, 32 * 1024 * 1024
MAX_CELLS = 20_000
_SAMPLE_CHARS = 64 * 1024
_STRAY_CR = (
    "a carriage return that isn't in quotes cuts this row in two. Quote its cell, or take the "
    "sign out."
)

# first line, last line, cells, what is wrong, the line itself where it has no cells
_Record = tuple[int, int, list[str], str | None, str | None]


class _Lines:
    """The file's lines as the reader takes them, bounded before it builds cells of them.

    last: the one it took last. record_chars: of the lines since this was set to 0.
    """

    def __init__(self, lines: Iterable[str], *, delimiter: str, place: str) -> None:
        self._lines, self._delimiter, self._place = iter(lines), delimiter, place
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
            raise InputError(place=self._place, reason=reason + "missing?")
        if self.last.count(self._delimiter) > MAX_CELLS:
            reason = f"a row of more than {MAX_CELLS:,} cells. Is this a list of people?"
            raise InputError(place=self._place, reason=reason)


class DelimitedInput(Input):
    """A CSV file. `row_number` is the line its row starts on.

    Raises:
        InputError: no header, a doubled or unnamed column, a quote that never ends.
    """

    def __init__(
        self,
        open_bytes: OpenBytes,
        encoding: Encoding,
        *,
        name: str,
        delimiter: str | None = None,
        skip_rows: int = 0,
    ) -> None:
        self._open_bytes, self._encoding = open_bytes, encoding
        csv.field_size_limit(MAX_CELL_CHARS)
        with encoding.text(open_bytes()) as text:
            first_lines = [text.readline(), *itertools.islice(text, max(0, skip_rows - 1))]
            declared = declared_delimiter(first_lines[0])
            self._skipped_lines = max(skip_rows, 1 if declared else 0)
            sample = first_lines[self._skipped_lines :] + text.readlines(_SAMPLE_CHARS)
        sample = _from_header(sample)
        self.delimiter = delimiter or declared or detect_delimiter(sample)
        super().__init__(name=name, columns=[], description=self._describe())
        self.guess = encoding.guess
        self._header_line, header = self._header()
        self._header_width, self.columns = len(header), clean_header(header)
        check_header(self.columns, place=name, line=self._header_line)

    def _describe(self) -> str:
        return f"CSV, {self._encoding.label}, {DELIMITERS.get(self.delimiter, 'own')} delimiter"

    def _header(self) -> tuple[int, list[str]]:
        """(the line the header starts on, its cells)."""
        with self._encoding.text(self._open_bytes()) as text:
            records = self._records(text)
            for line, _, cells, problem, _ in records:
                if problem:
                    raise InputError(place=self.name, line=line, reason=f"the header: {problem}")
                if cells:
                    below = ((line, cells) for line, _, cells, *_ in self._readable(records))
                    check_first_row(itertools.chain([(line, cells)], below), place=self.name)
                    return line, cells
        below_what = f" below its first {self._skipped_lines} lines" if self._skipped_lines else ""
        raise InputError(
            place=self.name, reason=f"is empty{below_what}. The first row must name the columns."
        )

    @staticmethod
    def _readable(records: Iterator[_Record]) -> Iterator[_Record]:
        """The first `records`, up to one that can't be read; what is wrong is told in its turn."""
        with suppress(InputError):
            yield from itertools.islice(records, LOOKED_AT_ROWS)

    def _rows(self) -> Iterator[InputRow]:
        columns, width = self.columns, len(self.columns)
        with self._encoding.text(self._open_bytes()) as text:
            records = self._records(text)
            for line, *_ in records:
                if line == self._header_line:
                    break
            for line, last_line, cells, problem, raw in records:
                if len(cells) == self._header_width > width and not any(cells[width:]):
                    del cells[width:]
                if problem is None and not any(cells):
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

    def _records(self, text: TextIO) -> Iterator[_Record]:
        """Each record, empty ones too. The reader takes a stray carriage return in a cell for the
        end of its row, which then seems whole: what follows it tells."""
        held: _Record | None = None
        for record, ends_in_stray_cr in self._read(text):
            if held is not None:
                line, last_line, cells, problem, raw = held
                is_cut = len(record[2]) != len(cells)
                yield line, last_line, cells, problem or (_STRAY_CR if is_cut else None), raw
            held = record if ends_in_stray_cr else None
            if held is None:
                yield record
        if held is not None:
            yield held

    def _read(self, text: TextIO) -> Iterator[tuple[_Record, bool]]:
        """(record, whether it ends in a carriage return that the first line doesn't end in)."""
        for _ in range(self._skipped_lines):
            next(text, None)
        lines = _Lines(text, delimiter=self.delimiter, place=self.name)
        offset = self._skipped_lines
        reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
        ends_in_cr: bool | None = None  # as all lines of old Macs do; the first line decides
        while True:
            start = reader.line_num + 1 + offset
            lines.record_chars = 0
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                last = reader.line_num + offset
                broken = self._broken_quote(error, start, last, lines.last)
                raw = lines.last.rstrip("\r\n")[:MAX_RAW_CHARS]
                yield (start, last, [], broken, raw), False
                continue
            problem = self._undecodable(cells) if self._encoding.damaged else None
            ends_here = lines.last.endswith("\r")
            ends_in_cr = ends_here if ends_in_cr is None else ends_in_cr
            record = (start, reader.line_num + offset, cells, problem, None)
            yield record, ends_here and not ends_in_cr

    def _broken_quote(self, error: csv.Error, start: int, last: int, line: str) -> str:
        """The problem of the row at `start`; raises InputError where the rest can't be read."""
        if "field larger" in str(error):
            reason = f"a cell of more than {MAX_CELL_CHARS >> 20} million characters, up to line "
            reason += f"{last}. Is a quote missing?"
        elif "unexpected end" in str(error):
            reason = "a quote is opened in this row and never closed. Close it, or double it."
        elif last > start or line.count('"') % 2:
            reason = f"a quote opened in this row isn't closed as it should be (by line {last}), "
            reason += "so that the rows below can't be told apart. Double each quote in a cell."
        else:
            return (
                f"text after a closing quote (the line has {len(line)} characters). Double each "
                "quote inside a quoted cell."
            )
        raise InputError(place=self.name, line=start, reason=reason)

    def _undecodable(self, cells: list[str]) -> str | None:
        for position, cell in enumerate(cells):
            if not cell.isascii() and (byte := _undecodable_byte(cell)) is not None:
                named = self.columns[position : position + 1]
                where = f"column {named[0]!r}" if named else f"cell {position + 1}"
                return (
                    f"{where}: byte 0x{byte:02X} can't be decoded as {self._encoding.codec}. "
                    "Name the file's encoding with --encoding, or retype the cell and save the "
                    "file as UTF-8."
                )
        return None


def _from_header(lines: list[str]) -> list[str]:
    return list(itertools.dropwhile(lambda line: not line.strip(), lines))


def _undecodable_byte(cell: str) -> int | None:
    return next((ord(char) - 0xDC00 for char in cell if "\udc00" <= char <= "\udcff"), None)


def _ragged(count: int, width: int, line: int, last_line: int, length: int) -> str:
    spans = f"; the row spans lines {line} to {last_line}" if last_line > line else ""
    return (
        f"{count} cells where the header has {width} ({length} characters{spans}). Is a delimiter "
        "or a quote missing, or a cell with a delimiter not quoted?"
    )


DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
_BY_NAME = {name: delimiter for delimiter, name in DELIMITERS.items()} | {"\\t": "\t"}
_NEVER = frozenset('" \r\n\0')
_SEP_LINE = re.compile(r'^\ufeff?"?sep=([,;|\t])"?\r?\n?$', re.IGNORECASE)


def declared_delimiter(first_line: str) -> str | None:
    """The delimiter of Excel's `sep=;` line; None if the line isn't one."""
    match = _SEP_LINE.match(first_line)
    return match[1] if match else None


def named_delimiter(named: str, *, place: str) -> str:
    """The delimiter that somebody asked for: itself, or its name (`tab`, `semicolon`).

    Raises:
        InputError: it isn't one character, or one that can't stand between cells.
    """
    delimiter = _BY_NAME.get(named.lower(), named)
    if len(delimiter) != 1 or delimiter in _NEVER:
        raise InputError(
            place=place,
            reason=f"{named!r} can't be a delimiter. --delimiter takes one character that isn't a "
            f"quote, a space or a line end, or one of {', '.join(DELIMITERS.values())}.",
        )
    return delimiter


def detect_delimiter(lines: Sequence[str]) -> str:
    """The delimiter under which most rows are as wide as the header; a comma for one column.

    lines: the first lines of the file with their ends, the header first.
    """
    return max(DELIMITERS, key=lambda delimiter: _fitness(lines, delimiter))


def _fitness(lines: Sequence[str], delimiter: str) -> tuple[float, int]:
    """(share of rows as wide as the header, header's width); one column fits nothing. Where the
    first row is a title of one cell, the width is that of most rows below."""
    try:
        rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
    except csv.Error:
        return (0.0, 0)
    widths = Counter(map(len, rows))
    width = len(rows[0]) if rows else 0
    if width < 2 and len(rows) > 1:
        width = Counter(map(len, rows[1:])).most_common(1)[0][0]
    if width < 2:
        return (0.0, 0)
    return (widths[width] / len(rows), width)
