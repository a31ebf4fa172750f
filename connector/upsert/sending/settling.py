"""What an answer, or its absence, means for a row: the steps of the outbox that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import orjson
import sqlalchemy as sa

from connector.api.client import WriteAnswer
from connector.errors import Interrupted, Refused, UnexpectedAnswer, Unreachable
from connector.upsert.outbox.matching import compare, conflict_with, first_name
from connector.upsert.outbox.outbox import (
    PROSPECTS,
    Fate,
    Outbox,
    State,
    UncertainWrite,
    Write,
    names_of,
    uncertain_names,
)
from connector.upsert.outbox.planner import EXISTS, UNCERTAIN
from connector.upsert.outbox.receipts import Receipts, Status
from connector.upsert.sending.accepting import Accepting
from connector.upsert.sending.api import Untold
from connector.upsert.sending.delivery import Delivered
from connector.upsert.sending.flights import Flight

_ABSENT = (
    "no prospect has this email or phone, and --mode update-only never creates prospects; push "
    "the row with --mode upsert to create one"
)
_UNANSWERED = (
    "no usable answer; the next push of any file asks again with the same key, so that it is "
    "applied once ({error})"
)
_STRANGER = (
    "HiringCenter created prospect {answered}, where {expected} was to be changed: {expected} "
    "hasn't this email or phone any more. Look at both in HiringCenter; if they are one person, "
    "delete {answered} and correct the contact in the row"
)


class Next(StrEnum):
    """What follows for a row after one of its writes has arrived."""

    SETTLED = "settled"
    POST = "post"  # there is somebody to update
    UPDATE = "update"  # a creation has met somebody who is to be changed
    AGAIN = "again"  # surely not applied: once more, same key and bytes
    LEFT = "left"  # stopped by a signal: it stays as it is
    FATAL = "fatal"  # the run must end


@dataclass
class Settler:
    """Settles arrivals within the caller's transaction.

    blocked: names of people with a write whose answer is missing; nothing may overtake it.
    uncertain: see `Outbox.uncertain`. disputed: see `Receipts.disputed`. last_answer_s: monotonic,
    when the API was last heard. recovering: what earlier runs left open is being settled.
    unanswered: why one of those is still open. updates_only: nobody is created. looks_first: what
    is found as it should be isn't sent. allow_shared_contact: see `Claimer`.
    """

    outbox: Outbox
    receipts: Receipts
    retry_total_s: float
    blocked: set[int | str]
    uncertain: set[UncertainWrite]
    disputed: dict[int, tuple[str, str]]
    last_answer_s: float = float("-inf")
    recovering: bool = False
    unanswered: BaseException | None = None
    updates_only: bool = False
    looks_first: bool = False
    allow_shared_contact: bool = False

    def __post_init__(self) -> None:
        self._accepting = Accepting(self.outbox, self.receipts, self.uncertain, self.disputed)

    @property
    def unreachable(self) -> BaseException | None:
        """Why nothing was settled, if the API hasn't answered anything at all."""
        return self.unanswered if self.last_answer_s == float("-inf") else None

    def is_settled(self, write: Write) -> bool:
        """Whether nothing of the person of `write` waits for an answer any more."""
        return self.blocked.isdisjoint(names_of(write))

    def settle(
        self,
        connection: sa.Connection,
        flight: Flight,
        arrived: Delivered,
        *,
        at_ms: int,
        now_s: float,
    ) -> Next:
        """Book what came of one request."""
        if arrived.error is not None:
            return self._settle_error(connection, flight, arrived.error, at_ms)
        self.last_answer_s = now_s
        if arrived.exists is not None:
            return self._settle_look(connection, flight, arrived, at_ms)
        if arrived.met is not None:
            return self._settle_meeting(connection, flight, arrived, at_ms)
        if arrived.answer is not None:
            self._settle_answer(connection, flight, arrived, arrived.answer, at_ms)
            return Next.SETTLED
        assert arrived.fate is not None
        return self._settle_fate(connection, flight, arrived, arrived.fate, at_ms, now_s)

    def _settle_answer(
        self,
        connection: sa.Connection,
        flight: Flight,
        arrived: Delivered,
        answer: WriteAnswer,
        at_ms: int,
    ) -> None:
        row = flight.row
        if answer.message:
            row.notes.append(f"HiringCenter says: {answer.message}")
        if flight.write.kind != PROSPECTS:
            self._accepting.activity(connection, flight, at_ms)
        elif answer.status != 201 and _leaves_matches_alone(flight.write):
            row.notes.append(EXISTS)
            row.left_alone = True
            self._accepting.prospect(
                connection, flight, answer.item, Status.UNCHANGED, at_ms, left_alone=True
            )
        elif answer.status == 201:
            self._accepting.prospect(connection, flight, answer.item, Status.CREATED, at_ms)
            self._note_stranger(flight, arrived)
        elif not is_expected(flight.write, answer.item):
            self._accepting.other_prospect(connection, flight, answer.item, at_ms)
        else:
            self._accepting.prospect(connection, flight, answer.item, Status.UPDATED, at_ms)

    def _note_stranger(self, flight: Flight, arrived: Delivered) -> None:
        """Somebody was created where another prospect was to be changed."""
        row, expected = flight.row, flight.write.prospect_id
        if is_expected(flight.write, {"id": row.prospect_id}):
            return
        if arrived.expected_is_gone:
            row.notes.append(f"prospect {expected} was deleted in HiringCenter")
            return
        row.status = Status.FAILED
        row.failures.append(_STRANGER.format(answered=row.prospect_id, expected=expected))

    def _settle_look(
        self, connection: sa.Connection, flight: Flight, arrived: Delivered, at_ms: int
    ) -> Next:
        known_id, item = flight.write.prospect_id, arrived.item or {}
        flight.write = arrived.write
        if not arrived.exists:
            why = _ABSENT if self.updates_only else flight.must_exist
            if flight.write.kind == PROSPECTS and why is not None:
                self.refuse(connection, flight, Status.REJECTED, why, at_ms)
                return Next.SETTLED
            return Next.POST
        if flight.write.kind != PROSPECTS:
            self._accepting.activity(connection, flight, at_ms)
            flight.row.done.pop()  # it was there before
            return Next.SETTLED
        is_found_by_contact = known_id is None or str(item.get("id", known_id)) != known_id
        if is_found_by_contact and self._is_another(connection, flight, item, at_ms):
            return Next.SETTLED
        if not (arrived.is_equal and self.looks_first):
            return Next.POST
        self._accepting.prospect(connection, flight, item, Status.UPDATED, at_ms)
        flight.row.status = Status.UNCHANGED
        return Next.SETTLED

    def _settle_meeting(
        self, connection: sa.Connection, flight: Flight, arrived: Delivered, at_ms: int
    ) -> Next:
        """A creation has met somebody, and left them as they are."""
        item = arrived.met or {}
        if self._is_another(connection, flight, item, at_ms):
            return Next.SETTLED
        if compare(orjson.loads(flight.write.body), item).equal:
            self._accepting.prospect(connection, flight, item, Status.UPDATED, at_ms)
            if arrived.was_refused or not _changed_since(item, flight.write.sent_server_ms):
                flight.row.status = Status.UNCHANGED
            return Next.SETTLED
        return Next.UPDATE

    def _is_another(
        self, connection: sa.Connection, flight: Flight, item: Mapping[str, Any], at_ms: int
    ) -> bool:
        """Whether a row is refused, since the person with its contact seems to be another one;
        else it is about that person."""
        write, payload = flight.write, orjson.loads(flight.write.body)
        id_ = write.prospect_id if item.get("id") is None else str(item["id"])
        found = (
            None if self.allow_shared_contact else conflict_with(write.row_number, payload, item)
        )
        if found is not None and not self._has_settled(connection, write, id_, payload):
            self.refuse(connection, flight, Status.REJECTED, found.reason, at_ms)
            flight.row.names = found.names
            return True
        flight.write = replace(write, prospect_id=id_)
        return False

    def _has_settled(
        self,
        connection: sa.Connection,
        write: Write,
        prospect_id: str | None,
        payload: Mapping[str, Any],
    ) -> bool:
        """Whether the source of `write` has settled its first name on that very person."""
        hasher, name = self.outbox.hasher, first_name(payload.get("firstName"))
        if name is None or prospect_id is None:
            return False
        source = hasher.alias("source", write.source)
        settled = self.receipts.settled(connection, source, [prospect_id])
        return (prospect_id, hasher.alias("name", str(name.whole))) in settled

    def _settle_fate(
        self,
        connection: sa.Connection,
        flight: Flight,
        arrived: Delivered,
        fate: Fate,
        at_ms: int,
        now_s: float,
    ) -> Next:
        if fate is Fate.NOT_APPLIED:
            if now_s - flight.began_s < self.retry_total_s:
                return Next.AGAIN
            self._leave_open(flight, "its key was forgotten again and again")
        elif fate is Fate.UNKNOWN:
            self._give_up(connection, flight, at_ms)
        elif flight.write.kind != PROSPECTS:
            self._accepting.activity(connection, flight, at_ms)
        else:
            known = flight.write.prospect_id is not None
            status = Status.UPDATED if known else Status.CREATED
            self._accepting.prospect(connection, flight, arrived.item or {}, status, at_ms)
        return Next.SETTLED

    def _give_up(self, connection: sa.Connection, flight: Flight, at_ms: int) -> None:
        write = flight.write
        self.outbox.give_up(connection, write, at_ms=at_ms)
        self.uncertain |= uncertain_names(write)
        if write.kind == PROSPECTS and write.prospect_id is not None:
            self.receipts.break_tail(connection, write.prospect_id, at_ms)
        self._fail(flight, UNCERTAIN)

    def _settle_error(
        self, connection: sa.Connection, flight: Flight, error: BaseException, at_ms: int
    ) -> Next:
        if isinstance(error, Interrupted):
            return Next.LEFT
        if isinstance(error, Refused):
            self._settle_refusal(connection, flight, error, at_ms)
            return Next.SETTLED
        if isinstance(error, Untold):
            self.refuse(connection, flight, Status.FAILED, str(error), at_ms)
            return Next.SETTLED
        if isinstance(error, Unreachable | UnexpectedAnswer):
            if self.recovering:  # one write that is never answered must not stop all others
                self.unanswered = error
            elif self.last_answer_s <= flight.started_s:  # nor was anybody else: an outage
                return Next.FATAL
            self._leave_open(flight, _UNANSWERED.format(error=error))
            return Next.SETTLED
        return Next.FATAL

    def _settle_refusal(
        self, connection: sa.Connection, flight: Flight, error: Refused, at_ms: int
    ) -> None:
        write = flight.write
        leaves_alone = _leaves_matches_alone(write) and not write.creates
        if error.status == 409 and write.kind == PROSPECTS and leaves_alone:
            self.outbox.finish(
                connection, write, outcome=Status.UNCHANGED, prospect_id=None, at_ms=at_ms
            )
            flight.row.status = Status.UNCHANGED
            flight.row.left_alone = True
            flight.row.notes.append(EXISTS)
            return
        said = f"HiringCenter refused it ({error.status}): {error.said}"
        self.refuse(connection, flight, Status.REJECTED, said, at_ms)

    def refuse(
        self, connection: sa.Connection, flight: Flight, status: Status, why: str, at_ms: int
    ) -> None:
        """Close a write that was surely not applied."""
        write = flight.write
        self.outbox.finish(
            connection,
            write,
            outcome=status,
            prospect_id=write.prospect_id,
            at_ms=at_ms,
            state=State.PLANNED if flight.looks else State.SENDING,
        )
        if write.kind == PROSPECTS:
            flight.row.status = status
        flight.row.failures.append(why if write.kind == PROSPECTS else f"{write.kind}: {why}")

    def _leave_open(self, flight: Flight, why: str) -> None:
        """It stays `sending`, for the next run; nothing about this person goes out before."""
        self.blocked |= set(names_of(flight.write))
        self._fail(flight, why)

    def _fail(self, flight: Flight, why: str) -> None:
        if flight.write.kind == PROSPECTS:
            flight.row.status = Status.FAILED
        flight.row.failures.append(why)


def _changed_since(item: Mapping[str, Any], server_ms: int | None) -> bool:
    """Whether the prospect may have been changed by a write sent at `server_ms`, at a server that
    doesn't know `update: false`."""
    updated_at_ms = item.get("updatedAt")
    if server_ms is None or not isinstance(updated_at_ms, int | float):
        return False
    return updated_at_ms >= server_ms


def is_expected(write: Write, item: Mapping[str, Any]) -> bool:
    """Whether an answer is about the prospect whom the write was meant for; where nobody in
    particular was expected, or none is named, it is."""
    id_ = item.get("id")
    return write.prospect_id is None or id_ is None or str(id_) == write.prospect_id


def _leaves_matches_alone(write: Write) -> bool:
    return orjson.loads(write.body).get("update") is False
