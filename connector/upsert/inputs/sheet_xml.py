"""The cells of an XLSX sheet that have no usable value: errors, and formulas never computed."""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from xml.parsers import expat

from connector.upsert.rows.cells import NOT_COMPUTED

_CHUNK_BYTES = 1024 * 1024
_WORTH_PARSING = re.compile(rb"""\bt=["']e["']|<(?:\w+:)?f[\s/>]""")
_REFERENCE = re.compile(r"([A-Z]+)(\d+)")

StartElement = Callable[[str, dict[str, str]], None]


class SheetXmlError(Exception):
    """The workbook's XML isn't what it should be."""


def valueless_cells(path: Path, position: int) -> dict[int, dict[int, str]]:
    """Row number (from 1) → column (from 0) → what to read there, of the sheet at `position`.

    An error cell reads as what it shows; a formula without a stored value as NOT_COMPUTED.

    Raises:
        SheetXmlError: XML that isn't well-formed, or has a document type.
        LookupError, zipfile.BadZipFile, zlib.error: parts are missing or damaged.
    """
    with zipfile.ZipFile(path) as archive:
        part = _sheet_part(archive, position)
        with archive.open(part) as stream:
            if not _worth_parsing(stream):
                return {}
        with archive.open(part) as stream:
            return _Cells().found_in(stream)


def _worth_parsing(stream: IO[bytes]) -> bool:
    tail = b""
    for chunk in _chunks(stream):
        if _WORTH_PARSING.search(tail + chunk):
            return True
        tail = chunk[-32:]
    return False


def _sheet_part(archive: zipfile.ZipFile, position: int) -> str:
    """The path of the sheet inside the workbook."""
    root: dict[str, str] = {}
    _parse(archive.open("_rels/.rels"), start=_collect(root, "Relationship", "Type", "Target"))
    books = [to.lstrip("/") for kind, to in root.items() if kind.endswith("/officeDocument")]
    if not books:
        raise SheetXmlError("it names no workbook part")
    workbook = books[0]
    sheets: list[str] = []

    def sheet(name: str, attributes: dict[str, str]) -> None:
        if _local(name) == "sheet":
            sheets.extend(value for key, value in attributes.items() if _local(key) == "id")

    _parse(archive.open(workbook), start=sheet)
    folder, base = posixpath.split(workbook)
    targets: dict[str, str] = {}
    _parse(
        archive.open(f"{folder}/_rels/{base}.rels".lstrip("/")),
        start=_collect(targets, "Relationship", "Id", "Target"),
    )
    return posixpath.normpath(posixpath.join("/", folder, targets[sheets[position]])).lstrip("/")


def _collect(into: dict[str, str], element: str, key: str, value: str) -> StartElement:
    def start(name: str, attributes: dict[str, str]) -> None:
        if _local(name) == element:
            into[attributes[key]] = attributes[value]

    return start


class _Cells:
    """Reads `<c r="B4" t="e"><f>…</f><v>#N/A</v></c>` elements as they stream by."""

    def __init__(self) -> None:
        self._found: defaultdict[int, dict[int, str]] = defaultdict(dict)
        self._reference, self._type, self._value = "", "", ""
        self._row, self._formula, self._in_value = 0, False, False

    def found_in(self, stream: IO[bytes]) -> dict[int, dict[int, str]]:
        _parse(stream, start=self._start, end=self._end, text=self._text)
        return dict(self._found)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = _local(name)
        if local == "c":
            self._reference, self._type = attributes.get("r", ""), attributes.get("t", "")
            self._formula, self._value = False, ""
        elif local == "f":
            self._formula = True
        self._in_value = local in ("v", "t")

    def _text(self, text: str) -> None:
        if self._in_value:
            self._value += text

    def _end(self, name: str) -> None:
        self._in_value = False
        if _local(name) != "c" or not (match := _REFERENCE.fullmatch(self._reference)):
            return
        if self._type == "e":
            self._found[int(match[2])][_column(match[1])] = self._value or "#VALUE!"
        elif self._formula and not self._value and self._type != "str":
            self._found[int(match[2])][_column(match[1])] = NOT_COMPUTED


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1


def _local(name: str) -> str:
    return name.rpartition(" ")[2]


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk


def _refuse_document_type(*_: object) -> None:
    raise SheetXmlError("it has a document type")


def _parse(
    stream: IO[bytes],
    *,
    start: StartElement,
    end: Callable[[str], None] | None = None,
    text: Callable[[str], None] | None = None,
) -> None:
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartDoctypeDeclHandler = _refuse_document_type
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    try:
        with stream:
            for chunk in _chunks(stream):
                parser.Parse(chunk, False)
            parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise SheetXmlError(str(error)) from None
