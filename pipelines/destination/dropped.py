"""Tables and columns that somebody dropped: dlt trusts its schema, and would fail for ever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dlt
from dlt.destinations.job_client_impl import SqlJobClientBase

from connector.logs import get_logger
from connector.source.fields import HASH_COLUMN
from pipelines.destination.load_errors import load_failed

_log = get_logger("load")


def restore_dropped(pipeline: dlt.Pipeline, known: Sequence[str]) -> list[str]:
    """Make tables and columns anew that are gone; the names of the tables, now empty.

    known: tables that dlt's schema has.

    Raises:
        DestinationError: the destination can't be asked or changed.
    """
    names = [name for name in known if not name.startswith("_dlt_")]
    if not names:
        return []
    try:
        dropped = _make_missing(pipeline, names)
    except Exception as error:
        raise load_failed(error) from error
    if dropped:
        _log.warning("load.dropped_tables_made_anew", tables=dropped)
    return dropped


def _make_missing(pipeline: dlt.Pipeline, names: Sequence[str]) -> list[str]:
    with pipeline.destination_client() as client:
        if not isinstance(client, SqlJobClientBase):
            return []
        found = dict(client.get_storage_tables([*names, client.schema.version_table_name]))
        if not found.get(client.schema.version_table_name):
            return []  # nothing was ever loaded, or all is gone: dlt makes all of it
        dropped = [name for name in names if not found.get(name)]
        lacking = [name for name in names if found[name] and _lacks(client, name, found[name])]
        if dropped or lacking:
            client.update_stored_schema(only_tables=[*dropped, *lacking], force=True)
        for name in lacking:
            _forget_contents(client, name)
        return dropped


def _lacks(client: SqlJobClientBase, table: str, found: dict[str, Any]) -> bool:
    is_exact = client.capabilities.generates_case_sensitive_identifiers()
    return bool(client.schema.get_new_table_columns(table, found, case_sensitive=is_exact))


def _forget_contents(client: SqlJobClientBase, table: str) -> None:
    """Let no row pass for unchanged: a column that was dropped has lost all its values."""
    _log.warning("load.dropped_columns_made_anew", table=table)
    if HASH_COLUMN in client.schema.get_table_columns(table):
        name = client.sql_client.make_qualified_table_name(table)
        client.sql_client.execute_sql(f"UPDATE {name} SET {HASH_COLUMN} = NULL")  # noqa: S608
