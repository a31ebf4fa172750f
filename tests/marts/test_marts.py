"""Each mart's rows, computed by hand: in the published copy, and as views on PostgreSQL."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
import pytest
import structlog

from connector.settings import MartSettings
from pipelines.destination.marts import Marts, our_marts
from pipelines.destination.snapshot import Snapshot
from pipelines.destination.working_file import WorkRecord
from tests.docs.pages import page, rows
from tests.marts import read_copy
from tests.marts.dataset import EXPECTED, TABLES, t
from tests.marts.read_copy import read_in_every_way

TYPES = {
    "duckdb": {"text": "VARCHAR", "time": "TIMESTAMPTZ", "json": "JSON", "int": "BIGINT",
               "bool": "BOOLEAN"},
    "postgres": {"text": "text", "time": "timestamptz", "json": "jsonb", "int": "bigint",
                 "bool": "boolean"},
}  # fmt: skip


def creation(table: str, kind: str) -> str:
    columns = ", ".join(f"{name} {TYPES[kind][each]}" for name, each in TABLES[table][0].items())
    return f"CREATE TABLE hiringcenter.{table} ({columns})"


def insertion(table: str, placeholder: str) -> str:
    marks = ", ".join([placeholder] * len(TABLES[table][0]))
    return f"INSERT INTO hiringcenter.{table} VALUES ({marks})"


def normal(rows: list[dict[str, Any]]) -> list[str]:
    """Rows in one order, whatever way their times and numbers are written."""

    def of(value: Any) -> Any:
        if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d[ T]\d", value):
            return datetime.fromisoformat(value).astimezone(UTC)
        return float(value) if type(value) is int else value

    return sorted(str([(name, of(value)) for name, value in row.items()]) for row in rows)


def assert_expected(found: Mapping[str, list[dict[str, Any]]]) -> None:
    assert found.keys() == EXPECTED.keys()
    for name, expected in EXPECTED.items():
        assert normal(found[name]) == normal(expected), name


class Publisher:
    """A working file, published with marts."""

    def __init__(self, folder: Path, **marts: Any) -> None:
        self.copy = folder / "hiringcenter.duckdb"
        self.folder, self.stop = folder / "work", threading.Event()
        self.connection = duckdb.connect(str(folder / "working.duckdb"))
        self.connection.execute("SET TimeZone = 'UTC'")
        self.connection.execute("BEGIN")
        self.connection.execute("CREATE SCHEMA hiringcenter")
        for table, (_, found) in TABLES.items():
            self.connection.execute(creation(table, "duckdb"))
            self.connection.executemany(insertion(table, "?"), found)
        self.connection.execute("COMMIT")
        self.settings = MartSettings(**marts)

    def publish(self, *, has_news: bool = True) -> list[dict[str, Any]]:
        """Returns what was logged. has_news: rows have landed."""
        record = WorkRecord.read(self.folder)
        record.save(is_behind=has_news)
        snapshot = Snapshot(
            self.copy, dataset="hiringcenter", installation="0" * 16, record=record,
            marts=Marts(self.settings, record=record, folder=self.folder, stop=self.stop),
        )  # fmt: skip
        with structlog.testing.capture_logs() as logs:
            assert snapshot.publish(self.connection) == has_news
        return [each for each in logs if each["event"].startswith("marts.")]

    def tables(self) -> set[str]:
        with duckdb.connect(str(self.copy), read_only=True) as connection:
            found = connection.execute(
                "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'hiringcenter_marts'"
            ).fetchall()
        return {name for (name,) in found}  # fmt: skip

    def change_copy(self, *statements: str) -> None:
        """Change the copy as if it had been published so."""
        self.copy.chmod(0o644)
        with duckdb.connect(str(self.copy)) as connection:
            connection.execute("USE hiringcenter.hiringcenter_marts")
            for sql in statements:
                connection.execute(sql)
        facts = self.copy.stat()
        record = WorkRecord.read(self.folder)
        record.save(copies=[[facts.st_ino, facts.st_size, facts.st_mtime_ns]])

    def query(self, sql: str) -> list[Any]:
        """The first column."""
        with duckdb.connect(str(self.copy), read_only=True) as connection:
            connection.execute("USE hiringcenter.hiringcenter_marts")
            return [row[0] for row in connection.execute(sql).fetchall()]


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Publisher]:
    made = Publisher(tmp_path)
    yield made
    made.connection.close()


def test_the_published_copy_has_the_rows_computed_by_hand(publisher: Publisher):
    """Opened directly, under USE, and attached under the same and another name."""
    assert publisher.publish() == []
    for found in read_in_every_way(str(publisher.copy)).values():
        assert_expected(found)


@pytest.mark.skipif("OLD_DUCKDB" not in os.environ, reason="make test-old-duckdb tries it")
def test_duckdb_1_0_reads_the_same_rows(publisher: Publisher):
    """In every way of opening the copy."""
    publisher.publish()
    command = [os.environ["OLD_DUCKDB"], Path(read_copy.__file__), publisher.copy]
    read = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert read["version"] == "1.0.0"
    assert len(read["ways"]) == 5
    for found in read["ways"].values():
        assert_expected(found)


# --- PostgreSQL -----------------------------------------------------------------------------------


class Database:
    """A PostgreSQL database with the dataset, and marts as views."""

    def __init__(self, url: str, folder: Path, **marts: Any) -> None:
        self.settings, self.folder, self.url = MartSettings(**marts), folder, url
        self.connection = psycopg2.connect(url)
        self.connection.autocommit = True
        self.run("SET TimeZone = 'Asia/Tokyo'")
        self.run("CREATE SCHEMA hiringcenter")
        for table, (_, found) in TABLES.items():
            self.run(creation(table, "postgres"))
            with self.connection.cursor() as cursor:
                cursor.executemany(insertion(table, "%s"), found)

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def update(self) -> list[dict[str, Any]]:
        """Returns what was logged."""
        record = WorkRecord.read(self.folder)
        marts = Marts(self.settings, record=record, folder=self.folder)
        with structlog.testing.capture_logs() as logs:
            marts.update_views(self.connection, "hiringcenter")
            marts.report()
        return [each for each in logs if each["event"].startswith("marts.")]

    def views(self) -> set[str]:
        sql = "SELECT viewname FROM pg_views WHERE schemaname = 'hiringcenter_marts'"
        return {name for (name,) in self.run(sql)}

    def rows(self, mart: str) -> list[dict[str, Any]]:
        sql = f"SELECT row_to_json(mart) FROM hiringcenter_marts.{mart} AS mart"
        return [row for (row,) in self.run(sql)]


@pytest.fixture
def database(postgres_url: str, tmp_path: Path) -> Iterator[Database]:
    made = Database(postgres_url, tmp_path / "work")
    yield made
    made.connection.close()


def test_views_on_postgresql_have_the_same_rows_and_stay_while_nothing_changes(database: Database):
    """Whatever the time zone of who reads them: weeks are those in UTC. A pull runs no statement
    then that a reader's transaction would hold up."""
    assert database.update() == []
    assert_expected({name: database.rows(name) for name in database.views()})
    sql = "SELECT oid, xmin::text FROM pg_class WHERE relkind = 'v' ORDER BY oid"
    before = database.run(sql)
    database.update()
    assert database.run(sql) == before


def test_a_new_column_is_in_the_view_and_its_readers_stay(database: Database):
    """It is replaced in place: an analyst's view on it, and their privileges as the page grants
    them, survive. A view that is dropped and made again can be read too."""
    database.update()
    database.run("CREATE ROLE analysts")
    try:
        (granted,) = page("docs/how-to/warehouse.md").blocks("postgresql")
        database.run(granted)
        database.run("CREATE VIEW mine AS SELECT id FROM hiringcenter_marts.live_notes")
        database.run("ALTER TABLE hiringcenter.notes ADD COLUMN mood text DEFAULT 'fine'")
        database.run("DROP VIEW hiringcenter_marts.freshness")
        assert database.update() == []
        assert len(database.run("SELECT * FROM mine")) == 3
        database.run("SET ROLE analysts")
        assert {row["mood"] for row in database.rows("live_notes")} == {"fine"}
        assert normal(database.rows("freshness")) == normal(EXPECTED["freshness"])
    finally:
        database.run("RESET ROLE")
        database.run("DROP OWNED BY analysts")
        database.run("DROP ROLE analysts")


def test_a_view_that_others_depend_on_stays_if_its_columns_would_change(database: Database):
    """The analyst's view and ours stay as they are; a warning names both. Once it is gone, ours
    follows."""
    database.update()
    database.run("CREATE VIEW mine AS SELECT id FROM hiringcenter_marts.live_notes")
    database.run("DROP VIEW hiringcenter_marts.live_notes CASCADE")
    database.run("CREATE VIEW hiringcenter_marts.live_notes AS SELECT 1 AS id")
    database.run("COMMENT ON VIEW hiringcenter_marts.live_notes IS 'old [mart 0123456789ab]'")
    database.run("CREATE VIEW mine AS SELECT id FROM hiringcenter_marts.live_notes")
    (logged,) = database.update()
    assert logged["mart"] == "hiringcenter_marts.live_notes"
    assert "view public.mine depends on view live_notes" in logged["reason"]
    assert database.run("SELECT * FROM mine") == [(1,)]
    database.run("DROP VIEW mine")
    assert database.update() == []
    assert_expected({name: database.rows(name) for name in database.views()})


def test_a_view_that_others_of_ours_read_can_change_its_columns(database: Database):
    """All of them are dropped and made again together, and their readers may still read them."""
    database.update()
    database.run("DROP VIEW hiringcenter_marts.stage_history CASCADE")
    database.run("CREATE VIEW hiringcenter_marts.stage_history AS SELECT 'x' AS stage")
    for name in ("time_in_stage", "funnel_weekly"):
        database.run(f"CREATE VIEW hiringcenter_marts.{name} AS "
                     "SELECT stage FROM hiringcenter_marts.stage_history")  # fmt: skip
    for name in ("stage_history", "time_in_stage", "funnel_weekly"):
        database.run(f"COMMENT ON VIEW hiringcenter_marts.{name} IS '[mart 0123456789ab]'")
        database.run(f"GRANT SELECT ON hiringcenter_marts.{name} TO PUBLIC")
    assert database.update() == []
    assert_expected({name: database.rows(name) for name in database.views()})
    assert database.run(
        "SELECT count(*) FROM information_schema.role_table_grants WHERE grantee = 'PUBLIC' "
        "AND table_schema = 'hiringcenter_marts'"
    ) == [(3,)]


def test_views_of_an_analyst_in_our_schema_stay(database: Database):
    """Only what we made is dropped once it isn't wanted."""
    database.update()
    database.run("CREATE VIEW hiringcenter_marts.mine AS SELECT 1 AS one")
    database.run("CREATE VIEW hiringcenter_marts.earlier AS SELECT 1 AS one")
    database.run("COMMENT ON VIEW hiringcenter_marts.earlier IS 'ours [mart 0123456789ab]'")
    assert database.update() == []
    assert database.views() == {*EXPECTED, "mine"}


def test_a_view_that_a_reader_holds_waits_for_the_next_run(database: Database):
    """None changes, so that they are of one kind; nothing waits longer than our time-out."""
    database.update()
    database.run("SET lock_timeout = '50ms'")
    database.run("ALTER TABLE hiringcenter.notes ADD COLUMN mood text")
    database.run("ALTER TABLE hiringcenter.meetings ADD COLUMN mood text")
    with closing(psycopg2.connect(database.url)) as reader:
        reader.cursor().execute("SELECT 1 FROM hiringcenter_marts.live_notes")
        (logged,) = database.update()
        assert "55P03" in logged["reason"]
        assert "mood" not in database.rows("live_meetings")[0]
    assert database.update() == []
    assert "mood" in database.rows("live_meetings")[0]


def test_a_user_who_may_make_no_schema_gets_no_marts(database: Database):
    """It is logged; rows have landed."""
    database.run("CREATE ROLE loader")
    try:
        database.run("GRANT USAGE ON SCHEMA hiringcenter TO loader")
        database.run("SET ROLE loader")
        (logged,) = database.update()
        assert "42501" in logged["reason"]
    finally:
        database.run("RESET ROLE")
        database.run("DROP OWNED BY loader")
        database.run("DROP ROLE loader")


# --- what changes ---------------------------------------------------------------------------------


def test_a_run_that_changed_nothing_brings_marts_about_time_up_to_date(publisher: Publisher):
    """Those that read the last pull's time, and no others."""
    publisher.publish()
    others = EXPECTED.keys() - {"stage_history"}
    publisher.change_copy(
        *(f"DELETE FROM {name}" for name in others), "DELETE FROM stage_history WHERE stay > 1"
    )
    later = t("01-22 12:00").replace("T", " ")
    publisher.connection.execute(f"UPDATE hiringcenter._hc_freshness SET last_pull_at = '{later}'")
    assert publisher.publish(has_news=False) == []
    assert publisher.query("SELECT task_id FROM overdue_tasks ORDER BY 1") == ["t1", "t2", "t5"]
    assert publisher.query("SELECT DISTINCT as_of::VARCHAR FROM freshness") == [
        "2026-01-22 12:00:00+00"
    ]
    made = {name for name in others if publisher.query(f"SELECT 1 FROM {name} LIMIT 1")}
    assert publisher.query("SELECT max(stay) FROM stage_history") == [1]
    assert made == {
        "overdue_tasks", "freshness", "time_in_stage", "funnel_weekly", "push_outcomes"
    }  # fmt: skip


def test_a_mart_of_another_version_is_made_again(publisher: Publisher):
    """Also by a run that changed nothing. One that isn't wanted any longer is dropped."""
    publisher.publish()
    publisher.change_copy(
        "CREATE OR REPLACE TABLE live_notes AS SELECT 1 AS id",
        "CREATE TABLE earlier AS SELECT 1 AS id",
        "COMMENT ON TABLE earlier IS 'Which? [mart 0123456789ab]'",
    )
    publisher.publish(has_news=False)
    assert publisher.tables() == EXPECTED.keys()
    assert publisher.query("SELECT id FROM live_notes ORDER BY 1") == ["n1", "n2", "n3"]


def test_without_a_table_only_the_marts_that_read_it_are_missing(publisher: Publisher):
    """It is logged once, until that changes."""
    publisher.connection.execute("DROP TABLE hiringcenter.prospects_history")
    (logged,) = publisher.publish()
    missing = {"stage_history", "time_in_stage", "funnel_weekly"}
    assert (logged["event"], logged["log_level"]) == ("marts.skipped", "info")
    assert set(logged["marts"]) == {f"hiringcenter_marts.{name}" for name in missing}
    assert "prospects_history" in logged["reason"]
    assert publisher.publish() == publisher.publish(has_news=False) == []
    assert publisher.tables() == EXPECTED.keys() - missing


def test_without_a_column_only_the_marts_that_read_it_are_missing(publisher: Publisher):
    """`exclude_columns`, say. In the others, other columns can be anything."""
    publisher.connection.execute("ALTER TABLE hiringcenter.notes DROP COLUMN created_by_api")
    publisher.connection.execute('ALTER TABLE hiringcenter.notes ADD COLUMN "a \'b" VARCHAR')
    (logged,) = publisher.publish()
    assert logged["marts"] == ["hiringcenter_marts.activity_by_user"]
    assert publisher.tables() == EXPECTED.keys() - {"activity_by_user"}


def test_labels_of_any_shape_are_a_list_or_null_and_a_stage_without_a_name_keeps_its_id(
    publisher: Publisher,
):
    """A prospect whose labels aren't a list keeps no other from being read. Stages are those of who
    has always been there, and of who has moved there."""
    publisher.connection.execute(
        "UPDATE hiringcenter.prospects SET labels = CASE id WHEN 'p1' THEN '\"x\"' "
        "WHEN 'p2' THEN '[1, null, {\"a\": 2}]' ELSE 'null' END"
    )
    columns = "id, current_stage, current_stage_id, _hc_valid_from, _hc_valid_to"
    publisher.connection.executemany(
        f"INSERT INTO hiringcenter.prospects_history ({columns}) VALUES (?, ?, ?, ?, ?)",
        [
            ("x1", None, "s9", t("01-05"), None),
            ("x2", "New", "s1", t("01-05"), t("01-06")),
            ("x2", None, "s9", t("01-06"), None),
        ],
    )
    assert publisher.publish() == []
    assert publisher.query("SELECT labels FROM live_prospects ORDER BY id") == [
        None, ["1", None, '{"a":2}'], None
    ]  # fmt: skip
    assert publisher.query("SELECT stage_id FROM stage_history WHERE stage IS NULL") == ["s9"] * 2


def test_marts_can_be_turned_off(publisher: Publisher):
    """Then the next run takes them out of the copy, and nothing else: another dataset may be named
    like their schema."""
    publisher.publish()
    publisher.change_copy("CREATE TABLE prospects AS SELECT 1 AS id")
    publisher.publish(has_news=False)
    assert publisher.tables() > {"prospects", "freshness"}
    publisher.settings = MartSettings(enabled=False)
    publisher.publish(has_news=False)
    assert publisher.tables() == {"prospects"}
    publisher.change_copy("DROP TABLE prospects")
    publisher.publish(has_news=False)
    assert publisher.tables() == set()


# --- files of the user ----------------------------------------------------------------------------

HOSTILE = {
    "attach": "ATTACH '{folder}/new.duckdb' AS x",
    "copies": "COPY (SELECT 1) TO '{folder}/new.csv'",
    "installs": "INSTALL httpfs",
    "drops": "DROP TABLE live_notes",
    "two_at_once": "SELECT 1; DROP TABLE live_notes",
    "deletes": "WITH gone AS (DELETE FROM notes RETURNING id) SELECT * FROM gone",
    "deletes_ours": "WITH gone AS (DELETE FROM live_notes RETURNING *) SELECT * FROM gone",
    "reads_files": "SELECT * FROM read_text('{folder}/secret.txt')",
    "reads_paths": "SELECT * FROM '{folder}/secret.txt'",
    "reads_folders": "SELECT * FROM glob('{folder}/*')",
    "python": "SELECT * FROM EXPECTED",
    "sets": "SET enable_external_access = true",
    "pragma": "PRAGMA enable_profiling",
    "calls": "CALL pragma_version()",
    "pivots": "PIVOT notes ON user_id",
    "nothing": "-- nothing",
    "live_notes": "SELECT 1 AS id",
    "Wrong Name": "SELECT 1 AS id",
    "no_sense": "SELEC 1",
    "no_such_table": "SELECT * FROM nobody",
    "quotes_rows": "SELECT CAST(body AS INTEGER) AS a FROM notes",
}


def own(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name.replace('__', ' ')}.sql").write_text(text)
    return folder


def test_own_files_are_made_after_ours_in_the_order_of_their_names(tmp_path: Path):
    """They read tables, our marts and earlier ones of theirs; the comment at the top describes
    them."""
    folder = own(
        tmp_path / "marts",
        a_open="-- How many are open?\n-- One row.\nSELECT count(*) AS tasks FROM live_tasks;",
        b_double="SELECT 2 * tasks AS tasks FROM a_open",
        c_named="SELECT id FROM hiringcenter.prospects WHERE id = 'p1'",
    )
    publisher = Publisher(tmp_path, directory=folder)
    assert publisher.publish() == []
    for _ in range(2):
        assert publisher.query("SELECT tasks FROM a_open") == [4]
        assert publisher.query("SELECT tasks FROM b_double") == [8]
        assert publisher.query("SELECT id FROM c_named") == ["p1"]
        (folder / "a_open.sql").touch()
        assert publisher.publish(has_news=False) == []
    assert publisher.query(
        "SELECT comment[:20] FROM duckdb_tables() WHERE table_name = 'a_open'"
    ) == ["How many are open? ["]
    (folder / "a_open.sql").write_text("SELECT 5 AS tasks")
    (folder / "c_named.sql").unlink()
    publisher.publish(has_news=False)
    assert publisher.query("SELECT tasks FROM b_double") == [10]
    assert publisher.tables() == {*EXPECTED, "a_open", "b_double"}
    publisher.connection.close()


def test_hostile_and_broken_mart_files_are_named_and_harmless(tmp_path: Path):
    """Each is ignored or fails alone; no row is quoted, and what is wrong is reported again while
    new copies are made."""
    (tmp_path / "secret.txt").write_text("secret")
    folder = own(
        tmp_path / "marts",
        **{name: sql.format(folder=tmp_path) for name, sql in HOSTILE.items()},
        sound="SELECT count(*) AS notes FROM notes",
    )
    publisher = Publisher(tmp_path, directory=folder)
    publisher.folder.mkdir()
    (publisher.folder / "own_marts.duckdb").write_text("of a run that was killed")
    (publisher.folder / "own_marts.tmp").mkdir()
    for _ in range(2):
        logs = publisher.publish()
        named = {Path(each.get("path") or each["mart"].replace(".", "/")).stem for each in logs}
        assert named == HOSTILE.keys()
        assert {each["log_level"] for each in logs} == {"warning"}
        assert "Rang" not in str(logs)
    assert publisher.query("SELECT notes FROM sound") == [4]
    for found in read_in_every_way(str(publisher.copy)).values():
        del found["sound"]
        assert_expected(found)
    publisher.connection.close()
    assert {path.name for path in tmp_path.iterdir()} == {
        "marts", "secret.txt", "hiringcenter.duckdb", "work", "working.duckdb"
    }  # fmt: skip
    assert [path.name for path in publisher.folder.iterdir()] == ["published.json"]


def test_an_own_file_that_takes_too_long_is_ended(tmp_path: Path):
    """And isn't tried again before there are new rows."""
    endless = "SELECT count(*) AS n FROM range(10000000) a, range(10000000) b WHERE a = b + 1"
    folder = own(tmp_path / "marts", a=endless.replace("a = b", "a.range * b.range = b.range"))
    publisher = Publisher(tmp_path, directory=folder, timeout_s=0.1)
    (logged,) = publisher.publish()
    assert logged["reason"] == "it wasn't done within 0.1 s"
    assert publisher.publish(has_news=False) == []
    publisher.connection.close()


def test_a_signal_ends_what_an_own_file_runs(tmp_path: Path):
    """It isn't called too slow: the next run makes it, also if nothing is new."""
    folder = own(tmp_path / "marts", a="SELECT count(*) AS n FROM range(10000000) a, "
                 "range(10000000) b WHERE a.range * b.range = b.range")  # fmt: skip
    publisher = Publisher(tmp_path, directory=folder)
    publisher.stop.set()
    assert publisher.publish() == []
    publisher.stop.clear()
    publisher.settings = MartSettings(directory=folder, timeout_s=0.1)
    (logged,) = publisher.publish(has_news=False)
    assert logged["reason"] == "it wasn't done within 0.1 s"
    publisher.connection.close()


def test_files_that_others_can_write_are_ignored(tmp_path: Path):
    """As with all files that are found in a folder. A folder that isn't there is named too."""
    folder = own(tmp_path / "marts", a="SELECT 1 AS a", b="SELECT 2 AS b")
    (folder / "a.sql").chmod(0o666)
    publisher = Publisher(tmp_path, directory=folder)
    (logged,) = publisher.publish()
    assert logged["path"].endswith("a.sql")
    assert "every user of this machine can write to it" in logged["reason"]
    assert publisher.tables() == {*EXPECTED, "b"}
    folder.chmod(0o777)
    assert len(publisher.publish()) == 2
    publisher.settings = MartSettings(directory=tmp_path / "none")
    (logged,) = publisher.publish()
    assert logged["path"].endswith("none")
    publisher.connection.close()


def test_own_files_are_views_on_postgresql(postgres_url: str, tmp_path: Path):
    """Translated; what can't be is named."""
    folder = own(
        tmp_path / "marts",
        a="SELECT count(*) AS tasks FROM live_tasks WHERE task ILIKE '%a%'",
        b="SELECT 2 * tasks AS tasks FROM a",
        c="WITH gone AS (DELETE FROM notes RETURNING id) SELECT * FROM gone",
        d="SELECT * FROM nobody",
        e="SELECT 1; SELECT 2",
    )
    database = Database(postgres_url, tmp_path / "work", directory=folder)
    logs = database.update()
    assert [Path(each.get("path") or each["mart"][-1]).stem for each in logs] == ["e", "c", "d"]
    assert database.views() == {*EXPECTED, "a", "b"}
    assert database.rows("b") == [{"tasks": 4}]
    (folder / "a.sql").write_text("SELECT 'x' AS kind, 7 AS tasks")
    (folder / "b.sql").write_text("SELECT tasks FROM a")
    database.update()
    assert database.rows("b") == [{"tasks": 7}]
    database.connection.close()


# --- their descriptions ---------------------------------------------------------------------------

KINDS = {
    "VARCHAR": "text", "VARCHAR[]": "list of text", "TIMESTAMP WITH TIME ZONE": "time",
    "DATE": "date", "BIGINT": "integer", "DOUBLE": "number", "BOOLEAN": "boolean",
}  # fmt: skip


def test_every_mart_and_column_is_documented(publisher: Publisher):
    """In its file, in the copy and on the page: question, grain, and each column with its type."""
    publisher.publish()
    with duckdb.connect(str(publisher.copy), read_only=True) as connection:
        made = connection.execute(
            "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() "
            "WHERE schema_name = 'hiringcenter_marts'"
        ).fetchall()
    marts = page("docs/reference/tables.md").section("Marts")
    assert set(re.findall(r"^### `(\w+)`$", marts, re.M)) == EXPECTED.keys()
    for mart in our_marts():
        assert mart.question.endswith("?")
        assert mart.grain.startswith("One row per ")
        section = page("docs/reference/tables.md").section(f"`{mart.name}`")
        assert f"{mart.question} {mart.grain}" in " ".join(section.split())
        columns = {name: (KINDS[kind], text) for table, name, kind, text in made
                   if table == mart.name}  # fmt: skip
        said = {
            name: (columns[name][0] if name != "*" else "–", text) for name, text in mart.columns
        }
        shown = {row[0].strip("`"): (row[1], row[2]) for row in rows(section)}
        assert list(shown.values()) == list(said.values()), mart.name
        if "*" not in said:
            assert list(shown) == list(columns)
        assert {columns[name] for name in said if name != "*"} <= set(said.values())
