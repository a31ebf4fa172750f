"""`hiringcenter status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.commands.common import Options, common_options, run_command
from pipelines.commands.observed import observed
from pipelines.commands.result import Result
from pipelines.wording import duration, parse_duration_s, utc

if TYPE_CHECKING:
    from connector.history import Freshness
    from connector.settings import Settings
    from pipelines.destination.places import SnapshotFacts

_CLOCK_STEP_S = 60.0


def register(app: typer.Typer) -> None:
    app.command(
        "status",
        short_help="How old the data is, per resource",
        epilog="Example: hiringcenter status --max-age 2h",
    )(_status)


@common_options
def _status(
    options: Options,
    max_age: Annotated[
        str | None,
        typer.Option("--max-age", metavar="AGE", help="Exit 1 if anything is older: 90m, 2h, 1d."),
    ] = None,
) -> None:
    """Per resource, as readers see it: rows, last pull, last complete scan, age. Asks neither the
    API nor the destination."""

    def work(settings: Settings, _output: object) -> Result:
        limit_s = settings.alerts.max_age_s if max_age is None else parse_duration_s(max_age)
        return status(settings, limit_s)

    run_command(options, observed("status", work))


def status(settings: Settings, max_age_s: float | None) -> Result:
    """How fresh what readers see is. max_age_s: older, or never pulled, is exit 1.

    Raises:
        MissingKey: there are several accounts, and none is chosen.
    """
    import time

    from connector.source.fields import RESOURCES
    from pipelines.destination.places import snapshot_facts

    settings.check_account()
    copy = snapshot_facts(settings)
    landed, visible = _known(settings, copy)
    now_ms = time.time_ns() // 1_000_000
    facts = {
        name: _facts(visible.get(name), landed.get(name), now_ms, max_age_s) for name in RESOURCES
    }
    stale = [name for name, fact in facts.items() if fact["stale"]]
    summary = {"status": "stale" if stale else "ok", "resources": facts}
    return Result(
        summary=summary if copy is None else summary | {"copy": copy.facts()},
        lines=[_table(facts), *_doubts(facts), *_copy_lines(facts, copy), *_advice(stale)],
        exit_code=1 if stale else 0,
        events=[
            (
                "status.stale",
                {
                    "resource": name,
                    "last_pull": facts[name]["last_pull"],
                    "age_s": facts[name]["age_s"],
                },
            )
            for name in stale
        ],
    )


def _known(
    settings: Settings, copy: SnapshotFacts | None
) -> tuple[dict[str, Freshness], dict[str, Freshness]]:
    """By resource: what has landed, and what readers see of it."""
    from pipelines.destination.places import destination_label
    from pipelines.ledger import open_ledger

    label = destination_label(settings)
    with open_ledger(settings) as ledger:
        landed = {fresh.resource: fresh for fresh in ledger.freshness.of(label)}
        published = {fresh.resource: fresh for fresh in ledger.freshness.published(label)}
    if copy is None:
        return landed, landed
    return landed, published if copy.made_at else {}


def _facts(
    fresh: Freshness | None, landed: Freshness | None, now_ms: int, max_age_s: float | None
) -> dict[str, Any]:
    """fresh: what readers see. landed: what the destination has; newer where it isn't published."""
    newer = landed if landed is not None and landed != fresh else None
    waiting = {"unpublished_pull": utc(newer.last_pull_ms or None) if newer else None}
    if fresh is None:
        return {
            "rows": None, "last_pull": None, "last_complete_scan": None, "age_s": None,
            "scan": None, "reason": None, "complete": None, "stale": max_age_s is not None,
            **waiting,
        }  # fmt: skip
    completeness: dict[str, Any] = {"complete": fresh.complete}
    if fresh.why_incomplete is not None:
        completeness["why_incomplete"] = fresh.why_incomplete
    if not fresh.last_pull_ms:  # a first scan that hasn't come to its end
        return {
            "rows": fresh.rows, "last_pull": None, "last_complete_scan": None, "age_s": None,
            "scan": fresh.scan, "reason": fresh.reason, **completeness,
            "stale": max_age_s is not None, **waiting,
        }  # fmt: skip
    age_s = (now_ms - fresh.last_pull_ms) / 1000
    is_told = age_s >= -_CLOCK_STEP_S  # a pull in the future says how wrong a clock was, no more
    return {
        "rows": fresh.rows,
        "last_pull": utc(fresh.last_pull_ms),
        "last_complete_scan": utc(fresh.last_complete_ms),
        "age_s": round(max(0.0, age_s)),
        "scan": fresh.scan,
        "reason": fresh.reason,
        **completeness,
        "stale": max_age_s is not None and (age_s > max_age_s or not is_told),
        **waiting,
    }


def _table(facts: dict[str, dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("resource", "rows", "last pull", "last complete scan", "age"):
        table.add_column(name, justify="right" if name == "rows" else "left")
    for name, fact in facts.items():
        if fact["last_pull"] is None:
            rows = "" if fact["rows"] is None else f"{fact['rows']:,}"
            table.add_row(name, rows, "never", "never", "")
            continue
        age = duration(fact["age_s"]) + (" (too old)" if fact["stale"] else "")
        complete = fact["last_complete_scan"] or "never"
        table.add_row(name, f"{fact['rows']:,}", fact["last_pull"], complete, age)
    return table


def _doubts(facts: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"{name}: the last full scan isn't proven complete: {fact['why_incomplete']}."
        for name, fact in facts.items()
        if "why_incomplete" in fact
    ]


def _copy_lines(facts: dict[str, dict[str, Any]], copy: SnapshotFacts | None) -> list[str]:
    """When the copy was published, and what has landed since."""
    if copy is None:
        return []
    waiting = [name for name, fact in facts.items() if fact["unpublished_pull"]]
    if waiting:
        since = f"; what was pulled of {', '.join(waiting)} since then is not in it"
        return [f"{copy.still()}{since if copy.made_at else ''}. Run `hiringcenter pull`."]
    if copy.made_at is None:
        return [f"{copy.still()}. Run `hiringcenter pull`."]
    return [f"The copy at {copy.path} was published {copy.facts()['published_at']}."]


def _advice(stale: list[str]) -> list[str]:
    if not stale:
        return []
    return [
        f"Too old: {', '.join(stale)}. Run `hiringcenter pull`; see `hiringcenter runs` for why."
    ]
