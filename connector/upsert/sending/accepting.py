"""What follows from a write that the API has accepted: receipts, names, nothing uncertain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from connector.upsert.outbox.comparing import same_email, same_phone
from connector.upsert.outbox.outbox import Outbox
from connector.upsert.outbox.receipts import Accepted, Receipts
from connector.upsert.outbox.states import State, Status
from connector.upsert.outbox.writes import PROSPECTS, UncertainWrite, Write
from connector.upsert.sending.flights import Flight


@dataclass
class Accepting:
    """Books accepted writes within the caller's transaction. uncertain: see `Settler`."""

    outbox: Outbox
    receipts: Receipts
    uncertain: set[UncertainWrite]

    def prospect(
        self,
        connection: sa.Connection,
        flight: Flight,
        item: Mapping[str, Any],
        status: Status,
        at_ms: int,
    ) -> None:
        """The API has `item` after the write, as `status` says.

        Its names lead to it from now on; what was taken over is its newest content.
        """
        row, write = flight.row, flight.write
        row.status = status
        row.prospect_id = str(item["id"]) if item.get("id") is not None else write.prospect_id
        self.outbox.close(
            connection, write, outcome=status, prospect_id=row.prospect_id, at_ms=at_ms,
            state=_state_of(flight),
        )  # fmt: skip
        self._forget_uncertain(connection, write, row.prospect_id)
        if row.prospect_id is None:
            row.notes.append("HiringCenter didn't name the prospect")
            return
        payload = orjson.loads(write.body)
        updated_at_ms = item.get("updatedAt")
        self.receipts.accept(
            connection,
            Accepted(
                row.prospect_id,
                write.names,
                None if status is Status.UNCHANGED else write.content,
                at_ms,
                int(updated_at_ms) if isinstance(updated_at_ms, int | float) else None,
                email_kept=_kept("email", same_email, payload, item),
                phone_kept=_kept("phone", same_phone, payload, item),
            ),
        )

    def activity(self, connection: sa.Connection, flight: Flight, at_ms: int) -> None:
        """A note, task or meeting is there; it is not created again."""
        write = flight.write
        assert write.prospect_id is not None
        self.outbox.close(
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


def _kept(
    name: str,
    same: Callable[[Any, Any], bool],
    payload: Mapping[str, Any],
    item: Mapping[str, Any],
) -> bool:
    """Whether the answer carries the contact that was sent; one that isn't shown counts as kept."""
    return name not in item or same(payload.get(name), item[name])
