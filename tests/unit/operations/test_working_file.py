"""DuckDB's working file where it can't be opened."""

from __future__ import annotations

from pathlib import Path
from typing import Never

import duckdb
import pytest

from connector.errors import DestinationError
from pipelines.destination.working_file import WorkRecord, open_working_file


def test_a_full_disk_isnt_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The file stays where it is, with all its rows; the message says what to do."""
    file = tmp_path / "_hc_working.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS id")

    def full(*_: object, **__: object) -> Never:
        raise duckdb.IOException('Could not write file "x": No space left on device')

    with monkeypatch.context() as patched:
        patched.setattr(duckdb, "connect", full)
        with pytest.raises(DestinationError, match="the disk is full"):
            open_working_file(file, WorkRecord.read(tmp_path), snapshot=None)
    with duckdb.connect(str(file)) as connection:
        assert connection.execute("SELECT id FROM kept").fetchall() == [(1,)]


def test_folders_in_the_place_of_small_files_are_put_aside(tmp_path: Path):
    """Each of them would end every later pull, as a record that can't be replaced. dlt's own
    folder and what was damaged before stay."""
    wrong = ["published.json", "published.json.new"]
    stays = ["dlt", "_hc_working.duckdb.damaged-1"]
    for name in [*wrong, *stays]:
        (tmp_path / name / "inside").mkdir(parents=True)
    WorkRecord.read(tmp_path).save(is_behind=True)
    assert WorkRecord.read(tmp_path).is_behind
    assert not [name for name in wrong if (tmp_path / name).is_dir()]
    assert [name for name in stays if (tmp_path / name / "inside").exists()] == stays
    assert len(list(tmp_path.rglob("*.damaged-*/inside"))) == len(wrong) + 1
