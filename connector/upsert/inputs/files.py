"""From what the person named to an input: stdin and pipes spooled, gzip opened, format told.

The format is told by the first bytes, not by the name: `people.csv` is often a workbook.
"""

from __future__ import annotations

import gzip
import os
import shutil
import sys
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from connector.errors import InputError

GZIP, ZIP, PARQUET = b"\x1f\x8b", b"PK\x03\x04", b"PAR1"
_OLD_EXCEL = b"\xd0\xcf\x11\xe0"


class LocalFile:
    """A file that can be read from its start any number of times.

    name: for people. path: where its bytes are; a private copy (mode 0600, removed by `close`)
    where the person named stdin or a pipe.
    """

    def __init__(self, name: str, path: Path, *, private: bool = False) -> None:
        self.name, self.path = name, path
        self._remove = weakref.finalize(self, path.unlink, missing_ok=True) if private else None
        with self.reading(), path.open("rb") as stream:
            self.gzipped = stream.read(2) == GZIP
            self._stamp = _stamp(path)

    def open(self) -> BinaryIO:
        """The bytes, unzipped. Raises InputError where the file was changed meanwhile."""
        if _stamp(self.path) != self._stamp:
            raise InputError(place=self.name, reason="was changed while it was read. Push again.")
        if self.gzipped:
            return cast(BinaryIO, gzip.open(self.path, "rb"))
        return self.path.open("rb")

    def unzipped(self) -> LocalFile:
        """This file, or a private unzipped copy, for formats that are read out of order."""
        if not self.gzipped:
            return self
        with self.reading(), self.open() as stream:
            return _spool(self.name, stream)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turns what can go wrong with the file itself into InputError."""
        try:
            yield
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise InputError(
                place=self.name, reason="the gzip file is damaged or incomplete. Copy it again."
            ) from None
        except OSError as error:
            reason = f"can't be read: {error.strerror or error}. Check the path and its mode."
            raise InputError(place=self.name, reason=reason) from None

    def head(self) -> bytes:
        """The first bytes, unzipped."""
        with self.reading(), self.open() as stream:
            return stream.read(64)

    def close(self) -> None:
        """Remove the private copy, if this is one; it goes with the object at the latest."""
        if self._remove is not None:
            self._remove()


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _spool(name: str, stream: BinaryIO) -> LocalFile:
    """A private copy of what `stream` still holds."""
    descriptor, path = tempfile.mkstemp(prefix="hiringcenter-input-")
    try:
        with os.fdopen(descriptor, "wb") as copy:
            shutil.copyfileobj(stream, copy, 1024 * 1024)
        return LocalFile(name, Path(path), private=True)
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise


def locate(named: str | Path) -> LocalFile:
    """The file called `named`; `-` is stdin.

    Raises:
        InputError: there is none, it is a folder, or it can't be read.
    """
    if str(named) == "-":
        return _spool("stdin", sys.stdin.buffer)
    path = Path(named)
    if path.is_dir():
        raise InputError(place=str(path), reason="is a folder. Name one file.")
    if path.exists() and not path.is_file():
        with path.open("rb") as stream:
            return _spool(str(path), stream)
    return LocalFile(str(path), path)


def tell_format(file: LocalFile) -> str:
    """`xlsx`, `parquet`, `jsonl` or `csv`, by the first bytes.

    Raises:
        InputError: a format that isn't read, with what to save it as.
    """
    head = file.head()
    if head.startswith(ZIP):
        return "xlsx"
    if head.startswith(PARQUET):
        return "parquet"
    if head.startswith(_OLD_EXCEL):
        raise InputError(place=file.name, reason="an old Excel workbook. Save it as .xlsx or CSV.")
    text = head.replace(b"\x00", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    if text.startswith(b"{"):
        return "jsonl"
    if text.startswith(b"[") and _named_json(file.name):
        raise InputError(
            place=file.name, reason="a JSON list. Write one JSON object per line (JSON Lines)."
        )
    return "jsonl" if _named_json(file.name) else "csv"


def _named_json(name: str) -> bool:
    return name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson", ".json"))
