"""What every command that talks to the API holds while it works: opened and closed in one place."""

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
from connector.history import History, new_run_id
from connector.settings import VENDOR_HOST, Settings, is_loopback
from pipelines.destination.places import prepare_state_dir
from pipelines.destination.relabelling import settle_labels
from pipelines.signals import StopSignal, stop_on_signals

_log = logs.get_logger("session")


@dataclass(frozen=True)
class Session:
    """One run's tools. stop: set by SIGINT/SIGTERM; waits for permits and answers end with it."""

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
    settings: Settings, *, kind: str, run_id: str | None = None, patience_s: float = math.inf
) -> Iterator[Session]:
    """A session of one run. kind: what the run does, as in its history (`pull`, `push`).
    patience_s: calls end after this, where that is sooner than the settings' time-outs.

    Raises:
        MissingKey: no API key is configured.
        BudgetError: the ledger can't be used.
    """
    key = settings.key
    logs.hide(key)
    run_id = run_id or new_run_id()
    logs.bind_run(run_id)
    _say_where_the_key_goes(settings.base_url)
    prepare_state_dir(settings)
    clock = SystemClock()
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        ledger = Database(
            settings.resolved_ledger_url,
            answer_within_s=None if math.isinf(patience_s) else patience_s * 0.4,
        )
        stack.callback(ledger.close)
        settle_labels(settings, ledger)
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


def _say_where_the_key_goes(base_url: str) -> None:
    """Once per run, where it isn't the vendor's host: a settings file may have redirected it."""
    host = urlsplit(base_url).hostname or ""
    if host != VENDOR_HOST:
        tell = _log.info if is_loopback(host) else _log.warning
        tell("session.base_url", base_url=base_url, note="not the vendor's host")
