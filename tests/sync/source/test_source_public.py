"""`hiringcenter` as a dlt source, into DuckDB and PostgreSQL: every known trap."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import warnings
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dlt
import pytest
from dlt.pipeline.exceptions import PipelineStepFailed

from connector.errors import MissingKey, Unauthorized, Unreachable
from connector.sandbox import RESOURCES, Sandbox, SandboxOptions
from connector.source import flag_deleted, hiringcenter
from tests.sync.source.conftest import JUST_A_FEW, Run, causes, rows


def parsed(value: Any) -> Any:
    """JSON columns come as text from DuckDB, as values from PostgreSQL."""
    return json.loads(value) if isinstance(value, str) else value


def test_all_four_lists_land_whole(run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox):
    """One row per id, in tables of the API's names; a second run changes nothing."""
    for _ in range(2):
        run()
        for resource in RESOURCES:
            truth = {record["id"]: record for record in sandbox.store.all(resource)}
            landed = rows(pipeline, resource)
            assert landed.keys() == truth.keys()
            created = {key: row["created_at"].astimezone(UTC) for key, row in landed.items()}
            assert created == {
                key: datetime.fromtimestamp(row["createdAt"] / 1000, UTC)
                for key, row in truth.items()
            }
    assert set(pipeline.default_schema.data_table_names()) == set(RESOURCES)


def test_a_part_of_the_lists(run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox):
    """`with_resources`, as with any source; the others aren't requested. The dataset can be read
    with the SQLGlot that the lock has: later ones lack what dlt asks of it."""
    run("prospects")
    assert pipeline.default_schema.data_table_names() == ["prospects"]
    assert {request.path for request in sandbox.requests} == {"/v2/prospects"}
    found = pipeline.dataset()["prospects"].select("id", "first_name").limit(100).fetchall()
    assert len(found) == JUST_A_FEW["prospects"]


def test_every_trap_of_values_and_names_in_one_list(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox
):
    """None fails the load, none is lost, none changes another row."""
    put = sandbox.store.put
    put("prospects", {"id": "dates", "title": "2025-01-01", "found": "2025-01-01T00:00:00Z"})
    put("prospects", {"id": "ms", "createdAt": 1_767_225_600_123, "score": 1_767_225_600_123})
    put("prospects", {"id": "types", "title": 5, "createdAt": "soon", "labels": "a", "score": 1.5})
    names = ["firstName", "first_name", "ID", "_dlt_id", "_hc_hash", "", "名前", "__x", "y" * 100]
    put("prospects", {"id": "names", **dict(zip(names, "abcdefghi", strict=True))})
    put("prospects", {"id": "held", "title": "a\0b", "company": "\ud800", "big": 2**70,
                      "labels": ["a\0b", 2**70], "near": 2**63 - 1})  # fmt: skip
    put("prospects", {"id": "marks", "title": "\uf0261.5", "labels": ["\uf02bVIP"]})
    put("prospects", {"id": "deep", "custom": {"a": [{"b": {"c": []}}]}, "empty": [], "text": ""})
    run("prospects")
    landed = rows(pipeline, "prospects")
    assert landed["dates"] == {
        "id": "dates", "title": "2025-01-01", "found": "2025-01-01T00:00:00Z",
    }  # fmt: skip
    assert landed["ms"]["created_at"] == datetime(2026, 1, 1, 0, 0, 0, 123_000, tzinfo=UTC)
    assert landed["ms"]["score"] == 1_767_225_600_123
    assert landed["types"] == {
        "id": "types", "title__v_bigint": 5, "created_at__v_text": "soon",
        "labels__v_text": "a", "score__v_double": 1.5,
    }  # fmt: skip
    assert sorted(str(value) for value in landed["names"].values()) == [*"abcdefghi", "names"]
    held = landed["held"]
    assert (held["title"], held["company"], held["big"]) == ("a\ufffdb", "\ufffd", str(2**70))
    assert (parsed(held["labels"]), held["near"]) == (["a\ufffdb", str(2**70)], 2**63 - 1)
    assert landed["marks"]["title"] == "\ufffd1.5"
    assert parsed(landed["marks"]["labels"]) == ["\uf02bVIP"]
    assert parsed(landed["deep"]["custom"]) == {"a": [{"b": {"c": []}}]}
    assert (parsed(landed["deep"]["empty"]), landed["deep"]["text"]) == ([], "")
    assert len(landed) == 30 + 7
    assert pipeline.default_schema.data_table_names() == ["prospects"]


def test_a_field_that_changes_its_type_and_malformed_records_land_apart(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox
):
    """The column that is there decides, and the value that left it is null. What has no id is in a
    table of its own: nothing that was read is lost, and equal malformed records are one row."""
    sandbox.store.put("notes", {"id": "n", "rank": 5, "fooBar": "mine"})
    sandbox.store.put("notes", {"body": "no id"})
    sandbox.store.put("notes", "text")
    run("notes")
    sandbox.store.put("notes", {"id": "n", "rank": "five", "foo_bar": "other"})
    run("notes")
    landed = rows(pipeline, "notes")["n"]
    own = next(name for name in landed if name.startswith("foo_bar__f"))
    assert landed == {"id": "n", "rank__v_text": "five", own: "other"}
    odd = rows(pipeline, "_hc_malformed_records")
    assert sorted(row["content"] for row in odd.values()) == ['"text"', '{"body": "no id"}']
    assert {row["resource"] for row in odd.values()} == {"notes"}
    assert len(rows(pipeline, "notes")) == 20 + 1


def test_a_row_read_twice_because_pages_drifted_lands_once(
    run: Run, pipeline: dlt.Pipeline, sandbox: Sandbox
):
    """dlt's upsert would make two rows of one id, and fail at the next load."""
    sandbox.on_request = lambda _: sandbox.store.create("notes", {"body": "new"}) and None
    for _ in range(2):
        run("notes", page_size=3)
    assert len(rows(pipeline, "notes")) >= 20


@pytest.mark.parametrize("pipeline", ["duckdb"], indirect=True)
def test_a_list_not_proven_complete_is_loaded_with_a_warning(
    run: Run, sandbox: Sandbox, pipeline: dlt.Pipeline, capfd: pytest.CaptureFixture[str]
):
    """What came is there; a warning says that more may exist, and why."""
    sandbox.options.prospects_paged = False
    sandbox.options.envelope = "next_token"
    sandbox.options.max_limits = {"prospects": 10}
    run("prospects", page_size=10)
    assert len(rows(pipeline, "prospects")) >= 10
    assert "source.incomplete" in "".join(capfd.readouterr())


@pytest.mark.parametrize("pipeline", ["duckdb"], indirect=True)
def test_a_wrong_key_is_reported_without_showing_it(run: Run, pipeline: dlt.Pipeline):
    """The cause of dlt's error is ours."""
    with pytest.raises(PipelineStepFailed) as failure:
        run("notes", api_key="hc_wrong_key_123")
    assert any(isinstance(cause, Unauthorized) for cause in causes(failure.value))
    assert "hc_wrong_key_123" not in str(failure.value)


@pytest.mark.parametrize("pipeline", ["duckdb"], indirect=True)
def test_requests_are_paced_by_the_limits_given(run: Run, sandbox: Sandbox, pipeline: dlt.Pipeline):
    """Never above them: the sandbox would answer 429."""
    sandbox.options.windows = ((3, 0.5),)
    run("notes", rate_limits="3/0.5s", page_size=3)
    assert {request.status for request in sandbox.requests} == {200}


def test_key_and_base_url_may_come_from_dlts_configuration(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, tmp_path: Path
):
    """As for any source: `sources.hiringcenter.*`."""
    monkeypatch.setenv("SOURCES__HIRINGCENTER__API_KEY", sandbox.api_key)
    monkeypatch.setenv("SOURCES__HIRINGCENTER__BASE_URL", sandbox.url)
    monkeypatch.setenv("SOURCES__HIRINGCENTER__LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.db'}")
    assert len(list(hiringcenter().with_resources("meetings"))) == JUST_A_FEW["meetings"]


def test_bare_names_of_dlt_change_nothing(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, tmp_path: Path
):
    """`BASE_URL`, set for something else, would send the key there."""
    with Sandbox(SandboxOptions(**JUST_A_FEW)) as elsewhere:
        for prefix in ("", "SOURCES__", "HIRINGCENTER__HIRINGCENTER__"):
            monkeypatch.setenv(f"{prefix}BASE_URL", elsewhere.url)
            monkeypatch.setenv(f"{prefix}API_KEY", "hc_of_somebody_else")
            monkeypatch.setenv(f"{prefix}PAGE_SIZE", "1")
        for name in list(os.environ):
            if name.startswith("HIRINGCENTER__"):
                monkeypatch.delenv(name)
        ledger_url = f"sqlite:///{tmp_path / 'ledger.db'}"
        source = hiringcenter(sandbox.api_key, base_url=sandbox.url, ledger_url=ledger_url)
        assert len(list(source.with_resources("meetings"))) == JUST_A_FEW["meetings"]
        assert len(sandbox.requests) == 1
        assert elsewhere.requests == []


def test_what_is_not_given_comes_from_the_settings_of_the_commands(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, tmp_path: Path
):
    """`HIRINGCENTER_*`; dlt's `sources.hiringcenter.*` wins over them, arguments over both."""
    monkeypatch.setenv("HIRINGCENTER_API_KEY", sandbox.api_key)
    monkeypatch.setenv("HIRINGCENTER_BASE_URL", "https://api.example.com/v2")
    monkeypatch.setenv("HIRINGCENTER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("HIRINGCENTER_PULL__PAGE_SIZE", "1")
    monkeypatch.setenv("SOURCES__HIRINGCENTER__BASE_URL", sandbox.url)
    monkeypatch.setenv("SOURCES__HIRINGCENTER__PAGE_SIZE", "2")
    source = hiringcenter(page_size=3)
    assert len(list(source.with_resources("meetings"))) == JUST_A_FEW["meetings"]
    assert [dict(request.params)["limit"] for request in sandbox.requests] == ["3", "3"]
    assert (tmp_path / "state" / "ledger.db").is_file()


def test_a_missing_key_says_where_it_was_looked_for():
    """Both ways of giving it are named."""
    with pytest.raises(MissingKey, match=r"HIRINGCENTER_API_KEY.*sources\.hiringcenter\.api_key"):
        hiringcenter()


@pytest.mark.parametrize("pipeline", ["duckdb"], indirect=True)
@pytest.mark.parametrize("parallel_lists", [("notes",), RESOURCES])
def test_an_unreachable_host_is_reported(
    run: Run, pipeline: dlt.Pipeline, monkeypatch: pytest.MonkeyPatch, parallel_lists: Any
):
    """Also where four lists are read at once; dlt would say `generator already executing`."""
    monkeypatch.setenv("HIRINGCENTER_HTTP__RETRY_TOTAL_S", "0.2")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(PipelineStepFailed) as failure:
            run(*parallel_lists, base_url=f"http://127.0.0.1:{port}/v2")
    assert any(isinstance(cause, Unreachable) for cause in causes(failure.value))
    assert "Connection refused" in str(failure.value)
    assert "already executing" not in str(failure.value)


def test_the_key_is_never_sent_in_the_open(tmp_path: Path):
    """Plain http is for this machine alone; nothing is opened before that is checked."""
    with pytest.raises(ValueError, match="plain http"):
        hiringcenter(api_key="k", base_url="http://api.example.com/v2")


def test_lists_land_in_sqlite_too_and_deletions_are_flagged(sandbox: Sandbox, tmp_path: Path):
    """Which can't upsert: the merge strategy is asked of the destination. An empty list has no
    table, which isn't a reason to fail."""
    for note in sandbox.store.all("notes"):
        sandbox.store.delete("notes", note["id"])
    database = tmp_path / "file.db"
    pipeline = dlt.pipeline(
        "own",
        destination=dlt.destinations.sqlalchemy(f"sqlite:///{database}"),
        dataset_name="main",
        pipelines_dir=str(tmp_path / "dlt"),
    )
    options = {"api_key": sandbox.api_key, "base_url": sandbox.url,
               "ledger_url": f"sqlite:///{tmp_path / 'ledger.db'}"}  # fmt: skip
    gone = sandbox.store.all("prospects")[3]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="implicitly coercing SELECT object")
        for _ in range(2):
            pipeline.run(hiringcenter(full=True, **options))
            with suppress(KeyError):
                sandbox.store.delete("prospects", gone["id"])
    assert flag_deleted(pipeline, **options)["prospects"] == 1
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute("SELECT id, _hc_deleted_at FROM prospects").fetchall()
    assert len(found) == JUST_A_FEW["prospects"]
    assert [id_ for id_, deleted_at in found if deleted_at] == [gone["id"]]
