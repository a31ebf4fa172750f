"""What a command hands back: facts for machines, text for people, and how it exits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_WORST_FIRST = (2, 1, 75, 3, 0)


@dataclass(frozen=True)
class Result:
    """summary: the JSON object of `--json`. lines: text or rich renderables for people.

    error: what ended the work early, told on stderr; it is in `summary` as well. events: what a log
    says of a result that needs a look, by name and facts. is_answer: the text is what was asked
    for, not news of a run.
    """

    summary: Mapping[str, Any]
    lines: Sequence[Any] = field(default_factory=tuple)
    exit_code: int = 0
    error: Exception | None = None
    events: Sequence[tuple[str, Mapping[str, Any]]] = ()
    is_answer: bool = False


def worst(exit_codes: Sequence[int]) -> int:
    """The exit code that stands for all: a signal's first, then 2, 1, 75, 3, 0."""
    signals = [code for code in exit_codes if code > 128]
    if signals:
        return signals[0]
    return min(exit_codes, key=_WORST_FIRST.index, default=0)


def status_of_exit(code: int) -> str:
    """The status of several runs that end with `code` together."""
    if code in (0, 3):
        return "ok"
    return "stopped" if code > 128 else "failed"
