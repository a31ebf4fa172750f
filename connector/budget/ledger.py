"""The ledger of one key: every change is one short write transaction under the key's lock.

An `exchange` books answers, learns from them, and grants what the policy allows. `permits`
decides, `lookups` and `booking` read and write, `turn` puts them in order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from connector.budget import booking, owners
from connector.budget.booking import KeyRow
from connector.budget.clockrules import LedgerClock
from connector.budget.database import Database
from connector.budget.lookups import Lookups
from connector.budget.past_pulls import PastPulls
from connector.budget.policy.lanes import Pulls
from connector.budget.policy.learnt import FeedbackState
from connector.budget.policy.windows import Window
from connector.budget.schema import MIGRATIONS
from connector.budget.statements import Transaction
from connector.budget.turn import Configured, Exchange, Request, Turn


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
        self._configured = Configured(windows, request_timeout_s, jitter)
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
            turn.learn()
            turn.grant()
            owner = turn.as_seen()
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

    def _begin(self, tx: Transaction, row: KeyRow, request: Request, now_s: float) -> Turn:
        booking.give_back(tx, row, request.unsent)
        booking.stop_awaiting(tx, row, request.unanswered)
        ended = booking.book(tx, row, request.answers, self._owner.owner, now_s)
        lookups = Lookups(
            tx, self._key, self._configured.windows,
            newest=row.newest, pruned=row.pruned, now_s=now_s,
        )  # fmt: skip
        everybody = owners.everybody(tx, self._key)
        waiting = [each for each in everybody if each.waits_at(now_s) and each.may_live]
        past = PastPulls.loads(row.past_pulls)
        pulling = owners.together([each for each in everybody if each.pulls_at(now_s)])
        return Turn(
            self._configured, tx, row, request, lookups, self._owner,
            [each for each in waiting if each.owner != self._owner.owner],
            Pulls(past.starts_s, past.costs, pulling),
            FeedbackState.loads(row.learnt),
            ended,
        )  # fmt: skip

    def _prune(self, turn: Turn) -> None:
        turn.row.keep_s = max(
            turn.row.keep_s, *(window.held_s for window in self._configured.windows)
        )
        if turn.row.newest.seq - self._pruned_at >= booking.PRUNE_EVERY:
            booking.prune(turn.tx, turn.row, turn.now_s)
            self._pruned_at = turn.row.newest.seq
