"""Cells of every type a source can hold, as the text a person would read.

Files of text hold text; sheets, Parquet and tables hold numbers, dates, lists, bytes. What has
one obvious text becomes it; the rest is refused by name, and shown in the rejects file.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

NOT_COMPUTED = "#NOT-COMPUTED!"
ERROR_WORDS = frozenset(
    "#N/A #REF! #VALUE! #DIV/0! #NAME? #NULL! #NUM! #SPILL! #CALC! #FIELD! #BLOCKED! "
    f"#GETTING_DATA {NOT_COMPUTED}".split()
)
_LONGEST_WHOLE = 10**21
NO_TEXT = {
    bool: "a true/false value",
    bytes: "binary data",
    dict: "an object",
    list: "a list",
    tuple: "a list",
}


@dataclass(frozen=True)
class Unreadable:
    """A cell whose value can't be had. what: in words, with its article. advice: what to do.
    text: what the rejects file shows for it."""

    what: str
    text: str = "#VALUE!"
    advice: str = "Convert it, or ignore the column"

    def __str__(self) -> str:
        return self.text


def check_readable(value: Any) -> None:
    """Raises ValueError for what a spreadsheet or a table shows where it has no value."""
    if isinstance(value, Unreadable):
        raise ValueError(f"holds {value.what}. {value.advice}")
    if value == NOT_COMPUTED:
        raise ValueError("holds a formula without a stored value. Open and save the workbook")
    if isinstance(value, str) and value in ERROR_WORDS:
        raise ValueError(f"shows the error {value}. Correct it, or empty the cell")


def text_of(value: Any) -> str:
    """`value` as text for a text field: 5551234567.0 is `5551234567`, dates are ISO 8601.

    Raises:
        ValueError: there is no one text for it; the message names the type.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return _number_text(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    kind = NO_TEXT.get(type(value), f"a value of type {type(value).__name__}")
    raise ValueError(f"holds {kind}, where text is expected. Convert it, or ignore the column")


def _number_text(value: int | float | Decimal) -> str:
    if not math.isfinite(value):
        raise ValueError(f"holds {value}, which is no number. Empty the cell, or correct it")
    if isinstance(value, int):
        return str(value)
    if -_LONGEST_WHOLE < value < _LONGEST_WHOLE and value == int(value):
        return str(int(value))
    return format(value, "f") if isinstance(value, Decimal) else repr(value)


def shown(value: Any) -> str:
    """`value` as a cell of the rejects file; reads back as the same value where text can."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes | bytearray | memoryview):
        return "0x" + bytes(value).hex()
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=shown)
    try:
        return text_of(value)
    except ValueError:
        return str(value)


def json_ready(value: Any) -> Any:
    """`value` with everything inside it as JSON knows it; dates inside are ISO 8601 text.

    Raises:
        ValueError: something inside has no JSON form.
    """
    if isinstance(value, dict):
        return {_encodable(str(key)): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"holds {value} inside, which JSON doesn't know")
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError("holds an integer of more than 64 bits inside. Write it as text")
    if value is None or isinstance(value, bool | int | float):
        return value
    return _encodable(text_of(value))


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a character inside (a lone surrogate). Retype it") from None
    return text
