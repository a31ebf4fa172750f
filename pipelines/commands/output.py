"""A command's result, and where it is written: facts to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import TextIOWrapper
from typing import Any

import orjson

from pipelines.running.signals import StoppedEarly

ALREADY_RUNNING = 75
_WORST_FIRST = (2, 1, 75, 3, 0)


@dataclass(frozen=True)
class Result:
    """summary: the JSON object of `--json`. lines: text or rich renderables for people.

    error: what ended the work early, shown on stderr; `summary` has it too. events: log lines for
    a result that needs a look: (name, fields). is_answer: the text is what the user asked for, not
    the report of a run.
    """

    summary: Mapping[str, Any]
    lines: Sequence[Any] = field(default_factory=tuple)
    exit_code: int = 0
    error: Exception | None = None
    events: Sequence[tuple[str, Mapping[str, Any]]] = ()
    is_answer: bool = False


def guarded(work: Callable[[], Result]) -> Result:
    """The result of `work`; a failed one if it raises."""
    try:
        return work()
    except BrokenPipeError:
        raise
    except (Exception, StoppedEarly, KeyboardInterrupt) as error:  # noqa: BLE001 - any failure
        return failed_result(error)


def failed_result(error: BaseException) -> Result:
    """The result of a command that ended with `error`."""
    import structlog

    from connector.errors import ConnectorError, Interrupted, Unexpected, status_of
    from connector.logs import error_facts, get_logger

    if isinstance(error, StoppedEarly | KeyboardInterrupt):
        error = Interrupted(getattr(error, "signal_number", signal.SIGINT))
    elif not isinstance(error, ConnectorError):
        if structlog.is_configured():  # unconfigured, it writes to stdout
            get_logger("command").debug("command.unexpected", exc_info=error)
        error = Unexpected(error)
    facts = {"status": status_of(error), "error": error_facts(error)}
    return Result(summary=facts, exit_code=error.exit_code, error=error)


def worst(exit_codes: Sequence[int]) -> int:
    """The exit code for several parts: a signal's before all others, then 2, 1, 75, 3, 0."""
    signals = [code for code in exit_codes if code > 128]
    if signals:
        return signals[0]
    return min(exit_codes, key=_WORST_FIRST.index, default=0)


def status_of_exit(code: int) -> str:
    """The status of several runs whose common exit code is `code`."""
    if code in (0, 3):
        return "ok"
    return "stopped" if code > 128 else "failed"


class _LenientText(TextIOWrapper):
    """A text stream that drops what can't be written: a run that has sent data must finish with
    its own exit code, even if no one can read its messages."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            super().flush()


def keep_standard_streams() -> None:
    """Make stderr one that never fails, and open closed descriptors on /dev/null.

    Otherwise the next file to be opened, a ledger or a socket, would take the number of a closed
    one, and receive what libraries print.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None or type(sys.stderr) is TextIOWrapper:
        raw = open(2, "wb", buffering=0, closefd=False)  # noqa: SIM115
        sys.stderr = _LenientText(raw, errors="backslashreplace", write_through=True)


class Output:
    """json: stdout gets exactly one JSON object (UTF-8), as its last line; text goes to stderr.

    verbosity: below 0, no progress; above 0, tracebacks of unexpected errors. all_accounts: the
    command works for each account in turn.
    """

    def __init__(
        self, *, json: bool = False, verbosity: int = 0, all_accounts: bool = False
    ) -> None:
        self.json, self.verbosity, self.all_accounts = json, verbosity, all_accounts
        if isinstance(
            sys.stdout, TextIOWrapper
        ):  # a name that it can't encode must not fail the run
            sys.stdout.reconfigure(errors="backslashreplace")

    @property
    def is_quiet(self) -> bool:
        """For cron: no output if all is well, otherwise log lines."""
        return self.verbosity < 0

    def result(self, result: Result) -> None:
        """Write a command's result as text. If quiet, a run is reported only if it needs a look;
        an answer (`runs`, `budget`) always is."""
        if not self.is_quiet or result.is_answer:
            self.text(result.lines)
        elif result.exit_code not in (0, ALREADY_RUNNING):
            from connector.logs import get_logger

            for event, facts in result.events:
                get_logger("command").warning(event, **facts)

    @property
    def shows_progress(self) -> bool:
        """Whether to show a progress bar: on a terminal, unless quiet."""
        return sys.stderr.isatty() and not self.is_quiet

    @property
    def log_level(self) -> int:
        """The level for `logs.configure`. Together with a progress bar, only warnings."""
        return -1 if self.shows_progress and not self.verbosity else self.verbosity

    def text(self, lines: Iterable[Any]) -> None:
        """Write strings and rich renderables, for people."""
        from connector.errors import printable

        stream = sys.stderr if self.json else sys.stdout
        for line in lines:
            if isinstance(line, str):
                stream.write(printable(line) + "\n")
            else:
                self._render(line, stream)
        stream.flush()

    def error(self, error: BaseException, *, account: str | None = None) -> None:
        """Write one line: what happened (to which account) and what to do next, without secrets;
        below it, the error's notes, which are only for the person at the terminal.

        With `-q` it is a log line with a time and the run's id instead, and a lock that another
        run holds isn't reported.
        """
        from connector.logs import get_logger, redact

        if self.is_quiet:
            if getattr(error, "exit_code", 1) != ALREADY_RUNNING:
                get_logger("command").error("command.failed", message=redact(str(error)))
            return
        whose = "Error" if account is None else f"Error (account {account})"
        notes = "".join(f"  {redact(note)}\n" for note in getattr(error, "__notes__", ()))
        sys.stderr.write(f"{whose}: {redact(str(error))}\n{notes}")

    def object(self, summary: Any) -> None:
        """Write the summary as JSON, if `--json` asked for it."""
        if self.json:
            options = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z
            sys.stdout.flush()
            try:
                text = orjson.dumps(summary, default=str, option=options).decode()
            except TypeError:  # a lone surrogate, as in the name of a file
                text = json.dumps(summary, default=str)
            sys.stdout.buffer.write(_escaped(text).encode() + b"\n")
            sys.stdout.buffer.flush()

    @staticmethod
    def _render(renderable: Any, stream: Any) -> None:
        from rich.console import Console
        from rich.segment import Segment

        from connector.errors import printable

        class PrintableConsole(Console):
            """Cells of a table may hold names from files and servers."""

            def render(self, *args: Any, **kwargs: Any) -> Iterator[Segment]:
                for segment in super().render(*args, **kwargs):
                    yield Segment(printable(segment.text), segment.style, segment.control)

        width = None if stream.isatty() else 160
        PrintableConsole(file=stream, highlight=False, width=width).print(renderable)


def _escaped(json_text: str) -> str:
    """The same JSON value, with characters that `printable` would drop written as \\uXXXX."""
    from connector.errors import printable

    if printable(json_text) == json_text:
        return json_text
    return "".join(char if printable(char) == char else f"\\u{ord(char):04x}" for char in json_text)
