"""`_hc_runs` and `_hc_freshness`: what the ledger knows about runs, as tables beside the rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from connector.history import Freshness, RunRecord
from pipelines.destination.loader import Batch

Columns = dict[str, dict[str, Any]]


def _columns(key: str, **types: str) -> Columns:
    return {
        name: {"name": name, "data_type": data_type, "nullable": name != key}
        | ({"primary_key": True} if name == key else {})
        for name, data_type in types.items()
    }


RUN_COLUMNS = _columns(
    "run_id", run_id="text", kind="text", status="text", started_at="timestamp",
    finished_at="timestamp", requests="bigint", rows_read="bigint", rows_written="bigint",
    rows_deleted="bigint", resources="json", summary="json", error="text",
)  # fmt: skip
FRESHNESS_COLUMNS = _columns(
    "resource", resource="text", run_id="text", scan="text", reason="text", rows="bigint",
    last_pull_at="timestamp", last_complete_at="timestamp", complete="bool", why_incomplete="text",
)  # fmt: skip


def runs_batch(records: Iterable[RunRecord]) -> Batch:
    """A row of `_hc_runs` per run."""
    return Batch("_hc_runs", [_run_row(record) for record in records], RUN_COLUMNS, key="run_id")


def freshness_batch(freshness: Iterable[Freshness]) -> Batch:
    """A row of `_hc_freshness` per resource."""
    rows = [
        {
            "resource": fresh.resource,
            "run_id": fresh.run_id,
            "scan": fresh.scan,
            "reason": fresh.reason,
            "rows": fresh.rows,
            "last_pull_at": at(fresh.last_pull_ms or None),
            "last_complete_at": at(fresh.last_complete_ms),
            "complete": fresh.complete,
            "why_incomplete": fresh.why_incomplete,
        }
        for fresh in freshness
    ]
    return Batch("_hc_freshness", rows, FRESHNESS_COLUMNS, key="resource")


def at(ms: int | None) -> datetime | None:
    """UTC epoch ms as a time."""
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)


def _run_row(record: RunRecord) -> dict[str, Any]:
    resources: Mapping[str, Mapping[str, Any]] = record.summary.get("resources", {})
    return {
        "run_id": record.run_id,
        "kind": record.kind,
        "status": record.status,
        "started_at": at(record.started_ms),
        "finished_at": at(record.finished_ms),
        "requests": record.summary.get("requests"),
        **{name: _sum(resources, name) for name in ("rows_read", "rows_written", "rows_deleted")},
        "resources": dict(resources) or None,
        "summary": record.summary,
        "error": record.error,
    }


def _sum(resources: Mapping[str, Mapping[str, Any]], name: str) -> int | None:
    counts = [int(facts.get(name, 0)) for facts in resources.values()]
    return sum(counts) if counts else None
