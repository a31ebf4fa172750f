"""Who is connected: one row per process and budget, with how many of its callers wait.

A row of a process that died counts for nothing: on this host its pid is gone, elsewhere what it
said lapses within seconds.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from connector.budget import Lane
from connector.budget.schema import owners

HOST = socket.gethostname()[:255]
_FORGOTTEN_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Owner:
    """A connected process. since_s, seen_s: ledger seconds. waiting: callers, by lane."""

    owner: str
    pid: int
    host: str
    command: str
    since_s: float
    seen_s: float
    waiting: Mapping[Lane, int]


def connect(connection: sa.Connection, key: str, owner: str, now_s: float) -> None:
    """Say that this process is there."""
    values = {
        "key": key, "owner": owner, "pid": os.getpid(), "host": HOST,
        "command": " ".join([Path(sys.argv[0] or "python").name, *sys.argv[1:2]])[:255],
        "since_s": now_s, "seen_s": now_s,
        "waiting_pull": 0, "waiting_push": 0, "valid_until_s": now_s,
    }  # fmt: skip
    connection.execute(sa.insert(owners).values(values))


def disconnect(connection: sa.Connection, key: str, owner: str) -> None:
    connection.execute(sa.delete(owners).where(owners.c.key == key, owners.c.owner == owner))


_SAY = (
    sa.update(owners)
    .where(owners.c.key == sa.bindparam("k"), owners.c.owner == sa.bindparam("o"))
    .values(
        seen_s=sa.bindparam("now"),
        waiting_pull=sa.bindparam("pull"),
        waiting_push=sa.bindparam("push"),
        valid_until_s=sa.bindparam("until"),
    )
)


def say_waiting(
    connection: sa.Connection, key: str, owner: str,
    waiting: Mapping[Lane, int], *, now_s: float, valid_until_s: float,
) -> None:  # fmt: skip
    """Tell the others how many callers wait here, until they ask again."""
    values = {"k": key, "o": owner, "now": now_s, "until": valid_until_s}
    connection.execute(_SAY, {**values, "pull": waiting[Lane.PULL], "push": waiting[Lane.PUSH]})


_WAITING = sa.select(
    owners.c.pid, owners.c.host, owners.c.waiting_pull, owners.c.waiting_push
).where(
    owners.c.key == sa.bindparam("k"),
    owners.c.owner != sa.bindparam("o"),
    owners.c.valid_until_s > sa.bindparam("now"),
)


def others_waiting(
    connection: sa.Connection, key: str, owner: str, now_s: float
) -> dict[Lane, int]:
    """Callers that wait in other living processes, by lane."""
    found = {Lane.PULL: 0, Lane.PUSH: 0}
    for row in connection.execute(_WAITING, {"k": key, "o": owner, "now": now_s}):
        if _may_live(row.pid, row.host):
            found[Lane.PULL] += row.waiting_pull
            found[Lane.PUSH] += row.waiting_push
    return found


def connected(connection: sa.Connection, key: str, now_s: float) -> list[Owner]:
    """Living processes, in the order they came; of those on other hosts, seen within a day."""
    rows = connection.execute(
        sa.select(owners).where(owners.c.key == key).order_by(owners.c.since_s)
    )
    return [
        Owner(
            row.owner, row.pid, row.host, row.command, row.since_s, row.seen_s,
            {Lane.PULL: row.waiting_pull, Lane.PUSH: row.waiting_push}
            if row.valid_until_s > now_s else {Lane.PULL: 0, Lane.PUSH: 0},
        )
        for row in rows
        if _may_live(row.pid, row.host) and now_s - row.seen_s < _FORGOTTEN_S
    ]  # fmt: skip


def forget_dead(connection: sa.Connection, key: str, now_s: float) -> None:
    rows = connection.execute(sa.select(owners).where(owners.c.key == key)).all()
    for row in rows:
        if not _may_live(row.pid, row.host) or now_s - row.seen_s >= _FORGOTTEN_S:
            disconnect(connection, key, row.owner)


def _may_live(pid: int, host: str) -> bool:
    if host != HOST:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
