"""A plan as one self-contained HTML page: totals for whoever decides, and every row to search.

The rows are data in the page, which its script lists a page at a time: ten thousand of them as
markup would be slow on a phone. The only script that runs is that one, by its hash; nothing is
fetched.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from markupsafe import Markup

from connector.upsert.plan_file import PrivateFile
from pipelines.report.report_page import make_environment

_BEGIN = b"<!doctype html>\n<!-- HiringCenter import plan -->\n"
_AS_JSON = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})


def open_plan_page(path: Path) -> PrivateFile:
    """The file that the page goes to, before anything is read.

    Raises:
        UsageError: it can't be written, or another kind of file is there.
    """
    return PrivateFile(path, begins=_BEGIN, what="the page of a plan", option="--html")


def render_plan(
    summary: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    undo: Sequence[str],
    rows_in_all: int,
    account: str | None,
    now_s: float,
) -> str:
    """The page. summary: of the plan. rows: its rows as people read them, the first of
    `rows_in_all` that are worth a look. undo: what can't be undone."""
    environment = make_environment(now_s)
    assert environment.loader is not None
    script, *_ = environment.loader.get_source(environment, "plan.js")
    digest = hashlib.sha256(script.encode()).digest()
    return environment.get_template("plan.html.j2").render(
        summary=summary,
        cards=_cards(summary),
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


def _cards(summary: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """(title, count, text) of each total: of some always, of the others where there are any."""
    unknown = summary.get("would_send", 0)
    every = [
        ("created", summary["would_create"], "not in HiringCenter yet"),
        ("updated", summary["would_update"], "people whose record changes"),
        ("created or updated", unknown, "found out when they are sent; pull first to know"),
        ("kept", summary["kept"], "rows with fields that stay as HiringCenter has them"),
        ("unchanged", summary["unchanged"], "rows with nothing to send"),
        ("rejected", summary["rejected"], "rows that can't be sent as they are"),
        ("not sent", summary["failed"], "rows of which it isn't known what became of them"),
    ]
    always = ("created", "updated", "unchanged", "rejected")
    return [each for each in every if each[1] or each[0] in always]
