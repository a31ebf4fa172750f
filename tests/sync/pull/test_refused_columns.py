"""Fields that PostgreSQL can't hold as columns: they land in `_hc_more`, and nothing is stuck."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from connector.sandbox import Sandbox, SandboxOptions
from pipelines.destination.destination import Destination
from tests.sync.pull.conftest import Puller
from tests.sync.pull.first_pulls import FirstPulls


@pytest.fixture
def sandbox(first_pulls: FirstPulls) -> Iterator[Sandbox]:
    with first_pulls.sandbox(SandboxOptions(prospects=20, notes=0, tasks=0, meetings=0)) as running:
        yield running


@pytest.fixture
def puller(postgres_puller: Puller) -> Puller:
    """Into PostgreSQL."""
    postgres_puller.lists = ("prospects",)
    return postgres_puller


def _put(puller: Puller, at: int, **fields: Any) -> str:
    """Add fields to one prospect; its id."""
    store = puller.sandbox.store
    record = store.all("prospects")[at]
    store.put("prospects", {**record, **fields})
    return str(record["id"])


def _landed(puller: Puller, prospect_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A prospect's columns, and what is in its `_hc_more`."""
    assert puller.postgres_url is not None
    with psycopg.connect(puller.postgres_url) as connection:
        query = "SELECT row_to_json(t) FROM hiringcenter.prospects t WHERE id = %s"
        row = connection.execute(query, [prospect_id]).fetchall()[0][0]
    more = row.pop("_hc_more", None)
    more = json.loads(more) if isinstance(more, str) else more
    return {name: value for name, value in row.items() if value is not None}, more or {}


def test_names_of_system_columns(puller: Puller):
    """They stopped every later pull; now they land in `_hc_more`, with a warning, and only once."""
    value = {"xmin": "a", "CTID": 7, "cmax": [1, {"b": None}], "select": "s", "rowid": "r"}
    other = {"n" * 70: 1, "n" * 71: 2, "user": True, "Xmin": 1.5}
    first, second = _put(puller, 3, **value), _put(puller, 5, **other)
    report = puller.pull_ok()
    columns, more = _landed(puller, first)
    assert more == {"xmin": "a", "CTID": 7, "cmax": [1, {"b": None}]}
    assert (columns["select"], columns["rowid"]) == ("s", "r")
    columns, more = _landed(puller, second)
    assert columns["user"] is True
    assert sorted(value for name, value in columns.items() if name.startswith("nnn")) == [1, 2]
    assert 1.5 in [*more.values(), *columns.values()]
    assert any("field CTID" in warning for warning in report.warnings["prospects"])
    puller.pull_ok(full=True)
    assert puller.counts("rows_written")["prospects"] == 0
    _put(puller, 3, **dict.fromkeys(value))
    puller.pull_ok(full=True)
    assert _landed(puller, first)[1] == {}


def test_more_values_than_a_row_has_room_for(puller: Puller):
    """A page of PostgreSQL's holds 8 kB of values that can't be kept elsewhere."""
    wide = {f"wide{number}": f"{number} is a text of its own" for number in range(600)}
    prospect_id = _put(puller, 0, **wide)
    puller.pull_ok()
    columns, more = _landed(puller, prospect_id)
    assert {name: (columns | more)[name] for name in wide} == wide
    assert 200 < len(set(columns) & set(wide)) < 600


def test_a_load_that_is_refused_moves_what_is_new(puller: Puller):
    """Dropped columns count too, so the table is full sooner than its columns show."""
    puller.pulled()
    assert puller.postgres_url is not None
    with psycopg.connect(puller.postgres_url) as connection:
        for word in ("ADD COLUMN", "DROP COLUMN"):
            changes = ", ".join(
                f"{word} x{n}{' int' if word.startswith('ADD') else ''}" for n in range(1550)
            )
            connection.execute(f"ALTER TABLE hiringcenter.prospects {changes}")
    fields = {f"new{number}": number for number in range(60)}
    prospect_id = _put(puller, 0, **fields)
    puller.pull_ok(full=True)
    columns, more = _landed(puller, prospect_id)
    assert {name: (columns | more)[name] for name in fields} == fields
    assert more
    with Destination(puller.settings) as destination:  # no later load is refused for them
        assert destination.columns("prospects")["_hc_more"]["x-hc-moved"] == sorted(more)


def test_a_constraint_made_by_hand_is_named_and_stops_nothing_for_good(puller: Puller):
    """The rows that it refuses are read again, and land when it is dropped."""
    puller.pulled()
    assert puller.postgres_url is not None
    _put(puller, 0, lastName="")
    with psycopg.connect(puller.postgres_url, autocommit=True) as connection:
        alter = "ALTER TABLE hiringcenter.prospects"
        connection.execute(f"{alter} ADD CONSTRAINT named CHECK (last_name <> '')")
        report = puller.pull(full=True)
        assert type(report.error).__name__ == "DestinationRefused", report.error
        assert "CheckViolation" in str(report.error)
        connection.execute(f"{alter} DROP CONSTRAINT named")
    puller.pull_ok(full=True)
    puller.assert_true()
