"""A push's report as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from connector.errors import UsageError
from connector.upsert.outbox.states import Status
from pipelines.push.report import PushReport

_SHOWN = 20


def push_lines(report: PushReport) -> list[Any]:
    """The input, rows by outcome, what went wrong row by row, and what to do next."""
    if isinstance(report.error, UsageError) and not report.summary.get("requests"):
        return []
    return [*report.notes, _table(report.summary), *_rows(report), *_end(report.summary)]


def _table(summary: dict[str, Any]) -> Table:
    names = [status.value for status in Status]
    names += [name for name in ("would_create", "would_update", "would_send") if name in summary]
    if "not_sent" in summary:
        names.append("not_sent")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("rows", *names):
        table.add_column(name.replace("_", " "), justify="right")
    table.add_row(*(f"{summary[name]:,}" for name in ("rows", *names)))
    return table


def _rows(report: PushReport) -> Iterator[str]:
    for result in report.noteworthy[:_SHOWN]:
        yield f"row {result.row_number}: {result.status}: {result.message or ''}".rstrip(": ")
    if len(report.noteworthy) > _SHOWN:
        yield f"… more: hiringcenter runs {report.summary['run_id']}"


def _end(summary: dict[str, Any]) -> Iterator[str]:
    if "rejects_file" in summary:
        yield f"Fix the rows in {summary['rejects_file']} and push that file."
    if "eta_s" in summary:
        requests = summary["would_request"]
        yield f"Nothing was sent. It would take {requests:,} requests, {summary['eta_s']:.0f} s."
        return
    if "not_sent" in summary:
        yield f"{summary['not_sent']:,} rows were not sent; push again to go on."
    waited = f", {summary['waited_s']:.0f} s of them waiting" if summary["waited_s"] >= 1 else ""
    yield f"{summary['requests']:,} requests in {summary['seconds']:.1f} s{waited}."
