"""Reading rows from files of every format that spreadsheets write, and from tables.

Rows come in order, in constant memory, each with the number a person would look for; what can't
be read is a row with a problem, or an InputError that names the line, never a row left out.
"""

from __future__ import annotations

from pathlib import Path

from connector.errors import InputError
from connector.upsert.inputs.decoding import detect_encoding, named_encoding
from connector.upsert.inputs.delimited import DelimitedInput
from connector.upsert.inputs.files import LocalFile, locate, tell_format
from connector.upsert.inputs.rows import Input, InputRow

__all__ = ["Input", "InputRow", "open_input"]


def open_input(
    path: str | Path,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    sheet: str | None = None,
) -> Input:
    """The rows of a file, or of stdin where `path` is `-`; gzip is opened on the way.

    encoding, delimiter, sheet: what to take instead of what would be detected.

    Raises:
        InputError: the file is missing, of no known format, or its header can't be used.
    """
    file = locate(path)
    try:
        with file.reading():
            return _open(file, encoding=encoding, delimiter=delimiter, sheet=sheet)
    except BaseException:
        file.close()
        raise


def _open(
    file: LocalFile, *, encoding: str | None, delimiter: str | None, sheet: str | None
) -> Input:
    told = tell_format(file)
    if told != "csv":
        raise InputError(place=file.name, reason="unknown format")
    found = (
        named_encoding(file.open, encoding, place=file.name)
        if encoding
        else detect_encoding(file.open, place=file.name)
    )
    return DelimitedInput(file.open, found, name=file.name, delimiter=delimiter)
