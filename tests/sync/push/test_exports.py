"""Pulled tables, and exports of them, pushed back: only what was changed in them is sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import openpyxl
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connector.sandbox import Sandbox, SandboxOptions
from connector.settings import Settings
from pipelines.pull.pull_run import Wanted, pull
from pipelines.push.apply_and_undo import ApplyRequest, apply
from pipelines.push.plan_view import PlanFiles
from pipelines.push.push_input import PushRequest
from pipelines.push.push_report import PushReport
from pipelines.push.push_run import plan_push, push
from tests.sync.push.conftest import results_waiting
from tests.sync.push.pulled_once import PulledOnce

PEOPLE = 60
Record = dict[str, Any]


@pytest.fixture(scope="module")
def everyone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PulledOnce]:
    options = SandboxOptions(prospects=PEOPLE, notes=0, tasks=0, meetings=0)
    with closing(PulledOnce(tmp_path_factory.mktemp("everybody"), options)) as pulled:
        yield pulled


@pytest.fixture
def sandbox(everyone: PulledOnce) -> Iterator[Sandbox]:
    yield everyone.begin()
    everyone.end()


@pytest.fixture
def pulled(everyone: PulledOnce, sandbox: Sandbox) -> Settings:
    """Settings whose destination has everyone."""
    return everyone.settings


def records(settings: Settings) -> list[Record]:
    """The table, in Python's own types."""
    with duckdb.connect(str(settings.duckdb_path), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        result = connection.execute("FROM hiringcenter.prospects ORDER BY id")
        names = [column[0] for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def camel(name: str) -> str:
    return re.sub(r"(?<=[a-z])_([a-z])", lambda found: found[1].upper(), name)


def copy_to(settings: Settings, path: Path, options: str, zone: str) -> Path:
    """The table as DuckDB's COPY writes it, in the user's time zone."""
    with duckdb.connect(str(settings.duckdb_path), read_only=True) as connection:
        connection.execute(f"SET TimeZone = '{zone}'")
        connection.execute(f"COPY hiringcenter.prospects TO '{path}' ({options})")
    return path


def write_xlsx(path: Path, rows: Sequence[Record], rename: Callable[[str], str] = str) -> Path:
    book = openpyxl.Workbook()
    sheet: Any = book.active
    sheet.append([rename(name) for name in rows[0]])
    for row in rows:
        sheet.append([_as_cell(value) for value in row.values()])
    book.save(path)
    return path


def _as_cell(value: Any) -> Any:
    if isinstance(value, datetime):  # sheets know no zones
        return value.astimezone(UTC).replace(tzinfo=None)
    return str(value) if isinstance(value, list | dict) else value


def write_parquet(path: Path, rows: Sequence[Record], rename: Callable[[str], str] = str) -> Path:
    """As pandas writes it: times to the nanosecond, in UTC."""
    table = pa.Table.from_pylist(list(rows))
    for index, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            times = table.column(index).cast(pa.timestamp("ns", "UTC"))
            table = table.set_column(index, field.name, times)
    pq.write_table(table.rename_columns([rename(name) for name in table.column_names]), path)
    return path


def posts(sandbox: Sandbox) -> list[Any]:
    return [each for each in sandbox.requests if each.method == "POST"]


def push_file(settings: Settings, path: Path, **options: Any) -> PushReport:
    with results_waiting(settings):
        return push(settings, PushRequest(file=str(path), **options))


def assert_unchanged(report: PushReport, rows: int = PEOPLE) -> None:
    assert report.exit_code == 0, report.noteworthy
    assert report.summary["unchanged"] == rows
    assert report.summary["requests"] == report.summary["kept"] == 0


def test_a_pulled_table_is_pushed_without_a_request(pulled: Settings):
    """Right after the pull, and again; what the API doesn't take is left out and named once."""
    for _ in range(2):
        report = push(pulled, PushRequest(table="prospects"))
        assert_unchanged(report)
        (note,) = [each for each in report.notes if "left out" in each]
        for column in ("current_stage", "created_at", "_hc_hash", "custom_fields"):
            assert column in note


EXPORTS: dict[str, Callable[[Settings, Path], Path]] = {
    "csv": lambda settings, folder: copy_to(
        settings, folder / "x.csv", "FORMAT csv, HEADER", "America/New_York"
    ),
    "tsv": lambda settings, folder: copy_to(
        settings, folder / "x.tsv", "FORMAT csv, HEADER, DELIMITER '\t'", "Asia/Kolkata"
    ),
    "parquet": lambda settings, folder: copy_to(
        settings, folder / "x.parquet", "FORMAT parquet", "America/New_York"
    ),
    "json": lambda settings, folder: copy_to(
        settings, folder / "x.jsonl", "FORMAT json", "Europe/Berlin"
    ),
    "pandas": lambda settings, folder: write_parquet(folder / "y.parquet", records(settings)),
    "pandas, camelCase": lambda settings, folder: write_parquet(
        folder / "y.parquet", records(settings), camel
    ),
    "xlsx": lambda settings, folder: write_xlsx(folder / "x.xlsx", records(settings)),
    "xlsx, camelCase": lambda settings, folder: write_xlsx(
        folder / "x.xlsx", records(settings), camel
    ),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_pushed_without_a_request(name: str, pulled: Settings, tmp_path: Path):
    """From each format, under both kinds of headers."""
    path = EXPORTS[name](pulled, tmp_path)
    assert_unchanged(push_file(pulled, path))


def test_edits_in_an_export_are_sent_and_nothing_else(
    pulled: Settings, sandbox: Sandbox, tmp_path: Path
):
    """One POST a person, with the edited field and what finds them; the next push sends nothing,
    also where recruiters have made edits since."""
    rows = records(pulled)
    alive = [row for row in rows if row["email"] and row["first_name"] and row["last_name"]]
    for row in alive[:5]:
        row["title"] = f"Edited {row['id']}"
    path = write_xlsx(tmp_path / "people.xlsx", rows)
    report = push_file(pulled, path)
    assert (report.exit_code, report.summary["updated"]) == (0, 5), report.noteworthy
    assert report.summary["requests"] == 5  # the copy is fresh, so no one is looked up
    sent = [orjson.loads(each.body) for each in posts(sandbox)]
    assert {each["title"] for each in sent} == {f"Edited {row['id']}" for row in alive[:5]}
    assert all(
        each.keys() <= {"firstName", "lastName", "email", "phone", "title", "update"}
        for each in sent
    )
    report = push_file(pulled, path)
    assert (report.summary["unchanged"], report.summary["requests"]) == (PEOPLE, 0)


def edit(sandbox: Sandbox, id_: str, **fields: Any) -> None:
    """A recruiter's edit; the next pull reads it."""
    sandbox.store.update("prospects", id_, fields)


def pull_all(settings: Settings) -> None:
    assert pull(settings, Wanted(("prospects",), full=True)).exit_code == 0


@pytest.mark.slow
def test_a_workbook_of_1400_people_with_five_edits_is_five_requests(
    settings: Settings, tmp_path: Path
):
    """Everyone else is as HiringCenter has them."""
    with Sandbox(SandboxOptions(prospects=1_400, notes=0, tasks=0, meetings=0)) as many:
        settings = settings.model_copy(update={"base_url": many.url})
        pull_all(settings)
        rows = records(settings)
        usual = [row for row in rows if row["email"] and row["first_name"] and row["last_name"]]
        for number, row in enumerate(usual[::100][:5]):
            row["title"] = f"Edited {number}"
        report = push_file(settings, write_xlsx(tmp_path / "people.xlsx", rows))
        assert (report.exit_code, report.summary["requests"]) == (0, 5), report.noteworthy
        assert len(posts(many)) == report.summary["updated"] == 5


def test_a_changed_cell_is_sent_and_a_recruiters_edit_stays(
    pulled: Settings, sandbox: Sandbox, tmp_path: Path
):
    """Pushed after the pull that it was exported from, the export loses against nothing, and wins
    nothing back: what a recruiter changes later stands, in every later push of the file."""
    rows = records(pulled)
    row = next(row for row in rows if row["email"] and row["first_name"] and row["last_name"])
    row["title"] = "Broker"
    path = write_parquet(tmp_path / "people.parquet", rows)
    edit(sandbox, row["id"], company="Lloyd's")
    assert push_file(pulled, path).summary["updated"] == 1
    (post,) = posts(sandbox)
    assert "company" not in orjson.loads(post.body)
    edit(sandbox, row["id"], title="Director")
    pull_all(pulled)
    report = push_file(pulled, path)
    assert (report.summary["unchanged"], report.summary["kept"], len(posts(sandbox))) == (60, 1, 1)


def test_an_export_of_a_replaced_version_keeps_and_reports(
    pulled: Settings, sandbox: Sandbox, tmp_path: Path
):
    """A recruiter has changed the person since it was exported, and a pull has read that: which
    cells the user has changed can't be known, so those that differ are kept; a later edit of the
    file is known, and sent."""
    rows = records(pulled)
    row = next(row for row in rows if row["email"] and row["first_name"] and row["last_name"])
    edit(sandbox, row["id"], company="Lloyd's")
    pull_all(pulled)
    row["title"] = "Broker"
    path = write_parquet(tmp_path / "people.parquet", rows)
    report = push_file(pulled, path)
    assert (report.exit_code, report.summary["kept"], posts(sandbox)) == (0, 1, [])
    (message,) = [each.message or "" for each in report.noteworthy if each.prospect_id == row["id"]]
    assert "title" in message
    assert "company" in message
    assert "updated_at isn't that of a version known here" in message
    row["title"] = "Teller"
    report = push_file(pulled, write_parquet(path, rows))
    assert report.summary["updated"] == 1
    assert not any("isn't that of a version" in (each.message or "") for each in report.noteworthy)
    assert orjson.loads(posts(sandbox)[0].body).get("company") in (None, "Lloyd's")


def test_the_id_decides_whom_a_row_is_about(pulled: Settings, sandbox: Sandbox, tmp_path: Path):
    """Not its contacts, which a family shares or which another person has; nor its names."""
    people = [each for each in records(pulled) if each["email"] and each["last_name"]][:6]
    ann, bob, eve, sue, tim, zoe = (each["id"] for each in people)
    family = {"phone": "+12125550100", "email": None}
    edit(sandbox, ann, firstName="Ann", **family)
    edit(sandbox, bob, firstName="Bob", **family)
    edit(sandbox, tim, email=None, phone=None)
    sandbox.store.delete("prospects", zoe)
    pull_all(pulled)
    rows = records(pulled)
    assert_unchanged(push_file(pulled, write_parquet(tmp_path / "people.parquet", rows)))
    before = {each["id"]: each for each in sandbox.store.all("prospects")}

    by_id = {row["id"]: row for row in rows}
    for id_ in (ann, tim, zoe):
        by_id[id_]["title"] = "Broker"
    by_id[eve]["email"] = by_id[sue]["email"]
    by_id[sue]["first_name"] = "Susan"
    report = push_file(pulled, write_parquet(tmp_path / "people.parquet", rows))
    results = {each.prospect_id: each for each in report.noteworthy}
    assert "isn't alone with their phone" in (results[ann].message or "")
    assert f"belongs to prospect {sue}" in (results[eve].message or "")
    assert "neither email nor phone" in (results[tim].message or "")
    assert "was deleted in HiringCenter" in (results[zoe].message or "")
    assert (report.exit_code, report.summary["rejected"], report.summary["updated"]) == (3, 2, 1)
    after = {each["id"]: each for each in sandbox.store.all("prospects")}
    changed = {**before[sue], "firstName": "Susan", "updatedAt": after[sue]["updatedAt"]}
    assert after == {**before, sue: changed}


def test_rows_that_are_added_to_an_export_are_created_and_strange_ids_rejected(
    pulled: Settings, sandbox: Sandbox, tmp_path: Path
):
    """A row without an id is a new person's; an id that no pull has read is no one's, whatever its
    contact."""
    rows = records(pulled)
    empty = dict.fromkeys(rows[0])
    rows = [
        {**empty, "first_name": "New", "last_name": "Person", "email": "new@example.org"},
        {**next(row for row in rows if row["email"]), "id": "of another account"},
    ]
    report = push_file(pulled, write_xlsx(tmp_path / "people.xlsx", rows))
    assert (report.summary["created"], report.summary["rejected"]) == (1, 1)
    (result,) = [each for each in report.noteworthy if each.row_number == 3]
    assert "isn't in the last pull" in (result.message or "")
    assert sandbox.store.count("prospects") == PEOPLE + 1


def test_hidden_columns_are_neither_values_nor_sent(settings: Settings, sandbox: Sandbox):
    """A table whose contacts are hashed, or left out, is pushed without a request."""
    hidden = {"prospects": {"hash_columns": ["email"], "exclude_columns": ["phone"]}}
    own = Settings(**{**settings.model_dump(), "pull": {"hash_key": "k" * 32, **hidden}})
    pull_all(own)
    report = push(own, PushRequest(table="prospects"))
    assert_unchanged(report)
    assert any("pulls hide their values: email" in each for each in report.notes)


def test_a_plan_of_an_export_is_applied_to_the_person_with_the_id(
    pulled: Settings, sandbox: Sandbox, tmp_path: Path
):
    """What the export was compared with is in the plan, so a recruiter's edit of another field
    stands, and the file is settled: pushed again, it sends nothing."""
    push(pulled, PushRequest(table="prospects"))  # the account is known from now on
    rows = records(pulled)
    row = next(row for row in rows if row["email"] and row["first_name"] and row["last_name"])
    row["title"] = "Broker"
    path = write_parquet(tmp_path / "people.parquet", rows)
    out = tmp_path / "people.hcplan"
    report = plan_push(pulled, PushRequest(file=str(path), dry_run=True), PlanFiles(out))
    assert (report.exit_code, report.summary["requests"]) == (0, 0), report.error
    assert report.summary["would_update"] == 1
    edit(sandbox, row["id"], company="Lloyd's")
    report = apply(pulled, ApplyRequest(out))
    assert (report.exit_code, report.summary["updated"]) == (0, 1), report.noteworthy
    assert len(posts(sandbox)) == 1
    after = sandbox.store.get("prospects", row["id"]) or {}
    assert (after["title"], after["company"]) == ("Broker", "Lloyd's")
    report = push_file(pulled, path)
    assert (report.exit_code, report.summary["unchanged"], len(posts(sandbox))) == (0, PEOPLE, 1)
