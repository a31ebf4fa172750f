"""Permits into the ledger and out of it: granted, answered, given back, pruned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from connector.budget.lookups import Rank, Unanswered
from connector.budget.readings import Reading
from connector.budget.schema import keys, outstanding, spent

PRUNE_EVERY = 500
_MEMORY_S = 600.0
"""Feedback looks back from a request's grant, so rows stay this long after they ceased to count."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer to book. age_s: how long before the exchange began it had arrived."""

    permit: int
    age_s: float
    reading: Reading


@dataclass(frozen=True, slots=True)
class Ended:
    """A booked answer, in ledger seconds."""

    reading: Reading
    push: bool
    own: bool
    granted_s: float
    end_s: float


@dataclass(slots=True)
class KeyRow:
    """The row of one key in `keys`, locked by the transaction that loaded it.

    newest: the rank of the last ended request. pruned: of the last one deleted.
    """

    key: str
    next_permit: int
    newest: Rank
    pruned: Rank
    last_end_s: float
    last_grant_s: float | None
    keep_s: float
    state: str


_MINE = keys.c.key == sa.bindparam("k")
_LOAD = sa.select(keys).where(_MINE)
_LOAD_LOCKED = _LOAD.with_for_update()
_STORE = sa.update(keys).where(_MINE)
_TAKE = (
    sa.delete(outstanding)
    .where(
        outstanding.c.key == sa.bindparam("k"),
        outstanding.c.id.in_(sa.bindparam("ids", expanding=True)),
    )
    .returning(outstanding.c.id, outstanding.c.owner, outstanding.c.push, outstanding.c.granted_s)
)
_NOT_AWAITED = (
    sa.update(outstanding)
    .where(
        outstanding.c.key == sa.bindparam("k"),
        outstanding.c.id.in_(sa.bindparam("ids", expanding=True)),
    )
    .values(awaited_until_s=0.0)
)


def add_key(connection: sa.Connection, key: str, now_s: float) -> None:
    """The row of a key that may be new, or be added by another process at the same time."""
    values = {
        "key": key, "next_permit": 1, "seq": 0, "push_seq": 0,
        "pruned_seq": 0, "pruned_push_seq": 0,
        "last_end_s": now_s, "keep_s": 0.0, "state": "{}",
    }  # fmt: skip
    if connection.dialect.name == "postgresql":
        insert = postgresql.insert(keys).values(values)
        connection.execute(insert.on_conflict_do_nothing())
    elif connection.execute(_LOAD, {"k": key}).first() is None:
        connection.execute(sa.insert(keys).values(values))


def load(connection: sa.Connection, key: str, *, lock: bool) -> KeyRow:
    row = connection.execute(_LOAD_LOCKED if lock else _LOAD, {"k": key}).one()
    return KeyRow(
        key, row.next_permit,
        Rank(row.seq, row.push_seq), Rank(row.pruned_seq, row.pruned_push_seq),
        row.last_end_s, row.last_grant_s, row.keep_s, row.state,
    )  # fmt: skip


def store(connection: sa.Connection, row: KeyRow) -> None:
    values = {
        "next_permit": row.next_permit, "seq": row.newest.seq, "push_seq": row.newest.push_seq,
        "pruned_seq": row.pruned.seq, "pruned_push_seq": row.pruned.push_seq,
        "last_end_s": row.last_end_s, "last_grant_s": row.last_grant_s,
        "keep_s": row.keep_s, "state": row.state,
    }  # fmt: skip
    connection.execute(_STORE, {"k": row.key, **values})


def give_back(connection: sa.Connection, row: KeyRow, permits: Sequence[int]) -> None:
    """Permits whose requests never left: as if they had not been granted."""
    if permits:
        connection.execute(_TAKE, {"k": row.key, "ids": list(permits)})


def stop_awaiting(connection: sa.Connection, row: KeyRow, permits: Sequence[int]) -> None:
    """Permits that nobody waits for any more; they count until their deadline."""
    if permits:
        connection.execute(_NOT_AWAITED, {"k": row.key, "ids": list(permits)})


def book(
    connection: sa.Connection, row: KeyRow, answers: Iterable[Answered], owner: str, now_s: float
) -> list[Ended]:
    """Move answered permits to `spent`, in the order of their answers.

    An end is the time the answer arrived, but never before one that was booked already: ends
    rise with `seq`, and too late is on the safe side.
    """
    by_age = sorted(answers, key=lambda answer: -answer.age_s)
    if not by_age:
        return []
    taken = connection.execute(_TAKE, {"k": row.key, "ids": [each.permit for each in by_age]})
    found = {permit.id: permit for permit in taken}
    ended, rows = [], []
    for answer in by_age:
        permit = found.get(answer.permit)
        if permit is None:  # so late that it had ceased to count
            continue
        row.last_end_s = max(row.last_end_s, permit.granted_s, now_s - answer.age_s)
        row.newest = Rank(row.newest.seq + 1, row.newest.push_seq + permit.push)
        rows.append({
            "key": row.key, "seq": row.newest.seq, "push_seq": row.newest.push_seq,
            "granted_s": permit.granted_s, "end_s": row.last_end_s,
        })  # fmt: skip
        own = permit.owner == owner
        ended.append(Ended(answer.reading, permit.push, own, permit.granted_s, row.last_end_s))
    if rows:
        connection.execute(sa.insert(spent), rows)
    return ended


def grant(
    connection: sa.Connection, row: KeyRow, owner: str, permit: Unanswered, count: int
) -> list[int]:
    """Add `count` permits like `permit`; their ids."""
    ids = list(range(row.next_permit, row.next_permit + count))
    values = {
        "key": row.key, "owner": owner, "push": permit.push, "granted_s": permit.granted_s,
        "awaited_until_s": permit.awaited_until_s, "deadline_s": permit.deadline_s,
    }  # fmt: skip
    if ids:
        connection.execute(sa.insert(outstanding), [{**values, "id": number} for number in ids])
        row.next_permit += count
        row.last_grant_s = permit.granted_s
    return ids


def prune(connection: sa.Connection, row: KeyRow, now_s: float) -> None:
    """Delete what counts for no process any more, PRUNE_EVERY rows at a time."""
    before_s = now_s - row.keep_s - _MEMORY_S
    last = sa.select(sa.func.max(spent.c.seq)).where(
        spent.c.key == row.key,
        spent.c.seq <= row.pruned.seq + 2 * PRUNE_EVERY,
        spent.c.end_s <= before_s,
    )
    old = connection.execute(
        sa.select(spent.c.seq, spent.c.push_seq).where(
            spent.c.key == row.key, spent.c.seq == last.scalar_subquery()
        )
    ).first()
    if old is not None:
        connection.execute(sa.delete(spent).where(spent.c.key == row.key, spent.c.seq <= old.seq))
        row.pruned = Rank(old.seq, old.push_seq)
    connection.execute(
        sa.delete(outstanding).where(
            outstanding.c.key == row.key, outstanding.c.deadline_s <= before_s
        )
    )
