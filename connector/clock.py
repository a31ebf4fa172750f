"""The clocks: wall time, monotonic time, and waiting; and the signals that end it.

SIGINT and SIGTERM ask a run to stop at its next safe point; a second one ends it at once.
"""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Also counts while the machine sleeps: BOOTTIME on Linux, MONOTONIC on macOS."""

SIGNALS_S = 0.5
"""How long a main thread waits in one go: Python may overlook a signal until the wait ends."""


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Clock(Protocol):
    """now_s: UTC epoch seconds, may step. monotonic_s: seconds that never step and count while the
    machine sleeps, the same for every process of this machine."""

    def now_s(self) -> float: ...

    def monotonic_s(self) -> float: ...

    def sleep(self, wait_s: float, stop: threading.Event | None = None) -> bool:
        """Wait `wait_s` seconds, or until `stop` is set; True if it was set."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.clock_gettime(_SINCE_BOOT)

    def sleep(self, wait_s: float, stop: threading.Event | None = None) -> bool:
        if stop is not None:
            return stop.wait(max(0.0, wait_s))
        time.sleep(max(0.0, wait_s))
        return False


def wall_ms() -> int:
    """The wall clock, as Unix milliseconds."""
    return time.time_ns() // 1_000_000


class SteadyClock:
    """A clock whose `now_s` never steps: monotonic seconds plus the ledger's offset.

    offset_s: what to add to `clock.monotonic_s()`. sure_since_s: the time since which its seconds
    are exact; before that (an earlier boot) they are an estimate.
    """

    def __init__(self, clock: Clock, offset_s: float, sure_since_s: float = float("-inf")) -> None:
        self._clock, self._offset_s, self.sure_since_s = clock, offset_s, sure_since_s

    def now_s(self) -> float:
        return self._offset_s + self._clock.monotonic_s()

    def now_ms(self) -> int:
        return int(self.now_s() * 1000)

    def monotonic_s(self) -> float:
        return self._clock.monotonic_s()

    def wall_s(self) -> float:
        """UTC epoch seconds of the wall clock: for people to read, never for decisions."""
        return self._clock.now_s()

    def wall_ms(self) -> int:
        return int(self.wall_s() * 1000)

    def age_s(self, stamp_s: float | None) -> float:
        """Seconds since `stamp_s` of this clock; infinite if that isn't certain."""
        now_s = self.now_s()
        if stamp_s is None or not self.sure_since_s <= stamp_s <= now_s:
            return float("inf")
        return now_s - stamp_s

    def sleep(self, wait_s: float, stop: threading.Event | None = None) -> bool:
        return self._clock.sleep(wait_s, stop)


# --- signals -----------------------------------------------------------------------------------


class StoppedEarly(BaseException):
    """A signal arrived while no run was listening for one.

    Not a KeyboardInterrupt, which Typer would turn into an exit of its own.
    """

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__(signal_number)


def raise_on_signals() -> None:
    """From now on, SIGINT and SIGTERM raise StoppedEarly in the main thread, wherever it is.

    `stop_on_signals` takes over while a run is at work.
    """

    def on_signal(number: int, _frame: FrameType | None) -> None:
        raise StoppedEarly(number)

    for number in _SIGNALS:
        signal.signal(number, on_signal)


def ignore_signals() -> None:
    """Ignore the signals of `raise_on_signals` from now on: only the result is left to print."""
    for number in _SIGNALS:
        handler = signal.getsignal(number)
        if getattr(handler, "__module__", None) == __name__:
            signal.signal(number, signal.SIG_IGN)


class StopSignal(threading.Event):
    """Set when a signal asks the run to stop. signal_number: which one (SIGTERM if unknown)."""

    signal_number: int = signal.SIGTERM


@contextmanager
def stop_on_signals() -> Iterator[StopSignal]:
    """A StopSignal that SIGINT and SIGTERM set, until the end of the block.

    Outside the main thread no handler can be installed; then only the caller can set it.
    """
    stop = StopSignal()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        stop.signal_number = number
        # not here: the thread that this interrupts may hold the lock that `set` takes
        _thread.start_new_thread(stop.set, ())
        signal.signal(number, signal.SIG_DFL)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
