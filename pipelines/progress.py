"""What a long run shows while it works: a bar with an ETA on a terminal, log lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from connector.budget import Lane
from connector.clock import Clock
from connector.logs import get_logger
from connector.upsert.sending import in_flight_for
from pipelines.session import Session
from pipelines.wording import eta, plural

_EVERY_S = 10.0
_BAR_CELLS = 12
_PULL_CHAINS = 4  # lists that are read side by side


@dataclass(frozen=True)
class Standing:
    """How far a run is. done, total: in `unit`s (page, row), total None where it isn't known.

    rows: read so far, where the unit is another. requests_left: None where it isn't known.
    """

    unit: str
    done: int
    total: int | None = None
    rows: int | None = None
    requests_left: int | None = None


class Progress(Protocol):
    """Is told how far a run is."""

    def show(self, standing: Standing) -> None: ...

    def stop(self) -> None:
        """Nothing more is shown."""
        ...


class NoProgress:
    """Shows nothing."""

    def show(self, standing: Standing) -> None:
        pass

    def stop(self) -> None:
        pass


ProgressOf = Callable[[Session], Progress]


def progress_of(kind: str, *, bar: bool) -> ProgressOf:
    """What makes the progress of a run. kind: pull, push. bar: somebody looks at a terminal."""

    def make(session: Session) -> Progress:
        rate_per_s = max(each.limit / each.length_s for each in session.settings.rate_limits)

        def eta_s(requests: int) -> float:
            if kind == "pull":
                return session.budget.forecast(
                    requests, Lane.PULL, in_flight=_PULL_CHAINS
                ).done_in_s
            width = in_flight_for(session.client.latency_s, rate_per_s)
            return session.budget.forecast(requests, Lane.PUSH, in_flight=width).done_in_s

        return (Bar if bar else LogLines)(kind, session.clock, eta_s)

    return make


class _Paced:
    """Asks for the ETA once in `every_s`: a forecast is a look into the ledger."""

    def __init__(
        self, kind: str, clock: Clock, eta_s: Callable[[int], float], every_s: float
    ) -> None:
        self.kind, self._clock, self._eta_s, self._every_s = kind, clock, eta_s, every_s
        self._next_s = clock.monotonic_s()

    def is_due(self) -> bool:
        now_s = self._clock.monotonic_s()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self._every_s
        return True

    def left_s(self, standing: Standing) -> float | None:
        return None if standing.requests_left is None else self._eta_s(standing.requests_left)


class LogLines(_Paced):
    """A log line now and then. eta_s: seconds until so many more requests are done."""

    def __init__(self, kind: str, clock: Clock, eta_s: Callable[[int], float]) -> None:
        super().__init__(kind, clock, eta_s, _EVERY_S)
        self.is_due()  # the first line after some time only
        self._log = get_logger(kind)

    def show(self, standing: Standing) -> None:
        if not self.is_due():
            return
        left_s = self.left_s(standing)
        facts = {
            f"{standing.unit}s": standing.done,
            "of": standing.total,
            "rows": standing.rows,
            "eta_s": None if left_s is None else round(left_s),
        }
        self._log.info(
            f"{self.kind}.progress",
            **{name: value for name, value in facts.items() if value is not None},
        )

    def stop(self) -> None:
        pass


class Bar(_Paced):
    """One line on stderr; log lines are printed above it. eta_s: as of `LogLines`."""

    def __init__(self, kind: str, clock: Clock, eta_s: Callable[[int], float]) -> None:
        from rich import progress
        from rich.console import Console

        super().__init__(kind, clock, eta_s, 1.0)
        self._left = ""
        self._progress = progress.Progress(
            progress.TextColumn(f"[bold]{kind}[/]"),
            progress.BarColumn(_BAR_CELLS),
            progress.TextColumn("{task.fields[text]}", markup=False),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
        )
        self._task = self._progress.add_task(kind, total=None, text="")
        self._progress.start()

    def show(self, standing: Standing) -> None:
        if self.is_due():
            left_s = self.left_s(standing)
            self._left = "" if left_s is None else f" · {eta(left_s)}"
        self._progress.update(
            self._task, completed=standing.done, total=standing.total, text=self._text(standing)
        )

    def _text(self, standing: Standing) -> str:
        done = (
            plural(standing.done, standing.unit)
            if standing.total is None
            else f"{standing.done:,} of {plural(standing.total, standing.unit)}"
        )
        rows = "" if standing.rows is None else f", {plural(standing.rows, 'row')}"
        return f"{done}{rows}{self._left}"

    def stop(self) -> None:
        self._progress.stop()
