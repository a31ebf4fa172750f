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


def names(asked: list[str]) -> list[str]:
    """The bench modules that were asked for, all without a wish."""
    found = [
        module.name
        for module in pkgutil.iter_modules(bench.__path__)
        if not module.name.startswith("_")
    ]
    return [name for name in found if not asked or any(part in name for part in asked)]


def table(name: str, rows: list[Row], took_s: float) -> Table:
    marks = {True: "[green]ok[/green]", False: "[red]missed[/red]", None: ""}
    drawn = Table(title=f"{name} ({took_s:.0f} s)", title_justify="left", expand=False)
    for column in ("what", "measured", "yardstick", ""):
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(row.what, row.measured, row.yardstick, marks[row.ok])
    return drawn


def main(asked: list[str]) -> int:
    console = Console(width=None if sys.stdout.isatty() else 140)
    missed = 0
    for name in names(asked):
        module = importlib.import_module(f"tests.bench.{name}")
        if not hasattr(module, "run"):
            continue
        started_s = time.monotonic()
        rows: list[Row] = module.run()
        console.print(table(name, rows, time.monotonic() - started_s))
        missed += sum(row.ok is False for row in rows)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
