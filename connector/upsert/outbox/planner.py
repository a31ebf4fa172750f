"""The plan of a push: the outcome or the writes of each row, given the known facts.

The plan is stored in chunks, so that a million rows never block another process; a dry run counts
the same and stores nothing.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

import orjson

from connector.clock import SteadyClock
from connector.upsert.outbox.entries import Entries, Refusal, Refusals, Settlement
from connector.upsert.outbox.evidence import Evidence, EvidenceFinder, Pulled, PulledProspect
from connector.upsert.outbox.exported_rows import Exported
from connector.upsert.outbox.forgotten import NOBODY, Forgotten, refusing
from connector.upsert.outbox.matching import DISPUTED, Hasher, judge
from connector.upsert.outbox.merge import (
    LABELS_SENT,
    MERGED,
    MergeRules,
    lacks_names,
)
from connector.upsert.outbox.outbox import (
    LOOK_BY_ITSELF,
    LOOK_FIRST,
    PROSPECTS,
    Outbox,
    Write,
)
from connector.upsert.outbox.person_plan import (
    DELETED,
    Alike,
    Outcome,
    PersonPlanner,
    PlannedRow,
    RowPlan,
    disagreement_note,
)
from connector.upsert.outbox.receipts import Receipt, Receipts, ResultStore, RowResult, Status
from connector.upsert.outbox.staging import Check, CheckedRow, Forest, Glance, Row, Staging
from connector.upsert.rows.cells import InputRow
from connector.upsert.rows.row_checks import Reject

Mode = Literal["upsert", "create-only", "update-only"]
_CHUNK_PEOPLE = 5_000
_OBJECTS = 400_000  # more than a chunk and what is unstored have
_MOST_UNSTORED = 100_000  # entries lie in the order of hashes: few large batches write fewer pages
_DAY_MS = 86_400_000

UNCERTAIN = (
    "uncertain: an earlier attempt to send this row may or may not have been applied, and the API "
    "has forgotten it. Look at the prospect in HiringCenter; if it isn't as this row says, push "
    "the row with --force. It is not sent again automatically."
)
EXISTS = "this person exists already; --mode create-only leaves them as they are"
CONTACT_CHANGED = (
    "contact changed? An earlier push of this input had a row of the same name, which isn't there "
    "any more, for prospect {about}; with another email and phone it would create that person "
    "again. Change the contact in HiringCenter first; push the row with --allow-shared-contact if "
    "this is someone else"
)
NOT_AGAIN = "(Tried before; not again until the row or the prospect changes, or with --force.)"
REPEATED = (
    "a row with the same content and neither email nor phone was created before; --force creates "
    "it again"
)


@dataclass(frozen=True)
class PushOptions:
    """How one push is to be done.

    source: the input's name, the same each time it is pushed. source_path: where its rows lie, if
    that isn't its name. looks_first: whoever the outbox doesn't know is looked up before a write.
    allow_shared_contact: send rows that seem to be about another person than the one who has their
    contact. retry_total_s: for how long one write is tried. retention_days: how long outcomes, and
    receipts that nothing uses, are kept. destination: a number that stands for where results land.
    rules: how fields are merged. fresh_ms: for how long what was read of a person counts as fresh.
    rechecks: whoever isn't fresh is looked up before they are changed. lookups: how many people
    more may be looked up, to find out whether a field that is only filled is empty. to_apply: the
    plan is kept, and whoever it changes will be looked up, however fresh the copy is. forgotten:
    people about whom nothing is sent.
    """

    run_id: str
    source: str
    mode: Mode = "upsert"
    looks_first: bool = False
    allow_shared_contact: bool = False
    source_path: str | None = None
    retry_total_s: float = 300.0
    retention_days: int = 90
    destination: int = 0
    rules: MergeRules = field(default_factory=MergeRules)
    fresh_ms: int = 900_000
    rechecks: bool = True
    lookups: int = 500
    to_apply: bool = False
    forgotten: Forgotten = NOBODY

    @property
    def force(self) -> bool:
        return self.rules.force

    def asked(self, content: bytes, hasher: Hasher) -> bytes:
        """What a row asks for: its content, and how the push is to go about it."""
        policy = sorted(self.rules.policy.items())
        how = [self.mode, self.allow_shared_contact, self.rules.default_policy, policy]
        return hasher.content({"says": content.hex(), "how": how})

    def knowing(self, learnt: Mapping[str, str]) -> PushOptions:
        """With what was learnt of the API, see `Outbox.learnt`."""
        merges = learnt.get(LABELS_SENT) == MERGED
        return replace(self, rules=replace(self.rules, labels_merge=merges))


def decide(evidence: Evidence, options: PushOptions) -> RowPlan:
    """Whether a row can be sent at all, and to whom; what its fields say is merged later. Pure."""
    if evidence.disputed is not None:
        if options.allow_shared_contact:  # whoever has the contact now
            return RowPlan(None)
        expected, answered = evidence.disputed
        reason = DISPUTED.format(expected=expected, answered=answered)
        return RowPlan(Status.REJECTED, None, reason)
    if (why := evidence.why_ambiguous) is not None:
        return RowPlan(Status.REJECTED, None, why)
    leads_to = evidence.best
    prospect_id: str | None = evidence.named
    sent_to = prospect_id
    if prospect_id is None and leads_to is not None:
        prospect_id = leads_to.prospect_id
        sent_to = prospect_id if leads_to.confirmed and leads_to != evidence.by_row else None
    elif prospect_id is None:
        ids = evidence.pulled_by_email | evidence.pulled_by_phone
        prospect_id = sent_to = next(iter(ids)) if len(ids) == 1 else None
    if options.force:
        return RowPlan(None, sent_to)
    if evidence.memory is None and evidence.uncertain:
        return RowPlan(Status.FAILED, prospect_id, UNCERTAIN)
    if evidence.by_row is not None and not (evidence.is_deleted and options.rules.restore):
        reason = DELETED if evidence.is_deleted else REPEATED
        return RowPlan(Status.UNCHANGED, prospect_id, reason)
    if options.mode == "create-only" and prospect_id is not None:
        return RowPlan(Status.UNCHANGED, prospect_id, EXISTS)
    return RowPlan(None, sent_to)


@dataclass
class PlanCounts:
    """rows: of the input. outcomes: rows whose outcome is known without a request. to_send: rows
    that need one.

    would_create, would_update: of those, by what the API will do; the others are unknown.
    writes: requests that change something. look_ups: at most so many come before them, since an
    outbox was lost. looks: how many people are looked up before they are changed; looks_alone: of
    those, whom no scan spares the look. kept: rows with fields that were kept.
    """

    outcomes: Counter[Status] = field(default_factory=Counter)
    rows: int = 0
    to_send: int = 0
    would_create: int = 0
    would_update: int = 0
    prospect_writes: int = 0
    writes: int = 0
    look_ups: int = 0
    looks: int = 0
    looks_alone: int = 0
    kept: int = 0


class PlanBook:
    """What a run has decided about its rows, counted and stored. dry_run: it is only counted.

    in_one_write: other processes wait for so much. writes, found, settled: what isn't stored yet.
    """

    def __init__(
        self,
        outbox: Outbox,
        options: PushOptions,
        clock: SteadyClock,
        *,
        dry_run: bool = False,
        in_one_write: int = 5_000,
    ) -> None:
        self._outbox, self._clock, self._dry_run = outbox, clock, dry_run
        self._source, self._run_id = options.source, options.run_id
        self._in_one_write = in_one_write
        self._entries = Entries(outbox.scope, outbox.hasher)
        self._results = ResultStore(outbox.database, outbox.scope, options.destination)
        self._receipts = Receipts(outbox.scope)
        self.writes: list[Write] = []
        self.found: list[RowResult] = []
        self.settled: list[Settlement] = []
        self.counts = PlanCounts()

    def send(self, writes: Sequence[Write]) -> None:
        """A row needs these requests."""
        self.writes += writes
        self.counts.to_send += 1
        self.counts.writes += len(writes)
        self.counts.prospect_writes += writes[0].kind == PROSPECTS

    def end(self, result: RowResult) -> None:
        """A row has its outcome without one."""
        self.counts.outcomes[result.status] += 1
        self.found.append(result)

    def settle(self, settlement: Settlement) -> None:
        self.settled.append(settlement)

    def store(self, deleted: Iterable[str] = ()) -> None:
        """Store what was decided since the last time. deleted: people to whom no contact leads any
        more."""
        writes, found, settled, gone = self.writes, self.found, self.settled, list(deleted)
        self.writes, self.found, self.settled = [], [], []
        most = 0 if self._dry_run else max(len(writes), len(found), len(settled), len(gone))
        at_ms = int(self._clock.wall_s() * 1000)  # for people
        for start in range(0, most, self._in_one_write):
            part = slice(start, start + self._in_one_write)
            with self._outbox.database.write() as connection:
                if gone[part]:
                    self._receipts.forget_people(connection, gone[part])
                self._entries.put(connection, self._source, settled[part])
                self._outbox.plan(connection, writes[part], self._clock.now_ms())
                self._results.put(connection, self._run_id, found[part], at_ms)


class Planner:
    """Plans one push. clock: the ledger's. dry_run: nothing is stored."""

    def __init__(
        self,
        outbox: Outbox,
        options: PushOptions,
        pulled: Pulled,
        *,
        dry_run: bool,
        clock: SteadyClock,
    ) -> None:
        self._outbox, self._options, self._clock = outbox, options, clock
        self._dry_run = dry_run
        self._receipts = Receipts(outbox.scope)
        self._book = PlanBook(
            outbox, options, clock, dry_run=dry_run, in_one_write=2 * _MOST_UNSTORED
        )
        self.counts = self._book.counts
        self._entries = Entries(outbox.scope, outbox.hasher)
        self._finder = EvidenceFinder(
            outbox, self._receipts, pulled, source=options.source, entries=self._entries
        )
        self._merging = PersonPlanner(
            self._entries,
            pulled,
            options.rules,
            now_ms=clock.now_ms(),
            fresh_ms=options.fresh_ms,
            rechecks=options.rechecks,
            lookups=options.lookups,
            finds_all=options.mode == "update-only",
        )
        source = outbox.hasher.alias("source", options.source)
        self._refusals = Refusals(outbox.scope, source)
        self._refused: dict[int, Refusal] = {}
        self._has_entries = False  # whether anything of the source was settled before this chunk
        self._on_reject: Callable[[Reject], None] = lambda _: None
        self._on_planned: Callable[[PlannedRow], None] | None = None
        with outbox.database.read() as connection:  # 0: no earlier push has settled anything
            self._source = self._entries.number(connection, options.source)

    def plan(
        self,
        rows: Iterable[InputRow],
        check: Check,
        *,
        on_reject: Callable[[Reject], None],
        on_read: Callable[[int], None],
        on_planned: Callable[[PlannedRow], None] | None = None,
    ) -> PlanCounts:
        """Read, check and compare every row; nothing is sent.

        on_reject: gets every row whose outcome is bad, as the input holds it. on_read: how many
        rows have been read. on_planned: gets every row that passed its checks, those of one person
        side by side.
        """
        self._on_reject, self._on_planned = on_reject, on_planned
        if not self._dry_run:
            for source in {self._options.source, self._options.source_path or self._options.source}:
                self._outbox.drop_planned(source=source)
        staging = self._staging = Staging(
            self._outbox.database,
            self._outbox.hasher,
            run_id=self._options.run_id,
            source=self._options.source,
        )
        with closing(staging), _collecting_rarely():
            self.counts.rows = staging.stage(
                rows,
                refusing(check, self._options.forgotten),
                look=self._begin_look,
                on_reject=self._reject,
                on_read=on_read,
            )
            people = staging.people(with_alike=on_planned is not None)
            while chunk := list(islice(people, _CHUNK_PEOPLE)):
                self._plan_chunk(chunk)
            self._store()
            self.counts.outcomes[Status.UNCHANGED] += staging.count_alike()
            if not self._dry_run:
                self._store_alike(staging)
        return self.counts

    def _begin_look(self, rows: Sequence[CheckedRow]) -> Callable[[], Iterator[Glance]]:
        """What is known of rows as they are read: to whom their contacts lead, and which of them
        are as HiringCenter has their person. The copy is asked while more rows are read."""
        if self._options.force or self._options.mode == "create-only":
            return lambda: self._glances(rows, {})
        find_alike = self._finder.pulled.ask_alike([row.says for row in rows])
        return lambda: self._glances(rows, find_alike())

    def _glances(
        self, rows: Sequence[CheckedRow], copied: Mapping[int, PulledProspect]
    ) -> Iterator[Glance]:
        """copied: position → who is all that this row says. The receipts that rows lead to are in
        use and are kept."""
        facts = self._finder.look_up([row.write for row in rows])
        receipts = facts.receipts
        self._keep_receipts(receipts.values())
        for position, (write, says, activities) in enumerate(rows):
            known = [receipts[name] for name in write.aliases if name in receipts]
            found, alike = copied.get(position), None
            if found and activities is None and self._finder.is_settled(write, found.id):
                alike = self._merging.settle_alike(write, says, found, facts)
            yield Glance(known[0].prospect_id if known else None, alike)

    def _keep_receipts(self, found: Collection[Receipt]) -> None:
        now_ms = self._clock.now_ms()
        ageing_ms = now_ms - self._options.retention_days * _DAY_MS // 4
        ageing = {each.prospect_id for each in found if each.seen_ms < ageing_ms}
        if ageing and not self._dry_run:
            with self._outbox.database.write() as connection:
                self._receipts.touch(connection, ageing, now_ms)

    def _store_alike(self, staging: Staging) -> None:
        """Store what rows settle that are as HiringCenter has their person, and their outcome."""
        result = {
            "run_id": self._options.run_id,
            "scope": self._outbox.scope,
            "at_ms": int(self._clock.wall_s() * 1000),  # for people
            "destination": self._options.destination,
        }
        staging.store_alike(
            result,
            lambda connection: self._entries.make_number(connection, self._options.source),
            self._clock.now_ms(),
        )

    def _reject(self, reject: Reject) -> None:
        """Count and report a row that failed its checks or whose outcome is bad."""
        self._outcome(RowResult(reject.row_number, Status.REJECTED, None, reject.public_reason))
        self._on_reject(reject)

    def _plan_chunk(self, people: Sequence[tuple[list[Row], Alike | None]]) -> None:
        rest = [rows for rows, alike in people if alike is None]
        writes = [row[0] for person in rest for row in person]
        facts = self._finder.look_up(writes)
        self._has_entries = facts.entries.source != 0
        evidence = self._finder.gather(rest, facts)
        with self._outbox.database.read() as connection:
            firsts = {
                self._entries.contacts(write)[0] for write in writes if write.row_alias is None
            }
            self._refused = self._refusals.find(connection, firsts)
        for person, alike in people:
            if alike is None:
                self._plan_person(person, evidence)
            elif self._on_planned is not None:
                write, (id_, settlement) = person[0][0], alike
                self._on_planned(PlannedRow(write, (), "unchanged", id_, settlement=settlement))
        if len(self._book.writes) >= _CHUNK_PEOPLE or len(self._book.settled) >= _MOST_UNSTORED:
            self._store()

    def _plan_person(self, rows: list[Row], evidence: Mapping[int, Evidence]) -> None:
        named: dict[str, list[Row]] = {}
        unnamed = []
        for row in rows:
            if row[0].prospect_id is None:
                unnamed.append(row)
            else:
                named.setdefault(row[0].prospect_id, []).append(row)
        for id_, own in named.items():
            # people who share a contact don't go out at once
            number = rows[0][0].person if len(named) > 1 else self._number_of(id_)
            self._plan_named(id_, own, evidence, number)
        if unnamed:
            self._plan_unnamed(unnamed, evidence)

    def _plan_named(
        self, id_: str, rows: list[Row], evidence: Mapping[int, Evidence], number: int
    ) -> None:
        """Rows of a pulled table that are about one prospect. number: for `Write.person`."""
        merged = []
        for row in rows:
            reason = Exported.from_bytes(row[0].exported or b"").reason
            if reason is None:
                merged.append(row)
            else:
                left_alone = RowPlan(Status.UNCHANGED, id_, reason)
                self._book_row(row, left_alone, evidence[row[0].row_number], person=number)
        if merged:
            self._merge_rows(merged, evidence, number)

    def _plan_unnamed(self, rows: list[Row], evidence: Mapping[int, Evidence]) -> None:
        """Rows that share contacts, directly or through others."""
        rejected = self._two_behind_one_contact(rows, evidence)
        for row in rows:
            if (number := row[0].row_number) in rejected:
                self._book_row(row, rejected[number], evidence[number], person=row[0].person)
        rest = [row for row in rows if row[0].row_number not in rejected]
        for together in _by_person(rest, evidence) if rejected else [rows]:
            self._merge_rows(together, evidence)

    def _number_of(self, prospect_id: str) -> int:
        """What `Write.person` is for rows about this prospect."""
        return self._outbox.hasher.alias("prospect", prospect_id)

    def _merge_rows(
        self, rows: list[Row], evidence: Mapping[int, Evidence], number: int | None = None
    ) -> None:
        """Merge the rows of one person with what is known, and plan what is left of each. number:
        for `Write.person`, where that isn't the number of the person."""
        merged: list[tuple[Row, Evidence]] = []
        for row in rows:
            own = evidence[row[0].row_number]
            plan = decide(own, self._options)
            if plan.sends and row[0].row_alias is None:
                merged.append((row, own))
            else:
                self.counts.kept += plan.reason == DELETED
                self._book_row(row, plan, own, person=row[0].person)
        if not merged:
            return
        named = merged[0][0][0].prospect_id
        known = named or self._merging.whom([own for _, own in merged])
        is_open = any(self._finder.waits(row[0], known) for row, _ in merged)
        asked = [(row[0], own) for row, own in merged]
        tried = {write.row_number: self._tried_before(write, own, known) for write, own in asked}
        looked_at = {number for number, each in tried.items() if each and not each.reason}
        plans = self._merging.plan(asked, known, is_open=is_open, looked_at=looked_at)
        person = number or (merged[0][0][0].person if known is None else self._number_of(known))
        for (row, own), plan in zip(merged, plans, strict=True):
            if plan.settlement is not None:
                self._book.settle(plan.settlement)
            self.counts.kept += bool(plan.kept)
            refused = tried[row[0].row_number]
            if known is None and plan.sends and not (is_open or lacks_names(own.payload)):
                plan = self._unless_contact_changed(plan, own)
            if plan.sends and refused and refused.reason:
                reason = f"{refused.reason} {NOT_AGAIN}"
                plan = plan._replace(outcome=Status.REJECTED, prospect_id=known, reason=reason)
            elif own.uncertain and plan.outcome is Status.UNCHANGED and not plan.is_known:
                plan = plan._replace(outcome=Status.FAILED, reason=UNCERTAIN)
            seen, seen_ms = (plan.seen.to_bytes(), plan.seen.read_ms) if plan.seen else (None, None)
            seen_ms = LOOK_BY_ITSELF if plan.looks_alone else seen_ms
            seen_ms = LOOK_FIRST if plan.looks_to_fill else seen_ms
            note = "; ".join(filter(None, (row[0].note, disagreement_note(plan.disagree)))) or None
            row[0] = row[0]._replace(settles=plan.siblings, note=note, seen=seen, seen_ms=seen_ms)
            self._book_row(row, plan, own, person=person)

    def _tried_before(self, write: Write, own: Evidence, known: str | None) -> Refusal | None:
        """How a row was refused that isn't tried again while nothing has changed; else None."""
        refused = self._refused.get(self._entries.contacts(write)[0])
        if refused is None or self._options.force:
            return None
        if refused.asked != self._options.asked(write.content, self._outbox.hasher):
            return None
        confirmed = {each.prospect_id for each in own.receipts if each.confirmed}
        about = {*own.pulled_by_email, *own.pulled_by_phone, *confirmed}
        about |= {known} if known else set()
        if not about <= refused.people or self._finder.changed_since(refused, own):
            return None
        return refused

    def _unless_contact_changed(self, plan: RowPlan, own: Evidence) -> RowPlan:
        """A row that nobody knows, under the names of an entry for which fewer rows speak than
        before, may be that entry's row with another contact: it would create a stranger."""
        has_entry = own.memory is not None and own.memory.entry is not None
        if self._options.allow_shared_contact or has_entry or not self._source:
            return plan
        if not self._has_entries:
            return plan
        with self._outbox.database.read() as connection:
            namesakes = self._entries.namesakes(connection, self._source, own.payload)
        for entry, contacts in namesakes:
            if self._staging.rows_with(contacts) < entry.rows:
                about = entry.prospect_id or "another prospect"
                reason = CONTACT_CHANGED.format(about=about)
                return plan._replace(outcome=Status.REJECTED, reason=reason)
        return plan

    def _two_behind_one_contact(
        self, rows: Sequence[Row], evidence: Mapping[int, Evidence]
    ) -> dict[int, RowPlan]:
        """row number → why, for rows that seem to be about another person than the one who has
        their contact; each is judged by itself, before rows are taken together."""
        alone = len(rows) == 1 and not evidence[rows[0][0].row_number].others
        if self._options.allow_shared_contact or alone:
            return {}
        rejected, candidates = {}, []
        for write, *_ in rows:
            facts = evidence[write.row_number]
            own = decide(facts, self._options)
            if own.outcome is Status.REJECTED:  # it claims no contact, whatever else there is
                rejected[write.row_number] = own
            else:
                candidates.append(facts.candidate(write))
        for number, found in judge(candidates).items():
            rejected[number] = RowPlan(Status.REJECTED, None, found.reason, found.names)
        return rejected

    def _book_row(self, row: Row, plan: RowPlan, own: Evidence, *, person: int) -> None:
        first, needed = row[0], self._open_activities(row, plan, own)
        writes = [
            each._replace(person=person, prospect_id=plan.prospect_id) for each in (first, *needed)
        ]
        if self._on_planned is not None:
            self._on_planned(self._planned_row(writes, plan, own))
        if plan.is_bad or not (plan.sends or needed):
            outcome = plan.outcome or Status.UNCHANGED
            message = "; ".join(filter(None, (first.note, plan.reason))) or None
            kept = plan.kept if outcome is Status.UNCHANGED else ()
            id_ = plan.prospect_id
            self._outcome(RowResult(first.row_number, outcome, id_, message, kept_fields=kept))
            if plan.is_bad:
                self._on_reject(reject_of(first, plan.reason or "", plan.names))
            return
        self._book.send(writes if plan.sends else writes[1:])
        self._count(len(needed) + plan.sends, plan, own)

    def _planned_row(self, writes: Sequence[Write], plan: RowPlan, own: Evidence) -> PlannedRow:
        """writes: the row's, of which all but the first are activities to be created."""
        outcome: Outcome = "send"
        if plan.outcome is not None:
            outcome = plan.outcome.value  # type: ignore[assignment]
        elif plan.prospect_id is not None:
            outcome = "update"
        elif self._would_create(plan):
            outcome = "create"
        return PlannedRow(
            writes[0],
            () if plan.is_bad else tuple(writes[1:]),
            outcome,
            plan.prospect_id,
            None if plan.is_bad else plan.merged,
            self._looks(plan, own),
            plan.reason,
            plan.settlement,
            plan.name,
        )

    def _would_create(self, plan: RowPlan) -> bool:
        """Whether a row about somebody who isn't known surely creates them."""
        is_first = not (plan.looks_to_find or plan.follows)
        return is_first and self._finder.pulled.complete_ms is not None

    def _looks(self, plan: RowPlan, own: Evidence) -> bool:
        """Whether the person is looked up before the row is sent."""
        if not plan.sends:
            return False
        if plan.prospect_id is not None:
            return self._options.to_apply or plan.seen is None or plan.looks_to_fill
        is_lost = self._options.looks_first and own.best is None
        return plan.looks_to_find or is_lost or self._options.mode == "update-only"

    def _open_activities(self, row: Row, plan: RowPlan, own: Evidence) -> list[Write]:
        """The notes, tasks and meetings that a row asks for and that aren't there yet. A push that
        only creates adds them to whom the row creates, or has created before, if its activities
        were cut short then."""
        if self._options.mode == "create-only" and plan.outcome is Status.UNCHANGED:
            is_own = own.created or own.by_row is not None
            if not is_own or plan.reason == EXISTS:
                return []
        return [
            write
            for write in row[1:]
            if self._options.force
            or (plan.prospect_id, write.kind, write.content) not in own.attached
        ]

    def _count(self, writes: int, plan: RowPlan, own: Evidence) -> None:
        counts, looks = self.counts, self._looks(plan, own)
        counts.looks += looks
        counts.looks_alone += looks and plan.looks_alone
        if plan.prospect_id is not None:
            counts.would_update += 1
        elif self._would_create(plan):
            counts.would_create += 1
        if self._options.looks_first and not self._options.force:
            counts.look_ups += writes - (plan.sends and own.best is not None)

    def _outcome(self, result: RowResult) -> None:
        self._book.end(result)
        if len(self._book.found) >= _MOST_UNSTORED:
            self._store()

    def _store(self) -> None:
        """Store the plan so far."""
        self._book.store(self._finder.deleted)
        self._finder.deleted.clear()


@contextmanager
def _collecting_rarely() -> Iterator[None]:
    """A plan makes millions of objects and hardly a cycle: to look for those took 7 % of it."""
    before = gc.get_threshold()
    if gc.isenabled() and before[0]:
        gc.set_threshold(max(before[0], _OBJECTS), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _by_person(rows: Sequence[Row], evidence: Mapping[int, Evidence]) -> list[list[Row]]:
    """What is left of a person's rows, by person: the rejected ones may be all that joined them."""
    people, first = Forest(len(rows)), dict[int | str, int]()
    for number, (write, *_) in enumerate(rows, start=1):
        found = [receipt.prospect_id for receipt in evidence[write.row_number].receipts]
        for key in (write.email_alias, write.phone_alias, *found):
            if key is not None:
                people.unite(first.setdefault(key, number), number)
    groups: dict[int, list[Row]] = {}
    for number, row in enumerate(rows, start=1):
        groups.setdefault(people.find(number), []).append(row)
    return list(groups.values())


def reject_of(write: Write, reason: str, names: str | None) -> Reject:
    """The reject of a row that passed its checks. names: for the rejects file alone."""
    values: dict[str, Any] = orjson.loads(write.row_values or b"{}")
    in_full = f"{reason} ({names})" if names else reason
    return Reject(write.row_number, values, None, in_full, without_values=reason)
