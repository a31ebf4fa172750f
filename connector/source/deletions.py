"""Rows that a full scan didn't meet: looked at by their ids before anything is said of them.

That a row isn't listed proves nothing by itself. Pages drift while rows come and go, archived
rows leave a list and can still be read, and a list may hide rows that it counts. So a row is
flagged deleted where the API says that there is none (404), and noted as unlisted where it shows
it. After a scan that is proven complete, a sample stands for many; after one that isn't, and whose
doubt was there before, each is looked at, some in each run. What was found alive, or undecided,
is known then, and looked at once a day.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from connector.api.client import ApiClient
from connector.logs import get_logger
from connector.source.list_scan import ListScan
from connector.source.record_lookups import LOOK_AT_MOST, Found, LookUps

_log = get_logger("pull")
_LOOK_AGAIN_MS = 86_400_000  # at rows that are known to be unlisted: they may be deleted later
_UNDECIDED_MAX = 5000  # ids that a state remembers


class KnownRows(Protocol):
    """The rows of lists at the destination. Ids are texts; times are UTC epoch ms."""

    def missing(self, table: str, /) -> list[str]:
        """Live, listed rows that the last full scan didn't meet."""
        ...

    def unlisted(self, table: str, /) -> list[str]:
        """Live rows that are known to have left their list."""
        ...

    def unlist(self, table: str, ids: Sequence[str], at_ms: int, /) -> None:
        """Note of rows that they have left the list and are there still."""
        ...

    def tombstone(self, table: str, ids: Sequence[str], at_ms: int, /) -> None:
        """Flag rows deleted; their other columns stay."""
        ...


@dataclass
class _Looks:
    """What looking at rows found, by id. records: of those that are there."""

    gone: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)
    unaskable: list[str] = field(default_factory=list)

    @property
    def alive(self) -> list[str]:
        return [str(record["id"]) for record in self.records]

    @property
    def open(self) -> set[str]:
        """Of which nothing is known."""
        return {*self.undecided, *self.unasked}


def settle_absent_rows(
    rows: KnownRows,
    scan: ListScan,
    client: ApiClient,
    *,
    now_ms: int,
    expected: Sequence[str] = (),
    land: Callable[[list[dict[str, Any]]], None] = lambda _: None,
) -> None:
    """Flag what an ended scan proves deleted; note what it lacks and is there still.

    expected: rows that match the filters of a narrow scan still, and that its list lacked.
    land: what is done with records that a list lacks and that the API shows.

    Raises:
        Unauthorized: the key is refused altogether. BudgetError, Interrupted: as ApiClient.
        DestinationError: the flags can't be written.
    """
    outcome = scan.outcome
    assert outcome is not None
    gone, unlisted = set(outcome.gone), list(expected)
    if scan.finds_deletions and (outcome.complete or (scan.doubt and not scan.is_doubt_new)):
        absent = rows.missing(scan.resource)
        known = set(scan.facts.undecided).intersection(absent)
        missing = [one for one in absent if one not in known]
        sample = _some(missing)
        again = _those_to_look_at_again(rows, scan, known, LOOK_AT_MOST - len(sample), now_ms)
        looks = _look(client, scan, [*sample, *again])
        _remember_undecided(scan, known.difference(again), looks)
        if looks.records:
            land(looks.records)
        unlisted += looks.alive
        gone |= set(looks.gone)
        if outcome.complete:
            gone |= _believed(scan, missing, looks)
    rows.unlist(scan.resource, unlisted, now_ms)
    if gone:
        rows.tombstone(scan.resource, sorted(gone), now_ms)
        scan.counts["rows_deleted"] += len(gone)
        _log.info("pull.deleted", resource=scan.resource, rows=len(gone))


def _some(ids: Sequence[str]) -> list[str]:
    return random.sample(list(ids), LOOK_AT_MOST) if len(ids) > LOOK_AT_MOST else list(ids)


def _those_to_look_at_again(
    rows: KnownRows, scan: ListScan, undecided: set[str], most: int, now_ms: int
) -> list[str]:
    """Some of the rows known to be unlisted or undecided: once a day, and with `--full`."""
    looked_ms = scan.facts.looked_ms
    is_due = looked_ms is None or not 0 <= now_ms - looked_ms < _LOOK_AGAIN_MS
    if not (is_due or scan.is_full_wanted):
        return []
    scan.looked_ms = now_ms
    alive = [*rows.unlisted(scan.resource), *sorted(undecided)]
    return random.sample(alive, min(len(alive), max(0, most)))


def _remember_undecided(scan: ListScan, known: set[str], looks: _Looks) -> None:
    """known: those of earlier pulls that weren't looked at in this one."""
    scan.undecided = tuple(sorted(known.union(looks.undecided))[:_UNDECIDED_MAX])
    if known:
        scan.warnings["left the list and stays as it is: an earlier look decided nothing"] += len(
            known
        )


def _look(client: ApiClient, scan: ListScan, ids: Sequence[str]) -> _Looks:
    looks, look_ups = _Looks(), LookUps(client, scan.resource)
    for record_id in ids:
        found, record = look_ups.look(record_id)
        if record is not None:
            looks.records.append(record)
        elif found is Found.GONE:
            looks.gone.append(record_id)
        else:
            others = {Found.UNASKABLE: looks.unaskable, Found.UNASKED: looks.unasked}
            others.get(found, looks.undecided).append(record_id)
    scan.warnings.update(look_ups.warnings)
    return looks


def _believed(scan: ListScan, missing: Sequence[str], looks: _Looks) -> set[str]:
    """Rows that a complete scan alone proves deleted.

    Where a sample of many rows has none that is there, the others weren't looked at. Where there
    is no call for single records, nothing else can be asked, unless nobody counted an empty list.
    """
    is_empty_unsaid = _is_empty_unsaid(scan)
    if looks.unaskable:
        if not is_empty_unsaid:
            return set(missing) - looks.open - set(looks.alive)
        _log.warning("pull.empty_list_ignored", resource=scan.resource, missing=len(missing))
        return set()
    is_sample = len(missing) > LOOK_AT_MOST
    if is_sample and not looks.records and 2 * len(looks.open) < LOOK_AT_MOST:
        return set(missing) - looks.open
    return set()


def _is_empty_unsaid(scan: ListScan) -> bool:
    """Whether a scan met nothing at all, and nobody counted."""
    outcome = scan.outcome
    return outcome is not None and outcome.rows == 0 and outcome.total_count != 0
