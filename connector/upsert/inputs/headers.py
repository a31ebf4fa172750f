"""The header of an input: where it is; every column has a name, and no two have the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from connector.errors import DoubledColumn, InputError
from connector.upsert.rows.field_names import field_called, field_meant, is_field_word

LOOKED_AT_ROWS = 50
_EMAIL = re.compile(r"\s*[^@\s]+@[^@\s]+\.[^@\s]+\s*")
_PHONE = re.compile(r"\s*\+?[\d\s().-]{7,20}\s*")
_FEWEST_COLUMNS = 3  # of a table below a title; two are also a name with a comma in it


def check_first_row(rows: Iterable[tuple[int, Sequence[str]]], *, place: str) -> None:
    """Raises InputError where the first of `rows` is a title above the header, or a row of data.

    rows: (line, cells), the first with something in it first.
    """
    remaining = iter(rows)
    first_line, first = next(remaining)
    known = _known(first)
    if known >= 2:
        return
    below = [(line, cells) for line, cells in remaining if any(cells)]
    header = next((line for line, cells in below if _known(cells) >= 2), None)
    if header is None and known:
        return
    if header is None and len(_filled(first)) < 2:
        header = _first_full_row(below)
    if header is not None:
        raise InputError(
            place=place,
            line=header,
            reason="looks like the header, and isn't the first line. Pass --skip-rows "
            f"{header - 1}, or remove what stands above it.",
        )
    for position, cell in enumerate(first, start=1):
        kind = "an email address" if _EMAIL.fullmatch(cell) else "a phone number"
        if _EMAIL.fullmatch(cell) or _is_phone(cell):
            raise InputError(
                place=place,
                line=first_line,
                reason=f"cell {position} is {kind}, so this is a row and no header. Put a row "
                "above it that names the columns.",
            )


def _is_phone(cell: str) -> bool:
    digits = sum(character.isdigit() for character in cell)
    return _PHONE.fullmatch(cell) is not None and (digits >= 10 or "+" in cell)


def _known(cells: Sequence[str]) -> int:
    return sum((field_called(cell) or field_meant(cell)) is not None for cell in cells)


def _filled(cells: Sequence[str]) -> list[str]:
    return [cell for cell in cells if cell.strip()]


def _first_full_row(rows: Sequence[tuple[int, Sequence[str]]]) -> int | None:
    """The line of the first row that is as wide as most rows, where that is a table."""
    widths = Counter(len(_filled(cells)) for _, cells in rows)
    table = {width: count for width, count in widths.items() if width >= _FEWEST_COLUMNS}
    if not table or 2 * sum(table.values()) < len(rows):
        return None
    widest = max(table, key=lambda width: (table[width], width))
    return next(line for line, cells in rows if len(_filled(cells)) >= widest)


def clean_header(cells: Sequence[str]) -> list[str]:
    """`cells` without outer white space and byte order marks, and without empty ones at the end.

    Spreadsheets leave empty columns at the right; a cell below such a column is a ragged row.
    """
    names = [cell.strip().strip("\ufeff").strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return names


def check_header(names: Sequence[str], *, place: str, line: int | None = None) -> None:
    """Raises InputError for a header without a name, DoubledColumn for a name used twice.

    line: of a file's first row, which may be a person's: only words for fields are quoted of it.
    """
    if not names:
        raise InputError(
            place=place, line=line, reason="no header. The first row must name the columns."
        )
    seen: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        if not name:
            raise InputError(
                place=place,
                line=line,
                reason=f"column {position} has no name. Name it in the header, or remove it.",
            )
        if name in seen:
            positions = (seen[name], position)
            quotes = line is None or is_field_word(name)
            raise DoubledColumn(
                place=place, columns=(name, name), field=name, line=line,
                positions=None if quotes else positions,
            )  # fmt: skip
        seen[name] = position
