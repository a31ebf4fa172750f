"""The header of an input: every column has a name, and no two have the same."""

from __future__ import annotations

from collections.abc import Sequence

from connector.errors import DoubledColumn, InputError


def clean_header(cells: Sequence[str]) -> list[str]:
    """`cells` without outer white space and byte order marks, and without empty ones at the end.

    Spreadsheets leave empty columns at the right; a cell below such a column is a ragged row.
    """
    names = [cell.strip().strip("\ufeff").strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return names


def check_header(names: Sequence[str], *, place: str, line: int | None = None) -> None:
    """Raises InputError for a header without a name, DoubledColumn for a name used twice."""
    if not names:
        raise InputError(
            place=place, line=line, reason="no header. The first row must name the columns."
        )
    seen: set[str] = set()
    for position, name in enumerate(names, start=1):
        if not name:
            raise InputError(
                place=place,
                line=line,
                reason=f"column {position} has no name. Name it in the header, or remove it.",
            )
        if name in seen:
            raise DoubledColumn(place=place, columns=(name, name), field=name, line=line)
        seen.add(name)
