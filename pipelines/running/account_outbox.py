"""The outbox of the configured account, and the numbers that stand for keys and accounts in it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from connector.budget import Lane
from connector.budget.database import Database
from connector.budget.ledger_schema import OUTBOX_SUFFIX, key_id
from connector.errors import OutboxLost, Refused, Unauthorized, UsageError
from connector.logs import get_logger
from connector.settings import Settings
from connector.source.row_maker import Privacy
from connector.upsert.outbox.forgotten import NOBODY, ContactHashes, Forgotten, ForgottenList
from connector.upsert.outbox.matching import Hasher
from connector.upsert.outbox.pairing import OpenOutbox, Scopes, count_push, open_outbox
from pipelines.destination.identity import number_of
from pipelines.running.session import Session

_log = get_logger("push")
_DAY_MS = 86_400_000


def outbox_database(settings: Settings) -> Database:
    """The outbox's database, for reading only. Close it after use."""
    return Database(settings.resolved_ledger_url, durable=True, suffix=OUTBOX_SUFFIX)


def outbox_of(session: Session, *, new_ledger: bool = False, dry_run: bool = False) -> OpenOutbox:
    """The outbox that belongs to the session's ledger. Close it after use.

    new_ledger: if the outbox was lost, start a new one that looks people up first; for a dry run,
    a temporary one.

    Raises:
        OutboxLost: the outbox isn't the one that the ledger had.
    """
    now_ms = session.budget.steady_clock.now_ms()
    until_ms = now_ms + session.settings.writes.retention_days * _DAY_MS
    try:
        opened = open_outbox(
            session.ledger, look_first_until_ms=until_ms, new_ledger=new_ledger and not dry_run
        )
    except OutboxLost:
        if not (dry_run and new_ledger):
            raise
        return TemporaryOutbox(until_ms)
    if dry_run and new_ledger and opened.knows_nothing:
        opened.look_first_ms, opened.started_now = until_ms, True
    return opened


class TemporaryOutbox(OpenOutbox):
    """An empty outbox, which is deleted when it is closed."""

    def __init__(self, look_first_ms: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hiringcenter-")
        database = Database(f"sqlite:///{self._folder.name}/ledger.db")
        super().__init__(database, look_first_ms, knows_nothing=True, started_now=True)

    def close(self) -> None:
        super().close()
        self._folder.cleanup()


def key_number(settings: Settings, ledger: Database) -> int:
    """The number that stands for the API key in the outbox."""
    return int(key_id(settings.key, ledger)[:15], 16)


def account_number(settings: Settings, facts: Mapping[str, Any]) -> int | None:
    """The number that stands for the account named in `facts` (of GET /auth); None if they name
    none."""
    account_id = facts.get("accountId")
    if not isinstance(account_id, str | int) or isinstance(account_id, bool) or account_id == "":
        return None
    return number_of(f"{settings.base_url}\0{account_id}")


def note_account(settings: Settings, ledger: Database, facts: Mapping[str, Any]) -> None:
    """Remember the key's account (from GET /auth), so that a new key of it will be recognized."""
    try:
        outbox = open_outbox(ledger, look_first_until_ms=0)
    except OutboxLost as error:  # only a push needs it
        _log.warning("push.no_outbox", why=str(error))
        return
    with closing(outbox):
        key = key_number(settings, ledger)
        Scopes(outbox.database).note(key, account_number(settings, facts))


def push_lock_name(scope: int) -> str:
    """The lock, of the outbox's database, of the one push that may run with an account's key."""
    return f"push with the API key {scope:015x}"


def scope_of(session: Session, database: Database) -> int:
    """The number that stands for the key's account in the outbox.

    The account of a new key is requested once, if another key's account is known.
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


def known_scope_of(session: Session, database: Database, *, is_new: bool = False) -> int:
    """The same as `scope_of`, without a request. is_new: the outbox was lost, and this is another,
    which can't know.

    Raises:
        UsageError: no run has found out yet whose key it is.
    """
    scopes, key = Scopes(database), key_number(session.settings, session.ledger)
    if not is_new and not scopes.is_known(key):
        raise UsageError(
            "Which account this API key belongs to isn't known yet, and a plan asks HiringCenter "
            "nothing. Run `hiringcenter check` (one request), or pull; then plan again."
        )
    return scopes.of(key)


def forgotten_list(session: Session, outbox: Database | None) -> ForgottenList:
    """The list of the key's account. outbox: None where it is lost."""
    if outbox is None:
        return ForgottenList(session.ledger, None)
    key = key_number(session.settings, session.ledger)
    return ForgottenList(session.ledger, Scopes(outbox).of_account(key), outbox)


def contact_hashes(settings: Settings, key: bytes) -> ContactHashes:
    """What makes the hashes of the list. key: of the outbox's aliases."""
    own, secret = settings.pull.prospects, settings.pull.hash_key
    hidden = {}
    if own.hash_columns and secret is not None:
        given = secret.get_secret_value().encode()
        privacy = Privacy("prospects", own.exclude_columns, own.hash_columns, given)
        hidden = {name: privacy.keyed_hash for name in ("email", "phone") if privacy.hashes(name)}
    return ContactHashes(Hasher(key), settings.writes.default_region, hidden)


def forgotten_of(session: Session) -> Forgotten:
    """Who was forgotten in the key's account; ask again in each run, or turn of one.

    Raises:
        BudgetError: the ledger can't be used.
    """
    if (key := ForgottenList(session.ledger, None).key()) is None:
        return NOBODY
    try:
        with closing(open_outbox(session.ledger, look_first_until_ms=0)) as opened:
            listed = forgotten_list(session, opened.database).aliases()
    except OutboxLost:  # which scopes the account has is lost with it
        listed = forgotten_list(session, None).aliases()
    return Forgotten(contact_hashes(session.settings, key), listed)


def begin_sending(session: Session, database: Database) -> None:
    """Note that the configured key sends from now on. The push lock must be held."""
    count_push(session.ledger, database)
    key = key_number(session.settings, session.ledger)
    Scopes(database).begin(key, session.budget.steady_clock.now_ms())
