"""What a kill, or another program, leaves of dlt's local files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from connector.errors import WorkingFileFailed
from pipelines.destination.destination import Destination
from pipelines.destination.identity import work_paths
from pipelines.destination.loader import Batch
from tests.sync.pull.conftest import Puller


@pytest.fixture
def puller(puller: Puller) -> Puller:
    """Of one list: dlt's files are the same with four."""
    puller.lists = ("prospects",)
    return puller


COLUMNS = {
    "id": {"name": "id", "data_type": "text", "nullable": False, "primary_key": True},
    "name": {"name": "name", "data_type": "text"},
}


def _folder(puller: Puller) -> Path:
    return work_paths(puller.settings).pipelines_dir


def test_states_that_came_with_no_rows_outlive_the_process(puller: Puller):
    """A scan that met nothing new resumes where it stopped, and isn't restarted."""
    puller.pulled("prospects")
    with Destination(puller.settings) as destination:
        destination.loader.save_states({"prospects": {"at": "page 7"}})
    with Destination(puller.settings) as destination:
        assert destination.loader.state_of("prospects") == {"at": "page 7"}
        destination.load([Batch("t", [{"id": "1"}], COLUMNS)])  # carries them to the destination
    assert list(_folder(puller).parent.iterdir()) == [_folder(puller)]
    with Destination(puller.settings) as destination:
        assert destination.loader.state_of("prospects") == {"at": "page 7"}


@pytest.mark.parametrize("damage", ["SET base = 'the state of another load'", None])
def test_states_of_another_load_or_lost_are_not_used(puller: Puller, damage: str | None):
    """Rows that they cover may never have been loaded: the destination knows better."""
    puller.pulled("prospects")
    with Destination(puller.settings) as destination:
        destination.load([Batch("t", [{"id": "1"}], COLUMNS)])  # carries them to the destination
        loaded = destination.loader.state_of("prospects")
        destination.loader.save_states({"prospects": {"of": "rows that never arrived"}})
    table = "_hc_work_hiringcenter.local_marks"
    with duckdb.connect(str(work_paths(puller.settings).working_file)) as connection:
        connection.execute(f"UPDATE {table} {damage}" if damage else f"DROP TABLE {table}")
    with Destination(puller.settings) as destination:
        assert destination.loader.state_of("prospects") == loaded


def _half_renamed(folder: Path) -> None:
    """Killed where dlt has normalized a package and not removed what it was made of."""
    for part in ("normalize/extracted/1.0/new_jobs", "load/normalized/1.0/new_jobs"):
        (folder / "hiringcenter" / part).mkdir(parents=True)


def _emptied(folder: Path) -> None:
    for part in ("state.json", "normalize/.version", "load/.version", "schemas/x.schema.json"):
        (folder / "hiringcenter" / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / "hiringcenter" / part).write_text("")


def _file_instead(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


@pytest.mark.parametrize("leave", [_half_renamed, _emptied, _file_instead])
def test_nothing_that_is_found_on_disk_keeps_a_pull_from_ending(
    puller: Puller, leave: Callable[[Path], None]
):
    """Each of them stopped every later pull, `--reset` too; now none is read, and all are removed.
    States and schema come from the destination: nothing is read again."""
    puller.pulled()
    leave(_folder(puller))
    puller.pull_ok()
    puller.assert_true()
    assert puller.counts("rows_written") == dict.fromkeys(puller.counts("rows_written"), 0)
    assert list(_folder(puller).iterdir()) == []


def test_files_removed_while_a_pull_runs_cost_nothing(puller: Puller):
    """A program that sweeps folders took dlt's: the load is made again."""
    with Destination(puller.settings) as destination:
        destination.load([Batch("t", [{"id": "1", "name": "a"}], COLUMNS)])
        shutil.rmtree(_folder(puller))
        destination.load([Batch("t", [{"id": "2", "name": "b"}], COLUMNS)])
        found = destination.query(f"SELECT id, name FROM {destination.name('t')} ORDER BY id")
    assert found == [("1", "a"), ("2", "b")]


def test_a_load_that_is_repeated_doubles_no_row(puller: Puller):
    """Its rows were inserted, and dlt couldn't note that the package is complete."""
    rows = Batch("a", [{"id": "1", "name": "a"}], COLUMNS)
    with Destination(puller.settings) as destination:
        destination.load([Batch("b", [{"id": "1", "name": "b"}], COLUMNS)])
        loads, kept, a = map(destination.name, ("_dlt_loads", "kept", "a"))
        destination.query(f"ALTER TABLE {loads} RENAME TO kept")
        destination.query(f"CREATE VIEW {loads} AS FROM {kept}")
        with pytest.raises(WorkingFileFailed):
            destination.load([rows])
        assert destination.query(f"SELECT id FROM {a}") == [("1",)]
        destination.query(f"DROP VIEW {loads}")
        destination.query(f"ALTER TABLE {kept} RENAME TO _dlt_loads")
        destination.load([rows])
        assert destination.query(f"SELECT id FROM {a}") == [("1",)]


def test_lists_grow_chunk_by_chunk_into_tables_without_staging(puller: Puller):
    """A first pull inserts its rows; later ones merge, and a row that comes twice is one row."""
    puller.change_pull(chunk_pages=1)
    puller.sandbox.options.max_limits = {"prospects": 100}
    puller.pull_ok("prospects")
    puller.pull_ok()
    puller.assert_true()
    staging = "SELECT table_name FROM duckdb_tables() WHERE schema_name LIKE '%_staging'"
    with duckdb.connect(str(work_paths(puller.settings).working_file)) as connection:
        assert connection.execute(staging).fetchall() == []
    ids = [record["id"] for record in puller.sandbox.store.all("prospects")]
    puller.sandbox.store.update("prospects", ids[7], {"firstName": "Changed"})
    puller.sandbox.store.create("prospects", {"firstName": "New"})
    puller.pull_ok()
    puller.assert_true()
