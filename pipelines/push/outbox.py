"""The outbox of the configured account: where it is, and the numbers that stand in for names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from connector.budget import Lane
from connector.budget.database import Database
from connector.budget.keys import key_id
from connector.errors import Refused, Unauthorized
from connector.logs import get_logger
from connector.settings import Settings
from connector.upsert.outbox.scopes import Scopes
from pipelines.places import destination_label
from pipelines.session import Session

_log = get_logger("push")


def outbox_database(settings: Settings) -> Database:
    """The outbox's own file beside a SQLite ledger, where a long write blocks no permit; on
    PostgreSQL the ledger's database. Close it after use."""
    return Database(settings.resolved_ledger_url, durable=True, suffix="-outbox")


def key_number(settings: Settings, ledger: Database) -> int:
    """The number that stands for the API key in the outbox."""
    return int(key_id(settings.key, ledger)[:15], 16)


def account_number(settings: Settings, facts: Mapping[str, Any]) -> int | None:
    """The number that stands for the account which `facts` (of GET /auth) name; None: they name
    none."""
    account_id = facts.get("accountId")
    if not isinstance(account_id, str | int) or isinstance(account_id, bool) or account_id == "":
        return None
    return number_of(f"{settings.base_url}\0{account_id}")


def note_account(settings: Settings, ledger: Database, facts: Mapping[str, Any]) -> None:
    """Keep what GET /auth says of the key's account, for the key that will replace it."""
    with closing(outbox_database(settings)) as database:
        key = key_number(settings, ledger)
        Scopes(database).note(key, account_number(settings, facts))


def scope_of(session: Session, database: Database) -> int:
    """The number that stands for the key's account in the outbox.

    A key that is new here is asked for its account, once, where another key's account is known.
    """
    scopes, key = Scopes(database), key_number(session.settings, session.ledger)
    if scopes.is_worth_asking(key):
        try:
            facts = session.client.account(lane=Lane.PUSH)
        except (Refused, Unauthorized) as error:
            _log.warning("push.no_account", status=error.status)
        else:
            scopes.note(key, account_number(session.settings, facts))
    return scopes.of(key)


def begin_sending(session: Session, database: Database) -> None:
    """Note that the configured key sends from now on; the push lock is held."""
    key = key_number(session.settings, session.ledger)
    Scopes(database).begin(key, int(session.budget.steady_clock.now_s() * 1000))


def destination_number(settings: Settings) -> int:
    """The number that stands for the destination in the outbox."""
    return number_of(destination_label(settings))


def number_of(name: str) -> int:
    """The number that stands for a name: of a destination, of an account."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
