"""What the API has accepted, per prospect, and the outcome of each input row.

A receipt says whom a contact leads to, and when this connector last wrote to them; what each source
has settled is in its entries.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from connector.budget.database import Database, Prepared
from connector.logs import redact
from connector.upsert.outbox.outbox import PROSPECTS, Outbox, Write
from connector.upsert.outbox.outbox_schema import (
    MIGRATIONS,
    activity_rows,
    aliases,
    attached,
    disputed,
    insert_new,
    insert_or_replace,
    insert_tuples,
    receipts,
    results,
    rows_of,
    settled_names,
)

_FIND = (
    "SELECT a.prospect_id, a.confirmed, r.accepted_ms, r.updated_at_ms, r.seen_ms, "
    "r.names, r.before_ms, r.written_ms, a.alias "
    "FROM outbox_aliases a JOIN outbox_receipts r "
    "ON r.scope = a.scope AND r.prospect_id = a.prospect_id "
    "WHERE a.scope = {scope} AND a.alias IN ({numbers})"
)
MESSAGE_LENGTH = 2000
_OF_RECORD = ("record_kind", "record_id", "changed_fields", "kept_fields")
_LANDED = ("run_id", "row_number", "status", "prospect_id", "message", "pushed_ms", *_OF_RECORD)
_IN_ONE_WRITE = 2_000


class Receipt(NamedTuple):
    """What was accepted for a prospect, as an alias leads to it.

    confirmed: the API's answer carried that alias too. accepted_ms: when the last write to them or
    look at them was answered, or a write given up. updated_at_ms: as in the answer; server time.
    seen_ms: when a push last used it, roughly. names: see `Hasher.names`; None: not known (receipts
    of version 0.1). before_ms: the person's `updatedAt` before that write; 0: they didn't exist;
    None: not known. written_ms: as `accepted_ms`, of writes alone; None: they were only looked at.
    """

    prospect_id: str
    confirmed: bool
    accepted_ms: int
    updated_at_ms: int | None
    seen_ms: int
    names: bytes | None
    before_ms: int | None
    written_ms: int | None


class ActivityReceipt(NamedTuple):
    """What was created for a row that is an activity on its own. record_id: of the note, task or
    meeting; None where it isn't known. content: that of the row."""

    prospect_id: str
    record_id: str | None
    content: bytes
    seen_ms: int


class Receipts:
    """The receipts of one scope. Every method works inside the caller's transaction."""

    def __init__(self, outbox: Outbox) -> None:
        scope = self._scope = outbox.scope
        self._clock, self._find = outbox.clock, _FIND.replace("{scope}", str(scope))
        # built once: building a statement takes ten times as long as executing it
        names = [name for name in Receipt._fields if name != "confirmed"]
        self._of = self._of_people(*(receipts.c[name] for name in names))
        own = receipts.c
        one = (own.scope == scope) & (own.prospect_id == sa.bindparam("one"))
        self._of_one = Prepared(sa.select(*(own[name] for name in names)).where(one))
        columns = (attached.c.prospect_id, attached.c.kind, attached.c.content)
        self._attached = self._of_people(*columns)
        # `+ 0` keeps SQLite from reading all aliases of the scope by the primary key
        self._contacts = sa.delete(aliases).where(aliases.c.scope + 0 == scope)
        self._former_contacts = Prepared(
            self._contacts.where(
                aliases.c.prospect_id == sa.bindparam("of_id"),
                aliases.c.kind == sa.bindparam("of_kind"),
                aliases.c.alias != sa.bindparam("but"),
                aliases.c.confirmed,
            )
        )

    def _of_people(self, *columns: sa.Column[Any]) -> sa.Select[Any]:
        """Columns of one table, for the prospects `ids`."""
        own = columns[0].table.c
        ids: sa.BindParameter[Any] = sa.bindparam("ids", expanding=True)
        return sa.select(*columns).where(own.scope == self._scope, own.prospect_id.in_(ids))

    def find(self, connection: sa.Connection, names: Collection[int]) -> dict[int, Receipt]:
        """alias → receipt of its prospect, for those of `names` that are known."""
        if not names:
            return {}
        found = rows_of(connection, self._find, names)
        return {row[8]: Receipt._make(row[:8]) for row in found}

    def of(self, connection: sa.Connection, prospect_ids: Collection[str]) -> dict[str, Receipt]:
        """prospect id → receipt, for those that have one."""
        if len(prospect_ids) == 1:  # as each answer asks
            (one,) = prospect_ids
            found = self._of_one.execute(connection, {"one": one}).fetchall()
        else:
            found = (
                connection.execute(self._of, {"ids": list(prospect_ids)}) if prospect_ids else ()
            )
        return {id_: Receipt(id_, True, *known) for id_, *known in found}

    def accept(
        self,
        connection: sa.Connection,
        write: Write,
        prospect_id: str,
        *,
        kept: Collection[str],
        names: bytes,
        updated_at_ms: int | None,
        before_ms: int | None,
        is_written: bool,
    ) -> None:
        """Record the answer to `write`: its aliases lead to the prospect.

        kept: of email and phone, those that the answer carries. names, before_ms: see `Receipt`.
        is_written: else they were only looked at.
        """
        own = {"scope": self._scope, "prospect_id": prospect_id}
        every = {"email": write.email_alias, "phone": write.phone_alias, "row": write.row_alias}
        led = [
            {**own, "kind": kind, "alias": alias, "confirmed": kind == "row" or kind in kept}
            for kind, alias in every.items()
            if alias is not None
        ]
        # a prospect has one email and one phone
        left = [
            {"of_id": prospect_id, "of_kind": each["kind"], "but": each["alias"]}
            for each in led
            if each["confirmed"] and each["kind"] != "row"
        ]
        if left:
            self._former_contacts.execute_many(connection, left)
        insert_or_replace(connection, aliases, led)
        facts = {"updated_at_ms": updated_at_ms, "before_ms": before_ms, "names": names}
        self._store(connection, prospect_id, facts, is_written=is_written)

    def doubt(self, connection: sa.Connection, prospect_id: str) -> None:
        """A write of unknown fate went to `prospect_id`: what was read before doesn't show them as
        they are."""
        if self.of(connection, [prospect_id]):
            facts = {"updated_at_ms": None, "before_ms": None}
            self._store(connection, prospect_id, facts, is_written=True)

    def _store(
        self,
        connection: sa.Connection,
        prospect_id: str,
        facts: Mapping[str, Any],
        *,
        is_written: bool,
    ) -> None:
        now_ms = self._clock.now_ms()
        row = {"scope": self._scope, "prospect_id": prospect_id, **facts}
        row |= {"accepted_ms": now_ms, "seen_ms": now_ms, "tail": b""}  # `tail` is of version 0.1
        row |= {"written_ms": now_ms} if is_written else {}
        insert_or_replace(connection, receipts, [row])

    def forget_people(self, connection: sa.Connection, prospect_ids: Collection[str]) -> None:
        """No contact leads to these people any more: they were deleted."""
        connection.execute(self._contacts.where(aliases.c.prospect_id.in_(prospect_ids)))

    def touch(
        self,
        connection: sa.Connection,
        prospect_ids: Collection[str],
        rows: Collection[int] = (),
    ) -> None:
        """Receipts that are still in use stay beyond their retention. rows: aliases of rows that
        are activities on their own."""
        for column, used in (
            (receipts.c.prospect_id, prospect_ids),
            (attached.c.prospect_id, prospect_ids),
            (activity_rows.c.alias, rows),
        ):
            table = column.table
            if used:
                connection.execute(
                    sa.update(table)
                    .where(table.c.scope == self._scope, column.in_(used))
                    .values(seen_ms=self._clock.now_ms())
                )

    def attached(
        self, connection: sa.Connection, prospect_ids: Collection[str]
    ) -> set[tuple[str, str, bytes]]:
        """(prospect id, kind, content) of every note, task and meeting that was created."""
        ids = {"ids": list(prospect_ids)}
        found = connection.execute(self._attached, ids) if prospect_ids else ()
        return {(id_, kind, content) for id_, kind, content in found}

    def attach(
        self, connection: sa.Connection, prospect_id: str, kind: str, content: bytes
    ) -> None:
        """Book one created note, task or meeting."""
        row = {"scope": self._scope, "prospect_id": prospect_id, "kind": kind, "content": content}
        insert_new(connection, attached, [{**row, "seen_ms": self._clock.now_ms()}])

    def activity_rows(
        self, connection: sa.Connection, names: Collection[int]
    ) -> dict[int, ActivityReceipt]:
        """row alias → what was created for a row that is an activity on its own."""
        if not names:
            return {}
        own = activity_rows.c
        query = sa.select(
            own.alias, own.prospect_id, own.record_id, own.content, own.seen_ms
        ).where(own.scope == self._scope, own.alias.in_(names))
        return {row[0]: ActivityReceipt(*row[1:]) for row in connection.execute(query)}

    def note_activity_row(
        self,
        connection: sa.Connection,
        write: Write,
        prospect_id: str,
        record_id: str | None,
    ) -> None:
        """The row that `write` is was created as an activity of this prospect."""
        row = {
            "scope": self._scope,
            "alias": write.row_alias,
            "prospect_id": prospect_id,
            "record_id": record_id,
            "content": write.content,
            "seen_ms": self._clock.now_ms(),
        }
        insert_or_replace(connection, activity_rows, [row])

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
        own = settled_names.c
        query = sa.select(own.prospect_id, own.name, own.created).where(
            own.scope == self._scope, own.prospect_id.in_(prospect_ids), own.source == source
        )
        found = connection.execute(query) if prospect_ids else ()
        return {(id_, name): created for id_, name, created in found}

    def dispute(
        self,
        connection: sa.Connection,
        contacts: Collection[int],
        expected: str,
        answered: str,
    ) -> None:
        """The API answered with another prospect than these contacts (aliases) lead to."""
        row = {"scope": self._scope, "expected_id": expected, "answered_id": answered}
        row["at_ms"] = self._clock.now_ms()
        rows = [{**row, "alias": alias} for alias in contacts]
        insert_or_replace(connection, disputed, rows)

    def settle_dispute(self, connection: sa.Connection, contacts: Collection[int]) -> None:
        """A write was accepted under these contacts, as it was meant to be."""
        connection.execute(
            sa.delete(disputed).where(
                disputed.c.scope == self._scope, disputed.c.alias.in_(contacts)
            )
        )

    def disputed(self, connection: sa.Connection) -> dict[int, tuple[str, str]]:
        """alias → (expected id, answered id), of every contact that is disputed."""
        query = sa.select(disputed.c.alias, disputed.c.expected_id, disputed.c.answered_id)
        found = connection.execute(query.where(disputed.c.scope == self._scope))
        return {row[0]: (row[1], row[2]) for row in found}


class Status(StrEnum):
    """The status of one input row."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    REJECTED = "rejected"
    FAILED = "failed"


class RowResult(NamedTuple):
    """The outcome of one input row. message: for people; contacts in it are masked when stored.

    record_kind, record_id: of the record that the row was about; the prospect, unless given.
    changed_fields: what was sent of it; kept_fields: what stays as HiringCenter has it. Both by API
    name.
    """

    row_number: int
    status: Status
    prospect_id: str | None = None
    message: str | None = None
    record_kind: str = PROSPECTS
    record_id: str | None = None
    changed_fields: tuple[str, ...] = ()
    kept_fields: tuple[str, ...] = ()

    @property
    def record(self) -> str | None:
        """The id of the record that the row was about."""
        return self.prospect_id if self.record_kind == PROSPECTS else self.record_id


class ResultStore:
    """One outcome per input row of one scope, kept until its destination has it and after.

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
            (
                run_id,
                each.row_number,
                self._scope,
                each.status.value,
                each.prospect_id,
                None if each.message is None else redact(each.message)[:MESSAGE_LENGTH],
                at_ms,
                self._destination,
                False,  # it hasn't landed
                each.record_kind,
                each.record,
                _listed(each.changed_fields),
                _listed(each.kept_fields),
            )
            for each in found
        ]
        insert_tuples(connection, results, rows, replaces=True)

    def discard(self, run_id: str) -> None:
        """Forget the outcomes of a run that ended before it began to send."""
        with self._database.write() as connection:
            connection.execute(sa.delete(results).where(results.c.run_id == run_id))

    def unlanded(self, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` outcomes that the destination doesn't have yet, by run and row."""
        query = (
            sa.select(*(results.c[name] for name in _LANDED))
            .where(results.c.destination == self._destination, results.c.landed.is_(False))
            .order_by(results.c.run_id, results.c.row_number)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def mark_landed(self, rows: list[dict[str, Any]]) -> None:
        """The destination has exactly these rows, as `unlanded` gave them.

        One that has another outcome by now stays unlanded. Those that say nothing more are
        dropped here: unchanged, and without a message.
        """
        # the key by itself too: `IS NOT DISTINCT FROM` finds no index on PostgreSQL
        key = [results.c[name] == sa.bindparam(f"b_{name}") for name in _LANDED[:2]]
        same = [results.c[name].is_not_distinct_from(sa.bindparam(f"b_{name}")) for name in _LANDED]
        drop = sa.delete(results).where(*key, *same)
        mark = sa.update(results).where(*key, *same).values(landed=True)
        done = [
            row["status"] == Status.UNCHANGED and row["message"] is row["kept_fields"] is None
            for row in rows
        ]
        for statement, is_done in ((drop, True), (mark, False)):
            bound = [
                {f"b_{name}": row[name] for name in _LANDED}
                for row, own in zip(rows, done, strict=True)
                if own is is_done
            ]
            for start in range(0, len(bound), _IN_ONE_WRITE):  # a running push waits for each
                with self._database.write() as connection:
                    connection.execute(statement, bound[start : start + _IN_ONE_WRITE])

    def noteworthy(self, run_id: str, limit: int) -> list[RowResult]:
        """The rejects, failures and warnings of one run, in file order."""
        warned = results.c.message.is_not(None)
        which = (results.c.run_id == run_id) & (_BAD | warned)
        with self._database.read() as connection:
            return _results_where(connection, which, limit)


_BAD = results.c.status.in_((Status.REJECTED.value, Status.FAILED.value))


def bad_rows(connection: sa.Connection, run_ids: Collection[str]) -> list[RowResult]:
    """The rows that these runs have rejected, or that failed."""
    if not run_ids:
        return []
    return _results_where(connection, _BAD & results.c.run_id.in_(list(run_ids)))


def _results_where(
    connection: sa.Connection, which: sa.ColumnElement[bool], limit: int | None = None
) -> list[RowResult]:
    query = sa.select(*(results.c[name] for name in RowResult._fields)).where(which)
    found = connection.execute(query.order_by(results.c.row_number).limit(limit))
    return [
        RowResult(
            number,
            Status(status),
            prospect_id,
            message,
            kind or PROSPECTS,
            record_id,
            *(tuple(orjson.loads(names)) if names else () for names in fields),
        )
        for number, status, prospect_id, message, kind, record_id, *fields in found
    ]


def _listed(names: Sequence[str]) -> str | None:
    return orjson.dumps(names).decode() if names else None
