"""The rows of an XLSX sheet, streamed from its XML, with all that a cell says about itself.

Readers that build a grid of values, python-calamine among them, hide what matters here: that a cell
shows an error, that no program has computed its formula, how its number is shown, which cells are
merged; and one stray cell in the last corner makes their grid larger than any memory. A pass that
finds these visits every cell anyway, so the XML is read here, as it comes: memory holds a few rows,
the strings that cells share, and the formats.

Most number formats only decorate (`#,##0.00 €`): the number itself is sent. Two kinds say what the
value is: formats of dates and times, and masks of digits, by which people keep the leading zeros
and dashes of postal codes, phones and numbers of their own.
"""

from __future__ import annotations

import math
import operator
import posixpath
import re
import zipfile
from array import array
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import IO, Any, BinaryIO, NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from connector.errors import InputError
from connector.upsert.inputs.files import check_unpacked
from connector.upsert.rows.cells import NOT_COMPUTED, Unreadable, is_error_word, shown

MAX_ROWS, MAX_COLUMNS, MAX_MERGES = 1_048_576, 16_384, 100_000
MAX_WORKBOOK_BYTES = 2 * 1024**3
MAX_STRING_BYTES, MAX_ROW_CHARS = 256 * 1024**2, 16 * 1024**2
_CHUNK_BYTES = 64 * 1024
_MAX_TAGS = 32 * MAX_COLUMNS  # of one row
_REFERENCE = re.compile(r"\$?([A-Za-z]{1,3})\$?(\d{1,7})")
_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")
_SHOWN_ERROR_CHARS = 40

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


class SheetXmlError(Exception):
    """The workbook's XML isn't what it should be."""


class Sheet(NamedTuple):
    """A worksheet of the workbook. part: its path inside the archive."""

    name: str
    part: str
    is_visible: bool


class Merge(NamedTuple):
    """A merged range; rows from 1, columns from 0, both ends in it."""

    first_row: int
    first_column: int
    last_row: int
    last_column: int
    reference: str


class SheetRow(NamedTuple):
    """number: from 1. cells: column (from 0) → value, of those with something in them. hidden: by a
    filter, or by hand."""

    number: int
    cells: dict[int, Any]
    hidden: bool

    def texts(self) -> list[str]:
        """The cells as text, from the first that has something in it."""
        columns = range(min(self.cells), max(self.cells) + 1)
        return [shown(self.cells.get(column, "")) for column in columns]


class Workbook:
    """An XLSX file. sheets: its worksheets, in order.

    Raises:
        SheetXmlError: XML that isn't well-formed, or has a document type.
        LookupError, zipfile.BadZipFile, zlib.error: parts are missing or damaged.
        InputError: it is beyond a limit.
    """

    def __init__(self, stream: BinaryIO, *, location: str) -> None:
        self._location = location
        self._archive = zipfile.ZipFile(stream)
        self._parts = {name.lower(): name for name in self._archive.namelist()}
        self._check_parts()
        self._from_1904 = self._computes_on_load = False
        self.sheets: list[Sheet] = []
        self._strings = _SharedStrings(location)
        self._formats: list[NumberFormat] = []
        self._read_workbook()

    def _check_parts(self) -> None:
        total = sum(part.file_size for part in self._archive.infolist())
        if total > MAX_WORKBOOK_BYTES:
            limit = f"{MAX_WORKBOOK_BYTES >> 30} GB"
            reason = f"unpacks to more than {limit}, the limit. Save the sheet as CSV."
            raise InputError(location=self._location, reason=reason)
        for part in self._archive.infolist():
            location = f"{self._location}: {part.filename!r}"
            check_unpacked(part.file_size, part.compress_size, location=location)
            if part.flag_bits & 1:
                reason = "is encrypted with a password. Remove the password, or save it as CSV."
                raise InputError(location=self._location, reason=reason)
            if part.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise SheetXmlError("its parts are packed in a way that spreadsheets don't use")

    def _open(self, part: str) -> IO[bytes]:
        return self._archive.open(self._parts[part.lower()])

    def _related(self, folder: str, rels: str) -> dict[str, tuple[str, str]]:
        """id → (kind, path) of what the part with these relations refers to."""
        found = {}
        for relation in _elements(self._open(rels), "Relationship"):
            target = posixpath.normpath(posixpath.join("/", folder, relation.attrib["Target"]))
            kind = relation.attrib["Type"].rpartition("/")[2]
            found[relation.attrib["Id"]] = kind, target.lstrip("/")
        return found

    def _read_workbook(self) -> None:
        root = self._related("", "_rels/.rels").values()
        part = next((path for kind, path in root if kind == "officeDocument"), None)
        if part is None:
            raise SheetXmlError("it names no workbook part")
        folder, base = posixpath.split(part)
        related = self._related(folder, f"{folder}/_rels/{base}.rels".lstrip("/"))
        for element in _elements(self._open(part), "workbookPr", "calcPr", "sheet"):
            if element.tag == "workbookPr":
                self._from_1904 = _is_true(element.get("date1904"))
            elif element.tag == "calcPr":
                is_partial = element.get("calcCompleted") in ("0", "false")
                self._computes_on_load = is_partial or _is_true(element.get("fullCalcOnLoad"))
            else:
                ids = [value for name, value in element.items() if name.endswith(":id")]
                kind, path = related[ids[-1]]
                is_visible = element.get("state", "visible") == "visible"
                if kind == "worksheet":
                    self.sheets.append(Sheet(element.attrib["name"], path, is_visible))
        by_kind = {kind: path for kind, path in related.values() if path.lower() in self._parts}
        if "sharedStrings" in by_kind:
            self._strings.read(self._open(by_kind["sharedStrings"]))
        if "styles" in by_kind:
            self._formats = _formats(self._open(by_kind["styles"]))

    def merges(self, sheet: Sheet) -> list[Merge]:
        """The merged ranges, in order of their first row. (They stand behind the rows.)"""
        found: list[Merge] = []
        if not _mentions(self._open(sheet.part), b"mergeCell"):
            return found
        for element in _elements(self._open(sheet.part), "mergeCell"):
            reference = element.get("ref", "")
            ends = [_position(end) for end in reference.split(":")]
            if len(ends) == 2:
                found.append(Merge(*ends[0], *ends[1], reference))
            if len(found) > MAX_MERGES:
                reason = f"has more than {MAX_MERGES:,} merged ranges, the limit. Save it as CSV."
                raise InputError(location=self._location, reason=reason)
        return sorted(found)

    def rows(self, sheet: Sheet) -> Iterator[SheetRow]:
        """The rows that have a cell with something in it. Rows and cells without a reference follow
        the one before."""
        last_number, columns = 0, dict[str, int]()
        for row in _elements(self._open(sheet.part), "row"):
            number = int(row.attrib["r"]) if "r" in row.attrib else None
            cells, column = {}, -1
            for cell in row:
                column += 1
                if (reference := cell.get("r")) is not None:
                    letters = reference.rstrip("0123456789")
                    if number is None or letters not in columns:
                        at_row, columns[letters] = _position(reference)
                        number = at_row if number is None else number
                    column = columns[letters]
                if column >= MAX_COLUMNS:
                    raise SheetXmlError(f"a row has more than {MAX_COLUMNS:,} cells")
                if (value := self._value(cell)) != "":
                    cells[column] = value
            number = last_number + 1 if number is None else number
            if not last_number < number <= MAX_ROWS:
                raise SheetXmlError(f"row {number} is out of order")
            last_number = number
            if cells:
                yield SheetRow(number, cells, _is_true(row.get("hidden")))

    def _value(self, cell: Element) -> Any:
        """What `<c r="B4" s="1" t="e"><f>…</f><v>#N/A</v></c>` holds."""
        kind, text, is_formula = cell.get("t", "n"), None, False
        for part in cell:
            if part.tag == "v":
                text = part.text or ""
            elif part.tag == "is":
                text = _text_of(part)
            elif part.tag == "f":
                is_formula = True
            elif part.tag.endswith((":v", ":is", ":f")):  # its value would be taken for empty
                raise SheetXmlError("its tags mix prefixes")
        if kind == "e":
            return _error_word((text or "").strip())
        if is_formula and (
            (not text and not (kind == "str" and text is not None))
            or (self._computes_on_load and text in ("", "0"))
        ):
            return NOT_COMPUTED
        if not text:
            return ""
        if kind == "s":
            return _unescaped(self._strings[int(text)])
        if kind in ("inlineStr", "str"):
            return _unescaped(text)
        text = text.strip()
        if kind == "b" and text:
            return text not in ("0", "false")
        if kind == "d" and text:
            return _moment(text)
        return self._number(text, int(cell.get("s", 0))) if text else ""

    def _number(self, text: str, style: int) -> Any:
        try:
            number = plain_number(text)
        except ValueError:
            return Unreadable("a number that can't be read", text=text[:_SHOWN_ERROR_CHARS])
        if isinstance(number, Unreadable) or not 0 <= style < len(self._formats):
            return number
        return self._formats[style].value(number, from_1904=self._from_1904)


class _SharedStrings:
    """The strings that cells share, in two buffers: a million objects would take five times it."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._text, self._ends = bytearray(), array("Q", [0])

    def read(self, stream: IO[bytes]) -> None:
        for element in _elements(stream, "si"):
            self._text += _text_of(element).encode("utf-8", "surrogatepass")
            self._ends.append(len(self._text))
            if len(self._text) > MAX_STRING_BYTES:
                limit = f"{MAX_STRING_BYTES >> 20} MB"
                reason = f"has more than {limit} of shared strings, the limit. Save it as CSV."
                raise InputError(location=self._location, reason=reason)

    def __getitem__(self, position: int) -> str:
        if not 0 <= position < len(self._ends) - 1:
            raise SheetXmlError("a cell refers to a string that isn't there")
        encoded = self._text[self._ends[position] : self._ends[position + 1]]
        return encoded.decode("utf-8", "surrogatepass")


def _text_of(element: Element) -> str:
    """The text of a string, in whatever fonts, without how it is pronounced."""
    if len(element) == 1 and element[0].tag == "t":
        return element[0].text or ""
    parts = (part for child in element if child.tag != "rPh" for part in child.iter("t"))
    return "".join(part.text or "" for part in parts)


def _error_word(word: str) -> Any:
    word = word or "#VALUE!"
    if is_error_word(word):
        return word
    advice = "Correct it, or empty the cell"
    return Unreadable("an error", text=word[:_SHOWN_ERROR_CHARS], advice=advice)


def _moment(text: str) -> date | datetime | time | str:
    for kind in (date, datetime, time):
        with suppress(ValueError):
            moment: date | datetime | time = kind.fromisoformat(text)
            return moment
    return text


def _unescaped(text: str) -> str:
    """`text` with the characters that XML can't hold, which stand as `_x000D_`."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text) if "_x" in text else text


def _formats(stream: IO[bytes]) -> list[NumberFormat]:
    """The number format of each cell style."""
    codes: dict[int, str] = {}
    numbers: list[int] = []
    for element in _elements(stream, "numFmts", "cellXfs"):
        for each in element:
            number = int(each.get("numFmtId", 0))
            if each.tag == "numFmt":
                codes[number] = each.get("formatCode", "")
            elif each.tag == "xf":
                numbers.append(number)
    made = {number: NumberFormat(codes.get(number), number) for number in set(numbers)}
    return [made[number] for number in numbers]


def _position(reference: str) -> tuple[int, int]:
    """(row from 1, column from 0) of `B4`."""
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise SheetXmlError("a cell has a reference that can't be read")
    column = 0
    for letter in match[1].upper():
        column = column * 26 + ord(letter) - ord("A") + 1
    return int(match[2]), column - 1


def _is_true(value: str | None) -> bool:
    return value in ("1", "true")


def _mentions(stream: IO[bytes], word: bytes) -> bool:
    """Whether `word` is in the XML, in UTF-8 or UTF-16."""
    tail = b""
    with stream:
        while chunk := stream.read(1024 * 1024):
            tail = tail[-64:] + chunk.replace(b"\0", b"")
            if word in tail:
                return True
    return False


def _elements(stream: IO[bytes], *wanted: str) -> Iterator[Element]:
    """The elements called one of `wanted` that stand right below the root or one of its children,
    each with all that is in it, without prefixes. Memory holds those of one chunk.

    Raises:
        SheetXmlError: it isn't well-formed, has a document type, or an element beyond a limit.
    """
    tree = _GrowingTree(wanted)
    try:
        with stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield from tree.feed(chunk)
            yield from tree.finish()
    except expat.ExpatError as error:
        raise SheetXmlError(str(error)) from None


class _GrowingTree:
    """The tree of an XML document that comes in chunks. What is complete is yielded and dropped,
    so that nothing is kept but the elements around the last byte."""

    def __init__(self, wanted: tuple[str, ...]) -> None:
        self._wanted = wanted
        self._tree, self._root = TreeBuilder(), Element("")
        self._kept_bytes = self._kept_tags = 0
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = _refuse_document_type
        self._parser.StartElementHandler = self._start_root
        self._parser.EndElementHandler = self._tree.end
        self._parser.CharacterDataHandler = self._tree.data

    def _start_root(self, name: str, attributes: dict[str, str]) -> None:
        self._root = self._tree.start(name, attributes)
        self._parser.StartElementHandler = self._tree.start  # from here on it needs no Python

    def feed(self, chunk: bytes) -> Iterator[Element]:
        """The wanted elements that `chunk` completes."""
        self._parser.Parse(chunk, False)
        complete = self._take()
        if complete:
            self._kept_bytes = self._kept_tags = 0
        self._kept_bytes += len(chunk)
        self._kept_tags += chunk.count(b"<")
        if self._kept_bytes > MAX_ROW_CHARS:
            limit = f"{MAX_ROW_CHARS >> 20} million characters"
            raise SheetXmlError(f"{self._last()} has more than {limit}")
        if self._kept_tags > _MAX_TAGS:
            raise SheetXmlError(f"{self._last()} has more than {_MAX_TAGS:,} tags")
        return filter(self._is_wanted, complete)

    def finish(self) -> Iterator[Element]:
        """The wanted elements that are left."""
        self._parser.Parse(b"", True)
        return filter(self._is_wanted, self._take(at_end=True))

    def _take(self, *, at_end: bool = False) -> list[Element]:
        taken: list[Element] = []
        children = self._root[:]
        for child in children:
            may_be_open = not at_end and child is children[-1]
            if not self._is_wanted(child):
                whole = child[: len(child) - 1] if may_be_open else child[:]
                taken += whole
                del child[: len(whole)]
            if not may_be_open:
                taken.append(child)
        del self._root[: len(children) if at_end else -1]
        return taken

    def _is_wanted(self, element: Element) -> bool:
        if ":" in element.tag:
            for each in element.iter():
                each.tag = each.tag.rpartition(":")[2]
        return element.tag in self._wanted

    def _last(self) -> str:
        """The element that the last byte stands in, for people."""
        element = self._root
        while len(element) and element.tag not in self._wanted:
            element = element[-1]
        if element.tag == "row":
            return f"row {element.attrib['r']}" if "r" in element.attrib else "a row"
        return f"<{element.tag[:40]}>"


def _refuse_document_type(*_: object) -> None:
    raise SheetXmlError("it has a document type")


# --- what a format makes of a number -----------------------------------------------------------


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
        parts = _split(code or "")
        self._sections = list(map(_FormatSection, parts))
        first = _FormatSection(_SECOND_PARTS.sub("", parts[0]))
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
