"""Runs and freshness, kept in the ledger: what pulls and pushes did, and how fresh lists are."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import sqlalchemy as sa

from connector.budget.database import Database, create_missing
from connector.clock import wall_ms
from connector.errors import printable

_metadata = sa.MetaData()
_runs = sa.Table(
    "runs",
    _metadata,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("label", sa.String(512), nullable=False),
    sa.Column("lock_name", sa.String(256)),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("started_ms", sa.BigInteger, nullable=False, index=True),
    sa.Column("finished_ms", sa.BigInteger),
    sa.Column("summary", sa.Text, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("landed", sa.Boolean, nullable=False),
)
_RUN_MIGRATIONS = (partial(create_missing, _metadata),)
SENDING = frozenset({"push", "apply", "undo"})
"""The kinds of runs that change people, of which each row has a result."""

_DIED = (
    "The process ended without a result (killed, or the machine went down); the next run resumed."
)


@dataclass(frozen=True)
class RunRecord:
    """One run. kind: pull, push, apply, undo, forget, verify, or drain (all of a day). label: the
    destination it works for. finished_ms: None while it runs. status: running, ok, failed, stopped
    (by a signal). Times are UTC epoch ms."""

    run_id: str
    kind: str
    label: str
    status: str
    started_ms: int
    finished_ms: int | None
    summary: dict[str, Any]
    error: str | None


def new_run_id() -> str:
    """An id that sorts by time: `20261122T011500-3f9c2a`."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + secrets.token_hex(3)


class RunHistory:
    """The runs in one ledger. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("history", _RUN_MIGRATIONS)

    def start(self, run_id: str, kind: str, label: str, *, lock_name: str | None = None) -> None:
        """Record that a run has begun.

        lock_name: the lock that this run holds; a run that held it before and is still "running"
        has died and is recorded as failed.
        """
        with self._database.write() as connection:
            if lock_name is not None:
                connection.execute(
                    sa.update(_runs)
                    .where(_runs.c.lock_name == lock_name, _runs.c.status == "running")
                    .values(status="failed", finished_ms=wall_ms(), error=_DIED)
                )
            facts = {"run_id": run_id, "kind": kind, "label": label, "lock_name": lock_name}
            begun = {"status": "running", "started_ms": wall_ms(), "summary": "{}"}
            connection.execute(sa.insert(_runs).values(**facts, **begun, landed=False))

    def finish(
        self, run_id: str, status: str, summary: Mapping[str, Any], error: str | None = None
    ) -> None:
        """Close a run. error: its message, free of secrets and personal data."""
        with self._database.write() as connection:
            connection.execute(
                sa.update(_runs)
                .where(_runs.c.run_id == run_id)
                .values(
                    status=status, finished_ms=wall_ms(), error=error and printable(error),
                    summary=json.dumps(summary, default=str),
                )
            )  # fmt: skip

    def add(
        self,
        run_id: str,
        kind: str,
        label: str,
        status: str,
        summary: Mapping[str, Any],
        error: str | None = None,
        *,
        started_ms: int,
    ) -> None:
        """Record a run that has ended, and that held no lock; see `start` and `finish`."""
        facts = {"run_id": run_id, "kind": kind, "label": label, "status": status}
        times = {"started_ms": started_ms, "finished_ms": wall_ms()}
        outcome = {"summary": json.dumps(summary, default=str), "error": error and printable(error)}
        with self._database.write() as connection:
            connection.execute(sa.insert(_runs).values(**facts, **times, **outcome, landed=False))

    def add_to_day(self, run_id: str, kind: str, label: str, summary: Mapping[str, Any]) -> str:
        """Count a short run into the one of its kind that stands for the day (UTC); its id.

        run_id: of a day's first. summary: numbers are added to those of the day, also inside of
        objects; other values replace them. What ended it is its `status`, or `ok`.
        """
        now_ms = wall_ms()
        today = (
            _runs.c.kind == kind, _runs.c.label == label,
            _runs.c.started_ms >= now_ms - now_ms % 86_400_000,
        )  # fmt: skip
        newest = sa.select(_runs.c.run_id, _runs.c.summary).where(*today)
        message = summary.get("error", {}).get("message")
        facts = {
            "finished_ms": now_ms, "landed": False, "status": summary.get("status", "ok"),
            "error": message and printable(message),
        }  # fmt: skip
        with self._database.write() as connection:
            found = connection.execute(newest.order_by(_runs.c.started_ms.desc())).first()
            known = {"run_id": run_id} if found is None else json.loads(found.summary)
            known.pop("error", None)
            total = json.dumps(_added(known, summary), default=str)
            if found is None:
                new = {"run_id": run_id, "kind": kind, "label": label, "started_ms": now_ms}
                connection.execute(sa.insert(_runs).values(**new, **facts, summary=total))
                return run_id
            mine = _runs.c.run_id == found.run_id
            connection.execute(sa.update(_runs).where(mine).values(**facts, summary=total))
            return str(found.run_id)

    def recent(self, n: int, label: str | None = None) -> list[RunRecord]:
        """The last `n` runs, newest first; with `label`, of one destination only."""
        query = sa.select(_runs).order_by(_runs.c.started_ms.desc()).limit(n)
        return self._select(query if label is None else query.where(_runs.c.label == label))

    def find(self, prefix: str) -> list[RunRecord]:
        """The run of this id, else up to ten whose ids begin with it, newest first."""
        begins = _runs.c.run_id.startswith(prefix, autoescape=True)
        query = sa.select(_runs).where(begins).order_by(_runs.c.run_id.desc())
        found = self._select(query.limit(10))
        return [record for record in found if record.run_id == prefix] or found

    def unlanded(self, label: str) -> list[RunRecord]:
        """Finished runs of one destination that its `_hc_runs` doesn't have yet, oldest first."""
        waiting = (_runs.c.label == label, ~_runs.c.landed, _runs.c.status != "running")
        return self._select(sa.select(_runs).where(*waiting).order_by(_runs.c.started_ms))

    def mark_landed(self, run_ids: Iterable[str]) -> None:
        """Record that the destination's `_hc_runs` has these runs."""
        landed = sa.update(_runs).where(_runs.c.run_id.in_([*run_ids])).values(landed=True)
        with self._database.write() as connection:
            connection.execute(landed)

    def edit_texts(
        self, having: Sequence[str], change: Callable[[str], str], *, dry_run: bool = False
    ) -> int:
        """Change summaries and errors that contain one of some texts; how many. dry_run: only
        count."""
        count = 0
        with self._database.write(keeps=not dry_run) as connection:
            for column in (_runs.c.summary, _runs.c.error):
                found = sa.or_(
                    sa.false(), *(column.contains(each, autoescape=True) for each in having)
                )
                query = sa.select(_runs.c.run_id, column).where(found)
                for run_id, text in connection.execute(query).fetchall():
                    if (changed := change(text)) != text:
                        update = sa.update(_runs).where(_runs.c.run_id == run_id)
                        connection.execute(update.values({column.name: changed}))
                        count += 1
        return count

    def _select(self, query: sa.Select[Any]) -> list[RunRecord]:
        names = [each.name for each in fields(RunRecord)]
        with self._database.read() as connection:
            found = [dict(row._mapping) for row in connection.execute(query)]
        for row in found:
            row["summary"] = json.loads(row["summary"])
        return [RunRecord(**{name: row[name] for name in names}) for row in found]


def _added(known: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`known` with the numbers of `more` added to its own, at any depth."""
    total = dict(known)
    for name, value in more.items():
        if isinstance(value, Mapping):
            total[name] = _added(total.get(name) or {}, value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            total[name] = value + (total.get(name) or 0)
        else:
            total[name] = value
    return total


def _freshness_table(name: str, *added: sa.Column[Any]) -> sa.Table:
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column("label", sa.String(512), primary_key=True),
        sa.Column("resource", sa.String(64), primary_key=True),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("scan", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("last_pull_ms", sa.BigInteger, nullable=False),
        sa.Column("last_complete_ms", sa.BigInteger),
        *added,
    )


_NAMES = ("freshness", "freshness_published")
_first_freshness, _first_published = map(_freshness_table, _NAMES)
_freshness, _published = (
    _freshness_table(
        name,
        sa.Column("complete", sa.Boolean),
        sa.Column("why_incomplete", sa.Text),
        sa.Column("last_event_ms", sa.BigInteger),
        sa.Column("event_miss_rate", sa.Double),
    )
    for name in _NAMES
)


def _create_published(connection: sa.Connection) -> None:
    """Before this table, pulls recorded freshness only once it was published."""
    _first_published.create(connection)
    names = list(_first_freshness.c.keys())
    connection.execute(sa.insert(_first_published).from_select(names, _first_freshness))


def _add_completeness(connection: sa.Connection) -> None:
    for name in _NAMES:
        for column in ("complete BOOLEAN", "why_incomplete TEXT"):
            connection.exec_driver_sql(f"ALTER TABLE {name} ADD COLUMN {column}")


def _add_events(connection: sa.Connection) -> None:
    for name in _NAMES:
        for column in ("last_event_ms BIGINT", "event_miss_rate DOUBLE PRECISION"):
            connection.exec_driver_sql(f"ALTER TABLE {name} ADD COLUMN {column}")


_FRESHNESS_MIGRATIONS = (
    _first_freshness.create, _create_published, _add_completeness, _add_events,
)  # fmt: skip


@dataclass(frozen=True)
class Freshness:
    """One resource after its last scan. Times are UTC epoch ms, of a scan's start: later changes
    may be missing. rows: live ones. reason: why this scan.

    last_pull_ms: of the last scan that ended; 0 if none did. complete: whether the last scan, if
    it was a full one, is proven complete. why_incomplete: why not. last_event_ms: when the last
    event about one of its rows came. event_miss_rate: the part of the changes that events had
    missed, by the last full scan.
    """

    resource: str
    run_id: str = ""
    scan: str = ""
    reason: str = ""
    rows: int = 0
    last_pull_ms: int = 0
    last_complete_ms: int | None = None
    complete: bool | None = None
    why_incomplete: str | None = None
    last_event_ms: int | None = None
    event_miss_rate: float | None = None


class FreshnessLog:
    """Freshness in one ledger, by destination label. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("freshness", _FRESHNESS_MIGRATIONS)

    def note(self, label: str, freshness: Freshness) -> None:
        """Replace the entry of one resource."""
        entry = (_freshness.c.label == label, _freshness.c.resource == freshness.resource)
        with self._database.write() as connection:
            connection.execute(sa.delete(_freshness).where(*entry))
            connection.execute(sa.insert(_freshness).values(label=label, **asdict(freshness)))

    def publish(self, label: str) -> None:
        """Make the current entries of a destination the ones that readers see."""
        known = sa.select(_freshness).where(_freshness.c.label == label)
        with self._database.write() as connection:
            connection.execute(sa.delete(_published).where(_published.c.label == label))
            connection.execute(sa.insert(_published).from_select(list(_freshness.c.keys()), known))

    def of(self, label: str) -> list[Freshness]:
        """The entries of a destination, by resource."""
        return self._read(_freshness, label)

    def published(self, label: str) -> list[Freshness]:
        """The entries that readers of a destination see, by resource: as of the last `publish`."""
        return self._read(_published, label)

    def _read(self, table: sa.Table, label: str) -> list[Freshness]:
        columns = [column for column in table.c if column.name != "label"]
        query = sa.select(*columns).where(table.c.label == label)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(table.c.resource))
            return [Freshness(**row._mapping) for row in rows]
