"""The outbox: every write on disk, with its key and its exact bytes, before it is sent.

Each method is one step of `states`, inside the caller's transaction, and guarded: a write that
isn't in the state the step starts from stops the run, instead of being sent twice.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import sqlalchemy as sa

from connector.budget.database import Database
from connector.errors import OutboxConflict
from connector.upsert.outbox.identity import Aliases, Hasher, stored_salt
from connector.upsert.outbox.schema import MIGRATIONS, writes
from connector.upsert.outbox.states import State

PROSPECTS = "prospects"
UncertainWrite = tuple[int | str, str, bytes]  # alias or prospect id, kind, content


@dataclass(frozen=True, kw_only=True)
class Write:
    """One request of one input row: the prospect (position 0) or one of its activities.

    person: rows of one run with the same number are about one person and are sent in file order.
    body: JSON; an activity's gets its `prospectId` when it is sent. row_values: the input row as
    JSON, for the rejects file. note: warnings about the row so far. stale: what was accepted last
    no longer holds, so it is sent even where it says the same. id: 0 until it is stored.
    sent_ms: by our clock; sent_server_ms: no later than the server's clock said at that instant,
    None where that isn't known.
    """

    run_id: str
    source: str
    row_number: int
    position: int
    kind: str
    person: int
    names: Aliases
    content: bytes
    body: bytes
    row_values: bytes | None = None
    note: str | None = None
    prospect_id: str | None = None
    stale: bool = False
    id: int = 0
    idempotency_key: str | None = None
    sent_ms: int | None = None
    sent_server_ms: int | None = None


_PLAIN = [field.name for field in fields(Write) if field.name not in ("id", "names")]
_COLUMNS = [
    writes.c.id,
    writes.c.email_alias,
    writes.c.phone_alias,
    writes.c.row_alias,
    *(writes.c[name] for name in _PLAIN),
]


class Outbox:
    """The writes of one scope.

    scope: a number that stands for the API key. hasher: with this outbox's salt.
    """

    def __init__(self, database: Database, scope: int) -> None:
        database.migrate("outbox", MIGRATIONS)
        self.database, self.scope = database, scope
        self.hasher = Hasher(stored_salt(database))

    def plan(self, connection: sa.Connection, new: Sequence[Write], at_ms: int) -> None:
        """Store writes to be sent."""
        if new:
            connection.execute(sa.insert(writes), [self._row(write, at_ms) for write in new])

    def supersede(self, source: str) -> int:
        """Drop what an earlier run planned from `source` and didn't send; how many writes.

        That input is read anew, and each of its rows compared anew.
        """
        with self.database.write() as connection:
            return connection.execute(
                self._delete(State.PLANNED).where(writes.c.source == source)
            ).rowcount

    def discard(self, run_id: str) -> None:
        """Drop what `run_id` planned: nothing of it is to be sent."""
        with self.database.write() as connection:
            connection.execute(self._delete(State.PLANNED).where(writes.c.run_id == run_id))

    def left_behind(self, run_id: str) -> dict[str, int]:
        """source → writes that earlier runs planned from it and didn't send."""
        query = (
            sa.select(writes.c.source, sa.func.count())
            .where(self._in(State.PLANNED), writes.c.run_id != run_id)
            .group_by(writes.c.source)
        )
        with self.database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def rows_after(
        self, connection: sa.Connection, run_id: str, row_number: int, limit: int
    ) -> list[list[Write]]:
        """The next `limit` rows of `run_id` that are planned, in file order, each as its writes."""
        numbers = (
            sa.select(writes.c.row_number)
            .where(
                self._in(State.PLANNED),
                writes.c.run_id == run_id,
                writes.c.row_number > row_number,
            )
            .distinct()
            .order_by(writes.c.row_number)
            .limit(limit)
        )
        query = (
            sa.select(*_COLUMNS)
            .where(
                self._in(State.PLANNED),
                writes.c.run_id == run_id,
                writes.c.row_number.in_(numbers),
            )
            .order_by(writes.c.row_number, writes.c.position)
        )
        return list(_by_row(_write(tuple(row)) for row in connection.execute(query)))

    def open_sends(self) -> list[Write]:
        """Writes of any run whose answer is missing, oldest first."""
        query = sa.select(*_COLUMNS).where(self._in(State.SENDING)).order_by(writes.c.id)
        with self.database.read() as connection:
            return [_write(tuple(row)) for row in connection.execute(query)]

    def uncertain(self) -> set[UncertainWrite]:
        """Every write of unknown fate, under each name of its person."""
        query = sa.select(*_COLUMNS).where(self._in(State.UNCERTAIN))
        with self.database.read() as connection:
            found = [_write(tuple(row)) for row in connection.execute(query)]
        return {name for write in found for name in uncertain_names(write)}

    def send(
        self, connection: sa.Connection, write: Write, *, at_ms: int, server_ms: int | None
    ) -> Write:
        """planned → sending, with a new key; the write as it is now on disk.

        Raises:
            OutboxConflict: it isn't planned any more.
        """
        sent = replace(
            write,
            idempotency_key=secrets.token_hex(16),
            sent_ms=at_ms,
            sent_server_ms=server_ms,
        )
        values = {
            "idempotency_key": sent.idempotency_key,
            "body": sent.body,
            "prospect_id": sent.prospect_id,
            "sent_ms": at_ms,
            "sent_server_ms": server_ms,
        }
        self._step(connection, write, State.PLANNED, State.SENDING, values)
        return sent

    def send_again(
        self, connection: sa.Connection, write: Write, *, at_ms: int, server_ms: int | None
    ) -> Write:
        """sending → sending: surely not applied so far; the same key and bytes from now on."""
        values = {"sent_ms": at_ms, "sent_server_ms": server_ms}
        self._step(connection, write, State.SENDING, State.SENDING, values)
        return replace(write, sent_ms=at_ms, sent_server_ms=server_ms)

    def close(
        self,
        connection: sa.Connection,
        write: Write,
        *,
        outcome: str,
        prospect_id: str | None,
        at_ms: int,
        state: State = State.SENDING,
    ) -> None:
        """sending (or planned) → closed: its fate is known, what it held is dropped."""
        values = {"outcome": outcome, "prospect_id": prospect_id, **_emptied(at_ms)}
        self._step(connection, write, state, State.CLOSED, values)

    def give_up(self, connection: sa.Connection, write: Write, *, at_ms: int) -> None:
        """sending → uncertain: its fate can't be known any more; what it held is dropped."""
        values = {"outcome": "uncertain", **_emptied(at_ms)}
        self._step(connection, write, State.SENDING, State.UNCERTAIN, values)

    def settle_uncertain(
        self, connection: sa.Connection, names: Aliases, prospect_id: str | None
    ) -> None:
        """uncertain → closed: something newer was accepted for the same prospect."""
        own = [
            column == alias
            for column, alias in (
                (writes.c.email_alias, names.email),
                (writes.c.phone_alias, names.phone),
                (writes.c.row_alias, names.row),
                (writes.c.prospect_id, prospect_id),
            )
            if alias is not None
        ]
        connection.execute(
            sa.update(writes)
            .where(self._in(State.UNCERTAIN), writes.c.kind == PROSPECTS, sa.or_(*own))
            .values(state=State.CLOSED.value)
        )

    def _step(
        self,
        connection: sa.Connection,
        write: Write,
        before: State,
        after: State,
        values: dict[str, Any],
    ) -> None:
        changed = connection.execute(
            sa.update(writes)
            .where(writes.c.id == write.id, writes.c.state == before.value)
            .values(state=after.value, **values)
        )
        if changed.rowcount != 1:
            raise OutboxConflict(
                row_number=write.row_number, expected=before.value, wanted=after.value
            )

    def _in(self, state: State) -> sa.ColumnElement[bool]:
        return sa.and_(writes.c.scope == self.scope, writes.c.state == state.value)

    def _delete(self, state: State) -> sa.Delete:
        return sa.delete(writes).where(self._in(state))

    def _row(self, write: Write, at_ms: int) -> dict[str, Any]:
        return {
            **{name: getattr(write, name) for name in _PLAIN},
            "scope": self.scope,
            "state": State.PLANNED.value,
            "email_alias": write.names.email,
            "phone_alias": write.names.phone,
            "row_alias": write.names.row,
            "planned_ms": at_ms,
        }


def names_of(write: Write) -> tuple[int | str, ...]:
    """Whatever tells whose write it is: its aliases, and its prospect's id where that is known."""
    known = () if write.prospect_id is None else (write.prospect_id,)
    return (*write.names.present(), *known)


def uncertain_names(write: Write) -> set[UncertainWrite]:
    """The entries that stand for `write` among those of unknown fate."""
    return {(name, write.kind, write.content) for name in names_of(write)}


def _emptied(at_ms: int) -> dict[str, Any]:
    return {"closed_ms": at_ms, "body": None, "row_values": None, "note": None}


def _write(row: Sequence[Any]) -> Write:
    id_, email, phone, other, *plain = row
    values: dict[str, Any] = dict(zip(_PLAIN, plain, strict=True))
    values["content"], values["body"] = bytes(values["content"]), bytes(values["body"] or b"")
    return Write(id=id_, names=Aliases(email, phone, other), **values)


def _by_row(ordered: Iterable[Write]) -> Iterator[list[Write]]:
    row: list[Write] = []
    for write in ordered:
        if row and row[0].row_number != write.row_number:
            yield row
            row = []
        row.append(write)
    if row:
        yield row
