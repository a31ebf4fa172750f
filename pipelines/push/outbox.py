"""The outbox of the configured API key: where it is, and the numbers that stand in for names."""

from __future__ import annotations

import hashlib

from connector.budget.database import Database
from connector.budget.keys import key_id
from connector.settings import Settings
from pipelines.places import destination_label


def outbox_database(settings: Settings) -> Database:
    """The outbox's own file beside a SQLite ledger, where a long write blocks no permit; on
    PostgreSQL the ledger's database. Close it after use."""
    return Database(settings.resolved_ledger_url, durable=True, suffix="-outbox")


def scope_of(settings: Settings, ledger: Database) -> int:
    """The number that stands for the API key in the outbox."""
    return int(key_id(settings.key, ledger)[:15], 16)


def destination_number(settings: Settings) -> int:
    """The number that stands for the destination in the outbox."""
    digest = hashlib.sha256(destination_label(settings).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
