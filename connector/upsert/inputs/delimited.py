"""CSV, TSV and their kin: the standard library's reader in strict mode, with line numbers.

A row that can't be read is handed out with its problem, and reading goes on at the next line;
where the next line can't be told (a quote that spans lines and isn't closed as it should be),
the file as a whole is refused, since every row below would be a guess.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator
from typing import TextIO

from connector.errors import InputError
from connector.upsert.inputs.decoding import Encoding, OpenBytes
from connector.upsert.inputs.dialect import DELIMITERS, declared_delimiter, detect_delimiter
from connector.upsert.inputs.headers import check_header, clean_header
from connector.upsert.inputs.rows import MAX_RAW_CHARS, Input, InputRow
from connector.upsert.rows.columns import REASON_COLUMN

MAX_CELL_CHARS = 16 * 1024 * 1024
_SAMPLE_CHARS = 64 * 1024


class _Lines:
    """The file's lines as the reader takes them; `last` is the one it took last."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines, self.last = iter(lines), ""

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.last = line
            yield line


class DelimitedInput(Input):
    """A CSV file. `row_number` is the line its row starts on.

    Raises:
        InputError: no header, a doubled or unnamed column, a quote that never ends.
    """

    def __init__(
        self, open_bytes: OpenBytes, encoding: Encoding, *, name: str, delimiter: str | None = None
    ) -> None:
        self._open_bytes, self._encoding = open_bytes, encoding
        csv.field_size_limit(MAX_CELL_CHARS)
        with encoding.text(open_bytes()) as text:
            sample = text.readlines(_SAMPLE_CHARS)
        declared = declared_delimiter(sample[0]) if sample else None
        self._skipped_lines = 1 if declared else 0
        sample = _from_header(sample[self._skipped_lines :])
        self._delimiter = delimiter or declared or detect_delimiter(sample)
        super().__init__(name=name, columns=[], description=self._describe())
        self._header_line, header = self._header()
        self._header_width, self.columns = len(header), clean_header(header)
        check_header(self.columns, place=name, line=self._header_line)

    def _describe(self) -> str:
        return f"CSV, {self._encoding.label}, {DELIMITERS.get(self._delimiter, 'own')} delimiter"

    def _header(self) -> tuple[int, list[str]]:
        """(the line the header starts on, its cells)."""
        with self._encoding.text(self._open_bytes()) as text:
            for line, _, cells, problem, _ in self._records(text):
                if problem:
                    raise InputError(place=self.name, line=line, reason=f"the header: {problem}")
                if cells:
                    return line, cells
        raise InputError(place=self.name, reason="is empty. The first row must name the columns.")

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
        csv.writer(text, delimiter=self._delimiter, lineterminator="").writerow(cells)
        return text.getvalue()[:MAX_RAW_CHARS]

    def _records(
        self, text: TextIO
    ) -> Iterator[tuple[int, int, list[str], str | None, str | None]]:
        """(first line, last line, cells, what is wrong, the line itself where it has no cells) of
        each record, empty ones too."""
        for _ in range(self._skipped_lines):
            next(text)
        lines, offset = _Lines(text), self._skipped_lines
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        while True:
            start = reader.line_num + 1 + offset
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                last = reader.line_num + offset
                broken = self._broken_quote(error, start, last, lines.last)
                yield start, last, [], broken, lines.last.rstrip("\r\n")[:MAX_RAW_CHARS]
                continue
            problem = self._undecodable(cells) if self._encoding.damaged else None
            yield start, reader.line_num + offset, cells, problem, None

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
