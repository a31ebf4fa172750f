"""The dlt source for anybody's pipeline: `from connector.source import hiringcenter`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import dlt
from dlt.common.configuration.specs import BaseConfiguration
from dlt.common.schema.typing import TTableSchemaColumns
from dlt.extract import DltResource
from dlt.extract.hints import TResourceHints

from connector.budget import Budget
from connector.clock import SystemClock
from connector.errors import MissingKey
from connector.logs import get_logger, hide
from connector.settings import Settings, check_base_url, load, parse_rate_limits
from connector.source.connection import Access, Connection, default_ledger_url
from connector.source.fields import DELETED_COLUMN, RESOURCES, UNLISTED_COLUMN
from connector.source.row_maker import ODD_COLUMNS, ODD_TABLE, RowMaker, odd_rows
from connector.source.scan import Scan
from connector.source.scans import ScanKind, ScanPlan

SECTION = "hiringcenter"
_CHECKED: dict[str, Callable[[Any], Any]] = {
    "base_url": check_base_url,
    "rate_limits": parse_rate_limits,
}
log = get_logger("source")
UPSERT: Any = {"disposition": "merge", "strategy": "upsert"}


@dlt.source(
    name="hiringcenter",
    section=SECTION,
    max_table_nesting=0,
    spec=BaseConfiguration,  # without fields: dlt would fill arguments from bare names as well
)
def hiringcenter(
    api_key: str | None = None,
    base_url: str | None = None,
    rate_limits: str | None = None,
    ledger_url: str | None = None,
    page_size: int | None = None,
    budget: Budget | None = None,
) -> Iterable[DltResource]:
    """Every prospect, note, task and meeting of a HiringCenter account, one row per `id`.

        import dlt
        from connector.source import hiringcenter

        pipeline = dlt.pipeline("hiringcenter", destination="duckdb", dataset_name="hiringcenter")
        pipeline.run(hiringcenter(api_key="...").with_resources("prospects", "notes"),
                     loader_file_format="parquet")

    Each run reads each selected list once, in full, and upserts; rows that were deleted in
    HiringCenter stay (the command `hiringcenter pull` finds those, and pulls less). A list that
    isn't proven to be whole is loaded as far as it came, with a warning that says why. Columns are
    the API's names in snake_case, milliseconds are timestamps, lists and objects JSON, and what
    doesn't fit its column lands beside it (`<column>__v_<type>`).

    What isn't given comes from dlt's `sources.hiringcenter.*` (`SOURCES__HIRINGCENTER__API_KEY`,
    `[sources.hiringcenter]` in .dlt/secrets.toml), from nowhere else in dlt's configuration; then
    from the settings of the commands (`HIRINGCENTER_API_KEY`, .env, config/hiringcenter.toml).

    api_key: from HiringCenter, Settings -> API / Webhooks. rate_limits: requests per seconds that
    the key may spend, such as 300/60s,6000/3600s. ledger_url: where the spent requests are counted,
    for all processes that share the key; by default the user's own, as of the commands. budget: one
    of your own instead.

    Raises (while it runs)
        ApiError: the API can't be reached, or refuses. BudgetError: the ledger can't be used.
    """
    given = {"api_key": api_key, "base_url": base_url, "rate_limits": rate_limits,
             "ledger_url": ledger_url, "page_size": page_size}  # fmt: skip
    options = _options(given)
    connection = Connection(
        Access(
            api_key=options.key,
            base_url=options.base_url,
            limits=options.rate_limits,
            ledger_url=options.ledger_url or default_ledger_url(options.state_dir),
            budget=budget,
            http=options.http,
        )
    )
    for name in RESOURCES:
        yield _resource(name, connection, options.pull.page_size)


def _options(given: Mapping[str, Any]) -> Settings:
    """The settings of the commands, with dlt's `sources.hiringcenter.*` and then `given` over them.

    Raises:
        MissingKey: no API key anywhere. ValueError, ConfigurationError: a value that can't be used.
    """
    overrides: dict[str, Any] = {}
    for name, value in given.items():
        accessor: Any = dlt.secrets if name in ("api_key", "ledger_url") else dlt.config
        if value is None:
            value = accessor.get(f"sources.{SECTION}.{name}")
        if value is not None:
            overrides[name] = _CHECKED.get(name, lambda same: same)(value)
    page_size = overrides.pop("page_size", None)
    if page_size is not None:
        overrides["pull"] = {"page_size": page_size}
    options = load(overrides=overrides)
    if options.api_key is None:
        raise MissingKey(searched=f"dlt's sources.{SECTION}.api_key, {options.project.searched}")
    hide(options.key)
    return options


class _Steps:
    """A list's pages, one step after the other, in whichever of dlt's threads takes the next.

    dlt closes what it reads from when another list has failed; a generator at work can't be closed,
    and dlt would report that instead of the failure. So one at work ends after its step.
    """

    def __init__(self, pages: Generator[Any]) -> None:
        self._pages = pages
        self._lock = threading.Lock()
        self._is_running = self._is_closed = False
        self.is_taken = self.has_ended = False

    def __call__(self) -> Any:
        with self._lock:
            if self._is_closed:
                return None
            self._is_running = True
        try:
            return next(self._pages)
        except StopIteration:
            self.has_ended = True
            return None
        finally:
            with self._lock:
                self._is_running = self.is_taken = False
                if self._is_closed:
                    self._pages.close()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if not self._is_running:
                self._pages.close()


def _resource(name: str, connection: Connection, page_size: int) -> DltResource:
    def read() -> Generator[Any]:
        maker = RowMaker(name, _known_columns(name), for_dlts_files=True)
        hinted, seen = 0, set[int]()
        with connection.client() as client:
            scan = Scan(client, _all_of(name), page_size=page_size, started_ms=_now_ms())
            for page in scan:
                rows = _unseen(maker.rows(page.records), seen)
                columns = _public(maker.columns)
                yield dlt.mark.with_hints(rows, _hints(columns)) if len(columns) > hinted else rows
                hinted = len(columns)
                odd = _unseen(odd_rows(name, page.odd), seen)
                if odd:
                    yield dlt.mark.with_table_name(odd, ODD_TABLE)
            if scan.outcome is not None and scan.outcome.doubt is not None:
                log.warning("source.incomplete", resource=name, why=scan.outcome.why)
        _warn(name, maker.warnings)

    def pages() -> Iterator[Any]:
        """Steps, which dlt takes in its threads, so that the lists are read side by side."""
        steps = _Steps(read())
        try:
            while not steps.has_ended:
                if steps.is_taken:
                    yield None
                else:
                    steps.is_taken = True
                    yield steps
        finally:
            steps.close()

    resource = dlt.resource(pages, name=name, primary_key="id", write_disposition=UPSERT)
    resource.apply_hints(  # before the columns, which a variant would inherit
        table_name=ODD_TABLE, columns=ODD_COLUMNS, create_table_variant=True
    )
    resource.apply_hints(columns=_public(RowMaker(name, {}).columns))
    return resource


def _all_of(resource: str) -> ScanPlan:
    return ScanPlan(resource, ScanKind.FULL, "the public source reads all of a list")


def _now_ms() -> int:
    return int(SystemClock().now_s() * 1000)


def _known_columns(resource: str) -> TTableSchemaColumns:
    """What earlier runs of the pipeline have made of the table, so that types hold."""
    table = dlt.current.source_schema().tables.get(resource)
    return table["columns"] if table else {}


def _public(columns: TTableSchemaColumns) -> TTableSchemaColumns:
    """Without the columns that only `hiringcenter pull` sets."""
    own = (DELETED_COLUMN, UNLISTED_COLUMN)
    return {name: column for name, column in columns.items() if name not in own}


def _hints(columns: TTableSchemaColumns) -> TResourceHints:
    return dlt.mark.make_hints(columns=columns)


def _unseen(rows: list[dict[str, Any]], seen: set[int]) -> list[dict[str, Any]]:
    """Rows whose id didn't come before in this load: an upsert must not meet an id twice."""
    fresh = [row for row in rows if hash(row["id"]) not in seen]
    seen.update(hash(row["id"]) for row in fresh)
    return fresh


def _warn(resource: str, warnings: Mapping[str, int]) -> None:
    for what, count in warnings.items():
        log.warning("source.value", resource=resource, what=what, count=count)
