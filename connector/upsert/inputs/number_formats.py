"""What a sheet's number formats make of a number: dates, and text such as `01940-1234`.

Most formats only decorate (`#,##0.00 €`): the number itself is sent. Two kinds say what the value
is: formats of dates and times, and masks of digits, by which people keep the leading zeros and
dashes of postal codes, phones and numbers of their own.
"""

from __future__ import annotations

import math
import operator
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
    r'"(?P<quoted>[^"]*)"|\\(?P<escaped>.)|\[(?P<bracket>[^\]]*)\]|[_*](?P<space>.)|(?P<code>.)',
    re.DOTALL,
)
_CONDITION = re.compile(r"(<=|>=|<>|<|>|=)(-?\d+(?:\.\d+)?)")
_RELATIONS = {
    **{"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge},
    **{"=": operator.eq, "<>": operator.ne},
}
_SECOND_PARTS = re.compile(r"(?<=s)\.0+", re.IGNORECASE)
_DATE_LETTERS = frozenset("ymdhsegb")
_MONEY = frozenset("$€£¥₹()- ")
_NO_MASK = frozenset(".,%eE/@?")


class _FormatSection:
    """One of the parts of a format, between semicolons.

    layout: (is it code?, text) of what is shown, without what stands in brackets. words: what it
    shows in the place of a number, such as `"Yes"`; "" where it shows digits, or says nothing.
    is_mask: it lays digits out, with leading zeros or with signs among them.
    """

    def __init__(self, code: str) -> None:
        found = [(match.lastgroup, match[match.lastgroup or 0]) for match in _TOKEN.finditer(code)]
        self.layout = [
            (kind == "code", text) for kind, text in found if kind not in ("bracket", "space")
        ]
        self.brackets = [text for kind, text in found if kind == "bracket"]
        conditions = filter(None, map(_CONDITION.fullmatch, self.brackets))
        self.condition = next(conditions, None)
        self.is_conditional = any(text[:1] in ("<", ">", "=") for text in self.brackets)
        self.codes = "".join(text for is_code, text in self.layout if is_code)
        self.is_general = "general" in code.lower()
        text = "".join(text for _, text in self.layout).strip()
        shows_number = any(code in "0#?@" or code.isalpha() for code in self.codes)
        self.words = text if not shows_number and any(map(str.isalnum, text)) else ""
        self.is_mask = self._is_mask()

    def _is_mask(self) -> bool:
        codes = set(self.codes)
        if codes & _NO_MASK or not codes & {"0", "#"} or any(map(str.isalpha, codes)):
            return False
        if any(re.match(r"\$[^-]", text) for text in self.brackets):
            return False
        places = "".join(text if is_code and text in "0#" else "_" for is_code, text in self.layout)
        signs = {*"".join(text for is_code, text in self.layout if not is_code or text not in "0#")}
        return "00" in self.codes or bool(re.search(r"[0#]_+[0#]", places) or signs - _MONEY)

    def masked(self, number: int) -> str:
        """`number` laid out: its digits from the right, those that are left in the leftmost
        place."""
        is_place = [is_code and text in "0#" for is_code, text in self.layout]
        shown = [text for _, text in self.layout]
        digits = str(abs(number)) if number else ""
        for at in reversed(range(len(shown))):
            if is_place[at]:
                is_leftmost = not any(is_place[:at])
                digit = digits if is_leftmost else digits[-1:]
                shown[at] = digit or ("0" if shown[at] == "0" else "")
                digits = digits[:-1]
        sign = "-" if number < 0 and self.layout[0] != (True, "-") else ""
        return sign + "".join(shown)


class NumberFormat:
    """One format. code: as the workbook has it; number: of a built-in one, which has no code."""

    def __init__(self, code: str | None, number: int = -1) -> None:
        self._sections = [_FormatSection(part) for part in _split(code or "")]
        first = _FormatSection(_SECOND_PARTS.sub("", _split(code or "")[0]))
        letters = {*first.codes.lower()}
        elapsed = any(re.fullmatch(r"[hms]+", text, re.IGNORECASE) for text in first.brackets)
        self._is_elapsed = elapsed or number == 46
        dated = bool(letters & _DATE_LETTERS) and not first.is_general and not letters & {"0", "#"}
        self._is_date = self._is_elapsed or dated if code else number in _DATE_IDS
        self._has_time = bool(letters & {"h", "s"}) if code else number in {22, *_TIME_IDS}
        self._has_day = bool(letters & {"y", "d", "e"}) if code else number not in _TIME_IDS
        self._is_percent = "%" in letters if code else number in _PERCENT_IDS
        self._decorates = not (
            self._is_date
            or self._is_percent
            or any(section.words or section.is_mask for section in self._sections)
        )

    def value(self, number: int | float, *, from_1904: bool) -> Any:
        """What a cell with `number` in it holds; `number` itself, where the format decorates."""
        if self._decorates:
            return number
        if self._is_date:
            return self._moment(number, from_1904)
        if self._is_percent:
            return f"{(Decimal(repr(number)) * 100).normalize():f}%"
        section = self._section_for(number)
        if section is not None and section.words:
            return section.words
        if section is not None and section.is_mask and number == int(number):
            return section.masked(int(number))
        return number

    def _moment(self, number: float, from_1904: bool) -> Any:
        if self._is_elapsed:
            return timedelta(milliseconds=round(number * _DAY_MS))
        if not 0 <= number < _MOST_DAYS:
            return Unreadable("a date that no spreadsheet can show", text=repr(number))
        days = number if from_1904 or number >= 60 else number + 1  # 1900 had no 29 February
        if not self._has_day and number < 1:
            days = number
        first = _FIRST_1904 if from_1904 else _FIRST_1900
        moment = first + timedelta(milliseconds=round(days * _DAY_MS))
        if not self._has_day and number < 1:
            return moment.time()
        if moment.time() == time() and not self._has_time:
            return date(moment.year, moment.month, moment.day)
        return moment

    def _section_for(self, number: float) -> _FormatSection | None:
        sections = self._sections
        for section in sections:
            if (found := section.condition) and _RELATIONS[found[1]](number, float(found[2])):
                return section
        plain = [section for section in sections if not section.is_conditional]
        if len(plain) < len(sections):
            return plain[0] if plain else None
        if number < 0 and len(sections) > 1:
            return sections[1]
        return sections[2] if number == 0 and len(sections) > 2 else sections[0]


def _split(code: str) -> list[str]:
    """The parts of `code` between semicolons that aren't quoted."""
    parts = [""]
    for match in _TOKEN.finditer(code):
        if match["code"] == ";":
            parts.append("")
        else:
            parts[-1] += match[0]
    return parts


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
