"""Reading rows from files of every format that spreadsheets write, and from tables.

Rows come in order, in constant memory, each with the number a person would look for; what can't
be read is a row with a problem, or an InputError that names the line, never a row left out.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING

from connector.errors import InputError
from connector.upsert.inputs.csv_reader import DelimitedInput, named_delimiter
from connector.upsert.inputs.files import LocalFile, locate, tell_format
from connector.upsert.inputs.jsonl_reader import JsonLinesInput
from connector.upsert.inputs.reader import Input
from connector.upsert.inputs.text_decoding import detect_encoding, named_encoding
from connector.upsert.rows.cells import InputRow

if TYPE_CHECKING:
    from connector.upsert.inputs.table_reader import Database

# format → what people call it, and which options it knows
_OPTIONS = {
    "csv": ("a CSV file", {"--encoding", "--delimiter", "--skip-rows"}),
    "jsonl": ("JSON Lines", {"--encoding"}),
    "xlsx": ("a workbook", {"--sheet", "--skip-rows"}),
    "parquet": ("a Parquet file", set[str]()),
}

__all__ = ["Input", "InputRow", "open_input", "sql_input", "table_input"]


def open_input(
    path: str | Path,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    sheet: str | None = None,
    skip_rows: int = 0,
) -> Input:
    """The rows of a file, or of stdin where `path` is `-`; gzip is opened on the way.

    encoding, delimiter, sheet: what to take instead of what would be detected. skip_rows: lines of
    text, or rows of a sheet, that stand above the header.

    Raises:
        InputError: the file is missing, of no known format, its header can't be used, or one of
            the four is given that its format doesn't have.
        InputChanged: also behind the last row: something wrote to the file meanwhile.
    """
    file = locate(path)
    try:
        with file.reading():
            opened = _open(file, encoding, delimiter, sheet, skip_rows)
    except BaseException:
        file.close()
        raise
    opened.on_close, opened.on_end, opened.reading = file.close, file.check_unchanged, file.reading
    return opened


def _open(
    file: LocalFile,
    encoding: str | None,
    delimiter: str | None,
    sheet: str | None,
    skip_rows: int,
) -> Input:
    told = tell_format(file)
    given = {
        "--encoding": encoding,
        "--delimiter": delimiter,
        "--sheet": sheet,
        "--skip-rows": skip_rows,
    }
    _check_options(told, {name for name, value in given.items() if value}, place=file.name)
    if told == "xlsx":
        return _workbook(file, sheet, skip_rows)
    if told == "parquet":
        return _parquet(file)
    if encoding:
        found = named_encoding(file.open, encoding, place=file.name)
    else:
        found = detect_encoding(file.open, place=file.name)
    if told == "jsonl":
        return JsonLinesInput(file.open, found, name=file.name)
    named = named_delimiter(delimiter, place=file.name) if delimiter else None
    return DelimitedInput(file.open, found, name=file.name, delimiter=named, skip_rows=skip_rows)


def _check_options(told: str, given: Set[str], *, place: str) -> None:
    """An option that can't do anything is a misunderstanding, and is not passed over."""
    called, known = _OPTIONS[told]
    for name in sorted(given - known):
        raise InputError(place=place, reason=f"is {called}, which has no {name}. Leave it out.")


def _workbook(file: LocalFile, sheet: str | None, skip_rows: int) -> Input:
    """Imported only where needed, as are the formats below: each brings a large library."""
    from connector.upsert.inputs.workbook_reader import WorkbookInput

    return WorkbookInput(file, sheet=sheet, skip_rows=skip_rows)


def _parquet(file: LocalFile) -> Input:
    from connector.upsert.inputs.parquet_reader import parquet_input

    return parquet_input(file)


def table_input(database: Database, table: str, *, schema: str | None = None) -> Input:
    """The rows of a table or view: see `tables.table_input`."""
    from connector.upsert.inputs import table_reader as tables

    return tables.table_input(database, table, schema=schema)


def sql_input(database: Database, query: str, *, schema: str | None = None) -> Input:
    """The rows of one SELECT: see `tables.sql_input`."""
    from connector.upsert.inputs import table_reader as tables

    return tables.sql_input(database, query, schema=schema)
