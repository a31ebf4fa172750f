"""What a sheet's number formats make of a number: dates, and text such as `01940-1234`.

Most formats only decorate (`#,##0.00 €`): the number itself is sent. Two kinds say what the value
is: formats of dates and times, and masks of digits, by which people keep the leading zeros and
dashes of postal codes, phones and numbers of their own.
"""

from __future__ import annotations

import math
import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from connector.upsert.rows.cells import Unreadable

_DATE_IDS = {*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59), *range(71, 82)}
_TIME_IDS = {18, 19, 20, 21, 32, 33, 34, 35, 45, 46, 47, 55, 56}
_PERCENT_IDS = {9, 10}
_FIRST_1900, _FIRST_1904 = datetime(1899, 12, 30), datetime(1904, 1, 1)
_MOST_DAYS = 2_958_466  # 10000-01-01
_DAY_MS = 86_400_000
_DIGITS = 15  # that a spreadsheet keeps of a number

_TOKEN = re.compile(
    r'"(?P<quoted>[^"]*)"|\\(?P<escaped>.)|\[(?P<bracket>[^\]]*)\]|[_*](?P<space>.)|(?P<other>.)',
    re.DOTALL,
)
_CONDITION = re.compile(r"\[(<=|>=|<>|<|>|=)(-?\d+(?:\.\d+)?)\]")
_SECOND_PARTS = re.compile(r"(?<=s)\.0+", re.IGNORECASE)
_ELAPSED = re.compile(r"[hms]+", re.IGNORECASE)
_DATE_LETTERS = frozenset("ymdhsegb")
_MONEY = frozenset("$€£¥₹()- ")
_NO_MASK = frozenset(".,%eE/@?")


def _tokens(section: str) -> list[tuple[str, str]]:
    """(kind, text) of each part: `literal`, `bracket`, `code`."""
    found = []
    for match in _TOKEN.finditer(section):
        kind, text = match.lastgroup, match[match.lastgroup or 0]
        if kind in ("quoted", "escaped"):
            found.append(("literal", text))
        elif kind == "bracket":
            found.append(("bracket", text))
        elif kind == "other":
            found.append(("code", text))
    return found


class NumberFormat:
    """One format. code: as the workbook has it; number: of a built-in one, which has no code."""

    def __init__(self, code: str | None, number: int = -1) -> None:
        self._sections = _sections(code or "")
        tokens = _tokens(_SECOND_PARTS.sub("", self._sections[0]))
        letters = {text.lower() for kind, text in tokens if kind == "code"}
        brackets = [text for kind, text in tokens if kind == "bracket"]
        self._elapsed = number == 46 or any(map(_ELAPSED.fullmatch, brackets))
        general = "general" in self._sections[0].lower()
        dated = bool(letters & _DATE_LETTERS) and not general and not letters & {"0", "#"}
        self.is_date = self._elapsed or dated if code else number in _DATE_IDS
        self._has_time = bool(letters & {"h", "s"}) if code else number in {22, *_TIME_IDS}
        self._has_day = bool(letters & {"y", "d", "e"}) if code else number not in _TIME_IDS
        self._is_percent = "%" in letters if code else number in _PERCENT_IDS
        self._says_words = any(map(_words, self._sections))
        self.decorates = not (
            self.is_date or self._is_percent or self._says_words or self._is_any_mask()
        )

    def value(self, number: int | float, *, from_1904: bool) -> Any:
        """What a cell with `number` in it holds; `number` itself, where the format decorates."""
        if self.is_date:
            return self._moment(number, from_1904)
        if self._is_percent:
            return f"{(Decimal(repr(number)) * 100).normalize():f}%"
        if self._says_words and (words := _words(self._section_for(number))):
            return words
        if self.decorates or number != int(number):
            return number
        section = self._section_for(number)
        return _masked(section, int(number)) if _is_mask(section) else number

    def _moment(self, number: float, from_1904: bool) -> Any:
        if self._elapsed:
            return timedelta(milliseconds=round(number * _DAY_MS))
        if not 0 <= number < _MOST_DAYS:
            return Unreadable("a date that no spreadsheet can show", text=repr(number))
        days = number if from_1904 or number >= 60 else number + 1  # 1900 had no 29 February
        if not self._has_day and number < 1:
            days = number
        first = _FIRST_1904 if from_1904 else _FIRST_1900
        moment = first + timedelta(milliseconds=round(days * _DAY_MS))
        if not self._has_day and number < 1:
            return time(moment.hour, moment.minute, moment.second, moment.microsecond)
        if moment.time() == time() and not self._has_time:
            return date(moment.year, moment.month, moment.day)
        return moment

    def _section_for(self, number: float) -> str:
        sections = self._sections
        for section in sections:
            condition = _CONDITION.search(section)
            if condition and _holds(number, condition[1], float(condition[2])):
                return section
        plain = [section for section in sections if not re.search(r"\[[<>=]", section)]
        if len(plain) < len(sections):
            return plain[0] if plain else ""
        if number < 0 and len(sections) > 1:
            return sections[1]
        return sections[2] if number == 0 and len(sections) > 2 else sections[0]

    def _is_any_mask(self) -> bool:
        return any(map(_is_mask, self._sections))


def _sections(code: str) -> list[str]:
    """The parts of `code` between semicolons that aren't quoted."""
    parts, current = [], ""
    for match in _TOKEN.finditer(code):
        if match["other"] == ";":
            parts.append(current)
            current = ""
        else:
            current += match[0]
    return [*parts, current]


def _is_mask(section: str) -> bool:
    """Whether `section` lays digits out: with leading zeros, or with signs among them."""
    tokens = _tokens(section)
    codes = "".join(text for kind, text in tokens if kind == "code")
    if _NO_MASK & set(codes) or not {"0", "#"} & set(codes):
        return False
    if any(re.match(r"\$[^-]", text) for kind, text in tokens if kind == "bracket"):
        return False
    literals = "".join(
        text for kind, text in tokens if kind == "literal" or (kind == "code" and text not in "0#")
    )
    if any(letter.isalpha() for kind, letter in tokens if kind == "code"):
        return False
    inner = re.search(r"[0#][^0#]+[0#]", _layout(tokens))
    return "00" in codes or inner is not None or bool(set(literals) - _MONEY)


def _words(section: str) -> str:
    """What `section` shows in the place of a number, such as `"Yes"`; "" where it shows digits, or
    nothing that says anything."""
    tokens = _tokens(section)
    if any(kind == "code" and (text in "0#?@" or text.isalpha()) for kind, text in tokens):
        return ""
    text = "".join(text for kind, text in tokens if kind != "bracket").strip()
    return text if any(map(str.isalnum, text)) else ""


def _layout(tokens: list[tuple[str, str]]) -> str:
    """The tokens with every literal as `_`."""
    return "".join(
        text if kind == "code" and text in "0#" else "_"
        for kind, text in tokens
        if kind != "bracket"
    )


def _masked(section: str, number: int) -> str:
    """`number` laid out: its digits from the right, the rest of them at the leftmost place."""
    tokens = [each for each in _tokens(section) if each[0] != "bracket"]
    places = [at for at, (kind, text) in enumerate(tokens) if kind == "code" and text in "0#"]
    digits = str(abs(number)) if number else ""
    filled: dict[int, str] = {}
    for at in reversed(places[1:]):
        filled[at] = digits[-1:] or ("0" if tokens[at][1] == "0" else "")
        digits = digits[:-1]
    filled[places[0]] = digits or ("0" if tokens[places[0]][1] == "0" else "")
    text = "".join(filled.get(at, text) for at, (_, text) in enumerate(tokens))
    return f"-{text}" if number < 0 and "-" not in section[:1] else text


def _holds(number: float, relation: str, bound: float) -> bool:
    return {
        "<": number < bound,
        "<=": number <= bound,
        ">": number > bound,
        ">=": number >= bound,
        "=": number == bound,
        "<>": number != bound,
    }[relation]


def plain_number(text: str) -> int | float | Unreadable:
    """The number that a sheet's XML holds, to the 15 digits that spreadsheets show.

    Raises:
        ValueError: it isn't one.
    """
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    if abs(number) >= 10**_DIGITS:
        return Unreadable(
            f"a number of more than {_DIGITS} digits, the last of which a spreadsheet rounds",
            text=text[:40],
            advice="Format the column as text, and type it again",
        )
    if number == int(number):
        return int(number)
    return float(f"{number:.{_DIGITS}g}")
