"""JSON Lines: one object per line, read twice, since any line may bring a new name.

A name that a line doesn't mention isn't in its row's `values`: it is absent, which says nothing,
where a null or "" says empty. A comma at the end of a line, left from a list, is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from connector.errors import InputError
from connector.upsert.inputs.reader import MAX_RAW_CHARS, Input
from connector.upsert.inputs.text_decoding import DecodedFile
from connector.upsert.rows.cells import InputRow

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
    """Why a line is no row; without what it holds."""


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
