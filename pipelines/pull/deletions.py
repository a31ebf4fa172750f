"""Rows that a full scan didn't meet: looked at by their ids before anything is said of them.

That a row isn't listed proves nothing by itself. Pages drift while rows come and go, archived
rows leave a list and can still be read, and a list may hide rows that it counts. So a row is
flagged deleted where the API says that there is none (404), and noted as unlisted where it shows
it. After a scan that is proven complete, a sample stands for many; after one that isn't, and whose
doubt was there before, each is looked at, some in each pull. What was found alive, or undecided,
is known then, and looked at once a day.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from connector.api.client import ApiClient
from connector.logs import get_logger
from connector.source.record_lookups import LOOK_AT_MOST, Found, LookUps
from pipelines.destination.destination import Destination
from pipelines.pull.chunks import Landing
from pipelines.pull.scanning import ResourceRun, expected_ids

_log = get_logger("pull")
_LOOK_AGAIN_MS = 86_400_000  # at rows that are known to be unlisted: they may be deleted later
_UNDECIDED_MAX = 5000  # ids that a state remembers


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
    destination: Destination, landing: Landing, run: ResourceRun, client: ApiClient, *, now_ms: int
) -> None:
    """Flag what the ended scan of `run` proves deleted; note what it lacks and is there still.

    Raises:
        Unauthorized: the key is refused altogether. BudgetError, Interrupted: as ApiClient.
        DestinationError: the flags can't be written.
    """
    ended = run.mark.ended
    assert ended is not None
    gone = set(ended.gone)
    unlisted = _still_expected(destination, run)
    if run.finds_deletions and (ended.complete or (run.doubt and not run.is_doubt_new)):
        absent = destination.missing(run.resource)
        known = set(run.facts.undecided).intersection(absent)
        missing = [one for one in absent if one not in known]
        sample = _some(missing)
        most = LOOK_AT_MOST - len(sample)
        again = _those_to_look_at_again(destination, run, known, most, now_ms)
        looks = _look(client, run, [*sample, *again])
        _remember_undecided(run, known.difference(again), looks)
        if looks.records:
            landing.land_records(run.resource, looks.records)
        unlisted += looks.alive
        gone |= set(looks.gone)
        if ended.complete:
            gone |= _believed(run, missing, looks)
    destination.unlist(run.resource, unlisted, now_ms)
    if gone:
        destination.tombstone(run.resource, sorted(gone), now_ms)
        run.counts["rows_deleted"] += len(gone)
        _log.info("pull.deleted", resource=run.resource, rows=len(gone))


def _still_expected(destination: Destination, run: ResourceRun) -> list[str]:
    """Rows that match the filters of a narrow scan still, and that its list lacked."""
    if not run.alive:
        return []
    alive = set(run.alive)
    return [one for one in expected_ids(destination, run.mark.plan) if one in alive]


def _some(ids: Sequence[str]) -> list[str]:
    return random.sample(list(ids), LOOK_AT_MOST) if len(ids) > LOOK_AT_MOST else list(ids)


def _those_to_look_at_again(
    destination: Destination, run: ResourceRun, undecided: set[str], most: int, now_ms: int
) -> list[str]:
    """Some of the rows known to be unlisted or undecided: once a day, and with `--full`."""
    looked_ms = run.facts.looked_ms
    is_due = looked_ms is None or not 0 <= now_ms - looked_ms < _LOOK_AGAIN_MS
    if not (is_due or run.is_full_wanted):
        return []
    run.looked_ms = now_ms
    rows = [*destination.unlisted(run.resource), *sorted(undecided)]
    return random.sample(rows, min(len(rows), max(0, most)))


def _remember_undecided(run: ResourceRun, known: set[str], looks: _Looks) -> None:
    """known: those of earlier pulls that weren't looked at in this one."""
    run.undecided = tuple(sorted(known.union(looks.undecided))[:_UNDECIDED_MAX])
    if known:
        run.warnings["left the list and stays as it is: an earlier look decided nothing"] += len(
            known
        )


def _look(client: ApiClient, run: ResourceRun, ids: Sequence[str]) -> _Looks:
    looks, look_ups = _Looks(), LookUps(client, run.resource)
    for record_id in ids:
        found, record = look_ups.look(record_id)
        if record is not None:
            looks.records.append(record)
        elif found is Found.GONE:
            looks.gone.append(record_id)
        else:
            others = {Found.UNASKABLE: looks.unaskable, Found.UNASKED: looks.unasked}
            others.get(found, looks.undecided).append(record_id)
    run.warnings.update(look_ups.warnings)
    return looks


def _believed(run: ResourceRun, missing: Sequence[str], looks: _Looks) -> set[str]:
    """Rows that a complete scan alone proves deleted.

    Where a sample of many rows has none that is there, the others weren't looked at. Where there
    is no call for single records, nothing else can be asked, unless nobody counted an empty list.
    """
    is_empty_unsaid = run.mark.ended is not None and _is_empty_unsaid(run)
    if looks.unaskable:
        if not is_empty_unsaid:
            return set(missing) - looks.open - set(looks.alive)
        _log.warning("pull.empty_list_ignored", resource=run.resource, missing=len(missing))
        return set()
    is_sample = len(missing) > LOOK_AT_MOST
    if is_sample and not looks.records and 2 * len(looks.open) < LOOK_AT_MOST:
        return set(missing) - looks.open
    return set()


def _is_empty_unsaid(run: ResourceRun) -> bool:
    """Whether a scan met nothing at all, and nobody counted."""
    ended = run.mark.ended
    return ended is not None and ended.rows == 0 and ended.total_count != 0
