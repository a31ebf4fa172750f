"""Paths that follow from the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from connector.errors import ConfigurationError
from connector.settings import load
from pipelines.destination.identity import (
    installation_id,
    prepare_state_dir,
    pull_lock_name,
    work_paths,
)
from tests.loaded_settings import load_with


@pytest.mark.parametrize("name", ["o'brien", "100%", "a#b", 'a"b', "a b", "ünï"])
def test_any_name_of_the_analysts_file_has_a_plain_working_folder(name: str, tmp_path: Path):
    """dlt pastes load files' paths into SQL, and DuckDB takes what follows a ? for options."""
    settings = load_with({"HIRINGCENTER_DUCKDB_PATH": f"{name}.duckdb"})
    assert work_paths(settings).work_dir.name.replace("-", "").replace("_", "").isalnum()
    assert work_paths(settings).work_dir.name.isascii()


def test_a_misspelled_destination_is_named_with_the_one_that_was_meant():
    """And with the command that installs a destination's package."""
    with pytest.raises(ConfigurationError, match="Did you mean 'postgres'.*pip install"):
        work_paths(load_with({"HIRINGCENTER_DESTINATION": "postgress"}))


def test_two_files_never_share_a_working_folder():
    """Also where their plain names are the same."""
    one, other = (
        work_paths(load_with({"HIRINGCENTER_DUCKDB_PATH": path})).work_dir
        for path in ("a'b.duckdb", "a%b.duckdb")
    )
    assert one != other


@pytest.mark.parametrize("folder", ["o'brien", "100%", "what?", "back\\slash"])
def test_a_state_directory_that_cannot_be_loaded_from_is_refused(folder: str, tmp_path: Path):
    """Before anything is sent, and naming the setting that helps."""
    settings = load_with({"HIRINGCENTER_STATE_DIR": str(tmp_path / folder)})
    with pytest.raises(ConfigurationError, match="HIRINGCENTER_STATE_DIR"):
        prepare_state_dir(settings)
    assert not (tmp_path / folder).exists()


@pytest.mark.parametrize(
    "path",
    ["what?.duckdb", "data?/x.duckdb", "back\\slash.duckdb", "a\nb.duckdb", "a\x1bb.duckdb",
     "\udcff.duckdb", "s3://bucket/x.duckdb", "md:sales", ":memory:", "."],
)  # fmt: skip
def test_a_file_that_duckdb_can_not_use_is_refused(path: str):
    """With the setting's name, wherever the path is needed first; nothing is sent or written."""
    settings = load().model_copy(update={"duckdb_path": Path.cwd() / path})
    with pytest.raises(ConfigurationError, match="HIRINGCENTER_DUCKDB_PATH") as failure:
        pull_lock_name(settings)
    assert str(failure.value).isprintable()


def test_a_shared_ledger_is_one_installation_however_its_server_is_named():
    """As in labels: loopback and the default port have one name; another database is another."""
    base = "postgresql://u:secret@{}/ledger"
    one, *others, other_server, other_database = (
        installation_id(load_with({"HIRINGCENTER_LEDGER_URL": url}))
        for url in (
            base.format("localhost"),
            base.format("127.0.0.1:5432"),
            base.format("[::1]"),
            base.format("db.example.com"),
            base.format("localhost") + "2",
        )
    )
    assert others == [one, one]
    assert len({one, other_server, other_database}) == 3
