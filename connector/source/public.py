"""The dlt source for anybody's pipeline: `from connector.source import hiringcenter`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import dlt
from dlt.common.schema.typing import TTableSchemaColumns
from dlt.extract import DltResource
from dlt.extract.hints import TResourceHints

from connector.budget import Budget
from connector.clock import SystemClock
from connector.logs import get_logger
from connector.settings import RateLimit, check_base_url, parse_rate_limits
from connector.source.columns import DELETED_COLUMN
from connector.source.connection import Access, Connection, default_ledger_url
from connector.source.fields import RESOURCES
from connector.source.paging import Scan
from connector.source.records import ODD_COLUMNS, ODD_TABLE, odd_rows
from connector.source.rows import RowMaker
from connector.source.scans import ScanKind, ScanPlan

BASE_URL = "https://api.hiringcenterpro.com/v2"
RATE_LIMITS = "300/60s,6000/3600s"
log = get_logger("source")
UPSERT: Any = {"disposition": "merge", "strategy": "upsert"}


@dlt.source(name="hiringcenter", section="hiringcenter", max_table_nesting=0)
def hiringcenter(
    api_key: str = dlt.secrets.value,
    base_url: str = BASE_URL,
    rate_limits: str = RATE_LIMITS,
    ledger_url: str | None = None,
    page_size: int = 200,
    budget: Budget | None = None,
) -> Iterable[DltResource]:
    """Every prospect, note, task and meeting of a HiringCenter account, one row per `id`.

        import dlt
        from connector.source import hiringcenter

        pipeline = dlt.pipeline("hiringcenter", destination="duckdb", dataset_name="hiringcenter")
        pipeline.run(hiringcenter(api_key="...").with_resources("prospects", "notes"),
                     loader_file_format="parquet")

    Each run reads each selected list once, in full, and upserts; rows that were deleted in
    HiringCenter stay (the command `hiringcenter pull` finds those, and pulls less). Columns are
    the API's names in snake_case, milliseconds are timestamps, lists and objects JSON, and what
    doesn't fit its column lands beside it (`<column>__v_<type>`).

    api_key: from HiringCenter, Settings -> API / Webhooks; argument, or dlt's secret
    `sources.hiringcenter.api_key`. rate_limits: requests per seconds that the key may spend.
    ledger_url: where the spent requests are counted, for all processes that share the key; the
    user's own, as of the commands, if None. budget: one of your own instead.

    Raises (while it runs)
        IncompleteList: a list can't be read to its end, which a silent part of it would hide.
        ApiError: the API can't be reached, or refuses. BudgetError: the ledger can't be used.
    """
    limits: Sequence[RateLimit] = parse_rate_limits(rate_limits)
    ledger = ledger_url or default_ledger_url()
    connection = Connection(Access(api_key, check_base_url(base_url), limits, ledger, budget))
    for name in RESOURCES:
        yield _resource(name, connection, page_size)


def _resource(name: str, connection: Connection, page_size: int) -> DltResource:
    def pages() -> Iterator[Any]:
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
        _warn(name, maker.warnings)

    resource = dlt.resource(pages, name=name, primary_key="id", write_disposition=UPSERT)
    resource.apply_hints(  # before the columns, which a variant would inherit
        table_name=ODD_TABLE, columns=ODD_COLUMNS, create_table_variant=True
    )
    resource.apply_hints(columns=_public(RowMaker(name, {}).columns))
    return resource.parallelize()


def _all_of(resource: str) -> ScanPlan:
    return ScanPlan(resource, ScanKind.FULL, "the public source reads all of a list")


def _now_ms() -> int:
    return int(SystemClock().now_s() * 1000)


def _known_columns(resource: str) -> TTableSchemaColumns:
    """What earlier runs of the pipeline have made of the table, so that types hold."""
    table = dlt.current.source_schema().tables.get(resource)
    return table["columns"] if table else {}


def _public(columns: TTableSchemaColumns) -> TTableSchemaColumns:
    """Without the tombstone, which only `hiringcenter pull` sets."""
    return {name: column for name, column in columns.items() if name != DELETED_COLUMN}


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
