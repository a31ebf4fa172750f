"""What runs did and how fresh each resource is, kept in the ledger."""

from __future__ import annotations

from connector.runs.run_history import (
    SENDING,
    Freshness,
    FreshnessLog,
    RunHistory,
    RunRecord,
    new_run_id,
)

__all__ = ["SENDING", "Freshness", "FreshnessLog", "RunHistory", "RunRecord", "new_run_id"]
