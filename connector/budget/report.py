"""What people ask of the budget: what is used and free now, and when N requests would be done."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa

from connector.budget import Lane, booking, owners
from connector.budget.clockrules import LedgerClock, ledger_clock
from connector.budget.database import Database
from connector.budget.keys import key_id
from connector.budget.lookups import Lookups
from connector.budget.owners import FORGOTTEN_S, Owner
from connector.budget.past_pulls import PastPulls
from connector.budget.policy import permits
from connector.budget.policy.forecast import constraints, forecast
from connector.budget.policy.lanes import Pulls
from connector.budget.policy.learnt import FeedbackState, window_spacing_s
from connector.budget.policy.permits import Facts, Terms
from connector.budget.policy.windows import Limits, Window, windows_of
from connector.budget.schema import spent
from connector.budget.statements import Statement, Transaction, transaction
from connector.clock import SystemClock

_UNKNOWN_LATENCY_S = 0.3
_ENDED = Statement(
    sa.select(spent.c.end_s).where(
        spent.c.key == sa.bindparam("key"), spent.c.end_s > sa.bindparam("since_s")
    )
)


@dataclass(frozen=True, slots=True)
class WindowReport:
    """One window now. limit: as corrected by the server's answers; configured: as set.

    pull, push: requests of each lane that count. push_limit: where pushes stop for pulls.
    next_free_in_s: until one more slot is free; 0 if one is.
    foreign_in_s: how much longer room is left for others that spend from it; 0 if there are none.
    foreign: how many requests of theirs may count. spacing_s: between two requests, 0 for none.
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
    """hold_in_s: seconds until a hold ends, 0 for none. in_flight: requests on their way.

    next_in_s: until the next request may go out, by lane. now_s: ledger seconds.
    """

    now_s: float
    windows: Sequence[WindowReport]
    hold_in_s: float
    hold_reason: str
    in_flight: int
    connected: Sequence[Owner]
    latency_s: float | None
    next_in_s: dict[Lane, float]


@dataclass(frozen=True, slots=True)
class Eta:
    """Seconds from now until the first request goes out, and until the last is answered."""

    first_in_s: float
    done_in_s: float


@dataclass(frozen=True, slots=True)
class _View:
    """The ledger at one moment."""

    lookups: Lookups
    learnt: FeedbackState
    latency_s: float | None
    owners: Sequence[Owner]
    facts: Facts
    holds: Terms


def open_report(database: Database, *, api_key: str, limits: Sequence[Limits]) -> Reporter:
    """A look at a key's budget for who sends nothing. limits: as this process is configured.

    Raises:
        BudgetError: the ledger can't be used.
    """
    key, clock = key_id(api_key, database), ledger_clock(database, SystemClock())
    with database.quick_write() as tx:
        clock.open(tx)
        booking.add_key(tx, key, clock.now_s(tx))
    return Reporter(database, key=key, clock=clock, windows=windows_of(limits))


class Reporter:
    """Reads the ledger without locking it."""

    def __init__(
        self, database: Database, *, key: str, clock: LedgerClock, windows: Sequence[Window]
    ) -> None:
        self._database, self._key, self._clock, self._windows = database, key, clock, windows

    def state(self) -> BudgetState:
        with self._view() as view:
            learnt, now_s = view.learnt, view.facts.now_s
            return BudgetState(
                now_s=now_s,
                windows=[self._window(view, index) for index in range(len(self._windows))],
                hold_in_s=max(0.0, learnt.hold_until_s - now_s),
                hold_reason=learnt.hold_reason if learnt.hold_until_s > now_s else "",
                in_flight=view.facts.in_flight,
                connected=view.owners,
                latency_s=view.latency_s,
                next_in_s={lane: self._eta(view, 1, lane, 1).first_in_s for lane in Lane},
            )

    def forecast(self, count: int, lane: Lane, *, in_flight: int = 64) -> Eta:
        """When `count` more requests of `lane` would be done, `in_flight` at a time at most."""
        with self._view() as view:
            return self._eta(view, count, lane, in_flight)

    def ages_s(self, within_s: float) -> list[float]:
        """How many seconds ago each request of the last `within_s` was answered; older than the
        longest window isn't kept."""
        with self._database.read() as connection, transaction(connection) as tx:
            now_s = self._clock.now_s(tx)
            found = tx.all(_ENDED, key=self._key, since_s=now_s - within_s)
        return [now_s - end_s for (end_s,) in found]

    @contextmanager
    def _view(self) -> Iterator[_View]:
        with self._database.read() as connection, transaction(connection) as tx:
            yield self._seen(tx)

    def _seen(self, tx: Transaction) -> _View:
        row = booking.load(tx, self._key, lock=False)
        now_s = self._clock.now_s(tx)
        lookups = Lookups(
            tx, self._key, self._windows, newest=row.newest, pruned=row.pruned, now_s=now_s
        )
        learnt = FeedbackState.loads(row.learnt)
        there = [
            each
            for each in owners.everybody(tx, self._key)
            if each.may_live and now_s - each.seen_s < FORGOTTEN_S
        ]
        past = PastPulls.loads(row.past_pulls)
        pulling = owners.together([each for each in there if each.pulls_at(now_s)])
        facts = Facts(
            now_s=now_s,
            live=lookups.lives(),
            in_flight=lookups.in_flight(),
            last_grant_s=-math.inf if row.last_grant_s is None else row.last_grant_s,
        )
        pulls = Pulls(past.starts_s, past.costs, pulling)
        holds = permits.terms(self._windows, learnt, pulls, facts)
        return _View(lookups, learnt, row.latency_s, there, facts, holds)

    def _window(self, view: _View, index: int) -> WindowReport:
        window, now_s = self._windows[index], view.facts.now_s
        live, ceiling = view.facts.live[index], view.holds.ceilings[index]
        free_at_s: float | None = now_s
        if live.all >= ceiling.all:
            free_at_s = view.lookups.free_at_s(index, None, ceiling.all - 1)
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
            spacing_s=window_spacing_s(window, learnt, now_s, live.all),
        )

    def _eta(self, view: _View, count: int, lane: Lane, in_flight: int) -> Eta:
        now_s = view.facts.now_s
        latency_s = _UNKNOWN_LATENCY_S if view.latency_s is None else view.latency_s
        ends = [
            view.lookups.ends_s(index, now_s + latency_s) for index in range(len(self._windows))
        ]
        bounds = constraints(
            self._windows, view.holds, lane,
            [both for both, _ in ends], [pushes for _, pushes in ends],
        )  # fmt: skip
        found = forecast(
            bounds, count, now_s=now_s, not_before_s=view.holds.not_before_s,
            spacing_s=view.holds.spacing_s, latency_s=latency_s, in_flight=in_flight,
        )  # fmt: skip
        return Eta(found.first_s - now_s, found.done_s - now_s)
