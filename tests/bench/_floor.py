"""The floor under a load: what one would write by hand in an hour, without merge or state.

`python -m tests.bench._floor URL FILE`: pages through the four lists with httpx, parses with
orjson, makes Arrow tables, inserts them into DuckDB. With a CSV of people as FILE, posts them
instead. Prints the seconds it took, imports apart.
"""

from __future__ import annotations

import csv
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import httpx
import orjson
import pyarrow as pa

RESOURCES = ("prospects", "notes", "tasks", "meetings")
_MS = {"createdAt", "updatedAt", "dueAt", "completedAt", "meetingDate"}


def _pages(client: httpx.Client, resource: str) -> Any:
    params = {"limit": "200"}
    while True:
        answer = orjson.loads(client.get(f"/{resource}", params=params).content)
        yield answer["items"]
        token = answer["pagination"].get("nextPageToken")
        if not token:
            return
        params = {"limit": "200", "pageToken": token}


def _value(name: str, value: Any) -> Any:
    if name in _MS and value is not None:
        return datetime.fromtimestamp(value / 1000, UTC)
    return orjson.dumps(value).decode() if isinstance(value, list | dict) else value


def _load(client: httpx.Client, connection: Any, resource: str) -> None:
    cursor, made = connection.cursor(), False
    rows: list[dict[str, Any]] = []
    for items in _pages(client, resource):
        rows += [{name: _value(name, value) for name, value in item.items()} for item in items]
    names = {name: None for row in rows for name in row}
    for start in range(0, len(rows), 20_000):
        some = rows[start : start + 20_000]
        arriving = pa.table(
            {name: pa.array([row.get(name) for row in some], from_pandas=True) for name in names}
        )
        cursor.register("arriving", arriving)
        if not made:
            cursor.execute(f"CREATE TABLE {resource} AS SELECT * FROM arriving")
            made = True
        else:
            cursor.execute(f"INSERT INTO {resource} SELECT * FROM arriving")


def _pull(client: httpx.Client, file: str) -> None:
    connection = duckdb.connect(file)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda resource: _load(client, connection, resource), RESOURCES))
    connection.close()


def _push(client: httpx.Client, file: str) -> None:
    with Path(file).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    with ThreadPoolExecutor(4) as pool:
        for answer in pool.map(lambda row: client.post("/prospects", json=row), rows):
            answer.raise_for_status()


def main(url: str, file: str) -> None:
    began_s = time.monotonic()
    with httpx.Client(base_url=url, headers={"Authorization": "Bearer sandbox-key"}) as client:
        work = _push if file.endswith(".csv") else _pull
        work(client, file)
    print(time.monotonic() - began_s)


if __name__ == "__main__":
    main(*sys.argv[1:])
