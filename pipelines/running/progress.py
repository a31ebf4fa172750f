"""What people read of a run: times and counts in words, and how far it has come: a bar with an ETA
on a terminal, log lines elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from connector.errors import ConnectorError, UsageError

if TYPE_CHECKING:  # every command imports this module
    from rich.table import Table

    from connector.clock import Clock
    from pipelines.running.session import Session


_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SOON_S = 120.0


def parse_duration_s(text: str) -> float:
    """`90s`, `45m`, `2h`, `1.5d` in seconds.

    Raises:
        UsageError: anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", text)
    if match is None:
        raise UsageError(f"{text!r} isn't a valid duration. Write 90s, 45m, 2h or 1d.")
    return float(match[1]) * _UNITS_S[match[2]]


def duration(length_s: float) -> str:
    """Two units at most: `3 d 4 h`, `12 min`, `8 s`."""
    left = int(length_s)
    parts: list[str] = []
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:2])


def elapsed(length_s: float) -> str:
    """How long something took: `4.3 s`, and from two minutes on as `duration`."""
    return f"{length_s:.1f} s" if length_s < _SOON_S else duration(length_s)


def eta(length_s: float, now: datetime | None = None) -> str:
    """How long something will take: `45 s`, `1 h 19 min, done about 01:52` (the local clock; with
    the day, if that is another one)."""
    if length_s < 1:
        return "less than 1 s"
    if length_s < _SOON_S:
        return f"{length_s:.0f} s"
    now = now or datetime.now().astimezone()
    done = now + timedelta(seconds=length_s)
    clock = f"{done:%H:%M}" if done.date() == now.date() else f"{done:%a %H:%M}"
    return f"{duration(length_s)}, done about {clock}"


def utc(ms: int | None) -> str | None:
    """UTC epoch ms as `2026-03-01T12:00:00Z`; None stays None."""
    return None if ms is None else f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def plural(count: int, noun: str) -> str:
    """`1 row`, `2 rows`, `12,000 rows`; `2 people`."""
    many = {"person": "people"}.get(noun, f"{noun}s")
    return f"{count:,} {noun if count == 1 else many}"


def requests_in_words(summary: Mapping[str, Any]) -> str:
    """`12 requests in 65.0 s, 1.2 s of them waiting.`, of a run's summary."""
    waited_s = summary["waited_s"]
    waited = f", {elapsed(waited_s)} of them waiting" if waited_s >= 1 else ""
    return f"{plural(summary['requests'], 'request')} in {elapsed(summary['seconds'])}{waited}."


def numbers(values: Sequence[int], *, most: int = 12) -> str:
    """Ascending numbers with runs folded: `3, 7, 12-15`; at most `most` entries, then how many
    numbers are left out."""
    runs: list[tuple[int, int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], value)
        else:
            runs.append((value, value))
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs[:most])
    left = sum(b - a + 1 for a, b in runs[most:])
    return f"{shown} and {left:,} more" if left else shown


@dataclass
class RunReport:
    """What a run came to. summary: the JSON of `--json`. error: what ended it early, if any did."""

    summary: dict[str, Any] = field(default_factory=dict)
    error: ConnectorError | None = None

    @property
    def needs_a_look(self) -> bool:
        raise NotImplementedError

    @property
    def exit_code(self) -> int:
        """The error's; else 3 if the result needs a look."""
        if self.error is not None:
            return self.error.exit_code
        return 3 if self.needs_a_look else 0


def text_table(
    names: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str]
) -> Table:
    """A table without lines, for a terminal. right: columns of numbers."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, justify="right" if name in right else "left")
    for row in rows:
        table.add_row(*row)
    return table


# --- progress -------------------------------------------------------------------------------

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


ProgressOf = Callable[["Session"], Progress]


def progress_of(kind: str, *, bar: bool) -> ProgressOf:
    """A function that makes a run's progress display. kind: of the run. bar: for a terminal."""

    def make(session: Session) -> Progress:
        from connector.budget import Lane
        from connector.runs import SENDING

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
        from connector.logs import get_logger

        facts = {
            "rows": state.rows,
            f"{state.unit}s": state.done,  # where these are rows too, they are what is counted
            "of": state.total,
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
