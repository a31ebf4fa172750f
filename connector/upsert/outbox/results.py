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
        """The destination has `rows` (from `unlanded`). Those that say nothing more are dropped
        here: unchanged, and without a message."""
        by_run: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_run.setdefault(row["run_id"], []).append(row)
        with self._database.write() as connection:
            for run_id, own in by_run.items():
                between = (own[0]["row_number"], own[-1]["row_number"])
                here = sa.and_(self._of(run_id), results.c.row_number.between(*between))
                plain = sa.and_(
                    results.c.status == Status.UNCHANGED.value, results.c.message.is_(None)
                )
                connection.execute(sa.delete(results).where(here, plain))
                connection.execute(sa.update(results).where(here).values(landed=True))

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


def _told(message: str | None) -> str | None:
    return None if message is None else redact(message)[:_MESSAGE_LENGTH]
