"""DuckDB's working file where it can't be opened."""

from __future__ import annotations

from pathlib import Path
from typing import Never

import duckdb
import pytest

from connector.errors import DestinationError
from pipelines.destination.places import Places
from pipelines.destination.working_file import open_working_file


def test_a_full_disk_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The file stays where it is, with all its rows; the message says what to do."""
    places = Places(tmp_path, tmp_path, tmp_path / "dlt" / "x")
    with duckdb.connect(str(places.working_file)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS id")

    def full(*_: object, **__: object) -> Never:
        raise duckdb.IOException('Could not write file "x": No space left on device')

    with monkeypatch.context() as patched:
        patched.setattr(duckdb, "connect", full)
        with pytest.raises(DestinationError, match="the disk is full"):
            open_working_file(places, published=None, dataset="main")
    with duckdb.connect(str(places.working_file)) as connection:
        assert connection.execute("SELECT id FROM kept").fetchall() == [(1,)]


def test_folders_in_the_place_of_small_files_are_put_aside(tmp_path: Path):
    """Each of them would end every later pull: as a record to be replaced, as a mark to be
    removed. dlt's own folder and what was damaged before stay."""
    places = Places(tmp_path, tmp_path, tmp_path / "dlt" / "x")
    with open_working_file(places, published=None, dataset="main") as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS id")
    wrong = ["published.json", "published.json.new", "dlt/x.marks.json", "unpublished", "suspect"]
    stays = ["dlt", "_hc_working.duckdb.damaged-1"]
    for name in [*wrong, *stays]:
        (tmp_path / name / "inside").mkdir(parents=True)
    open_working_file(places, published=None, dataset="main").close()
    assert not [name for name in wrong if (tmp_path / name).exists()]
    assert [name for name in stays if (tmp_path / name / "inside").exists()] == stays
    assert len(list(tmp_path.rglob("*.damaged-*/inside"))) == len(wrong) + 1
