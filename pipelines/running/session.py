"""What a command works with: a session with the API, or only the ledger."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from connector import logs
from connector.api.client import ApiClient
from connector.budget.database import Database
from connector.budget.scheduler import RateBudget
from connector.clock import Clock, SystemClock
from connector.errors import UsageError
from connector.history import Freshness, FreshnessLog, History, RunRecord, new_run_id
from connector.settings import VENDOR_HOST, Settings, is_loopback
from pipelines.destination.identity import destination_label, prepare_state_dir, snapshot_facts
from pipelines.destination.relabelling import settle_labels
from pipelines.running.signals import StopSignal, stop_on_signals

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


def _log_other_host(base_url: str) -> None:
    """Log a host that isn't the vendor's: a settings file may have redirected the key."""
    host = urlsplit(base_url).hostname or ""
    if host != VENDOR_HOST:
        log = _log.info if is_loopback(host) else _log.warning
        log("session.base_url", base_url=base_url, note="not the vendor's host")
