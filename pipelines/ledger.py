"""The ledger for commands that only look: no key, no API, no destination."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from connector.budget.database import Database
from connector.history import FreshnessLog, History
from connector.settings import Settings
from pipelines.destination.places import prepare_state_dir
from pipelines.destination.relabelling import settle_labels


@dataclass(frozen=True)
class LedgerView:
    """What the ledger knows about runs."""

    database: Database
    history: History
    freshness: FreshnessLog


@contextmanager
def open_ledger(settings: Settings) -> Iterator[LedgerView]:
    """The ledger of the settings, closed at the end.

    Raises:
        BudgetError: it can't be read.
    """
    prepare_state_dir(settings)
    database = Database(settings.resolved_ledger_url)
    try:
        settle_labels(settings, database)
        yield LedgerView(database, History(database), FreshnessLog(database))
    finally:
        database.close()
