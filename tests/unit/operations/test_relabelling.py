"""A ledger of version 0.1: what it knows is found under today's labels, and no secret is left."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from connector.budget import locks
from connector.budget.database import Database
from connector.runs import Freshness, FreshnessLog, RunHistory
from connector.settings import Settings
from connector.upsert.outbox.receipts import ResultStore, RowResult, Status
from pipelines.destination.identity import (
    destination_label,
    destination_number,
    number_of,
    prepare_state_dir,
    pull_lock_name,
    work_paths,
)
from pipelines.destination.relabelling import cleaned
from pipelines.running.session import open_ledger, outbox_database

SECRET = "0ld-s3cr3t"
ACCOUNT = {"type": "service_account", "project_id": "acme-data", "private_key": SECRET,
           "client_email": "etl@acme-data.iam.gserviceaccount.com", "token_uri": "x"}  # fmt: skip

# what version 0.1 read, and the label of today for it where it is no longer configured
OLD: dict[str, tuple[str, str, str]] = {
    "URL": ("postgres", f"postgresql://etl:{SECRET}@db:5432/sales", "postgres:db:5432/sales#x"),
    "query": (
        "postgres", f"postgresql://etl@db/sales?password={SECRET}", "postgres:db:5432/sales#x",
    ),
    "no user": (
        "postgres", f"postgresql://db/sales?user=u&password={SECRET}", "postgres:db:5432/sales#x",
    ),
    "socket": (
        "postgres", f"postgresql://e:{SECRET}@h/sales?host=/srv/pg&password={SECRET}",
        "postgres:/srv/pg:5432/sales#x",
    ),
    "motherduck": ("motherduck", f"md:sales?motherduck_token={SECRET}", "motherduck:sales#x"),
    "service account": ("bigquery", json.dumps(ACCOUNT), "bigquery:acme-data#x"),
    "key last": (
        "bigquery", json.dumps(ACCOUNT | {"x": SECRET}, sort_keys=True), "bigquery:acme-data#x",
    ),
    "no @": (
        "bigquery", json.dumps({"project_id": "acme-data", "private_key": SECRET}),
        "bigquery:acme-data#x",
    ),
    "nothing known": ("bigquery", json.dumps({"private_key": SECRET}), "bigquery:unknown 1#x"),
}  # fmt: skip


def settings(folder: Path, destination: str) -> Settings:
    return Settings(
        destination=destination, dataset="x", state_dir=folder / "state",
        duckdb_path=folder / "x.duckdb",
    )  # fmt: skip


def label_of_0_1(destination: str, value: str) -> str:
    return f"{destination}:{value.rpartition('@')[2]}#x"


def write_0_1(own: Settings, label: str) -> Path:
    """A state directory with one pull, one result that hasn't landed, and a working folder."""
    prepare_state_dir(own)
    lock = f"pull into {label}"
    with closing(Database(own.resolved_ledger_url)) as ledger:
        RunHistory(ledger).start("run-1", "pull", label, lock_name=lock)
        RunHistory(ledger).finish(
            "run-1", "failed", {"error": f"{lock} was lost"}, f"{lock} was lost"
        )
        fresh = Freshness("notes", "run-1", "full", "first", 7, 1_000, 1_000)
        FreshnessLog(ledger).note(label, fresh)
        FreshnessLog(ledger).publish(label)
        with locks.take_lock(ledger, lock, run_id="run-1"):
            pass
    with closing(outbox_database(own)) as outbox:
        store = ResultStore(outbox, 1, number_of(label))
        with outbox.write() as connection:
            store.put(connection, "run-2", [RowResult(1, Status.CREATED, "p1", "hello")], 5)
    digest = hashlib.sha256(label.encode()).hexdigest()[:10]
    folder = own.state_path / "work" / f"x-{digest}"
    folder.mkdir(parents=True)
    (folder / "file").write_text("kept")
    return folder


def assert_nothing_left(own: Settings, label: str) -> None:
    """Neither the secret nor a digest of it, in any file or name below the state directory."""
    names = (label, f"pull into {label}") if "s3cr3t" in label else ()
    digests = [hashlib.sha256(name.encode()).hexdigest()[:10] for name in names]
    for path in own.state_path.rglob("*"):
        assert not any(digest in path.name for digest in digests), path
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("shape", OLD)
def test_what_is_configured_today_finds_everything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shape: str
):
    """The same variable as then: run, freshness, unlanded result, lock and folder moved; texts
    and free pages of the files clean."""
    destination, value, _ = OLD[shape]
    monkeypatch.setenv(f"DESTINATION__{destination.upper()}__CREDENTIALS", value)
    if destination == "bigquery":
        monkeypatch.setenv("DESTINATION__BIGQUERY__PROJECT_ID", "acme-data")
        monkeypatch.setenv("DESTINATION__BIGQUERY__CREDENTIALS", json.dumps(ACCOUNT))
    own, raw = settings(tmp_path, destination), label_of_0_1(destination, value)
    write_0_1(own, raw)
    if shape == "nothing known":  # what can't be placed stays apart, as text without the secret
        with open_ledger(own) as ledger:
            assert ledger.runs.recent(1)[0].label == "bigquery:unknown 1#x"
        assert_nothing_left(own, raw)
        return
    label = destination_label(own)
    with open_ledger(own) as ledger:
        (run,) = ledger.runs.recent(9, label)
        assert run.error == f"{pull_lock_name(own)} was lost"
        assert [fresh.rows for fresh in ledger.freshness.of(label)] == [7]
        assert [fresh.rows for fresh in ledger.freshness.published(label)] == [7]
        with ledger.database.read() as connection:
            names = connection.scalars(sa.select(locks.holders.c.name)).all()
        assert names == [pull_lock_name(own)]
    with closing(outbox_database(own)) as outbox:
        rows = ResultStore(outbox, 1, destination_number(own)).unlanded(9)
    assert [row["prospect_id"] for row in rows] == ["p1"]
    assert (work_paths(own).work_dir / "file").read_text() == "kept"
    assert_nothing_left(own, raw)


@pytest.mark.parametrize("shape", OLD)
def test_labels_of_locations_no_longer_configured_are_cleaned(tmp_path: Path, shape: str):
    """Another destination is in use today, or the password has changed since."""
    destination, value, label = OLD[shape]
    own, raw = settings(tmp_path, "duckdb"), label_of_0_1(destination, value)
    write_0_1(own, raw)
    for _ in range(2):
        with open_ledger(own) as ledger:
            assert ledger.runs.recent(1)[0].label == label
        assert_nothing_left(own, raw)


def test_a_label_without_a_location_is_renamed_while_its_settings_are_in_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Version 0.1 wrote `configured` where the credentials weren't one variable."""
    duckdb = settings(tmp_path, "duckdb")
    write_0_1(duckdb, "postgres:configured#x")
    with open_ledger(duckdb) as ledger:
        assert ledger.runs.recent(1)[0].label == "postgres:configured#x"
    for name, value in {
        "HOST": "db",
        "DATABASE": "sales",
        "USERNAME": "u",
        "PASSWORD": SECRET,
    }.items():
        monkeypatch.setenv(f"DESTINATION__POSTGRES__CREDENTIALS__{name}", value)
    own = settings(tmp_path, "postgres")
    with open_ledger(own) as ledger:
        assert [fresh.rows for fresh in ledger.freshness.of("postgres:db:5432/sales#x")] == [7]
    assert (work_paths(own).work_dir / "file").read_text() == "kept"


def test_of_two_old_labels_of_one_location_the_newer_freshness_stays(tmp_path: Path):
    """The password was changed between two pulls: two labels then, one place."""
    own = settings(tmp_path, "duckdb")
    write_0_1(own, f"postgres:db/sales?password={SECRET}#x")
    with closing(Database(own.resolved_ledger_url)) as ledger:
        newer = Freshness("notes", "run-3", "full", "first", 9, 2_000, 2_000)
        FreshnessLog(ledger).note(f"postgres:db:5432/sales?password=2{SECRET}#x", newer)
    with open_ledger(own) as ledger:
        assert [fresh.rows for fresh in ledger.freshness.of("postgres:db:5432/sales#x")] == [9]


@pytest.mark.parametrize("label", ["duckdb:/data/x.duckdb#hc", "no label", "postgres:configured#x"])
def test_labels_without_secrets_stay(label: str):
    """Nothing to clean."""
    assert cleaned(label, 1) == label


def test_a_linked_file_keeps_what_was_known_of_it(tmp_path: Path):
    """Version 0.1 named it by the link; its pulls continue, with their working file."""
    (tmp_path / "real.duckdb").touch()
    (tmp_path / "x.duckdb").symlink_to("real.duckdb")
    own = settings(tmp_path, "duckdb")
    link = tmp_path / "x.duckdb"
    write_0_1(own, f"duckdb:{link}#x")
    digest = hashlib.sha256(f"duckdb:{link}".encode()).hexdigest()[:10]
    folder = own.state_path / "work" / f"x-{digest}"
    folder.mkdir()
    (folder / "file").write_text("kept")
    with open_ledger(own) as ledger:
        assert [fresh.rows for fresh in ledger.freshness.of(destination_label(own))] == [7]
    assert (work_paths(own).work_dir / "file").read_text() == "kept"
