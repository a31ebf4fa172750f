"""Which scan, why, and what it costs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.settings import PullSettings, RateLimit
from connector.source import RESOURCES
from connector.source.scan_planner import ScanPlans, plan_scans
from connector.source.scans import (
    Doubt,
    DoubtKind,
    ListState,
    ResourceFacts,
    ScanKind,
    ScanOutcome,
    ScanPlan,
)

HOUR_MS = 3_600_000
NOW_MS = 1_800_000_000_000
NEWEST = {"createdAt": NOW_MS - 2 * HOUR_MS, "updatedAt": NOW_MS - HOUR_MS}


def facts(pages: int, **changes: Any) -> ResourceFacts:
    known: dict[str, Any] = {
        "newest_ms": NEWEST, "last_complete_ms": NOW_MS - 3 * HOUR_MS,
        "last_full_ms": NOW_MS - 3 * HOUR_MS, "rows": pages * 200,
        "pages": pages, "page_size": 200, "order": "createdAt",
    }  # fmt: skip
    return ResourceFacts(**{**known, **changes})


def planned(resource: str, known: ResourceFacts, **options: Any) -> ScanPlan:
    """The only scan of a run of this list alone."""
    (made,) = planned_together({resource: ListState(known)}, **options)[resource]
    return made


def planned_together(lists: dict[str, ListState], **options: Any) -> ScanPlans:
    limits = [RateLimit(300, 60.0), RateLimit(6000, 3600.0)]
    options = {"pull": PullSettings(), "limits": limits, "now_ms": NOW_MS, **options}
    return plan_scans(lists, **options)


@pytest.mark.parametrize("resource", RESOURCES)
def test_the_first_scan_is_full(resource: str):
    """Nothing is known, so all is new."""
    made = planned(resource, ResourceFacts())
    assert (made.kind, made.max_pages) == (ScanKind.FULL, None)


@pytest.mark.parametrize(("pages", "kind"), [(600, ScanKind.FULL), (601, ScanKind.HEAD)])
def test_full_while_it_costs_no_more_than_the_share(pages: int, kind: ScanKind):
    """Ten per cent of 6000 an hour are 600 requests, or 120,000 rows."""
    assert planned("notes", facts(pages)).kind is kind


@pytest.mark.parametrize(
    ("resource", "kind"),
    [("prospects", "head"), ("notes", "head"), ("tasks", "open"), ("meetings", "window")],
)
def test_above_the_share_each_list_has_its_narrow_scan(resource: str, kind: str):
    """Until the next periodic full one."""
    assert planned(resource, facts(2000)).kind == kind


def test_a_complete_scan_in_the_future_delays_no_scan():
    """It began while the clock was wrong; else no full scan would come until then."""
    known = facts(2000, last_full_ms=NOW_MS + 400 * 24 * HOUR_MS)
    assert planned("notes", known).kind is ScanKind.FULL


def test_prospects_of_no_seen_order_are_read_in_parts():
    """There is no filter by time: a share of the list in each run, endlessly."""
    made = planned("prospects", facts(2000, order=None))
    assert (made.kind, made.max_pages) == (ScanKind.FULL, 600)


def test_a_head_scan_reads_down_to_the_watermark_less_the_lookback():
    """By the field that the list is ordered by, not by the newest of all fields."""
    made = planned("notes", facts(2000))
    assert made.since_ms == NEWEST["createdAt"] - 300_000
    made = planned("prospects", facts(2000, order="updatedAt"))
    assert (made.order, made.since_ms) == ("updatedAt", NEWEST["updatedAt"] - 300_000)


def test_a_day_after_the_last_complete_scan_the_next_is_full():
    """At once while that leaves half of the hour to others."""
    known = facts(2000, last_full_ms=NOW_MS - 24 * HOUR_MS)
    made = planned("notes", known)
    assert (made.kind, made.max_pages) == (ScanKind.FULL, None)


def test_a_full_scan_that_the_hour_does_not_hold_is_spread_over_runs():
    """And resumed, whatever the clock says meanwhile."""
    known = facts(8000, last_full_ms=NOW_MS - 24 * HOUR_MS)
    made = planned("notes", known)
    assert (made.kind, made.max_pages) == (ScanKind.FULL, 3000)
    stopped = known.after(made, ScanOutcome(False, "", unfinished=True), started_ms=NOW_MS)
    assert stopped.newest_ms == known.newest_ms
    again = planned("notes", stopped, now_ms=NOW_MS + HOUR_MS)
    assert (again.kind, again.max_pages) == (ScanKind.FULL, 3000)
    assert "resumes" in again.reason


def test_full_when_asked_for():
    """Whatever it costs."""
    assert planned("notes", facts(50_000), full=True).kind is ScanKind.FULL


def test_one_per_cent_of_the_hour_is_kept_in_a_pull_with_nothing_new():
    """100,000 prospects, 50,000 notes, 20,000 tasks, 10,000 meetings: no full scan above 60."""
    pull = PullSettings(full_share=0.01)
    pages = {"prospects": 500, "notes": 250, "tasks": 100, "meetings": 50}
    kinds = {name: planned(name, facts(count), pull=pull).kind for name, count in pages.items()}
    assert kinds == {"prospects": "head", "notes": "head", "tasks": "open", "meetings": "full"}


# --- --since ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resource", "kind"),
    [("prospects", "head"), ("notes", "head"), ("tasks", "full"), ("meetings", "window")],
)
def test_a_bounded_scan_since_a_date_reads_only_what_the_list_needs(resource: str, kind: str):
    """And says so where a list can't be narrowed by time."""
    made = planned(resource, facts(2000), since_ms=NOW_MS - 100 * HOUR_MS)
    assert made.kind == kind
    assert made.backfill


def test_since_leaves_the_watermark_alone():
    """The next pull reads on where the last one stopped."""
    made = planned("notes", facts(2000), since_ms=5)
    outcome = ScanOutcome(False, "", newest_ms={"createdAt": NOW_MS})
    assert facts(2000).after(made, outcome, started_ms=NOW_MS) == facts(2000)


# --- what stays -------------------------------------------------------------------------------

outcomes = st.builds(
    ScanOutcome,
    complete=st.booleans(),
    why=st.just(""),
    pages=st.integers(0, 9000),
    newest_ms=st.dictionaries(st.sampled_from(["createdAt", "updatedAt"]), st.integers(0, NOW_MS)),
    order=st.sampled_from([None, "createdAt", "updatedAt"]),
    unfinished=st.booleans(),
)


@given(st.lists(st.tuples(outcomes, st.booleans()), max_size=8), st.sampled_from(RESOURCES))
def test_watermarks_never_fall_and_facts_survive_json(
    runs: list[tuple[ScanOutcome, bool]], resource: str
):
    """Through any sequence of scans; and every plan made from them is one sentence long."""
    known = ResourceFacts()
    for number, (outcome, full) in enumerate(runs):
        made = planned(resource, known, full=full, now_ms=NOW_MS + number * HOUR_MS)
        assert made.reason
        assert ScanPlan.from_json(json.loads(json.dumps(made.to_json()))) == made
        later = known.after(made, outcome, started_ms=NOW_MS + number)
        for field, newest in known.newest_ms.items():
            assert later.newest_ms[field] >= newest
        known = ResourceFacts.from_json(json.loads(json.dumps(later.to_json())))
        assert known == later


def test_only_a_complete_scan_counts_as_one():
    """Narrow ones move watermarks, and nothing else."""
    narrow = ScanOutcome(False, "", pages=1, rows=3, newest_ms={"createdAt": NOW_MS})
    known = facts(2000).after(planned("notes", facts(2000)), narrow, started_ms=NOW_MS)
    assert known.newest_ms["createdAt"] == NOW_MS
    assert (known.pages, known.last_complete_ms) == (2000, NOW_MS - 3 * HOUR_MS)


# --- doubts -----------------------------------------------------------------------------------


def doubtful(gap: int) -> ScanOutcome:
    doubt = Doubt(DoubtKind.COUNT, "", gap=gap, listed=200)
    return ScanOutcome(False, "", pages=1200, rows=9, page_size=200, order="createdAt", doubt=doubt)


def test_a_full_scan_in_doubt_counts_for_the_plan_and_not_as_complete():
    """The next ones are narrow again: a doubt doesn't cost a full scan each time."""
    full = planned("notes", ResourceFacts())
    known = ResourceFacts().after(full, doubtful(3), started_ms=NOW_MS - HOUR_MS)
    assert (known.last_full_ms, known.last_complete_ms) == (NOW_MS - HOUR_MS, None)
    known = replace(known, newest_ms=NEWEST)
    assert planned("notes", known).kind is ScanKind.HEAD
    assert ResourceFacts.from_json(json.loads(json.dumps(known.to_json()))) == known


def test_a_gap_that_grows_in_small_steps_is_new_in_the_end():
    """The one that was reported is remembered, until another is reported or there is none."""
    full, known, reported = planned("notes", ResourceFacts(), full=True), ResourceFacts(), []
    for gap in (1, 5, 9, 13, 14, 2, 13, 0, 1):
        outcome = doubtful(gap) if gap else ScanOutcome(True, "")
        if outcome.doubt is not None and not outcome.doubt.is_known(known.doubt):
            reported.append(gap)
        known = known.after(full, outcome, started_ms=NOW_MS)
    assert reported == [1, 13, 13, 1]


def test_facts_of_other_versions_are_read():
    """0.1 had no doubts; a newer version may know more."""
    old = {"newest_ms": {}, "last_complete_ms": 5, "rows": 1, "pages": 1, "page_size": 200}
    assert ResourceFacts.from_json(old).last_full_ms == 5
    assert ResourceFacts.from_json({**old, "added_later": 1}).pages == 1


def test_a_narrow_scan_expects_what_the_last_of_its_kind_read():
    """Not the pages of the full scan; a scan back to a date (`--since`) isn't a measure for
    either."""
    known = facts(700)
    head = planned("notes", known)
    assert (head.kind, known.pages_of(head)) == (ScanKind.HEAD, None)
    after = known.after(head, ScanOutcome(False, "", pages=3), started_ms=NOW_MS)
    back = planned("notes", after, since_ms=NOW_MS - 90 * HOUR_MS)
    after = after.after(back, ScanOutcome(False, "", pages=50), started_ms=NOW_MS)
    after = ResourceFacts.from_json(json.loads(json.dumps(after.to_json())))
    assert after.pages_of(head) == 3
    assert after.pages_of(back) is None
    assert after.pages_of(planned("notes", after, full=True)) == 700


@pytest.mark.parametrize("resource", ["tasks", "meetings"])
def test_a_refused_filter_is_asked_again_after_a_while(resource: str):
    """Until then the list is read in parts, as one that can't be narrowed; the reason is
    reported."""
    narrow = planned(resource, facts(700))
    full = replace(narrow, kind=ScanKind.FULL, params={})
    after = facts(700).after(full, ScanOutcome(True, "", filter_refused=True), started_ms=NOW_MS)
    after = ResourceFacts.from_json(json.loads(json.dumps(replace(after, pages=700).to_json())))
    soon = planned(resource, after, now_ms=NOW_MS + HOUR_MS)
    assert (soon.kind, soon.max_pages) == (ScanKind.FULL, 600)
    assert "refused the filter of this list" in soon.reason
    later = replace(after, last_full_ms=NOW_MS + 24 * HOUR_MS)
    again = planned(resource, later, now_ms=NOW_MS + 25 * HOUR_MS)
    assert again.kind is narrow.kind
    assert later.after(again, ScanOutcome(False, ""), started_ms=NOW_MS).filter_refused_ms is None


def test_a_big_list_whose_filter_is_refused_is_read_in_parts_too():
    """At once what leaves half of the hour to others; the refusal is remembered after the first."""
    assert planned("tasks", facts(700)).full_max_pages is None
    narrow = planned("tasks", facts(3500))
    assert narrow.full_max_pages == 3000
    full = replace(narrow, kind=ScanKind.FULL, params={}, max_pages=3000)
    unfinished = ScanOutcome(False, "", unfinished=True, filter_refused=True)
    after = facts(3500).after(full, unfinished, started_ms=NOW_MS)
    assert (after.filter_refused_ms, after.full_begun_ms) == (NOW_MS, NOW_MS)
