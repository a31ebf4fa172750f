"""How fresh each resource is, per destination: what `status` tells without opening it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import sqlalchemy as sa

from connector.budget.database import Database

_metadata = sa.MetaData()


def _table(name: str) -> sa.Table:
    return sa.Table(
        name,
        _metadata,
        sa.Column("label", sa.String(512), primary_key=True),
        sa.Column("resource", sa.String(64), primary_key=True),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("scan", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("last_pull_ms", sa.BigInteger, nullable=False),
        sa.Column("last_complete_ms", sa.BigInteger),
    )


_freshness = _table("freshness")
_published = _table("freshness_published")


def _create_published(connection: sa.Connection) -> None:
    """Where pulls were noted before: what they noted had been published."""
    _published.create(connection)
    connection.execute(sa.insert(_published).from_select(list(_freshness.c.keys()), _freshness))


_MIGRATIONS = (_freshness.create, _create_published)


@dataclass(frozen=True)
class Freshness:
    """One resource after its last finished scan. Times are UTC epoch ms, of a scan's beginning:
    what changed later may be missing. rows: not flagged deleted. reason: why this scan."""

    resource: str
    run_id: str
    scan: str
    reason: str
    rows: int
    last_pull_ms: int
    last_complete_ms: int | None


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
