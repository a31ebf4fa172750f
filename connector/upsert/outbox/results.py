"""One outcome per input row, kept in the ledger until the destination has it and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from connector.budget.database import Database
from connector.logs import redact
from connector.upsert.outbox.schema import MIGRATIONS, results
from connector.upsert.outbox.statements import insert_or_replace
from connector.upsert.outbox.states import Status

_MESSAGE_LENGTH = 2000
_LANDED = ("run_id", "row_number", "status", "prospect_id", "message", "pushed_ms")
_IN_ONE_WRITE = 2_000
# beside the comparison of every column: `IS NOT DISTINCT FROM` finds no index on PostgreSQL
_KEY_IS = (
    results.c.run_id == sa.bindparam("b_run_id"),
    results.c.row_number == sa.bindparam("b_row_number"),
)
Rows = list[dict[str, Any]]


class RowResult(NamedTuple):
    """What became of one input row. message: for people; contacts in it are masked when stored."""

    row_number: int
    status: Status
    prospect_id: str | None = None
    message: str | None = None


class ResultStore:
    """The results of one scope, on their way to one destination.

    scope, destination: numbers that stand for the API key and for where results land.
    """

    def __init__(self, database: Database, scope: int, destination: int = 0) -> None:
        database.migrate("outbox", MIGRATIONS)
        self._database, self._scope, self._destination = database, scope, destination

    def put(
        self, connection: sa.Connection, run_id: str, found: Sequence[RowResult], at_ms: int
    ) -> None:
        """Store outcomes; a later one for the same row replaces the earlier."""
        rows = [
            {
                "scope": self._scope,
                "run_id": run_id,
                "row_number": result.row_number,
                "status": result.status.value,
                "prospect_id": result.prospect_id,
                "message": _told(result.message),
                "pushed_ms": at_ms,
                "destination": self._destination,
                "landed": False,
            }
            for result in found
        ]
        insert_or_replace(connection, results, rows)

    def discard(self, run_id: str) -> None:
        """Forget the outcomes of a run that ended before it began to send."""
        with self._database.write() as connection:
            connection.execute(sa.delete(results).where(self._of(run_id)))

    def unlanded(self, limit: int) -> Rows:
        """Up to `limit` outcomes that the destination doesn't have yet, by run and row."""
        query = (
            sa.select(*(results.c[name] for name in _LANDED))
            .where(results.c.destination == self._destination, results.c.landed.is_(False))
            .order_by(results.c.run_id, results.c.row_number)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def mark_landed(self, rows: Rows) -> None:
        """The destination has exactly these rows, as `unlanded` gave them.

        One that has another outcome by now stays unlanded. Those that say nothing more are
        dropped here: unchanged, and without a message.
        """
        same = sa.and_(
            *(results.c[name].is_not_distinct_from(sa.bindparam(f"b_{name}")) for name in _LANDED)
        )
        plain = [_bound(row) for row in rows if _says_nothing_more(row)]
        others = [_bound(row) for row in rows if not _says_nothing_more(row)]
        drop = sa.delete(results).where(*_KEY_IS, same)
        mark = sa.update(results).where(*_KEY_IS, same).values(landed=True)
        for statement, bound in ((drop, plain), (mark, others)):
            for start in range(0, len(bound), _IN_ONE_WRITE):  # a push that runs waits for each
                with self._database.write() as connection:
                    connection.execute(statement, bound[start : start + _IN_ONE_WRITE])

    def counts(self, run_id: str) -> dict[str, int]:
        """status → rows of one run that are kept here."""
        query = (
            sa.select(results.c.status, sa.func.count())
            .where(self._of(run_id))
            .group_by(results.c.status)
        )
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def noteworthy(self, run_id: str, limit: int) -> list[RowResult]:
        """The rejects, failures and warnings of one run, in file order."""
        bad = (Status.REJECTED.value, Status.FAILED.value)
        query = (
            sa.select(results)
            .where(
                self._of(run_id), sa.or_(results.c.status.in_(bad), results.c.message.is_not(None))
            )
            .order_by(results.c.row_number)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [
                RowResult(row.row_number, Status(row.status), row.prospect_id, row.message)
                for row in connection.execute(query)
            ]

    def _of(self, run_id: str) -> sa.ColumnElement[bool]:
        return results.c.run_id == run_id


def _bound(row: dict[str, Any]) -> dict[str, Any]:
    return {f"b_{name}": row[name] for name in _LANDED}


def _says_nothing_more(row: dict[str, Any]) -> bool:
    return row["status"] == Status.UNCHANGED.value and row["message"] is None


def _told(message: str | None) -> str | None:
    return None if message is None else redact(message)[:_MESSAGE_LENGTH]
