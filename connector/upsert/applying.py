"""What an apply does with each row of a plan: sent as planned, in conflict, or done before.

A plan is applied once, by as many runs as it takes: which runs have applied it is on disk before
the first write, so that a run that was killed is resumed, row by row, by the next one.

What the ledger knows is compared without a request: a person whom another push has written to since
is a conflict. What was edited in HiringCenter is found when each person is looked at, by the
write's guard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import orjson
import sqlalchemy as sa

from connector.upsert.outbox.entries import Entry
from connector.upsert.outbox.evidence import Pulled, PulledProspect, fields_of_item
from connector.upsert.outbox.forgotten import WAS_FORGOTTEN
from connector.upsert.outbox.merge import Person, lacks_names
from connector.upsert.outbox.outbox import CONFLICT, Outbox, SentWrite, Write, WriteState
from connector.upsert.outbox.outbox_schema import applied_plans, insert_or_replace, results
from connector.upsert.outbox.person_plan import DELETED, PushOptions, RowPlan
from connector.upsert.outbox.planner import UNCERTAIN, PlanBook, PlanCounts, reject_of
from connector.upsert.outbox.receipts import Receipt, RowResult, Status, bad_rows
from connector.upsert.plan_file import PlanFile
from connector.upsert.row_in_flight import APPEARED, Guard
from connector.upsert.rows.row_checks import Reject

_CHUNK_ROWS = 2_000
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


def _is_done(write: SentWrite) -> bool:
    return write.state != WriteState.CLOSED or write.outcome in _FINAL


class AppliedPlans:
    """Which runs have applied which plan, with one outbox."""

    def __init__(self, outbox: Outbox) -> None:
        self._database, self._scope, self._clock = outbox.database, outbox.scope, outbox.clock

    def runs(self, plan_id: str) -> dict[str, bool]:
        """run id → whether nothing was left to do when it ended."""
        own = applied_plans.c
        query = sa.select(own.run_id, own.is_done).where(
            own.scope == self._scope, own.plan_id == plan_id
        )
        with self._database.read() as connection:
            return {row.run_id: row.is_done for row in connection.execute(query)}

    def begin(self, plan_id: str, run_id: str) -> None:
        """A run applies this plan from now on."""
        self._note(plan_id, run_id, is_done=False)

    def end(self, plan_id: str, run_id: str) -> None:
        """The run has ended; it is done unless another one could do more."""
        self._note(plan_id, run_id, is_done=not self._may_resume(run_id))

    def _note(self, plan_id: str, run_id: str, *, is_done: bool) -> None:
        row = {"scope": self._scope, "plan_id": plan_id, "run_id": run_id}
        row |= {"at_ms": self._clock.now_ms(), "is_done": is_done}
        with self._database.write() as connection:
            insert_or_replace(connection, applied_plans, [row])

    def _may_resume(self, run_id: str) -> bool:
        """Whether a row of this run has failed in a way that another run may do better."""
        own = results.c
        is_final = sa.or_(*(own.message.like(f"{each}:%") for each in (CONFLICT, "uncertain")))
        query = (
            sa.select(own.row_number)
            .where(own.run_id == run_id, own.status == Status.FAILED.value, ~is_final)
            .limit(1)
        )
        with self._database.read() as connection:
            return connection.execute(query).first() is not None


@dataclass(frozen=True, slots=True)
class _Known:
    """What the ledger knows of the people of some rows. copied: how a pull that began after the
    plan has read them."""

    by_alias: Mapping[int, Receipt]
    by_id: Mapping[str, Receipt]
    entries: Mapping[int, list[Entry]]
    copied: Mapping[str, PulledProspect]


class PlanApplier:
    """Plans one run that applies `plan`. earlier: runs that have applied it before. columns: of the
    input, as far as its rows are sent."""

    def __init__(
        self,
        outbox: Outbox,
        plan: PlanFile,
        options: PushOptions,
        pulled: Pulled,
        *,
        earlier: Collection[str],
    ) -> None:
        self._outbox, self._plan, self._run_id = outbox, plan, options.run_id
        self._forgotten = options.forgotten
        book = self._book = PlanBook(outbox, options)
        self._receipts, self._entries = book.receipts, book.entries
        self._planned_ms, self._pulled = plan.header.planned_ms, pulled
        with outbox.database.read() as connection:
            sent = outbox.sent_by(connection, earlier)
            self._refused = {each.row_number: each for each in bad_rows(connection, earlier)}
            self._source = self._entries.number(connection, plan.header.source)
        self._done = {(each.row_number, each.position): each for each in sent if _is_done(each)}
        self._own_people = {each.prospect_id for each in self._done.values() if each.prospect_id}
        self.columns: dict[str, None] = {}
        self.rejects: list[Reject] = []

    def store(self, on_read: Callable[[int], None]) -> PlanCounts:
        """Store what is to be sent, and the outcome of all other rows; nothing is sent.

        Raises:
            PlanRefused: the file was changed meanwhile.
        """
        planned, counts = Counter(self._plan.counts), self._book.counts
        counts.rows = planned["rows"]
        rows, read = self._plan.rows(), 0
        while some := list(islice(rows, _CHUNK_ROWS)):
            with self._outbox.database.read() as connection:
                known = self._known(connection, some)
            for each in some:
                self._add(each, known)
            self._book.store()
            read += len(some)
            planned["unchanged"] -= sum(not each.sends for each in some)
            on_read(read)
        for outcome in (Status.UNCHANGED, Status.REJECTED, Status.FAILED):
            # rows that neither send nor settle anything are only counted in the file
            counts.outcomes[outcome] += planned[outcome.value]
        return counts

    def _add(self, planned: RowPlan, known: _Known) -> None:
        """Decide about one row."""
        write, row = planned.write, planned.row_number
        settlement = planned.settlement
        if self._forgotten.has_alias(*write.aliases) or self._forgotten.has_id(planned.prospect_id):
            self._book.end(RowResult(row, Status.REJECTED, None, WAS_FORGOTTEN))
            self.rejects.append(reject_of(write, WAS_FORGOTTEN, None))
            return
        if settlement is not None and not self._is_newer(planned, known):
            self._book.settled.append(settlement)
        if not planned.sends:
            kept = tuple(each.name for each in planned.kept)
            self._book.counts.kept += bool(kept) or planned.reason == DELETED
            result = RowResult(row, Status.UNCHANGED, planned.prospect_id, planned.message)
            self._book.end(result._replace(kept_fields=kept))
            return
        for name in reject_of(write, "", None).values:
            self.columns.setdefault(name)
        known_already = self._outcome_before(planned) or self._conflict(planned, known)
        if known_already is not None:
            self._book.end(known_already)
            if known_already.status in (Status.REJECTED, Status.FAILED):
                self.rejects.append(reject_of(write, known_already.message or "", None))
            return
        prospect = self._done.get((row, 0))
        id_ = prospect.prospect_id if prospect else planned.prospect_id
        person = self._outbox.hasher.alias("prospect", id_) if id_ else write.person
        needed = [
            each._replace(run_id=self._run_id, prospect_id=id_, person=person)
            for each in self._needed(planned)
            if (row, each.position) not in self._done
        ]
        self._book.send(needed)

    def _needed(self, planned: RowPlan) -> list[Write]:
        """The writes of a row, as planned."""
        if not planned.sends_person:
            return [*planned.activities]
        guard = self._guard_of(planned)
        first = planned.write._replace(guard=guard.to_bytes() if guard else None)
        return [first, *planned.activities]

    # --- what was done before ---------------------------------------------------------------------

    def _outcome_before(self, planned: RowPlan) -> RowResult | None:
        """The outcome of a row for which earlier runs have left nothing to do."""
        row = planned.row_number
        needed = [each.position for each in planned.activities]
        needed += [0] if planned.sends_person else []
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
            refused = self._refused.get(row) or RowResult(row, status, id_, first.outcome)
            return RowResult(row, status, refused.prospect_id, refused.message)
        if len(found) < len(needed):
            return None
        return RowResult(row, Status.UNCHANGED, id_, _DONE.format(run_id=found[0].run_id))

    # --- what the ledger knows --------------------------------------------------------------------

    def _known(self, connection: sa.Connection, some: Sequence[RowPlan]) -> _Known:
        names = {alias for each in some for alias in each.write.aliases}
        ids = {each.prospect_id for each in some if each.prospect_id is not None}
        is_newer = (self._pulled.complete_ms or 0) > self._planned_ms
        return _Known(
            self._receipts.find(connection, names),
            self._receipts.of(connection, ids),
            self._entries.find(connection, names) if self._source else {},
            self._pulled.by_id(ids, with_fields=True) if is_newer else {},
        )

    def _newer_entries(self, planned: RowPlan, known: _Known) -> list[Entry]:
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

    def _is_newer(self, planned: RowPlan, known: _Known) -> bool:
        """Whether what the plan would settle was settled by another push since, or already is."""
        assert planned.settlement is not None
        alias = planned.settlement.entry.alias
        return any(
            entry.source == self._source
            and entry.alias == alias
            and entry.seen_ms >= planned.settlement.entry.seen_ms
            for entry in known.entries.get(alias, ())
        )

    def _conflict(self, planned: RowPlan, known: _Known) -> RowResult | None:
        """The outcome of a row to whose person another push has written since the plan."""
        if not planned.sends_person:
            return None
        found = [known.by_alias[each] for each in planned.write.aliases if each in known.by_alias]
        if (own := known.by_id.get(planned.prospect_id or "")) is not None:
            found.append(own)
        newer = [each.prospect_id for each in found if (each.written_ms or 0) > self._planned_ms]
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

    def _edited(self, planned: RowPlan, known: _Known) -> RowResult | None:
        """The outcome of a row whose person a pull has read since, and not as planned."""
        id_, guard = planned.prospect_id, self._guard_of(planned)
        copied = known.copied.get(id_ or "")
        if copied is None or guard is None or id_ in self._own_people:
            return None
        if copied.deleted_at_ms is not None:
            reason = guard.deleted_reason(id_)
            return RowResult(planned.row_number, Status.FAILED, id_, reason)
        read = fields_of_item(copied.fields, of_copy=True)
        theirs = Person(str(id_), read, updated_at_ms=copied.updated_at_ms)
        receipt = known.by_id.get(theirs.id)
        guard = guard.accounting_for(receipt.updated_at_ms if receipt else None)
        changed = guard.mismatches(theirs, self._outbox.hasher.cell)
        if not changed:
            return None
        reason = guard.changed_reason(changed, id_)
        return RowResult(planned.row_number, Status.FAILED, id_, reason)

    def _guard_of(self, planned: RowPlan) -> Guard | None:
        """What the person must still look like; a row without contact always creates one."""
        if planned.write.row_alias is not None or planned.merged is None:
            return None
        known_ms = None if planned.prospect_id is None else self._planned_ms
        return Guard.of_plan(planned.merged, self._outbox.hasher.cell, known_ms)


def refused_by(
    run_id: str, outbox: Outbox, plan: PlanFile
) -> tuple[Counter[Status], list[str], list[Reject]]:
    """What a run that has applied `plan` has refused: how many rows of each status, the columns of
    the input, and the rows as rejects.

    Raises:
        PlanRefused: the file was changed meanwhile.
    """
    with outbox.database.read() as connection:
        refused = {each.row_number: each for each in bad_rows(connection, [run_id])}
    columns, rejects = dict[str, None](), list[Reject]()
    for planned in plan.rows() if refused else ():
        if planned.sends:
            result = refused.get(planned.row_number)
            reject = reject_of(planned.write, result.message or "" if result else "", None)
            columns |= dict.fromkeys(reject.values)
            rejects += [reject] if result else []
    return Counter(each.status for each in refused.values()), list(columns), rejects
