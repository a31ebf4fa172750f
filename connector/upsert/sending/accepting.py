"""What follows from a write that the API has accepted: receipts, names, nothing uncertain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from connector.upsert.outbox.matching import first_name, same_email, same_phone, stored_first_name
from connector.upsert.outbox.outbox import PROSPECTS, Outbox, State, UncertainWrite, Write
from connector.upsert.outbox.receipts import Receipts, Status
from connector.upsert.sending.flights import Flight

_OTHER = (
    "HiringCenter changed prospect {answered}, where {expected} was expected: the row's email or "
    "phone belongs to {answered} now. Look at both in HiringCenter, and put {answered} right"
)


@dataclass
class Accepting:
    """Books accepted writes within the caller's transaction. uncertain, disputed: see `Settler`."""

    outbox: Outbox
    receipts: Receipts
    uncertain: set[UncertainWrite]
    disputed: dict[int, tuple[str, str]]

    def prospect(
        self,
        connection: sa.Connection,
        flight: Flight,
        item: Mapping[str, Any],
        status: Status,
        at_ms: int,
        *,
        left_alone: bool = False,
    ) -> None:
        """The API has `item` after the write, as `status` says.

        Its names lead to it from now on; what was taken over is its newest content. left_alone:
        nothing was taken over, whatever the row says.
        """
        row, write = flight.row, flight.write
        row.status = status
        row.prospect_id = str(item["id"]) if item.get("id") is not None else write.prospect_id
        self.outbox.finish(
            connection, write, outcome=status, prospect_id=row.prospect_id, at_ms=at_ms,
            state=_state_of(flight),
        )  # fmt: skip
        self._forget_uncertain(connection, write, row.prospect_id)
        if row.prospect_id is None:
            row.notes.append("HiringCenter didn't name the prospect")
            return
        payload = orjson.loads(write.body)
        updated_at_ms = item.get("updatedAt")
        hasher = self.outbox.hasher
        first, last = (_named(name, item, payload) for name in ("firstName", "lastName"))
        self.receipts.accept(
            connection,
            row.prospect_id,
            write.names,
            content=None if left_alone else write.content,
            at_ms=at_ms,
            updated_at_ms=int(updated_at_ms) if isinstance(updated_at_ms, int | float) else None,
            email_kept=_kept("email", same_email, payload, item),
            phone_kept=_kept("phone", same_phone, payload, item),
            hashed_names=hasher.names(first, last),
        )
        if write.names.row is None:
            self._settle_disputes(connection, write)
        name = first_name(payload.get("firstName"))
        if name is not None and not left_alone:
            self.receipts.settle_name(
                connection,
                row.prospect_id,
                hasher.alias("source", write.source),
                hasher.alias("name", str(name.whole)),
                created=status is Status.CREATED,
            )

    def other_prospect(
        self, connection: sa.Connection, flight: Flight, item: Mapping[str, Any], at_ms: int
    ) -> None:
        """The API has changed another prospect than the one whom the row's contacts led to.

        The contacts follow only where that prospect was known to have the row's first name before
        the write; else they are disputed, and lead nowhere until somebody decides.
        """
        row, write = flight.row, flight.write
        answered, expected = str(item["id"]), write.prospect_id or ""
        name = first_name(orjson.loads(write.body).get("firstName"))
        receipt = self.receipts.of(connection, [answered]).get(answered)
        before = stored_first_name(receipt.names if receipt else None)
        if name is not None and before is not None:
            follows = before.agrees(self.outbox.hasher.name(name))
        else:
            follows = False
        if follows:
            self.prospect(connection, flight, item, Status.UPDATED, at_ms)
        else:
            self.outbox.finish(
                connection, write, outcome=Status.FAILED, prospect_id=answered, at_ms=at_ms
            )
            self.receipts.break_tail(connection, answered, at_ms)
            self.receipts.dispute(connection, write.names, expected, answered, at_ms)
            for alias in write.names.present():
                self.disputed[alias] = (expected, answered)
        row.status, row.prospect_id = Status.FAILED, answered
        row.failures.append(_OTHER.format(answered=answered, expected=expected))

    def _settle_disputes(self, connection: sa.Connection, write: Write) -> None:
        if not self.disputed.keys().isdisjoint(write.names.present()):
            self.receipts.settle_dispute(connection, write.names)
            for alias in write.names.present():
                self.disputed.pop(alias, None)

    def activity(self, connection: sa.Connection, flight: Flight, at_ms: int) -> None:
        """A note, task or meeting is there; it is not created again."""
        write = flight.write
        assert write.prospect_id is not None
        self.outbox.finish(
            connection, write, outcome="created", prospect_id=write.prospect_id, at_ms=at_ms,
            state=_state_of(flight),
        )  # fmt: skip
        self.receipts.attach(connection, write.prospect_id, write.kind, write.content, at_ms)
        flight.row.done.append(write.kind)

    def _forget_uncertain(
        self, connection: sa.Connection, write: Write, prospect_id: str | None
    ) -> None:
        """Something newer was accepted: what was uncertain about this person is history."""
        names = {*write.names.present(), *([prospect_id] if prospect_id else [])}
        gone = {each for each in self.uncertain if each[0] in names and each[1] == PROSPECTS}
        if gone:
            self.uncertain -= gone
            self.outbox.settle_uncertain(connection, write.names, prospect_id)


def _state_of(flight: Flight) -> State:
    """What was only looked at hasn't been marked as sending."""
    return State.PLANNED if flight.looks else State.SENDING


def _named(name: str, item: Mapping[str, Any], payload: Mapping[str, Any]) -> Any:
    """A name as the answer has it; as it was sent where the answer doesn't show it."""
    return item[name] if name in item else payload.get(name)


def _kept(
    name: str,
    same: Callable[[Any, Any], bool],
    payload: Mapping[str, Any],
    item: Mapping[str, Any],
) -> bool:
    """Whether the answer carries the contact that was sent; one that isn't shown counts as kept."""
    return name not in item or same(payload.get(name), item[name])
