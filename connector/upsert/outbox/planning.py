"""The plan of a push: each staged row compared with what the API accepted last.

What follows from the plan is stored in chunks, so that a million rows never block anybody; a dry
run counts the same and stores nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from connector.clock import SteadyClock
from connector.upsert.outbox.decisions import (
    EXISTS,
    Action,
    Decision,
    Evidence,
    Mode,
    decide,
    decide_together,
)
from connector.upsert.outbox.evidence import EvidenceFinder, Known
from connector.upsert.outbox.identity import Hasher
from connector.upsert.outbox.outbox import Outbox
from connector.upsert.outbox.receipts import Receipts
from connector.upsert.outbox.results import ResultStore, RowResult
from connector.upsert.outbox.shared_contacts import Candidate, first_name, judge
from connector.upsert.outbox.staging import Forest, StagedRow, Staging, names_of_row
from connector.upsert.outbox.states import Status
from connector.upsert.outbox.writes import PROSPECTS, Write
from connector.upsert.rows.validation import Reject

_CHUNK = 5_000
_OUTCOMES = {
    Action.UNCHANGED: Status.UNCHANGED,
    Action.REJECT: Status.REJECTED,
    Action.UNCERTAIN: Status.FAILED,
}


@dataclass
class PlanCounts:
    """rows: of the input. outcomes: rows whose outcome is known without a request. to_send: rows
    that need one.

    would_create, would_update: of those, by what the API will do; the rest can't be told.
    writes: requests that change something. look_ups: at most so many come before them, since an
    outbox was lost.
    """

    outcomes: Counter[Status] = field(default_factory=Counter)
    rows: int = 0
    to_send: int = 0
    would_create: int = 0
    would_update: int = 0
    prospect_writes: int = 0
    writes: int = 0
    look_ups: int = 0


class Planner:
    """Plans one run.

    source: the input's name, the same each time it is pushed. allow_shared_contact: send rows
    that seem to be about another person than the one who has their contact.
    """

    def __init__(
        self,
        outbox: Outbox,
        results: ResultStore,
        finder: EvidenceFinder,
        *,
        run_id: str,
        source: str,
        mode: Mode,
        force: bool,
        allow_shared_contact: bool,
        dry_run: bool,
        clock: SteadyClock,
        looks_first: bool = False,
    ) -> None:
        self._looks_first = looks_first and not force
        self._outbox, self._results, self._finder = outbox, results, finder
        self._run_id, self._source = run_id, source
        self._mode, self._force, self._dry_run = mode, force, dry_run
        self._allow_shared_contact = allow_shared_contact
        self._clock = clock
        self._new: list[Write] = []
        self._found: list[RowResult] = []
        self.counts = PlanCounts()

    def reject(self, reject: Reject) -> None:
        """Count a row that didn't pass its checks."""
        self._outcome(RowResult(reject.row_number, Status.REJECTED, None, reject.public_reason))

    def plan(self, staging: Staging) -> Iterator[tuple[StagedRow, Decision]]:
        """Plan every staged row; yields those that are rejected or uncertain, for the rejects."""
        for chunk in _chunks(([row] for row in staging.alone()), _CHUNK):
            yield from self._plan_chunk(chunk)
        for chunk in _chunks(staging.together(), _CHUNK):
            yield from self._plan_chunk(chunk)
        self.flush()

    def _plan_chunk(
        self, people: Sequence[list[StagedRow]]
    ) -> Iterator[tuple[StagedRow, Decision]]:
        looked_up = self._finder.look_up(
            [row for person in people for row in person],
            sift=not self._force and people[0][0].person is None,
        )
        known, evidence = looked_up.known, looked_up.evidence
        for person in people:
            if (row := person[0]).id in looked_up.plain:
                self._outcome(
                    RowResult(row.row_number, Status.UNCHANGED, looked_up.plain[row.id], row.note)
                )
                continue
            rejected = self._two_behind_one_contact(person, evidence)
            for row, decision in rejected:
                self._book(row, decision, known, person=row.id, stale=False)
                yield row, decision
            rest = _split(person, rejected, evidence) if rejected else [person]
            for rows in rest:
                yield from self._plan_person(rows, known, evidence)
        self.flush()

    def _plan_person(
        self, rows: list[StagedRow], known: Known, evidence: Mapping[int, Evidence]
    ) -> Iterator[tuple[StagedRow, Decision]]:
        decisions = decide_together(
            [(row.content, evidence[row.id]) for row in rows],
            mode=self._mode,
            force=self._force,
            allow_shared_contact=self._allow_shared_contact,
        )
        number = self._person_number(rows[0], decisions)
        for row, decision in zip(rows, decisions, strict=True):
            own = evidence[row.id]
            if self._mode == "create-only" and not _adds_activities(decision, own):
                row = row._replace(activities=None)
            self._book(row, decision, known, person=number, stale=own.stale is not None)
            if decision.action in (Action.REJECT, Action.UNCERTAIN):
                yield row, decision

    def _two_behind_one_contact(
        self, rows: Sequence[StagedRow], evidence: Mapping[int, Evidence]
    ) -> list[tuple[StagedRow, Decision]]:
        """Rows that seem to be about another person than the one who has their contact; each is
        judged by itself, before rows are taken together."""
        if self._allow_shared_contact or (len(rows) == 1 and not evidence[rows[0].id].others):
            return []
        rejected = {}
        for row in rows:  # those that stand for nobody, whatever else there is
            own = decide(row.content, evidence[row.id], mode=self._mode, force=self._force)
            if own.action is Action.REJECT:
                rejected[row.row_number] = own
        rest = [row for row in rows if row.row_number not in rejected]
        for number, found in judge([_candidate(row, evidence[row.id]) for row in rest]).items():
            rejected[number] = Decision(Action.REJECT, None, found.reason, found.names)
        return [(row, rejected[row.row_number]) for row in rows if row.row_number in rejected]

    def _person_number(self, row: StagedRow, decisions: Sequence[Decision]) -> int:
        """One number for rows that must not go out at once: also those of one prospect whose
        contacts only a pull has brought together."""
        ids = {decision.prospect_id for decision in decisions}
        if len(ids) == 1 and (id_ := ids.pop()) is not None:
            return self._outbox.hasher.alias("prospect", id_)
        return row.person or row.id

    def _book(
        self, row: StagedRow, decision: Decision, known: Known, *, person: int, stale: bool
    ) -> None:
        sends = decision.action is Action.SEND
        activities = self._open_activities(row, decision, known)
        if decision.action in (Action.REJECT, Action.UNCERTAIN) or not (sends or activities):
            message = "; ".join(filter(None, (row.note, decision.reason))) or None
            status = _OUTCOMES[decision.action]
            self._outcome(RowResult(row.row_number, status, decision.prospect_id, message))
            return
        asked = [(PROSPECTS, row.content, row.payload)] if sends else []
        plain = self._write(row, decision, person, stale)
        first = 0 if sends else 1  # position 0 is the prospect's
        new = [
            replace(plain, position=position, kind=kind, content=content, body=body)
            for position, (kind, content, body) in enumerate(asked + activities, start=first)
        ]
        self._count(new, decision, sends)
        if self._looks_first:
            is_known = any(name in known.found for name in plain.names.present())
            self.counts.look_ups += len(activities) + (sends and not is_known)
        self._new += new

    def _open_activities(
        self, row: StagedRow, decision: Decision, known: Known
    ) -> list[tuple[str, bytes, bytes]]:
        """(kind, content, body) of the row's activities that aren't there yet."""
        return [
            each
            for each in activities_of(row, self._outbox.hasher)
            if self._force or (decision.prospect_id, each[0], each[1]) not in known.attached
        ]

    def _write(self, row: StagedRow, decision: Decision, person: int, stale: bool) -> Write:
        return Write(
            run_id=self._run_id,
            source=self._source,
            row_number=row.row_number,
            position=0,
            kind=PROSPECTS,
            person=person,
            names=names_of_row(row, self._outbox.hasher),
            content=row.content,
            body=row.payload,
            row_values=row.row_values,
            note=row.note,
            prospect_id=decision.prospect_id,
            stale=stale,
        )

    def _count(self, new: list[Write], decision: Decision, sends: bool) -> None:
        counts = self.counts
        counts.to_send += 1
        counts.writes += len(new)
        counts.prospect_writes += sends
        if decision.prospect_id is not None:
            counts.would_update += 1
        elif self._finder.pulled.complete_ms is not None:
            counts.would_create += 1

    def _outcome(self, result: RowResult) -> None:
        self.counts.outcomes[result.status] += 1
        self._found.append(result)
        if len(self._found) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Store what has been planned so far."""
        new, found, gone = self._new, self._found, set(self._finder.gone)
        self._new, self._found = [], []
        self._finder.gone.clear()
        if self._dry_run or not (new or found or gone):
            return
        with self._outbox.database.write() as connection:
            if gone:
                Receipts(self._outbox.scope).forget_people(connection, gone)
            self._outbox.plan(connection, new, int(self._clock.now_s() * 1000))
            at_ms = int(self._clock.wall_s() * 1000)  # for people
            self._results.put(connection, self._run_id, found, at_ms)


def activities_of(row: StagedRow, hasher: Hasher) -> list[tuple[str, bytes, bytes]]:
    """(kind, content, body) of the notes, tasks and meetings that a row asks for."""
    if row.activities is None:
        return []
    asked: list[tuple[str, dict[str, Any]]] = orjson.loads(row.activities)
    return [(kind, hasher.content(payload), orjson.dumps(payload)) for kind, payload in asked]


def _candidate(row: StagedRow, evidence: Evidence) -> Candidate:
    """A row as it is judged: its names, its contacts, and what is known of whom they lead to."""
    text = orjson.loads(row.payload).get("firstName")
    keys = (("email", row.email), ("phone", row.phone))
    contacts = [(kind, key) for kind, key in keys if key is not None]
    found = [("email", row.email, evidence.by_email), ("phone", row.phone, evidence.by_phone)]
    people = [each for _, _, each in found if each and each.confirmed]
    repeats = any(each.is_last(row.content) for each in people)
    return Candidate(
        row.row_number,
        first_name(text),
        str(text or ""),
        (*contacts, *(("prospect", id_) for id_ in {each.prospect_id for each in people})),
        (row.email, row.phone) if len(contacts) == 2 else None,
        evidence.others,
        rank=0 if repeats else 1 if evidence.fits else 2,
        settled=frozenset(
            key
            for kind, alias, each in found
            if each and each.prospect_id in evidence.settled
            for key in ((kind, alias), ("prospect", each.prospect_id))
        ),
    )


def _split(
    rows: Sequence[StagedRow],
    rejected: Sequence[tuple[StagedRow, Decision]],
    evidence: Mapping[int, Evidence],
) -> list[list[StagedRow]]:
    """`rows` without the rejected ones, by person: those may have been all that joined them."""
    out = {row.id for row, _ in rejected}
    rest = [row for row in rows if row.id not in out]
    people, first = Forest(len(rest)), dict[tuple[str, int | str], int]()
    for number, row in enumerate(rest, start=1):
        for key in _joins(row, evidence[row.id]):
            people.unite(first.setdefault(key, number), number)
    groups: dict[int, list[StagedRow]] = {}
    for number, row in enumerate(rest, start=1):
        groups.setdefault(people.find(number), []).append(row)
    return list(groups.values())


def _joins(row: StagedRow, evidence: Evidence) -> Iterator[tuple[str, int | str]]:
    for alias in (row.email, row.phone):
        if alias is not None:
            yield "alias", alias
    for found in (evidence.by_email, evidence.by_phone):
        if found is not None:
            yield "prospect", found.prospect_id


def _adds_activities(decision: Decision, evidence: Evidence) -> bool:
    """Whether a row of a push that only creates has anybody to add activities to: whom it creates,
    or has created before, if its activities were cut short then."""
    if decision.action is Action.UNCHANGED:
        is_own = evidence.created or evidence.by_row is not None
        return is_own and decision.reason != EXISTS
    return True


def _chunks(people: Iterable[list[StagedRow]], rows: int) -> Iterator[list[list[StagedRow]]]:
    """People in chunks of about `rows` rows."""
    chunk: list[list[StagedRow]] = []
    size = 0
    for person in people:
        chunk.append(person)
        size += len(person)
        if size >= rows:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
