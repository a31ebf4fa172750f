"""The pages: the report, and the plan of an import. Each is one self-contained HTML file, made by
a template that escapes everything, and fetches nothing.

Charts are SVG shapes stretched to their box: text in them would be unreadable on a phone, so the
template adds captions and scales. Colors are CSS classes, so that one file suits light and dark.
The rows of a plan are data in its page, which the page's script lists some at a time: ten thousand
of them as markup would be slow on a phone. Only that script may run, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import humanize
import orjson
import sqlalchemy as sa
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from connector.budget.database import Database
from connector.budget.ledger_view import open_report
from connector.clock import SystemClock
from connector.errors import printable
from connector.runs import SENDING, Freshness, RunRecord
from connector.settings import Settings
from connector.source import RESOURCES
from connector.upsert.outbox.outbox_schema import MIGRATIONS, results
from connector.upsert.outbox.receipts import Status
from connector.upsert.plan_file import PrivateFile
from pipelines.destination.identity import destination_label
from pipelines.running.progress import duration, plural
from pipelines.running.session import open_ledger, outbox_database

# --- facts: from the ledger alone, not from the API or the destination ----------------------

_RUNS = 500
_PUSHES = 6
_REASONS = 8
_HOURS = 24
# a cell as repr() shows it; the apostrophe of "isn't" opens nothing
_QUOTED = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")(?!\w)|\*\*\*""")


@dataclass(frozen=True)
class WindowUse:
    """Requests of one window over time, oldest first. counts: one per slot of `slot_s` seconds.
    whose: which requests are counted, for people.
    """

    limit: int
    length_s: float
    slot_s: float
    counts: Sequence[int]
    whose: str = "all with this key"


@dataclass(frozen=True)
class ShownPush:
    """One of the last pushes. reasons: how many rows were rejected or failed, by reason."""

    run: RunRecord
    reasons: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class ReportFacts:
    """Everything the template shows. runs: newest first. freshness: by resource, as readers see it;
    None if it was never pulled."""

    now_s: float
    destination: str
    account: str | None = None
    freshness: Mapping[str, Freshness | None] = field(default_factory=dict)
    runs: Sequence[RunRecord] = ()
    windows: Sequence[WindowUse] = ()
    hold: str = ""
    pushes: Sequence[ShownPush] = ()


def gather(settings: Settings) -> ReportFacts:
    """The facts about the settings' destination.

    Raises:
        BudgetError: the ledger can't be read.
    """
    now_s = SystemClock().now_s()
    with open_ledger(settings) as ledger:
        label = destination_label(settings)
        runs = ledger.runs.recent(_RUNS, label)
        windows, hold = _budget(settings, ledger.database, runs, now_s)
        _, visible = ledger.freshness_of(settings)
        return ReportFacts(
            now_s=now_s,
            destination=label,
            account=settings.account,
            freshness={name: visible.get(name) for name in RESOURCES},
            runs=runs,
            windows=windows,
            hold=hold,
            pushes=_pushes(settings, runs),
        )


def _budget(
    settings: Settings, database: Database, runs: Sequence[RunRecord], now_s: float
) -> tuple[list[WindowUse], str]:
    """(use of the shortest and the longest window, why the budget is on hold)."""
    by_length = sorted(settings.rate_limits, key=lambda limit: limit.length_s)
    shortest, longest = by_length[0], by_length[-1]
    counts = hourly(runs, now_s, _HOURS)
    by_hour = WindowUse(
        longest.limit, longest.length_s, 3600.0, counts, whose="by runs into this destination"
    )
    if settings.api_key is None:
        return [by_hour], ""
    budget = open_report(database, api_key=settings.key, limits=settings.rate_limits)
    counts = by_minute(budget.ages_s(3600.0))
    by_minutes = WindowUse(shortest.limit, shortest.length_s, 60.0, counts)
    return [by_minutes, by_hour], budget.state().hold_reason


def _pushes(settings: Settings, runs: Sequence[RunRecord]) -> list[ShownPush]:
    pushes = [run for run in runs if run.kind in SENDING][:_PUSHES]
    if not pushes:
        return []
    with closing(outbox_database(settings)) as outbox:
        outbox.migrate("outbox", MIGRATIONS)
        return [ShownPush(run, _reasons(outbox, run.run_id)) for run in pushes]


def _reasons(outbox: Database, run_id: str) -> list[tuple[str, int]]:
    """The most common reasons for rejects and failures, without the cells they quote."""
    bad = (Status.REJECTED.value, Status.FAILED.value)
    query = (
        sa.select(results.c.message, sa.func.count())
        .where(results.c.run_id == run_id, results.c.status.in_(bad))
        .group_by(results.c.message)
    )
    counts: Counter[str] = Counter()
    with outbox.read() as connection:
        for message, rows in connection.execute(query):
            counts[without_cells(message or "no reason given")] += rows
    return counts.most_common(_REASONS)


def without_cells(message: str) -> str:
    """A row's message without the cells that it quotes, so that equal reasons count together."""
    return _QUOTED.sub("…", message)


def resources_of(run: RunRecord) -> Mapping[str, Mapping[str, Any]]:
    """A run's part per resource; empty for pushes and for runs that never began."""
    return dict(run.summary.get("resources") or {})


def rows_over_time(runs: Iterable[RunRecord], resource: str) -> Iterator[tuple[float, int]]:
    """(finished, rows in the destination) of each pull that counted them, oldest first."""
    for run in sorted(runs, key=lambda each: each.started_ms):
        rows = resources_of(run).get(resource, {}).get("rows")
        if rows is not None and run.finished_ms is not None:
            yield run.finished_ms / 1000, int(rows)


def changes(run: RunRecord) -> tuple[int, int]:
    """(rows written, rows deleted) by one pull, all resources."""
    parts = resources_of(run).values()
    return (
        sum(int(part.get("rows_written") or 0) for part in parts),
        sum(int(part.get("rows_deleted") or 0) for part in parts),
    )


def hourly(runs: Iterable[RunRecord], now_s: float, hours: int) -> list[int]:
    """Requests by hour, oldest first: those of a run are spread evenly over its duration."""
    slots = [0.0] * hours
    first_s = now_s - hours * 3600
    for run in runs:
        start_s = run.started_ms / 1000
        end_s = max(start_s + 1, (run.finished_ms or run.started_ms) / 1000)
        rate = int(run.summary.get("requests") or 0) / (end_s - start_s)
        for index in range(hours):
            low_s, high_s = first_s + index * 3600, first_s + (index + 1) * 3600
            slots[index] += rate * max(0.0, min(end_s, high_s) - max(start_s, low_s))
    return [round(slot) for slot in slots]


def by_minute(ages_s: Iterable[float]) -> list[int]:
    """Requests of the last hour by minute, oldest first, from how long ago each was answered."""
    counts = Counter(int(age_s // 60) for age_s in ages_s if age_s >= 0)
    return [counts[59 - index] for index in range(60)]


# --- the report -----------------------------------------------------------------------------

SHOWN_RUNS = 30
WIDTH, HEIGHT = 600.0, 120.0
_PLAN_BEGINS = b"<!doctype html>\n<!-- HiringCenter import plan -->\n"
_AS_JSON = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})

Bar = tuple[str, Sequence[tuple[str, float]]]
"""Its tooltip, and (CSS class, count) from the bottom up."""


def write_report(settings: Settings, path: Path) -> int:
    """Write the report to `path`, and return how many runs it covers.

    Raises:
        UsageError: `path` can't be written, or is a file other than an earlier report.
    """
    facts = gather(settings)
    page = render(facts)
    begins = page[: page.index("</title>")].encode()
    with PrivateFile(path, begins=begins, what="a report", option="--output") as file:
        file.write(page.encode())
        file.finish()
    return len(facts.runs)


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


# --- the plan of an import ------------------------------------------------------------------


def open_plan_page(path: Path) -> PrivateFile:
    """The file that the page goes to, before anything is read.

    Raises:
        UsageError: it can't be written, or another kind of file is there.
    """
    return PrivateFile(path, begins=_PLAN_BEGINS, what="the page of a plan", option="--html")


def render_plan(
    summary: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    undo: Sequence[str],
    rows_in_all: int,
    account: str | None,
    now_s: float,
) -> str:
    """The page of a plan. summary: of the plan. rows: its rows as people read them, the first of
    `rows_in_all` that are worth a look. undo: what can't be undone."""
    environment = make_environment(now_s)
    assert environment.loader is not None
    script, *_ = environment.loader.get_source(environment, "plan.js")
    digest = hashlib.sha256(script.encode()).digest()
    return environment.get_template("plan.html.j2").render(
        summary=summary,
        cards=_plan_cards(summary),
        undo=undo,
        rows=Markup(_as_data(rows)),  # noqa: S704 - no markup is left in it
        rows_shown=len(rows),
        rows_left=max(0, rows_in_all - len(rows)),
        account=account,
        now_s=now_s,
        script=Markup(script),  # noqa: S704 - ours
        script_hash=base64.b64encode(digest).decode(),
    )


def _as_data(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as JSON that no markup in a value can end."""
    return orjson.dumps(rows, default=str).decode().translate(_AS_JSON)


def _plan_cards(summary: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """(title, count, text) of each total: of some always, of the others where there are any."""
    unknown = summary.get("would_send", 0)
    every = [
        ("created", summary["would_create"], "not in HiringCenter yet"),
        ("updated", summary["would_update"], "people whose record changes"),
        ("created or updated", unknown, "found out when they are sent"),
        ("kept", summary["kept"], "rows with fields that stay as HiringCenter has them"),
        ("unchanged", summary["unchanged"], "rows with nothing to send"),
        ("rejected", summary["rejected"], "rows that can't be sent as they are"),
        ("not sent", summary["failed"], "rows whose outcome isn't known"),
    ]
    always = ("created", "updated", "unchanged", "rejected")
    return [each for each in every if each[1] or each[0] in always]


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
