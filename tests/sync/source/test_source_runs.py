"""Runs of `hiringcenter`, one after the other: what each requests, and what it lands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dlt
import pytest
from dlt.pipeline.exceptions import PipelineStepFailed

from connector.errors import ConfigurationError, Unauthorized
from connector.sandbox import RESOURCES, Sandbox, SandboxOptions
from connector.source import flag_deleted, hiringcenter, unfinished
from connector.source.dlt_source import _Steps
from connector.source.scans import Checkpoint, ScanKind, ScanPlan, begin, list_state
from pipelines.pull.pull_run import Wanted, pull
from tests.sync.pull.conftest import settings_for
from tests.sync.pull.truth import all_duckdb, assert_equal_to_truth
from tests.sync.source.conftest import Run, causes, rows

PAGES = 20
NOW_MS = 1_800_000_000_000
SHARE_OF_12 = {"rate_limits": "1000000/1s,6000/3600s", "full_share": 0.002, "lookback_s": 0}
DUCKDB = pytest.mark.parametrize("pipeline", ["duckdb"], indirect=True)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Twenty pages of prospects, two of notes."""
    options = SandboxOptions(
        prospects=PAGES * 5, notes=8, tasks=3, meetings=3, max_limits={"prospects": 5, "notes": 5}
    )
    with Sandbox(options) as served:
        yield served


def live(pipeline: dlt.Pipeline, table: str) -> set[str]:
    """Ids of the rows that aren't flagged deleted."""
    with pipeline.sql_client() as client:
        found = client.execute_sql(f"SELECT id FROM {table} WHERE _hc_deleted_at IS NULL")
    return {row[0] for row in found or ()}


def ids(sandbox: Sandbox, resource: str) -> set[str]:
    return {record["id"] for record in sandbox.store.all(resource)}


def pages_down_to(sandbox: Sandbox, since_ms: int) -> int:
    """Pages of prospects up to the first whose last row is older."""
    times = [record["createdAt"] for record in sandbox.store.all("prospects")]
    return sum(time_ms >= since_ms for time_ms in times) // 5 + 1


# --- the scan plan --------------------------------------------------------------------------------


def test_a_second_run_asks_for_what_the_plan_says(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox
):
    """Twenty pages cost more than a share of twelve: a head scan, which lands what is new."""
    run("prospects", **SHARE_OF_12)
    assert len(sandbox.requests) == PAGES
    watermark_ms = max(record["createdAt"] for record in sandbox.store.all("prospects"))
    new = sandbox.store.create("prospects", {"firstName": "New", "lastName": "Person"})
    sandbox.clear_log()
    run("prospects", **SHARE_OF_12)
    assert len(sandbox.requests) == pages_down_to(sandbox, watermark_ms) <= 2
    assert new["id"] in rows(pipeline, "prospects")
    assert rows(pipeline, "prospects").keys() == ids(sandbox, "prospects")


@DUCKDB
def test_the_lists_of_a_run_share_its_requests(run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox):
    """Those that are selected: together with the others, a list that it could read in full alone
    is read narrowly. What is left goes to full scans of smaller lists."""
    share_of_20 = SHARE_OF_12 | {"full_share": 1 / 300}
    run(**share_of_20)
    for selected, expected in (
        (("prospects", "notes"), {"prospects": 1, "notes": 1}),
        (("prospects", "notes"), {"prospects": 1, "notes": 2}),
        (("prospects",), {"prospects": PAGES}),
    ):
        sandbox.clear_log()
        run(*selected, **share_of_20)
        asked = Counter(request.path.rsplit("/", 1)[-1] for request in sandbox.requests)
        assert asked == expected


@DUCKDB
def test_the_source_reads_a_list_too_big_for_a_daily_full_scan_in_parts(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox, tmp_path: Path
):
    """After its narrow scan, in each run; it doesn't count as unfinished meanwhile."""
    few = {"rate_limits": f"1000000/1s,6000/{100 * 86_400}s", "full_share": 0.002, "lookback_s": 0}
    run("prospects", **few)
    for number in range(2):
        new = sandbox.store.create("prospects", {"firstName": f"New {number}", "lastName": "X"})
        sandbox.clear_log()
        run("prospects", **few)
        assert len(sandbox.requests) <= 13
        assert new["id"] in rows(pipeline, "prospects")
        assert unfinished(pipeline) == []
    gone = sandbox.store.all("prospects")[20]["id"]
    sandbox.store.delete("prospects", gone)
    for _ in range(2):
        run("prospects", **few)
    assert flag(pipeline, sandbox, tmp_path) == {"prospects": 1}


@DUCKDB
def test_a_full_run_reads_every_page_and_since_reads_to_its_date(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox
):
    """`full=True` and `since`, whatever the plan would have been."""
    run("prospects", **SHARE_OF_12)
    sandbox.clear_log()
    run("prospects", full=True, **SHARE_OF_12)
    assert len(sandbox.requests) == PAGES
    sandbox.clear_log()
    since = sorted(record["createdAt"] for record in sandbox.store.all("prospects"))[-18]
    run("prospects", since=since, **SHARE_OF_12)
    assert len(sandbox.requests) == pages_down_to(sandbox, since)


@DUCKDB
def test_options_come_from_dlts_section_and_never_from_bare_names(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    """A `FULL` or `SINCE` of another program changes nothing; `SOURCES__HIRINGCENTER__` does."""
    run("notes", **SHARE_OF_12)
    for name, value in {
        "FULL": "true", "SINCE": "2001-01-01", "FULL_SHARE": "0.9", "LOOKBACK_S": "9",
        "EXCLUDE_COLUMNS": '{"notes": ["body"]}', "HASH_KEY": "k", "API_KEY": "x",
        "BASE_URL": "http://x",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
        monkeypatch.setenv(f"SOURCES__{name}", value)
    sandbox.clear_log()
    run("notes", **SHARE_OF_12 | {"full_share": 0.0001})
    assert len(sandbox.requests) == 1  # a head scan
    assert all("body" in row for row in rows(pipeline, "notes").values())
    monkeypatch.setenv("SOURCES__HIRINGCENTER__FULL", "true")
    monkeypatch.setenv("SOURCES__HIRINGCENTER__EXCLUDE_COLUMNS", '{"notes": ["body"]}')
    sandbox.clear_log()
    run("notes", **SHARE_OF_12)
    assert len(sandbox.requests) == 2
    assert not any("body" in row for row in rows(pipeline, "notes").values())


@DUCKDB
def test_hashed_columns_can_be_joined_and_a_malformed_record_costs_no_other(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox
):
    """As with `hiringcenter pull`, hashes show nothing. The record in the middle of a page lands in
    a table of its own; those before and after it land in theirs."""
    middle = sorted(note["createdAt"] for note in sandbox.store.all("notes"))[5]
    for name in "ab":
        sandbox.store.put("notes", {"id": name, "body": "secret", "createdAt": 1})
    sandbox.store.put("notes", {"title": "no id", "createdAt": middle + 1})
    run("notes", hash_columns={"notes": ["body"]}, hash_key="a long random text")
    landed = rows(pipeline, "notes")
    assert landed["a"]["body"] == landed["b"]["body"] != "secret"
    assert landed.keys() == {note["id"] for note in sandbox.store.all("notes") if "id" in note}
    (malformed,) = rows(pipeline, "_hc_malformed_records").values()
    assert (malformed["resource"], '"no id"' in malformed["content"]) == ("notes", True)


@pytest.mark.filterwarnings("ignore:implicitly coercing:sqlalchemy.exc.SAWarning")
def test_a_destination_without_upserts_gets_delete_and_insert(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The merge strategy is the destination's; rows are still one per id."""
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    pipeline = dlt.pipeline(
        "own", destination=dlt.destinations.sqlalchemy(f"sqlite:///{tmp_path / 'rows.db'}"),
        dataset_name="main", pipelines_dir=str(tmp_path / "dlt"),
    )  # fmt: skip
    ledger_url = f"sqlite:///{tmp_path / 'ledger.db'}"
    sandbox.store.put("notes", {"body": "no id"})
    for _ in range(2):
        source = hiringcenter(sandbox.api_key, sandbox.url, ledger_url=ledger_url)
        pipeline.run(source.with_resources("notes"))
    with pipeline.sql_client() as client:
        for table, count in (("notes", 8), ("_hc_malformed_records", 1)):
            assert client.execute_sql(f"SELECT count(*) FROM {table}") == [(count,)]


# --- in chunks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pipeline", "parallel"), [("duckdb", True), ("postgres", False)], indirect=["pipeline"]
)
def test_a_backfill_in_chunks_reads_every_page_once(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox, parallel: bool, tmp_path: Path
):
    """Also where dlt reads the lists in threads of its own: every row lands, for one request."""
    chunks = 0
    while chunks == 0 or unfinished(pipeline):
        source = hiringcenter(
            sandbox.api_key, sandbox.url, ledger_url=f"sqlite:///{tmp_path / 'ledger.db'}"
        )
        source.add_limit(max_items=8)
        if parallel:
            source.prospects.parallelize()
        pipeline.run(source.with_resources("prospects"), loader_file_format="parquet")
        chunks += 1
    assert chunks >= 3
    assert rows(pipeline, "prospects").keys() == ids(sandbox, "prospects")
    # a page that was on its way when the limit was reached is asked for again
    assert PAGES <= len(sandbox.requests) <= PAGES + chunks


@DUCKDB
def test_a_backfill_in_chunks_of_time_always_gets_further(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox, tmp_path: Path
):
    """Even where one page takes longer than a chunk may; also if dlt is to read one of the lists
    in a thread of its own."""
    for _ in range(6):  # pages of both lists, and one
        source = hiringcenter(
            sandbox.api_key, sandbox.url, ledger_url=f"sqlite:///{tmp_path / 'ledger.db'}"
        ).with_resources("notes", "tasks")
        source.notes.parallelize()
        pipeline.run(source.add_limit(max_time=0.000001), loader_file_format="parquet")
        if not unfinished(pipeline):
            break
    assert unfinished(pipeline) == []
    assert rows(pipeline, "notes").keys() == ids(sandbox, "notes")
    assert rows(pipeline, "tasks").keys() == ids(sandbox, "tasks")


@DUCKDB
@pytest.mark.parametrize("options", [{}, {"full": True}, {"since": 1}], ids=str)
def test_lists_of_different_lengths_are_each_read_once_in_chunks(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox, options: dict[str, Any]
):
    """One that has ended isn't begun again while others continue; a look back continues as well."""
    if options:
        run(**SHARE_OF_12)
        sandbox.clear_log()
    left, chunks = list(RESOURCES), 0
    while left and chunks < 10:
        run(*left, limit={"max_items": 10}, **options)
        left, chunks = unfinished(pipeline), chunks + 1
    assert left == []
    assert len(sandbox.requests) <= PAGES + 2 + 1 + 1 + chunks
    for resource in RESOURCES:
        assert rows(pipeline, resource).keys() == ids(sandbox, resource)


@DUCKDB
def test_since_in_chunks_first_ends_the_unfinished_scan(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox
):
    """Otherwise it would stay unfinished, and a loop until nothing is unfinished would not end."""
    run("prospects", limit={"max_items": 6})
    chunks = 0
    while unfinished(pipeline) and chunks < 10:
        run("prospects", since=1, limit={"max_items": 12})
        chunks += 1
    assert unfinished(pipeline) == []
    assert rows(pipeline, "prospects").keys() == ids(sandbox, "prospects")
    assert 2 * PAGES <= len(sandbox.requests) <= 2 * PAGES + chunks + 2


def test_parallelize_changes_nothing(sandbox: Sandbox, tmp_path: Path):
    """Lists are read in parallel as they are. dlt's own wrapper runs a generator in a thread, and a
    limit of time closes it meanwhile: "generator already executing" ended such runs now and then.
    """
    source = hiringcenter(
        sandbox.api_key, sandbox.url, ledger_url=f"sqlite:///{tmp_path / 'ledger.db'}"
    )
    before = {name: resource._pipe.gen for name, resource in source.resources.items()}
    source.with_resources(*RESOURCES).parallelize()
    source.parallelize()
    assert {name: resource._pipe.gen for name, resource in source.resources.items()} == before
    for resource in source.with_resources("notes").resources.selected.values():
        generator = resource._pipe.gen
        assert resource.parallelize()._pipe.gen is generator


def test_pages_are_taken_in_order_whichever_thread_reports_first():
    """Or a limit would take a page, drop the one before it, and the state say that both are
    loaded."""
    steps = _Steps(page for page in ("first", "second"))
    late, early = steps(), steps()
    assert [*early, *late] == ["first", "second"]


@DUCKDB
def test_a_page_with_a_malformed_record_is_one_item_of_a_limit(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox
):
    """Or chunks of one page would never get behind it."""
    sandbox.store.put("notes", {"body": "no id", "createdAt": 1})
    for _ in range(2):
        run("notes", limit={"max_items": 1})
    assert unfinished(pipeline) == []
    assert len(rows(pipeline, "notes")) == 8
    assert len(rows(pipeline, "_hc_malformed_records")) == 1


@DUCKDB
def test_rows_may_be_changed_and_left_out_on_their_way(
    pipeline: dlt.Pipeline, sandbox: Sandbox, tmp_path: Path
):
    """`add_map` and `add_filter` as with any source: they get rows. The scan still ends where its
    last rows are left out, or each run would read its last page again; malformed records land all
    the same."""
    sandbox.store.put("notes", {"body": "no id", "createdAt": 1})
    source = hiringcenter(
        sandbox.api_key, sandbox.url, ledger_url=f"sqlite:///{tmp_path / 'ledger.db'}"
    ).with_resources("notes")
    first = max(sandbox.store.all("notes"), key=lambda note: int(note["createdAt"]))["id"]
    source.notes.add_map(lambda row: {**row, "body": "masked"})
    source.notes.add_filter(lambda row: row["id"] == first)
    pipeline.run(source, loader_file_format="parquet")
    landed = rows(pipeline, "notes")
    assert landed.keys() == {first}
    assert landed[first]["body"] == "masked"
    assert len(rows(pipeline, "_hc_malformed_records")) == 1
    assert unfinished(pipeline) == []


@DUCKDB
def test_a_run_after_one_that_failed_resumes_behind_the_last_chunk(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox
):
    """What a failed run had read is read again, nothing of the chunks before it."""
    run("prospects", limit={"max_items": 8})
    before = len(sandbox.requests)
    permissions = sandbox.options.permissions

    def forbid(_: Any) -> None:
        if len(sandbox.requests) == before + 4:
            sandbox.options.permissions = ()

    sandbox.on_request = forbid
    with pytest.raises(PipelineStepFailed) as failure:
        run("prospects")
    assert any(isinstance(cause, Unauthorized) for cause in causes(failure.value))
    sandbox.on_request, sandbox.options.permissions = None, permissions
    assert len(rows(pipeline, "prospects")) >= 8 * 5
    sandbox.clear_log()
    run("prospects")
    assert len(sandbox.requests) <= PAGES - 8
    assert rows(pipeline, "prospects").keys() == ids(sandbox, "prospects")
    assert unfinished(pipeline) == []


_BACKFILL = """
import sys, dlt
from connector.source import hiringcenter, unfinished
key, url, folder = sys.argv[1:]
pipeline = dlt.pipeline(
    "own", destination=dlt.destinations.duckdb(f"{folder}/file.duckdb"), dataset_name="own",
    pipelines_dir=f"{folder}/dlt",
)
while True:
    source = hiringcenter(key, url, ledger_url=f"sqlite:///{folder}/ledger.db")
    pipeline.run(source.with_resources("prospects").add_limit(max_items=4))
    if not unfinished(pipeline):
        break
"""


@pytest.mark.slow
def test_a_killed_backfill_reads_nothing_twice_but_its_last_chunk(sandbox: Sandbox, tmp_path: Path):
    """SIGKILL midway; the next process loads what is missing."""
    command = [sys.executable, "-c", _BACKFILL, sandbox.api_key, sandbox.url, str(tmp_path)]
    environment = {**os.environ, "RUNTIME__DLTHUB_TELEMETRY": "false"}
    half_read, is_killed = threading.Event(), threading.Event()

    def hold(_: Any) -> None:
        if len(sandbox.requests) >= PAGES // 2:
            half_read.set()
            is_killed.wait(500)

    sandbox.on_request = hold
    with subprocess.Popen(command, env=environment) as killed:
        assert half_read.wait(500)
        killed.send_signal(signal.SIGKILL)
    sandbox.on_request = None
    is_killed.set()
    subprocess.run(command, env=environment, check=True, timeout=500)
    assert PAGES <= len(sandbox.requests) <= PAGES + 2 * 4
    pipeline = dlt.pipeline(
        "own", destination=dlt.destinations.duckdb(str(tmp_path / "file.duckdb")),
        dataset_name="own", pipelines_dir=str(tmp_path / "dlt"),
    )  # fmt: skip
    assert rows(pipeline, "prospects").keys() == ids(sandbox, "prospects")


@DUCKDB
def test_a_limit_at_the_very_last_page_leaves_nothing_to_resume(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox
):
    """The scan ends with the rows of its last page: the next run takes what the plan says."""
    run("notes", limit={"max_items": 2})
    assert unfinished(pipeline) == []
    sandbox.clear_log()
    run("notes", **SHARE_OF_12 | {"full_share": 0.0001})
    assert len(sandbox.requests) == 1


# --- deletions ------------------------------------------------------------------------------------


def flag(pipeline: dlt.Pipeline, sandbox: Sandbox, tmp_path: Path) -> dict[str, int]:
    # under the usual limits it would wait until the requests of the runs before are a minute old
    return flag_deleted(
        pipeline, api_key=sandbox.api_key, base_url=sandbox.url, rate_limits="1000000/1s",
        ledger_url=f"sqlite:///{tmp_path / 'ledger.db'}",
    )  # fmt: skip


@DUCKDB
def test_another_api_is_not_asked_which_rows_are_deleted(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox
):
    """It would know none of them, and answer 404 to all."""
    run("notes", full=True)
    gone = sandbox.store.all("notes")[3]
    sandbox.store.delete("notes", gone["id"])
    run("notes", full=True)
    with Sandbox() as other, pytest.raises(ConfigurationError, match=sandbox.url):
        flag_deleted(pipeline, api_key=other.api_key, base_url=other.url)
    assert other.requests == []
    assert gone["id"] in live(pipeline, "notes")


@DUCKDB
def test_deletions_are_flagged_where_the_pipeline_has_lost_its_schema(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox, tmp_path: Path
):
    """As dagster-dlt leaves it: the destination is asked which tables there are."""
    run("notes")
    gone = sandbox.store.all("notes")[3]
    sandbox.store.delete("notes", gone["id"])
    run("notes", full=True)
    pipeline.default_schema.drop_tables(["notes"])
    assert flag(pipeline, sandbox, tmp_path) == {"notes": 1}
    assert gone["id"] not in live(pipeline, "notes")


def test_rows_that_a_complete_scan_missed_are_flagged_deleted(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox, tmp_path: Path
):
    """Each looked up once, though the scan took two runs; back again is live again."""
    run("notes", "tasks")
    gone = sandbox.store.all("notes")[3]
    sandbox.store.delete("notes", gone["id"])
    run("notes", limit={"max_items": 1})
    run("notes")
    assert gone["id"] in live(pipeline, "notes")
    sandbox.clear_log()
    assert flag(pipeline, sandbox, tmp_path) == {"notes": 1, "tasks": 0}
    assert [request.path for request in sandbox.requests] == [f"/v2/notes/{gone['id']}"]
    assert live(pipeline, "notes") == ids(sandbox, "notes")
    assert flag(pipeline, sandbox, tmp_path) == {}  # settled
    sandbox.store.put("notes", gone)
    run("notes")
    assert live(pipeline, "notes") == ids(sandbox, "notes")


@DUCKDB
def test_a_narrow_or_an_unproven_scan_flags_nothing(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox, tmp_path: Path
):
    """Rows that weren't requested aren't missing."""
    run("prospects", **SHARE_OF_12)
    assert flag(pipeline, sandbox, tmp_path) == {"prospects": 0}
    sandbox.store.delete("prospects", sandbox.store.all("prospects")[28]["id"])
    run("prospects", **SHARE_OF_12)
    run("prospects", full=True, limit={"max_items": 18}, **SHARE_OF_12)
    assert flag(pipeline, sandbox, tmp_path) == {}
    assert len(live(pipeline, "prospects")) == PAGES * 5


@DUCKDB
def test_many_missing_rows_cost_a_sample(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox, tmp_path: Path
):
    """Fifty lookups stand for all of them."""
    run("prospects")
    for record in sandbox.store.all("prospects")[:60]:
        sandbox.store.delete("prospects", record["id"])
    run("prospects")
    sandbox.clear_log()
    assert flag(pipeline, sandbox, tmp_path) == {"prospects": 60}
    assert len(sandbox.requests) == 50
    assert live(pipeline, "prospects") == ids(sandbox, "prospects")


# --- next to the commands -------------------------------------------------------------------------


@pytest.mark.parametrize("resource", ["notes"])
def test_a_scan_is_resumed_only_where_its_seen_rows_are_known(resource: str):
    """A pull keeps their ids, the source marks the rows: neither resumes the other's full scan,
    which would take what the other has read for deleted."""
    plan = ScanPlan(resource, ScanKind.FULL, "test")
    for ids, by_pull, by_source in ((7, True, False), (None, False, True)):
        state = {"facts": {}, "scan": Checkpoint(plan, NOW_MS - 1, {"ended": False}, ids).to_json()}
        for keeps_ids, expected in ((True, by_pull), (False, by_source)):
            known = list_state(resource, state, now_ms=NOW_MS, keeps_ids=keeps_ids)
            scan = begin(known, plan, now_ms=NOW_MS, keeps_ids=keeps_ids)
            assert scan.resumed is expected


@DUCKDB
def test_a_pull_and_the_source_keep_separate_states(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox, tmp_path: Path
):
    """Two datasets: neither touches the rows or the scans of the other."""
    run(limit={"max_items": 1})
    settings = settings_for(sandbox, tmp_path)
    assert pull(settings, Wanted(RESOURCES)).error is None
    assert_equal_to_truth(sandbox, all_duckdb(settings.duckdb_path))
    assert unfinished(pipeline) == ["prospects", "notes"]
    run()
    assert unfinished(pipeline) == []
    assert rows(pipeline, "prospects").keys() == ids(sandbox, "prospects")
