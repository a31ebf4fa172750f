"""How fresh each resource is, per destination: what `status` tells without opening it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from connector.budget.database import Database


def _table(name: str, *added: sa.Column[Any]) -> sa.Table:
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


def _added() -> tuple[sa.Column[Any], ...]:
    return sa.Column("complete", sa.Boolean), sa.Column("why_incomplete", sa.Text)


_NAMES = ("freshness", "freshness_published")
_freshness, _published = (_table(name, *_added()) for name in _NAMES)
_first_freshness, _first_published = map(_table, _NAMES)


def _create_published(connection: sa.Connection) -> None:
    """Where pulls were noted before: what they noted had been published."""
    _first_published.create(connection)
    names = list(_first_freshness.c.keys())
    connection.execute(sa.insert(_first_published).from_select(names, _first_freshness))


def _add_completeness(connection: sa.Connection) -> None:
    for name in _NAMES:
        for column in ("complete BOOLEAN", "why_incomplete TEXT"):
            connection.exec_driver_sql(f"ALTER TABLE {name} ADD COLUMN {column}")


_MIGRATIONS = (_first_freshness.create, _create_published, _add_completeness)


@dataclass(frozen=True)
class Freshness:
    """One resource after its last scan. Times are UTC epoch ms, of a scan's beginning: what
    changed later may be missing. rows: not flagged deleted. reason: why this scan.

    last_pull_ms: of the last scan that has ended; 0 where none has. complete: whether the last
    scan, if it was a full one, is proven complete. why_incomplete: why not.
    """

    resource: str
    run_id: str
    scan: str
    reason: str
    rows: int
    last_pull_ms: int
    last_complete_ms: int | None
    complete: bool | None = None
    why_incomplete: str | None = None


class FreshnessLog:
    """Freshness in one ledger, by destination label. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("freshness", _MIGRATIONS)

    def note(self, label: str, freshness: Freshness) -> None:
        """Replace what is known of one resource."""
        with self._database.write() as connection:
            connection.execute(
                sa.delete(_freshness).where(
                    _freshness.c.label == label, _freshness.c.resource == freshness.resource
                )
            )
            connection.execute(sa.insert(_freshness).values(label=label, **asdict(freshness)))

    def publish(self, label: str) -> None:
        """From now on readers see what is known of a destination."""
        known = sa.select(_freshness).where(_freshness.c.label == label)
        with self._database.write() as connection:
            connection.execute(sa.delete(_published).where(_published.c.label == label))
            connection.execute(sa.insert(_published).from_select(list(_freshness.c.keys()), known))

    def of(self, label: str) -> list[Freshness]:
        """What is known of a destination, by resource."""
        return self._read(_freshness, label)

    def published(self, label: str) -> list[Freshness]:
        """What readers of a destination see, by resource: as of the last `publish`."""
        return self._read(_published, label)

    def _read(self, table: sa.Table, label: str) -> list[Freshness]:
        columns = [column for column in table.c if column.name != "label"]
        query = sa.select(*columns).where(table.c.label == label)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(table.c.resource))
            return [Freshness(**row._mapping) for row in rows]
