"""Marts: answers to questions that people ask, each one SELECT in an SQL file, in DuckDB's dialect.

Ours are in `pipelines/marts/`; users add their own in a folder of theirs. On PostgreSQL a mart is a
view, translated by sqlglot. In the published copy it is a table: DuckDB 1.0 doesn't find the tables
of a view whose file is attached under another name, and no version finds them in a file that is
named like its schema, as ours is ("Ambiguous reference to catalog or schema").

No mart uses the present time: what is relative to "now" counts from the last pull, `as_of`, so that
a table and a view have the same rows.

A user's file may hold anything. Its SELECT runs in a DuckDB instance of its own, without access to
files, on a copy that is attached read-only (DuckDB takes `WITH x AS (DELETE …) SELECT` for one). A
mart that fails is skipped, and hurts nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from connector.errors import ConnectorError
from connector.logs import get_logger
from connector.settings import MartSettings
from connector.settings.folders import why_untrusted
from pipelines.destination.load_errors import describe, root_cause
from pipelines.destination.working_file import (
    MemoryLimit,
    WorkRecord,
    comment_on,
    quoted_name,
    quoted_text,
)

if TYPE_CHECKING:
    import sqlglot.expressions as sge

OUR_MARTS = Path(__file__).parent.parent / "marts"
_log = get_logger("marts")
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_MARK = re.compile(r"\[mart ([0-9a-f]{12})\]$")
_SOURCE, _RESULTS = "_hc_copy", "_hc_own"
_SCRATCH = "own_marts"
_OWN_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "500MB",
    "threads": 2,
    "python_enable_replacements": False,  # a table's name could be a variable's
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
_CHECKED_EVERY_S = 0.2
_MISSING = (duckdb.BinderException, duckdb.CatalogException)
_PASSING = (duckdb.IOException, duckdb.OutOfMemoryException)  # a full disk, say
# SQLSTATE, https://www.postgresql.org/docs/current/errcodes-appendix.html
_MISSING_CODES = ("42P01", "42703")  # no such table, no such column
_OTHER_COLUMNS, _OTHERS_DEPEND, _LOCKED = "42P16", "2BP01", "55P03"


@dataclass(frozen=True)
class Mart:
    """One file. sql: its SELECT, without the comment at its top. question, grain: the first line of
    that, and those after it. columns: what is known of each. is_own: it is a user's."""

    name: str
    sql: str
    question: str = ""
    grain: str = ""
    columns: tuple[tuple[str, str], ...] = ()
    is_own: bool = False

    @cached_property
    def words(self) -> frozenset[str]:
        """The names in its SQL, those of the tables that it reads among them."""
        return frozenset(re.findall(r"\w+", self.sql))

    def mark(self, *facts: Any) -> str:
        """A digest of its text and of `facts`, which changes when it has to be made again."""
        text = json.dumps([self.sql, self.question, self.columns, *facts])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def comment(self, mark: str) -> str:
        return f"{self.question} [mart {mark}]".strip()


def read_mart(file: Path, *, is_own: bool = False) -> Mart:
    """The mart in a file.

    Raises:
        OSError, UnicodeDecodeError: it can't be read.
    """
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    header: list[str] = []
    for line in lines:
        if not line.startswith("--"):
            break
        header.append(line[2:].strip())
    above, _, below = "\n".join(header).partition("\n\n")
    question, _, grain = above.partition("\n")
    columns = tuple(
        (name, text)
        for name, separator, text in (line.partition(": ") for line in below.splitlines())
        if separator
    )
    sql = "\n".join(lines[len(header) :]).strip().removesuffix(";").strip()
    return Mart(file.stem, sql, question, grain.replace("\n", " "), columns, is_own)


def our_marts() -> list[Mart]:
    """Those of this package, each after the marts that it reads."""
    waiting = {file.stem: read_mart(file) for file in sorted(OUR_MARTS.glob("*.sql"))}
    ordered: list[Mart] = []
    while waiting:
        ready = [
            each for each in waiting.values() if not each.words & (waiting.keys() - {each.name})
        ]
        ordered += ready
        for each in ready:
            del waiting[each.name]
    return ordered


def own_marts(folder: Path, ours: Sequence[Mart]) -> list[Mart]:
    """The user's, in the order of their names; what can't be used is left out, and named."""
    if not folder.is_dir():
        _warn(folder, "no such folder; correct [marts] directory")
        return []
    found = []
    for file in sorted(folder.glob("*.sql")):
        reason = why_untrusted(folder) or why_untrusted(file)
        mart = None
        try:
            mart = read_mart(file, is_own=True)
        except (OSError, UnicodeDecodeError) as error:
            reason = reason or f"it can't be read: {error}"
        if not _NAME.fullmatch(file.stem):
            reason = reason or "its name must be lower-case letters, digits and underscores"
        if any(file.stem == mart.name for mart in ours):
            reason = reason or "a mart of ours has that name; rename the file"
        reason = reason or (why_not_one_select(mart.sql) if mart else None)
        if reason or mart is None:
            _warn(file, reason)
        else:
            found.append(mart)
    return found


def mart_types(
    marts: Iterable[Mart], dataset: str, tables: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str] | str]:
    """By mart, DuckDB's types of its columns, in order, or why it has none. Nothing is run.

    tables: DuckDB's types by table and column.
    """
    found: dict[str, dict[str, str] | str] = {}
    schemas = (quoted_name(dataset), _schema(dataset))
    with closing(duckdb.connect(config=_OWN_CONFIG)) as connection:
        for schema in schemas:
            connection.execute(f"CREATE SCHEMA {schema}")
        for table, types in tables.items():
            columns = ", ".join(f"{quoted_name(name)} {kind}" for name, kind in types.items())
            connection.execute(f"CREATE TABLE {schemas[0]}.{quoted_name(table)} ({columns})")
        connection.execute(f"SET search_path = '{','.join(schemas)}'")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        for mart in marts:
            try:
                view = f"{schemas[1]}.{quoted_name(mart.name)}"
                connection.execute(f"CREATE VIEW {view} AS {mart.sql}")
                described = connection.execute(f"DESCRIBE {view}").fetchall()
                found[mart.name] = {name: kind for name, kind, *_ in described}
            except duckdb.Error as error:
                found[mart.name] = _reason(error)
    return found


class Marts:
    """Makes the marts of every dataset. record: remembers which were skipped, to say so once.
    folder: private, for scratch files. stop: once set, no SELECT of a user's runs on."""

    def __init__(
        self,
        settings: MartSettings,
        *,
        record: WorkRecord,
        folder: Path,
        stop: threading.Event | None = None,
    ) -> None:
        self._settings, self._record, self._folder, self._stop = settings, record, folder, stop
        self._failed: set[str] = set()  # names and marks
        self._skipped: dict[str, str] = {}  # those that lack a table or a column, and which

    @cached_property
    def _ours(self) -> list[Mart]:
        return our_marts() if self._settings.enabled else []

    @cached_property
    def _own(self) -> list[Mart]:
        folder = self._settings.directory
        return own_marts(folder, self._ours) if folder and self._settings.enabled else []

    # --- tables in the published copy -------------------------------------------------------------

    def make_tables(
        self,
        connection: duckdb.DuckDBPyConnection,
        database: str,
        dataset: str,
        changed: set[str],
        *,
        is_new: bool,
    ) -> None:
        """Make our marts about one dataset of the attached `database`.

        changed: the tables that were written; marts that read none of these, and are there as they
        are wanted, stay. Those that are made are added to it. is_new: it is a new file; in an old
        one, what failed would fail again.
        """
        with closing(connection.cursor()) as cursor:
            schema, wanted = f"{database}.{_schema(dataset)}", [*self._ours, *self._own]
            present, names = _present(cursor, database, dataset), {mart.name for mart in wanted}
            for name, mark in present.items():
                if mark and name not in names:  # without one it isn't a mart: a dataset may be
                    cursor.execute(f"DROP TABLE {schema}.{quoted_name(name)}")  # named like these
            if not wanted:
                if all(present.values()):
                    cursor.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
                return
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            paths = (f"{database}.{quoted_name(dataset)}", schema)
            cursor.execute(f"SET search_path = '{','.join(paths)}'")
            for mart in self._due(self._ours, dataset, present, changed, is_new=is_new):
                table = f"{schema}.{quoted_name(mart.name)}"
                try:
                    MemoryLimit(connection).fit(partial(_make_table, cursor, table, mart))
                except duckdb.Error as error:
                    cursor.execute(f"DROP TABLE IF EXISTS {table}")
                    self._note_failure(dataset, mart, error)
                else:
                    changed.add(mart.name)

    def make_own_tables(
        self,
        connection: duckdb.DuckDBPyConnection,
        copy: Path,
        changed: Mapping[str, set[str]],
        *,
        is_new: bool,
    ) -> None:
        """Make the user's marts in the file `copy`, which no connection has open. changed: by
        dataset; see `make_tables`."""
        self._remove_scratch()  # of a killed run
        if not self._own:
            return
        results = self._folder / f"{_SCRATCH}.duckdb"
        for dataset, tables in changed.items():
            try:
                ran = dict(self._run_own(copy, results, dataset, tables, is_new=is_new))
                _adopt(connection, copy, results, dataset, ran)
            finally:
                self._remove_scratch()

    def _remove_scratch(self) -> None:
        """Leave no personal data in scratch files."""
        for path in self._folder.glob(f"{_SCRATCH}.*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _run_own(
        self, copy: Path, results: Path, dataset: str, changed: set[str], *, is_new: bool
    ) -> Iterator[tuple[Mart, bool]]:
        """Run the SELECTs that are due, their rows into `results`; yields which have succeeded."""
        schema, spill = _schema(dataset), str(self._folder / f"{_SCRATCH}.tmp")
        with closing(duckdb.connect(config={**_OWN_CONFIG, "temp_directory": spill})) as connection:
            connection.execute(f"ATTACH {quoted_text(copy)} AS {_SOURCE} (READ_ONLY)")
            connection.execute(f"ATTACH {quoted_text(results)} AS {_RESULTS}")
            connection.execute(f"CREATE SCHEMA {_RESULTS}.{schema}")
            present = _present(connection, _SOURCE, dataset)
            paths = (
                f"{_SOURCE}.{quoted_name(dataset)}", f"{_RESULTS}.{schema}", f"{_SOURCE}.{schema}"
            )  # fmt: skip
            connection.execute(f"SET search_path = '{','.join(paths)}'")
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            for mart in self._due(self._own, dataset, present, changed, is_new=is_new):
                table = f"{_RESULTS}.{schema}.{quoted_name(mart.name)}"
                try:
                    with self._bounded(connection):
                        connection.execute(f"CREATE TABLE {table} AS {mart.sql}")
                except duckdb.Error as error:
                    self._note_failure(dataset, mart, error)
                    yield mart, False
                else:
                    changed.add(mart.name)
                    yield mart, True

    def _due(
        self,
        marts: Iterable[Mart],
        dataset: str,
        present: Mapping[str, str],
        changed: Collection[str],
        *,
        is_new: bool,
    ) -> Iterator[Mart]:
        """Those that have to be made; `changed` may grow meanwhile. present: their marks, by
        name."""
        for mart in marts:
            known = present.get(mart.name) == mart.mark() or (
                not is_new and _key(dataset, mart) in self._record.failed_marts
            )
            if not known or mart.words.intersection(changed):
                yield mart
            elif known and mart.name not in present:
                self._failed.add(_key(dataset, mart))

    @property
    def _has_to_stop(self) -> bool:
        return self._stop is not None and self._stop.is_set()

    @contextmanager
    def _bounded(self, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Interrupt what runs within the block when its time is over, or the run is to stop."""
        ends_s, done = time.monotonic() + self._settings.timeout_s, threading.Event()

        def watch() -> None:
            while not done.wait(_CHECKED_EVERY_S):
                if self._has_to_stop or time.monotonic() > ends_s:
                    connection.interrupt()

        watcher = threading.Thread(target=watch, name="marts", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    # --- views on PostgreSQL ----------------------------------------------------------------------

    def update_views(self, connection: Any, dataset: str) -> None:
        """Create or replace what has changed of the marts about one dataset.

        connection: psycopg2's. An analyst's view that depends on one of ours stays, and so does
        ours, if its columns would change. Nothing is raised: rows have landed whatever happens.
        """
        wanted = [*self._ours, *self._own]
        if not wanted:
            return
        try:
            with closing(connection.cursor()) as cursor:
                _Views(cursor, dataset, self._note_failure).update(wanted)
        except Exception as error:  # noqa: BLE001 - a mart never fails a run
            _log.warning("marts.failed", schema=f"{dataset}_marts", reason=describe(error))

    # --- their outcomes ---------------------------------------------------------------------------

    def _note_failure(self, dataset: str, mart: Mart, error: BaseException | str) -> None:
        reason = error if isinstance(error, str) else _reason(error)
        if isinstance(error, duckdb.InterruptException):
            reason = f"it wasn't done within {self._settings.timeout_s:g} s"
            if self._has_to_stop:
                return  # the next run makes it
        key = _key(dataset, mart)
        if not isinstance(error, _PASSING):
            self._failed.add(key)
        is_missing = isinstance(error, _MISSING) or _code(error) in _MISSING_CODES
        if is_missing and not mart.is_own:
            self._skipped[key] = reason
        else:
            _log.warning("marts.failed", mart=f"{dataset}_marts.{mart.name}", reason=reason)

    def report(self) -> None:
        """Remember what failed, and log what was skipped for want of a table or a column, unless
        that is known."""
        before, failed = self._record.failed_marts, sorted(self._failed)
        if failed == before:
            return
        if new := [key for key in self._skipped if key not in before]:
            names = [key.split()[0] for key in new]
            _log.info("marts.skipped", marts=names, reason=self._skipped[new[0]])
        with suppress(ConnectorError):
            self._record.save(failed_marts=failed)


# --- files ----------------------------------------------------------------------------------------


def why_not_one_select(sql: str) -> str | None:
    """Why DuckDB doesn't read `sql` as one SELECT; None if it does."""
    try:
        with closing(duckdb.connect()) as connection:
            statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        return _reason(error)
    if len(statements) == 1 and statements[0].type == duckdb.StatementType.SELECT:
        return None
    return "it must be one SELECT, without PIVOT statements"


def _warn(path: Path, reason: str | None) -> None:
    _log.warning("marts.ignored", path=str(path), reason=reason)


def _reason(error: BaseException) -> str:
    """What is wrong, without any row: what names tables and columns can quote only the SELECT."""
    cause = root_cause(error)
    is_about_names = isinstance(cause, (*_MISSING, duckdb.ParserException))
    if is_about_names or (_code(cause) or "").startswith("42"):
        return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0]}"
    return describe(error)


def _code(error: BaseException | str) -> str | None:
    return getattr(error, "pgcode", None)


def _key(dataset: str, mart: Mart) -> str:
    return f"{dataset}_marts.{mart.name} {mart.mark()}"


# --- DuckDB ---------------------------------------------------------------------------------------


def _schema(dataset: str) -> str:
    return quoted_name(f"{dataset}_marts")


def _present(connection: duckdb.DuckDBPyConnection, database: str, dataset: str) -> dict[str, str]:
    """The marts of a dataset, and with which marks they were made."""
    rows = connection.execute(
        "SELECT table_name, coalesce(comment, '') FROM duckdb_tables() "
        "WHERE database_name = ? AND schema_name = ?",
        [database, f"{dataset}_marts"],
    ).fetchall()
    return {name: found[1] if (found := _MARK.search(text)) else "" for name, text in rows}


def _make_table(
    cursor: duckdb.DuckDBPyConnection, table: str, mart: Mart, *, source: str | None = None
) -> None:
    """Make a mart's table with its comments, all or nothing. source: a table with its rows, if its
    SELECT has run."""
    cursor.execute("BEGIN")
    try:
        query = f"FROM {source}" if source else mart.sql
        cursor.execute(f"CREATE OR REPLACE TABLE {table} AS {query}")
        cursor.execute(f"FROM {table} LIMIT 0")
        columns = {column[0] for column in cursor.description or ()}
        for column, text in mart.columns:
            if column in columns:
                cursor.execute(comment_on(table, column, text))
        cursor.execute(comment_on(table, None, mart.comment(mart.mark())))
        cursor.execute("COMMIT")
    except duckdb.Error:
        with suppress(duckdb.Error):  # where it has rolled back by itself
            cursor.execute("ROLLBACK")
        raise


def _adopt(
    connection: duckdb.DuckDBPyConnection,
    copy: Path,
    results: Path,
    dataset: str,
    ran: Mapping[Mart, bool],
) -> None:
    """Copy what was made into the published copy. ran: marts, and whether they have succeeded;
    what an earlier run made of the others goes."""
    with closing(connection.cursor()) as cursor:
        cursor.execute(f"ATTACH {quoted_text(copy)} AS {_SOURCE}")
        cursor.execute(f"ATTACH {quoted_text(results)} AS {_RESULTS} (READ_ONLY)")
        try:
            for mart, has_succeeded in ran.items():
                table = f"{_schema(dataset)}.{quoted_name(mart.name)}"
                if has_succeeded:
                    source = f"{_RESULTS}.{table}"
                    _make_table(cursor, f"{_SOURCE}.{table}", mart, source=source)
                else:
                    cursor.execute(f"DROP TABLE IF EXISTS {_SOURCE}.{table}")
        finally:
            cursor.execute(f"DETACH {_RESULTS}")
            cursor.execute(f"DETACH {_SOURCE}")


# --- PostgreSQL -----------------------------------------------------------------------------------


class _Views:
    """The marts of one dataset as views, changed in one transaction.

    cursor: psycopg2's, in autocommit mode. fail: called with the mart that failed, and the reason.
    """

    def __init__(
        self, cursor: Any, dataset: str, fail: Callable[[str, Mart, BaseException | str], None]
    ) -> None:
        self._cursor, self._dataset, self._fail = cursor, dataset, fail
        self._schema = _schema(dataset)

    def update(self, wanted: Sequence[Mart]) -> None:
        """Create or replace those that have changed, or whose tables have other columns now, and
        drop those that are no longer wanted."""
        self._columns = self._columns_of_tables()
        comments = dict(self._rows(_VIEWS, f"{self._dataset}_marts"))
        self._marks = {
            name: found[1] for name, text in comments.items() if (found := _MARK.search(text or ""))
        }
        marks = {mart.name: self._mark(mart) for mart in wanted}
        if self._marks == marks:
            return
        self._cursor.execute("BEGIN")
        try:
            if not self._rows(_SCHEMA, f"{self._dataset}_marts"):
                self._cursor.execute(f"CREATE SCHEMA {self._schema}")
            self._grants = self._rows(_GRANTS, f"{self._dataset}_marts")
            self._cursor.execute(
                f"SET LOCAL search_path = {quoted_name(self._dataset)}, {self._schema}, pg_catalog"
            )
            for name in self._marks.keys() - marks.keys():
                self._attempt(Mart(name, ""), partial(self._drop, [name]))
            for place, mart in enumerate(wanted):
                if self._marks.get(mart.name) != marks[mart.name]:
                    later = [each.name for each in wanted[place + 1 :]]
                    self._attempt(mart, partial(self._make, mart, later))
            self._cursor.execute("COMMIT")
        except BaseException:
            self._cursor.execute("ROLLBACK")
            raise

    def _mark(self, mart: Mart) -> str:
        tables = sorted(mart.words & self._columns.keys())
        return mart.mark([[table, sorted(self._columns[table].items())] for table in tables])

    def _columns_of_tables(self) -> dict[str, dict[str, str]]:
        """By table and column, the type; without what dlt adds."""
        found: dict[str, dict[str, str]] = {}
        for table, column, data_type in self._rows(_COLUMNS, self._dataset):
            if not column.startswith("_dlt_"):
                found.setdefault(table, {})[column] = data_type
        return found

    def _rows(self, sql: str, *parameters: str) -> list[tuple[Any, ...]]:
        self._cursor.execute(sql, parameters)
        rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        return rows

    def _attempt(self, mart: Mart, work: Callable[[], None]) -> None:
        """Do `work`, or none of it if it fails."""
        self._cursor.execute("SAVEPOINT mart")
        try:
            work()
        except Exception as error:
            if _code(error) == _LOCKED:
                raise  # the next run tries all of them again: each would wait as long
            self._cursor.execute("ROLLBACK TO SAVEPOINT mart")
            if _code(error) != _OTHERS_DEPEND:
                self._fail(self._dataset, mart, error)
                return
            detail = (error.diag.message_detail or "").splitlines()  # type: ignore[attr-defined]
            reason = f"it stays as it is, since others depend on it: {'; '.join(detail)}"
            self._fail(self._dataset, mart, reason)

    def _make(self, mart: Mart, later: Sequence[str]) -> None:
        """Replace a view, which its readers and their privileges survive; drop it first if its
        columns are others now. later: marts that may read it; dropped with it, they come after it.
        """
        sql = f"{quoted_name(mart.name)} AS {_translate(mart.sql, self._columns)}"
        self._cursor.execute("SAVEPOINT replacing")
        try:
            self._cursor.execute(f"CREATE OR REPLACE VIEW {self._schema}.{sql}")
        except Exception as error:
            if _code(error) != _OTHER_COLUMNS:
                raise
            self._cursor.execute("ROLLBACK TO SAVEPOINT replacing")
            gone = [name for name in (mart.name, *later) if name in self._marks]
            self._drop([*reversed(gone)])
            self._cursor.execute(f"CREATE VIEW {self._schema}.{sql}")
            for name in gone:
                self._marks.pop(name)
        self._describe(mart)

    def _drop(self, names: Sequence[str]) -> None:
        for name in names:
            self._cursor.execute(f"DROP VIEW {self._schema}.{quoted_name(name)}")

    def _describe(self, mart: Mart) -> None:
        """Comment on a view and its columns, and let those read it again who could before."""
        view = f"{self._schema}.{quoted_name(mart.name)}"
        self._cursor.execute(
            f"COMMENT ON VIEW {view} IS {quoted_text(mart.comment(self._mark(mart)))}"
        )
        columns = {
            name for (name,) in self._rows(_VIEW_COLUMNS, f"{self._dataset}_marts", mart.name)
        }
        for column, text in mart.columns:
            if column in columns:
                self._cursor.execute(comment_on(view, column, text))
        for name, privilege, role in self._grants:
            if name == mart.name:
                self._cursor.execute(f"GRANT {privilege} ON {view} TO {role}")


_COLUMNS = """
SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = %s
"""
_VIEW_COLUMNS = """
SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s
"""
_SCHEMA = "SELECT 1 FROM pg_namespace WHERE nspname = %s"
_VIEWS = """
SELECT c.relname, obj_description(c.oid) FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relkind = 'v'
"""
_GRANTS = """
SELECT c.relname, a.privilege_type,
       CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
WHERE n.nspname = %s AND c.relkind = 'v' AND a.grantee <> c.relowner
"""


def _translate(sql: str, columns: Mapping[str, Mapping[str, str]]) -> str:
    """`sql` in PostgreSQL's dialect. columns: of the tables, for what stars stand for."""
    import sqlglot
    import sqlglot.expressions as sge

    (tree,) = sqlglot.parse(sql, read="duckdb")
    if not isinstance(tree, sge.Query):
        raise TypeError("sqlglot doesn't read it as a SELECT")
    for select in list(tree.find_all(sge.Select)):
        _expand_star(select, columns)
    return tree.transform(_as_text_list).sql(dialect="postgres")


def _expand_star(select: sge.Select, columns: Mapping[str, Mapping[str, str]]) -> None:
    """Name the columns of `* EXCLUDE (…) REPLACE (…)`, which PostgreSQL doesn't know."""
    import sqlglot.expressions as sge

    star, source = select.expressions[0], select.args.get("from_") or select.args.get("from")
    if not isinstance(star, sge.Star) or not source or source.this.name not in columns:
        return
    left_out = {each.name for each in star.args.get("except_") or star.args.get("except") or ()}
    replaced = {each.alias: each for each in star.args.get("replace") or ()}
    names = [name for name in columns[source.this.name] if name not in left_out]
    if lacking := replaced.keys() - set(names):
        raise LookupError(f"{source.this.name} has no column {', '.join(sorted(lacking))}")
    listed = [replaced.get(name) or sge.column(name, quoted=True) for name in names]
    select.set("expressions", [*listed, *select.expressions[1:]])


def _as_text_list(node: sge.Expression) -> sge.Expression:
    """PostgreSQL casts no JSON to a list of text."""
    import sqlglot.expressions as sge

    if not isinstance(node, sge.TryCast) or node.to.this != sge.DType.ARRAY:
        return node
    return sge.maybe_parse(
        "CASE WHEN jsonb_typeof(x) = 'array' THEN ARRAY(SELECT jsonb_array_elements_text(x)) END",
        dialect="postgres",
    ).transform(lambda each: node.this.copy() if each == sge.column("x") else each)
