"""What a dlt user would write: dlt's own rest_api source, merged into DuckDB as Parquet.

`python -m tests.bench._dlt_rest URL FILE`. The best that its configuration allows for this API:
the largest pages, lists read in parallel, no child tables, and rows dropped that a later run knows
by their time (the API has no filter for them, so that every page is still read).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import dlt
from dlt.sources.rest_api import rest_api_source

CURSORS = {
    "prospects": "updatedAt",
    "notes": "createdAt",
    "tasks": "updatedAt",
    "meetings": "updatedAt",
}


def _resource(name: str) -> dict[str, Any]:
    cursor = {"cursor_path": CURSORS[name], "on_cursor_value_missing": "include"}
    return {
        "name": name,
        "primary_key": "id",
        "write_disposition": "merge",
        "parallelized": True,
        "endpoint": {
            "path": name,
            "params": {"limit": 200},
            "data_selector": "items",
            "paginator": {
                "type": "cursor",
                "cursor_path": "pagination.nextPageToken",
                "cursor_param": "pageToken",
            },
            "incremental": cursor,
        },
    }


def main(url: str, file: str) -> None:
    source = rest_api_source(
        {
            "client": {"base_url": url, "auth": {"type": "bearer", "token": "sandbox-key"}},
            "resources": [_resource(name) for name in CURSORS],
        },
        max_table_nesting=0,
    )
    pipeline = dlt.pipeline(
        "rest_api",
        pipelines_dir=str(Path(file).parent.absolute() / "dlt"),
        destination=dlt.destinations.duckdb(file),
        dataset_name="hiringcenter",
    )
    pipeline.run(source, loader_file_format="parquet")


if __name__ == "__main__":
    main(*sys.argv[1:])
