"""`<resource>_history`: every version of a row that a pull has seen, with the bounds of its change.

Rows come first, and their history follows by SQL, from the table itself: after each load, the open
version of every row of the load is made what the row is now. A note in the working file, written
before the load, holds what new versions will need, such as when the rows were requested. After a
kill between the two, the next run completes the history by that note before it loads anything. So a
row is overwritten only once its version is in the history: none is lost, none comes twice.

`_hc_valid_from` is when a version's row was requested: the API showed it after that, so the change
to the next version came later. A better bound is the beginning of a scan that has seen the row
since: which rows the last scan of each kind has seen is kept in the working file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import duckdb

from connector.clock import wall_ms
from connector.logs import get_logger
from connector.settings import PullSettings
from connector.source.fields import DELETED_COLUMN, HASH_COLUMN, MORE_COLUMN, UNLISTED_COLUMN
from connector.source.row_maker import column_name, configured_privacy, is_reserved
from connector.source.scans import ListScan, ScanKind, read_state
from pipelines.destination.loader import Batch
from pipelines.destination.warehouse import DuckWarehouse, SeenIds, ServerWarehouse, Statement
from pipelines.destination.working_file import RUNS_TABLE, transaction, work_schema

VALID_FROM, VALID_TO = "_hc_valid_from", "_hc_valid_to"
CHANGED_AFTER, CHANGED_BEFORE = "_hc_changed_after", "_hc_changed_before"
HIDDEN = "_hc_hidden"
HISTORY_COLUMNS = {
    VALID_FROM: "timestamp", VALID_TO: "timestamp", CHANGED_AFTER: "timestamp",
    CHANGED_BEFORE: "timestamp", HIDDEN: "text",
}  # fmt: skip
_UNKNOWN = "?"  # in `_hc_hidden`: of rows that were there before their history
_DAY_MS = 86_400_000
_DAYS_MAX = 700_000  # the calendar begins soon before
_log = get_logger("history")
Columns = Mapping[str, Mapping[str, Any]]


class _Dialect(NamedTuple):
    """What differs between databases. alike: whether two JSON lists hold the same in some order.
    by_id_max: with more ids than that, whole tables are compared."""

    alike: str
    by_id_max: float


_DIALECTS = {
    "duckdb": _Dialect("json_contains({0}, {1}) AND json_contains({1}, {0})", float("inf")),
    "postgres": _Dialect("{0} @> {1} AND {1} @> {0}", 5000),
}


def history_of(resource: str) -> str:
    """The name of the table with the versions of a resource's rows."""
    return f"{resource}_history"


class HistoryTables:
    """The histories at one destination. The pull lock is held.

    resources: those that have one. kind: of the destination. columns: of a table there. create:
    makes what is missing of batches' tables and columns. attempt: the result of what it is given,
    tried again if necessary. note_change: readers lack something.
    """

    def __init__(
        self,
        pull: PullSettings,
        *,
        kind: str,
        dataset: str,
        connection: duckdb.DuckDBPyConnection,
        warehouse: DuckWarehouse | ServerWarehouse,
        seen: SeenIds,
        columns: Callable[[str], Columns],
        create: Callable[[Sequence[Batch]], None],
        attempt: Callable[[Callable[[], Any]], Any],
        note_change: Callable[[], None],
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self._pull, self._dialect = pull, _DIALECTS.get(kind)
        self.resources = pull.history if self._dialect else ()
        self._kind, self._warehouse, self._seen, self._columns = kind, warehouse, seen, columns
        self._create, self._attempt, self._note_change = create, attempt, note_change
        self._notes, self._now_ms = _Notes(connection, dataset), now_ms

    @property
    def why_not_kept(self) -> str | None:
        """For people; None where histories are kept, or aren't wanted."""
        if not self._pull.history or self._dialect is not None:
            return None
        return f"former versions of rows (`pull.history`) can't be kept on {self._kind}"

    # --- tables -----------------------------------------------------------------------------------

    def batches(self, lists: Sequence[Batch]) -> list[Batch]:
        """Without rows: the history tables of `lists`, with all of their columns."""
        return [
            Batch(history_of(batch.table), (), self._of_history(batch), key=("id", VALID_FROM))
            for batch in lists
            if batch.table in self.resources
        ]

    def _of_history(self, batch: Batch) -> dict[str, dict[str, Any]]:
        copied = _copied({**self._columns(batch.table), **batch.columns})
        types = {name: column["data_type"] for name, column in copied.items()} | HISTORY_COLUMNS
        return {
            name: {"name": name, "data_type": data_type, "nullable": name not in ("id", VALID_FROM)}
            for name, data_type in types.items()
        }

    def prepare(self, state_of: Callable[[str], Mapping[str, Any]]) -> None:
        """Before a run loads anything: complete what an earlier one left, fill a new history from
        its table, and forget old versions. state_of: dlt's state of a resource.

        Raises:
            DestinationError: it can't be read or written.
        """
        if self.why_not_kept and self._notes.of(self._kind) is None:
            _log.warning("history.not_kept", why=self.why_not_kept)
            self._notes.save({self._kind: _Note(0, 0, None)})
        self._notes.forget_others((*self.resources, self._kind))
        for resource in self.resources:
            if not self._columns(history_of(resource)):
                continue  # a list that was never pulled since it was to have a history
            note = self._notes.of(resource)
            hidden = _hidden(self._pull, resource)
            if note is None or self._is_empty(history_of(resource)):
                self._fill(resource, state_of(resource))
            elif note.is_pending:
                self._follow(resource, None, note)
            if note is not None and note.hidden != hidden:
                self._hide(resource)
            self._notes.save({resource: _Note(0, 0, hidden)})
            if self._pull.history_days is not None:
                kept_ms = round(min(self._pull.history_days, _DAYS_MAX) * _DAY_MS)
                limit = _moment(self._now_ms() - kept_ms)
                self._run(resource, [("DELETE FROM {h} WHERE {to} < %s", (limit,))])

    def _is_empty(self, table: str) -> bool:
        sql = f"SELECT 1 FROM {self._warehouse.name(table)} LIMIT 1"  # noqa: S608 - names of ours
        return not self._attempt(partial(self._warehouse.query, sql))

    def _fill(self, resource: str, state: Mapping[str, Any]) -> None:
        """From the table of an existing copy: its rows are the first versions.

        What the last scan that was complete has seen is valid since its beginning; of others it is
        only known that they were seen after the first run had begun.
        """
        if self._is_empty(resource):
            return
        facts, left = read_state(resource, state)
        first_ms, now_ms = self._first_run_ms(), self._now_ms()
        known = (facts.last_complete_ms, facts.last_full_ms, left.started_ms if left else None)
        earliest_ms = min(ms for ms in (first_ms, *known, now_ms) if ms is not None)
        oldest = _Note(earliest_ms, now_ms, _UNKNOWN)
        if facts.last_complete_ms is None or facts.last_complete_ms != facts.last_full_ms:
            self._follow(resource, None, oldest)
            return
        if facts.undecided:
            self._run(resource, [self._statements(resource, oldest).first()], facts.undecided)
        unlisted = self._statements(resource, oldest).first(f"t.{UNLISTED_COLUMN} IS NOT NULL")
        self._run(resource, [unlisted])
        self._follow(resource, None, replace(oldest, asked_ms=facts.last_complete_ms))

    def _first_run_ms(self) -> int | None:
        if not self._columns(RUNS_TABLE):
            return None
        sql = f"SELECT min(started_at) FROM {self._warehouse.name(RUNS_TABLE)}"  # noqa: S608
        ((first,),) = self._attempt(partial(self._warehouse.query, sql))
        return None if first is None else int(first.timestamp() * 1000)

    def _hide(self, resource: str) -> None:
        """Remove from former versions what the settings now keep out of rows."""
        own, there = getattr(self._pull, resource), self._columns(history_of(resource)).keys()
        for name in sorted(there & set(map(column_name, own.hidden_columns))):
            sql = f'UPDATE {{h}} SET "{name}" = NULL WHERE {{to}} IS NOT NULL'  # noqa: S608
            if name not in map(column_name, own.exclude_columns):
                sql += f" AND ({HIDDEN} IS NULL OR position('\"{name}\"' IN {HIDDEN}) = 0)"
            self._run(resource, [(sql, ())])

    # --- versions ---------------------------------------------------------------------------------

    def expect(self, batches: Sequence[Batch]) -> None:
        """Before a load: note that these rows are about to land. What a failed one of this run left
        behind is completed first."""
        pending = {}
        for batch in self._kept(batches):
            note = self._notes.of(batch.table)
            if note is not None and note.is_pending:
                self._follow(batch.table, None, note)
            seen_ms = self._now_ms()
            asked_ms = seen_ms if batch.asked_ms is None else batch.asked_ms
            hidden = _hidden(self._pull, batch.table)
            pending[batch.table] = _Note(asked_ms, seen_ms, hidden, is_pending=True)
        self._notes.save(pending)

    def follow(self, batches: Sequence[Batch]) -> None:
        """After a load: bring the histories of its rows in line with them."""
        followed = {}
        for batch in self._kept(batches):
            note = self._notes.of(batch.table)
            assert note is not None
            self._follow(batch.table, batch.as_table()["id"].to_pylist(), note)
            followed[batch.table] = replace(note, is_pending=False)
        self._notes.save(followed)

    def _kept(self, batches: Sequence[Batch]) -> list[Batch]:
        return [each for each in batches if each.table in self.resources and len(each.rows)]

    def _follow(self, resource: str, ids: Sequence[str] | None, note: _Note) -> None:
        """ids: whose history may lack something; None: all. Doing it again changes nothing."""
        assert self._dialect is not None
        self._note_change()
        self._create(self.batches([Batch(resource, (), self._columns(resource))]))
        if ids is not None and len(ids) > self._dialect.by_id_max:
            ids = None
        statements = self._statements(resource, note)
        counted = self._run(resource, [statements.first()], ids)
        if ids is not None and counted == [(len(ids),)]:  # DuckDB counts: all of them were new
            return
        found = self._run(resource, [statements.lagging()], ids)
        lagging = [id_ for (id_,) in found]
        for after_ms, some in self._seen.confirmed(resource, lagging).items():
            at_ms = max(note.asked_ms, after_ms or 0)  # where the clock was set back since
            bounded = replace(note, asked_ms=at_ms, seen_ms=max(at_ms, note.seen_ms))
            self._run(resource, self._statements(resource, bounded).next_versions(after_ms), some)

    def _statements(self, resource: str, note: _Note) -> _Statements:
        assert self._dialect is not None
        columns = _copied(self._columns(resource))
        return _Statements(self._dialect, columns, note)

    def _run(
        self, resource: str, statements: Sequence[Statement], ids: Sequence[str] | None = None
    ) -> list[tuple[Any, ...]]:
        """All of them or none; the rows of the last."""
        named = [(self._named(resource, sql, ids), values) for sql, values in statements]
        work = partial(self._warehouse.execute_ids, named, ids)
        found: list[tuple[Any, ...]] = self._attempt(work)
        return found

    def _named(self, resource: str, sql: str, ids: Sequence[str] | None) -> str:
        table, history = map(self._warehouse.name, (resource, history_of(resource)))
        some = "TRUE" if ids is None else "t.id IN ({ids})"
        return sql.format(t=table, h=history, to=VALID_TO, some=some, ids="{ids}")

    def ending(self, resource: str, at_ms: int) -> list[Statement]:
        """For the transaction in which rows are flagged deleted: ends their open versions."""
        if resource not in self.resources:
            return []
        flagged = f"SELECT t.id FROM {{t}} AS t WHERE t.{DELETED_COLUMN} IS NOT NULL"  # noqa: S608
        sql = f"{_END_OPEN} AND h.id IN ({flagged})"
        return [(self._named(resource, sql, ()), (_moment(at_ms),))]

    # --- which rows a scan has seen ---------------------------------------------------------------

    def begin_scan(self, scan: ListScan) -> None:
        """A scan begins from its first page. Of full ones, `SeenIds` keeps the ids anyway."""
        if scan.resource in self.resources and _is_narrow(scan):
            self._seen.begin(_narrow_name(scan))

    def note_seen(self, scan: ListScan, ids: Sequence[str]) -> None:
        """A narrow scan has seen rows."""
        if scan.resource in self.resources and _is_narrow(scan):
            self._seen.add(_narrow_name(scan), ids)

    def end_scan(self, scan: ListScan) -> None:
        """A scan has come to its end: the rows that it has seen were there after it began."""
        if scan.resource in self.resources and scan.plan.kind is not ScanKind.EVENTS:
            name = _narrow_name(scan) if _is_narrow(scan) else scan.resource
            self._seen.end(name, scan.resource, scan.checkpoint.started_ms)
        if scan.complete:
            self._end_rowless(scan.resource)

    def _end_rowless(self, resource: str) -> None:
        """End versions of rows that are neither in their list nor in their table, which a user
        has dropped since: nothing flags them deleted."""
        if resource not in self.resources or not self._columns(history_of(resource)):
            return
        rowless = "SELECT 1 FROM {t} AS t WHERE t.id = h.id"
        sql = f"SELECT h.id FROM {{h}} AS h WHERE h.{{to}} IS NULL AND NOT EXISTS ({rowless})"  # noqa: S608
        if ids := [id_ for (id_,) in self._run(resource, [(sql, ())])]:
            self._note_change()
            self._run(resource, [(_END_OPEN, (_moment(self._now_ms()),))], ids)


def _is_narrow(scan: ListScan) -> bool:
    return scan.plan.kind not in (ScanKind.FULL, ScanKind.EVENTS)


def _narrow_name(scan: ListScan) -> str:
    return f"{scan.resource}_{scan.plan.kind}"


# --- statements ---------------------------------------------------------------------------------


_IS_LIVE = f"(t.{DELETED_COLUMN} IS NULL)"
# a row without a hash has lost a column, and is about to be read again
_HAS_OTHER_HASH = (
    f"(t.{HASH_COLUMN} IS NOT NULL AND h.{HASH_COLUMN} IS DISTINCT FROM t.{HASH_COLUMN})"
)
_OF_ROW = f"FROM {{t}} AS t WHERE {{some}} AND h.id = t.id AND h.{VALID_TO} IS NULL"


class _Statements:
    """SQL about a table `{t}` and its history `{h}`, for the rows that `{some}` selects."""

    def __init__(self, dialect: _Dialect, columns: Columns, note: _Note) -> None:
        self._dialect, self._columns, self._note = dialect, columns, note
        self._asked, self._seen = _moment(note.asked_ms), _moment(note.seen_ms)
        self._names = ", ".join(f'"{name}"' for name in columns)
        self._values = ", ".join(f't."{name}"' for name in columns)

    def first(self, where: str = "TRUE") -> Statement:
        """Versions of rows that have none yet."""
        sql = (
            f"INSERT INTO {{h}} ({self._names}, {VALID_FROM}, {CHANGED_BEFORE}, {HIDDEN}) "  # noqa: S608
            f"SELECT {self._values}, %s, %s, %s FROM {{t}} AS t WHERE {{some}} AND {where} "
            f"AND {_IS_LIVE} AND NOT EXISTS (SELECT 1 FROM {{h}} AS h WHERE h.id = t.id)"
        )
        return sql, (self._asked, max(self._asked, self._seen), self._note.hidden)

    def lagging(self) -> Statement:
        """Ids of rows that their open version differs from, if only by its hash."""
        sql = (
            f"SELECT t.id FROM {{t}} AS t LEFT JOIN {{h}} AS h ON h.id = t.id "  # noqa: S608
            f"AND h.{VALID_TO} IS NULL WHERE {{some}} AND CASE WHEN {_IS_LIVE} "
            f"THEN h.id IS NULL OR {_HAS_OTHER_HASH} ELSE h.id IS NOT NULL END"
        )
        return sql, ()

    def next_versions(self, after_ms: int | None) -> list[Statement]:
        """In order, for rows with versions. after_ms: when a scan began that has seen them as they
        were before; None: none has, since the former version was seen first."""
        after = None if after_ms is None else _moment(after_ms)
        return [self._close(), self._open(after), self._replace(), self._end()]

    def _close(self) -> Statement:
        differs, values = self._differs()
        sql = (
            f"UPDATE {{h}} AS h SET {VALID_TO} = GREATEST(%s, {_after(VALID_FROM)}) {_OF_ROW} "  # noqa: S608
            f"AND {_IS_LIVE} AND {_HAS_OTHER_HASH} AND ({differs})"
        )
        return sql, (self._asked, *values)

    def _open(self, after: datetime | None) -> Statement:
        """Of rows without an open version: closed just now, or deleted before and back again."""
        sql = (
            f"INSERT INTO {{h}} ({self._names}, {VALID_FROM}, {CHANGED_AFTER}, {CHANGED_BEFORE}, "  # noqa: S608
            f"{HIDDEN}) SELECT {self._values}, GREATEST(%s, p.ended), GREATEST(%s, p.seen), "
            f"GREATEST(%s, p.ended), %s FROM {{t}} AS t JOIN (SELECT id, max({VALID_TO}) AS ended, "
            f"max({VALID_FROM}) AS seen, count(*) - count({VALID_TO}) AS still_open FROM {{h}} "
            f"WHERE id IN ({{ids}}) GROUP BY id) AS p ON p.id = t.id "
            f"WHERE {{some}} AND {_IS_LIVE} AND p.still_open = 0"
        )
        return sql, (self._asked, after, self._seen, self._note.hidden)

    def _replace(self) -> Statement:
        """What isn't another version: the open one is made what the row is now."""
        sets = ", ".join(f'"{name}" = t."{name}"' for name in self._columns if name != "id")
        sql = (
            f"UPDATE {{h}} AS h SET {sets}, {HIDDEN} = %s {_OF_ROW} "  # noqa: S608
            f"AND {_IS_LIVE} AND {_HAS_OTHER_HASH}"
        )
        return sql, (self._note.hidden,)

    @staticmethod
    def _end() -> Statement:
        """Of rows that are flagged deleted."""
        ended = f"GREATEST(t.{DELETED_COLUMN}, {_after(VALID_FROM)})"
        sql = f"UPDATE {{h}} AS h SET {VALID_TO} = {ended} {_OF_ROW} AND NOT {_IS_LIVE}"  # noqa: S608
        return sql, ()

    def _differs(self) -> tuple[str, list[Any]]:
        """Whether a row isn't what its open version says, apart from columns that were hidden from
        one of them alone. SQL and its parameters."""
        hidden_now, terms, values = _names_in(self._note.hidden), [], []
        for name, column in self._columns.items():
            if is_reserved(name) and name != MORE_COLUMN:
                continue
            old, new, field = f'h."{name}"', f't."{name}"', _field(name)
            term = f"{old} IS DISTINCT FROM {new}"
            if name == "labels" and column["data_type"] == "json":
                term += f" AND ({self._dialect.alike.format(old, new)}) IS NOT TRUE"
            if field in hidden_now:
                term += f" AND h.{HIDDEN} IS NOT DISTINCT FROM %s"
                values.append(self._note.hidden)
            else:
                term += f" AND (h.{HIDDEN} IS NULL OR position('\"{field}\"' IN h.{HIDDEN}) = 0)"
            terms.append(f"({term})")
        return " OR ".join(terms), values


def _copied(columns: Columns) -> dict[str, Mapping[str, Any]]:
    """The columns of a table that its history has too."""
    return {
        name: column
        for name, column in columns.items()
        if name not in (DELETED_COLUMN, UNLISTED_COLUMN) and not name.startswith("_dlt")
    }


def _after(column: str) -> str:
    """The next moment: versions of a row never begin at the same one."""
    return f"h.{column} + INTERVAL '1 millisecond'"


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


_END_OPEN = (  # of the rows in `{ids}`
    f"UPDATE {{h}} AS h SET {VALID_TO} = GREATEST(%s, {_after(VALID_FROM)}) "  # noqa: S608
    f"WHERE h.{VALID_TO} IS NULL AND h.id IN ({{ids}})"
)


# --- hidden columns -----------------------------------------------------------------------------


def _hidden(pull: PullSettings, resource: str) -> str | None:
    """What the settings keep out of a resource's rows, as `_hc_hidden` has it; None: nothing."""
    own = getattr(pull, resource)
    if not own.hidden_columns:
        return None
    digest = configured_privacy(resource, pull).digest.hex()
    columns = sorted({column_name(name) for name in own.hidden_columns})
    return json.dumps({"columns": columns, "settings": digest[:8]})


def _names_in(hidden: str | None) -> frozenset[str]:
    if hidden is None or hidden == _UNKNOWN:
        return frozenset()
    return frozenset(json.loads(hidden)["columns"])


def _field(column: str) -> str:
    """The usual column of a field, for one that takes its values of another type."""
    return re.split(r"__[vf]", column)[0]


# --- notes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Note:
    """What a history needs to be brought in line with its table.

    asked_ms, seen_ms: before the rows of a load were requested, and after they had arrived. hidden:
    as in `_hc_hidden`. is_pending: the load may have ended, and its history isn't known to be
    written.
    """

    asked_ms: int
    seen_ms: int
    hidden: str | None
    is_pending: bool = False


class _Notes:
    """A note for each resource, in the working file. None: nothing is known of its history."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, dataset: str) -> None:
        self._connection = connection
        self._table = f"{work_schema(connection, dataset)}.history_notes"
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self._table} (resource VARCHAR, asked_ms BIGINT, "
            "seen_ms BIGINT, hidden VARCHAR, is_pending BOOLEAN)"
        )
        rows = connection.execute(f"FROM {self._table}").fetchall()
        self._known = {resource: _Note(*facts) for resource, *facts in rows}

    def of(self, resource: str) -> _Note | None:
        return self._known.get(resource)

    def save(self, notes: Mapping[str, _Note]) -> None:
        changed = [(name, note) for name, note in notes.items() if note != self._known.get(name)]
        if not changed:
            return
        with transaction(self._connection) as cursor:
            for resource, note in changed:
                cursor.execute(f"DELETE FROM {self._table} WHERE resource = ?", [resource])  # noqa: S608
                cursor.execute(
                    f"INSERT INTO {self._table} VALUES (?, ?, ?, ?, ?)",  # noqa: S608
                    [resource, note.asked_ms, note.seen_ms, note.hidden, note.is_pending],
                )
        self._known.update(changed)

    def forget_others(self, resources: Sequence[str]) -> None:
        """Of resources whose history isn't kept any more: it will lack what changes now."""
        sql = f"DELETE FROM {self._table} WHERE NOT list_contains(?, resource)"  # noqa: S608
        self._connection.execute(sql, [list(resources)])
        self._known = {name: note for name, note in self._known.items() if name in resources}
