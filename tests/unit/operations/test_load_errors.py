"""What an error of a destination shows, and what it must not."""

from __future__ import annotations

import dlt
import duckdb
import psycopg2
import pytest
from dlt.common.configuration import resolve_configuration
from dlt.common.configuration.exceptions import ConfigFieldMissingException
from dlt.common.exceptions import MissingDependencyException
from dlt.destinations.impl.postgres.configuration import PostgresCredentials
from psycopg2 import errors as postgres

from connector.errors import ConfigurationError, DestinationError
from pipelines.destination.dlt_options import own_configuration
from pipelines.destination.load_errors import describe, load_failed

SECRET = "ana@example.com"


@pytest.mark.parametrize(
    "kind",
    [
        duckdb.ConversionException,
        duckdb.ConstraintException,
        duckdb.InvalidInputException,
        postgres.UniqueViolation,
        postgres.InvalidTextRepresentation,
        ValueError,
    ],
)
def test_errors_of_data_show_no_values(kind: type[Exception]):
    """Their messages quote the cell that didn't fit, which is personal data."""
    error = kind(f"Could not convert string '{SECRET}' to INT32")
    assert describe(error) == kind.__name__
    assert SECRET not in str(load_failed(error))


@pytest.mark.parametrize(
    "error",
    [
        duckdb.IOException("Could not set lock on file"),
        psycopg2.OperationalError("connection refused"),
        FileNotFoundError(2, "No such file or directory"),
    ],
)
def test_errors_of_files_and_connections_say_why(error: Exception):
    """Otherwise no user could act on them."""
    assert str(error) in describe(error)
    assert isinstance(load_failed(error), DestinationError)


def test_the_last_cause_is_shown():
    """dlt wraps what went wrong several times."""
    error = RuntimeError("step failed")
    error.__cause__ = duckdb.IOException("disk is full")
    assert "disk is full" in str(load_failed(error))


def test_missing_credentials_are_a_matter_of_settings():
    """Nothing was sent; running it again wouldn't help."""
    with pytest.raises(ConfigFieldMissingException) as missing:
        resolve_configuration(PostgresCredentials(), sections=("destination", "postgres"))
    error = load_failed(missing.value)
    assert isinstance(error, ConfigurationError)
    assert "DESTINATION__POSTGRES__CREDENTIALS" in str(error)


def test_a_missing_driver_names_the_command_that_installs_it():
    """By dlt's extra, by the driver's package, however deep dlt has wrapped it."""
    wrapped = RuntimeError("step failed")
    wrapped.__cause__ = MissingDependencyException("dlt snowflake", ["dlt[snowflake]"])
    assert 'pip install "dlt[snowflake]"' in str(load_failed(wrapped))
    missing = ModuleNotFoundError("No module named 'pymysql'", name="pymysql")
    for error in (wrapped, missing):
        assert isinstance(load_failed(error), ConfigurationError)
        assert load_failed(error).exit_code == 2
    assert 'pip install "pymysql"' in str(load_failed(missing))


@pytest.mark.parametrize("name", ["snowflake", "bigquery", "redshift", "filesystem"])
def test_missing_credentials_name_the_variables_of_that_destination(name: str):
    """Never those of PostgreSQL for another one."""
    destination = dlt.destination(name)
    with own_configuration(), pytest.raises(ConfigFieldMissingException) as missing:
        destination.configuration(destination.spec())
    message = str(load_failed(missing.value))
    assert f"DESTINATION__{name.upper()}__" in message
    assert "POSTGRES" not in message
