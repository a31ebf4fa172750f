"""The ledger that production uses, on SQLite, in virtual time: the twin's counterpart.

Each simulated process has a `Ledger` of its own on one file, as real processes do; answers are
booked when they arrive. What the scheduler adds (threads, sleeping) is not here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from connector.budget import Lane
from connector.budget.database import Database
from connector.budget.ledger import Answered, Ledger, Request
from connector.budget.policy import feedback, permits
from connector.budget.policy.windows import Window
from tests.simulator.memory_ledger import Ask, Granted
from tests.simulator.servers import EPOCH_S


@dataclass
class VirtualClock:
    """The ledger's clock, moved by the simulator."""

    at_s: float = 0.0

    def open(self, connection: sa.Connection) -> None: ...

    def now_s(self, connection: sa.Connection) -> float:
        return self.at_s

    def note(self, connection: sa.Connection) -> None: ...


@dataclass
class SqlLedger:
    """The simulator's ledger over `connector.budget.ledger`."""

    path: Path
    windows: tuple[Window, ...]
    request_timeout_s: float = 60.0
    clock: VirtualClock = field(default_factory=VirtualClock)
    granted_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.database = Database(f"sqlite:///{self.path}")
        self._ledgers: dict[str, Ledger] = {}

    def close(self) -> None:
        self.database.close()

    def ask(self, owner: str, lane: Lane, asked: int, now_s: float, ahead: int = 0) -> Ask:
        request = Request(wants={lane: asked}, ahead={lane: ahead})
        exchange = self._of(owner, now_s).exchange(request)
        ids = exchange.granted.get(lane, ())
        self.granted_s += [now_s] * len(ids)
        granted = [self._permit(id, owner, lane, now_s) for id in ids]
        return Ask(granted, now_s + exchange.wait_s.get(lane, 0.0))

    def answered(
        self,
        permit: Granted,
        status: int,
        headers: dict[str, str],
        arrived_s: float,
        now_s: float,
    ) -> None:
        reading = feedback.read_answer(
            status, headers, wall_s=EPOCH_S + arrived_s, longest_s=self.windows[-1].length_s
        )
        answer = Answered(permit.id, arrived_s - now_s, reading, permit.held_s)
        self._of(permit.owner, now_s).exchange(Request(wants={}, answers=[answer]))

    def unanswered(self, permit: Granted) -> None:
        self._of(permit.owner).exchange(Request(wants={}, unanswered=[permit.id]))

    def unsent(self, permit: Granted) -> None:
        self._of(permit.owner).exchange(Request(wants={}, unsent=[permit.id]))

    def died(self, owner: str) -> None:
        """SIGKILL: its rows stay; no thread asks for it any more."""
        self._ledgers.pop(owner, None)

    def _of(self, owner: str, now_s: float | None = None) -> Ledger:
        self.clock.at_s = self.clock.at_s if now_s is None else now_s
        if owner not in self._ledgers:
            self._ledgers[owner] = Ledger(
                self.database,
                key="key",
                owner=owner,
                clock=self.clock,
                windows=self.windows,
                request_timeout_s=self.request_timeout_s,
                jitter=lambda: 0.5,
            )
        return self._ledgers[owner]

    def _permit(self, id: int, owner: str, lane: Lane, now_s: float) -> Granted:
        awaited_s = permits.send_by_s(now_s) + self.request_timeout_s
        deadline_s = permits.deadline_s(now_s, self.request_timeout_s)
        return Granted(id, lane, owner, now_s, deadline_s, awaited_s)
