"""Where the dlt source's options come from, and the one client that its resources share."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import dlt

from connector.api.client import ApiClient
from connector.budget import Budget
from connector.budget.database import Database
from connector.budget.scheduler import RateBudget
from connector.errors import MissingKey
from connector.logs import hide
from connector.settings import Settings, check_base_url, load, parse_rate_limits
from connector.settings.folders import LEDGER, open_state_dir

SECTION = "hiringcenter"
_CHECKED: dict[str, Callable[[Any], Any]] = {
    "base_url": check_base_url,
    "rate_limits": parse_rate_limits,
}
_OF_PULLS = ("page_size", "full_share", "lookback_s", "hash_key")
_BY_RESOURCE = ("exclude_columns", "hash_columns")


def read_options(given: Mapping[str, Any]) -> Settings:
    """The settings of the commands, with dlt's `sources.hiringcenter.*` and then `given` over them.

    Raises:
        MissingKey: no API key anywhere. ValueError, ConfigurationError: a value that can't be used.
    """
    overrides: dict[str, Any] = {"pull": {}}
    for name, argument in given.items():
        value = looked_up(name, argument)
        if value is None:
            continue
        if name in _BY_RESOURCE:
            by_resource = json.loads(value) if isinstance(value, str) else value
            for resource, columns in by_resource.items():
                overrides["pull"].setdefault(resource, {})[name] = tuple(columns)
        elif name in _OF_PULLS:
            overrides["pull"][name] = value
        else:
            overrides[name] = _CHECKED.get(name, lambda same: same)(value)
    settings = load(overrides=overrides)
    if settings.api_key is None:
        raise MissingKey(searched=f"dlt's sources.{SECTION}.api_key, {settings.project.searched}")
    hide(settings.key)
    return settings


def looked_up(name: str, argument: Any) -> Any:
    if argument is not None:
        return argument
    is_secret = name in ("api_key", "ledger_url", "hash_key")
    accessor: Any = dlt.secrets if is_secret else dlt.config
    return accessor.get(f"sources.{SECTION}.{name}")


class SharedClient:
    """One client for all resources of a source, opened by the first user and closed by the last.
    Thread-safe. budget: the caller's own, which stays open."""

    def __init__(self, settings: Settings, budget: Budget | None) -> None:
        self._settings, self._budget = settings, budget
        self._lock = threading.Lock()
        self._users = 0
        self._client: ApiClient | None = None
        self._opened = ExitStack()

    @contextmanager
    def open(self) -> Iterator[ApiClient]:
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
                    self._opened.close()

    def _open_client(self) -> ApiClient:
        settings = self._settings
        with ExitStack() as opening:  # closes the ledger again where the rest can't be opened
            budget = self._budget or self._own_budget(opening)
            client = opening.enter_context(
                ApiClient(
                    base_url=settings.base_url,
                    api_key=settings.key,
                    budget=budget,
                    request_timeout_s=settings.http.request_timeout_s,
                    retry_total_s=settings.http.retry_total_s,
                )
            )
            self._opened = opening.pop_all()
        return client

    def _own_budget(self, opening: ExitStack) -> RateBudget:
        settings = self._settings
        url = settings.ledger_url or f"sqlite:///{open_state_dir(settings.state_dir) / LEDGER}"
        ledger = Database(url)
        opening.callback(ledger.close)
        return opening.enter_context(
            RateBudget(
                ledger,
                api_key=settings.key,
                limits=settings.rate_limits,
                request_timeout_s=settings.http.request_timeout_s,
            )
        )
