"""SIGINT and SIGTERM ask a run to stop at its next safe point; a second one ends it at once."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
