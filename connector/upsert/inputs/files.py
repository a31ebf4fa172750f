"""From what the person named to bytes: pipes spooled, gzip opened, format told, changes noticed.

A file is opened once and read through that descriptor only, so that all passes see one file; a
copy of stdin has no name in any folder. The format is told by the first bytes, not by the name:
`people.csv` is often a workbook.
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

MAX_UNZIPPED_BYTES = 4 * 1024**3
MAX_RATIO, RATIO_COUNTS_FROM_BYTES = 200, 128 * 1024**2
GZIP, ZIP, PARQUET = b"\x1f\x8b", b"PK\x03\x04", b"PAR1"
_OLE = b"\xd0\xcf\x11\xe0"
_SPOOL_PREFIX, _STALE_S = "hiringcenter-input-", 86_400
_BUFFER_BYTES = 256 * 1024

# first bytes → what it is, and the way on
_OTHER_FORMATS = (
    (b"%PDF", "is a PDF document. Ask for the table as .xlsx or CSV."),
    (b"{\\rtf", "is an RTF document. Save its table as CSV."),
    (b"SQLite format 3", "is an SQLite database. Export the table as CSV."),
    (b"ARROW1", "is an Arrow (Feather) file. Write it as Parquet."),
    (b"Obj\x01", "is an Avro file. Write it as Parquet or CSV."),
    (b"ORC", "is an ORC file. Write it as Parquet or CSV."),
    (b"\x28\xb5\x2f\xfd", "is packed with zstd. Unpack it; only gzip is opened on the way."),
    (b"BZh", "is packed with bzip2. Unpack it; only gzip is opened on the way."),
    (b"\xfd7zXZ", "is packed with xz. Unpack it; only gzip is opened on the way."),
    (b"7z\xbc\xaf", "is a 7z archive. Unpack it, and push the file inside."),
    (b"Rar!", "is a RAR archive. Unpack it, and push the file inside."),
    (b"\x89PNG", "is a picture. Push the table itself, as .xlsx or CSV."),
    (b"\xff\xd8\xff", "is a picture. Push the table itself, as .xlsx or CSV."),
)
_OLE_STREAMS = {
    "EncryptedPackage": (
        "is a workbook that is encrypted with a password. Remove the password (in Excel: File > "
        "Info > Protect Workbook > Encrypt with Password, empty the box) and save it, or save the "
        "sheet as CSV."
    ),
    "WordDocument": "is a Word document. Save its table as CSV.",
    "PowerPoint Document": "is a PowerPoint document. Save its table as CSV.",
}
# a part of the archive → what it is, and the way on
_ARCHIVES = (
    ("xl/workbook.bin", "is an Excel binary workbook (.xlsb). Save it as .xlsx or CSV."),
    ("word/document.xml", "is a Word document. Save its table as .xlsx or CSV."),
    ("ppt/presentation.xml", "is a PowerPoint document. Save its table as .xlsx or CSV."),
    (
        "Index/Document.iwa",
        "is an Apple Numbers document. In Numbers, choose File > Export To > CSV (or Excel).",
    ),
    (
        "Index.zip",
        "is an Apple Numbers document. In Numbers, choose File > Export To > CSV (or Excel).",
    ),
)


class _Positioned(io.RawIOBase):
    """A stream of its own over a shared descriptor, which it leaves open.

    Its checksum covers what was read so far, as long as that was read in order.
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
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        if base is None:
            base = os.fstat(self._descriptor).st_size
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position


class _Bounded(io.RawIOBase):
    """What `stream` unzips to, until that is more than any honest file holds."""

    def __init__(self, stream: BinaryIO, *, name: str, packed_bytes: int) -> None:
        self._stream, self._name, self._packed, self._count = stream, name, packed_bytes, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count: int = self._stream.readinto(buffer)  # type: ignore[attr-defined]
        self._count += count
        check_unpacked(self._count, self._packed, place=self._name)
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def check_unpacked(unpacked_bytes: int, packed_bytes: int, *, place: str) -> None:
    """Raises InputError for what unpacks to more than a file of rows can honestly hold."""
    if unpacked_bytes > MAX_UNZIPPED_BYTES:
        limit = f"{MAX_UNZIPPED_BYTES >> 30} GB"
        raise InputError(place=place, reason=f"unpacks to more than {limit}, the limit. Split it.")
    if unpacked_bytes > max(RATIO_COUNTS_FROM_BYTES, packed_bytes * MAX_RATIO):
        raise InputError(
            place=place,
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
        self.name, self.path, self._descriptor = name, path, descriptor
        self._close = weakref.finalize(self, os.close, descriptor)
        self._status = os.fstat(descriptor)
        self._read_before: tuple[int, int] | None = None
        self._streams: list[_Positioned] = []
        self._unzipped: LocalFile | None = None
        self.gzipped = os.pread(descriptor, 2, 0) == GZIP

    def open(self) -> BinaryIO:
        """The bytes, unzipped. Raises InputChanged where the file was changed meanwhile."""
        self.check_unchanged()
        raw = _Positioned(self._descriptor)
        self._streams.append(raw)
        stream = cast(BinaryIO, io.BufferedReader(raw, _BUFFER_BYTES))
        if not self.gzipped:
            return stream
        unzipped = cast(BinaryIO, gzip.GzipFile(fileobj=stream, mode="rb"))
        bounded = _Bounded(unzipped, name=self.name, packed_bytes=self._status.st_size)
        return cast(BinaryIO, io.BufferedReader(bounded, _BUFFER_BYTES))

    def unzipped(self) -> LocalFile:
        """This file, or a nameless unzipped copy, for formats that are read out of order."""
        if not self.gzipped:
            return self
        if self._unzipped is None:
            with self.reading(), self.open() as stream:
                self._unzipped = _spool(self.name, stream)
        return self._unzipped

    def check_unchanged(self) -> None:
        """Raises InputChanged where the file isn't what it was when it was opened: other bytes in
        it, seen by its size, its times, and a checksum of what was read twice; or another file
        under its name."""
        for stream in self._streams:
            if stream.summed == self._status.st_size:
                seen = stream.summed, stream.checksum
                if self._read_before not in (None, seen):
                    raise InputChanged(place=self.name)
                self._read_before = seen
        self._streams.clear()
        now = [os.fstat(self._descriptor)]
        if self.path is not None:
            with suppress(OSError):  # a name that is gone took nothing from what was read
                now.append(self.path.stat())
        if any(_version(status) != _version(self._status) for status in now):
            raise InputChanged(place=self.name)

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
            raise _unreadable(self.name, error) from None

    def head(self) -> bytes:
        """The first bytes, unzipped."""
        with self.reading(), self.open() as stream:
            return stream.read(512)

    def close(self) -> None:
        """Give the file back; a nameless copy is gone with it."""
        self._close()
        if self._unzipped is not None:
            self._unzipped.close()


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _unreadable(name: str, error: OSError) -> InputError:
    reason = f"can't be read: {error.strerror or error}. Check the path and its mode."
    return InputError(place=name, reason=reason)


def _spool(name: str, stream: BinaryIO) -> LocalFile:
    """A copy of what `stream` still holds, without a name from its first byte on: whatever ends
    this process, no copy of anybody's data stays."""
    _sweep_old_copies()
    descriptor, path = tempfile.mkstemp(prefix=_SPOOL_PREFIX)
    Path(path).unlink()
    try:
        with os.fdopen(os.dup(descriptor), "wb") as copy:
            while chunk := stream.read(1024 * 1024):
                copy.write(chunk)
        return LocalFile(name, descriptor, None)
    except OSError as error:
        os.close(descriptor)
        reason = f"can't be copied to {tempfile.gettempdir()}: {error.strerror or error}. Name "
        reason += "another folder in TMPDIR, or push a file."
        raise InputError(place=name, reason=reason) from None
    except BaseException:
        os.close(descriptor)
        raise


def _sweep_old_copies() -> None:
    """Remove what killed pushes of version 0.1 left: clear copies of what was piped in."""
    for path in Path(tempfile.gettempdir()).glob(f"{_SPOOL_PREFIX}*"):
        with suppress(OSError):
            status = path.lstat()
            is_ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid()
            if is_ours and status.st_mtime < time.time() - _STALE_S:
                path.unlink()


def locate(named: str | Path) -> LocalFile:
    """The file called `named`; `-` is stdin.

    Raises:
        InputError: there is none, it is a folder, or it can't be read.
    """
    if str(named) == "-":
        return _spool("stdin", sys.stdin.buffer)
    path = Path(named)
    if path.is_dir():
        bundle = path.suffix.lower() == ".numbers"
        reason = _ARCHIVES[-1][1] if bundle else "is a folder. Name one file."
        raise InputError(place=str(path), reason=reason)
    try:
        if path.exists() and not path.is_file():
            with path.open("rb") as stream:
                return _spool(str(path), stream)
        return LocalFile(str(path), os.open(path, os.O_RDONLY | os.O_CLOEXEC), path)
    except OSError as error:
        raise _unreadable(str(path), error) from None


def tell_format(file: LocalFile) -> str:
    """`xlsx`, `parquet`, `jsonl` or `csv`, by the first bytes.

    Raises:
        InputError: a format that isn't read, with what to save it as.
    """
    head = file.head()
    if head.startswith(ZIP):
        _check_archive(file)
        return "xlsx"
    if head.startswith(PARQUET):
        return "parquet"
    if head.startswith(_OLE):
        raise InputError(place=file.name, reason=_told_by_streams(file))
    if head[8:12] == b"DUCK":
        reason = "is a DuckDB database. Push one of its tables: --table NAME --database FILE."
        raise InputError(place=file.name, reason=reason)
    for start, reason in _OTHER_FORMATS:
        if head.startswith(start):
            raise InputError(place=file.name, reason=reason)
    text = head.replace(b"\x00", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    if text[:200].lower().startswith((b"<html", b"<!doctype html", b"<table", b"<?xml", b"<meta")):
        raise InputError(
            place=file.name,
            reason="is a web page or XML, whatever its name. Open it in a spreadsheet, and save it "
            "as .xlsx or CSV.",
        )
    if text.startswith(b"{"):
        return "jsonl"
    if text.startswith(b"[") and (_named_json(file.name) or text[1:].lstrip().startswith(b"{")):
        raise InputError(
            place=file.name, reason="a JSON list. Write one JSON object per line (JSON Lines)."
        )
    return "jsonl" if _named_json(file.name) else "csv"


def _named_json(name: str) -> bool:
    return name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson", ".json"))


def _told_by_streams(file: LocalFile) -> str:
    """What an OLE file is, by the names in its directory, wherever that is."""
    wanted = {name.encode("utf-16-le"): reason for name, reason in _OLE_STREAMS.items()}
    tail = b""
    with file.reading(), file.open() as stream:
        while chunk := stream.read(1024 * 1024):
            for name, reason in wanted.items():
                if name in tail + chunk:
                    return reason
            tail = chunk[-64:]
    return "an old Excel workbook. Save it as .xlsx or CSV."


def _check_archive(file: LocalFile) -> None:
    """Raises InputError for a ZIP file that is known not to be a workbook."""
    local = file.unzipped()
    damage = (
        *(zipfile.BadZipFile, NotImplementedError, RuntimeError, LookupError),
        *(ValueError, OSError, EOFError),
    )
    with local.open() as stream, suppress(*damage):  # told when it is read as a workbook
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
            found = next((reason for part, reason in _ARCHIVES if part in names), None)
            if found is None and "mimetype" in names and "content.xml" in names:
                found = "is an OpenDocument sheet (.ods). Save it as .xlsx or CSV."
            if found is None and not any(name.lower().endswith(".rels") for name in names):
                inside = ", ".join(repr(name[:60]) for name in names[:3])
                found = f"is a ZIP archive (of {inside}). Unpack it, and push the file inside."
        if found is not None:
            raise InputError(place=file.name, reason=found)
