"""When pulls started and what they cost: from it follows when the next one needs room."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache

from connector.budget.policy.lanes import REMEMBERED_PULLS


@dataclass(frozen=True, slots=True)
class PastPulls:
    """The last REMEMBERED_PULLS: starts (ledger seconds) and requests, oldest first."""

    starts_s: tuple[float, ...] = ()
    costs: tuple[int, ...] = ()

    @classmethod
    @lru_cache(maxsize=16)  # each grant loads it, and it changes with each pull
    def loads(cls, text: str) -> PastPulls:
        stored = json.loads(text)
        return cls(tuple(stored.get("starts_s", ())), tuple(stored.get("costs", ())))

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    def started(self, now_s: float) -> PastPulls:
        return PastPulls((*self.starts_s, now_s)[-REMEMBERED_PULLS:], self.costs)

    def ended(self, requests: int) -> PastPulls:
        return PastPulls(self.starts_s, (*self.costs, requests)[-REMEMBERED_PULLS:])
