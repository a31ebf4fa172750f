"""The report: facts are what the run history says, everything is escaped, nothing is fetched."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.runs import Freshness, RunRecord
from pipelines.report import report_page as charts
from pipelines.report.report_page import (
    ReportFacts,
    ShownPush,
    WindowUse,
    by_minute,
    changes,
    hourly,
    render,
    rows_over_time,
    without_cells,
)

NOW_S = 1_760_000_000.0
EVIL = "<script>alert('x')</script>"


def pull(hours_ago: float, rows: int, *, lasted_s: float = 60, requests: int = 60) -> RunRecord:
    start_ms = int((NOW_S - hours_ago * 3600) * 1000)
    summary = {
        "requests": requests,
        "resources": {"notes": {"rows": rows, "rows_written": 5, "rows_deleted": 2}},
    }
    end_ms = start_ms + int(lasted_s * 1000)
    return RunRecord(f"r{hours_ago}", "pull", "d", "ok", start_ms, end_ms, summary, None)


def facts(runs: list[RunRecord], **more: object) -> ReportFacts:
    windows = [WindowUse(300, 60, 60, [0] * 59 + [300]), WindowUse(6000, 3600, 3600, [0] * 24)]
    return ReportFacts(NOW_S, "duckdb:x", runs=runs, windows=windows, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 500])
def test_any_number_of_runs_makes_one_self_contained_page(count: int):
    """No script, no link to anywhere, one document."""
    page = render(facts([pull(index, 100 + index) for index in range(count)]))
    assert page.count("<html") == 1
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=.(?!data:)|url\(|@import", page)
    assert ("No run yet" in page) == (count == 0)


def test_text_of_servers_and_files_is_escaped():
    """Errors, reasons, names: none becomes markup."""
    failed = RunRecord(EVIL, "push", "d", "failed", 0, 1, {"rows": 1}, EVIL)
    page = render(
        facts(
            [failed],
            account=EVIL,
            hold=EVIL,
            pushes=[ShownPush(failed, [(EVIL, 1)])],
            freshness={EVIL: Freshness(EVIL, "r1", EVIL, EVIL, 1, int(NOW_S * 1000), None)},
        )
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 7


@given(st.text(max_size=20))
def test_reasons_of_one_kind_are_one_whatever_the_cell_held(cell: str):
    """Quotes of either kind in the cell, and the apostrophes of the sentence around it."""
    message = f"Email: {cell!r} isn't an address; it can't be sent."
    assert without_cells(message) == "Email: … isn't an address; it can't be sent."


def test_rows_over_time_and_changes_come_from_the_pulls():
    """Oldest first; runs that never counted are left out."""
    unfinished = RunRecord("x", "pull", "d", "running", 0, None, {}, None)
    runs = [pull(1, 20), pull(2, 10), unfinished]
    assert [rows for _, rows in rows_over_time(runs, "notes")] == [10, 20]
    assert changes(runs[0]) == (5, 2)
    assert changes(unfinished) == (0, 0)


def test_a_run_across_an_hour_counts_in_both():
    """Requests are spread over the run's duration."""
    across = pull(1.5, 1, lasted_s=3600, requests=100)
    assert hourly([across], NOW_S, 3) == [0, 50, 50]


def test_requests_by_minute_are_counted_from_now():
    """The newest minute is last; older than the picture is left out."""
    assert by_minute([0, 59.9, 60, 61, 3599, 3600])[-2:] == [2, 2]
    assert sum(by_minute([0, 59.9, 60, 61, 3599, 3600])) == 5


@given(st.lists(st.tuples(st.floats(0, 1e10), st.floats(0, 1e9)), max_size=30))
def test_lines_stay_in_their_box(raw: list[tuple[float, float]]):
    """Whatever the points, no coordinate leaves the picture."""
    drawn = charts.line(sorted(raw), label="x", start_s=0, end_s=1e10)
    for x in re.findall(r"[MH](-?[\d.]+)", drawn):
        assert 0 <= float(x) <= charts.WIDTH
    for y in re.findall(r"V(-?[\d.]+)", drawn):
        assert 0 <= float(y) <= charts.HEIGHT


def test_a_push_that_was_stopped_says_how_many_rows_it_has_not_sent():
    """Its counts add up; one row is no "1 rows"."""
    counts = {"created": 2, "updated": 0, "unchanged": 0, "rejected": 0, "failed": 0}
    stopped = RunRecord(
        "r", "push", "d", "stopped", 0, 1, {"rows": 5, **counts, "not_sent": 3}, None
    )
    page = render(facts([stopped], pushes=[ShownPush(stopped)]))
    assert "5 rows: 2 created" in page
    assert "0 failed, 3 not sent" in page
    done = RunRecord("r", "push", "d", "ok", 0, 1, {"rows": 1, **counts, "not_sent": 0}, None)
    page = render(facts([done], pushes=[ShownPush(done)]))
    assert "1 row: 2 created" in page
    assert "not sent" not in page
