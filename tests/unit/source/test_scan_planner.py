"""How the lists of one run share its requests."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from connector.settings import PullSettings, RateLimit
from connector.source.scan_planner import Events, ScanPlans, plan_scans
from connector.source.scans import (
    Checkpoint,
    ListState,
    ResourceFacts,
    ScanKind,
    ScanOutcome,
    ScanPlan,
    begin,
    list_state,
)
from tests.simulator.accounts import Account

HOUR_MS = 3_600_000
NOW_MS = 1_800_000_000_000
PAGES = {"prospects": 500, "notes": 250, "tasks": 100, "meetings": 50}
NARROW = {"prospects": 1, "notes": 1, "tasks": 20, "meetings": 10}
KINDS = {"prospects": "head", "notes": "head", "tasks": "open", "meetings": "window"}


def known(name: str, pages: int | None = None, **changes: Any) -> ListState:
    """A list that was read in full three hours ago, and narrowly since."""
    facts: dict[str, Any] = {
        "newest_ms": {"createdAt": NOW_MS - HOUR_MS}, "order": "createdAt", "page_size": 200,
        "last_full_ms": NOW_MS - 3 * HOUR_MS, "pages": pages or PAGES[name],
        "narrow_pages": {KINDS[name]: NARROW[name]},
    }  # fmt: skip
    return ListState(ResourceFacts(**{**facts, **changes}))


def all_known(**changes: Any) -> dict[str, ListState]:
    return {name: known(name, **changes) for name in PAGES}


def planned(lists: dict[str, ListState], **options: Any) -> ScanPlans:
    limits = [RateLimit(300, 60.0), RateLimit(6000, 3600.0)]
    return plan_scans(
        lists, **{"pull": PullSettings(), "limits": limits, "now_ms": NOW_MS, **options}
    )


def kinds(plans: ScanPlans) -> dict[str, str]:
    return {name: "+".join(plan.kind for plan in made) for name, made in plans.items()}


def left_over(name: str, read: int, *, max_pages: int | None = None) -> Checkpoint:
    plan = ScanPlan(name, ScanKind.FULL, "", max_pages=max_pages)
    return Checkpoint(plan, NOW_MS - HOUR_MS, {"seen": {"pages": read}})


def test_a_pull_with_nothing_new_keeps_to_the_share_for_two_days():
    """180,000 rows, hourly: 620 requests at most in each pull; each list in full every day."""
    account = Account(100_000, is_still=True)
    account.run(49)
    costs = [pull.requests for pull in account.pulls[1:]]
    assert account.pulls[0].requests == 901
    assert max(costs) <= 620
    assert sum(costs) / len(costs) < 500
    for each in account.lists.values():
        ends_s = [*each.ends_s, account.pulls[-1].begin_s]
        assert max(b - a for a, b in pairwise(ends_s)) <= 24 * 3600


def test_all_lists_are_read_in_full_while_the_share_holds_for_them_together():
    """600 of 6000: with one page more, it doesn't."""
    lists = {"notes": known("notes", 500), "tasks": known("tasks", 100)}
    assert kinds(planned(lists)) == {"notes": "full", "tasks": "full"}
    lists["tasks"] = known("tasks", 101)
    assert kinds(planned(lists)) == {"notes": "full", "tasks": "open"}
    lists["notes"] = known("notes", 600)
    assert kinds(planned(lists)) == {"notes": "head", "tasks": "full"}


def test_a_list_pulled_alone_has_the_share_alone():
    """`hiringcenter pull notes` reads what it wouldn't together with the others."""
    assert kinds(planned({"prospects": known("prospects", 600)})) == {"prospects": "full"}


def test_the_rest_of_the_share_goes_where_no_narrow_scan_finds_changes():
    """Prospects in no order are read before all others, and others narrowly."""
    lists = all_known()
    lists["prospects"] = known("prospects", order=None)
    assert kinds(planned(lists)) == KINDS | {"prospects": "full", "meetings": "full"}


def test_then_where_full_scans_find_most_per_request():
    """Tasks that change more often than notes come first, however long those wait."""
    lists = all_known()
    lists["notes"] = known("notes", last_full_ms=NOW_MS - 9 * HOUR_MS)
    lists["prospects"] = known("prospects", 550)
    lists["tasks"] = known("tasks", 340, found_per_hour=5.0)
    assert kinds(planned(lists)) == KINDS | {"tasks": "full", "meetings": "full"}
    lists["tasks"] = known("tasks", 340)
    assert kinds(planned(lists)) == KINDS | {"notes": "full", "meetings": "full"}


def test_then_in_turn():
    """The longest without a full scan first."""
    lists = all_known()
    for name, hours in (("prospects", 4), ("notes", 5)):
        lists[name] = known(name, last_full_ms=NOW_MS - hours * HOUR_MS)
    assert kinds(planned(lists))["notes"] == "full"
    lists["prospects"] = known("prospects", last_full_ms=NOW_MS - 6 * HOUR_MS)
    made = planned(lists)
    assert kinds(made) == KINDS | {"prospects": "full", "meetings": "full"}
    assert made["prospects"][0].reason == (
        "a full scan costs 500 requests, the other lists leave 569 of the share of 600"
    )


def test_a_first_narrow_scan_shows_what_it_costs():
    """Until then no full scan takes its place, since that might leave too little for it."""
    lists = all_known(narrow_pages={})
    assert kinds(planned(lists)) == KINDS


def test_what_a_full_scan_finds_is_remembered_by_the_hour():
    """Not of a first one, which finds everything."""
    state: dict[str, Any] = {}
    for hours, written in ((0, 9000), (4, 80)):
        now_ms = NOW_MS + hours * HOUR_MS
        full = ScanPlan("notes", ScanKind.FULL, "")
        scan = begin(list_state("notes", state, now_ms=now_ms), full, now_ms=now_ms)
        scan.counts["rows_written"] = written
        scan.end(ScanOutcome(True, "", pages=5))
        state = scan.booked()
        found = list_state("notes", state, now_ms=now_ms).facts.found_per_hour
        assert found == (20.0 if hours else 0.0)


def test_a_scan_that_is_due_runs_beyond_the_share():
    """And leaves nothing of it to others."""
    lists = all_known()
    lists["prospects"] = known("prospects", 2000, last_full_ms=NOW_MS - 24 * HOUR_MS)
    made = planned(lists)
    assert kinds(made) == KINDS | {"prospects": "full"}
    assert made["prospects"][0].max_pages is None
    assert "due" in made["prospects"][0].reason


def test_lists_that_would_be_due_together_are_parted_once():
    """One of them is read early, in each pull; the last one when it is due."""
    waits = {name: known(name, 2000, last_full_ms=NOW_MS - 21 * HOUR_MS - 1) for name in PAGES}
    early = []
    for hours in range(3):
        made = planned(waits, now_ms=NOW_MS + hours * HOUR_MS)
        full = [name for name, kind in kinds(made).items() if kind == "full"]
        assert len(full) == 1
        early += full
        del waits[full[0]]
    (last,) = waits
    assert kinds(planned(waits, now_ms=NOW_MS + 2 * HOUR_MS))[last] == KINDS[last]
    assert early == ["prospects", "notes", "tasks"]


def test_an_unfinished_full_scan_is_resumed_first_and_its_cost_counts():
    """What it still has to read is missing for the others."""
    lists = all_known()
    lists["prospects"] = replace(lists["prospects"], left=left_over("prospects", 100))
    made = planned(lists)
    assert kinds(made) == dict.fromkeys(PAGES, "full") | {"notes": "head"}
    assert made["prospects"][0].reason.startswith("resumes the full scan begun at")
    lists["prospects"] = replace(lists["prospects"], left=left_over("prospects", 300))
    assert kinds(planned(lists))["notes"] == "full"


def test_an_unfinished_narrow_scan_is_resumed_before_a_full_one():
    """What it has read isn't read again."""
    lists = all_known()
    narrow = ScanPlan("notes", ScanKind.HEAD, "", since_ms=1, order="createdAt")
    lists["notes"] = replace(lists["notes"], left=Checkpoint(narrow, NOW_MS, {"seen": {}}))
    assert kinds(planned(lists))["notes"] == "head"


def test_a_list_without_a_scan_yet_is_read_whatever_it_costs():
    """Beside lists that are known."""
    made = planned(all_known() | {"notes": ListState(ResourceFacts())})
    assert made["notes"][0].reason == "no complete scan yet"


def test_a_share_smaller_than_any_list_leaves_narrow_scans():
    """As long as they cost little. A list without one is read a page at a time."""
    for share in (0.0001, 0.001):
        assert kinds(planned(all_known(), pull=PullSettings(full_share=share))) == KINDS
    lists = all_known() | {"prospects": known("prospects", order=None)}
    (plan,) = planned(lists, pull=PullSettings(full_share=0.0001))["prospects"]
    assert (plan.kind, plan.max_pages) == (ScanKind.FULL, 1)


def test_a_narrow_scan_that_takes_much_of_the_hour_is_not_made():
    """Its list is read at an even pace instead, once a day."""
    tasks = known("tasks", 10_000, narrow_pages={"open": 2000}, last_full_ms=NOW_MS)
    read, runs = 0, 0
    while read < 10_000:
        facts, now_ms = replace(tasks.facts, full_begun_ms=NOW_MS), NOW_MS + runs * HOUR_MS
        left = left_over("tasks", read, max_pages=1)
        lists = {name: known(name, last_full_ms=now_ms) for name in PAGES}
        lists["tasks"] = ListState(facts, left)
        made = planned(lists, now_ms=now_ms, pull=PullSettings(full_share=0.01))
        (plan,) = made["tasks"]
        assert "2,000 requests, too much for each run" in plan.reason
        read, runs = read + (plan.max_pages or 10_000), runs + 1
    assert 22 <= runs <= 25


# --- lists too big for a daily full scan ----------------------------------------------------------


def test_a_big_list_is_read_in_parts_after_its_narrow_scan():
    """One list at a time: the one that was begun, else the longest without a full scan."""
    lists = all_known()
    lists["prospects"] = known("prospects", 50_000)
    lists["notes"] = known("notes", 25_000, last_full_ms=NOW_MS - 99 * HOUR_MS)
    made = planned(lists)
    assert kinds(made) == KINDS | {"notes": "head+full", "meetings": "full", "tasks": "full"}
    narrow, part = made["notes"]
    assert "all of it in about 56 runs" in narrow.reason
    assert (part.max_pages, part.in_parts) == (448, True)
    begun = replace(lists["prospects"].facts, full_begun_ms=NOW_MS - HOUR_MS)
    lists["prospects"] = ListState(begun, left_over("prospects", 100, max_pages=100))
    assert kinds(planned(lists))["prospects"] == "head+full"


def test_a_scan_in_parts_is_resumed_for_weeks():
    """Fifty thousand requests take days; an ordinary scan of that age is begun again."""
    for in_parts, is_resumed in ((True, True), (False, False)):
        plan = ScanPlan("notes", ScanKind.FULL, "", max_pages=5, in_parts=in_parts)
        left = Checkpoint(plan, NOW_MS - 20 * 24 * HOUR_MS, {"seen": {"pages": 5}})
        state = {"facts": ResourceFacts().to_json(), "scan": left.to_json()}
        assert (list_state("notes", state, now_ms=NOW_MS).left is not None) is is_resumed


def test_where_page_tokens_do_not_last_a_big_list_is_read_at_once_and_seldom():
    """Fifty thousand requests are 3.5 tenths of a day's: every three and a half days."""
    plan = ScanPlan("prospects", ScanKind.FULL, "", max_pages=300, in_parts=True)
    facts = known("prospects", 50_000).facts
    for restarts in (1, 2):
        outcome = ScanOutcome(False, "", unfinished=True, restarts=restarts)
        facts = facts.after(plan, outcome, started_ms=NOW_MS)
        assert facts.parts_lost is (restarts == 2)
    lists = all_known() | {"prospects": ListState(facts)}
    assert kinds(planned(lists))["prospects"] == "head"
    (made,) = planned(lists, now_ms=NOW_MS + 81 * HOUR_MS)["prospects"]
    assert (made.kind, made.max_pages) == (ScanKind.FULL, None)
    assert "one every 3 days" in made.reason


# --- events ---------------------------------------------------------------------------------------


def test_events_stand_for_every_scan_of_prospects_until_a_full_one_is_due():
    """However small or large the list is; what they leave of the share goes to the others."""
    for pages in (1, 500, 600, 10_000, 50_000):
        lists = all_known() | {"prospects": known("prospects", pages)}
        plan = planned(lists, events=Events(None))["prospects"][0]
        assert (plan.kind, plan.since_ms, plan.params) == (ScanKind.EVENTS, None, {})
    lists = all_known()
    assert kinds(planned(lists, events=Events(None))) == {
        "prospects": "events", "notes": "full", "tasks": "full", "meetings": "full"
    }  # fmt: skip
    old = {name: known(name, last_full_ms=NOW_MS - 25 * HOUR_MS) for name in PAGES}
    assert kinds(planned(old, events=Events(None)))["prospects"] == "full"


def test_prospects_too_big_for_a_daily_scan_are_read_in_parts_and_by_events():
    lists = {"prospects": known("prospects", 50_000)}
    narrow, part = planned(lists, events=Events(None))["prospects"]
    assert (narrow.kind, part.kind, part.max_pages) == (ScanKind.EVENTS, ScanKind.FULL, 600)


def test_without_trust_in_events_prospects_are_scanned_as_before_and_it_says_why():
    lists = {"prospects": known("prospects", 700), "notes": known("notes", 100)}
    doubted = planned(lists, events=Events("the receiver was down"))
    assert kinds(doubted) == kinds(planned(lists)) == {"prospects": "head", "notes": "full"}
    assert "events don't stand for it: the receiver was down" in doubted["prospects"][0].reason


def test_more_people_than_pages_are_read_in_full():
    """A full scan takes fewer requests than their look-ups; whether events are trusted or not."""
    lists = {"prospects": known("prospects", 500)}
    for why_not in (None, "no receiver has been running"):
        enough = planned(lists, events=Events(why_not, waiting=501))["prospects"][0]
        assert enough.kind is ScanKind.FULL
        assert enough.reason == "events name 501 people, and a full scan costs 500 requests"
    assert kinds(planned(lists, events=Events(None, waiting=500))) == {"prospects": "events"}


def test_a_full_scan_that_was_cut_is_resumed_before_events_are_relied_on():
    cut = ListState(known("prospects", 500).facts, left_over("prospects", 100))
    assert kinds(planned({"prospects": cut}, events=Events(None))) == {"prospects": "full"}


def test_events_leave_watermarks_and_unfinished_scans_alone():
    """They have read nothing of the list."""
    before = known("prospects", 50_000, full_begun_ms=NOW_MS - HOUR_MS)
    before = ListState(before.facts, left_over("prospects", 100, max_pages=600))
    plan = planned({"prospects": before}, events=Events(None))["prospects"][0]
    scan = begin(before, plan, now_ms=NOW_MS, keeps_ids=False)
    scan.end(ScanOutcome(False, ""))
    stored = list_state("prospects", scan.booked(), now_ms=NOW_MS)
    assert stored.left == before.left
    assert stored.facts == replace(
        before.facts, narrow_pages={**before.facts.narrow_pages, "events": 0}
    )
    alone = begin(ListState(before.facts), plan, now_ms=NOW_MS)
    assert list_state("prospects", alone.state(), now_ms=NOW_MS).left is None
