"""`python -m tests.bench [NAME...]`: run all benches, or those whose name contains a NAME."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import time

from rich.console import Console
from rich.table import Table

from tests import bench
from tests.bench import Row

_FIRST = ("load", "start", "million", "push_rate", "two_pulls")
"""What is compared with other tools, and every later change is measured by."""
_COLUMNS = (25, 27, 19, 6)  # with the spaces between them, 80


def names(asked: list[str]) -> list[str]:
    """The bench modules that were asked for, all without a wish."""
    modules = [module.name for module in pkgutil.iter_modules(bench.__path__)]
    others = [name for name in modules if not name.startswith("_") and name not in _FIRST]
    return [name for name in (*_FIRST, *others) if not asked or any(part in name for part in asked)]


def table(name: str, rows: list[Row], took_s: float) -> Table:
    marks = {True: "[green]ok[/green]", False: "[red]missed[/red]", None: ""}
    title = f"\n{name} ({took_s:.0f} s)"
    drawn = Table(
        title=title,
        title_justify="left",
        box=None,
        show_header=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for width in _COLUMNS:
        drawn.add_column(overflow="fold", min_width=width, max_width=width)
    for row in rows:
        drawn.add_row(row.what, row.measured, row.yardstick, marks[row.ok])
    return drawn


def main(asked: list[str]) -> int:
    console = Console(width=sum(_COLUMNS) + 3, highlight=False)
    missed = 0
    for name in names(asked):
        module = importlib.import_module(f"tests.bench.{name}")
        started_s = time.monotonic()
        rows: list[Row] = module.run()
        console.print(table(name, rows, time.monotonic() - started_s))
        missed += sum(row.ok is False for row in rows)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
