"""What an apply does with each row of a plan: sent as planned, in conflict, or done before.

A plan is applied once, by as many runs as it takes: which runs have applied it is on disk before
the first write, so that a run that was killed is resumed, row by row, by the next one.

What the ledger knows is compared without a request: a person whom another push has written to since
is a conflict. What somebody has edited in HiringCenter is found when each person is looked at, by
the write's guard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from connector.clock import SteadyClock
from connector.upsert.looking import APPEARED, CONFLICT, Guard
from connector.upsert.outbox.bases import Bases, Settlement, fields_of_item
from connector.upsert.outbox.entries import Entries, Entry
from connector.upsert.outbox.evidence import Pulled, PulledProspect
from connector.upsert.outbox.merge import UNKNOWN, FieldMerge, Person, lacks_names
from connector.upsert.outbox.outbox import Outbox, Write, WriteState
from connector.upsert.outbox.outbox_schema import applied_plans, insert_or_replace, results, writes
from connector.upsert.outbox.person_plan import DELETED, PlannedRow
from connector.upsert.outbox.planner import UNCERTAIN, PlanCounts, reject_of
from connector.upsert.outbox.receipts import Receipt, Receipts, ResultStore, RowResult, Status
from connector.upsert.plan_file import PlanFile
from connector.upsert.rows.row_checks import Reject
from connector.upsert.rows.write_schema import LABEL_EDITS

_CHUNK_ROWS = 2_000
_SENT = frozenset({"create", "update", "send"})
_WRITTEN_SINCE = (
    "conflict: another push has written {fields} of prospect {id} since the plan was made, so "
    "nothing of the row was sent. Pull, then plan again to see what it would do now"
)
_DONE = "applied before, by run {run_id}"
_OPEN = (
    "not sent: an earlier request for this row has no answer yet; apply the plan again to find out "
    "what happened to it"
)
_FINAL = frozenset({*(each.value for each in Status if each is not Status.FAILED), CONFLICT})
_REFUSED = (CONFLICT, Status.REJECTED.value)


class _Earlier(NamedTuple):
    """A write of an earlier run of this plan. outcome: None where its answer is missing."""

    run_id: str
    state: str
    outcome: str | None
    prospect_id: str | None

    @property
    def is_done(self) -> bool:
        return self.state != WriteState.CLOSED or self.outcome in _FINAL


_Done = Mapping[tuple[int, int], _Earlier]


class AppliedPlans:
    """Which runs have applied which plan, in one scope. Every method works inside the caller's
    transaction."""

    def __init__(self, scope: int) -> None:
        self._scope = scope

    def runs(self, connection: sa.Connection, plan_id: str) -> dict[str, bool]:
        """run id → whether nothing was left to do when it ended."""
        own = applied_plans.c
        query = sa.select(own.run_id, own.is_done).where(
            own.scope == self._scope, own.plan_id == plan_id
        )
        return {row.run_id: row.is_done for row in connection.execute(query)}

    def note(
        self, connection: sa.Connection, plan_id: str, run_id: str, at_ms: int, *, is_done: bool
    ) -> None:
        row = {"scope": self._scope, "plan_id": plan_id, "run_id": run_id, "at_ms": at_ms}
        insert_or_replace(connection, applied_plans, [{**row, "is_done": is_done}])

    def may_go_on(self, connection: sa.Connection, run_id: str) -> bool:
        """Whether a row of this run has failed in a way that another run may do better."""
        own = results.c
        is_final = sa.or_(*(own.message.like(f"{each}:%") for each in (CONFLICT, "uncertain")))
        query = (
            sa.select(own.row_number)
            .where(own.run_id == run_id, own.status == Status.FAILED.value, ~is_final)
            .limit(1)
        )
        return connection.execute(query).first() is not None


@dataclass
class _Chunk:
    """What is stored for some rows, in one transaction."""

    writes: list[Write] = field(default_factory=list)
    results: list[RowResult] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the ledger knows of the people of some rows. copied: how a pull that began after the
    plan has read them."""

    by_alias: Mapping[int, Receipt]
    by_id: Mapping[str, Receipt]
    entries: Mapping[int, list[Entry]]
    copied: Mapping[str, PulledProspect]


class PlanApplier:
    """Plans one run that applies `plan`. columns: of the input, as far as its rows are sent."""

    def __init__(
        self,
        outbox: Outbox,
        plan: PlanFile,
        *,
        run_id: str,
        earlier: Collection[str],
        results: ResultStore,
        clock: SteadyClock,
        pulled: Pulled,
    ) -> None:
        self._outbox, self._plan, self._run_id, self._clock = outbox, plan, run_id, clock
        self._results, self._receipts = results, Receipts(outbox.scope)
        self._entries = Entries(outbox.scope)
        self._bases = Bases(self._entries, outbox.hasher)
        self._planned_ms, self._pulled = plan.header.planned_ms, pulled
        with outbox.database.read() as connection:
            self._done = self._done_before(connection, earlier)
            self._refused = self._refused_before(connection, earlier)
            self._source = self._bases.number(connection, plan.header.source)
        self._own_people = {each.prospect_id for each in self._done.values() if each.prospect_id}
        self.columns: dict[str, None] = {}
        self.rejects: list[Reject] = []

    def store(self, on_read: Callable[[int], None]) -> PlanCounts:
        """Store what is to be sent, and the outcome of all other rows; nothing is sent.

        Raises:
            PlanRefused: the file was changed meanwhile.
        """
        planned, counts = Counter(self._plan.counts), PlanCounts()
        counts.rows = planned["rows"]
        rows, read = self._plan.rows(), 0
        while some := list(islice(rows, _CHUNK_ROWS)):
            read += len(some)
            planned["unchanged"] -= sum(not _sends(each) for each in some)
            self._store_chunk(some, counts)
            on_read(read)
        for outcome in (Status.UNCHANGED, Status.REJECTED, Status.FAILED):
            # rows that neither send nor settle anything are only counted in the file
            counts.outcomes[outcome] += planned[outcome.value]
        return counts

    def _store_chunk(self, some: Sequence[PlannedRow], counts: PlanCounts) -> None:
        with self._outbox.database.read() as connection:
            known = self._known(connection, some)
        chunk = _Chunk()
        for planned in some:
            self._add(planned, known, chunk)
            is_kept = bool(planned.merged and planned.merged.kept) or planned.reason == DELETED
            counts.kept += is_kept and not _sends(planned)
        for result in chunk.results:
            counts.outcomes[result.status] += 1
        self._count(chunk.writes, counts)
        at_ms = self._clock.now_ms()
        with self._outbox.database.write() as connection:
            self._bases.put(connection, self._plan.header.source, chunk.settlements)
            self._outbox.plan(connection, chunk.writes, at_ms)
            wall_ms = int(self._clock.wall_s() * 1000)  # for people
            self._results.put(connection, self._run_id, chunk.results, wall_ms)

    @staticmethod
    def _count(new: Iterable[Write], counts: PlanCounts) -> None:
        rows = set()
        for write in new:
            rows.add(write.row_number)
            counts.writes += 1
            counts.prospect_writes += write.position == 0
        counts.to_send += len(rows)

    def _add(self, planned: PlannedRow, known: _Known, chunk: _Chunk) -> None:
        """Decide about one row."""
        write, row = planned.write, planned.row_number
        settlement = planned.settlement
        if settlement is not None and not self._is_newer(planned, known):
            chunk.settlements.append(settlement)
        if not _sends(planned):
            kept = tuple(each.name for each in planned.merged.kept) if planned.merged else ()
            message = "; ".join(filter(None, (write.note, planned.reason))) or None
            result = RowResult(row, Status.UNCHANGED, planned.prospect_id, message)
            chunk.results.append(result._replace(kept_fields=kept))
            return
        for name in _values(write):
            self.columns.setdefault(name)
        if (earlier := self._outcome_before(planned)) is not None:
            self._book(planned, earlier, chunk)
            return
        if (conflict := self._conflict(planned, known)) is not None:
            self._book(planned, conflict, chunk)
            return
        prospect = self._done.get((row, 0))
        id_ = prospect.prospect_id if prospect else planned.prospect_id
        person = self._outbox.hasher.alias("prospect", id_) if id_ else write.person
        for each in self._needed(planned):
            if (row, each.position) not in self._done:
                chunk.writes.append(
                    each._replace(run_id=self._run_id, prospect_id=id_, person=person)
                )

    def _needed(self, planned: PlannedRow) -> list[Write]:
        """The writes of a row, as planned."""
        if planned.outcome not in _SENT:
            return list(planned.activities)
        guard = _guard_of(planned, self._outbox.hasher.cell)
        first = planned.write._replace(guard=guard.to_bytes() if guard else None)
        return [first, *planned.activities]

    def _book(self, planned: PlannedRow, result: RowResult, chunk: _Chunk) -> None:
        chunk.results.append(result)
        if result.status in (Status.REJECTED, Status.FAILED):
            self.rejects.append(reject_of(planned.write, result.message or "", None))

    # --- what was done before ---------------------------------------------------------------------

    def _done_before(self, connection: sa.Connection, earlier: Collection[str]) -> _Done:
        own = writes.c
        query = sa.select(
            own.row_number, own.position, own.run_id, own.state, own.outcome, own.prospect_id
        ).where(
            own.scope == self._outbox.scope,
            own.run_id.in_(list(earlier)),
            own.state != WriteState.PLANNED.value,
        )
        found = connection.execute(query) if earlier else ()
        every = {(row, position): _Earlier(*each) for row, position, *each in found}
        return {key: each for key, each in every.items() if each.is_done}

    def _refused_before(
        self, connection: sa.Connection, earlier: Collection[str]
    ) -> dict[int, tuple[str | None, str | None]]:
        """row → (prospect id, message) of rows that earlier runs have refused."""
        bad = (Status.REJECTED.value, Status.FAILED.value)
        query = sa.select(results.c.row_number, results.c.prospect_id, results.c.message).where(
            results.c.run_id.in_(list(earlier)), results.c.status.in_(bad)
        )
        found = connection.execute(query) if earlier else ()
        return {row: (prospect_id, message) for row, prospect_id, message in found}

    def _outcome_before(self, planned: PlannedRow) -> RowResult | None:
        """The outcome of a row for which earlier runs have left nothing to do."""
        row = planned.row_number
        needed = [each.position for each in planned.activities]
        needed += [0] if planned.outcome in _SENT else []
        found = [self._done[row, each] for each in needed if (row, each) in self._done]
        if not found:
            return None
        first = self._done.get((row, 0))
        id_ = next((each.prospect_id for each in found), None) or planned.prospect_id
        if any(each.state == WriteState.SENDING for each in found):
            return RowResult(row, Status.FAILED, id_, _OPEN)
        if any(each.state == WriteState.UNCERTAIN for each in found):
            return RowResult(row, Status.FAILED, id_, UNCERTAIN)
        if first is not None and first.outcome in _REFUSED:
            status = Status.FAILED if first.outcome == CONFLICT else Status.REJECTED
            known_id, message = self._refused.get(row, (id_, first.outcome))
            return RowResult(row, status, known_id, message)
        if len(found) < len(needed):
            return None
        return RowResult(row, Status.UNCHANGED, id_, _DONE.format(run_id=found[0].run_id))

    # --- what the ledger knows --------------------------------------------------------------------

    def _known(self, connection: sa.Connection, some: Sequence[PlannedRow]) -> _Known:
        names = {alias for each in some for alias in each.write.aliases}
        ids = {each.prospect_id for each in some if each.prospect_id is not None}
        is_newer = (self._pulled.complete_ms or 0) > self._planned_ms
        return _Known(
            self._receipts.find(connection, names),
            self._receipts.of(connection, ids),
            self._entries.find(connection, names) if self._source else {},
            self._pulled.by_id(ids, with_fields=True) if is_newer else {},
        )

    def _newer_entries(self, planned: PlannedRow, known: _Known) -> list[Entry]:
        """What this source has settled for the row since the plan was made, by another push."""
        own = planned.settlement.entry._replace(source=self._source) if planned.settlement else None
        return [
            entry
            for alias in planned.write.aliases
            for entry in known.entries.get(alias, ())
            if entry.source == self._source
            and entry.seen_ms > self._planned_ms
            and entry != own
            and entry.prospect_id not in self._own_people
        ]

    def _is_newer(self, planned: PlannedRow, known: _Known) -> bool:
        """Whether what the plan would settle was settled by another push since, or already is."""
        assert planned.settlement is not None
        alias = planned.settlement.entry.alias
        return any(
            entry.source == self._source
            and entry.alias == alias
            and entry.seen_ms >= planned.settlement.entry.seen_ms
            for entry in known.entries.get(alias, ())
        )

    def _conflict(self, planned: PlannedRow, known: _Known) -> RowResult | None:
        """The outcome of a row to whose person another push has written since the plan."""
        if planned.outcome not in _SENT:
            return None
        found = [known.by_alias[each] for each in planned.write.aliases if each in known.by_alias]
        if (own := known.by_id.get(planned.prospect_id or "")) is not None:
            found.append(own)
        newer = [each.prospect_id for each in found if each.accepted_ms > self._planned_ms]
        newer += [each.prospect_id or "" for each in self._newer_entries(planned, known)]
        others = [each for each in newer if each not in self._own_people]
        if not others:
            return self._edited(planned, known)
        row, id_ = planned.row_number, planned.prospect_id
        if id_ is None and not lacks_names(orjson.loads(planned.write.body)):
            return RowResult(row, Status.FAILED, others[0], APPEARED.format(id=others[0]))
        merged = planned.merged.to_send if planned.merged else ()
        fields = ", ".join(each.name for each in merged) or "something"
        id_ = id_ or others[0]
        reason = _WRITTEN_SINCE.format(id=id_, fields=fields)
        return RowResult(row, Status.FAILED, id_, reason)

    def _edited(self, planned: PlannedRow, known: _Known) -> RowResult | None:
        """The outcome of a row whose person a pull has read since, and not as planned."""
        id_, guard = planned.prospect_id, _guard_of(planned, self._outbox.hasher.cell)
        copied = known.copied.get(id_ or "")
        if copied is None or guard is None or id_ in self._own_people:
            return None
        if copied.deleted_at_ms is not None:
            reason = guard.deleted_reason.format(id=id_)
            return RowResult(planned.row_number, Status.FAILED, id_, reason)
        theirs = Person(str(id_), fields_of_item(copied.fields, of_copy=True))
        changed = guard.mismatches(theirs, self._outbox.hasher.cell)
        if not changed:
            return None
        reason = guard.changed_reason(changed, id_)
        return RowResult(planned.row_number, Status.FAILED, id_, reason)


def _sends(planned: PlannedRow) -> bool:
    return planned.outcome in _SENT or bool(planned.activities)


def _guard_of(planned: PlannedRow, cell: Callable[[str, Any], bytes]) -> Guard | None:
    """What the person must still look like; a row without contact always creates one."""
    if planned.write.row_alias is not None or planned.merged is None:
        return None
    return Guard({each.name: _fingerprint(each, cell) for each in planned.merged.to_send})


def _fingerprint(merged: FieldMerge, cell: Callable[[str, Any], bytes]) -> bytes | None:
    if merged.theirs is UNKNOWN:
        return None
    return cell("labels" if merged.name in LABEL_EDITS else merged.name, merged.theirs)


def _values(write: Write) -> dict[str, Any]:
    return reject_of(write, "", None).values
