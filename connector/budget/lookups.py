"""What a ledger looks up in one transaction: how many permits count, and when they leave.

Everything about answered requests is a look-up by rank in `spent`; unanswered ones are few and
are read once. Times are ledger seconds.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import sqlalchemy as sa

from connector.budget import Lane
from connector.budget.policy.windows import Live, Window
from connector.budget.schema import outstanding, spent
from connector.budget.statements import Statement, Transaction


@dataclass(frozen=True, slots=True)
class Rank:
    """A place in `spent`: how many requests ended up to it, and how many of them were pushes."""

    seq: int
    push_seq: int

    def of(self, lane: Lane | None) -> int:
        return self.push_seq if lane is Lane.PUSH else self.seq


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A permit without an answer. awaited_until_s: after it nobody waits for one any more."""

    push: bool
    granted_s: float
    awaited_until_s: float
    deadline_s: float

    def is_of(self, lane: Lane | None) -> bool:
        return lane is None or self.push == (lane is Lane.PUSH)


_KEY: sa.BindParameter[str] = sa.bindparam("key")
_AFTER = (spent.c.key == _KEY, spent.c.seq > sa.bindparam("after"))
_UNANSWERED = Statement(
    sa.select(
        outstanding.c.push,
        outstanding.c.granted_s,
        outstanding.c.awaited_until_s,
        outstanding.c.deadline_s,
    ).where(outstanding.c.key == _KEY, outstanding.c.deadline_s > sa.bindparam("since_s"))
)
_ENDS = Statement(sa.select(spent.c.end_s, spent.c.push_seq).where(*_AFTER).order_by(spent.c.seq))
_RANGE = Statement(
    sa.select(spent.c.end_s)
    .where(*_AFTER, spent.c.seq <= sa.bindparam("last"))
    .order_by(spent.c.seq)
)
_PUSHES = Statement(
    sa.select(sa.func.min(spent.c.end_s))
    .where(
        spent.c.key == _KEY,
        spent.c.push_seq > sa.bindparam("after"),
        spent.c.push_seq <= sa.bindparam("last"),
    )
    .group_by(spent.c.push_seq)
    .order_by(spent.c.push_seq)
)
_LEAST = Statement(
    sa.select(sa.func.count())
    .select_from(spent)
    .where(
        *_AFTER,
        spent.c.end_s <= sa.bindparam("by_s"),
        spent.c.granted_s > sa.bindparam("since_s"),
    )
)


@cache
def _ranks(count: int) -> Statement:
    """For `count` times at once: the last row that had ended by then."""
    return Statement(sa.union_all(*(_rank(index) for index in range(count))))


def _rank(index: int) -> sa.Select[tuple[int, int, int]]:
    last = (
        sa.select(spent.c.seq, spent.c.push_seq)
        .where(spent.c.key == _KEY, spent.c.end_s <= sa.bindparam(f"since_{index}"))
        .order_by(spent.c.end_s.desc(), spent.c.seq.desc())
        .limit(1)
        .subquery(f"rank_{index}")
    )
    return sa.select(sa.literal_column(str(index), sa.Integer), last.c.seq, last.c.push_seq)


class Lookups:
    """One key at one moment. newest, pruned: the last rank, and the last one deleted."""

    def __init__(
        self,
        tx: Transaction,
        key: str,
        windows: Sequence[Window],
        *,
        newest: Rank,
        pruned: Rank,
        now_s: float,
    ) -> None:
        self._tx, self._key, self._windows = tx, key, windows
        self._newest, self._pruned, self.now_s = newest, pruned, now_s
        self._boundaries = self.ranks([now_s - window.held_s for window in windows])
        since_s = now_s - max(window.held_s for window in windows)
        rows = tx.all(_UNANSWERED, key=key, since_s=since_s)
        self.unanswered = [Unanswered(bool(push), *times) for push, *times in rows]

    def ranks(self, since_s: Sequence[float]) -> list[Rank]:
        """For each time, the rank of the last request that had ended by then."""
        times = {f"since_{index}": time_s for index, time_s in enumerate(since_s)}
        found = [self._pruned] * len(since_s)
        for index, seq, push_seq in self._tx.all(_ranks(len(since_s)), key=self._key, **times):
            found[index] = Rank(seq, push_seq)
        return found

    def live(self, index: int, lane: Lane | None = None) -> int:
        """Permits that count in window `index`, of `lane` or of both."""
        ended = self._newest.of(lane) - self._boundaries[index].of(lane)
        since_s = self.now_s - self._windows[index].held_s
        return ended + sum(p.is_of(lane) and p.deadline_s > since_s for p in self.unanswered)

    def lives(self) -> list[Live]:
        return [Live(self.live(i), self.live(i, Lane.PUSH)) for i in range(len(self._windows))]

    def in_flight(self, lane: Lane | None = None) -> int:
        """Permits whose answer is still awaited, of `lane` or of both."""
        return sum(p.is_of(lane) and p.awaited_until_s > self.now_s for p in self.unanswered)

    def free_at_s(self, window_index: int, lane: Lane | None, live: int) -> float | None:
        """See `permits.FreeAt`."""
        permits = [permit for permit in self.unanswered if permit.is_of(lane)]
        allowed = live - sum(permit.deadline_s > self.now_s for permit in permits)
        if allowed < 0:
            return None
        held_s = self._windows[window_index].held_s
        after = self._boundaries[window_index].of(lane)
        since_s = self.now_s - held_s
        expired_s = [p.deadline_s for p in permits if since_s < p.deadline_s <= self.now_s]
        surplus = self._newest.of(lane) - after + len(expired_s) - allowed
        if surplus <= 0:
            return float("-inf")
        skipped = max(0, surplus - len(expired_s) - 1)  # all of them leave before the one we seek
        last = min(after + surplus, self._newest.of(lane))
        query = _PUSHES if lane is Lane.PUSH else _RANGE
        rows = self._tx.all(query, key=self._key, after=after + skipped, last=last)
        ends_s = sorted([end_s for (end_s,) in rows] + expired_s)
        return float(ends_s[surplus - skipped - 1] + held_s)

    def ends_s(self, index: int, unanswered_end_s: float) -> tuple[list[float], list[float]]:
        """Ends of what counts in window `index`, ascending: of both lanes, and of pushes."""
        boundary = self._boundaries[index]
        before, both_s, pushes_s = boundary.push_seq, [], []
        for end_s, push_seq in self._tx.all(_ENDS, key=self._key, after=boundary.seq):
            both_s.append(end_s)
            if push_seq > before:
                pushes_s.append(end_s)
            before = push_seq
        since_s = self.now_s - self._windows[index].held_s
        for permit in self.unanswered:
            if permit.deadline_s > since_s:
                end_s = min(permit.deadline_s, unanswered_end_s)
                insort(both_s, end_s)
                if permit.push:
                    insort(pushes_s, end_s)
        return both_s, pushes_s

    def granted(self, permit: Unanswered, count: int) -> None:
        """Count `count` new permits like `permit`."""
        self.unanswered += [permit] * count


class OwnRequests:
    """Bounds on our requests that the server counted when it answered one; see
    `feedback.OwnCounts`."""

    def __init__(
        self, tx: Transaction, key: str, lookups: Lookups, *, newest: Rank,
        granted_s: float, answered_s: float,
    ) -> None:  # fmt: skip
        self._tx, self._key, self._lookups, self._newest = tx, key, lookups, newest
        self._granted_s, self._answered_s = granted_s, answered_s

    def most(self, window: Window) -> int:
        since_s = self._granted_s - window.held_s
        (before,) = self._lookups.ranks([since_s])
        unanswered = sum(
            since_s < permit.deadline_s and permit.granted_s <= self._answered_s
            for permit in self._lookups.unanswered
        )
        return self._newest.seq - before.seq + unanswered

    def least(self, window: Window) -> int:
        since_s = self._answered_s - window.sure_s
        (before,) = self._lookups.ranks([since_s])
        counted = self._tx.first(
            _LEAST, key=self._key, after=before.seq, by_s=self._granted_s, since_s=since_s
        )
        return 1 + (counted[0] if counted else 0)
