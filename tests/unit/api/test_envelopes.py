"""Answers of every revision become one page; an answer without a list is an error, never an empty
page."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.api.envelopes import (
    NoContent,
    NoList,
    Page,
    UnknownShape,
    to_account,
    to_item,
    to_page,
)

ROWS = [{"id": "1"}, {"id": "2"}]


@pytest.mark.parametrize(
    ("resource", "body", "page"),
    [
        pytest.param(
            "tasks",
            {"success": True, "items": ROWS, "pagination": {"nextPageToken": "t", "totalCount": 9}},
            Page(ROWS, {"pageToken": "t"}, 9),
            id="pagination",
        ),
        pytest.param(
            "tasks",
            {"success": True, "items": ROWS, "pagination": {}},
            Page(ROWS, None, None),
            id="pagination without fields",
        ),
        pytest.param(
            "tasks",
            {"success": True, "items": ROWS, "pagination": None},
            Page(ROWS, None, None),
            id="pagination null",
        ),
        pytest.param(
            "tasks",
            {"success": True, "items": ROWS, "nextPageToken": "t"},
            Page(ROWS, {"pageToken": "t"}, None),
            id="token beside the items",
        ),
        pytest.param(
            "tasks",
            {"success": True, "items": ROWS, "nextPageToken": ""},
            Page(ROWS, None, None),
            id="an empty token is none",
        ),
        pytest.param(
            "tasks",
            {"items": ROWS, "nextPageToken": 200},
            Page(ROWS, {"pageToken": "200"}, None),
            id="a number as token",
        ),
        pytest.param(
            "notes",
            {"success": True, "notes": ROWS, "lastNote": 1760000000000},
            Page(ROWS, {"startAfter": "1760000000000"}, None),
            id="lastNote",
        ),
        pytest.param(
            "notes",
            {"success": True, "notes": ROWS, "lastNote": None},
            Page(ROWS, None, None),
            id="lastNote null",
        ),
        pytest.param(
            "notes",
            {"success": True, "notes": [], "lastNote": 1760000000000},
            Page([], None, None),
            id="an empty page without a next one",
        ),
        pytest.param(
            "meetings",
            {"success": True, "meetings": ROWS, "lastMeeting": 1760000000000},
            Page(ROWS, {"startAfter": "1760000000000"}, None),
            id="the same revision for another list",
        ),
        pytest.param(
            "prospects",
            {"prospects": ROWS, "totalCount": 2},
            Page(ROWS, None, 2),
            id="bare",
        ),
        pytest.param(
            "prospects",
            {"prospects": ROWS, "totalCount": "2", "items": []},
            Page(ROWS, None, 2),
            id="the list that holds rows, and a count as text",
        ),
        pytest.param(
            "prospects",
            {"success": True, "results": ROWS},
            Page(ROWS, None, None),
            id="an unexpected key",
        ),
        pytest.param("notes", ROWS, Page(ROWS, None, None), id="nothing but the list"),
        pytest.param(
            "notes",
            {"success": True, "items": None},
            Page([], None, None, is_sure=False),
            id="items null",
        ),
        pytest.param(
            "notes",
            {"success": True, "notes": None, "lastNote": None},
            Page([], None, None, is_sure=False),
            id="notes null",
        ),
        pytest.param(
            "notes",
            {"success": True, "items": None, "pagination": {"totalCount": 0}},
            Page([], None, 0),
            id="items null, counted",
        ),
        pytest.param(
            "notes",
            {"success": True, "pagination": {"totalCount": 0}},
            Page([], None, 0),
            id="no items, counted",
        ),
        pytest.param("notes", NoContent(), Page([], None, None), id="204"),
        pytest.param(
            "notes",
            {"items": [{"id": "1"}, None, "odd", {"id": "2"}]},
            Page([{"id": "1"}, None, "odd", {"id": "2"}], None, None),
            id="odd items stay where they are",
        ),
    ],
)
def test_every_revision_becomes_one_page(resource: str, body: Any, page: Page):
    """Items in order, the next page, and how many there are."""
    assert to_page(resource, body) == page


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "no list"),
        ({"success": False}, "success: false"),
        ({"success": False, "items": []}, "success: false"),
        ({"success": "no", "items": []}, "success: false"),
        ({"error": "Oops", "message": "Try later"}, "Oops: Try later"),
        ({"items": {"1": {}}}, "`items` is an object"),
        ({"items": "none"}, "`items` is text"),
        ({"a": [], "b": []}, "several lists"),
        ({"items": [], "pagination": "p2"}, "`pagination` is text"),
        (None, "null"),
        ("text", "text"),
        (5, "a number"),
    ],
)
def test_an_answer_without_a_list_is_an_error_that_describes_it(body: Any, says: str):
    """An empty page would say that there is nothing, and rows would be lost in silence."""
    with pytest.raises(UnknownShape, match=says):
        to_page("notes", body)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"items": [1], "nextPageToken": {"a": 1}}, "`nextPageToken` is an object"),
        ({"items": [1], "nextPageToken": True}, "`nextPageToken` is a boolean"),
        ({"items": [1], "pagination": {"nextPageToken": 1.5}}, "`nextPageToken` is a number"),
        ({"notes": [1], "lastNote": [5]}, "a list"),
        ({"items": [1], "pagination": {"hasMore": True}}, "hasMore"),
    ],
)
def test_rows_are_kept_where_only_the_next_page_token_is_unreadable(body: Any, says: str):
    """And the page says that it isn't the last."""
    page = to_page("notes", body)
    assert page.items == [1]
    assert page.next_params is None
    assert page.cut is not None
    assert says in page.cut


@pytest.mark.parametrize(
    "body", [{"success": True}, {"success": True, "message": "None found", "nextPageToken": None}]
)
def test_success_without_a_list_may_be_an_empty_one_at_its_beginning_only(body: Any):
    """It proves nothing; later in a list it is a fault, or rows would be lost in silence."""
    with pytest.raises(NoList) as caught:
        to_page("notes", body)
    assert caught.value.page.items == []
    assert not caught.value.page.is_sure
    with pytest.raises(UnknownShape) as fault:
        to_page("notes", body, is_first=False)
    assert not isinstance(fault.value, NoList)


@pytest.mark.parametrize(
    "body", [{"success": True, "item": {"id": "1"}}, {"success": True, "error": "x"}, {}]
)
def test_another_object_isnt_an_empty_list(body: Any):
    """A record, an error, or not even success."""
    with pytest.raises(UnknownShape) as fault:
        to_page("notes", body)
    assert not isinstance(fault.value, NoList)


def test_an_error_names_keys_but_never_values():
    """Values are people's data."""
    with pytest.raises(UnknownShape) as caught:
        to_page("notes", {"email": "jane@example.com", "phone": "+15551234567"})
    assert "email" in str(caught.value)
    assert "jane" not in str(caught.value)
    assert "555" not in str(caught.value)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=10,
)
_keys = st.sampled_from(
    ["success", "items", "notes", "pagination", "nextPageToken", "totalCount", "lastNote", "error"]
)


@given(st.dictionaries(_keys, _json | st.just(True)) | _json)
def test_any_json_is_a_page_with_all_its_items_or_an_error(body: Any):
    """Nothing else can come out, and no item gets lost on the way."""
    try:
        page = to_page("notes", body)
    except UnknownShape:
        return
    if isinstance(body, list):
        assert page.items == body
    else:
        longest = max((len(body.get(key) or []) for key in ("items", "notes")), default=0)
        assert longest == 0 or len(page.items) == longest
    assert page.next_params is None or all(page.next_params.values())
    assert page.total_count is None or page.total_count >= 0


@pytest.mark.parametrize(
    "body",
    [
        {"success": True, "item": {"id": "1", "name": "x"}},
        {"prospect": {"id": "1", "name": "x"}},
        {"id": "1", "name": "x"},
        {"success": True, "data": {"id": "1", "name": "x"}},
        {"success": True, "items": [{"id": "1", "name": "x"}]},
    ],
)
def test_a_record_is_found_wherever_a_revision_puts_it(body: Any):
    """Under `item`, under its own name, bare, under one other key, or alone in a list."""
    assert to_item("prospect", body) == {"id": "1", "name": "x"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"success": True},
        {"item": None},
        {"success": False, "item": {"id": "1"}},
        {"items": [{"id": "1"}], "totalCount": 1},  # a page, of whomever
        {"items": [{"id": "1"}, {"id": "2"}]},
        [],
        None,
    ],
)
def test_no_record_is_an_error(body: Any):
    """An answer without the record is never taken for one."""
    with pytest.raises(UnknownShape):
        to_item("prospect", body)


@pytest.mark.parametrize(
    "body",
    [
        {"accountId": "a", "active": True},
        {"success": True, "accountId": "a", "active": True},
        {"success": True, "item": {"accountId": "a", "active": True}},
        {"success": True, "apiKey": {"accountId": "a", "active": True}},
        {"item": {"accountId": "a", "active": True}, "meta": {"version": 2}},
        {"permissions": ["read"], "item": {"accountId": "a", "active": True}},
    ],
)
def test_key_metadata_comes_bare_or_under_item(body: Any):
    """Both are documented; an inactive key must not count as active for another name of `item`."""
    assert to_account(body) == {"accountId": "a", "active": True}


@pytest.mark.parametrize(
    "body", [{}, {"success": True}, {"error": "x", "message": "y"}, [], {"item": None}]
)
def test_no_key_metadata_is_an_error(body: Any):
    """So that `check` doesn't call an error page a valid key."""
    with pytest.raises(UnknownShape):
        to_account(body)


def test_a_page_token_that_no_url_holds_leaves_the_rows_of_its_page():
    """Reported in words; a long one that a URL holds is followed."""
    for named, why in (("x" * 100_000, "too long for a URL"), ("\ud800", "that no URL holds")):
        for link in ({"nextPageToken": named}, {"lastNote": named}):
            page = to_page("notes", {"items": [{"id": "1"}], **link})
            assert (page.items, page.next_params) == ([{"id": "1"}], None)
            assert page.cut is not None
            assert why in page.cut
    page = to_page("notes", {"items": [{"id": "1"}], "nextPageToken": "x" * 8000})
    assert page.next_params == {"pageToken": "x" * 8000}
