"""The table `_hc_push_results` at the destination: one row per pushed row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from connector.budget import locks
from connector.errors import AlreadyRunning, OutboxLost
from connector.logs import get_logger
from connector.upsert.outbox.receipts import ResultStore
from pipelines.destination.destination import Destination
from pipelines.destination.identity import destination_label, destination_number, pull_lock_name
from pipelines.destination.loader import Batch
from pipelines.pull.run_tables import RunRecorder, at, runs_batch
from pipelines.running.account_outbox import key_number, outbox_of
from pipelines.running.session import Session

_log = get_logger("push")
_IN_ONE_LOAD = 25_000
_TABLE = "_hc_push_results"
_KEY = ("run_id", "row_number")
_TYPES = {
    "run_id": "text",
    "row_number": "bigint",
    "status": "text",
    "prospect_id": "text",
    "message": "text",
    "pushed_at": "timestamp",
    "record_kind": "text",
    "record_id": "text",
    "changed_fields": "json",
    "kept_fields": "json",
}
_COLUMNS: dict[str, dict[str, Any]] = {
    name: {"name": name, "data_type": data_type, "nullable": name not in _KEY}
    | ({"primary_key": True} if name in _KEY else {})
    for name, data_type in _TYPES.items()
}


def results_batch(rows: Sequence[Mapping[str, Any]]) -> Batch:
    """Rows of `_hc_push_results`."""
    return Batch(_TABLE, rows, _COLUMNS, key=_KEY)


def land_push_results(destination: Destination, session: Session) -> None:
    """Load the results that the outbox still keeps for this destination.

    Creates the table if there is none yet, and the columns that version 0.1 didn't have. The pull
    lock must be held; nothing is published.
    """
    settings = session.settings
    destination.create_tables([results_batch([])])
    try:
        with closing(outbox_of(session)) as outbox:
            key, label = key_number(settings, session.ledger), destination_number(settings)
            store = ResultStore(outbox.database, key, label)
            while found := store.unlanded(_IN_ONE_LOAD):
                rows = [dict(each) for each in found]  # copies: `found` is compared later
                for row in rows:
                    row["pushed_at"] = at(row.pop("pushed_ms"))
                destination.record([results_batch(rows)], worth_publishing=True)
                store.mark_landed(found)
    except OutboxLost as error:  # a pull continues without it; the next push stops
        _log.warning("push.no_outbox", why=str(error))


def land_after_push(session: Session) -> bool:
    """Land this push's results, unless a pull is running: it or the next one will land them. True
    if they have landed."""
    name = pull_lock_name(session.settings)
    try:
        with (
            locks.take_lock(session.ledger, name, run_id=session.run_id),
            Destination(session.settings, stop=session.stop) as destination,
        ):
            land_push_results(destination, session)
            waiting = session.history.unlanded(destination_label(session.settings))
            destination.record([runs_batch(waiting)])
            session.history.mark_landed(record.run_id for record in waiting)
            RunRecorder(session, destination).publish()
    except AlreadyRunning:
        _log.info("push.results_wait", why="a pull is running; it or the next one lands them")
        return False
    return True
