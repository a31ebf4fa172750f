"""Rows of a destination that is a server: its values arrive as they are."""

from __future__ import annotations

import datetime
from decimal import Decimal

import duckdb
import psycopg2
import pytest
import sqlalchemy as sa

from connector.errors import ConfigurationError, DestinationError, InputError
from connector.settings import Settings
from pipelines.push.pulled_prospects import open_pulled
from pipelines.push.push_input import PushRequest, open_rows
from tests.sync.pull.conftest import dlt_credentials

QUERY = """
    SELECT 1.10::numeric amount, 12345678901234567890123::numeric big, 1.1::real short,
    '01:02:03+02'::timetz at, 1700000000000 ms, NULL::text nothing
"""


@pytest.fixture
def server(settings: Settings, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", dlt_credentials(postgres_url))
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {settings.dataset}")
        cursor.execute(f"CREATE TABLE {settings.dataset}.empty (email text)")
    connection.close()
    return settings.model_copy(update={"destination": "postgres"})


def test_decimals_and_times_of_a_server_arrive_as_they_are(server: Settings) -> None:
    """No digits are added, none are rounded, no offset is lost."""
    with open_rows(server, PushRequest(sql=QUERY)) as rows:
        assert rows.from_table
        (row,) = rows
    zone = datetime.timezone(datetime.timedelta(hours=2))
    assert row.values == {
        "amount": Decimal("1.10"),
        "big": Decimal(12345678901234567890123),
        "short": 1.1,
        "at": datetime.time(1, 2, 3, tzinfo=zone),
        "ms": 1700000000000,
        "nothing": None,
    }
    assert str(row.values["amount"]) == "1.10"


def test_a_table_without_rows_isnt_an_error(server: Settings) -> None:
    """There is nothing to push; a table that isn't there is one."""
    with open_rows(server, PushRequest(table="empty")) as rows:
        assert rows.columns == ["email"]
        assert list(rows) == []
    with pytest.raises(InputError, match="Check the name"):
        open_rows(server, PushRequest(table="none"))


def test_a_server_without_credentials_is_a_clear_error(settings: Settings) -> None:
    """As a pull says it: what to set, and nothing of a fault of the connector."""
    settings = settings.model_copy(update={"destination": "postgres"})
    with (
        pytest.raises(ConfigurationError, match="DESTINATION__POSTGRES__CREDENTIALS"),
        open_rows(settings, PushRequest(table="people")),
    ):
        pass


def test_a_table_of_prospects_that_can_not_be_read_stops_a_push(
    settings: Settings, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it people can't be distinguished: it isn't taken for one that isn't there."""
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute("DROP ROLE IF EXISTS reader")
        cursor.execute("CREATE ROLE reader LOGIN")
        cursor.execute(f"CREATE SCHEMA {settings.dataset}")
        cursor.execute(f"CREATE TABLE {settings.dataset}.prospects (id text)")
    connection.close()
    url = sa.make_url(dlt_credentials(postgres_url)).set(username="reader")
    credentials = url.render_as_string(hide_password=False)
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", credentials)
    server = settings.model_copy(update={"destination": "postgres"})
    with pytest.raises(DestinationError, match="InsufficientPrivilege"), open_pulled(server):
        pass
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute("DROP ROLE reader")
    connection.close()


def test_a_table_of_prospects_without_ids_stops_a_push(settings: Settings) -> None:
    """Another program's table of that name isn't taken for one that isn't there. Neither is a copy
    that is damaged."""
    settings.duckdb_path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(settings.duckdb_path)) as connection:
        connection.execute(f"CREATE SCHEMA {settings.dataset}")
        connection.execute(f"CREATE TABLE {settings.dataset}.prospects (email text)")
    with pytest.raises(DestinationError, match="no column id"), open_pulled(settings):
        pass
    settings.duckdb_path.write_bytes(b"damaged")
    with pytest.raises(DestinationError, match="can't be read"), open_pulled(settings):
        pass


def test_a_database_that_is_down_isnt_a_bug_of_the_connector(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push from it says what can't be reached, and what to check."""
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", "postgresql://u:p@127.0.0.1:1/db")
    server = settings.model_copy(update={"destination": "postgres"})
    with (
        pytest.raises(DestinationError, match="hiringcenter check"),
        open_rows(server, PushRequest(table="people")),
    ):
        pass
