"""What a long run shows while it works: a bar with an ETA on a terminal, log lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from connector.budget import Lane
from connector.clock import Clock
from connector.history import SENDING
from connector.logs import get_logger
from pipelines.running.session import Session
from pipelines.running.wording import eta, plural

_BAR_CELLS = 12
_PULL_CHAINS = 4  # lists that are read at the same time


@dataclass(frozen=True)
class ProgressState:
    """How far a run has come. done, total: in `unit`s (page, row); total is None if unknown.

    rows: rows read so far, if the unit is another one. requests_left: None if unknown.
    """

    unit: str
    done: int
    total: int | None = None
    rows: int | None = None
    requests_left: int | None = None


class Progress:
    """Shows how far a run has come; this base class shows nothing."""

    def show(self, state: ProgressState) -> None:
        """Show that the run has come as far as `state`."""

    def stop(self) -> None:
        """Stop showing anything."""


ProgressOf = Callable[[Session], Progress]


def progress_of(kind: str, *, bar: bool) -> ProgressOf:
    """A function that makes a run's progress display. kind: of the run. bar: for a terminal."""

    def make(session: Session) -> Progress:
        def eta_s(requests: int) -> float:
            lane, width = Lane.PULL, _PULL_CHAINS
            if kind in SENDING:
                from connector.upsert.sending import in_flight_for

                rates = [each.limit / each.length_s for each in session.settings.rate_limits]
                lane, width = Lane.PUSH, in_flight_for(session.client.latency_s, max(rates))
            return session.budget.forecast(requests, lane, in_flight=width).done_in_s

        return (Bar if bar else _LogLines)(kind, session.clock, eta_s)

    return make


class _Display(Progress):
    """Draws what is shown, but only now and then: the ETA reads the ledger.

    eta_s: seconds until a number of further requests is done.
    """

    first_s: float
    every_s: float

    def __init__(self, kind: str, clock: Clock, eta_s: Callable[[int], float]) -> None:
        self._kind, self._clock, self._eta_s = kind, clock, eta_s
        self._next_s = clock.monotonic_s() + self.first_s

    def show(self, state: ProgressState) -> None:
        now_s = self._clock.monotonic_s()
        if now_s >= self._next_s:
            self._next_s = now_s + self.every_s
            requests = state.requests_left
            self._draw(state, None if requests is None else self._eta_s(requests))

    def _draw(self, state: ProgressState, left_s: float | None) -> None:
        raise NotImplementedError


class _LogLines(_Display):
    first_s = every_s = 10.0

    def _draw(self, state: ProgressState, left_s: float | None) -> None:
        facts = {
            f"{state.unit}s": state.done,
            "of": state.total,
            "rows": state.rows,
            "eta_s": None if left_s is None else round(left_s),
        }
        known = {name: value for name, value in facts.items() if value is not None}
        get_logger(self._kind).info(f"{self._kind}.progress", **known)


class Bar(_Display):
    """One line on stderr; log lines are printed above it."""

    first_s, every_s = 0.0, 0.5

    def __init__(self, kind: str, clock: Clock, eta_s: Callable[[int], float]) -> None:
        from rich import progress
        from rich.console import Console

        super().__init__(kind, clock, eta_s)
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

    def _draw(self, state: ProgressState, left_s: float | None) -> None:
        total, rows = state.total, state.rows
        text = plural(state.done if total is None else total, state.unit)
        if total is not None:
            text = f"{state.done:,} of {text}"
        text += "" if rows is None else f", {plural(rows, 'row')}"
        text += "" if left_s is None else f" · {eta(left_s)}"
        self._progress.update(self._task, completed=state.done, total=total, text=text)

    def stop(self) -> None:
        self._progress.stop()
