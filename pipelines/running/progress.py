"""What a long run shows while it works: a bar with an ETA on a terminal, log lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from connector.budget import Lane
from connector.clock import Clock
from connector.logs import get_logger
from pipelines.running.session import Session
from pipelines.running.wording import eta, plural

_LOGGED_EVERY_S = 10.0
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
    """A function that makes a run's progress display. kind: pull, push. bar: for a terminal."""

    def make(session: Session) -> Progress:
        def eta_s(requests: int) -> float:
            lane, width = Lane.PULL, _PULL_CHAINS
            if kind == "push":
                from connector.upsert.sending import in_flight_for

                rates = [each.limit / each.length_s for each in session.settings.rate_limits]
                lane, width = Lane.PUSH, in_flight_for(session.client.latency_s, max(rates))
            return session.budget.forecast(requests, lane, in_flight=width).done_in_s

        return (Bar if bar else _LogLines)(kind, session.clock, eta_s)

    return make


class _TimeLeft:
    """Seconds until a run is done, forecast only now and then, since that reads the ledger."""

    def __init__(self, clock: Clock, eta_s: Callable[[int], float], every_s: float) -> None:
        self._clock, self._eta_s, self._every_s = clock, eta_s, every_s
        self._next_s = clock.monotonic_s()

    def is_due(self) -> bool:
        now_s = self._clock.monotonic_s()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self._every_s
        return True

    def left_s(self, state: ProgressState) -> float | None:
        return None if state.requests_left is None else self._eta_s(state.requests_left)


class _LogLines(Progress):
    """A log line now and then. eta_s: seconds until a number of further requests is done."""

    def __init__(self, kind: str, clock: Clock, eta_s: Callable[[int], float]) -> None:
        self._kind, self._eta = kind, _TimeLeft(clock, eta_s, _LOGGED_EVERY_S)
        self._eta.is_due()  # no line right at the start
        self._log = get_logger(kind)

    def show(self, state: ProgressState) -> None:
        if not self._eta.is_due():
            return
        left_s = self._eta.left_s(state)
        facts = {
            f"{state.unit}s": state.done,
            "of": state.total,
            "rows": state.rows,
            "eta_s": None if left_s is None else round(left_s),
        }
        known = {name: value for name, value in facts.items() if value is not None}
        self._log.info(f"{self._kind}.progress", **known)


class Bar(Progress):
    """One line on stderr; log lines are printed above it. eta_s: as for `_LogLines`."""

    def __init__(self, kind: str, clock: Clock, eta_s: Callable[[int], float]) -> None:
        from rich import progress
        from rich.console import Console

        self._eta, self._left = _TimeLeft(clock, eta_s, 1.0), ""
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

    def show(self, state: ProgressState) -> None:
        if self._eta.is_due():
            left_s = self._eta.left_s(state)
            self._left = "" if left_s is None else f" · {eta(left_s)}"
        total, unit = state.total, state.unit
        text = plural(state.done if total is None else total, unit)
        if total is not None:
            text = f"{state.done:,} of {text}"
        if state.rows is not None:
            text += f", {plural(state.rows, 'row')}"
        self._progress.update(self._task, completed=state.done, total=total, text=text + self._left)

    def stop(self) -> None:
        self._progress.stop()
