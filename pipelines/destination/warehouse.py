"""SQL that dlt doesn't provide: query and change rows by id, and keep the ids that a scan saw.

There are two implementations: for DuckDB's file, with Arrow; and for servers, through dlt's SQL
client (tested with PostgreSQL; it uses only plain SQL).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from connector.errors import DestinationError
from connector.source.fields import HASH_COLUMN, sql_time
from connector.source.row_maker import is_reserved
from pipelines.destination.load_errors import chain, translated
from pipelines.destination.loader import Batch, digest_of_stored, other_name, state_without
from pipelines.destination.working_file import (
    all_tables,
    columns_query,
    transaction,
    work_schema,
    work_tables,
)

if TYPE_CHECKING:
    import dlt

Statement = tuple[str, Sequence[Any]]
"""SQL and its parameters."""
_IN_ONE_QUERY = 1000
_COMPARED_DIRECTLY = 2  # portions of a list, before the hashes of its table are read at once
_FETCHED_ROWS = 10_000
_DATA_TYPES = {
    "VARCHAR": "text",
    "JSON": "json",
    "BIGINT": "bigint",
    "DOUBLE": "double",
    "BOOLEAN": "bool",
    "TIMESTAMP WITH TIME ZONE": "timestamp",
}
DUCKDB_TYPES = {data_type: duckdb_type for duckdb_type, data_type in _DATA_TYPES.items()}
"""By dlt's types of our columns."""


class DuckWarehouse:
    """A dataset in the working file of a DuckDB destination; parameters of queries are `%s`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, dataset: str) -> None:
        self._connection, self._dataset = connection, dataset
        self._compared: Counter[str] = Counter()  # by query, since rows were last changed …
        self._hashes: dict[str, _Hashes] = {}  # … and what those have found that were repeated

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with closing(self._connection.cursor()) as cursor:
            yield cursor

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        with self._cursor() as cursor:
            return _run(cursor, sql, parameters)

    def query_ids(
        self, sql: str, ids: Sequence[str], parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Rows of a query in which `IN ({ids})` stands for `ids`; other parameters come before."""
        with self._cursor() as cursor:
            _register(cursor, "wanted", ids)
            return _run(cursor, sql, parameters)

    def execute_ids(
        self, statements: Sequence[Statement], ids: Sequence[str] | None = None
    ) -> list[tuple[Any, ...]]:
        """Rows of the last of several statements, of which all take effect or none. As in
        `query_ids`, `({ids})` stands for `ids` in them."""
        with transaction(self._connection) as cursor:
            if ids is not None:
                _register(cursor, "wanted", ids)
            return [_run(cursor, sql, values) for sql, values in statements][-1]

    def changed(self, sql: str, ids: Sequence[str], hashes: Sequence[str]) -> list[int]:
        """The places of those `ids` that the rows of the query `sql`, each an id and a hash, don't
        have with the same hash.

        A query reads the whole table: of a million rows, in a tenth of a second. One that is
        repeated for page after page is run once; `rows_changed` forgets what it has found.
        """
        self._compared[sql] += 1
        if self._compared[sql] > _COMPARED_DIRECTLY:
            if sql not in self._hashes:
                with closing(self._connection.cursor()) as cursor:
                    self._hashes[sql] = _Hashes(cursor, sql)
            return self._hashes[sql].lacking(hashes)
        arriving = {"place": range(len(ids)), "id": ids, "hash": hashes}
        with closing(self._connection.cursor()) as cursor:
            cursor.register("arriving", pa.table(arriving))
            found = cursor.execute(
                f"SELECT place FROM arriving ANTI JOIN ({sql}) AS known(id, hash) "  # noqa: S608
                "USING (id, hash) ORDER BY place"
            ).fetchall()
        return [place for (place,) in found]

    def rows_changed(self) -> None:
        """Rows of some table have been changed, or are about to be."""
        self._compared.clear()
        self._hashes.clear()

    def name(self, table: str) -> str:
        """The table's quoted, qualified name."""
        return f'"{self._dataset}"."{table}"'

    def columns(self) -> dict[str, dict[str, dict[str, Any]]]:
        """dlt column schemas by table and name, also where dlt has forgotten the table."""
        return {
            table: {
                name: {"name": name, "data_type": _DATA_TYPES[duckdb_type]}
                for name, duckdb_type in types.items()
                if duckdb_type in _DATA_TYPES
            }
            for table, types in self._types().items()
        }

    def column_names(self, table: str) -> list[str]:
        """The names of a table's columns; none where there is no such table."""
        return list(self._types().get(table, ()))

    def _types(self) -> dict[str, dict[str, str]]:
        """DuckDB's types by table and column, in order."""
        own = [name for name in all_tables(self._connection) if name.dataset == self._dataset]
        found: dict[str, dict[str, str]] = {}
        if own:
            for _, table, column, duckdb_type in self.query(columns_query(own)):
                found.setdefault(table, {})[column] = duckdb_type
        return found

    def unseen(self, sql: str, table: str, seen: SeenIds) -> list[str]:
        """The ids which the query `sql` returns, less those in the set `table` of `seen`."""
        found = self.query(f"FROM ({sql}) ANTI JOIN {seen.table(table)} USING (id)")
        return [row[0] for row in found]

    def upsert(self, batches: Iterable[Batch]) -> None:
        """Replace the rows of each batch, all or none; its table has all of its columns."""
        with transaction(self._connection) as cursor:
            for batch in batches:
                name = self.name(batch.table)
                key = batch.key if isinstance(batch.key, str) else ", ".join(batch.key)
                cursor.register("arriving", batch.as_table())
                cursor.execute(
                    f"DELETE FROM {name} WHERE ({key}) IN (SELECT ({key}) FROM arriving)"  # noqa: S608
                )
                cursor.execute(f"INSERT INTO {name} BY NAME FROM arriving")

    def create_tables(self, batches: Sequence[Batch]) -> None:
        """Create what is missing of the batches' tables and columns, as dlt would.

        A column that is new to a table may have been dropped by hand, in a file of which dlt knows
        nothing yet: then no row is unchanged, and all are loaded again.
        """
        before = self._types()
        statements = [f'CREATE SCHEMA IF NOT EXISTS "{self._dataset}"']
        for batch in batches:
            name, known = self.name(batch.table), before.get(batch.table, ())
            types = {
                column: DUCKDB_TYPES[schema["data_type"]]
                for column, schema in batch.columns.items()
            }
            if not known:
                columns = ", ".join(
                    f'"{column}" {kind}'
                    + ("" if batch.columns[column].get("nullable", True) else " NOT NULL")
                    for column, kind in types.items()
                )
                statements.append(f"CREATE TABLE IF NOT EXISTS {name} ({columns})")
                continue
            lacking = [column for column in types if column not in known]
            statements += [
                f'ALTER TABLE {name} ADD COLUMN IF NOT EXISTS "{column}" {types[column]}'
                for column in lacking
            ]
            has_hashes = HASH_COLUMN in known and batch.key == "id"
            if has_hashes and not all(map(is_reserved, lacking)):
                statements.append(f"UPDATE {name} SET {HASH_COLUMN} = NULL")  # noqa: S608
        with transaction(self._connection) as cursor:
            cursor.execute("; ".join(statements))

    def rename_seen(self, ids: Sequence[str]) -> None:
        """Give other names to ids that unfinished scans have seen, in all datasets of a working
        file: their number shows the next pull that none was lost. The same in states that wait
        there."""
        for table in work_tables(self._connection):
            if table.table.startswith("seen_"):
                for id_ in ids:
                    change = f"UPDATE {table} SET id = %s WHERE id = %s"  # noqa: S608 - ours
                    self.query(change, [other_name(), id_])
            elif table.table == "local_marks":
                for row, mark in self.query(f"SELECT rowid, mark FROM {table}"):  # noqa: S608
                    if (plain := state_without(mark, ids)) != mark:
                        change = f"UPDATE {table} SET mark = %s WHERE rowid = %s"  # noqa: S608
                        self.query(change, [plain, row])

    def state_renamed(self, before: str, after: str) -> None:
        """dlt's state has other names now: states that are saved without dlt stay valid with it."""
        named = [digest_of_stored(after), digest_of_stored(before)]
        for table in work_tables(self._connection):
            if table.table == "local_marks":
                self.query(f"UPDATE {table} SET base = %s WHERE base = %s", named)  # noqa: S608

    def create_dataset(self) -> None:
        self._connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{self._dataset}"')


class CopyWarehouse(DuckWarehouse):
    """The same of a file that is attached, such as the one that analysts open. A cursor wouldn't
    know its schemas."""

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        yield self._connection


def _run(
    cursor: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any]
) -> list[tuple[Any, ...]]:
    query = sql.replace("{ids}", "SELECT id FROM wanted").replace("%s", "?")
    return cursor.execute(query, list(parameters)).fetchall()


def _register(connection: duckdb.DuckDBPyConnection, name: str, ids: Sequence[str]) -> None:
    """Have SQL find `ids` in the table `name`."""
    connection.register(name, pa.table({"id": pa.array(ids, pa.string())}))


class _Hashes:
    """The hashes of a table's rows, 8 bytes of each, in order. A row's hash covers its id, so that
    each stands for one row. sql: a query of ids and hashes."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, sql: str) -> None:
        found = cursor.sql(
            "SELECT TRY_CAST('0x' || hash[:16] AS UBIGINT) AS beginning "  # noqa: S608
            f"FROM ({sql}) AS known(id, hash) WHERE beginning IS NOT NULL ORDER BY beginning"
        )
        self._beginnings = array("Q")
        for part in found.to_arrow_reader():
            self._beginnings.frombytes(part.column(0).buffers()[1][: 8 * len(part)])

    def lacking(self, hashes: Sequence[str]) -> list[int]:
        """The places of those that no row has."""
        known = self._beginnings
        beginnings = [int(each[:16], 16) for each in hashes]
        found = [bisect_left(known, beginning) for beginning in beginnings]
        return [
            place
            for place, (at, beginning) in enumerate(zip(found, beginnings, strict=True))
            if at == len(known) or known[at] != beginning
        ]


class ServerWarehouse:
    """The same on a database server, through dlt's SQL client, connected for one call at a time.

    pipeline: returns the pipeline, which is another one after a failed load.
    """

    def __init__(self, pipeline: Callable[[], dlt.Pipeline]) -> None:
        self._pipeline = pipeline
        self._names: dict[str, str] = {}  # to ask dlt for one costs as much as a query

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with translated(), self._pipeline().sql_client() as client:
            given = [sql_time(client, each) for each in parameters]
            return [tuple(row) for row in client.execute_sql(sql, *given) or ()]

    def query_ids(
        self, sql: str, ids: Sequence[str], parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        return self.execute_ids([(sql, parameters)], ids)

    def execute_ids(
        self, statements: Sequence[Statement], ids: Sequence[str] | None = None
    ) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        portions: Iterable[Sequence[str]] = [()]
        if ids is not None:
            portions = (ids[at : at + _IN_ONE_QUERY] for at in range(0, len(ids), _IN_ONE_QUERY))
        with translated(), self._pipeline().sql_client() as client:
            for some in portions:
                rows: Sequence[Sequence[Any]] = ()
                # not every server has transactions: one statement needs none
                with client.begin_transaction() if statements[1:] else nullcontext():
                    for sql, values in statements:
                        given = [sql_time(client, each) for each in values]
                        query, parameters = _with_ids(sql, given, some)
                        rows = client.execute_sql(query, *parameters) or ()
                found += map(tuple, rows)
        return found

    def changed(self, sql: str, ids: Sequence[str], hashes: Sequence[str]) -> list[int]:
        known = dict(self.query_ids(f"{sql} AND id IN ({{ids}})", ids))
        return [
            place
            for place, (id_, content_hash) in enumerate(zip(ids, hashes, strict=True))
            if known.get(id_) != content_hash
        ]

    def rows_changed(self) -> None:
        """Nothing is remembered."""

    def name(self, table: str) -> str:
        if table not in self._names:
            with translated():
                client = self._pipeline().sql_client()
            self._names[table] = str(client.make_qualified_table_name(table))
        return self._names[table]

    def columns(self) -> dict[str, dict[str, dict[str, Any]]]:
        return {}  # dlt keeps its schema with the rows

    def column_names(self, table: str) -> list[str]:
        """The names of a table's columns, in lower case; none where there is no such table.

        Raises:
            DestinationError: it can't be read, or the server can't be reached.
        """
        try:
            with (
                translated(),
                self._pipeline().sql_client() as client,
                client.execute_query(
                    f"SELECT * FROM {client.make_qualified_table_name(table)} WHERE 1 = 0"  # noqa: S608
                ) as cursor,
            ):
                return [name.lower() for name in cursor.columns_schema]
        except DestinationError as error:
            from dlt.destinations.exceptions import DatabaseUndefinedRelation

            if any(isinstance(each, DatabaseUndefinedRelation) for each in chain(error)):
                return []
            raise

    def portions(self, sql: str) -> Iterator[list[tuple[Any, ...]]]:
        """Rows of a query, some thousand at a time."""
        with (
            translated(),
            self._pipeline().sql_client() as client,
            client.execute_query(sql) as cursor,
        ):
            while rows := cursor.fetchmany(_FETCHED_ROWS):
                yield [tuple(row) for row in rows]

    def unseen(self, sql: str, table: str, seen: SeenIds) -> list[str]:
        return seen.missing(table, ([row[0] for row in rows] for rows in self.portions(sql)))

    def create_dataset(self) -> None:
        with translated(), self._pipeline().sql_client() as client:
            if not client.has_dataset():
                client.create_dataset()


def _with_ids(sql: str, values: Sequence[Any], ids: Sequence[str]) -> tuple[str, list[Any]]:
    """A statement with `ids` for each `{ids}`, and all of its parameters in order."""
    first, *others = sql.split("{ids}")
    left, parameters = [*values], []
    for part in (first, *others):
        own = part.count("%s")
        parameters += [*([] if part is first else ids), *left[:own]]
        del left[:own]
    return sql.replace("{ids}", ", ".join(["%s"] * len(ids))), parameters


class SeenIds:
    """Which ids a full scan has seen so far, by resource, on disk: a scan may take many runs.

    Written before the rows of the same chunk are loaded: after a kill the set can hold ids whose
    rows will be read again, which does no harm, and never lacks one that was loaded.
    connection: of the working file.

    The set of a scan that has ended may be kept: it shows when these rows were last seen.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, dataset: str) -> None:
        self._connection = connection
        self._schema = work_schema(connection, dataset)
        self._ended = f"{self._schema}.ended_scans"
        columns = "name VARCHAR, resource VARCHAR, began_ms BIGINT"
        connection.execute(f"CREATE TABLE IF NOT EXISTS {self._ended} ({columns})")

    def begin(self, resource: str) -> None:
        """Forget what an earlier scan of `resource` saw."""
        self._connection.execute(f"CREATE OR REPLACE TABLE {self.table(resource)} (id VARCHAR)")

    def add(self, resource: str, ids: Sequence[str]) -> None:
        """Add ids; one that is there already does no harm."""
        table = self.table(resource)
        self._connection.execute(f"CREATE TABLE IF NOT EXISTS {table} (id VARCHAR)")
        self._insert(self._connection, table, ids)

    def end(self, name: str, resource: str, began_ms: int) -> None:
        """Keep the set `name`: a scan of `resource` that began then has seen these rows."""
        kept = f'{self._schema}."seen_ended_{name}"'
        with transaction(self._connection) as cursor:
            cursor.execute(f"CREATE TABLE IF NOT EXISTS {self.table(name)} (id VARCHAR)")
            cursor.execute(f"DROP TABLE IF EXISTS {kept}")
            cursor.execute(f'ALTER TABLE {self.table(name)} RENAME TO "seen_ended_{name}"')
            cursor.execute(f"DELETE FROM {self._ended} WHERE name = ?", [name])  # noqa: S608
            insert = f"INSERT INTO {self._ended} VALUES (?, ?, ?)"  # noqa: S608 - a name of ours
            cursor.execute(insert, [name, resource, began_ms])

    def confirmed(self, resource: str, ids: Sequence[str]) -> dict[int | None, list[str]]:
        """`ids` by when the last scan began that has seen them and has ended; UTC epoch ms."""
        found: dict[int | None, list[str]] = {}
        if not ids:
            return found
        with closing(self._connection.cursor()) as cursor:
            ended = cursor.execute(
                f"SELECT name, began_ms FROM {self._ended} WHERE resource = ?",  # noqa: S608
                [resource],
            ).fetchall()
            sets = [
                f'SELECT id, {began_ms} AS began_ms FROM {self._schema}."seen_ended_{name}"'  # noqa: S608
                for name, began_ms in ended
            ]
            _register(cursor, "wanted", ids)
            sets.append("SELECT id, NULL::BIGINT FROM wanted")
            rows = cursor.execute(
                f"SELECT id, max(began_ms) FROM ({' UNION ALL '.join(sets)}) AS k(id, began_ms) "  # noqa: S608
                "WHERE id IN (SELECT id FROM wanted) GROUP BY id"
            ).fetchall()
        for id_, began_ms in rows:
            found.setdefault(began_ms, []).append(id_)
        return found

    def rows(self, resource: str) -> int:
        """How many ids were added, repetitions included; 0 where no scan has begun."""
        try:
            sql = f"SELECT count(*) FROM {self.table(resource)}"  # noqa: S608 - a name of ours
            return int(self._connection.execute(sql).fetchall()[0][0])
        except duckdb.CatalogException:
            return 0

    def missing(self, resource: str, live: Iterable[Sequence[str]]) -> list[str]:
        """Those of the `live` ids (in portions) that the scan hasn't seen."""
        with closing(self._connection.cursor()) as cursor:
            cursor.execute("CREATE OR REPLACE TEMP TABLE live_ids (id VARCHAR)")
            for portion in live:
                self._insert(cursor, "live_ids", portion)
            found = cursor.execute(
                f"SELECT id FROM live_ids ANTI JOIN {self.table(resource)} USING (id)"  # noqa: S608
            ).fetchall()
        return [row[0] for row in found]

    @staticmethod
    def _insert(connection: duckdb.DuckDBPyConnection, table: str, ids: Sequence[str]) -> None:
        _register(connection, "arriving", ids)
        connection.execute(f"INSERT INTO {table} SELECT id FROM arriving")  # noqa: S608
        connection.unregister("arriving")

    def table(self, resource: str) -> str:
        """The set's qualified name. resource: one of ours, never a user's text."""
        return f'{self._schema}."seen_{resource}"'
