"""What a command works with: a session with the API, or only the ledger."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from connector import logs
from connector.api.client import ApiClient
from connector.budget import locks
from connector.budget.database import Database
from connector.budget.scheduler import RateBudget
from connector.clock import Clock, StopSignal, SystemClock, stop_on_signals
from connector.errors import AlreadyRunning, Interrupted, UsageError
from connector.history import Freshness, FreshnessLog, History, RunRecord, new_run_id
from connector.settings import VENDOR_HOST, Settings, is_loopback
from pipelines.destination.identity import destination_label, prepare_state_dir, snapshot_facts
from pipelines.destination.relabelling import settle_labels

_log = logs.get_logger("session")


@dataclass(frozen=True)
class LedgerView:
    """What the ledger knows about runs."""

    database: Database
    history: History
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
        found = self.history.find(run_id)
        if not found:
            raise UsageError(f"There is no run {run_id!r}. `hiringcenter runs` lists them.")
        if len(found) > 1:
            ids = ", ".join(each.run_id for each in found)
            raise UsageError(f"Several runs begin with {run_id!r}: {ids}. Give more of the id.")
        return found[0]


@contextmanager
def open_ledger(settings: Settings) -> Iterator[LedgerView]:
    """The ledger for commands that only read it: no key, no API, no destination.

    Raises:
        BudgetError: it can't be read.
    """
    with _ledger(settings) as database:
        yield LedgerView(database, History(database), FreshnessLog(database))


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
    history: History


@contextmanager
def open_session(
    settings: Settings, *, kind: str, patience_s: float = math.inf
) -> Iterator[Session]:
    """A session of one run. kind: what the run does, as in its history (`pull`, `push`).
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
        history = History(ledger)
        yield Session(settings, run_id, kind, stop, clock, ledger, budget, client, history)


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

    around: the locks that such work holds around it; None: whoever holds it is waited for.

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


def _log_other_host(base_url: str) -> None:
    """Log a host that isn't the vendor's: a settings file may have redirected the key."""
    host = urlsplit(base_url).hostname or ""
    if host != VENDOR_HOST:
        log = _log.info if is_loopback(host) else _log.warning
        log("session.base_url", base_url=base_url, note="not the vendor's host")
