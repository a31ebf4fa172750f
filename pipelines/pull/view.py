"""A pull's report as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from connector.settings import Settings
from pipelines.pull.run import PullReport


def pull_lines(report: PullReport, settings: Settings) -> list[Any]:
    """A table of what was read, written and deleted, then what is worth knowing."""
    lines: list[Any] = [_table(report)] if report.summary["resources"] else []
    return [*lines, *_notes(report, settings)]


def _table(report: PullReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("resource", "scan", "read", "written", "deleted", "rows now"):
        table.add_column(name, justify="left" if name in ("resource", "scan") else "right")
    for name, facts in report.summary["resources"].items():
        scan = facts["scan"] if facts["complete"] else f"{facts['scan']} (partial)"
        counts = [facts[count] for count in ("rows_read", "rows_written", "rows_deleted")]
        live = report.live_rows.get(name)
        table.add_row(
            name, scan, *(f"{count:,}" for count in counts), "" if live is None else f"{live:,}"
        )
    return table


def _notes(report: PullReport, settings: Settings) -> Iterator[str]:
    for resource, counts in report.warnings.items():
        for what, times in counts.items():
            yield f"Warning: {resource}: {what} ({times}x)"
    summary = report.summary
    waited = f", {summary['waited_s']:.0f} s of them waiting" if summary["waited_s"] >= 1 else ""
    yield f"{summary['requests']} requests in {summary['seconds']:.1f} s{waited}."
    if report.error is None and settings.destination == "duckdb":
        made = "A new copy is" if report.published else "Nothing changed; the copy is"
        yield f"{made} at {settings.duckdb_path}."
