"""A pull's report as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from connector.settings import Settings
from pipelines.destination.identity import snapshot_facts
from pipelines.pull.pull_run import PullReport
from pipelines.running.progress import elapsed, plural


def pull_lines(report: PullReport, settings: Settings) -> list[Any]:
    """A table of what was read, written and deleted, then notes."""
    resources = report.summary["resources"].values()
    is_empty = report.error is not None and not any(facts["rows_read"] for facts in resources)
    lines: list[Any] = [_table(report)] if resources and not is_empty else []
    return [*lines, *_notes(report, settings)]


def pull_events(report: PullReport) -> list[tuple[str, dict[str, Any]]]:
    """Log events of a pull that needs a look: its counts, and lists that aren't complete."""
    summary = report.summary
    lists = summary.get("resources", {})
    events = [
        ("pull.incomplete", {"resource": name, "why": facts["why_incomplete"]})
        for name, facts in lists.items()
        if facts.get("why_incomplete")
    ]
    if any(facts["rows_read"] for facts in lists.values()):
        ended = {"status": summary["status"], "requests": summary["requests"]}
        events.insert(0, ("pull.ended", ended))
    return [(name, {"run_id": summary.get("run_id"), **facts}) for name, facts in events]


def _table(report: PullReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("resource", "scan", "read", "written", "deleted", "rows now"):
        table.add_column(name, justify="left" if name in ("resource", "scan") else "right")
    for name, facts in report.summary["resources"].items():
        scan = f"{facts['scan']} (unproven)" if facts["complete"] is False else facts["scan"]
        counts = [facts[count] for count in ("rows_read", "rows_written", "rows_deleted")]
        live = report.live_rows.get(name)
        table.add_row(
            name, scan, *(f"{count:,}" for count in counts), "" if live is None else f"{live:,}"
        )
    return table


def _notes(report: PullReport, settings: Settings) -> Iterator[str]:
    for resource, facts in report.summary["resources"].items():
        if "why_incomplete" in facts:
            yield f"{resource}: not proven complete: {facts['why_incomplete']}."
        if resource in report.doubts:
            yield _what_follows(resource, is_new=report.doubts[resource])
    for resource, counts in report.warnings.items():
        for what, times in counts.items():
            yield f"Warning: {resource}: {what} ({times}x)"
    summary = report.summary
    waited = f", {elapsed(summary['waited_s'])} of them waiting" if summary["waited_s"] >= 1 else ""
    yield f"{plural(summary['requests'], 'request')} in {elapsed(summary['seconds'])}{waited}."
    yield from _copy_notes(report, settings)


def _what_follows(resource: str, *, is_new: bool) -> str:
    if is_new:
        return (
            f"{resource}: what was read is published, and nothing was flagged deleted. If this "
            "persists, later pulls don't verify it again, and prove deletions one by one."
        )
    return (
        f"{resource}: this was the case at the last pull too; deletions are proven one by one (at "
        "most 50 look-ups per pull)."
    )


def _copy_notes(report: PullReport, settings: Settings) -> Iterator[str]:
    copy = snapshot_facts(settings)
    if copy is None:
        return
    if report.published:
        yield f"A new copy is at {copy.path}."
    elif not report.is_visible:
        yield f"{copy.still()}. Run it again to publish what has landed since."
    elif report.error is None:
        yield f"Nothing changed; the copy is at {copy.path}."
