"""What must be in the destination, worked out from the sandbox's records without our own code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import sqlalchemy as sa

from connector.sandbox import RESOURCES, Sandbox

MS_FIELDS = {"createdAt", "updatedAt", "dueAt", "completedAt", "meetingDate"}
Rows = dict[str, dict[str, Any]]


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def expected_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `record` that aren't null, as Python values; JSON columns parsed."""
    row = {}
    for name, value in record.items():
        if value is None:
            continue
        if name in MS_FIELDS:
            value = datetime.fromtimestamp(value / 1000, UTC)
        row[snake(name)] = value
    return row


def expected(sandbox: Sandbox, resource: str) -> Rows:
    return {record["id"]: expected_row(record) for record in sandbox.store.all(resource)}


def landed_duckdb(path: Path, resource: str, *, dataset: str = "hiringcenter") -> Rows:
    """Rows that aren't flagged deleted, without nulls and `_hc_` columns."""
    catalog = path.stem.replace('"', '""')
    with duckdb.connect(str(path), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        cursor = connection.execute(
            f'SELECT * FROM "{catalog}"."{dataset}".{resource} WHERE _hc_deleted_at IS NULL'
        )
        assert cursor.description is not None
        names = [column[0] for column in cursor.description]
        types = [str(column[1]) for column in cursor.description]
        rows = cursor.fetchall()
    return _by_id(names, types, rows)


def landed_postgres(url: str, resource: str, *, dataset: str = "hiringcenter") -> Rows:
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        result = connection.execute(
            sa.text(f'SELECT * FROM "{dataset}".{resource} WHERE _hc_deleted_at IS NULL')
        )
        names = list(result.keys())
        rows = [tuple(row) for row in result]
    engine.dispose()
    return _by_id(names, ["" for _ in names], rows)


def _by_id(names: list[str], types: list[str], rows: list[tuple[Any, ...]]) -> Rows:
    found: Rows = {}
    for row in rows:
        values = {
            name: json.loads(value) if kind == "JSON" else value
            for name, kind, value in zip(names, types, row, strict=True)
            if value is not None and not name.startswith("_hc_")
        }
        assert values["id"] not in found, f"{values['id']} landed twice"
        found[values["id"]] = values
    return found


def assert_equal_to_truth(sandbox: Sandbox, landed: Mapping[str, Rows]) -> None:
    """Every field of every record, and no row more, of the lists that are in `landed`."""
    for resource, rows in landed.items():
        truth = expected(sandbox, resource)
        assert rows.keys() == truth.keys(), resource
        for record_id, row in truth.items():
            found = differences(rows[record_id], row)
            assert not found, f"{resource} {record_id}: {found}"


def assert_histories_fit(path: Path) -> None:
    """Each live row has one open version, which is equal; versions of a row begin in order, end
    where the next begins or before, and are bounded by the times between which they changed."""
    with duckdb.connect(str(path), read_only=True) as connection:
        connection.execute(f'USE "{path.stem}".hiringcenter')
        for table in ("prospects", "tasks"):
            live = f"SELECT id, _hc_hash FROM {table} WHERE _hc_deleted_at IS NULL"
            open_ones = f"SELECT id, _hc_hash FROM {table}_history WHERE _hc_valid_to IS NULL"
            for some, others in ((live, open_ones), (open_ones, live)):
                apart = connection.execute(f"{some} EXCEPT ALL {others}").fetchall()
                assert not apart, f"{table}: {apart}"
            wrong = connection.execute(
                f"SELECT id FROM (SELECT *, lead(_hc_valid_from) OVER (PARTITION BY id "
                f"ORDER BY _hc_valid_from) AS next_from FROM {table}_history) "
                "WHERE NOT coalesce(_hc_valid_from < coalesce(_hc_valid_to, 'infinity') "
                "AND coalesce(_hc_valid_to, 'infinity') <= coalesce(next_from, 'infinity') "
                "AND coalesce(_hc_changed_after, '-infinity') <= _hc_valid_from "
                "AND _hc_valid_from <= _hc_changed_before, false)"
            ).fetchall()
            assert not wrong, f"{table}: {wrong}"


def differences(row: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Column → (landed, true), where they differ in value or in type."""
    return {
        name: (row.get(name), truth.get(name))
        for name in {*row, *truth}
        if row.get(name) != truth.get(name) or type(row.get(name)) is not type(truth.get(name))
    }


def all_duckdb(path: Path, lists: Iterable[str] = RESOURCES) -> dict[str, Rows]:
    return {resource: landed_duckdb(path, resource) for resource in lists}


def all_postgres(url: str, lists: Iterable[str] = RESOURCES) -> dict[str, Rows]:
    return {resource: landed_postgres(url, resource) for resource in lists}
