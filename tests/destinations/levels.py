"""What the last runs of the script have shown, and the table of levels made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.destination.destination_kinds import REFUSED
from tests.destinations.servers import PLACES

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parents[2] / "docs/how-to/warehouse.md"
_BEGIN, _END = "<!-- levels: made by make test-destinations -->", "<!-- end of levels -->"

_BIGQUERY = (  # which `PLACES` therefore lacks
    "on its emulator (bqemulator 1.4.0) the scratch table merges, but no row of a pull is found"
)


def results() -> dict[str, dict[str, Any]]:
    """By destination: its last run, with its `steps`, or the one that has `failed`."""
    found: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text())
    return found


def passed() -> set[str]:
    """The destinations whose last run has passed every step but those that are left out."""
    return {name for name, facts in results().items() if "failed" not in facts}


def record(name: str, **facts: Any) -> None:
    """Note a run; a run that was skipped leaves the one before it."""
    known = {**results(), name: facts}
    RESULTS.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n")


def table() -> str:
    """The table of levels, in Markdown."""
    known, lines = results(), ["| destination | level | last real run |", "|---|---|---|"]
    for name, place in PLACES.items():
        facts = known.get(name)
        if facts is None:
            lines.append(f"| {place.title} | untested | never |")
            continue
        run = f"{facts['date']}: " + (f"{facts['versions']}, " if facts.get("versions") else "")
        if "failed" in facts:
            lines.append(
                f"| {place.title} | untested | {run}failed at: {_words(facts['failed'])} |"
            )
            continue
        run += f"{facts['steps']} steps"
        run += "".join(f"; not: {_words(name)} ({why})" for name, why in place.left_out.items())
        lines.append(f"| {place.title} | tested | {run} |")
    lines.append(f"| BigQuery | untested | never; {_BIGQUERY} |")
    lines.append("| MotherDuck, Redshift, and whatever else dlt knows | untested | never |")
    for kind, (why, nearest) in REFUSED.items():
        lines.append(f"| `{kind}` | refused: {why} | instead: {nearest} |")
    return "\n".join(lines)


def _words(step: str) -> str:
    return step.replace("_", " ")


def write_table() -> None:
    """Put the table into the page."""
    PAGE.write_text(page_with(PAGE.read_text(), table()))


def page_with(text: str, made: str) -> str:
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{made}\n{_END}{after}"
