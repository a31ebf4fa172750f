"""The dlt source: four resources that `hiringcenter pull` and pipelines of your own run.

    import dlt
    from connector.source import hiringcenter

    pipeline = dlt.pipeline("hiringcenter", destination="duckdb", dataset_name="hiringcenter")
    pipeline.run(hiringcenter(api_key="..."), loader_file_format="parquet")

dlt loads state and rows together, so the state may only cover rows that are loaded: it travels with
the rows of its page, and the resource's last step stores it, after every limit.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Self, cast

import dlt
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs import BaseConfiguration
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.schema.typing import TTableSchemaColumns
from dlt.extract import DltResource
from dlt.extract.hints import HintsMeta
from dlt.extract.items import DataItemWithMeta
from dlt.extract.items_transform import BaseItemTransform, ItemTransform
from pydantic import TypeAdapter

from connector.api.client import ApiClient
from connector.api.envelopes import RESOURCES
from connector.budget import Budget
from connector.clock import wall_ms
from connector.logs import get_logger
from connector.settings import Settings
from connector.source.fields import SEEN_COLUMN, is_ms, since_ms, to_datetime
from connector.source.own_pipeline import (
    SECTION,
    STAMPED,
    SharedClient,
    looked_up,
    read_options,
)
from connector.source.row_maker import (
    MALFORMED_COLUMNS,
    MALFORMED_TABLE,
    RowMaker,
    configured_maker,
)
from connector.source.scan import Scan
from connector.source.scan_planner import ScanPlans, plan_scans
from connector.source.scans import (
    ListScan,
    ScanPlan,
    begin,
    list_state,
    note,
    read_state,
    usual_page_size,
)

_SEEN: Any = {"name": SEEN_COLUMN, "data_type": "timestamp", "nullable": True}
log = get_logger("source")


@dlt.source(
    name="hiringcenter",
    section=SECTION,
    max_table_nesting=0,
    spec=BaseConfiguration,  # no fields: dlt would also fill arguments from bare names
)
def hiringcenter(
    api_key: str | None = None,
    base_url: str | None = None,
    rate_limits: str | None = None,
    ledger_url: str | None = None,
    page_size: int | None = None,
    budget: Budget | None = None,
    *,
    full: bool | None = None,
    since: datetime | str | int | None = None,
    full_share: float | None = None,
    lookback_s: float | None = None,
    exclude_columns: Mapping[str, Sequence[str]] | None = None,
    hash_columns: Mapping[str, Sequence[str]] | None = None,
    hash_key: str | None = None,
) -> Iterable[DltResource]:
    """The prospects, notes, tasks and meetings of a HiringCenter account, one row per `id`.

    The first run reads each list in full; later runs follow the scan plan of `hiringcenter pull`,
    and an interrupted run is resumed. Rows are upserted. To load a long backfill in chunks, each
    committed by itself:

        left = RESOURCES
        while left:
            source = hiringcenter().with_resources(*left).add_limit(max_time=60)
            pipeline.run(source, loader_file_format="parquet")
            left = unfinished(pipeline)

    Rows deleted in HiringCenter stay until `flag_deleted(pipeline)`. A list that isn't proven
    complete is loaded as far as it was read, with a warning that says why. Columns are the
    API's names in snake_case, milliseconds are timestamps, lists and objects JSON; a value that
    doesn't fit its column lands in `<column>__v_<type>`, a record without an id in
    `_hc_malformed_records`. `_hc_seen_at` is when the last scan that found the row began.

    Arguments that aren't given come from dlt's `sources.hiringcenter.*`
    (`SOURCES__HIRINGCENTER__API_KEY`, `[sources.hiringcenter]` in .dlt/secrets.toml) and nowhere
    else in dlt's configuration; then from the commands' settings (`HIRINGCENTER_API_KEY`, .env,
    config/hiringcenter.toml).

    api_key: from HiringCenter, Settings -> API / Webhooks. rate_limits: the key's limits, such as
    300/60s,6000/3600s. ledger_url: where requests are counted for all processes that share the key;
    by default the user's own ledger, as for the commands. budget: one of your own instead.
    full: read every list in full. since: read back to this time (ISO 8601 or Unix milliseconds)
    instead of what is planned. full_share: the part of the longest window that the lists of a run
    share; what narrow scans leave of it goes to full scans. lookback_s: how far below the newest
    known row a head scan reads. exclude_columns, hash_columns: by resource, fields to leave out or
    to replace by a keyed hash, which needs `hash_key`.

    Raises (while it runs)
        ApiError: the API can't be reached, or refuses. BudgetError: the ledger can't be used.
    """
    given = {"api_key": api_key, "base_url": base_url, "rate_limits": rate_limits,
             "ledger_url": ledger_url, "page_size": page_size, "full_share": full_share,
             "lookback_s": lookback_s, "exclude_columns": exclude_columns,
             "hash_columns": hash_columns, "hash_key": hash_key}  # fmt: skip
    settings = read_options(given)
    wants_full = TypeAdapter(bool).validate_python(looked_up("full", full) or False)
    client = SharedClient(settings, budget)
    plans = _RunPlans(settings, full=wants_full)
    since_ms = _ms(looked_up("since", since))
    for name in RESOURCES:
        reader = _ListReader(name, client, settings, plans, since_ms)
        yield list_resource(name, reader, columns=reader.maker({}).columns | {SEEN_COLUMN: _SEEN})


def _ms(since: datetime | str | int | None) -> int | None:
    if since is None or is_ms(since):
        return since
    return since_ms(str(since))


# --- resources ------------------------------------------------------------------------------------


class _StateMeta(HintsMeta):
    """Metadata of some rows: the resource's state once they are loaded; hints for dlt, if any.

    malformed: rows for the table of malformed records, loaded with them. is_taken: by dlt.
    """

    def __init__(
        self, state: Mapping[str, Any], hints: Any = None, malformed: Sequence[Any] = ()
    ) -> None:
        super().__init__(hints, create_table_variant=False)
        self.state, self.malformed, self.is_taken = state, malformed, False


class _NoteState(ItemTransform):  # type: ignore[type-arg]
    """The last step of a resource: rows that get here are loaded, so the state may cover them."""

    placement_affinity = 2.0  # after a limit, which drops later items

    def __init__(self) -> None:
        BaseItemTransform.__init__(self)

    def __call__(self, item: Any, meta: Any = None) -> Any:
        if not isinstance(meta, _StateMeta):
            return item
        if meta.is_taken:
            return None
        meta.is_taken = True
        note(dlt.current.resource_state(), meta.state)
        return iter([*meta.malformed, item]) if meta.malformed else item


def with_state(rows: Any, state: Mapping[str, Any]) -> DataItemWithMeta:
    """Rows for a `list_resource`, and its state once they are loaded."""
    return DataItemWithMeta(_StateMeta(state), rows)


def _page(
    rows: list[dict[str, Any]],
    state: Mapping[str, Any],
    hints: Any,
    *,
    malformed: Sequence[Any],
    is_last: bool,
) -> list[DataItemWithMeta]:
    """A page's rows with its state and malformed records: all of it or nothing, since a limit takes
    single items. What must not be lost comes again without rows, since a filter may leave out all.
    """
    meta = _StateMeta(state, hints, malformed)
    item = DataItemWithMeta(meta, rows)
    return [item, DataItemWithMeta(meta, [])] if malformed or is_last else [item]


class _ListResource(DltResource):
    """A resource whose reader already hands its steps to dlt's threads (see `_ListReader`)."""

    def parallelize(self) -> Self:
        """Change nothing: dlt would run the generator itself in a thread as well, and its limits
        close generators without asking whether a thread has just entered them."""
        return self


def list_resource(
    name: str,
    read: Callable[[], Iterable[Any]],
    *,
    columns: Mapping[str, Any],
    primary_key: str | Sequence[str] = "id",
    strategy: str = "upsert",
    table_format: str | None = None,
) -> DltResource:
    """The dlt resource of a table; `read` yields rows, those with a state by `with_state`."""

    def items() -> Iterator[Any]:
        yield from read()

    merge: Any = {"disposition": "merge", "strategy": strategy}
    resource: Any = dlt.resource(
        items,
        _impl_cls=_ListResource,
        name=name,
        columns=cast(Any, dict(columns)),
        primary_key=primary_key if isinstance(primary_key, str) else list(primary_key),
        write_disposition=merge,
        max_table_nesting=0,
        table_format=cast(Any, table_format),
    )
    return cast(DltResource, resource.add_step(_NoteState()))


def merge_strategy(capabilities: DestinationCapabilitiesContext | None) -> str:
    """The merge strategy of a destination for rows that it may already have."""
    known = capabilities.supported_merge_strategies if capabilities else ("upsert",)
    return "upsert" if "upsert" in (known or ()) else "delete-insert"


class _RunPlans:
    """The plans of a run's lists, made together since they share its requests. Thread-safe.

    full: read every list in full.
    """

    def __init__(self, settings: Settings, *, full: bool) -> None:
        self._settings, self.full = settings, full
        self._lock = threading.Lock()
        self._run: Any = None
        self._plans: ScanPlans = {}

    def take(
        self, resource: str, state: Mapping[str, Any], since_ms: int | None
    ) -> tuple[ScanPlan, ...]:
        """A list's scans; asked again, those that follow them.

        state: the list's current one, which dlt may not have stored yet.
        """
        with self._lock:
            run = dlt.current.source_state()  # an object of each run
            if self._run is not run:
                self._run, self._plans = run, self._plan({resource: state}, None)
            if since_ms is None and resource in self._plans:
                return self._plans.pop(resource)
            return self._plan({resource: state}, since_ms)[resource]

    def _plan(self, changed: Mapping[str, Any], since_ms: int | None) -> ScanPlans:
        selected = dlt.current.source().resources.selected
        states = {name: dlt.current.resource_state(name) for name in RESOURCES if name in selected}
        return plan_scans(
            {
                name: list_state(name, state, now_ms=wall_ms())
                for name, state in {**states, **changed}.items()
            },
            pull=self._settings.pull,
            limits=self._settings.rate_limits,
            now_ms=wall_ms(),
            full=self.full,
            since_ms=since_ms,
        )


class _ListReader:
    """Reads one list for one run of a pipeline, in steps that dlt runs in its threads, so that
    lists are read in parallel."""

    def __init__(
        self,
        name: str,
        client: SharedClient,
        settings: Settings,
        plans: _RunPlans,
        since_ms: int | None,
    ) -> None:
        self._name, self._client, self._settings = name, client, settings
        self._plans, self._since_ms = plans, since_ms

    def __call__(self) -> Iterator[Any]:
        steps = _Steps(self._items())
        try:
            while not steps.has_ended:
                if steps.is_taken:
                    yield None
                else:
                    steps.is_taken = True
                    yield steps
        finally:
            steps.close()

    def maker(self, known_columns: TTableSchemaColumns) -> RowMaker:
        return configured_maker(self._name, known_columns, self._settings.pull)

    def _items(self) -> Generator[Any]:
        state: Mapping[str, Any] = dlt.current.resource_state(self._name)
        maker, seen = self.maker(_known_columns(self._name)), set[int]()
        with self._client.open() as client:
            is_another_due = True
            while is_another_due:  # what an earlier run left comes first, then what is asked for
                left = read_state(self._name, state)[1]
                # a scan from `since` would leave it as it is, and `unfinished` would never be empty
                is_ordinary = left is not None and not left.plan.backfill
                since_ms = None if is_ordinary else self._since_ms
                is_another_due = is_ordinary and self._since_ms is not None
                for plan in self._plans.take(self._name, state, since_ms):
                    known = list_state(self._name, state, now_ms=wall_ms())
                    scan = begin(known, plan, now_ms=wall_ms(), full=self._plans.full)
                    is_another_due |= scan.checkpoint.is_at_end
                    yield from self._pages(scan, client, maker, seen)
                    state = scan.booked()
        for what, count in maker.warnings.items():
            log.warning("source.value", resource=self._name, what=what, count=count)

    def _pages(
        self, scan: ListScan, client: ApiClient, maker: RowMaker, seen: set[int]
    ) -> Iterator[Any]:
        page_size = usual_page_size(scan.facts.page_size, self._settings.pull.page_size)
        made = Scan(client, scan.checkpoint, page_size=page_size, known=scan.facts.doubt)
        pages = iter(made)
        seen_at = to_datetime(scan.checkpoint.started_ms)
        merge, hinted = _merge(), 0
        page = next(pages, None)
        while page is not None:
            records, malformed = scan.take([page], maker)
            rows = maker.rows(records)
            for row in rows:
                row[SEEN_COLUMN] = seen_at
            others = _malformed_items(_unseen(malformed, seen), merge)
            hints = None
            if len(maker.columns) > hinted:
                columns: Any = maker.columns | {SEEN_COLUMN: _SEEN}
                hints = dlt.mark.make_hints(columns=columns, write_disposition=merge)
                hinted = len(maker.columns)
            is_at_end, rows = scan.checkpoint.is_at_end, _unseen(rows, seen)
            if not is_at_end:
                yield from _page(rows, scan.state(), hints, malformed=others, is_last=False)
            page = next(pages, None)
            if is_at_end:  # the scan ends with the rows of its last page
                state = scan.state() if page else self._ended(scan, made)
                yield from _page(rows, state, hints, malformed=others, is_last=not page)
        if scan.outcome is None:
            yield with_state([], self._ended(scan, made))

    def _ended(self, scan: ListScan, made: Scan) -> dict[str, Any]:
        """The resource's state once a scan is over. STAMPED: for `flag_deleted`."""
        outcome = made.outcome
        assert outcome is not None
        scan.end(outcome)
        if scan.doubt is not None:
            log.warning("source.incomplete", resource=self._name, why=scan.doubt.why)
        state = scan.booked()
        if scan.finds_deletions and not outcome.unfinished:
            started_ms = scan.checkpoint.started_ms
            state[STAMPED] = {
                "started_ms": started_ms,
                "outcome": outcome.to_json(),
                "base_url": self._settings.base_url,
            }
        return state


def _merge() -> Any:
    """The write disposition for the destination in use."""
    container, context = Container(), DestinationCapabilitiesContext
    is_known = context in container
    strategy = merge_strategy(container[context] if is_known else None)
    return {"disposition": "merge", "strategy": strategy}


def _malformed_items(rows: list[dict[str, Any]], merge: Any) -> list[DataItemWithMeta]:
    """What gives dlt rows of the table of malformed records."""
    hints = dlt.mark.make_hints(
        table_name=MALFORMED_TABLE, columns=MALFORMED_COLUMNS, write_disposition=merge
    )
    return [dlt.mark.with_hints(rows, hints, create_table_variant=True)] if rows else []


class _Steps:
    """A list's pages, step by step, in whichever of dlt's threads takes the next.

    dlt closes its generators when another list has failed; a running generator can't be closed, and
    dlt would report that instead of the failure. So a running one ends after its step.

    A thread that was held up reports its page after the next one's; a limit would then take the
    later page and drop the earlier, and the state say that both are loaded. So the thread that
    reports first hands over all pages so far, in order.
    """

    def __init__(self, pages: Generator[Any]) -> None:
        self._pages = pages
        self._read: deque[Any] = deque()
        self._lock = threading.Lock()
        self._is_running = self._is_closed = False
        self.is_taken = self.has_ended = False

    def __call__(self) -> Any:
        with self._lock:
            if self._is_closed:
                return None
            self._is_running = True
        try:
            self._read.append(next(self._pages))
        except StopIteration:
            self.has_ended = True
        finally:
            with self._lock:
                self._is_running = self.is_taken = False
                if self._is_closed:
                    self._pages.close()
        return self._handed_over()

    def _handed_over(self) -> Iterator[Any]:
        """Runs in dlt's own thread."""
        while self._read:
            yield self._read.popleft()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if not self._is_running:
                self._pages.close()


def _known_columns(resource: str) -> TTableSchemaColumns:
    """The table's columns from earlier runs of the pipeline, so that types stay the same."""
    table = dlt.current.source_schema().tables.get(resource)
    return table["columns"] if table else {}


def _unseen(rows: list[dict[str, Any]], seen: set[int]) -> list[dict[str, Any]]:
    """Rows whose id didn't come before in this load: an upsert must not meet an id twice."""
    fresh = [row for row in rows if hash(row["id"]) not in seen]
    seen.update(hash(row["id"]) for row in fresh)
    return fresh
