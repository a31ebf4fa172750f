"""A small dataset, and by hand what every mart makes of it.

The history begins on January 5, 2026, a Monday. The last pull was on January 21 at 12:00, and the
last complete scan of prospects on January 20 at 00:00.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Table = tuple[dict[str, str], list[tuple[Any, ...]]]


def t(text: str) -> str:
    """`01-21 12:00` of 2026, or `2025-12-01`, as ISO 8601 in UTC."""
    day, _, clock = text.partition(" ")
    return f"{day if len(day) > 5 else f'2026-{day}'}T{clock or '00:00'}:00+00:00"


def _columns(**types: str) -> dict[str, str]:
    return types


_OURS = _columns(_hc_deleted_at="time", _hc_hash="text")
_PROSPECT = _columns(
    id="text", first_name="text", last_name="text", current_stage="text", current_stage_id="text",
    labels="json", created_at="time",
)  # fmt: skip
_ADA = ("p1", "Ada", "A", "Interview", "s2", '["referral", "fair"]', t("2025-12-01"))
_BOB = ("p2", "Bob", "B", "New", "s1", '["fair", null, "fair"]', t("01-08 10:00"))
_CY = ("p3", "Cy", "C", "New", "s1", '["fair"]', t("2025-12-10"))
_DI = ("p4", "Di", "D", "Hired", "s3", "[]", t("2025-11-01"))
_HOPE = ("p5", "Hope", "H", None, None, None, None)  # deleted before the history began


def _was(person: tuple[Any, ...], stage: str, stage_id: str) -> tuple[Any, ...]:
    return (*person[:3], stage, stage_id, *person[5:], None, "h")


TABLES: dict[str, Table] = {
    "prospects": (
        _PROSPECT | _OURS,
        [
            (*_ADA, None, "h"), (*_BOB, None, "h"), (*_CY, t("01-15"), "h"), (*_DI, None, "h"),
            (*_HOPE, t("2025-12-31"), "h"),
        ],
    ),
    "prospects_history": (
        _PROSPECT | _OURS | _columns(
            _hc_valid_from="time", _hc_valid_to="time", _hc_changed_after="time",
            _hc_changed_before="time",
        ),
        [  # Ada has moved once; in between, only her name was corrected
            (*_was(_ADA, "New", "s1"), t("01-05"), t("01-07"), None, t("01-05")),
            (*_was(_ADA, "New", "s1"), t("01-07"), t("01-13 12:00"), t("01-06"), t("01-07")),
            (*_was(_ADA, "Interview", "s2"), t("01-13 12:00"), None, t("01-12 12:00"),
             t("01-13 12:00")),
            (*_was(_BOB, "New", "s1"), t("01-08 12:00"), None, None, t("01-08 12:00")),
            # the answer took an hour: Cy may have gone before it had arrived
            (*_was(_CY, "New", "s1"), t("01-05"), t("01-15"), None, t("01-05 01:00")),
            # Di's stage was renamed, she was deleted, came back, and moved on
            (*_was(_DI, "Offer", "s4"), t("01-05"), t("01-10"), None, t("01-05")),
            (*_was(_DI, "Offered", "s4"), t("01-10"), t("01-12"), t("01-09"), t("01-10")),
            (*_was(_DI, "Offered", "s4"), t("01-16"), t("01-20 06:00"), t("01-12"), t("01-16")),
            (*_was(_DI, "Hired", "s3"), t("01-20 06:00"), None, t("01-20"), t("01-20 06:00")),
        ],
    ),
    "notes": (
        _columns(id="text", prospect_id="text", user_id="text", body="text", created_at="time",
                 created_by_api="bool") | _OURS,
        [
            ("n1", "p1", "u1", "Rang.", t("01-06 10:00"), False, None, "h"),
            ("n2", "p2", "u1", None, t("01-11 23:30"), None, None, "h"),  # in Tokyo it is Monday
            ("n3", "p1", "u2", "Sent.", t("01-07"), True, None, "h"),
            ("n4", "p4", "u1", "Gone.", t("01-08"), False, t("01-09"), "h"),
        ],
    ),
    "tasks": (
        _columns(id="text", prospect_id="text", task="text", assigned_to="text", due_at="time",
                 completed_at="time") | _OURS,
        [
            ("t1", "p1", "Call", "u1", t("01-20"), None, None, "h"),
            ("t2", "p1", "Write", "u1", t("01-22"), None, None, "h"),
            ("t3", "p2", "Ask", "u1", t("01-01"), t("01-06 09:00"), None, "h"),
            ("t4", "p2", "Wait", "u1", t("01-01"), None, t("01-09"), "h"),
            ("t5", "p9", "Look", None, t("01-21 11:59"), None, None, "h"),
        ],
    ),
    "meetings": (
        _columns(id="text", prospect_id="text", meeting_date="time", owner_id="text") | _OURS,
        [
            ("m1", "p1", t("01-14 10:00"), "u2", None, "h"),
            ("m2", "p3", t("01-30"), "u2", None, "h"),
            ("m3", "p2", t("01-14"), "u1", t("01-15"), "h"),
        ],
    ),
    "_hc_runs": (
        _columns(run_id="text", kind="text", status="text", started_at="time"),
        [("r1", "push", "ok", t("01-10 09:59")), ("r2", "pull", "ok", t("01-21 12:00"))],
    ),
    "_hc_freshness": (
        _columns(resource="text", rows="int", last_pull_at="time", last_complete_at="time",
                 complete="bool", why_incomplete="text", last_event_at="time"),
        [
            ("prospects", 3, t("01-21 12:00"), t("01-20"), None, None, t("01-21 11:00")),
            ("notes", 3, t("01-21 06:00"), None, False, "the list has no end", None),
            ("tasks", 4, t("01-21 12:00"), t("01-21 12:00"), True, None, None),
        ],
    ),
    "_hc_push_results": (
        _columns(run_id="text", row_number="int", status="text", pushed_at="time",
                 record_kind="text", kept_fields="json"),
        [
            ("r1", 2, "created", t("01-10 10:00"), "prospects", None),
            ("r1", 3, "updated", t("01-10 10:01"), "prospects", '["title"]'),
            ("r1", 4, "unchanged", t("01-10 10:02"), "prospects", None),
            ("r1", 5, "rejected", t("01-10 10:00"), "prospects", None),
            ("r1", 6, "failed", t("01-10 10:03"), "prospects", None),
            ("r0", 2, "created", t("01-02"), None, None),  # of version 0.1
        ],
    ),
}  # fmt: skip


def _rows(columns: str, *rows: Sequence[Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns.split(), row, strict=True)) for row in rows]


def _live(table: str, *lists: str) -> list[dict[str, Any]]:
    """Rows of a table without those that are deleted; lists: columns that are JSON there."""
    columns, rows = TABLES[table]
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    live = [row for row in found if row.pop("_hc_deleted_at") is None]
    for row in live:
        del row["_hc_hash"]
        row |= {name: json.loads(row[name]) for name in lists}
    return live


EXPECTED: dict[str, list[dict[str, Any]]] = {
    "live_prospects": _live("prospects", "labels"),
    "live_notes": _live("notes"),
    "live_tasks": _live("tasks"),
    "live_meetings": _live("meetings"),
    "stage_history": _rows(
        "prospect_id stay stage stage_id former_stage next_stage is_start_known entered_at "
        "entered_after entered_before outcome left_at left_after left_before "
        "hours_at_least hours_at_most",
        ("p1", 1, "New", "s1", None, "Interview", False, t("01-05"), t("2025-12-01"), t("01-05"),
         "moved", t("01-13 12:00"), t("01-12 12:00"), t("01-13 12:00"), 180, 1044),
        ("p1", 2, "Interview", "s2", "New", None, True, t("01-13 12:00"), t("01-12 12:00"),
         t("01-13 12:00"), None, None, None, None, None, None),
        ("p2", 1, "New", "s1", None, None, True, t("01-08 12:00"), t("01-08 10:00"),
         t("01-08 12:00"), None, None, None, None, None, None),
        ("p3", 1, "New", "s1", None, None, False, t("01-05"), t("2025-12-10"), t("01-05 01:00"),
         "deleted", t("01-15"), t("01-05"), t("01-15"), 0, 864),
        ("p4", 1, "Offered", "s4", None, None, False, t("01-05"), t("2025-11-01"), t("01-05"),
         "deleted", t("01-12"), t("01-10"), t("01-12"), 120, 1728),
        ("p4", 2, "Offered", "s4", None, "Hired", True, t("01-16"), t("01-12"), t("01-16"),
         "moved", t("01-20 06:00"), t("01-20"), t("01-20 06:00"), 96, 198),
        ("p4", 3, "Hired", "s3", "Offered", None, True, t("01-20 06:00"), t("01-20"),
         t("01-20 06:00"), None, None, None, None, None, None),
    ),
    "time_in_stage": _rows(
        "stage people_now moved_on deleted median_days_at_least median_days_at_most "
        "longest_days_at_least median_days_now_at_least longest_days_now_at_least",
        ("New", 1, 1, 1, 7.5, 43.5, 7.5, 11.5, 11.5),
        ("Interview", 1, 0, 0, None, None, None, 6.5, 6.5),
        ("Offered", 0, 1, 1, 4, 8.25, 4, None, None),
        ("Hired", 1, 0, 0, None, None, None, 0, 0),
    ),
    "funnel_weekly": _rows(
        "week stage entered moved_on deleted people_at_end",
        ("2026-01-05", "New", 1, 0, 0, 3),
        ("2026-01-12", "New", 0, 1, 1, 1),
        ("2026-01-19", "New", 0, 0, 0, 1),
        ("2026-01-05", "Interview", 0, 0, 0, 0),
        ("2026-01-12", "Interview", 1, 0, 0, 1),
        ("2026-01-19", "Interview", 0, 0, 0, 1),
        ("2026-01-05", "Offered", 0, 0, 0, 1),
        ("2026-01-12", "Offered", 1, 0, 1, 1),
        ("2026-01-19", "Offered", 0, 1, 0, 0),
        ("2026-01-05", "Hired", 0, 0, 0, 0),
        ("2026-01-12", "Hired", 0, 0, 0, 0),
        ("2026-01-19", "Hired", 1, 0, 0, 1),
    ),
    "activity_by_user": _rows(
        "week user_id notes tasks_completed meetings",
        ("2026-01-05", "u1", 2, 1, 0),
        ("2026-01-12", "u2", 0, 0, 1),
        ("2026-01-26", "u2", 0, 0, 1),
    ),
    "overdue_tasks": _rows(
        "task_id task assigned_to prospect_id first_name last_name current_stage due_at "
        "days_overdue as_of",
        ("t1", "Call", "u1", "p1", "Ada", "A", "Interview", t("01-20"), 1, t("01-21 12:00")),
        ("t5", "Look", None, "p9", None, None, None, t("01-21 11:59"), 0, t("01-21 12:00")),
    ),
    "source_quality": _rows(
        "label people with_note with_meeting percent_with_meeting first_created_at last_created_at",
        ("referral", 1, 1, 1, 100, t("2025-12-01"), t("2025-12-01")),
        ("fair", 2, 2, 1, 50, t("2025-12-01"), t("01-08 10:00")),
        (None, 1, 0, 0, 0, t("2025-11-01"), t("2025-11-01")),
    ),
    "push_outcomes": _rows(
        "run_id kind record_kind status started_at first_row_at last_row_at input_rows created "
        "updated unchanged rejected failed with_kept_fields percent_settled",
        ("r1", "push", "prospects", "ok", t("01-10 09:59"), t("01-10 10:00"), t("01-10 10:03"),
         5, 1, 1, 1, 1, 1, 1, 60),
        ("r0", None, "prospects", None, None, t("01-02"), t("01-02"), 1, 1, 0, 0, 0, 0, 0, 100),
    ),
    "freshness": _rows(
        "resource live_rows last_pull_at last_complete_at is_complete why_incomplete last_event_at "
        "hours_behind hours_since_complete as_of",
        ("prospects", 3, t("01-21 12:00"), t("01-20"), None, None, t("01-21 11:00"), 0, 36,
         t("01-21 12:00")),
        ("notes", 3, t("01-21 06:00"), None, False, "the list has no end", None, 6, None,
         t("01-21 12:00")),
        ("tasks", 4, t("01-21 12:00"), t("01-21 12:00"), True, None, None, 0, 0, t("01-21 12:00")),
    ),
}  # fmt: skip
