"""One pass over one list: where it continues, where it ends, and what it never claims."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.api.client import ApiClient
from connector.api.envelopes import Page
from connector.errors import (
    ExpiringPages,
    Refused,
    Unauthorized,
    UnexpectedAnswer,
    Unreachable,
)
from connector.source.deletions import Found, LookUps
from connector.source.list_pages import overlapping
from connector.source.scan import Scan
from connector.source.scans import (
    Checkpoint,
    Doubt,
    DoubtKind,
    ResourceFacts,
    ScanKind,
    ScannedPage,
    ScanPlan,
    usual_page_size,
)
from tests.unit.source.lists import ListServer, expired, records

NOW_MS = 20_000_000


def scan(server: ListServer, resource: str = "notes", **options: Any) -> Scan:
    plan = options.pop("plan", None) or ScanPlan(resource, ScanKind.FULL, "test")
    checkpoint = options.pop("checkpoint", None) or Checkpoint(plan, NOW_MS)
    return Scan(cast(ApiClient, server), checkpoint, **{"page_size": 10, **options})


def kept(page: ScannedPage) -> Checkpoint:
    """The page's checkpoint, as a state keeps it."""
    return Checkpoint.from_json(json.loads(json.dumps(page.checkpoint.to_json())))


def ids(pages: list[ScannedPage]) -> list[str]:
    return [record["id"] for page in pages for record in page.records]


def read(made: Scan) -> list[str]:
    return ids(list(made))


def doubt_of(made: Scan) -> Doubt:
    """Of a scan that was read; it isn't complete."""
    assert made.outcome is not None
    assert not made.outcome.complete
    assert made.outcome.doubt is not None
    return made.outcome.doubt


# --- pages ----------------------------------------------------------------------------------------


def test_a_full_scan_costs_one_request_a_page():
    """And is complete when the server names no next page."""
    server = ListServer(records(95))
    made = scan(server)
    assert read(made) == [row["id"] for row in server.rows]
    assert len(server.asked) == 10
    assert made.outcome is not None
    assert made.outcome.complete
    assert made.outcome.pages == 10
    assert made.outcome.rows == 95


def test_an_empty_list_is_complete():
    """One request says so."""
    server = ListServer([])
    made = scan(server)
    assert read(made) == []
    assert made.outcome is not None
    assert made.outcome.complete


def test_a_short_page_is_not_the_end():
    """A server that clamps the limit gives fewer rows than asked for, and a next page."""
    server = ListServer(records(95), clamps=7)
    made = scan(server)
    assert len(read(made)) == 95
    assert made.outcome is not None
    assert made.outcome.complete


@pytest.mark.parametrize("rows", [0, 20])
def test_an_end_without_a_list_proves_nothing(rows: int):
    """`items: null` at the end: what came is kept, deletions and watermarks wait."""

    def ends_in_null(page: Page, _: Any) -> Page:
        if page.items:
            return replace(page, next_params={"pageToken": "20"})
        return replace(page, is_sure=False)

    made = scan(ListServer(records(rows), answer=ends_in_null), page_size=20)
    assert len(read(made)) == rows
    assert made.outcome is not None
    assert not made.outcome.complete
    assert made.outcome.newest_ms == {}
    assert "proves nothing" in made.outcome.why


def test_a_count_makes_up_for_an_end_without_a_list():
    """All that `totalCount` says were there."""

    def null(page: Page, _: Any) -> Page:
        return replace(page, is_sure=page.next_params is not None)

    made = scan(ListServer(records(20), counted=True, answer=null), page_size=10)
    read(made)
    assert made.outcome is not None
    assert made.outcome.complete


def test_an_unsure_end_stays_unsure_over_a_kill():
    """The run after it has nothing left to read, and must not take the scan for complete."""
    server = ListServer([], answer=lambda page, _: replace(page, is_sure=False))
    (page,) = scan(server)
    resumed = scan(server, checkpoint=page.checkpoint)
    assert list(resumed) == []
    assert resumed.outcome is not None
    assert not resumed.outcome.complete


def test_an_empty_page_with_a_next_one_is_not_the_end():
    """Filters behind the server's paging leave holes."""

    def hole(page: Page, params: Any) -> Page:
        gap = params.get("pageToken") == "10"
        return Page([], page.next_params, None) if gap else page

    made = scan(ListServer(records(40), answer=hole))
    assert len(read(made)) == 30
    assert made.outcome is not None
    assert made.outcome.complete


def test_a_page_that_names_itself_ends_the_scan_and_keeps_what_was_read():
    """Not in an endless loop, and not as a complete list."""

    def loop(page: Page, params: Any) -> Page:
        return Page(page.items, {"pageToken": "10"}, None)

    made = scan(ListServer(records(40), answer=loop))
    assert len(read(made)) == 20
    assert doubt_of(made).kind is DoubtKind.ENDLESS


def test_one_token_for_all_pages_is_followed_while_pages_bring_rows():
    """A server may keep the place itself, and name the same token until there is no more."""
    numbers = iter(range(10))

    def scroll(page: Page, params: Any) -> Page:
        number = next(numbers)
        rows = server.rows[number * 10 :][:10]
        return Page(rows, {"pageToken": "0"} if number < 3 else None, None)

    server = ListServer(records(35), answer=scroll)
    made = scan(server)
    assert read(made) == [row["id"] for row in server.rows]
    assert made.outcome is not None
    assert made.outcome.complete


def test_empty_pages_without_an_end_are_stopped():
    """Each with a new token."""
    numbers = iter(range(10**6))
    server = ListServer([], answer=lambda *_: Page([], {"pageToken": f"t{next(numbers)}"}, None))
    made = scan(server)
    read(made)
    assert doubt_of(made).kind is DoubtKind.ENDLESS
    assert "empty" in doubt_of(made).why
    assert len(server.asked) <= 60


@pytest.mark.parametrize("capped_at", [None, 20])
@pytest.mark.parametrize("shift", [0, 3])
def test_a_list_that_begins_again_under_new_tokens_is_stopped(capped_at: int | None, shift: int):
    """By pages that bring no new id, wherever they are cut, and never by a count, which may be
    capped: all rows are there, and the scan isn't called complete."""
    numbers = iter(range(10**6))

    def wrap(page: Page, params: Any) -> Page:
        number = next(numbers)
        start = number * 10 % (len(server.rows) + shift)
        again = (server.rows * 2)[start:][:10]
        return Page(again, {"pageToken": f"t{number}"}, capped_at)

    server = ListServer(records(200), answer=wrap)
    made = scan(server)
    assert len(set(read(made))) == 200
    assert len(server.asked) <= 50
    assert doubt_of(made).kind is DoubtKind.ENDLESS


def test_odd_items_in_the_middle_cost_no_other_row():
    """They are handed on, so that nothing that was read is lost."""
    rows: list[Any] = records(30)
    rows[5:5] = [None, "text", {"noId": 1}]
    pages = list(scan(ListServer(rows)))
    assert len(ids(pages)) == 30
    assert [item for page in pages for item in page.malformed] == [None, "text", {"noId": 1}]


@pytest.mark.parametrize(("accepted", "used"), [(100, 100), (60, 50), (30, 25)])
def test_a_refused_limit_falls_to_one_that_is_accepted(accepted: int, used: int):
    """400 on `limit`: smaller ones are tried, and the one that works is remembered."""
    server = ListServer(records(300), refuses_above=accepted)
    made = scan(server, page_size=200)
    assert len(read(made)) == 300
    assert made.outcome is not None
    assert made.outcome.page_size == used
    assert len(server.asked) <= 300 / used + 4


def test_a_refusal_at_every_limit_is_raised():
    """The first page, refused at every size."""
    with pytest.raises(Refused):
        read(scan(ListServer(records(3), refuses_above=1)))


# --- startAfter: a millisecond that rows share ----------------------------------------------------


def by_time(rows: list[dict[str, Any]], resource: str) -> ListServer:
    """A server that continues strictly after a millisecond, whatever shares it."""
    field, rising = ("dueAt", True) if resource == "tasks" else ("createdAt", False)
    rows = sorted(rows, key=lambda row: row[field], reverse=not rising)

    def answer(_: Page, params: Any) -> Page:
        after = int(params.get("startAfter", -(10**15) if rising else 10**15))
        left = [row for row in rows if (row[field] > after if rising else row[field] < after)]
        items = left[: int(params["limit"])]
        last = items[-1][field] if len(left) > len(items) else None
        return Page(items, {"startAfter": str(last)} if last else None, None)

    return ListServer(rows, answer=answer)


@pytest.mark.parametrize("resource", ["notes", "tasks"])
@given(times=st.lists(st.integers(1, 12), max_size=60))
def test_rows_that_share_a_millisecond_are_never_lost_at_a_page_boundary(
    resource: str, times: list[int]
):
    """On both sides of it, also when more of them share it than fit on a page."""
    field = "dueAt" if resource == "tasks" else "createdAt"
    rows = [{"id": f"r{number}", field: ms} for number, ms in enumerate(times)]
    made = scan(by_time(rows, resource), resource, page_size=4)
    assert set(read(made)) == {row["id"] for row in rows}


def test_a_page_token_that_isnt_a_time_is_left_as_it_is():
    """Whatever a future revision puts there."""
    page = Page([{"id": "1"}], {"startAfter": "abc"}, None)
    assert overlapping("notes", page) == {"startAfter": "abc"}


# --- lists that change while they are read --------------------------------------------------------


def test_rows_that_come_while_scanning_make_repetitions_and_no_error():
    """Newest first: every new row moves the rest down, and a page begins with known rows."""
    server = ListServer(records(50), counted=True)
    server.before = lambda number: server.rows.insert(
        0, {"id": f"new{number}", "createdAt": NOW_MS}
    )
    made = scan(server, "prospects")
    assert {f"r{number}" for number in range(50)} <= set(read(made))
    assert made.outcome is not None
    assert made.outcome.complete
    assert made.outcome.order == "createdAt"


def test_a_deletion_while_scanning_skips_no_row():
    """Rows move up across the page boundary: the page before is read again, for one request."""
    server = ListServer(records(50), counted=True)

    def delete(number: int) -> None:
        if number == 3:
            del server.rows[0:2]

    server.before = delete
    made = scan(server, "prospects")
    assert {row["id"] for row in server.rows} <= set(read(made))
    assert len(server.asked) == 6
    assert made.outcome is not None
    assert made.outcome.complete


@given(st.lists(st.tuples(st.integers(1, 12), st.booleans(), st.integers(0, 60)), max_size=12))
def test_what_was_there_all_the_time_is_always_read(changes: list[tuple[int, bool, int]]):
    """Whatever is added or deleted at any place between any two pages of a counted list, as long
    as no deletion hides behind an addition between the same two pages."""
    server = ListServer(records(60), counted=True)
    by_request: dict[int, tuple[bool, int]] = {number: (add, at) for number, add, at in changes}

    def change(number: int) -> None:
        if number not in by_request:
            return
        add, at = by_request[number]
        if add:
            server.rows.insert(min(at, len(server.rows)), {"id": f"new{number}"})
        elif at < len(server.rows):
            del server.rows[at]

    server.before = change
    found = set(read(scan(server, "prospects")))
    always = {row["id"] for row in server.rows if row["id"].startswith("r")}
    assert always <= found


# --- tokens that expire, runs that are killed -----------------------------------------------------


def test_an_expired_token_restarts_the_list():
    """May read again, must not lose."""
    server = ListServer(records(50))

    def expire(number: int) -> None:
        if number == 4:
            raise expired()

    server.before = expire
    made = scan(server)
    assert set(read(made)) == {row["id"] for row in server.rows}
    assert len(server.asked) == 10  # the last page is full: one asks whether it is the last
    assert made.outcome is not None
    assert made.outcome.complete


def test_tokens_that_always_expire_end_in_an_error():
    """Bounded: restarted while that gets further, and then reported."""
    server = ListServer(records(50))

    def expire(_: int) -> None:
        if "pageToken" in server.asked[-1] and server.asked[-1]["pageToken"] == "20":
            raise expired()

    server.before = expire
    with pytest.raises(ExpiringPages, match="expired"):
        read(scan(server))
    assert len(server.asked) <= 16


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_scan_resumes_at_its_last_loaded_page(cut: int):
    """After a kill, with the same plan, and without reading what was loaded."""
    server = ListServer(records(50), counted=True)
    first = iter(scan(server, "prospects"))
    loaded = [next(first) for _ in range(cut)]
    checkpoint = kept(loaded[-1])
    again = scan(server, "prospects", checkpoint=checkpoint)
    rest = list(again)
    assert ids(loaded) + ids(rest) == [row["id"] for row in server.rows]
    assert len(server.asked) == 5
    assert again.outcome is not None
    assert again.outcome.complete
    assert again.outcome.order == "createdAt"
    assert again.outcome.newest_ms == {"createdAt": 10_000_000}
    assert again.outcome.pages == 5


def test_an_expired_checkpoint_costs_a_restart_and_no_row():
    """Days after the kill."""
    server = ListServer(records(50))
    checkpoint = next(iter(scan(server))).checkpoint

    def expire(number: int) -> None:
        if number == 2:
            raise expired()

    server.before = expire
    made = scan(server, checkpoint=checkpoint)
    assert set(read(made)) == {row["id"] for row in server.rows}
    assert made.outcome is not None
    assert made.outcome.complete


def test_a_scan_in_parts_stops_at_its_page_limit():
    """And says that it isn't complete, until the run that reaches the end."""
    server = ListServer(records(50))
    plan = ScanPlan("notes", ScanKind.FULL, "spread", max_pages=2)
    found, checkpoint, outcomes = [], None, []
    for _ in range(3):
        made = scan(server, plan=plan, checkpoint=checkpoint)
        pages = list(made)
        found += ids(pages)
        checkpoint = pages[-1].checkpoint
        outcomes.append(made.outcome)
    assert found == [row["id"] for row in server.rows]
    assert [(one.complete, one.unfinished) for one in outcomes if one] == [
        (False, True), (False, True), (True, False),
    ]  # fmt: skip


# --- head, open, window ---------------------------------------------------------------------------


def head(since_ms: int, resource: str = "notes") -> ScanPlan:
    return ScanPlan(resource, ScanKind.HEAD, "test", since_ms=since_ms, order="createdAt")


def test_a_head_scan_stops_below_the_watermark():
    """Inclusive: rows that share the watermark's millisecond are read again."""
    server = ListServer(records(500))
    since_ms = server.rows[25]["createdAt"]
    made = scan(server, plan=head(since_ms))
    assert server.rows[25]["id"] in read(made)
    assert len(server.asked) == 3
    assert made.outcome is not None
    assert not made.outcome.complete


def test_a_head_scan_of_nothing_new_is_one_request():
    """Whatever the list's size."""
    server = ListServer(records(500))
    read(scan(server, plan=head(server.rows[0]["createdAt"])))
    assert len(server.asked) == 1


def test_a_head_scan_reads_on_where_the_list_is_not_in_order():
    """A server that sorts otherwise costs requests, never rows."""
    server = ListServer(records(60))
    server.rows[3], server.rows[40] = server.rows[40], server.rows[3]
    made = scan(server, plan=head(9_990_000))
    assert len(read(made)) == 60


def test_a_row_without_a_time_does_not_end_a_head_scan():
    """Null and absent `createdAt` say nothing about where we are."""
    server = ListServer([{"id": "a"}, {"id": "b", "createdAt": None}] * 10 + records(20))
    read(scan(server, plan=head(server.rows[25]["createdAt"])))
    assert len(server.asked) == 3


def test_a_head_scan_of_a_list_that_is_cut_asks_for_the_rest():
    """More is new than one page holds, and there is no next page."""
    server = ListServer(records(50), paged=False, counted=True)
    made = scan(server, plan=head(9_955_000, "prospects"))
    assert len(set(read(made))) == 50
    assert made.outcome is not None
    assert not made.outcome.complete


def tasks(count: int) -> list[Any]:
    return [{"id": f"t{n}", "completedAt": None if n % 2 else 5} for n in range(count)]


def open_plan(look_max: int) -> ScanPlan:
    params = {"incompleteOnly": "true"}
    return ScanPlan("tasks", ScanKind.OPEN, "test", params=params, look_max=look_max)


def is_open(row: Any, name: str, _: str) -> bool:
    return name != "incompleteOnly" or row["completedAt"] is None


def test_an_open_scan_looks_at_each_task_that_left_the_open_ones():
    """Completed meanwhile: its row comes; deleted: its id is known to be deleted."""
    server = ListServer(tasks(40), matches=is_open)
    made = scan(server, plan=open_plan(5), expected_ids=["t1", "t2", "gone"])
    found = read(made)
    assert "t2" in found
    assert server.records_asked == ["gone", "t2"]
    assert made.outcome is not None
    assert made.outcome.gone == ("gone",)
    assert not made.outcome.complete


def test_an_open_scan_reads_all_where_too_many_left():
    """The whole list is cheaper than single looks, and finds deletions besides."""
    server = ListServer(tasks(40), matches=is_open)
    made = scan(server, plan=open_plan(3), expected_ids=["t0", "t2", "t4", "t6"])
    pages = list(made)
    assert set(ids(pages)) == {row["id"] for row in server.rows}
    assert server.records_asked == []
    assert made.outcome is not None
    assert made.outcome.complete
    assert pages[-1].checkpoint.plan.kind is ScanKind.FULL


# --- lists without page tokens --------------------------------------------------------------------


def by_filter(row: Any, name: str, value: str) -> bool:
    if name == "label":
        return value in row.get("labels", [])
    field = {"stage": "currentStage", "title": "title", "company": "company", "name": "firstName"}[
        name
    ]
    return bool(row.get(field) == value)


def prospects(count: int) -> list[Any]:
    return [
        {"id": f"p{n}", "currentStage": f"s{n % 4}", "labels": [f"l{n % 3}"] if n % 5 else []}
        for n in range(count)
    ]


def test_all_at_once_where_the_server_gives_it():
    """One request shows how many, the second brings them."""
    server = ListServer(prospects(3000), paged=False, counted=True)
    made = scan(server, "prospects", page_size=200)
    assert set(read(made)) == {row["id"] for row in server.rows}
    assert len(server.asked) == 2
    assert made.outcome is not None
    assert made.outcome.complete


@pytest.mark.parametrize("how", [{"clamps": 1000}, {"refuses_above": 1000}])
def test_slices_by_stage_where_all_at_once_is_too_much(how: dict[str, int]):
    """Until as many different ids are there as totalCount says; few requests more than pages."""
    server = ListServer(prospects(3000), paged=False, counted=True, matches=by_filter, **how)
    made = scan(server, "prospects", page_size=200)
    assert set(read(made)) == {row["id"] for row in server.rows}
    assert len(server.asked) <= 15
    assert made.outcome is not None
    assert made.outcome.complete


def mixed(some: list[Any], others: list[Any]) -> list[Any]:
    return [row for pair in zip(some, others, strict=True) for row in pair]


def by_part(row: Any, name: str, value: str) -> bool:
    """As `by_filter`, where `name` finds parts of names."""
    if name != "name":
        return by_filter(row, name, value)
    return value.casefold() in f"{row.get('firstName', '')} {row.get('lastName', '')}".casefold()


@pytest.mark.parametrize(
    "found_by",
    [
        lambda n: {"title": f"t{n % 5}"},
        lambda n: {"company": f"c{n % 5}"},
        lambda n: {"lastName": f"{'abcdefghij'[n % 10]}{'klmnopqrst'[n // 10 % 10]}{n}"},
        lambda n: {"firstName": "ÄÖÜŠŽĐ"[n % 6] + "名", "title": ""},
    ],
)
def test_rows_with_neither_stage_nor_label_are_found_by_other_filters(found_by: Any):
    """Titles and companies as seen, names and letters of names: within the requests allowed."""
    rows = mixed(prospects(120), [{"id": f"x{n}", **found_by(n)} for n in range(120)])
    server = ListServer(rows, paged=False, counted=True, matches=by_part, clamps=40)
    made = scan(server, "prospects")
    assert set(read(made)) == {row["id"] for row in rows}
    assert len(server.asked) <= 300
    assert made.outcome is not None
    assert made.outcome.complete


def test_a_name_filter_for_whole_names_is_not_asked_for_letters():
    """One letter that known names have, and no row: the rest of the alphabet is left out."""
    rows = mixed(prospects(60), [{"id": f"x{n}", "firstName": f"Ann{n % 4}"} for n in range(60)])
    server = ListServer(rows, paged=False, counted=True, matches=by_filter, clamps=20)
    made = scan(server, "prospects")
    assert set(read(made)) == {row["id"] for row in rows}
    assert sum(len(asked.get("name", "xx")) == 1 for asked in server.asked) == 1


def test_rows_in_no_slice_are_counted_in_the_doubt():
    """And totalCount; what was found was handed on."""
    rows = prospects(100) + [{"id": f"lost{n}"} for n in range(30)]
    server = ListServer(rows, paged=False, counted=True, matches=by_filter, clamps=40)
    made = scan(server, "prospects")
    assert len(set(read(made))) == 100
    doubt = doubt_of(made)
    assert (doubt.kind, doubt.gap) == (DoubtKind.COUNT, 30)
    assert "totalCount is 130" in doubt.why
    assert len(server.asked) < 100


@pytest.mark.parametrize("is_limit_ignored", [False, True])
def test_a_row_more_than_was_requested_may_be_followed_by_others(is_limit_ignored: bool):
    """A server that looks ahead by one returns it; one that ignores the limit returns all."""

    class OneMore(ListServer):
        def page(self, resource: str, params: Any, **options: Any) -> Page:
            limit = 75 if is_limit_ignored else int(params["limit"]) + 1
            return super().page(resource, {**params, "limit": str(limit)}, **options)

    server = OneMore(records(75), paged=False)
    made = scan(server, "prospects", page_size=20)
    assert len(set(read(made))) == 75
    assert made.outcome is not None
    assert made.outcome.complete
    assert len(server.asked) <= 3


def test_a_row_that_no_slice_finds_is_searched_for_once():
    """Every slice is tried for it in one scan; the next one finds the others, new ones too, and
    then gives up after a few more requests."""
    named = [{"id": f"x{n}", "firstName": f"Ann{n % 20}", "title": f"t{n % 9}"} for n in range(120)]
    rows = [*mixed(prospects(120), named), {"id": "lost"}]
    server = ListServer(rows, paged=False, counted=True, matches=by_part, clamps=40)
    first = scan(server, "prospects")
    assert len(set(read(first))) == 240
    doubt = doubt_of(first)
    assert (doubt.kind, doubt.gap) == (DoubtKind.COUNT, 1)
    searched = len(server.asked)
    server.asked.clear()
    server.rows.append({"id": "new", "title": "t0"})
    again = scan(server, "prospects", known=doubt)
    assert set(read(again)) == {row["id"] for row in server.rows} - {"lost"}
    assert len(server.asked) <= searched / 2
    assert doubt_of(again).is_known(doubt)


def test_filters_that_the_server_ignores_do_not_pass_for_slices():
    """Everything comes back, whatever is asked: not asked again and again."""
    server = ListServer(prospects(3000), paged=False, counted=True, clamps=40)
    made = scan(server, "prospects")
    read(made)
    assert doubt_of(made).gap == 2960
    assert len(server.asked) <= 20


def test_a_stage_filter_that_wants_ids_gets_ids():
    """Its documentation doesn't say which."""
    rows = [{**row, "currentStageId": f"id-{row['currentStage']}"} for row in prospects(160)]

    def matches(row: Any, name: str, value: str) -> bool:
        return row["currentStageId"] == value if name == "stage" else by_filter(row, name, value)

    server = ListServer(rows, paged=False, counted=True, matches=matches, clamps=60)
    assert len(set(read(scan(server, "prospects")))) == 160


def test_a_list_without_tokens_and_count_is_asked_for_more_until_it_is_not_full():
    """A page that is filled to the last row may be a part."""
    server = ListServer(prospects(3000), paged=False, matches=by_filter)
    made = scan(server, "prospects", page_size=200)
    assert len(set(read(made))) == 3000
    assert made.outcome is not None
    assert made.outcome.complete


def test_a_cut_list_without_count_is_never_called_complete():
    """The doubt names totalCount, which would have shown it."""
    server = ListServer(prospects(3000), paged=False, matches=by_filter, clamps=1000)
    made = scan(server, "prospects")
    read(made)
    assert doubt_of(made).kind is DoubtKind.FULL_PAGE
    assert "no totalCount" in doubt_of(made).why


def test_tokens_that_stop_early_are_noticed_by_the_count():
    """Servers that page no deeper than so many rows."""

    def shallow(page: Page, params: Any) -> Page:
        deep = int(params.get("pageToken", 0)) >= 30
        return Page(page.items, None if deep else page.next_params, page.total_count)

    sliced = ListServer(prospects(160), counted=True, matches=by_filter, clamps=10, answer=shallow)
    assert len(set(read(scan(sliced, "prospects")))) == 160
    useless = ListServer(prospects(160), counted=True, clamps=10, answer=shallow)
    made = scan(useless, "prospects")
    read(made)
    assert doubt_of(made).gap == 120


# --- watermarks -----------------------------------------------------------------------------------


def test_watermarks_come_from_data_and_never_from_the_future():
    """Null, absent and malformed times are ordinary; a clock that is ahead is clamped to the
    start."""
    rows = [
        {"id": "a", "createdAt": NOW_MS + 10**9, "updatedAt": None},
        {"id": "b", "createdAt": "soon", "updatedAt": 5},
        {"id": "c", "updatedAt": True},
        {"id": "d", "createdAt": 2**70},
        {"id": "e", "updatedAt": -(2**70)},
    ]
    made = scan(ListServer(rows))
    (page,) = made
    assert made.outcome is not None
    assert made.outcome.newest_ms == {"createdAt": NOW_MS, "updatedAt": 5}
    assert str(2**70) not in json.dumps(page.checkpoint.to_json())  # states hold 64 bits
    first = next(iter(scan(counting(ListServer(records(30)), lambda _: 2**70))))
    assert str(2**70) not in json.dumps(first.checkpoint.to_json())


@pytest.mark.parametrize(
    ("times", "order"),
    [
        ([(3, 3), (2, 9), (1, 1)], "createdAt"),
        ([(1, 3), (9, 2), (2, 1)], "updatedAt"),
        ([(1, 1), (2, 2)], None),
        ([(5, 5), (5, 5)], None),
        ([(None, 3), (7, None), (None, 2)], "updatedAt"),
    ],
)
def test_the_order_of_a_list_is_seen_not_assumed(times: list[Any], order: str | None):
    """Newest first by a field, if all rows say so and at least two differ."""
    rows = [{"id": f"r{n}", "createdAt": c, "updatedAt": u} for n, (c, u) in enumerate(times)]
    made = scan(ListServer(rows), "prospects")
    read(made)
    assert made.outcome is not None
    assert made.outcome.order == order


# --- ends and resumptions that look like others ---------------------------------------------------


def test_a_list_that_ends_where_a_page_does_is_recognized_for_one_request():
    """Full, the last one, uncounted: a smaller page shows whether the list has page tokens."""
    server = ListServer(prospects(20), matches=by_filter)
    made = scan(server, "prospects", page_size=20)
    assert len(read(made)) == 20
    assert len(server.asked) == 2
    assert made.outcome is not None
    assert made.outcome.complete


def test_a_resumed_open_scan_leaves_single_looks_to_the_next():
    """It doesn't know which of the expected rows the killed run had listed."""
    server = ListServer(tasks(80), matches=is_open)
    checkpoint = next(iter(scan(server, plan=open_plan(5)))).checkpoint
    expected = [row["id"] for row in server.rows]
    made = scan(server, checkpoint=checkpoint, expected_ids=expected)
    assert len(read(made)) == 30
    assert server.records_asked == []


def test_a_killed_head_scan_that_had_come_below_the_watermark_is_through():
    """Its last place says so; nothing is asked for again."""
    server = ListServer(records(500), counted=True)
    plan = head(server.rows[5]["createdAt"], "prospects")
    checkpoint = list(scan(server, plan=plan))[-1].checkpoint
    server.asked.clear()
    assert read(scan(server, checkpoint=checkpoint)) == []
    assert server.asked == []


def test_a_scan_in_parts_whose_page_tokens_expire_reads_all_at_once():
    """Otherwise each run would restart, and none would ever reach the end."""
    server = ListServer(records(50))
    plan = ScanPlan("notes", ScanKind.FULL, "spread", max_pages=2)
    checkpoint = list(scan(server, plan=plan))[-1].checkpoint

    def expire(number: int) -> None:
        if number == 3:
            raise expired()

    server.before = expire
    made = scan(server, checkpoint=checkpoint)
    assert len(read(made)) == 50
    assert made.outcome is not None
    assert made.outcome.complete


def test_a_scan_in_parts_begins_again_within_its_part():
    """A list too big for one run isn't read at once, whatever its page tokens do."""
    server = ListServer(records(95))
    plan = ScanPlan("notes", ScanKind.FULL, "a part", max_pages=3, in_parts=True)
    checkpoint = list(scan(server, plan=plan))[-1].checkpoint

    def expire(number: int) -> None:
        if number == 4:
            raise expired()

    server.before = expire
    made = scan(server, checkpoint=checkpoint)
    assert read(made) == [row["id"] for row in server.rows[:30]]
    assert made.outcome is not None
    assert (made.outcome.unfinished, made.outcome.restarts) == (True, 1)


# --- counts that can't be trusted -----------------------------------------------------------------


def counting(server: ListServer, count: Any) -> ListServer:
    """`server`, whose pages say `count(rows)` instead of what is there."""
    server._answer = lambda page, _: replace(page, total_count=count(len(server.rows)))
    return server


@pytest.mark.parametrize(
    ("count", "gap"), [(lambda rows: rows + 1, 1), (lambda _: 2**31 - 1, 0), (lambda _: 2**70, 0)]
)
@pytest.mark.parametrize("paged", [True, False])
def test_a_count_that_is_too_high_is_paid_for_once(count: Any, gap: int, paged: bool):
    """A hidden row, or a number that stands for "unknown": a few requests more, and a doubt; the
    scan after it, which knows the doubt, asks for the pages alone."""
    server = counting(ListServer(records(75), paged=paged), count)
    first = scan(server, "prospects", page_size=10 if paged else 100)
    pages = 8 if paged else 1
    assert len(set(read(first))) == 75
    assert len(server.asked) <= pages + 8
    doubt = doubt_of(first)
    assert (doubt.kind, doubt.gap) == (DoubtKind.COUNT, gap)
    server.asked.clear()
    again = scan(server, "prospects", page_size=10 if paged else 100, known=doubt)
    assert len(set(read(again))) == 75
    assert len(server.asked) == pages
    assert doubt_of(again).is_known(doubt)
    assert "totalCount" in doubt_of(again).why


def test_a_gap_that_has_grown_is_looked_into_again():
    """By more than 1 % of the list, at least 10."""
    known = Doubt(DoubtKind.COUNT, "", gap=1, listed=75)
    near, far = (
        scan(counting(ListServer(records(75)), lambda rows, by=by: rows + by), known=known)
        for by in (11, 12)
    )
    read(near)
    read(far)
    assert doubt_of(near).is_known(known)
    assert not doubt_of(far).is_known(known)
    big = Doubt(DoubtKind.COUNT, "", gap=0, listed=5000)
    assert [big.covers(gap) for gap in (50, 51)] == [True, False]
    assert not Doubt(DoubtKind.FULL_PAGE, "").is_known(big)


@pytest.mark.parametrize("twin", [{"id": "r3"}, {"id": 7}, {"id": "r3", "createdAt": 1}])
def test_a_row_that_is_listed_and_counted_twice_is_not_missing(twin: dict[str, Any]):
    """On another page, or as 7 and "7": as many requests as pages, and complete."""
    rows = [*records(70), {"id": "7"}, *records(3, 70), twin]
    server = ListServer(rows, counted=True)
    made = scan(server, "prospects")
    assert len(read(made)) == 75
    assert len(server.asked) == 8
    assert made.outcome is not None
    assert made.outcome.complete


# --- startAfter: a last page that names its last row ----------------------------------------------


def naming_its_last(rows: list[dict[str, Any]], **options: Any) -> ListServer:
    """As `by_time`, with a last row named on every page, the last one too."""

    def answer(page: Page, params: Any) -> Page:
        after = int(params.get("startAfter", 10**15))
        inclusive = options.get("inclusive", False)
        left = [
            row for row in rows
            if row["createdAt"] < after or (inclusive and row["createdAt"] == after)
        ]  # fmt: skip
        items = left[: min(int(params["limit"]), options.get("clamps", 10**6))]
        return Page(items, {"startAfter": str(items[-1]["createdAt"])} if items else None, None)

    return ListServer(rows, answer=answer)


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("clamps", [10**6, 7])
@pytest.mark.parametrize("count", [1, 3, 20, 45])
def test_a_last_page_that_names_its_last_row_is_the_last(inclusive: bool, clamps: int, count: int):
    """A page below its limit that brings no new id is the end, run after run: the page size stays
    as it is, and is never what a server was once asked for."""
    server = naming_its_last(records(count), inclusive=inclusive, clamps=clamps)
    facts = ResourceFacts()
    for _ in range(9):
        server.asked.clear()
        made = scan(server, page_size=usual_page_size(facts.page_size, 10))
        assert set(read(made)) == {row["id"] for row in server.rows}
        assert len(server.asked) <= -(-count // min(clamps - 1, 9)) + 3
        assert made.outcome is not None
        assert made.outcome.complete, made.outcome.why
        facts = facts.after(made.plan, made.outcome, started_ms=NOW_MS)
        assert facts.page_size == 10


def test_rows_of_one_millisecond_are_asked_for_at_once_where_the_server_gives_them():
    """And the pages after them are as long as before."""
    rows = [*records(5), *({"id": f"m{n}", "createdAt": 9_000_000} for n in range(500))]
    rows += [{"id": f"o{n}", "createdAt": 8_000_000 - n} for n in range(30)]
    server = naming_its_last(rows)
    made = scan(server)
    assert set(read(made)) == {row["id"] for row in rows}
    assert made.outcome is not None
    assert made.outcome.complete
    assert server.asked[-1]["limit"] == "10"
    assert made.outcome.page_size == 10


def test_more_rows_of_one_millisecond_than_a_page_holds_are_skipped_and_reported():
    """What comes after them is read; those beyond the page can't be, and nothing is final."""
    rows = [*records(5), *({"id": f"m{n}", "createdAt": 9_000_000} for n in range(500))]
    rows += [{"id": f"o{n}", "createdAt": 8_000_000 - n} for n in range(30)]
    made = scan(naming_its_last(rows, clamps=10))
    found = set(read(made))
    assert {f"o{n}" for n in range(30)} | {f"r{n}" for n in range(5)} <= found
    assert doubt_of(made).kind is DoubtKind.SAME_TIME
    assert made.outcome is not None
    assert made.outcome.page_size == 10


def test_a_malformed_item_on_the_last_page_isnt_new_each_time():
    """The page that comes again has it again."""
    rows = [*records(12), {"id": None, "createdAt": 9_980_000}]
    made = scan(naming_its_last(rows))
    pages = list(made)
    assert len(set(ids(pages))) == 12
    assert made.outcome is not None
    assert made.outcome.complete


@pytest.mark.parametrize("bad", [10**18, 10**30, 0, -5, None, "200", True])
def test_a_page_size_that_no_server_honored_is_not_taken_from_a_state(bad: Any):
    """An earlier version left such; what is configured is asked for."""
    assert usual_page_size(bad, 200) == 200
    assert usual_page_size(50, 200) == 50
    server = ListServer(records(35))
    left = next(iter(scan(server))).checkpoint
    checkpoint = replace(left, resume={**(left.resume or {}), "page_size": bad})
    read(scan(server, checkpoint=checkpoint))
    assert server.asked[-1]["limit"] == "10"


# --- a full last page -----------------------------------------------------------------------------


@pytest.mark.parametrize("resource", ["prospects", "notes", "tasks", "meetings"])
def test_a_full_page_without_a_sign_of_the_end_is_probed(resource: str):
    """200 of 450 rows, no token, no count: what is there lands, and is in doubt; the next scan
    knows it, and asks for nothing but the page."""
    rows = [{"id": f"r{n}"} for n in range(450)]
    server = ListServer(rows, paged=False, clamps=200)
    made = scan(server, resource, page_size=200)
    assert len(set(read(made))) == 200
    assert len(server.asked) <= 1 + 8
    doubt = doubt_of(made)
    assert doubt.kind is DoubtKind.FULL_PAGE
    server.asked.clear()
    again = scan(server, resource, page_size=200, known=doubt)
    assert len(read(again)) == 200
    assert len(server.asked) == 1
    assert doubt_of(again).is_known(doubt)


def _names_no_place(page: Page, _params: Any) -> Page:
    """As a server does that speaks of more, and not of where."""
    return replace(page, next_params=None, cut="more, somewhere") if page.next_params else page


@pytest.mark.parametrize("clamps", [10, 7])
def test_a_page_whose_next_one_cannot_be_asked_for_is_kept_and_in_doubt(clamps: int):
    """Short as it may be: its rows land, the list isn't complete, and the next scan, which knows
    it, asks for nothing but the page. What is newest there is no watermark."""
    server = ListServer(records(45), clamps=clamps, answer=_names_no_place)
    made = scan(server)
    assert len(set(read(made))) == clamps
    assert len(server.asked) <= 1 + 8
    doubt = doubt_of(made)
    assert doubt.kind is DoubtKind.UNREACHABLE_PAGE
    assert "more, somewhere" in doubt.why
    assert made.outcome is not None
    assert made.outcome.newest_ms == {}
    server.asked.clear()
    again = scan(server, known=doubt)
    assert len(read(again)) == clamps
    assert len(server.asked) == 1
    assert doubt_of(again).is_known(doubt)


@pytest.mark.parametrize("counted", [True, False])
def test_rows_without_a_page_token_are_read_with_a_larger_limit(counted: bool):
    """And the list is complete; also where it is counted, and all of it was on that page."""
    server = ListServer(records(45), counted=counted, answer=_names_no_place)
    made = scan(server)
    assert len(set(read(made))) == 45
    assert made.outcome is not None
    assert made.outcome.complete
    assert made.outcome.newest_ms == {"createdAt": 10_000_000}


def test_a_narrow_list_whose_next_page_cannot_be_asked_for_moves_no_watermark():
    """What lies between its page and the watermark hasn't been read."""
    server = ListServer(records(45), clamps=10, answer=_names_no_place)
    plan = ScanPlan("notes", ScanKind.HEAD, "test", since_ms=10_000_000 - 30_500, order="createdAt")
    made = scan(server, plan=plan)
    read(made)
    assert made.outcome is not None
    assert made.outcome.newest_ms == {}
    assert made.outcome.doubt is not None
    assert made.outcome.doubt.kind is DoubtKind.UNREACHABLE_PAGE


def test_items_without_an_id_that_come_again_arent_new():
    """A server that ignores `startAfter` gives its first page again, the same malformed items with
    it: the search for what follows a full last page ends."""
    rows = [*records(4), None, {"id": 7.5}, *records(4, first=4)]

    def answer(page: Page, params: Any) -> Page:
        return Page(rows, None, None)

    server = ListServer(
        rows, answer=answer, before=lambda number: number < 40 or pytest.fail("endless")
    )
    made = scan(server, "notes")
    assert len(set(read(made))) == 8
    assert doubt_of(made).kind is DoubtKind.FULL_PAGE
    assert len(server.asked) <= 1 + 8


def test_a_page_token_refused_now_and_then_is_tried_once_more():
    """Where a restart got no further: 404 of one server behind a balancer, say."""

    def before(number: int) -> None:
        if number % 5 == 0:
            raise expired()

    server = ListServer(records(95), before=before)
    made = scan(server)
    assert len(set(read(made))) == 95
    assert made.outcome is not None
    assert made.outcome.complete


@pytest.mark.parametrize("last_is_full", [True, False])
def test_a_count_of_what_remains_is_seen_through_at_the_first_boundary(last_is_full: bool):
    """It falls from page to page while nothing is deleted: six requests show it, not six a page."""
    count = 100 if last_is_full else 95

    def remaining(page: Page, params: Any) -> Page:
        return replace(page, total_count=count - int(params.get("pageToken", "0")))

    server = ListServer(records(count), answer=remaining)
    made = scan(server)
    assert len(set(read(made))) == count
    assert len(server.asked) <= 10 + 6 + last_is_full
    assert made.outcome is not None
    assert made.outcome.complete


@pytest.mark.parametrize("resource", ["prospects", "notes", "tasks", "meetings"])
def test_what_a_full_page_hides_is_read_where_a_bigger_limit_brings_it(resource: str):
    """And the list is complete."""
    server = ListServer([{"id": f"r{n}"} for n in range(451)], paged=False)
    made = scan(server, resource, page_size=200)
    assert len(set(read(made))) == 451
    assert len(server.asked) <= 4
    assert made.outcome is not None
    assert made.outcome.complete


@pytest.mark.parametrize("resource", ["prospects", "notes"])
def test_what_a_full_page_hides_is_read_by_time_where_the_server_knows_it(resource: str):
    """An old server pages by `startAfter`, and never names it."""
    rows = records(450)

    def answer(page: Page, params: Any) -> Page:
        after = int(params.get("startAfter", 10**15))
        left = [row for row in rows if row["createdAt"] < after]
        return Page(left[: min(int(params["limit"]), 200)], None, None)

    made = scan(ListServer(rows, answer=answer), resource, page_size=200)
    assert set(read(made)) == {row["id"] for row in rows}
    assert made.outcome is not None
    assert made.outcome.complete


@pytest.mark.parametrize("resource", ["prospects", "notes", "tasks", "meetings"])
def test_a_full_last_page_of_a_paged_list_costs_one_request(resource: str):
    """A server that names a next page for half of it would have named one for all of it. A short
    last page, or a count that agrees, costs none."""
    for rows, counted, requests in ((40, False, 5), (39, False, 4), (40, True, 4), (0, False, 1)):
        server = ListServer([{"id": f"r{n}"} for n in range(rows)], counted=counted)
        made = scan(server, resource)
        assert len(set(read(made))) == rows
        assert len(server.asked) == requests
        assert made.outcome is not None
        assert made.outcome.complete


def test_a_scan_killed_at_a_full_last_page_asks_for_that_page_again():
    """It may not be the last; what came before it was loaded."""
    server = ListServer(records(40))
    checkpoint = kept(list(scan(server))[-1])
    server.asked.clear()
    made = scan(server, checkpoint=checkpoint)
    assert read(made) == [f"r{n}" for n in range(30, 40)]
    assert [asked["pageToken"] for asked in server.asked] == ["30", "30"]
    assert made.outcome is not None
    assert made.outcome.complete


def test_a_count_below_what_is_listed_doesnt_prove_an_end():
    """It is capped: a full page may be a part."""
    server = counting(ListServer(prospects(450), paged=False), lambda _: 100)
    made = scan(server, "prospects", page_size=200)
    assert len(set(read(made))) == 450
    assert len(server.asked) <= 4


# --- lists that aren't newest first ---------------------------------------------------------------


def test_pinned_notes_at_the_top_hide_no_new_note():
    """Nor do they cost more than the page they are on."""
    pinned = [{"id": f"p{n}", "createdAt": 1000 + n, "pin": True} for n in range(4)]
    server = ListServer(pinned + records(500))
    known_ms = server.rows[24]["createdAt"]
    made = scan(server, plan=head(known_ms), newest_known_ms=known_ms)
    assert {f"r{n}" for n in range(20)} <= set(read(made))
    assert len(server.asked) == 3
    assert made.plan.kind is ScanKind.HEAD


@pytest.mark.parametrize(
    "first", [{"createdAt": 1000}, {"createdAt": 9_000_000}, {"createdAt": None}, {}]
)
def test_a_list_whose_first_rows_are_older_than_known_ones_is_read_whole(first: dict[str, Any]):
    """Something else than the time of creation orders it: new rows may be anywhere."""
    rows = [*({"id": f"p{n}", **first} for n in range(10)), *records(60)]
    server = ListServer(rows)
    plan = replace(head(9_990_000), full_max_pages=None)
    made = scan(server, plan=plan, newest_known_ms=9_995_000)
    pages = list(made)
    assert set(ids(pages)) == {row["id"] for row in rows}
    assert made.outcome is not None
    assert made.outcome.complete
    assert {page.checkpoint.plan.kind for page in pages} == {ScanKind.FULL}


def test_a_big_list_that_is_not_newest_first_is_read_in_parts():
    """As any full scan that an hour can't hold."""
    rows = [{"id": "old", "createdAt": 1}, *records(100)]
    plan = replace(head(9_990_000), full_max_pages=3)
    made = scan(ListServer(rows), plan=plan, newest_known_ms=9_995_000)
    assert len(list(made)) == 3
    assert made.outcome is not None
    assert made.outcome.unfinished


# --- looking at single rows -----------------------------------------------------------------------


def answering(answers: dict[str, Any]) -> LookUps:
    """Look-ups of a server that answers each id as given: a record, None for 404, or an error."""

    class Server:
        def record(self, resource: str, record_id: str, *, patience_s: float, **_: float) -> Any:
            answer = answers[record_id]
            if isinstance(answer, Exception):
                raise answer
            return answer

    return LookUps(cast(ApiClient, Server()), "prospects")


def refused(status: int) -> Exception:
    if status in (401, 403):
        return Unauthorized(status=status, url_path="/x", reason="no")
    if status >= 500:
        return Unreachable(url_path="/x", tries=3, tried_s=5, last=str(status))
    if status == 200:
        return UnexpectedAnswer(status=200, url_path="/x", reason="no item")
    return Refused(status=status, url_path="/x", reason="no")


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({"id": "a"}, Found.ALIVE),
        (None, Found.DELETED),
        (refused(410), Found.DELETED),
        (refused(405), Found.UNASKABLE),
        *((answer, Found.UNDECIDED) for answer in map(refused, (200, 400, 403, 500, 503))),
        ({}, Found.UNDECIDED),
        ({"id": "b"}, Found.UNDECIDED),
    ],
)
def test_a_row_is_deleted_or_present_only_where_the_api_says_so(answer: Any, found: Found):
    """What it neither shows nor denies stays undecided, with a warning, and fails nothing."""
    look_ups = answering({"a": answer})
    assert look_ups.look("a") == (answer if found is Found.ALIVE else None)
    assert look_ups.ids[found] == ["a"]
    assert bool(look_ups.warnings) is (found is Found.UNDECIDED)


def test_a_refused_key_isnt_an_undecided_row():
    """401 is the run's failure."""
    with pytest.raises(Unauthorized):
        answering({"a": refused(401)}).look("a")


def test_a_server_in_trouble_is_not_asked_for_every_row():
    """After five failures in a row the rest waits for the next pull."""
    answers = {f"a{n}": refused(503) for n in range(20)}
    asked = [0]
    look_ups = answering(answers)
    for record_id in answers:
        look_ups.look(record_id)
        asked[0] += 1
    assert sum(look_ups.warnings.values()) == 20
    look_ups.look("unknown")
    assert look_ups.ids[Found.UNASKED][-1] == "unknown"


def test_an_answer_that_comes_late_does_not_take_back_that_the_server_is_in_trouble():
    """It was asked for before the others had failed, by another thread."""

    class Server:
        def record(self, resource: str, record_id: str, **_: float) -> Any:
            if record_id != "slow":
                raise refused(503)
            for number in range(5):
                look_ups.look(f"a{number}")
            return {"id": record_id}

    look_ups = LookUps(cast(ApiClient, Server()), "prospects")
    assert look_ups.look("slow")
    assert look_ups.has_given_up
    look_ups.look("unknown")
    assert look_ups.ids[Found.UNASKED] == ["unknown"]


def test_rows_that_can_not_be_shown_hold_the_others_up_less_and_less():
    """Fifty of them cost less than a minute and a half together, and others get time enough."""
    patience_s: list[float] = []

    class Server:
        def record(self, resource: str, record_id: str, **options: float) -> Any:
            patience_s.append(options["patience_s"])
            raise refused(200)

    look_ups = LookUps(cast(ApiClient, Server()), "prospects")
    for number in range(50):
        look_ups.look(f"a{number}")
    assert len(look_ups.ids[Found.UNDECIDED]) == 50
    assert patience_s[0] == 5
    assert min(patience_s) == 1
    assert sum(patience_s) < 90


def test_an_open_task_that_can_not_be_looked_at_stays_as_it_is():
    """403: the others are settled, and the run is informed."""
    server = ListServer(tasks(10), matches=is_open)

    def record(_: str, record_id: str, **_options: float) -> Any:
        if record_id == "secret":
            raise refused(403)
        return next((row for row in server.rows if row["id"] == record_id), None)

    server.record = record  # type: ignore[method-assign, assignment]
    made = scan(server, plan=open_plan(5), expected_ids=["t1", "t2", "gone", "secret"])
    assert "t2" in read(made)
    assert made.outcome is not None
    assert made.outcome.gone == ("gone",)
    assert made.alive == ["t2"]
    assert sum(made.warnings.values()) == 1


# --- servers of every kind ------------------------------------------------------------------------


@given(
    count=st.integers(0, 60),
    shared=st.sampled_from([1, 3]),
    clamp=st.sampled_from([7, 10, 25, 10**6]),
    style=st.sampled_from(["token", "named where there is more", "named always", "inclusive"]),
    counted=st.sampled_from([None, 0, 1, -5, 2**31 - 1]),
)
def test_no_paged_list_loses_a_row_or_is_called_complete_without_its_rows(
    count: int, shared: int, clamp: int, style: str, counted: int | None
):
    """Whatever its pages, places and counts look like, and for few requests more than pages."""
    rows = [{"id": f"r{n}", "createdAt": 10**7 - n // shared * 1000} for n in range(count)]

    def answer(_: Page, params: Any) -> Page:
        limit = min(int(params["limit"]), clamp)
        total = None if counted is None else max(0, count + counted)
        if style == "token":
            start = int(params.get("pageToken", "0"))
            more = {"pageToken": str(start + limit)} if start + limit < count else None
            return Page(rows[start : start + limit], more, total)
        after = int(params.get("startAfter", 10**15)) - (style != "inclusive")
        left = [row for row in rows if row["createdAt"] <= after]
        items = left[:limit]
        is_named = bool(items) and (style != "named where there is more" or len(left) > limit)
        place = {"startAfter": str(items[-1]["createdAt"])} if is_named else None
        return Page(items, place, total)

    server = ListServer(rows, answer=answer)
    made = scan(server)
    assert set(read(made)) == {row["id"] for row in rows}
    assert made.outcome is not None
    if counted is None or counted <= 0:
        assert made.outcome.complete, made.outcome.why
    else:
        assert doubt_of(made).kind is DoubtKind.COUNT
    assert len(server.asked) <= 2 * (count // 4 + 1) + 8


# --- filters that are refused ---------------------------------------------------------------------


def _refusing(status: int, *, above: int = 10) -> ListServer:
    """A server that takes no filter, and no page above so many rows."""

    def answer(page: Page, params: Any) -> Page:
        if "incompleteOnly" in params or int(params["limit"]) > above:
            raise Refused(status=status, url_path="/tasks", reason="unknown parameter")
        return page

    return ListServer(records(25, completedAt=None), answer=answer, matches=is_open)


@pytest.mark.parametrize("status", [400, 422])
def test_a_refused_filter_makes_the_scan_a_full_one(status: int):
    """In the same run, one request later, whatever was expected of the filter; every place is one
    of the full scan."""
    server = _refusing(status)
    made = scan(server, plan=open_plan(5), expected_ids=["r1", "gone"])
    pages = list(made)
    assert len(ids(pages)) == 25
    assert [request.get("incompleteOnly") for request in server.asked] == [
        "true", None, None, None,
    ]  # fmt: skip
    assert server.records_asked == []
    assert f"the server refuses its filter ({status}), so all of it; test" in made.plan.reason
    assert {page.checkpoint.plan.kind for page in pages} == {ScanKind.FULL}
    assert made.outcome is not None
    assert (made.outcome.complete, made.outcome.filter_refused) == (True, True)


def test_a_refused_filter_is_remembered_by_a_resumed_scan():
    """The run that read the first page was killed."""
    first = next(iter(scan(_refusing(400), plan=open_plan(5))))
    checkpoint = kept(first)
    resumed = scan(_refusing(400), checkpoint=checkpoint)
    assert len(read(resumed)) == 15
    assert resumed.outcome is not None
    assert resumed.outcome.filter_refused


def test_a_refused_page_size_isnt_a_refused_filter():
    """All of the list is given in smaller pages alone: the filter may be tried again."""
    made = scan(_refusing(400, above=25), plan=open_plan(5), page_size=100)
    assert len(read(made)) == 25
    assert made.outcome is not None
    assert not made.outcome.filter_refused


def test_other_refusals_of_a_filtered_list_end_it():
    """A 403 is about the key, and of no other list either."""
    with pytest.raises(Refused):
        read(scan(_refusing(403), plan=open_plan(5)))


# --- how much is left -----------------------------------------------------------------------------


def _left(made: Scan, usual: int | None = None) -> list[int | None]:
    """Before each page, and at the end."""
    counts = [made.progress(lambda _: usual)[1]]
    counts += [made.progress(lambda _: usual)[1] for _ in made]
    return [*counts, made.progress(lambda _: usual)[1]]


def test_a_first_scan_knows_from_its_first_page_how_many_follow():
    """By the server's count and the rows that a page takes, whatever was asked for."""
    assert _left(scan(ListServer(records(45), counted=True, clamps=10), page_size=50)) == [
        None, 4, 3, 2, 1, 0, 0,
    ]  # fmt: skip


def test_without_a_count_the_last_scan_gives_the_pages_left():
    """At least one, until the list has ended; an impossible count is ignored."""
    assert _left(scan(ListServer(records(40))), usual=3) == [3, 2, 1, 1, 0, 0]
    assert _left(scan(ListServer(records(40)))) == [None, None, None, None, 0, 0]


def test_a_scan_that_stops_as_planned_counts_to_there():
    """The pages beyond are the next run's."""
    plan = ScanPlan("notes", ScanKind.FULL, "test", max_pages=2)
    assert _left(scan(ListServer(records(95), counted=True), plan=plan)) == [None, 1, 0, 0]


def test_a_narrow_scan_ignores_the_count_of_the_list():
    """It reads a part of what is counted."""
    plan = ScanPlan("notes", ScanKind.HEAD, "test", since_ms=10_000_000, order="createdAt")
    assert _left(scan(ListServer(records(95), counted=True), plan=plan), usual=2)[:2] == [2, 0]
