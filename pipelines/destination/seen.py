"""Which ids a full scan has seen so far, on disk, so that a scan may take many runs.

Written before the rows of the same chunk are loaded: after a kill the set can hold ids whose
rows will be read again, which does no harm, and never lacks one that was loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import duckdb
import pyarrow as pa

WORK_SCHEMA = "_hc_work"
"""Begins the name of every schema in the working file that is of no interest to analysts."""


class SeenIds:
    """The sets of one dataset's resources in a DuckDB file. connection: open for writing."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, dataset: str) -> None:
        self._connection = connection
        self._schema = f"{WORK_SCHEMA}_{dataset}"
        connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{self._schema}"')

    def begin(self, resource: str) -> None:
        """Forget what an earlier scan of `resource` saw."""
        self._connection.execute(f"CREATE OR REPLACE TABLE {self.table(resource)} (id VARCHAR)")

    def add(self, resource: str, ids: Sequence[str]) -> None:
        """Add ids; one that is there already does no harm."""
        arriving = pa.table({"id": pa.array(ids, pa.string())})
        cursor = self._connection.cursor()
        cursor.register("arriving", arriving)
        cursor.execute(f"INSERT INTO {self.table(resource)} SELECT id FROM arriving")  # noqa: S608
        cursor.close()

    def rows(self, resource: str) -> int:
        """How many ids were added, repetitions included; 0 where no scan has begun."""
        known = self._connection.execute(
            "SELECT 1 FROM information_schema.tables WHERE table_schema = ? AND table_name = ?",
            [self._schema, self._name(resource)],
        ).fetchone()
        if known is None:
            return 0
        found = self._connection.execute(f"SELECT count(*) FROM {self.table(resource)}").fetchone()  # noqa: S608
        return int(found[0]) if found else 0

    def missing(self, resource: str, live: Iterable[Sequence[str]]) -> list[str]:
        """Those of the `live` ids (in portions) that the scan hasn't seen."""
        cursor = self._connection.cursor()
        cursor.execute("CREATE OR REPLACE TEMP TABLE live_ids (id VARCHAR)")
        for portion in live:
            cursor.register("arriving", pa.table({"id": pa.array(portion, pa.string())}))
            cursor.execute("INSERT INTO live_ids SELECT id FROM arriving")
        found = cursor.execute(
            f"SELECT id FROM live_ids ANTI JOIN {self.table(resource)} USING (id)"  # noqa: S608
        ).fetchall()
        cursor.close()
        return [row[0] for row in found]

    def table(self, resource: str) -> str:
        """The set's qualified name. resource: one of ours, no text of users."""
        return f'"{self._schema}"."{self._name(resource)}"'

    @staticmethod
    def _name(resource: str) -> str:
        return f"seen_{resource}"
