"""The ledger of one key: every change is one short write transaction under the key's lock.

An `exchange` books answers, learns from them, and grants what the policy allows. `permits`
decides, `lookups` and `booking` read and write; this module puts them in order.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from connector.budget import Lane, booking, feedback, owners, permits
from connector.budget.booking import Answered, Ended, KeyRow
from connector.budget.clockrules import LedgerClock
from connector.budget.database import Database
from connector.budget.keystate import KeyState, OwnPull
from connector.budget.lookups import Lookups, OwnRequests, Unanswered
from connector.budget.permits import Facts, Terms
from connector.budget.schema import MIGRATIONS
from connector.budget.windows import Window

REFRESH_S = 10.0
"""A process that waits says so again this often, so that others don't wait for the dead."""
SHARE_GLANCE_S = 0.02
"""Slots left for another process that waits as well are looked at again after this."""
_VALID_S = 1.0


@dataclass(frozen=True)
class Request:
    """What one process brings: callers that wait, by lane; answers; permit ids that got none
    (`unanswered`) or whose request never left (`unsent`)."""

    wants: Mapping[Lane, int]
    answers: Sequence[Answered] = ()
    unanswered: Sequence[int] = ()
    unsent: Sequence[int] = ()


@dataclass(frozen=True)
class Exchange:
    """What it gets: permit ids by lane, and how long until asking for more can help (seconds
    from the start of the exchange). held_until: a hold that this exchange began, with its reason.
    """

    granted: Mapping[Lane, Sequence[int]]
    wait_s: Mapping[Lane, float]
    hold_s: float | None = None
    hold_reason: str = ""


@dataclass
class _Turn:
    """One exchange while it is in progress."""

    connection: sa.Connection
    row: KeyRow
    state: KeyState
    lookups: Lookups
    others: Mapping[Lane, int]
    ended: Sequence[Ended] = ()
    granted: dict[Lane, list[int]] = field(default_factory=dict)
    retry_s: dict[Lane, float] = field(default_factory=dict)

    @property
    def now_s(self) -> float:
        return self.lookups.now_s

    def facts(self, waiting_pull: int) -> Facts:
        last_s = self.row.last_grant_s
        return Facts(
            now_s=self.now_s,
            live=self.lookups.lives(),
            in_flight=self.lookups.in_flight(),
            waiting_pull=waiting_pull,
            last_grant_s=-math.inf if last_s is None else last_s,
        )


class Ledger:
    """windows: as this process was configured. request_timeout_s: total, per request."""

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
        self._database, self._key, self._owner, self._clock = database, key, owner, clock
        self.windows, self._request_timeout_s, self._jitter = windows, request_timeout_s, jitter
        self._said_waiting = False
        self._pruned_at = 0
        database.migrate("budget", MIGRATIONS)
        with database.write() as connection:
            now_s = clock.now_s(connection)
            booking.add_key(connection, key, now_s)
            owners.forget_dead(connection, key, now_s)
            owners.connect(connection, key, owner, now_s)

    @contextmanager
    def _locked(self) -> Iterator[tuple[sa.Connection, KeyRow, float]]:
        """A write transaction with the key's row locked, and the time read after that."""
        with self._database.write() as connection:
            row = booking.load(connection, self._key, lock=True)
            yield connection, row, self._clock.now_s(connection)
            booking.store(connection, row)

    def exchange(self, request: Request) -> Exchange:
        """Book what `request` brings, grant what it asks for, as far as the windows allow."""
        with self._locked() as (connection, row, now_s):
            turn = self._begin(connection, row, request, now_s)
            held_before_s = turn.state.feedback.hold_until_s
            self._learn(turn)
            self._grant(turn, request.wants)
            self._end(turn, request.wants)
            hold_s = turn.state.feedback.hold_until_s
        return Exchange(
            turn.granted,
            {lane: at_s - now_s for lane, at_s in turn.retry_s.items()},
            hold_s=hold_s - now_s if hold_s > max(held_before_s, now_s) else None,
            hold_reason=turn.state.feedback.hold_reason,
        )

    def pull_started(self, expected: int | None) -> None:
        """Note the start of a pull, so that later ones find room. expected: its requests."""
        with self._locked() as (_, row, now_s):
            row.state = KeyState.loads(row.state).started(self._owner, now_s, expected).dumps()

    def pull_ended(self, requests: int) -> None:
        """Note what a pull has cost."""
        with self._locked() as (_, row, _now_s):
            row.state = KeyState.loads(row.state).ended(self._owner, requests).dumps()

    def close(self) -> None:
        """Leave; permits that are still out count until their deadline."""
        with self._locked() as (connection, row, _now_s):
            owners.disconnect(connection, self._key, self._owner)
            row.state = KeyState.loads(row.state).without(self._owner).dumps()

    def _begin(
        self, connection: sa.Connection, row: KeyRow, request: Request, now_s: float
    ) -> _Turn:
        booking.give_back(connection, row, request.unsent)
        booking.stop_awaiting(connection, row, request.unanswered)
        ended = booking.book(connection, row, request.answers, self._owner, now_s)
        lookups = self._lookups(connection, row, now_s)
        others = owners.others_waiting(connection, self._key, self._owner, now_s)
        return _Turn(connection, row, KeyState.loads(row.state), lookups, others, ended)

    def _lookups(self, connection: sa.Connection, row: KeyRow, now_s: float) -> Lookups:
        return Lookups(
            connection, self._key, self.windows, newest=row.newest, pruned=row.pruned, now_s=now_s
        )

    def _learn(self, turn: _Turn) -> None:
        learnt = turn.state.feedback
        for each in turn.ended:
            own = OwnRequests(
                turn.connection, self._key, turn.lookups, newest=turn.row.newest,
                granted_s=each.granted_s, answered_s=each.end_s,
            )  # fmt: skip
            learnt = feedback.update(
                learnt, self.windows, each.reading, own,
                granted_s=each.granted_s, now_s=each.end_s, jitter=self._jitter(),
            )  # fmt: skip
        latencies_s = [each.end_s - each.granted_s for each in turn.ended]
        turn.state = replace(turn.state, feedback=learnt).answered(latencies_s)

    def _grant(self, turn: _Turn, wants: Mapping[Lane, int]) -> None:
        holds: Terms | None = None
        waiting_pull = wants.get(Lane.PULL, 0) + turn.others[Lane.PULL]
        for lane in (Lane.PULL, Lane.PUSH):
            asked = wants.get(lane, 0)
            turn.granted[lane] = []
            if not asked:
                continue
            facts = turn.facts(waiting_pull)
            if holds is None:
                pulls = turn.state.pulls(turn.now_s)
                holds = permits.terms(self.windows, turn.state.feedback, pulls, facts)
            turn.granted[lane] = self._grant_lane(turn, holds, facts, lane, asked)
            if lane is Lane.PULL:
                waiting_pull -= len(turn.granted[lane])

    def _grant_lane(
        self, turn: _Turn, holds: Terms, facts: Facts, lane: Lane, asked: int
    ) -> list[int]:
        together = asked + turn.others[lane]
        whole = permits.room(holds, facts, lane, together)
        count = min(asked, math.ceil(whole * asked / together))
        ids = self._add(turn, lane, count)
        if count < asked:
            left = turn.facts(facts.waiting_pull - (count if lane is Lane.PULL else 0))
            at_s = permits.retry_at_s(self.windows, holds, left, lane, turn.lookups.free_at_s)
            at_s = turn.now_s + SHARE_GLANCE_S if count < whole else at_s
            turn.retry_s[lane] = min(at_s, turn.now_s + REFRESH_S)
        return ids

    def _add(self, turn: _Turn, lane: Lane, count: int) -> list[int]:
        deadline_s = permits.deadline_s(turn.now_s, self._request_timeout_s)
        permit = Unanswered(
            push=lane is Lane.PUSH,
            granted_s=turn.now_s,
            awaited_until_s=deadline_s - permits.GRACE_S,
            deadline_s=deadline_s,
        )
        turn.lookups.granted(permit, count)
        return booking.grant(turn.connection, turn.row, self._owner, permit, count)

    def _end(self, turn: _Turn, wants: Mapping[Lane, int]) -> None:
        waiting = {lane: wants.get(lane, 0) - len(turn.granted[lane]) for lane in Lane}
        if any(waiting.values()) or self._said_waiting:
            valid_until_s = max(turn.retry_s.values(), default=turn.now_s) + _VALID_S
            owners.say_waiting(
                turn.connection, self._key, self._owner, waiting,
                now_s=turn.now_s, valid_until_s=valid_until_s,
            )  # fmt: skip
            self._said_waiting = any(waiting.values())
        self._note_pull(turn, waiting[Lane.PULL])
        turn.row.state = turn.state.dumps()
        turn.row.keep_s = max(turn.row.keep_s, *(window.held_s for window in self.windows))
        if turn.row.newest.seq - self._pruned_at >= booking.PRUNE_EVERY:
            self._pruned_at = turn.row.newest.seq
            booking.prune(turn.connection, turn.row, turn.now_s)

    def _note_pull(self, turn: _Turn, waiting: int) -> None:
        own = [each for each in turn.ended if each.own and not each.push]
        granted = len(turn.granted[Lane.PULL])
        if not (own or granted or waiting):
            return
        pull = turn.state.running.get(self._owner, OwnPull(turn.now_s))
        in_flight = turn.lookups.in_flight(Lane.PULL)
        latency_s = own[-1].end_s - own[-1].granted_s if own else None
        pull = pull.active(
            turn.now_s, granted=granted, chains=min(64, in_flight + waiting), latency_s=latency_s
        )
        turn.state = turn.state.with_pull(self._owner, pull, turn.now_s)
