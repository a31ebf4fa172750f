"""Which scans a pull takes, what they find and miss, and what is reported."""

from __future__ import annotations

import threading
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from connector.errors import BadSetting, Unauthorized
from connector.sandbox import RESOURCES
from connector.settings import RateLimit, ResourceSettings
from connector.source.scans import Checkpoint, ListScan, ResourceFacts, ScanKind, ScanPlan
from pipelines.destination.identity import work_paths
from pipelines.pull.pull_run import Wanted, pull
from pipelines.running.progress import Progress, ProgressState
from tests.sync.pull.between import Between
from tests.sync.pull.conftest import Puller
from tests.sync.pull.truth import landed_duckdb

HOUR = RateLimit(6000, 3600.0)


@pytest.fixture
def narrow_puller(puller: Puller) -> Puller:
    """After a first pull, full scans cost more than the share; narrow ones follow."""
    puller.lists = ("notes", "tasks", "meetings")
    puller.sandbox.options.max_limits = dict.fromkeys(RESOURCES, 20)
    puller.change(rate_limits=(RateLimit(6000, 1.0), HOUR))
    puller.change_pull(full_share=0.0004)  # 2.4 requests
    puller.pulled()
    return puller


def _scans(puller: Puller) -> dict[str, str]:
    return {name: facts["scan"] for name, facts in puller.reports[-1].summary["resources"].items()}


def test_first_scans_are_full_and_say_why(puller: Puller):
    """The choice and its reason are in the summary, in `_hc_runs` and in `_hc_freshness`."""
    puller.pulled()
    facts = puller.reports[-1].summary["resources"]["notes"]
    assert (facts["scan"], facts["complete"]) == ("full", True)
    assert facts["reason"] == "no complete scan yet"
    with duckdb.connect(str(puller.settings.duckdb_path), read_only=True) as connection:
        fresh = connection.execute(
            "SELECT scan, reason, rows, last_complete_at = last_pull_at "
            "FROM hiringcenter._hc_freshness WHERE resource = 'notes'"
        ).fetchone()
        run = connection.execute(
            "SELECT kind, status, requests, rows_read, rows_written, rows_deleted, "
            "resources ->> '$.notes.reason' FROM hiringcenter._hc_runs"
        ).fetchone()
    assert fresh == ("full", "no complete scan yet", 200, True)
    assert run == ("pull", "ok", 7, 690, 690, 0, "no complete scan yet")  # one: are 200 notes all?


class Shown(Progress):
    """A progress display that keeps what it was given."""

    def __init__(self) -> None:
        self.states: list[ProgressState] = []

    def show(self, state: ProgressState) -> None:
        self.states.append(state)


def _shown(puller: Puller, *resources: str) -> list[ProgressState]:
    shown = Shown()
    report = pull(puller.settings, Wanted(resources or RESOURCES), lambda _: shown)
    assert report.error is None
    return shown.states


def test_a_first_pull_knows_how_many_pages_follow(puller: Puller, between: Between):
    """Where lists carry their counts, there is an ETA before any was ever read to its end."""
    rows = {"prospects": 300, "notes": 200, "tasks": 120, "meetings": 70}
    asked = Counter[str]()
    all_have_begun = threading.Barrier(len(RESOURCES))

    def count_and_begin_together(name: str, body: Any) -> None:
        body.setdefault("pagination", {})["totalCount"] = rows.get(name)
        asked[name] += 1
        if name in rows and asked[name] == 2:  # each has taken in its first page by now
            all_have_begun.wait(timeout=500)

    between.change = count_and_begin_together
    puller.sandbox.options.max_limits = dict.fromkeys(RESOURCES, 20)
    puller.change_pull(chunk_pages=8)
    states = _shown(puller)
    pages = 15 + 10 + 6 + 4  # 300, 200, 120, 70 rows, 20 a page
    ahead = [each for each in states if each.requests_left]
    assert ahead
    assert pages in {each.total for each in ahead}
    # a full last page is followed by a look whether it is the last
    assert pages <= states[-1].done == (states[-1].total or 0) <= pages + 3


def test_a_narrow_scan_expects_the_pages_of_the_last_one(narrow_puller: Puller):
    """Not those of the full scan; there was none before the first."""
    narrow_puller.pull_ok("notes")
    assert {each.total for each in _shown(narrow_puller, "notes")} == {1}


@pytest.mark.parametrize(
    ("changes", "place", "expected"),
    [
        ({}, None, 2),
        ({"kind": ScanKind.FULL}, None, 700),
        ({"kind": ScanKind.FULL}, {"seen": {"pages": 500}}, 200),
        ({"kind": ScanKind.FULL, "max_pages": 30}, {"seen": {"pages": 500}}, 30),
        ({"kind": ScanKind.OPEN}, None, None),
    ],
)
def test_what_a_run_expects_of_a_list(
    changes: dict[str, Any], place: dict[str, Any] | None, expected: int | None
):
    """The budget keeps so much room: as the last scan of that kind read, less what was read."""
    facts = ResourceFacts(pages=700, narrow_pages={"head": 2})
    plan = ScanPlan(**{"resource": "notes", "kind": ScanKind.HEAD, "reason": "", **changes})
    assert ListScan("notes", facts, Checkpoint(plan, 0, place)).expected_pages == expected


def test_narrow_scans_find_new_notes_open_tasks_and_near_meetings(narrow_puller: Puller):
    """Few requests; what was added or completed is there, and so are its neighbors."""
    puller, store = narrow_puller, narrow_puller.sandbox.store
    note = store.create("notes", {"prospectId": "p", "body": "<p>new</p>"})
    open_task = next(task for task in store.all("tasks") if task.get("completedAt") is None)
    store.update("tasks", open_task["id"], {"completedAt": open_task["createdAt"] + 1})
    puller.pull_ok("notes", "tasks")
    assert _scans(puller) == {"notes": "head", "tasks": "open"}
    landed = puller.landed()
    assert landed["notes"][note["id"]]["body"] == "<p>new</p>"
    assert "completed_at" in landed["tasks"][open_task["id"]]


def test_a_filter_that_is_refused_costs_one_request_and_is_not_asked_again(
    narrow_puller: Puller, between: Between
):
    """The whole list is read in the same run, deletions included; the next pull knows."""
    puller, store = narrow_puller, narrow_puller.sandbox.store
    between.refused = "incompleteOnly"
    gone = next(task for task in store.all("tasks") if task.get("completedAt") is not None)
    store.delete("tasks", gone["id"])
    puller.pull_ok("tasks")
    facts = puller.reports[-1].summary["resources"]["tasks"]
    assert (facts["scan"], facts["complete"], facts["rows_deleted"]) == ("full", True, 1)
    assert facts["reason"].startswith("the server refuses its filter (400), so all of it")
    between.asked.clear()
    puller.pull_ok("tasks")
    facts = puller.reports[-1].summary["resources"]["tasks"]
    assert facts["reason"].startswith("the server refused the filter of this list at ")
    assert between.asked.count("tasks") == 2  # the share: the rest of the list is the next runs'


def test_what_narrow_scans_miss_the_next_full_one_finds(narrow_puller: Puller):
    """Deletions and edits of old notes wait for the full scan; then everything is true."""
    puller, store = narrow_puller, narrow_puller.sandbox.store
    oldest, *_, second, _newest = sorted(store.all("notes"), key=lambda note: note["createdAt"])
    store.update("notes", oldest["id"], {"body": "edited"}, touch=False)
    store.delete("notes", second["id"])
    puller.pull_ok("notes")
    assert _scans(puller) == {"notes": "head"}
    landed = puller.landed()["notes"]
    assert second["id"] in landed
    assert landed[oldest["id"]].get("body") != "edited"
    puller.pull_ok(full=True)
    puller.assert_true()


def test_a_prospect_deleted_between_looks_is_flagged_by_an_open_scan(narrow_puller: Puller):
    """A task that left the open list is looked up; a 404 proves its deletion."""
    puller, store = narrow_puller, narrow_puller.sandbox.store
    gone = next(task for task in store.all("tasks") if task.get("completedAt") is None)
    store.delete("tasks", gone["id"])
    puller.pull_ok("tasks")
    assert _scans(puller) == {"tasks": "open"}
    assert puller.counts("rows_deleted") == {"tasks": 1}
    assert gone["id"] not in puller.landed()["tasks"]


def test_one_percent_of_the_hour_costs_few_requests(narrow_puller: Puller):
    """A pull of narrow scans asks for a fraction of the pages a full one needs."""
    puller = narrow_puller
    first = puller.reports[0].summary["requests"]
    puller.pull_ok("notes", "meetings")
    assert puller.reports[-1].summary["requests"] < first / 2


def test_since_looks_back_and_leaves_watermarks_alone(narrow_puller: Puller):
    """An old edit within the date is found; the pull after it scans as it would have before."""
    puller, store = narrow_puller, narrow_puller.sandbox.store
    notes = sorted(store.all("notes"), key=lambda note: note["createdAt"])
    store.update("notes", notes[150]["id"], {"body": "edited long ago"}, touch=False)
    freshness = _freshness(puller)
    puller.pull_ok("notes", since_ms=notes[140]["createdAt"])
    assert puller.landed()["notes"][notes[150]["id"]]["body"] == "edited long ago"
    assert _freshness(puller) == freshness
    puller.pull_ok("notes")
    assert puller.reports[-1].summary["requests"] <= 3


def test_since_leaves_an_unfinished_scan_in_its_place(puller: Puller):
    """A full scan spread over pulls resumes after `--since`, and knows what that one saw."""
    puller.sandbox.options.max_limits = dict.fromkeys(RESOURCES, 20)
    puller.pulled("notes")
    puller.change_pull(full_share=0.0, full_every_s=0.0)
    puller.change(rate_limits=(RateLimit(8, 0.5),))  # half of it a pull: 4 pages of 10
    puller.pull_ok("notes")
    puller.sandbox.store.create("notes", {"prospectId": "p", "body": "new"})
    puller.pull_ok("notes", since_ms=int(time.time() * 1000) - 60_000)
    assert _scans(puller) == {"notes": "head"}
    pages = [puller.pull_ok("notes").summary["requests"] - 1 for _ in range(2)]
    assert sum(pages) <= 7
    facts = puller.reports[-1].summary["resources"]["notes"]
    assert (facts["complete"], facts["rows_deleted"]) == (True, 0)
    puller.lists = ("notes",)
    puller.assert_true()


def _freshness(puller: Puller) -> list[tuple[object, ...]]:
    with duckdb.connect(str(puller.settings.duckdb_path), read_only=True) as connection:
        return connection.execute(
            "SELECT last_pull_at, scan FROM hiringcenter._hc_freshness WHERE resource = 'notes'"
        ).fetchall()


def test_reset_forgets_what_scans_learnt(narrow_puller: Puller):
    """The next scan of that resource is a first one; other resources aren't affected."""
    puller = narrow_puller
    puller.pull_ok("notes", reset=True)
    facts = puller.reports[-1].summary["resources"]["notes"]
    assert (facts["scan"], facts["reason"]) == ("full", "no complete scan yet")
    puller.pull_ok("tasks")
    assert _scans(puller) == {"tasks": "open"}


def test_changes_while_scanning_are_never_lost(puller: Puller):
    """Rows edited, added and deleted between pages: the pull after it has the truth, and no
    living row is flagged at any time."""
    puller.lists = ("prospects",)
    puller.sandbox.options.max_limits = dict.fromkeys(RESOURCES, 20)
    store, seen = puller.sandbox.store, {"n": 0}

    def meddle(request: object) -> None:
        seen["n"] += 1
        if seen["n"] % 3 == 0:
            everyone = store.all("prospects")
            store.delete("prospects", everyone[seen["n"] % len(everyone)]["id"])
            store.create("prospects", {"firstName": f"Added {seen['n']}", "lastName": "X"})
            store.update("prospects", store.all("prospects")[7]["id"], {"title": str(seen["n"])})

    puller.pulled()
    puller.sandbox.on_request = meddle
    puller.pull_ok()
    puller.sandbox.on_request = None
    alive = {record["id"] for record in store.all("prospects")}
    with duckdb.connect(str(puller.settings.duckdb_path), read_only=True) as connection:
        flagged = connection.execute(
            "SELECT id FROM hiringcenter.prospects WHERE _hc_deleted_at IS NOT NULL"
        ).fetchall()
    assert not alive & {record_id for (record_id,) in flagged}
    puller.pull_ok()
    puller.assert_true()


def test_a_mass_deletion_is_accepted_after_a_sample(puller: Puller):
    """More than fifty missing rows cost fifty look-ups, not one each."""
    puller.lists = ("prospects",)
    store = puller.sandbox.store
    puller.pulled()
    for record in store.all("prospects")[:120]:
        store.delete("prospects", record["id"])
    puller.pull_ok("prospects")
    assert puller.counts("rows_deleted") == {"prospects": 120}
    assert puller.reports[-1].summary["requests"] <= 1 + 1 + 50
    puller.assert_true()


def test_excluded_columns_never_land_and_hashed_ones_can_be_joined(puller: Puller):
    """Per resource; equal values have equal hashes, and the value itself is nowhere."""
    puller.lists = ("prospects",)
    store = puller.sandbox.store
    twins = [
        store.create("prospects", {"firstName": name, "lastName": "X", "company": "Same & Co"})
        for name in "ab"
    ]
    puller.change_pull(
        prospects=ResourceSettings(exclude_columns=("phone",), hash_columns=("company",)),
        hash_key="a long random text",
    )
    puller.change(pull=type(puller.settings.pull)(**puller.settings.pull.model_dump()))
    puller.pull_ok()
    landed = puller.landed()["prospects"]
    assert all("phone" not in row for row in landed.values())
    first, second = (landed[twin["id"]]["company"] for twin in twins)
    assert first == second != "Same & Co"
    assert b"Same & Co" not in puller.settings.duckdb_path.read_bytes()


def test_hashing_without_a_key_is_refused_before_anything_is_read(puller: Puller):
    """The message names the setting."""
    puller.change_pull(prospects=ResourceSettings(hash_columns=("email",)))
    report = puller.pull()
    assert isinstance(report.error, BadSetting)
    assert "HIRINGCENTER_PULL__HASH_KEY" in str(report.error)


def test_odd_items_land_in_a_table_of_their_own_and_times_to_the_millisecond(puller: Puller):
    """A record without an id isn't a row, but it isn't dropped, and is reported; the other rows of
    its page land. Times are instants with a time zone, exactly."""
    store = puller.sandbox.store
    store.put("notes", {"body": "nobody", "createdAt": 1})
    record = store.create("prospects", {"firstName": "A", "lastName": "B"})
    store.update("prospects", record["id"], {"createdAt": 1_700_000_000_123}, touch=False)
    report = puller.pull_ok("notes", "prospects")
    said = "record without a usable id kept in _hc_malformed_records"
    assert report.warnings == {"notes": {said: 1}}
    with duckdb.connect(str(puller.settings.duckdb_path), read_only=True) as connection:
        odd = connection.execute(
            "SELECT resource, content FROM hiringcenter._hc_malformed_records"
        ).fetchall()
    assert [resource for resource, _ in odd] == ["notes"]
    assert '"nobody"' in odd[0][1]
    assert len(landed_duckdb(puller.settings.duckdb_path, "notes")) == 200
    row = landed_duckdb(puller.settings.duckdb_path, "prospects")[record["id"]]
    assert row["created_at"] == datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)


def test_a_scan_that_was_read_to_its_end_is_ended_first_and_then_the_plan_begun(
    puller: Puller, between: Between
):
    """What it proves deleted is flagged, and what is new since is there, after one more pull."""
    puller.pulled("notes")
    store = puller.sandbox.store
    store.delete("notes", store.all("notes")[3]["id"])
    between.answers["notes/"] = (401, b'{"error": "unauthorized"}')
    assert isinstance(puller.pull("notes").error, Unauthorized)  # once all was read
    between.answers.clear()
    new = store.create("notes", {"body": "since then"})
    puller.pull_ok("notes")
    assert puller.counts("rows_deleted") == {"notes": 1}
    assert new["id"] in landed_duckdb(puller.settings.duckdb_path, "notes")


def test_full_takes_all_of_a_list_of_which_earlier_pulls_have_read_parts(puller: Puller):
    """What was changed in those parts since is found, and what was deleted from them."""
    store = puller.sandbox.store
    puller.lists = ("prospects",)
    puller.sandbox.options.max_limits = dict.fromkeys(RESOURCES, 60)
    puller.sandbox.options.prospects_order = "oldest"  # which leaves no narrow scan
    puller.pull_ok()
    puller.change(rate_limits=(RateLimit(6000, 1.0), RateLimit(6000, 3600.0)))
    puller.change_pull(full_share=0.0001)
    part = puller.pull_ok().summary["resources"]["prospects"]
    assert (part["scan"], part["complete"], part["rows_read"]) == ("full", False, 60)
    first, second, *_ = store.all("prospects")
    store.delete("prospects", first["id"])
    store.update("prospects", second["id"], {"title": "edited"})
    assert puller.pull_ok(full=True).summary["resources"]["prospects"]["complete"] is True
    assert puller.counts("rows_deleted") == {"prospects": 1}
    puller.assert_true()


def test_a_list_too_big_for_a_daily_full_scan_is_read_in_parts(puller: Puller):
    """Each pull finds new rows and reads some pages more; after the last ones, deletions are
    found. Until then, the run and its freshness are about the narrow scan."""
    store = puller.sandbox.store
    puller.sandbox.options.max_limits = dict.fromkeys(RESOURCES, 20)
    puller.pulled("notes")
    puller.change(rate_limits=(RateLimit(6000, 1.0), RateLimit(2000, 100 * 86_400.0)))  # 20 a day
    puller.change_pull(full_share=0.002)  # 4 requests: a head scan, and 3 of 10 pages
    deleted = store.all("notes")[150]["id"]
    store.delete("notes", deleted)
    scans = []
    while "full" not in scans and len(scans) < 9:
        new = store.create("notes", {"prospectId": "p", "body": f"new {len(scans)}"})
        assert puller.pull_ok("notes").summary["requests"] <= 1 + 4 + 2
        facts = puller.reports[-1].summary["resources"]["notes"]
        scans.append(facts["scan"])
        assert new["id"] in landed_duckdb(puller.settings.duckdb_path, "notes")
        assert _freshness(puller)[0][1] == facts["scan"]
        if facts["scan"] == "head":
            assert facts["complete"] is None
            assert "a part now, and all of it in about 4 runs" in facts["reason"]
    assert scans == ["head"] * 3 + ["full"]
    assert facts["complete"] is True
    assert puller.counts("rows_deleted") == {"notes": 1}
    landed = landed_duckdb(puller.settings.duckdb_path, "notes")
    assert landed.keys() == {note["id"] for note in store.all("notes")}


def test_a_state_of_a_clock_that_was_ahead_is_followed_by_newer_ones(any_puller: Puller):
    """The clock was a day ahead in the first pull, and has been set right since. dlt numbers its
    states by the clock, and takes the highest for the newest. A new column comes last."""
    any_puller.lists = ("notes",)
    any_puller.change_pull(chunk_pages=1, page_size=20)
    any_puller.pull_ok()
    _renumber(any_puller, ahead_s=86_400)
    tomorrow = "now() + INTERVAL '1 day'"
    _execute(any_puller, f"UPDATE hiringcenter._dlt_version SET inserted_at = {tomorrow}")
    for fields in ({"body": "New"}, {"body": "Newer"}, {"colour": "red"}, {"colour": "blue"}):
        store = any_puller.sandbox.store
        store.delete("notes", store.all("notes")[0]["id"])
        store.create("notes", {"prospectId": "p", **fields})
        assert any_puller.pull_ok(full=True).summary["resources"]["notes"]["complete"]
        any_puller.assert_true()


def test_machines_whose_clocks_differ_by_seconds_follow_each_other_without_a_warning(
    any_puller: Puller,
):
    """Another machine, whose clock is ahead, has just pulled into the same destination."""
    any_puller.lists = ("notes",)
    any_puller.pull_ok()
    with capture_logs() as logged:
        for _ in range(2):
            _renumber(any_puller, ahead_s=20)
            store = any_puller.sandbox.store
            store.delete("notes", store.all("notes")[0]["id"])
            assert any_puller.pull_ok(full=True).summary["resources"]["notes"]["complete"]
            any_puller.assert_true()
    noted = [each for each in logged if each["event"] == "destination.clock_set_back"]
    assert {each["log_level"] for each in noted} == {"info"}, noted


def _renumber(puller: Puller, *, ahead_s: int) -> None:
    """The newest state was stored by a clock that was ahead, the others before it. dlt's numbers
    never decrease in a process: a test with a clock of its own leaves them far ahead."""
    newest = (
        "SELECT max(CAST(_dlt_load_id AS DECIMAL(18, 7))) FROM hiringcenter._dlt_pipeline_state"
    )
    ahead = f"{time.time() + ahead_s:.7f} - ({newest})"
    for table, number in (("_dlt_loads", "load_id"), ("_dlt_pipeline_state", "_dlt_load_id")):
        later = f"CAST(CAST({number} AS DECIMAL(18, 7)) + {ahead} AS VARCHAR)"
        _execute(puller, f"UPDATE hiringcenter.{table} SET {number} = {later}")


def _execute(puller: Puller, sql: str) -> None:
    if puller.postgres_url is None:
        with duckdb.connect(str(work_paths(puller.settings).working_file)) as connection:
            connection.execute(sql)
        return
    engine = sa.create_engine(sa.make_url(puller.postgres_url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        connection.exec_driver_sql(sql)
    engine.dispose()
