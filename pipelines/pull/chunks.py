"""Pages are fetched ahead while earlier ones are landed, but never too far ahead.

One thread per resource iterates its scan. What arrives is made into Arrow tables in portions, and
a chunk of them is loaded at a time: each load costs as much as a few hundred rows. A chunk ends
when its pages were `CHUNK_BYTES` of JSON, or soon enough that no page waits longer than `chunk_s`:
that is what a kill loses. While it loads, up to `AHEAD_BYTES` are fetched for the next one.
"""

from __future__ import annotations

import gc
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, NamedTuple

import pyarrow as pa

from connector.clock import SIGNALS_S, Clock
from connector.errors import ConnectorError, Interrupted, Unexpected
from connector.logs import get_logger
from connector.settings import PullSettings
from connector.source.row_maker import (
    MALFORMED_COLUMNS,
    MALFORMED_TABLE,
    UniqueRecords,
    configured_maker,
)
from connector.source.scan import Scan
from connector.source.scans import ListScan, Row, ScannedPage
from connector.upsert.outbox.forgotten import NONE_FORGOTTEN
from connector.webhooks.inbox import SKEW_MS
from pipelines.destination.destination import Destination
from pipelines.destination.loader import Batch
from pipelines.pull.run_tables import (
    ACCOUNT_COLUMNS,
    ACCOUNT_TABLE,
    freshness_batch,
    results_batch,
    runs_batch,
)

CHUNK_BYTES = 16 * 1024 * 1024  # of JSON: about 55,000 prospects, or 200 MB with what they become
AHEAD_BYTES = 4 * 1024 * 1024  # parsed, it is five times as much
FOUND_MAX = 100_000
_PORTION_BYTES = AHEAD_BYTES // 2
_CUT_AT = 0.8  # of `chunk_s`: while the chunk loads, fetching continues until then
_OTHERS = (
    Batch(ACCOUNT_TABLE, (), ACCOUNT_COLUMNS),
    results_batch([]),
    runs_batch([]),
    freshness_batch([]),
)
_log = get_logger("pull")


class Portion(NamedTuple):
    """Pages by resource, in the order of its scan. ends_chunk: load what was taken since the last
    one that did."""

    pages: dict[str, list[ScannedPage]]
    ends_chunk: bool


class Fetching:
    """Reads scans in threads. Iterate `portions` to its end, landing each before asking for more.

    chunk_pages: at most so many pages in a chunk; None: any number. errors: by resource, why its
    scan ended early. stop: once set, no more pages are begun.
    """

    def __init__(
        self,
        scans: Mapping[str, Scan],
        *,
        chunk_s: float,
        chunk_pages: int | None,
        clock: Clock,
        stop: threading.Event,
    ) -> None:
        self._chunk_s, self._chunk_pages = chunk_s, chunk_pages or float("inf")
        self._clock, self._stop = clock, stop
        self.errors: dict[str, ConnectorError] = {}
        self._changed = threading.Condition()
        self._arrived: deque[tuple[str, ScannedPage]] = deque()
        self._arrived_s: float | None = None  # when the oldest of these pages arrived
        self._taken_s: float | None = None
        self._arrived_bytes = self._taken_bytes = 0
        self._taken = self._fetching = 0  # pages
        self._running, self._abandoned = len(scans), False
        self._threads = [
            threading.Thread(target=self._read, args=item, name=f"fetch-{item[0]}", daemon=True)
            for item in scans.items()
        ]

    def portions(self) -> Iterator[Portion]:
        """Portions until every scan has ended; the last one ends a chunk."""
        for thread in self._threads:
            thread.start()
        try:
            while (portion := self._next_portion()) is not None:
                yield portion
                if portion.ends_chunk:
                    with self._changed:
                        self._taken = self._taken_bytes = 0
                        self._taken_s = None
                        self._changed.notify_all()
        finally:
            with self._changed:
                self._abandoned = True
                self._changed.notify_all()
            for thread in self._threads:
                if thread.is_alive():
                    thread.join(timeout=1.0)

    def _next_portion(self) -> Portion | None:
        with self._changed:
            while not (ends_chunk := self._is_chunk_over()):
                if self._arrived_bytes >= _PORTION_BYTES:
                    break
                if not (self._running or self._arrived or self._taken):
                    return None
                left_s = SIGNALS_S
                if self._arrived or self._taken:
                    left_s = max(0.01, min(left_s, _CUT_AT * self._chunk_s - self._age_s()))
                self._changed.wait(left_s)
            pages: dict[str, list[ScannedPage]] = {}
            for resource, page in self._arrived:
                pages.setdefault(resource, []).append(page)
            self._taken += len(self._arrived)
            self._taken_bytes += self._arrived_bytes
            self._taken_s = self._arrived_s if self._taken_s is None else self._taken_s
            self._arrived.clear()
            self._arrived_bytes, self._arrived_s = 0, None
            self._changed.notify_all()
            return Portion(pages, ends_chunk)

    def _is_chunk_over(self) -> bool:
        pages = self._taken + len(self._arrived)
        return pages > 0 and (
            not self._running
            or pages >= self._chunk_pages
            or self._taken_bytes + self._arrived_bytes >= CHUNK_BYTES
            or self._age_s() >= _CUT_AT * self._chunk_s
        )

    def _age_s(self) -> float:
        """Seconds since the oldest page arrived that hasn't landed."""
        since_s = self._arrived_s if self._taken_s is None else self._taken_s
        return 0.0 if since_s is None else self._clock.monotonic_s() - since_s

    def _read(self, resource: str, scan: Scan) -> None:
        try:
            pages = iter(scan)
            while self._may_begin():
                page = None
                try:
                    page = next(pages, None)
                finally:
                    self._finished(resource, page)
                if page is None:
                    return
            self.errors[resource] = Interrupted(getattr(self._stop, "signal_number", 15))
        except ConnectorError as error:
            self.errors[resource] = error
        except Exception as error:  # noqa: BLE001 - a thread's failure is the run's, whatever it is
            _log.debug("pull.unexpected", exc_info=error)
            self.errors[resource] = Unexpected(error, doing=f"reading {resource}")
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _may_begin(self) -> bool:
        """Wait until one more page may be begun; False if no more may be."""
        with self._changed:
            while not (self._abandoned or self._stop.is_set()):
                pages = self._taken + len(self._arrived) + self._fetching
                is_ahead = self._arrived_bytes >= AHEAD_BYTES or pages >= self._chunk_pages
                if not is_ahead and self._age_s() < self._chunk_s:
                    self._fetching += 1
                    return True
                self._changed.wait(0.2)
            return False

    def _finished(self, resource: str, page: ScannedPage | None) -> None:
        with self._changed:
            self._fetching -= 1
            if page is None:
                return
            is_first = self._arrived_s is None
            if is_first:
                self._arrived_s = self._clock.monotonic_s()
            self._arrived.append((resource, page))
            self._arrived_bytes += page.size_bytes
            # for other pages all threads would wake up in vain
            if is_first or self._arrived_bytes >= _PORTION_BYTES or self._is_chunk_over():
                self._changed.notify_all()


@dataclass
class _Taken:
    """Changed rows of a list that wait to be loaded. ids: theirs. asked_ms: when the first of them
    was asked for."""

    tables: list[pa.Table] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    asked_ms: int | None = None


class Landing:
    """Loads chunks. runs: by resource; their counts and checkpoints change with every portion."""

    def __init__(
        self, destination: Destination, runs: Mapping[str, ListScan], pull: PullSettings
    ) -> None:
        self._destination, self._runs = destination, runs
        self._makers = {
            name: configured_maker(name, destination.columns(name), pull) for name in runs
        }
        self._taken: dict[str, _Taken] = {}
        self._seen: defaultdict[str, list[str]] = defaultdict(list)  # ids, by full scans
        self._malformed: dict[str, Row] = {}
        self._looked_up_s: dict[str, dict[str, float]] = {}  # by list and id: when
        self.found: set[str] = set()
        """People whom a full scan, not the first one, has found new or changed: of their ids
        `FOUND_MAX` at most."""
        self.forgotten = NONE_FORGOTTEN
        """People who don't land, nor what belongs to them."""
        self.left_out: dict[str, set[str]] = {}
        """By list: which records didn't for that reason."""

    @property
    def warnings(self) -> dict[str, Counter[str]]:
        """By resource: what couldn't be loaded unchanged, and how often."""
        loaded = self._destination.warnings
        found = {
            name: maker.warnings + self._runs[name].warnings + loaded.get(name, Counter())
            for name, maker in self._makers.items()
        }
        return {name: counts for name, counts in found.items() if counts}

    def create_tables(self) -> None:
        """Create tables with every column of the contract, even if a list is empty, and add those
        that tables of an earlier version lack."""
        lists = [Batch(name, (), maker.columns) for name, maker in self._makers.items()]
        self._destination.create_tables([*lists, *_OTHERS])
        self._destination.prepare_histories()

    def take(self, pages: dict[str, list[ScannedPage]]) -> None:
        """Keep what changed, as Arrow tables, until `load`. Empties `pages`.

        Raises:
            DestinationError: it can't be read; nothing that waits will be loaded, nor checkpoints.
        """
        try:
            while pages:  # frees them as tables are made: a portion is in memory once, not twice
                self._take_pages(*pages.popitem())
        except BaseException:
            self._taken.clear()
            raise

    def _take_pages(self, resource: str, pages: list[ScannedPage]) -> None:
        run = self._runs[resource]
        if self.forgotten:
            pages = [self._without_forgotten(resource, page) for page in pages]
        if self._looked_up_s.get(resource):
            pages = [self._without_older(resource, page) for page in pages]
        records, malformed = run.take(pages, self._makers[resource])
        self._malformed.update((row["id"], row) for row in malformed)
        if run.finds_deletions or run.left:
            self._seen[resource] += records.ids
        if run.finds_deletions:
            run.keep_ids(len(records.ids))
        else:
            self._destination.history.note_seen(run, records.ids)
        asked_ms = min(page.asked_ms or page.checkpoint.started_ms for page in pages)
        self._take(resource, records, asked_ms)

    def _without_older(self, resource: str, page: ScannedPage) -> ScannedPage:
        """A page that was requested before the answer of a look-up may hold an older version of
        its record."""
        looked_up_s = self._looked_up_s[resource]
        records = [
            each for each in page.records if looked_up_s.get(str(each["id"]), -inf) < page.asked_s
        ]
        return page if len(records) == len(page.records) else replace(page, records=records)

    def _without_forgotten(self, resource: str, page: ScannedPage) -> ScannedPage:
        """A page without people who were forgotten. For the scan they are in its list as before."""
        of, malformed = self.forgotten, []
        records = self._remembered(resource, page.records)
        for item in page.malformed:
            if of.is_named_in(item):
                self.left_out.setdefault(resource, set()).add(str(item))
            else:
                malformed.append(item)
        self._runs[resource].counts["rows_read"] += len(page.records) - len(records)
        return replace(page, records=records, malformed=malformed)

    def _remembered(self, resource: str, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of `records` that aren't about people who were forgotten. A prospect who has one of
        their contacts, and landed before under an id of their own, is another person."""
        of = self.forgotten
        owner = "id" if resource == "prospects" else "prospectId"
        left_out = {at for at, each in enumerate(records) if of.has_id(each.get(owner))}
        if resource == "prospects":
            alike = {
                at: str(each["id"])
                for at, each in enumerate(records)
                if at not in left_out and of.has_contact(each.get("email"), each.get("phone"))
            }
            known = self._destination.known(resource, [*alike.values()])
            left_out |= {at for at, id_ in alike.items() if id_ not in known}
        if not left_out:
            return records
        self.left_out.setdefault(resource, set()).update(str(records[at]["id"]) for at in left_out)
        return [each for at, each in enumerate(records) if at not in left_out]

    def land_looked_up(
        self,
        resource: str,
        records: list[dict[str, Any]],
        gone: Sequence[str],
        *,
        at_s: float,
        asked_ms: int | None = None,
    ) -> None:
        """Load records that were looked up since something has named them. A full scan, running or
        to be resumed, has then seen them: pages that it has read already can't list who is new.

        gone: ids that the API answered with 404, for pages that list them still. at_s: monotonic
        seconds after the last answer. asked_ms: as in `land_records`.
        """
        run = self._runs[resource]
        records = self._remembered(resource, records) if self.forgotten else records
        ids = [str(each["id"]) for each in records]
        if run.finds_deletions or run.left:
            self._destination.seen.add(resource, ids)
        looked_up_s = self._looked_up_s.setdefault(resource, {})
        looked_up_s.update(dict.fromkeys([*ids, *gone], at_s))
        self.land_records(resource, records, asked_ms=asked_ms)

    def land_records(
        self, resource: str, records: list[dict[str, Any]], *, asked_ms: int | None = None
    ) -> None:
        """Load single records that were looked up by id, since their list lacks them.

        asked_ms: UTC epoch ms before the first look-up; None: some time after the scan began.
        """
        run = self._runs[resource]
        run.counts["rows_read"] += len(records)
        records = self._remembered(resource, records) if self.forgotten else records
        asked_ms = run.checkpoint.started_ms if asked_ms is None else asked_ms
        unique = self._makers[resource].unique(records)
        self._take(resource, unique, asked_ms, is_listed=False)
        self.load()

    def _take(
        self, resource: str, records: UniqueRecords, asked_ms: int, *, is_listed: bool = True
    ) -> None:
        """An id that waits already is loaded as in `records`, even if the destination has it so."""
        places = self._destination.changed(
            resource, records.ids, records.hashes, is_listed=is_listed
        )
        taken = self._taken.setdefault(resource, _Taken())
        if not taken.ids.isdisjoint(records.ids):
            again = {place for place, id_ in enumerate(records.ids) if id_ in taken.ids}
            places = sorted(again.union(places))
        run = self._runs[resource]
        is_about_people = is_listed and resource == "prospects"
        if is_about_people and run.finds_deletions and run.facts.last_full_ms is not None:
            self._note_found(run, records, places)
        if places:
            changed = records.only(places)
            taken.tables.append(self._makers[resource].table(changed))
            taken.ids.update(changed.ids)
            taken.asked_ms = min(asked_ms, taken.asked_ms or asked_ms)

    def _note_found(self, run: ListScan, records: UniqueRecords, places: Sequence[int]) -> None:
        """Those that changed well before the scan began, so that an event could have named them."""
        until_ms = run.checkpoint.started_ms - SKEW_MS
        for place in places:
            changed_ms = records.records[place].get("updatedAt")
            is_late = isinstance(changed_ms, int) and changed_ms > until_ms
            if len(self.found) < FOUND_MAX and not is_late:
                self.found.add(records.ids[place])

    def load(self) -> None:
        """Load what was taken; for lists without changes, save only the checkpoints.

        Raises:
            DestinationError: the rows can't be written; they will be read again.
        """
        taken, malformed = self._taken, self._malformed
        self._taken, self._malformed = {}, {}
        states = {name: self._runs[name].state() for name in taken}
        names = [name for name in self._makers if name in taken and taken[name].tables]
        batches = [self._batch(name, taken.pop(name), states.pop(name)) for name in names]
        while self._seen:  # before the rows are loaded: see `SeenIds`
            self._destination.seen.add(*self._seen.popitem())
        if malformed:
            batches.append(Batch(MALFORMED_TABLE, list(malformed.values()), MALFORMED_COLUMNS))
        if batches:
            self._destination.load(batches)
            gc.collect(1)  # dlt's loads leave cycles behind that hold their rows; all are young
        for batch in batches:
            if batch.table in self._runs:
                self._runs[batch.table].counts["rows_written"] += len(batch.rows)
        if states:
            self._destination.loader.save_states(states)

    def _batch(self, resource: str, taken: _Taken, state: Mapping[str, Any]) -> Batch:
        return Batch(
            resource, _latest(taken), self._makers[resource].columns,
            state=state, asked_ms=taken.asked_ms,
        )  # fmt: skip


def _latest(taken: _Taken) -> pa.Table:
    """All rows, whose tables may differ in their columns; of an id, the last."""
    rows = pa.concat_tables(taken.tables, promote_options="default")
    if len(rows) == len(taken.ids):
        return rows
    places = pa.table({"id": rows["id"], "place": range(len(rows))}).group_by("id")
    return rows.take(places.aggregate([("place", "max")])["place_max"].sort())
