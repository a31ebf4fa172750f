"""A ledger on PostgreSQL has a schema of its own, so that its database may be the warehouse's."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing

import psycopg
import sqlalchemy as sa

from connector.budget import locks
from connector.budget.database import LEDGER_SCHEMA, LEDGER_TABLES, Database
from connector.budget.ledger_schema import key_id
from connector.runs import FreshnessLog, RunHistory
from connector.upsert.outbox.pairing import open_outbox
from tests.processes.zygote import ROOT

_TABLES = """
SELECT table_name FROM information_schema.tables WHERE table_schema = %s AND table_type = %s
"""
_OPEN = "import sys; from tests.unit.test_ledger_schema import fill; fill(sys.argv[1])"


def fill(url: str) -> None:
    """Create every table of a ledger, each with its component's first rows."""
    with closing(Database(url)) as ledger:
        key_id("key", ledger)
        RunHistory(ledger), FreshnessLog(ledger)
        ledger.migrate("locks", locks.MIGRATIONS)
        with closing(open_outbox(ledger, look_first_until_ms=0)):
            pass


def tables(url: str, schema: str, kind: str = "BASE TABLE") -> set[str]:
    with psycopg.connect(url) as connection:
        return {name for (name,) in connection.execute(_TABLES, [schema, kind])}


def move_back(url: str) -> None:
    """As version 0.1 has left it: all tables in `public`."""
    with psycopg.connect(url) as connection:
        for table in tables(url, LEDGER_SCHEMA):
            connection.execute(f"ALTER TABLE {LEDGER_SCHEMA}.{table} SET SCHEMA public")
        connection.execute(f"DROP SCHEMA {LEDGER_SCHEMA}")


def test_a_new_ledger_leaves_the_schema_public_alone(postgres_url: str):
    """Where a warehouse may have tables of the same names."""
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE runs (of_another_program integer)")
    fill(postgres_url)
    assert tables(postgres_url, LEDGER_SCHEMA) == set(LEDGER_TABLES)
    assert tables(postgres_url, "public") == {"runs"}


def test_tables_in_public_are_moved_once_by_two_processes_at_once(postgres_url: str):
    """With what is in them; a table of another program stays."""
    fill(postgres_url)
    with closing(Database(postgres_url)) as ledger:
        before = key_id("key", ledger)
    move_back(postgres_url)
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE of_another_program (id integer)")
    command = [sys.executable, "-c", _OPEN, postgres_url]
    both = [
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in both:
        _, printed = process.communicate(timeout=300)
        assert process.returncode == 0, printed
    assert tables(postgres_url, LEDGER_SCHEMA) == set(LEDGER_TABLES)
    assert tables(postgres_url, "public") == {"of_another_program"}
    with closing(Database(postgres_url)) as ledger:
        assert key_id("key", ledger) == before


def test_a_concurrent_earlier_version_writes_into_the_same_tables(postgres_url: str):
    """It finds them by their names alone: what it books counts here, and the other way round."""
    fill(postgres_url)
    move_back(postgres_url)
    plain = sa.make_url(postgres_url).set(drivername="postgresql+psycopg")
    earlier = sa.create_engine(plain)
    insert = sa.text(
        "INSERT INTO lock_holders (name, fence, holder) VALUES (:name, 1, 'r') "
        "ON CONFLICT (name) DO UPDATE SET fence = lock_holders.fence + 1"
    )
    query = "SELECT name FROM lock_holders ORDER BY name"
    with earlier.begin() as connection:
        connection.execute(insert, {"name": "before"})
    with closing(Database(postgres_url)) as ledger, earlier.begin() as connection:
        with ledger.write() as moved:
            moved.execute(insert, {"name": "moved"})
        connection.execute(insert, {"name": "beside"})
        connection.execute(insert, {"name": "beside"})
        connection.commit()
        with ledger.read() as moved:
            assert moved.scalars(sa.text(query)).all() == ["before", "beside", "moved"]
    earlier.dispose()


def test_a_user_without_rights_to_move_the_tables_works_where_they_are(postgres_url: str):
    """An upgrade asks for no new privilege."""
    fill(postgres_url)
    move_back(postgres_url)
    with psycopg.connect(postgres_url) as connection:
        connection.execute("DROP ROLE IF EXISTS plain_user")
        connection.execute("CREATE ROLE plain_user LOGIN")
        connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO plain_user")
        connection.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO plain_user")
    url = sa.make_url(postgres_url).set(username="plain_user")
    fill(url.render_as_string(hide_password=False))
    assert tables(postgres_url, "public") == set(LEDGER_TABLES)
    with psycopg.connect(postgres_url) as connection:
        connection.execute("DROP OWNED BY plain_user")
        connection.execute("DROP ROLE plain_user")
