"""Several accounts in one DuckDB file, a dataset each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from connector.sandbox import Sandbox, SandboxOptions
from tests.sync.pull.conftest import Puller, settings_for

SIZES = {"prospects": 5, "notes": 4}


@pytest.fixture
def east_and_west(tmp_path: Path) -> Iterator[tuple[Puller, Puller]]:
    """Two accounts with people of their own, into datasets `east` and `West__2` of one file: the
    second is a name that dlt would change."""
    with (
        Sandbox(SandboxOptions(**SIZES, seed=1)) as east,
        Sandbox(SandboxOptions(**SIZES, seed=2)) as west,
    ):
        yield (
            Puller(east, settings_for(east, tmp_path, dataset="east"), lists=tuple(SIZES)),
            Puller(west, settings_for(west, tmp_path, dataset="West__2"), lists=tuple(SIZES)),
        )


def ids(puller: Puller) -> set[str]:
    """Of the prospects that the copy holds for this account."""
    settings = puller.settings
    with duckdb.connect(str(settings.duckdb_path), read_only=True) as connection:
        rows = connection.execute(
            f'SELECT id FROM "{settings.dataset}".prospects WHERE _hc_deleted_at IS NULL'
        ).fetchall()
    return {row[0] for row in rows}


def truth(puller: Puller) -> set[str]:
    return {record["id"] for record in puller.sandbox.store.all("prospects")}


def test_each_account_keeps_its_rows_when_another_pulls(east_and_west: tuple[Puller, Puller]):
    """The copy holds all of them, and a deletion in one isn't seen in the other."""
    east, west = east_and_west
    east.pull_ok()
    west.pull_ok()
    east.sandbox.store.delete("prospects", next(iter(truth(east))))
    east.pull_ok()
    assert ids(east) == truth(east)
    assert ids(west) == truth(west)
    west.pull_ok()
    assert west.counts("rows_written") == dict.fromkeys(SIZES, 0)


def test_a_lost_state_directory_loses_no_account(east_and_west: tuple[Puller, Puller]):
    """The working file is rebuilt from the copy, with every dataset in it."""
    east, west = east_and_west
    east.pull_ok()
    west.pull_ok()
    shutil.rmtree(east.settings.state_dir)
    east.sandbox.store.create("prospects", {"firstName": "New", "lastName": "Person"})
    east.pull_ok()
    assert ids(east) == truth(east)
    assert ids(west) == truth(west)
    west.pull_ok()
    assert west.counts("rows_written") == dict.fromkeys(SIZES, 0)
    assert ids(west) == truth(west)
