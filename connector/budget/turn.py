"""One exchange with the ledger, step by step, inside its transaction.

Answers teach (`learn`), room is granted (`grant`), the others are told who waits (`as_seen`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from connector.budget import Lane, booking, owners
from connector.budget.booking import Answered, Ended, KeyRow
from connector.budget.lookups import Lookups, OwnRequests, Unanswered
from connector.budget.owners import Owner
from connector.budget.policy import feedback, permits
from connector.budget.policy.lanes import Pulls
from connector.budget.policy.learnt import FeedbackState
from connector.budget.policy.permits import Facts, Terms
from connector.budget.policy.windows import Window
from connector.budget.statements import Transaction

REFRESH_S = 10.0
"""A process that waits says so again this often, so that others don't wait for the dead."""
ELDERS_GLANCE_S = 0.02
"""Slots left for others who have waited longer are looked at again after this."""


@dataclass(frozen=True)
class Configured:
    """What this process was told. windows: shortest first. request_timeout_s: total, per request.
    jitter: uniform in [0, 1)."""

    windows: Sequence[Window]
    request_timeout_s: float
    jitter: Callable[[], float]


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
class Turn:
    """One exchange while it is in progress. owner: this process, as the others see it."""

    configured: Configured
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

    def learn(self) -> None:
        """Let the answers correct what is known of the server."""
        before = self.learnt
        for each in self.ended:
            own = OwnRequests(
                self.tx, self.row.key, self.lookups, newest=self.row.newest,
                granted_s=each.granted_s, answered_s=each.end_s,
            )  # fmt: skip
            self.learnt = feedback.update(
                self.learnt, self.configured.windows, each.reading, own,
                granted_s=each.granted_s, now_s=each.end_s, jitter=self.configured.jitter(),
            )  # fmt: skip
            latency_s = each.end_s - each.granted_s
            self.row.latency_s = owners.smoothed_s(self.row.latency_s, latency_s)
        if self.learnt != before:
            self.row.learnt = self.learnt.dumps()

    def grant(self) -> None:
        """Grant what there is room for, pulls first; note when to ask again for the rest."""
        holds: Terms | None = None
        for lane in (Lane.PULL, Lane.PUSH):
            if self.waiting(lane):
                facts = self.facts()
                if holds is None:
                    holds = permits.terms(self.configured.windows, self.learnt, self.pulls, facts)
                self._grant_lane(holds, facts, lane)

    def _grant_lane(self, holds: Terms, facts: Facts, lane: Lane) -> None:
        asked = self.waiting(lane)
        elders = owners.elders_waiting(self.others, lane, self.since_s(lane), self.now_s)
        room = permits.room(holds, facts, lane, asked + elders)
        count = max(0, min(asked, room - elders))
        self.granted[lane] = self._add(lane, count)
        if self.waiting(lane):
            at_s = permits.retry_at_s(
                self.configured.windows, holds, self.facts(), lane, self.lookups.free_at_s
            )
            at_s = self.now_s + ELDERS_GLANCE_S if count < room else at_s
            self.retry_s[lane] = min(at_s, self.now_s + REFRESH_S)

    def _add(self, lane: Lane, count: int) -> list[int]:
        deadline_s = permits.deadline_s(self.now_s, self.configured.request_timeout_s)
        permit = Unanswered(
            push=lane is Lane.PUSH,
            granted_s=self.now_s,
            awaited_until_s=deadline_s - permits.GRACE_S,
            deadline_s=deadline_s,
        )
        self.lookups.granted(permit, count)
        return booking.grant(self.tx, self.row, self.owner.owner, permit, count)

    def as_seen(self) -> Owner:
        """This process' row after the exchange; the same where nobody needs to know more."""
        pulls, pushes = self.waiting(Lane.PULL), self.waiting(Lane.PUSH)
        owner = self.owner
        if pulls or pushes or owner.waiting_pull or owner.waiting_push:
            owner = replace(
                owner, seen_s=self.now_s, waiting_pull=pulls, waiting_push=pushes,
                pull_since_s=self.since_s(Lane.PULL), push_since_s=self.since_s(Lane.PUSH),
                valid_until_s=max(self.retry_s.values(), default=self.now_s) + owners.LATE_S,
            )  # fmt: skip
        answers = [each for each in self.ended if each.own and not each.push]
        granted = len(self.granted.get(Lane.PULL, ()))
        if not (answers or granted or pulls):
            return owner
        return owner.pulled(
            self.now_s,
            granted=granted,
            chains=min(64, self.lookups.in_flight(Lane.PULL) + pulls),
            latency_s=answers[-1].end_s - answers[-1].granted_s if answers else None,
        )
