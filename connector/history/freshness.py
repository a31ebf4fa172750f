"""How fresh each resource is, per destination: what `status` tells without opening it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import sqlalchemy as sa

from connector.budget.database import Database

_metadata = sa.MetaData()
_freshness = sa.Table(
    "freshness",
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
_MIGRATIONS = (_metadata.create_all,)


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

    def of(self, label: str) -> list[Freshness]:
        """What is known of a destination, by resource."""
        columns = [column for column in _freshness.c if column.name != "label"]
        query = sa.select(*columns).where(_freshness.c.label == label)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(_freshness.c.resource))
            return [Freshness(**row._mapping) for row in rows]
