"""Errors that aren't retried."""

from __future__ import annotations

import pytest

from connector import errors
from tests.sync.client.conftest import KEY, Bench
from tests.sync.client.raw_server import (
    RawServer,
    answer,
    page,
)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_ends_the_call_at_once(bench: Bench, status: int):
    """A server that repeats the key in its answer can't get it into our error."""
    client = bench.serve(answer(status, {"error": "No", "message": f"bad key {KEY}"}))
    with pytest.raises(errors.Unauthorized, match=r"bad key \*\*\*") as caught:
        client.account()
    assert caught.value.status == status
    assert KEY not in str(caught.value)
    assert client.requests == 1


@pytest.mark.parametrize("status", [400, 404, 405, 410, 413, 422])
def test_another_4xx_is_final_and_keeps_its_status(bench: Bench, status: int):
    """As when a page token has expired: the source decides what to do."""
    client = bench.serve(answer(status, {"error": "Bad request", "message": "token expired"}))
    with pytest.raises(errors.Refused, match="token expired") as caught:
        client.page("tasks", {"pageToken": "old"})
    assert caught.value.status == status
    assert client.requests == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed(bench: Bench, status: int):
    """The key goes to the configured host alone; the error names where it was to go."""
    with RawServer([page("stolen")]) as other:
        location = f"Location: http://localhost:{other.port}/v2/notes?secret=1"
        client = bench.serve(answer(status, headers=[location]))
        with pytest.raises(errors.Redirected, match="http://localhost") as caught:
            client.page("notes", {})
        assert other.received == []
    assert "secret" not in str(caught.value)
    assert client.requests == 1


@pytest.mark.parametrize(
    "target", ["http://[::bad/", "http://a:99999999/", "javascript:a", "//xn--%zz", ""]
)
def test_a_redirect_to_no_address_is_final_too(bench: Bench, target: str):
    """Whatever a server says where to go, it isn't asked again."""
    client = bench.serve(answer(307, headers=[f"Location: {target}"]))
    with pytest.raises(errors.Redirected) as caught:
        client.page("notes", {})
    assert caught.value.status == 307
    assert client.requests == 1


def test_a_list_that_does_not_exist_names_the_setting_to_check(bench: Bench):
    """The base URL's path is mistyped, say."""
    client = bench.serve(answer(404, {"error": "Not found", "message": "GET /v3/notes."}))
    with pytest.raises(errors.Refused, match=r"GET /v3/notes\. Check HIRINGCENTER_BASE_URL\.$"):
        client.page("notes", {})


def test_a_record_that_is_deleted_is_none(bench: Bench):
    """By the API's own word."""
    client = bench.serve(answer(404, {"error": "Not found", "message": "no such prospect"}))
    assert client.record("prospects", "p1") is None


@pytest.mark.parametrize("id_", ["", "..", "\ud800", "x" * 70_000])
def test_an_id_that_no_url_holds_is_not_asked_for(bench: Bench, id_: str):
    """Callers that look up ids of a list skip it, as they do an empty one."""
    client = bench.serve()
    with pytest.raises(ValueError, match="id|surrogates"):
        client.record("prospects", id_)
    assert client.requests == 0


def test_a_proxys_404_page_does_not_say_that_a_record_is_gone(bench: Bench):
    """It would end as a tombstone."""
    client = bench.serve(answer(404, b"<html><title>404</title>"))
    with pytest.raises(errors.Refused, match="HTML page"):
        client.record("prospects", "p1")


def test_no_content_is_an_empty_list_at_once(bench: Bench):
    """204 to a list; a record can't be one."""
    client = bench.serve(answer(204))
    found = client.page("notes", {})
    assert (found.items, found.is_sure) == ([], True)
    assert client.requests == 1
    with pytest.raises(errors.UnexpectedAnswer, match="no content"):
        client.record("notes", "n1")


def test_success_without_a_list_is_accepted_the_third_time(bench: Bench):
    """A proxy may have lost the list once; `is_sure` means that there was none."""
    client = bench.serve(answer(200, {"success": True}), page("n1"))
    assert client.page("notes", {}).is_sure
    client = bench.serve(answer(200, {"success": True}))
    found = client.page("notes", {})
    assert (found.items, found.is_sure) == ([], False)
    assert client.requests == 3
    with pytest.raises(errors.UnexpectedAnswer, match="no list"):
        client.page("notes", {"pageToken": "t"})


def test_304_isnt_a_redirect(bench: Bench):
    """A cache in between is broken: no advice to change HIRINGCENTER_BASE_URL."""
    client = bench.serve(answer(304))
    with pytest.raises(errors.UnexpectedAnswer, match="a broken cache sits in between"):
        client.page("notes", {})
