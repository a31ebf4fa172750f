"""Where a command writes: facts on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import TextIOWrapper
from typing import Any

import orjson

from pipelines.commands.result import Result

ALREADY_RUNNING = 75


class _LenientText(TextIOWrapper):
    """A text stream that drops what can't be written: a run that has sent things must end in its
    own words and exit code, also where nobody hears it."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            super().flush()


def keep_standard_streams() -> None:
    """Make stderr one that never fails, and give closed descriptors a place.

    A closed one would be taken by the next file that is opened, a ledger or a socket, and what a
    library prints would go there.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest one that is free
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None or type(sys.stderr) is TextIOWrapper:
        raw = open(2, "wb", buffering=0, closefd=False)  # noqa: SIM115
        sys.stderr = _LenientText(raw, errors="backslashreplace", write_through=True)


class Output:
    """json: stdout gets exactly one JSON object (UTF-8), as its last line; text goes to stderr.

    verbosity: below 0, no progress; above 0, tracebacks of what nobody expected.
    """

    def __init__(self, *, json: bool = False, verbosity: int = 0) -> None:
        self.json, self.verbosity = json, verbosity
        if isinstance(sys.stdout, TextIOWrapper):  # a name that it can't write is no failed run
            sys.stdout.reconfigure(errors="backslashreplace")

    @property
    def is_quiet(self) -> bool:
        """For cron: nothing where all is well, else log lines."""
        return self.verbosity < 0

    def result(self, result: Result) -> None:
        """A command's result as text. Quiet, what ran is told only if it needs a look; what was
        asked for (`runs`, `budget`) always is."""
        if not self.is_quiet or result.is_answer:
            self.text(result.lines)
        elif result.exit_code not in (0, ALREADY_RUNNING):
            from connector.logs import get_logger

            for event, facts in result.events:
                get_logger("command").warning(event, **facts)

    @property
    def shows_progress(self) -> bool:
        """Whether somebody watches: a terminal that isn't told to be quiet."""
        return sys.stderr.isatty() and self.verbosity >= 0

    def text(self, lines: Iterable[Any]) -> None:
        """Strings and rich renderables for people."""
        from connector.errors import printable

        stream = sys.stderr if self.json else sys.stdout
        for line in lines:
            if isinstance(line, str):
                stream.write(printable(line) + "\n")
            else:
                self._render(line, stream)
        stream.flush()

    def error(self, error: BaseException, *, account: str | None = None) -> None:
        """One line: what happened (to which account) and what to do next, without secrets; below
        it, what the error notes for the person at the terminal alone.

        In a log (`-q`) it has a time and the run's id; a lock that another run holds is no news
        there.
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
        """The summary, where `--json` asked for it."""
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
    """JSON with what `printable` would leave out written as \\uXXXX: the value stays."""
    from connector.errors import printable

    if printable(json_text) == json_text:
        return json_text
    return "".join(char if printable(char) == char else f"\\u{ord(char):04x}" for char in json_text)
