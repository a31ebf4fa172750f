"""The plan of a push: the outcome or the writes of each row, given the known facts.

The plan is stored in chunks, so that a million rows never block another process; a dry run counts
the same and stores nothing.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson

from connector.upsert.outbox.entries import Entries, Refusal, Settlement
from connector.upsert.outbox.evidence import Evidence, EvidenceFinder, Pulled, PulledProspect
from connector.upsert.outbox.exported_rows import Exported
from connector.upsert.outbox.forgotten import refusing
from connector.upsert.outbox.matching import DISPUTED, judge
from connector.upsert.outbox.merge import lacks_names
from connector.upsert.outbox.outbox import LOOK_BY_ITSELF, LOOK_FIRST, PROSPECTS, Outbox, Write
from connector.upsert.outbox.person_plan import (
    DELETED,
    Outcome,
    PersonPlanner,
    PushOptions,
    RowPlan,
)
from connector.upsert.outbox.receipts import Receipt, Receipts, ResultStore, RowResult, Status
from connector.upsert.outbox.staging import Forest, Glance, Staging
from connector.upsert.rows.cells import InputRow
from connector.upsert.rows.row_checks import Check, Reject, ValidRow

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


def decide(evidence: Evidence, options: PushOptions) -> tuple[Outcome, str | None, str | None]:
    """Whether a row can be sent at all; what its fields say is merged later. Pure.

    Returns its outcome, `send` where it can be; whom it is about, or is to be sent to; and why.
    """
    if evidence.disputed is not None:
        if options.allow_shared_contact:  # to the person who has the contact now
            return "send", None, None
        expected, answered = evidence.disputed
        return "rejected", None, DISPUTED.format(expected=expected, answered=answered)
    if (why := evidence.why_ambiguous) is not None:
        return "rejected", None, why
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
        return "send", sent_to, None
    if evidence.memory is None and evidence.uncertain:
        return "failed", prospect_id, UNCERTAIN
    if evidence.by_row is not None and not (evidence.is_deleted and options.rules.restore):
        return "unchanged", prospect_id, DELETED if evidence.is_deleted else REPEATED
    if options.mode == "create-only" and prospect_id is not None:
        return "unchanged", prospect_id, EXISTS
    return "send", sent_to, None


@dataclass
class PlanCounts:
    """rows: of the input. outcomes: rows whose outcome is known without a request. to_send: rows
    that need one.

    would_create, would_update: of those, by what the API will do; the others are unknown.
    writes: requests that change something. look_ups: at most so many come before them, since an
    outbox was lost. looks: how many people are looked up before they are changed; looks_alone: of
    those, whom no scan spares the look. kept: rows with fields that were kept. unread: rows that
    send nothing and whose person isn't known as they are now.
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
    unread: int = 0


class PlanBook:
    """What a run has decided about its rows, counted and stored. dry_run: it is only counted.

    in_one_write: other processes wait for so much. writes, found, settled: what isn't stored yet.
    """

    def __init__(
        self,
        outbox: Outbox,
        options: PushOptions,
        *,
        dry_run: bool = False,
        in_one_write: int = 5_000,
    ) -> None:
        self._outbox, self._dry_run = outbox, dry_run
        self._source, self._run_id = options.source, options.run_id
        self._in_one_write = in_one_write
        self.entries, self.receipts = Entries(outbox.scope, outbox.hasher), Receipts(outbox)
        self._results = ResultStore(outbox.database, outbox.scope, options.destination)
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

    def store(self, deleted: Iterable[str] = ()) -> None:
        """Store what was decided since the last time. deleted: people to whom no contact leads any
        more."""
        writes, found, settled, gone = self.writes, self.found, self.settled, list(deleted)
        self.writes, self.found, self.settled = [], [], []
        most = 0 if self._dry_run else max(len(writes), len(found), len(settled), len(gone))
        at_ms = self._outbox.clock.wall_ms()
        for start in range(0, most, self._in_one_write):
            part = slice(start, start + self._in_one_write)
            with self._outbox.database.write() as connection:
                if gone[part]:
                    self.receipts.forget_people(connection, gone[part])
                self.entries.put(connection, self._source, settled[part])
                self._outbox.plan(connection, writes[part])
                self._results.put(connection, self._run_id, found[part], at_ms)


class Planner:
    """Plans one push.

    dry_run: nothing is stored. on_reject: gets every row whose outcome is bad, as the input holds
    it. on_planned: gets every row that passed its checks, those of one person side by side.
    """

    def __init__(
        self,
        outbox: Outbox,
        options: PushOptions,
        pulled: Pulled,
        *,
        dry_run: bool,
        on_reject: Callable[[Reject], None],
        on_planned: Callable[[RowPlan], None] | None = None,
    ) -> None:
        self._outbox, self._options, self._clock = outbox, options, outbox.clock
        self._dry_run, self._on_reject, self._on_planned = dry_run, on_reject, on_planned
        self._book = PlanBook(outbox, options, dry_run=dry_run, in_one_write=2 * _MOST_UNSTORED)
        self.counts = self._book.counts
        self._receipts, self._entries = self._book.receipts, self._book.entries
        self._finder = EvidenceFinder(
            outbox, self._receipts, pulled, source=options.source, entries=self._entries
        )
        self._merging = PersonPlanner(self._entries, pulled, options, now_ms=self._clock.now_ms())
        self._refused: dict[int, Refusal] = {}
        with outbox.database.read() as connection:  # 0: no earlier push has settled anything
            self._source = self._entries.number(connection, options.source)

    def plan(
        self,
        rows: Iterable[InputRow],
        check: Check,
        on_read: Callable[[int], None] = lambda _: None,
    ) -> PlanCounts:
        """Read, check and compare every row; nothing is sent. on_read: gets how many rows have been
        read."""
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
            people = staging.people(with_alike=self._on_planned is not None)
            while chunk := list(islice(people, _CHUNK_PEOPLE)):
                self._plan_chunk(chunk)
            self._store()
            self.counts.outcomes[Status.UNCHANGED] += staging.count_alike()
            if not self._dry_run:
                times = {"at_ms": self._clock.wall_ms(), "settled_ms": self._clock.now_ms()}
                place = {"scope": self._outbox.scope, "destination": self._options.destination}
                staging.store_alike(self._entries, {**times, **place})
        return self.counts

    def _begin_look(self, rows: Sequence[tuple[ValidRow, Write]]) -> Callable[[], Iterator[Glance]]:
        """What is known of rows as they are read: to whom their contacts lead, and which of them
        are as HiringCenter has their person. The copy is asked while more rows are read."""
        if self._options.force or self._options.mode == "create-only":
            return lambda: self._glances(rows, {})
        find_alike = self._finder.pulled.ask_alike([row.payload for row, _ in rows])
        return lambda: self._glances(rows, find_alike())

    def _glances(
        self, rows: Sequence[tuple[ValidRow, Write]], copied: Mapping[int, PulledProspect]
    ) -> Iterator[Glance]:
        """copied: position → who is all that this row says. The receipts that rows lead to are in
        use and are kept."""
        facts = self._finder.look_up([write for _, write in rows])
        receipts = facts.receipts
        self._keep_receipts(receipts.values())
        for position, (row, write) in enumerate(rows):
            known = [receipts[name] for name in write.aliases if name in receipts]
            found, alike = copied.get(position), None
            if found and not row.activities and self._finder.is_settled(write, found.id):
                alike = self._merging.settle_alike(write, row.payload, found, facts)
            yield known[0].prospect_id if known else None, alike

    def _keep_receipts(self, found: Collection[Receipt]) -> None:
        now_ms = self._clock.now_ms()
        ageing_ms = now_ms - self._options.retention_days * _DAY_MS // 4
        ageing = {each.prospect_id for each in found if each.seen_ms < ageing_ms}
        if ageing and not self._dry_run:
            with self._outbox.database.write() as connection:
                self._receipts.touch(connection, ageing)

    def _reject(self, reject: Reject) -> None:
        """Count and report a row that failed its checks or whose outcome is bad."""
        self._outcome(RowResult(reject.row_number, Status.REJECTED, None, reject.public_reason))
        self._on_reject(reject)

    def _plan_chunk(self, people: Sequence[list[RowPlan]]) -> None:
        rest = [person for person in people if person[0].outcome == "send"]
        rows = [row for person in rest for row in person]
        facts = self._finder.look_up([row.write for row in rows])
        writes = [[(row.write, *row.activities) for row in person] for person in rest]
        evidence = self._finder.gather(writes, facts)
        with self._outbox.database.read() as connection:
            contacts = {
                self._entries.contacts(row.write)[0] for row in rows if row.write.row_alias is None
            }
            self._refused = self._entries.find_refused(connection, self._options.source, contacts)
        for row in rows:
            row.facts = evidence[row.row_number]
        for person in people:
            if person[0].facts is not None:
                self._plan_person(person)
            elif self._on_planned is not None:  # they are as their only row says
                self._on_planned(person[0])
        if len(self._book.writes) >= _CHUNK_PEOPLE or len(self._book.settled) >= _MOST_UNSTORED:
            self._store()

    def _plan_person(self, rows: list[RowPlan]) -> None:
        named: dict[str, list[RowPlan]] = {}
        unnamed = []
        for row in rows:
            if row.write.prospect_id is None:
                unnamed.append(row)
            else:
                named.setdefault(row.write.prospect_id, []).append(row)
        for id_, own in named.items():
            # people who share a contact don't go out at once
            number = rows[0].write.person if len(named) > 1 else self._number_of(id_)
            self._plan_named(id_, own, number)
        if unnamed:  # they share contacts, directly or through others
            rest = self._reject_other_people(unnamed)
            for together in [unnamed] if len(rest) == len(unnamed) else _by_person(rest):
                self._merge_rows(together)

    def _plan_named(self, id_: str, rows: list[RowPlan], number: int) -> None:
        """Rows of a pulled table that are about one prospect. number: for `Write.person`."""
        merged = []
        for row in rows:
            reason = Exported.from_bytes(row.write.exported or b"").reason
            if reason is None:
                merged.append(row)
            else:
                row.decide_on("unchanged", reason, id_)
                self._book_row(row, number)
        if merged:
            self._merge_rows(merged, number)

    def _number_of(self, prospect_id: str) -> int:
        """What `Write.person` is for rows about this prospect."""
        return self._outbox.hasher.alias("prospect", prospect_id)

    def _merge_rows(self, rows: list[RowPlan], number: int | None = None) -> None:
        """Merge the rows of one person with what is known, and plan what is left of each. number:
        for `Write.person`, where that isn't the number of the person."""
        merged: list[RowPlan] = []
        for row in rows:
            outcome, id_, reason = decide(row.known, self._options)
            if outcome == "send" and row.write.row_alias is None:
                merged.append(row)
                continue
            row.decide_on(outcome, reason, id_)
            self.counts.kept += reason == DELETED
            self._book_row(row, row.write.person)
        if not merged:
            return
        first = merged[0].write
        known = first.prospect_id or self._merging.whom(merged)
        is_open = any(self._finder.waits(row.write, known) for row in merged)
        tried = {row.row_number: self._tried_before(row, known) for row in merged}
        looked_at = {number for number, each in tried.items() if each and not each.reason}
        self._merging.plan(merged, known, is_open=is_open, looked_at=looked_at)
        person = number or (first.person if known is None else self._number_of(known))
        for row in merged:
            if row.settlement is not None:
                self._book.settled.append(row.settlement)
            self.counts.kept += bool(row.kept_fields)
            self.counts.unread += row.outcome == "unchanged" and not row.is_known
            refused = tried[row.row_number]
            if (
                known is None
                and row.sends_person
                and not (is_open or lacks_names(row.known.payload))
            ):
                self._check_contact(row)
            if row.sends_person and refused and refused.reason:
                row.decide_on("rejected", f"{refused.reason} {NOT_AGAIN}", known)
            elif row.known.uncertain and row.outcome == "unchanged" and not row.is_known:
                row.outcome, row.reason = "failed", UNCERTAIN
            self._book_row(row, person)

    def _tried_before(self, row: RowPlan, known: str | None) -> Refusal | None:
        """How a row was refused that isn't tried again while nothing has changed; else None."""
        write, own = row.write, row.known
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

    def _check_contact(self, row: RowPlan) -> None:
        """Reject a row whose person isn't known, but has the names of an entry for which fewer rows
        speak than before: it may be that entry's row with another contact, and would create
        another person."""
        is_allowed = self._options.allow_shared_contact or row.memory.entry is not None
        if is_allowed or not self._source:
            return
        with self._outbox.database.read() as connection:
            namesakes = self._entries.namesakes(connection, self._source, row.known.payload)
        for entry, contacts in namesakes:
            if self._staging.rows_with(contacts) < entry.rows:
                about = entry.prospect_id or "another prospect"
                row.decide_on("rejected", CONTACT_CHANGED.format(about=about), row.prospect_id)
                return

    def _reject_other_people(self, rows: list[RowPlan]) -> list[RowPlan]:
        """Reject rows that seem to be about another person than the one who has their contact, each
        judged by itself, before rows are taken together; returns the others."""
        alone = len(rows) == 1 and not rows[0].known.others
        if self._options.allow_shared_contact or alone:
            return rows
        candidates = []
        for row in rows:
            outcome, id_, reason = decide(row.known, self._options)
            if outcome == "rejected":  # it claims no contact, whatever else there is
                row.decide_on("rejected", reason, id_)
            else:
                candidates.append(row.known.candidate(row.write))
        conflicts = judge(candidates)
        for row in rows:
            if (found := conflicts.get(row.row_number)) is not None:
                row.decide_on("rejected", found.reason)
                row.names = found.names
            if row.is_bad:
                self._book_row(row, row.write.person)
        return [row for row in rows if not row.is_bad]

    def _book_row(self, row: RowPlan, person: int) -> None:
        """Count and store what was planned for a row. person: its `Write.person`."""
        needed = self._open_activities(row)
        # without a complete copy, the person of a row that isn't known may exist all the same
        creates = self._finder.pulled.complete_ms is not None and not (row.looks or row.follows)
        if row.is_bad:
            needed, row.merged = [], None
        if row.sends_person and (row.prospect_id is not None or creates):
            row.outcome = "create" if row.prospect_id is None else "update"
        row.looks = self._looks(row)
        row.write, *row.activities = (
            each._replace(person=person, prospect_id=row.prospect_id)
            for each in (row.write, *needed)
        )
        if self._on_planned is not None:
            self._on_planned(row)
        if row.sends:
            self._book.send([row.write, *row.activities] if row.sends_person else row.activities)
            self._count(row, creates=creates)
            return
        self._outcome(
            RowResult(
                row.row_number,
                Status(row.outcome),
                row.prospect_id,
                row.message,
                kept_fields=() if row.is_bad else row.kept_fields,
            )
        )
        if row.is_bad:
            self._on_reject(reject_of(row.write, row.reason or "", row.names))

    def _looks(self, row: RowPlan) -> bool:
        """Whether the person is looked up before the row is sent."""
        if not row.sends_person:
            return False
        if row.prospect_id is not None:
            write = row.write
            return self._options.to_apply or write.seen is None or write.seen_ms == LOOK_FIRST
        is_lost = self._options.looks_first and row.known.best is None
        return row.looks or is_lost or self._options.mode == "update-only"

    def _open_activities(self, row: RowPlan) -> list[Write]:
        """The notes, tasks and meetings that a row asks for and that aren't there yet. A push that
        only creates adds them to whom the row creates, or has created before, if its activities
        were cut short then."""
        own = row.known
        if self._options.mode == "create-only" and row.outcome == "unchanged":
            is_own = own.created or own.by_row is not None
            if not is_own or row.reason == EXISTS:
                return []
        return [
            write
            for write in row.activities
            if self._options.force
            or (row.prospect_id, write.kind, write.content) not in own.attached
        ]

    def _count(self, row: RowPlan, *, creates: bool) -> None:
        counts, is_sent = self.counts, row.sends_person
        counts.looks += row.looks
        counts.looks_alone += row.looks and row.write.seen_ms == LOOK_BY_ITSELF
        counts.would_update += row.prospect_id is not None
        counts.would_create += row.prospect_id is None and creates
        if self._options.looks_first and not self._options.force:
            writes = len(row.activities) + is_sent
            counts.look_ups += writes - (is_sent and row.known.best is not None)

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


def _by_person(rows: Sequence[RowPlan]) -> list[list[RowPlan]]:
    """What is left of a person's rows, by person: the rejected ones may be all that joined them."""
    people, first = Forest(len(rows)), dict[int | str, int]()
    for number, row in enumerate(rows, start=1):
        found = [receipt.prospect_id for receipt in row.known.receipts]
        for key in (row.write.email_alias, row.write.phone_alias, *found):
            if key is not None:
                people.unite(first.setdefault(key, number), number)
    groups: dict[int, list[RowPlan]] = {}
    for number, row in enumerate(rows, start=1):
        groups.setdefault(people.find(number), []).append(row)
    return list(groups.values())


def reject_of(write: Write, reason: str, names: str | None) -> Reject:
    """The reject of a row that passed its checks. names: for the rejects file alone."""
    values: dict[str, Any] = orjson.loads(write.row_values or b"{}")
    in_full = f"{reason} ({names})" if names else reason
    return Reject(write.row_number, values, None, in_full, without_values=reason)
