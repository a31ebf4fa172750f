"""Tables and states that an earlier version has left."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import create_engine, text

from connector.source.list_scan import read_state
from connector.source.row_maker import MALFORMED_COLUMNS
from connector.source.scans import ScanKind
from pipelines.destination.destination import Destination
from pipelines.destination.loader import Batch
from tests.sync.pull.conftest import Puller

OLD, NEW = "_hc_odd_records", "_hc_malformed_records"


def contents(puller: Puller, table: str) -> list[str]:
    """What the table's rows hold, in the destination itself."""
    sql = f"SELECT content FROM hiringcenter.{table} ORDER BY 1"
    if puller.postgres_url is None:
        with Destination(puller.settings) as destination:
            return [row[0] for row in destination.query(sql)]
    engine = create_engine(puller.postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.connect() as connection:
            return [row[0] for row in connection.execute(text(sql))]
    finally:
        engine.dispose()


def test_the_table_of_malformed_records_gets_its_new_name_and_keeps_its_rows(any_puller: Puller):
    """For the next pull; who reads the old name in a server's database still can."""
    old = [{"id": "1", "resource": "notes", "content": '"of before"'}]
    with Destination(any_puller.settings) as destination:
        destination.load([Batch(OLD, old, MALFORMED_COLUMNS)])
    any_puller.sandbox.store.put("notes", {"body": "no id", "createdAt": 1})
    for _ in range(2):
        any_puller.pull_ok("notes")
    new = contents(any_puller, NEW)
    assert [content[:11] for content in new] == ['"of before"', '{"body": "n']
    if any_puller.postgres_url is not None:
        assert contents(any_puller, OLD) == new


@pytest.mark.parametrize("ended", [False, True])
def test_a_state_of_an_earlier_version_is_understood(ended: bool):
    """Watermarks, and where a scan resumes; the rows that it has seen are known by id."""
    plan = {"resource": "notes", "kind": "full", "reason": "", "since_ms": None, "order": None,
            "params": {}, "max_pages": None, "look_max": 0}  # fmt: skip
    seen = {"pages": 3, "rows": 60, "odd": 1, "restarts": 0, "last_total": None, "grown": 0,
            "times": {"newest": {}, "first": {}, "last": {}, "unordered": []}}  # fmt: skip
    place = {"plan": plan, "started_ms": 5, "page_size": 20, "next": {"pageToken": "60"},
             "ended": ended, "seen": seen}  # fmt: skip
    scan: dict[str, Any] = {"plan": plan, "started_ms": 5, "place": place, "seen": 60,
                            "ended": {"complete": True, "why": ""} if ended else None}  # fmt: skip
    mark = {"facts": {"newest_ms": {"createdAt": 7}, "pages": 3}, "scan": scan}
    facts, left = read_state("notes", {"mark": mark})
    assert facts.newest_ms == {"createdAt": 7}
    assert left is not None
    assert (left.plan.kind, left.ids, left.pages, left.is_at_end) == (ScanKind.FULL, 60, 3, ended)
    assert (left.outcome is not None) is ended
