"""The file of rejected rows: the input's own columns and the reason, to be fixed and pushed again.

RFC 4180 in UTF-8 with a byte order mark, so that spreadsheets open it as it is; with semicolons
where the input has them, as the spreadsheet that wrote it expects. Cells are the input's,
unchanged: a cell that starts with `=` stays so, since a file that is pushed again must hold what
it held. Bytes that couldn't be decoded go back as they were, and are rejected again until they are
retyped. A file that was changed since it was written holds a person's work: it is never
written over, and never removed.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from connector.errors import InputError, printable
from connector.upsert.rows.cells import shown
from connector.upsert.rows.column_mapping import ABSENT_COLUMN, REASON_COLUMN, ROW_COLUMN
from connector.upsert.rows.row_checks import Reject

_AS_IT_WAS = "hiringcenter.as_it_was"
_NUMBERED = re.compile(r"(?P<base>.+\.rejects)(?:-(?P<number>\d+))?(?P<ending>\.csv)", re.S)
_CHUNK_BYTES = 1 << 20
_STALE_S = 600.0  # copying a file takes seconds


def _bytes_of_surrogates(error: UnicodeError) -> tuple[bytes, int]:
    """A marked byte becomes that byte again; another lone surrogate its (invalid) UTF-8."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    parts = (
        bytes([ord(char) - 0xDC00])
        if "\udc80" <= char <= "\udcff"
        else char.encode("utf-8", "surrogatepass")
        for char in error.object[error.start : error.end]
    )
    return b"".join(parts), error.end


codecs.register_error(_AS_IT_WAS, _bytes_of_surrogates)


def next_rejects_name(name: str, account: str | None = None) -> str:
    """Where the rejects of a file called `name` go: `people.csv.rejects.csv`, and those of a
    rejects file `people.csv.rejects-2.csv`."""
    of_account = f".{account}" if account else ""
    match = _NUMBERED.fullmatch(name.removesuffix(".gz"))
    if match is None:
        return f"{name}{of_account}.rejects.csv"
    base = match["base"].removesuffix(".rejects").removesuffix(of_account)
    return f"{base}{of_account}.rejects-{int(match['number'] or 1) + 1}.csv"


def _numbered_paths(path: Path) -> Iterator[Path]:
    """`path`, then the same with -2, -3 … at its end."""
    yield path
    match = _NUMBERED.fullmatch(path.name)
    base, ending = (match["base"], match["ending"]) if match else (path.stem, path.suffix)
    number = int(match["number"] or 1) if match else 1
    while True:
        number += 1
        yield path.with_name(f"{base}-{number}{ending}")


def _is_rejects_file(path: Path) -> bool:
    """Also as a spreadsheet saves it again: in its own encoding, with its own delimiter."""
    if not path.is_file():
        return False
    if _NUMBERED.fullmatch(path.name):
        return True  # also where its own columns were removed: rejects then go into another file
    with suppress(OSError, csv.Error), path.open("rb") as stream:
        head = stream.read(_CHUNK_BYTES).replace(b"\0", b"").decode(errors="replace")
        for delimiter in ",;\t|":
            reader = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter)
            if REASON_COLUMN in next(reader, [REASON_COLUMN]):
                return True
    return False


class WrittenRejects:
    """Which rejects files this machine has written, by their bytes, so that one that was changed
    since is recognized. folder: keeps a small file for each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def is_unchanged(self, path: Path, source: str) -> bool:
        """Whether the file at `path` is what a push of `source` has written there."""
        try:
            known = json.loads(self._note_of(path).read_bytes())
            return known["source"] == source and _digest(path) in known["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def note(self, path: Path, source: str, digest: str) -> None:
        """Such a file is about to be at `path`; until then the one before counts as well."""
        note = self._note_of(path)
        before = [_digest(path)] if self.is_unchanged(path, source) else []
        with suppress(OSError):  # forgotten, it counts as changed
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = note.with_suffix(f".{os.getpid()}.part")
            known = {"source": source, "sha256": [digest, *before]}
            part.write_text(json.dumps(known), encoding="utf-8")
            part.replace(note)

    def forget(self, path: Path) -> None:
        with suppress(OSError):
            self._note_of(path).unlink(missing_ok=True)

    def _note_of(self, path: Path) -> Path:
        name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
        return self._folder / f"{name[:32]}.json"


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class RejectsFile:
    """Rejected rows, collected in a file without a name, which gets its name when it is saved.

    path: where they go, and after `save` where they are: next to it, with a number, where a
    rejects file that a person has changed is in the way. failure: why they couldn't be written;
    the rows are counted anyway. Nothing is written where nothing was rejected; rejects of an
    earlier push of `source` that are unchanged are then removed, so that what is left is of the
    last push or a person's work. Mode 0600.

    columns: the input's. written: what earlier pushes wrote; None: nothing is known of that.
    omits_cells: rows may leave out columns, which is noted in a column of its own. delimiter: the
    input's; what is neither a comma nor a semicolon becomes a comma, which any spreadsheet opens.

    Raises:
        InputError: the folder can't be written, or another kind of file is at `path`.
    """

    def __init__(
        self,
        path: str | Path,
        columns: Sequence[str],
        *,
        source: str = "",
        written: WrittenRejects | None = None,
        omits_cells: bool = False,
        delimiter: str = ",",
    ) -> None:
        self.path, self.count = Path(path), 0
        self.failure: OSError | None = None
        self._delimiter = ";" if delimiter == ";" else ","
        self._source, self._written = source, written
        self._columns = [name for name in columns if name not in (REASON_COLUMN, ROW_COLUMN)]
        self._notes_absent = omits_cells and ABSENT_COLUMN not in self._columns
        self._rows: io.TextIOWrapper | None = None
        if self.path.exists() and not _is_rejects_file(self.path):
            reason = "isn't a rejects file. Choose another path with --rejects."
            raise InputError(location=str(self.path), reason=reason)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"rejects can't be written there: {error.strerror}. Choose another --rejects."
            raise InputError(location=str(self.path), reason=reason) from None
        self._remove_half_copied()

    def _remove_half_copied(self) -> None:
        """Remove what killed pushes left of copies of this file."""
        prefix = f".{self.path.name}."
        with suppress(OSError):
            for each in os.scandir(self.path.parent):
                is_part = each.name.startswith(prefix) and each.name.endswith(".part")
                if is_part and each.stat().st_mtime < time.time() - _STALE_S:
                    Path(each.path).unlink()

    def add(self, reject: Reject) -> None:
        """Append one row. What couldn't be read as a row stands right of the reason, where it makes
        the row one cell too long: pushed again unfixed, it is rejected again."""
        self.count += 1
        if self.failure is not None:
            return
        values = reject.values
        cells = [shown(values.get(column)) for column in self._columns]
        if self._notes_absent:
            absent = [column for column in self._columns if column not in values]
            cells.append(json.dumps(absent, ensure_ascii=False) if absent else "")
        number = shown(values.get(ROW_COLUMN)) or str(reject.row_number)
        beyond = [] if reject.raw is None else [reject.raw]
        try:
            self._writer().writerow([*cells, number, printable(reject.reason), *beyond])
        except OSError as error:
            self._fail(error)

    def _writer(self) -> Any:
        if self._rows is None:
            # without a name, so that nothing is left of it if the process is killed
            self._file = tempfile.TemporaryFile(dir=self.path.parent)  # noqa: SIM115
            self._rows = io.TextIOWrapper(
                self._file, encoding="utf-8-sig", errors=_AS_IT_WAS, newline=""
            )
            self._csv = csv.writer(self._rows, delimiter=self._delimiter)
            absent = [ABSENT_COLUMN] if self._notes_absent else []
            self._csv.writerow([*self._columns, *absent, ROW_COLUMN, REASON_COLUMN])
        return self._csv

    def save(self) -> None:
        """Give the file its name, whole or not at all."""
        if self.failure is not None:
            return
        if self._rows is None:
            self._remove_earlier()
            return
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            digest = self._copy_to(part)
            paths = _numbered_paths(self.path)
            self.path = next(
                path for path in paths if not os.path.lexists(path) or self._is_unchanged(path)
            )
            if self._written is not None:
                self._written.note(self.path, self._source, digest)
            part.replace(self.path)
            self._rows.close()
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            self._fail(error)

    def _copy_to(self, part: Path) -> str:
        """The rows as a file of their own on disk; returns its digest."""
        assert self._rows is not None
        self._rows.flush()
        self._file.seek(0)
        digest = hashlib.sha256()
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as copy:
            while chunk := self._file.read(_CHUNK_BYTES):
                digest.update(chunk)
                copy.write(chunk)
            copy.flush()
            os.fsync(copy.fileno())
        return digest.hexdigest()

    def _remove_earlier(self) -> None:
        for path in _numbered_paths(self.path):
            if not os.path.lexists(path):
                return
            if self._written is not None and self._is_unchanged(path):
                with suppress(OSError):
                    path.unlink()
                    self._written.forget(path)

    def _is_unchanged(self, path: Path) -> bool:
        return self._written is not None and self._written.is_unchanged(path, self._source)

    def _fail(self, error: OSError) -> None:
        self.failure = error
        self.discard()

    def discard(self) -> None:
        """Leave what lies at `path` as it is."""
        if self._rows is not None:
            with suppress(OSError):
                self._rows.close()
            self._rows = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        """Rows rejected before an error are kept; an error before any leaves the old file."""
        if error is None or self.count:
            self.save()
        else:
            self.discard()
