"""Which delimiter a CSV file has, by its header and the rows just below."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence

from connector.errors import InputError

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
