"""Facts to HTML, through a template that escapes everything."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import humanize
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from connector.errors import printable
from connector.history import RunRecord
from pipelines.report import charts
from pipelines.report.facts import (
    RESOURCES,
    ReportFacts,
    WindowUse,
    changes,
    rows_over_time,
)
from pipelines.wording import duration, plural

SHOWN_RUNS = 30


def render(facts: ReportFacts) -> str:
    """The whole page, self-contained: no script, no font, no image, nothing from a network."""
    environment = Environment(
        loader=PackageLoader("pipelines.report", "."),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=_count, at=_at, ago=partial(_ago, facts.now_s), length_of=_length, plural=plural
    )
    return environment.get_template("report.html.j2").render(
        facts=facts,
        runs=facts.runs[:SHOWN_RUNS],
        growth=[_growth(facts, resource) for resource in RESOURCES],
        changes=_changes(facts.runs),
        windows=[(window, _window(window)) for window in facts.windows],
    )


def _growth(facts: ReportFacts, resource: str) -> tuple[str, Markup, Sequence[charts.Point]]:
    points = [charts.Point(at_s, rows) for at_s, rows in rows_over_time(facts.runs, resource)]
    start_s = points[0].x if points else facts.now_s
    label = f"{resource}: rows over time"
    drawn = charts.line(points, label=label, start_s=start_s, end_s=facts.now_s)
    return resource, drawn, points


def _changes(runs: Sequence[RunRecord]) -> tuple[Markup, int, int]:
    pulls = [run for run in reversed(runs) if run.kind == "pull"]
    groups = []
    for run in pulls:
        written, deleted = changes(run)
        title = f"{_at(run.started_ms / 1000)}: {written:,} written, {deleted:,} deleted"
        groups.append(charts.Bar(title, [("written", written), ("deleted", deleted)]))
    most = max((sum(changes(run)) for run in pulls), default=0)
    return charts.bars(groups, label="rows changed by each pull, oldest first"), len(pulls), most


def _window(window: WindowUse) -> Markup:
    slots = len(window.counts)
    groups = [
        charts.Bar(
            f"{(slots - index) * window.slot_s / 60:.0f} min ago: {count}", [("used", count)]
        )
        for index, count in enumerate(window.counts)
    ]
    label = f"requests per {window.slot_s:.0f} s against the limit of {window.limit}"
    return charts.bars(groups, label=label, limit=window.limit * window.slot_s / window.length_s)


def _count(value: Any) -> str:
    return "–" if value is None else f"{int(value):,}"


def _at(at_s: float | None) -> str:
    if at_s is None:
        return "never"
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _ago(now_s: float, at_s: float | None) -> str:
    if at_s is None:
        return "never"
    return f"{humanize.naturaldelta(max(0.0, now_s - at_s))} ago"


def _length(value: Any) -> str:
    return "–" if value is None else duration(float(value))
