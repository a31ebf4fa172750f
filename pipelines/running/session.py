"""What a command works with: a session with the API, or only the ledger; the tables that have
landed; and the outbox of the configured account, with the numbers that stand for keys and accounts
in it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from connector import logs
from connector.api.client import ApiClient
from connector.budget import Lane, locks
from connector.budget.database import Database
from connector.budget.ledger_schema import OUTBOX_SUFFIX, key_id
from connector.budget.scheduler import RateBudget
from connector.clock import Clock, StopSignal, SystemClock, stop_on_signals
from connector.errors import (
    AlreadyRunning,
    DestinationError,
    Interrupted,
    OutboxLost,
    Refused,
    Unauthorized,
    UsageError,
)
from connector.runs import Freshness, FreshnessLog, RunHistory, RunRecord, new_run_id
from connector.settings import VENDOR_HOST, Settings, is_loopback
from connector.upsert.outbox.forgotten import (
    NONE_FORGOTTEN,
    ContactHashes,
    Forgotten,
    ForgottenList,
)
from connector.upsert.outbox.matching import Hasher
from connector.upsert.outbox.pairing import OpenOutbox, Scopes, count_push, open_outbox
from pipelines.destination.identity import (
    destination_label,
    is_duckdb,
    number_of,
    prepare_state_dir,
    snapshot_facts,
)
from pipelines.destination.relabelling import settle_labels

if TYPE_CHECKING:
    import dlt
    import duckdb

C = TypeVar("C")
S = TypeVar("S")
_log, _push_log = logs.get_logger("session"), logs.get_logger("push")
_DAY_MS = 86_400_000


@dataclass(frozen=True)
class LedgerView:
    """What the ledger knows about runs."""

    database: Database
    runs: RunHistory
    freshness: FreshnessLog

    def freshness_of(self, settings: Settings) -> tuple[dict[str, Freshness], dict[str, Freshness]]:
        """By resource: what has landed at the destination, and what its readers see of it."""
        label, copy = destination_label(settings), snapshot_facts(settings)
        landed = {each.resource: each for each in self.freshness.of(label)}
        if copy is None:
            return landed, landed
        seen = self.freshness.published(label) if copy.made_at else []
        return landed, {each.resource: each for each in seen}

    def run_named(self, run_id: str) -> RunRecord:
        """The run with this id; its beginning is enough where no other run begins so.

        Raises:
            UsageError: no run has that id, or several do.
        """
        found = self.runs.find(run_id)
        if not found:
            raise UsageError(f"There is no run {run_id!r}. `hiringcenter runs` lists them.")
        if len(found) > 1:
            ids = ", ".join(each.run_id for each in found)
            raise UsageError(f"Several runs begin with {run_id!r}: {ids}. Write more of the id.")
        return found[0]


@contextmanager
def open_ledger(settings: Settings) -> Iterator[LedgerView]:
    """The ledger for commands that only read it: no key, no API, no destination.

    Raises:
        BudgetError: it can't be read.
    """
    with _ledger(settings) as database:
        yield LedgerView(database, RunHistory(database), FreshnessLog(database))


@contextmanager
def _ledger(settings: Settings, answer_within_s: float | None = None) -> Iterator[Database]:
    prepare_state_dir(settings)
    database = Database(settings.resolved_ledger_url, answer_within_s=answer_within_s)
    try:
        settle_labels(settings, database)
        yield database
    finally:
        database.close()


@dataclass(frozen=True)
class Session:
    """One run's tools. stop: set by SIGINT/SIGTERM; ends waits for permits and responses."""

    settings: Settings
    run_id: str
    kind: str
    stop: StopSignal
    clock: Clock
    ledger: Database
    budget: RateBudget
    client: ApiClient
    runs: RunHistory

    def now_ms(self) -> int:
        """UTC epoch ms."""
        return int(self.clock.now_s() * 1000)


@contextmanager
def open_session(
    settings: Settings, *, kind: str, patience_s: float = math.inf
) -> Iterator[Session]:
    """A session of one run. kind: what the run does, as in the run history (`pull`, `push`).
    patience_s: calls give up after this, if that is sooner than the settings' time-outs.

    Raises:
        MissingKey: no API key is configured.
        BudgetError: the ledger can't be used.
    """
    key = settings.key
    logs.hide(key)
    run_id = new_run_id()
    logs.bind_run(run_id)
    _log_other_host(settings.base_url)
    clock = SystemClock()
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        answer_within_s = None if math.isinf(patience_s) else patience_s * 0.4
        ledger = stack.enter_context(_ledger(settings, answer_within_s))
        budget = stack.enter_context(
            RateBudget(
                ledger,
                api_key=key,
                limits=settings.rate_limits,
                request_timeout_s=settings.http.request_timeout_s,
                clock=clock,
                stop=stop,
            )
        )
        client = stack.enter_context(
            ApiClient(
                base_url=settings.base_url,
                api_key=key,
                budget=budget,
                request_timeout_s=min(settings.http.request_timeout_s, patience_s * 0.75),
                retry_total_s=min(settings.http.retry_total_s, patience_s),
                clock=clock,
                stop=stop,
            )
        )
        runs = RunHistory(ledger)
        yield Session(settings, run_id, kind, stop, clock, ledger, budget, client, runs)


# --- locks that are waited for --------------------------------------------------------------------

LOCK_WAIT_S = 60.0
_LOOK_AGAIN_S = 0.25


def forget_lock_name(name: str) -> str:
    """The lock that `forget` holds around the lock `name`, so that others know whom they meet."""
    return f"forget, {name}"[:256]


@contextmanager
def lock_soon(
    session: Session, database: Database, name: str, *, around: Sequence[str] | None
) -> Iterator[locks.HeldLock]:
    """Hold the lock `name`. Work that holds it only for a moment is waited for, up to a minute.

    around: the locks that such work holds around it; None: any holder is waited for.

    Raises:
        AlreadyRunning: other work holds it, or doesn't end.
        Interrupted: a signal arrived while waiting.
    """
    clock, run_id = session.clock, session.run_id
    until_s = clock.monotonic_s() + LOCK_WAIT_S
    with ExitStack() as stack:
        while True:
            try:
                held = stack.enter_context(locks.take_lock(database, name, run_id=run_id))
                break
            except AlreadyRunning:
                is_brief = around is None or _is_held_briefly(session, database, name, around)
                if not is_brief or clock.monotonic_s() >= until_s:
                    raise
            if clock.sleep(_LOOK_AGAIN_S, session.stop):
                raise Interrupted(session.stop.signal_number)
        yield held


def _is_held_briefly(
    session: Session, database: Database, name: str, around: Sequence[str]
) -> bool:
    """Whether one of the locks `around` is held with the lock `name`, or was until a moment ago."""
    if any(not _is_free(session, database, each) for each in around):
        return True
    return _is_free(session, database, name)  # it may have ended between the two tries


def _is_free(session: Session, database: Database, name: str) -> bool:
    try:
        with locks.take_lock(database, name, run_id=session.run_id):
            return True
    except AlreadyRunning:
        return False


# --- what has landed, to be read ------------------------------------------------------------------


@contextmanager
def open_tables(
    settings: Settings,
    of_copy: Callable[[duckdb.DuckDBPyConnection, str], C],
    of_server: Callable[[Callable[[], dlt.Pipeline]], S],
) -> Iterator[C | S | None]:
    """The published copy, as it is now and stays while it is open, or the server's tables; None
    where nothing has been published yet.

    Raises:
        DestinationError: it can't be read.
    """
    if not is_duckdb(settings):
        from pipelines.destination.destination_kinds import server_pipeline

        with server_pipeline(settings) as pipeline:
            yield of_server(lambda: pipeline)
        return
    import duckdb

    from connector.upsert.inputs.table_reader import open_read_only

    path = settings.duckdb_path
    if not path.exists():
        yield None
        return
    try:
        with open_read_only(path, settings.dataset) as connection:
            yield of_copy(connection, settings.dataset)
    except duckdb.Error as error:
        what, way_out = f"can't be read ({type(error).__name__})", "or move it away"
        if "set lock" in str(error):
            what = "is open for writing in another program"
            way_out = "or close that program, and run the command again"
        raise DestinationError(
            f"{path}: the published copy {what}. Pull to make it again, {way_out}."
        ) from error


def _log_other_host(base_url: str) -> None:
    """Log a host that isn't the vendor's: a settings file may have redirected the key."""
    host = urlsplit(base_url).hostname or ""
    if host != VENDOR_HOST:
        log = _log.info if is_loopback(host) else _log.warning
        log("session.base_url", base_url=base_url, note="not the vendor's host")


# --- the outbox of the configured account ------------------------------------------------------


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
        _push_log.warning("push.no_outbox", why=str(error))
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
            _push_log.warning("push.no_account", why=str(error))
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
            "It isn't known yet which account this API key belongs to, and a plan sends no "
            "requests. Run `hiringcenter check` (one request) or a pull, then plan again."
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
    pull, hidden = settings.pull, {}
    if pull.prospects.hash_columns and pull.hash_key is not None:
        from connector.source.row_maker import configured_privacy  # it imports pyarrow

        privacy = configured_privacy("prospects", pull)
        hidden = {name: privacy.keyed_hash for name in ("email", "phone") if privacy.hashes(name)}
    return ContactHashes(Hasher(key), settings.writes.default_region, hidden)


def forgotten_of(session: Session) -> Forgotten:
    """Who was forgotten in the key's account; ask again in each run, or turn of one.

    Raises:
        BudgetError: the ledger can't be used.
    """
    if (key := ForgottenList(session.ledger, None).key()) is None:
        return NONE_FORGOTTEN
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
