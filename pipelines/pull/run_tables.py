"""What lands besides the lists: the account, `_hc_runs`, `_hc_freshness` and `_hc_push_results`."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import orjson

from connector.budget import locks
from connector.clock import wall_ms
from connector.errors import AlreadyRunning, OtherAccount, OutboxLost, Refused, Unauthorized
from connector.logs import get_logger, masked
from connector.runs import Freshness, FreshnessLog, RunRecord
from connector.settings import PullSettings
from connector.source.fields import CONTRACT, DELETED_COLUMN, HASH_COLUMN, UNLISTED_COLUMN, holdable
from connector.source.row_maker import MALFORMED_COLUMNS, MALFORMED_TABLE, RowMaker
from connector.source.scans import ListScan
from connector.upsert.outbox.receipts import ResultStore
from connector.webhooks.inbox import EventFacts
from pipelines.destination.destination import Destination
from pipelines.destination.history_tables import HISTORY_COLUMNS
from pipelines.destination.identity import destination_label, destination_number, pull_lock_name
from pipelines.destination.loader import PIPELINE_NAME, SCHEMA_NAME, Batch, parsed_state
from pipelines.destination.warehouse import DuckWarehouse, ServerWarehouse
from pipelines.running.session import Session, key_number, outbox_of

_log, _pull_log = get_logger("push"), get_logger("pull")
ACCOUNT_TABLE = "account"
_UNKNOWN = "unknown"  # the id of an account that the API doesn't name
_OWNER = "owner"  # in dlt's state of the table
_STATES = "_dlt_pipeline_state"
_SECRET = re.compile(r"(?i)key|secret|token|password")
_NAMED = ("accountId", "active", "permissions")


def account_batch(facts: Mapping[str, Any]) -> Batch:
    """The one row of the account that `facts` (of GET /auth) describe.

    details: what the contract doesn't name, except what could be a secret, at any depth.
    """
    known = _without_secrets(holdable(dict(facts), Counter()))
    active = known.get("active")
    details = {name: value for name, value in known.items() if name not in _NAMED}
    row = {
        "id": str(known.get("accountId") or _UNKNOWN),
        "active": active if isinstance(active, bool) else None,
        "permissions": orjson.dumps(known.get("permissions")).decode(),
        "details": orjson.dumps(details, option=orjson.OPT_SORT_KEYS).decode(),
    }
    content = orjson.dumps(row, option=orjson.OPT_SORT_KEYS)
    row[HASH_COLUMN] = hashlib.blake2b(content, digest_size=16).hexdigest()
    return Batch(ACCOUNT_TABLE, [row], ACCOUNT_COLUMNS)


def _without_secrets(value: Any) -> Any:
    """`value` without fields named like a secret, and with the key masked wherever it is quoted."""
    if isinstance(value, dict):
        kept = {name: item for name, item in value.items() if not _SECRET.search(name)}
        return {name: _without_secrets(item) for name, item in kept.items()}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return masked(value) if isinstance(value, str) else value


Columns = dict[str, dict[str, Any]]


def _columns(*keys: str, **types: str) -> Columns:
    return {
        name: {"name": name, "data_type": data_type, "nullable": name not in keys}
        | ({"primary_key": True} if name in keys else {})
        for name, data_type in types.items()
    }


ACCOUNT_COLUMNS = _columns(
    "id", id="text", active="bool", permissions="json", details="json",
    **{HASH_COLUMN: "text", DELETED_COLUMN: "timestamp"},
)  # fmt: skip
RUN_COLUMNS = _columns(
    "run_id", run_id="text", kind="text", status="text", started_at="timestamp",
    finished_at="timestamp", requests="bigint", rows_read="bigint", rows_written="bigint",
    rows_deleted="bigint", resources="json", summary="json", error="text",
)  # fmt: skip
FRESHNESS_COLUMNS = _columns(
    "resource", resource="text", run_id="text", scan="text", reason="text", rows="bigint",
    last_pull_at="timestamp", last_complete_at="timestamp", complete="bool", why_incomplete="text",
    last_event_at="timestamp", event_miss_rate="double",
)  # fmt: skip


def runs_batch(records: Iterable[RunRecord]) -> Batch:
    """A row of `_hc_runs` per run."""
    return Batch("_hc_runs", [_run_row(record) for record in records], RUN_COLUMNS, key="run_id")


def freshness_batch(freshness: Iterable[Freshness]) -> Batch:
    """A row of `_hc_freshness` per resource."""
    rows = [
        {
            "resource": fresh.resource,
            "run_id": fresh.run_id,
            "scan": fresh.scan,
            "reason": fresh.reason,
            "rows": fresh.rows,
            "last_pull_at": at(fresh.last_pull_ms or None),
            "last_complete_at": at(fresh.last_complete_ms),
            "complete": fresh.complete,
            "why_incomplete": fresh.why_incomplete,
            "last_event_at": at(fresh.last_event_ms),
            "event_miss_rate": fresh.event_miss_rate,
        }
        for fresh in freshness
    ]
    return Batch("_hc_freshness", rows, FRESHNESS_COLUMNS, key="resource")


def at(ms: int | None) -> datetime | None:
    """UTC epoch ms as a time."""
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)


def _run_row(record: RunRecord) -> dict[str, Any]:
    resources: Mapping[str, Mapping[str, Any]] = record.summary.get("resources", {})
    return {
        "run_id": record.run_id,
        "kind": record.kind,
        "status": record.status,
        "started_at": at(record.started_ms),
        "finished_at": at(record.finished_ms),
        "requests": record.summary.get("requests"),
        **{name: _sum(resources, name) for name in ("rows_read", "rows_written", "rows_deleted")},
        "resources": dict(resources) or None,
        "summary": record.summary,
        "error": record.error,
    }


def _sum(resources: Mapping[str, Mapping[str, Any]], name: str) -> int | None:
    counts = [int(facts.get(name, 0)) for facts in resources.values()]
    return sum(counts) if counts else None


class RunRecorder:
    """Records one run in its ledger and its destination."""

    def __init__(self, session: Session, destination: Destination) -> None:
        self._session, self._destination = session, destination
        self._label = destination_label(session.settings)
        self._freshness = FreshnessLog(session.ledger)

    def note(self, run: ListScan) -> None:
        """Note the freshness of a list after its scan, which may have been interrupted.

        A full scan that hasn't ended makes nothing fresher, and leaves a table that isn't proven
        complete; but in parts it follows a narrow one, which has been noted.
        """
        ended = run.outcome
        is_over = ended is not None and not ended.unfinished
        is_part = run.finds_deletions and run.counts["rows_read"] > 0 and not run.plan.in_parts
        if run.plan.backfill or not (is_over or is_part):
            return
        before = {fresh.resource: fresh for fresh in self._freshness.of(self._label)}
        fresh = replace(
            before.get(run.resource, Freshness(run.resource)),
            run_id=self._session.run_id, scan=str(run.plan.kind), reason=run.plan.reason,
            rows=self._destination.live_count(run.resource),
            complete=run.complete, why_incomplete=run.why_incomplete,
        )  # fmt: skip
        if is_over:
            fresh = replace(fresh, last_pull_ms=run.checkpoint.started_ms)
        if run.complete:
            fresh = replace(fresh, last_complete_ms=run.checkpoint.started_ms)
        self._freshness.note(self._label, fresh)

    def note_events(self, resource: str, facts: EventFacts) -> None:
        """Note what events have brought into a list that was scanned before."""
        for known in self._freshness.of(self._label):
            if known.resource == resource:
                seen = replace(
                    known, rows=self._destination.live_count(resource),
                    last_event_ms=facts.last_event_ms, event_miss_rate=facts.miss_rate,
                )  # fmt: skip
                if seen != known:
                    self._freshness.note(self._label, seen)

    def land_and_publish(self) -> bool:
        """Load the runs and the freshness that wait, then publish; True if a new copy was made."""
        self._land()
        return self.publish()

    def land(self, summary: Mapping[str, Any], account: Batch | None) -> None:
        """Load the same, this run and the account. summary: this run's so far."""
        run_id = self._session.run_id
        own = next(iter(self._session.runs.find(run_id)), None)
        assert own is not None
        ended = RunRecord(
            run_id, "pull", self._label, summary["status"], own.started_ms,
            wall_ms(), dict(summary), summary.get("error", {}).get("message"),
        )  # fmt: skip
        self._land([ended], [account] if account is not None and self._is_news(account) else [])

    def _land(self, ended: Sequence[RunRecord] = (), news: Sequence[Batch] = ()) -> None:
        runs = [*self._session.runs.unlanded(self._label), *ended]
        batches = [runs_batch(runs), freshness_batch(self._freshness.of(self._label)), *news]
        self._destination.record(batches, worth_publishing=bool(news))
        self._session.runs.mark_landed(record.run_id for record in runs)

    def _is_news(self, account: Batch) -> bool:
        (row,) = account.rows
        return bool(self._destination.changed(account.table, [row["id"]], [row[HASH_COLUMN]]))

    def publish(self) -> bool:
        """Publish what has landed; True if a new copy was made."""
        was_made = self._destination.publish()
        if self._destination.is_published:
            self._freshness.publish(self._label)
        return was_made


# --- results of pushes ---------------------------------------------------------------------------

_IN_ONE_LOAD = 25_000
_RESULTS_TABLE = "_hc_push_results"
_RESULTS_KEY = ("run_id", "row_number")
_RESULTS_COLUMNS = _columns(
    *_RESULTS_KEY, run_id="text", row_number="bigint", status="text", prospect_id="text",
    message="text", pushed_at="timestamp", record_kind="text", record_id="text",
    changed_fields="json", kept_fields="json",
)  # fmt: skip


def results_batch(rows: Sequence[Mapping[str, Any]]) -> Batch:
    """Rows of `_hc_push_results`."""
    return Batch(_RESULTS_TABLE, rows, _RESULTS_COLUMNS, key=_RESULTS_KEY)


def documented_columns() -> dict[str, Columns]:
    """By table, the columns that exist from the first pull on (from the first record without an id,
    and from the first pull with a history)."""
    lists: dict[str, Any] = {name: dict(RowMaker(name, {}).columns) for name in CONTRACT}
    histories = {
        f"{name}_history": {
            column: schema for column, schema in lists[name].items()
            if column not in (DELETED_COLUMN, UNLISTED_COLUMN)
        } | _columns(**HISTORY_COLUMNS)
        for name in PullSettings().history
    }  # fmt: skip
    others = {
        ACCOUNT_TABLE: ACCOUNT_COLUMNS,
        "_hc_runs": RUN_COLUMNS,
        "_hc_freshness": FRESHNESS_COLUMNS,
        _RESULTS_TABLE: _RESULTS_COLUMNS,
        MALFORMED_TABLE: dict(MALFORMED_COLUMNS),
    }
    return {**lists, **histories, **others}


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
            RunRecorder(session, destination).land_and_publish()
    except AlreadyRunning:
        _log.info("push.results_wait", why="a pull is running; it or the next one lands them")
        return False
    return True


# --- whose rows they are --------------------------------------------------------------------------


@dataclass(frozen=True)
class Owner:
    """Whose rows a destination has. account: its id; None where the API names none. host: of its
    API. key: the number that stands for the API key in the ledger; None if unknown."""

    account: str | None
    host: str = ""
    key: int | None = None

    def __str__(self) -> str:
        return f"account {self.account!r}" if self.account else f"an account at {self.host}"

    def is_other_than(self, other: Owner) -> bool:
        """Whether they are two accounts. A new key or a new host alone says nothing: keys are
        rotated, and hosts move."""
        if self.account and other.account:
            return self.account != other.account
        is_elsewhere = bool(self.host and other.host) and self.host != other.host
        return is_elsewhere and self.key != other.key


def owner_now(session: Session, facts: Mapping[str, Any] | None) -> Owner:
    """The key's account. facts: of GET /auth; None where it was refused."""
    named = holdable({"id": (facts or {}).get("accountId")}, Counter())["id"]
    account = str(named) if named and isinstance(named, str | int) else None
    host = urlsplit(session.settings.base_url).netloc
    return Owner(account, host, key_number(session.settings, session.ledger))


def owner_landed(destination: Destination) -> Owner | None:
    """Whose rows are there; None if there are none, or it isn't known."""
    if owner := destination.loader.state_of(ACCOUNT_TABLE).get(_OWNER):
        return Owner(**owner)
    return _owner_by_id(destination) if destination.columns(ACCOUNT_TABLE) else None


def _owner_by_id(tables: Destination | DuckWarehouse | ServerWarehouse) -> Owner | None:
    """From the account's table: a version before this noted no more."""
    ids = tables.query(f"SELECT id FROM {tables.name(ACCOUNT_TABLE)}")  # noqa: S608 - a name of ours
    known = [str(id_) for (id_,) in ids if id_ != _UNKNOWN]
    return Owner(known[0]) if len(known) == 1 else None


def _owner_stored(tables: DuckWarehouse | ServerWarehouse) -> Owner | None:
    """The same as `owner_landed`, as far as a load has carried it to the destination. The published
    copy has only the account's table."""
    if not tables.column_names(ACCOUNT_TABLE):
        return None
    if tables.column_names(_STATES):
        sql = f"SELECT _dlt_load_id, state FROM {tables.name(_STATES)} WHERE pipeline_name = %s"  # noqa: S608
        _, newest = max(tables.query(sql, [PIPELINE_NAME]), default=("", "{}"))
        with suppress(ValueError, LookupError, TypeError):  # by another version of dlt
            states = parsed_state(newest)["sources"][SCHEMA_NAME]["resources"]
            return Owner(**states[ACCOUNT_TABLE][_OWNER])
    return _owner_by_id(tables)


def refuse_other_owner(landed: Owner | None, now: Owner, *, take_over: bool, **why: str) -> bool:
    """True if the destination is taken over from another account. why: as in `OtherAccount`.

    Raises:
        OtherAccount: it has another account's rows.
    """
    if landed is None:
        return False
    if landed.is_other_than(now):
        if not take_over:
            raise OtherAccount(landed=str(landed), asked=str(now), **why)
        _pull_log.warning("pull.account_taken_over", landed=str(landed), now=str(now))
        return True
    if not (landed.account and now.account) and landed.host and landed.host != now.host:
        _pull_log.warning("pull.other_host", landed=landed.host, now=now.host)
    return False


def note_owner(destination: Destination, landed: Owner | None, now: Owner) -> None:
    """Remember whose rows land from now on; stored with the next load."""
    if now.account is None and landed is not None and not landed.is_other_than(now):
        now = replace(now, account=landed.account)
    if now != landed:
        destination.loader.save_states({ACCOUNT_TABLE: {_OWNER: asdict(now)}})


def refuse_if_moved(destination: Destination, session: Session) -> None:
    """The same for work that doesn't ask for the account each time: it does where the key or the
    host isn't that of the rows.

    Raises:
        OtherAccount: the destination has another account's rows.
    """
    landed = owner_landed(destination)
    if (now := _owner_if_moved(landed, session)) is not None:
        note_owner(destination, landed, now)


def refuse_other_account(
    tables: DuckWarehouse | ServerWarehouse, session: Session, why: str
) -> None:
    """The same for work with tables that isn't a load. why: as in `OtherAccount`.

    Raises:
        OtherAccount: they have another account's rows.
    """
    _owner_if_moved(_owner_stored(tables), session, why=why)


def _owner_if_moved(landed: Owner | None, session: Session, **why: str) -> Owner | None:
    """The key's account, asked for; None where that is needless."""
    now = owner_now(session, None)
    if landed is None or (landed.host, landed.key) == (now.host, now.key):
        return None
    try:
        now = owner_now(session, session.client.account())
    except (Refused, Unauthorized) as error:
        if error.status == 401:
            raise
    refuse_other_owner(landed, now, take_over=False, **why)
    return now
