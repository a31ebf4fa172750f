"""From a planned row to a write that goes out: a last look at what is known, then `sending`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import orjson
import sqlalchemy as sa

from connector.clock import Clock
from connector.upsert.outbox.evidence import Evidence
from connector.upsert.outbox.matching import first_name, stored_first_name
from connector.upsert.outbox.outbox import PROSPECTS, Outbox, State, Write, names_of
from connector.upsert.outbox.planner import EXISTS, UNCERTAIN, PushOptions, RowDecision, decide
from connector.upsert.outbox.receipts import Receipt, Receipts, Status
from connector.upsert.sending.api import Api, server_ms
from connector.upsert.sending.flights import Flight, RowProgress
from connector.upsert.sending.settling import Settler

_BEHIND = (
    "not sent: an earlier change of this person has no answer yet, and nothing may overtake it; "
    "push again"
)
_DROPPED = (
    "HiringCenter kept neither email nor phone of this row when prospect {prospect_id} was "
    "created, and finds no one by them: the row would create that person again. Correct the "
    "contact, or change prospect {prospect_id} in HiringCenter; --force creates them again"
)
_NO_ID = "not sent: HiringCenter didn't say which prospect it belongs to"


@dataclass
class Claimer:
    """Starts rows and their activities, within the caller's transaction.

    looks_first: whoever has no receipt here is looked up before anything is posted, and so is
    what goes with them.
    """

    outbox: Outbox
    receipts: Receipts
    settler: Settler
    api: Api
    clock: Clock
    options: PushOptions
    looks_first: bool = False
    began_ms: int = 0

    def __post_init__(self) -> None:
        self._attached: set[tuple[str, str, bytes]] = set()
        """Activities that this push has sent: with `force` each is created once more, not more."""

    def start(self, connection: sa.Connection, rows: Sequence[RowProgress]) -> Iterable[Flight]:
        """The first errand of each row that needs one; the others are left without any."""
        names = {alias for row in rows for alias in row.first.names.present()}
        found = self.receipts.find(connection, names)
        for row in rows:
            flight = self._start_one(connection, row, found)
            if flight is not None:
                yield flight

    def _start_one(
        self, connection: sa.Connection, row: RowProgress, found: Mapping[int, Receipt]
    ) -> Flight | None:
        write = row.first
        if self.settler.blocked.intersection(names_of(write)):
            return self._skip(connection, row, Status.FAILED, _BEHIND)
        if write.kind != PROSPECTS:
            return self.go_on(connection, row)
        decision, evidence = self._decide(write, found)
        row.prospect_id = decision.prospect_id
        if decision.outcome is not None:
            return self._settle(connection, row, decision)
        row.rest.popleft()
        must_exist = None
        receipt = evidence.receipt
        if receipt and decision.prospect_id is None and self._lost_contacts(write, evidence):
            must_exist = _DROPPED.format(prospect_id=receipt.prospect_id)
        looks = self.options.mode == "update-only" or bool(must_exist)
        looks = looks or (self.looks_first and evidence.best is None)
        write = replace(write, prospect_id=decision.prospect_id)
        if not looks:
            write = self._send(connection, self._careful(write))
        flight = self._flight(row, write, looks=looks, accepted_updated_at_ms=_updated_ms(evidence))
        return replace(flight, must_exist=must_exist)

    def _decide(self, write: Write, found: Mapping[int, Receipt]) -> tuple[RowDecision, Evidence]:
        uncertain, disputed = self.settler.uncertain, self.settler.disputed
        evidence = Evidence.of(write.names, write.content, found, uncertain, disputed)
        evidence.stale = "changed since" if write.stale else None
        decision = decide(write.content, evidence, self.options)
        if decision.prospect_id is None or not self._is_newer_than_plan(evidence):
            decision = replace(decision, prospect_id=write.prospect_id)  # the plan knew the pull
        return decision, evidence

    def _lost_contacts(self, write: Write, evidence: Evidence) -> bool:
        """Whether the row's person is there already, without any contact to find them by."""
        if self.options.force or not evidence.contacts_dropped:
            return False
        found = evidence.by_email or evidence.by_phone
        theirs = stored_first_name(found.names) if found else None
        own = first_name(orjson.loads(write.body).get("firstName"))
        return theirs is None or own is None or theirs.agrees(self.outbox.hasher.name(own))

    def _is_newer_than_plan(self, evidence: Evidence) -> bool:
        """Whether something was accepted for the row's person since the push began."""
        found = (evidence.by_email, evidence.by_phone, evidence.by_row)
        return any(each is not None and each.accepted_ms >= self.began_ms for each in found)

    def _settle(
        self, connection: sa.Connection, row: RowProgress, decision: RowDecision
    ) -> Flight | None:
        status, reason = decision.outcome or Status.UNCHANGED, decision.reason
        if status is not Status.UNCHANGED:
            return self._skip(connection, row, status, reason or "")
        row.status = status
        if reason:
            row.notes.append(reason)
        row.left_alone = reason == EXISTS
        self._close(connection, row.rest.popleft(), status)
        return self.go_on(connection, row)

    def _skip(
        self, connection: sa.Connection, row: RowProgress, status: Status, why: str
    ) -> Flight | None:
        """Close the whole row without a request."""
        row.status = status
        row.failures.append(why)
        return self.go_on(connection, row)

    def go_on(self, connection: sa.Connection, row: RowProgress) -> Flight | None:
        """The next errand of a row that has begun; None: it has its outcome."""
        while row.rest:
            write = replace(row.rest.popleft(), prospect_id=row.prospect_id)
            if row.status in (Status.REJECTED, Status.FAILED) or row.left_alone:
                self._close(connection, write, "skipped")
            elif write.prospect_id is None:
                row.failures.append(f"{write.kind}: {_NO_ID}")
                self._close(connection, write, "skipped")
            elif self._is_attached(connection, write):
                self._close(connection, write, Status.UNCHANGED)
            elif self._is_uncertain(write):
                row.failures.append(f"{write.kind}: {UNCERTAIN}")
                self._close(connection, write, "skipped")
            elif self.looks_first and row.status is not Status.CREATED:
                return self._flight(row, _addressed(write), looks=True)
            else:
                return self._flight(row, self._send(connection, _addressed(write)))
        return None

    def post(self, connection: sa.Connection, flight: Flight) -> Flight:
        """It isn't there yet, or is to be changed: send what was only looked up so far."""
        write = self._send(connection, self._careful(flight.write))
        return replace(flight, write=write, looks=False, started_s=self.clock.monotonic_s())

    def update(self, connection: sa.Connection, flight: Flight) -> Flight:
        """The prospect that a creation has met is to be changed."""
        payload = {**orjson.loads(flight.write.body), "update": True}
        write = self.outbox.send_as_update(
            connection,
            replace(flight.write, body=orjson.dumps(payload)),
            at_ms=self._now_ms(),
            server_ms=server_ms(self.api),
        )
        return replace(flight, write=write, resumed=False, started_s=self.clock.monotonic_s())

    def _careful(self, write: Write) -> Write:
        """A write about nobody known only creates: if somebody has its contact, HiringCenter
        leaves them as they are and says so, and they are looked at first."""
        is_about_nobody = (
            write.kind == PROSPECTS and write.prospect_id is None and write.names.row is None
        )
        payload = orjson.loads(write.body) if is_about_nobody else {}
        if payload.get("update") is not True or self.options.allow_shared_contact:
            return write
        return replace(write, creates=True, body=orjson.dumps({**payload, "update": False}))

    def again(self, connection: sa.Connection, flight: Flight) -> Flight:
        """Surely not applied so far: the same key and bytes, as if for the first time."""
        write = self.outbox.send_again(
            connection, flight.write, at_ms=self._now_ms(), server_ms=server_ms(self.api)
        )
        return replace(flight, write=write, resumed=False, started_s=self.clock.monotonic_s())

    def resume(self, connection: sa.Connection, writes: Sequence[Write]) -> Iterable[Flight]:
        """Errands for writes whose answer is missing since an earlier run."""
        rows = [RowProgress.of([write], own=False) for write in writes]
        ids = {write.prospect_id for write in writes if write.prospect_id is not None}
        receipts = self.receipts.of(connection, ids)
        for row in rows:
            write = row.rest.popleft()
            receipt = receipts.get(write.prospect_id or "")
            yield self._flight(
                row,
                write,
                resumed=True,
                accepted_updated_at_ms=receipt.updated_at_ms if receipt else None,
            )

    def _send(self, connection: sa.Connection, write: Write) -> Write:
        return self.outbox.send(
            connection, write, at_ms=self._now_ms(), server_ms=server_ms(self.api)
        )

    def _close(self, connection: sa.Connection, write: Write, outcome: str) -> None:
        self.outbox.finish(
            connection,
            write,
            outcome=outcome,
            prospect_id=write.prospect_id,
            at_ms=self._now_ms(),
            state=State.PLANNED,
        )

    def _is_attached(self, connection: sa.Connection, write: Write) -> bool:
        assert write.prospect_id is not None
        entry = (write.prospect_id, write.kind, write.content)
        if not self.options.force:
            return entry in self.receipts.attached(connection, [write.prospect_id])
        is_there = entry in self._attached
        self._attached.add(entry)
        return is_there

    def _is_uncertain(self, write: Write) -> bool:
        entry = (write.prospect_id or "", write.kind, write.content)
        return not self.options.force and entry in self.settler.uncertain

    def _flight(
        self,
        row: RowProgress,
        write: Write,
        *,
        looks: bool = False,
        resumed: bool = False,
        accepted_updated_at_ms: int | None = None,
    ) -> Flight:
        now_s = self.clock.monotonic_s()
        return Flight(row, write, now_s, now_s, resumed, looks, accepted_updated_at_ms)

    def _now_ms(self) -> int:
        return int(self.clock.now_s() * 1000)


def _updated_ms(evidence: Evidence) -> int | None:
    return evidence.receipt.updated_at_ms if evidence.receipt else None


def _addressed(write: Write) -> Write:
    """An activity with the prospect it belongs to: the exact bytes that go out."""
    payload = {"prospectId": write.prospect_id, **orjson.loads(write.body)}
    return replace(write, body=orjson.dumps(payload))
