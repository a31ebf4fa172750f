"""A list that is suddenly empty: what the answer says decides whether rows are flagged deleted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.sync.pull.between import Between
from tests.sync.pull.conftest import Puller


def _body(**fields: Any) -> bytes:
    return json.dumps({"success": True, **fields}).encode()


@pytest.mark.parametrize("said", [_body(), _body(items=None, pagination={"nextPageToken": None})])
def test_an_answer_without_a_list_deletes_nothing(puller: Puller, between: Between, said: bytes):
    """Even if the rows can't be looked up: the scan isn't complete, and that is reported."""
    puller.pulled("meetings", "tasks")
    between.answers = {"meetings": (200, said), "meetings/": (404, _body(error="Not found"))}
    report = puller.pull_ok("meetings", "tasks")
    assert report.exit_code == 3
    assert "proves nothing" in report.summary["resources"]["meetings"]["why_incomplete"]
    assert report.summary["resources"]["meetings"]["complete"] is False
    assert report.summary["resources"]["tasks"]["complete"] is True
    assert puller.counts("rows_deleted") == {"meetings": 0, "tasks": 0}
    assert report.live_rows["meetings"] == 70
    between.answers = {}
    assert puller.pull_ok("meetings").summary["resources"]["meetings"]["complete"]


@pytest.mark.parametrize(
    "said",
    [(200, _body(items=[])), (204, b"")],  # the other shapes: tests/unit/api/test_envelopes.py
)
def test_an_empty_list_is_accepted_when_its_rows_are_deleted(
    puller: Puller, between: Between, said: tuple[int, bytes]
):
    """The answer reports that it is empty, and a sample of the rows is looked up by id."""
    puller.pulled("meetings")
    between.answers = {"meetings": said, "meetings/": (404, _body(error="Not found"))}
    assert puller.pull_ok("meetings").summary["resources"]["meetings"]["rows_deleted"] == 70


def test_rows_that_an_empty_list_hides_are_looked_at_in_turn(puller: Puller, between: Between):
    """Fifty are there, as far as a sample of 70 goes; with `--full` those are looked at again."""
    puller.pulled("meetings")
    between.answers = {"meetings": (200, _body(items=[]))}
    assert puller.pull_ok("meetings").summary["resources"]["meetings"]["rows_deleted"] == 0
    between.answers["meetings/"] = (404, _body(error="Not found"))
    for full, deleted in ((False, 20), (False, 0), (True, 50)):
        report = puller.pull_ok("meetings", full=full)
        assert report.summary["resources"]["meetings"]["rows_deleted"] == deleted


def test_an_uncounted_empty_list_deletes_nothing_where_no_row_can_be_looked_at(
    puller: Puller, between: Between
):
    """No count, and no call for single records: one empty answer would be the only evidence."""
    puller.pulled("meetings")
    between.answers = {"meetings": (200, _body(items=[])), "meetings/": (405, _body(error="No"))}
    assert puller.pull_ok("meetings").summary["resources"]["meetings"]["rows_deleted"] == 0
    between.answers["meetings"] = (200, _body(items=[], pagination={"totalCount": 0}))
    assert puller.pull_ok("meetings").summary["resources"]["meetings"]["rows_deleted"] == 70


def test_a_resource_that_was_always_empty_isnt_a_failure(puller: Puller, between: Between):
    """An account without meetings, whose server leaves the list out."""
    between.answers = {"meetings": (200, _body())}
    assert puller.pull_ok("meetings").published
    puller.pull_ok("meetings")
