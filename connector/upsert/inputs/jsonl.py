"""JSON Lines: one object per line, read twice, since any line may bring a new name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from connector.errors import InputError
from connector.upsert.inputs.decoding import Encoding, OpenBytes
from connector.upsert.inputs.rows import Input, InputRow

_SHOWN_CHARS = 2_000


class JsonLinesInput(Input):
    """A JSON Lines file. `row_number` is the line. `columns`: every name, as first met.

    Raises:
        InputError: no line holds an object.
    """

    def __init__(self, open_bytes: OpenBytes, encoding: Encoding, *, name: str) -> None:
        self._open_bytes, self._encoding = open_bytes, encoding
        super().__init__(name=name, columns=[], description=f"JSON Lines, {encoding.label}")
        found: dict[str, None] = {}
        for row in self._rows():
            found.update(dict.fromkeys(row.values))
        if not found:
            raise InputError(place=name, reason="no line holds a JSON object with a name in it.")
        self.columns = list(found)

    def _rows(self) -> Iterator[InputRow]:
        with self._encoding.text(self._open_bytes()) as text:
            for number, line in enumerate(text, start=1):
                if not line.strip():
                    self.empty_rows.add(number)
                    continue
                try:
                    yield InputRow(number, _object(line))
                except _NotARow as problem:
                    yield InputRow(number, {}, f"{problem}: {line.strip()[:_SHOWN_CHARS]!r}.")


class _NotARow(Exception):
    """Why a line is no row."""


def _object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line, object_pairs_hook=_pairs, parse_constant=_constant)
    except (ValueError, RecursionError):
        raise _NotARow("no valid JSON. Write one object per line") from None
    if not isinstance(value, dict):
        raise _NotARow("no JSON object. Write one object per line")
    return value


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _NotARow("a name stands twice in one object. Remove one")
    return values


def _constant(name: str) -> Any:
    raise _NotARow(f"{name} is no JSON. Write null, or a number")
