"""Reading rows from files of every format that spreadsheets write, and from tables.

Rows come in order, in constant memory, each with the number a person would look for. A row that
can't be read has a problem, or raises an InputError that names the line; none is skipped.
"""

from __future__ import annotations

from pathlib import Path

from connector.errors import InputError
from connector.upsert.inputs.files import format_of, locate
from connector.upsert.inputs.reader import Input
from connector.upsert.inputs.text_decoding import decode
from connector.upsert.inputs.text_readers import CsvInput, JsonLinesInput
from connector.upsert.rows.cells import InputRow

# format → what people call it, and which options it knows
_OPTIONS = {
    "csv": ("a CSV file", {"--encoding", "--delimiter", "--skip-rows"}),
    "jsonl": ("JSON Lines", {"--encoding"}),
    "xlsx": ("a workbook", {"--sheet", "--skip-rows"}),
    "parquet": ("a Parquet file", set[str]()),
}

__all__ = ["Input", "InputRow", "open_input"]


def open_input(
    path: str | Path,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    sheet: str | None = None,
    skip_rows: int = 0,
) -> Input:
    """The rows of a file, or of stdin where `path` is `-`; gzip is unpacked while reading.

    encoding, delimiter, sheet: what to take instead of what would be detected. skip_rows: lines of
    text, or rows of a sheet, that stand above the header.

    Raises:
        InputError: the file is missing, of no known format, its header can't be used, or one of
            the four is given that its format doesn't have.
        InputChanged: also behind the last row: something wrote to the file meanwhile.
    """
    file = locate(path)
    options = {
        **{"--encoding": encoding, "--delimiter": delimiter},
        **{"--sheet": sheet, "--skip-rows": skip_rows},
    }
    try:
        with file.reading():
            kind = format_of(file)
            _check_options(kind, [name for name, value in options.items() if value], file.name)
            if kind == "xlsx":
                # imported only here, as below: each brings a large library
                from connector.upsert.inputs.workbook_reader import WorkbookInput

                return WorkbookInput(file, sheet=sheet, skip_rows=skip_rows)
            if kind == "parquet":
                from connector.upsert.inputs.table_reader import parquet_input

                return parquet_input(file)
            text = decode(file, encoding)
            if kind == "jsonl":
                return JsonLinesInput(text)
            return CsvInput(text, delimiter=delimiter, skip_rows=skip_rows)
    except BaseException:
        file.close()
        raise


def _check_options(kind: str, given: list[str], location: str) -> None:
    """An option that can't do anything is a misunderstanding, and is refused."""
    called, known = _OPTIONS[kind]
    for name in sorted({*given} - known):
        raise InputError(
            location=location, reason=f"is {called}, which has no {name}. Leave it out."
        )
