"""The file of rejected rows: the input's own columns and the reason, to be fixed and pushed again.

RFC 4180 in UTF-8 with a byte order mark, so that spreadsheets open it as it is. Cells are the
input's, unchanged: a cell that starts with `=` stays so, since a file that is pushed again must
hold what it held. Bytes that couldn't be decoded go back as they were, and are rejected again
until somebody retypes them.
"""

from __future__ import annotations

import codecs
import csv
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from connector.errors import InputError, printable
from connector.upsert.rows.cells import shown
from connector.upsert.rows.columns import REASON_COLUMN
from connector.upsert.rows.validation import Reject

_AS_IT_WAS = "hiringcenter.as_it_was"


def _bytes_of_surrogates(error: UnicodeError) -> tuple[bytes, int]:
    """A marked byte becomes that byte again; another lone surrogate its (invalid) UTF-8."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    bad = error.object[error.start : error.end]
    parts = (
        bytes([ord(char) - 0xDC00])
        if "\udc80" <= char <= "\udcff"
        else char.encode("utf-8", "surrogatepass")
        for char in bad
    )
    return b"".join(parts), error.end


codecs.register_error(_AS_IT_WAS, _bytes_of_surrogates)


def _check_place(path: Path) -> None:
    """Whatever is at `path` is written over; so it may only be rejects of an earlier push."""
    if path.exists() and not (path.is_file() and _is_rejects_file(path)):
        raise InputError(
            place=str(path), reason="isn't a rejects file. Choose another place with --rejects."
        )


def _is_rejects_file(path: Path) -> bool:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
            return REASON_COLUMN in next(csv.reader(stream), [REASON_COLUMN])
    except (OSError, csv.Error):
        return False


class RejectsFile:
    """Rejected rows, written as they come. path: where they are once the file is closed.

    Nothing is written where nothing was rejected; an older rejects file at `path` is then
    removed, so that what lies there is always of the last push, unless this push reads a
    rejects file itself, which may be that one. Mode 0600.

    Raises:
        InputError: the file can't be written there, or another kind of file is there.
    """

    def __init__(self, path: str | Path, columns: Sequence[str]) -> None:
        self.path, self.count = Path(path), 0
        _check_place(self.path)
        self._removes_old = REASON_COLUMN not in columns
        self._columns = [column for column in columns if column != REASON_COLUMN]
        self._unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._stream: TextIO | None = None

    def add(self, reject: Reject) -> None:
        """Append one row. What couldn't be read as a row stands right of the reason, where it makes
        the row one cell too long: pushed again unfixed, it is rejected again."""
        if self._stream is None:
            self._stream = self._open()
            self._writer = csv.writer(self._stream)
            self._writer.writerow([*self._columns, REASON_COLUMN])
        cells = [shown(reject.values.get(column)) for column in self._columns]
        beyond = [] if reject.raw is None else [reject.raw]
        self._writer.writerow([*cells, printable(reject.reason), *beyond])
        self.count += 1

    def close(self) -> None:
        """Put the file in its place, whole or not at all."""
        if self._stream is None:
            if self._removes_old:
                self.path.unlink(missing_ok=True)
            return
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._unfinished.replace(self.path)

    def discard(self) -> None:
        """Leave what lies at `path` as it is."""
        if self._stream is not None:
            self._stream.close()
            self._unfinished.unlink(missing_ok=True)

    def _open(self) -> TextIO:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise InputError(
                place=str(self.path),
                reason=f"rejects can't be written there: {error.strerror}. Choose another "
                "--rejects.",
            ) from None
        return os.fdopen(descriptor, "w", encoding="utf-8-sig", errors=_AS_IT_WAS, newline="")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Rows rejected before an error are kept; an error before any leaves the old file."""
        if error is None or self.count:
            self.close()
        else:
            self.discard()
