"""Reads the marts of a published copy in every way that analysts open it, with any DuckDB from 1.0
on: `python -m tests.marts.read_copy FILE` prints them as JSON. Imports nothing but duckdb."""

from __future__ import annotations

import json
import sys
from typing import Any

import duckdb

SCHEMA = "hiringcenter_marts"


def read_in_every_way(file: str) -> dict[str, dict[str, list[Any]]]:
    """By way and mart, its rows as objects."""
    with duckdb.connect(file, read_only=True) as direct:
        found = {"opened directly": read(direct, f"hiringcenter.{SCHEMA}.", direct=True)}
        direct.execute(f"USE hiringcenter.{SCHEMA}")
        found["USE of the marts"] = read(direct, "")
        direct.execute("USE hiringcenter.hiringcenter")
        found["USE of the tables"] = read(direct, f"{SCHEMA}.")
    with duckdb.connect() as own:
        own.execute(f"ATTACH '{file}' AS hc (READ_ONLY)")
        found["attached under another name"] = read(own, f"hc.{SCHEMA}.")
    with duckdb.connect() as own:
        own.execute(f"ATTACH '{file}' (READ_ONLY)")
        found["attached"] = read(own, f"hiringcenter.{SCHEMA}.")
    return found


def read(
    connection: duckdb.DuckDBPyConnection, prefix: str, *, direct: bool = False
) -> dict[str, list[Any]]:
    """prefix: of the marts' names. direct: they can also be named by their schema alone."""
    connection.execute("SET TimeZone = 'UTC'")
    names = connection.execute(
        f"SELECT DISTINCT table_name FROM duckdb_tables() WHERE schema_name = '{SCHEMA}' ORDER BY 1"
    ).fetchall()
    found = {name: rows(connection, f"{prefix}{name}") for (name,) in names}
    if direct:
        assert found == {name: rows(connection, f"{SCHEMA}.{name}") for (name,) in names}
    return found


def rows(connection: duckdb.DuckDBPyConnection, table: str) -> list[Any]:
    query = f"SELECT to_json(mart) FROM {table} AS mart"
    return [json.loads(text) for (text,) in connection.execute(query).fetchall()]


if __name__ == "__main__":
    print(json.dumps({"version": duckdb.__version__, "ways": read_in_every_way(sys.argv[1])}))
