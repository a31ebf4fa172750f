"""What a push tells while it works: a bar with an ETA on a terminal, log lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from connector.budget import Lane
from connector.clock import Clock
from connector.logs import get_logger
from connector.upsert.sending.pace import in_flight_for
from pipelines.session import Session

_log = get_logger("push")
_EVERY_S = 10.0


class PushWatch(Protocol):
    """Told how a push goes on."""

    def read(self, rows: int) -> None:
        """So many rows of the input have been read."""
        ...

    def sent(self, done: int, total: int, requests_left: int) -> None:
        """`done` of `total` rows to be sent have their outcome."""
        ...

    def close(self) -> None: ...


class NoWatch:
    """Tells nothing."""

    def read(self, rows: int) -> None:
        pass

    def sent(self, done: int, total: int, requests_left: int) -> None:
        pass

    def close(self) -> None:
        pass


class LogWatch:
    """A log line now and then. eta_s: seconds until so many more requests are done."""

    def __init__(self, clock: Clock, eta_s: Callable[[int], float]) -> None:
        self._clock, self._eta_s = clock, eta_s
        self._next_s = clock.monotonic_s() + _EVERY_S

    def read(self, rows: int) -> None:
        if self._is_time():
            _log.info("push.reading", rows=rows)

    def sent(self, done: int, total: int, requests_left: int) -> None:
        if self._is_time():
            eta_s = round(self._eta_s(requests_left))
            _log.info("push.progress", rows=done, of=total, eta_s=eta_s)

    def _is_time(self) -> bool:
        now_s = self._clock.monotonic_s()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + _EVERY_S
        return True

    def close(self) -> None:
        pass


class BarWatch:
    """A bar on stderr. eta_s: as LogWatch's; asked once a second at most."""

    def __init__(self, clock: Clock, eta_s: Callable[[int], float]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._clock, self._eta_s = clock, eta_s
        self._asked_s, self._left_s = float("-inf"), 0.0
        self._progress = Progress(
            TextColumn("[bold]push[/]"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("push", total=None, text="")
        self._progress.start()

    def read(self, rows: int) -> None:
        self._progress.update(self._task, text=f"{rows:,} rows read")

    def sent(self, done: int, total: int, requests_left: int) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._asked_s >= 1:
            self._asked_s, self._left_s = now_s, self._eta_s(requests_left)
        text = f"{done:,} of {total:,} rows · {self._left_s:.0f} s left"
        self._progress.update(self._task, completed=done, total=total, text=text)

    def close(self) -> None:
        self._progress.stop()


def watch_of(*, shown: bool) -> Callable[[Session], PushWatch]:
    """What makes a push's watch. shown: somebody looks at a terminal."""

    def make(session: Session) -> PushWatch:
        rate_per_s = max(each.limit / each.length_s for each in session.settings.rate_limits)

        def eta_s(requests: int) -> float:
            width = in_flight_for(session.client.latency_s, rate_per_s)
            return session.budget.forecast(requests, Lane.PUSH, in_flight=width).done_in_s

        return (BarWatch if shown else LogWatch)(session.clock, eta_s)

    return make
