"""The ledger of one key: every change is one short write transaction under the key's lock.

An `exchange` books answers, learns from them, and grants what the policy allows. `permits`
decides, `lookups` and `booking` read and write; this module puts them in order.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from connector.budget import Lane, booking, feedback, owners, permits
from connector.budget.booking import Answered, Ended, KeyRow
from connector.budget.clockrules import LedgerClock
from connector.budget.database import Database
from connector.budget.lanes import Pulls
from connector.budget.learnt import FeedbackState
from connector.budget.lookups import Lookups, OwnRequests, Unanswered
from connector.budget.owners import Owner
from connector.budget.past_pulls import PastPulls
from connector.budget.permits import Facts, Terms
from connector.budget.schema import MIGRATIONS
from connector.budget.statements import Transaction
from connector.budget.windows import Window

REFRESH_S = 10.0
"""A process that waits says so again this often, so that others don't wait for the dead."""
ELDERS_GLANCE_S = 0.02
"""Slots left for others who have waited longer are looked at again after this."""
_VALID_S = 1.0


@dataclass(frozen=True)
class Request:
    """What one process brings: callers that wait, by lane; answers; permit ids that got none
    (`unanswered`) or whose request never left (`unsent`). oldest_s: seconds that the first of
    those that wait has waited, by lane."""

    wants: Mapping[Lane, int]
    oldest_s: Mapping[Lane, float] = field(default_factory=dict)
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
    """One exchange while it is in progress. owner: this process, as the others see it."""

    tx: Transaction
    row: KeyRow
    request: Request
    lookups: Lookups
    owner: Owner
    others: Sequence[Owner]
    pulls: Pulls
    learnt: FeedbackState
    ended: Sequence[Ended]
    granted: dict[Lane, list[int]] = field(default_factory=dict)
    retry_s: dict[Lane, float] = field(default_factory=dict)

    @property
    def now_s(self) -> float:
        return self.lookups.now_s

    def waiting(self, lane: Lane) -> int:
        """Callers of this process that wait still."""
        return self.request.wants.get(lane, 0) - len(self.granted.get(lane, ()))

    def others_waiting(self, lane: Lane) -> int:
        return sum(other.waiting(lane) for other in self.others)

    def since_s(self, lane: Lane) -> float:
        return self.now_s - self.request.oldest_s.get(lane, 0.0)

    def facts(self) -> Facts:
        last_s = self.row.last_grant_s
        return Facts(
            now_s=self.now_s,
            live=self.lookups.lives(),
            in_flight=self.lookups.in_flight(),
            waiting_pull=self.waiting(Lane.PULL) + self.others_waiting(Lane.PULL),
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
        self._database, self._key, self._clock = database, key, clock
        self._windows, self._request_timeout_s, self._jitter = windows, request_timeout_s, jitter
        self._pruned_at = 0
        database.migrate("budget", MIGRATIONS)
        with database.quick_write() as tx:
            clock.open(tx)
            now_s = clock.now_s(tx)
            booking.add_key(tx, key, now_s)
            owners.forget_dead(tx, key, now_s)
            self._owner = owners.this_process(key, owner, now_s)
            owners.connect(tx, self._owner)

    @contextmanager
    def _locked(self) -> Iterator[tuple[Transaction, KeyRow, float]]:
        """A write transaction with the key's row locked, and the time read after that."""
        with self._database.quick_write() as tx:
            row = booking.load(tx, self._key, lock=True)
            yield tx, row, self._clock.now_s(tx)
            booking.store(tx, row)
            self._clock.note(tx)

    def exchange(self, request: Request) -> Exchange:
        """Book what `request` brings, grant what it asks for, as far as the windows allow."""
        with self._locked() as (tx, row, now_s):
            turn = self._begin(tx, row, request, now_s)
            held_until_s = turn.learnt.hold_until_s
            self._learn(turn)
            self._grant(turn)
            owner = self._as_others_see(turn)
            if owner != turn.owner:
                owners.say(tx, owner)
            self._prune(turn)
        self._owner = owner  # only now: a transaction that failed told nobody
        hold_s = turn.learnt.hold_until_s
        return Exchange(
            turn.granted,
            {lane: at_s - now_s for lane, at_s in turn.retry_s.items()},
            hold_s=hold_s - now_s if hold_s > max(held_until_s, now_s) else None,
            hold_reason=turn.learnt.hold_reason,
        )

    def pull_started(self, expected: int | None) -> None:
        """Note the start of a pull, so that later ones find room. expected: its requests."""
        with self._locked() as (tx, row, now_s):
            row.past_pulls = PastPulls.loads(row.past_pulls).started(now_s).dumps()
            owner = replace(
                self._owner, pull_declared=1, pull_seen_s=now_s,
                pull_requests=0, pull_expected=expected, pull_chains=1,
            )  # fmt: skip
            owners.say(tx, owner)
        self._owner = owner

    def pull_ended(self, requests: int) -> None:
        """Note what a pull has cost."""
        with self._locked() as (tx, row, _now_s):
            row.past_pulls = PastPulls.loads(row.past_pulls).ended(requests).dumps()
            owner = replace(self._owner, pull_declared=0, pull_seen_s=0.0, pull_requests=0)
            owners.say(tx, owner)
        self._owner = owner

    def close(self) -> None:
        """Leave; permits that are still out count until their deadline."""
        with self._locked() as (tx, _row, _now_s):
            owners.disconnect(tx, self._key, self._owner.owner)

    def _begin(self, tx: Transaction, row: KeyRow, request: Request, now_s: float) -> _Turn:
        booking.give_back(tx, row, request.unsent)
        booking.stop_awaiting(tx, row, request.unanswered)
        ended = booking.book(tx, row, request.answers, self._owner.owner, now_s)
        lookups = Lookups(
            tx, self._key, self._windows, newest=row.newest, pruned=row.pruned, now_s=now_s
        )
        everybody = owners.everybody(tx, self._key)
        waiting = [each for each in everybody if each.waits_at(now_s) and each.may_live]
        past = PastPulls.loads(row.past_pulls)
        pulling = owners.together([each for each in everybody if each.pulls_at(now_s)])
        return _Turn(
            tx, row, request, lookups, self._owner,
            [each for each in waiting if each.owner != self._owner.owner],
            Pulls(past.starts_s, past.costs, pulling),
            FeedbackState.from_json(json.loads(row.learnt)),
            ended,
        )  # fmt: skip

    def _learn(self, turn: _Turn) -> None:
        before = turn.learnt
        for each in turn.ended:
            own = OwnRequests(
                turn.tx, self._key, turn.lookups, newest=turn.row.newest,
                granted_s=each.granted_s, answered_s=each.end_s,
            )  # fmt: skip
            turn.learnt = feedback.update(
                turn.learnt, self._windows, each.reading, own,
                granted_s=each.granted_s, now_s=each.end_s, jitter=self._jitter(),
            )  # fmt: skip
            latency_s = each.end_s - each.granted_s
            turn.row.latency_s = owners.smoothed_s(turn.row.latency_s, latency_s)
        if turn.learnt != before:
            turn.row.learnt = json.dumps(turn.learnt.as_json())

    def _grant(self, turn: _Turn) -> None:
        holds: Terms | None = None
        for lane in (Lane.PULL, Lane.PUSH):
            if turn.waiting(lane):
                facts = turn.facts()
                if holds is None:
                    holds = permits.terms(self._windows, turn.learnt, turn.pulls, facts)
                self._grant_lane(turn, holds, facts, lane)

    def _grant_lane(self, turn: _Turn, holds: Terms, facts: Facts, lane: Lane) -> None:
        asked = turn.waiting(lane)
        elders = owners.elders_waiting(turn.others, lane, turn.since_s(lane))
        room = permits.room(holds, facts, lane, asked + elders)
        count = max(0, min(asked, room - elders))
        turn.granted[lane] = self._add(turn, lane, count)
        if turn.waiting(lane):
            at_s = permits.retry_at_s(
                self._windows, holds, turn.facts(), lane, turn.lookups.free_at_s
            )
            at_s = turn.now_s + ELDERS_GLANCE_S if count < room else at_s
            turn.retry_s[lane] = min(at_s, turn.now_s + REFRESH_S)

    def _add(self, turn: _Turn, lane: Lane, count: int) -> list[int]:
        deadline_s = permits.deadline_s(turn.now_s, self._request_timeout_s)
        permit = Unanswered(
            push=lane is Lane.PUSH,
            granted_s=turn.now_s,
            awaited_until_s=deadline_s - permits.GRACE_S,
            deadline_s=deadline_s,
        )
        turn.lookups.granted(permit, count)
        return booking.grant(turn.tx, turn.row, turn.owner.owner, permit, count)

    def _as_others_see(self, turn: _Turn) -> Owner:
        """This process' row after the exchange; the same where nobody needs to know more."""
        pulls, pushes = turn.waiting(Lane.PULL), turn.waiting(Lane.PUSH)
        owner = turn.owner
        if pulls or pushes or owner.waiting_pull or owner.waiting_push:
            owner = replace(
                owner, seen_s=turn.now_s, waiting_pull=pulls, waiting_push=pushes,
                pull_since_s=turn.since_s(Lane.PULL), push_since_s=turn.since_s(Lane.PUSH),
                valid_until_s=max(turn.retry_s.values(), default=turn.now_s) + _VALID_S,
            )  # fmt: skip
        answers = [each for each in turn.ended if each.own and not each.push]
        granted = len(turn.granted.get(Lane.PULL, ()))
        if not (answers or granted or pulls):
            return owner
        return owner.pulled(
            turn.now_s,
            granted=granted,
            chains=min(64, turn.lookups.in_flight(Lane.PULL) + pulls),
            latency_s=answers[-1].end_s - answers[-1].granted_s if answers else None,
        )

    def _prune(self, turn: _Turn) -> None:
        turn.row.keep_s = max(turn.row.keep_s, *(window.held_s for window in self._windows))
        if turn.row.newest.seq - self._pruned_at >= booking.PRUNE_EVERY:
            booking.prune(turn.tx, turn.row, turn.now_s)
            self._pruned_at = turn.row.newest.seq
