"""DuckDB's memory: little, so that a pull stays flat; more only for what doesn't fit in it.

What a load needs grows with columns and with the length of texts, not with rows: DuckDB holds a
block of every column, and texts by the two thousand. Nobody can tell beforehand how much that is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import duckdb

from connector.errors import DestinationError
from connector.logs import get_logger
from pipelines.destination.load_errors import root_cause

FIRST_MB = 120
_log = get_logger("destination")
T = TypeVar("T")


class Room:
    """What one connection may use. Once widened it stays so: the next load will be like the last.

    first_mb: what the connection was opened with. most_mb: None: what DuckDB would take by itself,
    most of the machine or of the container.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        *,
        first_mb: float = FIRST_MB,
        most_mb: float | None = None,
    ) -> None:
        self._connection, self._limit_mb, self._most_mb = connection, first_mb, most_mb

    def fit(self, work: Callable[[], T]) -> T:
        """What `work` returns. It is done again, with twice the memory, where that was too little.

        Raises:
            duckdb.Error, DestinationError: what `work` raises; OutOfMemory where the machine has
                no more.
        """
        while True:
            try:
                return work()
            except (duckdb.Error, DestinationError) as error:
                is_too_little = isinstance(root_cause(error), duckdb.OutOfMemoryException)
                if not (is_too_little and self._widen()):
                    raise

    def _widen(self) -> bool:
        if self._most_mb is None:
            self._most_mb = self._default_mb()
        if self._limit_mb >= self._most_mb:
            return False
        wider_mb = min(self._limit_mb * 2, self._most_mb)
        self._connection.execute(f"SET memory_limit = '{wider_mb:.0f}MB'")
        self._limit_mb = wider_mb
        _log.info("destination.memory_widened", limit_mb=round(wider_mb))
        return True

    def _default_mb(self) -> float:
        """DuckDB's own limit, which sees a container's; leaves it set."""
        self._connection.execute("RESET memory_limit")
        found = self._connection.execute(
            "SELECT parse_formatted_bytes(current_setting('memory_limit'))"
        ).fetchone()
        return found[0] / 1e6 if found else 0.0
