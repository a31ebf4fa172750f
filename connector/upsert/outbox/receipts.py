"""One outcome per input row, kept in the ledger until the destination has it and after.

What the API has accepted, per prospect, and the names by which rows find their prospect.

A receipt ends in `tail`: the contents accepted last, oldest first. Rows that would only repeat
the end of it change nothing. It is kept per prospect, not per email: after A by email, B by
phone, A by email, the third is a change.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import sqlalchemy as sa

from connector.budget.database import Database
from connector.logs import redact
from connector.upsert.outbox.matching import CONTENT_BYTES, Aliases
from connector.upsert.outbox.outbox_schema import (
    MIGRATIONS,
    aliases,
    attached,
    disputed,
    insert_new,
    insert_or_replace,
    receipts,
    results,
    settled_names,
)

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


_TAIL_LENGTH = 16
_FIND = (
    "SELECT a.prospect_id, a.confirmed, r.tail, r.accepted_ms, r.updated_at_ms, r.seen_ms, "
    "r.names, a.alias "
    "FROM outbox_aliases a JOIN outbox_receipts r "
    "ON r.scope = a.scope AND r.prospect_id = a.prospect_id "
    "WHERE a.scope = {scope} AND a.alias IN ({aliases})"
)


@dataclass(frozen=True)
class Receipt:
    """tail: contents, oldest first, at most 16. updated_at_ms: as the answer said; server time."""

    prospect_id: str
    tail: tuple[bytes, ...]
    accepted_ms: int
    updated_at_ms: int | None

    def ends_with(self, contents: Collection[bytes]) -> bool:
        """Whether `contents` were accepted last, in this order, with nothing between or after."""
        return 0 < len(contents) <= len(self.tail) and self.tail[-len(contents) :] == (*contents,)


class Found(NamedTuple):
    """Where an alias leads. confirmed: the API's answer carried that contact too.

    tail and what follows: as the prospect's receipt has them; tail: contents, end to end;
    seen_ms: when a push last used it, roughly; names: see `Hasher.names`, None where that isn't
    known (receipts of version 0.1).
    """

    prospect_id: str
    confirmed: bool
    tail: bytes = b""
    accepted_ms: int = 0
    updated_at_ms: int | None = None
    seen_ms: int = 0
    names: bytes | None = None

    def is_last(self, content: bytes) -> bool:
        """Whether `content` was accepted last."""
        return self.tail[-CONTENT_BYTES:] == content

    @property
    def receipt(self) -> Receipt:
        """The prospect's receipt."""
        tail = _split(self.tail)
        return Receipt(self.prospect_id, tail, self.accepted_ms, self.updated_at_ms)


@dataclass(frozen=True)
class Accepted:
    """One answer of the API. email_kept, phone_kept: whether the answer carries that contact.

    content: None where the API took nothing over (it only named the prospect). hashed_names: the
    person's, see `Hasher.names`; None: as they were.
    """

    prospect_id: str
    names: Aliases
    content: bytes | None
    at_ms: int
    updated_at_ms: int | None
    email_kept: bool = True
    phone_kept: bool = True
    hashed_names: bytes | None = None


class Receipts:
    """The receipts of one scope. Every method works inside the caller's transaction."""

    def __init__(self, scope: int) -> None:
        self._scope = scope

    def find(self, connection: sa.Connection, names: Collection[int]) -> dict[int, Found]:
        """alias → prospect, for those of `names` that are known."""
        if not names:
            return {}
        numbers = ",".join(map(str, sorted(names)))  # thousands of parameters cost more than text
        found = connection.exec_driver_sql(_FIND.format(scope=self._scope, aliases=numbers))
        assert found.cursor is not None
        # the driver's own tuples: a million of SQLAlchemy's rows cost as much as the look-up
        return {row[7]: Found._make(row[:7]) for row in found.cursor.fetchall()}

    def of(self, connection: sa.Connection, prospect_ids: Collection[str]) -> dict[str, Receipt]:
        """prospect id → receipt, for those that have one."""
        if not prospect_ids:
            return {}
        query = sa.select(
            receipts.c.prospect_id,
            receipts.c.tail,
            receipts.c.accepted_ms,
            receipts.c.updated_at_ms,
        ).where(receipts.c.scope == self._scope, receipts.c.prospect_id.in_(prospect_ids))
        return {
            row[0]: Receipt(row[0], _split(row[1]), row[2], row[3])
            for row in connection.execute(query)
        }

    def accept(self, connection: sa.Connection, accepted: Accepted) -> None:
        """Book one answer: whose it is, under which names, and what was taken over."""
        self._name(connection, accepted)
        before = self.of(connection, [accepted.prospect_id]).get(accepted.prospect_id)
        new = () if accepted.content is None else (accepted.content,)
        tail = (*(before.tail if before else ()), *new)[-_TAIL_LENGTH:]
        self._store(
            connection,
            accepted.prospect_id,
            tail,
            accepted.at_ms,
            accepted.updated_at_ms,
            accepted.hashed_names,
        )

    def break_tail(self, connection: sa.Connection, prospect_id: str, at_ms: int) -> None:
        """A write of unknown fate went to `prospect_id`: what was accepted last isn't known."""
        before = self.of(connection, [prospect_id]).get(prospect_id)
        if before is not None:
            unknown = secrets.token_bytes(CONTENT_BYTES)
            tail = (*before.tail, unknown)[-_TAIL_LENGTH:]
            self._store(connection, prospect_id, tail, at_ms, before.updated_at_ms)

    def _store(
        self,
        connection: sa.Connection,
        prospect_id: str,
        tail: tuple[bytes, ...],
        at_ms: int,
        updated_at_ms: int | None,
        names: bytes | None = None,
    ) -> None:
        row = {
            "scope": self._scope,
            "prospect_id": prospect_id,
            "tail": b"".join(tail),
            "accepted_ms": at_ms,
            "updated_at_ms": updated_at_ms,
            "seen_ms": at_ms,
        }
        known = {} if names is None else {"names": names}
        insert_or_replace(connection, receipts, [row | known])

    def _name(self, connection: sa.Connection, accepted: Accepted) -> None:
        """A prospect has one email and one phone: the former ones no longer lead to it."""
        known: Mapping[str, tuple[int | None, bool]] = {
            "email": (accepted.names.email, accepted.email_kept),
            "phone": (accepted.names.phone, accepted.phone_kept),
            "row": (accepted.names.row, True),
        }
        rows = []
        for kind, (alias, kept) in known.items():
            if alias is None:
                continue
            if kept and kind != "row":
                self._forget_others(connection, accepted.prospect_id, kind, alias)
            rows.append(
                {
                    "scope": self._scope,
                    "alias": alias,
                    "kind": kind,
                    "prospect_id": accepted.prospect_id,
                    "confirmed": kept,
                }
            )
        insert_or_replace(connection, aliases, rows)

    def _forget_others(
        self, connection: sa.Connection, prospect_id: str, kind: str, alias: int
    ) -> None:
        connection.execute(
            sa.delete(aliases).where(
                # `+ 0` keeps SQLite from walking all aliases of the scope by the primary key
                aliases.c.scope + 0 == self._scope,
                aliases.c.prospect_id == prospect_id,
                aliases.c.kind == kind,
                aliases.c.alias != alias,
                aliases.c.confirmed,
            )
        )

    def attached(
        self, connection: sa.Connection, prospect_ids: Collection[str]
    ) -> set[tuple[str, str, bytes]]:
        """(prospect id, kind, content) of every note, task and meeting that was created."""
        if not prospect_ids:
            return set()
        query = sa.select(attached.c.prospect_id, attached.c.kind, attached.c.content).where(
            attached.c.scope == self._scope, attached.c.prospect_id.in_(prospect_ids)
        )
        return {(row[0], row[1], bytes(row[2])) for row in connection.execute(query)}

    def attach(
        self, connection: sa.Connection, prospect_id: str, kind: str, content: bytes, at_ms: int
    ) -> None:
        """Book one created note, task or meeting."""
        row = {"scope": self._scope, "prospect_id": prospect_id, "kind": kind, "content": content}
        insert_new(connection, attached, [{**row, "seen_ms": at_ms}])

    def names_of(self, connection: sa.Connection, prospect_id: str) -> bytes | None:
        """The names that a prospect was last seen to have; None where they aren't known."""
        names = connection.scalar(
            sa.select(receipts.c.names).where(
                receipts.c.scope == self._scope, receipts.c.prospect_id == prospect_id
            )
        )
        return None if names is None else bytes(names)

    def settle_name(
        self, connection: sa.Connection, prospect_id: str, source: int, name: int, *, created: bool
    ) -> None:
        """`source` has settled the first name `name` on a prospect. created: by creating them."""
        row = {"scope": self._scope, "prospect_id": prospect_id, "source": source, "name": name}
        insert_new(connection, settled_names, [{**row, "created": created}])

    def settled(
        self, connection: sa.Connection, source: int, prospect_ids: Collection[str]
    ) -> dict[tuple[str, int], bool]:
        """(prospect id, first name) that `source` has settled → whether it created them so."""
        if not prospect_ids:
            return {}
        query = sa.select(
            settled_names.c.prospect_id, settled_names.c.name, settled_names.c.created
        ).where(
            settled_names.c.scope == self._scope,
            settled_names.c.prospect_id.in_(prospect_ids),
            settled_names.c.source == source,
        )
        return {(row[0], row[1]): row[2] for row in connection.execute(query)}

    def dispute(
        self, connection: sa.Connection, names: Aliases, expected: str, answered: str, at_ms: int
    ) -> None:
        """The API answered with another prospect than these contacts lead to."""
        rows = [
            {
                "scope": self._scope,
                "alias": alias,
                "expected_id": expected,
                "answered_id": answered,
                "at_ms": at_ms,
            }
            for alias in names.present()
        ]
        insert_or_replace(connection, disputed, rows)

    def settle_dispute(self, connection: sa.Connection, names: Aliases) -> None:
        """A write was accepted under these contacts, as it was meant to be."""
        connection.execute(
            sa.delete(disputed).where(
                disputed.c.scope == self._scope, disputed.c.alias.in_(names.present())
            )
        )

    def disputed(self, connection: sa.Connection) -> dict[int, tuple[str, str]]:
        """alias → (expected id, answered id), of every contact that is disputed."""
        query = sa.select(disputed.c.alias, disputed.c.expected_id, disputed.c.answered_id)
        found = connection.execute(query.where(disputed.c.scope == self._scope))
        return {row[0]: (row[1], row[2]) for row in found}

    def forget_people(self, connection: sa.Connection, prospect_ids: Collection[str]) -> None:
        """No contact leads to these people any more: they were deleted."""
        connection.execute(
            sa.delete(aliases).where(
                aliases.c.scope + 0 == self._scope,  # as above: by prospect
                aliases.c.prospect_id.in_(prospect_ids),
            )
        )

    def touch(self, connection: sa.Connection, prospect_ids: Collection[str], at_ms: int) -> None:
        """Receipts that are still in use stay beyond their retention."""
        for table in (receipts, attached):
            connection.execute(
                sa.update(table)
                .where(table.c.scope == self._scope, table.c.prospect_id.in_(prospect_ids))
                .values(seen_ms=at_ms)
            )


def _split(tail: bytes) -> tuple[bytes, ...]:
    return tuple(
        bytes(tail[start : start + CONTENT_BYTES]) for start in range(0, len(tail), CONTENT_BYTES)
    )


class Status(StrEnum):
    """What became of one input row."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    REJECTED = "rejected"
    FAILED = "failed"
