"""Every field of every record lands, in both tested destinations, and stays true to the API."""

from __future__ import annotations

import duckdb
import pytest

from connector.sandbox import RESOURCES
from pipelines.destination.destination import Destination
from tests.sync.pull.conftest import Puller


def test_every_field_of_every_record_lands(any_puller: Puller):
    """A first pull equals the API; its requests are the pages and at most 8 more."""
    report = any_puller.pull_ok()
    any_puller.assert_true()
    pages = 2 + 1 + 1 + 1  # 300, 200, 120, 70 rows, 200 a page
    assert pages <= report.summary["requests"] <= pages + 8
    assert any_puller.sandbox.unknown_parameters == []


def test_a_second_pull_writes_nothing(any_puller: Puller):
    """Unchanged rows are read, and left alone."""
    any_puller.pull_ok()
    any_puller.pull_ok()
    assert any_puller.counts("rows_read") == {
        "prospects": 300, "notes": 200, "tasks": 120, "meetings": 70,
    }  # fmt: skip
    assert set(any_puller.counts("rows_written").values()) == {0}
    assert set(any_puller.counts("rows_deleted").values()) == {0}


def test_changes_additions_deletions_and_returns_are_found(any_puller: Puller):
    """After each pull the destination equals the API, row by row."""
    store = any_puller.sandbox.store
    any_puller.pull_ok()
    gone = {}
    for resource in RESOURCES:
        first, second, third, *_ = store.all(resource)
        store.update(resource, first["id"], {"title": "Changed", "company": ""})
        store.update(resource, second["id"], {"title": "Silently changed"}, touch=False)
        gone[resource] = third
        store.delete(resource, third["id"])
        store.create(resource, {"firstName": "Neu", "lastName": "Größe", "shoeSize": 43})
    any_puller.pull_ok()
    any_puller.assert_true()
    assert set(any_puller.counts("rows_written").values()) == {3}
    assert set(any_puller.counts("rows_deleted").values()) == {1}
    for resource, record in gone.items():
        store.put(resource, record)
    any_puller.pull_ok()
    any_puller.assert_true()
    assert set(any_puller.counts("rows_written").values()) == {1}


def test_fields_that_change_their_type_land_beside_their_column(any_puller: Puller):
    """A number that becomes a text, a text that becomes a list: nothing is coerced or lost."""
    store = any_puller.sandbox.store
    record = store.create("prospects", {"firstName": "A", "lastName": "B", "score": 7})
    any_puller.pull_ok("prospects")
    store.update("prospects", record["id"], {"score": "seven", "title": ["a", "b"]})
    any_puller.pull_ok("prospects")
    row = any_puller.landed()["prospects"][record["id"]] if _all_tables(any_puller) else {}
    assert row["score__v_text"] == "seven"
    assert row["title__v_json"] == ["a", "b"]
    assert "score" not in row
    assert "title" not in row


def _all_tables(any_puller: Puller) -> bool:
    any_puller.pull_ok()
    return True


def test_a_deleted_row_keeps_its_columns(puller: Puller):
    """A tombstone is a time in the row, which stays; nothing else changes."""
    puller.pull_ok()
    victim = puller.sandbox.store.all("prospects")[5]
    puller.sandbox.store.delete("prospects", victim["id"])
    puller.pull_ok()
    with duckdb.connect(str(puller.settings.duckdb_path), read_only=True) as connection:
        found = connection.execute(
            "SELECT first_name, _hc_deleted_at IS NULL FROM hiringcenter.prospects WHERE id = ?",
            [victim["id"]],
        ).fetchone()
    assert found == (victim["firstName"], False)


def test_columns_of_the_contract_exist_where_a_list_is_empty(puller: Puller):
    """No record, yet every column, so that queries written today run today."""
    for name in ("meetings", "tasks"):
        for record in puller.sandbox.store.all(name):
            puller.sandbox.store.delete(name, record["id"])
    puller.pull_ok()
    with duckdb.connect(str(puller.settings.duckdb_path), read_only=True) as connection:
        columns = dict(
            connection.execute(
                "SELECT column_name, data_type FROM information_schema.columns "
                "WHERE table_name = 'meetings'"
            ).fetchall()
        )
        described = connection.execute("DESCRIBE hiringcenter.tasks").fetchall()
        tasks = {name for (name, *_) in described}
    assert columns["meeting_date"] == "TIMESTAMP WITH TIME ZONE"
    assert columns["time_zone"] == "VARCHAR"
    assert {"id", "prospect_id", "owner_id", "location", "notes", "_hc_deleted_at"} <= set(columns)
    by_key = {"created_by_api", "created_by_api_key_id", "created_by_api_key_name"}
    assert by_key <= set(columns) & tasks


def test_what_dlt_keeps_of_loads_is_bounded(any_puller: Puller, monkeypatch: pytest.MonkeyPatch):
    """Hourly pulls for years: neither states nor records of loads pile up. What another pipeline
    keeps in the dataset stays, and how often it has run decides nothing."""
    monkeypatch.setattr("pipelines.destination.destination._KEPT_STATES", 2)
    for number in range(4):
        any_puller.sandbox.store.create("notes", {"body": str(number)})
        any_puller.pull_ok("notes")
        if number == 0:
            _add_states_of_another_pipeline(any_puller, 1, 1000)
    with Destination(any_puller.settings) as destination:
        table = destination.name("_dlt_pipeline_state")
        states = destination.query(f"SELECT pipeline_name, version FROM {table}")
    own = [version for name, version in states if name == "hiringcenter"]
    assert 2 <= len(own) <= 3
    assert len(states) - len(own) == 2
    loaded = any_puller.settings.state_dir.glob("work/*/pipelines/*/load/loaded/*")
    assert len(list(loaded)) <= 4


def _add_states_of_another_pipeline(puller: Puller, *versions: int) -> None:
    with Destination(puller.settings) as destination:
        table = destination.name("_dlt_pipeline_state")
        for version in versions:
            destination.query(
                f"INSERT INTO {table} (version, engine_version, pipeline_name, state, created_at, "
                "_dlt_id, _dlt_load_id) SELECT %s, engine_version, 'another', state, created_at, "
                f"%s, _dlt_load_id FROM {table} WHERE pipeline_name = 'hiringcenter' AND version = "
                f"(SELECT min(version) FROM {table} WHERE pipeline_name = 'hiringcenter')",
                [version, f"id{version}"],
            )


def test_tables_that_somebody_dropped_come_back_whole(any_puller: Puller):
    """With all their rows, though narrow scans would have been next, and new fields as well."""
    puller = any_puller
    puller.sandbox.store.create("notes", {"prospectId": "p", "body": "x", "novel": {"deep": [1]}})
    puller.pull_ok()
    puller.change_pull(full_share=0.0)
    _drop(puller, "notes", "_hc_runs")
    puller.pull_ok()
    puller.assert_true()


def test_a_table_of_dlts_that_somebody_dropped_comes_back(any_puller: Puller):
    """dlt's record of what it has created isn't trusted then."""
    puller = any_puller
    puller.pull_ok("notes")
    _drop(puller, "_dlt_pipeline_state")
    puller.sandbox.store.create("notes", {"prospectId": "p", "body": "x"})
    puller.pull_ok("notes")
    assert puller.counts("rows_written") == {"notes": 1}


def _drop(puller: Puller, *tables: str) -> None:
    """By hand: with the destination's own client, behind the connector's back."""
    with Destination(puller.settings) as destination:
        for table in tables:
            destination.query(f"DROP TABLE {destination.name(table)}")


def test_numbers_beyond_64_bits_are_no_times_and_stop_nobody(any_puller: Puller):
    """In a field of milliseconds, where a watermark would come from."""
    puller = any_puller
    first = puller.sandbox.store.all("prospects")[0]["id"]
    puller.sandbox.store.update("prospects", first, {"createdAt": 2**70}, touch=False)
    puller.pull_ok()
    assert puller.landed()["prospects"][first]["created_at__v_text"] == str(2**70)


def test_a_column_that_somebody_dropped_gets_its_values_back(any_puller: Puller):
    """No row passes for unchanged, though none changed at the API."""
    puller = any_puller
    puller.pull_ok()
    with Destination(puller.settings) as destination:
        destination.query(f"ALTER TABLE {destination.name('notes')} DROP COLUMN body")
    puller.pull_ok()
    puller.assert_true()
