"""A client of its own for the public source: opened by the first resource, closed by the last."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from connector.api.client import ApiClient
from connector.budget import Budget
from connector.budget.database import Database
from connector.budget.scheduler import RateBudget
from connector.settings import HttpSettings, RateLimit
from connector.settings.state_dir import LEDGER, prepare


@dataclass(frozen=True)
class Access:
    """How the API is reached. ledger_url: SQLAlchemy URL of the budget that the key shares.

    budget: one of the caller's, instead of one at `ledger_url`; it is not closed. http: how long
    a request may take, and for how long it is tried again.
    """

    api_key: str
    base_url: str
    limits: Sequence[RateLimit]
    ledger_url: str
    budget: Budget | None = None
    http: HttpSettings = field(default_factory=HttpSettings)


class Connection:
    """One client for all resources of a source, whatever order they run in. Thread-safe."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._lock = threading.Lock()
        self._users = 0
        self._client: ApiClient | None = None
        self._open = ExitStack()

    @contextmanager
    def client(self) -> Iterator[ApiClient]:
        """The client, while at least one user is inside.

        Raises:
            BudgetError: the ledger can't be opened; nothing is sent without it.
        """
        with self._lock:
            client = self._client = self._client or self._open_client()
            self._users += 1
        try:
            yield client
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._client = None
                    self._open.close()

    def _open_client(self) -> ApiClient:
        access = self._access
        with ExitStack() as opening:  # closes the ledger again where the rest can't be opened
            budget = access.budget or self._own_budget(opening)
            client = opening.enter_context(
                ApiClient(
                    base_url=access.base_url,
                    api_key=access.api_key,
                    budget=budget,
                    request_timeout_s=access.http.request_timeout_s,
                    retry_total_s=access.http.retry_total_s,
                )
            )
            self._open = opening.pop_all()
        return client

    def _own_budget(self, opening: ExitStack) -> RateBudget:
        ledger = Database(self._access.ledger_url)
        opening.callback(ledger.close)
        return opening.enter_context(
            RateBudget(
                ledger,
                api_key=self._access.api_key,
                limits=self._access.limits,
                request_timeout_s=self._access.http.request_timeout_s,
            )
        )


def default_ledger_url(state_dir: Path) -> str:
    """The user's one ledger, which the commands use as well."""
    return f"sqlite:///{prepare(state_dir) / LEDGER}"
