"""The outbox: every write on disk, with its key and its exact bytes, before it is sent.

    planned → sending (committed, exact bytes and key) → closed | uncertain
    planned → (deleted)    superseded by a newer plan of the same source

Each step happens inside the caller's transaction and is guarded: a write that isn't in the state
the step starts from stops the run instead of being sent twice. The rule for a write without an
answer (`fate_of_…`, pure) was checked against 120 cases of crash point, recruiter's edit and
expired key: none is doubled, none is lost, and what can't be known is reported.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from html import unescape
from itertools import groupby
from typing import Any, NamedTuple

import sqlalchemy as sa

from connector.budget.database import Database, Prepared
from connector.clock import SteadyClock
from connector.errors import OutboxConflict
from connector.upsert.outbox.matching import Hasher, compare
from connector.upsert.outbox.outbox_schema import (
    MIGRATIONS,
    activity_rows,
    aliases,
    applied_plans,
    attached,
    insert_new,
    insert_or_replace,
    key_memory,
    learnt,
    receipts,
    refusals,
    results,
    salts,
    settled_names,
    writes,
)

PROSPECTS = "prospects"
LOOK_FIRST = 0
"""`Write.seen_ms` of people who are looked up, however fresh the copy, to fill empty fields."""

LOOK_BY_ITSELF = 2**62
"""`Write.seen_ms` of people who are looked up right before they are changed, whatever a scan shows:
they get another contact, or their labels are replaced."""
CONFLICT = "conflict"
"""The outcome of a write whose person isn't as its guard requires."""
CHANGED_ANOTHER = "changed another"
"""The outcome of a write by which HiringCenter changed another prospect than the one it was for."""
FORGOTTEN = "forgotten"
"""The outcome of a write that changed a person who was forgotten since."""
UncertainWrite = tuple[int | str, str, bytes]  # alias or prospect id, kind, content
_MARKUP = re.compile(r"<[/!a-zA-Z][^<>]*>")


class WriteState(StrEnum):
    """Where one write stands; see the module."""

    PLANNED = "planned"
    SENDING = "sending"
    CLOSED = "closed"
    UNCERTAIN = "uncertain"


class Write(NamedTuple):
    """One request of one input row: the prospect (position 0) or one of its activities. A row is
    its writes, in this order, from its check to its last answer.

    person: rows of one run with the same number are about one person and are sent in file order.
    email_alias, phone_alias: 64-bit keyed hashes of its contacts. row_alias: of a row without any:
    its content and how many equal rows stand above it, since two equal rows are two people, and
    the same file again is the same two.
    body: JSON; an activity's gets its `prospectId` when it is sent. row_values: the input row as
    JSON, for the rejects file. note: warnings about the row so far. creates: as it is sent now, it
    creates a prospect or does nothing, since none is known whom it is about. id: 0 until it is in
    the outbox. sent_ms: by our clock; sent_server_ms: no later than the server's clock was at that
    instant, None where that isn't known. settles: while it is planned, what all rows of its entry
    say (`entries.packed`), where there are several; once it is sent, what its answer settles
    (`entries.Settlement`). guard: what its person must still look like (`row_in_flight.Guard`).
    exported: of a row of a pulled table, what it was exported as (`exported_rows.Exported`): its
    own id says whom it is about, whatever its contacts. seen: what they looked like at `seen_ms`,
    as the last pull has read them (`merge.Person`).
    """

    run_id: str
    source: str
    row_number: int
    position: int
    kind: str
    person: int
    email_alias: int | None
    phone_alias: int | None
    row_alias: int | None
    content: bytes
    body: bytes
    row_values: bytes | None = None
    note: str | None = None
    prospect_id: str | None = None
    creates: bool = False
    id: int = 0
    idempotency_key: str | None = None
    sent_ms: int | None = None
    sent_server_ms: int | None = None
    settles: bytes | None = None
    guard: bytes | None = None
    exported: bytes | None = None
    seen: bytes | None = None
    seen_ms: int | None = None

    @property
    def aliases(self) -> tuple[int, ...]:
        """Those that it has, email first."""
        every = (self.email_alias, self.phone_alias, self.row_alias)
        return tuple([alias for alias in every if alias is not None])

    @property
    def person_names(self) -> tuple[int | str, ...]:
        """The names of its person: its aliases, and its prospect's id if known."""
        known = () if self.prospect_id is None else (self.prospect_id,)
        return (*self.aliases, *known)

    @property
    def uncertain_names(self) -> set[UncertainWrite]:
        """The entries that stand for it among the writes of unknown fate."""
        return {(name, self.kind, self.content) for name in self.person_names}


class SentWrite(NamedTuple):
    """A write that a run has sent, or that needed no request. outcome: None where its answer is
    missing, or its fate can't be known; prospect_id: None where HiringCenter named none."""

    row_number: int
    position: int
    kind: str
    run_id: str
    state: str
    outcome: str | None
    prospect_id: str | None


_COLUMNS = [writes.c[name] for name in Write._fields]
_SENT = (
    "idempotency_key", "body", "prospect_id", "creates", "sent_ms", "sent_server_ms", "settles",
    "guard",
)  # fmt: skip
_STEP = sa.update(writes).where(
    writes.c.id == sa.bindparam("of_id"), writes.c.state == sa.bindparam("before")
)
_steps: dict[tuple[str, ...], Prepared] = {}  # by the columns that they set


def outbox_salt(database: Database) -> bytes:
    """What an outbox's aliases are keyed with; made at first use."""
    database.migrate("outbox", MIGRATIONS)
    with database.write() as connection:
        insert_new(connection, salts, [{"name": "outbox", "value": secrets.token_bytes(32)}])
        query = sa.select(salts.c.value).where(salts.c.name == "outbox")
        return bytes(connection.execute(query).scalar_one())


class Outbox:
    """The writes of one scope.

    scope: a number that stands for the account. clock: the ledger's. hasher: with this outbox's
    salt.
    """

    def __init__(self, database: Database, scope: int, clock: SteadyClock) -> None:
        self.database, self.scope, self.clock = database, scope, clock
        self.hasher = Hasher(outbox_salt(database))

    def plan(self, connection: sa.Connection, new: Sequence[Write]) -> None:
        """Store writes to be sent."""
        stored = {"scope": self.scope, "state": WriteState.PLANNED.value}
        stored |= {"planned_ms": self.clock.now_ms(), "stale": False}  # `stale` is of version 0.1
        rows = [write._asdict() | stored for write in new]
        for row in rows:
            del row["id"]
        insert_new(connection, writes, rows)

    def drop_planned(self, **which: str) -> None:
        """Drop what was planned and isn't sent. which: the `source` that is about to be read and
        compared again, or the `run_id` of which nothing is to be sent."""
        planned = sa.delete(writes).where(self._in(WriteState.PLANNED)).filter_by(**which)
        with self.database.write() as connection:
            connection.execute(planned)

    def left_behind(self, run_id: str) -> dict[str, int]:
        """source → writes that earlier runs planned from it and didn't send."""
        query = (
            sa.select(writes.c.source, sa.func.count())
            .where(self._in(WriteState.PLANNED), writes.c.run_id != run_id)
            .group_by(writes.c.source)
        )
        with self.database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def rows_after(
        self, connection: sa.Connection, run_id: str, row_number: int, limit: int
    ) -> list[list[Write]]:
        """The next `limit` rows of `run_id` that are planned, in file order, each as its writes."""
        planned = self._planned_by(run_id)
        numbers = (
            sa.select(writes.c.row_number)
            .where(planned, writes.c.row_number > row_number)
            .distinct()
            .order_by(writes.c.row_number)
            .limit(limit)
        )
        query = (
            sa.select(*_COLUMNS)
            .where(planned, writes.c.row_number.in_(numbers))
            .order_by(writes.c.row_number, writes.c.position)
        )
        ordered = map(Write._make, connection.execute(query))
        return [list(row) for _, row in groupby(ordered, lambda write: write.row_number)]

    def count_waiting(self, connection: sa.Connection, run_id: str, read_before_ms: int) -> int:
        """How many planned writes of `run_id` are to change people who were read before then."""
        is_old = writes.c.seen_ms.is_(None) | (writes.c.seen_ms <= read_before_ms)
        query = sa.select(sa.func.count()).select_from(writes)
        return connection.scalar(query.where(self._about_known(run_id), is_old)) or 0

    def waiting_people(self, run_id: str, most: int) -> set[str]:
        """The first `most` people whom planned writes of `run_id` are to change."""
        query = sa.select(writes.c.prospect_id).where(self._about_known(run_id))
        with self.database.read() as connection:
            return set(connection.scalars(query.order_by(writes.c.row_number).limit(most)))

    def _planned_by(self, run_id: str) -> sa.ColumnElement[bool]:
        return self._in(WriteState.PLANNED) & (writes.c.run_id == run_id)

    def _about_known(self, run_id: str) -> sa.ColumnElement[bool]:
        known = (writes.c.kind == PROSPECTS) & writes.c.prospect_id.is_not(None)
        return self._planned_by(run_id) & known

    def open_sends(self) -> list[Write]:
        """Writes of any run whose answer is missing, oldest first."""
        return self._stored(WriteState.SENDING)

    def sent_by(self, connection: sa.Connection, run_ids: Collection[str]) -> list[SentWrite]:
        """What these runs have sent, and what of theirs needed no request, in file order."""
        own = writes.c
        columns = {name: own[name] for name in SentWrite._fields}
        # what was uncertain stays so, also once something newer was accepted
        is_known = (own.state == WriteState.CLOSED.value) & (own.outcome != "uncertain")
        query = (
            sa.select(*(columns | {"outcome": sa.case((is_known, own.outcome))}).values())
            .where(own.scope == self.scope, own.run_id.in_(list(run_ids)))
            .where(own.state != WriteState.PLANNED.value)
            .order_by(own.row_number, own.position)
        )
        return list(map(SentWrite._make, connection.execute(query))) if run_ids else []

    def uncertain(self) -> set[UncertainWrite]:
        """Every write of unknown fate, under each name of its person."""
        uncertain = self._stored(WriteState.UNCERTAIN)
        return {name for write in uncertain for name in write.uncertain_names}

    def _stored(self, state: WriteState) -> list[Write]:
        query = sa.select(*_COLUMNS).where(self._in(state)).order_by(writes.c.id)
        with self.database.read() as connection:
            return list(map(Write._make, connection.execute(query)))

    def send(
        self,
        connection: sa.Connection,
        write: Write,
        before: WriteState,
        *,
        server_ms: int | None,
    ) -> Write:
        """planned → sending, or sending → sending where it was surely not applied so far: exact
        bytes and key are on disk before they go out. A write without a key gets one.

        Raises:
            OutboxConflict: it isn't in the state `before` any more.
        """
        key = write.idempotency_key or secrets.token_hex(16)
        now_ms = self.clock.now_ms()
        sent = write._replace(idempotency_key=key, sent_ms=now_ms, sent_server_ms=server_ms)
        values = {name: getattr(sent, name) for name in _SENT}
        self._step(connection, write, before, WriteState.SENDING, values)
        return sent

    def finish(
        self,
        connection: sa.Connection,
        write: Write,
        outcome: str,
        *,
        before: WriteState = WriteState.SENDING,
        after: WriteState = WriteState.CLOSED,
    ) -> None:
        """sending (or planned) → closed: its fate is known; sending → uncertain: it can't be known
        any more. Its content is dropped."""
        content = ("body", "row_values", "note", "guard", "seen")
        emptied = {"closed_ms": self.clock.now_ms(), **dict.fromkeys(content)}
        values = {"outcome": outcome, "prospect_id": write.prospect_id, **emptied}
        self._step(connection, write, before, after, values)

    def settle_uncertain(
        self, connection: sa.Connection, write: Write, prospect_id: str | None
    ) -> None:
        """uncertain → closed: something newer was accepted for the same prospect."""
        known = {name: getattr(write, name) for name in ("email_alias", "phone_alias", "row_alias")}
        known["prospect_id"] = prospect_id
        own = [writes.c[name] == value for name, value in known.items() if value is not None]
        connection.execute(
            sa.update(writes)
            .where(self._in(WriteState.UNCERTAIN), writes.c.kind == PROSPECTS, sa.or_(*own))
            .values(state=WriteState.CLOSED.value)
        )

    def _step(
        self,
        connection: sa.Connection,
        write: Write,
        before: WriteState,
        after: WriteState,
        values: dict[str, Any],
    ) -> None:
        which = {"of_id": write.id, "before": before.value}
        columns = ("state", *values)
        step = _steps.setdefault(columns, Prepared(_STEP, columns))
        changed = step.execute(connection, {**which, "state": after.value, **values})
        if changed.rowcount != 1:
            raise OutboxConflict(
                row_number=write.row_number, expected=before.value, wanted=after.value
            )

    def _in(self, state: WriteState) -> sa.ColumnElement[bool]:
        return (writes.c.scope == self.scope) & (writes.c.state == state.value)

    def learnt_memory(self, since_ms: int) -> LearntMemory:
        """What was learnt since `since_ms` of the API's memory for idempotency keys."""
        query = sa.select(key_memory.c.remembered_s, key_memory.c.forgets).where(
            key_memory.c.scope == self.scope, key_memory.c.noted_ms >= since_ms
        )
        with self.database.read() as connection:
            found = connection.execute(query).first()
        return LearntMemory() if found is None else LearntMemory(*found)

    def note_memory(self, connection: sa.Connection, learnt: LearntMemory) -> None:
        """Keep what was learnt for later runs."""
        row = {"scope": self.scope, "remembered_s": learnt.remembered_s, "forgets": learnt.forgets}
        insert_or_replace(connection, key_memory, [{**row, "noted_ms": self.clock.now_ms()}])

    def learnt(self) -> dict[str, str]:
        """What else was learnt of how this account's API behaves: name → value."""
        query = sa.select(learnt.c.name, learnt.c.value).where(learnt.c.scope == self.scope)
        with self.database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def note_learnt(self, connection: sa.Connection, name: str, value: str) -> None:
        """Keep something that was learnt; it replaces what was learnt under that name before."""
        row = {"scope": self.scope, "name": name, "value": value}
        insert_or_replace(connection, learnt, [{**row, "noted_ms": self.clock.now_ms()}])

    def forget(self, before_ms: int) -> None:
        """Drop what was last of use before `before_ms` (UTC epoch ms): planned writes that were
        never sent, hashes and outcomes of closed ones, results that have landed, and receipts that
        no push has used since. Writes whose answer is missing, and those of unknown fate, stay:
        forgetting them could send them twice."""
        over = writes.c.state.in_((WriteState.PLANNED.value, WriteState.CLOSED.value))
        old = {
            writes: over & (writes.c.planned_ms < before_ms),
            results: results.c.landed & (results.c.pushed_ms < before_ms),
            attached: attached.c.seen_ms < before_ms,
            activity_rows: activity_rows.c.seen_ms < before_ms,
            refusals: refusals.c.at_ms < before_ms,
            applied_plans: applied_plans.c.at_ms < before_ms,
            receipts: receipts.c.seen_ms < before_ms,
        }
        # what leads to prospects without a receipt goes with the receipts
        known = sa.select(receipts.c.prospect_id).where(receipts.c.scope == self.scope)
        orphans = {table: table.c.prospect_id.not_in(known) for table in (aliases, settled_names)}
        with self.database.write() as connection:
            for table, which in old.items():
                dropped = connection.execute(
                    sa.delete(table).where(table.c.scope == self.scope, which)
                )
            for table, which in orphans.items() if dropped.rowcount else ():  # receipts came last
                connection.execute(sa.delete(table).where(table.c.scope == self.scope, which))


# --- writes whose answer is missing ------------------------------------------------------------


class Verdict(StrEnum):
    """What an answer, or a look-up, has shown about a write."""

    ANSWERED = "answered"  # with 200 or 201
    MET = "met"  # it only creates, and a prospect already had its contact and stays unchanged
    NOT_APPLIED = "not_applied"  # its answer is missing, as for the next two
    APPLIED = "applied"
    UNKNOWN = "unknown"
    ABSENT = "absent"  # looked up, nothing sent: no such person, no such note
    PRESENT = "present"
    EQUAL = "equal"  # present, and needs no change
    FOUND = "found"  # the person of an activity


@dataclass(frozen=True)
class LearntMemory:
    """Evidence of how long the API remembers idempotency keys, from repeated writes.

    remembered_s: the greatest age of a key that was answered with a replay. forgets: a write that
    surely had been applied was carried out once more.
    """

    remembered_s: float = 0.0
    forgets: bool = False

    def after(self, age_s: float, remembered: bool | None) -> LearntMemory:
        """With one more answer, to a key first sent `age_s` ago. remembered: see
        `was_remembered`."""
        if remembered is None:
            return self
        if not remembered:
            return LearntMemory(forgets=True)
        return LearntMemory(max(self.remembered_s, age_s))


def was_remembered(
    *, status: int, item: Mapping[str, Any], replayed: bool, created_before: bool,
    first_server_ms: int | None, again_server_ms: int | None,
) -> bool | None:  # fmt: skip
    """Whether the answer to a repeated write is the one that the API gave first; None: it may be
    that the first request never arrived.

    replayed: it is marked so. created_before: the person was known before the first request.
    first_server_ms, again_server_ms: no later than the server's clock was when the write was
    sent first, and when it was repeated.
    """
    if replayed:
        return True
    created_ms, updated_ms = time_ms(item, "createdAt"), time_ms(item, "updatedAt")
    changed_ms = updated_ms if status == 200 else created_ms
    if again_server_ms is not None and changed_ms is not None and changed_ms < again_server_ms:
        return True
    if status == 200 and not created_before and None not in (created_ms, first_server_ms):
        # whom the first request created, the second only matched
        return None if created_ms < first_server_ms else False  # type: ignore[operator]
    return None


def time_ms(item: Mapping[str, Any], name: str) -> int | None:
    """A time of an item of the API; None where it has none that the ledger can hold."""
    value = item.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return int(value) if abs(value) < 2**63 else None


def fate_of_prospect(
    payload: Mapping[str, Any],
    item: Mapping[str, Any] | None,
    *,
    known_before: bool,
    accepted_updated_at_ms: int | None,
    sent_server_ms: int | None,
) -> Verdict:
    """What the prospect as it is now shows of a write that may have reached it.

    item: the prospect; None if there is none. known_before: it existed before the write, so that
    its absence means it was deleted. accepted_updated_at_ms: its `updatedAt` after the write
    before this one. sent_server_ms: the earliest the write can have been sent, server time; None:
    that isn't known.
    """
    if item is None:
        return Verdict.UNKNOWN if known_before else Verdict.NOT_APPLIED
    updated_at_ms = time_ms(item, "updatedAt" if "updatedAt" in item else "createdAt")
    if updated_at_ms is not None and (
        updated_at_ms == accepted_updated_at_ms
        or (sent_server_ms is not None and updated_at_ms < sent_server_ms)
    ):
        return Verdict.NOT_APPLIED
    return Verdict.APPLIED if compare(payload, item).equal else Verdict.UNKNOWN


def fate_of_creation(item: Mapping[str, Any] | None, sent_server_ms: int | None) -> Verdict:
    """What the person who has a write's contact now shows of a write that only creates; MET: they
    were there before it, so that it did nothing.

    item, sent_server_ms: as above. A person created since then was created by it.
    """
    if item is None:
        return Verdict.NOT_APPLIED
    created_at_ms = time_ms(item, "createdAt")
    if created_at_ms is None or sent_server_ms is None:
        return Verdict.UNKNOWN
    return Verdict.APPLIED if created_at_ms >= sent_server_ms else Verdict.MET


def fate_of_activity(
    payload: Mapping[str, Any],
    items: list[Mapping[str, Any]],
    *,
    complete: bool,
    sent_server_ms: int | None,
) -> Verdict:
    """What the prospect's notes (tasks, meetings) show of one that may have been created.

    complete: `items` are all of them created since `sent_server_ms`.
    """
    since = []
    for item in items:
        created_at_ms = time_ms(item, "createdAt")
        if created_at_ms is None or sent_server_ms is None or created_at_ms >= sent_server_ms:
            since.append(item)
    if any(says_the_same(payload, item) for item in since):
        return Verdict.APPLIED
    return Verdict.NOT_APPLIED if complete and not since else Verdict.UNKNOWN


def says_the_same(payload: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    """Whether a note, task or meeting, as it is read, is the one that `payload` asks for: markup,
    spaces and how numbers are written aside, since the API keeps bodies as HTML."""
    return all(_same(value, item[name]) for name, value in payload.items() if name in item)


def _same(wanted: Any, found: Any) -> bool:
    if wanted in (None, "") or found in (None, ""):
        return wanted in (None, "") and found in (None, "")
    if isinstance(wanted, str | int | float) and isinstance(found, str | int | float):
        return wanted == found or _plain(wanted) == _plain(found)
    return bool(wanted == found)


def _plain(value: str | float) -> str:
    return " ".join(unescape(_MARKUP.sub(" ", str(value))).split())
