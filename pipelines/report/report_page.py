"""The report as one self-contained HTML file, through a template that escapes everything.

Charts are SVG shapes stretched to their box: text in them would be unreadable on a phone, so the
template adds captions and scales. Colors are CSS classes, so that one file suits light and dark.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import humanize
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from connector.errors import UsageError, printable
from connector.history import RunRecord
from connector.settings import Settings
from connector.source.fields import RESOURCES
from pipelines.report.report_facts import ReportFacts, WindowUse, changes, gather, rows_over_time
from pipelines.running.wording import duration, plural

SHOWN_RUNS = 30
WIDTH, HEIGHT = 600.0, 120.0
_TITLE = b"<title>HiringCenter connector report</title>"
_HEAD_BYTES = 2048

Bar = tuple[str, Sequence[tuple[str, float]]]
"""Its tooltip, and (CSS class, count) from the bottom up."""


def write_report(settings: Settings, path: Path) -> int:
    """Write the report to `path`, and return how many runs it covers.

    Raises:
        UsageError: `path` can't be written, or is a file other than an earlier report.
    """
    _check_target(path)
    facts = gather(settings)
    new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        new.write_text(render(facts), encoding="utf-8")
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise UsageError(
            f"{path}: the report can't be written: {error.strerror}. Name another file: --output F."
        ) from error
    return len(facts.runs)


def _check_target(path: Path) -> None:
    """A mistyped path must not overwrite another file, whether directly or through a link."""
    if path.is_symlink():
        raise UsageError(
            f"{path} is a link, which isn't followed. Name the file itself: --output F."
        )
    if not path.exists():
        return
    try:
        with path.open("rb") as there:
            is_report = _TITLE in there.read(_HEAD_BYTES)
    except OSError as error:
        raise UsageError(
            f"{path}: this file can't be read: {error.strerror}. Name another file: --output F."
        ) from error
    if not is_report:
        raise UsageError(f"{path} exists and isn't a report. Name another file: --output F.")


def render(facts: ReportFacts) -> str:
    """The whole page, self-contained: no script, no font, no image, nothing from a network."""
    environment = make_environment(facts.now_s)
    return environment.get_template("report.html.j2").render(
        facts=facts,
        runs=facts.runs[:SHOWN_RUNS],
        growth=[_growth(facts, resource) for resource in RESOURCES],
        changes=_changes(facts.runs),
        windows=[(window, _window(window)) for window in facts.windows],
    )


def make_environment(now_s: float) -> Environment:
    """What renders pages: everything is escaped, and nothing that is missing is passed over."""
    environment = Environment(
        loader=PackageLoader("pipelines.report", "."),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=_count,
        at=_at,
        ago=partial(_ago, now_s),
        length_of=_length,
        plural=plural,
        file_uri=_file_uri,
    )
    return environment


def _growth(facts: ReportFacts, resource: str) -> tuple[str, Markup, list[tuple[float, int]]]:
    points = list(rows_over_time(facts.runs, resource))
    start_s = points[0][0] if points else facts.now_s
    label = f"{resource}: rows over time"
    return resource, line(points, label=label, start_s=start_s, end_s=facts.now_s), points


def _changes(runs: Sequence[RunRecord]) -> tuple[Markup, int, int]:
    pulls = [(run, *changes(run)) for run in reversed(runs) if run.kind == "pull"]
    groups: list[Bar] = [
        (
            f"{_at(run.started_ms / 1000)}: {written:,} written, {deleted:,} deleted",
            [("written", written), ("deleted", deleted)],
        )
        for run, written, deleted in pulls
    ]
    most = max((written + deleted for _, written, deleted in pulls), default=0)
    return bars(groups, label="rows changed by each pull, oldest first"), len(pulls), most


def _window(window: WindowUse) -> Markup:
    slots = len(window.counts)
    groups: list[Bar] = [
        (f"{(slots - index) * window.slot_s / 60:.0f} min ago: {count}", [("used", count)])
        for index, count in enumerate(window.counts)
    ]
    label = f"requests per {window.slot_s:.0f} s against the limit of {window.limit}"
    return bars(groups, label=label, limit=window.limit * window.slot_s / window.length_s)


# --- charts ---------------------------------------------------------------------------------


def line(
    points: Sequence[tuple[float, float]], *, label: str, start_s: float, end_s: float
) -> Markup:
    """A step line of (UTC epoch seconds, count), ascending, from `start_s` to `end_s`; the highest
    count is the top."""
    if not points:
        return _svg(label, Markup(""))
    top = max(count for _, count in points) or 1.0
    length_s = max(1e-9, end_s - start_s)
    xs = [min(1.0, max(0.0, (at_s - start_s) / length_s)) * WIDTH for at_s, _ in points]
    ys = [HEIGHT - count / top * HEIGHT * 0.94 for _, count in points]
    path = f"M{xs[0]:.1f},{ys[0]:.1f}" + "".join(
        f"H{x:.1f}V{y:.1f}" for x, y in zip(xs[1:], ys[1:], strict=True)
    )
    shapes = Markup('<path class="area" d="{}"/><path class="line" d="{}"/>').format(
        f"{path}H{WIDTH:.1f}V{HEIGHT}H{xs[0]:.1f}Z", f"{path}H{WIDTH:.1f}"
    )
    return _svg(label, shapes)


def bars(groups: Sequence[Bar], *, label: str, limit: float | None = None) -> Markup:
    """Stacked bars of equal width, in order; `limit` draws a line across at that height."""
    highest = max((sum(count for _, count in parts) for _, parts in groups), default=0.0)
    scale = HEIGHT * 0.94 / (max(highest, limit or 0.0) or 1.0)
    step = WIDTH / max(1, len(groups))
    drawn = [_bar(bar, index * step, step, scale) for index, bar in enumerate(groups)]
    if limit is not None:
        drawn.append(
            Markup('<path class="limit" d="M0,{}H{}"/>').format(
                f"{HEIGHT - limit * scale:.1f}", f"{WIDTH:.0f}"
            )
        )
    return _svg(label, Markup("").join(drawn))


def _bar(bar: Bar, x: float, step: float, scale: float) -> Markup:
    title, parts = bar
    bottom, shapes = HEIGHT, [Markup("<title>{}</title>").format(title)]
    for css, count in parts:
        height = count * scale
        bottom -= height
        shapes.append(
            Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
                css, f"{x:.2f}", f"{bottom:.2f}", f"{max(0.6, step * 0.86):.2f}", f"{height:.2f}"
            )
        )
    return Markup("<g>{}</g>").format(Markup("").join(shapes))


def _svg(label: str, shapes: Markup) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(f"{WIDTH:.0f}", f"{HEIGHT:.0f}", escape(label), shapes)


# --- filters of the template ----------------------------------------------------------------


def _count(value: Any) -> str:
    return "–" if value is None else f"{int(value):,}"


def _at(at_s: float | None) -> str:
    return "never" if at_s is None else f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M UTC}"


def _ago(now_s: float, at_s: float | None) -> str:
    return "never" if at_s is None else f"{humanize.naturaldelta(max(0.0, now_s - at_s))} ago"


def _file_uri(path: str) -> str:
    return Path(path).absolute().as_uri()


def _length(value: Any) -> str:
    return "–" if value is None else duration(float(value))
