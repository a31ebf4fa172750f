"""What a database says when it fails, as errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from connector.budget.filelock import LockHeld
from connector.errors import LedgerDamaged, LedgerUnusable

_MOVE_AWAY = (
    "Move it away (the next run makes a new one), wait as long as the longest rate window, and "
    "run the command again."
)
_WRITABLE = "Make the state directory writable for this user."
_FREE_SPACE = "Free some space and run the command again."
_CLOSE_OTHERS = (
    "Close what has it open for writing (a database browser, a stopped process) and run the "
    "command again."
)
_BY_SQLITE_CODE = {
    "SQLITE_CORRUPT": ("is damaged", _MOVE_AWAY),
    "SQLITE_NOTADB": ("is damaged, or no SQLite file", _MOVE_AWAY),
    "SQLITE_READONLY": ("is read-only", _WRITABLE),
    "SQLITE_CANTOPEN": ("can't be opened", _WRITABLE),
    "SQLITE_FULL": ("has no room: the disk is full", _FREE_SPACE),
    "SQLITE_IOERR": ("can't be read or written: the disk failed or is full", _FREE_SPACE),
    "SQLITE_BUSY": ("is locked by another program", _CLOSE_OTHERS),
    "SQLITE_LOCKED": ("is locked", _CLOSE_OTHERS),
}
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_BESIDE = ("-wal", "-shm", "-journal")
_HELD = "Look for a stopped or hanging hiringcenter process, end it and run the command again."


def cant_open(ledger: str, error: OSError) -> LedgerUnusable:
    """The ledger's file, or a lock file beside it, could not be made or opened."""
    if isinstance(error, IsADirectoryError):
        return _in_the_way(ledger, error.filename)
    return LedgerUnusable(
        ledger=ledger,
        reason=f"can't be opened: {error.strerror}",
        action="Make the state directory writable, or set HIRINGCENTER_STATE_DIR.",
    )


def _in_the_way(ledger: str, folder: str) -> LedgerUnusable:
    return LedgerUnusable(
        ledger=ledger,
        reason=f"can't be used: {folder} is a folder",
        action="Move that folder away and run the command again.",
    )


@contextmanager
def translated(ledger: str, dialect: sa.Dialect) -> Iterator[None]:
    """Turn failures of the database into LedgerUnusable; faults of the caller stay as they are."""
    driver: Any = dialect.dbapi
    try:
        yield
    except LockHeld as error:
        raise LedgerUnusable(ledger=ledger, reason=f"is locked: {error}", action=_HELD) from error
    except (sa.exc.DatabaseError, sa.exc.InterfaceError, driver.Error) as error:
        original = getattr(error, "orig", None) or error
        code = str(getattr(original, "sqlite_errorname", ""))
        its_fault = isinstance(original, (driver.OperationalError, driver.InterfaceError))
        if not its_fault and not code.startswith(_DAMAGED):
            raise
        raise _unusable(ledger, code, original) from error


def _unusable(ledger: str, code: str, error: BaseException) -> LedgerUnusable:
    if code.startswith(("SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_READONLY")):
        for ending in _BESIDE:
            if Path(ledger + ending).is_dir():
                return _in_the_way(ledger, ledger + ending)
    if "Could not decode to UTF-8" in str(error):  # text that SQLite itself doesn't look at
        code = "SQLITE_CORRUPT"
    for prefix, (reason, action) in _BY_SQLITE_CODE.items():
        if code.startswith(prefix):
            kind = LedgerDamaged if prefix in _DAMAGED else LedgerUnusable
            return kind(ledger=ledger, reason=reason, action=action)
    said = str(error).strip().splitlines()
    return LedgerUnusable(
        ledger=ledger,
        reason=f"doesn't answer: {said[0] if said else type(error).__name__}",
        action="Check HIRINGCENTER_LEDGER_URL and the database, and run the command again.",
    )
