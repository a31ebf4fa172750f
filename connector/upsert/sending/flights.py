"""Rows and writes that are on their way."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from connector.upsert.outbox.outbox import Write
from connector.upsert.outbox.receipts import RowResult, Status


@dataclass
class RowProgress:
    """One row that is being sent. own: planned by this run, not found open from an earlier one.

    status: the prospect's, once it is known; `done` activities were created, `failures` weren't.
    left_alone: the prospect exists, and a push that only creates adds nothing to it. names: of the
    people that `failures` are about, for the rejects file alone.
    """

    first: Write
    rest: deque[Write]
    own: bool
    prospect_id: str | None = None
    status: Status | None = None
    left_alone: bool = False
    names: str | None = None
    notes: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, writes: list[Write], *, own: bool) -> RowProgress:
        first = writes[0]
        notes = [first.note] if first.note else []
        return cls(first, deque(writes), own, prospect_id=first.prospect_id, notes=notes)

    @property
    def result(self) -> RowResult:
        """The row's one outcome. A prospect that was accepted without all its activities has
        failed: not everything that the row asks for is there."""
        status = self.status or Status.UNCHANGED
        added = [f"{kind.removesuffix('s')} added" for kind in self.done]
        if status is Status.UNCHANGED and added:
            status = Status.UPDATED
        if self.failures and status not in (Status.REJECTED, Status.FAILED):
            self.notes.insert(0, f"the prospect was {status.value}, but not all that goes with it")
            status = Status.FAILED
        said = "; ".join([*self.failures, *self.notes, *added]) or None
        return RowResult(self.first.row_number, status, self.prospect_id, said)


@dataclass
class Flight:
    """One errand of a thread. resumed: the write may have been sent before. looks: it only asks
    what is there. must_exist: why the row is rejected
    where nobody is found. Times: monotonic seconds."""

    row: RowProgress
    write: Write
    began_s: float
    started_s: float
    resumed: bool = False
    looks: bool = False
    accepted_updated_at_ms: int | None = None
    must_exist: str | None = None
