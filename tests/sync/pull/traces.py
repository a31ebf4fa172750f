"""A person with long, unique values, put into every place that holds people, and the search for
them through all files of an installation."""

from __future__ import annotations

import base64
import shutil
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import duckdb
import sqlalchemy as sa

from connector.budget.database import Database
from connector.sandbox import Sandbox
from connector.settings import Settings
from connector.source.row_maker import MALFORMED_TABLE
from connector.upsert.outbox.outbox_schema import writes
from connector.webhooks.inbox import Arrival, account_of, open_inbox
from pipelines.destination.identity import work_paths
from pipelines.push.push_input import PushRequest
from pipelines.push.push_report import PushReport
from pipelines.push.push_run import push

ID = "prospect-7f3c9a5e-forget-me-4b1d8c2a6e90"
EMAIL = "Zacharias.Quintessenz-Unverwechselbar@forget-me.example"
PHONE = "+4930901820774"
SOUGHT = (ID, EMAIL, PHONE)
NOTE = "note-1c9e7d55-of-the-person-0a3b8f21d4e6"
_ROW = "Zacharias,Quintessenz,{email},{phone},Doctor"
_HEADER = "First Name,Last Name,E-mail,Phone,Title"


def add_person(sandbox: Sandbox, **changes: Any) -> str:
    """A person at the API, with a note; their id."""
    given = {
        "id": ID, "firstName": "Zacharias", "lastName": "Quintessenz", "email": EMAIL,
        "phone": PHONE, "title": "Mr", "company": None, "labels": [], "currentStageId": "stg_new",
        "createdAt": 1_700_000_000_000, "updatedAt": 1_700_000_000_000,
    }  # fmt: skip
    person = sandbox.store.put("prospects", {**given, **changes})
    if person["id"] == ID:
        sandbox.store.put("notes", {"id": NOTE, "prospectId": ID, "body": f"<p>of {EMAIL}</p>",
                                    "createdAt": 1_700_000_000_000})  # fmt: skip
    return str(person["id"])


def push_person(settings: Settings, folder: Path, *more: str) -> PushReport:
    """The same file each time: the person gets another title. more: other rows."""
    return push(settings, PushRequest(file=str(people_file(folder, *more))))


def people_file(folder: Path, *more: str) -> Path:
    file = folder / "people.csv"
    file.write_text("\n".join([_HEADER, _ROW.format(email=EMAIL, phone=PHONE), *more]) + "\n")
    return file


def scatter(settings: Settings) -> None:
    """What a pull, a push and an event leave at worst: an unsent write, a load package, a malformed
    record, a damaged working file, a copy into which a user wrote, another person's reject."""
    outbox = Database(settings.resolved_ledger_url, durable=True, suffix="-outbox")
    with closing(outbox), outbox.write() as connection:
        found = connection.execute(writes.select().where(writes.c.prospect_id == ID)).first()
        assert found is not None
        planned = {**found._mapping, "state": "planned", "run_id": "killed"}
        del planned["id"]
        body = f'{{"email": "{EMAIL}", "phone": "{PHONE}"}}'.encode()
        connection.execute(writes.insert().values({**planned, "body": body, "row_values": body}))
    with closing(Database(settings.resolved_ledger_url)) as ledger:
        inbox = open_inbox(settings, ledger)
        inbox.store([Arrival(account_of(settings), ID, "prospect.updated")], now_ms=1)
        inbox.change_notes(account_of(settings), polled=[ID, "another"])
    paths = work_paths(settings)
    package = paths.pipelines_dir / "run-killed"
    package.mkdir(parents=True)
    (package / "prospects.jsonl").write_text(f"{SOUGHT}")
    if settings.destination != "duckdb":
        return
    with duckdb.connect(str(paths.working_file)) as working:
        working.execute(
            f"CREATE TABLE hiringcenter.{MALFORMED_TABLE} "
            "(id VARCHAR NOT NULL, resource VARCHAR, content VARCHAR)"
        )
        working.execute(
            f"INSERT INTO hiringcenter.{MALFORMED_TABLE} (id, resource, content) VALUES "
            f'(\'1\', \'prospects\', \'{{"email": "{EMAIL}", "phone": "{PHONE}"}}\'), '
            f"('3', 'prospects', '{{\"of\": {{\"phone\": {float(PHONE)}}}}}'), "
            "('2', 'prospects', '{\"email\": \"another@example.org\"}')"
        )
        working.execute(
            "INSERT INTO hiringcenter._hc_push_results (run_id, row_number, status, message) "
            f"VALUES ('r', 1, 'rejected', 'the same email as prospect {ID}: two people?')"
        )
        working.execute(f"CREATE SCHEMA hiringcenter_staging; CREATE TABLE hiringcenter_staging."
                        f"prospects AS SELECT '{ID}' AS id, '{EMAIL}' AS email")  # fmt: skip
    damaged = paths.work_dir / "_hc_working.duckdb.damaged-20260101T000000-000000001"
    shutil.copy(paths.working_file, damaged)
    path = settings.duckdb_path
    path.chmod(0o644)
    with duckdb.connect(str(path)) as copy:  # the next publishing keeps it
        copy.execute(f'CREATE TABLE "{path.stem}".hiringcenter.theirs AS SELECT 1 AS mine')
    shutil.copy(path, path.with_name(f"{path.stem}.kept-20260101T000000{path.suffix}"))


def found_in(folder: Path) -> dict[str, set[str]]:
    """Each value → where it is: in the bytes of files below `folder`, and through DuckDB."""
    found: dict[str, set[str]] = {value: set() for value in (*SOUGHT, NOTE)}
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or file.is_symlink():
            continue
        content = file.read_bytes()
        name = str(file.relative_to(folder)).removesuffix("-wal")  # SQLite moves it on its own
        for value, places in found.items():
            if value.encode() in content:
                places.add(name)
        if ".duckdb" in file.name and content[8:12] == b"DUCK":
            for table, text in _texts_of_duckdb(file):
                for value, places in found.items():
                    if value in text:
                        places.add(f"{name}#{table}")
    return found


def _texts_of_duckdb(file: Path) -> Iterator[tuple[str, str]]:
    """Every row of a copy of the file, as text; what dlt has compressed, as it reads it."""
    copy = file.with_name(f"searched-{file.name}")
    shutil.copy(file, copy)
    try:
        with duckdb.connect(str(copy)) as opened:
            for schema, table in opened.execute(
                "SELECT schema_name, table_name FROM duckdb_tables()"
            ).fetchall():
                for row in opened.execute(f'FROM "{schema}"."{table}"').fetchall():
                    for cell in row:
                        text = str(cell)
                        with suppress(ValueError, zlib.error):
                            text += zlib.decompress(base64.b64decode(text, validate=True)).decode()
                        yield f"{schema}.{table}", text
    finally:
        copy.unlink()
        copy.with_name(f"{copy.name}.wal").unlink(missing_ok=True)


def found_in_postgres(url: str) -> dict[str, set[str]]:
    """Each value → the tables of a server in which it is, in bytes too."""
    found: dict[str, set[str]] = {value: set() for value in (*SOUGHT, NOTE)}
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        tables = connection.exec_driver_sql(
            "SELECT format('%%I.%%I', table_schema, table_name) FROM information_schema.tables "
            "WHERE table_type = 'BASE TABLE' AND table_schema !~ '^(pg_|information_schema)'"
        ).scalars().all()  # fmt: skip
        for table in tables:
            for text in connection.exec_driver_sql(f"SELECT t::text FROM {table} t").scalars():
                for value, places in found.items():
                    if value in text or value.encode().hex() in text:
                        places.add(table)
    engine.dispose()
    return found
