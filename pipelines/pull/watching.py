"""What a long run tells while it works: a bar with an ETA on a terminal, log lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from connector.budget import Lane
from connector.clock import Clock
from connector.logs import get_logger
from pipelines.session import Session

_log = get_logger("pull")
_EVERY_S = 10.0


class Watch(Protocol):
    """Told about progress. done, total: requests; total is None where nobody knows."""

    def moved(self, done: int, total: int | None, rows: int) -> None: ...

    def close(self) -> None: ...


class NoWatch:
    """Tells nothing."""

    def moved(self, done: int, total: int | None, rows: int) -> None:
        pass

    def close(self) -> None:
        pass


class LogWatch:
    """A log line now and then. eta_s: seconds until so many more requests are done."""

    def __init__(self, clock: Clock, eta_s: Callable[[int], float | None]) -> None:
        self._clock, self._eta_s = clock, eta_s
        self._next_s = clock.monotonic_s() + _EVERY_S

    def moved(self, done: int, total: int | None, rows: int) -> None:
        now_s = self._clock.monotonic_s()
        if now_s < self._next_s:
            return
        self._next_s = now_s + _EVERY_S
        eta_s = None if total is None else self._eta_s(max(0, total - done))
        _log.info(
            "pull.progress", pages=done, of=total, rows=rows,
            eta_s=None if eta_s is None else round(eta_s),
        )  # fmt: skip

    def close(self) -> None:
        pass


def watch_of(*, shown: bool) -> Callable[[Session], Watch]:
    """What makes a run's watch. shown: somebody looks at a terminal."""

    def make(session: Session) -> Watch:
        def eta_s(requests: int) -> float | None:
            return session.budget.forecast(requests, Lane.PULL, in_flight=4).done_in_s

        return BarWatch(eta_s) if shown else LogWatch(session.clock, eta_s)

    return make


class BarWatch:
    """A bar on stderr. eta_s: as LogWatch's."""

    def __init__(self, eta_s: Callable[[int], float | None]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._eta_s = eta_s
        self._progress = Progress(
            TextColumn("[bold]pull[/]"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("pull", total=None, text="")
        self._progress.start()

    def moved(self, done: int, total: int | None, rows: int) -> None:
        eta_s = None if total is None else self._eta_s(max(0, total - done))
        of = "" if total is None else f" of {total}"
        left = "" if eta_s is None else f" · {eta_s:.0f} s left"
        self._progress.update(
            self._task, completed=done, total=total, text=f"{rows} rows, {done}{of} pages{left}"
        )

    def close(self) -> None:
        self._progress.stop()
