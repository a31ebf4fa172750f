"""What a push did: facts for machines, lines for people, events for a log."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from connector.errors import UsageError
from connector.upsert.outbox.planner import PlanCounts
from connector.upsert.outbox.receipts import RowResult, Status
from connector.upsert.rows.row_files import RejectsFile, ResultsFile
from pipelines.push.plan_view import PlanView, plan_lines
from pipelines.running.progress import RunReport, eta, numbers, plural, requests_in_words

NOTEWORTHY_MAX = 1_000  # rows; those beyond are only counted
_SHOWN = 20
_LENGTH = re.compile(r"\(\d+ characters?\) ")
_COUNTS = tuple(status.value for status in Status)
_SHOWN_DRY = ("unchanged", "rejected")


@dataclass
class PushReport(RunReport):
    """What a push did. noteworthy: the first rejects, failures and warnings. notes: about the input
    and the run, for people. view: of a dry run, what would change."""

    noteworthy: list[RowResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    view: PlanView | None = None

    @property
    def needs_a_look(self) -> bool:
        return any(self.summary.get(name) for name in ("rejected", "failed", "cannot_undo"))


def counted(outcomes: Counter[Status], not_sent: int) -> dict[str, int]:
    """`rows` and its parts, which always add up."""
    return {
        "rows": outcomes.total() + not_sent,
        **{status.value: outcomes[status] for status in Status},
        "not_sent": not_sent,
    }


def outcomes_in_words(summary: Mapping[str, Any]) -> str:
    """`145 created, 3 rejected, 222 to go`."""
    names = ("created", "updated", "unchanged", "kept", "rejected", "failed", "not_sent")
    words = {"not_sent": "to go"}
    return ", ".join(
        f"{summary[name]:,} {words.get(name, name)}" for name in names if summary.get(name)
    )


def forecast(plan: PlanCounts, *, requests: int, eta_s: float) -> dict[str, Any]:
    """What the push would do, as far as that is known, and how long it would take."""
    unknown = plan.to_send - plan.would_create - plan.would_update
    return {
        "would_create": plan.would_create,
        "would_update": plan.would_update,
        **({"would_send": unknown} if unknown else {}),
        "would_request": requests,
        "eta_s": round(eta_s, 1),
    }


def files_written(rejects: RejectsFile | None, results: ResultsFile | None) -> dict[str, str]:
    """What the summary says of the files of rejects and results."""
    written = {}
    if rejects is not None and rejects.count:
        written["rejects_file"] = str(rejects.path)
    if results is not None and results.is_saved:
        written["results_file"] = str(results.path.absolute())
    for name, file in (("rejects", rejects), ("results", results)):
        if file is not None and file.failure is not None:
            written.pop(f"{name}_file", None)
            written[f"{name}_error"] = file.failure.strerror or "can't be written"
    return written


def never_sent(source: str, count: int) -> str:
    """What to do about writes that an earlier run has planned."""
    if source.startswith("undo "):
        return f"{count} writes of an earlier {source} were never sent; run that undo again."
    return f"{count} writes of an earlier push of {source} were never sent; push it again."


def push_lines(report: PushReport) -> list[Any]:
    """The input, rows by outcome, what went wrong row by row, and what to do next."""
    if isinstance(report.error, UsageError) and not report.summary.get("requests"):
        return []
    summary = report.summary
    short = [f"stopped · {outcomes_in_words(summary)}"] if summary["status"] == "stopped" else []
    planned = [] if report.view is None else plan_lines(report.view, summary)
    return [*report.notes, *short, _table(summary), *planned, *_rows(report), *_end(summary)]


def push_events(report: PushReport) -> list[tuple[str, dict[str, Any]]]:
    """Log events of a push that needs a look: its counts, and what is wrong with which rows."""
    facts = (
        "run_id", "source", "job", "status", "rows", *_COUNTS, "kept", "not_sent", "rejects_file",
        "results_file",
    )  # fmt: skip
    found = {name: report.summary[name] for name in facts if report.summary.get(name)}
    run_id = {"run_id": report.summary.get("run_id")}
    return [
        ("push.ended", found),
        *(
            ("push.rows", {**run_id, "rows": rows, "status": status, "message": message})
            for rows, status, message in grouped(report.noteworthy)
        ),
    ]


def grouped(results: Iterable[RowResult]) -> list[tuple[str, str, str]]:
    """(row numbers, status, message) of results, one per reason; the lengths of cells in a reason
    don't count."""
    found: dict[tuple[str, str], list[RowResult]] = {}
    for result in results:
        reason = _LENGTH.sub("", result.message or "")
        found.setdefault((result.status.value, reason), []).append(result)
    return [
        (
            numbers([each.row_number for each in alike]),
            status,
            (alike[0].message or "") if len(alike) == 1 else reason,
        )
        for (status, reason), alike in found.items()
    ]


def row_line(rows: str, status: str, message: str) -> str:
    """`row 3: rejected: …`, `rows 3, 7-9: rejected: …`."""
    noun = "row" if rows.isdigit() else "rows"
    return f"{noun} {rows}: {status}: {message}".rstrip(": ")


def _table(summary: dict[str, Any]) -> Table:
    """The counts. A dry run omits those that can't occur, so that the table fits a terminal."""
    is_dry = "eta_s" in summary
    names = [name for name in _COUNTS if summary[name] or not is_dry or name in _SHOWN_DRY]
    names += [name for name in ("would_create", "would_update", "would_send") if name in summary]
    names += [name for name in ("kept", *(() if is_dry else ("not_sent",))) if summary.get(name)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("rows", *names):
        table.add_column(name.replace("_", " "), justify="right")
    table.add_row(*(f"{summary[name]:,}" for name in ("rows", *names)))
    return table


def _rows(report: PushReport) -> Iterator[str]:
    lines = grouped(report.noteworthy)
    is_list = {"eta_s", "undoes"} <= report.summary.keys()  # what an undo leaves alone
    shown = len(lines) if is_list else _SHOWN
    for line in lines[:shown]:
        yield row_line(*line)
    yield from _beyond(report)
    if len(lines) <= shown:
        return
    if "eta_s" in report.summary:  # a dry run isn't in the run history
        more = plural(len(lines) - _SHOWN, "more reason")
        yield f"… and {more}; --rejects F writes all the rows to a file."
    else:
        yield f"… for more: hiringcenter runs {report.summary['run_id']}"


def _beyond(report: PushReport) -> Iterator[str]:
    bad = (Status.REJECTED, Status.FAILED)
    listed = sum(result.status in bad for result in report.noteworthy)
    left = sum(report.summary[status.value] for status in bad) - listed
    if left > 0 and len(report.noteworthy) >= NOTEWORTHY_MAX:
        yield f"… and {plural(left, 'more row')} rejected or failed."


def _end(summary: dict[str, Any]) -> Iterator[str]:
    is_apply = "plan_file" in summary and "eta_s" not in summary
    if "rejects_file" in summary and is_apply:
        yield (
            f"Rows that weren't applied are in {summary['rejects_file']}: pull, then plan that "
            "file to see what they would do now."
        )
    elif "rejects_file" in summary:
        to = f" with --to {summary['to']}" if "to" in summary else ""
        yield f"Fix the rows in {summary['rejects_file']} and push that file{to}."
    if "results_file" in summary:
        yield f"Every row with its outcome: {summary['results_file']}"
    if "eta_s" in summary:
        if "would_send" in summary and "copy_age_s" not in summary:
            yield "Pull first to see which of these would be created and which updated."
        elif "would_send" in summary:  # a creation of their file precedes them, or a look-up
            yield "Until its person is known, a row under `would send` may create or update."
        needed = summary["would_request"]
        takes = f": {eta(summary['eta_s'])}" if needed else ""
        yield f"Nothing was sent. It would take {plural(needed, 'request')}{takes}."
        if "plan_file" in summary:
            yield f"To send exactly this: hiringcenter apply {summary['plan_file']}"
        return
    if summary.get("recovered"):
        yield (
            f"{plural(summary['recovered'], 'write')} left by an earlier push came first; rows "
            "that they already updated count as unchanged."
        )
    if summary.get("not_sent"):
        again = "push"
        if is_apply or "undoes" in summary:
            again = "apply the plan" if is_apply else "run the undo"
        yield f"{plural(summary['not_sent'], 'row')} not sent; {again} again to resume."
    yield requests_in_words(summary)
