"""DuckDB's working file where it can't be opened."""

from __future__ import annotations

from pathlib import Path
from typing import Never

import duckdb
import pytest

from connector.errors import DestinationError
from pipelines.destination.working_file import open_working_file
from pipelines.places import Places


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
