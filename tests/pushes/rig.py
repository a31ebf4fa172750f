"""A push as `pipelines.push.push_run` makes one, with rows from memory and no pace."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import sqlalchemy as sa

from connector.api.client import ApiClient
from connector.budget import Lane, Permit
from connector.budget.database import Database, half_path
from connector.budget.locks import HeldLock, take_lock
from connector.clock import Clock, SteadyClock, SystemClock
from connector.upsert.activities import ActivityPlanner
from connector.upsert.delivery import KeyMemory
from connector.upsert.looking import ProspectScan
from connector.upsert.outbox.evidence import Near, Pulled
from connector.upsert.outbox.exported_rows import ExportedRows
from connector.upsert.outbox.merge import MergeRules
from connector.upsert.outbox.outbox import PROSPECTS, Outbox, Write
from connector.upsert.outbox.outbox_schema import MIGRATIONS, results
from connector.upsert.outbox.person_plan import Mode, PushOptions
from connector.upsert.outbox.planner import PlanCounts, Planner
from connector.upsert.outbox.receipts import Status
from connector.upsert.rows.cells import InputRow
from connector.upsert.rows.column_mapping import match_columns
from connector.upsert.rows.row_checks import Activity, Reject, Validator, ValidRow
from connector.upsert.sending import Sender
from connector.upsert.undoing import BeforeImage, BeforeImages

SCOPE = 42
UNDO_KEY = b"u" * 32
_ACTIVITIES = {"note": "notes", "task": "tasks", "meeting": "meetings"}


@cache
def _outbox_without_rows() -> bytes:
    """A SQLite file with the tables of an outbox: making them takes longer than most tests."""
    with TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/ledger.db", suffix="-outbox")
        database.migrate("outbox", MIGRATIONS)
        database.close()
        return (Path(folder) / "ledger-outbox.db").read_bytes()


class CopyByContact(Pulled):
    """A pulled copy that is asked for each contact by itself."""

    def by_email(self, emails: Collection[str]) -> dict[str, frozenset[str]]:
        """email → the ids of those who have it."""
        raise NotImplementedError

    def by_phone(self, phones: Collection[str]) -> dict[str, frozenset[str]]:
        """phone → the ids of those who have it."""
        raise NotImplementedError

    def near(self, emails: Collection[str], phones: Collection[str]) -> Near:
        by_email, by_phone = self.by_email(emails), self.by_phone(phones)
        ids = frozenset[str]().union(*by_email.values(), *by_phone.values())
        return Near(by_email, by_phone, self.by_id(ids, with_fields=True))


def _stay_in_memory(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")


class FreeBudget:
    """A budget without limits."""

    waited_s = 0.0

    def permit(self, lane: Lane, *, until_s: float = inf) -> Permit:
        return Permit(0, lane, float("inf"))

    def answered(self, permit: Permit, status: int, headers: Mapping[str, str]) -> None: ...

    def unanswered(self, permit: Permit) -> None: ...

    def unsent(self, permit: Permit) -> None: ...


def check(row: InputRow) -> ValidRow | Reject:
    """Rows hold API names; `note`, `task` and `meeting` hold an activity's payload. A name of ""
    is an empty cell."""
    values = dict(row.values)
    if "bad" in values:
        return Reject(row.row_number, row.values, "bad", "is bad; make it good")
    activities = [
        Activity(kind, values.pop(name)) for name, kind in _ACTIVITIES.items() if name in values
    ]
    payload = {"firstName": "Ada", "lastName": "L", "update": True} | values
    payload = {name: value for name, value in payload.items() if value != ""}
    return ValidRow(
        row.row_number, payload, values.get("email"), values.get("phone"), activities, []
    )


def check_activity(row: InputRow) -> ValidRow:
    """Rows hold API names; `key`, whom they are about, and the rest is the activity's payload."""
    says = dict(row.values)
    key, id_ = says.pop("key", None), says.pop("prospectId", None)
    contacts = {name: says.pop(name) for name in ("email", "phone") if name in says}
    return ValidRow(
        row.row_number, says, contacts.get("email"), contacts.get("phone"),
        prospect_id=id_, contacts=contacts, key=key,
    )  # fmt: skip


@dataclass
class Pushed:
    """What one push came to. statuses: row number → status; messages: row number → message.
    kept: rows with fields that were kept, planned or found while sending."""

    plan: PlanCounts
    outcomes: dict[Status, int] = field(default_factory=dict)
    statuses: dict[int, str] = field(default_factory=dict)
    messages: dict[int, str | None] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    recovered: int = 0
    kept: int = 0


@dataclass
class Rig:
    """One outbox and the pushes made with it."""

    url: str
    api: Any  # an ApiClient, or what answers as one
    clock: Clock = field(default_factory=SystemClock)
    key_memory_s: float = 12 * 3600.0
    request_timeout_s: float = 60.0
    retry_total_s: float = 300.0
    in_flight: int = 8
    pushes: int = 0
    pulled: Pulled = field(default_factory=Pulled)
    scan: ProspectScan | None = None
    fresh_ms: int = 900_000

    def __post_init__(self) -> None:
        durable = isinstance(self.clock, SystemClock)
        self.steady = SteadyClock(self.clock, self.clock.now_s() - self.clock.monotonic_s())
        path = half_path(self.url, "-outbox")
        if path is not None and not path.exists():
            path.write_bytes(_outbox_without_rows())
        self.database = Database(self.url, durable=durable, suffix="-outbox")
        if self.database.is_sqlite and not durable:  # a crash that is only played needs no disk
            sa.event.listen(self.database.engine, "connect", _stay_in_memory)

    def push(
        self,
        rows: Iterable[dict[str, Any]],
        *,
        source: str = "people.csv",
        mode: Mode = "upsert",
        force: bool = False,
        allow_shared_contact: bool = False,
        looks_first: bool = False,
        dry_run: bool = False,
        rules: MergeRules | None = None,
        rechecks: bool = True,
        lookups: int = 500,
        to: str = PROSPECTS,
        is_export: bool = False,
    ) -> Pushed:
        """Push `rows`, numbered from 2 as in a file with a header. to: what rows become. is_export:
        they are an export of a pulled table, with its columns."""
        self.pushes += 1
        run_id = f"run-{self.pushes:04}"
        outbox = Outbox(self.database, SCOPE, self.steady)
        options = PushOptions(
            run_id,
            source,
            mode,
            retry_total_s=self.retry_total_s,
            allow_shared_contact=allow_shared_contact,
            looks_first=looks_first,
            rules=replace(rules or MergeRules(), force=force),
            fresh_ms=self.fresh_ms,
            rechecks=rechecks,
            lookups=lookups,
        ).knowing(outbox.learnt())
        with take_lock(self.database, "push", run_id=run_id) as held:
            began_ms = int(self.steady.now_s() * 1000)
            rejects: list[Reject] = []
            numbered = [InputRow(number, row) for number, row in enumerate(rows, start=2)]
            how: Any = {"dry_run": dry_run, "on_reject": rejects.append}
            if is_export:
                columns = match_columns(list(numbered[0].values))
                exported = ExportedRows(
                    numbered, columns, Validator(columns), self.pulled, outbox.hasher
                )
                planner = Planner(outbox, options, self.pulled, **how)
                plan = planner.plan(exported, exported.check)
            elif to == PROSPECTS:
                plan = Planner(outbox, options, self.pulled, **how).plan(numbered, check)
            else:
                activities = ActivityPlanner(outbox, options, self.pulled, kind=to, **how)
                plan = activities.plan(numbered, check_activity)
            pushed = Pushed(plan, rejects=rejects, kept=plan.kept)
            if dry_run:
                return pushed
            self._send(outbox, options, held, began_ms, pushed)
        assert len(numbered) == sum(pushed.outcomes.values()) == len(pushed.statuses)
        return pushed

    def send(
        self, *planned: Write, rules: MergeRules | None = None, aliases: bool = True
    ) -> Pushed:
        """Send writes that something else than a push has planned; their run, and, unless they are
        to have none, aliases where their body has contacts, are set here."""
        self.pushes += 1
        run_id = f"run-{self.pushes:04}"
        outbox = Outbox(self.database, SCOPE, self.steady)
        options = PushOptions(run_id, planned[0].source, rules=rules or MergeRules())
        options = options.knowing(outbox.learnt())
        new = []
        for write in planned:
            says = orjson.loads(write.body)
            email, phone = (
                outbox.hasher.alias(kind, says[kind]) if aliases and says.get(kind) else None
                for kind in ("email", "phone")
            )
            new.append(write._replace(run_id=run_id, email_alias=email, phone_alias=phone))
        with take_lock(self.database, "push", run_id=run_id) as held:
            began_ms = int(self.steady.now_s() * 1000)
            with self.database.write() as connection:
                outbox.plan(connection, new)
            pushed = Pushed(PlanCounts(rows=len(new), to_send=len(new)))
            self._send(outbox, options, held, began_ms, pushed)
        return pushed

    def _send(
        self, outbox: Outbox, options: PushOptions, held: HeldLock, began_ms: int, pushed: Pushed
    ) -> None:
        sender = Sender(
            outbox,
            options,
            self.api,
            held,
            keys=KeyMemory(self.key_memory_s, self.request_timeout_s),
            began_ms=began_ms,
            width=lambda: self.in_flight,
            on_reject=pushed.rejects.append,
            images=BeforeImages(SCOPE, UNDO_KEY),
            scan=self.scan,
        )
        sender.send()
        pushed.outcomes = dict(pushed.plan.outcomes + sender.outcomes)
        pushed.recovered = sender.recovered
        pushed.kept += sender.kept
        run_id = options.run_id
        with self.database.read() as connection:
            for row in connection.execute(sa.select(results).where(results.c.run_id == run_id)):
                pushed.statuses[row.row_number] = row.status
                pushed.messages[row.row_number] = row.message

    def images(self, run: int) -> dict[str, BeforeImage]:
        """prospect id → what the nth push has changed of them."""
        with self.database.read() as connection:
            found = BeforeImages(SCOPE, UNDO_KEY).of_run(connection, f"run-{run:04}")
            return {id_: image for id_, image, _ in found}

    def forget(self, *, days: int) -> None:
        """As a push does at its end."""
        Outbox(self.database, SCOPE, self.steady).forget(self.steady.now_ms() - days * 86_400_000)

    def close(self) -> None:
        self.database.close()


@contextmanager
def client_of(url: str, api_key: str, stop: threading.Event | None = None) -> Iterator[ApiClient]:
    with ApiClient(
        base_url=url,
        api_key=api_key,
        budget=FreeBudget(),
        request_timeout_s=60,
        retry_total_s=30,
        stop=stop,
    ) as client:
        yield client
