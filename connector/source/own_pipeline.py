"""What the dlt source needs in a pipeline of your own: its options, the client that its resources
share, and, after a run, what is unfinished and what is deleted."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import dlt
from dlt.destinations.exceptions import DatabaseUndefinedRelation

from connector.api.client import ApiClient
from connector.api.envelopes import RESOURCES
from connector.budget import Budget
from connector.budget.database import Database
from connector.budget.scheduler import RateBudget
from connector.clock import wall_ms
from connector.errors import ConfigurationError, MissingKey
from connector.logs import hide
from connector.settings import Settings, check_base_url, load, parse_rate_limits
from connector.settings.folders import LEDGER, open_state_dir
from connector.source.deletions import settle_absent_rows
from connector.source.fields import (
    DELETED_COLUMN,
    SEEN_COLUMN,
    UNLISTED_COLUMN,
    sql_time,
    to_datetime,
)
from connector.source.scans import (
    Checkpoint,
    ListScan,
    ScanKind,
    ScanOutcome,
    ScanPlan,
    note,
    read_state,
)

SECTION = "hiringcenter"
_IDS_AT_ONCE = 1000  # in one statement
STAMPED = "stamped"
"""Key of a resource's state: the last full scan whose rows carry its start time."""
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


# --- after a run ----------------------------------------------------------------------------------


def unfinished(pipeline: dlt.Pipeline) -> list[str]:
    """The lists whose scan stopped before its end, at a limit or because a run failed; the next
    `pipeline.run(hiringcenter())` resumes them."""
    left = {name: read_state(name, state_of(pipeline, name))[1] for name in RESOURCES}
    return [name for name, scan in left.items() if scan is not None and not scan.plan.in_parts]


def state_of(pipeline: dlt.Pipeline, resource: str) -> dict[str, Any]:
    """A resource's part of a pipeline's state; empty if there is none."""
    sources: Mapping[str, Any] = pipeline.state.get("sources", {})
    found: dict[str, Any] = sources.get(SECTION, {}).get("resources", {}).get(resource, {})
    return found


def flag_deleted(
    pipeline: dlt.Pipeline,
    *,
    api_key: str | None = None,
    base_url: str | None = None,
    rate_limits: str | None = None,
    ledger_url: str | None = None,
    budget: Budget | None = None,
) -> dict[str, int]:
    """Set `_hc_deleted_at` of the rows that the last full scans prove deleted; how many, by list.

    Lists whose last full scan isn't proven complete, or was settled before, are skipped. Rows that
    such a scan didn't find are looked up by id, at most 50 per list: a 404 means deleted, and if
    none of a sample is alive, the others count as deleted too. A row that the API still returns is
    marked in `_hc_unlisted_at`. Arguments: those that `hiringcenter` was given.

    Raises:
        ConfigurationError: the lists were read from another API, which would know none of the rows.
        ApiError, BudgetError: as `hiringcenter`. Other errors are those of the destination.
    """
    given = {"api_key": api_key, "base_url": base_url, "rate_limits": rate_limits,
             "ledger_url": ledger_url}  # fmt: skip
    settings, flagged = read_options(given), dict[str, int]()
    with SharedClient(settings, budget).open() as client:
        for name in RESOURCES:
            state = state_of(pipeline, name)
            stamped = state.get(STAMPED)
            if not stamped or not stamped["outcome"]["complete"]:
                continue
            read_from = stamped.get("base_url", settings.base_url)
            if read_from != settings.base_url:
                raise ConfigurationError(
                    f"{name} were read from {read_from}, and flag_deleted would ask "
                    f"{settings.base_url}: give it the arguments of hiringcenter()."
                )
            facts, left = read_state(name, state)
            full = ScanPlan(name, ScanKind.FULL, "")
            outcome = ScanOutcome.from_json(stamped["outcome"])
            scan = ListScan(name, facts, Checkpoint(full, stamped["started_ms"], outcome=outcome))
            settle_absent_rows(
                _PipelineRows(pipeline, stamped["started_ms"]), scan, client, now_ms=wall_ms()
            )
            flagged[name] = scan.counts["rows_deleted"]
            with pipeline.managed_state() as changed:
                note(
                    changed["sources"][SECTION]["resources"][name],
                    {**scan.looked(facts, left), STAMPED: None},
                )
    return flagged


class _PipelineRows:
    """The rows of a pipeline's tables (see `KnownRows`). seen_ms: when the full scan began."""

    def __init__(self, pipeline: dlt.Pipeline, seen_ms: int) -> None:
        self._pipeline, self._seen_at = pipeline, to_datetime(seen_ms)

    def missing(self, table: str, /) -> list[str]:
        return self._ids(
            table,
            f"{UNLISTED_COLUMN} IS NULL AND ({SEEN_COLUMN} IS NULL OR {SEEN_COLUMN} < %s)",
            self._seen_at,
        )

    def unlisted(self, table: str, /) -> list[str]:
        return self._ids(table, f"{UNLISTED_COLUMN} IS NOT NULL")

    def unlist(self, table: str, ids: Sequence[str], at_ms: int, /) -> None:
        self._set(table, f"{UNLISTED_COLUMN} = %s", f"{UNLISTED_COLUMN} IS NULL", ids, at_ms)

    def tombstone(self, table: str, ids: Sequence[str], at_ms: int, /) -> None:
        what = f"{DELETED_COLUMN} = %s, {UNLISTED_COLUMN} = NULL"
        self._set(table, what, "1 = 1", ids, at_ms)

    def _ids(self, table: str, where: str, *parameters: Any) -> list[str]:
        # the destination is asked, not the pipeline's schema: dagster-dlt leaves one without tables
        with self._pipeline.sql_client() as client:
            if not _has_table(client, table):  # of an empty list
                return []
            parameters = tuple(sql_time(client, each) for each in parameters)
            sql = (
                f"SELECT id FROM {client.make_qualified_table_name(table)} "  # noqa: S608
                f"WHERE {DELETED_COLUMN} IS NULL AND {where}"
            )
            return [row[0] for row in client.execute_sql(sql, *parameters) or ()]

    def _set(self, table: str, what: str, where: str, ids: Sequence[str], at_ms: int) -> None:
        with self._pipeline.sql_client() as client:
            name = client.make_qualified_table_name(table)
            for first in range(0, len(ids), _IDS_AT_ONCE):
                some = ids[first : first + _IDS_AT_ONCE]
                client.execute_sql(
                    f"UPDATE {name} SET {what} WHERE {DELETED_COLUMN} IS NULL "  # noqa: S608
                    f"AND {where} AND id IN ({', '.join(['%s'] * len(some))})",
                    sql_time(client, to_datetime(at_ms)),
                    *some,
                )


def _has_table(client: Any, table: str) -> bool:
    try:
        client.execute_sql(f"SELECT 1 FROM {client.make_qualified_table_name(table)} WHERE 1 = 0")  # noqa: S608
    except DatabaseUndefinedRelation:
        return False
    return True
