"""How a destination behaves follows from its type, and what breaks a promise is refused."""

from __future__ import annotations

import sqlite3
import warnings
from contextlib import closing
from pathlib import Path

import dlt
import pytest

from connector.errors import ConfigurationError
from connector.settings import Settings
from pipelines.destination.destination_kinds import (
    REFUSED,
    Level,
    form_of,
    level_of,
    server_destination,
    try_merging,
)
from pipelines.destination.dlt_options import own_configuration
from pipelines.destination.identity import destination_kind
from pipelines.destination.loader import LoadForm

SQL = "DESTINATION__SQLALCHEMY__CREDENTIALS"


@pytest.mark.parametrize(
    ("destination", "variables", "kind"),
    [
        ("duckdb", {}, "duckdb"),
        ("sqlalchemy", {SQL: "sqlite:////tmp/x.db"}, "sqlalchemy:sqlite"),
        ("sqlalchemy", {SQL: "mysql://u:p@db/sales"}, "sqlalchemy:mysql"),
        (
            "sales",
            {"DESTINATION__SALES__DESTINATION_TYPE": "postgres",
             "DESTINATION__SALES__CREDENTIALS": "postgresql://u:p@db/sales"},
            "postgres",
        ),
        ("filesystem", {"DESTINATION__FILESYSTEM__BUCKET_URL": "/srv/files"}, "filesystem"),
    ],
)  # fmt: skip
def test_the_kind_follows_from_the_type_whatever_the_name(
    destination: str, variables: dict[str, str], kind: str, monkeypatch: pytest.MonkeyPatch
):
    """A named PostgreSQL takes '' for what it is, as one by its own name does."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = Settings(destination=destination)
    assert destination_kind(settings) == kind
    if kind == "postgres":
        form = form_of(settings, server_destination(settings))
        assert form == LoadForm("insert_values", has_update=True)


def test_plain_files_are_refused_and_delta_is_named(monkeypatch: pytest.MonkeyPatch):
    """Exit 2, with the reason and the nearest alternative; Delta tables are another kind."""
    monkeypatch.setenv("DESTINATION__FILESYSTEM__BUCKET_URL", "/srv/files")
    settings = Settings(destination="filesystem")
    with pytest.raises(ConfigurationError, match="HIRINGCENTER_TABLE_FORMAT=delta") as refused:
        server_destination(settings)
    assert refused.value.exit_code == 2
    delta = settings.model_copy(update={"table_format": "delta"})
    assert destination_kind(delta) == "filesystem:delta"
    assert destination_kind(delta) not in REFUSED
    assert level_of("motherduck") is Level.UNTESTED


def test_a_destination_that_only_appends_is_found_out(tmp_path: Path):
    """By two loads into a scratch table, before any row of a pull."""
    destination = dlt.destinations.filesystem(bucket_url=str(tmp_path / "files"))
    form = LoadForm("jsonl", is_plain=True, has_update=False)
    with own_configuration(), pytest.raises(ConfigurationError, match="doesn't merge rows"):
        try_merging(Settings(), destination, form)


def test_the_scratch_table_is_tried_again_and_again_and_leaves_nothing(tmp_path: Path):
    """Neither there nor where dlt stages rows, nor in what dlt notes."""
    file = f"{tmp_path / 'w.db'}"
    destination = dlt.destinations.sqlalchemy(f"sqlite:///{file}")
    form = LoadForm("typed-jsonl", is_plain=True, has_update=True)
    with warnings.catch_warnings(), own_configuration():
        warnings.filterwarnings("ignore", message="implicitly coercing SELECT object")
        for _ in range(2):
            try_merging(Settings(), destination, form)
    for dataset in ("hiringcenter", "hiringcenter_staging"):
        path = file.replace("w.db", f"w__{dataset}.db")
        with closing(sqlite3.connect(path)) as connection:
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = {name for (name,) in names}
            assert "_hc_check" not in tables
            assert all(
                connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
                for table in tables
            )
