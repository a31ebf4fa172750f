"""Which installation published a copy: two that publish to one path would undo each other's work.

State is kept per user, so another user, another machine or another state directory has a ledger
and a working file of its own. Machines that share a PostgreSQL ledger are one installation.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb
import sqlalchemy as sa

from connector.errors import CopyOfAnother
from connector.logs import get_logger
from connector.settings import Settings
from pipelines.destination.datasets import MARK, TableName

_log = get_logger("publish")
_YIELDS_AFTER_S = 86_400.0
_NOTE = "Published by installation {} at {} ms."
_NOTED = re.compile(r"Published by installation ([0-9a-f]{16}) at (\d{1,15}) ms\.")


@dataclass(frozen=True)
class Publisher:
    """Who published a copy, and when (UTC epoch ms). id: 16 hex digits, that of an installation."""

    id: str
    published_ms: int


def installation_id(settings: Settings) -> str:
    """16 hex digits that stand for the ledger in use, wherever it is."""
    url = sa.make_url(settings.resolved_ledger_url)
    if url.get_backend_name() == "sqlite":
        place = f"{socket.gethostname()}\0{os.getuid()}\0{url.database}"
    else:
        place = f"{url.host}\0{url.port or 5432}\0{url.database}"
    return hashlib.sha256(place.encode()).hexdigest()[:16]


def sign(cursor: duckdb.DuckDBPyConnection, alias: str, dataset: str, own_id: str) -> None:
    """Note in the attached copy `alias` that installation `own_id` publishes it now: a comment of
    its table of runs, where no query meets it."""
    table = f"{alias}.{TableName(dataset, MARK)}"
    cursor.execute(f"COMMENT ON TABLE {table} IS '{_NOTE.format(own_id, time.time_ns() // 10**6)}'")


def publisher_of(connection: duckdb.DuckDBPyConnection) -> Publisher | None:
    """Who published the opened copy last; None where it doesn't say."""
    rows = connection.execute(
        "SELECT comment FROM duckdb_tables() WHERE table_name = ? AND comment IS NOT NULL", [MARK]
    ).fetchall()
    found = [match for (comment,) in rows if (match := _NOTED.fullmatch(comment))]
    return max(
        (Publisher(match[1], int(match[2])) for match in found),
        key=lambda publisher: publisher.published_ms,
        default=None,
    )


def refuse_another(
    path: Path, publisher: Publisher | None, own_id: str, *, take_over: bool
) -> None:
    """Leave a copy alone that another installation keeps up to date.

    Raises:
        CopyOfAnother: it was published within a day, and isn't to be taken over.
    """
    if publisher is None or publisher.id == own_id:
        return
    age_s = max(0.0, time.time() - publisher.published_ms / 1000)
    if not take_over and age_s < _YIELDS_AFTER_S:
        raise CopyOfAnother(path=str(path), age_s=age_s)
    _log.warning("publish.taken_over", file=str(path), age_s=round(age_s), by_hand=take_over)
