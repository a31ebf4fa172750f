"""Every field of every record lands, in both tested destinations, and stays true to the API."""

from __future__ import annotations

import duckdb

from connector.settings import PullSettings
from pipelines.destination.destination import Destination
from tests.sync.pull.conftest import Puller


def test_every_field_of_every_record_lands_and_stays_true(any_puller: Puller):
    """A first pull equals the API; its requests are the pages and at most 8 more. A second one
    writes nothing. Changes, additions, deletions and returns are found: after each pull the
    destination equals the API, row by row."""
    report = any_puller.pulled()
    any_puller.assert_true()
    pages = 2 + 1 + 1 + 1  # 300, 200, 120, 70 rows, 200 a page
    assert pages <= report.summary["requests"] <= pages + 8
    assert any_puller.sandbox.unknown_parameters == []

    if any_puller.postgres_url is not None:
        any_puller.lists = ("prospects", "meetings")  # with a history and without one
    any_puller.pull_ok()
    rows = {"prospects": 300, "notes": 200, "tasks": 120, "meetings": 70}
    assert any_puller.counts("rows_read") == {name: rows[name] for name in any_puller.lists}
    assert set(any_puller.counts("rows_written").values()) == {0}
    assert set(any_puller.counts("rows_deleted").values()) == {0}

    store, gone = any_puller.sandbox.store, {}
    for resource in any_puller.lists:
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


def test_fields_that_change_their_type_land_in_variant_columns(any_puller: Puller):
    """A number that becomes a text, a text that becomes a list: nothing is coerced or lost. Numbers
    beyond 64 bits aren't times, where a watermark would come from, and stop no pull."""
    any_puller.lists = ("prospects",)
    store = any_puller.sandbox.store
    record = store.create("prospects", {"firstName": "A", "lastName": "B", "score": 7})
    any_puller.pull_ok()
    store.update("prospects", record["id"], {"score": "seven", "title": ["a", "b"]})
    store.update("prospects", record["id"], {"createdAt": 2**70}, touch=False)
    any_puller.pull_ok()
    row = any_puller.landed()["prospects"][record["id"]]
    assert row["score__v_text"] == "seven"
    assert row["title__v_json"] == ["a", "b"]
    assert row["created_at__v_text"] == str(2**70)
    assert row.keys() & {"score", "title", "created_at"} == set()


def test_a_deleted_row_keeps_its_columns(puller: Puller):
    """A tombstone is a time in the row, which stays; nothing else changes."""
    puller.pulled("prospects")
    victim = puller.sandbox.store.all("prospects")[5]
    puller.sandbox.store.delete("prospects", victim["id"])
    puller.pull_ok("prospects")
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
    puller.pull_ok("meetings", "tasks")
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


def test_what_dlt_keeps_of_loads_is_bounded(any_puller: Puller):
    """Hourly pulls for years: neither states nor records of loads pile up. What another pipeline
    keeps in the dataset stays, and how often it has run decides nothing."""
    for number in range(3):
        any_puller.sandbox.store.create("notes", {"body": str(number)})
        any_puller.pull_ok("notes")
        if number == 0:
            _add_states(any_puller, "hiringcenter", *range(-50, 0))
            _add_states(any_puller, "another", 1, 1000)
    with Destination(any_puller.settings) as destination:
        table = destination.name("_dlt_pipeline_state")
        states = destination.query(f"SELECT pipeline_name, version FROM {table}")
    own = [version for name, version in states if name == "hiringcenter"]
    assert 20 <= len(own) <= 21
    assert max(own) > 0, "the oldest ones go"
    assert len(states) - len(own) == 2
    loaded = any_puller.settings.state_dir.glob("work/*/pipelines/*/load/loaded/*")
    assert len(list(loaded)) <= 4


def _add_states(puller: Puller, pipeline: str, *versions: int) -> None:
    """As earlier loads have left them: their load ids come before the first one here."""
    with Destination(puller.settings) as destination:
        table = destination.name("_dlt_pipeline_state")
        for version in versions:
            destination.query(
                f"INSERT INTO {table} (version, engine_version, pipeline_name, state, created_at, "
                "_dlt_id, _dlt_load_id) SELECT %s, engine_version, %s, state, created_at, %s, %s "
                f"FROM {table} WHERE pipeline_name = 'hiringcenter' AND version = "
                f"(SELECT max(version) FROM {table} WHERE pipeline_name = 'hiringcenter')",
                [version, pipeline, f"{pipeline}{version}", f"1000000000.{version + 100}"],
            )


def test_what_was_dropped_by_hand_comes_back_whole(any_puller: Puller):
    """Tables with all their rows, though narrow scans would have been next, and new fields as
    well; dlt's own, as its record of what it has created isn't trusted then; the values of a
    column: no row passes for unchanged, though none changed at the API."""
    puller = any_puller
    puller.lists = ("notes", "tasks")
    puller.sandbox.store.create("notes", {"prospectId": "p", "body": "x", "novel": {"deep": [1]}})
    puller.pull_ok()
    puller.change_pull(full_share=0.0)
    _by_hand(puller, "DROP TABLE {}", "notes", "_hc_runs")
    puller.pull_ok()
    puller.assert_true()

    _by_hand(puller, "DROP TABLE {}", "_dlt_pipeline_state")
    puller.sandbox.store.create("notes", {"prospectId": "p", "body": "x"})
    puller.pull_ok("notes")
    assert puller.counts("rows_written") == {"notes": 1}

    puller.change_pull(full_share=PullSettings().full_share)
    _by_hand(puller, "ALTER TABLE {} DROP COLUMN body", "notes")
    puller.pull_ok("notes")
    puller.assert_true()


def _by_hand(puller: Puller, sql: str, *tables: str) -> None:
    """With the destination's own client, behind the connector's back."""
    with Destination(puller.settings) as destination:
        for table in tables:
            destination.query(sql.format(destination.name(table)))
