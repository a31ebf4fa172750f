"""The rate budget: every request of every process that shares a key, as early as allowed.

`policy` is arithmetic (no clock, no I/O, no SQL); `database`, `ledger`, `locks` are storage;
`scheduler` grants permits. The types that other packages use are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Protocol

from connector.budget.policy.windows import Lane

__all__ = ["Budget", "Lane", "Permit"]


@dataclass(frozen=True)
class Permit:
    """Permission to send one request. send_by_s: monotonic seconds; after that, take another.

    held_s: how long the budget held it between the ledger's grant and handing it out."""

    id: int
    lane: Lane
    send_by_s: float
    held_s: float = 0.0


class Budget(Protocol):
    """The budget as the API client uses it. Thread-safe."""

    def permit(self, lane: Lane, *, until_s: float = inf) -> Permit:
        """Block until one request may go out, or until then (monotonic).

        Raises:
            TimeoutError: none may until then.
            BudgetError: the ledger can't be used; nothing may be sent.
            Interrupted: the budget was canceled while waiting.
        """
        ...

    def answered(self, permit: Permit, status: int, headers: Mapping[str, str]) -> None:
        """The answer's head arrived. headers: names in lower case. Never blocks for long."""
        ...

    def unanswered(self, permit: Permit) -> None:
        """No answer will come (time-out, dropped connection); it counts until its deadline."""
        ...

    def unsent(self, permit: Permit) -> None:
        """The request certainly never left this process; the permit is given back."""
        ...

    @property
    def waited_s(self) -> float:
        """Seconds during which some caller waited for a permit; several at once count once."""
        ...
