"""What the budget remembers, in SQL: which requests still count, who waits, what was learnt.

One `exchange` is one write transaction: answers are booked, windows looked up, permits granted.
Windows are looked up by rank in the indexes of `spent`; see `schema`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from connector.budget import Lane
from connector.budget.clockrules import LedgerClock
from connector.budget.database import Database
from connector.budget.schema import MIGRATIONS, keys, outstanding, spent
from connector.settings import RateLimit

_PRUNE_EVERY = 500


@dataclass(frozen=True)
class Ended:
    """A permit whose answer arrived `age_s` seconds before the exchange began."""

    permit: int
    age_s: float


@dataclass(frozen=True)
class Exchange:
    """granted: permit ids by lane. wait_s: seconds until asking again can help (0: it can now)."""

    granted: Mapping[Lane, list[int]]
    wait_s: float


class Ledger:
    """The rows of one key. held_s of a window: its length plus the guard."""

    def __init__(
        self,
        database: Database,
        *,
        key: str,
        owner: str,
        clock: LedgerClock,
        limits: Sequence[RateLimit],
        permit_life_s: float,
    ) -> None:
        self._database, self._key, self._owner, self._clock = database, key, owner, clock
        self._windows = [(limit.limit, limit.length_s * 1.0005 + 0.020) for limit in limits]
        self._keep_s = max(held_s for _, held_s in self._windows)
        self._permit_life_s = permit_life_s
        database.migrate("budget", MIGRATIONS)
        self._open()

    def _open(self) -> None:
        with self._database.write() as connection:
            now_s = self._clock.now_s(connection)
            found = connection.execute(sa.select(keys).where(keys.c.key == self._key)).first()
            if found is None:
                connection.execute(
                    sa.insert(keys).values(
                        key=self._key,
                        next_permit=1,
                        seq=0,
                        push_seq=0,
                        pruned_seq=0,
                        pruned_push_seq=0,
                        last_end_s=now_s,
                        keep_s=self._keep_s,
                        state="{}",
                    )
                )

    def exchange(
        self,
        wants: Mapping[Lane, int],
        ended: Sequence[Ended] = (),
        unsent: Sequence[int] = (),
    ) -> Exchange:
        with self._database.write() as connection:
            row = connection.execute(
                sa.select(keys).where(keys.c.key == self._key).with_for_update()
            ).one()._asdict()
            now_s = self._clock.now_s(connection)
            self._book(connection, row, ended, unsent, now_s)
            result = self._grant(connection, row, wants, now_s)
            connection.execute(sa.update(keys).where(keys.c.key == self._key).values(**row))
            return result

    def _book(self, connection, row, ended, unsent, now_s):  # type: ignore[no-untyped-def]
        for permit in unsent:
            connection.execute(
                sa.delete(outstanding).where(
                    outstanding.c.key == self._key, outstanding.c.id == permit
                )
            )
        for end in ended:
            found = connection.execute(
                sa.delete(outstanding)
                .where(outstanding.c.key == self._key, outstanding.c.id == end.permit)
                .returning(outstanding.c.lane, outstanding.c.granted_s)
            ).first()
            if found is None:
                continue
            row["seq"] += 1
            row["push_seq"] += found.lane == Lane.PUSH
            row["last_end_s"] = max(row["last_end_s"], now_s - end.age_s)
            connection.execute(
                sa.insert(spent).values(
                    key=self._key,
                    seq=row["seq"],
                    push_seq=row["push_seq"],
                    granted_s=found.granted_s,
                    end_s=row["last_end_s"],
                )
            )

    def _boundary(self, connection, row, since_s):  # type: ignore[no-untyped-def]
        found = connection.execute(
            sa.select(spent.c.seq)
            .where(spent.c.key == self._key, spent.c.end_s <= since_s)
            .order_by(spent.c.end_s.desc(), spent.c.seq.desc())
            .limit(1)
        ).scalar()
        return found if found is not None else row["pruned_seq"]

    def _grant(self, connection, row, wants, now_s):  # type: ignore[no-untyped-def]
        deadlines = sorted(
            connection.scalars(
                sa.select(outstanding.c.deadline_s).where(outstanding.c.key == self._key)
            )
        )
        free, facts = sum(wants.values()), []
        for limit, held_s in self._windows:
            boundary = self._boundary(connection, row, now_s - held_s)
            live = row["seq"] - boundary + sum(end + held_s > now_s for end in deadlines)
            facts.append((limit, held_s, boundary, live))
            free = min(free, limit - live)
        granted: dict[Lane, list[int]] = {lane: [] for lane in Lane}
        for lane in Lane:
            for _ in range(min(wants.get(lane, 0), max(0, free))):
                granted[lane].append(row["next_permit"])
                row["next_permit"] += 1
                free -= 1
                connection.execute(
                    sa.insert(outstanding).values(
                        key=self._key,
                        id=granted[lane][-1],
                        lane=lane.value,
                        owner=self._owner,
                        granted_s=now_s,
                        deadline_s=now_s + self._permit_life_s,
                    )
                )
        given = sum(len(ids) for ids in granted.values())
        if given == sum(wants.values()):
            return Exchange(granted, 0.0)
        waits = [0.001]
        for limit, held_s, boundary, live in facts:
            rank = live + given - limit + 1
            if rank < 1:
                continue
            end_s = connection.execute(
                sa.select(spent.c.end_s).where(
                    spent.c.key == self._key, spent.c.seq == boundary + rank
                )
            ).scalar()
            candidates = [now_s + held_s] if end_s is None else [end_s + held_s]
            candidates += [end + held_s for end in deadlines if end + held_s > now_s][:1]
            waits.append(min(candidates) - now_s)
        return Exchange(granted, max(waits))
