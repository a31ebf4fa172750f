"""Who is connected: one row per process and budget, with who waits there and what it pulls.

A row of a process that died counts for nothing: on this host its pid is gone, elsewhere what it
said lapses within seconds.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import sqlalchemy as sa

from connector.budget import Lane
from connector.budget.policy.lanes import HEARTBEAT_S, RunningPull
from connector.budget.schema import owners
from connector.budget.statements import Statement, Transaction

HOST = socket.gethostname()[:255]
FORGOTTEN_S = 86_400.0
LATE_S = 1.0
"""A process that waits is believed for so long after it should have asked again."""
_DUE_S = 0.05
_SMOOTHING = 0.2
_UNDECLARED_AFTER = 5
"""A process that reads without saying that it pulls is taken for a pull from here on."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A connected process; the columns of its row, times in ledger seconds."""

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

    def waiting(self, lane: Lane) -> int:
        return self.waiting_pull if lane is Lane.PULL else self.waiting_push

    def since(self, lane: Lane) -> float:
        """Since when the first of those that wait has waited."""
        return self.pull_since_s if lane is Lane.PULL else self.push_since_s

    @property
    def may_live(self) -> bool:
        """False where the process is known to be gone."""
        if self.host != HOST:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def waits_at(self, now_s: float) -> bool:
        return self.valid_until_s > now_s and self.waiting_pull + self.waiting_push > 0

    def pulls_at(self, now_s: float) -> bool:
        known = self.pull_declared or self.pull_requests >= _UNDECLARED_AFTER
        return bool(known) and now_s - self.pull_seen_s <= HEARTBEAT_S

    def pulled(self, now_s: float, *, granted: int, chains: int, latency_s: float | None) -> Owner:
        """This process after its pull asked, was granted permits, or was answered."""
        return replace(
            self,
            pull_seen_s=now_s,
            pull_requests=self.pull_requests + granted,
            pull_chains=max(1, chains, self.pull_chains * 9 // 10),
            pull_latency_s=smoothed_s(self.pull_latency_s, latency_s),
        )


_COLUMNS = [owners.c[field.name] for field in fields(Owner)]
_KEY = owners.c.key == sa.bindparam("key")
_ALL = Statement(sa.select(*_COLUMNS).where(_KEY).order_by(owners.c.since_s))
_INSERT = Statement(sa.insert(owners).values({c.name: sa.bindparam(c.name) for c in _COLUMNS}))
_DELETE = Statement(sa.delete(owners).where(_KEY, owners.c.owner == sa.bindparam("owner")))
_IDENTITY = ("key", "owner", "pid", "host", "command", "since_s")
_CHANGING = [column for column in _COLUMNS if column.name not in _IDENTITY]
_UPDATE = Statement(
    sa.update(owners)
    .where(_KEY, owners.c.owner == sa.bindparam("of"))
    .values({column.name: sa.bindparam(column.name) for column in _CHANGING})
)


def this_process(key: str, owner: str, now_s: float) -> Owner:
    """The row of this process; of its command line no more than the command's name."""
    command = " ".join([Path(sys.argv[0] or "python").name, *sys.argv[1:2]])
    return Owner(key, owner, os.getpid(), HOST, command[:255], now_s, now_s)


def connect(tx: Transaction, owner: Owner) -> None:
    tx.run(_INSERT, **asdict(owner))


def disconnect(tx: Transaction, key: str, owner: str) -> None:
    tx.run(_DELETE, key=key, owner=owner)


def say(tx: Transaction, owner: Owner) -> None:
    """Tell the others what has changed here."""
    changed = {column.name: getattr(owner, column.name) for column in _CHANGING}
    tx.run(_UPDATE, key=owner.key, of=owner.owner, **changed)


def everybody(tx: Transaction, key: str) -> list[Owner]:
    """All rows of a key, those who came first before the others."""
    return [Owner(*row) for row in tx.all(_ALL, key=key)]


def forget_dead(tx: Transaction, key: str, now_s: float) -> None:
    for each in everybody(tx, key):
        if not each.may_live or now_s - each.seen_s >= FORGOTTEN_S:
            disconnect(tx, key, each.owner)


def elders_waiting(others: Iterable[Owner], lane: Lane, since_s: float, now_s: float) -> int:
    """Callers in other processes that may have waited for longer than since `since_s`, and that
    are about to ask; a slot that frees unexpectedly is not left to those who sleep."""
    due_s = now_s + LATE_S + _DUE_S
    return sum(
        each.waiting(lane)
        for each in others
        if each.since(lane) < since_s and each.valid_until_s <= due_s
    )


def together(pulling: Sequence[Owner]) -> RunningPull | None:
    """Pulls that run at once, as one with all their needs."""
    if not pulling:
        return None
    expected = [each.pull_expected for each in pulling if each.pull_expected is not None]
    latencies_s = [each.pull_latency_s for each in pulling if each.pull_latency_s is not None]
    return RunningPull(
        seen_s=max(each.pull_seen_s for each in pulling),
        requests=sum(each.pull_requests for each in pulling),
        expected=sum(expected) if len(expected) == len(pulling) else None,
        chains=sum(each.pull_chains for each in pulling),
        latency_s=min(latencies_s, default=None),
    )


def smoothed_s(before_s: float | None, new_s: float | None) -> float | None:
    """An exponential mean; None before the first value."""
    if before_s is None or new_s is None:
        return before_s if new_s is None else new_s
    return before_s + _SMOOTHING * (new_s - before_s)
