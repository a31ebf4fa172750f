"""Input files: opened once, gzip unpacked, the format recognised, changes detected.

All passes read through one descriptor, so that they see one file; the copy of stdin or a pipe has
no name in any folder. The first bytes decide the format, since `people.csv` is often a workbook.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import sys
import tempfile
import time
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from connector.errors import InputChanged, InputError

MAX_UNPACKED_BYTES = 4 * 1024**3
MAX_RATIO, RATIO_COUNTS_FROM_BYTES = 200, 128 * 1024**2
_GZIP, _ZIP, _PARQUET, _OLE = b"\x1f\x8b", b"PK\x03\x04", b"PAR1", b"\xd0\xcf\x11\xe0"
_SPOOL_PREFIX, _STALE_S = "hiringcenter-input-", 86_400
_BUFFER_BYTES, _CHUNK_BYTES = 256 * 1024, 1024 * 1024

# first bytes → what it is, and what to do
_OTHER_FORMATS = (
    (b"%PDF", "is a PDF document. Ask for the table as .xlsx or CSV."),
    (b"{\\rtf", "is an RTF document. Save its table as CSV."),
    (b"SQLite format 3", "is an SQLite database. Export the table as CSV."),
    (b"ARROW1", "is an Arrow (Feather) file. Write it as Parquet."),
    (b"Obj\x01", "is an Avro file. Write it as Parquet or CSV."),
    (b"ORC", "is an ORC file. Write it as Parquet or CSV."),
    (b"\x28\xb5\x2f\xfd", "is packed with zstd. Unpack it; only gzip is unpacked while reading."),
    (b"BZh", "is packed with bzip2. Unpack it; only gzip is unpacked while reading."),
    (b"\xfd7zXZ", "is packed with xz. Unpack it; only gzip is unpacked while reading."),
    (b"7z\xbc\xaf", "is a 7z archive. Unpack it, and push the file inside."),
    (b"Rar!", "is a RAR archive. Unpack it, and push the file inside."),
    (b"\x89PNG", "is a picture. Push the table itself, as .xlsx or CSV."),
    (b"\xff\xd8\xff", "is a picture. Push the table itself, as .xlsx or CSV."),
)
# a stream of an OLE file → what the file is
_OLE_STREAMS = {
    "EncryptedPackage": "is a workbook that is encrypted with a password. Remove the password (in "
    "Excel: File > Info > Protect Workbook > Encrypt with Password, empty the box) and save it, or "
    "save the sheet as CSV.",
    "WordDocument": "is a Word document. Save its table as CSV.",
    "PowerPoint Document": "is a PowerPoint document. Save its table as CSV.",
}
_NUMBERS = "is an Apple Numbers document. In Numbers, choose File > Export To > CSV (or Excel)."
# a part of a ZIP archive → what the file is
_ARCHIVES = {
    "xl/workbook.bin": "is an Excel binary workbook (.xlsb). Save it as .xlsx or CSV.",
    "word/document.xml": "is a Word document. Save its table as .xlsx or CSV.",
    "ppt/presentation.xml": "is a PowerPoint document. Save its table as .xlsx or CSV.",
    "Index/Document.iwa": _NUMBERS,
    "Index.zip": _NUMBERS,
}


class _SharedDescriptor(io.RawIOBase):
    """A stream with a position of its own over a descriptor, which it leaves open.

    summed, checksum: how many bytes were read in order from the start, and their CRC.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._position = descriptor, 0
        self.summed, self.checksum = 0, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = os.preadv(self._descriptor, [buffer], self._position)
        if self._position == self.summed:
            self.checksum = zlib.crc32(memoryview(buffer)[:count], self.checksum)
            self.summed += count
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = (0, self._position, os.fstat(self._descriptor).st_size)[whence]
        self._position = max(0, base + offset)
        return self._position


class _BoundedGzip(gzip.GzipFile):
    """Unpacks `stream` until that is more than any honest file holds."""

    def __init__(self, stream: BinaryIO, *, location: str, packed_bytes: int) -> None:
        super().__init__(fileobj=stream, mode="rb")
        self._location, self._packed, self._unpacked = location, packed_bytes, 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._unpacked += len(data)
        check_unpacked(self._unpacked, self._packed, location=self._location)
        return data


def check_unpacked(unpacked_bytes: int, packed_bytes: int, *, location: str) -> None:
    """Raises InputError for what unpacks to more than a file of rows can honestly hold."""
    if unpacked_bytes > MAX_UNPACKED_BYTES:
        limit = f"{MAX_UNPACKED_BYTES >> 30} GB"
        raise InputError(
            location=location, reason=f"unpacks to more than {limit}, the limit. Split it."
        )
    if unpacked_bytes > max(RATIO_COUNTS_FROM_BYTES, packed_bytes * MAX_RATIO):
        raise InputError(
            location=location,
            reason=f"unpacks to more than {MAX_RATIO} times its size (the limit above "
            f"{RATIO_COUNTS_FROM_BYTES >> 20} MB), as no list of people does. If it is one, "
            "unpack it first, or save it as CSV.",
        )


class LocalFile:
    """A file that can be read from its start any number of times.

    name: for people. descriptor: of its bytes, which this owns; `path` is where they are, None
    for the nameless copy of stdin or a pipe.
    """

    def __init__(self, name: str, descriptor: int, path: Path | None) -> None:
        self.name, self._path, self._descriptor = name, path, descriptor
        self._close = weakref.finalize(self, os.close, descriptor)
        self._status = os.fstat(descriptor)
        self._read_before: tuple[int, int] | None = None
        self._streams: list[_SharedDescriptor] = []
        self._unpacked: LocalFile | None = None
        self._is_gzip = os.pread(descriptor, 2, 0) == _GZIP

    def open(self) -> BinaryIO:
        """The bytes, unpacked. Raises InputChanged where the file was changed meanwhile."""
        self.check_unchanged()
        raw = _SharedDescriptor(self._descriptor)
        self._streams.append(raw)
        stream = cast(BinaryIO, io.BufferedReader(raw, _BUFFER_BYTES))
        if not self._is_gzip:
            return stream
        unpacked = _BoundedGzip(stream, location=self.name, packed_bytes=self._status.st_size)
        return cast(BinaryIO, io.BufferedReader(unpacked, _BUFFER_BYTES))

    def unpacked(self) -> LocalFile:
        """This file, or a nameless unpacked copy, for formats that are read out of order."""
        if not self._is_gzip:
            return self
        if self._unpacked is None:
            with self.reading(), self.open() as stream:
                self._unpacked = _spool(self.name, stream)
        return self._unpacked

    def check_unchanged(self) -> None:
        """Raises InputChanged where the file isn't what it was when it was opened: other bytes in
        it, seen by its size, its times, and a checksum of what was read twice; or another file
        under its name."""
        for stream in self._streams:
            if stream.summed == self._status.st_size:
                seen = stream.summed, stream.checksum
                if self._read_before not in (None, seen):
                    raise InputChanged(location=self.name)
                self._read_before = seen
        self._streams.clear()
        now = [os.fstat(self._descriptor)]
        if self._path is not None:
            with suppress(OSError):  # a name that is gone took nothing from what was read
                now.append(self._path.stat())
        if any(_version(status) != _version(self._status) for status in now):
            raise InputChanged(location=self.name)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turns errors of the file itself into InputError."""
        try:
            yield
        except (EOFError, zlib.error, gzip.BadGzipFile):
            reason = "the gzip file is damaged or incomplete. Copy it again."
            raise InputError(location=self.name, reason=reason) from None
        except OSError as error:
            raise _unreadable(self.name, error) from None

    def close(self) -> None:
        """Close the descriptors; that deletes a nameless copy."""
        self._close()
        if self._unpacked is not None:
            self._unpacked.close()


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _unreadable(name: str, error: OSError) -> InputError:
    reason = f"can't be read: {error.strerror or error}. Check the path and its permissions."
    return InputError(location=name, reason=reason)


def locate(named: str | Path) -> LocalFile:
    """The file called `named`; `-` is stdin.

    Raises:
        InputError: there is none, it is a folder, or it can't be read.
    """
    if str(named) == "-":
        return _spool("stdin", sys.stdin.buffer)
    path = Path(named)
    if path.is_dir():
        reason = _NUMBERS if path.suffix.lower() == ".numbers" else "is a folder. Name one file."
        raise InputError(location=str(path), reason=reason)
    try:
        if path.exists() and not path.is_file():
            with path.open("rb") as stream:
                return _spool(str(path), stream)
        return LocalFile(str(path), os.open(path, os.O_RDONLY | os.O_CLOEXEC), path)
    except OSError as error:
        raise _unreadable(str(path), error) from None


def _spool(name: str, stream: BinaryIO) -> LocalFile:
    """A copy of the rest of `stream` that never has a name once it holds a byte: whatever ends this
    process, no copy of personal data stays."""
    _remove_old_copies()
    descriptor, path = tempfile.mkstemp(prefix=_SPOOL_PREFIX)
    Path(path).unlink()
    try:
        with os.fdopen(os.dup(descriptor), "wb") as copy:
            while chunk := stream.read(_CHUNK_BYTES):
                copy.write(chunk)
        return LocalFile(name, descriptor, None)
    except BaseException as error:
        os.close(descriptor)
        if not isinstance(error, OSError):
            raise
        reason = f"can't be copied to {tempfile.gettempdir()}: {error.strerror or error}. Name "
        reason += "another folder in TMPDIR, or push a file."
        raise InputError(location=name, reason=reason) from None


def _remove_old_copies() -> None:
    """Remove what killed pushes of version 0.1 left: plain copies of what was piped in."""
    for path in Path(tempfile.gettempdir()).glob(f"{_SPOOL_PREFIX}*"):
        with suppress(OSError):
            status = path.lstat()
            is_ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid()
            if is_ours and status.st_mtime < time.time() - _STALE_S:
                path.unlink()


def format_of(file: LocalFile) -> str:
    """`xlsx`, `parquet`, `jsonl` or `csv`, by the first bytes.

    Raises:
        InputError: a format that isn't read, with what to save it as.
    """
    with file.reading(), file.open() as stream:
        head = stream.read(512)
    if head.startswith(_PARQUET):
        return "parquet"
    reason = _other_format(file, head)
    if reason is None and head.startswith(_ZIP):
        return "xlsx"
    text = head.replace(b"\x00", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    is_named_json = file.name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson", ".json"))
    if text[:200].lower().startswith((b"<html", b"<!doctype html", b"<table", b"<?xml", b"<meta")):
        reason = "is a web page or XML, whatever its name. Open it in a spreadsheet, and save it "
        reason += "as .xlsx or CSV."
    if text.startswith(b"[") and (is_named_json or text[1:].lstrip().startswith(b"{")):
        reason = "is a JSON list. Write one JSON object per line (JSON Lines)."
    if reason is not None:
        raise InputError(location=file.name, reason=reason)
    return "jsonl" if text.startswith(b"{") or is_named_json else "csv"


def _other_format(file: LocalFile, head: bytes) -> str | None:
    """What a binary file is that isn't read; None where it may be."""
    if head.startswith(_ZIP):
        return _archive_kind(file)
    if head.startswith(_OLE):
        return _ole_kind(file)
    if head[8:12] == b"DUCK":
        return "is a DuckDB database. Push one of its tables: --table NAME --database FILE."
    return next((reason for start, reason in _OTHER_FORMATS if head.startswith(start)), None)


def _ole_kind(file: LocalFile) -> str:
    """What an OLE file is, by the names in its directory, wherever that is."""
    tail = b""
    with file.reading(), file.open() as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            tail = tail[-64:] + chunk
            for name, reason in _OLE_STREAMS.items():
                if name.encode("utf-16-le") in tail:
                    return reason
    return "is an old Excel workbook. Save it as .xlsx or CSV."


def _archive_kind(file: LocalFile) -> str | None:
    """What a ZIP file is; None for a workbook, and for what is damaged: its reader names that."""
    damage = (zipfile.BadZipFile, NotImplementedError, RuntimeError, LookupError, ValueError)
    with file.unpacked().open() as stream, suppress(*damage, OSError, EOFError):
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
        for part, reason in _ARCHIVES.items():
            if part in names:
                return reason
        if "mimetype" in names and "content.xml" in names:
            return "is an OpenDocument sheet (.ods). Save it as .xlsx or CSV."
        if not any(name.lower().endswith(".rels") for name in names):
            inside = ", ".join(repr(name[:60]) for name in names[:3])
            return f"is a ZIP archive (of {inside}). Unpack it, and push the file inside."
    return None
