"""What rows looked like before: `<resource>_history`, by whole pulls."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa

from pipelines.destination.destination import Destination
from tests.sync.pull.conftest import Puller
from tests.sync.pull.thirty_days import thirty_days


@pytest.mark.slow
def test_thirty_days_of_moves_are_in_the_history_once_within_their_bounds(tmp_path: Path):
    """Pulls every few days, some killed; columns are hidden and shown again, an empty field appears
    and labels come in another order. Every change that two scans bracket is there, and nothing
    else. (`tests/bench/history.py` pulls every few hours.)"""
    month = thirty_days(tmp_path, every=timedelta(days=4.9), moves=13)
    assert month.check() > 20
    assert any(not is_whole for _, is_whole in month.pulls)


def _rows(puller: Puller, sql: str) -> list[tuple[Any, ...]]:
    if puller.postgres_url is None:
        with duckdb.connect(str(puller.settings.duckdb_path), read_only=True) as connection:
            return connection.execute(sql).fetchall()
    engine = sa.create_engine(sa.make_url(puller.postgres_url).set(drivername="postgresql+psycopg"))
    with engine.connect() as server:
        found = [tuple(row) for row in server.execute(sa.text(sql))]
    engine.dispose()
    return found


def test_versions_of_a_row_at_each_destination(any_puller: Puller):
    """Changed, with a new column, deleted, and back again; another order of labels isn't a version.
    In the end the table is dropped by hand while a person is deleted: a version without a person
    doesn't stay open."""
    any_puller.change_pull(history=("prospects",))
    store = any_puller.sandbox.store
    one = store.create("prospects", {"firstName": "A", "title": "1", "labels": ["x", "y"]})
    id_, other = one["id"], store.create("prospects", {"labels": ["x", "y"]})
    any_puller.pull_ok("prospects")
    store.update("prospects", id_, {"title": "2", "floor": 3}, touch=False)
    store.update("prospects", other["id"], {"labels": ["y", "x"]}, touch=False)
    any_puller.pull_ok("prospects")
    store.delete("prospects", id_)
    any_puller.pull_ok("prospects")
    store.create("prospects", one)
    any_puller.pull_ok("prospects")
    versions = _rows(
        any_puller,
        "SELECT title, floor, _hc_valid_from = lag(_hc_valid_to) OVER (ORDER BY _hc_valid_from), "
        "_hc_valid_to IS NULL, _hc_changed_after < _hc_changed_before "
        f"FROM hiringcenter.prospects_history WHERE id = '{id_}' ORDER BY _hc_valid_from",
    )
    assert versions == [
        ("1", None, None, False, None), ("2", 3, True, False, True), ("1", None, False, True, True)
    ]  # fmt: skip
    others = _rows(
        any_puller,
        "SELECT count(*), count(_hc_valid_to), count(p.id) FROM hiringcenter.prospects_history h "
        "LEFT JOIN hiringcenter.prospects p ON p.id = h.id AND p._hc_hash = h._hc_hash",
    )
    assert others == [(304, 2, 303)]

    with Destination(any_puller.settings) as destination:
        destination.query(f"DROP TABLE {destination.name('prospects')}")
    store.delete("prospects", id_)
    any_puller.pull_ok("prospects")
    still_open = _rows(
        any_puller,
        f"SELECT count(*), count(CASE WHEN id = '{id_}' THEN 1 END) "
        "FROM hiringcenter.prospects_history WHERE _hc_valid_to IS NULL",
    )
    assert still_open == [(301, 0)]
