"""What to do with one row, given what is known of its person. Pure.

The plan of a push: each staged row compared with what the API accepted last.

What follows from the plan is stored in chunks, so that a million rows never block anybody; a dry
run counts the same and stores nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

import orjson

from connector.clock import SteadyClock
from connector.upsert.outbox.evidence import Evidence, EvidenceFinder, Known, best_of
from connector.upsert.outbox.matching import (
    DISPUTED,
    Candidate,
    Hasher,
    first_name,
    judge,
)
from connector.upsert.outbox.outbox import PROSPECTS, Outbox, Write
from connector.upsert.outbox.receipts import (
    Found,
    Receipt,
    Receipts,
    ResultStore,
    RowResult,
    Status,
)
from connector.upsert.outbox.staging import Forest, StagedRow, Staging, names_of_row
from connector.upsert.rows.row_checks import Reject

Mode = Literal["upsert", "create-only", "update-only"]


@dataclass(frozen=True)
class PushOptions:
    """How one push is to be done.

    source: the input's name, the same each time it is pushed. source_path: where its rows lie, if
    that isn't its name. force: send what is unchanged or uncertain too. looks_first: whoever the
    outbox doesn't know is looked up before a write. allow_shared_contact: send rows that seem to be
    about another person than the one who has their contact. retry_total_s: for how long one write
    is tried. retention_days: how long outcomes, and receipts that nothing uses, are kept.
    destination: a number that stands for where results land.
    """

    run_id: str
    source: str
    mode: Mode = "upsert"
    force: bool = False
    looks_first: bool = False
    allow_shared_contact: bool = False
    source_path: str | None = None
    retry_total_s: float = 300.0
    retention_days: int = 90
    destination: int = 0


TWO_PEOPLE = (
    "email and phone belong to two different prospects ({email_id} and {phone_id}); merging two "
    "people can't be undone. Correct one of them, or split the row in two."
)


UNCERTAIN = (
    "uncertain: an earlier try to send this row may or may not have been applied, and the API has "
    "forgotten it. Look at the prospect in HiringCenter; if it isn't as this row says, push the "
    "row with --force. It is not sent again by itself."
)


EXISTS = "this person exists already; --mode create-only leaves them as they are"


REPEATED = (
    "a row with the same content and neither email nor phone was created before; --force creates "
    "it once more"
)


class Action(StrEnum):
    """send: a request is needed. The others are outcomes."""

    SEND = "send"
    UNCHANGED = "unchanged"
    REJECT = "reject"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True)
class Decision:
    """prospect_id: whom the row is about, where that is known; of a row that is sent, whom the API
    is expected to find. reason: for people, or None. names: of the people that the reason is
    about, for the rejects file alone."""

    action: Action
    prospect_id: str | None = None
    reason: str | None = None
    names: str | None = None


def decide(
    content: bytes,
    evidence: Evidence,
    *,
    mode: Mode,
    force: bool,
    allow_shared_contact: bool = False,
) -> Decision:
    """The next step for a row whose payload hashes to `content`."""
    if evidence.disputed is not None:
        if allow_shared_contact:  # whoever has the contact now
            return Decision(Action.SEND)
        expected, answered = evidence.disputed
        disputed = DISPUTED.format(expected=expected, answered=answered)
        return Decision(Action.REJECT, None, disputed)
    conflict = _two_people(evidence)
    if conflict is not None:
        return Decision(Action.REJECT, None, conflict)
    leads_to = best_of(evidence.by_email, evidence.by_phone, evidence.by_row)
    if leads_to is not None:
        prospect_id: str | None = leads_to.prospect_id
        sent_to = prospect_id if leads_to.confirmed and leads_to != evidence.by_row else None
    else:
        prospect_id = _only(evidence.pulled_by_email | evidence.pulled_by_phone)
        sent_to = prospect_id
    if force:
        return Decision(Action.SEND, sent_to)
    if evidence.uncertain:
        return Decision(Action.UNCERTAIN, prospect_id, UNCERTAIN)
    receipt = evidence.receipt
    if evidence.stale is None and receipt is not None and receipt.ends_with([content]):
        reason = REPEATED if evidence.by_row is not None else None
        return Decision(Action.UNCHANGED, prospect_id, reason)
    if mode == "create-only" and prospect_id is not None and evidence.stale is None:
        return Decision(Action.UNCHANGED, prospect_id, EXISTS)
    return Decision(Action.SEND, sent_to, evidence.stale)


def decide_together(
    rows: Sequence[tuple[bytes, Evidence]],
    *,
    mode: Mode,
    force: bool,
    allow_shared_contact: bool = False,
) -> list[Decision]:
    """The next step for each row (content, evidence) of one person, in file order.

    Of several, none is sent where what was accepted last is these very rows in this order:
    applying them again would end where it began. Else each is sent in its turn, and compared
    once more with what was accepted by then.
    """

    def one(content: bytes, evidence: Evidence) -> Decision:
        return decide(
            content,
            evidence,
            mode=mode,
            force=force,
            allow_shared_contact=allow_shared_contact,
        )

    if len(rows) == 1:
        return [one(*rows[0])]
    each = [one(content, replace(evidence, receipt=None)) for content, evidence in rows]
    if not force and _repeat_the_tails(rows, each):
        return [Decision(Action.UNCHANGED, decision.prospect_id) for decision in each]
    return each


def _repeat_the_tails(rows: Sequence[tuple[bytes, Evidence]], each: list[Decision]) -> bool:
    sequences: dict[str, tuple[Receipt, list[bytes]]] = {}
    for (content, evidence), decision in zip(rows, each, strict=True):
        if decision.action is not Action.SEND or evidence.stale or evidence.receipt is None:
            return False
        contents = sequences.setdefault(evidence.receipt.prospect_id, (evidence.receipt, []))[1]
        if contents[-1:] != [content]:
            contents.append(content)
    return all(receipt.ends_with(contents) for receipt, contents in sequences.values())


def _two_people(evidence: Evidence) -> str | None:
    by_email = _ids(evidence.by_email) | evidence.pulled_by_email
    by_phone = _ids(evidence.by_phone) | evidence.pulled_by_phone
    if not by_email or not by_phone or by_email & by_phone:
        return None
    return TWO_PEOPLE.format(email_id=min(by_email), phone_id=min(by_phone))


def _ids(found: Found | None) -> frozenset[str]:
    if found is None or not found.confirmed:
        return frozenset()
    return frozenset({found.prospect_id})


def _only(ids: frozenset[str]) -> str | None:
    return next(iter(ids)) if len(ids) == 1 else None


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
