"""Permits into the ledger and out of it: granted, answered, given back, pruned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from connector.budget.lookups import Rank, Unanswered
from connector.budget.policy.readings import Reading
from connector.budget.schema import keys, outstanding, spent
from connector.budget.statements import Statement, Transaction

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
    """A booked answer, in ledger seconds. own: of this process."""

    reading: Reading
    push: bool
    own: bool
    granted_s: float
    end_s: float


@dataclass(slots=True)
class KeyRow:
    """The row of one key in `keys`, locked by the transaction that loaded it.

    newest: the rank of the last ended request. pruned: of the last one deleted.
    learnt, past_pulls: JSON. latency_s: from grant to answer, smoothed, of both lanes.
    """

    key: str
    next_permit: int
    newest: Rank
    pruned: Rank
    last_end_s: float
    last_grant_s: float | None
    latency_s: float | None
    keep_s: float
    learnt: str
    past_pulls: str


_MINE = keys.c.key == sa.bindparam("k")
_CHANGING = [column for column in keys.columns if column.name != "key"]
_NEW = {
    "next_permit": 1, "seq": 0, "push_seq": 0, "pruned_seq": 0, "pruned_push_seq": 0,
    "keep_s": 0.0, "learnt": "{}", "past_pulls": "{}",
}  # fmt: skip
_ADD = postgresql.insert(keys).values(
    key=sa.bindparam("k"), last_end_s=sa.bindparam("now_s"), **_NEW
)
_ADD_IF_NEW = Statement(_ADD.on_conflict_do_nothing())
_LOAD = sa.select(*_CHANGING).where(_MINE)
_READ = Statement(_LOAD)
_LOCK = Statement(_LOAD.with_for_update())
_STORE = Statement(
    sa.update(keys).where(_MINE).values({c.name: sa.bindparam(c.name) for c in _CHANGING})
)
_PERMIT = (outstanding.c.key == sa.bindparam("k"), outstanding.c.id == sa.bindparam("permit"))
_TAKE = Statement(
    sa.delete(outstanding)
    .where(*_PERMIT)
    .returning(outstanding.c.owner, outstanding.c.push, outstanding.c.granted_s)
)
_NOT_AWAITED = Statement(sa.update(outstanding).where(*_PERMIT).values(awaited_until_s=0.0))
_SPEND = Statement(
    sa.insert(spent).values({column.name: sa.bindparam(column.name) for column in spent.columns})
)
_GRANT = Statement(
    sa.insert(outstanding).values({c.name: sa.bindparam(c.name) for c in outstanding.columns})
)
_OLDEST = Statement(
    sa.select(spent.c.seq, spent.c.push_seq)
    .where(
        spent.c.key == sa.bindparam("k"),
        spent.c.seq <= sa.bindparam("last"),
        spent.c.end_s <= sa.bindparam("before_s"),
    )
    .order_by(spent.c.seq.desc())
    .limit(1)
)
_FORGET = Statement(
    sa.delete(spent).where(spent.c.key == sa.bindparam("k"), spent.c.seq <= sa.bindparam("last"))
)
_FORGET_UNANSWERED = Statement(
    sa.delete(outstanding).where(
        outstanding.c.key == sa.bindparam("k"), outstanding.c.deadline_s <= sa.bindparam("before_s")
    )
)


def add_key(tx: Transaction, key: str, now_s: float) -> None:
    """The row of a key, where it has none; other processes may add it at the same time."""
    tx.run(_ADD_IF_NEW, k=key, now_s=now_s)


def load(tx: Transaction, key: str, *, lock: bool) -> KeyRow:
    """The row of a key, which must have one."""
    row = tx.first(_LOCK if lock else _READ, k=key)
    assert row is not None
    permit, seq, push_seq, pruned, pruned_push, *rest = row
    return KeyRow(key, permit, Rank(seq, push_seq), Rank(pruned, pruned_push), *rest)


def store(tx: Transaction, row: KeyRow) -> None:
    tx.run(
        _STORE, k=row.key, next_permit=row.next_permit,
        seq=row.newest.seq, push_seq=row.newest.push_seq,
        pruned_seq=row.pruned.seq, pruned_push_seq=row.pruned.push_seq,
        last_end_s=row.last_end_s, last_grant_s=row.last_grant_s, latency_s=row.latency_s,
        keep_s=row.keep_s, learnt=row.learnt, past_pulls=row.past_pulls,
    )  # fmt: skip


def give_back(tx: Transaction, row: KeyRow, permits: Sequence[int]) -> None:
    """Permits whose requests never left: as if they had not been granted."""
    for permit in permits:
        tx.all(_TAKE, k=row.key, permit=permit)


def stop_awaiting(tx: Transaction, row: KeyRow, permits: Sequence[int]) -> None:
    """Permits that nobody waits for any more; they count until their deadline."""
    for permit in permits:
        tx.run(_NOT_AWAITED, k=row.key, permit=permit)


def book(
    tx: Transaction, row: KeyRow, answers: Iterable[Answered], owner: str, now_s: float
) -> list[Ended]:
    """Move answered permits to `spent`, in the order of their answers.

    An end is the time the answer arrived, but never before one that was booked already: ends
    rise with `seq`, and too late is on the safe side.
    """
    ended, rows = [], []
    for answer in sorted(answers, key=lambda answer: -answer.age_s):
        taken = tx.first(_TAKE, k=row.key, permit=answer.permit)
        if taken is None:  # so late that it had ceased to count
            continue
        of, push, granted_s = taken
        row.last_end_s = max(row.last_end_s, granted_s, now_s - answer.age_s)
        row.newest = Rank(row.newest.seq + 1, row.newest.push_seq + push)
        rows.append({
            "key": row.key, "seq": row.newest.seq, "push_seq": row.newest.push_seq,
            "granted_s": granted_s, "end_s": row.last_end_s,
        })  # fmt: skip
        ended.append(Ended(answer.reading, bool(push), of == owner, granted_s, row.last_end_s))
    tx.run_many(_SPEND, rows)
    return ended


def grant(tx: Transaction, row: KeyRow, owner: str, permit: Unanswered, count: int) -> list[int]:
    """Add `count` permits like `permit`; their ids."""
    ids = list(range(row.next_permit, row.next_permit + count))
    values = {
        "key": row.key, "owner": owner, "push": int(permit.push), "granted_s": permit.granted_s,
        "awaited_until_s": permit.awaited_until_s, "deadline_s": permit.deadline_s,
    }  # fmt: skip
    if ids:
        tx.run_many(_GRANT, [{**values, "id": number} for number in ids])
        row.next_permit += count
        row.last_grant_s = permit.granted_s
    return ids


def prune(tx: Transaction, row: KeyRow, now_s: float) -> None:
    """Delete what counts for no process any more, a bounded number of rows at a time."""
    before_s = now_s - row.keep_s - _MEMORY_S
    last = row.pruned.seq + 2 * PRUNE_EVERY
    oldest = tx.first(_OLDEST, k=row.key, last=last, before_s=before_s)
    if oldest is not None:
        row.pruned = Rank(*oldest)
        tx.run(_FORGET, k=row.key, last=row.pruned.seq)
    tx.run(_FORGET_UNANSWERED, k=row.key, before_s=before_s)
