"""Rows that a complete scan didn't meet: looked at before they are flagged.

Pages drift while rows come and go, so a living row can slip through a complete scan. Few missing
rows are asked for one by one; of many, a sample decides whether the scan can be believed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from connector.api.client import ApiClient
from connector.errors import Refused
from connector.logs import get_logger
from pipelines.destination.destination import Destination
from pipelines.pull.landing import Landing
from pipelines.pull.scanning import ResourceRun

_log = get_logger("pull")
LOOK_AT_MOST = 50
_REFUSED: dict[str, Any] = {}


def flag_deleted(
    destination: Destination, landing: Landing, run: ResourceRun, client: ApiClient, *, now_ms: int
) -> None:
    """Flag what the finished scan of `run` proves deleted; bring home what it merely missed.

    Raises:
        ApiError: a missing row can't be looked at; nothing was flagged.
        DestinationError: the flags can't be written.
    """
    ended = run.mark.ended
    assert ended is not None
    gone = set(ended.gone)
    if run.finds_deletions and ended.complete:
        gone |= _proven(destination.missing(run.resource), landing, run, client)
    if gone:
        destination.tombstone(run.resource, sorted(gone), now_ms)
        run.counts["rows_deleted"] += len(gone)
        _log.info("pull.deleted", resource=run.resource, rows=len(gone))


def _proven(
    missing: Sequence[str], landing: Landing, run: ResourceRun, client: ApiClient
) -> set[str]:
    looked_at = missing
    if len(missing) > LOOK_AT_MOST:
        looked_at = random.sample(list(missing), LOOK_AT_MOST)
    looks = [_look(client, run, record_id) for record_id in looked_at]
    if _REFUSED in looks and _is_empty_unsaid(run):
        _log.warning("pull.empty_list_not_believed", resource=run.resource, missing=len(missing))
        return set()
    found = [record for record in looks if record]
    if found:
        landing.land_records(run.resource, found)
    if found and len(looked_at) < len(missing):
        _log.warning(
            "pull.scan_missed_rows", resource=run.resource, missing=len(missing),
            looked_at=len(looked_at), alive=len(found), flagged=0,
        )  # fmt: skip
        return set()
    return set(missing) - {str(record["id"]) for record in found}


def _is_empty_unsaid(run: ResourceRun) -> bool:
    """Whether a scan met nothing at all, and nobody counted."""
    ended = run.mark.ended
    return ended is not None and ended.rows == 0 and ended.total_count != 0


def _look(client: ApiClient, run: ResourceRun, record_id: str) -> dict[str, Any] | None:
    """The record if it is alive; None if the API says there is none; `_REFUSED` if it has no
    such call: then the scan alone decides."""
    try:
        return client.record(run.resource, record_id)
    except Refused as error:
        _log.warning("pull.look_refused", resource=run.resource, status=error.status)
        return _REFUSED
