"""What went wrong at the destination, told without the rows it went wrong with."""

from __future__ import annotations

import re

from connector.errors import DestinationError
from connector.logs import redact

# errors of a connection or of a file name hosts, paths and users; those of data quote values
_SAFE = re.compile(r"(?i)(IO|Connection|Operational|Permission|Catalog|Fatal|OSError|OutOfMemory)")


def root_cause(error: BaseException) -> BaseException:
    """The error that started it, at the end of the chain."""
    seen = {id(error)}
    while True:
        below = getattr(error, "exception", None) or error.__cause__ or error.__context__
        if not isinstance(below, BaseException) or id(below) in seen:
            return error
        seen.add(id(below))
        error = below


def describe(error: BaseException) -> str:
    """Kind of error and, where it can hold no row, its first line."""
    cause = root_cause(error)
    name = type(cause).__name__
    code = getattr(cause, "pgcode", None)
    told = f"{name} {code}" if code else name
    if not _SAFE.search(name) or not str(cause).strip():
        return told
    return f"{told}: {redact(str(cause).strip().splitlines()[0])}"


def load_failed(error: BaseException) -> DestinationError:
    """The failure of a load as an error of ours."""
    if isinstance(error, DestinationError):
        return error
    return DestinationError(
        f"The destination could not be written: {describe(error)}. Rows loaded before it are "
        "kept, and the next run goes on from there. Check that the destination is reachable, "
        "writable and not full (`hiringcenter check`), then run the command again."
    )
