"""The outbox: every write on disk, with its key and its exact bytes, before it is sent.

Each method is one step of `states`, inside the caller's transaction, and guarded: a write that
isn't in the state the step starts from stops the run, instead of being sent twice.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from connector.budget.database import Database
from connector.errors import OutboxConflict
from connector.upsert.outbox.identity import Aliases, Hasher, stored_salt
from connector.upsert.outbox.schema import MIGRATIONS, key_memory, writes
from connector.upsert.outbox.statements import insert_or_replace
from connector.upsert.outbox.states import LearntMemory, State
from connector.upsert.outbox.writes import (
    COLUMNS,
    PROSPECTS,
    UncertainWrite,
    Write,
    by_row,
    from_record,
    to_record,
    uncertain_names,
)


class Outbox:
    """The writes of one scope.

    scope: a number that stands for the account. hasher: with this outbox's salt.
    """

    def __init__(self, database: Database, scope: int) -> None:
        database.migrate("outbox", MIGRATIONS)
        self.database, self.scope = database, scope
        self.hasher = Hasher(stored_salt(database))

    def plan(self, connection: sa.Connection, new: Sequence[Write], at_ms: int) -> None:
        """Store writes to be sent."""
        stored = {"scope": self.scope, "state": State.PLANNED.value, "planned_ms": at_ms}
        if new:
            connection.execute(sa.insert(writes), [{**to_record(write), **stored} for write in new])

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
            sa.select(*COLUMNS)
            .where(
                self._in(State.PLANNED),
                writes.c.run_id == run_id,
                writes.c.row_number.in_(numbers),
            )
            .order_by(writes.c.row_number, writes.c.position)
        )
        return list(by_row(from_record(tuple(row)) for row in connection.execute(query)))

    def open_sends(self) -> list[Write]:
        """Writes of any run whose answer is missing, oldest first."""
        query = sa.select(*COLUMNS).where(self._in(State.SENDING)).order_by(writes.c.id)
        with self.database.read() as connection:
            return [from_record(tuple(row)) for row in connection.execute(query)]

    def uncertain(self) -> set[UncertainWrite]:
        """Every write of unknown fate, under each name of its person."""
        query = sa.select(*COLUMNS).where(self._in(State.UNCERTAIN))
        with self.database.read() as connection:
            found = [from_record(tuple(row)) for row in connection.execute(query)]
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
            "creates": sent.creates,
            "sent_ms": at_ms,
            "sent_server_ms": server_ms,
        }
        self._step(connection, write, State.PLANNED, State.SENDING, values)
        return sent

    def send_again(
        self, connection: sa.Connection, write: Write, *, at_ms: int, server_ms: int | None
    ) -> Write:
        """sending → sending: surely not applied so far; the same key and bytes from now on (a new
        key where it has lost its own, see `scopes`)."""
        key = write.idempotency_key or secrets.token_hex(16)
        values = {"idempotency_key": key, "sent_ms": at_ms, "sent_server_ms": server_ms}
        self._step(connection, write, State.SENDING, State.SENDING, values)
        return replace(write, idempotency_key=key, sent_ms=at_ms, sent_server_ms=server_ms)

    def send_as_update(
        self, connection: sa.Connection, write: Write, *, at_ms: int, server_ms: int | None
    ) -> Write:
        """sending → sending: what only creates has met the prospect that `write` names now, and was
        surely not applied; new bytes and a new key from now on."""
        key = secrets.token_hex(16)
        values = {
            "idempotency_key": key,
            "body": write.body,
            "prospect_id": write.prospect_id,
            "creates": False,
            "sent_ms": at_ms,
            "sent_server_ms": server_ms,
        }
        self._step(connection, write, State.SENDING, State.SENDING, values)
        return replace(
            write,
            idempotency_key=key,
            creates=False,
            sent_ms=at_ms,
            sent_server_ms=server_ms,
        )

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

    def learnt_memory(self, since_ms: int) -> LearntMemory:
        """What was learnt since `since_ms` of the API's memory for idempotency keys."""
        query = sa.select(key_memory.c.remembered_s, key_memory.c.forgets).where(
            key_memory.c.scope == self.scope, key_memory.c.noted_ms >= since_ms
        )
        with self.database.read() as connection:
            found = connection.execute(query).first()
        return LearntMemory() if found is None else LearntMemory(found[0], found[1])

    def note_memory(self, connection: sa.Connection, learnt: LearntMemory, at_ms: int) -> None:
        """Keep what was learnt for later runs."""
        row = {"scope": self.scope, "remembered_s": learnt.remembered_s, "forgets": learnt.forgets}
        insert_or_replace(connection, key_memory, [{**row, "noted_ms": at_ms}])

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


def _emptied(at_ms: int) -> dict[str, Any]:
    return {"closed_ms": at_ms, "body": None, "row_values": None, "note": None}
