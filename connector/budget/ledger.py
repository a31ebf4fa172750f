"""The ledger of one key: every change is one short write transaction under the key's lock.

An `exchange` records answers, learns from them, and grants what the policy allows.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from connector.budget import Lane
from connector.budget.database import Database, Prepared
from connector.budget.ledger_schema import MIGRATIONS, LedgerClock, keys, outstanding, owners, spent
from connector.budget.ledger_view import (
    HOST,
    ConnectedProcess,
    KeyRow,
    KeyView,
    Unanswered,
    connected,
)
from connector.budget.policy import feedback, permits
from connector.budget.policy.feedback import Reading
from connector.budget.policy.permits import Allowance
from connector.budget.policy.windows import Pulls, Window

_REFRESH_S = 10.0
"""A waiting process repeats its request this often, so that the others know it is alive."""
_LATE_S = 1.0
"""A waiting process counts as alive for this long after its next request was due."""
_SMOOTHING = 0.2
_PRUNE_EVERY = 500
_MEMORY_S = 600.0
"""Rows stay this long after they cease to count, since feedback counts back from a grant."""

_PERMIT = outstanding.c.key == sa.bindparam("key"), outstanding.c.id == sa.bindparam("id")
_REMOVE = Prepared(sa.delete(outstanding).where(*_PERMIT))
_AWAIT_NO_MORE = Prepared(sa.update(outstanding).where(*_PERMIT).values(awaited_until_s=0.0))
_SPEND, _GRANT = Prepared(sa.insert(spent)), Prepared(sa.insert(outstanding))
_COUNT = Prepared(
    sa.select(sa.func.count()).where(
        spent.c.key == sa.bindparam("key"),
        spent.c.seq > sa.bindparam("seq"),
        spent.c.end_s <= sa.bindparam("by_s"),
        spent.c.granted_s > sa.bindparam("since_s"),
    )
)
_STORE = Prepared.update_of(keys)
_CONNECT, _SHOW = Prepared(sa.insert(owners)), Prepared.update_of(owners)
_DISCONNECT = Prepared(
    sa.delete(owners).where(
        owners.c.key == sa.bindparam("key"), owners.c.owner == sa.bindparam("owner")
    )
)


class Answered(NamedTuple):
    """An answer to record. arrived_s: by the clock of `Request.asked_s`. held_s: see `Permit`."""

    permit: int
    arrived_s: float
    reading: Reading
    held_s: float = 0.0


@dataclass
class Request:
    """One process's request: how many callers wait, by lane; answers; ids of permits that got none
    (`unanswered`) or whose request was never sent (`unsent`). asked_s: its time, by any clock.

    ahead: how many permits it would take ahead of its need, by lane."""

    wants: Mapping[Lane, int] = field(default_factory=dict)
    answers: list[Answered] = field(default_factory=list)
    unanswered: list[int] = field(default_factory=list)
    unsent: list[int] = field(default_factory=list)
    asked_s: float = 0.0
    ahead: Mapping[Lane, int] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not (any(self.wants.values()) or self.answers or self.unanswered or self.unsent)

    def add(self, other: Request) -> None:
        """Add the outcomes of more permits."""
        self.answers += other.answers
        self.unanswered += other.unanswered
        self.unsent += other.unsent


@dataclass(frozen=True)
class Grants:
    """The reply: permit ids by lane, and when asking again can help (seconds from the start of the
    exchange). hold_s, hold_reason: of a hold that has just begun."""

    granted: Mapping[Lane, Sequence[int]]
    wait_s: Mapping[Lane, float]
    hold_s: float | None = None
    hold_reason: str = ""


@dataclass(frozen=True, slots=True)
class _Ended:
    """A recorded answer in ledger seconds, with bounds on our own requests; see
    `feedback.OwnCounts`."""

    view: KeyView
    reading: Reading
    push: int
    granted_s: float
    end_s: float

    @property
    def latency_s(self) -> float:
        return self.end_s - self.granted_s

    def most(self, window: Window) -> int:
        since_s = self.granted_s - window.held_s
        unanswered = sum(
            since_s < permit.deadline_s and permit.granted_s <= self.end_s
            for permit in self.view.unanswered.values()
        )
        return self.view.row.seq - self.view.rank_at(since_s).seq + unanswered

    def least(self, window: Window) -> int:
        key, since_s = self.view.row.key, self.end_s - window.sure_s
        seq = self.view.rank_at(since_s).seq
        values = {"key": key, "seq": seq, "since_s": since_s, "by_s": self.granted_s}
        (counted,) = _COUNT.execute(self.view.connection, values).fetchone()
        return 1 + int(counted)


class Ledger:
    """One process's access to the ledger of a key. windows: as this process is configured,
    shortest first. request_timeout_s: total, per request. jitter: uniform in [0, 1)."""

    def __init__(
        self,
        database: Database,
        *,
        key: str,
        owner: str,
        clock: LedgerClock,
        windows: Sequence[Window],
        request_timeout_s: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._database, self._key, self._clock = database, key, clock
        self._windows, self._request_timeout_s, self._jitter = windows, request_timeout_s, jitter
        self._pruned_at = 0
        database.migrate("budget", MIGRATIONS)
        command = " ".join([Path(sys.argv[0] or "python").name, *sys.argv[1:2]])[:255]
        with database.write(to_disk=False) as connection:
            clock.open(connection)
            now_s = clock.now_s(connection)
            KeyRow.add(connection, key, now_s)
            for each in connected(connection, key):
                if not each.may_live(now_s):
                    _DISCONNECT.execute(connection, vars(each))
            self._process = ConnectedProcess(key, owner, os.getpid(), HOST, command, now_s, now_s)
            _CONNECT.execute(connection, vars(self._process))

    def exchange(self, request: Request) -> Grants:
        """Record the outcomes in `request`, and grant what it asks for as far as windows allow."""
        with self._locked() as view:
            held_until_s = view.learnt.hold_until_s
            ended = self._book(view, request)
            self._learn(view, ended)
            granted, wait_s = self._grant(view, request)
            self._show(view, request, granted, wait_s, ended)
            self._prune(view)
        hold_s = view.learnt.hold_until_s
        return Grants(
            granted,
            wait_s,
            hold_s=hold_s - view.now_s if hold_s > max(held_until_s, view.now_s) else None,
            hold_reason=view.learnt.hold_reason,
        )

    def pull_started(self, expected: int | None) -> None:
        """Record the start of a pull, so that pushes leave room for it. expected: its requests."""
        with self._locked() as view:
            view.row.past_pulls = Pulls.loads(view.row.past_pulls).started(view.now_s).dumps()
            self._process = replace(
                self._process, pull_declared=1, pull_seen_s=view.now_s,
                pull_requests=0, pull_expected=expected, pull_chains=1,
            )  # fmt: skip

    def pull_ended(self, requests: int) -> None:
        """Record how many requests a pull took."""
        with self._locked() as view:
            view.row.past_pulls = Pulls.loads(view.row.past_pulls).ended(requests).dumps()
            self._process = replace(
                self._process, pull_declared=0, pull_seen_s=0.0, pull_requests=0
            )

    def leave(self) -> None:
        """Disconnect; unanswered permits count until their deadline."""
        with self._database.write(to_disk=False) as connection:
            _DISCONNECT.execute(connection, vars(self._process))

    @contextmanager
    def _locked(self) -> Iterator[KeyView]:
        """A write transaction with the key's row locked, and the time read after locking; stores
        the row and this process as they are at the end."""
        with self._database.write(to_disk=False) as connection:
            row, before = KeyRow.load(connection, self._key, lock=True), self._process
            try:
                yield KeyView(connection, row, self._windows, self._clock.now_s(connection))
                _STORE.execute(connection, vars(row))
                _SHOW.execute(connection, vars(self._process))
                self._clock.note(connection)
            except BaseException:
                self._process = before
                raise

    def _book(self, view: KeyView, request: Request) -> list[_Ended]:
        """Move answered permits to `spent`, in the order of their answers; delete those that were
        never sent; those without an answer count until their deadline.

        `end_s` is when the answer arrived, but never earlier than one already recorded: it must
        rise with `seq`, and too late is on the safe side.
        """
        row, ended, rows, gone = view.row, list[_Ended](), [], list(request.unsent)
        for answer in sorted(request.answers, key=lambda answer: answer.arrived_s):
            if (permit := view.unanswered.pop(answer.permit, None)) is None:
                continue  # so late that it no longer counts
            gone.append(answer.permit)
            granted_s = permit.granted_s + answer.held_s
            arrived_s = view.now_s - request.asked_s + answer.arrived_s
            row.last_end_s = max(row.last_end_s, granted_s, arrived_s)
            row.seq, row.push_seq = row.seq + 1, row.push_seq + permit.push
            ended.append(_Ended(view, answer.reading, permit.push, granted_s, row.last_end_s))
            rows.append(
                {
                    "key": row.key, "seq": row.seq, "push_seq": row.push_seq,
                    "granted_s": granted_s, "end_s": row.last_end_s,
                }
            )  # fmt: skip
        for statement, ids in (_REMOVE, gone), (_AWAIT_NO_MORE, request.unanswered):
            statement.execute_many(view.connection, [{"key": row.key, "id": id} for id in ids])
        _SPEND.execute_many(view.connection, rows)
        returned = [view.unanswered.pop(id, None) for id in request.unsent]
        if pulls := sum(permit is not None and not permit.push for permit in returned):
            left = max(0, self._process.pull_requests - pulls)
            self._process = replace(self._process, pull_requests=left)
        for id in request.unanswered:
            if id in view.unanswered:
                view.unanswered[id] = view.unanswered[id]._replace(awaited_until_s=0.0)
        return ended

    def _learn(self, view: KeyView, ended: Iterable[_Ended]) -> None:
        """Update the feedback state from the answers."""
        before = view.learnt
        for each in ended:
            view.learnt = feedback.update(
                view.learnt, self._windows, each.reading, each,
                granted_s=each.granted_s, now_s=each.end_s, jitter=self._jitter(),
            )  # fmt: skip
            view.row.latency_s = _smoothed_s(view.row.latency_s, each.latency_s)
        if view.learnt != before:
            view.row.learnt = view.learnt.dumps()

    def _grant(
        self, view: KeyView, request: Request
    ) -> tuple[dict[Lane, Sequence[int]], dict[Lane, float]]:
        """Grant what there is room for, pulls first; also returns when to ask again."""
        granted: dict[Lane, Sequence[int]] = {}
        wait_s: dict[Lane, float] = {}
        allowed: Allowance | None = None
        waiting_pull = request.wants.get(Lane.PULL, 0) + sum(
            each.waiting_pull
            for each in view.processes
            if each.owner != self._process.owner and each.valid_until_s > view.now_s
        )
        for lane in Lane:
            if not (wanted := request.wants.get(lane, 0)):
                continue
            facts = view.facts(waiting_pull)
            allowed = allowed or view.allowance(facts)
            count = permits.room(allowed, facts, lane, wanted)
            if count == wanted and (ahead := request.ahead.get(lane, 0)):
                count += min(ahead, permits.room_ahead(allowed, facts, lane, count))
            granted[lane] = self._add(view, lane, count)
            waiting_pull -= min(count, wanted) if lane is Lane.PULL else 0
            if count < wanted:
                facts = view.facts(waiting_pull)
                at_s = permits.retry_at_s(self._windows, allowed, facts, lane, view.free_at_s)
                wait_s[lane] = min(at_s - view.now_s, _REFRESH_S)
        return granted, wait_s

    def _add(self, view: KeyView, lane: Lane, count: int) -> Sequence[int]:
        """Add `count` permits of `lane`; their ids."""
        row, now_s = view.row, view.now_s
        deadline_s = permits.deadline_s(now_s, self._request_timeout_s)
        owner, push = self._process.owner, int(lane is Lane.PUSH)
        permit = Unanswered(owner, push, now_s, deadline_s - permits.GRACE_S, deadline_s)
        ids = list(range(row.next_permit, row.next_permit + count))
        if ids:
            same = {"key": row.key, **permit._asdict()}
            _GRANT.execute_many(view.connection, [{**same, "id": id} for id in ids])
            view.unanswered.update(dict.fromkeys(ids, permit))
            row.next_permit, row.last_grant_s = row.next_permit + count, now_s
        return ids

    def _show(
        self,
        view: KeyView,
        request: Request,
        granted: Mapping[Lane, Sequence[int]],
        wait_s: Mapping[Lane, float],
        ended: Iterable[_Ended],
    ) -> None:
        """Update this process as other processes see it."""
        # below 0: permits taken ahead
        waiting = {lane: request.wants.get(lane, 0) - len(granted.get(lane, ())) for lane in Lane}
        self._process = own = replace(
            self._process, seen_s=view.now_s,
            waiting_pull=max(0, waiting[Lane.PULL]), waiting_push=max(0, waiting[Lane.PUSH]),
            valid_until_s=view.now_s + max(wait_s.values(), default=0.0) + _LATE_S,
        )  # fmt: skip
        latencies_s = [each.latency_s for each in ended if not each.push]
        if not (request.wants.get(Lane.PULL) or latencies_s):  # no sign of an active pull
            return
        chains = min(64, view.in_flight(own.owner, Lane.PULL) + waiting[Lane.PULL])
        self._process = replace(
            own,
            pull_seen_s=view.now_s,
            pull_requests=own.pull_requests + len(granted.get(Lane.PULL, ())),
            pull_chains=max(1, chains, own.pull_chains * 9 // 10),
            pull_latency_s=_smoothed_s(own.pull_latency_s, *latencies_s[-1:]),
        )

    def _prune(self, view: KeyView) -> None:
        """Delete requests that no longer count for any process, once every so many requests."""
        row = view.row
        row.keep_s = max(row.keep_s, self._windows[-1].held_s)
        if row.seq - self._pruned_at < _PRUNE_EVERY:
            return
        self._pruned_at = row.seq
        before_s = view.now_s - row.keep_s - _MEMORY_S
        row.pruned_seq, row.pruned_push_seq = view.rank_at(before_s)
        old_permits = outstanding.c.key == row.key, outstanding.c.deadline_s <= before_s
        view.connection.execute(sa.delete(outstanding).where(*old_permits))
        old = spent.c.key == row.key, spent.c.seq <= row.pruned_seq
        view.connection.execute(sa.delete(spent).where(*old))


def _smoothed_s(before_s: float | None, new_s: float | None = None) -> float | None:
    """An exponential mean; None before the first value."""
    if before_s is None or new_s is None:
        return before_s if new_s is None else new_s
    return before_s + _SMOOTHING * (new_s - before_s)
