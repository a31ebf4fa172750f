"""The plan of a push: each staged row compared with what the API accepted last.

What follows from the plan is stored in chunks, so that a million rows never block anybody; a dry
run counts the same and stores nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from connector.clock import SteadyClock
from connector.upsert.outbox.decisions import Action, Decision, Mode, decide_together
from connector.upsert.outbox.evidence import EvidenceFinder, Known
from connector.upsert.outbox.identity import Hasher
from connector.upsert.outbox.outbox import Outbox
from connector.upsert.outbox.results import ResultStore, RowResult
from connector.upsert.outbox.staging import StagedRow, Staging, names_of_row
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

    source: the input's name, the same each time it is pushed.
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
        dry_run: bool,
        clock: SteadyClock,
        looks_first: bool = False,
    ) -> None:
        self._looks_first = looks_first and not force
        self._outbox, self._results, self._finder = outbox, results, finder
        self._run_id, self._source = run_id, source
        self._mode, self._force, self._dry_run = mode, force, dry_run
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
            rows = [(row.content, evidence[row.id]) for row in person]
            decisions = decide_together(rows, mode=self._mode, force=self._force)
            number = self._person_number(person[0], decisions)
            for row, decision in zip(person, decisions, strict=True):
                stale = evidence[row.id].stale is not None
                self._book(row, decision, known, person=number, stale=stale)
                if decision.action in (Action.REJECT, Action.UNCERTAIN):
                    yield row, decision
        self.flush()

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
            if (decision.prospect_id, each[0], each[1]) not in known.attached
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
        new, found = self._new, self._found
        self._new, self._found = [], []
        if self._dry_run or not (new or found):
            return
        with self._outbox.database.write() as connection:
            self._outbox.plan(connection, new, int(self._clock.now_s() * 1000))
            at_ms = int(self._clock.wall_s() * 1000)  # for people
            self._results.put(connection, self._run_id, found, at_ms)


def activities_of(row: StagedRow, hasher: Hasher) -> list[tuple[str, bytes, bytes]]:
    """(kind, content, body) of the notes, tasks and meetings that a row asks for."""
    if row.activities is None:
        return []
    asked: list[tuple[str, dict[str, Any]]] = orjson.loads(row.activities)
    return [(kind, hasher.content(payload), orjson.dumps(payload)) for kind, payload in asked]


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
