"""What the destination knows of the rows that a narrow scan should meet."""

from __future__ import annotations

from datetime import UTC, datetime

from connector.source.fields import DELETED_COLUMN, UNLISTED_COLUMN
from connector.source.row_maker import column_name
from connector.source.scans import ScanKind, ScanPlan
from pipelines.destination.destination import Destination


def newest_known_ms(destination: Destination, plan: ScanPlan) -> int | None:
    """The newest time of a head scan's order among the rows that its list should begin with."""
    columns = destination.columns(plan.resource)
    name = column_name(plan.order) if plan.order else ""
    if plan.kind is not ScanKind.HEAD or columns.get(name, {}).get("data_type") != "timestamp":
        return None
    unpinned = " AND pin IS NOT TRUE" if columns.get("pin", {}).get("data_type") == "bool" else ""
    sql = (
        f"SELECT max({name}) FROM {destination.name(plan.resource)} "  # noqa: S608 - names of ours
        f"WHERE {DELETED_COLUMN} IS NULL AND {UNLISTED_COLUMN} IS NULL{unpinned}"
    )
    ((newest,),) = destination.query(sql)
    return round(newest.timestamp() * 1000) if newest else None


def expected_ids(destination: Destination, plan: ScanPlan) -> list[str]:
    """Rows that the plan's filters should match, as far as the destination knows."""
    if plan.backfill or not destination.columns(plan.resource):
        return []
    if plan.kind is ScanKind.OPEN:
        where, parameters = "completed_at IS NULL", []
    elif plan.kind is ScanKind.WINDOW:
        where = "meeting_date >= %s AND meeting_date <= %s"
        names = ("meetingDateAfter", "meetingDateBefore")
        parameters = [datetime.fromtimestamp(int(plan.params[name]) / 1000, UTC) for name in names]
    else:
        return []
    sql = (
        f"SELECT id FROM {destination.name(plan.resource)} "  # noqa: S608 - names of ours
        f"WHERE {DELETED_COLUMN} IS NULL AND {UNLISTED_COLUMN} IS NULL AND {where}"
    )
    return [row[0] for row in destination.query(sql, parameters)]
