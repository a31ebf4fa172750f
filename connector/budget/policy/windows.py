"""Rate windows as arithmetic: what counts, for how long, and the ceilings a grant stays below.

A server counts a request at some time between its grant and its answer, so a permit counts from
its grant until its answer plus `held_s`. Keeping the live permits below `limit` exceeds neither a
sliding log, nor a fixed window of any alignment, nor a token bucket of that capacity.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

SLOW_SERVER = 1.0005
"""A server's clock may be 500 ppm slower than the ledger's: its window lasts longer."""
GUARD_S = 0.020


class Lane(StrEnum):
    """What a request is for: pulls go first, up to a reserve; pushes use the remaining room."""

    PULL = "pull"
    PUSH = "push"


class Limits(Protocol):
    """Anything with a count and a length, such as `connector.settings.RateLimit`."""

    @property
    def limit(self) -> int: ...

    @property
    def length_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Window:
    """At most `limit` requests in any `length_s` seconds.

    Raises:
        ValueError: no request could ever fit.
    """

    limit: int
    length_s: float

    def __post_init__(self) -> None:
        if self.limit < 1 or self.length_s <= 0:
            raise ValueError(f"no request fits {self.limit}/{self.length_s:g}s")

    @property
    def held_s(self) -> float:
        """Seconds after its answer for which a request may still count at the server."""
        return self.length_s * SLOW_SERVER + GUARD_S

    @property
    def sure_s(self) -> float:
        """A request that arrived less than this long ago certainly counts at the server."""
        return max(0.0, 2 * self.length_s - self.held_s)


@dataclass(frozen=True, slots=True)
class Live:
    """Permits that still count in one window. all: of both lanes; push: of lane push alone."""

    all: int
    push: int

    @property
    def pull(self) -> int:
        return self.all - self.push


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The limit of grants in one window: one more needs live.all < all and, for lane push, also
    live.push < push."""

    all: int
    push: int


def windows_of(limits: Iterable[Limits]) -> tuple[Window, ...]:
    """The windows, shortest first; of two with the same length the stricter counts.

    Raises:
        ValueError: there are none, or one of them admits no request.
    """
    strictest: dict[float, int] = {}
    for each in limits:
        strictest[each.length_s] = min(each.limit, strictest.get(each.length_s, each.limit))
    if not strictest:
        raise ValueError("at least one rate window is needed, as in 300/60s")
    return tuple(Window(strictest[length_s], length_s) for length_s in sorted(strictest))
