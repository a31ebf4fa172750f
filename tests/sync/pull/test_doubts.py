"""Lists that aren't proven complete, and rows that left them: reported once, and nothing waits."""

from __future__ import annotations

import json
from typing import Any

import duckdb

from connector.errors import UnreachablePages
from connector.sandbox import RESOURCES
from connector.settings import HttpSettings, RateLimit
from pipelines.commands.invocation import Output
from pipelines.commands.status_commands import status
from pipelines.commands.transfer_commands import pull_lines, run_pull
from pipelines.destination.destination import Destination
from pipelines.pull.pull_run import Wanted
from tests.sync.pull.between import Between
from tests.sync.pull.conftest import Puller
from tests.sync.pull.truth import landed_duckdb


def _looks(between: Between, resource: str = "prospects") -> int:
    """Look-ups of single rows since the last call."""
    count = sum(path.startswith(f"{resource}/") for path in between.asked)
    between.asked.clear()
    return count


def _freshness(puller: Puller, resource: str) -> Any:
    with duckdb.connect(str(puller.settings.duckdb_path), read_only=True) as connection:
        return connection.execute(
            "SELECT complete, why_incomplete, last_complete_at IS NULL "
            "FROM hiringcenter._hc_freshness WHERE resource = ?",
            [resource],
        ).fetchone()


def _unlisted(puller: Puller) -> int:
    with duckdb.connect(str(puller.settings.duckdb_path), read_only=True) as connection:
        found = connection.execute(
            "SELECT count(_hc_unlisted_at) FROM hiringcenter.prospects WHERE _hc_deleted_at IS NULL"
        ).fetchone()
    assert found is not None
    return int(found[0])


def test_rows_land_where_their_next_page_cannot_be_asked_for(puller: Puller, between: Between):
    """`hasMore`, and no token: exit 1 at first, since the list wasn't read to its end; what was
    read is published, nothing is flagged deleted, and the next pull only says it again."""

    def no_token(path: str, body: Any) -> None:
        if path == "tasks":
            del body["items"][60:]
            body["pagination"] = {"hasMore": True}

    puller.lists = ("tasks", "meetings")
    between.change = no_token
    first = puller.pull()
    assert isinstance(first.error, UnreachablePages)
    assert (first.exit_code, first.published) == (1, True)
    assert first.summary["resources"]["tasks"]["complete"] is False
    assert "hasMore" in first.summary["resources"]["tasks"]["why_incomplete"]
    assert len(puller.landed()["tasks"]) == 60
    again = puller.pull()
    assert (again.error, again.exit_code) == (None, 0)
    assert puller.counts("rows_deleted")["tasks"] == 0
    assert again.summary["requests"] == 3


def test_a_hidden_row_is_reported_once_and_holds_nothing_back(puller: Puller, between: Between):
    """`totalCount` is one too high: exit 3 and everything is published; then exit 0 with a note,
    not a request more than the pages, and deletions are proven one by one."""

    def one_more(path: str, body: Any) -> None:
        if path == "prospects":
            body["pagination"]["totalCount"] += 1

    puller.lists = ("prospects",)
    between.change = one_more
    first = puller.pull()
    assert (first.error, first.exit_code, first.published) == (None, 3, True)
    facts = first.summary["resources"]["prospects"]
    assert facts["complete"] is False
    assert "totalCount is 301" in facts["why_incomplete"]
    assert first.summary["status"] == "ok"
    assert first.summary["requests"] <= 3 + 8
    puller.assert_true()
    complete, why, never = _freshness(puller, "prospects")
    assert (complete, why, never) == (False, facts["why_incomplete"], True)
    assert status(puller.settings, None).summary["resources"]["prospects"]["complete"] is False
    for record in puller.sandbox.store.all("prospects")[:3]:
        puller.sandbox.store.delete("prospects", record["id"])
    again = puller.pull()
    assert again.exit_code == 0
    assert again.summary["resources"]["prospects"]["complete"] is False
    assert again.summary["requests"] == 3 + 3
    assert puller.counts("rows_deleted")["prospects"] == 3
    assert any("last pull too" in str(line) for line in pull_lines(again, puller.settings))
    puller.assert_true()
    puller.pull("prospects", reset=True)  # what was learnt is forgotten, the doubt too
    assert puller.reports[-1].exit_code == 3


def test_the_exit_code_of_a_new_doubt_is_the_command_s(puller: Puller, between: Between):
    """3 from the command line, and null where a scan isn't a full one."""
    puller.pulled("notes")
    puller.change(rate_limits=(RateLimit(6000, 1.0), RateLimit(6000, 3600.0)))
    puller.change_pull(full_share=0.0001)
    between.answers = {"meetings": (200, json.dumps({"success": True, "items": None}).encode())}
    ended = run_pull(puller.settings, Wanted(("notes", "meetings")), Output())
    assert ended.exit_code == 3
    assert ended.error is None
    assert ended.summary["resources"]["notes"]["complete"] is None
    assert "why_incomplete" not in ended.summary["resources"]["notes"]
    assert ended.summary["resources"]["meetings"]["complete"] is False


def test_a_list_without_an_end_is_published_and_named(puller: Puller, between: Between):
    """Each page names a next one: what was read is there, exit 1; the second time it is known."""

    def endless(path: str, body: Any) -> None:
        if path == "tasks":
            body["pagination"]["nextPageToken"] = body["pagination"].get("nextPageToken") or _first

    puller.lists = ("tasks", "meetings")
    puller.change_pull(page_size=50)
    puller.pulled("tasks")
    _first = puller.sandbox.requests[2].params[-1][1]
    between.change = endless
    report = puller.pull()
    assert report.exit_code == 1
    assert "does not end" in str(report.error)
    assert report.published
    puller.assert_true()
    assert puller.pull().exit_code == 0


def test_a_legacy_list_whose_last_page_names_its_last_row_ends(puller: Puller, between: Between):
    """Pull after pull, with pages as long as before."""
    puller.sandbox.options.envelope = "legacy"
    puller.change_pull(page_size=60)

    def name_the_last(path: str, body: Any) -> None:
        if path == "notes" and body["notes"]:
            body["lastNote"] = body["notes"][-1]["createdAt"]

    between.change = name_the_last
    for _ in range(3):
        report = puller.pull_ok("notes")
        assert report.summary["resources"]["notes"]["complete"] is True
        assert report.summary["requests"] <= 1 + 5
    limits = {dict(one.params)["limit"] for one in puller.sandbox.requests if one.params}
    assert limits == {"60"}
    assert len(landed_duckdb(puller.settings.duckdb_path, "notes")) == 200


def test_rows_that_can_not_be_looked_at_stay_undecided(puller: Puller, between: Between):
    """They left the list, and GET answers 403, 500, or 200 without the record: warnings, exit 0,
    and what else is proven deleted is flagged."""
    puller.change(http=HttpSettings(retry_total_s=1.0))
    puller.pulled("prospects")
    ids = [record["id"] for record in puller.sandbox.store.all("prospects")[:6]]
    for record_id in ids:
        puller.sandbox.store.delete("prospects", record_id)
    statuses = dict(zip(ids, (403, 500, 200), strict=False))

    def hide(path: str, body: Any) -> int | None:
        status = statuses.get(path.removeprefix("prospects/"))
        if status is not None:
            body.clear()
            body |= {"success": True, "item": None} if status == 200 else {"error": "no"}
        return status

    between.change = hide
    report = puller.pull_ok("prospects")
    assert report.exit_code == 0
    assert report.summary["resources"]["prospects"]["complete"] is True
    assert puller.counts("rows_deleted") == {"prospects": 3}
    assert sum(report.warnings["prospects"].values()) == 3
    landed = landed_duckdb(puller.settings.duckdb_path, "prospects")
    assert landed.keys() & set(ids) == statuses.keys()
    between.asked.clear()
    again = puller.pull_ok("prospects")  # which knows them, and asks once a day, or with --full
    assert _looks(between) == 0
    assert sum(again.warnings["prospects"].values()) == 3
    statuses.clear()
    puller.pull_ok("prospects", full=True)
    assert puller.counts("rows_deleted") == {"prospects": 3}
    assert not landed_duckdb(puller.settings.duckdb_path, "prospects").keys() & set(ids)


def test_archived_rows_are_remembered_and_deleted_ones_found(puller: Puller, between: Between):
    """60 left the list and can be read, 5 are deleted: within three pulls the five are flagged,
    the sixty noted, and nothing is asked any more. Back in the list, a row is as any other."""
    store = puller.sandbox.store
    puller.pulled("prospects")
    rows = store.all("prospects")
    archived = {record["id"] for record in rows[:60]}
    for record in rows[60:65]:
        store.delete("prospects", record["id"])

    def leave_out(path: str, body: Any) -> None:
        if path == "prospects":
            kept = [item for item in body["items"] if item["id"] not in archived]
            body["items"] = kept
            body["pagination"]["totalCount"] -= len(archived)

    between.change = leave_out
    deleted = 0
    for most in (50, 50, 0):
        between.asked.clear()
        puller.pull_ok("prospects")
        assert _looks(between) <= most
        deleted += puller.counts("rows_deleted")["prospects"]
    assert deleted == 5
    assert _unlisted(puller) == 60
    assert puller.reports[-1].live_rows == {"prospects": 295}
    back = archived.pop()
    puller.pull_ok("prospects")
    assert _unlisted(puller) == 59
    assert puller.counts("rows_written") == {"prospects": 1}
    assert back in landed_duckdb(puller.settings.duckdb_path, "prospects")


def test_rows_that_left_are_noted_and_come_back_in_every_destination(
    any_puller: Puller, sandbox: Any
):
    """The queries about unlisted rows are plain SQL."""
    any_puller.pulled("notes")
    ids = [record["id"] for record in sandbox.store.all("notes")[:2]]
    with Destination(any_puller.settings) as destination:
        destination.seen.begin("notes")
        assert len(destination.missing("notes")) == 200
        destination.unlist("notes", ids, 1_800_000_000_000)
        assert len(destination.missing("notes")) == 198
        assert sorted(destination.unlisted("notes")) == sorted(ids)
        destination.tombstone("notes", ids[:1], 1_800_000_000_000)
        assert destination.unlisted("notes") == ids[1:]
    any_puller.pull_ok("notes")
    assert any_puller.counts("rows_written") == {"notes": 2}
    with Destination(any_puller.settings) as destination:
        assert destination.unlisted("notes") == []


def test_a_table_of_an_earlier_version_gets_the_column(puller: Puller):
    """No row is read again, and no query needs the column before it is there."""
    puller.pulled("notes")
    (working,) = puller.settings.state_dir.glob("**/_hc_working.duckdb")
    with duckdb.connect(str(working)) as connection:
        connection.execute("ALTER TABLE hiringcenter.notes DROP COLUMN _hc_unlisted_at")
        connection.execute("DELETE FROM hiringcenter._dlt_version")
        connection.execute("DELETE FROM hiringcenter._dlt_pipeline_state")
    puller.pull_ok("notes")
    assert puller.counts("rows_written") == {"notes": 0}


def test_an_open_task_that_is_there_and_not_listed_is_not_asked_for_each_time(
    puller: Puller, between: Between
):
    """Archived: found by its id, noted, and left alone by the open scans after it."""
    puller.sandbox.options.max_limits = dict.fromkeys(RESOURCES, 20)
    puller.pulled("tasks")
    puller.change(rate_limits=(RateLimit(6000, 1.0), RateLimit(6000, 3600.0)))
    puller.change_pull(full_share=0.0001)
    hidden = next(
        task["id"] for task in puller.sandbox.store.all("tasks") if task.get("completedAt") is None
    )

    def leave_out(path: str, body: Any) -> None:
        if path == "tasks":
            body["items"] = [item for item in body["items"] if item["id"] != hidden]

    between.change = leave_out
    asked = []
    for _ in range(2):
        between.asked.clear()
        report = puller.pull_ok("tasks")
        assert report.summary["resources"]["tasks"]["scan"] == "open"
        asked.append(_looks(between, "tasks"))
    assert asked == [1, 0]


def test_a_state_that_can_not_be_read_is_begun_again(puller: Puller):
    """As one that isn't there; a page size that no server took is healed."""
    puller.pulled("notes", "tasks")
    with Destination(puller.settings) as destination:
        notes = destination.loader.state_of("notes")
        facts = {**notes["facts"], "page_size": 10**18}
        destination.loader.save_states({"notes": {**notes, "facts": facts}, "tasks": {"facts": 7}})
    puller.sandbox.clear_log()
    puller.pull_ok("notes", "tasks")
    limits = {dict(one.params)["limit"] for one in puller.sandbox.requests if one.params}
    assert limits <= {"200", "100"}
