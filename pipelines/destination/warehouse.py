"""SQL that dlt doesn't write for us: which rows are there unchanged, and which are gone.

Two ways to the same answers: inside DuckDB's own file with Arrow, and through dlt's SQL client
for servers (PostgreSQL is tested; what is used is plain SQL).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

import dlt
import duckdb
import pyarrow as pa

from connector.source.fields import DELETED_COLUMN, HASH_COLUMN, UNLISTED_COLUMN
from pipelines.destination.load_errors import load_failed
from pipelines.destination.seen import SeenIds

_IN_ONE_QUERY = 1000
_TRIAL = "_hc_check"
_DATA_TYPES = {
    "VARCHAR": "text",
    "JSON": "json",
    "BIGINT": "bigint",
    "DOUBLE": "double",
    "BOOLEAN": "bool",
    "TIMESTAMP WITH TIME ZONE": "timestamp",
}


class Warehouse(Protocol):
    """Tables are named as in the dataset; ids are texts; times are UTC epoch ms."""

    def unchanged(
        self, table: str, hashes: Mapping[str, str], *, is_listed: bool = False
    ) -> set[str]:
        """The ids whose row has this very hash and isn't flagged deleted.

        is_listed: nor known to be unlisted; the table must have that column.
        """
        ...

    def missing(self, table: str, seen: SeenIds) -> list[str]:
        """Ids of rows, neither flagged deleted nor known to be unlisted, that the scan hasn't
        seen."""
        ...

    def tombstone(self, table: str, ids: Sequence[str], at_ms: int) -> None:
        """Flag rows deleted; their other columns stay."""
        ...

    def unlist(self, table: str, ids: Sequence[str], at_ms: int) -> None:
        """Note of live rows that they have left the list, unless that was noted before."""
        ...

    def live_count(self, table: str) -> int:
        """Rows that aren't flagged deleted."""
        ...

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query; its parameters are `%s`."""
        ...

    def name(self, table: str) -> str:
        """The table's quoted, qualified name."""
        ...

    def columns(self, table: str) -> dict[str, dict[str, Any]]:
        """dlt column schemas of a table that dlt has forgotten; empty where it forgets nothing."""
        ...

    def try_writing(self, dataset: str) -> None:
        """Make the dataset where it is missing, and a table that is dropped at once."""
        ...


def _timestamp(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


class DuckWarehouse:
    """The working file of a DuckDB destination. connection: this process' own, for writing."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, dataset: str) -> None:
        self._connection, self._dataset = connection, dataset

    def unchanged(
        self, table: str, hashes: Mapping[str, str], *, is_listed: bool = False
    ) -> set[str]:
        arriving = pa.table(
            {"id": pa.array(hashes, pa.string()), "hash": pa.array(hashes.values(), pa.string())}
        )
        cursor = self._connection.cursor()
        cursor.register("arriving", arriving)
        found = cursor.execute(
            f"SELECT t.id FROM {self.name(table)} t JOIN arriving a ON t.id = a.id "  # noqa: S608
            f"AND t.{HASH_COLUMN} = a.hash WHERE t.{DELETED_COLUMN} IS NULL"
            + (f" AND t.{UNLISTED_COLUMN} IS NULL" if is_listed else "")
        ).fetchall()
        cursor.close()
        return {row[0] for row in found}

    def missing(self, table: str, seen: SeenIds) -> list[str]:
        found = self._connection.execute(
            f"SELECT id FROM {self.name(table)} ANTI JOIN {seen.table(table)} USING (id) "  # noqa: S608
            f"WHERE {DELETED_COLUMN} IS NULL AND {UNLISTED_COLUMN} IS NULL"
        ).fetchall()
        return [row[0] for row in found]

    def tombstone(self, table: str, ids: Sequence[str], at_ms: int) -> None:
        self._update(table, ids, f"{DELETED_COLUMN} = ?, {UNLISTED_COLUMN} = NULL", "", at_ms)

    def unlist(self, table: str, ids: Sequence[str], at_ms: int) -> None:
        where = f"AND {UNLISTED_COLUMN} IS NULL"
        self._update(table, ids, f"{UNLISTED_COLUMN} = ?", where, at_ms)

    def _update(self, table: str, ids: Sequence[str], what: str, where: str, at_ms: int) -> None:
        cursor = self._connection.cursor()
        cursor.register("changing", pa.table({"id": pa.array(ids, pa.string())}))
        cursor.execute(
            f"UPDATE {self.name(table)} SET {what} "  # noqa: S608
            f"WHERE id IN (SELECT id FROM changing) AND {DELETED_COLUMN} IS NULL {where}",
            [_timestamp(at_ms)],
        )
        cursor.close()

    def live_count(self, table: str) -> int:
        sql = f"SELECT count(*) FROM {self.name(table)} WHERE {DELETED_COLUMN} IS NULL"  # noqa: S608
        return int(self.query(sql)[0][0])

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        cursor = self._connection.cursor()
        try:
            return cursor.execute(sql.replace("%s", "?"), list(parameters)).fetchall()
        finally:
            cursor.close()

    def name(self, table: str) -> str:
        return f'"{self._dataset}"."{table}"'

    def columns(self, table: str) -> dict[str, dict[str, Any]]:
        rows = self.query(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE schema_name = %s "
            "AND table_name = %s AND database_name = current_database()",
            [self._dataset, table],
        )
        return {
            name: {"name": name, "data_type": _DATA_TYPES[kind]}
            for name, kind in rows
            if kind in _DATA_TYPES
        }

    def try_writing(self, dataset: str) -> None:
        try:
            self._connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{dataset}"')
            self._connection.execute(f"CREATE OR REPLACE TABLE {self.name(_TRIAL)} (id INTEGER)")
            self._connection.execute(f"DROP TABLE {self.name(_TRIAL)}")
        except duckdb.Error as error:
            raise load_failed(error) from error


class ServerWarehouse:
    """A database server, through dlt's SQL client. A connection lives for one call only.

    pipeline: gives the pipeline, which is another one after a failed load.
    """

    def __init__(self, pipeline: Callable[[], dlt.Pipeline]) -> None:
        self._pipeline = pipeline

    @contextmanager
    def _client(self) -> Iterator[Any]:
        try:
            with self._pipeline().sql_client() as client:
                yield client
        except Exception as error:
            raise load_failed(error) from error

    def unchanged(
        self, table: str, hashes: Mapping[str, str], *, is_listed: bool = False
    ) -> set[str]:
        found: set[str] = set()
        listed = f"AND {UNLISTED_COLUMN} IS NULL " if is_listed else ""
        ids = list(hashes)
        with self._client() as client:
            for start in range(0, len(ids), _IN_ONE_QUERY):
                some = ids[start : start + _IN_ONE_QUERY]
                sql = (
                    f"SELECT id, {HASH_COLUMN} FROM {self._name(client, table)} "  # noqa: S608
                    f"WHERE {DELETED_COLUMN} IS NULL {listed}AND id IN ({_places(some)})"
                )
                rows = client.execute_sql(sql, *some)
                found.update(row[0] for row in rows if hashes[row[0]] == row[1])
        return found

    def missing(self, table: str, seen: SeenIds) -> list[str]:
        with self._client() as client:
            sql = (
                f"SELECT id FROM {self._name(client, table)} "  # noqa: S608
                f"WHERE {DELETED_COLUMN} IS NULL AND {UNLISTED_COLUMN} IS NULL"
            )
            with client.execute_query(sql) as cursor:
                return seen.missing(table, _portions(cursor))

    def tombstone(self, table: str, ids: Sequence[str], at_ms: int) -> None:
        self._update(table, ids, f"{DELETED_COLUMN} = %s, {UNLISTED_COLUMN} = NULL", "", at_ms)

    def unlist(self, table: str, ids: Sequence[str], at_ms: int) -> None:
        where = f"AND {UNLISTED_COLUMN} IS NULL "
        self._update(table, ids, f"{UNLISTED_COLUMN} = %s", where, at_ms)

    def _update(self, table: str, ids: Sequence[str], what: str, where: str, at_ms: int) -> None:
        with self._client() as client:
            for start in range(0, len(ids), _IN_ONE_QUERY):
                some = ids[start : start + _IN_ONE_QUERY]
                client.execute_sql(
                    f"UPDATE {self._name(client, table)} SET {what} "  # noqa: S608
                    f"WHERE {DELETED_COLUMN} IS NULL {where}AND id IN ({_places(some)})",
                    _timestamp(at_ms),
                    *some,
                )

    def live_count(self, table: str) -> int:
        with self._client() as client:
            sql = f"SELECT count(*) FROM {self._name(client, table)} WHERE {DELETED_COLUMN} IS NULL"  # noqa: S608
            return int(client.execute_sql(sql)[0][0])

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._client() as client:
            return [tuple(row) for row in client.execute_sql(sql, *parameters) or ()]

    def name(self, table: str) -> str:
        with self._client() as client:
            return self._name(client, table)

    def columns(self, table: str) -> dict[str, dict[str, Any]]:  # noqa: ARG002
        return {}  # dlt keeps its schema beside the rows

    def try_writing(self, dataset: str) -> None:  # noqa: ARG002 - dlt's client knows it
        with self._client() as client:
            if not client.has_dataset():
                client.create_dataset()
            name = self._name(client, _TRIAL)
            client.execute_sql(f"CREATE TABLE {name} (id INTEGER)")
            client.execute_sql(f"DROP TABLE {name}")

    @staticmethod
    def _name(client: Any, table: str) -> str:
        return str(client.make_qualified_table_name(table))


def _places(values: Sequence[str]) -> str:
    return ", ".join(["%s"] * len(values))


def _portions(cursor: Any, size: int = 10_000) -> Iterator[list[str]]:
    while rows := cursor.fetchmany(size):
        yield [row[0] for row in rows]
