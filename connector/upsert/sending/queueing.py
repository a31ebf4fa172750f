"""Which planned row is sent next: file order, and never two rows of one person at once."""

from __future__ import annotations

from collections import deque

import sqlalchemy as sa

from connector.upsert.outbox.outbox import Outbox, Write

_READ_AHEAD = 200
_MOST_PARKED = 2_000


class RowQueue:
    """The planned rows of one run, each as its writes, read in small portions."""

    def __init__(self, outbox: Outbox, run_id: str) -> None:
        self._outbox, self._run_id = outbox, run_id
        self._after, self._exhausted = -1, False
        self._ahead: deque[list[Write]] = deque()
        self._busy: set[int] = set()
        self._parked: dict[int, deque[list[Write]]] = {}
        self._freed: deque[list[Write]] = deque()

    @property
    def empty(self) -> bool:
        """Whether no row is left, parked ones included."""
        return self._exhausted and not (self._ahead or self._parked or self._freed)

    def take(self, connection: sa.Connection) -> list[Write] | None:
        """The next row whose person is free, who is busy from now on; None: none is free now."""
        if self._freed:
            return self._freed.popleft()
        while sum(map(len, self._parked.values())) < _MOST_PARKED:
            row = self._next(connection)
            if row is None:
                return None
            person = row[0].person
            if person not in self._busy:
                self._busy.add(person)
                return row
            self._parked.setdefault(person, deque()).append(row)
        return None

    def done(self, person: int) -> None:
        """The row of `person` that was taken has its outcome; their next may follow."""
        waiting = self._parked.get(person)
        if not waiting:
            self._busy.discard(person)
            return
        self._freed.append(waiting.popleft())
        if not waiting:
            del self._parked[person]

    def _next(self, connection: sa.Connection) -> list[Write] | None:
        if not self._ahead and not self._exhausted:
            self._ahead.extend(
                self._outbox.rows_after(connection, self._run_id, self._after, _READ_AHEAD)
            )
            if self._ahead:
                self._after = self._ahead[-1][0].row_number
            else:
                self._exhausted = True
        return self._ahead.popleft() if self._ahead else None
