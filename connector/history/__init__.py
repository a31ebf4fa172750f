"""What runs did and how fresh each resource is, kept in the ledger."""

from __future__ import annotations

from connector.history.runs import SENDING, Freshness, FreshnessLog, History, RunRecord, new_run_id

__all__ = ["SENDING", "Freshness", "FreshnessLog", "History", "RunRecord", "new_run_id"]
