"""Cells that aren't plain text: yes/no, lists, objects, times, full names, one of a few words.

Each takes a cell as any source holds it, and raises ValueError with what to do about it.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal
from typing import Any, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import ValidationInfo

from connector.upsert.rows.cells import check_readable, json_ready, text_of

_TRUE = frozenset({"true", "t", "yes", "y", "1", "on"})
_FALSE = frozenset({"false", "f", "no", "n", "0", "off"})
_LICENSES = ("not_started", "in_progress", "licensed")
_SPACES = re.compile(r"[\s_-]+")
# from 2001-09-09 on ms have 13 digits, and seconds 10
_FIRST_MS = 10**12
# years that something can have happened in, or be due in; zero dates (1899-12-30, 1970-01-01),
# years of two digits (0025) and `never` (9999-12-31) lie outside
_FIRST_YEAR, _LAST_YEAR = 1980, 2100
_LAST_MS = 1000 * int(datetime(_LAST_YEAR + 1, 1, 1, tzinfo=UTC).timestamp())

_NAME = r"[^\W\d_]+(?:['’\-‐‑][^\W\d_]+)*"  # letters, as in Anna-Lena or O'Neil
_TWO_NAMES = re.compile(rf"({_NAME})\s+({_NAME})")
_LAST_FIRST = re.compile(rf"({_NAME}),\s*({_NAME}(?:\s+{_NAME})*)")
# what stands before a name, or begins a last name of two words; what stands after one
_BEFORE_NAMES = frozenset(
    [
        *("mr", "mrs", "ms", "mx", "miss", "dr", "prof", "sir", "madam", "herr", "frau", "mme"),
        *("mlle", "sr", "sra", "the", "von", "van", "de", "der", "den", "del", "della", "di", "da"),
        *("dos", "la", "le", "bin", "ibn", "el"),
    ]
)
_AFTER_NAMES = frozenset(
    [
        *("jr", "sr", "ii", "iii", "iv", "phd", "md", "mba", "cpa", "esq", "rn", "inc", "llc"),
        *("ltd", "gmbh", "ag", "corp", "company", "team", "group", "office"),
    ]
)
_UNCERTAIN = (
    "can't be split into first and last name with certainty. Write it as `Lee, Ann`, or give the "
    "two a column each"
)


@dataclass(slots=True)
class RowContext:
    """What the checks of one row know and leave: `info.context` of every check.

    region: ISO 3166, of phones without a country code. zone: of times without an offset.
    email: the identity of the row's email, once it is checked.
    """

    region: str
    zone: tzinfo
    warnings: list[str] = field(default_factory=list)
    email: str | None = None


def row_context(info: ValidationInfo) -> RowContext:
    """The context of the row that is being checked."""
    return cast(RowContext, info.context)


def as_boolean(value: Any) -> Any:
    """True or False from a yes/no word, 0 or 1."""
    if isinstance(value, bool):
        return value
    word = text_of(value).strip().lower()
    if word in _TRUE | _FALSE:
        return word in _TRUE
    raise ValueError("is neither yes nor no. Write true or false")


def as_license_status(value: Any) -> Any:
    """`Not Started` as `not_started`."""
    word = _SPACES.sub("_", text_of(value).strip().lower())
    if word not in _LICENSES:
        raise ValueError(f"isn't a license status. Write one of {', '.join(_LICENSES)}")
    return word


def as_labels(value: Any, info: ValidationInfo) -> Any:
    """Labels from a list, a JSON list, or text split at `;` and `|`; each once, in order."""
    parts: list[Any] | tuple[Any, ...] | None
    if isinstance(value, str):
        parts = _json_list(value)
        if parts is None:
            parts = re.split(r"[;|]", value)
        if len(parts) == 1 and "," in value:
            row_context(info).warnings.append("labels: taken as one label; `;` separates several")
    else:
        parts = value if isinstance(value, list | tuple) else [value]
    labels = [text_of(part).strip() for part in parts if part is not None]
    for label in labels:
        check_readable(label)
    return list(dict.fromkeys(label for label in labels if label))


def _json_list(text: str) -> list[Any] | None:
    """The list that `text` is in JSON; None where it isn't meant to be JSON."""
    if not text.startswith("["):
        return None
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        if '"' in text:
            raise ValueError(
                'starts like a JSON list and isn\'t one. Write ["A", "B"], or A;B'
            ) from None
        return None
    return parsed if isinstance(parsed, list) else None


def as_object(value: Any) -> Any:
    """An object, or the text of one in JSON."""
    parsed = _parsed(value)
    if not isinstance(parsed, dict):
        raise ValueError('isn\'t a JSON object. Write it as in {"name": "value"}')
    return _ready(parsed)


def as_objects(value: Any) -> Any:
    """A list of objects, or the text of one in JSON."""
    parsed = _parsed(value)
    if not isinstance(parsed, list | tuple) or not all(isinstance(one, dict) for one in parsed):
        raise ValueError('is no JSON list of objects. Write it as in [{"name": "value"}]')
    return _ready(parsed)


def _ready(parsed: Any) -> Any:
    try:
        return json_ready(parsed)
    except RecursionError:
        raise ValueError("is nested too deep. Leave out what isn't needed") from None


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ValueError("isn't valid JSON. Correct it, or leave the cell empty") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} isn't JSON")


def as_ms(value: Any, info: ValidationInfo) -> Any:
    """Unix milliseconds from ms, a date, or ISO 8601.

    A time without an offset is in the context's zone.
    """
    zone = row_context(info).zone
    if isinstance(value, datetime | date):
        return _ms(value, zone)
    text = text_of(value).strip()
    if re.fullmatch(r"-?\d+", text):
        return _checked_ms(int(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            "isn't a time. Write it as 2025-03-31T14:00:00+02:00, or in Unix milliseconds"
        ) from None
    return _ms(moment, zone)


def _ms(moment: datetime | date, zone: tzinfo) -> int:
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        raise ValueError(
            f"is in the year {moment.year}, which is none of {_FIRST_YEAR} to {_LAST_YEAR}. "
            "Correct it"
        )
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    try:
        return math.floor(Decimal(str(moment.timestamp())) * 1000)
    except (OverflowError, ValueError):
        raise ValueError("is a time too far from now") from None


def _checked_ms(number: int) -> int:
    if not _FIRST_MS <= number < _LAST_MS:
        raise ValueError(
            "isn't a time in Unix milliseconds, which have 13 digits. Write it as 2025-03-31"
        )
    return number


def time_zone(name: Any) -> tzinfo:
    """The IANA time zone called `name`; UTC for an empty one.

    Raises:
        ValueError: there is none of that name.
    """
    text = text_of(name).strip() if name is not None else ""
    if not text:
        return UTC
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is no IANA time zone. Write it as in America/New_York") from None


def split_name(name: str) -> tuple[str, str]:
    """(first name, last name) of `Ann Lee` or `Lee, Ann`.

    Raises:
        ValueError: which part is which can't be told.
    """
    if match := _TWO_NAMES.fullmatch(name):
        first, last = match.groups()
    elif match := _LAST_FIRST.fullmatch(name):
        last, first = match.groups()
    else:
        raise ValueError(_UNCERTAIN)
    words = [word.casefold() for word in (*first.split(), last)]
    if words[0] in _BEFORE_NAMES or not _AFTER_NAMES.isdisjoint(words):
        raise ValueError(_UNCERTAIN)
    return first, last
