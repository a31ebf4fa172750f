"""DuckDB's memory: little, so that a pull stays flat; more only for what doesn't fit in it.

What a load needs grows with columns and with the length of texts, not with rows: DuckDB holds a
block of every column, and texts by the two thousand. Nobody can tell beforehand how much that is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import duckdb

from connector.errors import DestinationError
from connector.logs import get_logger
from pipelines.destination.load_errors import root_cause

FIRST_MB = 120
_SHARE_OF_MACHINE = 0.8  # as DuckDB itself would take
_log = get_logger("destination")
T = TypeVar("T")


class Room:
    """What one connection may use. Once widened it stays so: the next load will be like the last.

    first_mb: what the connection was opened with. machine_mb: None: of this machine.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        *,
        first_mb: int = FIRST_MB,
        machine_mb: float | None = None,
    ) -> None:
        self._connection, self._limit_mb = connection, first_mb
        self._most_mb = _SHARE_OF_MACHINE * (machine_mb or _machine_mb())

    def fit(self, work: Callable[[], T], *, undo: Callable[[], None] = lambda: None) -> T:
        """What `work` returns. It is done again, with twice the memory, where that was too little.

        undo: takes back what a failed `work` has left.

        Raises:
            duckdb.Error, DestinationError: what `work` raises; OutOfMemory where the machine has
                no more.
        """
        while True:
            try:
                return work()
            except (duckdb.Error, DestinationError) as error:
                if not isinstance(root_cause(error), duckdb.OutOfMemoryException):
                    raise
                if not self._widen():
                    raise
            undo()

    def _widen(self) -> bool:
        wider_mb = self._limit_mb * 2
        if wider_mb > self._most_mb:
            return False
        self._limit_mb = wider_mb
        self._connection.execute(f"SET memory_limit = '{wider_mb}MB'")
        _log.info("destination.memory_widened", limit_mb=wider_mb)
        return True


def _machine_mb() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1_000_000
