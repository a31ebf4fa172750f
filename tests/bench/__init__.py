"""The numbers the design promises, measured next to their yardsticks: `make bench`.

Each module has `run() -> list[Row]`. Ratios are taken within one run on one machine, since a
single absolute time says more about the machine than about the code.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table. ok: None where there is no limit to hold it against."""

    what: str
    measured: str
    yardstick: str
    ok: bool | None = None
