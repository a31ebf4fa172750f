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


class Progress:
    """Shows how far a run is; this one shows nothing."""

    def show(self, standing: Standing) -> None:
        """The run is as far as `standing`."""

    def stop(self) -> None:
        """Nothing more is shown."""


ProgressOf = Callable[[Session], Progress]


def progress_of(kind: str, *, bar: bool) -> ProgressOf:
    """What makes the progress of a run. kind: pull, push. bar: a user looks at a terminal."""

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
    """Seconds until a run is done, asked for once in a while: a forecast reads the ledger."""

    def __init__(self, clock: Clock, eta_s: Callable[[int], float], every_s: float) -> None:
        self._clock, self._eta_s, self._every_s = clock, eta_s, every_s
        self._next_s = clock.monotonic_s()

    def is_due(self) -> bool:
        now_s = self._clock.monotonic_s()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self._every_s
        return True

    def left_s(self, standing: Standing) -> float | None:
        return None if standing.requests_left is None else self._eta_s(standing.requests_left)


class _LogLines(Progress):
    """A log line now and then. eta_s: seconds until so many more requests are done."""

    def __init__(self, kind: str, clock: Clock, eta_s: Callable[[int], float]) -> None:
        self._kind, self._eta = kind, _TimeLeft(clock, eta_s, _LOGGED_EVERY_S)
        self._eta.is_due()  # the first line after some time only
        self._log = get_logger(kind)

    def show(self, standing: Standing) -> None:
        if not self._eta.is_due():
            return
        left_s = self._eta.left_s(standing)
        facts = {
            f"{standing.unit}s": standing.done,
            "of": standing.total,
            "rows": standing.rows,
            "eta_s": None if left_s is None else round(left_s),
        }
        known = {name: value for name, value in facts.items() if value is not None}
        self._log.info(f"{self._kind}.progress", **known)


class Bar(Progress):
    """One line on stderr; log lines are printed above it. eta_s: as of `_LogLines`."""

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

    def show(self, standing: Standing) -> None:
        if self._eta.is_due():
            left_s = self._eta.left_s(standing)
            self._left = "" if left_s is None else f" · {eta(left_s)}"
        total, unit = standing.total, standing.unit
        text = plural(standing.done if total is None else total, unit)
        if total is not None:
            text = f"{standing.done:,} of {text}"
        if standing.rows is not None:
            text += f", {plural(standing.rows, 'row')}"
        self._progress.update(
            self._task, completed=standing.done, total=total, text=text + self._left
        )

    def stop(self) -> None:
        self._progress.stop()
