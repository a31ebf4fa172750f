"""The state of a key at one moment, for grants and for reports.

All times are ledger seconds, except those named `…in_s`, which count from now.
"""

from __future__ import annotations

import math
import os
from bisect import insort
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import sqlalchemy as sa

from connector.budget import Lane
from connector.budget.database import Database, Prepared, insert_into
from connector.budget.ledger_schema import (
    LedgerClock,
    key_id,
    keys,
    ledger_clock,
    outstanding,
    owners,
    spent,
)
from connector.budget.policy import permits
from connector.budget.policy.feedback import FeedbackState, spacing_s
from connector.budget.policy.permits import Allowance, Facts, constraints, forecast
from connector.budget.policy.windows import (
    HEARTBEAT_S,
    Limits,
    Live,
    Pulls,
    RunningPull,
    Window,
    windows_of,
)
from connector.clock import SystemClock

HOST = os.uname().nodename[:255]
_FORGOTTEN_S = 86_400.0
_UNDECLARED_AFTER = 5
"""A process that reads without declaring a pull counts as a pull from this request on."""
_UNKNOWN_LATENCY_S = 0.3

_KEY: sa.BindParameter[str] = sa.bindparam("key")
_OF_KEY = sa.select(keys).where(keys.c.key == _KEY)
_ROW, _ROW_LOCKED = Prepared(_OF_KEY), Prepared(_OF_KEY.with_for_update())
_CONNECTED = Prepared(sa.select(owners).where(owners.c.key == _KEY).order_by(owners.c.since_s))
_UNANSWERED = Prepared(
    sa.select(
        outstanding.c.id, outstanding.c.owner, outstanding.c.push, outstanding.c.granted_s,
        outstanding.c.awaited_until_s, outstanding.c.deadline_s,
    ).where(outstanding.c.key == _KEY, outstanding.c.deadline_s > sa.bindparam("since_s"))
)  # fmt: skip
_LAST_ENDED = Prepared(
    sa.select(spent.c.seq, spent.c.push_seq)
    .where(spent.c.key == _KEY, spent.c.end_s <= sa.bindparam("by_s"))
    .order_by(spent.c.end_s.desc(), spent.c.seq.desc())
    .limit(1)
)


def _ended(number: sa.ColumnElement[int]) -> Prepared:
    return Prepared(
        sa.select(sa.func.min(spent.c.end_s))  # a pull has the number of the push before it
        .where(spent.c.key == _KEY, number > sa.bindparam("left"))
        .group_by(number)
        .order_by(number)
        .limit(sa.bindparam("most", type_=sa.Integer))
    )


_ENDED, _ENDED_PUSHES = _ended(spent.c.seq), _ended(spent.c.push_seq)
_NO_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class ConnectedProcess:
    """A process that uses the budget: a row of `owners`."""

    key: str
    owner: str
    pid: int
    host: str
    command: str
    since_s: float
    seen_s: float
    waiting_pull: int = 0
    waiting_push: int = 0
    pull_since_s: float = 0.0
    push_since_s: float = 0.0
    valid_until_s: float = 0.0
    pull_declared: int = 0
    pull_seen_s: float = 0.0
    pull_requests: int = 0
    pull_expected: int | None = None
    pull_chains: int = 1
    pull_latency_s: float | None = None

    def may_live(self, now_s: float) -> bool:
        """False if the process is known to have ended, or hasn't been seen for a day."""
        if self.host == HOST:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return False
            except PermissionError:
                pass
        return now_s - self.seen_s < _FORGOTTEN_S

    def running_pull(self, now_s: float) -> RunningPull | None:
        """Its pull, if it was active recently."""
        known = self.pull_declared or self.pull_requests >= _UNDECLARED_AFTER
        if not known or now_s - self.pull_seen_s > HEARTBEAT_S:
            return None
        return RunningPull(
            self.pull_seen_s, self.pull_requests, self.pull_expected, self.pull_chains,
            self.pull_latency_s,
        )  # fmt: skip


def connected(connection: sa.Connection, key: str) -> list[ConnectedProcess]:
    """All known processes of a key, dead ones included, in the order in which they connected."""
    return [ConnectedProcess(*row) for row in _CONNECTED.execute(connection, {"key": key})]


class Rank(NamedTuple):
    """The sequence numbers of a request in `spent`: among all, and among pushes."""

    seq: int
    push_seq: int


@dataclass
class KeyRow:
    """The row of one key. newest: the rank of the last ended request; pruned: of the last one
    deleted. learnt, past_pulls: JSON. latency_s: from grant to answer, of both lanes."""

    key: str
    next_permit: int
    seq: int
    push_seq: int
    pruned_seq: int
    pruned_push_seq: int
    last_end_s: float
    last_grant_s: float | None = None
    latency_s: float | None = None
    keep_s: float = 0.0
    learnt: str = "{}"
    past_pulls: str = "{}"

    @classmethod
    def add(cls, connection: sa.Connection, key: str, now_s: float) -> None:
        """Create the row if it is missing; other processes may do so at the same time."""
        if _ROW.execute(connection, {"key": key}).fetchone() is None:
            insert = insert_into(connection, keys).values(vars(cls(key, 1, 0, 0, 0, 0, now_s)))
            connection.execute(insert.on_conflict_do_nothing())

    @classmethod
    def load(cls, connection: sa.Connection, key: str, *, lock: bool = False) -> KeyRow:
        """The row of a key, which must exist."""
        statement = _ROW_LOCKED if lock else _ROW
        return cls(*statement.execute(connection, {"key": key}).fetchone())


class Unanswered(NamedTuple):
    """A permit without an answer. awaited_until_s: until when an answer may still come."""

    owner: str
    push: int
    granted_s: float
    awaited_until_s: float
    deadline_s: float

    def is_of(self, lane: Lane | None) -> bool:
        return lane is None or bool(self.push) == (lane is Lane.PUSH)


class KeyView:
    """One transaction's view of a key. windows: shortest first.

    Ended requests are looked up by rank in `spent`; unanswered ones are few and are read once.
    """

    def __init__(
        self, connection: sa.Connection, row: KeyRow, windows: Sequence[Window], now_s: float
    ) -> None:
        self.connection, self.row, self.windows, self.now_s = connection, row, windows, now_s
        since_s = now_s - windows[-1].held_s
        found = _UNANSWERED.execute(connection, {"key": row.key, "since_s": since_s})
        self.unanswered = {id: Unanswered(*each) for id, *each in found}
        self.processes = [p for p in connected(connection, row.key) if p.may_live(now_s)]
        self.learnt = FeedbackState.loads(row.learnt)
        pulling = [process.running_pull(now_s) for process in self.processes]
        self.pulls = Pulls.loads(row.past_pulls, [pull for pull in pulling if pull])

    @cached_property
    def _left(self) -> list[Rank]:
        """Per window, the rank of the last request that no longer counts."""
        return [self.rank_at(self.now_s - window.held_s) for window in self.windows]

    def rank_at(self, time_s: float) -> Rank:
        """The rank of the last request that had ended by `time_s`."""
        values = {"key": self.row.key, "by_s": time_s}
        found = _LAST_ENDED.execute(self.connection, values).fetchone()
        return Rank(*found) if found else Rank(self.row.pruned_seq, self.row.pruned_push_seq)

    def live(self, index: int) -> Live:
        """Permits that count in window `index`."""
        since_s, left = self.now_s - self.windows[index].held_s, self._left[index]
        pushes = [p.push for p in self.unanswered.values() if p.deadline_s > since_s]
        ended = Live(self.row.seq - left.seq, self.row.push_seq - left.push_seq)
        return Live(ended.all + len(pushes), ended.push + sum(pushes))

    def in_flight(self, owner: str | None = None, lane: Lane | None = None) -> int:
        """Permits whose answer is still awaited, of one process or of all that may still live."""
        owners = {owner} if owner else {process.owner for process in self.processes}
        return sum(
            p.awaited_until_s > self.now_s and p.is_of(lane) and p.owner in owners
            for p in self.unanswered.values()
        )

    def facts(self, waiting_pull: int = 0) -> Facts:
        last_s = self.row.last_grant_s
        return Facts(
            now_s=self.now_s,
            live=[self.live(index) for index in range(len(self.windows))],
            in_flight=self.in_flight(),
            waiting_pull=waiting_pull,
            last_grant_s=-math.inf if last_s is None else last_s,
        )

    def allowance(self, facts: Facts) -> Allowance:
        return permits.allowance(self.windows, self.learnt, self.pulls, facts)

    def free_at_s(self, window_index: int, lane: Lane | None, live: int) -> float | None:
        """See `permits.FreeAt`."""
        ours_s = [permit.deadline_s for permit in self.unanswered.values() if permit.is_of(lane)]
        if sum(deadline_s > self.now_s for deadline_s in ours_s) > live:
            return None
        held_s = self.windows[window_index].held_s
        now = self.live(window_index)
        surplus = (now.push if lane is Lane.PUSH else now.all) - live
        if surplus <= 0:
            return -math.inf
        ends_s = self._ended_s(window_index, lane, surplus)
        ends_s += [end_s for end_s in ours_s if self.now_s - held_s < end_s <= self.now_s]
        return sorted(ends_s)[surplus - 1] + held_s

    def ends_s(self, index: int, lane: Lane | None, unanswered_end_s: float) -> list[float]:
        """Ends of all permits that count in window `index`, of `lane` or of both, ascending."""
        ends_s = self._ended_s(index, lane)
        for permit in self.unanswered.values():
            if permit.is_of(lane) and permit.deadline_s > self.now_s - self.windows[index].held_s:
                insort(ends_s, min(permit.deadline_s, unanswered_end_s))
        return ends_s

    def _ended_s(self, index: int, lane: Lane | None, most: int = _NO_LIMIT) -> list[float]:
        """Ends of the answered requests that count in a window, ascending; the first `most`."""
        of_push, left = lane is Lane.PUSH, self._left[index]
        values = {"key": self.row.key, "left": left.push_seq if of_push else left.seq, "most": most}
        found = (_ENDED_PUSHES if of_push else _ENDED).execute(self.connection, values)
        return [end_s for (end_s,) in found]


@dataclass(frozen=True, slots=True)
class WindowReport:
    """One window now. limit: as corrected by the server's answers; configured: as set.

    pull, push: requests of each lane that count. push_limit: limit for pushes, which leave the
    reserve to pulls. next_free_in_s: until one more slot is free; 0 if one is.
    foreign_in_s: how much longer room is left for other programs that use the key; 0 if there are
    none. foreign: how many of their requests may count. spacing_s: between two requests, or 0.
    """

    length_s: float
    configured: int
    limit: int
    push_limit: int
    pull: int
    push: int
    next_free_in_s: float
    foreign_in_s: float
    foreign: int = 0
    spacing_s: float = 0.0

    @property
    def used(self) -> int:
        return self.pull + self.push

    @property
    def free(self) -> int:
        return max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True)
class BudgetState:
    """hold_in_s: seconds until a hold ends, 0 for none. in_flight: permits whose answer the ledger
    doesn't know yet: requests in flight, or about to be within a second.

    next_in_s: until the next request may go out, by lane.
    """

    now_s: float
    windows: Sequence[WindowReport]
    hold_in_s: float
    hold_reason: str
    in_flight: int
    connected: Sequence[ConnectedProcess]
    latency_s: float | None
    next_in_s: dict[Lane, float]


@dataclass(frozen=True, slots=True)
class Eta:
    """Seconds from now until the first request goes out, and until the last is answered."""

    first_in_s: float
    done_in_s: float


def open_report(database: Database, *, api_key: str, limits: Sequence[Limits]) -> BudgetReport:
    """A key's budget for a caller that only reads it. limits: as this process is configured.

    Raises:
        BudgetError: the ledger can't be used.
    """
    key, clock = key_id(api_key, database), ledger_clock(database, SystemClock())
    with database.write(to_disk=False) as connection:
        clock.open(connection)
        KeyRow.add(connection, key, clock.now_s(connection))
    return BudgetReport(database, key=key, time_source=clock, windows=windows_of(limits))


class BudgetReport:
    """Reads the ledger without locking it."""

    def __init__(
        self, database: Database, *, key: str, time_source: LedgerClock, windows: Sequence[Window]
    ) -> None:
        self._database, self._key, self._time_source = database, key, time_source
        self._windows = windows

    def state(self) -> BudgetState:
        """What is used and free now, by which process, and what limits it."""
        with self._view() as view:
            facts, learnt, now_s = view.facts(), view.learnt, view.now_s
            allowed = view.allowance(facts)
            return BudgetState(
                now_s=now_s,
                windows=[
                    _window_report(view, index, allowed, live)
                    for index, live in enumerate(facts.live)
                ],
                hold_in_s=max(0.0, learnt.hold_until_s - now_s),
                hold_reason=learnt.hold_reason if learnt.hold_until_s > now_s else "",
                in_flight=facts.in_flight,
                connected=view.processes,
                latency_s=view.row.latency_s,
                next_in_s={lane: _eta(view, allowed, 1, lane, 1).first_in_s for lane in Lane},
            )

    def forecast(self, count: int, lane: Lane, *, in_flight: int = 64) -> Eta:
        """When `count` more requests of `lane` would be done, `in_flight` at a time at most."""
        with self._view() as view:
            return _eta(view, view.allowance(view.facts()), count, lane, in_flight)

    def ages_s(self, within_s: float) -> list[float]:
        """How many seconds ago each request of the last `within_s` was answered; requests older
        than the longest window aren't kept."""
        with self._database.read() as connection:
            now_s = self._time_source.now_s(connection)
            recent = spent.c.key == self._key, spent.c.end_s > now_s - within_s
            return [now_s - s for s in connection.scalars(sa.select(spent.c.end_s).where(*recent))]

    @contextmanager
    def _view(self) -> Iterator[KeyView]:
        with self._database.read() as connection:
            row = KeyRow.load(connection, self._key)
            yield KeyView(connection, row, self._windows, self._time_source.now_s(connection))


def _window_report(view: KeyView, index: int, allowed: Allowance, live: Live) -> WindowReport:
    window, ceiling, now_s = view.windows[index], allowed.ceilings[index], view.now_s
    free_at_s: float | None = now_s
    if live.all >= ceiling.all:
        free_at_s = view.free_at_s(index, None, ceiling.all - 1)
    if free_at_s is None:
        free_at_s = now_s + window.held_s
    learnt = view.learnt.of(window)
    foreign_in_s = max(0.0, learnt.foreign_until_s - now_s)
    return WindowReport(
        length_s=window.length_s,
        configured=window.limit,
        limit=ceiling.all,
        push_limit=ceiling.push,
        pull=live.pull,
        push=live.push,
        next_free_in_s=max(0.0, free_at_s - now_s),
        foreign_in_s=foreign_in_s,
        foreign=learnt.foreign_most if foreign_in_s > 0 else 0,
        spacing_s=spacing_s(window, view.learnt, now_s, live.all),
    )


def _eta(view: KeyView, allowed: Allowance, count: int, lane: Lane, in_flight: int) -> Eta:
    now_s, indices = view.now_s, range(len(view.windows))
    latency_s = _UNKNOWN_LATENCY_S if view.row.latency_s is None else view.row.latency_s
    bounds = constraints(
        view.windows, allowed, lane,
        [view.ends_s(index, None, now_s + latency_s) for index in indices],
        [view.ends_s(index, Lane.PUSH, now_s + latency_s) for index in indices],
    )  # fmt: skip
    found = forecast(
        bounds, count, now_s=now_s, not_before_s=allowed.not_before_s,
        spacing_s=allowed.spacing_s, latency_s=latency_s, in_flight=in_flight,
    )  # fmt: skip
    return Eta(found.first_s - now_s, found.done_s - now_s)
