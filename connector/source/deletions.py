"""Rows that a full scan didn't find: looked up by id before anything is concluded.

A row's absence from a list proves nothing by itself. Pages drift while rows come and go, archived
rows leave a list but can still be read, and a list may hide rows that it counts. So a row is
flagged deleted if the API answers 404, and marked unlisted if the API returns it. After a scan
that is proven complete, a sample decides for many; after one that isn't, for a known reason, each
row is looked up, some in each run. Rows found alive or undecided are looked up again once a day.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Protocol

from connector.api.client import ApiClient
from connector.errors import Redirected, Refused, Unauthorized, UnexpectedAnswer, Unreachable
from connector.logs import get_logger
from connector.source.fields import record_id as id_of
from connector.source.scans import ListScan

LOOK_AT_MOST = 50
PATIENCE_S = 5.0  # for one row: a row that the server can't return must not delay the others
PATIENCE_LEAST_S = 1.0  # each such row leaves less time for the next
FAILURES_MAX = 5  # in a row: then the server is in trouble, and the others wait for the next pull
_DELETED_STATUSES = (404, 410)
_NO_SUCH_CALL = 405
_log = get_logger("pull")
_source_log = get_logger("source")
_LOOK_UP_AGAIN_MS = 86_400_000  # at rows that are known to be unlisted: they may be deleted later
_UNDECIDED_MAX = 5000  # ids that a state remembers


class KnownRows(Protocol):
    """The rows of lists at the destination. Ids are texts; times are UTC epoch ms."""

    def missing(self, table: str, /) -> list[str]:
        """Live, listed rows that the last full scan didn't find."""
        ...

    def unlisted(self, table: str, /) -> list[str]:
        """Live rows that are known to have left their list."""
        ...

    def unlist(self, table: str, ids: Sequence[str], at_ms: int, /) -> None:
        """Mark rows as unlisted: they left the list but still exist."""
        ...

    def tombstone(self, table: str, ids: Sequence[str], at_ms: int, /) -> None:
        """Flag rows deleted; their other columns stay."""
        ...


def settle_absent_rows(
    rows: KnownRows,
    scan: ListScan,
    client: ApiClient,
    *,
    now_ms: int,
    expected: Sequence[str] = (),
    land: Callable[[list[dict[str, Any]]], None] = lambda _: None,
) -> None:
    """Flag the rows that a finished scan proves deleted; mark unlisted ones that still exist.

    expected: rows that still match the filters of a narrow scan but that its list lacked.
    land: called with records that a list lacks and that the API returns.

    Raises:
        Unauthorized: the key is refused altogether. BudgetError, Interrupted: as ApiClient.
        DestinationError: the flags can't be written.
    """
    outcome = scan.outcome
    assert outcome is not None
    deleted, unlisted = set(outcome.gone), list(expected)
    if scan.finds_deletions and (outcome.complete or (scan.doubt and not scan.is_doubt_new)):
        absent = rows.missing(scan.resource)
        known = set(scan.facts.undecided).intersection(absent)
        missing = [one for one in absent if one not in known]
        sample = _some(missing, LOOK_AT_MOST)
        again = _due_again(rows, scan, known, LOOK_AT_MOST - len(sample), now_ms)
        looked_up = LookUps(client, scan.resource)
        records = [one for one in map(looked_up.look, [*sample, *again]) if one is not None]
        scan.warnings.update(looked_up.warnings)
        _remember_undecided(scan, known.difference(again), looked_up)
        if records:
            land(records)
        unlisted += looked_up.ids[Found.ALIVE]
        deleted |= set(looked_up.ids[Found.DELETED])
        if outcome.complete:
            deleted |= _proven_deleted(scan, missing, looked_up)
    rows.unlist(scan.resource, unlisted, now_ms)
    if deleted:
        rows.tombstone(scan.resource, sorted(deleted), now_ms)
        scan.counts["rows_deleted"] += len(deleted)
        _log.info("pull.deleted", resource=scan.resource, rows=len(deleted))


def _some(ids: Sequence[str], most: int) -> list[str]:
    return [*ids] if len(ids) <= most else random.sample([*ids], max(0, most))


def _due_again(
    rows: KnownRows, scan: ListScan, undecided: set[str], most: int, now_ms: int
) -> list[str]:
    """Some of the rows known to be unlisted or undecided, once a day and with `--full`."""
    looked_ms = scan.facts.looked_ms
    is_due = looked_ms is None or not 0 <= now_ms - looked_ms < _LOOK_UP_AGAIN_MS
    if not (is_due or scan.is_full_wanted):
        return []
    scan.looked_ms = now_ms
    return _some([*rows.unlisted(scan.resource), *sorted(undecided)], most)


def _remember_undecided(scan: ListScan, known: set[str], looked_up: LookUps) -> None:
    """known: those of earlier pulls that weren't looked at in this one."""
    undecided = known.union(looked_up.ids[Found.UNDECIDED])
    scan.undecided = tuple(sorted(undecided)[:_UNDECIDED_MAX])
    if known:
        why = "left the list and stays as it is: an earlier look decided nothing"
        scan.warnings[why] += len(known)


def _proven_deleted(scan: ListScan, missing: Sequence[str], looked_up: LookUps) -> set[str]:
    """Rows that a complete scan proves deleted without a look-up.

    If none of a sample of many rows exists, the others count as deleted too. If the API has no call
    for single records, the list decides, unless it was empty and came without a count.
    """
    outcome, alive = scan.outcome, looked_up.ids[Found.ALIVE]
    unknown = {*looked_up.ids[Found.UNDECIDED], *looked_up.ids[Found.UNASKED]}
    if looked_up.ids[Found.UNASKABLE]:
        if outcome is None or outcome.rows or outcome.total_count == 0:
            return set(missing) - unknown - set(alive)
        _log.warning("pull.empty_list_ignored", resource=scan.resource, missing=len(missing))
    elif len(missing) > LOOK_AT_MOST and not alive and 2 * len(unknown) < LOOK_AT_MOST:
        return set(missing) - unknown
    return set()


# --- looking up single records --------------------------------------------------------------------


class Found(StrEnum):
    """The result of one look-up. UNDECIDED: the API neither returns the row nor answers 404.

    UNASKED: too many look-ups failed before it. UNASKABLE: the API has no call for single records,
    so the list alone decides.
    """

    ALIVE = "alive"
    DELETED = "deleted"
    UNDECIDED = "undecided"
    UNASKED = "unasked"
    UNASKABLE = "unaskable"


class LookUps:
    """Looks up single records of one resource.

    ids: by result, those that were looked up. warnings: message → how many look-ups failed so.
    permit_until_s: no permit is waited for after that (monotonic).
    """

    def __init__(
        self, client: ApiClient, resource: str, *, permit_until_s: float = math.inf
    ) -> None:
        self._client, self._resource = client, resource
        self._permit_until_s = permit_until_s
        self._failures = self._vain = 0
        self.ids: dict[Found, list[str]] = {found: [] for found in Found}
        self.warnings: Counter[str] = Counter()
        self.has_given_up = False
        """Too many look-ups failed in a row: the server is in trouble, whatever those that were
        asked for before still bring."""

    def look(self, record_id: str) -> dict[str, Any] | None:
        """The record, where it exists.

        Raises:
            Unauthorized: the key is refused altogether (401).
            TimeoutError: there was no permit in time; the record counts as not looked up.
            BudgetError, Interrupted: as ApiClient.
        """
        found, record, why = self.ask(record_id)
        self.ids[found].append(record_id)
        if why:
            self.warnings[f"left the list and can't be looked at, so it stays as it is: {why}"] += 1
        return record

    def ask(self, record_id: str) -> tuple[Found, dict[str, Any] | None, str]:
        """The result, the record, and why nothing was decided; `look` also keeps them.

        Raises:
            As `look`.
        """
        if self.has_given_up:
            return Found.UNASKED, None, "too many look-ups failed in a row"
        patience_s = max(PATIENCE_LEAST_S, PATIENCE_S / (1 + self._vain))
        try:
            record = self._client.record(
                self._resource,
                record_id,
                patience_s=patience_s,
                permit_until_s=self._permit_until_s,
            )
        except ValueError:  # an id that no address can hold
            return Found.UNDECIDED, None, "its id can't be asked for"
        except (Refused, Unauthorized) as error:
            return self._refused(error)
        except (UnexpectedAnswer, Unreachable, Redirected) as error:
            self._vain += 1
            if isinstance(error, UnexpectedAnswer):
                return Found.UNDECIDED, None, f"the API answers {error.status} without the record"
            self._failures += 1
            self.has_given_up |= self._failures >= FAILURES_MAX
            name = type(error).__name__
            _source_log.info("source.look_failed", resource=self._resource, error=name)
            return Found.UNDECIDED, None, "the API gives no usable answer"
        self._failures = 0
        if record is None:
            return Found.DELETED, None, ""
        if id_of(record) != record_id:
            return Found.UNDECIDED, None, "the API answers with something else"
        return Found.ALIVE, record, ""

    def _refused(self, error: Refused | Unauthorized) -> tuple[Found, None, str]:
        if isinstance(error, Unauthorized):
            if error.status == 401:
                raise error
            return Found.UNDECIDED, None, f"the API answers {error.status}"
        self._failures = 0
        if error.status in _DELETED_STATUSES:
            return Found.DELETED, None, ""
        if error.status == _NO_SUCH_CALL:
            return Found.UNASKABLE, None, ""
        return Found.UNDECIDED, None, f"the API answers {error.status}"
