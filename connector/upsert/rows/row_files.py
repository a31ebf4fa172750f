"""Files of an input's rows, for people: the rejected ones with the reason, to be fixed and pushed
again, and all of them with their outcomes.

Both are RFC 4180 in UTF-8 with a byte order mark, so that spreadsheets open them as they are; with
semicolons where the input has them, as the spreadsheet that wrote it expects. Cells are the
input's, unchanged: a cell that starts with `=` stays so, since a file that is pushed again must
hold what it held; in our own columns nothing starts so. Bytes that couldn't be decoded go back as
they were, and are rejected again until they are retyped. A file that was changed since it was
written holds a person's work: it is never written over, and never removed.
"""

from __future__ import annotations

import codecs
import csv
import errno
import hashlib
import io
import json
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Self

from connector.errors import InputError, printable
from connector.upsert.rows.cells import InputRow, shown
from connector.upsert.rows.column_mapping import (
    ABSENT_COLUMN,
    REASON_COLUMN,
    RESULT_COLUMNS,
    ROW_COLUMN,
)
from connector.upsert.rows.row_checks import Reject

_AS_IT_WAS = "hiringcenter.as_it_was"
_NUMBERED = re.compile(r"(?P<base>.+\.rejects)(?:-(?P<number>\d+))?(?P<ending>\.csv)", re.S)
_CHUNK_BYTES = 1 << 20
_SPOOLED = 5_000  # rows, or outcomes, that are kept in memory
_LINE_END = b"\r\n"
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
NOT_SENT = "not_sent"
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


class WrittenFiles:
    """Which of these files this machine has written, by their bytes, so that one that was changed
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


class _RowFile:
    """A file that gets its name whole or not at all, once all of it is known. Mode 0600.

    path: where it goes, and once `is_saved` where it is: next to it, with a number, where one that
    a person has changed is in the way. failure: why it couldn't be written; loss: what that means.

    columns: the input's. source: the input's name. written: what earlier pushes wrote; None:
    nothing is known of that. omits_cells: rows may leave out columns, which is noted in a column of
    its own. delimiter: the input's; what is neither a comma nor a semicolon becomes a comma, which
    any spreadsheet opens.

    Raises:
        InputError: the folder can't be written, or another kind of file is at `path`.
    """

    option = "--rejects"
    kind = "a rejects file"
    own_columns: tuple[str, ...] = (ROW_COLUMN, REASON_COLUMN)

    def __init__(
        self,
        path: str | Path,
        columns: Sequence[str],
        *,
        source: str = "",
        written: WrittenFiles | None = None,
        omits_cells: bool = False,
        delimiter: str = ",",
    ) -> None:
        self.path, self.is_saved = Path(path), False
        self._asked = self.path
        self.failure: OSError | None = None
        self._delimiter = ";" if delimiter == ";" else ","
        self._source, self._written = source, written
        self._columns = [name for name in columns if name not in (REASON_COLUMN, *self.own_columns)]
        self._notes_absent = omits_cells and ABSENT_COLUMN not in self._columns
        if self.path.exists() and not self._is_ours(self.path):
            reason = f"isn't {self.kind}. Choose another path with {self.option}."
            raise InputError(location=str(self.path), reason=reason)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"it can't be written there: {error.strerror}. Choose another {self.option}."
            raise InputError(location=str(self.path), reason=reason) from None
        self._remove_half_copied()

    def _is_ours(self, path: Path) -> bool:
        """Also as a spreadsheet saves it again: in its own encoding, with its own delimiter."""
        if not path.is_file():
            return False
        with suppress(OSError, csv.Error), path.open("rb") as stream:
            head = stream.read(_CHUNK_BYTES).replace(b"\0", b"").decode(errors="replace")
            for delimiter in ",;\t|":
                reader = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter)
                if self.own_columns[-1] in next(reader, [self.own_columns[-1]]):
                    return True
        return False

    def _remove_half_copied(self) -> None:
        """Remove what killed pushes left of copies of this file."""
        prefix = f".{self.path.name}."
        with suppress(OSError):
            for each in os.scandir(self.path.parent):
                is_part = each.name.startswith(prefix) and each.name.endswith(".part")
                if is_part and each.stat().st_mtime < time.time() - _STALE_S:
                    Path(each.path).unlink()

    @property
    def _header(self) -> list[str]:
        return [*self._columns, *([ABSENT_COLUMN] if self._notes_absent else []), *self.own_columns]

    def _cells(self, values: Mapping[str, Any]) -> list[str]:
        """A row as the input holds it; a rejects file may be pushed again."""
        cells = [shown(values.get(column)) for column in self._columns]
        if self._notes_absent:
            absent = [column for column in self._columns if column not in values]
            cells.append(json.dumps(absent, ensure_ascii=False) if absent else "")
        return cells

    def _place(self, chunks: Iterable[bytes]) -> None:
        """The file is there, with these bytes, or it isn't there at all."""
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            digest = _write_synced(part, chunks)
            paths = _numbered_paths(self.path)
            self.path = next(
                path for path in paths if not os.path.lexists(path) or self._is_unchanged(path)
            )
            if self._written is not None:
                self._written.note(self.path, self._source, digest)
            part.replace(self.path)
            self.is_saved = True
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    @property
    def loss(self) -> str:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def problems(self) -> Iterator[str]:
        """Once it was to be saved: why it isn't there, or why not under the name asked for."""
        if self.failure is not None:
            yield (
                f"{self._asked} can't be written ({self.failure.strerror}): {self.loss} Free some "
                f"space or choose another {self.option}, then push again."
            )
        elif self.is_saved and self.path != self._asked:
            yield (
                f"{self._asked} was changed since it was written, so it is left alone; what this "
                f"push wrote is in {self.path}."
            )

    def _is_unchanged(self, path: Path) -> bool:
        return self._written is not None and self._written.is_unchanged(path, self._source)


def _harmless(text: str) -> str:
    """Text of ours, which may begin with a header of the input or a word of the API, as no
    spreadsheet takes it for a formula."""
    text = printable(text)
    return f"'{text}" if text.startswith(_FORMULA_SIGNS) else text


def _write_synced(path: Path, chunks: Iterable[bytes]) -> str:
    """Write a file and wait for the disk; returns its digest."""
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as copy:
        for chunk in chunks:
            digest.update(chunk)
            copy.write(chunk)
        copy.flush()
        os.fsync(copy.fileno())
    return digest.hexdigest()


class RejectsFile(_RowFile):
    """Rejected rows, collected in a file without a name, which gets its name when it is saved.

    The rows are counted also where they can't be written. Nothing is written where nothing was
    rejected; rejects of an earlier push of `source` that are unchanged are then removed, so that
    what is left is of the last push or a person's work.
    """

    def __init__(self, path: str | Path, columns: Sequence[str], **how: Any) -> None:
        super().__init__(path, columns, **how)
        self.count = 0
        self._rows: io.TextIOWrapper | None = None

    @property
    def loss(self) -> str:
        return f"its {self.count} rows are listed only by `hiringcenter runs`."

    def _is_ours(self, path: Path) -> bool:
        """Also where its own columns were removed: rejects then go into another file."""
        return (path.is_file() and bool(_NUMBERED.fullmatch(path.name))) or super()._is_ours(path)

    def add(self, reject: Reject) -> None:
        """Append one row. What couldn't be read as a row stands right of the reason, where it makes
        the row one cell too long: pushed again unfixed, it is rejected again."""
        self.count += 1
        if self.failure is not None:
            return
        number = shown(reject.values.get(ROW_COLUMN)) or str(reject.row_number)
        beyond = [] if reject.raw is None else [reject.raw]
        cells = self._cells(reject.values)
        try:
            self._writer().writerow([*cells, number, _harmless(reject.reason), *beyond])
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
            self._csv.writerow(self._header)
        return self._csv

    def save(self) -> None:
        """Give the file its name, whole or not at all."""
        if self.failure is not None:
            return
        if self._rows is None:
            self._remove_earlier()
            return
        try:
            self._rows.flush()
            self._file.seek(0)
            self._place(iter(lambda: self._file.read(_CHUNK_BYTES), b""))
            self._rows.close()
        except OSError as error:
            self._fail(error)

    def _remove_earlier(self) -> None:
        for path in _numbered_paths(self.path):
            if not os.path.lexists(path):
                return
            if self._written is not None and self._is_unchanged(path):
                with suppress(OSError):
                    path.unlink()
                    self._written.forget(path)

    def _fail(self, error: OSError) -> None:
        self.failure = error
        self.discard()

    def discard(self) -> None:
        """Leave what lies at `path` as it is."""
        if self._rows is not None:
            with suppress(OSError):
                self._rows.close()
            self._rows = None

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        """Rows rejected before an error are kept; an error before any leaves the old file."""
        if error is None or self.count:
            self.save()
        else:
            self.discard()


_SPOOL = """
CREATE TABLE rows (id INTEGER PRIMARY KEY, row_number INTEGER, cells BLOB, beyond TEXT);
CREATE TABLE outcomes (
    row_number INTEGER PRIMARY KEY, outcome TEXT, prospect_id TEXT, message TEXT
);
"""
_WITH_OUTCOMES = """
SELECT cells, beyond, outcome, prospect_id, message
FROM rows LEFT JOIN outcomes USING (row_number) ORDER BY id
"""
_ADD_ROW = "INSERT INTO rows (row_number, cells, beyond) VALUES (?, ?, ?)"
_ADD_OUTCOME = "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?)"
_EXPLAIN = """
INSERT INTO outcomes VALUES (?, 'rejected', NULL, ?)
ON CONFLICT (row_number) DO UPDATE SET message = excluded.message
"""
_Outcome = tuple[str, str | None, str | None]  # outcome, prospect id, message


class ResultsFile(_RowFile):
    """Every row of the input, in its order, with its outcome.

    Rows and outcomes are kept in a private temporary file until `save`, in whatever order they
    come. A row without an outcome by then is `not_sent`. A push that is killed, or that ends before
    all rows are known (`has_all_rows`), leaves no file of its own, and the one of the push before
    as it was.
    """

    has_all_rows = False
    option = "--results"
    kind = "a results file"
    own_columns = RESULT_COLUMNS

    def __init__(self, path: str | Path, columns: Sequence[str], **how: Any) -> None:
        super().__init__(path, columns, **how)
        self._spool = sqlite3.connect("", isolation_level=None)  # goes with the process
        self._spool.executescript(f"PRAGMA journal_mode=OFF; {_SPOOL} BEGIN")
        self._rows: list[tuple[int, bytes, str | None]] = []
        self._outcomes: dict[int, _Outcome] = {}

    @property
    def loss(self) -> str:
        return "the outcomes are in `_hc_push_results` alone."

    def copying(self, rows: Iterable[InputRow]) -> Iterator[InputRow]:
        """The rows of the input, each noted as it passes."""
        for row in rows:
            cells = self._line(self._cells(row.values))
            self._rows.append((row.row_number, cells, row.raw if row.problem else None))
            if len(self._rows) >= _SPOOLED:
                self._spool_pending()
            yield row

    def put(
        self, row_number: int, outcome: str, prospect_id: str | None, message: str | None
    ) -> None:
        """What became of a row; a later outcome replaces the earlier."""
        self._outcomes[row_number] = (outcome, prospect_id, message)
        if len(self._outcomes) >= _SPOOLED:
            self._spool_pending()

    def explain(self, row_number: int, reason: str) -> None:
        """Why a row was rejected or failed, as the rejects file says it."""
        known = self._outcomes.get(row_number)
        if known is not None:
            self._outcomes[row_number] = (*known[:2], reason)
        else:
            with self._noting_failure():
                self._spool.execute(_EXPLAIN, (row_number, reason))

    def _spool_pending(self) -> None:
        rows, outcomes = self._rows, self._outcomes
        self._rows, self._outcomes = [], {}
        with self._noting_failure():
            self._spool.executemany(_ADD_ROW, rows)
            self._spool.executemany(
                _ADD_OUTCOME, ((number, *outcome) for number, outcome in outcomes.items())
            )

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        """A full disk must not end the push."""
        try:
            yield
        except sqlite3.Error as error:
            self.failure = OSError(errno.ENOSPC, f"a temporary file: {error}")
        except OSError as error:
            self.failure = error

    def save(self) -> None:
        """Give the file its name, whole or not at all."""
        self._spool_pending()
        with self._noting_failure():
            if self.failure is None:
                self._place(_in_chunks(self._lines()))
        self.discard()

    def _lines(self) -> Iterator[bytes]:
        delimiter = self._delimiter.encode()
        yield codecs.BOM_UTF8 + self._line(self._header) + _LINE_END
        for cells, beyond, outcome, prospect_id, message in self._spool.execute(_WITH_OUTCOMES):
            own = [outcome or NOT_SENT, _harmless(prospect_id or ""), _harmless(message or "")]
            if beyond is not None:  # one cell too many: pushed again, it is rejected again
                own.append(beyond)
            yield cells + delimiter + self._line(own) + _LINE_END

    def _line(self, cells: Sequence[str]) -> bytes:
        line = io.StringIO(newline="")
        csv.writer(line, delimiter=self._delimiter, lineterminator="").writerow(cells)
        return line.getvalue().encode("utf-8", _AS_IT_WAS)

    def discard(self) -> None:
        """Leave what lies at `path` as it is."""
        self._spool.close()

    def __exit__(self, *_error: object) -> None:
        if self.has_all_rows:
            self.save()
        else:
            self.discard()


def _in_chunks(lines: Iterable[bytes]) -> Iterator[bytes]:
    remaining = iter(lines)
    while some := list(islice(remaining, _SPOOLED)):
        yield b"".join(some)
